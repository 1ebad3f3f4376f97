"""The scripts of benchmarks/ run to their end on small inputs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import fracture_utils
from fracture_utils.data import phantoms
from fracture_utils.models import backbones

FOLDER = Path(fracture_utils.__file__).parents[1] / "benchmarks"


def figures(output: Path, name: str, *words: object) -> dict:
    """The figures that a script writes, run as its user runs it."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, words), "--output", output]
    command += ["--rounds", "1"]
    done = subprocess.run(
        command, env=backbones.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = output.glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "machine", "versions", "rounds", "figures"} == set(record)
    assert str(output.parent) not in path.read_text(encoding="utf-8")
    return record["figures"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_imports_exists(path):
    """Of the package: a renamed function breaks a script that no test runs."""
    modules: dict[str, object] = {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fracture_utils"):
            code = f"from {node.module} import {', '.join(alias.name for alias in node.names)}"
            exec(code, modules)
    for node in ast.walk(tree):  # attributes of imported modules
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if getattr(module, "__spec__", None) and module.__name__.startswith("fracture_utils."):
                assert hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


def test_the_memory_of_the_audit(tmp_path):
    (row,) = figures(tmp_path / "out", "memory", "audit", 60, "--generated", 50).values()
    assert 20 < row["own (MiB)"] < 2000
    assert row["findings"] > 0


@pytest.mark.parametrize(("mode", "tables"), [("cross-validation", 2), ("threshold", 1)])
def test_the_simulations_print_their_tables(mode, tables):
    """A changed signature in the package ends them, which their imports do not show."""
    command = [sys.executable, str(FOLDER / "coverage.py"), mode, "2"]
    options = {"env": backbones.environment(), "capture_output": True, "text": True}
    done = subprocess.run(command, **options, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n|---") == tables and "nan" not in done.stdout


@pytest.mark.slow
def test_the_stock_recipe(tmp_path):
    phantoms.make(tmp_path / "data", 96, 64, 0)
    words = (tmp_path / "data", "random", "MobileNet", "--size", 32, "--epochs", 2)
    words += ("--measured", 1, "--fine-tune", 1, "--together")
    row = figures(tmp_path / "out", "stock", *words)["networks"]["MobileNet"]
    assert row["stock"]["epochs run"] == {"head": 1, "fine_tune": 1}
    assert {0 <= row[which]["AUC"] <= 1 for which in ("stock", "package")} == {True}
    ratio = row["stock"]["seconds"] / row["package"]["seconds"]
    assert row["times as fast"] == pytest.approx(ratio, abs=0.01)


@pytest.mark.slow
def test_the_forward_pass(tmp_path):
    words = ("MobileNet", "--images", 48, "--size", 32, "--together")
    row = figures(tmp_path / "out", "forward", *words)["MobileNet"]
    assert row["images/s"]["keras"]["median"] > 0
    assert row["largest change of a logit"] >= 0


def test_the_numbers_in_the_text_about_fracatlas_are_those_of_its_tables():
    folder = FOLDER.parent / "results" / "examples" / "fracatlas"
    tables = ("networks", "cross_validation", "scores", "localization")
    networks, folds, scores, localization = (
        pd.read_csv(folder / f"{name}.csv").set_index("model") for name in tables
    )
    readme, about = (FOLDER / "README.md", folder / "ABOUT.md")
    text = readme.read_text(encoding="utf-8")
    means, seconds = folds[folds["fold"] == 0], networks.filter(like="seconds_")
    for name, score in scores[scores["kind"] == "network"].iterrows():
        times = seconds.loc[name, ["seconds_features", "seconds_head", "seconds_predict"]]
        mean = means.loc[name]
        cells = [name, f"{networks['input_size'][name]}"]
        cells += [f"{mean['auc']:.3f} ({mean['auc_low']:.3f}–{mean['auc_high']:.3f})"]
        cells += [f"{mean['auc_without_run']:.3f}"]
        cells += [f"{score['auc']:.3f} ({score['auc_low']:.3f}–{score['auc_high']:.3f})"]
        cells += [f"{score['average_precision']:.3f}", f"{localization['hit_rate'][name]:.2f}"]
        cells += [", ".join(f"{value:.0f}" for value in times)]
        assert f"| {' | '.join(cells)} |" in text
    of_run = scores.index[scores["kind"] == "network"]  # without variants
    minutes = seconds.loc[of_run].sum().round() / 60
    together, text = networks.loc[of_run, "seconds"].sum() / 60, about.read_text(encoding="utf-8")
    assert f"{together:.0f} minutes for the six networks" in text
    assert f"{minutes['seconds_features']:.0f} for the feature maps" in text
    assert f"{minutes['seconds_head']:.0f} for the heads" in text
    for name in ("DenseNet121 reached", "DenseNet121-fine-tuned"):
        best = scores.loc[name.split()[0]]
        assert f"{name} {best['auc']:.3f} and {best['average_precision']:.3f}" in text
