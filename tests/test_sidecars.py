from pathlib import Path, PurePosixPath

import pandas as pd
import pytest
import radiographs
from hypothesis import given
from hypothesis import strategies as st
from radiographs import make, save

from fracture_utils.data import audit, sidecars
from fracture_utils.errors import InputError

KNOWN = "train/normal/patient00001_view0.png"


def write(name, *lines):
    Path("data", name).write_text("\n".join(lines) + "\n")


def marked(*rows):
    write("boxes.csv", "path,xmin,ymin,xmax,ymax", *rows)


def labelled(config, words, column="label"):
    """images.csv with a word for every picture, by what `images.table` knows of it."""
    table = radiographs.table(config)
    said = table[["path"]].assign(**{column: [words(row) for row in table.itertuples()]})
    said.to_csv("data/images.csv", index=False)
    return table


WRITTEN = {
    "as it lies there": str,
    "absolute": lambda path: str(Path("data", path).resolve()),
    "elsewhere": lambda path: f"/home/ann/x-rays/data/{path}",
    "windows": lambda path: "C:\\Users\\Ann\\data\\" + path.replace("/", "\\"),
    "leading folder": lambda path: f"./data/{path}",
    "another case": str.upper,
    "bare name": lambda path: PurePosixPath(path).name,
    "folder of its own": lambda path: f"pictures/{PurePosixPath(path).name}",
    "without the split": lambda path: path.partition("/")[2],
}


@pytest.mark.parametrize("way", WRITTEN)
def test_paths_are_understood_however_they_are_written(way):
    config = make(patients=9)
    before = radiographs.table(config)
    said = before[["path"]].assign(
        path=before["path"].map(WRITTEN[way]), body_part=before["path"].str[-12:]
    )
    said.to_csv("data/images.csv", index=False)
    table = radiographs.table(config)
    assert list(table["body_part"]) == list(before["path"].str[-12:])
    marked(f"{WRITTEN[way](KNOWN)},1,2,3,4")
    assert radiographs.boxes(config)["path"].tolist() == [KNOWN]


@pytest.mark.parametrize("name", ["images.csv", "boxes.csv"])
@pytest.mark.parametrize(
    ("path", "sentence"),
    [("train/normal/absent.png", "names no picture that exists: row 3 has train/normal/absent"),
     ("test/fractured/patient00001_view0.png", "names no picture that exists: row 3"),
     ("twin.png", "names in row 3 twin.png, which may be .*twin.png or .*twin.png")],
)  # fmt: skip
def test_a_table_that_takes_no_effect_stops_the_run(name, path, sentence):
    config = make(patients=9)
    for number, folder in enumerate(("train", "test")):
        save(f"data/{folder}/normal/patient{number + 70}/twin.png", 900 + number)
    write(name, "path,xmin,ymin,xmax,ymax", ",,,,", f"{path},1,2,3,4")
    with pytest.raises(InputError, match=rf"{name} {sentence}") as caught:
        radiographs.audited(config)
    assert "\n" not in str(caught.value)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_a_longer_path_never_means_less_than_the_longest_known(parts):
    known = ["a/b.png", "c/a/b.png", "b.png"]
    path = "/".join([*parts, "b.png"])
    fitting = [other for other in known if f"/{path}".endswith(f"/{other}")]
    assert sidecars._meant(path, known) == [max(fitting, key=len)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name,patient\na,b\n", "has no column path"),
        (f"path,x\n{KNOWN},b\n{KNOWN},c\n".encode(), rf"names {KNOWN} twice, again in row 3"),
        (f"path,x\n{KNOWN},b\ndata/{KNOWN},c\n".encode(), rf"names {KNOWN} twice"),
        (b"", "is no table"),
        (b"\xff\xfe\x00path", "is no table"),
        (b'path,x\n"a,b\n', "is no table"),
    ],
)
def test_a_malformed_sidecar_is_one_sentence(content, sentence):
    config = make(patients=3)
    Path("data/images.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        radiographs.said(config)


@pytest.mark.parametrize(
    ("fractured", "normal"),
    [("1", "0"), ("Fractured", "Normal"), ("True", "False"), ("fracture", "no fracture"),
     (" FRACTURED ", "Not fractured"), ("1.0", "0.0"), ("abnormal", "healthy")],
)  # fmt: skip
def test_labels_in_any_words_are_compared_with_the_folders(fractured, normal):
    config = make(patients=9)
    words = {"fractured": fractured, "normal": normal}
    labelled(config, lambda row: words[row.label])
    findings = radiographs.audited(config)
    assert not set(findings["check"]) & {"label conflict", "label unknown"}
    labelled(config, lambda row: fractured if row.path == KNOWN else words[row.label])
    table = radiographs.table(config)
    findings = radiographs.audited(config, table).set_index("check")
    conflict = findings.loc["label conflict"]
    assert (conflict["severity"], conflict["path"]) == ("red", KNOWN)
    row = pd.read_csv("data/images.csv")["path"].tolist().index(KNOWN) + 2
    assert f"images.csv in row {row} {fractured.strip()}" in conflict["what"]
    left = audit.apply(table, findings.reset_index(), "drop")
    assert KNOWN not in set(left["path"])


def test_words_that_are_no_label_are_told():
    config = make(patients=9)
    labelled(config, lambda row: "wrist" if row.label == "normal" else "")
    told = radiographs.audited(config).set_index("check").loc["label unknown"]
    assert told["severity"] == "amber"
    assert "'wrist'" in told["what"]


def validated(row):
    """A split for each patient: every sixth of train is for validation, one class or the other."""
    number = int(row.path.split("patient")[1][:5])
    return "test" if row.split == "test" else ("Val" if number % 6 in (0, 1) else "Training")


def test_a_column_of_splits_takes_validation_from_train():
    config = make()
    before = labelled(config, validated, "split")
    table = radiographs.table(config)
    expected = [validated(row) == "Val" for row in before.itertuples()]
    assert list(table["split"] == "validation") == expected
    assert set(table["split"]) == {"train", "validation", "test"}
    labelled(config, lambda row: "test" if row.split == "test" else "train", "split")
    assert list(radiographs.table(config)["split"]) == list(before["split"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(lambda row: "dubious" if row.path == KNOWN else "", r"row \d+ the split 'dubious'"),
     (lambda row: "test", r"gives in row \d+ train/.* the split test, its folder says train"),
     (lambda row: "train", r"gives in row \d+ test/.* the split train, its folder says test"),
     (lambda row: "valid" if row.path == KNOWN else "", "gives train/.* no split"),
     (lambda row: "test" if row.split == "test" else "val", "train would have no normal picture")],
)  # fmt: skip
def test_a_column_of_splits_is_used_or_refused(words, sentence):
    config = make(patients=9)
    labelled(config, words, "split")
    with pytest.raises(InputError, match=sentence) as caught:
        radiographs.table(config)
    assert "images.csv" in str(caught.value) or "as you have split" in str(caught.value)


def test_boxes():
    config = make(patients=3)
    assert list(radiographs.boxes(config).columns) == sidecars.BOX_COLUMNS
    assert radiographs.boxes(config).empty
    marked(f"{KNOWN},1,2,3.5,4")
    assert radiographs.boxes(config)["xmax"].tolist() == [3.5]
    write("boxes.csv", "path,xmin", "a,1")
    with pytest.raises(InputError, match="no column ymin, xmax, ymax"):
        radiographs.boxes(config)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read(separator):
    config = make(patients=3)
    lines = ["Path;XMin;YMin;XMax;YMax", f"{KNOWN};1,25;2;3,5;4"]
    write("boxes.csv", *(line.replace(";", separator) for line in lines))
    assert radiographs.boxes(config).iloc[0].tolist() == [KNOWN, 1.25, 2, 3.5, 4]


@pytest.mark.parametrize(
    "box",
    ["1,2,nan,4", "1,2,,4", "5,2,1,4", "1,2,1,4", "0.1,0.2,0.5,0.6", "1,2,inf,4", "1,2,wide,4"],
)
def test_a_box_without_sense_is_refused_with_its_row(box):
    config = make(patients=3)
    marked(f"{KNOWN},1,2,3,4", ",,,,", f"{KNOWN},{box}")
    with pytest.raises(InputError, match=r"boxes\.csv has in row 4 a box"):
        radiographs.boxes(config)


@pytest.mark.parametrize("box", ["1,2,60,4", "-20,2,9,4", "100,120,140,150", "41,2,44,9"])
def test_a_box_outside_its_picture_is_refused_with_its_row(box):
    config = make(patients=9)
    marked(f"{KNOWN},1,2,3,4", f"{KNOWN},{box}")
    with pytest.raises(InputError, match=r"row 3 a box outside .* is 40 pixels wide and 40 high"):
        radiographs.audited(config)


def test_a_box_that_sticks_out_by_few_pixels_is_clipped():
    config = make(patients=3)
    marked(f"{KNOWN},-3,2,43,44.5")
    assert radiographs.boxes(config).iloc[0, 1:].tolist() == [0, 2, 40, 40]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_excel_are_read(separator, encoding):
    config = make(patients=3)
    rows = [[f"train/normal/patient0000{k}_view0.png", f"p{k}"] for k in (1, 2)]
    text = f"path,patient\n{','.join(rows[0])}\n,\n{','.join(rows[1])}\n\n"
    Path("data/images.csv").write_bytes(text.replace(",", separator).encode(encoding))
    assert radiographs.said(config).to_numpy().tolist() == rows


@pytest.mark.parametrize("name", ["Images.CSV", "IMAGES.csv"])
@pytest.mark.parametrize("column", ["patient", "Patient ID", "PatientID", "patient_id", "SUBJECT"])
def test_tables_and_columns_are_known_in_any_spelling(name, column):
    config = make(patients=9)
    table = radiographs.table(config)
    said = table[["path"]].assign(**{column: "p" + (table.index // 4).astype(str)})
    said.to_csv(f"data/{name}", index=False)
    assert list(radiographs.table(config)["group"]) == list(said[column])


def test_a_synonym_does_not_replace_the_column_itself():
    assert sidecars._columns(["Path", "Patient", "patient_id"]) == ["path", "patient", "patient_id"]
    assert sidecars._columns(["path", "subject", "patient_id"]) == ["path", "patient", "patient_id"]


@pytest.mark.parametrize("name", ["labels.csv", "images.xlsx", "boxes.tsv", "metadata.ods"])
@pytest.mark.parametrize("column", ["PatientNr", "case number", "age"])
def test_tables_and_columns_without_effect_are_named(name, column):
    config = make(patients=9)
    Path("data", name).write_text("path,patient\n")
    for other in ("notes.txt", "~$images.xlsx", ".hidden.csv"):
        Path("data", other).write_text("no table")
    labelled(config, lambda row: "Anna", column)
    findings = radiographs.audited(config)
    told = findings[findings["check"] == "sidecar"].set_index("path")
    assert set(told["severity"]) == {"amber"}
    assert set(told.index) == {name, "images.csv"} - ({"images.csv"} if column == "age" else set())
    if column != "age":
        assert f"has a column {column}, but" in told.loc["images.csv", "what"]
    labelled(config, lambda row: row.group, "patient")
    assert list(radiographs.audited(config).query("check == 'sidecar'")["path"]) == [name]
