"""The probe that knows each file and no bone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import tables
from fracture_utils.evaluation import metrics, probe


def pictures(count=160, shortcut=True, groups=None, seed=0):
    """An images table and its files, whose width gives the class away, or not."""
    generator = np.random.default_rng(seed)
    number = np.arange(count)
    table = pd.DataFrame({"path": [f"{n}.png" for n in number]})
    table["label"] = np.where(number % 2, "fractured", "normal")
    table["split"] = np.select([number % 5 == 0, number % 7 == 0], ["test", "validation"], "train")
    table["group"] = [f"g{n}" for n in number] if groups is None else groups
    files = pd.DataFrame(generator.normal(100, 9, (count, 8)), columns=list(probe.METADATA))
    files["path"], files["jpeg_quality"] = table["path"], np.nan
    if shortcut:
        files["width"] = 64 + 8 * (number % 2)
    return table, files.sample(frac=1, random_state=1)


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_shortcut_is_found_and_only_one_that_is_there(shortcut):
    table, files = pictures(shortcut=shortcut)
    finding = probe.finding(table, files, 0)
    assert finding["severity"] == ("amber" if shortcut else "info")
    assert ("reach AUC 1.00 (0." in finding["what"]) == shortcut
    if shortcut:
        assert "most telling: width, alone 1.00" in finding["what"]
    predictions = probe.predictions(table, files, 0)
    assert list(predictions["path"]) == list(table.loc[table["split"] != "train", "path"])
    assert set(predictions["kind"]) == {"reference"}
    np.testing.assert_allclose(predictions["probability"], special.expit(predictions["logit"]))
    truth = predictions["label"] == "fractured"
    assert (roc_auc_score(truth, predictions["logit"]) > 0.95) == shortcut
    pd.testing.assert_frame_equal(probe.predictions(table, files, 0), predictions)
    assert probe.finding(table, files, 0) == finding


def test_its_rows_are_rows_of_the_tables(tmp_path):
    table, files = pictures()
    tables.write(tmp_path, "audit", pd.DataFrame([probe.finding(table, files, 0)]))
    tables.write(tmp_path, "predictions", probe.predictions(table, files, 0))


def test_few_groups_have_a_probe_but_no_verdict():
    table, files = pictures(40)
    few = table.assign(group=table["label"] + (np.arange(40) % 2).astype(str))
    finding = probe.finding(few, files, 0)
    assert finding["severity"] == "info"
    assert "needs 5 groups" in finding["what"]
    assert len(probe.predictions(few, files, 0)) == (table["split"] != "train").sum()


def test_what_a_group_shares_is_not_learnt_from_its_own_pictures():
    """Forty patients, each with a file size of its own: known by heart it would tell all."""
    group = np.repeat(np.arange(40), 8)
    table, files = pictures(320, shortcut=False, groups=[f"g{n}" for n in group])
    label = np.random.default_rng(3).permutation(40) % 2
    table["label"] = np.where(label[group], "fractured", "normal")
    own = np.random.default_rng(4).uniform(1, 9, 40)
    files["file_bytes"] = files["path"].map(dict(zip(table["path"], own[group], strict=True)))
    assert probe.finding(table, files, 0)["severity"] == "info"


SMALL = st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=60, max_size=120)


@given(SMALL, st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_whatever_the_groups_there_is_a_sentence_without_a_warning(rows, seed):
    table, files = pictures(len(rows), groups=[f"g{group}" for _, group in rows], seed=seed)
    table["label"] = ["fractured" if fractured else "normal" for fractured, _ in rows]
    what = probe.finding(table, files, seed)["what"]
    assert "nan" not in what
    assert "reach AUC" in what or "needs 5 groups" in what


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=8, max_size=60))
@settings(max_examples=40, deadline=None)
def test_the_auc_is_that_of_scikit_learn_and_lies_in_its_interval(rows):
    truth, score = (np.array(part) for part in zip((True, 3), (False, 3), *rows, strict=True))
    auc, low, high = metrics.auc_with_interval(truth.astype(int), score, np.arange(len(truth)))
    assert auc == pytest.approx(roc_auc_score(truth, score))
    if min(truth.sum(), (~truth).sum()) > 1:
        assert low <= auc + 1e-9
        assert auc <= high + 1e-9
    else:
        assert np.isnan(low)
