import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from radiographs import image, make, save

from fracture_utils import artifacts
from fracture_utils.config import Config, InputError
from fracture_utils.data import dataset, duplicates, reader

CASES = Path(__file__).parent / "cases"
FRACATLAS = Path(dataset.__file__).parents[3] / "shared" / "data" / "fracatlas"
KNOWN = "train/normal/patient00001_view0.png"


def write(name, *lines):
    Path("data", name).write_text("\n".join(lines) + "\n")


def boxed(*rows):
    write("boxes.csv", "path,xmin,ymin,xmax,ymax", *rows)


def annotate(config, cell, column="label"):
    """images.csv with a cell for every image; returns the images table before that."""
    images = dataset.load(config).images
    cells = images[["path"]].assign(**{column: [cell(row) for row in images.itertuples()]})
    cells.to_csv("data/images.csv", index=False)
    return images


def test_the_images_table_has_its_columns_and_is_sorted():
    images = dataset.load(make()).images
    assert list(images.columns) == dataset.COLUMNS
    assert list(images["path"]) == sorted(images["path"])
    assert len(images) == 52
    first = images.iloc[0]
    assert (first["width"], first["height"], first["bit_depth"]) == (40, 40, 8)
    assert first["sha256"] == hashlib.sha256(Path("data", first["path"]).read_bytes()).hexdigest()
    assert set(images["split"]) == {"train", "validation", "test"}
    assert images.groupby("group")["split"].nunique().max() == 1
    assert first["group"].startswith("patient000")


def test_validation_has_both_classes_and_about_its_share():
    images = dataset.load(make(patients=60, views=1)).images
    train = images[images["split"] != "test"]
    share = (train["split"] == "validation").groupby(train["label"]).mean()
    assert (share > 0.09).all()
    assert (share < 0.5).all()
    summary = dataset.summary(images)
    assert summary.loc["all", "all"] == len(images)
    assert (summary.loc["fractured"] > 0).all()
    assert list(summary.columns) == ["train", "validation", "test", "all"]


SPELLINGS = [
    ("Train/Fractured", "Train/Normal", "Test/Fractured", "Test/Normal"),
    ("training/positive", "training/negative", "testing/positive", "testing/negative"),
    ("TRAIN/fracture", "TRAIN/no fracture", "TEST/fracture", "TEST/no fracture"),
    ("train/fractured", "train/not fractured", "test/fractured", "test/non-fractured"),
    ("train/abnormal", "train/healthy", "test/abnormal", "test/NonFractured"),
    ("fractured/train", "normal/train", "fractured/test", "normal/test"),
    ("mine/train/fractured", "mine/train/unfractured", "mine/test/fractured", "mine/test/normal"),
]


def lay_out(names, root="data"):
    for index, name in enumerate(names):
        for number in range(6):
            save(f"{root}/{name}/{number}.png", 100 * index + number)


@pytest.mark.parametrize("names", SPELLINGS, ids=lambda names: names[0])
def test_spellings_of_the_four_folders_are_recognized(names):
    lay_out(names, "mine")
    images = dataset.load(Config(data_dir="mine")).images
    assert len(images) == 24
    for name, label in zip(names, ["fractured", "normal"] * 2, strict=True):
        assert set(images.loc[images["path"].str.startswith(f"{name}/"), "label"]) == {label}


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_folder_is_the_validation_set(name):
    make(patients=9)
    for number in range(3):
        save(f"data/{name}/fractured/v{number}.png", 7000 + number)
        save(f"data/{name}/normal/v{number}.png", 8000 + number)
    images = dataset.load(Config()).images
    own = images["path"].str.startswith(f"{name}/")
    assert (own == (images["split"] == "validation")).all()
    assert own.sum() == 6
    shutil.rmtree(f"data/{name}/normal")
    with pytest.raises(InputError, match="validation set has no normal image"):
        dataset.load(Config())


@pytest.mark.parametrize(
    "name",
    ["fractured/a.png", "Train/a.png", "a.png", "mydata/train/a.png", "train/unsure/a.png",
     "scans/a.dcm", "normal/IM0001", "val/a.jpg", "bone fractures/a.png", "train/1/a.png"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [False, True])
def test_anything_else_stops_with_what_lies_there_and_what_is_expected(name, beside):
    if beside:
        make(patients=9)
    save("a.png", 1).parent.joinpath("data", name).parent.mkdir(parents=True, exist_ok=True)
    Path("a.png").rename(Path("data", name))
    with pytest.raises(InputError, match="train/fractured, train/normal, test/frac") as caught:
        dataset.load(Config())
    assert f"{Path(name).parent} (1)" in str(caught.value)
    assert "import folders" in str(caught.value)


@pytest.mark.parametrize("name", ["train/normal/fractured", "train/normal/test"])
def test_contradicting_folders_are_refused(name):
    make(patients=9)
    save(f"data/{name}/a.png", 1)
    with pytest.raises(InputError, match=rf"The folders of {name}/a\.png contradict each other"):
        dataset.load(Config())


def test_linked_folders_are_read():
    lay_out(SPELLINGS[0], "elsewhere")
    Path("data").mkdir()
    for name in ("Train", "Test"):
        Path("data", name).symlink_to(Path("elsewhere", name).resolve())
    assert len(dataset.load(Config()).images) == 24


def test_results_models_and_phantoms_in_the_data_folder_are_no_images():
    make(patients=9)
    for name in ("results/figures", "models", "phantoms/train/normal"):
        save(f"data/{name}/a.png", 1)
    Path("data/README.md").touch()
    data = dataset.load(Config(results_dir="data/results", models_dir="data/models"))
    assert len(data.images) == 30
    assert set(data.files["path"]) - set(data.images["path"]) == {"README.md"}


def test_every_file_is_read_or_has_a_reason(monkeypatch):
    config = make()
    normal = Path("data/train/normal")
    (normal / "notes.txt").write_text("x")
    (normal / "text.png").write_text("x")
    (normal / "empty.png").touch()
    (normal / "._x.png").write_bytes(b"x")
    (normal / "a.webp").write_bytes(b"x")
    (normal / "loop").symlink_to(Path("data/train").resolve())
    (normal / "self.png").symlink_to("self.png")
    save(normal / "deep/er/ü %41 patient3.png", 999)
    Path(os.fsdecode(b"data/train/normal/\xff.png")).write_bytes(b"x")
    (normal / "locked").mkdir()
    real = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    data = dataset.load(config)
    files = data.files.set_index("path")
    reasons = files["reason"][files["reason"] != ""]
    assert len(reasons) == 8
    assert len(data.images) == len(data.thumbnails) == 53
    assert "Permission denied" in reasons["train/normal/locked"]
    for name in ("._x.png", "notes.txt", "a.webp"):
        assert reasons[f"train/normal/{name}"] == "not an image"
    assert "empty" in reasons["train/normal/empty.png"]
    assert "unsupported format" in reasons["train/normal/text.png"]
    assert reasons["train/normal/self.png"] == "it cannot be opened"
    assert "not valid UTF-8" in reasons["train/normal/\\udcff.png"]


def test_a_class_without_a_readable_image_is_named_with_the_reason():
    config = make(patients=6)
    for path in Path("data/test/normal").iterdir():
        path.write_text("x")
    with pytest.raises(InputError, match=r"no readable normal test image \(test/normal/.*format"):
        dataset.load(config)
    shutil.rmtree("data/test/normal")
    with pytest.raises(InputError, match="test set has no normal image") as caught:
        dataset.load(config)
    assert "\n" not in str(caught.value)


def test_files_are_decoded_once(monkeypatch):
    config, decoded, load = make(), [], reader.load
    monkeypatch.setattr(reader, "load", lambda path: decoded.append(path) or load(path))

    def count():
        decoded.clear()
        dataset.load(config, [32, 48])
        return len(decoded)

    first = dataset.load(config, [32, 48])
    assert len(decoded) == 52
    second = dataset.load(config, [32, 48])
    assert len(decoded) == 52
    for one, other in zip(first[1:5], second[1:5], strict=True):
        pd.testing.assert_frame_equal(one, other)
    np.testing.assert_array_equal(first.thumbnails, second.thumbnails)
    pd.testing.assert_frame_equal(first.duplicates, second.duplicates, check_dtype=False)
    image(5000, 44).save("data/" + first.images["path"][0])
    assert count() == 52
    assert dataset.load(config).images["width"][0] == 44
    save("data/train/normal/new.png", 5001)
    assert count() == 53
    dataset.load(config, [32, 64])
    decoded.clear()
    assert count() == 0
    (config.cache_dir / "pixels/48.npy").write_bytes(b"damaged")
    assert count() == 53
    annotate(config, lambda row: "hand", "body_part")
    assert count() == 0


def test_progress_counts_the_files_and_is_quiet_where_it_is_short(monkeypatch, capfd):
    bars, tqdm = [], dataset.tqdm
    monkeypatch.setattr(dataset, "tqdm", lambda *a, **k: bars.append(tqdm(*a, **k)) or bars[-1])
    config = make(patients=9)
    dataset.load(config)
    assert capfd.readouterr() == ("", "")
    dataset.load(config)
    (bar,) = bars
    assert (bar.desc, bar.total, bar.n) == ("Reading images", 30, 30)
    monkeypatch.setattr(dataset, "tqdm", lambda *a, **k: tqdm(*a, **k | {"delay": 0}))
    save("data/train/normal/new.png", 5001)
    dataset.load(config)
    assert "Reading images: 100%" in capfd.readouterr().err


def test_only_the_modules_that_determine_the_cache_are_part_of_its_key(monkeypatch):
    codes, key = [], artifacts.key
    monkeypatch.setattr(
        artifacts, "key", lambda code, *a, **k: codes.append(code) or key(code, *a, **k)
    )
    dataset.load(make(patients=9))
    assert codes == [["data/reader.py", "data/dataset.py", "data/duplicates.py"]]


def test_a_scan_that_was_interrupted_is_repeated(monkeypatch):
    config, pairs = make(patients=9), duplicates.pairs
    monkeypatch.setattr(duplicates, "pairs", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dataset.load(config, [32])
    monkeypatch.setattr(duplicates, "pairs", pairs)
    assert len(dataset.load(config, [32]).images) == 30
    assert not list(config.cache_dir.rglob(".fracture-partial-*"))


def test_the_pixel_cache_holds_what_the_reader_gives():
    config = make(patients=9)
    Path("data/train/normal/a.png").write_text("unreadable")
    images = dataset.load(config, [24]).images
    cached, rows = dataset.pixels(config.cache_dir, 24)
    assert isinstance(cached, np.memmap)
    assert cached.shape == (len(images) + 1, 24, 24)
    for path in images["path"]:
        expected = reader.fit(reader.read(Path("data", path)), 24)
        np.testing.assert_array_equal(cached[rows[path]], expected)
    with pytest.raises(InputError, match=r"32\.npy"):
        dataset.pixels(config.cache_dir, 32)


def test_facts_of_files_and_near_duplicates():
    config = make(patients=9)
    ramp = np.linspace(0, 65535, 10000).astype(np.uint16).reshape(100, 100)
    Image.fromarray(ramp).save("data/train/normal/deep.png")
    save("data/train/normal/one.png", 77)
    save("data/train/normal/two.jpg", 77, quality=60)
    data = dataset.load(config)
    files = data.files.set_index("path")
    assert list(data.files)[4:] == list(dataset.FACTS)
    assert files.loc["train/normal/deep.png", "bit_depth"] == 16
    assert abs(files.loc["train/normal/two.jpg", "jpeg_quality"] - 60) <= 2
    assert files.loc["train/normal/deep.png", "border"] == pytest.approx(127.5, abs=3)
    assert data.thumbnails.shape == (len(data.images), duplicates.SIDE, duplicates.SIDE)
    paths = data.images["path"]
    pairs = {(paths[row.first], paths[row.second]) for row in data.duplicates.itertuples()}
    assert ("train/normal/one.png", "train/normal/two.jpg") in pairs
    groups = data.images.set_index("path")["group"]
    assert groups["train/normal/one.png"] == groups["train/normal/two.jpg"]


def test_annotations_are_merged_as_text():
    config = make()
    images = dataset.load(config).images
    table = pd.DataFrame(
        {
            "path": images["path"],
            "body_part": "wrist",
            "Site": "01",
            "width": "9.0",
            "label": images["label"],
            "split": images["split"].replace("validation", "train"),
        }
    )
    table.to_csv("data/images.csv", index=False)
    data = dataset.load(config)
    assert list(data.images.columns) == [*dataset.COLUMNS, "body_part", "site"]
    assert (data.images["width"] == 40).all()
    assert set(data.images["site"]) == {"01"}
    assert list(data.annotations) == list(table.rename(columns={"Site": "site"}))
    table.iloc[1:].to_csv("data/images.csv", index=False)
    assert dataset.load(config).images["body_part"].tolist()[:2] == ["", "wrist"]


@pytest.mark.parametrize("path", [KNOWN, KNOWN.replace("/", "\\"), "./" + KNOWN, Path(KNOWN).name])
def test_paths_in_tables(path):
    config = make(patients=9)
    write("images.csv", "path,body_part", f"{path},hand")
    boxed(f"{path},1,2,3,4")
    data = dataset.load(config)
    assert data.images.set_index("path")["body_part"][KNOWN] == "hand"
    assert data.boxes["path"].tolist() == [KNOWN]


@pytest.mark.parametrize("name", ["images.csv", "boxes.csv"])
@pytest.mark.parametrize("path", ["train/normal/absent.png", "twin.png", f"other/{KNOWN}"])
def test_a_table_that_names_no_file_stops_with_its_row(name, path):
    config = make(patients=9)
    for number, folder in enumerate(("train", "test")):
        save(f"data/{folder}/normal/patient{number + 70}/twin.png", 900 + number)
    write(name, "path,xmin,ymin,xmax,ymax", ",,,,", f"{path},1,2,3,4")
    problem = f"no image has the path {path}; one has test/fractured/"
    with pytest.raises(InputError, match=f"{name}, row 3: {problem}"):
        dataset.load(config)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name,patient\na,b\n", "has no column path"),
        (f"path,x\n{KNOWN},b\n{KNOWN},c\n".encode(), "row 3: the path repeats"),
        (f"path,x\n{KNOWN},b,c\n".encode(), "row 2: more cells than"),
        (b"", "is not a table"),
        (b"\npath,label,x\na,1,b\n", "is not a table"),
        (b"\xff\xfe\x00path", "is not a table"),
        (b'path,x\n"a,b\n', "is not a table"),
    ],
)
def test_a_malformed_table_is_one_sentence(content, sentence):
    config = make(patients=3)
    Path("data/images.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        dataset.load(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label", "cells"),
    [
        ("fractured", ["1", "1.0", "Fractured", " FRACTURED ", "fracture", "abnormal", "positive"]),
        ("normal", ["0", "0.0", "Normal", "no fracture", "Not-fractured", "non_fractured"]),
        ("", ["", "wrist", "2", "train", "unsure", "fractures and normals"]),
    ],
)
def test_labels_of_cells(label, cells):
    assert {dataset.label_of(cell) for cell in cells} == {label}


def test_labels_and_splits_may_come_from_images_csv():
    shutil.copytree(CASES / "labels_in_table", "data")
    for number in range(1, 7):
        save(f"data/pool/{number:04}.png", number)
    with Path("data/images.csv").open("a") as file:
        file.write("pool/0005.png,positive,validation\npool/0006.png,normal,validation\n")
    save("data/pool/unlisted.png", 8)
    data = dataset.load(Config())
    expected = [f"{label} {split}" for split in ("train", "test", "validation")
                for label in ("fractured", "normal")]  # fmt: skip
    assert (data.images["label"] + " " + data.images["split"]).tolist() == expected
    reasons = data.files.set_index("path")["reason"]
    assert reasons[reasons != ""].to_dict() == {
        "images.csv": "not an image",
        "pool/unlisted.png": "neither its folder nor images.csv names its class and split",
    }


def test_labels_without_splits_get_all_three_splits():
    Path("data").mkdir()
    rows = ["path,label,patient"]
    for number in range(60):
        save(f"data/pool/{number}.png", number)
        rows.append(f"pool/{number}.png,{number // 2 % 3 // 2},p{number // 2}")
    write("images.csv", *rows)
    images = dataset.load(Config()).images
    shares = images["split"].value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.2, abs=0.07)
    assert shares["validation"] == pytest.approx(0.16, abs=0.07)
    assert images.groupby("patient")["split"].nunique().max() == 1


def validated(row):
    """A split for each patient: every sixth of train is for validation, one class or the other."""
    number = int(row.path.split("patient")[1][:5])
    return "test" if row.split == "test" else ("Val" if number % 6 in (0, 1) else "Training")


def test_a_column_of_splits_takes_validation_from_train():
    config = make()
    before = annotate(config, validated, "split")
    images = dataset.load(config).images
    expected = [validated(row) == "Val" for row in before.itertuples()]
    assert list(images["split"] == "validation") == expected
    assert set(images["split"]) == {"train", "validation", "test"}
    annotate(config, lambda row: "test" if row.split == "test" else "train", "split")
    assert list(dataset.load(config).images["split"]) == list(before["split"])


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [(lambda row: "dubious" if row.path == KNOWN else "", r"row \d+: the split is not train"),
     (lambda row: "test", r"row \d+: the split differs from that of the folder"),
     (lambda row: "train", r"row \d+: the split differs from that of the folder"),
     (lambda row: "test" if row.split == "test" else "val", "train set has no normal image")],
)  # fmt: skip
def test_a_wrong_column_of_splits_is_refused(cell, sentence):
    config = make(patients=9)
    annotate(config, cell, "split")
    with pytest.raises(InputError, match=sentence):
        dataset.load(config)


def test_boxes():
    config = make(patients=9)
    boxes = dataset.load(config).boxes
    assert list(boxes.columns) == dataset.BOX_COLUMNS
    assert boxes.empty
    boxed(f"{KNOWN},1,2,3.5,4")
    assert dataset.load(config).boxes["xmax"].tolist() == [3.5]
    boxed(f"{KNOWN},-3,2,43,44.5")
    assert dataset.load(config).boxes.iloc[0, 1:].tolist() == [0, 2, 40, 40]
    write("boxes.csv", "path,xmin", f"{KNOWN},1")
    with pytest.raises(InputError, match="no column ymin, xmax, ymax"):
        dataset.load(config)


def test_only_boxes_of_the_class_fracture_count():
    config = make(patients=9)
    for number in (1, 2):
        image(number, 256).save(f"data/train/normal/patient0000{number}_view1.png")
    shutil.copy(CASES / "boxes_class/boxes.csv", "data")
    boxes = dataset.load(config).boxes
    expected = ["train/normal/patient00001_view1.png", 100, 90, 140, 130]
    assert boxes.to_numpy().tolist() == [expected]
    text = Path("data/boxes.csv").read_text().replace("fracture,", "metal,")
    Path("data/boxes.csv").write_text(text)
    with pytest.raises(InputError, match="row 2: no row has the class fracture"):
        dataset.load(config)


@pytest.mark.parametrize(
    ("column", "words", "kept"),
    [
        ("label", ["metal", "Fracture"], [1]),
        ("class_name", ["text", "fracture"], [1]),
        ("class", ["0", "1"], [1]),
        ("class", ["fracture", "1"], [0]),  # of a list of classes, 1 may be any
        ("class", ["1", "3"], None),
        ("label", ["metal", "text"], None),
    ],
)
def test_the_class_of_a_box_may_be_a_label_or_a_number(column, words, kept):
    config = make(patients=9)
    rows = [f"{KNOWN},{k},2,43,44,{word}" for k, word in enumerate(words)]
    write("boxes.csv", f"path,xmin,ymin,xmax,ymax,{column}", *rows)
    if kept is None:
        with pytest.raises(InputError, match=r"no row has the (class|label) fracture"):
            dataset.load(config)
    else:
        assert dataset.load(config).boxes["xmin"].tolist() == kept


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas_are_read(separator):
    config = make(patients=9)
    lines = ["Path;XMin;YMin;XMax;YMax", f"{KNOWN};1,25;2;3,5;4"]
    write("boxes.csv", *(line.replace(";", separator) for line in lines))
    assert dataset.load(config).boxes.iloc[0].tolist() == [KNOWN, 1.25, 2, 3.5, 4]


BOXES = [
    *("1,2,nan,4", "1,2,,4", "5,2,1,4", "1,2,1,4", "0.1,0.2,0.5,0.6", "1,2,inf,4", "1,2,wide,4"),
    *("1,2,60,4", "-20,2,9,4", "100,120,140,150", "41,2,44,9"),
]


@pytest.mark.parametrize("box", BOXES)
def test_a_wrong_box_is_refused_with_its_row(box):
    config = make(patients=9)
    boxed(f"{KNOWN},1,2,3,4", ",,,,", f"{KNOWN},{box}")
    with pytest.raises(InputError, match=r"boxes\.csv, row 4: the box is"):
        dataset.load(config)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spreadsheets_are_read(separator, encoding):
    rows = [["train/ü 1.png", "p1"], ["train/b.png", "01"]]
    text = f"path,patient\n{','.join(rows[0])}\n,\n{','.join(rows[1])}\n\n"
    Path("a.csv").write_bytes(text.replace(",", separator).encode(encoding))
    table = dataset.read_spreadsheet(Path("a.csv"))
    assert table.to_numpy().tolist() == rows
    assert list(table.index) == [0, 2]


def test_quotes_short_rows_and_unnamed_columns_of_spreadsheets():
    Path("a.csv").write_text(',path,note\n0,a.png,"x, ""y"""\n1,b.png\n')
    table = dataset.read_spreadsheet(Path("a.csv"))
    assert table.to_dict("list") == {"path": ["a.png", "b.png"], "note": ['x, "y"', ""]}


def test_a_delimiter_at_the_end_of_each_row_is_ignored():
    table = dataset.read_spreadsheet(CASES / "trailing_delimiter/images.csv")
    assert table["path"].tolist() == ["train/normal/a1.png", "train/fractured/a2.png"]
    assert table["body_part"].tolist() == ["hand", "leg"]


def test_a_missing_patient_is_no_patient():
    paths = pd.read_csv(CASES / "missing_patient/images.csv")["path"]
    table = dataset.read_annotations(CASES / "missing_patient/images.csv", paths)
    assert table["patient"].tolist() == ["P1", "", "", "", "", ""]
    words = ["N/A", "n.a.", "<NA>", "_", "--", "Anonymous", "(unknown_)", "P-1", "0"]
    Path("data").mkdir()
    write("images.csv", "path,patient", *(f"{k}.png,{word}" for k, word in enumerate(words)))
    paths = pd.Series([f"{k}.png" for k in range(len(words))])
    table = dataset.read_annotations(Path("data/images.csv"), paths)
    assert table["patient"].tolist() == [""] * 7 + ["P-1", "0"]


@pytest.mark.parametrize(
    "column", ["patient", "Patient", "Patient ID", "PatientID", "patient_id", "SUBJECT", "Study"]
)
def test_documented_columns_are_recognized_in_any_spelling(column):
    config = make(patients=9)
    annotate(config, lambda row: f"p{row.Index // 4}", column)
    images = dataset.load(config).images
    assert list(images["group"]) == [f"p{row // 4}" for row in range(len(images))]


@pytest.mark.parametrize(
    ("header", "named"),
    [("Path,Patient,patient_id", r"patient \(Patient, patient_id\)"), ("path,x,x", r"x \(x, x\)"),
     ("file_name,path,x", r"path \(file_name, path\)")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["images.csv", "boxes.csv"])
def test_a_column_twice_is_refused_with_its_name(name, header, named):
    make(patients=9)
    write(name, header, "a,b,c")
    with pytest.raises(InputError, match=rf"{name} has more than one column {named}; keep one"):
        dataset.load(Config())


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;;;", "\ufeffsep=;"])
def test_the_line_in_which_excel_names_the_separator_is_no_header(line):
    Path("a.csv").write_text(f"{line}\r\npath;note\r\na.png;x,y,z\r\n", encoding="utf-8")
    table = dataset.read_spreadsheet(Path("a.csv"))
    assert table.to_dict("list") == {"path": ["a.png"], "note": ["x,y,z"]}


def pool(count=60, *columns, cell=lambda number: ""):
    """Images in one folder and images.csv with label, and further columns."""
    rows = [",".join(["path", "label", *columns])]
    for number in range(count):
        save(f"data/pool/{number}.png", number)
        cells = [f"pool/{number}.png", str(number // 2 % 3 // 2), *(cell(number) for _ in columns)]
        rows.append(",".join(cells))
    write("images.csv", *rows)


@pytest.mark.parametrize("folder", ["pool", "train"])
def test_a_test_set_of_the_requested_share_is_drawn_from_a_table_without_splits(folder):
    pool()
    Path("data/pool").rename(f"data/{folder}")
    table = Path("data/images.csv")
    table.write_text(table.read_text().replace("pool", folder))
    for share in (0.2, 0.4):
        data = dataset.load(Config(test_share=share))
        assert (data.images["split"] == "test").mean() == pytest.approx(share, abs=0.03)
    assert set(data.files["split"]) == {""}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [("pool/1.png,fx", r"row 62: the label is not one of fractured, fracture, .*; correct"),
     ("pool/0.png,0", "row 62: the path repeats")],
)  # fmt: skip
def test_a_wrong_row_of_a_table_of_labels_is_one_sentence(row, sentence):
    pool()
    save("data/pool/1.png", 1)
    rows = [line for line in Path("data/images.csv").read_text().splitlines() if "/1." not in line]
    write("images.csv", *rows, "", row)
    with pytest.raises(InputError, match=sentence) as caught:
        dataset.load(Config())
    assert "\n" not in str(caught.value)


def test_images_without_a_split_beside_others_with_one_are_excluded_with_the_reason():
    pool(60, "split", cell=lambda number: ("test", "train", "")[number % 7 // 3])
    files = dataset.load(Config()).files
    reasons = files.loc[files["split"] == "", "reason"]
    assert set(reasons) == {
        "not an image",
        "neither its folder nor images.csv names its class and split",
    }


@pytest.mark.parametrize("table", [False, True])
def test_every_labeled_image_is_of_an_external_test(table):
    for number, name in enumerate(["train/fractured", "val/normal", "fractured", "x/y/positive"]):
        save(f"data/{name}/{number}.png", number)
    save("data/other/9.png", 9)
    if table:
        write("images.csv", "path,label,split", "9.png,normal,external")
    images = dataset.load(Config(data_dir="data"), external=True).images
    assert set(images["split"]) == {"test"}
    assert len(images) == 4 + table
    shutil.rmtree("data/val")
    if not table:  # one class suffices
        assert set(dataset.load(Config(), external=True).images["label"]) == {"fractured"}


def test_an_external_test_without_a_labeled_image_is_one_sentence():
    save("data/other/9.png", 9)
    with pytest.raises(InputError, match=r"1 files that no folder assigns .*: other \(1\)"):
        dataset.load(Config(), external=True)
    Path("data/normal").mkdir()
    Path("data/normal/a.png").write_text("x")
    with pytest.raises(InputError, match="no readable normal test image"):
        dataset.load(Config(), external=True)


def test_tables_of_another_system_name_the_same_files():
    """Windows separators, composed letters for decomposed ones, CRLF, UTF-8 with a mark."""
    make(patients=9)
    save("data/train/normal/u\u0308ber.png", 5)
    Path("data/images.csv").write_bytes(
        "path;view\r\ntrain\\normal\\über.png;ap\r\n".encode("utf-8-sig")
    )
    images = dataset.load(Config()).images
    assert images.loc[images["view"] == "ap", "path"].tolist() == ["train/normal/u\u0308ber.png"]


@pytest.mark.parametrize(
    "name", ["@eaDir/x.png/thumb.jpg", "#recycle/a.png", "$RECYCLE.BIN/a.png", ".trash/a.png",
             "System Volume Information/a.png", "normal/@eaDir/a.png", "__MACOSX/a.png"],
)  # fmt: skip
def test_folders_of_the_system_are_not_read(name):
    make(patients=9)
    for folder in ("data", "data/train"):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("data", KNOWN), path)
    data = dataset.load(Config())
    assert len(data.files) == len(data.images) == 30
    shutil.rmtree("data/train")
    shutil.rmtree("data/test")
    assert Config().source == "phantoms"


@pytest.mark.skipif(not FRACATLAS.is_dir(), reason="needs radiographs of FracAtlas")
def test_radiographs_have_the_facts_that_their_publication_states(tmp_path):
    known = pd.read_csv(FRACATLAS / "images.csv", dtype=str)
    for label in ("fractured", "normal"):
        for split in ("train", "test"):
            folder = FRACATLAS / split / label
            target = Path("data", split, label)
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:12]:
                shutil.copy(path, target)
    known.to_csv("data/images.csv", index=False)
    shutil.copy(FRACATLAS / "boxes.csv", "data")
    data = dataset.load(Config(neighbors=2), [64])
    assert len(data.images) == 48
    assert set(data.files.loc[data.files["reason"] != "", "path"]) == {"boxes.csv", "images.csv"}
    expected = known.set_index("path")["body_part"].fillna("")
    assert data.images["body_part"].tolist() == expected[data.images["path"]].tolist()
    assert data.images["group"].str.startswith("block").any()
    assert json.loads((Path("results/cache/pixels/64.npy.json")).read_text())["paths"]


@pytest.mark.parametrize(
    ("count", "sharing"),
    [(2, "own"), (3, "pairs"), (5, "own"), (8, "pairs"), (21, "pairs"), (2, "all"), (13, "all")],
)
def test_a_handful_of_images_is_split_or_ends_with_a_sentence(count, sharing):
    rows = ["path,patient"]
    for number in range(2 * count):
        for label in ("fractured", "normal"):
            split = ("train", "test")[number % 2]
            patient = {"own": f"{label}{number}", "pairs": f"{split}{number // 4}", "all": "one"}
            path = save(f"data/{split}/{label}/{number}.png", number + 1000 * (label == "normal"))
            rows.append(f"{path.relative_to('data').as_posix()},{patient[sharing]}")
    write("images.csv", *rows)
    try:
        images = dataset.load(Config()).images
    except InputError as error:  # patients of both classes may leave a set without one of them
        assert sharing == "pairs" and count < 8, error
        return
    assert (dataset.summary(images) > 0).all(axis=None)
    assert sharing == "all" or images.groupby("group")["split"].nunique().max() == 1
