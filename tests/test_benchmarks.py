"""The measurements of benchmarks/ run to their end on next to nothing, so that none rots unseen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fracture_utils
from fracture_utils.data import phantoms
from fracture_utils.models import process

FOLDER = Path(fracture_utils.__file__).parents[1] / "benchmarks"


def measured(output: Path, name: str, *words: object) -> dict:
    """What a script writes, run as its user runs it."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), *map(str, words), "--output", output]
    command += ["--rounds", "1"]
    done = subprocess.run(
        command, env=process.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = output.glob("*.json")
    written = json.loads(path.read_text())
    assert {"command", "machine", "versions", "rounds", "figures"} == set(written)
    assert str(output.parent) not in path.read_text(), "a benchmark tells no folder of the machine"
    return written["figures"]


def test_the_input(tmp_path):
    found = measured(tmp_path / "out", "input", "--pictures", 64, "--size", 32)
    assert list(found) == [
        f"{way} (pictures/s)" for way in ("store", "plain", "augmented", "augmented, all cores")
    ]
    assert all(0 < rates["least"] <= rates["median"] <= rates["most"] for rates in found.values())


def test_the_memory_of_the_audit(tmp_path):
    found = measured(tmp_path / "out", "memory", "audit", 60, "--drawn", 50)
    (figures,) = found.values()
    assert 20 < figures["own (MiB)"] < 2000
    assert figures["findings"] > 0


@pytest.mark.slow
def test_the_stock_recipe(tmp_path):
    phantoms.make(tmp_path / "data", 96, 64, 0)
    words = (tmp_path / "data", "random", "MobileNet", "--size", 32, "--epochs", 2)
    words += ("--measured", 1, "--fine-tune", 1, "--together")
    found = measured(tmp_path / "out", "stock", *words)
    row = found["networks"]["MobileNet"]
    assert row["stock"]["epochs run"] == {"head": 1, "fine_tune": 1}
    assert {0 <= row[who]["AUC"] <= 1 for who in ("stock", "package")} == {True}
    assert row["times as fast"] == pytest.approx(
        row["stock"]["seconds"] / row["package"]["seconds"], abs=0.01
    )


@pytest.mark.slow
def test_the_forward_pass(tmp_path):
    words = ("MobileNet", "--pictures", 48, "--size", 32, "--together")
    found = measured(tmp_path / "out", "forward", *words)
    assert found["MobileNet"]["pictures/s"]["keras"]["median"] > 0
    assert found["MobileNet"]["largest change of a logit"] >= 0
