"""Temperature, threshold and ensembles come from validation rows, and from nowhere else."""

import warnings

import numpy as np
import pandas as pd
import pytest
from answers import of_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import roc_auc_score, roc_curve
from statsmodels.genmod import families
from statsmodels.genmod.generalized_linear_model import GLM

from fracture_utils.evaluation import calibration, comparison, metrics, probabilities, verdict

NETWORKS = ("A", "B", "C", "D")
COARSE = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])


def predictions(seed=0, count=120, networks=NETWORKS, noise=(1.0, 1.2, 1.5, 3.0)):
    generator = np.random.default_rng(seed)
    tables = []
    for split in ("validation", "test"):
        labels = (np.arange(count) % 3 == 0).astype(int)
        for name, spread in zip(networks, noise, strict=False):
            logits = 2.0 * labels - 1 + spread * generator.normal(size=count)
            tables.append(of_model(split, name, labels, logits))
    return pd.concat(tables, ignore_index=True)


@pytest.mark.parametrize(("planted", "shift"), [(0.3, 0.0), (1.0, -2.0), (4.0, 1.5)])
def test_a_planted_overconfidence_and_shift_are_taken_back(planted, shift):
    generator = np.random.default_rng(1)
    honest = generator.normal(scale=2, size=20_000)
    labels = (generator.random(len(honest)) < special.expit(honest)).astype(int)
    slope, intercept = calibration.platt(labels, honest * planted + shift)
    assert slope == pytest.approx(1 / planted, rel=0.05)
    assert intercept == pytest.approx(-shift / planted, abs=0.06)


def test_the_prior_survives_the_correction_of_overconfidence():
    """A temperature gave a mean probability of 0.204 here, and an error of 0.065."""
    generator = np.random.default_rng(2)
    honest = generator.normal(special.logit(0.09), 1.5, 40_000)
    labels = (generator.random(len(honest)) < special.expit(honest)).astype(int)
    prior = special.logit(labels.mean())
    slope, intercept = calibration.platt(labels, 2 * (honest - prior) + prior)
    probability = special.expit(slope * (2 * (honest - prior) + prior) + intercept)
    assert 0.12 < labels.mean() < 0.16
    assert probability.mean() == pytest.approx(labels.mean(), abs=0.001)
    assert metrics.calibration_error(labels, probability) < 0.006


@given(
    seed=st.integers(0, 2**16), count=st.integers(4, 80), scale=st.sampled_from([1e-3, 1.0, 50.0])
)
@settings(max_examples=40, deadline=None)
def test_platts_map_is_that_of_statsmodels_within_its_bounds(seed, count, scale):
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(int)
    logits = scale * (generator.normal(size=count) + 0.8 * labels)
    slope, intercept = calibration.platt(labels, logits)
    low, high = calibration.SLOPES
    assert low * 0.999 <= slope <= high * 1.001
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    model = GLM(targets, np.column_stack([logits / scale, np.ones(count)]), families.Binomial())
    expected = model.fit().params / [scale, 1]
    if low * 1.01 < expected[0] < high * 0.99:
        assert slope == pytest.approx(expected[0], rel=2e-3)
        assert intercept == pytest.approx(expected[1], abs=2e-3)


def test_a_slope_that_validation_cannot_tell_is_said():
    table = predictions()
    points = calibration.fit(table)
    assert not points["at_bound"].any()
    upside_down = table.assign(logit=-100 * table["logit"])
    assert calibration.fit(upside_down)["at_bound"].all()


def test_perfect_separation_leaves_the_slope_finite():
    labels = np.repeat([0, 1], 10)
    slope, intercept = calibration.platt(labels, np.where(labels == 1, 1.0, -1.0))
    assert special.expit(slope + intercept) == pytest.approx(11 / 12, abs=1e-3)  # Platt's target


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), COARSE), min_size=2, max_size=30),
    st.sampled_from([0.5, 0.9, 0.95, 1.0]),
)
def test_thresholds_are_those_of_the_roc_curve(pairs, target):
    labels, logits = (np.array(part) for part in zip(*pairs, strict=True))
    if not 0 < labels.sum() < len(labels):
        return
    probabilities = special.expit(logits)
    fpr, tpr, thresholds = roc_curve(labels, probabilities, drop_intermediate=False)
    ones = np.ones((len(labels), 1))
    youden = calibration._thresholds(labels, probabilities, ones, "youden", target)[0]
    called = probabilities >= youden
    gain = called[labels == 1].mean() - called[labels == 0].mean()
    assert np.isfinite(youden)
    assert gain == pytest.approx((tpr - fpr)[1:].max())
    sensitive = calibration._thresholds(labels, probabilities, ones, "sensitivity", target)[0]
    assert sensitive == thresholds[1:][tpr[1:] >= target - 1e-12].max()


def test_applying_is_what_the_operating_point_says():
    table = predictions()
    points = calibration.fit(table, rule="sensitivity", target_sensitivity=0.9)
    applied = calibration.apply(table, points)
    validation = applied[(applied["split"] == "validation") & (applied["label"] == "fractured")]
    found = (validation["decision"] == "fractured").groupby(validation["model"]).mean()
    assert (found >= 0.9).all()
    assert set(points["rule"]) == {"sensitivity 0.9"}
    assert list(points) == [
        *("model", "slope", "intercept", "at_bound", "threshold", "threshold_low"),
        *("threshold_high", "rule", "n", "positives"),
    ]
    pd.testing.assert_frame_equal(calibration.apply(applied, points), applied)
    row, point = applied.iloc[5], points.set_index("model").loc["A"]
    expected = special.expit(point["slope"] * row["logit"] + point["intercept"])
    assert row["probability"] == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("count", [30, 600])
def test_the_interval_of_a_threshold_holds_it_and_narrows(count):
    points = calibration.fit(predictions(count=count))
    assert (points["threshold_low"] <= points["threshold"]).all()
    assert (points["threshold"] <= points["threshold_high"]).all()
    many = calibration.fit(predictions(count=4 * count))
    widths = [p["threshold_high"] - p["threshold_low"] for p in (points, many)]
    assert widths[1].mean() < widths[0].mean()


@pytest.mark.parametrize("label", ["fractured", "normal", None])
def test_without_both_classes_in_validation_the_defaults_hold_and_say_so(label):
    table = predictions()
    table = table[(table["split"] == "test") | (table["label"] == label)]
    table = calibration.ensembles(table)
    points = calibration.fit(table)
    assert set(points["model"]) == {*NETWORKS, "Ensemble"}
    assert (points["slope"] == 1).all()
    assert (points["intercept"] == 0).all()
    assert (points["threshold"] == 0.5).all()
    assert points["rule"].str.startswith("default").all()


def test_changing_test_labels_changes_no_threshold_calibration_or_choice():
    table = predictions()
    turned = table.copy()
    test = turned["split"] == "test"
    turned.loc[test, "label"] = np.where(
        turned.loc[test, "label"] == "normal", "fractured", "normal"
    )
    outcomes = []
    for rows in (table, turned):
        with_ensembles = calibration.ensembles(rows)
        points = calibration.fit(with_ensembles)
        applied = calibration.apply(with_ensembles, points)
        columns = ["path", "model", "logit", "probability", "decision"]
        outcomes.append((points, applied[columns], calibration.select(rows)))
    pd.testing.assert_frame_equal(outcomes[0][0], outcomes[1][0])
    pd.testing.assert_frame_equal(outcomes[0][1], outcomes[1][1])
    assert outcomes[0][2] == outcomes[1][2]
    scored = [
        metrics.scores(calibration.apply(calibration.ensembles(rows), points), resamples=100)
        for rows in (table, turned)
    ]
    assert scored[0]["auc"][0] == pytest.approx(1 - scored[1]["auc"][0])  # only the scores turn


def test_the_ensemble_is_the_mean_of_calibrated_logits():
    table = predictions()
    points = calibration.fit(table).set_index("model")
    rows = calibration.ensembles(table)
    path = "test/007.png"
    at = rows[rows["path"] == path].set_index("model")["logit"]
    own = {name: calibration.calibrated(at[name], points.loc[name]) for name in NETWORKS}
    assert at["Ensemble"] == pytest.approx(np.mean(list(own.values())), rel=1e-5)
    assert len(rows) == len(table) * 5 // 4
    noisy = predictions(count=600, noise=(1.0, 1.0, 1.0, 40.0))
    points = calibration.fit(noisy).set_index("model")
    picked = calibration.ensembles(noisy)
    at = picked[picked["path"] == path].set_index("model")["logit"]
    own = [calibration.calibrated(at[n], points.loc[n]) for n in calibration.select(noisy)]
    assert at["Selected ensemble"] == pytest.approx(np.mean(own), rel=1e-5)
    assert not rows.duplicated(["path", "model", "split"]).any()


def test_the_selection_starts_with_the_best_and_leaves_out_noise():
    table = predictions(count=600, noise=(1.0, 1.0, 1.0, 40.0))
    validation = table[table["split"] == "validation"]
    aucs = {
        name: roc_auc_score(rows["label"] == "fractured", rows["logit"])
        for name, rows in validation.groupby("model")
    }
    chosen = calibration.select(table)
    assert max(aucs, key=aucs.get) in chosen
    assert "D" not in chosen
    assert len(chosen) >= 2
    assert calibration.select(table) == chosen


def test_with_few_fractures_the_plain_mean_stays_unless_validation_clearly_prefers_another():
    """Six equal networks and 40 fractures in validation."""
    networks, lost, taken = tuple("ABCDEF"), [], 0
    for seed in range(12):
        table = predictions(seed, 120, networks, (1.5,) * 6)
        picked = calibration.select(table)
        taken += picked != list(networks)
        mean = calibration.ensembles(table)
        test = mean[(mean["split"] == "test") & (mean["kind"] == "ensemble")]
        auc = {
            name: roc_auc_score(rows["label"] == "fractured", rows["logit"])
            for name, rows in test.groupby("model")
        }
        lost.append(auc["Ensemble"] - auc.get("Selected ensemble", auc["Ensemble"]))
    assert taken <= 2
    assert np.mean(lost) < 0.001


def test_the_members_of_each_ensemble_are_a_table():
    table = predictions(count=600, noise=(1.0, 1.0, 1.0, 40.0))
    made = calibration.members(table)
    assert list(made["member"][made["model"] == "Ensemble"]) == list(NETWORKS)
    assert list(made["member"][made["model"] == "Selected ensemble"]) == calibration.select(table)
    assert calibration.members(predictions(networks=("A",))).empty


def test_few_networks_and_references_make_no_ensemble():
    assert set(calibration.ensembles(predictions(networks=("A",)))["model"]) == {"A"}
    two = calibration.ensembles(predictions(networks=("A", "Metadata only", "B")))
    assert set(two["model"]) == {"A", "B", "Metadata only", "Ensemble"}
    some = calibration.ensembles(predictions(), calibration.members(predictions(), ["A", "B"]))
    assert set(some["model"]) == {*NETWORKS, "Ensemble"}


def test_ensembles_take_part_in_everything_after():
    table = calibration.ensembles(predictions())
    table = calibration.apply(table, calibration.fit(table))
    known = dict.fromkeys(NETWORKS, "imagenet")
    assert "Ensemble" in set(metrics.scores(table, known, resamples=100)["model"])
    assert len(comparison.pairs(table, resamples=100)) == 10
    assert set(comparison.rank_stability(table, resamples=100)["model"]) == set(NETWORKS)


def test_the_chosen_network_is_chosen_on_validation_and_on_nothing_else():
    table = calibration.ensembles(predictions())
    validation = table[table["split"] == "validation"]
    truth = validation["label"] == "fractured"
    auc = {
        name: roc_auc_score(truth[rows.index], rows["logit"])
        for name, rows in validation.groupby("model")
        if name in NETWORKS
    }
    best = max(auc, key=auc.get)
    assert calibration.chosen(table) == best
    test = table["split"] == "test"
    turned = table.assign(logit=table["logit"].where(~test | (table["model"] != best), 0.0))
    assert calibration.chosen(turned) == best
    flipped = table.assign(logit=np.where(table["model"] == best, -1, 1) * table["logit"])
    assert calibration.chosen(flipped) != best
    assert calibration.chosen(table, ["D"]) == "D"
    assert calibration.chosen(table[test]) is None


def test_equal_networks_are_decided_by_the_loss_and_then_by_their_order():
    table = predictions(networks=("A", "B"), noise=(1.0, 1.0))
    one = table[table["model"] == "A"]
    same = pd.concat([one, one.assign(model="B")])
    assert calibration.chosen(same) == "A"
    assert calibration.chosen(same, ["B", "A"]) == "B"
    known = {"kind": "network", "model": ["B", "A"], "auc": [0.9, 0.8]}
    assert verdict.chosen(same, pd.DataFrame(known)) == "A"  # the test has no say
    squashed = pd.concat([one.assign(logit=np.sign(one["logit"]) * one["logit"] ** 4), one.assign(
        model="B")])  # fmt: skip
    assert calibration.chosen(squashed) == "B"


def honest(generator, count, spread=1.5):
    logits = generator.normal(-1.5, spread, count)
    return (generator.random(count) < special.expit(logits)).astype(int), logits


def test_an_honest_network_is_believed_95_times_in_100():
    """Judged by its expected calibration error it was doubted in 95 of 100 such test sets."""
    generator = np.random.default_rng(3)
    doubted = []
    for _ in range(300):
        labels, logits = honest(generator, 135)
        judged = probabilities.judge(labels, special.expit(logits), np.arange(135))
        doubted.append(judged["calibration_p"] < 0.05)
    assert 0.02 <= np.mean(doubted) <= 0.09


@pytest.mark.parametrize(("slope", "shift"), [(2.5, 0.0), (1.0, 1.0), (0.4, 0.0)])
def test_a_boaster_and_a_pessimist_are_found_out(slope, shift):
    labels, logits = honest(np.random.default_rng(4), 600)
    judged = probabilities.judge(labels, special.expit(slope * logits + shift), np.arange(600))
    assert judged["calibration_p"] < 0.001
    assert judged["calibration_slope_low"] < 1 / slope < judged["calibration_slope_high"]


def test_the_judgement_is_that_of_statsmodels_and_of_arithmetic():
    labels, logits = honest(np.random.default_rng(5), 200)
    said = special.expit(0.8 * logits + 0.2)
    judged = probabilities.judge(labels, said, np.arange(200))
    z = special.logit(said)
    both = GLM(labels, np.column_stack([z, np.ones(200)]), families.Binomial()).fit()
    large = GLM(labels, np.ones(200), families.Binomial(), offset=z).fit()
    assert judged["calibration_slope"] == pytest.approx(both.params[0])
    assert judged["calibration_intercept"] == pytest.approx(large.params[0])
    assert judged["observed_expected"] == pytest.approx(labels.sum() / said.sum())
    base = labels.mean()
    brier = np.mean((said - labels) ** 2)
    assert judged["brier_skill"] == pytest.approx(1 - brier / (base * (1 - base)))
    once = probabilities.judge(labels, special.expit(z), np.arange(200))
    thrice = probabilities.judge(*(np.repeat(v, 3) for v in (labels, said, np.arange(200))))
    for name in ("calibration_slope_low", "observed_expected_high", "calibration_p"):
        assert thrice[name] == pytest.approx(once[name], rel=0.02), name  # copies are no evidence


def test_chance_alone_explains_the_calibration_error_of_an_honest_network():
    generator = np.random.default_rng(6)
    errors, by_chance = [], []
    for _ in range(60):
        labels, logits = honest(generator, 135)
        said = special.expit(logits)
        errors.append(metrics.calibration_error(labels, said))
        judged = probabilities.judge(labels, said, np.arange(135))
        by_chance.append(judged["chance_calibration_error"])
    assert np.mean(errors) == pytest.approx(np.nanmean(by_chance), abs=0.006)
    assert np.mean(errors) > 0.05


def test_few_or_equal_probabilities_or_one_patient_are_not_judged():
    labels = np.array([1] * 9 + [0] * 50)
    assert np.isnan(
        list(probabilities.judge(labels, np.full(59, 0.2), np.arange(59)).values())
    ).all()
    labels = np.repeat([0, 1], 30)
    one_patient = probabilities.judge(labels, np.linspace(0.1, 0.9, 60), np.zeros(60, int))
    assert np.isnan(list(one_patient.values())).all()
    flat = probabilities.judge(labels, np.full(60, 0.5), np.arange(60))
    assert np.isnan(flat["calibration_p"])
    assert flat["observed_expected"] == pytest.approx(1)
    apart = probabilities.judge(labels, np.where(labels, 0.9, 0.1), np.arange(60))
    assert np.isnan(apart["calibration_p"])


def test_classes_that_do_not_overlap_are_no_warning_to_the_reader():
    labels = np.array([0] * 12 + [1] * 12)
    said = np.where(labels == 1, 0.8, 0.2) + np.linspace(0, 0.1, 24)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = probabilities.judge(labels, said, np.arange(24))
    assert not heard
    assert np.isnan(found["calibration_slope"])
    assert np.isfinite(found["brier_skill"])
