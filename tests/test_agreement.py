import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracture_utils.data import agreement


def table(**counts):
    """`validation=(fractured, normal)` pictures and so on."""
    rows = [
        (split, label)
        for split, numbers in counts.items()
        for label, number in zip(("fractured", "normal"), numbers, strict=True)
        for _ in range(number)
    ]
    made = pd.DataFrame(rows, columns=["split", "label"])
    numbers = made.index.astype(str)
    return made.assign(path=made["split"] + "/" + numbers + ".png", group="patient" + numbers)


@pytest.mark.parametrize(
    ("validation", "test", "said"),
    [((49, 51), (60, 370), "too high (their odds 5.9 times)"),
     ((60, 370), (49, 51), "too low (their odds 5.9 times)"),
     ((14, 86), (60, 370), None), ((3, 4), (3, 8), None)],
)  # fmt: skip
def test_another_mixture_in_test_is_said_with_what_it_does(validation, test, said):
    found = agreement.findings(table(validation=validation, test=test))
    assert len(found) == (said is not None)
    for row in found:
        assert (row["severity"], row["check"]) == ("amber", "prevalence")
        assert said in row["what"]
        assert "predictive values" in row["what"]


def test_one_patient_for_every_picture_is_said():
    same = table(train=(3, 3), validation=(1, 1), test=(2, 2)).assign(patient="dicom-ab")
    (row,) = agreement.findings(same)
    assert row["severity"] == "amber"
    assert "every picture is dicom-ab" in row["what"]
    several = same.assign(patient=[f"p{k}" for k in range(len(same))])
    assert agreement.findings(several) == []


@given(st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 5))))
def test_every_group_in_two_splits_is_red_and_no_other(rows):
    made = pd.DataFrame(rows, columns=["split", "group"]).assign(label="normal")
    made["path"] = made["split"] + "/" + made.index.astype(str) + ".png"
    made["group"] = "patient" + made["group"].astype(str)
    found = [row for row in agreement.findings(made) if row["check"] == "group in two splits"]
    splits = made.groupby("group")["split"].agg(set)
    assert {row["what"].split()[0] for row in found} == set(splits[splits.map(len) > 1].index)
    for row in found:
        assert row["severity"] == "red"
        said = splits[row["what"].split()[0]]
        assert row["path"].split("/")[0] != row["other"].split("/")[0]
        for split in said:
            assert f" in {split}" in row["what"]


def test_runs_of_neighbours_are_no_patients():
    """Most pictures of train in runs of numbers, those of test alone: nobody knows the patients."""
    made = table(train=(6, 6), test=(2, 2))
    trained = made["split"] == "train"
    runs = "block" + (made.index // 4).astype(str)
    guessed = made.assign(group=made["path"].mask(trained, runs))
    (row,) = agreement.findings(guessed)
    assert (row["severity"], row["check"]) == ("amber", "no patients")
    assert "runs of neighbouring numbers" in row["what"]
    assert not agreement.findings(made)
