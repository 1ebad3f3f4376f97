"""Tables and figures are whole whenever a run is killed, and the folder says it is unfinished."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from answers import predictions

from fracture_utils import files, ledger
from fracture_utils.config import Config
from fracture_utils.evaluation import calibration
from fracture_utils.ledger import Results

KILLS = 5


@pytest.fixture
def config(tmp_path):
    return Config(source="phantoms", results_dir=tmp_path / "results")


def said(capsys):
    return capsys.readouterr().out.strip()


def test_a_folder_says_that_it_is_unfinished_until_it_is(config):
    results = Results(config)
    warning = config.results_dir / ledger.UNFINISHED
    assert "Run the notebook again" in warning.read_text()
    results.finish()
    assert not warning.exists()


def test_a_fingerprint_sees_every_cell_and_pixel():
    table = pd.DataFrame({"a": [1.0, np.nan], "b": ["x", ""]})
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    values = [table, table.assign(b=["x", "y"]), table.rename(columns={"a": "c"}), table.iloc[:1]]
    values += [table.astype({"a": "float32"}), pixels, pixels + 1, pixels.T, pixels.astype(int)]
    values += [pixels.reshape(4, 3), {"m": {"p": pixels}}, {"m": {"q": pixels}}, [pixels], None]
    prints = [files.fingerprint(value) for value in values]
    assert len(set(prints)) == len(values)
    assert prints[0] == files.fingerprint(table.copy())
    assert files.fingerprint(pixels.T) == files.fingerprint(pixels.T.copy())


SCRIPT = """
import sys
import pandas as pd
from fracture_utils import tables
from fracture_utils.config import Config
from fracture_utils.evaluation import metrics, plots
from fracture_utils.ledger import Results, claim
config = Config(source="phantoms", results_dir=sys.argv[1])
lock, results = claim(config.cache_dir), Results(config)
album = plots.Album(config.figures_dir, "a note")
seen = pd.read_csv(sys.argv[2], keep_default_na=False)
print("scores", flush=True)
for _ in range(4):
    scores = tables.write(config.results_dir, "scores", metrics.scores(seen, {}, 400, 0))
print("figures", flush=True)
shown = {"predictions": seen, "scores": scores}
album.add_all([plots.roc, plots.precision_recall, plots.ranking], shown)
results.finish()
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_at_random_while_scores_and_figures_are_made_nothing_differs(tmp_path):
    raw = predictions(("A", "B", "C"), 60, 0.5)
    seen = calibration.apply(raw, calibration.fit(raw))
    seen.to_csv(tmp_path / "seen.csv", index=False)

    def start(folder):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder), str(tmp_path / "seen.csv")]
        environment = os.environ | {"PYTHONPATH": str(files.Path(files.__file__).parents[1])}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def outcome(folder):
        found = (tmp_path / folder).rglob("*")
        return {
            p.relative_to(tmp_path / folder): p.read_bytes()
            for p in found
            if p.suffix in (".csv", ".png")
        }

    with start("whole") as undisturbed:
        assert undisturbed.stdout.read().split() == ["scores", "figures", "done"]
    dice, kills = random.Random(7), {"scores": 0, "figures": 0}
    while min(kills.values()) < KILLS:
        for stage in kills:
            with start("killed") as process:
                while (line := process.stdout.readline().strip()) not in (stage, ""):
                    pass
                time.sleep(dice.uniform(0, 0.5))
                if line == stage and process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
            kills[stage] += process.returncode == -signal.SIGKILL
            before, whole = outcome("killed"), outcome("whole")
            before = {name: text for name, text in before.items() if not name.name.startswith(".")}
            assert all(whole[name] == text for name, text in before.items())
            unfinished = (tmp_path / "killed" / ledger.UNFINISHED).is_file()
            assert unfinished or before.keys() == whole.keys()
            if before.keys() == whole.keys():  # all is done: take some away
                next((tmp_path / "killed").glob("scores.csv")).unlink()
                next((tmp_path / "killed" / "figures").glob("*.png")).unlink()
    with start("killed") as last:
        assert last.stdout.read().split()[-1] == "done"
    assert outcome("killed") == outcome("whole")
    assert not (tmp_path / "killed" / ledger.UNFINISHED).exists()
    assert not list((tmp_path / "killed").rglob(files.TEMPORARY_PREFIX + "*"))
