import hashlib
import http.server
import io
import json
import os
import stat
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import radiographs
from PIL import Image
from radiographs import bone, dicom

from fracture_utils import download
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.data import agreement, sources
from fracture_utils.data.sources import fracatlas as fracatlas_source
from fracture_utils.data.sources import placing
from fracture_utils.errors import InputError


def save(path, seed, mode=np.uint8):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (12, 12)).astype(np.uint8)
    picture = np.asarray(Image.fromarray(noise).resize((40, 50)))
    Image.fromarray(picture.astype(mode) * (257 if mode is np.uint16 else 1)).save(path)
    return path


def mura(root="MURA-v1.1"):
    for number in range(24):
        upstream, part = ("train", "valid")[number % 4 == 3], ("WRIST", "ELBOW")[number % 3 == 0]
        finding = ("negative", "positive")[number % 2 if number % 4 != 3 else number % 8 == 7]
        for image in (1, 2):
            study = f"{root}/{upstream}/XR_{part}/patient{number:05d}/study1_{finding}"
            save(f"{study}/image{image}.png", 10 * number + image)
    Path(root, "train/XR_WRIST/patient00001/study1_positive/._image1.png").write_bytes(b"x")
    Path(root, "train_image_paths.csv").write_text("x\n")
    return Path(root)


def fracatlas(root="FracAtlas"):
    rows, marks, names = [], [], []
    for number in [*range(40), *range(3300, 3312)]:
        fractured = number % 2
        name = f"IMG{number:07d}.jpg"
        save(f"{root}/images/{('Non_fractured', 'Fractured')[fractured]}/{name}", number)
        rows.append(
            (name, 1, 0, number % 5 == 0, 0, 0, fractured, 0, fractured, fractured, 1, 1, 0)
        )
        if fractured:
            names.append({"id": number, "file_name": name})
            marks.append({"image_id": number, "bbox": [3, 4, 10, 20]})
    columns = [
        "image_id",
        "hand",
        "leg",
        "hip",
        "shoulder",
        "mixed",
        "hardware",
        "multiscan",
        "fractured",
        "fracture_count",
        "frontal",
        "lateral",
        "oblique",
    ]
    pd.DataFrame(rows, columns=columns).astype(str).replace({"True": "1", "False": "0"}).to_csv(
        f"{root}/dataset.csv", index=False
    )
    coco = Path(root, "Annotations/COCO JSON/COCO_fracture_masks.json")
    coco.parent.mkdir(parents=True)
    coco.write_text(json.dumps({"images": names, "annotations": marks}))
    return Path(root)


def grazpedwri(root="graz"):
    rows = []
    for patient in range(40):
        for view in (1, 2):
            stem = f"{patient:04d}_0504{view}_WRI-L{view}_M010"
            save(f"{root}/images_part1/{stem}.png", 10 * patient + view, np.uint16)
            visible = "1.0" if patient % 2 else ""
            rows.append((stem, patient, 1, view, "L", visible, "1" if patient == 3 else "", ""))
            mark = Path(root, f"folder_structure/pascalvoc/{stem}.xml")
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(
                "<annotation>"
                + "".join(
                    f"<object><name>{name}</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax>"
                    "<ymax>8.5</ymax></bndbox></object>"
                    for name in ("text", "fracture")
                )
                + "</annotation>"
            )
    columns = [
        "filestem",
        "patient_id",
        "study_number",
        "projection",
        "laterality",
        "fracture_visible",
        "metal",
        "cast",
    ]
    pd.DataFrame(rows, columns=columns).to_csv(f"{root}/dataset.csv", index=False)
    return Path(root)


def kaggle(root="kaggle"):
    for number in range(40):
        upstream = ("train", "val", "test")[number % 4 % 3]
        label = ("not fractured", "fractured")[number // 4 % 2]
        save(f"{root}/Bone/{upstream}/{label}/{number}-rotated1_jpg.rf.{number:032x}.jpg", number)
    return Path(root)


def bring(*given, **options):
    return sources.bring(*given, **options).pictures


def config(folder):
    return Config(data_dir=folder, source="pictures", results_dir="results")


def check(folder, table):
    """What was brought is read by the table of images without a complaint, boxes included."""
    read = radiographs.table(config(folder))
    assert sorted(read["path"]) == sorted(table["path"])
    assert set(radiographs.boxes(config(folder))["path"]) <= set(read["path"])
    assert (Path(folder) / "ATTRIBUTION.txt").read_text().strip()
    return read


def test_mura():
    table = bring("mura", mura(), "data")
    read = check("data", table)
    assert len(table) == 48
    assert set(read["body_part"]) == {"wrist", "elbow"}
    assert read["group"].str.fullmatch(r"patient\d{5}").all()
    assert set(read.loc[read["label"] == "fractured", "finding"]) == {"abnormal"}
    assert Config().positive_name == "abnormal"
    assert read["study"].nunique() == 24


def test_fracatlas():
    table = bring("fracatlas", fracatlas(), "data")
    read = check("data", table).set_index("path")
    assert (read["split"] == "test").sum() == 12
    assert read.loc["train/fractured/IMG0000005.jpg", "body_part"] == "hand+hip"
    assert read.loc["train/normal/IMG0000002.jpg", "view"] == "frontal+lateral"
    boxes = radiographs.boxes(config("data"))
    assert len(boxes) == 26
    assert boxes.iloc[0, 1:].tolist() == [3, 4, 13, 24]


def test_numbered_neighbours_of_fracatlas_stay_together_unless_the_user_says_otherwise():
    bring("fracatlas", fracatlas(), "data")
    assert Config().neighbours == 25
    assert Config(neighbours=0).neighbours == 0
    read = radiographs.table(config("data")).set_index("path")
    train = read[read["split"] != "test"]
    numbers = train.index.str.extract(r"(\d+)\.jpg$")[0].astype(int)
    assert train["group"].nunique() == 2
    assert train.groupby(numbers.to_numpy() // 25)["group"].nunique().eq(1).all()
    assert train.groupby("group")["split"].nunique().eq(1).all()
    assert not read.loc[read["split"] == "test", "group"].isin(train["group"]).any()
    alone = radiographs.table(Config(neighbours=0, results_dir="other"))
    assert alone["group"].nunique() == len(alone)


@pytest.mark.parametrize(("name", "make"), [("mura", mura), ("grazpedwri", grazpedwri)])
def test_where_patients_are_known_neighbours_are_not_grouped(name, make):
    bring(name, make(), "data")
    assert Config().neighbours == 0


@pytest.mark.parametrize("turned", [False, True])
def test_a_picture_that_table_and_folder_call_otherwise_is_a_conflict(turned):
    name, other = ("Non_fractured", "Fractured") if turned else ("Fractured", "Non_fractured")
    root = fracatlas() / "images"
    first = min((root / name).iterdir())
    first.rename(root / other / first.name)
    bring("fracatlas", root.parent, "data")
    (found,) = agreement.labels(radiographs.table(config("data")), radiographs.said(config("data")))
    assert found["severity"] == "red"
    table = "normal" if turned else "fractured"
    assert found["path"] == f"train/{table}/{first.name}"


def test_grazpedwri_from_zips_in_a_folder():
    root = grazpedwri()
    with zipfile.ZipFile(root / "images_part1.zip", "w") as archive:
        for path in (root / "images_part1").iterdir():
            archive.write(path, path.relative_to(root))
            path.unlink()
    table = bring("grazpedwri", root, "data")
    read = check("data", table)
    assert len(read) == 80
    assert set(read["bit_depth"]) == {16}
    assert read.groupby("patient")["split"].nunique().max() == 1
    assert set(read["view"]) == {"frontal", "lateral"}
    assert set(read.loc[read["hardware"] == "1", "patient"]) == {"3"}
    boxes = radiographs.boxes(config("data"))
    assert len(boxes) == 40
    assert boxes["ymax"].tolist()[0] == 8.5


def test_kaggle_folders():
    table = bring("folders", kaggle(), "data")
    read = check("data", table)
    assert len(read) == 40
    assert (read["split"] == "validation").sum() == 10
    assert (table["label"] == "fractured").sum() == 20
    assert Config().positive_name == "fractured"


def test_pictures_are_linked_or_copied_and_the_source_stays():
    root = mura()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    table = bring("mura", root, "linked")
    first = table["path"].iloc[0]
    assert Path("linked", first).stat().st_nlink == 2
    bring("mura", root, "copied", copy=True)
    assert Path("copied", first).stat().st_nlink == 1
    assert {path: path.read_bytes() for path in before} == before


def test_a_second_call_continues(monkeypatch):
    root = mura()
    table = bring("mura", root, "data", copy=True)
    Path("data", table["path"].iloc[5]).unlink()
    placed = []
    real = placing.shutil.copyfile
    monkeypatch.setattr(placing.shutil, "copyfile", lambda *a: placed.append(a) or real(*a))
    heard = []
    bring("mura", root, "data", True, lambda *given: heard.append(given))
    assert len(placed) == 1
    assert heard[-1] == (48, 48)


def test_what_lies_in_the_destination_is_not_mixed():
    Path("data/train/normal").mkdir(parents=True)
    Path("data/train/normal/.gitkeep").touch()
    Path("data/phantoms").mkdir()
    Path("data/phantoms/a.png").touch()
    bring("mura", mura(), "data")
    with pytest.raises(InputError, match="holds something else"):
        bring("folders", kaggle(), "data")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_once(kind):
    root = fracatlas()
    if kind == "zip":
        with zipfile.ZipFile("a.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path)
            archive.writestr("__MACOSX/._dataset.csv", "x")
    else:
        with tarfile.open("a.tar.gz", "w:gz") as archive:
            archive.add(root)
    table = bring("fracatlas", f"a.{kind}", "data")
    assert len(table) == 52
    assert len(bring("fracatlas", f"a.{kind}", "data")) == 52


def evil_zip(fault):
    info = zipfile.ZipInfo({"dots": "../evil.png", "absolute": "/tmp/evil.png",
                            "drive": "C:/evil.png"}.get(fault, "evil.png"))  # fmt: skip
    if fault == "link":
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("evil.zip", "w") as archive:
        archive.writestr("good.png", "x")
        archive.writestr(info, "/etc/passwd")
    if fault == "huge":
        data = bytearray(Path("evil.zip").read_bytes())
        place = data.rfind(b"PK\x01\x02")
        data[place + 24 : place + 28] = (4 * 2**30 - 2).to_bytes(4, "little")
        Path("evil.zip").write_bytes(data)
    return "evil.zip"


def evil_tar(fault):
    member = tarfile.TarInfo({"dots": "a/../../evil.png", "absolute": "/tmp/evil.png",
                              "drive": "C:\\evil.png"}.get(fault, "evil.png"))  # fmt: skip
    if fault == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open("evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("good.png"))
        if fault == "huge":
            member.size = 10 * 2**30
            archive.fileobj.write(member.tobuf())
        else:
            archive.addfile(member, io.BytesIO(b""))
    return "evil.tar"


@pytest.mark.parametrize("make", [evil_zip, evil_tar])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [("dots", "leads out"), ("absolute", "leads out"), ("drive", "leads out"),
     ("link", "is a link"), ("huge", "absurdly large")],
)  # fmt: skip
def test_hostile_archives_are_refused_before_anything_is_written(make, fault, reason):
    with pytest.raises(InputError, match=reason):
        bring("folders", make(fault), "data")
    assert not Path("data").exists()
    assert not Path("evil.png").exists()
    assert not Path("/tmp/evil.png").exists()


def test_damaged_archives_are_one_sentence():
    kaggle()
    with zipfile.ZipFile("a.zip", "w") as archive:
        for path in Path("kaggle").rglob("*.jpg"):
            archive.write(path)
    whole = Path("a.zip").read_bytes()
    spoilt = bytearray(whole)
    spoilt[200:260] = bytes(60)
    for content in (bytes(spoilt), whole[:-1000], b"", b"no archive"):
        Path("b.zip").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.zip"):
            bring("folders", "b.zip", "data")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("mura", "no pictures laid out"), ("fracatlas", "one dataset.csv"), ("nonsense", "no source")],
)
def test_a_wrong_source_is_one_sentence(name, sentence):
    Path("empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        bring(name, "empty", "data")
    with pytest.raises(InputError):
        bring("mura", "absent", "data")
    assert not Path("data/images.csv").exists()


def test_the_download_is_resumed_and_checked(monkeypatch):
    root = fracatlas()
    with zipfile.ZipFile("FracAtlas.zip", "w") as packed:
        for path in root.rglob("*"):
            packed.write(path)
    archive = Path("FracAtlas.zip").read_bytes()
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Range")))
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            body = archive[start:]
            if self.path == "/record":
                entry = {"name": "FracAtlas.zip", "download_url": f"{address}/file",
                         "computed_md5": hashlib.md5(archive).hexdigest()}  # fmt: skip
                body = json.dumps({"files": [entry]}).encode()
            elif len(asked) == 2:
                body = bytes(len(archive))  # wrong bytes first
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(archive) - 1}/{len(archive)}"
                )
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if len(asked) == 3 else body)  # then a break

        def log_message(self, *_):
            pass

    monkeypatch.setattr(download, "PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(fracatlas_source, "RECORD", f"{address}/record")
        assert len(bring("fracatlas", "download", "data")) == 52
        server.shutdown()
    ranges = [start for path, start in asked if path == "/file"]
    assert ranges == [None, None, f"bytes={len(archive) // 2}-"]


def test_the_command_line(capsys):
    mura()
    assert main(["import", "mura", "MURA-v1.1", "data", "--copy"]) == 0
    said = capsys.readouterr().out
    assert "48 of 48 pictures" in said
    assert "Licence: Stanford" in said
    assert main(["import", "mura", "absent", "other"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["import", "nonsense", "a", "b"])


def test_folders_of_kinds_stay_apart_and_are_split_by_group():
    for number in range(40):
        part, kind = (
            ("hand", "leg")[number % 2],
            ("Avulsion fracture", "Non Fracture")[number % 3 % 2],
        )
        for view in "ab":
            save(f"set/{part}/{kind}/patient{number // 2 + 1}_{view}{number % 2}.jfif.png", number)
    save("set/hand/fractured/0.png", 901)
    save("set/leg/fractured/0.png", 902)
    save("set/leg/fracture/0.png", 903)
    table = bring("folders", "set", "data").set_index("path")
    assert len(table) == 83
    read = radiographs.table(config("data"))
    assert len(read) == 83
    assert set(read["split"]) == {"train", "validation", "test"}
    assert (read["split"] == "test").mean() == pytest.approx(0.2, abs=0.1)
    patients = table.reset_index()["path"].str.extract(r"(patient\d+)")[0]
    assert table.reset_index().groupby(patients)["split"].nunique().max() == 1


@pytest.mark.parametrize(
    "names", [("0", "1"), ("negative", "positive"), ("no fracture", "oblique fracture")]
)
@pytest.mark.parametrize("linked", [False, True])
def test_words_of_folder_sets(names, linked):
    for number in range(40):
        save(f"{'real' if linked else 'set'}/{names[number % 2]}/{number}.png", number)
    if linked:
        Path("set").mkdir()
        for name in names:
            Path("set", name).symlink_to(Path("real", name).resolve())
    table = bring("folders", "set", "data")
    assert (table["label"] == "fractured").sum() == 20
    check("data", table)


def test_contradicting_words_are_refused():
    kaggle()
    save("kaggle/Bone/train/fractured/normal/a.png", 1)
    with pytest.raises(InputError, match="contradict each other"):
        bring("folders", "kaggle", "data")


def test_mura_with_val_for_valid_loses_nothing():
    mura()
    Path("MURA-v1.1/valid").rename("MURA-v1.1/val")
    table = bring("mura", "MURA-v1.1", "data")
    assert len(table) == 48
    assert (table["split"] == "test").sum() == 12


@pytest.mark.parametrize(("name", "make"), [("fracatlas", fracatlas), ("grazpedwri", grazpedwri)])
def test_a_row_twice_is_named(name, make):
    table = make() / "dataset.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[1]]))
    with pytest.raises(InputError, match=rf"twice, again in row {len(lines) + 1}\."):
        bring(name, table.parent, "data")


MAKERS = {"mura": mura, "fracatlas": fracatlas, "grazpedwri": grazpedwri, "folders": kaggle}
TABLES = {"mura": 0, "fracatlas": 2, "grazpedwri": 81, "folders": 0}
"""Files that each import reads beside the pictures."""


def litter(root):
    """Files in every place that no import can use, by the reason that it should give."""
    deep = next(path for path in sorted(root.rglob("*.[jp][pn]g"))).parent
    planted = {"hidden": [deep / "._x.png", root / ".DS_Store"],
               "no picture": [deep / "Thumbs.db", root / "notes.txt", deep / "1.2.840.7"],
               "lost": [root / "Other/XR 1/stray.png", root / "stray.dcm"]}  # fmt: skip
    for path in [path for paths in planted.values() for path in paths]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return {reason: len(paths) for reason, paths in planted.items()}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", list(sources.SOURCES))
def test_every_file_is_brought_or_left_out_for_a_reason(name, zipped):
    root = MAKERS[name]()
    before = {path for path in root.rglob("*") if path.is_file()}
    whole = len(sources.bring(name, root, "whole").pictures)
    lost = "not in the publisher's table" if name in ("fracatlas", "grazpedwri") else (
        "no class in its path")  # fmt: skip
    planted = litter(root)
    if zipped:
        with zipfile.ZipFile("set.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path)
    brought = sources.bring(name, "set.zip" if zipped else root, "data")
    assert len(brought.pictures) == whole
    counts = brought.left_out["reason"].value_counts()
    extra = {"mura": {"hidden": 1, "no picture": 1}}.get(name, {})
    for reason, count in planted.items():
        expected = count + extra.get(reason, 0)
        assert counts[{"lost": lost}.get(reason, reason)] == expected, reason
    total = len(before) + sum(planted.values())
    assert len(brought.pictures) + len(brought.left_out) + TABLES[name] == total
    again = sources.bring(name, "set.zip" if zipped else root, "data")
    pd.testing.assert_frame_equal(again.left_out, brought.left_out)


def test_an_import_ends_with_what_it_left_out(capsys):
    root = fracatlas()
    assert main(["import", "fracatlas", str(root), "data"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 files left out."
    first, second = sorted((root / "images/Fractured").iterdir())[:2]
    first.unlink()
    second.rename(root / second.name)
    save(root / "images/Fractured/IMG9999999.jpg", 1)
    assert main(["import", "fracatlas", str(root), "data", "--copy"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("4 files left out: ")
    assert f"named in a table, but not there (2, such as {first.name})" in last
    assert "not in the publisher's table (1, such as images/Fractured/IMG9999999.jpg)" in last
    assert f"outside images (1, such as {second.name})" in last


def test_links_that_lead_nowhere_and_names_that_are_no_text_are_left_out():
    root = kaggle() / "Bone/train/fractured"
    (root / "loop").symlink_to(root.resolve())
    (root / "nowhere.png").symlink_to("absent.png")
    save(root / "b.png", 900)
    (root / "b.png").rename(os.fsdecode(os.fsencode(root) + b"/\xff.png"))
    left = sources.bring("folders", "kaggle", "data").left_out.set_index("path")["reason"]
    assert left.to_dict() == {
        "Bone/train/fractured/loop": "it is a link to a folder above it",
        "Bone/train/fractured/nowhere.png": "it cannot be opened",
        "Bone/train/fractured/\\udcff.png": "its name is no valid text",
    }


def test_archives_deep_in_a_folder_are_unpacked_and_deeper_ones_named():
    root = kaggle()
    with zipfile.ZipFile("inner.zip", "w") as archive:
        archive.writestr("train/fractured/a.png", "x")
    Path(root, "more").mkdir()
    with zipfile.ZipFile(root / "more/outer.ZIP", "w") as archive:
        archive.write("inner.zip")
        archive.writestr("Train/Normal/b.png", "x")
    brought = sources.bring("folders", root, "data")
    assert len(brought.pictures) == 41
    assert brought.left_out["path"].tolist() == ["more/outer/inner.zip"]


def test_a_destination_in_the_source_is_not_brought_again():
    root = kaggle()
    for _ in range(2):
        brought = sources.bring("folders", root, root / "sorted")
        assert len(brought.pictures) == 40
        assert brought.left_out.empty


def exported(root="export"):
    """DICOM named by numbers, by UIDs or not at all, two views of a patient; and JPEG as .jfif."""
    for number in range(48):
        folder = Path(root, ("Fracture", "No fracture")[number // 2 % 2])
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, bone().shape).astype(np.uint16)
        name = (f"1.2.840.113619.{number}", f"IM{number:04d}", f"{number}.DCM")[number % 3]
        dicom(folder / name, noise * 16, PatientID=f"Doe {number // 2}")
    for number in range(8):
        folder = Path(root, ("Fracture", "No fracture")[number % 2])
        save(folder / f"{number}.jpg", number).rename(folder / f"{number}.jfif")
    Path(root, "DICOMDIR").write_bytes(Path(root, "Fracture/IM0001").read_bytes())
    Path(root, "No fracture/1.2.3").write_text("no picture")
    Path(root, "No fracture/png").write_bytes(save("a.png", 1).read_bytes())
    return Path(root)


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_are_known_by_their_content_where_their_name_says_nothing(zipped):
    root = exported()
    if zipped:
        with zipfile.ZipFile("set.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path)
    brought = sources.bring("folders", "set.zip" if zipped else root, "data")
    read = check("data", brought.pictures)
    assert len(read) == 57
    assert (read["patient"] != "").sum() == 48
    reasons = brought.left_out.set_index("path")["reason"].to_dict()
    above = "export/" if zipped else ""
    assert reasons == {f"{above}DICOMDIR": "no class in its path",
                       f"{above}No fracture/1.2.3": "no picture"}  # fmt: skip
    known = read[read["patient"] != ""]
    assert known.groupby("patient").size().eq(2).all()
    assert known.groupby("patient")["split"].nunique().eq(1).all()


def own(root="mine", **columns):
    """Pictures by class only, and what their owner knows of them, by the number of each."""
    rows = []
    for number in range(40):
        path = f"{('normal', 'fractured')[number % 2]}/{number}.png"
        save(f"{root}/{path}", number)
        rows.append({"path": path} | {name: say(number) for name, say in columns.items()})
    pd.DataFrame(rows).to_csv(f"{root}/images.csv", index=False)
    Path(root, "boxes.csv").write_text("path,xmin,ymin,xmax,ymax\nfractured/1.png,1,2,3,4\n")
    return Path(root)


@pytest.mark.parametrize("zipped", [False, True])
def test_what_the_owner_knows_of_pictures_goes_along(zipped):
    root = own(
        file=str, label=lambda n: n % 2, PatientID=lambda n: f"p{n // 4}", view=lambda n: "frontal"
    )
    if zipped:
        with zipfile.ZipFile("set.zip", "w") as archive:
            for path in root.rglob("*"):
                archive.write(path)
    brought = sources.bring("folders", "set.zip" if zipped else root, "data")
    assert brought.left_out.empty
    read = check("data", brought.pictures)
    assert set(read["view"]) == {"frontal"}
    assert read["group"].nunique() == 10
    assert read.groupby("group")["split"].nunique().eq(1).all()
    assert radiographs.boxes(config("data"))["path"].str.endswith("/1.png").all()
    assert agreement.labels(read, radiographs.said(config("data"))) == []


def test_the_owners_splits_are_taken_or_refused():
    splits = ("train", "train", "val", "test")
    table = bring("folders", own(split=lambda n: splits[n // 2 % 4]), "data")
    expected = table["path"].str.extract(r"(\d+)\.png")[0].astype(int) // 2 % 4
    assert list(table["split"].str[:3]) == [splits[place][:3] for place in expected]
    check("data", table)
    save("mine/train/normal/100.png", 100)
    with Path("mine/images.csv").open("a") as file:
        file.write("train/normal/100.png,test\n")
    with pytest.raises(InputError, match=r"lies in train, but images\.csv says test"):
        bring("folders", "mine", "other")


def test_a_label_that_the_owner_calls_otherwise_stays_a_conflict():
    bring("folders", own(label=lambda n: "normal" if n == 1 else str(n % 2)), "data")
    (found,) = agreement.labels(radiographs.table(config("data")), radiographs.said(config("data")))
    assert found["path"].endswith("fractured/1.png")


def test_rows_of_the_owner_without_a_picture_are_counted():
    root = own(patient=lambda n: f"p{n}")
    Path(root, "normal/0.png").unlink()
    brought = sources.bring("folders", root, "data")
    assert brought.left_out["path"].tolist() == ["normal/0.png"]
