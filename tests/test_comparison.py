"""Paired tests against brute force and statsmodels; what a test set can show by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from examples import decided
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from fracture_utils import tables
from fracture_utils.evaluation import comparison


def table(scores, labels, groups=None):
    """Predictions of models {name: logits} on test images."""
    parts = [decided("test", name, labels, logits, groups) for name, logits in scores.items()]
    return pd.concat(parts, ignore_index=True)


def binormal(count, separations, seed=0, correlation=0.5):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    shared = generator.normal(size=count) * np.sqrt(correlation)
    own = generator.normal(size=(len(separations), count)) * np.sqrt(1 - correlation)
    return labels, {
        f"model {i}": d * (labels - 0.5) + shared + noise
        for i, (d, noise) in enumerate(zip(separations, own, strict=True))
    }


def test_every_pair_once_with_the_columns_of_the_data_dictionary():
    labels, scores = binormal(200, [2, 1.5, 1, 1.9])
    result = comparison.pairs(table(scores, labels), resamples=200)
    assert list(result) == tables.columns("comparisons")
    assert len(result) == 6
    assert not result[["model_a", "model_b"]].apply(frozenset, axis=1).duplicated().any()
    assert (result["difference"] >= 0).all()
    assert result["difference"].between(result["difference_low"], result["difference_high"]).all()


def test_p_values_are_those_of_the_references():
    labels, scores = binormal(120, [1.5, 1.2, 0.9], seed=3)
    result = comparison.pairs(table(scores, labels), resamples=100)
    for test in ("p_delong", "p_sensitivity", "p_specificity"):
        assert list(result[f"{test}_holm"]) == pytest.approx(
            multipletests(result[test], method="holm")[1]
        )
        ordered = np.sort(result[test]) * [3, 2, 1]
        assert np.sort(result[f"{test}_holm"]) == pytest.approx(
            np.minimum(np.maximum.accumulate(ordered), 1)
        )
    for row in result.itertuples():
        for found_p, of in ((row.p_sensitivity, 1), (row.p_specificity, 0)):
            pair = (row.model_a, row.model_b)
            a, b = (((scores[m] >= 0) == (labels == 1))[labels == of] for m in pair)
            agreement = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
            assert found_p == pytest.approx(mcnemar(agreement, exact=True).pvalue)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 5)), min_size=2))
def test_the_paired_test_of_groups_is_the_sum_over_all_signs(rows):
    first, second, groups = (np.array(part) for part in zip(*rows, strict=True))
    balances = [int(first[groups == g].sum()) - int(second[groups == g].sum()) for g in set(groups)]
    if len(balances) < 2:
        assert np.isnan(comparison.paired(first, second, groups))
        return
    signed = [np.dot(s, balances) for s in itertools.product([-1, 1], repeat=len(balances))]
    expected = np.mean(np.abs(signed) >= abs(sum(balances)))
    assert comparison.paired(first, second, groups) == pytest.approx(expected)


def test_the_paired_test_is_wrong_in_5_of_100_where_groups_agree_and_nothing_differs():
    generator = np.random.default_rng(0)
    groups, wrong, ignoring = np.repeat(np.arange(60), 4), 0, 0
    for _ in range(1000):
        shared = np.repeat(generator.normal(size=(2, 60)), 4, axis=1)
        first, second = shared + 0.6 * generator.normal(size=(2, 240)) > -0.8
        wrong += comparison.paired(first, second, groups) < 0.05
        ignoring += comparison.paired(first, second, np.arange(240)) < 0.05
    assert 0.03 < wrong / 1000 < 0.065
    assert ignoring / 1000 > 0.15


def test_the_networks_have_the_same_p_values_with_and_without_ensembles():
    labels, scores = binormal(160, [1.5, 1.2, 0.9], seed=3)
    more = scores | {"Ensemble": sum(scores.values())}
    alone = comparison.pairs(table(scores, labels), resamples=50)
    among = comparison.pairs(table(more, labels), resamples=50)
    among = among[among["model_a"].isin(scores) & among["model_b"].isin(scores)]
    pd.testing.assert_frame_equal(among.reset_index(drop=True), alone)


def test_delong_agrees_with_a_large_paired_bootstrap():
    labels, scores = binormal(400, [1.5, 1.2], seed=5)
    row = comparison.pairs(table(scores, labels), resamples=3000).iloc[0]
    half = stats.norm.ppf(0.975)
    error = (row["difference_high"] - row["difference_low"]) / (2 * half)
    p = 2 * stats.norm.sf(row["difference"] / error)
    assert row["p_delong"] == pytest.approx(p, rel=0.25, abs=0.005)


def test_equal_scores_do_not_differ_significantly():
    labels, scores = binormal(40, [1])
    twins = {"A": scores["model 0"], "B": scores["model 0"]}
    row = comparison.pairs(table(twins, labels), resamples=100).iloc[0]
    assert tuple(row[3:-1]) == (0, 0, 0, *[1] * 6)
    assert np.isnan(row["p_selected_holm"])  # no selected model


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [0, 1, 1]])
def test_too_little_for_a_test_is_nan_without_a_warning(labels):
    models = {"A": [0.0, 1.0, 2.0], "B": [2.0, 1.0, 0.0], "C": [1.0, 1.0, 1.0]}
    result = comparison.pairs(table(models, labels), resamples=100)
    assert result["p_delong"].isna().all()
    assert result["p_delong_holm"].isna().all()
    tested = labels.count(1) > 1, labels.count(0) > 1
    for test, possible in zip(("p_sensitivity", "p_specificity"), tested, strict=True):
        assert result[test].notna().all() == possible


def test_one_model_has_no_pair():
    labels, scores = binormal(20, [1])
    alone = table(scores, labels)
    assert comparison.pairs(alone, resamples=100).empty
    assert list(comparison.pairs(alone, resamples=100)) == tables.columns("comparisons")


def test_one_group_has_no_interval():
    labels, scores = binormal(20, [1, 2])
    row = comparison.pairs(table(scores, labels, groups=[0] * 20), resamples=100).iloc[0]
    assert np.isnan([row["difference_low"], row["p_delong"]]).all()


def test_references_are_not_compared():
    labels, scores = binormal(40, [1, 2])
    scores["Metadata only"] = scores["model 0"]
    assert len(comparison.pairs(table(scores, labels), resamples=100)) == 1


def test_the_detectable_difference_is_shown_in_four_of_five_test_sets():
    labels, scores = binormal(300, [1.5, 1.2], seed=7)
    tested = table(scores, labels)
    pairs = comparison.pairs(tested, None, 500)
    smallest = comparison.against(pairs, "model 1")["detectable"].item()
    truth = np.linspace(0, 1.5, 31)
    gaps = [stats.norm.cdf(1.5 / 2**0.5) - stats.norm.cdf(d / 2**0.5) for d in truth]
    weaker = float(truth[np.argmin(np.abs(np.array(gaps) - smallest))])
    significant = 0
    for seed in range(200):
        y, s = binormal(300, [1.5, weaker], seed=100 + seed)
        auc, covariance = comparison.delong(y, np.stack(list(s.values()), axis=1))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        significant += comparison.p_delong(auc[0] - auc[1], variance) < 0.05
    assert 0.65 < significant / 200 < 0.95


def test_families_are_corrected_apart_and_the_selected_model_has_its_own():
    labels, scores = binormal(80, [1.5, 1.2, 0.9], seed=3)
    models = scores | {"Ensemble": sum(scores.values())}
    tested = table(models, labels)
    result = comparison.pairs(tested, "model 1", 50)
    alone = comparison.pairs(tested[tested["kind"] == "network"], None, 50)
    own = result[result["family"] == "networks"].reset_index(drop=True)
    columns = [c for c in own if c != "p_selected_holm"]
    pd.testing.assert_frame_equal(own[columns], alone[columns])
    assert alone["p_selected_holm"].isna().all()
    of_selected = (result[["model_a", "model_b"]] == "model 1").any(axis=1)
    assert result["p_selected_holm"].notna().equals(of_selected)
    adjusted = multipletests(result.loc[of_selected, "p_delong"], method="holm")[1]
    assert list(result.loc[of_selected, "p_selected_holm"]) == pytest.approx(list(adjusted))


def test_against_has_the_signs_and_p_values_of_one_model():
    labels, scores = binormal(80, [1.5, 1.2, 0.9], seed=3)
    pairs = comparison.pairs(table(scores, labels), "model 1", 50)
    rows = comparison.against(pairs, "model 1")
    auc = dict(zip(scores, comparison.delong(labels, np.stack([*scores.values()], 1))[0],
                   strict=True))  # fmt: skip
    assert set(rows.index) == {"model 0", "model 2"}
    for other, row in rows.iterrows():
        assert row["lead"] == pytest.approx(auc["model 1"] - auc[other])
    of_selected = pairs["p_selected_holm"].notna()
    assert sorted(rows["p"]) == sorted(pairs.loc[of_selected, "p_selected_holm"])


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_delong_is_wrong_in_5_of_100_where_nothing_differs(correlation):
    wrong = 0
    for seed in range(600):
        y, s = binormal(120, [1.2, 1.2], seed=seed, correlation=correlation)
        auc, covariance = comparison.delong(y, np.stack(list(s.values()), axis=1))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        wrong += comparison.p_delong(auc[0] - auc[1], variance) < 0.05
    assert 0.03 < wrong / 600 < 0.07
