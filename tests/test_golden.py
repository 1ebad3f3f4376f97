"""Statistics against golden files that the package wrote before it was rewritten.

golden/README.md describes the files; COLUMNS maps their column names to those of today.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import roc_area
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fracture_utils import tables
from fracture_utils.evaluation import (
    calibration,
    clinical_utility,
    comparison,
    intervals,
    localization,
    metrics,
    subgroups,
)
from fracture_utils.evaluation.predictions import read

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = {
    "initialisation": "initialization",
    "missed_of_100": "false_negatives_per_100",
    "alarms_of_100": "false_positives_per_100",
    "lesions": "boxes",
    "pictures": "images",
    "swapped": "permuted",
    "p_swapped": "p_permuted",
    "centre": "center",
    "p_centre": "p_center",
    "randomised_correlation": "randomized_correlation",
    "verdict": "assessment",
}
DROPPED = "mcnemar|mcc|lr_|found_at|auc_delong|at_90|at_95|brier_skill|chance_calibration"
LIMITS = ["threshold_low", "threshold_high"]  # of an m out of n bootstrap now
WILSON = ["net_benefit_low", "net_benefit_high"]  # now those of `intervals.wilson`
PAIRED = ["hit_rate_low", "hit_rate_high", "p_center"]  # now `wilson`, `comparison.paired`
ASSESSMENTS = {
    "points at the fracture": "above the controls",
    "not shown to point at the fracture": "not above chance",
}


def translate(table):
    """A golden table with the names of today, without dropped columns."""

    def name(column):
        base = column.removesuffix("_low").removesuffix("_high")
        return COLUMNS.get(base, base) + column.removeprefix(base)

    dropped = table.columns[table.columns.str.contains(DROPPED)]
    return table.drop(columns=dropped).rename(columns=name).replace(ASSESSMENTS)


def same(result, golden, rtol=1e-9):
    columns = list(golden)
    pd.testing.assert_frame_equal(
        result[columns].reset_index(drop=True), golden, check_dtype=False, rtol=rtol, atol=1e-9
    )


@pytest.fixture(scope="module")
def fracatlas():
    predictions = read(GOLDEN / "fracatlas" / "predictions.csv")
    points = calibration.fit(predictions)
    return predictions, points, calibration.apply(predictions, points)


@pytest.fixture(scope="module")
def scores(fracatlas):
    return metrics.scores(fracatlas[2])


def written(name):
    path = GOLDEN / "fracatlas" / f"{name}.csv"
    return translate(pd.read_csv(path, keep_default_na=False, na_values=[""]))


def test_operating_points_and_predictions_of_fracatlas(fracatlas):
    predictions, points, applied = fracatlas
    golden = json.loads((GOLDEN / "fracatlas" / "operating_points.json").read_text())
    same(points, pd.DataFrame(golden).drop(columns=LIMITS), rtol=1e-6)
    file = pd.read_csv(GOLDEN / "fracatlas" / "predictions.csv")
    assert list(applied["decision"]) == list(file["decision"])
    np.testing.assert_allclose(applied["probability"], file["probability"], rtol=2e-5)
    networks = predictions[predictions["kind"] == "network"]
    ensemble = calibration.ensemble(networks, points)
    expected = file[file["model"] == "Ensemble"]
    assert list(ensemble["path"]) == list(expected["path"])
    np.testing.assert_allclose(ensemble["logit"], expected["logit"], rtol=2e-5)
    members = pd.read_csv(GOLDEN / "fracatlas" / "ensembles.csv")
    assert list(networks["model"].unique()) == list(members["member"])
    assert calibration.select_model(predictions) == "DenseNet121"


def test_scores_of_fracatlas(scores):
    golden = written("scores")
    golden = golden.drop(columns=golden.filter(regex="^[pn]pv"))  # in clinical_utility only
    same(tables.rounded(scores), golden.assign(initialization=scores["initialization"]))


def test_comparisons_of_fracatlas(fracatlas):
    """Only the pairs of the selected model, by Student's t with 61 fractures, are tested now."""
    result = comparison.pairs(fracatlas[2], "DenseNet121").set_index("model_b")
    golden = pd.read_csv(GOLDEN / "fracatlas" / "comparisons.csv")
    for row in golden.to_dict("records"):
        if "DenseNet121" not in (row["model_a"], row["model_b"]):
            continue
        sign = 1 if row["model_a"] == "DenseNet121" else -1
        found = result.loc[row["model_b" if sign == 1 else "model_a"]]
        close(found["difference"], sign * row["difference"], 1e-5)
        for name in ("p_sensitivity", "p_specificity"):
            close(found[name], row[name], 1e-5)
        z = stats.norm.isf(row["p_delong"] / 2)
        close(found["p_delong"], 2 * stats.t.sf(z, 60), 1e-4)
        margin = stats.t.ppf(0.975, 60) * row["difference"] / z
        close(found["difference_high"] - found["difference"], margin, 1e-4)
    adjusted = multipletests(result["p_delong"], method="holm")[1]
    close(result["p_delong_holm"], adjusted)


def test_subgroups_and_clinical_utility_of_fracatlas(fracatlas, scores):
    applied = fracatlas[2]
    result = subgroups.table(applied[applied["model"] == "DenseNet121"])
    same(tables.rounded(result), written("subgroups"))
    result = clinical_utility.table(applied, tables.rounded(scores))
    same(tables.rounded(result), written("use"))
    result = clinical_utility.decision_curve(applied)
    same(tables.rounded(result), written("decision_curve").drop(columns=WILSON))


@pytest.fixture(scope="module")
def golden():
    text = (GOLDEN / "statistics.json").read_text()
    golden = json.loads(text, object_hook=lambda part: {
        name: np.inf if value == "inf" else value for name, value in part.items()
    })  # fmt: skip
    problem = {name: np.array(value) for name, value in golden["problem"].items()}
    problem["correct"] = problem["decisions"] == problem["labels"][:, None]
    return golden, problem


def close(result, expected, rtol=1e-9):
    np.testing.assert_allclose(np.array(result, float), np.array(expected, float), rtol, 1e-9)


def test_auc_and_its_intervals(golden):
    golden, problem = golden
    data = problem["labels"], problem["logits"], problem["groups"]
    for groups, name in ((data[2], "covariance"), (None, "covariance_without_groups")):
        auc, covariance = metrics.delong(*data[:2], groups)
        close(auc, golden["delong"]["auc"])
        close(covariance, golden["delong"][name])
    weights = np.hstack([*intervals.resample(data[0], data[2], 200, 0)])
    draws = np.array([roc_area(*metrics.roc_counts(data[0], own, weights)) for own in data[1].T])
    close(draws[:, :3].T, golden["resampled_auc"]["first_3"])
    limits = np.percentile(draws, [2.5, 97.5], axis=1)
    close(limits, golden["resampled_auc"]["percentiles_2.5_97.5"])
    for k, name in enumerate(problem["models"]):
        result = metrics.auc_with_interval(data[0], data[1][:, k], data[2])
        close(result, golden["auc_with_interval"][name])
    for case in golden["newcombe"]:
        close(intervals.newcombe(*case["arguments"]), case["interval"])


def test_proportions_and_tests(golden):
    golden, problem = golden
    correct, groups = problem["correct"], problem["groups"]
    for k, name in enumerate(problem["models"]):
        own = correct[:, k]
        close(intervals.wilson(own, groups)[1:], golden["wilson"][name])
        close(intervals.design_effect(own, groups), golden["design_effect"][name])
        result = subgroups.heterogeneity(own, problem["part"], groups)
        close(result, golden["heterogeneity"][name])
    close(intervals.wilson(np.ones(60), groups)[1:], golden["wilson"]["all_right"])
    close(intervals.holm(np.array(golden["holm"]["p"], float)), golden["holm"]["adjusted"])
    for pair, expected in golden["paired"].items():
        a, b = (list(problem["models"]).index(name) for name in pair.split())
        close(comparison.paired(correct[:, a], correct[:, b], groups), expected)
    for stratified, name in ((True, "stratified"), (False, "plain")):
        weights = np.hstack([*intervals.resample(problem["labels"], groups, 200, 0, stratified)])
        close(weights[:5, :5], golden["bootstrap"][name]["corner"])
        assert weights.sum() == golden["bootstrap"][name]["sum"]


def test_calibration_and_net_benefit(golden):
    golden, problem = golden
    labels, groups = problem["labels"], problem["groups"]
    rows = pd.concat([
        pd.DataFrame({
            "path": [f"{i:02d}" for i in range(60)], "group": [f"g{g:02d}" for g in groups],
            "label": np.where(labels == 1, "fractured", "normal"), "split": "validation",
            "model": name, "kind": "network", "logit": problem["logits"][:, k],
            "probability": problem["probabilities"][:, k], "decision": "normal",
        }) for k, name in enumerate(problem["models"])
    ])  # fmt: skip
    for rule, target in (("youden", None), ("sensitivity", 0.95)):
        points = pd.DataFrame(golden["operating_points"][rule])
        same(calibration.fit(rows, target), points.drop(columns=LIMITS), rtol=1e-6)
    tested = metrics.scores(rows.assign(split="test")).set_index("model")
    for k, name in enumerate(problem["models"]):
        probabilities = problem["probabilities"][:, k]
        platt = calibration.platt(labels, problem["logits"][:, k])
        close([*platt.values()], golden["platt"][name], 1e-6)
        close(tested.loc[name, "expected_calibration_error"], golden["calibration_error"][name])
        result = metrics.calibration_metrics(labels, probabilities, groups)
        for column, value in golden["judge"][name].items():
            if not re.search(DROPPED, column):
                close(result.get(column), value, 1e-6)
        result = clinical_utility.net_benefit(labels, probabilities, groups, labels.mean())
        at = golden["net_benefit"]["indices"]
        close(result[0, at], golden["net_benefit"]["observed"][name][0])
    first = problem["probabilities"][:, 0]
    result = clinical_utility.net_benefit(labels, first, groups, 0.1)
    close(result[0, at], golden["net_benefit"]["A_at_prevalence_0.1"][0])
    for case in golden["ratio"]:
        result = clinical_utility.ratio(np.array(case["above"]), np.array(case["below"]))
        close(result, case["ratio"])


def test_controls_of_heat_maps(golden):
    swap = {name: np.array(value) for name, value in golden[0]["swap"].items()}
    data = swap["peaks"], swap["near"].astype(bool), swap["groups"]
    result = localization.permute(*data, int(swap["swaps"]), int(swap["seed"]))
    close(result, swap["rates"])


def test_localization():
    golden = json.loads((GOLDEN / "localization.json").read_text())
    arrays = np.load(GOLDEN / "localization.npz")
    images, boxes = pd.DataFrame(golden["images"]), pd.DataFrame(golden["boxes"])
    maps = {
        model: dict(zip(images["path"], arrays[model].astype(np.float32), strict=True))
        for model in golden["models"]
    }
    table = localization.table(maps, images, boxes, {}, 200)
    expected = translate(pd.DataFrame(golden["table"])).drop(columns=PAIRED)
    same(table, expected.assign(randomized_correlation=np.nan))
    for model in golden["models"]:
        close([localization.peak(heat) for heat in maps[model].values()], golden["peaks"][model])
