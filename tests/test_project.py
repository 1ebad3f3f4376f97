"""The project as a whole: what it needs, what it promises, and that the notebook runs."""

import ast
import importlib.metadata
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fracture_utils.__main__ import EVALUATION
from fracture_utils.config import Config
from fracture_utils.evaluation import rescoring
from fracture_utils.evaluation.plots import style

ROOT = Path(__file__).parents[1]
NOTEBOOK = nbformat.read(ROOT / "fracture-detection.ipynb", as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
OPTIONAL = {"pydicom", "distributed", "torch", "onnxruntime", "ai_edge_litert", "tensorboard"}
RUNS_THE_NOTEBOOK = {"jupyter"}
"""Needed though never imported by name."""


def requirements() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
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
    sources = [path.read_text() for path in (ROOT / "fracture_utils").rglob("*.py")]
    sources += [cell.source for cell in CODE]
    modules = set().union(*map(imported, sources)) - sys.stdlib_module_names
    modules -= {"fracture_utils"} | OPTIONAL
    packages = importlib.metadata.packages_distributions()
    needed = {packages[module][0].lower() for module in modules}
    assert set(requirements()) - RUNS_THE_NOTEBOOK == needed


def test_requirements_are_pinned_and_above_the_security_floors():
    pinned = {name: tuple(map(int, v.split(".")[:2])) for name, v in requirements().items()}
    assert pinned["keras"] >= (3, 14)
    assert pinned["pillow"] >= (12, 3)


def test_the_readme_holds_both_commands_and_ci_finds_the_test_command():
    readme = (ROOT / "README.md").read_text()
    for mark in ("run", "test"):
        block = re.search(rf"<!-- {mark} -->\n```bash\n(.+?)\n```", readme, re.S)
        assert block, mark
        lines = block[1].splitlines()
        assert lines[0] == "python3 -m venv .venv"
        for line in lines:  # each works in bash and in PowerShell
            assert not re.search(r"&&|;|\$|^\w+=", line), line
    assert "never" in readme or "not a medical device" in readme


def test_the_top_level_holds_what_the_design_names():
    expected = {
        *("fracture-detection.ipynb", "fracture_utils", "data", "models", "results"),
        *("requirements.txt", "README.md", "LICENSE", "pyproject.toml", "tests", "benchmarks"),
    }
    assert expected <= {path.name for path in ROOT.iterdir()}


def test_the_notebook_is_a_story():
    assert CODE[0].source.lstrip().startswith("import")
    assert NOTEBOOK.cells[0].cell_type == "markdown"
    assert "education and research only" in NOTEBOOK.cells[0].source
    assert [c for c in CODE if "parameters" in c.metadata.get("tags", [])]
    for cell in CODE[1:]:
        assert len(cell.source.splitlines()) <= 16, cell.source
        assert not re.search(r"^\s*(def |class |!|%)|sys\.path|os\.environ", cell.source, re.M)
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d\.\d\d|\d+ ?%", cell.source.replace("80 %", "")), cell.source


def test_the_saved_outputs_are_of_one_clean_run():
    counts = [cell.execution_count for cell in CODE]
    assert counts == list(range(1, len(CODE) + 1)) or set(counts) == {None}
    outputs = [output for cell in CODE for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    saved = NOTEBOOK.dumps() if hasattr(NOTEBOOK, "dumps") else nbformat.writes(NOTEBOOK)
    assert len(saved) < 6_000_000
    assert str(ROOT) not in saved


def test_no_test_module_needs_another():
    """What several need lies in conftest.py and in modules that are no tests."""
    for path in (ROOT / "tests").glob("*.py"):
        assert not [name for name in imported(path.read_text()) if name.startswith("test_")], path


def test_modules_and_functions_fit_a_head():
    """No module over 350 lines, no function over 50."""
    for path in (ROOT / "fracture_utils").rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 350, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, f"{path}: {node.name}"


def test_the_types_agree():
    """By the settings in pyproject.toml."""
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


BROKEN = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"


NAMES = "MobileNet,Xception,VGG16"
"""Two networks from the released weights, and one whose weights file is broken."""


def offline(folder: Path) -> dict[str, str]:
    """The environment of a run without internet."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    return proxies | {"KERAS_HOME": str(folder / "keras"), "PYTHONPATH": str(ROOT)}


def command(folder: Path) -> subprocess.CompletedProcess:
    """A quick run as the README starts it, but for a shorter training of the evidence heads."""
    options = ["--quick", "--source", "phantoms", "--backbones", NAMES, "--place-epochs", "3"]
    for name in ("data", "models", "weights", "results"):
        options += [f"--{name}-dir", str(folder / name)]
    return subprocess.run(
        [sys.executable, "-m", "fracture_utils", "run", *options],
        cwd=ROOT, env=os.environ | offline(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip


def execute(folder: Path) -> None:
    """The same run by papermill, which fills in the cell of parameters."""
    import papermill

    with pytest.MonkeyPatch.context() as patch:
        settings = {f"FRACTURE_{n.upper()}_DIR": folder / n for n in ("data", "models", "weights")}
        settings |= {"FRACTURE_QUICK": "1", "FRACTURE_SOURCE": "phantoms"}
        settings |= {"FRACTURE_PLACE_EPOCHS": "3"}
        for name, value in (settings | offline(folder)).items():
            patch.setenv(name, str(value))
        parameters = {"results_dir": str(folder / "results"), "backbone_names": NAMES}
        papermill.execute_notebook(
            ROOT / "fracture-detection.ipynb",
            folder / "run.ipynb",
            parameters,
            progress_bar=False,
            kernel_name="python3",
        )


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """The folder of a run of the notebook, which said nothing on standard error."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "weights").mkdir()
    (folder / "weights" / BROKEN).write_bytes(b"no HDF5")
    done = command(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "results" / "report.html") in done.stdout
    return folder


COLUMNS = {
    "images": "path label split group width height bit_depth sha256 body_part patient view",
    "audit": "severity check path other what advice",
    "history": "model stage epoch loss auc val_loss val_auc learning_rate seconds",
    "predictions": "path group label split model logit probability",
    "scores": "model initialisation n positives auc auc_low auc_high sensitivity_low kappa_high",
    "comparisons": "model_a model_b p_delong p_delong_holm p_sensitivity_holm p_specificity",
    "networks": "model status why initialisation precision parameters seconds_per_picture",
}


@pytest.mark.filterwarnings("ignore")  # of papermill and its kernel client, not of the project
def test_the_notebook_runs_headless_and_leaves_every_result(quick_run):
    import pandas as pd

    results = quick_run / "results"
    for name, columns in COLUMNS.items():
        assert set(columns.split()) <= set(pd.read_csv(results / f"{name}.csv", nrows=2)), name
    run = json.loads((results / "run.json").read_text())
    assert run["source"] == "phantoms"
    assert run["initialisation"] == {"MobileNet": "released", "VGG16": "released"}
    assert run["seconds"]["VGG16"]["features"] > 0
    assert f"{BROKEN} does not hold weights for" in run["failed"]["Xception"]
    report = (results / "report.html").read_text()
    assert "synthetic phantoms" in report.lower()
    assert re.search(
        rf"These networks are missing.*<li>Xception: [^<]*{BROKEN} does not hold", report
    )
    assert not re.search(r'(src|href)="(http|/)', report)
    assert "released" in (results / "scores.csv").read_text()
    figures = {path.stem for path in (results / "figures").glob("*.png")}
    assert {"history", "roc", "confusion_matrices", "ranking", "pairwise"} <= figures
    assert not (results / "UNFINISHED.txt").exists()
    for name in ("MobileNet", "VGG16"):
        card = json.loads((quick_run / f"models/{name}.json").read_text())
        assert {"slope", "intercept", "threshold", "input_size", "class_names"} <= set(card)


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "results").glob("*.csv"))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("run", ["quick", "results", "results/fracatlas"])
def test_evaluate_gives_the_tables_that_the_notebook_gave(run, quick_run, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "RESOLUTION", 40)  # this asks for tables
    results = quick_run / "results" if run == "quick" else ROOT / run
    settings = json.loads((results / "run.json").read_text(encoding="utf-8"))["settings"]
    asked = {name: settings[name] for name in EVALUATION}
    config = Config(source="pictures", results_dir=tmp_path / "again", **asked)
    rescoring.evaluate(results / "predictions.csv", config)
    names = {path.name for path in config.results_dir.glob("*.csv")}
    assert {"scores.csv", "comparisons.csv", "use.csv", "subgroups.csv", "gallery.csv"} <= names
    files = (config.results_dir / "operating_points.json", results / "operating_points.json")
    points = [pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    pd.testing.assert_frame_equal(*points, rtol=1e-9, atol=0)  # it holds all digits
    for name in sorted({*names, "conclusion.txt"}):
        again = (config.results_dir / name).read_text(encoding="utf-8")
        assert again == (results / name).read_text(encoding="utf-8"), name


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_executed_again_keeps_what_is_there_and_makes_the_rest_alike(quick_run):
    """One network is kept, the other and the pictures are made from nothing."""
    first = tables(quick_run)
    shutil.rmtree(quick_run / "data")
    shutil.rmtree(quick_run / "results" / "cache" / "networks" / "VGG16")
    for path in (quick_run / "models").glob("VGG16*"):
        path.unlink()
    execute(quick_run)
    log = (quick_run / "results" / "run.log").read_text()
    assert log.count("MobileNet: kept from an earlier run.") == 1
    assert "VGG16: kept" not in log
    assert " again, because " not in log
    again = tables(quick_run)
    assert len(first) >= 10
    assert list(again) == list(first)
    assert [name for name in first if again[name] != first[name]] == ["history.csv", "networks.csv"]
    for name in ("history.csv", "networks.csv"):
        one, other = (pd.read_csv(io.BytesIO(found[name])) for found in (first, again))
        clocks = [name for name in one if name.startswith("seconds") or name == "waiting"]
        is_kept = one["model"] != "VGG16"
        pd.testing.assert_frame_equal(other[is_kept], one[is_kept], check_exact=True)
        pd.testing.assert_frame_equal(
            other.drop(columns=clocks), one.drop(columns=clocks), check_exact=True
        )


@pytest.mark.filterwarnings("ignore")
def test_the_executed_notebook_is_quiet(quick_run):
    if not (quick_run / "run.ipynb").exists():
        execute(quick_run)
    executed = nbformat.read(quick_run / "run.ipynb", as_version=4)
    outputs = [o for cell in executed.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    shown = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(shown) >= 12
    plain = [cell for cell in executed.cells if cell.cell_type == "code" and not cell.outputs]
    assert len(plain) <= 3, [cell.source for cell in plain]


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("BATCH_SIZE", "many", "The setting batch_size (FRACTURE_BATCH_SIZE) is 'many'"),
        ("DATA_DIR", "nowhere", "The data folder nowhere does not exist."),
        ("BACKBONES", "Foo", "'Foo' is no known backbone; choose from DenseNet121"),
    ],
)
def test_a_wrong_setting_ends_a_headless_run_with_a_sentence(tmp_path, setting, value, sentence):
    environment = os.environ | {f"FRACTURE_{setting}": value, "PYTHONPATH": str(ROOT)}
    notebook = tmp_path / "fracture-detection.ipynb"
    shutil.copy(ROOT / notebook.name, notebook)
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", str(notebook)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert sentence in done.stderr
    shown = done.stderr.split("------------------")[-1]  # what follows the cell's source
    assert "pydantic" not in shown
    assert "fracture_utils/" not in shown
    assert not list(tmp_path.glob("*.html"))
