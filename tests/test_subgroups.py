"""Which columns make subgroups, what they get, and whether a difference between them is one."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fracture_utils.errors import InputError
from fracture_utils.evaluation import plots, subgroups


def predictions(cells, model="A", of=1):
    """Test rows of one model: cells maps (body part, label) to (right, wrong) pictures."""
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


def test_a_specificity_that_falls_for_hands_is_a_finding():
    table = subgroups.table(predictions(FRACATLAS), resamples=200)
    assert list(table) == list(subgroups.COLUMNS)
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
    seen = predictions(FRACATLAS)
    seen["view"] = np.where(np.arange(len(seen)) % 3 > 0, "frontal", "lateral")
    table = subgroups.table(seen, resamples=100)
    tests = table.drop_duplicates("column").iloc[1:]
    raw = tests[["p_sensitivity", "p_specificity"]].to_numpy().ravel()
    adjusted = tests[["p_sensitivity_holm", "p_specificity_holm"]].to_numpy().ravel()
    assert len(raw) == 4
    assert adjusted[raw.argmin()] == pytest.approx(4 * raw.min())


def test_what_gives_the_class_away_or_says_the_same_is_no_subgroup():
    seen = predictions(FRACATLAS)
    seen["region"] = seen["body_part"].str.upper()
    seen["hardware"] = (seen["label"] == "fractured").astype(int)
    seen["original_width"] = np.arange(len(seen)) % 3
    seen["sex"] = np.where(np.arange(len(seen)) % 2, 1.0, np.nan)
    assert subgroups.columns(seen) == ["body_part"]
    assert subgroups.columns(seen, ["original_width"]) == ["original_width", "body_part"]
    assert subgroups.columns(seen, ["region"]) == ["region"]
    for wrong, reason in {"hardware": "one class", "sex": "1 different", "ward": "no such"}.items():
        with pytest.raises(InputError, match=reason):
            subgroups.columns(seen, [wrong])
    with pytest.raises(InputError, match="says the same as region"):
        subgroups.columns(seen, ["region", "body_part"])


def test_a_missing_value_is_no_group_and_two_models_are_tested_apart():
    seen = predictions(FRACATLAS)
    seen.loc[seen["body_part"] == "hip", "body_part"] = np.nan
    other = seen.assign(model="B", decision=seen["label"])
    table = subgroups.table(pd.concat([seen, other]), resamples=100)
    assert set(table["value"]) == {"all", "hand", "leg"}
    p = table[table["column"] == "body_part"].groupby("model")["p_specificity_holm"].first()
    assert p["A"] < 1e-6
    assert p["B"] == 1


def test_one_class_gets_counts_and_no_warning():
    seen = predictions({("hand", "normal"): (30, 4), ("leg", "normal"): (9, 1)})
    table = subgroups.table(seen, resamples=100)
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


def test_patients_of_many_pictures_are_not_taken_for_many_patients():
    """Three groups of twenty patients with four like pictures each: alike in truth."""
    random, found, naive = np.random.default_rng(0), 0, 0
    values, groups = np.repeat(["a", "b", "c"], 80), np.repeat(np.arange(60), 4).astype(str)
    for _ in range(1000):
        patient = random.beta(2, 1, 60)  # some patients are hard
        right = random.random(240) < patient.repeat(4)
        found += subgroups.heterogeneity(right, values, groups) < 0.05
        naive += subgroups.heterogeneity(right, values, np.arange(240).astype(str)) < 0.05
    assert 0.03 < found / 1000 < 0.08
    assert naive / 1000 > 0.12


def test_the_design_effect_is_that_of_copies():
    right = np.random.default_rng(0).random(400) < 0.7
    groups = np.arange(400).astype(str)
    assert subgroups.design_effect(right, groups) == 1
    thrice = subgroups.design_effect(right.repeat(3), groups.repeat(3))
    assert thrice == pytest.approx(3, rel=0.01)


def test_the_figure_is_of_the_network_that_was_chosen_though_another_comes_first():
    seen = predictions(FRACATLAS)
    scores = pd.DataFrame({"model": ["A", "B"], "kind": "network", "auc": [0.7, 0.9]})
    chart = plots.subgroups(subgroups.table(seen, resamples=50), seen, scores)
    assert "A by subgroup" in chart.get_suptitle()
    assert chart.png()
