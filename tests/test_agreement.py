import pandas as pd
import pytest

from fracture_utils.data import agreement


def table(**counts):
    """`validation=(fractured, normal)` pictures and so on."""
    rows = [
        (split, label)
        for split, numbers in counts.items()
        for label, number in zip(("fractured", "normal"), numbers, strict=True)
        for _ in range(number)
    ]
    return pd.DataFrame(rows, columns=["split", "label"])


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
