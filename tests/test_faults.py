"""Real faults: processes killed at random, disks that are full, folders that cannot be written."""

import contextlib
import os
import random
import shutil
import subprocess
import threading

import numpy as np
import pandas as pd
import pytest
from radiographs import NO_BOXES, small_run

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import plots
from fracture_utils.ledger import Ledger, Results
from fracture_utils.models import features, jobs, process, worker
from fracture_utils.models.progress import Progress

KILLS = 3


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The folder of a run that nobody disturbed, its settings and its networks."""
    folder = tmp_path_factory.mktemp("whole")
    config = small_run(data, folder, fine_tune_epochs=4)
    return folder, config, jobs.train(data[1], config, NO_BOXES)


@pytest.fixture
def copied(data, undisturbed):
    """A function that copies that run into a folder; returns its settings there."""

    def copy(folder):
        shutil.copytree(undisturbed[0], folder, dirs_exist_ok=True)
        return small_run(data, folder, fine_tune_epochs=4)

    return copy


@pytest.fixture(scope="module")
def whole(data, undisturbed):
    """Its predictions, history and seconds a stage."""
    _, config, networks = undisturbed
    seconds = {stage: networks[f"seconds_{stage}"].item() for stage in jobs.STAGES}
    return jobs.predictions(networks, data[1], config), jobs.history(networks, config), seconds


class Assassin:
    """Kills the worker of a job with SIGKILL at random moments of every stage, KILLS times each."""

    def __init__(self, config, seconds):
        self.dice, self.seconds = random.Random(0), seconds
        self.pattern = f"fracture_utils.models.worker {config.cache_dir}"
        self.kills, self.now = dict.fromkeys(jobs.STAGES, 0), ""

    def hear(self, event):
        self.now = event.get("stage", self.now)
        if "why" in event and self.kills[self.now] < KILLS:
            moment = self.dice.uniform(0, self.seconds[self.now])
            threading.Timer(moment, self.strike, [self.now]).start()

    def strike(self, stage):
        if self.now == stage and self.kills[stage] < KILLS:
            kill = ["pkill", "-9", "-f", self.pattern]
            self.kills[stage] += subprocess.run(kill, check=False).returncode == 0

    def lacking(self):
        """The first stage in which it was not there often enough, and those after it."""
        alive = [self.kills[stage] < KILLS for stage in jobs.STAGES]
        return jobs.STAGES[alive.index(True) :] if any(alive) else ()


@pytest.mark.slow
def test_killed_at_random_in_every_stage_it_ends_like_an_undisturbed_run(
    data, whole, tmp_path, monkeypatch
):
    predictions, history, seconds = whole
    config = small_run(data, tmp_path, fine_tune_epochs=4)
    assassin, hear = Assassin(config, seconds), Progress.hear
    monkeypatch.setattr(
        Progress,
        "hear",
        lambda self, name, event: hear(self, name, event) or assassin.hear(event),
    )
    ledger, networks, best = Ledger(jobs.folder_of("MobileNet", config)), None, -np.inf
    while networks is None:
        assassin.now = ""
        try:
            networks = jobs.train(data[1], config, NO_BOXES)
        except InputError as error:
            assert "killed" in str(error)
        for checkpoint in config.cache_dir.rglob("checkpoint-*.npz"):
            meta, _ = files.read_arrays(checkpoint)
            assert meta["best_auc"] >= best  # the best never gets worse
            best = meta["best_auc"]
        if networks is not None and assassin.lacking():  # it got away: from that stage on anew
            for stage in assassin.lacking():
                ledger.record(stage, {}, [])
            networks, best = None, -np.inf
    resumed = jobs.predictions(networks, data[1], config)
    pd.testing.assert_frame_equal(resumed, predictions, check_exact=True)
    clocks = ["seconds", "seconds_waiting"]
    again = jobs.history(networks, config).drop(columns=clocks)
    pd.testing.assert_frame_equal(again, history.drop(columns=clocks), check_exact=True)
    assert assassin.kills == dict.fromkeys(jobs.STAGES, KILLS)
    assert not list(config.results_dir.rglob(files.TEMPORARY_PREFIX + "*"))


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of some megabytes, or mounts it anew with other options;
    skipped where mounting is not allowed.
    """
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root on Linux")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_full_disk_is_one_sentence_and_spoils_nothing(data, disk):
    folder = disk("size=8m")
    config = small_run(data, folder)
    (config.results_dir).mkdir()
    files.write_text(config.results_dir / "scores.csv", "precious\n")
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        jobs.train(data[1], config, NO_BOXES)  # the weights of MobileNet alone take 13 MB
    assert (config.results_dir / "scores.csv").read_text() == "precious\n"
    assert not list(folder.rglob(files.TEMPORARY_PREFIX + "*"))
    disk("size=200m")
    networks = jobs.train(data[1], config, NO_BOXES)
    assert networks["status"].item() == "trained"


def test_a_full_disk_keeps_the_tables_and_figures_that_stand(disk):
    folder = disk("size=2m")
    config = Config(source="phantoms", results_dir=folder / "results")
    columns = ["severity", "check", "path", "other", "what", "advice"]
    findings = pd.DataFrame([["red", "x", "", "", "", ""]] * 5000, columns=columns)
    Results(config)

    def make(findings):
        plots.Album(config.figures_dir).add(plots.audit, findings)
        return tables.write(config.results_dir, "audit", findings)

    make(findings)
    kept = (config.results_dir / "audit.csv", config.figures_dir / "audit.png")
    before = [path.read_bytes() for path in kept]
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    with pytest.raises(InputError, match=r"audit\.png cannot be written \(No space"):
        make(findings.assign(severity="amber"))
    assert [path.read_bytes() for path in kept] == before
    with pytest.raises(InputError, match=r"UNFINISHED\.txt cannot be written"):
        Results(config)  # a run that begins on a full disk
    assert not list(folder.rglob(files.TEMPORARY_PREFIX + "*"))
    (folder / "filler").unlink()
    again = make(findings.assign(severity="amber"))
    assert set(again["severity"]) == {"amber"}
    assert kept[1].read_bytes() != before[1]


def test_a_read_only_results_folder_is_one_sentence_and_stays_as_it_is(data, disk, copied):
    folder = disk("size=100m")
    config = copied(folder)
    before = contents(folder)
    disk("ro")
    for changed in (config, config.model_copy(update={"head_epochs": 2})):
        with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)") as it:
            jobs.train(data[1], changed, NO_BOXES)
        assert "FRACTURE_RESULTS_DIR" in str(it.value)
    assert contents(folder) == before


def test_a_results_folder_that_is_a_file_is_one_sentence(data, tmp_path):
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="FRACTURE_RESULTS_DIR"):
        jobs.train(data[1], small_run(data, tmp_path), NO_BOXES)


def flip(content):
    content[len(content) // 2] ^= 0xFF


def cut(content):
    del content[len(content) * 2 // 3 :]


@pytest.mark.parametrize("spoil", [flip, cut])
def test_damaged_files_and_a_clock_set_back_do_not_hurt(data, whole, copied, tmp_path, spoil):
    config = copied(tmp_path)
    folder = config.cache_dir / "networks" / "MobileNet"
    damaged = [config.cache_dir / "pixels/32.npy", *folder.glob("*.npz")]
    damaged += [config.models_dir / "MobileNet.weights.h5"]
    assert len(damaged) >= 5
    for path in damaged:
        content = bytearray(path.read_bytes())
        spoil(content)
        path.write_bytes(content)
    for path in tmp_path.rglob("*"):
        os.utime(path, (2**32, 2**32))  # written in the year 2106, the clock says
    networks = jobs.train(data[1], config, NO_BOXES)
    again = jobs.predictions(networks, data[1], config)
    pd.testing.assert_frame_equal(again, whole[0], check_exact=True)
    log = (config.results_dir / "run.log").read_text()
    assert "frozen features again, because features-" in log
    assert ".npz is damaged." in log


def in_this_process(folder, hear, card=""):
    """What `process.train` does, where stand-ins are seen."""
    told = [{}]
    code = worker._exit_code(folder, lambda event: (told.append(event), hear(event)))
    return code, told[-1].get("error", "")


def overflowing(model, *others, look=features._look):
    """What a network sees; no numbers in float16, which does not overflow on every processor."""
    in_half = any(layer.compute_dtype == "float16" for layer in model.layers)
    return [np.full_like(array, np.nan) if in_half else array for array in look(model, *others)]


def test_a_network_that_overflows_in_float16_is_trained_in_float32(data, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "train", in_this_process)
    monkeypatch.setattr(features, "_look", overflowing)
    config = small_run(data, tmp_path, precision="mixed_float16", fine_tune_epochs=1)
    networks = jobs.train(data[1], config, NO_BOXES)
    row = networks.iloc[0]
    assert (row["status"], row["precision"]) == ("trained", "float32")
    assert row["why"] == "float32, since the loss was no number before"
    assert "are no numbers. Once more in float32." in (config.results_dir / "run.log").read_text()
    assert np.isfinite(jobs.predictions(networks, data[1], config)["logit"]).all()
    pd.testing.assert_frame_equal(jobs.train(data[1], config, NO_BOXES), networks)


def test_results_of_another_data_set_are_not_mixed_in(data, copied, tmp_path, capsys):
    config = copied(tmp_path)
    fewer = data[1].iloc[4:].reset_index(drop=True)
    networks = jobs.train(fewer, config, NO_BOXES)
    assert "frozen features again, because data changed" in capsys.readouterr().out
    assert set(jobs.predictions(networks, fewer, config)["path"]) <= set(fewer["path"])
