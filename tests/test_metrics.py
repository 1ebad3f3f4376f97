"""Scores against scikit-learn, intervals against simulation, DeLong against published examples."""

import numpy as np
import pandas as pd
import pytest
from examples import decided
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as reference

from fracture_utils import tables
from fracture_utils.evaluation import metrics

FEW = settings(max_examples=40, deadline=None)
COARSE = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
"""Few different scores, so that ties are the rule."""
PAIRS = st.lists(st.tuples(st.integers(0, 1), COARSE), min_size=1, max_size=40)


def score(labels, logits, groups=None, resamples=100):
    return metrics.scores(decided("test", "A", labels, logits, groups), resamples=resamples).iloc[0]


def brute_force_auc(labels, scores):
    positive, negative = scores[labels == 1], scores[labels == 0]
    return np.mean((positive[:, None] > negative) + 0.5 * (positive[:, None] == negative))


@FEW
@given(PAIRS)
def test_every_metric_is_that_of_scikit_learn(pairs):
    labels, logits = (np.array(part) for part in zip(*pairs, strict=True))
    row = score(labels, logits)
    called, probability = (logits >= 0).astype(int), special.expit(logits)
    expected = {
        "f1": reference.f1_score(labels, called, zero_division=np.nan),
        "accuracy": reference.accuracy_score(labels, called),
        "brier": np.mean((probability - labels) ** 2),
        "log_loss": reference.log_loss(labels, probability, labels=[0, 1]),
        "sensitivity": reference.recall_score(labels, called, zero_division=np.nan),
        "specificity": reference.recall_score(1 - labels, 1 - called, zero_division=np.nan),
        "ppv": reference.precision_score(labels, called, zero_division=np.nan),
        "npv": reference.precision_score(1 - labels, 1 - called, zero_division=np.nan),
    }
    if 0 < labels.sum() < len(labels):
        fpr, tpr, _ = reference.roc_curve(labels, logits, drop_intermediate=False)
        expected |= {
            "auc": reference.roc_auc_score(labels, logits),
            "average_precision": reference.average_precision_score(labels, logits),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
            "kappa": reference.cohen_kappa_score(labels, called),
            "sensitivity_at_90_specificity": tpr[fpr <= 0.1 + 1e-12].max(),
            "specificity_at_95_sensitivity": 1 - fpr[tpr >= 0.95 - 1e-12].min(),
        }
    else:
        expected |= dict.fromkeys(("auc", "average_precision", "balanced_accuracy"), np.nan)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, abs=1e-9, nan_ok=True), name


@FEW
@given(PAIRS)
def test_intervals_contain_their_estimate(pairs):
    row = score(*zip(*pairs, strict=True), resamples=200)
    for name in [name for name in row.index if f"{name}_low" in row]:
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if not np.isnan([low, high]).any():
            assert low <= high
            if name in ("auc", "sensitivity", "expected_calibration_error"):
                assert low - 1e-9 <= row[name] <= high + 1e-9


@FEW
@given(PAIRS, st.integers(0, 5))
def test_weighted_auc_is_the_auc_of_repeated_images(pairs, seed):
    labels, logits = (np.array(part) for part in zip(*pairs, strict=True))
    weights = np.random.default_rng(seed).integers(0, 4, size=(len(labels), 3))
    areas = metrics.roc_area(*metrics.roc_counts(labels, logits, weights.astype(float)))
    for column, result in zip(weights.T, areas, strict=True):
        y, s = np.repeat(labels, column), np.repeat(logits, column)
        if 0 < y.sum() < len(y):
            assert result == pytest.approx(reference.roc_auc_score(y, s))
        else:
            assert np.isnan(result)


def test_expected_calibration_error_by_hand():
    row = score([0, 1, 1, 1], special.logit([0.12, 0.18, 0.95, 1 - 1e-12]))
    by_hand = (2 * abs(0.5 - 0.15) + 2 * abs(1 - 0.975)) / 4
    assert row["expected_calibration_error"] == pytest.approx(by_hand)


def test_equal_scores_have_an_auc_of_one_half():
    row = score([0, 1, 0, 1, 1, 0], [0.3] * 6)
    assert row["auc"] == 0.5
    assert 0 < row["auc_low"] < 0.2
    assert 0.8 < row["auc_high"] < 1


def test_one_group_has_no_interval_for_its_auc():
    row = score([0, 1, 0, 1], [0, 1, 2, 3], groups=[7] * 4)
    assert row["auc"] == 0.75
    assert np.isnan([row["auc_low"], row["auc_high"]]).all()


def test_a_sensitivity_of_1_on_few_fractures_has_a_wide_interval():
    row = score([1] * 12 + [0] * 12, [1.0] * 12 + [-1.0] * 12)
    assert row["sensitivity"] == row["sensitivity_high"] == 1
    t = stats.t.ppf(0.975, 11)
    assert row["sensitivity_low"] == pytest.approx(12 / (12 + t**2))
    assert 0.7 < row["auc_low"] < row["auc_high"] == 1


def test_the_columns_are_those_of_the_data_dictionary():
    rows = [decided("test", name, [0, 1, 1], logits) for name, logits in
            {"A": [0, 1, 2], "B": [1, 0, 2]}.items()]  # fmt: skip
    result = metrics.scores(pd.concat(rows), {"A": "imagenet"}, resamples=100)
    assert list(result) == tables.columns("scores")
    assert list(result["model"]) == ["A", "B", "Majority class"]
    assert list(result["initialization"]) == ["imagenet", "not stated", "none"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"A": "network", "B": "network"}, ["network", "network"]),
        ({"A": "ensemble", "Ensemble": "network"}, ["ensemble", "network"]),
        ({"A": "reference", "B": "network"}, ["reference", "network"]),
    ],
)
def test_the_kind_is_that_of_the_column_whatever_the_name(given, expected):
    labels, logits = [0, 1] * 20, np.arange(40) % 7
    parts = [decided("test", name, labels, logits).assign(kind=k) for name, k in given.items()]
    result = metrics.scores(pd.concat(parts), {"B": "random", "Ensemble": "random"}, 50)
    kinds = result.set_index("model")["kind"]
    assert list(kinds[list(given)]) == expected
    assert list(result["kind"])[-1] == "reference"
    starts = {"network": {"random", "not stated"}, "ensemble": {"random"}, "reference": {"none"}}
    for row in result.itertuples():
        assert row.initialization in starts[row.kind]


def test_the_majority_class_is_that_of_validation():
    validation = decided("validation", "A", [0, 0, 0, 1], [0, 1, 2, 3])
    rows = pd.concat([validation, decided("test", "A", [1, 1, 0], [1, 1, 0])])
    row = metrics.scores(rows, resamples=100).iloc[1]
    assert (row["sensitivity"], row["specificity"], row["auc"]) == (0, 1, 0.5)
    assert row["brier"] == pytest.approx(np.mean([0.75**2, 0.75**2, 0.25**2]))


def test_the_same_seed_gives_the_same_table():
    predictions = decided("test", "A", [0, 1, 0, 1, 1], [0, 1, 2, 3, 4])
    first, again, other = (metrics.scores(predictions, seed=s, resamples=200) for s in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_intervals_of_metrics_that_depend_on_prevalence_cover():
    """Brier score of a calibrated model on test sets whose number of fractures varies."""
    generator, covered = np.random.default_rng(5), 0
    truth = np.mean([p * (1 - p) for p in stats.norm.cdf(generator.normal(-1, 1, 400_000))])
    for seed in range(200):
        p = stats.norm.cdf(generator.normal(-1, 1, 120))
        labels = (generator.random(120) < p).astype(int)
        rows = decided("test", "A", labels, np.log(p / (1 - p)))
        row = metrics.scores(rows, resamples=200, seed=seed).iloc[0]
        covered += row["brier_low"] <= truth <= row["brier_high"]
    assert covered >= 180


def published_ratings():
    """Hanley and McNeil (1982), table I: 109 computed tomographies rated from 1 to 5."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    labels = np.repeat([0, 1], [58, 51])
    return labels, np.concatenate([np.repeat(range(5), normal), np.repeat(range(5), abnormal)])


OVARIAN = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0
1.6 5.6 5 1  3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1
4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1
3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1
3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1
3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1
3.6 6.6 5 1
"""
"""Albumin, total protein, K-G score and outcome of the 43 complete records of DeLong (1988)."""


def test_delong_on_the_ratings_of_hanley_and_mcneil():
    labels, ratings = published_ratings()
    auc, covariance = metrics.delong(labels, ratings[:, None])
    assert auc[0] == pytest.approx(0.8932, abs=5e-5)
    assert np.sqrt(covariance[0, 0]) == pytest.approx(0.0307, abs=5e-5)


def test_delong_on_the_example_of_its_paper():
    values = np.array(OVARIAN.split(), dtype=float).reshape(-1, 4)
    auc, covariance = metrics.delong(values[:, 3].astype(int), values[:, :3] * [1, 1, -1])
    assert auc == pytest.approx([0.7366, 0.6478, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(covariance)) == pytest.approx([0.0927, 0.1000, 0.1028], abs=6e-5)
    contrast = np.array([[1, 0, -1], [0, 1, -1]])
    difference = contrast @ auc
    chi2 = difference @ np.linalg.solve(contrast @ covariance @ contrast.T, difference)
    assert chi2 == pytest.approx(2.5340, abs=5e-5)


@FEW
@given(st.lists(st.tuples(st.integers(0, 1), COARSE, COARSE), min_size=4, max_size=30))
def test_delong_is_the_brute_force_statistic_with_ties(rows):
    values = np.array(rows)
    labels, scores = values[:, 0].astype(int), values[:, 1:]
    auc, covariance = metrics.delong(labels, scores)
    m, n = labels.sum(), (labels == 0).sum()
    if min(m, n) < 2:
        assert np.isnan(covariance).all()
        return
    wins = [
        (s[labels == 1][:, None] > s[labels == 0])
        + 0.5 * (s[labels == 1][:, None] == s[labels == 0])
        for s in scores.T
    ]
    expected = np.cov([w.mean(1) for w in wins]) / m + np.cov([w.mean(0) for w in wins]) / n
    assert auc == pytest.approx([brute_force_auc(labels, s) for s in scores.T])
    assert covariance == pytest.approx(expected, abs=1e-12)


def test_copies_in_a_group_do_not_narrow_the_interval():
    labels, ratings = published_ratings()
    groups = np.arange(len(labels))
    once = metrics.delong(labels, ratings[:, None], groups)[1]
    thrice = metrics.delong(*(np.tile(v, (3, *[1] * (v.ndim - 1))).reshape(-1, *v.shape[1:])
                              for v in (labels, ratings[:, None], groups)))[1]  # fmt: skip
    assert thrice == pytest.approx(once)
