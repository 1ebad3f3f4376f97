"""Every table once, saved and loaded without a change, complete whenever a run is killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import evaluated
import numpy as np
import pandas as pd
import pytest

import fracture_utils
from fracture_utils import artifacts, tables
from fracture_utils.config import Config, InputError
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.predictions import KIND_OF
from fracture_utils.evaluation.results import (
    TABLES,
    Results,
    evaluate,
    evaluate_file,
    most_confident_errors,
)

GOLDEN = Path(__file__).parent / "golden" / "fracatlas"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated.results(tmp_path_factory.mktemp("results"))


def csv_files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.csv")}


def config(folder, **settings):
    return Config(source="images", results_dir=folder, quick=True, **settings)


def test_a_run_has_every_table_its_ensemble_and_its_selected_model(run):
    empty = {name for name in TABLES if getattr(run, name).empty}
    assert empty <= {"audit", "cross_validation", "scores_by_patient"}
    assert {*evaluated.WORTH, "Ensemble", "Majority class"} == set(run.scores["model"])
    assert run.selected == calibration.select_model(run.predictions) == "DenseNet121"
    assert run.run["selected_on"] == "validation"
    assert set(run.most_confident_errors["model"]) == {"DenseNet121"}
    assert set(run.subgroups["model"]) == {"DenseNet121"}
    assert set(run.localization["model"]) == {*evaluated.WORTH}


def test_a_variant_is_compared_but_neither_selected_nor_a_member_of_the_ensemble(run):
    worth = evaluated.WORTH | {"Tuned": 5.0}
    every = evaluated.predictions(worth)
    every.loc[every["model"] == "Tuned", "kind"] = "variant"
    table = every[every["kind"] == "network"]
    given = {"images": evaluated.images(table), "networks": evaluated.networks(worth)}
    one, other = (evaluate(rows, config("x"), **given) for rows in (table, every))
    auc = other.scores.set_index("model")["auc"]
    assert auc["Tuned"] == auc.max() and other.selected == "DenseNet121"
    pair = {"DenseNet121", "Tuned"}
    pairs = other.comparisons[["model_a", "model_b"]].to_numpy().tolist()
    assert sum({*names} == pair for names in pairs) == 1
    parts = (r.scores.set_index("model").loc["Ensemble"] for r in (one, other))
    pd.testing.assert_series_equal(*parts)


def test_the_record_of_a_run(run):
    record = run.run
    assert record["initialization"] == dict.fromkeys(evaluated.WORTH, "imagenet")
    assert record["data"]["images"] == 180 and record["data"]["groups"] == 90
    assert record["settings"]["quick"] is True and record["seed"] == 0
    assert record["hardware"] == ["CPU"] and record["failed"] == {}
    assert {"tensorflow", "python", "fracture_utils"} <= set(record["versions"])


def test_what_is_saved_is_loaded_and_written_again_without_a_change(run, tmp_path):
    run.save(tmp_path / "first")
    loaded, (_, located) = Results.load(tmp_path / "first"), evaluated.located(run.predictions)
    assert loaded.selected == run.selected and loaded.run == run.run
    assert loaded.conclusions == run.conclusions
    assert loaded.images_dir == run.images_dir  # for the figures of images
    pd.testing.assert_frame_equal(loaded.boxes, run.boxes, check_dtype=False)
    assert list(loaded.heat_maps) == list(run.heat_maps) == list(located[run.selected])
    for path, heat_map in loaded.heat_maps.items():
        np.testing.assert_allclose(heat_map, located[run.selected][path], rtol=1e-3, atol=1e-3)
    loaded.save()
    loaded.save(tmp_path / "second")
    assert csv_files(tmp_path / "first") == csv_files(tmp_path / "second")
    names = {*(f"{name}.csv" for name in TABLES), "columns.csv", "conclusions.txt", "run.json"}
    names |= {"cache"}
    assert {path.name for path in (tmp_path / "first").iterdir()} == names


def test_scoring_the_predictions_of_a_run_gives_its_tables(run, tmp_path):
    """Numbers in a file have six digits: the run is scored with these."""
    run.save(tmp_path / "run")
    again = evaluate_file(tmp_path / "run" / "predictions.csv", config(tmp_path / "again"))
    again.save(tmp_path / "again")
    assert csv_files(tmp_path / "run") == csv_files(tmp_path / "again")
    assert again.run["source"] == "images" and again.run["settings"] == run.run["settings"]
    assert again.conclusions == run.conclusions


def test_golden_predictions_give_the_selected_model_and_its_numbers(tmp_path):
    settings = {"source": "images", "results_dir": tmp_path}
    scored = evaluate_file(GOLDEN / "predictions.csv", Config(**settings))
    assert scored.selected == "DenseNet121"
    scored.save(tmp_path)
    golden = pd.read_csv(GOLDEN / "scores.csv").rename(columns={"initialisation": "initialization"})
    dropped = "auc_delong|at_90|at_95|brier_skill|chance_calibration|[pn]pv"
    golden = golden.loc[:, ~golden.columns.str.contains(dropped)]
    own = pd.read_csv(tmp_path / "scores.csv")[list(golden)]
    numbers = golden.select_dtypes("number").columns
    pd.testing.assert_frame_equal(own[numbers], golden[numbers], rtol=1e-9)
    # The limits are now those of `intervals.wilson`: wider by at most a hundredth here.
    golden = pd.read_csv(GOLDEN / "decision_curve.csv").set_index(["model", "threshold"])
    own = pd.read_csv(tmp_path / "decision_curve.csv").set_index(["model", "threshold"])
    exact = ["net_benefit", "treat_all"]
    pd.testing.assert_frame_equal(own[exact], golden[exact], rtol=1e-9)
    assert (own["net_benefit_low"] <= golden["net_benefit_low"]).all()
    assert (own["net_benefit_high"] >= golden["net_benefit_high"]).all()
    np.testing.assert_allclose(own.iloc[:50], golden.iloc[:50], atol=0.01)


def four_columns(path, count=40):
    probability = [(i * 7 % 40) / 80 + i % 2 / 3 for i in range(count)]
    rows = [(f"{i}.png", i % 2, name, probability[i]) for name in "AB" for i in range(count)]
    table = pd.DataFrame(rows, columns=["path", "label", "model", "probability"])
    table.to_csv(path, index=False)
    return path


def test_predictions_of_others_need_four_columns_and_get_no_ensemble(tmp_path):
    scored = evaluate_file(four_columns(tmp_path / "p.csv"), config(tmp_path / "out"))
    assert set(scored.scores["model"]) == {"A", "B", "Majority class"}
    assert scored.run["source"] == "predictions" and scored.run["positive"] == "fractured"
    assert scored.selected == "A" and scored.run["selected_on"] == "test"
    assert scored.operating_points["threshold"].eq(0.5).all()
    scored.save(tmp_path / "out")
    evaluate_file(tmp_path / "p.csv", config(tmp_path / "out"))  # the same folder again


@pytest.mark.parametrize("name", ["images.csv", "predictions.csv"])
def test_tables_of_the_user_are_not_overwritten(name, tmp_path):
    source = four_columns(tmp_path / "predictions.csv")
    target = tmp_path if name == "predictions.csv" else tmp_path / "mine"
    target.mkdir(exist_ok=True)
    (target / name).write_bytes(before := source.read_bytes())
    with pytest.raises(InputError, match=r"holds tables other than results; name another with"):
        evaluate_file(source, config(target))
    assert (target / name).read_bytes() == before
    evaluate_file(source, config(tmp_path / "out")).save(tmp_path / "out")


def test_predictions_of_others_in_the_folder_of_a_run_are_not_its_own(run, tmp_path):
    run.save(tmp_path)
    readers, before = four_columns(tmp_path / "readers.csv"), csv_files(tmp_path)
    with pytest.raises(InputError, match="holds the results of another run"):
        evaluate_file(readers, config(tmp_path))
    assert csv_files(tmp_path) == before | {"readers.csv": readers.read_bytes()}
    scored = evaluate_file(readers, config(tmp_path / "out"))
    assert scored.run["source"] == "predictions" and scored.networks.empty
    assert scored.images_dir is None  # their paths may be those of other images


def test_settings_of_scoring_are_recorded(run, tmp_path):
    run.save(tmp_path / "run")
    settings = {"target_sensitivity": 0.9, "prevalence": 0.05}
    again = evaluate_file(tmp_path / "run/predictions.csv", config(tmp_path / "out", **settings))
    assert again.run["settings"] == run.run["settings"] | settings
    assert again.operating_points["rule"].eq("sensitivity 0.9").all()
    assert again.images_dir == run.images_dir


def test_a_target_sensitivity_without_validation_images_is_refused(tmp_path):
    tested = evaluated.predictions(splits=("test",))
    with pytest.raises(InputError, match="A target sensitivity needs validation images"):
        evaluate(tested, config(tmp_path, target_sensitivity=0.9))


def test_results_of_other_predictions_are_never_mixed(run, tmp_path):
    run.save(tmp_path / "run")
    before = csv_files(tmp_path / "run")
    with pytest.raises(InputError, match="holds the results of another run"):
        evaluate_file(four_columns(tmp_path / "p.csv"), config(tmp_path / "run"))
    assert csv_files(tmp_path / "run") == before


def test_one_class_and_one_model(tmp_path):
    table = evaluated.predictions({"A": 1.0}, count=6, share=0, splits=("test",))
    scored = evaluate(table, config(tmp_path))
    assert scored.comparisons.empty
    scored.save(tmp_path)
    assert Results.load(tmp_path).scores["auc"].isna().all()


def test_patients_are_scored_where_they_are_known(tmp_path):
    table = evaluated.predictions()
    scored = evaluate(table.assign(patient=table["group"]), config(tmp_path))
    assert scored.scores_by_patient["n"].iloc[0] == 45 < scored.scores["n"].iloc[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("{}", "another version"),
        ('{"schema_version": 99}', "another version"),
        ("[]", "another version"),
    ],
)
def test_a_folder_that_is_no_complete_run_is_refused(run, tmp_path, text, message):
    run.save(tmp_path)
    (tmp_path / "run.json").unlink()
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Results.load(tmp_path)
    assert "run.json" in str(error.value) and "run the notebook again" in str(error.value)


SCRIPT = """
import sys, time
from pathlib import Path
from fracture_utils.evaluation.results import Results
results = Results.load(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    results.save(Path(sys.argv[2]))
"""


def test_a_run_that_is_killed_while_it_saves_leaves_whole_files_or_no_run_json(run, tmp_path):
    run.save(tmp_path / "whole")
    whole, dice = csv_files(tmp_path / "whole"), random.Random(7)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "whole"), str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(Path(fracture_utils.__file__).parents[1])}
    for _ in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            process.stdout.readline()
            time.sleep(dice.uniform(0.02, 0.5))
            os.kill(process.pid, signal.SIGKILL)
        left = csv_files(tmp_path / "killed")
        left = {name: text for name, text in left.items() if not name.startswith(".")}
        assert all(whole[name] == text for name, text in left.items())
        if (tmp_path / "killed" / "run.json").exists():
            assert left.keys() == whole.keys()
            assert Results.load(tmp_path / "killed").selected == run.selected
    artifacts.remove_leftovers(tmp_path / "killed")
    run.save(tmp_path / "killed")
    assert csv_files(tmp_path / "killed") == whole


def test_numbers_are_those_of_the_file_from_the_start(run):
    """Rounded once, so that ties in a file are ties in the run."""
    raw = run.predictions[["logit", "probability"]]
    pd.testing.assert_frame_equal(raw, tables.rounded(raw))
    assert np.isfinite(raw).all(axis=None)


def six_columns(logits):
    """Predictions of some models for two fractured and two normal images a split."""
    rows = [
        (f"{split}{k}", f"g{split}{k}", ("fractured", "normal")[k // 2], split, model, logit)
        for model, values in logits.items()
        for split in ("validation", "test")
        for k, logit in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["path", "group", "label", "split", "model", "logit"])
    probability = 1 / (1 + np.exp(-table["logit"]))
    decision = np.where(probability >= 0.5, "fractured", "normal")
    kind = table["model"].map(KIND_OF).fillna("network")
    table = table.assign(kind=kind, probability=probability, decision=decision)
    return table.assign(body_part="hand")


def test_false_negatives_come_first_and_the_most_confident_of_each():
    rows = six_columns({"A": [-3, -1, 2, -4]})
    table = most_confident_errors(rows, 2)
    assert list(table["outcome"]) == ["false negative"] * 2 + ["false positive"]
    assert list(table["path"]) == ["test0", "test1", "test2"]
    assert list(table)[:6] == tables.columns("most_confident_errors")[:6]
    assert "body_part" in table
    assert not {"split", "logit"} & set(table)
    assert list(most_confident_errors(rows, 1)["path"]) == ["test0", "test2"]
    none = most_confident_errors(six_columns({"A": [1, 1, -1, -1]}))
    assert list(none) == list(table)
    assert none.empty
