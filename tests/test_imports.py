"""A module imports only from modules above it in the map of fracture_utils/__init__.py."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fracture_utils

ROOT = Path(fracture_utils.__file__).parent
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}


def order() -> list[str]:
    """The modules in the order of the map; "plots/" names several."""
    names = []
    for line in fracture_utils.__doc__.splitlines():
        if row := re.match(r"([a-z_/]+(?:, [a-z_/]+)*)  +(.+)", line):
            for name in row[1].split(", "):
                inner = row[2].split(":")[0].split(", ") if name.endswith("/") else [""]
                names += [name + each for each in inner]
    return names


ORDER = order()


def imports(nodes) -> set[str]:
    """Dotted names that some syntax nodes import."""
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def everywhere(path: Path) -> set[str]:
    return imports(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def own(names: set[str]) -> set[str]:
    """The modules of the package among dotted names."""
    return {n.removeprefix("fracture_utils.").replace(".", "/") for n in names} & set(MODULES)


def at_module_level(name: str) -> set[str]:
    """Dotted names imported when the module is, by itself or by modules that it imports then."""
    reached, waiting = set(), [name]
    while waiting:
        tree = ast.parse(MODULES[waiting.pop()].read_text(encoding="utf-8"))
        names = imports(tree.body)
        waiting += [other for other in own(names) if f"fracture_utils/{other}" not in reached]
        reached |= names | {f"fracture_utils/{other}" for other in own(names)}
    return reached


def test_the_map_names_every_module():
    assert sorted(ORDER) == sorted(MODULES)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_modules_above_it(name):
    wrong = {o for o in own(everywhere(MODULES[name])) if ORDER.index(o) >= ORDER.index(name)}
    assert not wrong


@pytest.mark.parametrize("name", [n for n in sorted(MODULES) if n.startswith("evaluation/")])
def test_evaluation_never_imports_keras(name):
    heavy = {"keras", "tensorflow"}
    assert not {n for n in everywhere(MODULES[name]) if n.split(".")[0] in heavy}
    assert not {n for n in at_module_level(name) if n.split(".")[0] in heavy}


LIGHT = ("data/dataset", "data/audit", "data/phantoms", "data/sources", "models/jobs",
         "models/model_cards", "models/backbones", "evaluation/results", "report", "notebook",
         "predict", "export", "__main__")  # fmt: skip
"""What the notebook's kernel and the command line import before they know that Keras is needed."""


@pytest.mark.parametrize("name", [*LIGHT, *(n for n in ORDER if n.startswith("plots/"))])
def test_keras_is_imported_only_where_it_is_needed(name):
    heavy = {"keras", "tensorflow"}
    assert not {n for n in at_module_level(name) if n.split(".")[0] in heavy}


def test_only_backbones_imports_tensorflow():
    using = {
        name
        for name, path in MODULES.items()
        if any(n.split(".")[0] == "tensorflow" for n in everywhere(path))
    }
    assert using <= {"models/backbones"}


def test_every_folder_of_the_package_is_installed():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {path.parent.relative_to(ROOT.parent) for path in ROOT.rglob("*.py")}
    named = set(project["tool"]["setuptools"]["packages"])
    assert {".".join(folder.parts) for folder in folders} == named
    data = [
        path.relative_to(ROOT)
        for path in ROOT.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    patterns = project["tool"]["setuptools"]["package-data"]["fracture_utils"]
    assert all(any(path.match(pattern) for pattern in patterns) for path in data)


@pytest.mark.parametrize("variable", [None, "2"])
def test_matrix_products_have_one_thread_unless_the_variable_is_set(variable):
    """`python -m fracture_utils` imports the package before NumPy."""
    name = "OPENBLAS_NUM_THREADS"
    others = {key: value for key, value in os.environ.items() if key != name}
    code = f"import fracture_utils.tables, os; print(os.environ['{name}'])"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        env=others | ({name: variable} if variable else {}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == (variable or "1")
