import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_utils.data import duplicates, groups


def patients(sizes):
    """A row a picture; `sizes` has (normal, fractured) pictures of each patient."""
    rows = [
        (f"p{number}", label)
        for number, counts in enumerate(sizes)
        for label, count in zip(("normal", "fractured"), counts, strict=True)
        for _ in range(count)
    ]
    return pd.DataFrame(rows, columns=["group", "label"])


PATIENT = st.tuples(st.integers(0, 4), st.integers(0, 3)).filter(any)


@given(st.lists(PATIENT, min_size=60, max_size=200), st.integers(0, 99), st.floats(0.1, 0.25))
@settings(max_examples=60, deadline=None)
def test_each_class_gives_its_share_to_within_a_patient(sizes, seed, share):
    sizes = [*sizes, *[(1, 0)] * 100]  # enough normal patients to fill up with
    pictures = patients(sizes)
    chosen = pictures["group"].isin(groups.lowest(pictures, share, seed))
    for label in ("normal", "fractured"):
        of_class = pictures["label"] == label
        if of_class.sum():
            wanted = share * of_class.sum()
            assert (chosen & of_class).sum() == pytest.approx(wanted, abs=4)


ONE = st.sampled_from([(1, 0), (0, 1)])


@given(st.lists(ONE, min_size=4, max_size=120), ONE, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_an_added_patient_moves_one_other_at_most(sizes, added, seed):
    before = groups.lowest(patients(sizes), 0.2, seed)
    after = groups.lowest(patients([*sizes, added]), 0.2, seed) - {f"p{len(sizes)}"}
    assert len(before ^ after) <= 1


def test_one_class_is_told_from_the_other_by_no_split():
    """The fault: 49 % fractured in validation where train had 36 %, by a coin for each group."""
    for seed in range(20):
        pictures = patients([(0, 1) if number % 3 else (2, 0) for number in range(120)])
        chosen = pictures["group"].isin(groups.lowest(pictures, 0.2, seed))
        fractured = (pictures["label"] == "fractured").groupby(chosen).mean()
        assert abs(fractured[True] - fractured[False]) < 0.02


@pytest.mark.parametrize("column", groups.IDENTITIES)
def test_one_identity_for_every_picture_is_not_believed(column, tmp_path):
    names = [f"{split}/{label}/{k}.png" for split in ("train", "test")
             for label in ("normal", "fractured") for k in range(4)]  # fmt: skip
    parts = [name.split("/") for name in names]
    pictures = pd.DataFrame(
        {"path": names, "split": [p[0] for p in parts], "label": [p[1] for p in parts]}
    )
    thumbnails = np.random.default_rng(0).integers(
        0, 255, (len(names), duplicates.SIDE, duplicates.SIDE), np.uint8
    )
    same = pictures.assign(**{column: "ANON"})
    assert groups.empty_identities(same, column) == ["ANON"] * 2
    found = groups.of(same, thumbnails, tmp_path)
    assert found.nunique() == len(names)
    told = pictures.assign(**{column: ["ANON"] * 15 + ["other"]})
    assert groups.empty_identities(told, column) == ["ANON"]
    assert groups.of(told, thumbnails, tmp_path).iloc[-1] == "other"


def test_numbered_neighbours_of_train_stay_together_where_nothing_else_is_known(tmp_path):
    names = [f"train/normal/IMG{k:04}.jpg" for k in range(0, 100, 10)]
    names += ["train/normal/IMG0041-aug.jpg", "train/normal/plain.jpg", "test/normal/IMG0001.jpg"]
    pictures = pd.DataFrame({"path": names, "label": "normal", "group": "", "study": ""})
    pictures["split"] = pictures["path"].str.split("/").str[0]
    pictures.loc[0, "study"] = "known"
    side = duplicates.SIDE
    thumbnails = np.random.default_rng(0).integers(0, 255, (len(names), side, side), np.uint8)
    found = groups.of(pictures, thumbnails, tmp_path, neighbours=25)
    assert list(found[1:10]) == [f"block{k // 25}" for k in range(10, 100, 10)]
    assert found[0] == "known"
    assert found[11:].is_unique
    assert not found[11:].str.startswith("block").any()
    assert groups.of(pictures, thumbnails, tmp_path)[1:].nunique() == 12
