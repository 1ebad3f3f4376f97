"""Jobs side by side, one on each graphics card: with a stand-in for the worker, and no card."""

import itertools
import json
import os

import pytest
from radiographs import NO_BOXES, small_run

from fracture_utils.models import crew, jobs, process
from fracture_utils.models.backbones import Weights
from fracture_utils.models.job import Job
from fracture_utils.models.progress import Progress

STAND_IN = """
import json, os, sys, time
from pathlib import Path

folder, began = Path(sys.argv[1]), time.time()
print(json.dumps({"stage": "features", "why": "not done yet"}), flush=True)
(folder / "began").touch()
while not all((folder.parent / name / "began").exists() for name in os.environ["TOGETHER"].split()):
    time.sleep(0.02)
own = [name for name in os.environ if name.startswith("FRACTURE_")]
said = {"card": os.environ["CUDA_VISIBLE_DEVICES"], "own": own, "began": began}
(folder / "said.json").write_text(json.dumps(said | {"ended": time.time()}))
"""
"""Begins, waits until the networks in TOGETHER have begun, and says what it saw."""
NAMES = ["MobileNet", "VGG16", "ResNet50"]


@pytest.fixture
def waiting(data, tmp_path, monkeypatch):
    """Three jobs whose worker is the stand-in, on a machine that seems to have two cards."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(process, "WORKER", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1")
    config = small_run(data, tmp_path)
    monkeypatch.setenv("FRACTURE_SEED", "9")
    return [Job(name, config, Weights("random"), data[1], NO_BOXES) for name in NAMES]


def train(waiting: list[Job]) -> list[tuple]:
    config = waiting[0].config
    work = {job.name: dict.fromkeys(jobs.STAGES, 1.0) for job in waiting}
    return list(jobs._trained(waiting, config, Progress(work, config.results_dir / "run.log")))


def said_by(job: Job) -> dict:
    return json.loads((job.folder / "said.json").read_text())


def test_two_cards_train_two_networks_at_once_each_its_own(waiting, monkeypatch, capsys):
    monkeypatch.setenv("TOGETHER", "MobileNet VGG16")
    done = train(waiting)
    assert {job.name: (status, why) for job, status, why in done} == dict.fromkeys(
        NAMES, ("trained", "")
    )
    said = [said_by(job) for job in waiting]
    assert {what["card"] for what in said[:2]} == {"0", "1"}
    assert said[2]["card"] in {"0", "1"}
    for card in "01":
        turns = sorted((w["began"], w["ended"]) for w in said if w["card"] == card)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(turns))
    assert not any(what["own"] for what in said)
    assert capsys.readouterr().out.count("frozen features 0%") == 3


@pytest.mark.parametrize("cards", ["0", "", "-1"])
def test_one_card_or_none_trains_one_after_the_other(waiting, monkeypatch, cards):
    monkeypatch.setenv("TOGETHER", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", cards)
    assert [job.name for job, *_ in train(waiting)] == NAMES
    said = [said_by(job) for job in waiting]
    assert {what["card"] for what in said} == {cards}
    assert said[0]["ended"] <= said[1]["began"] <= said[1]["ended"] <= said[2]["began"]


def test_an_interruption_ends_the_workers_on_all_cards(waiting, monkeypatch):
    monkeypatch.setenv("TOGETHER", "nobody")  # each waits for ever
    started, popen = [], process.subprocess.Popen

    def hear(self, name, event):
        if all((job.folder / "began").exists() for job in waiting[:2]):
            raise KeyboardInterrupt

    def start(*arguments, **options):
        started.append(popen(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(process.subprocess, "Popen", start)
    monkeypatch.setattr(Progress, "hear", hear)
    with pytest.raises(KeyboardInterrupt):
        train(waiting)
    assert len(started) == 2
    assert all(worker.returncode for worker in started)


LISTED = """GPU 0: NVIDIA A100 (UUID: GPU-aa)
GPU 1: NVIDIA A100 (UUID: GPU-bb)
"""
DIVIDED = """GPU 0: NVIDIA A100 (UUID: GPU-aa)
  MIG 3g.40gb     Device  0: (UUID: MIG-cc)
  MIG 3g.40gb     Device  1: (UUID: MIG-dd)
"""


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """Put a shell script in the place of nvidia-smi."""

    def write(script):
        path = tmp_path / "nvidia-smi"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    process.ask_nvidia.cache_clear()
    yield write
    process.ask_nvidia.cache_clear()


@pytest.mark.skipif(os.name != "posix", reason="writes a script that stands for nvidia-smi")
@pytest.mark.parametrize(
    ("listed", "code", "expected"),
    [
        (LISTED, 0, ["GPU-aa", "GPU-bb"]),
        (DIVIDED, 0, ["MIG-cc", "MIG-dd"]),
        ("No devices were found\n", 0, []),
        (LISTED, 9, []),  # the driver is not loaded
    ],
)
def test_the_cards_are_those_that_nvidia_lists(nvidia, listed, code, expected):
    nvidia(f"cat <<'END'\n{listed}END\nexit {code}\n")
    assert crew.visible() == expected


@pytest.mark.skipif(os.name != "posix", reason="writes a script that stands for nvidia-smi")
def test_a_driver_that_hangs_means_no_cards(nvidia, monkeypatch):
    nvidia(f"exec sleep {10 * process.PATIENCE:.0f}\n")
    monkeypatch.setattr(process, "PATIENCE", 0.2)
    assert crew.visible() == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("2,-1,3", ["2"]), ("GPU-aa", ["GPU-aa"])],
)
def test_the_cards_are_those_that_the_variable_names(monkeypatch, named, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert crew.visible() == expected
