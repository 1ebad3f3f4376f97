"""TensorBoard reads the training curves that the history table holds."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import radiographs

from fracture_utils import events, files
from fracture_utils.errors import InputError
from fracture_utils.models import jobs

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason='needs pip install -e ".[tensorboard]"',
)
ROOT = files.Path(files.__file__).parents[1]


@pytest.fixture
def history():
    """Two networks, two stages, every number another; one is missing."""
    random, rows = np.random.default_rng(0), []
    for model in ("VGG16", "MobileNet"):
        for stage, epochs in (("head", 4), ("fine_tune", 2)):
            for epoch in range(1, epochs + 1):
                numbers = dict(zip(NUMBERS, random.random(len(NUMBERS)).tolist(), strict=True))
                rows.append({"model": model, "stage": stage, "epoch": epoch} | numbers)
    table = pd.DataFrame(rows)
    table.loc[2, "val_auc"] = np.nan
    return table


NUMBERS = ("loss", "auc", "val_loss", "val_auc", "learning_rate", "seconds")


def scalars(folder):
    """What TensorBoard finds in a run, by tag: (step, value) in order, and the wall times."""
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    read = {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
    return {tag: [(event.step, event.value) for event in seen] for tag, seen in read.items()}, {
        tag: [event.wall_time for event in seen] for tag, seen in read.items()
    }


def test_every_number_of_the_table_is_read_back_by_tensorboard(history, tmp_path):
    events.write(history, tmp_path)
    for model, rows in history.groupby("model"):
        total = 0
        for run, columns in events.RUNS.items():
            read, times = scalars(tmp_path / model / run)
            for column, name in columns.items():
                for stage, of in rows.groupby("stage"):
                    known = of.dropna(subset=column)
                    steps, values = zip(*read[f"{stage}/{name}"], strict=True)
                    assert list(steps) == list(known["epoch"])
                    np.testing.assert_allclose(values, known[column], rtol=1e-6)
                    total += len(known)
            for seen in times.values():
                assert seen == sorted(seen)
        assert total == rows[list(NUMBERS)].notna().to_numpy().sum()  # nothing is left over
    spent = np.diff(scalars(tmp_path / "VGG16" / "train")[1]["head/loss"])
    np.testing.assert_allclose(spent, history["seconds"][1:4], atol=1e-3)


def test_a_second_run_replaces_the_curves_of_its_networks_only(history, tmp_path):
    events.write(history, tmp_path)
    before = files.sha256(tmp_path / "VGG16" / "train" / events.NAME)
    events.write(history.query("model == 'MobileNet' and stage == 'head'"), tmp_path)
    assert files.sha256(tmp_path / "VGG16" / "train" / events.NAME) == before
    assert set(scalars(tmp_path / "MobileNet" / "validation")[0]) == {"head/loss", "head/auc"}


def test_the_notebook_s_process_stays_free_of_tensorflow():
    code = (
        "import sys, pandas; from pathlib import Path; from fracture_utils import events; "
        "row = {'model': 'VGG16', 'stage': 'head', 'epoch': 1, 'loss': 1.0, 'seconds': 2.0}; "
        "events.write(pandas.DataFrame([row]), Path('curves')); "
        "sys.exit(f'{heavy}' if (heavy := {'tensorflow', 'keras'} & set(sys.modules)) else 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert scalars("curves/VGG16/train")[0]["head/loss"] == [(1, 1.0)]


def test_the_setting_writes_them_with_the_history_table(data, history, tmp_path, monkeypatch):
    monkeypatch.setenv("FRACTURE_TENSORBOARD", "curves")
    config = radiographs.small_run(data, tmp_path)
    monkeypatch.setattr(jobs, "_collect", lambda networks, config, name: history)
    jobs.history(pd.DataFrame(), config)
    table = pd.read_csv(config.results_dir / "history.csv")
    read, _ = scalars("curves/MobileNet/validation")
    expected = table.query("model == 'MobileNet' and stage == 'head'")["val_auc"]
    np.testing.assert_allclose([value for _, value in read["head/auc"]], expected, rtol=1e-5)


def test_without_the_package_a_run_stops_before_it_trains(data, tmp_path, monkeypatch):
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda name: None)
    config = radiographs.small_run(data, tmp_path, tensorboard=tmp_path / "curves")
    with pytest.raises(InputError, match=r"pip install -e \"\.\[tensorboard\]\""):
        jobs.train(data[1], config, radiographs.NO_BOXES)
    assert not config.results_dir.exists()
    events.check(None)  # nobody asked
