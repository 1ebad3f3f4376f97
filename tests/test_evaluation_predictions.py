"""Anybody's table of predictions: read as it was meant, or refused in one sentence."""

import numpy as np
import pandas as pd
import pytest
from scipy import special

from fracture_utils.errors import InputError
from fracture_utils.evaluation.predictions import knows_patients, read


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_four_columns_suffice(tmp_path):
    path = write(tmp_path / "p.csv", "path,label,model,probability\n01,1,A,0.9\n02,Normal,A,0\n")
    found = read(path)
    assert list(found["path"]) == ["01", "02"]
    assert list(found["label"]) == ["fractured", "normal"]
    assert list(found["split"]) == ["test", "test"]
    assert list(found["group"]) == ["01", "02"]
    assert np.isfinite(found["logit"]).all()
    assert list(special.expit(found["logit"])) == pytest.approx([0.9, 0])


def test_a_logit_counts_only_where_it_can_be_calibrated(tmp_path):
    head = "path,label,model,probability,logit,split\n"
    alone = write(tmp_path / "p.csv", head + "a,1,NA,0.9,50,test\n")
    assert read(alone)["logit"].iloc[0] == pytest.approx(special.logit(0.9))
    assert read(alone)["model"].iloc[0] == "NA"
    both = write(tmp_path / "p.csv", head + "a,1,A,0.9,50,test\nb,1,A,0.9,40,validation\n")
    assert list(read(both)["logit"]) == [50, 40]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ("path,label,model\n1,1,A\n", "no column probability"),
        ("path,label,model,probability\n", "no rows"),
        ("path,label,model,probability\na,1,A,0.5\nb,1,A,high\n", "row 3: the probability 'high'"),
        ("path,label,model,probability\na,1,A,1.2\n", "row 2: the probability '1.2' is no number"),
        ("path,label,model,probability\na,1,A,inf\n", "is no number from 0 to 1"),
        ("path,label,model,probability\na,1,A,\n", "probability 'nan' is empty"),
        ("path,label,model,probability\na,broken,A,0.5\n", "'broken' is neither"),
        ("path,label,model,probability,split\na,1,A,0.5,dev\n", "'dev' is none of train"),
        ("path,label,model,probability,logit,split\na,1,A,.5,x,validation\n", "'x' is no finite"),
        ("path,label,model,probability\na,1,A,0.5\na,1,A,0.6\n", "more than one prediction for a"),
        ("path,label,model,probability\na,1,A,0.5\na,0,B,0.6\n", "a has two labels"),
        ("path,label,model,probability\na,1,A,.5\nb,0,A,.5\na,1,B,.6\n", "B has no prediction"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, text, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read(write(tmp_path / "p.csv", text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_one_sentence(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("none.csv", "b.csv", "."):
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / name)


def test_patients_are_known_where_one_is_named():
    predictions = pd.DataFrame({"path": ["a", "b"]})
    assert not knows_patients(predictions)
    assert not knows_patients(predictions.assign(patient=["", np.nan]))
    assert knows_patients(predictions.assign(study=["", "s1"]))
