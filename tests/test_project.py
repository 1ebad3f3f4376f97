"""The project as a whole: requirements, top level, notebook, tests, types."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement

import fracture_utils

ROOT = Path(__file__).parents[1]
NOTEBOOK = nbformat.read(ROOT / "fracture-detection.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {"pydicom", "distributed", "torch", "onnx", "onnxruntime", "tf2onnx"}
"""Modules of the extras."""
CONTAINED = {
    "jupyter": {
        "nbclient",
        "nbconvert",
        "nbformat",
        "ipywidgets",
        "ipython",
        "ipykernel",
        "jupyter-client",
    },
    "pydantic-settings": {"pydantic"},
}
"""Packages that come with a requirement."""


def requirements() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def imported(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_requirements_are_what_notebook_and_package_import():
    sources = [p.read_text(encoding="utf-8") for p in (ROOT / "fracture_utils").rglob("*.py")]
    modules = set().union(*map(imported, [*sources, *(cell.source for cell in CODE)]))
    modules -= sys.stdlib_module_names | {"fracture_utils"} | OPTIONAL
    packages = importlib.metadata.packages_distributions()
    used = {packages[module][0].lower().replace("_", "-") for module in modules}
    named = set(requirements())
    covered = named.union(*CONTAINED.values())
    assert used <= covered
    assert all(name in used or CONTAINED.get(name, set()) & used for name in named)


def test_requirements_are_pinned_within_the_ranges_and_above_the_security_floors():
    ranges = {Requirement(text).name: Requirement(text) for text in PROJECT["dependencies"]}
    assert set(ranges) == set(requirements())
    for name, version in requirements().items():
        assert ranges[name].specifier.contains(version), name
        assert len(list(ranges[name].specifier)) == 2, f"{name} needs a lower and an upper bound"
    assert not ranges["keras"].specifier.contains("3.13.9")
    assert not ranges["pillow"].specifier.contains("12.2.9")


def test_one_version_everywhere():
    assert PROJECT["version"] == fracture_utils.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (.+)$", changelog, re.M)[1] == fracture_utils.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {fracture_utils.__version__}" in citation or "version:" not in citation


def test_the_top_level_holds_what_the_design_names():
    expected = {
        *("fracture-detection.ipynb", "fracture_utils", "data", "models", "results", "Makefile"),
        *("requirements.txt", "README.md", "LICENSE", "pyproject.toml", "tests", "benchmarks"),
    }
    assert expected <= {path.name for path in ROOT.iterdir()}


def test_the_notebook_is_a_story():
    assert CODE[0].source.lstrip().startswith("import")
    assert NOTEBOOK.cells[0].cell_type == "markdown"
    assert "education and research only" in NOTEBOOK.cells[0].source
    assert [cell for cell in CODE if "parameters" in cell.metadata.get("tags", [])]
    for cell in CODE:
        assert len(cell.source.splitlines()) <= 12, cell.source
        assert not re.search(r"^\s*(def |class |!|%)|sys\.path|os\.environ", cell.source, re.M)
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown":  # results are computed, never typed
            assert not re.search(r"\d\.\d\d|\d+ ?%", cell.source), cell.source


def test_saved_outputs_are_those_of_one_clean_run_or_none():
    counts = [cell.execution_count for cell in CODE]
    assert counts == list(range(1, len(CODE) + 1)) or set(counts) == {None}
    outputs = [output for cell in CODE for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    nbformat.validate(NOTEBOOK)
    saved = nbformat.writes(NOTEBOOK)
    assert len(saved) < 3_000_000
    assert str(ROOT) not in saved


def test_no_test_module_imports_another():
    """What several need is in conftest.py and in modules that hold no tests."""
    for path in (ROOT / "tests").glob("*.py"):
        names = imported(path.read_text(encoding="utf-8"))
        assert not [name for name in names if name.startswith("test_")], path


def test_no_file_names_a_folder_of_this_machine():
    """In code, documents and committed results."""
    folders = re.compile(r"(?:/home/|/Users/|/root/|/work/|/tmp/)\w")
    for pattern in ("*.md", "fracture_utils/**/*.py", "benchmarks/**/*.*", "results/**/*.*"):
        for path in ROOT.glob(pattern):
            if path.suffix in (".py", ".md", ".csv", ".json", ".html", ".txt"):
                text = path.read_text(encoding="utf-8")
                assert not folders.search(text), path


def test_the_types_agree():
    """By the settings in pyproject.toml."""
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
