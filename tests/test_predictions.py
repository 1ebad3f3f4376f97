"""Anybody's table of predictions: read as it was meant, or refused in one sentence."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from examples import model_rows
from scipy import special

from fracture_utils.config import OUT_OF_FOLD, InputError
from fracture_utils.evaluation import calibration, metrics, subgroups
from fracture_utils.evaluation.predictions import (
    by_patient,
    calibrating,
    compared,
    folds_of,
    matrix,
    out_of_fold,
    read,
)

HEAD = "path,label,model,probability"
PLAIN = f"{HEAD}\na,1,A,0.25\nb,0,A,0.5\n"


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "p.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_four_columns_suffice(file):
    table = read(file(f"{HEAD}\n01,1,A,0.9\n02,Normal,A,0\n"))
    assert list(table["path"]) == list(table["group"]) == ["01", "02"]
    assert "fold" not in table
    assert list(table["label"]) == ["fractured", "normal"]
    assert set(table["split"]) == {"test"}
    assert np.isfinite(table["logit"]).all()
    assert list(special.expit(table["logit"])) == pytest.approx([0.9, 0])


def test_labels_and_splits_may_be_named_as_in_images_csv(file):
    words = "Positive,valid", "no fracture,VALIDATION", "abnormal,Testing", "Healthy,test"
    rows = [",".join([f"{n}", word.split(",")[0], "A", "0.5", word.split(",")[1]])
            for n, word in enumerate(words)]  # fmt: skip
    table = read(file("\n".join([f"sep=,\n{HEAD},Split", *rows])))
    assert list(table["label"]) == ["fractured", "normal"] * 2
    assert list(table["split"]) == ["validation"] * 2 + ["test"] * 2


def test_a_logit_counts_only_where_it_can_be_calibrated(file):
    table = read(file(f"{HEAD},logit,split\na,1,NA,0.9,50,test\n"))
    assert table["logit"].iloc[0] == pytest.approx(special.logit(0.9))
    assert table["model"].iloc[0] == "NA"
    both = f"{HEAD},logit,split\na,1,A,0.9,50,test\nb,1,A,0.9,40,val\nc,0,A,0.9,30,val\n"
    assert list(read(file(both))["logit"]) == [50, 40, 30]


FOLDED = f"""{HEAD},logit,split,fold
c,1,A,.5,30,cross-validation,1
a,0,A,.5,20,Cross validation,2.0
b,1,A,.5,10,cross-validation,2
t,1,A,.9,50,test,
b,1,B,.5,11,cross-validation,2
c,1,B,.5,31,cross-validation,1
a,0,B,.5,21,CROSS-VALIDATION,2
t,1,B,.9,51,test,0
"""


def test_a_file_of_cross_validation(file):
    table = read(file(FOLDED))
    assert list(table["split"]) == ([OUT_OF_FOLD] * 3 + ["test"]) * 2
    assert list(table["fold"]) == [1, 2, 2, 0, 2, 1, 2, 0]
    assert list(table["logit"]) == [30, 20, 10, 50, 11, 31, 21, 51]  # they can be calibrated
    assert len(calibrating(table)) == 6
    data, folds = out_of_fold(table.assign(decision="normal"))
    assert list(data.paths) == ["a", "b", "c"]
    assert list(folds) == [2, 2, 1]
    np.testing.assert_array_equal(data.logits, [[20, 21], [10, 11], [30, 31]])
    from_zero = read(file(FOLDED.replace(",1\n", ",0\n")))
    assert list(out_of_fold(from_zero.assign(decision="normal"))[1]) == [3, 3, 1]
    plain = read(file(FOLDED.replace("fold", "note")))
    assert list(out_of_fold(plain.assign(decision="normal"))[1]) == [0, 0, 0]


def test_rows_of_validation_beside_those_out_of_fold_do_not_count(file):
    table = read(file(f"{FOLDED}a,0,A,.5,90,validation,0\nv,1,M,.5,70,validation,\n"
                      "t,1,M,.5,70,test,\na,0,M,.5,1,validation,\n"
                      "v,1,A,.5,1,validation,\n"))  # fmt: skip
    own = {model: calibrating(rows) for model, rows in table.groupby("model")}
    assert set(own["A"]["split"]) == {OUT_OF_FOLD}
    assert list(own["M"]["logit"]) == [70, 1]  # a model without folds


def test_rows_without_a_fold_are_of_none():
    rows = pd.concat([pd.DataFrame({"fold": [2, 1]}), pd.DataFrame({"path": ["a"]})])
    assert list(folds_of(rows)) == [2, 1, 0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "p.csv"),
        ("path,label,model\n1,1,A\n", "no column probability"),
        (f"{HEAD}\n", "no rows"),
        (f"{HEAD}\na,1,A,0.5\nb,1,A,high\n", "row 3: the probability 'high'"),
        (f"{HEAD}\n,,,\n\na,1,A,high\n", "row 4: the probability 'high'"),
        (f"{HEAD}\na,1,A,1.2\n", "row 2: the probability '1.2' is not a number from 0 to 1"),
        (f"{HEAD}\na,1,A,inf\n", "is not a number from 0 to 1"),
        (f"{HEAD}\na,1,A,\n", "probability 'nan' is not a number"),
        (f"{HEAD}\na,broken,A,0.5\n", "'broken' is neither"),
        (f"{HEAD},split\na,1,A,0.5,dev\n", "'dev' is not one of train"),
        (f"{HEAD},Label\na,1,A,0.5,0\n", r"more than one column label \(label, Label\)"),
        (f"{HEAD},note,note\na,1,A,0.5,x,y\n", r"more than one column note"),
        (
            f"{HEAD},kind\na,1,A,.9,Network\nb,0,A,.1,strange\n",
            "row 3: the kind 'strange' is not one",
        ),
        (f"{HEAD},logit,split\na,1,A,.5,x,val\nb,0,A,.5,1,val\n", "'x' is not a finite number"),
        (FOLDED.replace(",2.0", ",two"), "row 3: the fold 'two' is not a whole number"),
        (FOLDED.replace("21,CROSS-VALIDATION,2", "21,cross-validation,1"), "a is in two folds"),
        (FOLDED.replace("b,1,B", "b,0,B"), "b has two labels"),
        (f"{HEAD}\na,1,A,0.5\na,1,A,0.6\n", "more than one prediction for a"),
        (f"{HEAD}\na,1,A,0.5\na,0,B,0.6\n", "a has two labels"),
        (f"{HEAD}\na,1,A,.5\nb,0,A,.5\na,1,B,.6\n", "B has no prediction for 1 of 2 images"),
    ],
)
def test_a_bad_file_is_one_sentence(file, text, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read(file(text))
    assert "p.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.csv", "b.csv", "."])
def test_a_missing_or_binary_file_is_one_sentence(tmp_path, name):
    (tmp_path / "b.csv").write_bytes(b"\x89PNG\xff\xfe\x00\x81")
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_however_a_spreadsheet_saved_it(tmp_path, separator, encoding):
    text = PLAIN.replace("path,label", " Path ,LABEL").replace("\nb", "\n,,,\nb") + ",,,\n\n"
    text = text.replace(",", separator)
    if separator != ",":
        text = text.replace("0.", "0,")
    path = tmp_path / "p.csv"
    path.write_bytes(text.encode(encoding))
    table = read(path)
    assert list(table.index) == [0, 1]
    assert list(table["path"]) == ["a", "b"]
    assert list(table["label"]) == ["fractured", "normal"]
    assert list(table["probability"]) == [0.25, 0.5]


def test_columns_derived_from_predictions_are_dropped(file):
    rows = "a,1,A,0.9,hand,1,3\nb,0,A,0.4,leg,0,4\na,1,B,0.7,hand,1,5\nb,0,B,0.6,leg,1,4\n"
    table = read(file(f"{HEAD},body_part,Predicted,margin\n{rows}"))
    assert "body_part" in table
    assert not {"Predicted", "margin"} & set(table)


def test_a_file_with_a_column_predicted_is_scored():
    table = read(Path(__file__).parent / "cases" / "evaluation_extra_column" / "predicted.csv")
    assert "predicted" not in table
    applied = calibration.apply(table, calibration.fit(table))
    scores = metrics.scores(applied, resamples=100)
    assert list(scores["model"]) == [*table["model"].unique(), "Majority class"]
    one = applied[applied["model"] == table["model"].iloc[0]]
    assert set(subgroups.table(one)["column"]) == {"all"}


def test_patients_are_known_where_one_is_named():
    predictions = model_rows("test", "A", np.array([0, 1]), [0.0, 1])
    assert by_patient(predictions).empty
    assert by_patient(predictions.assign(patient=["", np.nan])).empty
    assert len(by_patient(predictions.assign(study=["", "s1"]))) == 2
    predictions = model_rows("test", "A", np.zeros(4, int), np.zeros(4))
    cases = by_patient(predictions.assign(patient=["", "p1", "", "p1"], study=""))
    assert sorted(cases["path"]) == ["p1", "test/000.png", "test/002.png"]
    assert by_patient(predictions.assign(patient="ANON1")).empty


def test_a_probability_of_zero_is_no_further_from_a_half_than_one(file):
    rows = [f"{k},{k % 2},A,{p}" for k, p in enumerate([0, 1, 0.25, 1e-20, 0.0])]
    logits = read(file("\n".join([HEAD, *rows])))["logit"]
    assert logits[0] == logits[4] < logits[3] < -40 and logits[1] == pytest.approx(36.7, abs=0.1)
    logits = read(file("\n".join([HEAD, *rows[:3]])))["logit"]
    assert logits[0] == pytest.approx(-logits[1], abs=0.1)


def test_logits_are_used_only_where_they_can_be_calibrated(file):
    rows = [f"{k},{k % 2},A,0.5,1,{('test', 'validation')[k > 3]}" for k in range(8)]
    table = read(file("\n".join([f"{HEAD},logit,split", *rows])))
    assert (table["logit"] == 1).all()
    table = read(file("\n".join([f"{HEAD},logit,split", *rows[:4], rows[5], rows[7]])))
    assert (table["logit"] == 0).all()


def test_columns_of_subgroups_are_known_in_any_spelling(file):
    rows = [f"{k},{k % 2},A,0.5,m,hand" for k in range(4)]
    table = read(file("\n".join([f"{HEAD},Sex,Body Part", *rows])))
    assert list(table["sex"]) == ["m"] * 4 and list(table["body_part"]) == ["hand"] * 4


def test_groups_are_patients_where_there_is_no_column_group(file):
    rows = [f"{k},{k % 2},A,0.5,{patient}" for k, patient in enumerate(["x", "NA", "x", "unknown"])]
    table = read(file("\n".join([f"{HEAD},Patient ID", *rows])))
    assert list(table["group"]) == ["x", "1", "x", "3"]
    assert len(by_patient(table)) == 3
    same = "\n".join(f"{k},{k % 2},A,0.5,trial" for k in range(4))
    assert list(read(file(f"{HEAD},study\n{same}"))["group"]) == list("0123")
    rows = "\n".join(f"{row},{study}" for row, study in zip(rows, "abab", strict=True))
    table = read(file(f"{HEAD},patient,study\n{rows}"))
    assert list(table["group"]) == ["x", "b", "x", "b"]


def test_without_a_column_our_own_kinds_are_known_by_name(file):
    rows = f"{HEAD}\na,1,A,0.5\na,1,Ensemble,0.5\na,1,Metadata only,0.5\n"
    assert list(read(file(rows))["kind"]) == ["network", "ensemble", "reference"]
    kinds = iter(["kind", " Reference", "", "network"])
    rows = "\n".join(f"{line},{kind}" for line, kind in zip(rows.split("\n"), kinds, strict=False))
    assert list(read(file(rows))["kind"]) == ["reference", "ensemble", "network"]


def test_a_matrix_has_images_by_path_and_models_in_order_of_appearance():
    tables = [model_rows("test", name, np.array([1, 0, 1]), [2.0, -1, 0]) for name in "BA"]
    shuffled = pd.concat(tables).sample(frac=1, random_state=1)
    shuffled = shuffled.sort_values("model", ascending=False, kind="stable")
    result = matrix(shuffled.assign(decision="normal"), "test")
    assert result.models == ["B", "A"]
    assert list(result.paths) == ["test/000.png", "test/001.png", "test/002.png"]
    assert list(result.labels) == [1, 0, 1]
    assert list(result.groups) == [0, 0, 1]
    np.testing.assert_array_equal(result.logits, [[2, 2], [-1, -1], [0, 0]])
    assert not result.decisions.any()


@pytest.mark.parametrize("function", [metrics.scores, compared])
def test_rows_without_decisions_are_not_scored(function):
    with pytest.raises(KeyError, match="decision"):
        function(model_rows("test", "A", np.array([0, 1]), [0.0, 1]))


def test_a_split_without_rows_is_named():
    with pytest.raises(InputError, match="no rows of the split validation"):
        matrix(model_rows("test", "A", np.array([0, 1]), [0.0, 1]), "validation")


def test_a_study_is_the_mean_of_its_images():
    predictions = model_rows("test", "A", np.array([0, 0, 1, 1, 0]), [-2.0, 0, 1, 3, 9]).assign(
        patient=["p", "p", "q", "q", "q"], study=["1", "1", "1", "1", None]
    )
    baseline = model_rows("test", "Metadata only", np.array([0, 0, 1, 1, 0]), np.zeros(5))
    studies = by_patient(pd.concat([predictions, baseline])).set_index("path")
    assert list(studies.index) == ["p/1", "q/1", "test/004.png"]
    assert list(studies["logit"]) == [-1, 2, 9]
    assert list(studies["label"]) == ["normal", "fractured", "normal"]
    applied = calibration.apply(studies.reset_index(), calibration.fit(studies.reset_index()))
    assert metrics.scores(applied, resamples=100)["n"].iloc[0] == 3
