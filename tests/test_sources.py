import errno
import json
import os
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from radiographs import bone, dicom

from fracture_utils.__main__ import main
from fracture_utils.config import Config, InputError
from fracture_utils.data import dataset, sources

CASES = Path(__file__).parent / "cases"


def save(path, seed, mode=np.uint8):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (12, 12)).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(noise).resize((40, 50)))
    Image.fromarray(pixels.astype(mode) * (257 if mode is np.uint16 else 1)).save(path)
    return path


def mura(root="MURA-v1.1"):
    for number in range(24):
        upstream, part = ("train", "valid")[number % 4 == 3], ("WRIST", "ELBOW")[number % 3 == 0]
        finding = ("negative", "positive")[number % 2 if number % 4 != 3 else number % 8 == 7]
        for view in (1, 2):
            study = f"{root}/{upstream}/XR_{part}/patient{number:05d}/study1_{finding}"
            save(f"{study}/image{view}.png", 10 * number + view)
    Path(root, "train/XR_WRIST/patient00001/study1_positive/._image1.png").write_bytes(b"x")
    Path(root, "train_image_paths.csv").write_text("x\n")
    return Path(root)


def fracatlas(root="FracAtlas"):
    parts = ["hand", "leg", "hip", "shoulder"]
    columns = ["image_id", *parts, "mixed", "hardware", "multiscan", "fractured", "fracture_count",
               "frontal", "lateral", "oblique"]  # fmt: skip
    rows, marks, names = [], [], []
    for number in [*range(40), *range(3300, 3312)]:
        fractured, hip = number % 2, int(number % 5 == 0)
        name = f"IMG{number:07d}.jpg"
        save(f"{root}/images/{('Non_fractured', 'Fractured')[fractured]}/{name}", number)
        rows.append((name, 1, 0, hip, 0, 0, fractured, 0, fractured, fractured, 1, 1, 0))
        if fractured:
            names.append({"id": number, "file_name": name})
            marks.append({"image_id": number, "bbox": [3, 4, 10, 20]})
    pd.DataFrame(rows, columns=columns).to_csv(f"{root}/dataset.csv", index=False)
    coco = Path(root, "Annotations/COCO JSON/COCO_fracture_masks.json")
    coco.parent.mkdir(parents=True)
    coco.write_text(json.dumps({"images": names, "annotations": marks}))
    return Path(root)


def kaggle(root="kaggle"):
    for number in range(40):
        upstream = ("train", "val", "test")[number % 4 % 3]
        label = ("not fractured", "fractured")[number // 4 % 2]
        save(f"{root}/Bone/{upstream}/{label}/{number}-rotated1_jpg.rf.{number:032x}.jpg", number)
    return Path(root)


def zipped(root, name="set.zip"):
    with zipfile.ZipFile(name, "w") as archive:
        for path in root.rglob("*"):
            archive.write(path)
    return name


def bring(*arguments, **options):
    return sources.bring(*arguments, **options)[0]


def load(folder="data", **settings):
    return dataset.load(Config(data_dir=folder, source="images", **settings))


def check(folder, table):
    """`dataset.load` accepts everything, boxes included."""
    data = load(folder)
    assert sorted(data.images["path"]) == sorted(table["path"])
    assert set(data.boxes["path"]) <= set(data.images["path"])
    assert not data.files["path"].str.startswith(".").any()
    assert (Path(folder) / "ATTRIBUTION.txt").read_text().strip()
    return data.images


def test_mura():
    table = bring("mura", mura(), "data")
    images = check("data", table)
    assert len(table) == 48
    assert set(images["body_part"]) == {"wrist", "elbow"}
    assert images["group"].str.fullmatch(r"patient\d{5}").all()
    assert Config().positive == "abnormal"
    assert images["study"].nunique() == 24
    described = json.loads(Path("data/source.json").read_text())
    assert described["images"] == 48
    assert {"name", "title", "positive", "neighbors", "license"} < set(described)


def test_mura_with_val_for_valid_loses_nothing():
    mura()
    Path("MURA-v1.1/valid").rename("MURA-v1.1/val")
    table = bring("mura", "MURA-v1.1", "data")
    assert len(table) == 48
    assert (table["split"] == "test").sum() == 12


def test_fracatlas():
    table = bring("fracatlas", fracatlas(), "data")
    images = check("data", table).set_index("path")
    assert (images["split"] == "test").sum() == 12
    assert images.loc["train/fractured/IMG0000005.jpg", "body_part"] == "hand+hip"
    assert images.loc["train/normal/IMG0000002.jpg", "view"] == "frontal+lateral"
    boxes = load().boxes
    assert len(boxes) == 26
    assert boxes.iloc[0, 1:].tolist() == [3, 4, 13, 24]


def test_numbered_neighbors_of_fracatlas_stay_together_unless_the_user_decides_otherwise():
    bring("fracatlas", fracatlas(), "data")
    assert Config().run_length == 25
    assert Config(neighbors=0).run_length == 0
    images = load().images.set_index("path")
    train = images[images["split"] != "test"]
    numbers = train.index.str.extract(r"(\d+)\.jpg$")[0].astype(int)
    assert train["group"].nunique() == 2
    assert train.groupby(numbers.to_numpy() // 25)["group"].nunique().eq(1).all()
    assert train.groupby("group")["split"].nunique().eq(1).all()
    assert not images.loc[images["split"] == "test", "group"].isin(train["group"]).any()
    alone = load(neighbors=0, results_dir="other").images
    assert alone["group"].nunique() == len(alone)


@pytest.mark.parametrize("turned", [False, True])
def test_an_image_whose_table_and_folder_differ_keeps_both_labels(turned):
    name, other = ("Non_fractured", "Fractured") if turned else ("Fractured", "Non_fractured")
    root = fracatlas() / "images"
    first = min((root / name).iterdir())
    first.rename(root / other / first.name)
    bring("fracatlas", root.parent, "data")
    data = load()
    both = data.images.merge(data.annotations, on="path", suffixes=("", "_table"))
    differs = both[both["label"] != both["label_table"]]
    assert differs["path"].tolist() == [f"train/{'normal' if turned else 'fractured'}/{first.name}"]


def test_kaggle_folders():
    table = bring("folders", kaggle(), "data")
    images = check("data", table)
    assert len(images) == 40
    assert (images["split"] == "validation").sum() == 10
    assert (table["label"] == "fractured").sum() == 20
    assert Config().positive == "fractured"


def refuse(*_):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_images_are_linked_or_copied_and_the_source_stays(monkeypatch):
    root = mura()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    first = bring("mura", root, "linked")["path"].iloc[0]
    assert Path("linked", first).stat().st_nlink == 2
    monkeypatch.setattr(os, "link", refuse)
    bring("mura", root, "copied")
    assert Path("copied", first).stat().st_nlink == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_call_continues(monkeypatch):
    root = mura()
    monkeypatch.setattr(os, "link", refuse)
    table = bring("mura", root, "data")
    Path("data", table["path"].iloc[5]).unlink()
    copied, real = [], shutil.copyfile
    monkeypatch.setattr(shutil, "copyfile", lambda *a: copied.append(a) or real(*a))
    bring("mura", root, "data")
    assert len(copied) == 1


def test_the_content_of_the_destination_is_not_mixed():
    Path("data/train/normal").mkdir(parents=True)
    Path("data/train/normal/.gitkeep").touch()
    Path("data/phantoms").mkdir()
    Path("data/phantoms/a.png").touch()
    bring("mura", mura(), "data")
    with pytest.raises(InputError, match="already contains other files"):
        bring("folders", kaggle(), "data")
    Path("file").touch()
    with pytest.raises(InputError, match="already contains other files"):
        bring("folders", "kaggle", "file")


def test_an_archive_may_be_imported_again_and_leaves_no_second_copy():
    zipped(fracatlas(), "a.zip")
    for _ in range(2):
        assert len(bring("fracatlas", "a.zip", "data")) == 52
        assert not Path("data/.unpacked").exists()


def hostile(fault):
    info = zipfile.ZipInfo({"dots": "../evil.png", "absolute": "/tmp/evil.png",
                            "drive": "C:/evil.png"}.get(fault, "evil.png"))  # fmt: skip
    if fault == "link":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("evil.zip", "w") as archive:
        archive.writestr("good.png", "x")
        archive.writestr(info, "/etc/passwd")
    if fault == "huge":
        data = bytearray(Path("evil.zip").read_bytes())
        start = data.rfind(b"PK\x01\x02")
        data[start + 24 : start + 28] = (4 * 2**30 - 2).to_bytes(4, "little")
        Path("evil.zip").write_bytes(data)
    return "evil.zip"


@pytest.mark.parametrize("fault", ["dots", "absolute", "drive", "link", "huge"])
def test_hostile_archives_write_nothing_outside_the_destination(fault):
    with pytest.raises(InputError, match="declares more" if fault == "huge" else None):
        bring("folders", hostile(fault), "data/in")
    inside = {path.resolve() for path in Path("data/in").rglob("*")}
    assert all(path.is_relative_to(Path("data/in").resolve()) for path in inside)
    assert {path.name for path in Path().iterdir()} <= {"data", "evil.zip"}
    assert {path.name for path in Path().glob("data/*")} <= {"in"}
    assert not Path("/tmp/evil.png").exists()


def test_damaged_archives_are_one_sentence():
    zipped(kaggle(), "a.zip")
    whole = Path("a.zip").read_bytes()
    damaged = bytearray(whole)
    damaged[5000:5060] = bytes(60)
    with tarfile.open("a.tar.gz", "w:gz") as archive:
        archive.add("kaggle")
    tar = Path("a.tar.gz").read_bytes()
    for content in (bytes(damaged), whole[:-1000], b"", b"no archive", tar):
        Path("b.zip").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.zip is not a valid zip archive"):
            bring("folders", "b.zip", "data")
    assert not list(Path("data").rglob("*.jpg"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mura", "holds no images"),
        ("fracatlas", r"lacks .*'dataset\.csv'"),
        ("nonsense", "no source"),
    ],
)
def test_a_wrong_source_is_one_sentence(name, sentence):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        bring(name, "empty", "data")
    with pytest.raises(InputError, match="no file or folder absent"):
        bring(name if name in sources.SOURCES else "mura", "absent", "data")
    assert not Path("data/images.csv").exists()


def test_folders_without_splits_are_split_by_group():
    for number in range(40):
        part, kind = ("hand", "leg")[number % 2], ("fractured", "Non Fractured")[number % 3 % 2]
        for view in "ab":
            save(f"set/{part}/{kind}/patient{number // 2 + 1}_{view}{number % 2}.jfif.png", number)
    save("set/hand/fractured/0.png", 901)
    save("set/leg/fractured/0.png", 902)
    table = bring("folders", "set", "data")
    images = check("data", table)
    assert len(images) == 82
    assert set(images["split"]) == {"train", "validation", "test"}
    assert (images["split"] == "test").mean() == pytest.approx(0.2, abs=0.1)
    patients = images["path"].str.extract(r"(patient\d+)")[0]
    assert images.groupby(patients)["split"].nunique().max() == 1
    save("set/leg/fracture/0.png", 903)
    with pytest.raises(InputError, match=r"holds two images fractured/leg/0\.png"):
        bring("folders", "set", "other")


def test_contradicting_folders_are_refused():
    save(kaggle() / "Bone/train/fractured/normal/a.png", 1)
    with pytest.raises(InputError, match="contradict each other"):
        bring("folders", "kaggle", "data")


def test_a_row_twice_is_named():
    table = fracatlas() / "dataset.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=r"holds two images train/normal/IMG0000000\.jpg"):
        bring("fracatlas", table.parent, "data")


@pytest.mark.parametrize("fault", ["column", "annotations", "json"])
def test_tables_of_fracatlas_that_differ_are_one_sentence(fault):
    root = fracatlas()
    coco = root / "Annotations/COCO JSON/COCO_fracture_masks.json"
    if fault == "column":
        (root / "dataset.csv").write_text((root / "dataset.csv").read_text().replace("hip", "x"))
    elif fault == "annotations":
        coco.unlink()
    else:
        coco.write_text("{")
    with pytest.raises(InputError, match=r"FracAtlas lacks a table or column .*; download it"):
        bring("fracatlas", root, "data")


MAKERS = {"mura": mura, "fracatlas": fracatlas, "folders": kaggle}


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("name", list(MAKERS))
def test_every_image_is_imported_or_excluded_for_a_reason(name, archived):
    root = MAKERS[name]()
    whole = len(bring(name, root, "whole"))
    deep = next(path for path in sorted(root.rglob("*.[jp][pn]g"))).parent
    other, lost = "not an image", "no class, or not in the table"
    planted = {deep / "._x.png": other, root / ".DS_Store": other, deep / "Thumbs.db": other,
               root / "notes.txt": other, deep / "1.2.840.7": other,
               root / "Other/XR 1/stray.png": lost, root / "stray.dcm": lost}  # fmt: skip
    expected = pd.Series(planted).rename(lambda path: path.as_posix())
    if name == "mura":
        expected[f"{root}/train/XR_WRIST/patient00001/study1_positive/._image1.png"] = other
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    source = zipped(root) if archived else root
    images, excluded = sources.bring(name, source, "data")
    assert len(images) == whole
    reasons = excluded.set_index("path")["reason"]
    if not archived:
        expected = expected.rename(lambda path: path.removeprefix(f"{root}/"))
    assert reasons.to_dict() == expected.to_dict()
    again = sources.bring(name, source, "data")[1]
    pd.testing.assert_frame_equal(again, excluded)


def test_an_import_ends_with_what_it_excluded(capsys):
    root = fracatlas()
    assert main(["import", "fracatlas", str(root), "data"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 files excluded."
    first, second = sorted((root / "images/Fractured").iterdir())[:2]
    first.unlink()
    second.rename(root / second.name)
    save(root / "images/Fractured/IMG9999999.jpg", 1)
    assert main(["import", "fracatlas", str(root), "again"]) == 0
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0] == "4 files excluded."
    missing = f"named in a table, but missing, e.g. train/fractured/{first.name}"
    assert f"    2  no class, or not in the table, e.g. {second.name}" in lines
    assert f"    2  {missing}" in lines


def test_broken_links_and_names_that_are_not_utf8_are_excluded():
    root = kaggle() / "Bone/train/fractured"
    (root / "loop").symlink_to(root.resolve())
    (root / "nowhere.png").symlink_to("absent.png")
    save(root / "b.png", 900)
    (root / "b.png").rename(os.fsdecode(os.fsencode(root) + b"/\xff.png"))
    images, excluded = sources.bring("folders", "kaggle", "data")
    assert len(images) == 40
    assert excluded.set_index("path")["reason"].to_dict() == {
        "Bone/train/fractured/nowhere.png": "it cannot be opened",
        "Bone/train/fractured/\\udcff.png": "its name is not valid UTF-8",
    }


def test_archives_in_a_folder_are_excluded():
    root = kaggle()
    zipped(root, "a.zip")
    shutil.move("a.zip", root)
    images, excluded = sources.bring("folders", root, "data")
    assert len(images) == 40
    assert excluded.to_numpy().tolist() == [["a.zip", "not an image"]]


def test_a_destination_in_the_source_is_not_imported_again():
    root = kaggle()
    for _ in range(2):
        images, excluded = sources.bring("folders", root, root / "sorted")
        assert len(images) == 40
        assert excluded.empty


@pytest.mark.parametrize("archived", [False, True])
def test_images_are_recognized_by_their_content_where_their_name_has_no_suffix(archived):
    """DICOM named by numbers or UIDs, two views of a patient, and JPEG as .jfif."""
    root = Path("export")
    for number in range(48):
        folder = root / ("Fracture", "No fracture")[number // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, bone().shape).astype(np.uint16)
        name = (f"1.2.840.113619.{number}", f"IM{number:04d}", f"{number}.DCM")[number % 3]
        dicom(folder / name, noise * 16, PatientID=f"Doe {number // 2}")
    for number in range(8):
        folder = root / ("Fracture", "No fracture")[number % 2]
        save(folder / f"{number}.jpg", number).rename(folder / f"{number}.jfif")
    (root / "DICOMDIR").write_bytes((root / "Fracture/IM0001").read_bytes())
    (root / "No fracture/1.2.3").write_text("not an image")
    (root / "No fracture/png").write_bytes(save("a.png", 1).read_bytes())
    images, excluded = sources.bring("folders", zipped(root) if archived else root, "data")
    images = check("data", images)
    assert len(images) == 57
    top = "export/" if archived else ""
    assert excluded.set_index("path")["reason"].to_dict() == {
        f"{top}DICOMDIR": "no class, or not in the table",
        f"{top}No fracture/1.2.3": "not an image",
    }
    patients = images[images["patient"] != ""].groupby("patient")
    assert patients.size().eq(2).all()
    assert patients["split"].nunique().eq(1).all()
    assert len(patients) == 24


def own(root="mine", **columns):
    """Images by class only, and what their owner knows of them, by the number of each."""
    rows = []
    for number in range(40):
        path = f"{('normal', 'fractured')[number % 2]}/{number}.png"
        save(f"{root}/{path}", number)
        rows.append({"path": path} | {name: cell(number) for name, cell in columns.items()})
    pd.DataFrame(rows).to_csv(f"{root}/images.csv", index=False)
    Path(root, "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nfractured/1.png,1,2,3,4\n")
    return Path(root)


@pytest.mark.parametrize("archived", [False, True])
def test_the_tables_of_the_owner_are_imported(archived):
    root = own(
        label=lambda n: n % 2, PatientID=lambda n: f"p{n // 4}", view=lambda n: "frontal", note=str
    )
    images, excluded = sources.bring("folders", zipped(root) if archived else root, "data")
    assert excluded.empty
    images = check("data", images)
    assert set(images["view"]) == {"frontal"}
    assert images["note"].tolist() != [""] * 40
    assert images["group"].nunique() == 10
    assert images.groupby("group")["split"].nunique().eq(1).all()
    assert load().boxes["path"].str.endswith("/1.png").all()
    assert len(load().boxes) == 1


def test_labels_of_the_table_serve_where_folders_have_none():
    shutil.copytree(CASES / "labels_in_table", "mine")
    for number in range(1, 5):
        save(f"mine/pool/{number:04}.png", number)
    images = bring("folders", "mine", "data")
    assert images["path"].tolist() == [
        f"{split}/{label}/pool/{number:04}.png"
        for split, label, number in [("test", "fractured", 3), ("test", "normal", 4),
                                     ("train", "fractured", 1), ("train", "normal", 2)]
    ]  # fmt: skip


def test_splits_of_the_owner_are_imported():
    words = ("train", "train", "val", "test")
    table = bring("folders", own(split=lambda n: words[n // 2 % 4]), "data")
    expected = table["path"].str.extract(r"(\d+)\.png")[0].astype(int) // 2 % 4
    assert list(table["split"].str[:3]) == [words[index][:3] for index in expected]
    check("data", table)


def test_a_label_that_the_owner_contradicts_stays_a_conflict():
    bring("folders", own(label=lambda n: "normal" if n == 1 else str(n % 2)), "data")
    data = load()
    both = data.images.merge(data.annotations, on="path", suffixes=("", "_table"))
    differs = both[both["label"] != both["label_table"].map(dataset.label_of)]
    assert differs["path"].str.endswith("fractured/1.png").tolist() == [True]


def test_rows_without_an_image_are_excluded():
    root = own(patient=lambda n: f"p{n}" if n else "unknown", note=lambda n: "x" * (n > 5))
    Path(root, "normal/0.png").unlink()
    images, excluded = sources.bring("folders", root, "data")
    assert excluded["path"].tolist() == ["normal/0.png"]
    assert set(images) == {"path", "label", "split", "patient", "note"}
    assert images["patient"].nunique() == 39


def test_cells_that_are_empty_in_the_first_row_keep_their_column():
    table = bring("folders", own(view=lambda n: "" if n % 2 else "lateral"), "data")
    assert (table["view"] == "lateral").sum() == 20
    assert (check("data", table)["view"] == "").sum() == 20


@pytest.mark.parametrize("folders", [True, False])
def test_words_of_the_user_name_the_classes(folders):
    """In folders, or in the labels of a table; the name of an image does not name its class."""
    rows = ["path,label"]
    for number in range(24):
        word = ("Mit Brüchen", "o.B.")[number % 2]
        path = f"{word}/hand/Mit Brüchen {number}.png" if folders else f"pool/{number}.png"
        save(f"mine/{path}", number)
        rows.append(f"{path},{word}")
    if not folders:
        Path("mine/images.csv").write_text("\n".join(rows), encoding="utf-8")
    words = {"mit bru\u0308chen": "fractured", "OB": "normal"}
    sentence = (
        "no (normal|fractured) images: .* --normal NAME" if folders else "abnormal, .*correct"
    )
    with pytest.raises(InputError, match=sentence):
        bring("folders", "mine", "data")
    images = check("data", bring("folders", "mine", "data", words=words))
    assert images["label"].value_counts().to_dict() == {"fractured": 12, "normal": 12}
    assert set(pd.read_csv("data/images.csv")["label"]) == {"fractured", "normal"}


def test_folders_without_one_class_are_refused_with_the_accepted_words():
    for number in range(8):
        save(f"mine/{('fractured', 'intact')[number % 2]}/{number}.png", number)
    with pytest.raises(InputError, match=r"no normal images: .* unfractured, .* --normal NAME\.$"):
        bring("folders", "mine", "data")
    assert not Path("data/images.csv").exists()


def test_classes_of_boxes_are_imported():
    root = own()
    rows = ["fractured/1.png,1,2,3,4,Fracture", "fractured/3.png,1,2,3,4,metal"]
    (root / "boxes.csv").write_text("\n".join(["path,xmin,ymin,xmax,ymax,class", *rows]))
    bring("folders", root, "data")
    data = load()
    assert data.boxes["path"].str.endswith("/1.png").tolist() == [True]
    assert data.other_boxes.to_dict() == {"metal": 1}


def test_boxes_are_imported_without_images_csv():
    root = own()
    (root / "images.csv").unlink()
    bring("folders", root, "data")
    assert load().boxes["path"].str.endswith("/1.png").tolist() == [True]


def test_boxes_in_another_folder_are_imported_and_two_such_tables_are_refused():
    root = own()
    Path("mine/annotations").mkdir()
    (root / "boxes.csv").rename(root / "annotations" / "boxes.csv")
    bring("folders", root, "data")
    assert load().boxes["path"].str.endswith("/1.png").tolist() == [True]
    shutil.copy(root / "annotations" / "boxes.csv", root)
    with pytest.raises(InputError, match=r"boxes\.csv and .*boxes\.csv; only one is read"):
        sources.bring("folders", root, "again")


def test_images_that_the_source_has_no_longer_are_named():
    bring("folders", own(), "data")
    Path("mine/fractured/1.png").rename("mine/normal/1.png")
    Path("mine/boxes.csv").unlink()
    Path("mine/images.csv").unlink()
    with pytest.raises(InputError, match=r"data has 1 more images, such as .*fractured/1\.png"):
        bring("folders", "mine", "data")
    next(Path("data").rglob("fractured/1.png")).unlink()
    assert len(bring("folders", "mine", "data")) == 40


@pytest.mark.parametrize("given", ["0", "0.0"])
@pytest.mark.parametrize("word", ["0", "0.0"])
def test_words_of_the_user_precede_numbers(word, given):
    root = own(label=lambda n: word if n % 2 else "1")
    for k in range(40):
        path = next(root.rglob(f"{k}.png"))
        path.rename(root / path.name)
    rows = (f"{k}.png,{word if k < 10 else 1}" for k in range(40))
    (root / "images.csv").write_text("\n".join(["path,label", *rows]))
    boxes = ["path,xmin,ymin,xmax,ymax,label", f"3.png,1,2,3,4,{word}", "30.png,1,2,3,4,1"]
    (root / "boxes.csv").write_text("\n".join(boxes))
    images, _ = sources.bring("folders", root, "data", {given: "fractured", "1": "normal"})
    assert load().boxes["path"].str.endswith("/3.png").tolist() == [True]
    fractured = images["path"][images["label"] == "fractured"]
    assert sorted(int(Path(path).stem) for path in fractured) == [*range(10)]


def test_an_image_that_was_replaced_is_imported_again():
    bring("folders", own(), "data")
    target, source = next(Path("data").rglob("normal/0.png")), Path("mine/normal/0.png")
    data = bytearray(source.read_bytes())
    source.unlink()
    data[-1] ^= 1  # of the same size
    source.write_bytes(data)
    os.utime(source, (1, 1))
    sources.bring("folders", "mine", "data")
    assert target.read_bytes() == data


def test_folders_named_after_sets_are_splits():
    for split in ("train_set", "Test Set", "valset"):
        for number in range(8):
            save(f"kaggle/{split}/{('normal', 'fractured')[number % 2]}/{number}.png", number)
    table = bring("folders", "kaggle", "data")
    assert table["split"].value_counts().to_dict() == {"train": 8, "test": 8, "validation": 8}


def test_copies_of_an_image_stay_in_its_split():
    """No name that augmentation tools give, nor a mark of its original: by near duplicates."""
    for number in range(30):
        label = ("fractured", "normal")[number % 2]
        noise = np.random.default_rng(number).integers(0, 255, (12, 12)).astype(np.uint8)
        image = Image.fromarray(noise).resize((80, 90), Image.Resampling.BICUBIC)
        Path("mine", label).mkdir(parents=True, exist_ok=True)
        image.save(f"mine/{label}/{number}.png")
        image.rotate(3, Image.Resampling.BICUBIC).save(f"mine/{label}/{number + 100}.png")
        image.rotate(40).save(f"mine/{label}/{number}_0_{number + 7000}.png")
        image.rotate(70).save(f"mine/{label}/{number + 100} - Copy.png")
    images = check("data", bring("folders", "mine", "data"))
    assert set(pd.read_csv("data/images.csv", dtype=str)["split"].fillna("")) == {""}
    original = images["path"].str.extract(r"/(\d+)[^/]*$")[0].astype(int) % 100
    assert images.groupby(original)["split"].nunique().max() == 1
    assert 0.1 < (images["split"] == "test").mean() < 0.3


def test_a_split_of_the_owner_that_contradicts_the_folder_is_refused():
    save(kaggle() / "Bone/test/fractured/x.png", 1)
    Path("kaggle/images.csv").write_text("path,split\nBone/test/fractured/x.png,train\n")
    with pytest.raises(InputError, match="row 2: the split differs from that of the folder"):
        bring("folders", "kaggle", "data")
