"""Which columns make subgroups, their estimates, and the tests of differences."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fracture_utils import tables
from fracture_utils.evaluation import metrics, subgroups


def predictions(cells, model="A", of=1):
    """Test rows of one model: cells maps (body part, label) to (right, wrong) images."""
    rows, number = [], 0
    for (part, label), counts in cells.items():
        for right, count in zip((True, False), counts, strict=True):
            for _ in range(count):
                number += 1
                other = {"normal": "fractured", "fractured": "normal"}[label]
                decision = label if right else other
                probability = (0.2, 0.8)[decision == "fractured"] + number / 1e5
                group = f"g{number // of}"
                rows.append((f"{number}.png", group, label, decision, probability, part))
    names = ["path", "group", "label", "decision", "probability", "body_part"]
    table = pd.DataFrame(rows, columns=names).assign(split="test", model=model, kind="network")
    return table.assign(logit=np.log(table["probability"] / (1 - table["probability"])))


FRACATLAS = {
    ("hand", "fractured"): (28, 3), ("hand", "normal"): (82, 40),
    ("leg", "fractured"): (18, 4), ("leg", "normal"): (188, 12),
    ("hip", "fractured"): (1, 1), ("hip", "normal"): (4, 0),
}  # fmt: skip


def test_a_lower_specificity_for_hands_is_significant():
    table = subgroups.table(predictions(FRACATLAS))
    assert list(table) == tables.columns("subgroups")
    assert list(table["value"]) == ["all", "hand", "hip", "leg"]
    rows = table.set_index("value")
    assert rows.loc["all", "n"] == 381
    assert rows.loc["all", "specificity"] == pytest.approx(274 / 326)
    assert rows.loc["hand", "specificity"] == pytest.approx(82 / 122)
    assert rows.loc["hand", "p_specificity_holm"] < 1e-6
    assert rows.loc["hand", "p_specificity_holm"] == rows.loc["leg", "p_specificity_holm"]
    assert rows.loc["hand", "p_sensitivity_holm"] > 0.05
    assert np.isnan(rows.loc["all", "p_specificity"])
    assert list(rows.loc["hip", ["n", "positives"]]) == [6, 2]
    assert rows.loc["hip", ["auc", "sensitivity", "specificity", "specificity_low"]].isna().all()


def test_holm_counts_every_column_and_both_measures():
    predicted = predictions(FRACATLAS)
    predicted["view"] = np.where(np.arange(len(predicted)) % 3 > 0, "frontal", "lateral")
    table = subgroups.table(predicted)
    tests = table.drop_duplicates("column").iloc[1:]
    raw = tests[["p_sensitivity", "p_specificity"]].to_numpy().ravel()
    adjusted = tests[["p_sensitivity_holm", "p_specificity_holm"]].to_numpy().ravel()
    assert len(raw) == 4
    assert adjusted[raw.argmin()] == pytest.approx(4 * raw.min())


def test_columns_of_one_value_or_that_determine_the_class_are_left_out():
    predicted = predictions(FRACATLAS)
    predicted["hardware"] = np.where(predicted["label"] == "fractured", "1", "0")
    predicted["sex"] = np.where(np.arange(len(predicted)) % 2, "f", "")
    assert set(subgroups.table(predicted)["column"]) == {"all", "body_part"}


@pytest.mark.parametrize("missing", ["", np.nan])
def test_missing_values_are_left_out(missing):
    predicted = predictions(FRACATLAS)
    predicted.loc[predicted["body_part"] == "hip", "body_part"] = missing
    table = subgroups.table(predicted).set_index("value")
    assert set(table.index) == {"all", "hand", "leg"}
    assert table.loc["hand", "p_specificity_holm"] < 1e-6
    perfect = subgroups.table(predicted.assign(decision=predicted["label"])).set_index("value")
    assert perfect.loc["hand", "p_specificity_holm"] == 1


def test_one_class_has_counts_and_no_warning():
    predicted = predictions({("hand", "normal"): (30, 4), ("leg", "normal"): (9, 1)})
    table = subgroups.table(predicted)
    assert table["sensitivity"].isna().all()
    assert list(table["n"]) == [44, 34, 10]


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=5))
def test_without_groups_the_test_is_pearsons(counts):
    counts = [(right + 1, wrong) for right, wrong in counts]
    right = np.concatenate([np.arange(a + b) < a for a, b in counts])
    values = np.repeat([f"v{k}" for k in range(len(counts))], [a + b for a, b in counts])
    p = subgroups.heterogeneity(right, values, np.arange(len(right)).astype(str))
    if right.all():
        assert p == 1
    else:
        assert p == pytest.approx(stats.chi2_contingency(counts, correction=False).pvalue)


def test_the_test_keeps_its_level_with_several_images_per_patient():
    """Three groups of twenty patients with four similar images each, equal in truth."""
    random, grouped, naive = np.random.default_rng(0), 0, 0
    values, groups = np.repeat(["a", "b", "c"], 80), np.repeat(np.arange(60), 4).astype(str)
    for _ in range(1000):
        patient = random.beta(2, 1, 60)  # some patients are hard
        right = random.random(240) < patient.repeat(4)
        grouped += subgroups.heterogeneity(right, values, groups) < 0.05
        naive += subgroups.heterogeneity(right, values, np.arange(240).astype(str)) < 0.05
    assert 0.03 < grouped / 1000 < 0.08
    assert naive / 1000 > 0.12


def test_estimates_are_those_of_the_scores_of_the_same_rows():
    rows = predictions(FRACATLAS, of=2)
    result = subgroups.table(rows).set_index("value")
    for value in ("all", "hand"):
        own = rows if value == "all" else rows[rows["body_part"] == value]
        expected = metrics.scores(own, resamples=10).iloc[0]
        columns = [c for c in result if c.split("_")[0] in ("auc", "sensitivity", "specificity")]
        np.testing.assert_allclose(result.loc[value, columns].astype(float),
                                   expected[columns].astype(float))  # fmt: skip
