"""Platt scaling, threshold, ensemble and selected model come from validation rows alone."""

import warnings

import numpy as np
import pandas as pd
import pytest
from examples import model_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import roc_auc_score, roc_curve
from statsmodels.genmod import families
from statsmodels.genmod.generalized_linear_model import GLM

from fracture_utils import tables
from fracture_utils.config import OUT_OF_FOLD
from fracture_utils.evaluation import calibration, comparison, metrics

NETWORKS = ("A", "B", "C", "D")
COARSE = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])


def predictions(seed=0, count=120, networks=NETWORKS, noise=(1.0, 1.2, 1.5, 3.0)):
    generator = np.random.default_rng(seed)
    tables = []
    for split in ("validation", "test"):
        labels = (np.arange(count) % 3 == 0).astype(int)
        for name, spread in zip(networks, noise, strict=False):
            logits = 2.0 * labels - 1 + spread * generator.normal(size=count)
            tables.append(model_rows(split, name, labels, logits))
    return pd.concat(tables, ignore_index=True)


def with_ensemble(rows):
    """The predictions with the rows of their ensemble, if it has any."""
    added = calibration.ensemble(rows, calibration.fit(rows))
    return pd.concat([rows, added], ignore_index=True)


@pytest.mark.parametrize(("planted", "shift"), [(0.3, 0.0), (1.0, -2.0), (4.0, 1.5)])
def test_overconfidence_and_shift_are_corrected(planted, shift):
    generator = np.random.default_rng(1)
    calibrated = generator.normal(scale=2, size=20_000)
    labels = (generator.random(len(calibrated)) < special.expit(calibrated)).astype(int)
    slope, intercept = calibration.platt(labels, calibrated * planted + shift).values()
    assert slope == pytest.approx(1 / planted, rel=0.05)
    assert intercept == pytest.approx(-shift / planted, abs=0.06)


def test_the_prior_survives_the_correction_of_overconfidence():
    """A temperature gave a mean probability of 0.204 here, and an error of 0.065."""
    generator = np.random.default_rng(2)
    calibrated = generator.normal(special.logit(0.09), 1.5, 40_000)
    labels = (generator.random(len(calibrated)) < special.expit(calibrated)).astype(int)
    prior = special.logit(labels.mean())
    slope, intercept = calibration.platt(labels, 2 * (calibrated - prior) + prior).values()
    probability = special.expit(slope * (2 * (calibrated - prior) + prior) + intercept)
    assert 0.12 < labels.mean() < 0.16
    assert probability.mean() == pytest.approx(labels.mean(), abs=0.001)
    assert calibration_error(labels, probability) < 0.006


@given(
    seed=st.integers(0, 2**16), count=st.integers(4, 80), scale=st.sampled_from([1e-3, 1.0, 50.0])
)
@settings(max_examples=40, deadline=None)
def test_platts_map_is_that_of_statsmodels_within_its_bounds(seed, count, scale):
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3 == 0).astype(int)
    logits = scale * (generator.normal(size=count) + 0.8 * labels)
    slope, intercept = calibration.platt(labels, logits).values()
    low, high = calibration.SLOPES
    assert low * 0.999 <= slope <= high * 1.001
    positives = labels.sum()
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (count - positives + 2))
    model = GLM(targets, np.column_stack([logits / scale, np.ones(count)]), families.Binomial())
    expected = model.fit().params / [scale, 1]
    if low * 1.01 < expected[0] < high * 0.99:
        assert slope == pytest.approx(expected[0], rel=2e-3)
        assert intercept == pytest.approx(expected[1], abs=2e-3)


def test_a_slope_at_its_bound_is_marked():
    table = predictions()
    points = calibration.fit(table)
    assert not points["at_bound"].any()
    upside_down = table.assign(logit=-100 * table["logit"])
    assert calibration.fit(upside_down)["at_bound"].all()


def test_perfect_separation_leaves_the_slope_finite():
    labels = np.repeat([0, 1], 10)
    slope, intercept = calibration.platt(labels, 2.0 * labels - 1).values()
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
    youden = calibration.thresholds(labels, probabilities, None, ones)[0]
    called = probabilities >= youden
    gain = called[labels == 1].mean() - called[labels == 0].mean()
    assert np.isfinite(youden)
    assert gain == pytest.approx((tpr - fpr)[1:].max())
    sensitive = calibration.thresholds(labels, probabilities, target, ones)[0]
    assert sensitive == thresholds[1:][tpr[1:] >= target - 1e-12].max()


def test_applying_uses_the_operating_point():
    table = predictions()
    points = calibration.fit(table, 0.9)
    applied = calibration.apply(table, points)
    validation = applied[(applied["split"] == "validation") & (applied["label"] == "fractured")]
    result = (validation["decision"] == "fractured").groupby(validation["model"]).mean()
    assert (result >= 0.9).all()
    assert set(points["rule"]) == {"sensitivity 0.9"}
    assert list(points) == tables.columns("operating_points")
    pd.testing.assert_frame_equal(calibration.apply(applied, points), applied)
    row, point = applied.iloc[5], points.set_index("model").loc["A"]
    expected = special.expit(point["slope"] * row["logit"] + point["intercept"])
    assert row["probability"] == pytest.approx(expected, rel=5e-6)


@pytest.mark.parametrize("count", [30, 600])
def test_the_interval_of_a_threshold_holds_it_and_narrows(count):
    points = calibration.fit(predictions(count=count))
    assert (points["threshold_low"] <= points["threshold"]).all()
    assert (points["threshold"] <= points["threshold_high"]).all()
    many = calibration.fit(predictions(count=16 * count))
    widths = [p["threshold_high"] - p["threshold_low"] for p in (points, many)]
    assert widths[1].mean() < widths[0].mean()


@pytest.mark.parametrize("label", ["fractured", "normal", None])
def test_without_both_classes_in_validation_the_defaults_are_used(label):
    table = predictions()
    table = table[(table["split"] == "test") | (table["label"] == label)]
    table = with_ensemble(table)
    points = calibration.fit(table)
    assert set(points["model"]) == {*NETWORKS, "Ensemble"}
    assert (points["slope"] == 1).all()
    assert (points["intercept"] == 0).all()
    assert (points["threshold"] == 0.5).all()
    assert points["rule"].str.startswith("default").all()


def test_changing_test_labels_changes_no_threshold_calibration_or_choice():
    table = predictions()
    changed = table.copy()
    test = changed["split"] == "test"
    changed.loc[test, "label"] = np.where(
        changed.loc[test, "label"] == "normal", "fractured", "normal"
    )
    outcomes = []
    for rows in (table, changed):
        with_ensembles = with_ensemble(rows)
        points = calibration.fit(with_ensembles)
        applied = calibration.apply(with_ensembles, points)
        columns = ["path", "model", "logit", "probability", "decision"]
        outcomes.append((points, applied[columns], calibration.select_model(rows)))
    pd.testing.assert_frame_equal(outcomes[0][0], outcomes[1][0])
    pd.testing.assert_frame_equal(outcomes[0][1], outcomes[1][1])
    assert outcomes[0][2] == outcomes[1][2]
    scored = [
        metrics.scores(calibration.apply(with_ensemble(rows), points)) for rows in (table, changed)
    ]
    assert scored[0]["auc"][0] == pytest.approx(1 - scored[1]["auc"][0])  # only the scores turn


def test_the_ensemble_is_the_mean_of_calibrated_logits():
    table = predictions()
    points = calibration.fit(table).set_index("model")
    rows = with_ensemble(table)
    path = "test/007.png"
    at = rows[rows["path"] == path].set_index("model")["logit"]
    own = {name: calibration.calibrated(at[name], points.loc[name]) for name in NETWORKS}
    assert at["Ensemble"] == pytest.approx(np.mean(list(own.values())), rel=1e-5)
    assert len(rows) == len(table) * 5 // 4
    assert not rows.duplicated(["path", "model", "split"]).any()


def test_few_networks_and_references_make_no_ensemble():
    assert set(with_ensemble(predictions(networks=("A",)))["model"]) == {"A"}
    two = with_ensemble(predictions(networks=("A", "Metadata only", "B")))
    assert set(two["model"]) == {"A", "B", "Metadata only", "Ensemble"}
    again = with_ensemble(two)
    pd.testing.assert_frame_equal(again, two)


def test_the_ensemble_is_scored_and_compared():
    table = with_ensemble(predictions())
    table = calibration.apply(table, calibration.fit(table))
    initial = dict.fromkeys(NETWORKS, "imagenet")
    assert "Ensemble" in set(metrics.scores(table, initial)["model"])
    assert len(comparison.pairs(table)) == 10


def test_the_model_is_selected_on_validation_alone():
    table = with_ensemble(predictions())
    validation = table[table["split"] == "validation"]
    truth = validation["label"] == "fractured"
    auc = {
        name: roc_auc_score(truth[rows.index], rows["logit"])
        for name, rows in validation.groupby("model")
        if name in NETWORKS
    }
    best = max(auc, key=auc.get)
    assert calibration.select_model(table) == best
    test = table["split"] == "test"
    changed = table.assign(logit=table["logit"].where(~test | (table["model"] != best), 0.0))
    assert calibration.select_model(changed) == best
    flipped = table.assign(logit=np.where(table["model"] == best, -1, 1) * table["logit"])
    assert calibration.select_model(flipped) != best
    assert calibration.select_model(table[test]) is None


def test_ties_are_decided_by_the_loss_and_then_by_order():
    table = predictions(networks=("A", "B"), noise=(1.0, 1.0))
    one = table[table["model"] == "A"]
    same = pd.concat([one, one.assign(model="B")])
    assert calibration.select_model(same) == "A"
    assert calibration.select_model(pd.concat([one.assign(model="B"), one])) == "B"
    squashed = pd.concat([one.assign(logit=np.sign(one["logit"]) * one["logit"] ** 4), one.assign(
        model="B")])  # fmt: skip
    assert calibration.select_model(calibration.apply(squashed, calibration.fit(squashed))) == "B"


def heads(seed, shifts=(0.0,), count=1500, slope=1.0, size=5, shared=0.5):
    """Labels, logits of heads whose intercepts differ by `shifts`, groups and folds from 1 on."""
    generator = np.random.default_rng(seed)
    groups = np.arange(count) // size
    folds = groups % len(shifts) + 1
    truth = generator.normal(-1.5, 1.5, count) + shared * generator.normal(size=count)[groups]
    labels = (generator.random(count) < special.expit(truth)).astype(int)
    return labels, truth / slope + np.array(shifts)[folds - 1], groups, folds


def out_of_fold(seed=0, **models):
    """Out-of-fold and test rows of models by the shifts of their heads."""
    parts = []
    for name, shifts in models.items():
        for split in (OUT_OF_FOLD, "test"):
            labels, logits, groups, folds = heads(seed, shifts, 600)
            rows = model_rows(split, name, labels, logits, groups)
            parts.append(rows.assign(fold=folds if split == OUT_OF_FOLD else 0))
    return pd.concat(parts, ignore_index=True)


def test_folds_of_one_intercept_are_told_apart_in_5_of_100_data_sets():
    """Groups share much: the test of independent images errs more often."""
    errors = []
    for seed in range(120):
        labels, logits, groups, folds = heads(seed, [0.0] * 4, 400, shared=1.0)
        aligned, p = calibration.align_folds(labels, logits, groups, folds)
        images = calibration.align_folds(labels, logits, np.arange(400), folds)[1]
        errors.append([p < 0.05, images < 0.05])
        assert (aligned is logits) == (p >= 0.05)
    grouped, independent = np.mean(errors, axis=0)
    assert 0.02 <= grouped <= 0.085
    assert independent > 0.15


def test_groups_of_one_class_do_not_hide_a_shift():
    """The fault: as if fractures were free to lie in any fold, no shift of 0.6 was found."""
    labels, folds = np.repeat([1, 0, 0, 0], 200), np.arange(800) // 20 % 4 + 1
    groups = np.arange(800) // 20
    found = []
    for seed in range(20):
        logits = 1.8 * labels - 2 + np.random.default_rng(seed).normal(size=800)
        shifts = 0.6 * (folds % 2)
        found.append([calibration.align_folds(labels, logits + by, groups, folds)[1] < 0.05
                      for by in (shifts, 0)])  # fmt: skip
    assert np.sum(found, axis=0)[0] >= 18
    assert np.sum(found, axis=0)[1] <= 3


def test_the_mix_of_the_classes_is_no_property_of_a_head():
    labels, logits, _, _ = heads(0, [0.0], 2000)
    order = np.lexsort([np.random.default_rng(0).random(2000), labels])
    folds = np.ones(2000, int)
    folds[order[1500:]] = np.arange(500) % 2 + 1  # most fractures, half of them in another fold
    assert calibration.align_folds(labels, logits, np.arange(2000), folds)[1] > 0.05


def own_intercepts(labels, logits, folds):
    point = calibration.platt(labels, logits)
    scaled = calibration.calibrated(logits, point)
    fits = [GLM(labels[own], np.ones(own.sum()), families.Binomial(), offset=scaled[own]).fit()
            for own in (folds == fold for fold in np.unique(folds))]  # fmt: skip
    return np.array([fit.params[0] for fit in fits])


@pytest.mark.parametrize("slope", [1.0, 5.0])
def test_a_shift_is_found_and_aligned(slope):
    shifts = np.array([0.0, 1.5, -1.0, 0.0]) / slope
    labels, logits, groups, folds = heads(0, shifts, 2000, slope)
    aligned, p = calibration.align_folds(labels, logits, groups, folds)
    assert p < 1e-4
    assert np.ptp(own_intercepts(labels, logits, folds)) > 1.5
    assert np.ptp(own_intercepts(labels, aligned, folds)) < 0.3
    moved = aligned - logits
    for fold in range(1, 5):
        assert np.ptp(moved[folds == fold]) < 1e-9  # the order in a fold remains
    by_fold = np.array([moved[folds == fold][0] for fold in range(1, 5)])
    assert by_fold.mean() == pytest.approx(0, abs=1e-9)
    assert by_fold == pytest.approx(shifts.mean() - shifts, abs=0.5 / slope)
    assert calibration.align_folds(labels, aligned, groups, folds)[1] > 0.5
    again = np.random.default_rng(0).permutation(len(labels))
    shuffled = calibration.align_folds(*(a[again] for a in (labels, logits, groups, folds)))
    assert shuffled[0] == pytest.approx(aligned[again])
    named = calibration.align_folds(labels, logits, groups.astype(str), 10 * folds)
    assert named[1] == pytest.approx(p)


def test_the_shift_is_that_of_logistic_regression():
    labels, logits, groups, folds = heads(1, [0.0, 2.0], 3000)
    aligned, _ = calibration.align_folds(labels, logits, groups, folds)
    design = np.column_stack([logits, folds == 1, folds == 2])
    slope, first, second = GLM(labels, design, families.Binomial()).fit().params
    gap = (aligned - logits)[folds == 2][0] - (aligned - logits)[folds == 1][0]
    assert gap == pytest.approx((second - first) / slope, rel=0.15)


@pytest.mark.parametrize("fault", ["one fold", "no fractures", "no image"])
def test_there_is_nothing_to_align(fault):
    labels, logits, groups, folds = heads(0, [0.0, 2.0], 40)
    labels = labels * (fault != "no fractures")
    folds = folds * (fault != "one fold")
    kept = slice(0 if fault == "no image" else None)
    arrays = [array[kept] for array in (labels, logits, groups, folds)]
    aligned, p = calibration.align_folds(*arrays)
    assert np.isnan(p)
    np.testing.assert_array_equal(aligned, arrays[1])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("only", [0, 1, None])
def test_any_fold_can_be_aligned(scale, only):
    """The fault: shifts were sought up to 50, and logits of other programs are larger."""
    labels, logits, groups, folds = heads(0, [0.0, 9.0, 3.0], 300)
    labels = labels if only is None else np.where(folds == 1, only, labels)
    aligned, p = calibration.align_folds(labels, scale * logits, groups, folds)
    assert p < 0.05
    assert np.isfinite(aligned).all()
    if only is None:
        assert calibration.align_folds(labels, aligned, groups, folds)[1] > 0.05


def test_out_of_fold_rows_are_calibrated_after_alignment():
    table = out_of_fold(A=(0.0, 2.0, -1.0), B=(0.5,) * 3)
    validation = table[table["split"] == "test"].assign(split="validation", logit=0.0)
    points = calibration.fit(pd.concat([table, validation])).set_index("model")
    assert points.loc["A", "p_folds"] < 0.001
    assert points.loc["B", "p_folds"] > 0.05
    assert (points["n"] == 600).all()  # those of validation do not count
    assert list(points["rule"]) == ["youden"] * 2
    for name in "AB":
        own = table[(table["model"] == name) & (table["split"] == OUT_OF_FOLD)]
        arrays = [(own["label"] == "fractured").to_numpy(int), own["logit"].to_numpy(),
                  pd.factorize(own["group"])[0], own["fold"].to_numpy()]  # fmt: skip
        aligned, p = calibration.align_folds(*arrays)
        point = calibration.platt(arrays[0], aligned)
        assert points.loc[name, ["slope", "intercept"]].tolist() == pytest.approx([*point.values()])
        fpr, tpr, thresholds = roc_curve(arrays[0], aligned)
        best = special.expit(calibration.calibrated(thresholds[np.argmax(tpr - fpr)], point))
        assert points.loc[name, "threshold"] == pytest.approx(best)
        assert points.loc[name, "p_folds"] == pytest.approx(p)
    both = with_ensemble(table)
    test = both[both["path"] == "test/007.png"].set_index("model")["logit"]
    own = [calibration.calibrated(test[name], points.loc[name]) for name in "AB"]
    assert test["Ensemble"] == pytest.approx(np.mean(own), rel=1e-5)
    folds = both[both["model"] == "Ensemble"].set_index("path")["fold"]
    expected = table.drop_duplicates("path").set_index("path")["fold"]
    pd.testing.assert_series_equal(folds, expected[folds.index])


def test_probabilities_out_of_fold_are_those_of_the_aligned_logits():
    """The fault: the threshold was chosen on aligned logits and applied to the others."""
    table = out_of_fold(A=[0.0, 2.5, -2.0], B=[0.0, 0.0, 0.0])
    points = calibration.fit(table)
    applied = calibration.apply(table, points)
    assert list(points["p_folds"] < 0.05) == [True, False]
    assert list(applied["logit"]) == list(table["logit"])
    pd.testing.assert_frame_equal(calibration.apply(applied, points), applied)
    for (model, split), own in applied.groupby(["model", "split"]):
        labels, logits = (own["label"] == "fractured").to_numpy(int), own["logit"].to_numpy()
        if split == OUT_OF_FOLD:
            groups = pd.factorize(own["group"])[0]
            logits, _ = calibration.align_folds(labels, logits, groups, own["fold"].to_numpy())
        point = points.set_index("model").loc[model]
        expected = special.expit(calibration.calibrated(logits, point))
        assert own["probability"].to_numpy() == pytest.approx(expected, rel=1e-5)
        decided = np.where(expected >= point["threshold"], "fractured", "normal")
        assert list(own["decision"]) == list(decided)
        by_fold = own.assign(excess=own["probability"] - labels).groupby("fold")["excess"]
        assert by_fold.mean().abs().max() < 0.06 or split == "test"


def test_the_model_of_the_highest_mean_auc_of_the_folds_is_selected():
    labels, logits, _, folds = heads(0, [0.0, 0.0, 0.0], 600)
    steady = logits + np.random.default_rng(0).normal(size=600)
    apart = logits + 9 * (folds - 2)  # the best in each fold, not among all images
    worse = logits + np.random.default_rng(1).normal(scale=3, size=600)
    models = {"worse": worse, "steady": steady, "apart": apart}
    parts = [model_rows(OUT_OF_FOLD, name, labels, of).assign(fold=folds)
             for name, of in models.items()]  # fmt: skip
    tested = [model_rows("test", name, labels, of).assign(fold=0) for name, of in models.items()]
    table = pd.concat([*parts, *tested], ignore_index=True)
    assert roc_auc_score(labels, apart) < roc_auc_score(labels, steady)
    assert calibration.select_model(table) == "apart"
    assert calibration.select_model(table.sample(frac=1, random_state=0)) == "apart"
    assert calibration.select_model(table.assign(fold=0)) == "steady"
    mean = {name: np.mean([roc_auc_score(labels[folds == k], of[folds == k]) for k in (1, 2, 3)])
            for name, of in models.items()}  # fmt: skip
    assert max(mean, key=mean.get) == "apart"
    other = table["split"].eq("test") & table["model"].eq("apart")
    turned = table.assign(logit=np.where(other, -1, 1) * table["logit"])
    assert calibration.select_model(turned) == "apart"
    one_class = table.assign(label=table["label"].where(table["fold"] != 2, "normal"))
    assert calibration.select_model(one_class) is None
    validation = table[table["model"] == "steady"].assign(model="validated", split="validation")
    assert calibration.select_model(pd.concat([table, validation])) == "apart"


def calibration_error(labels, probabilities):
    bins = np.minimum((probabilities * 10).astype(int), 9)
    return np.abs(np.bincount(bins, probabilities - labels)).sum() / len(labels)


def calibrated(generator, count, spread=1.5):
    logits = generator.normal(-1.5, spread, count)
    return (generator.random(count) < special.expit(logits)).astype(int), logits


def test_a_calibrated_model_is_rejected_in_5_of_100_test_sets():
    """Its expected calibration error is above 0 in nearly all of them."""
    generator = np.random.default_rng(3)
    rejected = []
    for _ in range(300):
        labels, logits = calibrated(generator, 135)
        assessed = metrics.calibration_metrics(labels, special.expit(logits), np.arange(135))
        rejected.append(assessed.get("calibration_p", 1) < 0.05)
    assert 0.02 <= np.mean(rejected) <= 0.09


@pytest.mark.parametrize(("slope", "shift"), [(2.5, 0.0), (1.0, 1.0), (0.4, 0.0)])
def test_miscalibration_is_detected(slope, shift):
    labels, logits = calibrated(np.random.default_rng(4), 600)
    wrong = special.expit(slope * logits + shift)
    assessed = metrics.calibration_metrics(labels, wrong, np.arange(600))
    assert assessed["calibration_p"] < 0.001
    assert assessed["calibration_slope_low"] < 1 / slope < assessed["calibration_slope_high"]


def test_the_assessment_is_that_of_statsmodels_and_of_arithmetic():
    labels, logits = calibrated(np.random.default_rng(5), 200)
    given = special.expit(0.8 * logits + 0.2)
    assessed = metrics.calibration_metrics(labels, given, np.arange(200))
    z = special.logit(given)
    both = GLM(labels, np.column_stack([z, np.ones(200)]), families.Binomial()).fit()
    large = GLM(labels, np.ones(200), families.Binomial(), offset=z).fit()
    assert assessed["calibration_slope"] == pytest.approx(both.params[0])
    assert assessed["calibration_intercept"] == pytest.approx(large.params[0])
    assert assessed["observed_expected"] == pytest.approx(labels.sum() / given.sum())
    once = metrics.calibration_metrics(labels, special.expit(z), np.arange(200))
    repeated = (np.repeat(values, 3) for values in (labels, given, np.arange(200)))
    thrice = metrics.calibration_metrics(*repeated)
    for name in ("calibration_slope_low", "observed_expected_high", "calibration_p"):
        assert thrice[name] == pytest.approx(once[name], rel=0.02), name  # copies are no evidence


def test_few_images_equal_probabilities_or_one_patient_are_not_assessed():
    labels = np.array([1] * 9 + [0] * 50)
    assert metrics.calibration_metrics(labels, np.full(59, 0.2), np.arange(59)) == {}
    labels = np.repeat([0, 1], 30)
    assert metrics.calibration_metrics(labels, np.linspace(0.1, 0.9, 60), np.zeros(60, int)) == {}
    flat = metrics.calibration_metrics(labels, np.full(60, 0.5), np.arange(60))
    assert "calibration_p" not in flat
    assert flat["observed_expected"] == pytest.approx(1)
    apart = metrics.calibration_metrics(labels, np.where(labels, 0.9, 0.1), np.arange(60))
    assert "calibration_p" not in apart


def test_separated_classes_raise_no_warning():
    labels = np.array([0] * 12 + [1] * 12)
    given = np.where(labels == 1, 0.8, 0.2) + np.linspace(0, 0.1, 24)
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        result = metrics.calibration_metrics(labels, given, np.arange(24))
    assert not raised
    assert "calibration_slope" not in result
    assert np.isfinite(result["observed_expected"])
