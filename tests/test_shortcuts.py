"""The metadata-only baseline detects planted shortcuts and no others."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import tables
from fracture_utils.data.dataset import Dataset
from fracture_utils.evaluation import metrics, shortcuts


def make(count=160, shortcut=True, groups=None, seed=0):
    """A data set of `count` images, whose width determines the class, or not."""
    random, number = np.random.default_rng(seed), np.arange(count)
    images = pd.DataFrame({"path": [f"{n}.png" for n in number]})
    images["label"] = np.where(number % 2, "fractured", "normal")
    images["split"] = np.select([number % 5 == 0, number % 7 == 0], ["test", "validation"], "train")
    images["group"] = [f"g{n}" for n in number] if groups is None else groups
    files = pd.DataFrame(random.normal(100, 9, (count, 8)), columns=shortcuts.METADATA)
    files = files.assign(path=images["path"], jpeg_quality=np.nan).drop(columns="aspect")
    if shortcut:
        files["width"] = 64 + 8 * (number % 2)
    empty = pd.DataFrame()
    shuffled = files.sample(frac=1, random_state=1)
    return Dataset(Path(), images, shuffled, empty, empty, np.zeros(0), empty)


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_shortcut_is_detected_where_there_is_one(shortcut, tmp_path):
    data = make(shortcut=shortcut)
    finding = shortcuts.finding(data, 0)
    assert finding["severity"] == ("amber" if shortcut else "info")
    assert ("reach an AUC of 1.00" in finding["finding"]) == shortcut
    assert shortcuts.finding(data, 0) == finding
    predictions = shortcuts.predictions(data)
    expected = data.images.loc[data.images["split"] != "train", "path"]
    assert list(predictions["path"]) == list(expected)
    assert set(predictions["kind"]) == {"reference"}
    np.testing.assert_allclose(predictions["probability"], special.expit(predictions["logit"]))
    labels = predictions["label"] == "fractured"
    assert (roc_auc_score(labels, predictions["logit"]) > 0.95) == shortcut
    pd.testing.assert_frame_equal(shortcuts.predictions(data), predictions)
    tables.write(tmp_path, "audit", pd.DataFrame([finding]))
    tables.write(tmp_path, "predictions", predictions)


def test_few_groups_have_a_baseline_but_no_assessment():
    data = make(40)
    groups = data.images["label"] + (np.arange(40) % 2).astype(str)
    data = data._replace(images=data.images.assign(group=groups))
    finding = shortcuts.finding(data, 0)
    assert finding["severity"] == "info"
    assert "needs 5 groups" in finding["finding"]
    assert len(shortcuts.predictions(data)) == (data.images["split"] != "train").sum()


def test_what_a_group_shares_is_not_learned_from_its_own_images():
    """Forty patients, each with a file size of its own: memorized, it would predict all labels."""
    group = np.repeat(np.arange(40), 8)
    data = make(320, shortcut=False, groups=[f"g{n}" for n in group])
    label = np.random.default_rng(3).permutation(40) % 2
    own = np.random.default_rng(4).uniform(1, 9, 40)
    data.images["label"] = np.where(label[group], "fractured", "normal")
    sizes = dict(zip(data.images["path"], own[group], strict=True))
    data.files["file_bytes"] = data.files["path"].map(sizes)
    assert shortcuts.finding(data, 0)["severity"] == "info"


SMALL = st.lists(st.tuples(st.booleans(), st.integers(0, 30)), min_size=60, max_size=120)


@given(SMALL, st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_any_groups_give_a_finding_without_a_warning(rows, seed):
    data = make(len(rows), groups=[f"g{group}" for _, group in rows], seed=seed)
    data.images["label"] = ["fractured" if fractured else "normal" for fractured, _ in rows]
    finding = shortcuts.finding(data, seed)["finding"]
    assert "nan" not in finding
    assert "reach an AUC" in finding or "needs 5 groups" in finding


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=8, max_size=60))
@settings(max_examples=40, deadline=None)
def test_the_auc_is_that_of_scikit_learn_and_lies_in_its_interval(rows):
    labels, scores = (np.array(part) for part in zip((True, 3), (False, 3), *rows, strict=True))
    auc, low, high = metrics.auc_with_interval(labels.astype(int), scores, np.arange(len(labels)))
    assert auc == pytest.approx(roc_auc_score(labels, scores))
    if min(labels.sum(), (~labels).sum()) > 1:
        assert low <= auc + 1e-9
        assert auc <= high + 1e-9
    else:
        assert np.isnan(low)
