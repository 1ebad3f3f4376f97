"""Predictive values, ratios and net benefit, against recounts, scikit-learn and simulations."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

from fracture_utils.config import CLASS_NAMES
from fracture_utils.evaluation import calibration, metrics, plots, use


def predictions(count=120, seed=0, positives=0.3):
    """Two models of some skill, with validation rows to choose their threshold on."""
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
def seen():
    return predictions()


def test_values_are_those_of_the_confusion_matrix(seen):
    scores = metrics.scores(seen, resamples=100).set_index("model", drop=False)
    table = use.table(seen, scores, None, 100).set_index("model")
    assert list(table.index) == ["A", "B"]
    for model, row in table.iterrows():
        rows = seen[(seen["split"] == "test") & (seen["model"] == model)]
        truth, said = rows["label"] == "fractured", rows["decision"] == "fractured"
        assert row["mcc"] == pytest.approx(matthews_corrcoef(truth, said))
        assert row["ppv"] == pytest.approx(truth[said].mean())  # at the share in the test
        assert row["npv"] == pytest.approx((~truth)[~said].mean())
        assert row["prevalence"] == pytest.approx(truth.mean())
        assert row["missed_of_100"] == pytest.approx(100 * (~said[truth]).mean())
        assert row["alarms_of_100"] == pytest.approx(100 * said[~truth].mean())
        assert row["lr_positive"] == pytest.approx(said[truth].mean() / said[~truth].mean())
        assert row["lr_negative"] == pytest.approx((~said)[truth].mean() / (~said)[~truth].mean())
        for value in [name for name in table if f"{name}_low" in table]:
            assert row[f"{value}_low"] < row[value] < row[f"{value}_high"]


def test_rarer_fractures_make_alarms_falser(seen):
    scores = metrics.scores(seen, resamples=100)
    rare, common = (use.table(seen, scores, share, 100).iloc[0] for share in (0.02, 0.5))
    assert rare["ppv"] < 0.5 * common["ppv"]
    assert rare["npv"] > common["npv"]
    assert rare["lr_positive"] == common["lr_positive"]
    found, alarms = 1 - rare["missed_of_100"] / 100, rare["alarms_of_100"] / 100
    assert rare["ppv"] == pytest.approx(0.02 * found / (0.02 * found + 0.98 * alarms))


def test_a_network_without_false_alarms_has_an_infinite_ratio_and_a_finite_bound():
    positive = use.ratio(np.array([0.8, 0.6, 0.9]), np.array([0.0, 0.0, 0.05]))
    assert positive[0] == positive[2] == np.inf
    assert 10 < positive[1] < 0.8 / 0.04
    never = use.ratio(np.array([0.0, 0.0, 0.1]), np.array([0.5, 0.4, 0.6]))
    assert list(never[:2]) == [0, 0]
    assert 0.1 < never[2] < 0.3
    assert np.isnan(use.ratio(np.array([0.5, np.nan, np.nan]), np.array([0.5, 0.4, 0.6]))[1:]).all()


@pytest.mark.parametrize(("found", "alarms"), [(0.8, 0.15), (0.95, 0.05), (0.6, 0.4)])
def test_the_interval_of_a_ratio_covers_the_truth(found, alarms):
    """60 fractures and 370 normal pictures, with Wilson's intervals of the shares."""
    random, covered = np.random.default_rng(0), 0
    for k, m in zip(random.binomial(60, found, 2000), random.binomial(370, alarms, 2000),
                    strict=True):  # fmt: skip
        shares = [
            np.array([count / total, *proportion_confint(count, total, method="wilson")])
            for count, total in ((k, 60), (m, 370))
        ]
        _, low, high = use.ratio(*shares)
        covered += low <= found / alarms <= high
    assert 0.93 < covered / 2000 < 0.98


def recount(labels, probability, prevalence, threshold):
    act = probability >= threshold
    found, alarms = act[labels == 1].mean(), act[labels == 0].mean()
    return prevalence * found - (1 - prevalence) * alarms * threshold / (1 - threshold)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.floats(0.01, 0.99))
def test_net_benefit_is_a_recount_at_every_threshold(seed, count, prevalence):
    random = np.random.default_rng(seed)
    labels = np.append([0, 1], random.integers(0, 2, count - 2))
    probability = random.integers(0, 101, count) / 100
    point, low, high = use.net_benefit(labels, probability, np.arange(count), prevalence)
    expected = [recount(labels, probability, prevalence, t) for t in use.THRESHOLDS]
    np.testing.assert_allclose(point, expected, atol=1e-12)
    known = min(labels.sum(), (1 - labels).sum()) > 1
    assert np.isfinite(low).all() == known
    assert not known or ((low <= point + 1e-12) & (point <= high + 1e-12)).all()


@pytest.mark.parametrize(("fractures", "of"), [(8, 1), (60, 1), (30, 3)])
def test_the_interval_of_net_benefit_covers_the_truth(fractures, of, monkeypatch):
    """Also with few fractures, and with patients of three like pictures."""
    monkeypatch.setattr(use, "THRESHOLDS", np.array([0.2]))
    random, covered, runs = np.random.default_rng(1), 0, 150
    groups = np.repeat(np.arange(fractures + 200), of)
    labels = (groups < fractures).astype(int)
    truth = 0.1 * stats.norm.sf(0.2 - 1.0) - 0.9 * 0.25 * stats.norm.sf(0.2)
    for _ in range(runs):
        patient = random.normal(size=fractures + 200).repeat(of)
        score = labels * 1.0 + 0.9**0.5 * patient + 0.1**0.5 * random.normal(size=len(labels))
        probability = np.where(score > 0.2, 0.9, 0.01)
        _, low, high = use.net_benefit(labels, probability, groups, 0.1)[:, 0]
        covered += low <= truth <= high
    assert 0.9 < covered / runs <= 1


def test_one_fracture_shows_nothing():
    seen = predictions(60)
    test = seen[(seen["split"] == "test")]
    kept = (test["label"] == "normal") | (test["path"] == "test0")
    assert use.worthwhile(use.decision_curve(test[kept]), "A") is None


def test_acting_on_all_is_what_a_model_does_that_is_always_sure(seen):
    sure = seen.assign(probability=1.0)
    curve = use.decision_curve(sure)
    assert list(curve) == list(use.CURVE)
    np.testing.assert_allclose(curve["net_benefit"], curve["treat_all"], atol=1e-9)
    assert use.worthwhile(curve, "A") is None


def test_a_good_network_is_worth_more_in_a_range_and_a_poor_one_in_a_smaller(seen):
    curve = use.decision_curve(seen)
    good, poor = use.worthwhile(curve, "A"), use.worthwhile(curve, "B")
    assert good[1] - good[0] > 0.1
    assert poor is None or poor[1] - poor[0] < good[1] - good[0]
    rows = curve[curve["model"] == "A"].set_index("threshold")
    low, high = good
    inside = rows.loc[low:high]
    assert (inside["net_benefit_low"] > inside["treat_all"].clip(lower=0)).all()
    assert (curve["net_benefit_low"] <= curve["net_benefit"] + 1e-12).all()


def test_another_share_of_fractures_moves_the_threshold_by_the_odds(seen):
    """Where fractures are at a quarter of the odds, 0.2 asks for what 0.5 asks for here."""
    truth = seen.loc[seen["split"] == "test", "label"] == "fractured"
    odds = truth.mean() / (1 - truth.mean()) / 4
    here, rare = (
        use.decision_curve(seen, share).set_index(["model", "threshold"])["net_benefit"]
        for share in (None, odds / (1 + odds))
    )
    for model in "AB":
        assert rare[model, 0.2] / (odds / (1 + odds)) == pytest.approx(
            here[model, 0.5] / truth.mean()
        )


def test_one_class_has_no_curve(seen):
    assert use.decision_curve(seen[seen["label"] == "normal"]).empty


def test_the_figure_puts_the_chosen_network_forward_not_the_best_on_the_test(seen):
    scores = metrics.scores(seen, resamples=50)
    best = plots.best(scores)
    other = next(name for name in "AB" if name != best)
    tested, curve = seen[seen["split"] == "test"], use.decision_curve(seen)
    right = (tested["label"] == "fractured") & (tested["model"] == other)
    known = tested.assign(split="validation", logit=right.astype(float))
    assert plots.decision_curve(curve, scores).caption.startswith(f"Acting on {best} is")
    chart = plots.decision_curve(curve, scores, pd.concat([tested, known]))
    assert chart.caption.startswith(f"Acting on {other} is")


def test_the_figure_says_where_acting_pays(seen):
    scores = metrics.scores(seen, resamples=50)
    curve = use.decision_curve(seen)
    low, high = use.worthwhile(curve, "A")
    chart = plots.decision_curve(curve, scores)
    assert f"on none from a probability of {low:.2f} to {high:.2f}" in chart.caption
    assert chart.png()
    nothing = plots.decision_curve(curve.assign(net_benefit_low=-1.0), scores, positive="abnormal")
    assert "nowhere" in nothing.alternative
    assert "fractur" not in nothing.caption + nothing.axes[0].get_xlabel()
    one_class = use.decision_curve(seen[seen["label"] == "normal"])
    assert "nowhere" in plots.decision_curve(one_class, scores).caption
