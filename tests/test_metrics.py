"""Scores against scikit-learn, intervals against simulation, DeLong against published examples."""

import numpy as np
import pandas as pd
import pytest
from examples import decided, roc_area
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
    }
    if 0 < labels.sum() < len(labels):
        expected |= {
            "auc": reference.roc_auc_score(labels, logits),
            "average_precision": reference.average_precision_score(labels, logits),
            "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
            "kappa": reference.cohen_kappa_score(labels, called),
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
    areas = roc_area(*metrics.roc_counts(labels, logits, weights.astype(float)))
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


@FEW
@given(st.lists(st.tuples(st.integers(0, 1), COARSE, COARSE, st.integers(1, 3)), min_size=1,
                max_size=40), st.booleans())  # fmt: skip
def test_over_folds_it_is_the_mean_of_the_aucs(rows, in_groups):
    values = np.array(rows)
    labels, scores, folds = values[:, 0].astype(int), values[:, 1:3], values[:, 3]
    groups = np.arange(len(labels)) // 2 if in_groups else None
    auc, covariance = metrics.delong(labels, scores, groups, folds)
    parts = [folds == fold for fold in np.unique(folds)]
    if any(labels[own].min() == labels[own].max() for own in parts):
        assert np.isnan(auc).all()
        assert np.isnan(covariance).all()
        return
    by_fold = [[reference.roc_auc_score(labels[own], s[own]) for s in scores.T] for own in parts]
    assert auc == pytest.approx(np.mean(by_fold, axis=0))
    first, once = parts[0], [metrics.delong(labels[own], scores[own]) for own in parts[:1]]
    alone = metrics.delong(labels[first], scores[first], None, folds[first])
    for found, expected in zip(alone, once[0], strict=True):
        assert found == pytest.approx(expected, nan_ok=True)
    shifted = scores + 10 * folds[:, None]  # heads of different offset
    assert metrics.delong(labels, shifted, groups, folds)[0] == pytest.approx(auc)


@FEW
@given(st.lists(st.tuples(st.integers(0, 1), COARSE, COARSE, st.integers(0, 4), st.integers(1, 2)),
                min_size=4, max_size=40))  # fmt: skip
def test_in_groups_and_folds_it_is_the_brute_force_statistic_over_pairs(rows):
    values = np.array(rows)
    labels, scores, groups, folds = (
        values[:, 0],
        values[:, 1:3],
        values[:, 3].astype(int),
        values[:, 4],
    )
    auc, covariance = metrics.delong(labels, scores, groups, folds)
    parts, influence = set(folds), np.zeros((5, 2))
    for fold in parts:
        true, false = (np.flatnonzero((folds == fold) & (labels == k)) for k in (1, 0))
        if not len(true) or not len(false):
            assert np.isnan(auc).all()
            return
        if len(set(groups[true])) == 1 or len(set(groups[false])) == 1:
            assert np.isnan(covariance).all()
            return
        gap = scores[true][:, None] - scores[false]
        wins = (gap > 0) + 0.5 * (gap == 0)
        excess = wins - wins.mean(axis=(0, 1))
        for group in range(5):
            for axis, own in enumerate((groups[true] == group, groups[false] == group)):
                mean = np.compress(own, excess, axis=axis).sum(axis=(0, 1)) / excess[..., 0].size
                influence[group] += mean / np.sqrt(1 - own.mean()) / len(parts)
    assert covariance == pytest.approx(influence.T @ influence, abs=1e-12)


def blocks(seed, sizes, shared=0.5, folds=1):
    """Labels, scores of two models, blocks and folds; `sizes` has the classes of each block."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), np.sum(sizes, axis=1))
    labels = np.concatenate([np.repeat([0, 1], size) for size in sizes])
    of_block = generator.normal(size=(len(sizes), 2))[groups]
    noise = (
        np.sqrt(shared) * of_block + generator.normal(size=(len(labels), 2)) * (1 - shared) ** 0.5
    )
    return labels, 1.5 * labels[:, None] + noise, groups, groups % folds


def test_groups_of_whole_folds_add_the_covariances_of_the_folds():
    labels, scores, groups, folds = blocks(0, [(3, 1)] * 20 + [(0, 2)] * 9, folds=3)
    parts = [folds == fold for fold in range(3)]
    covariances = [metrics.delong(labels[own], scores[own], groups[own])[1] for own in parts]
    result = metrics.delong(labels, scores, groups, folds)[1]
    assert result == pytest.approx(np.sum(covariances, axis=0) / 9)
    names = np.unique(groups.astype(str), return_inverse=True)[1]  # in another order
    assert metrics.delong(labels, scores, names, folds)[1] == pytest.approx(result)
    images = metrics.delong(labels, scores, None, folds)[1]
    assert images != pytest.approx(result)


def test_the_variance_over_folds_is_that_of_a_jackknife_over_groups():
    labels, scores, groups, folds = blocks(1, [(4, 1), (3, 3), (6, 0)] * 40, folds=4)
    left_out = []
    for group in range(120):
        kept = groups != group
        parts = [kept & (folds == fold) for fold in range(4)]
        left_out.append([
            np.mean([reference.roc_auc_score(labels[own], s[own]) for own in parts])
            for s in scores.T
        ])  # fmt: skip
    expected = 119**2 / 120 * np.cov(np.transpose(left_out))
    result = metrics.delong(labels, scores, groups, folds)[1]
    assert result == pytest.approx(expected, rel=0.1, abs=0.05 * expected.max())


@pytest.mark.parametrize("folds", [1, 4])
def test_the_variance_is_that_of_simulated_aucs_where_few_large_groups_have_most_fractures(folds):
    """The factor n / (n - 1) for the number of groups gave 0.7 of it."""
    sizes = [(0, 20)] * 2 * folds + [(20, 1)] * 6 * folds
    found = [metrics.delong(*blocks(seed, sizes, 0.3, folds)) for seed in range(400)]
    aucs, covariances = (np.array(part) for part in zip(*found, strict=True))
    ratio = covariances.mean(axis=0)[[0, 1], [0, 1]] / aucs.var(axis=0)
    assert 0.85 < ratio.mean() < 1.15


def test_a_fold_whose_fractures_are_of_one_group_has_no_variance():
    """The fault: it counted as exact, so that the interval of the mean was too narrow."""
    labels, scores, groups, folds = blocks(0, [(1, 5), *[(5, 0)] * 8, *[(1, 1)] * 9], folds=2)
    labels = labels * ((folds == 1) | (groups == 0))
    auc, covariance = metrics.delong(labels, scores, groups, folds)
    assert np.isfinite(auc).all()
    assert np.isnan(covariance).all()
    assert np.isnan(metrics.auc_with_interval(labels, scores[:, 0], groups, folds)[1:]).all()
    assert np.isfinite(metrics.auc_with_interval(labels, scores[:, 0], groups)).all()


def test_a_small_fold_widens_the_interval_of_the_mean():
    """The fault: the interval was that of one AUC of all images, whatever the sizes of folds."""
    labels = np.arange(1000) % 2
    scores = labels + np.random.default_rng(0).normal(size=1000)
    widths = []
    for smallest in (40, 500):
        folds = np.arange(1000) >= smallest
        auc, low, high = metrics.auc_with_interval(labels, scores, np.arange(1000), folds)
        assert low < auc < high
        widths.append(high - low)
    # The smaller fold has 1/12.5 of the images, and half of the weight.
    assert widths[0] / widths[1] == pytest.approx(np.sqrt((1 / 40 + 1 / 960) * 250), rel=0.15)


def test_copies_in_a_group_do_not_narrow_the_interval():
    labels, ratings = published_ratings()
    groups = np.arange(len(labels))
    once = metrics.delong(labels, ratings[:, None], groups)[1]
    thrice = metrics.delong(*(np.tile(v, (3, *[1] * (v.ndim - 1))).reshape(-1, *v.shape[1:])
                              for v in (labels, ratings[:, None], groups)))[1]  # fmt: skip
    assert thrice == pytest.approx(once)
