"""Intervals of AUCs and proportions: their equations, limits, and coverage by simulation."""

import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fracture_utils.evaluation import intervals, metrics

sys.path.insert(0, str(Path(metrics.__file__).parents[2] / "benchmarks"))
import coverage

NUMBERS = st.floats(2, 500)


@given(auc=st.floats(0, 1), positives=NUMBERS, negatives=NUMBERS)
@settings(max_examples=80, deadline=None)
def test_newcombes_limits_solve_his_equation_and_stay_within_0_and_1(auc, positives, negatives):
    low, high = intervals.newcombe(auc, positives, negatives)
    assert 0 <= low <= auc + 1e-6
    assert auc - 1e-6 <= high <= 1
    assert high - low > 1e-3
    for limit in (low, high):
        if 1e-6 < limit < 1 - 1e-6:
            others = (positives + negatives) / 2 - 1
            spread = 1 + others * ((1 - limit) / (2 - limit) + limit / (1 + limit))
            error = np.sqrt(limit * (1 - limit) * spread / (positives * negatives))
            assert abs(auc - limit) / error == pytest.approx(1.959964, rel=1e-3)


def test_newcombes_interval_is_near_delongs_in_a_large_moderate_sample():
    """Hanley and McNeil (1982): 51 abnormal and 58 normal, AUC 0.893, standard error 0.03."""
    low, high = intervals.newcombe(0.8932, 51, 58)
    assert low == pytest.approx(0.8932 - 1.96 * 0.0307, abs=0.025)
    assert high == pytest.approx(0.8932 + 1.96 * 0.0307, abs=0.015)
    assert low < 0.8932 - (high - 0.8932)  # longer towards the middle


@given(right=st.integers(0, 300), wrong=st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_wilson_with_single_images_is_that_of_statsmodels_but_for_students_t(right, wrong):
    values = np.repeat([1.0, 0.0], [right, wrong])
    result = intervals.wilson(values, np.arange(len(values)))
    if len(values) < 2:
        assert np.isnan(result[1:]).all()
        return
    assert result[0] == values.mean()
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, len(values) - 1))
    effective = len(values) - (1 if 0 < right < len(values) else 0)  # variance over n - 1
    share = right / len(values)
    expected = proportion_confint(share * effective, effective, alpha, "wilson")
    np.testing.assert_allclose(result[1:], expected, atol=1e-9)


def test_images_of_one_patient_count_as_one():
    groups = np.repeat(np.arange(20), 5)
    right = (groups % 4 > 0).astype(float)
    once = intervals.wilson(right[::5], np.arange(20))
    np.testing.assert_allclose(intervals.wilson(right, groups), once, rtol=1e-9)
    assert np.isnan(intervals.wilson(right[:5], groups[:5])[1:]).all()
    _, low, high = intervals.wilson(np.ones(12), np.repeat(np.arange(4), 3))
    assert high == 1
    assert low == pytest.approx(4 / (4 + stats.t.ppf(0.975, 3) ** 2))


@pytest.mark.parametrize(
    ("auc", "cluster", "size"),
    [(0.98, "single", (60, 370)), (0.9, "mixed", (60, 370)), (0.9, "one class", (8, 370))],
)
def test_the_interval_of_the_auc_covers_where_a_bootstrap_does_not(auc, cluster, size):
    """The whole table is that of benchmarks/coverage.py."""
    assert coverage.coverage(coverage.package, auc, cluster, size, 300) >= 0.91


def test_the_interval_of_a_proportion_covers_it_in_groups():
    generator, covered = np.random.default_rng(4), 0
    groups = np.repeat(np.arange(60), 3)
    for _ in range(400):
        own = generator.random((60, 3)) < 0.85
        same = np.repeat(generator.random((60, 1)) < 0.85, 3, axis=1)
        right = np.where(generator.random((60, 1)) < 0.5, same, own).ravel()
        _, low, high = intervals.wilson(right, groups)
        covered += low <= 0.85 <= high
    assert 0.92 <= covered / 400 <= 0.98


@given(p=st.lists(st.floats(0, 1) | st.just(float("nan")), max_size=12))
@settings(max_examples=100, deadline=None)
@patch("gc.collect", lambda: 0)  # statsmodels calls it each time
def test_holms_correction_is_that_of_statsmodels_to_the_digit(p):
    raw, result = np.array(p, float), intervals.holm(p)
    tested = ~np.isnan(raw)
    assert np.isnan(result[~tested]).all()
    if tested.any():
        np.testing.assert_array_equal(result[tested], multipletests(raw[tested], method="holm")[1])


def test_the_design_effect_is_that_of_copies():
    right = np.random.default_rng(0).random(400) < 0.7
    groups = np.arange(400).astype(str)
    assert intervals.design_effect(right, groups) == 1
    thrice = intervals.design_effect(right.repeat(3), groups.repeat(3))
    assert thrice == pytest.approx(3, rel=0.01)


def test_resamples_are_of_whole_groups_and_hold_both_classes():
    labels = np.array([1, 0, 0, 0, 0, 0, 0, 0])
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    weights = np.hstack([*intervals.resample(labels, groups, 500, 1)])
    assert weights.shape == (8, 500)
    assert (weights[::2] == weights[1::2]).all()
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=0) == 8).all()
    assert weights[2:].std() > 0


def test_percentiles_need_two_groups_and_a_defined_draw():
    draws, groups = np.array([1.0, 2, np.nan]), np.array([0, 1])
    np.testing.assert_allclose(intervals.percentiles(draws, groups), [1.025, 1.975])
    assert np.isnan(intervals.percentiles(draws, groups[:1])).all()
    assert np.isnan(intervals.percentiles(np.full(3, np.nan), groups)).all()
