"""All models: side by side, valid or not, failed, interrupted, on a cluster."""

import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import runs

from fracture_utils import artifacts, tables
from fracture_utils.config import InputError
from fracture_utils.data import dataset, reader
from fracture_utils.models import backbones, jobs
from fracture_utils.models.backbones import REGISTRY, Weights

NAMES = ["MobileNet", "VGG16", "ResNet50"]
STAND_IN = """
import json, os, sys, time
from pathlib import Path

folder, began = Path(sys.argv[1]), time.time()
(folder / "status.json").write_text(json.dumps({"stage": "head", "done": 1, "total": 2}))
(folder / "began").touch()
parent, together = os.getppid(), os.environ["TOGETHER"].split()
while not all((folder.parent / name / "began").exists() for name in together):
    time.sleep(0.02)
    if os.getppid() != parent:
        sys.exit(1)
if folder.name in os.environ["KILL"]:
    os.kill(os.getpid(), 9)
if folder.name in os.environ["FAIL"]:
    print("A sentence.")
    sys.exit(1)
own = [name for name in os.environ if name.startswith("FRACTURE_")]
facts = {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "own": own, "began": began}
(folder / "facts.json").write_text(json.dumps(facts | {"ended": time.time()}))
"""
"""Begins, waits until the models in TOGETHER have begun, and writes what it saw."""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A module in the place of the training; returns a function that trains three models by it."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(jobs, "TRAINING", "stand_in")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("TOGETHER", "KILL", "FAIL"):
        monkeypatch.setenv(name, "")
    config = runs.small(tmp_path, backbones=",".join(NAMES))
    monkeypatch.setenv("FRACTURE_SEED", "9")
    return lambda: trained_by_stand_in(config)


def trained_by_stand_in(config, cluster=""):
    """The reasons of failure, and what each stand-in saw."""
    folders = {name: config.cache_dir.absolute() / "models" / name for name in NAMES}
    for folder in folders.values():
        artifacts.write_json(folder / "job.json", {})
    keys = dict.fromkeys(NAMES, artifacts.key(jobs.CODE, jobs.LIBRARIES))
    reasons = jobs._train_all(folders, keys, cluster)
    facts = [folder / "facts.json" for folder in folders.values()]
    return reasons, [json.loads(path.read_text()) for path in facts if path.is_file()]


def test_two_gpus_train_two_models_at_once(stand_in, monkeypatch):
    monkeypatch.setenv("TOGETHER", "MobileNet VGG16")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1")
    reasons, facts = stand_in()
    assert not reasons
    assert {fact["gpu"] for fact in facts[:2]} == {"0", "1"}
    assert facts[2]["gpu"] in {"0", "1"}
    for gpu in "01":
        turns = sorted((f["began"], f["ended"]) for f in facts if f["gpu"] == gpu)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(turns))
    assert not any(fact["own"] for fact in facts)


@pytest.mark.parametrize("gpus", ["0", "", "-1"])
def test_one_gpu_or_none_trains_one_after_the_other(stand_in, monkeypatch, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    reasons, facts = stand_in()
    assert not reasons
    assert {fact["gpu"] for fact in facts} == {gpus}
    times = [time for fact in facts for time in (fact["began"], fact["ended"])]
    assert times == sorted(times)


def test_a_killed_or_failed_model_leaves_the_others(stand_in, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("KILL", "MobileNet")
    monkeypatch.setenv("FAIL", "VGG16")
    reasons, facts = stand_in()
    assert reasons == {"MobileNet": jobs.KILLED, "VGG16": "A sentence."}
    assert len(facts) == 1


def test_a_process_that_ends_without_a_reason_names_its_log(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "TRAINING", "nothing_of_this_name")
    artifacts.write_json(tmp_path / "job.json", {})
    reason = jobs.run(tmp_path, artifacts.key(jobs.CODE, jobs.LIBRARIES))
    assert reason == f"The process ended with code 1; {tmp_path / 'log.txt'} shows the reason."
    assert "nothing_of_this_name" in (tmp_path / "log.txt").read_text()


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores interruptions."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_ends_the_processes_on_all_gpus(stand_in, monkeypatch):
    monkeypatch.setenv("TOGETHER", "nobody")  # each waits for ever
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    started, popen = [], subprocess.Popen

    class Recorded(popen):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            started.append(self)
            if len(started) == 2:
                threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()

    monkeypatch.setattr(jobs.subprocess, "Popen", Recorded)
    with pytest.raises(KeyboardInterrupt, match="run this cell again to resume it"):
        stand_in()
    assert len(started) == 2
    assert all(process.returncode == -signal.SIGKILL for process in started)


def test_progress_is_one_line_per_model(stand_in, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    stand_in()
    shown = capsys.readouterr().err
    for name in NAMES:
        assert f"{name}: head" in shown
    assert "38 %" in shown


# Whole trainings


def test_the_tables_of_a_training():
    config, trained = runs.finished()
    images = runs.load(config).images
    row = trained.networks.iloc[0]
    assert (row["model"], row["status"], row["reason"]) == ("MobileNet", "trained", "")
    assert (row["initialization"], row["provenance"]) == ("random", "as requested")
    assert row["parameters"] > 3e6
    assert row["seconds"] > row["seconds_features"] > 0
    for name in ("networks", "history"):
        tables.write(config.results_dir, name, getattr(trained, name))
    card = artifacts.read_json(config.cache_dir / "models/MobileNet/network.json")
    assert f",{card['parameters']}," in (config.results_dir / "networks.csv").read_text()
    expected = images.query("split != 'train'")
    merged = trained.predictions.merge(expected, on="path", suffixes=("", "_expected"))
    assert len(merged) == len(expected) == len(trained.predictions)
    for column in ("label", "split", "group", "body_part"):
        assert (merged[column] == merged.get(f"{column}_expected", merged[column])).all()
    assert not [column for column in trained.predictions if "sha256" in column]


def test_heat_maps_cover_the_test_images():
    config, trained = runs.finished()
    heat_maps = trained.heat_maps["MobileNet"]
    tested = trained.predictions.query("split == 'test'")
    assert list(heat_maps) == tested["path"].to_list()
    stored = np.load(config.cache_dir / "models/MobileNet/heatmaps.npy")
    path = tested["path"].iloc[3]
    row = trained.predictions["path"].to_list().index(path)
    expected = reader.unfit(stored[row], (40, 40), 64)
    np.testing.assert_array_equal(heat_maps[path], expected)
    assert expected.shape == (reader.GRID, reader.GRID)


@pytest.fixture
def untrained(monkeypatch):
    """Whoever starts a training fails."""
    monkeypatch.setattr(jobs, "_train_all", lambda *_: pytest.fail("a training began"))


def test_a_valid_model_is_not_trained_again(untrained):
    config, trained = runs.finished()
    again = runs.train(config)
    pd.testing.assert_frame_equal(again.networks, trained.networks)
    pd.testing.assert_frame_equal(again.predictions, trained.predictions)


def test_a_project_that_was_moved_is_still_valid(untrained, tmp_path):
    config = runs.copy_of_finished(tmp_path / "moved")
    pd.testing.assert_frame_equal(runs.train(config).history, runs.finished()[1].history)


@pytest.fixture
def key():
    """A function that returns the key of the finished training, or of a changed one."""
    config = backbones.by_hardware(runs.finished()[0])
    data = runs.load(config)
    boxes = data.boxes.round(1)
    data = data._replace(images=data.images.assign(fold=0))

    def make(images=data.images, boxes=boxes, weights=None, **settings):
        changed = config.model_copy(update=settings)
        return jobs.job_key("MobileNet", images, boxes, changed, weights or Weights("random"))

    assert make() == artifacts.read_json(config.cache_dir / "models/MobileNet/job.json")["key"]
    make.data = data
    return make


@pytest.mark.parametrize("name", sorted(jobs.SETTINGS | {"image_size"}))
def test_the_key_depends_on_the_settings_of_a_training(key, name):
    others = {"precision": "mixed_bfloat16", "head": "pooled", "fine_tune_depth": "all"}
    others |= {"horizontal_flip": False, "vertical_flip": True, "image_size": 96}
    assert key(**{name: others.get(name, 7)}) != key()


def test_the_key_depends_on_data_weights_libraries_and_code(key, monkeypatch):
    one, images = key(), key.data.images
    assert key(cluster="tcp://127.0.0.1:9", resamples=9, models_dir=Path("x")) == one
    assert key(images=images.assign(split=images["split"].replace("validation", "test"))) != one
    assert key(images=images.assign(label="normal")) != one
    assert key(images=images.assign(fold=1)) != one
    assert key(images=images.assign(sha256="a")) != one
    assert key(images=images.assign(body_part="foot")) == one
    assert key(boxes=key.data.boxes.iloc[1:]) != one
    assert key(weights=Weights("imagenet", sha256="a")) != one
    assert key(weights=Weights("random", provenance="other")) == one
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        assert key() != one
    version = importlib.metadata.version
    for library in jobs.LIBRARIES:
        with monkeypatch.context() as patch:
            newer = lambda name, library=library: "99" if name == library else version(name)  # noqa: E731
            patch.setattr(importlib.metadata, "version", newer)
            assert key() != one
    with monkeypatch.context() as patch:
        other = REGISTRY["MobileNet"]._replace(early="conv_pw_10_relu")
        patch.setitem(REGISTRY, "MobileNet", other)
        assert key() != one


def test_the_key_names_all_code_that_a_training_imports():
    """All that training imports, but settings, tables, and modules whose result is in the key."""
    code = "import sys; from fracture_utils.models import training; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=backbones.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    own = {n.removeprefix("fracture_utils.") for n in done.stdout.split() if "fracture_utils." in n}
    own -= {"config", "artifacts", "tables", "data.duplicates", "data.splits"}
    own -= {"data", "evaluation", "models"}
    assert {name.replace(".", "/") + ".py" for name in own} == set(jobs.CODE)


def test_one_model_that_fails_leaves_the_others(tmp_path, monkeypatch):
    (tmp_path / "vgg.h5").write_bytes(b"not HDF5")
    given = {"VGG16": Weights("imagenet", tmp_path / "vgg.h5"), "MobileNet": Weights("random")}
    monkeypatch.setattr(backbones, "find_weights", lambda config: (given, {"Xception": "absent"}))
    config = runs.small(tmp_path, fine_tune_epochs=0, backbones="VGG16,MobileNet", head="pooled")
    trained = runs.train(config)
    networks = trained.networks.set_index("model")
    statuses = {"Xception": "left out", "VGG16": "failed", "MobileNet": "trained"}
    assert networks["status"].to_dict() == statuses
    assert "vgg.h5 does not hold weights" in networks.loc["VGG16", "reason"]
    assert list(trained.heat_maps) == ["MobileNet"]


def test_other_networks_of_keras_are_trained(tmp_path):
    names = "EfficientNetB0,MobileNetV2"
    config = runs.small(tmp_path, backbones=names, fine_tune_epochs=1, head="pooled")
    trained = runs.train(config)
    networks = trained.networks.set_index("model")
    assert networks["status"].to_dict() == dict.fromkeys(names.split(","), "trained")
    tuned = trained.history.query("stage == 'fine_tune'")
    assert list(tuned["model"]) == names.split(",")
    assert trained.predictions.groupby("model")["logit"].std().min() > 0


HOLD = """
import sys, time
from pathlib import Path
from fracture_utils import artifacts
lock = artifacts.lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_the_second_run_in_one_folder_ends_and_a_dead_one_does_not_matter(tmp_path):
    config, data = runs.small(tmp_path), runs.load(runs.finished()[0])
    command = [sys.executable, "-c", HOLD, str(config.cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=backbones.environment()) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=r"Another run is using .*cache\."):
            jobs.train(data.images, data.boxes, config)
        files = [path.name for path in config.results_dir.rglob("*") if path.is_file()]
        assert files == ["run.lock"]
        other.kill()
    with artifacts.lock(config.cache_dir):
        assert (config.cache_dir / "run.lock").exists()


def test_results_of_another_data_set_are_not_mixed_in(tmp_path):
    config = runs.copy_of_finished(tmp_path)
    data = runs.load(config)
    fewer = data.images.iloc[4:].reset_index(drop=True)
    changed = config.model_copy(update={"fine_tune_epochs": 0, "head": "pooled"})
    predictions = jobs.train(fewer, data.boxes, changed).predictions
    assert set(predictions["path"]) == set(fewer["path"])  # test and out of fold


# Clusters

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason='needs pip install -e ".[cluster]"'
)


def start(*words: str) -> subprocess.Popen:
    variables = backbones.environment() | {"FRACTURE_NONSENSE": "1"}
    with Path("cluster.txt").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", *words], env=variables, stderr=log)


@pytest.fixture
def cluster(tmp_path, stand_in):
    """A function that starts a scheduler and workers: its address, and all processes."""
    file, started, preload = tmp_path / "scheduler.json", [], tmp_path / "preload.py"
    common = ("--scheduler-file", str(file), "--no-dashboard")
    preload.write_text("from fracture_utils.models import jobs; jobs.TRAINING = 'stand_in'")

    def begin(*workers: str) -> tuple[str, list[subprocess.Popen]]:
        scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        started.append(start(*scheduler, *common))
        wait_for(lambda: file.exists() and file.read_text())
        worker = ("distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny")
        command = (*worker, "--preload", str(preload), *common)
        started.extend(start(*command, *options.split()) for options in workers)
        address = json.loads(file.read_text())["address"]
        import distributed

        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(len(workers), timeout=90)
        return address, started

    yield begin
    for process in reversed(started):
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        process.kill()
        process.wait()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def config_of(tmp_path):
    for name in [name for name in os.environ if name.startswith("FRACTURE_")]:
        del os.environ[name]
    return runs.small(tmp_path, backbones=",".join(NAMES))


@needs_dask
def test_a_lost_worker_costs_no_model(tmp_path, cluster, monkeypatch):
    """One of two workers is killed in the middle; its model is trained by the other one."""
    monkeypatch.setenv("TOGETHER", "MobileNet VGG16 go")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    address, (_, *workers) = cluster("", "")
    config = config_of(tmp_path)
    folder = config.cache_dir / "models"

    def kill():
        wait_for(lambda: all((folder / name / "began").exists() for name in NAMES[:2]))
        workers[0].kill()
        (folder / "go").mkdir()
        (folder / "go" / "began").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    reasons, facts = trained_by_stand_in(config, address)
    killer.join()
    assert not reasons
    assert len(facts) == 3
    assert not any(fact["own"] for fact in facts)


@needs_dask
def test_a_scheduler_that_is_lost_is_a_reason_for_each_model(tmp_path, cluster, monkeypatch):
    monkeypatch.setenv("TOGETHER", "nobody")
    address, (scheduler, *_) = cluster("")
    config = config_of(tmp_path)
    began = config.cache_dir / "models/MobileNet/began"
    killer = threading.Thread(target=lambda: (wait_for(began.exists), scheduler.kill()))
    killer.start()
    reasons, _ = trained_by_stand_in(config, address)
    killer.join()
    assert set(reasons) == set(NAMES)
    assert all("The cluster lost this training" in reason for reason in reasons.values())


@needs_dask
def test_tasks_take_a_gpu_where_workers_offer_it(cluster):
    address, _ = cluster("", "--resources GPU=1")
    with jobs._cluster(address) as executor:
        futures = [executor.submit(os.getpid) for _ in range(4)]
        assert len({future.result() for future in futures}) == 1


def test_a_machine_without_the_folder_or_with_other_versions_is_a_reason(tmp_path):
    key = artifacts.key(jobs.CODE, jobs.LIBRARIES)
    assert "the machines of a cluster must share that folder" in jobs.run(tmp_path, key)
    artifacts.write_json(tmp_path / "job.json", {})
    assert "other versions of this project" in jobs.run(tmp_path, key | {"code": "other"})


@needs_dask
def test_an_address_without_a_scheduler_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE", 1)
    config = runs.small(tmp_path, cluster="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"No Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        runs.train(config)


def test_without_dask_a_sentence_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    config = runs.small(tmp_path, cluster="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"FRACTURE_CLUSTER needs Dask: pip install .*\[cluster\]"):
        runs.train(config)


def test_without_a_pixel_cache_the_reason_is_a_sentence(tmp_path):
    config, data = runs.small(tmp_path), runs.load(runs.finished()[0])
    with pytest.raises(InputError, match=r"64\.npy"):
        jobs.train(data.images, data.boxes, config)
    runs.load(config)
    assert dataset.pixels(config.cache_dir, 64)[0].shape == (52, 64, 64)
    shutil.rmtree(config.cache_dir)
