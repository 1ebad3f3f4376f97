"""Real faults: processes killed at random, disks that are full, folders that cannot be written."""

import os
import random
import subprocess
import threading
import time

import numpy as np
import pandas as pd
import pytest
from test_jobs import data, settings  # noqa: F401  (fixtures and small settings)

from fracture_utils import files
from fracture_utils.errors import InputError
from fracture_utils.models import jobs
from fracture_utils.models.progress import Progress

KILLS = 5


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):  # noqa: F811
    """The predictions and the history of a run that nobody disturbed."""
    config = settings(data, tmp_path_factory.mktemp("whole"), fine_tune_epochs=4)
    networks = jobs.train(data[1], config)
    return jobs.predictions(networks, data[1], config), jobs.history(networks, config)


@pytest.mark.slow
@pytest.mark.parametrize("stage", jobs.STAGES)
def test_killed_at_random_in_every_stage_it_ends_like_an_undisturbed_run(
    data,  # noqa: F811
    whole,
    tmp_path,
    monkeypatch,
    stage,
):
    config, dice = settings(data, tmp_path, fine_tune_epochs=4), random.Random(stage)
    hear, kills = Progress.hear, []
    pattern = f"fracture_utils.models.worker {config.cache_dir}"
    longest = {"features": 2.0, "head": 1.0, "fine_tune": 6.0, "predict": 2.0}[stage]

    def kill_after_a_while(self, name, event):
        hear(self, name, event)
        if event.get("stage") == stage and "why" in event and len(kills) < KILLS:
            kills.append(delay := dice.uniform(0, longest))
            kill = ["pkill", "-9", "-f", pattern]
            threading.Timer(delay, subprocess.run, [kill], {"check": False}).start()

    monkeypatch.setattr(Progress, "hear", kill_after_a_while)
    networks, attempts, best = None, 0, -np.inf
    while networks is None:
        attempts += 1
        try:
            networks = jobs.train(data[1], config)
        except InputError as error:
            assert "killed" in str(error)
        for checkpoint in config.cache_dir.rglob("checkpoint-*.npz"):
            meta, _ = files.read_arrays(checkpoint)
            assert meta["best_auc"] >= best  # the best never gets worse
            best = meta["best_auc"]
        if networks is not None and len(kills) < KILLS:
            for name in ("ledger.json", "predictions.csv"):  # too quick to be hit: once more
                (config.cache_dir / "networks/MobileNet" / name).unlink(missing_ok=True)
            networks = None
    predictions, history = whole
    resumed = jobs.predictions(networks, data[1], config)
    np.testing.assert_allclose(resumed["logit"], predictions["logit"], rtol=1e-4, atol=1e-5)
    again = jobs.history(networks, config).drop(columns="seconds")
    pd.testing.assert_frame_equal(again, history.drop(columns="seconds"), rtol=1e-4)
    assert len(kills) == KILLS
    assert not list(config.results_dir.rglob(files.TEMPORARY_PREFIX + "*"))


def test_the_same_run_twice_gives_identical_tables(data, whole, tmp_path):  # noqa: F811
    config = settings(data, tmp_path, fine_tune_epochs=4)
    networks = jobs.train(data[1], config)
    predictions = jobs.predictions(networks, data[1], config)
    pd.testing.assert_frame_equal(predictions, whole[0], check_exact=True)


@pytest.fixture
def tiny_disk(tmp_path):
    """A mounted disk of eight megabytes; skipped where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.name != "posix" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_spoils_nothing(data, tiny_disk):  # noqa: F811
    config = settings(data, tiny_disk)
    (config.results_dir).mkdir()
    files.write_text(config.results_dir / "scores.csv", "precious\n")
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        jobs.train(data[1], config)  # the weights of MobileNet alone take 13 MB
    assert (config.results_dir / "scores.csv").read_text() == "precious\n"
    assert not list(tiny_disk.rglob(files.TEMPORARY_PREFIX + "*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(tiny_disk)], check=True)
    networks = jobs.train(data[1], config)
    assert networks["status"].item() == "trained"


def test_a_results_folder_that_cannot_be_written_is_one_sentence(data, tmp_path):  # noqa: F811
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="FRACTURE_RESULTS_DIR"):
        jobs.train(data[1], settings(data, tmp_path))


def test_a_clock_set_back_and_flipped_bits_do_not_hurt(data, whole, tmp_path, monkeypatch):  # noqa: F811
    config = settings(data, tmp_path, fine_tune_epochs=4)
    jobs.train(data[1], config)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    folder = config.cache_dir / "networks" / "MobileNet"
    for path in [config.cache_dir / "pixels/32.npy", *folder.glob("*.npz")]:
        broken = bytearray(path.read_bytes())
        broken[len(broken) // 2] ^= 0xFF
        path.write_bytes(broken)
    networks = jobs.train(data[1], config)
    again = jobs.predictions(networks, data[1], config)
    np.testing.assert_allclose(again["logit"], whole[0]["logit"], rtol=1e-4, atol=1e-5)


def test_results_of_another_data_set_are_not_mixed_in(data, whole, tmp_path, capsys):  # noqa: F811
    config = settings(data, tmp_path)
    jobs.train(data[1], config)
    fewer = data[1].iloc[4:].reset_index(drop=True)
    networks = jobs.train(fewer, config)
    assert "frozen features again, because data changed" in capsys.readouterr().out
    assert set(jobs.predictions(networks, fewer, config)["path"]) <= set(fewer["path"])
