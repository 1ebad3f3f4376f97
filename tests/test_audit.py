"""The audit finds planted faults and no others; its policy leaves out what would leak."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fracture_utils import tables
from fracture_utils.config import Config, InputError
from fracture_utils.data import audit, dataset, duplicates, phantoms, splits


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder of phantoms without faults."""
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.make(folder, 150, 160, 0)
    return folder


@pytest.fixture
def folder(clean, tmp_path):
    shutil.copytree(clean, tmp_path / "data")
    return tmp_path / "data"


def audited(folder):
    config = Config(data_dir=folder, source="images", results_dir=folder.parent / "results")
    data = dataset.load(config)
    findings = audit.run(data, 0)
    tables.write(folder.parent, "audit", findings)
    assert findings["severity"].map(audit.SEVERITIES.index).is_monotonic_increasing
    return data, findings


def reaudited(data, images):
    """The findings about some of the images."""
    thumbnails = data.thumbnails[data.images["path"].isin(images["path"]).to_numpy()]
    pairs = duplicates.pairs(thumbnails)
    return audit.run(data._replace(images=images, thumbnails=thumbnails, duplicates=pairs), 0)


def pixels(path):
    return Image.open(path).convert("L")


def cropped(image, share=0.05):
    width, height = image.size
    dx, dy = width * share / 2, height * share / 2
    return image.crop((round(dx), round(dy), round(width - dx), round(height - dy)))


COPIES = {
    "q60.jpg": lambda image: image,
    "half.png": lambda image: image.resize((image.width // 2, image.height // 2)),
    "mirrored.png": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped.png": cropped,
    "rotated.png": lambda image: image.rotate(3, Image.Resampling.BICUBIC),
}


def pairs_of(findings, check):
    rows = findings[findings["check"] == check]
    return {frozenset(pair) for pair in zip(rows["path"], rows["other_path"], strict=True)}


def plain(folder, count=160, shortcut=True):
    """Images of noise, whose size determines the class, or not."""
    random = np.random.default_rng(1)
    for number in range(count):
        label = ("normal", "fractured")[number % 2]
        split = "test" if number % 5 == 0 else "train"
        width = 64 + (8 * (number % 2) if shortcut else int(random.integers(0, 9)))
        path = folder / split / label / f"patient{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(noise).resize((width, 80)).save(path)
    return folder


def test_clean_phantoms_have_no_red_finding(folder):
    data, findings = audited(folder)
    assert list(findings) == audit.COLUMNS
    assert "red" not in set(findings["severity"])
    assert not pairs_of(findings, "near duplicate")
    assert findings.set_index("check").loc["shortcut", "severity"] == "info"
    assert audit.apply(data.images, findings, "stop") is data.images


def test_copies_are_detected_and_nothing_else(folder):
    planted = set()
    for number, path in enumerate(sorted((folder / "train/normal").glob("*.png"))[:60:3]):
        for name, change in COPIES.items():
            copy = folder / "train/normal" / f"z{number:02d}{name}"
            change(pixels(path)).save(copy, **({"quality": 60} if copy.suffix == ".jpg" else {}))
            planted.add(frozenset(p.relative_to(folder).as_posix() for p in (path, copy)))
    _, findings = audited(folder)
    detected = pairs_of(findings, "near duplicate")
    origin = {path: min(pair) for pair in planted for path in pair}
    false = [pair for pair in detected if len({origin.get(path, path) for path in pair}) > 1]
    assert len(planted & detected) >= 0.9 * len(planted)
    assert len(false) <= 0.01 * len(detected)


def test_copies_conflicts_and_shared_patients_are_red_and_dropped(folder):
    normal, fractured = folder / "train/normal", folder / "train/fractured"
    one, two, three, four = sorted(normal.glob("*.png"))[:4]
    shutil.copy(one, normal / "copy.png")
    shutil.copy(two, folder / "test/normal/leak.png")
    shutil.copy(three, fractured / "contradiction.png")
    pixels(sorted(fractured.glob("*.png"))[0]).save(normal / "doubt.jpg", quality=60)
    shutil.copy(
        sorted(fractured.glob("*.png"))[3], folder / "test/fractured/patient99999_view1.png"
    )
    pixels(four).rotate(90).save(folder / "test/normal/patient99998_view1.png")
    annotations = pd.read_csv(folder / "images.csv", dtype=str)
    patient = annotations.set_index("path")["patient"][four.relative_to(folder).as_posix()]
    new = pd.DataFrame({"path": ["test/normal/patient99998_view1.png"], "patient": patient})
    pd.concat([annotations, new]).to_csv(folder / "images.csv", index=False)
    data, findings = audited(folder)
    images, red = data.images, findings[findings["severity"] == "red"]
    exact = pairs_of(findings, "exact copy")
    assert {"train/normal/copy.png", one.relative_to(folder).as_posix()} in exact
    assert {"test/normal/leak.png", two.relative_to(folder).as_posix()} in exact
    assert red["path"].str.contains("leak").any()
    conflicts = {path for pair in pairs_of(red, "conflicting labels") for path in pair}
    assert {"train/fractured/contradiction.png", "train/normal/doubt.jpg"} <= conflicts
    shared = red[red["check"] == "group in several splits"]
    assert shared["finding"].str.contains(patient).any()

    kept = audit.apply(images, findings, "drop")
    assert not set(conflicts) & set(kept["path"])
    assert "test/normal/leak.png" in set(kept["path"])
    assert two.relative_to(folder).as_posix() not in set(kept["path"])
    tested = kept["split"] == "test"
    assert not set(kept.loc[~tested, "group"]) & set(kept.loc[tested, "group"])
    assert not reaudited(data, kept)["severity"].eq("red").any()
    with pytest.raises(InputError, match=r"red findings.*FRACTURE_AUDIT_POLICY=drop"):
        audit.apply(images, findings, "stop")
    assert audit.apply(images, findings, "report") is images
    assert (normal / "copy.png").exists()


@pytest.mark.parametrize("labels", [("fractured", "fractured", "normal"),
                                    ("normal", "fractured", "fractured")])  # fmt: skip
def test_no_copy_of_an_image_with_two_labels_is_kept(labels, folder):
    """Equal images are paired with the first only, so that one of them has no finding."""
    image = next((folder / "train/normal").iterdir())
    for k, label in enumerate(labels):
        shutil.copy(image, folder / "train" / label / f"copy{k}.png")
    image.unlink()
    data, findings = audited(folder)
    kept = audit.apply(data.images, findings, "drop")
    assert not kept["path"].str.contains("copy").any()


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_leaks_into_a_validation_set_of_the_user_are_red(tmp_path, named, column):
    """A third of the images is validation, by folder or by table; two of them show the same as one
    of train, named as of one patient or as copies.
    """
    folder = plain(tmp_path / "plain", count=60, shortcut=False)
    for path in sorted((folder / "train").rglob("*.png"))[::3]:
        moved = folder / "val" / path.relative_to(folder / "train")
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    for label in ("fractured", "normal"):
        first = min((folder / "val" / label).iterdir())
        if named:
            other = min((folder / "train" / label).iterdir())
            other.rename(other.with_stem(f"{first.stem}_b"))
        else:
            shutil.copy(first, folder / "train" / label / "again.png")
            first.rename(first.with_stem(f"{label}-first"))
    if column:
        rows = [
            (split, "/".join(["train", *path.parts[-2:]]))
            for split in ("train", "val")
            for path in (folder / split).rglob("*.png")
        ]
        for path in list((folder / "val").rglob("*.png")):
            path.rename(folder / "train" / path.relative_to(folder / "val"))
        shutil.rmtree(folder / "val")
        pd.DataFrame(rows, columns=["split", "path"]).to_csv(folder / "images.csv", index=False)
    data, findings = audited(folder)
    images, red = data.images, findings[findings["severity"] == "red"]
    assert set(red["check"]) == {"group in several splits" if named else "exact copy"}
    assert len(red) == 2
    assert red["finding"].str.contains("in train").all()
    assert red["finding"].str.contains("in validation|and validation|and train").all()
    kept = audit.apply(images, findings, "drop")
    leaked = images["path"].isin([*red["path"], *red["other_path"]])
    leaked &= images["split"] == "train"
    assert set(kept["path"]) == set(images["path"]) - set(images.loc[leaked, "path"])
    assert not reaudited(data, kept)["severity"].eq("red").any()


def test_odd_files_are_reported_and_counts_add_up(folder):
    normal = folder / "train/normal"
    originals = sorted(normal.glob("*.png"))
    gray = np.asarray(pixels(originals[0]))
    whole = originals[1].read_bytes()
    (normal / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (normal / "text.png").write_text("no image")
    (normal / "zero.png").touch()
    (normal / "._x.png").write_bytes(b"\0\5\x16\7")
    deep = np.asarray(pixels(originals[40])).astype(np.uint16) * 257
    Image.fromarray(deep).save(normal / "sixteen.png")
    Image.fromarray(gray[:, ::-1].copy()).convert("CMYK").save(normal / "cmyk.jpg")
    pixels(originals[7]).convert("P").save(normal / "palette.png")
    Image.fromarray(np.tile(np.arange(5000, dtype=np.uint8), (1, 1))).save(normal / "long.png")
    Image.fromarray(np.full((90, 90), 70, np.uint8)).save(normal / "blank ü %41.png")
    data, findings = audited(folder)
    by_check = findings.groupby("check")["path"].agg(set)
    excluded = {Path(path).name for path in by_check["excluded file"]}
    assert excluded == {"truncated.png", "text.png", "zero.png"}
    assert by_check["blank image"] == {"train/normal/blank ü %41.png"}
    assert by_check["unusual size"] == {"train/normal/long.png"}
    assert by_check["bit depth"] == {"train/normal/sixteen.png"}
    copies = {path for pair in pairs_of(findings, "near duplicate") for path in pair}
    assert {f"train/normal/{name}" for name in ("sixteen.png", "cmyk.jpg", "palette.png")} <= copies
    on_disk = [path for path in folder.glob("*/*/*") if path.is_file()]
    assert len(data.images) + len(excluded) + 1 == len(on_disk)


def test_tables_that_contradict_the_files_or_are_not_read(folder):
    boxes = pd.read_csv(folder / "boxes.csv")
    normal = min((folder / "test/normal").iterdir()).relative_to(folder).as_posix()
    boxes.loc[len(boxes)] = [normal, 1, 1, 9, 9]
    boxes.to_csv(folder / "boxes.csv", index=False)
    annotations = pd.read_csv(folder / "images.csv", dtype=str).drop(columns=["patient", "split"])
    fractured = annotations.index[annotations["label"] == "fractured"]
    annotations.loc[fractured[:2], "label"] = ["normal", "unclear"]
    annotations.to_csv(folder / "images.csv", index=False)
    for name in ("labels.xlsx", "Boxes.CSV"):
        (folder / name).write_bytes(b"PK")
    _, findings = audited(folder)
    by_check = findings.groupby("check")
    assert set(by_check["path"].get_group("box on normal image")) == {normal}
    mismatch = by_check.get_group("label mismatch").iloc[0]
    assert (mismatch["severity"], mismatch["path"]) == ("red", annotations["path"][fractured[0]])
    assert f"row {fractured[0] + 2}" in mismatch["finding"]
    assert by_check.get_group("unknown label")["finding"].str.contains("'unclear' in 1 rows").all()
    assert set(by_check.get_group("unread table")["path"]) == {"labels.xlsx", "Boxes.CSV"}


def test_a_table_that_is_read_in_another_case_is_not_unread(folder):
    """The fault: Images.CSV, which a file system without case opens as images.csv."""
    data = dataset.load(Config(source="images", data_dir=folder, results_dir=folder / "results"))
    for name, checks in (("Images.CSV", set()), ("images.csv.csv", {"unread table"})):
        files = data.files.replace({"path": {"images.csv": name}})
        assert {row[1] for row in audit._tables(data._replace(files=files))} == checks


def test_hardware_of_one_class_is_named(tmp_path):
    folder = plain(tmp_path / "plain", shortcut=False)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("patient0*.png"))
    annotations = pd.DataFrame({"path": paths, "hardware": "0"})
    fractured = annotations.index[annotations["path"].str.contains("/fractured/")]
    annotations.loc[fractured[:30], "hardware"] = "1"
    annotations.to_csv(folder / "images.csv", index=False)
    _, findings = audited(folder)
    finding = findings.set_index("check")["finding"]
    assert finding["confounder"] == "hardware = 1: 30 of 30 are fractured"


@pytest.mark.parametrize(
    "name", ["{}.txt", "{}.xml", "{}.json", "._{}.png", "Thumbs{}.db", ".DS_Store{}"]
)
def test_documents_and_system_files_in_a_class_folder_are_no_damaged_images(tmp_path, name):
    folder = plain(tmp_path / "plain", count=60, shortcut=False)
    for number in range(12):
        (folder / "train/fractured" / name.format(number)).write_text("0 0.5 0.5 0.1 0.2")
    _, findings = audited(folder)
    assert "excluded file" not in set(findings["check"])


def test_boxes_are_compared_with_orientations_classes_and_files(tmp_path):
    folder = plain(tmp_path / "plain", count=60, shortcut=False)
    first, second = sorted((folder / "train/fractured").iterdir())[:2]
    exif = Image.Exif()
    exif[274] = 6
    pixels(first).save(first, exif=exif)
    paths = [path.relative_to(folder).as_posix() for path in (first, second)]
    rows = [f"{paths[0]},1,1,79,60,fracture", "absent.png,1,1,9,9,fracture"]
    rows += [f"{paths[1]},1,1,9,9,{name}" for name in ("Fracture", "metal", "text")]
    (folder / "boxes.csv").write_text("\n".join(["path,xmin,ymin,xmax,ymax,class", *rows]))
    (folder / "images.csv").write_text(f"path,note\n{paths[0]},a\ngone.png,b\nlost.png,c\n")
    _, findings = audited(folder)
    by_check = findings.groupby("check")
    rotated = by_check.get_group("box on rotated image").iloc[0]
    assert (rotated["severity"], rotated["path"]) == ("amber", paths[0])
    assert "'metal'" in by_check.get_group("other class of boxes")["finding"].iloc[0]
    assert "'text'" in by_check.get_group("other class of boxes")["finding"].iloc[1]
    missing = by_check.get_group("missing file")
    assert dict(zip(missing["path"], missing["finding"].str.split().str[2], strict=True)) == {
        "absent.png": "1", "gone.png": "2"}  # fmt: skip


def test_an_external_test_set_is_audited(tmp_path):
    folder = plain(tmp_path / "plain", count=60, shortcut=False)
    shutil.rmtree(folder / "train/fractured")
    data = dataset.load(Config(data_dir=folder, source="images"), external=True)
    assert "class balance" in set(audit.run(data, 0)["check"])
    shutil.rmtree(folder / "test/fractured")
    data = dataset.load(Config(data_dir=folder, source="images"), external=True)
    assert "class balance" in set(audit.run(data, 0)["check"])


def test_dropping_must_leave_both_classes(tmp_path):
    folder = plain(tmp_path / "plain")
    for path in (folder / "test/fractured").iterdir():
        shutil.copy(path, folder / "test/normal" / f"copy_of_{path.name}")
    data, findings = audited(folder)
    assert findings.set_index("check").loc["shortcut", "severity"] == "amber"
    with pytest.raises(InputError, match="no fractured image is left in test"):
        audit.apply(data.images, findings, "drop")


def images(**counts):
    """An images table with `validation=(fractured, normal)` images and so on."""
    rows = [
        (split, label)
        for split, numbers in counts.items()
        for label, number in zip(("fractured", "normal"), numbers, strict=True)
        for _ in range(number)
    ]
    table = pd.DataFrame(rows, columns=["split", "label"])
    numbers = table.index.astype(str)
    return table.assign(path=table["split"] + "/" + numbers + ".png", group="patient" + numbers)


def data_of(table):
    empty = pd.DataFrame()
    return dataset.Dataset(Path(), table, empty, empty, empty, np.zeros(0), empty)


def checked(function, table, check):
    rows = [dict(zip(audit.COLUMNS, row, strict=True)) for row in function(data_of(table))]
    return [row for row in rows if row["check"] == check]


def test_one_patient_for_every_image_is_reported():
    table = images(train=(3, 3), validation=(1, 1), test=(2, 2))
    (row,) = checked(audit._groups, table.assign(patient="dicom-ab"), "no patient identifiers")
    assert row["severity"] == "amber"
    assert "every image is dicom-ab" in row["finding"]
    drawn = table.assign(patient="p1", group="p1")  # all of a drawn test set may be of one patient
    assert not checked(audit._groups, drawn, "no patient identifiers")
    several = table.assign(patient=[f"p{k}" for k in range(len(table))])
    assert not checked(audit._groups, several, "no patient identifiers")


@given(st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), st.integers(0, 5))))
def test_every_group_in_several_splits_is_red_and_no_other(rows):
    table = pd.DataFrame(rows, columns=["split", "group"]).assign(label="normal")
    table["path"] = table["split"] + "/" + table.index.astype(str) + ".png"
    table["group"] = "patient" + table["group"].astype(str)
    findings = checked(audit._groups, table, "group in several splits")
    splits = table.groupby("group")["split"].agg(set)
    several = set(splits[splits.map(len) > 1].index)
    assert {row["finding"].split()[0] for row in findings} == several
    for row in findings:
        assert row["severity"] == "red"
        assert row["path"].split("/")[0] != row["other_path"].split("/")[0]
        assert all(f" in {split}" in row["finding"] for split in splits[row["finding"].split()[0]])


def test_runs_of_consecutive_numbers_are_no_patients():
    table = images(train=(6, 6), test=(2, 2))
    runs = "block" + (table.index // 4).astype(str)
    guessed = table.assign(group=table["path"].mask(table["split"] == "train", runs))
    (row,) = checked(audit._groups, guessed, "no patient identifiers")
    assert row["severity"] == "amber"
    assert "runs of consecutive file numbers" in row["finding"]
    assert not checked(audit._groups, table, "no patient identifiers")


def test_names_of_copies_are_no_patients():
    """As Roboflow exports them, each image with the name of its original."""
    table = images(train=(6, 6), test=(2, 2))
    table["path"] = table["path"].str.replace(".png", "_png.rf.0a1b2c.png")
    pairs = pd.DataFrame(columns=duplicates.COLUMNS)
    groups = splits.assign_groups(table.drop(columns="group"), pairs)
    (row,) = checked(audit._groups, table.assign(group=groups), "no patient identifiers")
    assert "copies by their names" in row["finding"]


def test_a_run_of_numbers_with_one_class_is_found():
    random = np.random.default_rng(0)
    labels = np.where(random.random(300) < 0.2, "fractured", "normal")
    table = pd.DataFrame({"label": labels, "split": "train"})
    table["path"] = [f"train/{label}/IMG{k:04d}.jpg" for k, label in enumerate(labels)]
    table["group"] = table["path"]
    assert not checked(audit._classes, table, "run of one class")
    planted = table.assign(
        label=table["label"].mask(table.index.isin(range(100, 130)), "fractured")
    )
    (row,) = checked(audit._classes, planted, "run of one class")
    assert "numbered 100 to 129 are all fractured" in row["finding"]
    dated = planted.assign(path=[f"{20240101 * 10**12 + k}.png" for k in planted.index])
    assert "are all fractured" in checked(audit._classes, dated, "run of one class")[0]["finding"]
    named = planted.assign(path=planted["label"] + "_" + planted.index.astype(str) + ".png")
    assert not checked(audit._classes, named, "run of one class")  # the name says the class anyway
