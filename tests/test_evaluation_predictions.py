"""Anybody's table of predictions: read as it was meant, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special

from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import rescoring
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


def test_a_kind_that_is_none_is_refused(tmp_path):
    rows = "path,label,model,probability,kind\na,1,A,0.9,Network\nb,0,A,0.1,variant\n"
    with pytest.raises(InputError, match="row 3: the kind 'variant' is none of network, ensemble"):
        read(write(tmp_path / "p.csv", rows))


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
        ("", "is no table"),
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
    (tmp_path / "b.csv").write_bytes(b"\x89PNG\xff\xfe\x00\x81")
    for name in ("none.csv", "b.csv", "."):
        with pytest.raises(InputError, match="is no table"):
            read(tmp_path / name)


def test_patients_are_known_where_one_is_named():
    predictions = pd.DataFrame({"path": ["a", "b"]})
    assert not knows_patients(predictions)
    assert not knows_patients(predictions.assign(patient=["", np.nan]))
    assert knows_patients(predictions.assign(study=["", "s1"]))


PLAIN = "path,label,model,probability\na,1,A,0.25\nb,0,A,0.5\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_however_a_spreadsheet_saved_it(tmp_path, separator, encoding):
    text = PLAIN.replace("path,label", " Path ,LABEL").replace("\nb", "\n,,,\nb") + ",,,\n\n"
    text = text.replace(",", separator)
    if separator != ",":
        text = text.replace("0.", "0,")
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode(encoding))
    found = read(path)
    assert list(found.index) == [0, 1]
    assert list(found["path"]) == ["a", "b"]
    assert list(found["label"]) == ["fractured", "normal"]
    assert list(found["probability"]) == [0.25, 0.5]


def test_rows_are_counted_as_in_the_file(tmp_path):
    text = PLAIN.replace("b,0,A,0.5", ",,,\n\nb,0,A,high")
    with pytest.raises(InputError, match="row 5: the probability 'high'"):
        read(write(tmp_path / "p.csv", text))


def test_a_column_given_twice_is_one_sentence(tmp_path):
    text = PLAIN.replace("label,", "label,Label,").replace("a,1", "a,1,1").replace("b,0", "b,0,0")
    with pytest.raises(InputError, match="two columns label"):
        read(write(tmp_path / "p.csv", text))


def test_what_follows_from_an_answer_tells_nothing_of_pictures(tmp_path):
    head = "path,label,model,probability,body_part,Predicted,margin\n"
    rows = "a,1,A,0.9,hand,1,3\nb,0,A,0.4,leg,0,4\na,1,B,0.7,hand,1,5\nb,0,B,0.6,leg,1,4\n"
    found = read(write(tmp_path / "p.csv", head + rows))
    assert "body_part" in found
    assert not {"Predicted", "margin"} & set(found)


def test_a_file_with_predicted_beside_is_scored(tmp_path):
    case = Path(__file__).parent / "cases" / "evaluation_extra_column" / "predicted.csv"
    rescoring.evaluate(case, Config(results_dir=tmp_path, resamples=100))
    scores = pd.read_csv(tmp_path / "scores.csv")
    assert list(scores["model"]) == ["A", "B", "Majority class"]
    assert set(pd.read_csv(tmp_path / "subgroups.csv")["column"]) == {"all"}
