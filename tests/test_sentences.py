"""The sentences change when the numbers do, and read well in every case."""

import dataclasses
import re
from pathlib import Path

import evaluated
import numpy as np
import pandas as pd
import pytest

from fracture_utils.config import Config
from fracture_utils.evaluation import sentences
from fracture_utils.evaluation.localization import ASSESSMENTS
from fracture_utils.evaluation.results import Results, evaluate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return evaluated.results(tmp_path_factory.mktemp("sentences"))


def text(results):
    """All sentences, each checked for its form."""
    lines = results.conclusions
    for line in lines:
        assert line[0].isupper() and line.endswith("."), line
        assert not re.search(r"\n|_|  |\bnan\b|\binf\b|None|\(\)", line), line
    assert lines[-1] == sentences.PURPOSE
    return " ".join(lines)


def changed(results, table, where=None, run=None, **values):
    """A copy of the results with other values in some rows of a table."""
    rows = getattr(results, table).copy()
    where = rows.index if where is None else rows.index[rows.eval(where)]
    for name, value in values.items():
        rows.loc[where, name] = value
    return dataclasses.replace(results, **{table: rows}, run=results.run | (run or {}))


OWN = "model == 'DenseNet121'"


def test_the_headline_has_selection_auc_interval_and_test_set(run):
    better = {"auc": 0.91, "auc_low": 0.85, "auc_high": 0.94}
    line = text(changed(run, "scores", OWN, **better))
    assert line.startswith(
        "DenseNet121, selected on the validation set, has a test AUC of 0.910 (95 % CI "
        "0.850–0.940) on 90 images, 30 of them fractured."
    )
    line = text(changed(run, "scores", run={"selected_on": "test"}))
    assert "selected on the test set, has" in line and "its AUC is optimistic" in line
    assert "optimistic" not in text(run)


LIMITS = "({0}, {1} to {2})"
NONE = f"no significant difference (unadjusted 95 % CI) from VGG16 {LIMITS} and MobileNet {LIMITS}."


@pytest.mark.parametrize(
    ("p", "lead", "phrase"),
    [
        (0.2, 0.1,
         NONE.format("+0.100", "+0.050", "+0.150")),
        (0.01, 0.1, "significantly better than VGG16 and MobileNet."),
        (0.01, -0.1, "significantly worse than VGG16 and MobileNet."),
        (np.nan, 0.0,
         NONE.format("+0.000", "-0.050", "+0.050")),
    ],
)  # fmt: skip
def test_paired_tests_decide_what_is_significant(run, p, lead, phrase):
    pairs = run.comparisons.assign(difference=lead, p_delong_holm=p)
    pairs = pairs.assign(difference_low=lead - 0.05, difference_high=lead + 0.05)
    line = text(dataclasses.replace(run, comparisons=pairs))
    assert f"Paired tests of the AUC (DeLong, Holm): {phrase}" in line
    number = "no test" if np.isnan(p) else f"p = {p:.{2 if p >= 0.1 else 3}f}"
    shown = f"{lead:+.3f}, {lead - 0.05:+.3f} to {lead + 0.05:+.3f}"
    ensemble = f"DenseNet121 minus Ensemble: {shown} (unadjusted 95 % CI), {number} (Holm)."
    assert ensemble in line


def test_detectable_differences_and_ensemble(run):
    ends = {"difference_low": -0.05, "difference_high": 0.05}
    line = text(changed(run, "comparisons", **ends))
    assert "Smallest detectable difference in AUC (80 % power, unadjusted): 0.071." in line
    assert "Ensemble: AUC " in line
    without = text(changed(run, "comparisons", difference_low=np.nan, p_delong_holm=0.2))
    assert "detectable" not in without and "no CI" in without


def test_calibration(run):
    good = {"calibration_p": 0.4, "observed_expected": 0.97}
    for name, value in (("observed_expected", 0.8), ("calibration_slope", 0.9)):
        good |= {f"{name}_low": value, f"{name}_high": 1.3}
    fine = changed(run, "scores", calibration_slope=1.1, **good)
    fit = "O/E 0.97 (95 % CI 0.80–1.30), slope 1.10 (95 % CI 0.90–1.30), p = "
    assert f"No miscalibration detected: {fit}0.40." in text(fine)
    wrong = text(changed(fine, "scores", calibration_p=0.003))
    assert f"DenseNet121 is miscalibrated: {fit}0.003." in wrong
    assert "The calibration could not be tested." in text(
        changed(run, "scores", calibration_p=np.nan)
    )


def test_predictive_values(run):
    values = {"prevalence": 0.14, "ppv": 0.46, "ppv_low": 0.37, "ppv_high": 0.55}
    values |= {"npv": 0.96, "npv_low": 0.94, "npv_high": 0.98}
    line = text(changed(run, "clinical_utility", **values))
    assert "At a prevalence of 14 %: PPV 46 % (95 % CI 37–55), NPV 96 % (95 % CI 94–98)." in line
    never = changed(run, "clinical_utility", ppv=np.nan, ppv_low=np.nan, ppv_high=np.nan)
    assert "PPV undefined, NPV" in text(never)


def test_errors_at_the_threshold(run):
    rates = {f"false_{kind}s_per_100{end}": value for kind in ("negative", "positive")
             for end, value in (("", 20.0), ("_low", 12.0), ("_high", 31.0))}  # fmt: skip
    results = changed(run, "clinical_utility", **rates)
    results = changed(results, "scores", OWN, sensitivity=29 / 30, specificity=0.8)
    point = {"threshold": 0.31, "threshold_low": 0.1, "threshold_high": 0.62}
    line = text(changed(results, "operating_points", n=656, positives=102, **point))
    assert (
        "DenseNet121 at the threshold 0.31 (95 % CI 0.10–0.62), chosen on 656 validation images, "
        "102 of them fractured: 1 false negative among 30 fractured images, 20 % (95 % CI 12–31); "
        "12 false positives among 60 normal images, 20 % (95 % CI 12–31)."
    ) in line
    few = text(changed(results, "operating_points", positives=1))
    assert "validation images, only 1 of them fractured: 1 false" in few
    default = changed(results, "operating_points", rule="default: no validation images")
    assert ", default: 1 false" in text(default)


def test_subgroups_that_differ_significantly(run):
    same = {"p_sensitivity_holm": 0.2, "p_specificity_holm": 0.06}
    assert "differs by" not in text(changed(run, "subgroups", **same))
    table = run.subgroups.copy()
    values = {"hand": (0.672, 0.586, 0.762), "leg": (0.936, 0.899, 0.968)}
    for value, numbers in values.items():
        rows = table["value"] == value
        table.loc[rows, ["specificity", "specificity_low", "specificity_high"]] = numbers
    table = table.assign(p_sensitivity_holm=0.2, p_specificity_holm=0.0004)
    line = text(dataclasses.replace(run, subgroups=table))
    assert (
        "Specificity of DenseNet121 differs by body part: hand 67 % (95 % CI 59–76), leg 94 % "
        "(95 % CI 90–97); p < 0.001 (Holm)."
    ) in line
    flags = table.replace({"hand": "1", "leg": "0", "body_part": "cast"})
    line = text(dataclasses.replace(run, subgroups=flags))
    assert "differs by cast: yes 67 %" in line and "no 94 %" in line
    numbered = flags.replace("cast", "hospital")
    assert "differs by hospital: 1 67 %" in text(dataclasses.replace(run, subgroups=numbered))
    assert "Too few images" not in line
    few = changed(run, "subgroups", "value == 'leg'", sensitivity=np.nan, n=11, positives=2)
    line = text(few)
    assert "Too few images for a test (fractured/all): body part leg (2/11)." in line


@pytest.mark.parametrize("assessment", ASSESSMENTS)
def test_heat_maps_and_their_caution(run, assessment):
    values = {"images": 60, "hit_rate": 0.6, "hit_rate_low": 0.45, "hit_rate_high": 0.7}
    values |= {"permuted": 0.08, "p_permuted": 0.0005, "center": 0.52, "p_center": 0.034}
    results = changed(run, "localization", assessment=assessment, **values)
    pointing = (
        "Pointing game on 60 images: hit rate of DenseNet121 60 % (95 % CI 45–70), permutation "
        "control 8 % (p < 0.001), image center 52 % (p = 0.034)."
    )
    assert re.search(rf"Use for localization: [a-z ]+\. {re.escape(pointing)}", text(results))
    caution = sentences.heat_map_caution(results.localization, "DenseNet121")
    good = assessment == "above the controls"
    high = changed(results, "localization", hit_rate=0.95, hit_rate_low=0.85, hit_rate_high=0.99)
    assert ("usually reliable" in text(high)) == good
    assert caution == ("" if good else f"Do not use these heat maps for localization. {pointing}")
    unchecked = sentences.heat_map_caution(results.localization.head(0), "DenseNet121")
    assert "there are no boxes" in unchecked
    assert "heat maps" not in text(dataclasses.replace(run, localization=run.localization.head(0)))


def test_the_data_audit_the_shortcut_and_caveats(run):
    assert "Findings of the data audit: none." in text(run)
    audit = evaluated.audit(
        ("red", "exact copies"), ("red", "exact copies"), ("amber", "inverted"), ("info", "balance")
    )
    line = text(dataclasses.replace(run, audit=audit))
    assert "Findings of the data audit: exact copies (2 red), inverted (1 amber)." in line
    for word in ("phantoms", "random", "Metadata-only"):
        assert word not in line
    baseline = run.scores.iloc[[-1]].assign(
        model="Metadata only", kind="reference", auc=0.75, auc_low=0.62, auc_high=0.84
    )
    with_baseline = dataclasses.replace(run, scores=pd.concat([run.scores, baseline]))
    expected = "Metadata-only baseline: AUC 0.750 (95 % CI 0.620–0.840); "
    assert f"{expected}above chance: a possible shortcut." in text(with_baseline)
    chance = changed(with_baseline, "scores", "model == 'Metadata only'", auc_low=0.48)
    assert "0.840)." in text(chance) and "above chance" not in text(chance)
    assert "With only 30 fractured test images, the intervals are wide." in text(run)
    assert "With only 1 normal test image," in text(changed(run, "scores", n=9, positives=8))
    assert "intervals are wide" not in text(changed(run, "scores", n=200, positives=100))
    phantoms = changed(run, "scores", run={"source": "phantoms"})
    assert "All images are synthetic phantoms" in text(phantoms)
    random = changed(run, "scores", "model == 'VGG16'", initialization="random")
    assert "Trained from random initialization, not ImageNet weights: VGG16." in text(random)


def test_reversed_classes_are_reported_and_nothing_is_ranked(run):
    line = text(changed(run, "scores", "model == 'VGG16'", auc_high=0.4))
    assert line.startswith(
        "The classes seem to be reversed: the 95 % CI of the test AUC of VGG16 lies below 0.5."
    )
    assert "significant" not in line and "threshold" not in line
    assert "reversed" not in text(changed(run, "scores", "model == 'VGG16'", auc_high=0.52))


def scored(folder, **options):
    table = evaluated.predictions(**options)
    return evaluate(table, Config(source="images", results_dir=folder, quick=True))


def test_one_model(tmp_path):
    line = text(scored(tmp_path, worth={"A": 1.5}))
    assert line.startswith("A, the only model, has a test AUC of ")
    for word in ("Paired tests", "detectable", "selected"):
        assert word not in line


@pytest.mark.parametrize(("share", "name"), [(0, "normal"), (1, "fractured")])
def test_one_class(tmp_path, share, name):
    line = text(scored(tmp_path, share=share, count=20, splits=("test",)))
    assert line.startswith(f"Every test image (20) is {name}, so the AUC is undefined.")
    assert ("false negative" in line) == (name == "fractured")
    assert ("false positive" in line) == (name == "normal")
    one = text(scored(tmp_path, share=share, count=1, splits=("test",)))
    assert one.startswith(f"Every test image (1) is {name}, so")


@pytest.mark.parametrize(("count", "share"), [(6, 1 / 6), (11, 0.2), (37, 0.19), (300, 0.2)])
@pytest.mark.parametrize("splits", [("validation", "test"), ("test",)])
def test_sets_of_any_size_are_described_soberly(tmp_path, count, share, splits):
    worth = {"VGG16": 1.5, "MobileNet": 1.2}
    results = scored(tmp_path, worth=worth, count=count, share=share, splits=splits)
    line = text(results)
    assert ("intervals are wide" in line) == (count * share < sentences.FEW)
    assert ("its AUC is optimistic" in line) == (splits == ("test",))
    assert f"{round(count * share)} of them fractured" in line
    assert "no significant difference (unadjusted 95 % CI) from" in line or "significantly" in line


def test_another_word_for_the_positive_class_is_used_everywhere(run):
    results = changed(run, "scores", run={"positive": "abnormal"})
    line = text(results)
    assert "of them abnormal" in line and "fractur" not in line
    assert "positive class: abnormal" in sentences.note(results.run)


def test_the_note_names_data_and_initial_weights():
    run = {"source": "phantoms", "positive": "fractured"}
    run["initialization"] = {"A": "imagenet", "B": "random", "C": "imagenet"}
    assert sentences.note(run) == (
        "Synthetic phantoms, not radiographs · ImageNet weights: A, C · random initialization: B · "
        "research and education only"
    )
    run = {"initialization": {"A": "released", "B": "released"}, "provenance": {"A": "pruned"}}
    assert sentences.note(run) == (
        "released weights: all models · weights files other than Keras's own: A · "
        "research and education only"
    )
    assert sentences.note(Config(source="phantoms").model_dump()).startswith("Synthetic phantoms")


def test_answers_about_single_images():
    row = {"path": "a.png", "model": "MobileNet", "logit": 1.0, "probability": 0.731}
    row |= {"threshold": 0.5, "decision": "fractured", "warning": ""}
    row["overlay"] = ""
    odd = row | {"path": "b.png", "warning": "brightness", "decision": "", "overlay": "b-1.png"}
    card = {"head": "pooled", "initialization": "imagenet", "source": "images"}
    lines = sentences.answers(pd.DataFrame([row]), card)
    assert lines == [
        "a.png",
        "  MobileNet: fractured, probability 0.731, threshold 0.500",
        "ImageNet weights: all models · research and education only",
    ]
    card |= {"heat_map_caution": "Unchecked.", "released": {"statement": "Released."}}
    lines = sentences.answers(pd.DataFrame([row, odd]), card)
    warning = "  No decision: out of distribution (brightness). "
    unknown = "How often images of the model's test set get this warning was not measured."
    assert lines[3] == f"{warning}{unknown}"
    rate = {"n": 1432, "warning_rate": 0.0123, "warning_rate_low": 0.004}
    card["ood_test"] = rate | {"warning_rate_high": 0.0349}
    known = "Of the 1,432 images of the model's test set, 1.2 % (95 % CI 0.4–3.5) got this warning."
    assert sentences.answers(pd.DataFrame([odd]), card)[1] == f"{warning}{known}"
    assert lines[4:6] == ["  MobileNet: probability 0.731, threshold 0.500", "  b-1.png"]
    assert lines[6:8] == ["Unchecked.", "Released."]
    many = pd.DataFrame([row | {"path": str(k)} for k in range(sentences.MOST_LISTED)] + [odd])
    lines = sentences.answers(many, card)
    assert lines[0] == "21 images: 20 fractured, 1 out of distribution."


def test_conclusions_of_a_saved_run_are_the_same(run, tmp_path):
    run.save(tmp_path)
    assert Results.load(tmp_path).conclusions == run.conclusions
    assert Path(tmp_path / "conclusions.txt").read_text("utf-8").splitlines() == run.conclusions


def test_how_the_models_were_trained_is_read_from_the_tables_of_the_run(run):
    """Another setting, another sentence: none of them is written down."""
    assert sentences.topics(run)["Training"] == [
        "Backbone: top block fine-tuned for 2 epochs.",
        "Head: pooled, learned without boxes.",
        "Augmented copies: 1 per training image.",
        "Input size: 384 px.",
        "Augmentation: rotation 10, zoom 0.1, shift 0.05, brightness 0.1, contrast 0.1, horizontal "
        "flip.",
    ]
    frozen = changed(run, "networks", fine_tune_depth="", augmented_copies=3)
    own = {"head": "localization", "boxes": 454, "fine_tune_depth": "all", "input_size": 512}
    lines = sentences.topics(changed(frozen, "networks", OWN, **own))["Training"]
    others = "VGG16 and MobileNet"
    assert lines[:4] == [
        f"Backbone: whole network fine-tuned for 2 epochs (DenseNet121); frozen ({others}).",
        "Head: localization, 5 epochs, learned from the boxes of 454 images (DenseNet121); pooled, "
        f"learned without boxes ({others}).",
        f"Augmented copies: new ones each epoch (DenseNet121); 3 per training image ({others}).",
        f"Input size: 512 px (DenseNet121); 384 px ({others}).",
    ]
    # The settings of the run do not describe a variant.
    variant = changed(changed(frozen, "networks", OWN, **own), "scores", OWN, kind="variant")
    variant = dataclasses.replace(variant, selected="VGG16")
    assert sentences.topics(variant)["Training"][:1] == ["Backbone: frozen."]
    named = "Trained with other settings (see networks.csv): DenseNet121."
    assert sentences.topics(variant)["Training"][-1] == named
    turned = run.run["settings"] | {"rotation": 45, "zoom": 0, "horizontal_flip": False}
    lines = sentences.topics(changed(run, "history", run={"settings": turned}))["Training"]
    assert lines[-1] == "Augmentation: rotation 45, shift 0.05, brightness 0.1, contrast 0.1."
    assert len(sentences.topics(changed(run, "networks", augmented_copies=0))["Training"]) == 4
    facts = {"trained_on": "others", "prevalence": {"test": 0.3}, "warnings": 0}
    external = changed(run, "history", run={"external": facts})
    assert "Training" not in sentences.topics(external)


def test_the_correction_for_the_selection_is_named_where_it_was_made(run):
    row = {"model": "DenseNet121", "fold": 0, "n": 90, "positives": 30, "auc": 0.9}
    for low, corrected in ((0.8, True), (np.nan, False)):
        folds = pd.DataFrame([row | {"auc_low": low, "auc_high": low + 0.15}, {"fold": 5}])
        line = text(dataclasses.replace(run, cross_validation=folds))
        assert "DenseNet121 has the highest mean out-of-fold AUC of 0.900" in line
        assert ("on 90 images in 5 folds; the lower limit is corrected" in line) == corrected
