"""Predictive values, ratios and net benefit, against recounts, scikit-learn and simulations."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from fracture_utils import tables
from fracture_utils.config import CLASS_NAMES
from fracture_utils.evaluation import calibration, clinical_utility, metrics


def predictions(count=120, seed=0, positives=0.3):
    """Two models of some skill, with validation rows for their thresholds."""
    random = np.random.default_rng(seed)
    rows = []
    for split in ("validation", "test"):
        fractured = random.random(count) < positives
        fractured[:2] = True, False
        for model, skill in (("A", 1.5), ("B", 0.5)):
            logits = skill * fractured + random.normal(size=count) - 1
            for k, (truth, logit) in enumerate(zip(fractured, logits, strict=True)):
                where = (f"{split}{k}", f"{split}{k // 2}", CLASS_NAMES[int(truth)], split)
                rows.append((*where, model, logit, 1 / (1 + np.exp(-logit))))
    columns = ["path", "group", "label", "split", "model", "logit", "probability"]
    table = pd.DataFrame(rows, columns=columns).assign(kind="network")
    return calibration.apply(table, calibration.fit(table))


@pytest.fixture(scope="module")
def predicted():
    return predictions()


def test_values_are_those_of_the_confusion_matrix(predicted):
    scores = metrics.scores(predicted, resamples=100).set_index("model", drop=False)
    table = clinical_utility.table(predicted, scores).set_index("model")
    assert list(table.index) == ["A", "B"]
    for model, row in table.iterrows():
        rows = predicted[(predicted["split"] == "test") & (predicted["model"] == model)]
        truth, flagged = rows["label"] == "fractured", rows["decision"] == "fractured"
        assert row["ppv"] == pytest.approx(truth[flagged].mean())  # at the share in the test
        assert row["npv"] == pytest.approx((~truth)[~flagged].mean())
        assert row["prevalence"] == pytest.approx(truth.mean())
        assert row["false_negatives_per_100"] == pytest.approx(100 * (~flagged[truth]).mean())
        assert row["false_positives_per_100"] == pytest.approx(100 * flagged[~truth].mean())
        for value in [name for name in table if f"{name}_low" in table]:
            assert row[f"{value}_low"] < row[value] < row[f"{value}_high"]


def test_a_lower_prevalence_lowers_the_ppv(predicted):
    scores = metrics.scores(predicted, resamples=100)
    rare, common = (
        clinical_utility.table(predicted, scores, share).iloc[0] for share in (0.02, 0.5)
    )
    assert rare["ppv"] < 0.5 * common["ppv"]
    assert rare["npv"] > common["npv"]
    sensitivity, false_positives = (
        1 - rare["false_negatives_per_100"] / 100,
        rare["false_positives_per_100"] / 100,
    )
    assert rare["ppv"] == pytest.approx(
        0.02 * sensitivity / (0.02 * sensitivity + 0.98 * false_positives)
    )


def test_without_false_positives_the_ratio_is_infinite_and_its_lower_limit_finite():
    positive = clinical_utility.ratio(np.array([0.8, 0.6, 0.9]), np.array([0.0, 0.0, 0.05]))
    assert positive[0] == positive[2] == np.inf
    assert 10 < positive[1] < 0.8 / 0.04
    never = clinical_utility.ratio(np.array([0.0, 0.0, 0.1]), np.array([0.5, 0.4, 0.6]))
    assert list(never[:2]) == [0, 0]
    assert 0.1 < never[2] < 0.3
    assert np.isnan(
        clinical_utility.ratio(np.array([0.5, np.nan, np.nan]), np.array([0.5, 0.4, 0.6]))[1:]
    ).all()


@pytest.mark.parametrize(
    ("sensitivity", "false_positives"), [(0.8, 0.15), (0.95, 0.05), (0.6, 0.4)]
)
def test_the_interval_of_a_ratio_covers_the_truth(sensitivity, false_positives):
    """60 fractures and 370 normal images, with Wilson's intervals of the shares."""
    random, covered = np.random.default_rng(0), 0
    for k, m in zip(random.binomial(60, sensitivity, 2000),
                    random.binomial(370, false_positives, 2000),
                    strict=True):  # fmt: skip
        shares = [
            np.array([count / total, *proportion_confint(count, total, method="wilson")])
            for count, total in ((k, 60), (m, 370))
        ]
        _, low, high = clinical_utility.ratio(*shares)
        covered += low <= sensitivity / false_positives <= high
    assert 0.93 < covered / 2000 < 0.98


def recount(labels, probability, prevalence, threshold):
    act = probability >= threshold
    sensitivity, false_positives = act[labels == 1].mean(), act[labels == 0].mean()
    return prevalence * sensitivity - (1 - prevalence) * false_positives * threshold / (
        1 - threshold
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0.01, 0.99))
def test_net_benefit_is_a_recount_at_every_threshold(seed, count, prevalence):
    random = np.random.default_rng(seed)
    labels = np.append([0, 1], random.integers(0, 2, count - 2))
    probability = random.integers(0, 101, count) / 100
    point, low, high = clinical_utility.net_benefit(
        labels, probability, np.arange(count), prevalence
    )
    expected = [recount(labels, probability, prevalence, t) for t in clinical_utility.THRESHOLDS]
    np.testing.assert_allclose(point, expected, atol=1e-12)
    defined = min(labels.sum(), (1 - labels).sum()) > 1
    assert np.isfinite(low).all() == defined
    assert not defined or ((low <= point + 1e-12) & (point <= high + 1e-12)).all()


@pytest.mark.parametrize(("fractures", "of"), [(8, 1), (60, 1), (30, 3)])
def test_the_interval_of_net_benefit_covers_the_truth(fractures, of, monkeypatch):
    """Also with few fractures, and with patients of three similar images."""
    monkeypatch.setattr(clinical_utility, "THRESHOLDS", np.array([0.2]))
    random, covered, runs = np.random.default_rng(1), 0, 150
    groups = np.repeat(np.arange(fractures + 200), of)
    labels = (groups < fractures).astype(int)
    truth = 0.1 * stats.norm.sf(0.2 - 1.0) - 0.9 * 0.25 * stats.norm.sf(0.2)
    for _ in range(runs):
        patient = random.normal(size=fractures + 200).repeat(of)
        score = labels * 1.0 + 0.9**0.5 * patient + 0.1**0.5 * random.normal(size=len(labels))
        probability = np.where(score > 0.2, 0.9, 0.01)
        _, low, high = clinical_utility.net_benefit(labels, probability, groups, 0.1)[:, 0]
        covered += low <= truth <= high
    assert 0.9 < covered / runs <= 1


def test_probabilities_of_1_are_acting_on_all(predicted):
    sure = predicted.assign(probability=1.0)
    curve = clinical_utility.decision_curve(sure)
    assert list(curve) == tables.columns("decision_curve")
    np.testing.assert_allclose(curve["net_benefit"], curve["treat_all"], atol=1e-9)


def test_a_better_model_has_the_larger_net_benefit(predicted):
    curve = clinical_utility.decision_curve(predicted)
    by_model = curve.set_index(["threshold", "model"])["net_benefit"].unstack().loc[0.1:0.9]  # noqa: PD010
    assert (by_model["A"] >= by_model["B"]).mean() > 0.9
    better = curve["net_benefit_low"] > curve["treat_all"].clip(lower=0)
    assert better[curve["model"] == "A"].sum() > max(10, better[curve["model"] == "B"].sum())
    assert (curve["net_benefit_low"] <= curve["net_benefit"] + 1e-12).all()


def test_another_prevalence_moves_the_threshold_by_the_odds(predicted):
    """At a quarter of the odds, the threshold 0.2 decides as 0.5 does here."""
    truth = predicted.loc[predicted["split"] == "test", "label"] == "fractured"
    odds = truth.mean() / (1 - truth.mean()) / 4
    here, rare = (
        clinical_utility.decision_curve(predicted, share).set_index(["model", "threshold"])[
            "net_benefit"
        ]
        for share in (None, odds / (1 + odds))
    )
    for model in "AB":
        assert rare[model, 0.2] / (odds / (1 + odds)) == pytest.approx(
            here[model, 0.5] / truth.mean()
        )


def test_one_class_has_no_curve(predicted):
    assert clinical_utility.decision_curve(predicted[predicted["label"] == "normal"]).empty
