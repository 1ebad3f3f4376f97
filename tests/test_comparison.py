"""Paired tests against brute force and statsmodels; what a test set can show by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
from examples import decided
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from fracture_utils import tables
from fracture_utils.config import OUT_OF_FOLD
from fracture_utils.evaluation import calibration, comparison, metrics


def table(scores, labels, groups=None):
    """Predictions of models {name: logits} on test images."""
    parts = [decided("test", name, labels, logits, groups) for name, logits in scores.items()]
    return pd.concat(parts, ignore_index=True)


def by_folds(scores, labels, folds, groups=None):
    """Out-of-fold predictions in any order."""
    parts = [decided(OUT_OF_FOLD, name, labels, logits, groups).assign(fold=folds)
             for name, logits in scores.items()]  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    return rows.sample(frac=1, random_state=1).sort_values("model", kind="stable")


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
    result = comparison.pairs(table(scores, labels))
    assert list(result) == tables.columns("comparisons")
    assert len(result) == 6
    assert not result[["model_a", "model_b"]].apply(frozenset, axis=1).duplicated().any()
    assert (result["difference"] >= 0).all()
    assert result["difference"].between(result["difference_low"], result["difference_high"]).all()


def test_p_values_are_those_of_the_references():
    labels, scores = binormal(120, [1.5, 1.2, 0.9], seed=3)
    result = comparison.pairs(table(scores, labels))
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
    alone = comparison.pairs(table(scores, labels))
    among = comparison.pairs(table(more, labels))
    among = among[among["model_a"].isin(scores) & among["model_b"].isin(scores)]
    columns = [name for name in alone if not name.endswith("holm")]  # of all rows
    pd.testing.assert_frame_equal(among[columns].reset_index(drop=True), alone[columns])


def test_delong_agrees_with_a_large_paired_bootstrap():
    labels, scores = binormal(400, [1.5, 1.2], seed=5)
    row = comparison.pairs(table(scores, labels)).iloc[0]
    half = stats.norm.ppf(0.975)
    error = (row["difference_high"] - row["difference_low"]) / (2 * half)
    p = 2 * stats.norm.sf(row["difference"] / error)
    assert row["p_delong"] == pytest.approx(p, rel=0.25, abs=0.005)


def test_equal_scores_do_not_differ_significantly():
    labels, scores = binormal(40, [1])
    twins = {"A": scores["model 0"], "B": scores["model 0"]}
    row = comparison.pairs(table(twins, labels)).iloc[0]
    assert tuple(row[3:]) == (0, 0, 0, *[1] * 6)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0], [0, 1, 1]])
def test_too_little_for_a_test_is_nan_without_a_warning(labels):
    models = {"A": [0.0, 1.0, 2.0], "B": [2.0, 1.0, 0.0], "C": [1.0, 1.0, 1.0]}
    result = comparison.pairs(table(models, labels))
    assert result["p_delong"].isna().all()
    assert result["p_delong_holm"].isna().all()
    tested = labels.count(1) > 1, labels.count(0) > 1
    for test, possible in zip(("p_sensitivity", "p_specificity"), tested, strict=True):
        assert result[test].notna().all() == possible


def test_one_model_has_no_pair():
    labels, scores = binormal(20, [1])
    alone = table(scores, labels)
    assert comparison.pairs(alone).empty
    assert list(comparison.pairs(alone)) == tables.columns("comparisons")


def test_one_group_has_no_interval():
    labels, scores = binormal(20, [1, 2])
    row = comparison.pairs(table(scores, labels, groups=[0] * 20)).iloc[0]
    assert np.isnan([row["difference_low"], row["p_delong"]]).all()


def test_references_are_not_compared():
    labels, scores = binormal(40, [1, 2])
    scores["Metadata only"] = scores["model 0"]
    assert len(comparison.pairs(table(scores, labels))) == 1


def test_the_detectable_difference_is_shown_in_four_of_five_test_sets():
    labels, scores = binormal(300, [1.5, 1.2], seed=7)
    tested = table(scores, labels)
    pairs = comparison.pairs(tested, "model 1")
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


@pytest.mark.parametrize("selected", ["model 0", "model 1", "model 2"])
def test_on_the_test_images_the_selected_model_is_compared_with_each_other_one(selected):
    labels, scores = binormal(80, [1.5, 1.2, 0.9], seed=3)
    models = scores | {"Ensemble": sum(scores.values()), "Metadata only": -scores["model 0"]}
    every = comparison.pairs(table(models, labels))
    result = comparison.pairs(table(models, labels), selected)
    assert list(result["model_a"]) == [selected] * 3
    assert set(result["model_b"]) == {*scores, "Ensemble"} - {selected}
    assert set(result["data"]) == {"test"}
    aucs = {name: roc_auc_score(labels, logits) for name, logits in models.items()}
    for row in result.itertuples():
        assert row.difference == pytest.approx(aucs[selected] - aucs[row.model_b])
        pair = every[every[["model_a", "model_b"]].isin([selected, row.model_b]).all(axis=1)]
        for test in ("p_delong", "p_sensitivity", "p_specificity"):
            assert getattr(row, test) == pytest.approx(pair[test].item())
    for test in ("p_delong", "p_sensitivity", "p_specificity"):
        adjusted = multipletests(result[test], method="holm")[1]
        assert list(result[f"{test}_holm"]) == pytest.approx(list(adjusted))


def test_out_of_fold_all_pairs_of_networks_are_compared_by_their_mean_aucs():
    labels, scores = binormal(240, [1.5, 1.2, 0.9], seed=3)
    groups, folds = np.arange(240) // 4, np.arange(240) // 4 % 3 + 1
    apart = {name: logits + 3 * folds for name, logits in scores.items()}
    more = apart | {"Ensemble": sum(scores.values()), "Metadata only": labels}
    tested = table(more, labels)
    rows = pd.concat([tested, by_folds(more, labels, folds, groups)])
    result = comparison.pairs(rows, "model 2")
    assert list(result["data"]) == ["test"] * 3 + [OUT_OF_FOLD] * 3
    pd.testing.assert_frame_equal(result[:3], comparison.pairs(tested, "model 2"))
    rows = result[3:]
    means = {
        name: np.mean([roc_auc_score(labels[folds == k], of[folds == k]) for k in (1, 2, 3)])
        for name, of in apart.items()
    }
    covariance = metrics.delong(labels, np.stack([*apart.values()], 1), groups, folds)[1]
    names = list(apart)
    for row in rows.itertuples():
        assert row.difference == pytest.approx(means[row.model_a] - means[row.model_b])
        assert row.difference_low < row.difference < row.difference_high
        contrast = np.array([(n == row.model_a) - float(n == row.model_b) for n in names])
        error = np.sqrt(contrast @ covariance @ contrast)
        assert row.p_delong == pytest.approx(2 * stats.t.sf(row.difference / error, 60 - 3))
    adjusted = multipletests(rows["p_delong"], method="holm")[1]
    assert list(rows["p_delong_holm"]) == pytest.approx(list(adjusted))
    assert rows[["p_sensitivity", "p_specificity_holm"]].isna().all(axis=None)
    for column in ("p_sensitivity", "p_specificity_holm"):
        assert result[column].dtype == float


@pytest.mark.parametrize("fault", ["fold of one class", "fractures of a fold in one group"])
def test_what_folds_cannot_show_is_nan_without_a_warning(fault):
    labels, scores = binormal(90, [1.5, 1.2])
    groups, folds = np.arange(90) // 2, np.arange(90) // 30
    labels = np.where((folds == 0) & (fault == "fold of one class"), 0, labels)
    labels = np.where((folds == 0) & (groups > 0), 0, labels)
    rows = pd.concat([table(scores, labels), by_folds(scores, labels, folds, groups)])
    result = comparison.pairs(rows).iloc[-1]
    assert result["data"] == OUT_OF_FOLD
    assert result[["difference_low", "difference_high", "p_delong", "p_delong_holm"]].isna().all()
    summary = comparison.cross_validation(rows, set()).set_index(["model", "fold"])
    assert summary.loc[("model 0", 0), ["auc_low", "auc_high"]].isna().all()
    assert summary.loc[("model 0", 2), ["auc_low", "auc_high"]].notna().all()
    assert calibration.select_model(rows) == (None if fault == "fold of one class" else "model 0")


def test_the_cross_validation_table():
    labels, scores = binormal(300, [1.2, 1.6, 0.9], seed=1)
    groups, folds = np.arange(300) // 4, np.arange(300) // 4 % 5 + 1
    rows = by_folds(scores | {"Ensemble": labels}, labels, folds, groups)
    rows = pd.concat([rows, table(scores, labels)])
    run = {f"{OUT_OF_FOLD}/{k:03d}.png" for k in range(40, 70)}
    left = np.array([not 40 <= k < 70 for k in range(300)])
    result = comparison.cross_validation(rows, run)
    assert list(result) == tables.columns("cross_validation")
    assert list(result["fold"]) == [*range(6)] * 3
    assert list(dict.fromkeys(result["model"])) == ["model 1", "model 0", "model 2"]
    for (model, fold), row in result.set_index(["model", "fold"]).iterrows():
        own = folds == fold if fold else folds > 0
        assert (row["n"], row["positives"]) == (own.sum(), labels[own].sum())
        parts = [fold] if fold else range(1, 6)
        for name, kept in (("auc", own), ("auc_without_run", own & left)):
            aucs = [roc_auc_score(labels[kept & (folds == k)], scores[model][kept & (folds == k)])
                    for k in parts]  # fmt: skip
            if fold == 0 or name == "auc":
                assert row[name] == pytest.approx(np.mean(aucs))
                assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
            else:
                assert np.isnan(row[name])
    _, low, high = metrics.auc_with_interval(labels, scores["model 1"], groups, folds)
    assert result["auc_low"][0] < low - 0.002  # it was selected
    assert result["auc_high"][0] == high
    plain = comparison.cross_validation(rows, set())
    limits = ["auc", "auc_low", "auc_high"]
    pd.testing.assert_frame_equal(plain[limits], result[limits])
    assert plain["auc_without_run"].isna().all()
    assert comparison.cross_validation(table(scores, labels), run).empty


def test_one_network_was_not_selected():
    labels, scores = binormal(100, [1.2])
    folds = np.arange(100) // 20  # numbered from 0, the number of the mean in the table
    row = comparison.cross_validation(by_folds(scores, labels, folds), set()).iloc[0]
    expected = metrics.auc_with_interval(labels, scores["model 0"], np.arange(100), folds)
    assert list(row[["auc", "auc_low", "auc_high"]]) == pytest.approx(expected)


def test_the_interval_of_the_best_of_equal_networks_holds_its_true_auc():
    """That of one network misses it in one of ten data sets: the highest of six is too high."""
    generator, truth, covered = np.random.default_rng(0), stats.norm.cdf(1 / 2**0.5), [0, 0]
    labels, folds = np.arange(200) % 2, np.arange(200) // 2 % 2
    rows = by_folds({str(k): labels for k in range(6)}, labels, folds)
    place = rows["path"].str.extract(r"(\d+).png")[0].astype(int).to_numpy()
    for _ in range(100):
        scores = labels[:, None] + generator.normal(size=(200, 6))
        rows["logit"] = scores[place, rows["model"].astype(int)]
        best = comparison.cross_validation(rows, set()).iloc[0]
        own = scores[:, int(best["model"])]
        _, low, high = metrics.auc_with_interval(labels, own, np.arange(200), folds)
        covered[0] += best["auc_low"] <= truth <= best["auc_high"]
        covered[1] += low <= truth <= high
    assert covered[0] >= 94
    assert covered[1] < 92


@pytest.mark.parametrize("data", ["test", OUT_OF_FOLD])
def test_against_has_the_signs_and_p_values_of_one_model(data):
    labels, scores = binormal(80, [1.5, 1.2, 0.9], seed=3)
    folds = np.arange(80) // 40
    rows = pd.concat([table(scores, labels), by_folds(scores, labels, folds)])
    pairs = comparison.pairs(rows, "model 1")
    rows = comparison.against(pairs, "model 1", data)
    arrays = labels, np.stack([*scores.values()], 1), None, folds if data == OUT_OF_FOLD else None
    auc = dict(zip(scores, metrics.delong(*arrays)[0], strict=True))
    assert set(rows.index) == {"model 0", "model 2"}
    for other, row in rows.iterrows():
        assert row["lead"] == pytest.approx(auc["model 1"] - auc[other])
        assert row["lead_low"] <= row["lead"] <= row["lead_high"]
    own = (pairs["data"] == data) & (pairs[["model_a", "model_b"]] == "model 1").any(axis=1)
    assert sorted(rows["p"]) == sorted(pairs.loc[own, "p_delong_holm"])
    if data == "test":
        pd.testing.assert_frame_equal(rows, comparison.against(pairs, "model 1"))


def test_few_groups_with_fractures_are_wrong_in_5_of_100_test_sets_too():
    """The fault: by the normal distribution, 8 of 100, with twelve such groups."""
    fractures = [9, 7, 6, 6, 4, 4, 3, 3, 2, 2, 1, 1, *[0] * 6]
    labels = (np.arange(12) < np.array(fractures)[:, None]).ravel().astype(int)
    groups, wrong = np.repeat(np.arange(18), 12), np.zeros(2)
    for seed in range(1000):
        generator = np.random.default_rng(seed)
        noise = generator.normal(size=(18, 2))[groups] + generator.normal(size=(216, 2))
        auc, covariance = comparison.delong(labels, labels[:, None] + noise, groups)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        p = [comparison.p_delong(auc[0] - auc[1], variance, degrees) for degrees in (11, np.inf)]
        wrong += np.array(p) < 0.05
    assert 30 < wrong[0] < 65
    assert wrong[1] > 70


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_delong_is_wrong_in_5_of_100_where_nothing_differs(correlation):
    wrong = 0
    for seed in range(600):
        y, s = binormal(120, [1.2, 1.2], seed=seed, correlation=correlation)
        auc, covariance = comparison.delong(y, np.stack(list(s.values()), axis=1))
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        wrong += comparison.p_delong(auc[0] - auc[1], variance) < 0.05
    assert 0.03 < wrong / 600 < 0.07
