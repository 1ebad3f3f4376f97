"""The sentences change when the numbers do, and read well in every case."""

import numpy as np
import pandas as pd
import pytest
from scipy import special

from fracture_utils.evaluation import (
    calibration,
    comparison,
    conclusion,
    localisation,
    metrics,
    subgroups,
    use,
)
from fracture_utils.evaluation.predictions import KIND_OF

NAMES = ("A", "B", "C")


def scores(aucs, n=500, positives=100, start="imagenet", **changes):
    rows = [
        {
            "model": name,
            "kind": KIND_OF.get(name, "network"),
            "initialisation": start,
            "n": n,
            "positives": positives,
        }
        | dict.fromkeys(metrics.METRICS, 0.8)
        | {f"{m}_low": 0.7 for m in metrics.METRICS}
        | {f"{m}_high": 0.9 for m in metrics.METRICS}
        | {"auc": auc, "auc_low": auc - 0.05, "auc_high": auc + 0.03}
        | {"observed_expected": 0.97, "observed_expected_low": 0.8, "observed_expected_high": 1.2}
        | {"calibration_slope": 1.1, "calibration_slope_low": 0.9, "calibration_slope_high": 1.3}
        | {"calibration_p": 0.4}
        | changes
        for name, auc in aucs.items()
    ]
    return pd.DataFrame(rows)


def pairs(p):
    rows = [(a, b, "networks", 0.01, 0, 0.02, *[v] * 9) for (a, b), v in p.items()]
    return pd.DataFrame(rows, columns=list(comparison.COLUMNS))


def points(rule="youden", threshold=0.31):
    rows = [(name, 1.5, 0.2, False, threshold, rule, 100, 30) for name in (*NAMES, "Ensemble")]
    columns = ["model", "slope", "intercept", "at_bound", "threshold", "rule", "n", "positives"]
    return pd.DataFrame(rows, columns=columns)


AUCS = {"B": 0.85, "A": 0.9, "C": 0.7}
TIED = pairs({("A", "B"): 0.4, ("A", "C"): 0.2, ("B", "C"): 0.5})
LEAD = pairs({("A", "B"): 0.4, ("A", "C"): 0.001, ("B", "C"): 0.5})
WON = pairs({("A", "B"): 0.01, ("A", "C"): 0.001, ("B", "C"): 0.5})


def text(*arguments, **keywords):
    said = conclusion.sentences(*arguments, **keywords)
    for sentence in said:
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert not set("\n_") & set(sentence)
        assert "nan" not in sentence
        assert "  " not in sentence
    assert said[-1] == conclusion.EDUCATION
    return " ".join(said)


def test_the_chosen_network_is_told_about_and_the_ranking_stays_one():
    said = text(scores(AUCS), LEAD, chosen="B")
    assert said.startswith(
        "B, chosen of 3 networks on the validation pictures, reaches an AUC of 0.850 (95 % "
        "interval 0.800 to 0.880) on 500 test pictures, 100 of them fractured."
    )
    assert "By AUC the order on the test pictures is A (0.900), B (0.850), C (0.700)." in said
    assert "tells B from A or C" in said
    assert "flattered" not in said
    first = text(scores(AUCS), LEAD)
    assert "A ranks first of 3 networks, with an AUC of 0.900 (95 % interval 0.850 to" in first
    assert "the first on the test is flattered by it" in first


def test_whom_the_chosen_network_is_told_from():
    assert "A is ahead of C, and not to be told from B." in text(scores(AUCS), LEAD, chosen="A")
    assert "By the paired" in text(scores(AUCS), LEAD, chosen="C")
    assert "C is behind A, and not to be told from B." in text(scores(AUCS), LEAD, chosen="C")
    assert "No paired test" in text(scores(AUCS), TIED, chosen="A")
    assert "cannot say which network is best" in text(scores(AUCS), TIED, chosen="A")
    assert "A is ahead of B and C." in text(scores(AUCS), WON, chosen="A")
    both = pairs({("A", "B"): 0.01, ("B", "C"): 0.01})
    assert "B is ahead of C and behind A." in text(scores(AUCS), both, chosen="B")


def test_swapped_classes_are_said_and_nothing_is_ranked():
    said = text(scores({"A": 0.2, "B": 0.15}), pairs({("A", "B"): 0.01}), points(), chosen="A")
    assert said.startswith(
        "The classes seem swapped: A and B put normal pictures above fractured ones, B with an AUC "
        "of 0.150 (95 % interval 0.100 to 0.180). Either their answers are probabilities of the "
        "other class"
    )
    assert "misses" not in said
    assert "order" not in said
    one = text(scores({"A": 0.9, "B": 0.15}), TIED)
    assert "swapped: B puts normal" in one
    assert "its answers are" in one
    assert "swapped" not in text(scores({"A": 0.48, "B": 0.6}), TIED)


def by_group(p=0.0004, few=False):
    row = {"column": "body_part", "model": "A", "sensitivity": 0.9, "p_sensitivity": 0.2}
    row |= {"sensitivity_low": 0.77, "sensitivity_high": 1.0, "p_sensitivity_holm": 0.4}
    row |= {"p_specificity": p / 2, "p_specificity_holm": p}
    hand = row | {"value": "hand", "n": 153, "positives": 31, "specificity": 0.672}
    leg = row | {"value": "leg", "n": 213, "positives": 25, "specificity": 0.936}
    hand |= {"specificity_low": 0.586, "specificity_high": 0.762}
    leg |= {"specificity_low": np.nan if few else 0.899, "specificity_high": 0.968}
    hip = row | {"value": "hip", "n": 6, "positives": 2, "specificity": np.nan}
    whole = {"column": "all", "value": "all", "model": "A", "n": 400, "positives": 60}
    return pd.DataFrame([whole | {"specificity": 0.2, "p_specificity": np.nan}, leg, hip, hand])


def test_a_flag_that_matters_is_told_in_words():
    table = by_group().replace({"hand": "1", "leg": "0", "body_part": "hardware"})
    said = text(scores(AUCS), TIED, chosen="A", by_group=table[table["value"] != "hip"])
    assert "its specificity is 67 % for pictures with hardware (95 % interval" in said
    assert "but 94 % for pictures without hardware (95 % interval" in said


def test_a_body_part_that_fares_worse_is_a_finding():
    assert (
        "A does not do alike for every body part: its specificity is 67 % for hand (95 % interval "
        "59 to 76 %; 122 normal pictures) but 94 % for leg (95 % interval 90 to 97 %; 188 normal "
        "pictures), and the values of body part differ by more than chance (p < 0.001 after "
        "Holm's correction for 2 tests)."
    ) in text(scores(AUCS), TIED, chosen="A", by_group=by_group())
    assert "alike" not in text(scores(AUCS), TIED, chosen="A", by_group=by_group(0.06))
    assert "alike" not in text(scores(AUCS), TIED, chosen="B", by_group=by_group())
    assert "(too few groups for an interval; 188" in text(
        scores(AUCS), TIED, chosen="A", by_group=by_group(few=True)
    )


def use_table(**changes):
    row = {"model": "A", "prevalence": 0.14, "ppv": 0.46, "ppv_low": 0.37, "ppv_high": 0.55}
    row |= {"npv": 0.96, "npv_low": 0.94, "npv_high": 0.98}
    return pd.DataFrame([row | changes])


def curve(low):
    thresholds = np.arange(1, 6) / 10
    table = pd.DataFrame({"model": "A", "threshold": thresholds, "net_benefit_low": low})
    return table.assign(treat_all=[0.1, 0.0, -0.1, -0.2, -0.3])


def test_what_it_is_worth_where_it_would_be_used():
    said = text(scores(AUCS), TIED, chosen="A", worth=use_table())
    assert (
        "Where 14 % of the pictures are fractured, 46 % of its alarms are right (95 % interval 37 "
        "to 55 %), and 96 % of the pictures that A calls normal are normal (95 % interval 94 to "
        "98 %)."
    ) in said
    never = use_table(ppv=np.nan, ppv_low=np.nan, ppv_high=np.nan)
    assert "it never calls a picture fractured" in text(scores(AUCS), TIED, chosen="A", worth=never)
    pays = text(scores(AUCS), TIED, chosen="A", net_benefit=curve([0, 0.05, 0.03, -0.1, -0.1]))
    assert (
        "At every threshold of its probability from 0.20 to 0.30, acting on A is shown to be worth "
        "more than acting on every picture and than acting on none (net benefit"
    ) in pays
    once = text(scores(AUCS), TIED, chosen="A", net_benefit=curve([0, 0.05, 0, -0.1, -0.1]))
    assert "At a threshold of 0.20, acting on A" in once
    never = text(scores(AUCS), TIED, chosen="A", net_benefit=curve([0, 0, -0.3, -0.1, -0.4]))
    assert "At no threshold of its probability, acting on A" in never


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (localisation.POINTS, "they point at the fracture."),
        (localisation.CENTRE, "better than chance, but not shown to be better than the middle."),
        (localisation.CHANCE, "they are not shown to point at the fracture."),
    ],
)
def test_heat_maps_are_told_what_they_are_worth(verdict, words):
    row = {"model": "A", "pictures": 60, "hit_rate": 0.6, "hit_rate_low": 0.45}
    row |= {"hit_rate_high": 0.7, "swapped": 0.08, "p_swapped": 0.0005, "centre": 0.52}
    row |= {"p_centre": 0.034, "energy_ratio": 2.41, "found_at_1": 0.7, "boxes": 67}
    row |= {"verdict": verdict}
    assert (
        "The heat maps of A are highest in or right beside the fracture in 60 % of 60 pictures "
        "(95 % interval 45 to 70 %), against 8 % for the maps of other pictures (p < 0.001) "
        f"and 52 % for the middle of the picture (p 0.034): {words} They hold 2.4 times as much in "
        "the box as an even map, and find 70 % of 67 boxed fractures at one false mark per picture."
    ) in text(scores(AUCS), LEAD, chosen="A", located=pd.DataFrame([row]))
    other = pd.DataFrame([row | {"model": "B"}])
    assert "heat maps" not in text(scores(AUCS), LEAD, located=other)
    assert "heat maps" not in text(scores(AUCS), LEAD)


def test_two_networks():
    two = {"A": 0.9, "B": 0.8}
    assert "A is ahead of B." in text(scores(two), pairs({("A", "B"): 0.01}))
    assert "tells A from B: this test set" in text(scores(two), pairs({("A", "B"): 0.4}))
    assert "tells A from B: this test set" in text(scores(two), pairs({("A", "B"): np.nan}))


def test_a_shared_first_place():
    level = scores({"A": 0.9, "B": 0.9, "C": 0.5})
    said = text(level, TIED)
    assert "A and B share the first place" in said
    assert "A and B (0.900), C (0.500)." in said
    both = text(scores({"A": 0.9, "B": 0.9}), pairs({("A", "B"): 1.0}), chosen="A")
    assert "On the test pictures A and B are level." in both
    assert "tells A from B" in both
    assert " it " not in both.split("At its threshold")[0]  # of two networks nobody is "it"


def test_one_network():
    said = text(scores({"A": 0.9}), pairs({}))
    assert "A, the only network, reaches" in said
    assert "tell" not in said


@pytest.mark.parametrize(("positives", "name"), [(0, "normal"), (20, "fractured")])
def test_one_class(positives, name):
    table = scores(AUCS, n=20, positives=positives, auc=np.nan, auc_low=np.nan, auc_high=np.nan)
    said = text(table, TIED, points(), stability=None)
    assert f"All 20 test pictures are {name}" in said
    assert ("misses" in said) == (name == "fractured")
    assert ("false alarm" in said) == (name == "normal")


def test_what_is_missed_at_which_threshold():
    said = text(scores(AUCS), TIED, points())
    assert "At its threshold of 0.31 (chosen on validation), A misses 20 of 100 fractures" in said
    assert "(20 %, 95 % interval 10 to 30 %)" in said
    assert "a false alarm on 80 of 400 normal pictures" in said
    none = scores(AUCS, sensitivity=1.0, sensitivity_low=0.96, sensitivity_high=1.0)
    assert "misses none of 100 fractures (0 %, 95 % interval 0 to 4 %)" in text(none, TIED)


def test_whether_probabilities_may_be_believed():
    said = text(scores(AUCS), TIED, points())
    assert "Calibrated on validation (slope 1.50), its probabilities are not shown to be" in said
    assert "observed over expected fractures 0.97 (0.80 to 1.20)" in said
    wrong = scores(AUCS, calibration_p=0.003)
    assert "should not be taken at their word" in text(wrong, TIED, points())
    assert "a bound: validation could not" in text(
        scores(AUCS), TIED, points().assign(at_bound=True)
    )
    few = scores(AUCS, calibration_p=np.nan)
    assert "cannot be judged on so few test pictures" in text(few, TIED, points())
    assert "nothing was calibrated" in text(scores(AUCS), TIED, points("default: none"))


def test_how_firm_the_order_is():
    stability = pd.DataFrame({"model": ["A", "B", "C"], "wins": [0.62, 0.38, 0.0]})
    said = text(scores(AUCS), TIED, stability=stability)
    assert (
        "62 % of the test sets put A first and 38 % B: that is how firm this order is, not" in said
    )
    sure = pd.DataFrame({"model": ["A", "B"], "wins": [0.997, 0.003]})
    assert "more than 99 % of the test sets put A first: that is" in text(
        scores(AUCS), WON, stability=sure
    )


def test_the_smallest_difference_that_the_test_shows_is_said():
    table = TIED.assign(difference_low=-0.05, difference_high=0.05)
    said = text(scores(AUCS), table)
    assert "in four cases of five is 0.071 (2.8 standard errors" in said
    assert "smallest difference" not in text(scores(AUCS), TIED.assign(difference_low=np.nan))


@pytest.mark.parametrize("positives", [0, 12, 49, 50, 200])
def test_a_threshold_chosen_on_few_fractures_is_warned_of(positives):
    point = points().assign(positives=positives, threshold_low=0.1, threshold_high=0.62)
    said = text(scores(AUCS), TIED, point)
    assert "(chosen on validation, 95 % interval 0.1 to 0.62)" in said
    assert ("fewer than 50" in said) == (positives < 50)


def test_ensembles_are_told_about_after_the_networks():
    four = pairs({("A", "B"): 0.4, ("A", "C"): 0.4, ("Ensemble", "A"): 0.01})
    said = text(scores(AUCS | {"Ensemble": 0.95}), four)
    assert "A ranks first of 3 networks" in said
    assert "The ensemble reaches 0.950" in said
    assert "significantly above A." in said


def test_warnings_where_they_are_due():
    plain = text(scores(AUCS), TIED)
    for word in ("phantoms", "random weights", "brightness", "interval is wide"):
        assert word not in plain
    assert "synthetic phantoms" in text(scores(AUCS), TIED, source="phantoms")
    assert "All networks started from random weights" in text(scores(AUCS, start="random"), TIED)
    assert "only 8 fractured test pictures" in text(scores(AUCS, n=100, positives=8), TIED)
    assert "a single normal test picture" in text(scores(AUCS, n=9, positives=8), TIED)
    probe = scores(AUCS | {"Metadata only": 0.75})
    assert "its mean brightness alone reach an AUC of 0.750" in text(probe, TIED)


def test_the_note_names_pictures_and_initialisation():
    note = conclusion.note("phantoms", {"A": "imagenet", "B": "random", "C": "imagenet"})
    assert note == (
        "Synthetic phantoms, not radiographs · random initialisation: B · "
        "ImageNet weights: A, C · research and education only"
    )
    assert conclusion.note("pictures", {"A": "released", "B": "released"}) == (
        "released weights: all networks · research and education only"
    )
    assert conclusion.note() == "research and education only"


def test_another_word_for_the_positive_class_is_used_everywhere():
    text = "Fractured: 3 of 4 fractures are fractured; a fracture is missed."
    assert conclusion.reword(text, "fractured") == text
    said = conclusion.reword(text, "abnormal")
    assert said == "Abnormal: 3 of 4 abnormalities are abnormal; an abnormality is missed."
    assert "positive means abnormal" in conclusion.note("pictures", {}, "abnormal")
    assert "abnormal" not in conclusion.note("pictures", {})


def whole_run(fractured, normal, twins=False, skill=1.5):
    """The sentences about two networks, by way of every table, on a set of one's own."""
    random, rows = np.random.default_rng(1), []
    labels = np.repeat(["fractured", "normal"], [fractured, normal])
    for split in ("validation", "test"):
        for model in ("VGG16", "MobileNet"):
            if not twins or model == "VGG16":
                logits = skill * (labels == "fractured") + random.normal(size=len(labels)) - 1
            part = {"label": labels, "split": split, "model": model, "logit": logits}
            paths = [f"{split}{k}" for k in range(len(labels))]
            part |= {
                "kind": "network",
                "path": paths,
                "group": paths,
                "probability": special.expit(logits),
            }
            rows.append(pd.DataFrame(part).assign(body_part=np.arange(len(labels)) % 2))
    raw = pd.concat(rows)
    operating = calibration.fit(raw)
    seen, chosen = calibration.apply(raw, operating), calibration.chosen(raw)
    table = metrics.scores(seen, {}, 200)
    return text(
        table, comparison.pairs(seen, 200), operating, comparison.rank_stability(seen, 200),
        chosen=chosen, net_benefit=use.decision_curve(seen),
        worth=use.table(seen, table, None, 200),
        by_group=subgroups.table(seen[seen["model"] == chosen], (), 200),
    )  # fmt: skip


@pytest.mark.parametrize(("fractured", "normal"), [(1, 5), (2, 9), (7, 30), (60, 370)])
@pytest.mark.parametrize("twins", [True, False])
def test_sets_of_any_size_are_told_about_soberly(fractured, normal, twins):
    said = whole_run(fractured, normal, twins)
    assert "inf" not in said
    assert ("interval is wide" in said) == (fractured < conclusion.FEW)
    assert not twins or "On the test pictures VGG16 and MobileNet are level." in said
    assert ("is shown to be worth more" in said) == (fractured >= subgroups.FEWEST)
    assert f"{fractured:,} of them fractured" in said


def test_a_set_with_swapped_classes_is_ranked_nowhere():
    said = whole_run(30, 60, skill=-2)
    assert "The classes seem swapped: VGG16 and MobileNet put" in said
    assert "chosen" not in said
