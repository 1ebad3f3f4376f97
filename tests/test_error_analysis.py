"""Most confident errors and suspected label errors, also against cleanlab."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fracture_utils import tables
from fracture_utils.evaluation import error_analysis
from fracture_utils.evaluation.predictions import KIND_OF


def predictions(logits):
    """Predictions of some models for two fractured and two normal images a split."""
    rows = [
        (f"{split}{k}", f"g{split}{k}", ("fractured", "normal")[k // 2], split, model, logit)
        for model, values in logits.items()
        for split in ("validation", "test")
        for k, logit in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["path", "group", "label", "split", "model", "logit"])
    probability = 1 / (1 + np.exp(-table["logit"]))
    decision = np.where(probability >= 0.5, "fractured", "normal")
    kind = table["model"].map(KIND_OF).fillna("network")
    table = table.assign(kind=kind, probability=probability, decision=decision)
    return table.assign(body_part="hand")


def test_false_negatives_come_first_and_the_most_confident_of_each():
    rows = predictions({"A": [-3, -1, 2, -4], "B": [5, 5, 5, 5], "Ensemble": [2, 4, -1, 3]})
    table = error_analysis.most_confident(rows, ["A", "Ensemble"], 2)
    assert list(table["model"]) == ["A"] * 3 + ["Ensemble"]
    assert list(table["outcome"]) == ["false negative"] * 2 + ["false positive"] * 2
    assert list(table["path"]) == ["test0", "test1", "test2", "test3"]
    assert list(table)[:6] == tables.columns("most_confident_errors")[:6]
    assert "body_part" in table
    assert not {"split", "logit"} & set(table)
    fewest = error_analysis.most_confident(rows, ["A", "no such model"], 1)
    assert list(fewest["path"]) == ["test0", "test2"]
    none = error_analysis.most_confident(rows, ["no such model"])
    assert list(none) == list(table)
    assert none.empty


def test_labels_are_suspected_where_all_networks_confidently_contradict_them():
    rows = predictions({"A": [-3, 3, 3, -3], "B": [-2, 3, 0.1, -3], "Ensemble": [3, 3, 3, 3]})
    table = error_analysis.suspected_label_errors(rows)
    assert sorted(table["path"]) == ["test0", "validation0"]
    assert (table["models"] == 2).all()
    row = table.iloc[0]
    assert row["least_confident"] == pytest.approx(1 / (1 + np.exp(2)))
    normal = 1 / (1 + np.exp([0.1, -3]))  # what B gives to the images labelled normal
    assert row["threshold"] == pytest.approx(1 - normal.mean())
    assert list(table) == tables.columns("suspected_label_errors")
    assert error_analysis.suspected_label_errors(predictions({"A": [3, 3, -3, -3]})).empty
    one_class = rows[rows["label"] == "normal"]
    assert error_analysis.suspected_label_errors(one_class).empty
    assert error_analysis.suspected_label_errors(rows.head(0)).empty


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(0.05, 0.95))
def test_confidence_is_that_of_cleanlab(seed, count, share):
    from cleanlab.count import compute_confident_joint, get_confident_thresholds

    random = np.random.default_rng(seed)
    fractured = random.random(count) < share
    fractured[:2] = True, False
    probability = random.beta(1, 1 + random.random() * 8, count).round(random.integers(1, 4))
    contradicts, thresholds = error_analysis.confident(fractured, probability)
    both, labels = np.column_stack([1 - probability, probability]), fractured.astype(int)
    np.testing.assert_allclose(thresholds, get_confident_thresholds(labels, both), atol=3e-6)
    assume((thresholds > 1e-5).all())  # below, cleanlab puts a floor
    result = compute_confident_joint(labels, both, return_indices_of_off_diagonals=True)[1]
    assert set(np.flatnonzero(contradicts)) == set(result)


def test_the_prevalence_is_no_confident_prediction():
    """A model that predicts the prevalence, 0.14, of every image contradicts no label."""
    fractured = np.arange(100) < 14
    assert not error_analysis.confident(fractured, np.linspace(0.15, 0.13, 100))[0][20:60].any()
    sure = np.where(fractured, 0.6, 0.05)
    sure[[0, 50]] = 0.01, 0.9
    assert list(np.flatnonzero(error_analysis.confident(fractured, sure)[0])) == [0, 50]
