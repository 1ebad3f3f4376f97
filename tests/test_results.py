"""Tables and figures are made once, and again where something they depend on has changed."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_evaluation_plots import predictions

from fracture_utils import files, ledger
from fracture_utils.config import Config
from fracture_utils.evaluation import calibration, metrics
from fracture_utils.ledger import Results

KILLS = 5


@pytest.fixture
def config(tmp_path):
    return Config(source="phantoms", results_dir=tmp_path / "results")


def doubled(values, factor=2):
    return pd.DataFrame({"name": list(values), "value": [factor * v for v in values.values()]})


def said(capsys):
    return capsys.readouterr().out.strip()


def test_a_table_is_made_once_and_again_for_a_reason(config, capsys, monkeypatch):
    calls = []

    def counted(values, factor=2):
        calls.append(factor)
        return doubled(values, factor)

    values = {"a": 1.0, "b": 0.1}
    first = Results(config).table("scores", counted, values)
    again = Results(config).table("scores", counted, values)
    pd.testing.assert_frame_equal(first, again, check_exact=True)
    pd.testing.assert_frame_equal(first, doubled(values), check_exact=True)
    assert calls == [2]
    assert said(capsys) == ""
    log = config.results_dir / "run.log"
    assert log.read_text().count("scores.csv: kept from an earlier run.") == 1

    path = config.results_dir / "scores.csv"
    assert list(Results(config).table("scores", counted, values, 3)["value"]) == [3.0, 0.1 * 3]
    assert said(capsys) == "scores.csv again, because factor changed."
    path.write_text(path.read_text().replace("3.0", "4.0"))
    assert Results(config).table("scores", counted, values, 3)["value"][0] == 3.0
    assert said(capsys) == "scores.csv again, because scores.csv is damaged."
    path.unlink()
    Results(config).table("scores", counted, values, 3)
    assert said(capsys) == "scores.csv again, because scores.csv is missing."
    monkeypatch.setattr(ledger, "code_fingerprint", lambda *_: "other")
    Results(config).table("scores", counted, values, 3)
    assert said(capsys) == "scores.csv again, because the code changed."
    monkeypatch.setattr(ledger, "versions", lambda: pd.Series({"numpy": "99"}))
    Results(config).table("scores", counted, values | {"c": 0.0}, 3)
    assert said(capsys) == "scores.csv again, because a library and values changed."
    assert calls == [2, 3, 3, 3, 3, 3]
    assert said(capsys) == ""


def test_a_folder_says_that_it_is_unfinished_until_it_is(config):
    results = Results(config)
    results.table("scores", doubled, {"a": 1.0})
    warning = config.results_dir / ledger.UNFINISHED
    assert "Run the notebook again" in warning.read_text()
    results.finish()
    assert not warning.exists()


def test_a_ledger_that_is_lost_or_torn_only_costs_time(config):
    Results(config).table("scores", doubled, {"a": 1.0})
    for spoil in (lambda p: p.unlink(), lambda p: p.write_text(p.read_text()[:-20])):
        spoil(config.cache_dir / "results.json")
        assert Results(config).table("scores", doubled, {"a": 1.0})["value"][0] == 2.0


CELLS = {
    "number": st.floats(width=64),
    "whole": st.integers(-(2**62), 2**62),
    "flag": st.booleans(),
    "text": st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)
    | st.sampled_from(["NA", "nan", "001", "1e5", "", 'a "b", c', "True"]),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=6), st.booleans())
def test_a_table_comes_back_as_it_was_to_the_last_digit(config, rows, empty):
    table = pd.DataFrame(rows).iloc[: 0 if empty else None]

    def copied(table):
        return table

    back = Results(config).table("any", copied, table)
    pd.testing.assert_frame_equal(back, table, check_exact=True)
    pd.testing.assert_frame_equal(Results(config).table("any", copied, table), table)


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
from fracture_utils.config import Config
from fracture_utils.evaluation import metrics, plots
from fracture_utils.ledger import Results, claim
config = Config(source="phantoms", results_dir=sys.argv[1])
lock, results = claim(config.cache_dir), Results(config)
album = plots.Album(config.figures_dir, "a note")
seen = pd.read_csv(sys.argv[2], keep_default_na=False)
print("scores", flush=True)
for seed in range(4):
    scores = results.table(f"scores_{seed}", metrics.scores, seen, {}, 400, seed)
print("figures", flush=True)
tables = {"predictions": seen, "scores": scores}
album.add_all([plots.roc, plots.precision_recall, plots.ranking], tables)
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
        return {p.name: p.read_bytes() for p in found if p.suffix in (".csv", ".png")}

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
            before = {name: text for name, text in before.items() if not name.startswith(".")}
            assert all(whole[name] == text for name, text in before.items())
            unfinished = (tmp_path / "killed" / ledger.UNFINISHED).is_file()
            assert unfinished or before.keys() == whole.keys()
            if before.keys() == whole.keys():  # all is done: take some away
                next((tmp_path / "killed").glob("scores_*.csv")).unlink()
                next((tmp_path / "killed" / "figures").glob("*.png")).unlink()
    with start("killed") as last:
        assert last.stdout.read().split()[-1] == "done"
    assert outcome("killed") == outcome("whole")
    assert not (tmp_path / "killed" / ledger.UNFINISHED).exists()
    assert not list((tmp_path / "killed").rglob(files.TEMPORARY_PREFIX + "*"))


def test_scores_computed_twice_are_kept(config):
    raw = predictions(("A", "B"), 40, 0.5)
    seen = calibration.apply(raw, calibration.fit(raw))
    first = Results(config).table("scores", metrics.scores, seen, {"A": "random"}, 100, 0)
    expected = metrics.scores(seen, {"A": "random"}, 100, 0)
    pd.testing.assert_frame_equal(first, expected, check_exact=True)
