"""Training jobs: real worker processes on a small made-up data set."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from radiographs import NO_BOXES, small_run

from fracture_utils import files
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger, claim
from fracture_utils.models import backbones, cards, jobs, worker
from fracture_utils.models.backbones import Weights
from fracture_utils.models.progress import Progress


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """An uninterrupted run, its folder and its networks table."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_run(data, folder)
    return config, jobs.train(data[1], config, NO_BOXES)


def test_a_run_leaves_networks_history_predictions_and_weights(data, finished):
    config, networks = finished
    row = networks.iloc[0]
    assert (row["model"], row["status"]) == ("MobileNet", "trained")
    assert row["initialisation"] == "random"
    assert row["parameters"] > 3e6
    assert row["seconds"] >= row["seconds_features"] > 0
    history = jobs.history(networks, config)
    columns = ["model", "stage", "epoch", "loss", "auc", "val_loss", "val_auc"]
    assert list(history) == [*columns, "learning_rate", "seconds", "seconds_waiting"]
    assert list(history["stage"].unique()) == ["head", "fine_tune"]
    digested = data[1].assign(original_sha256="ab")
    predictions = jobs.predictions(networks, digested, config)
    assert not [name for name in predictions if "sha256" in name]
    expected = data[1].query("split != 'train'")
    assert set(predictions["path"]) == set(expected["path"])
    merged = predictions.merge(expected, on="path", suffixes=("", "_true"))
    for column in ("label", "split", "group", "body_part"):
        assert (merged[column] == merged.get(column + "_true", merged[column])).all()
    weights = config.models_dir / "MobileNet.weights.h5"
    assert weights.stat().st_size < 4.2 * row["parameters"]  # no optimiser inside
    assert not list(config.results_dir.rglob(files.TEMPORARY_PREFIX + "*"))


def test_what_is_done_is_kept_and_what_changed_is_done_again(data, finished, monkeypatch, capsys):
    config, networks = finished
    started = []
    run_worker = jobs._run_worker
    monkeypatch.setattr(
        jobs, "_run_worker", lambda job, p: started.append(job.name) or run_worker(job, p)
    )
    again = jobs.train(data[1], config, NO_BOXES)
    assert not started
    assert "kept from an earlier run" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again, networks)
    changed = config.model_copy(update={"fine_tune_learning_rate": 2e-5})
    jobs.train(data[1], changed, NO_BOXES)
    assert started == ["MobileNet"]
    said = capsys.readouterr().out
    assert "fine-tuning again, because settings changed" in said
    assert "head again" not in said
    jobs.train(data[1], config, NO_BOXES)


def test_a_project_that_was_moved_is_still_finished(data, finished, tmp_path):
    config, networks = finished
    shutil.copytree(config.results_dir.parent, tmp_path / "moved")
    moved = small_run(data, tmp_path / "moved")
    shutil.rmtree(moved.cache_dir / "pixels")  # which nothing finished needs
    again = jobs.predictions(jobs.train(data[1], moved, NO_BOXES), data[1], moved)
    pd.testing.assert_frame_equal(again, jobs.predictions(networks, data[1], config))
    assert "kept from an earlier run" in (moved.results_dir / "run.log").read_text()
    assert not (moved.cache_dir / "pixels").exists()
    (moved.models_dir / "MobileNet.weights.h5").unlink()
    job = jobs.Job("MobileNet", moved, Weights("random"), data[1], NO_BOXES)
    why = Ledger(job.folder).why("fine_tune", job.keys()["fine_tune"])
    assert why.endswith("models/MobileNet.weights.h5 is missing")


def test_labels_or_splits_that_change_make_everything_new(data, finished):
    config, _ = finished
    relabelled = data[1].assign(split=data[1]["split"].replace({"validation": "test"}))
    weights = Weights("random")
    one = jobs.Job("MobileNet", config, weights, data[1], NO_BOXES).keys()
    other = jobs.Job("MobileNet", config, weights, relabelled, NO_BOXES).keys()
    assert all(one[stage] != other[stage] for stage in jobs.STAGES)
    otherwise = jobs.Job(
        "MobileNet", config, Weights("imagenet", sha256="a"), data[1], NO_BOXES
    ).keys()
    assert all(one[stage] != otherwise[stage] for stage in jobs.STAGES)


def test_another_library_or_architecture_makes_everything_new(data, finished, monkeypatch):
    config, _ = finished
    job = jobs.Job("MobileNet", config, Weights("random"), data[1], NO_BOXES)
    one, ledger = job.keys(), Ledger(job.folder)
    assert ledger.why("head", one["head"]) is None
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert ledger.why("head", job.keys()["head"]) == "a library changed"
    monkeypatch.delenv("KERAS_BACKEND")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "99.0")
        assert ledger.why("head", job.keys()["head"]) == "a library changed"
    other = replace(jobs.REGISTRY["MobileNet"], early="conv_pw_10_relu")
    monkeypatch.setitem(jobs.REGISTRY, "MobileNet", other)
    assert {ledger.why(stage, key) for stage, key in job.keys().items()} == {"architecture changed"}


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_key_knows_the_version_of_the_backend(data, tmp_path, monkeypatch, backend):
    job = jobs.Job("MobileNet", small_run(data, tmp_path), Weights("random"), data[1], NO_BOXES)
    monkeypatch.setenv("KERAS_BACKEND", backend)
    keys, asked = [], importlib.metadata.version
    for number in ("1.0", "2.0"):
        monkeypatch.setattr(
            importlib.metadata,
            "version",
            lambda name, n=number: n if name == backend else asked(name),
        )
        keys.append(job.keys())
    assert all(keys[0][stage] != keys[1][stage] for stage in jobs.STAGES)


def test_one_network_that_fails_leaves_the_others_standing(data, tmp_path, monkeypatch):
    broken = tmp_path / "vgg.h5"
    broken.write_bytes(b"no HDF5")
    given = {"VGG16": Weights("imagenet", broken), "MobileNet": Weights("random")}
    monkeypatch.setattr(backbones, "find_weights", lambda config: (given, {"Xception": "absent"}))
    config = small_run(data, tmp_path, fine_tune_epochs=0, backbones="VGG16,MobileNet")
    networks = jobs.train(data[1], config, NO_BOXES).set_index("model")
    assert networks["status"].to_dict() == {
        "Xception": "left out", "VGG16": "failed", "MobileNet": "trained",
    }  # fmt: skip
    assert "vgg.h5 does not hold weights" in networks.loc["VGG16", "why"]


def test_a_loss_that_is_no_number_is_tried_once_more_in_float32(data, tmp_path, monkeypatch):
    config = small_run(data, tmp_path, precision="mixed_bfloat16")
    tried = []

    def diverge(job, progress):
        tried.append(job.config.precision)
        return (jobs.DIVERGED, "No number.") if len(tried) == 1 else (1, "Enough.")

    monkeypatch.setattr(jobs, "_run_worker", diverge)
    with pytest.raises(InputError, match="Enough"):
        jobs.train(data[1], config, NO_BOXES)
    assert tried == ["mixed_bfloat16", "float32"]
    assert "Once more in float32" in (config.results_dir / "run.log").read_text()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), worker.REFUSED),
        (
            type("ResourceExhaustedError", (Exception,), {})("OOM when allocating"),
            worker.REFUSED,
        ),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), worker.REFUSED),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), worker.REFUSED),
        (RuntimeError("another fault"), 1),
    ],
)
def test_a_full_memory_is_a_sentence_in_every_backend(data, tmp_path, monkeypatch, error, code):
    def fail(job, tell):
        raise error

    job = jobs.Job("MobileNet", small_run(data, tmp_path), Weights("random"), data[1], NO_BOXES)
    job.save()
    monkeypatch.setattr(worker, "work", fail)
    told = []
    assert worker._exit_code(job.folder, told.append) == code
    said = [event["error"] for event in told]
    assert said == (["Not enough memory; lower FRACTURE_BATCH_SIZE and run again."] * (code > 1))


HOLD = """
import sys, time
from fracture_utils.ledger import Ledger, claim, versions
lock = claim(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_run_in_one_folder_leaves_and_a_dead_ones_lock_does_not_matter(data, tmp_path):
    config = small_run(data, tmp_path)
    environment = os.environ | {"PYTHONPATH": str(files.Path(files.__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(config.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=r"Another run is at work in .*cache\."):
            jobs.train(data[1], config, NO_BOXES)
        assert [path.name for path in config.results_dir.rglob("*") if path.is_file()] == [
            "run.lock"
        ]
        other.kill()
    with claim(config.cache_dir), claim(config.cache_dir):
        assert (config.cache_dir / "run.lock").exists()


def test_a_worker_ends_when_its_parent_does(data, tmp_path):
    config = small_run(data, tmp_path)
    job = jobs.Job("MobileNet", config, Weights("random"), data[1], NO_BOXES)
    job.save()
    environment = os.environ | {"PYTHONPATH": str(files.Path(files.__file__).parents[1])}
    worker = subprocess.Popen(
        [sys.executable, "-m", "fracture_utils.models.worker", str(job.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    with worker:
        assert json.loads(worker.stdout.readline())["stage"] == "features"
        worker.stdin.close()
        assert worker.wait(timeout=20) == 1
        worker.stdin = None


@pytest.fixture
def interruptible():
    """Where it was started in the background, the shell has had interruptions ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
def test_interrupting_the_notebook_ends_the_worker(data, tmp_path, monkeypatch):
    """At the first word of the worker, whenever that comes."""
    config, heard = small_run(data, tmp_path), []

    def hear(self, name, event):
        heard.append(event)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "hear", hear)
    with pytest.raises(KeyboardInterrupt):
        jobs.train(data[1], config, NO_BOXES)
    assert len(heard) == 1
    pattern = f"fracture_utils.models.worker {config.cache_dir}"
    assert subprocess.run(["pgrep", "-f", pattern], check=False).returncode == 1


def test_cards_say_how_to_use_the_weights(data, finished):
    config, networks = finished
    points = pd.DataFrame(
        [{"model": "MobileNet", "slope": 1.5, "intercept": 0.5, "threshold": 0.3, "rule": "youden"}]
    )
    cards.save(networks, points, config, {"MobileNet": "Beware."})
    card = json.loads((config.models_dir / "MobileNet.json").read_text())
    assert card["class_names"] == ["normal", "fractured"]
    assert card["heat_maps"] == "Beware."
    assert (card["slope"], card["intercept"], card["threshold"]) == (1.5, 0.5, 0.3)
    assert card["input_size"] == 32
    assert card["weights_sha256"] == files.sha256(config.models_dir / "MobileNet.weights.h5")
    assert card["fingerprint"]


def test_a_saved_network_predicts_what_it_predicted(data, finished):
    from fracture_utils.data import store
    from fracture_utils.models import heatmaps

    config, networks = finished
    points = pd.DataFrame(
        [{"model": "MobileNet", "slope": 1.0, "intercept": 0.0, "threshold": 0.5, "rule": "youden"}]
    )
    cards.save(networks, points, config, {"MobileNet": "Beware."})
    model, _ = cards.load("MobileNet", config)
    rows = np.flatnonzero(data[1]["split"] != "train")
    pixels = store.pixels(data[1], config, 32)
    logits = heatmaps.look(heatmaps.explaining(model), pixels, rows, config).logits
    expected = jobs.predictions(networks, data[1], config)["logit"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)  # there it was folded
    with pytest.raises(InputError, match="There is no trained VGG16"):
        cards.load("VGG16", config)


def test_progress_says_what_runs_how_long_and_what_is_next(tmp_path, capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress(
        {name: dict.fromkeys(jobs.STAGES, 1.0) for name in "AB"}, tmp_path / "run.log"
    )
    progress.hear("A", {"stage": "features", "why": "not done yet"})
    clock[0] = 30
    progress.hear("A", {"stage": "features", "done": 50, "total": 100})
    clock[0] = 91
    progress.hear("A", {"stage": "head", "why": "settings changed"})
    clock[0] = 100
    progress.finish("A", "trained")
    said = capsys.readouterr().out
    assert "A (1 of 2): frozen features 0%; next B" in said
    assert "A: head again, because settings changed." in said
    assert "min left for all" in said
    assert "A: trained in 2 min." in said
    assert "A: trained in 2 min." in (tmp_path / "run.log").read_text()
    assert said.count("\n") < 8


def test_the_time_is_told_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    module = sys.modules[Progress.__module__]
    assert 1 < module._speed() < 1e5
    monkeypatch.setattr(module, "_speed", lambda: 10.0)
    monkeypatch.setattr(module, "_notebook_output", lambda: None)  # another test may have begun one
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    work = {name: dict.fromkeys(jobs.STAGES, 1500.0) for name in "AB"}
    progress = Progress(work, tmp_path / "run.log")
    progress.announce()
    progress.finish("A", "kept")
    progress.announce()
    progress.finish("B", "kept")
    progress.announce()
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "About 20 min for 2 networks on this machine, as a guess.",
        "A: kept.",
        "About 10 min for one network on this machine, as a guess.",
        "B: kept.",
    ]
    monkeypatch.setattr(module.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    Progress(work, tmp_path / "run.log").announce()
    assert not capsys.readouterr().out  # nobody knows yet how fast the card is


def test_maps_over_the_limit_give_the_mean_head_and_a_reason_or_stop_the_network(data, tmp_path):
    config = small_run(data, tmp_path, maps_limit=0.0, fine_tune_epochs=1)
    row = jobs.train(data[1], config, NO_BOXES).iloc[0]
    assert row["head"] == "mean"
    assert (
        "mean head, because its maps need 0.0 GiB of disk, more than FRACTURE_MAPS" in row["note"]
    )
    asked = config.model_copy(update={"head": "evidence"})
    with pytest.raises(InputError, match="MobileNet cannot have the evidence head: its maps need"):
        jobs.train(data[1], asked, NO_BOXES)


def test_a_job_with_boxes_has_the_same_keys_in_its_worker(data, tmp_path):
    boxes = [
        (data[1]["path"][0], 61.0, 39.0, 79.0, 48.5),
        (data[1]["path"][3], 1.0, 2.0, 3.0, 1234.5),
    ]
    known = pd.DataFrame(boxes, columns=NO_BOXES.columns)
    images = data[1].assign(width="32", height="40")
    job = jobs.Job("MobileNet", small_run(data, tmp_path), Weights("random"), images, known)
    job.save()
    assert jobs.Job.load(job.folder).keys() == job.keys()


def test_boxes_are_drawn_one_picture_at_a_time(data, tmp_path):
    boxes = pd.DataFrame([(data[1]["path"][2], 4, 8, 20, 24)], columns=NO_BOXES.columns)
    images = data[1].assign(width=32, height=40)
    job = jobs.Job("MobileNet", small_run(data, tmp_path), Weights("random"), images, boxes)
    marked, label = [job.mark()(row) for row in range(len(images))], images["label"]
    assert label[2] == "fractured" and marked[2].any()
    assert not any(mark.any() for mark, of in zip(marked, label, strict=True) if of == "normal")
    assert [mark is None for mark in marked] == list((label != "normal") & (label.index != 2))
