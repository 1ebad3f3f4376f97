import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import radiographs
from PIL import Image

from fracture_utils.config import Config
from fracture_utils.data import audit, duplicates, inventory, phantoms
from fracture_utils.errors import InputError

PICTURES, SIZE = 150, 160


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder of phantoms without faults."""
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.make(folder, PICTURES, SIZE, 0)
    return folder


@pytest.fixture
def data(clean, tmp_path):
    shutil.copytree(clean, tmp_path / "data")
    return tmp_path / "data"


def configured(data, **settings):
    return Config(data_dir=data, source="pictures", results_dir=data.parent / "results", **settings)


def audited(data, **settings):
    config = configured(data, **settings)
    table = radiographs.table(config)
    return table, radiographs.audited(config, table)


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


def pairs_of(findings, *checks):
    rows = findings[findings["check"].isin(checks)]
    return {frozenset(pair) for pair in zip(rows["path"], rows["other"], strict=True)}


def test_clean_phantoms_have_no_red_finding(data):
    table, findings = audited(data)
    assert tuple(findings.columns) == audit.COLUMNS
    assert "red" not in set(findings["severity"])
    assert pairs_of(findings, "near duplicate") == set()
    assert (findings["check"] == "inverted").sum() <= 0.05 * len(table)
    assert audit.apply(table, findings, "stop") is table


def test_copies_are_found_and_nothing_else(data):
    originals = sorted((data / "train/normal").glob("*.png"))[:60:3]
    planted = set()
    for number, path in enumerate(originals):
        for name, change in COPIES.items():
            copy = data / "train/normal" / f"z{number:02d}{name}"
            change(pixels(path)).save(copy, **({"quality": 60} if copy.suffix == ".jpg" else {}))
            planted.add(frozenset(p.relative_to(data).as_posix() for p in (path, copy)))
    _, findings = audited(data)
    found = pairs_of(findings, "near duplicate")
    origin = {path: min(pair) for pair in planted for path in pair}
    false = [pair for pair in found if len({origin.get(path, path) for path in pair}) > 1]
    assert len(planted & found) >= 0.9 * len(planted)
    assert len(false) <= 0.01 * len(found)


def test_every_exact_patient_and_label_fault_is_found(data):
    normal, fractured = data / "train/normal", data / "train/fractured"
    one, two, three, four = sorted(normal.glob("*.png"))[:4]
    shutil.copy(one, normal / "copy.png")
    shutil.copy(two, data / "test/normal/leak.png")
    shutil.copy(three, fractured / "contradiction.png")
    pixels(sorted(fractured.glob("*.png"))[0]).save(normal / "doubt.jpg", quality=60)
    shutil.copy(sorted(fractured.glob("*.png"))[3], data / "test/fractured/patient99999_view1.png")
    pixels(four).rotate(90).save(data / "test/normal/patient99998_view1.png")
    known = pd.read_csv(data / "images.csv", dtype=str)
    patient = known.set_index("path")["patient"][four.relative_to(data).as_posix()]
    new = pd.DataFrame({"path": ["test/normal/patient99998_view1.png"], "patient": patient})
    pd.concat([known, new]).to_csv(data / "images.csv", index=False)
    table, findings = audited(data)
    red = findings[findings["severity"] == "red"]
    assert set(findings["severity"]) <= set(audit.SEVERITIES)
    ranks = findings["severity"].map(audit.SEVERITIES.index)
    assert ranks.is_monotonic_increasing
    exact = pairs_of(findings, "exact copy")
    assert frozenset(("train/normal/copy.png", one.relative_to(data).as_posix())) in exact
    assert frozenset(("test/normal/leak.png", two.relative_to(data).as_posix())) in exact
    assert red["path"].str.contains("leak").any()
    conflicts = {path for pair in pairs_of(red, "conflicting labels") for path in pair}
    assert {"train/fractured/contradiction.png", "train/normal/doubt.jpg"} <= conflicts
    shared = red[red["check"] == "group in two splits"]
    assert shared["what"].str.contains(patient).any()

    dropped = audit.surplus(table, findings)
    kept = audit.apply(table, findings, "drop")
    assert len(kept) + len(dropped) == len(table)
    assert not set(conflicts) & set(kept["path"])
    assert "test/normal/leak.png" in set(kept["path"])
    assert two.relative_to(data).as_posix() not in set(kept["path"])
    assert not set(kept.loc[kept["split"] != "test", "group"]) & set(
        kept.loc[kept["split"] == "test", "group"]
    )
    assert not radiographs.audited(configured(data), kept)["severity"].eq("red").any()
    with pytest.raises(
        InputError, match=r"would make the results wrong.*FRACTURE_AUDIT_POLICY=drop"
    ):
        audit.apply(table, findings, "stop")
    assert audit.apply(table, findings, "report") is table
    assert (normal / "copy.png").exists()


def own_validation(data, named, column):
    """Pictures of `plain` of which a third are the user's validation, by folder or by table; two
    of them show what a picture of train shows, named as of one patient or as copies.
    """
    plain(data, count=60, shortcut=False)
    for path in sorted((data / "train").rglob("*.png"))[::3]:
        moved = data / "val" / path.relative_to(data / "train")
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    for label in ("fractured", "normal"):
        first = min((data / "val" / label).iterdir())
        if named:
            other = min((data / "train" / label).iterdir())
            other.rename(other.with_stem(f"{first.stem}_b"))
        else:
            shutil.copy(first, data / "train" / label / "again.png")
            first.rename(first.with_stem(f"{label}-first"))
    if column:
        known = pd.DataFrame([("train", path) for path in (data / "train").rglob("*.png")]
                             + [("val", path) for path in (data / "val").rglob("*.png")],
                             columns=["split", "path"])  # fmt: skip
        for path in known.loc[known["split"] == "val", "path"]:
            path.rename(data / "train" / path.relative_to(data / "val"))
        shutil.rmtree(data / "val")
        known["path"] = known["path"].map(lambda path: "/".join(["train", *path.parts[-2:]]))
        known.to_csv(data / "images.csv", index=False)
    return data


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_patients_in_train_and_in_the_users_own_validation_are_red(tmp_path, named, column):
    data = own_validation(tmp_path / "plain", named, column)
    table, findings = audited(data)
    red = findings[findings["severity"] == "red"]
    assert set(red["check"]) == {"group in two splits" if named else "exact copy"}
    assert len(red) == 2
    assert red["what"].str.contains("in train").all()
    assert red["what"].str.contains("in validation" if named else "and validation|and train").all()
    with pytest.raises(InputError, match="would make the results wrong"):
        audit.apply(table, findings, "stop")
    kept = audit.apply(table, findings, "drop")
    assert set(kept["path"]) == set(table["path"]) - set(
        table.loc[(table["split"] == "train") & table["path"].isin([*red["path"], *red["other"]]),
                  "path"]
    )  # fmt: skip
    assert set(audit.surplus(table, findings)["why"]) == {"its group is in validation"}
    assert not radiographs.audited(configured(data), kept)["severity"].eq("red").any()


def test_odd_files_are_reported_and_counts_add_up(data):
    normal = data / "train/normal"
    originals = sorted(normal.glob("*.png"))
    grey = np.asarray(pixels(originals[0]))
    whole = originals[1].read_bytes()
    (normal / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (normal / "text.png").write_text("no picture")
    (normal / "zero.png").touch()
    (normal / "._x.png").write_bytes(b"\0\5\x16\7")
    (normal / "loop").symlink_to(normal)
    deep = np.asarray(pixels(originals[40])).astype(np.uint16) * 257
    Image.fromarray(deep).save(normal / "sixteen.png")
    for number in (5, 12, 20, 27):
        Image.fromarray(255 - np.asarray(pixels(originals[number]))).save(normal / f"i{number}.png")
    Image.fromarray(grey[:, ::-1].copy()).convert("CMYK").save(normal / "cmyk.jpg")
    palette = pixels(originals[7]).convert("P")
    palette.save(normal / "palette.png", transparency=3)
    Image.fromarray(np.tile(np.arange(5000, dtype=np.uint8), (1, 1))).save(normal / "long.png")
    filled = grey.copy()
    filled[100:] = 128
    Image.fromarray(filled).save(normal / "filled ü %41.png")
    Image.fromarray(np.full((90, 90), 70, np.uint8)).save(normal / "blank.png")
    table, findings = audited(data)
    by_check = findings.groupby("check")["path"].agg(set)
    assert {Path(path).name for path in by_check["left out"]} == {
        "truncated.png", "text.png", "zero.png", "._x.png", "loop"}  # fmt: skip
    assert "train/normal/filled ü %41.png" in by_check["grey fill"]
    assert by_check["grey fill"] == {"train/normal/filled ü %41.png"}
    assert by_check["blank"] == {"train/normal/blank.png"}
    assert by_check["odd size"] == {"train/normal/long.png"}
    assert by_check["bit depth"] == {"train/normal/sixteen.png"}
    inverted = {f"train/normal/i{number}.png" for number in (5, 12, 20, 27)}
    assert len(inverted & by_check["inverted"]) >= 3
    near = pairs_of(findings, "near duplicate")
    paths = {path for pair in near for path in pair}
    assert {
        "train/normal/sixteen.png",
        "train/normal/cmyk.jpg",
        "train/normal/palette.png",
    } <= paths
    on_disk = [
        path for path in data.rglob("*") if path.is_file() and path.parent.parent.parent == data
    ]
    left_out = findings["check"].eq("left out").sum() - 1  # the loop is a folder
    assert len(table) + left_out == len(on_disk)


def test_sidecars_that_point_nowhere_and_boxes_of_normal_pictures(data):
    boxes = pd.read_csv(data / "boxes.csv")
    normal = min((data / "test/normal").iterdir()).relative_to(data).as_posix()
    boxes.loc[len(boxes)] = [normal, 1, 1, 9, 9]
    boxes.loc[len(boxes)] = ["train/normal/absent.png", 1, 1, 2, 2]
    boxes.to_csv(data / "boxes.csv", index=False)
    _, findings = audited(data)
    assert set(findings.loc[findings["check"] == "box", "path"]) == {normal}
    assert set(findings.loc[findings["check"] == "sidecar", "path"]) == {"train/normal/absent.png"}


def plain(data, count=160, shortcut=True):
    """Noise pictures whose size gives the class away, or not."""
    generator = np.random.default_rng(1)
    for number in range(count):
        label = ("normal", "fractured")[number % 2]
        split = "test" if number % 5 == 0 else "train"
        width = 64 + (8 * (number % 2) if shortcut else int(generator.integers(0, 9)))
        path = data / split / label / f"patient{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 255, (16, 16)).astype(np.uint8)
        Image.fromarray(noise).resize((width, 80)).save(path)
    return data


def test_damage_and_hardware_that_come_with_one_class_are_named(tmp_path):
    data = plain(tmp_path / "plain", shortcut=False)
    for number in range(12):
        (data / f"train/normal/patient9{number:04d}.png").write_bytes(b"\x89PNG cut short")
    paths = sorted(path.relative_to(data).as_posix() for path in data.rglob("patient0*.png"))
    known = pd.DataFrame({"path": paths, "hardware": "0"})
    fractured = known["path"].str.contains("/fractured/")
    known.loc[fractured & known.index.isin(known.index[fractured][:30]), "hardware"] = "1"
    known.to_csv(data / "images.csv", index=False)
    _, findings = audited(data)
    what = findings.set_index("check")["what"]
    assert "all 12 damaged files are normal" in what["one-sided damage"]
    assert what["telling column"] == "hardware = 1: 30 of 30 are fractured"


def test_dropping_must_leave_both_classes(tmp_path):
    data = plain(tmp_path / "plain")
    for path in (data / "test/fractured").iterdir():
        shutil.copy(path, data / "test/normal" / f"copy_of_{path.name}")
    table, findings = audited(data)
    with pytest.raises(InputError, match="no fractured picture is left in test"):
        audit.apply(table, findings, "drop")


def test_many_equal_pictures_do_not_hide_a_near_one():
    generator = np.random.default_rng(0)
    small = [generator.integers(0, 255, (12, 12)).astype(np.uint8) for _ in range(30)]
    full = [
        np.asarray(Image.fromarray(s).resize((200, 200), Image.Resampling.BICUBIC)) for s in small
    ]
    near = np.asarray(cropped(Image.fromarray(full[0])))
    thumbnails = np.stack([inventory.thumbnail(p) for p in [*full, *[full[0]] * 12, near]])
    found = duplicates.pairs(thumbnails)
    cluster = duplicates.clusters(found, len(thumbnails))
    assert len(set(cluster[[0, *range(30, 43)]])) == 1
    assert len(set(cluster)) == 30


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_smallest_sets(count):
    thumbnails = np.zeros((count, duplicates.SIDE, duplicates.SIDE), np.uint8)
    assert len(duplicates.pairs(thumbnails)) == max(0, count - 1)
