"""The embedded data set: the same everywhere, without shortcuts, safe for other files."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from fracture_utils.config import InputError
from fracture_utils.data import phantoms

COUNT, SIZE, SEED = 220, 64, 0


def tree(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("[!.]*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.make(folder, COUNT, SIZE, SEED)
    return folder


@pytest.fixture(scope="module")
def images(folder):
    return pd.read_csv(folder / "images.csv", keep_default_na=False)


def test_files_and_tables_agree(folder, images):
    paths = sorted(name for name in tree(folder) if name.endswith(".png"))
    assert list(images["path"]) == paths
    assert len(paths) == COUNT
    parts = images["path"].str.extract(r"(\w+)/(\w+)/(patient\d{5})_view[12]\.png")
    assert (parts.to_numpy() == images[["split", "label", "patient"]].to_numpy()).all()
    boxes = pd.read_csv(folder / "boxes.csv")
    assert list(boxes) == ["path", "xmin", "ymin", "xmax", "ymax"]
    assert set(boxes["path"]) == set(images["path"][images["label"] == "fractured"])
    stamp = json.loads((folder / "phantoms.json").read_text())
    assert stamp["images"] == COUNT
    assert "synthetic" in stamp["generator"]
    for path in images["path"][:20]:
        with Image.open(folder / path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIZE, SIZE))


def test_every_class_body_part_view_and_kind_is_there(images):
    for split in ("train", "test"):
        assert set(images["label"][images["split"] == split]) == {"fractured", "normal"}
    assert set(images["body_part"]) == set(phantoms.PARTS)
    assert set(images["view"]) == set(phantoms.TURNS)
    assert set(images["fracture"]) == {"", *phantoms.KINDS}
    assert ((images["fracture"] != "") == (images["label"] == "fractured")).all()
    assert set(images["cast"]) == {0, 1}


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_shares_of_classes_and_splits(seed):
    patients = [phantoms.draw_patient(index, seed) for index in range(44)]
    assert sum(bool(patient.kind) for patient in patients) == 16
    assert sum(patient.split == "train" for patient in patients) == 32


def test_a_patient_lies_in_one_split_and_one_class(images):
    assert not images.drop_duplicates(["patient", "split", "label"])["patient"].duplicated().any()
    assert images["patient"].value_counts().between(1, 2).all()


def test_same_seed_same_bytes_and_more_images_change_none(folder, tmp_path):
    phantoms.make(tmp_path / "fewer", 60, SIZE, SEED)
    fewer, all_files = tree(tmp_path / "fewer"), tree(folder)
    paths = [name for name in fewer if name.endswith(".png")]
    assert len(paths) == 60
    assert all(fewer[name] == all_files[name] for name in paths)


def test_another_seed_makes_other_images():
    first, second = (
        phantoms.render(phantoms.draw_patient(0, seed), 0, 64, seed)[0] for seed in (0, 1)
    )
    assert (first != second).mean() > 0.5


BROKEN = [k for k in range(60) if phantoms.draw_patient(k, 3).kind][:12]


@pytest.mark.parametrize("index", BROKEN)
def test_the_box_holds_the_change_and_little_else(index):
    patient = phantoms.draw_patient(index, 3)
    for view in range(len(patient.views)):
        image, change = phantoms.render(patient, view, 128, 3)
        whole, nothing = phantoms.render(
            SimpleNamespace(**vars(patient) | {"kind": ""}), view, 128, 3
        )
        assert not nothing.any()
        assert (image != whole).any()
        box, energy = phantoms.box_around(change), np.square(change)
        xmin, ymin, xmax, ymax = (box[name] for name in ("xmin", "ymin", "xmax", "ymax"))
        assert 0 <= xmin < xmax <= 128
        assert 0 <= ymin < ymax <= 128
        assert energy[ymin:ymax, xmin:xmax].sum() > 0.94 * energy.sum()
        middle_x, middle_y = (xmin + xmax) // 2, (ymin + ymax) // 2
        assert energy[ymin:ymax, xmin:middle_x].sum() < 0.97 * energy.sum()
        assert energy[ymin:middle_y, xmin:xmax].sum() < 0.97 * energy.sum()


def test_boxes_are_small(folder):
    boxes = pd.read_csv(folder / "boxes.csv")
    area = (boxes["xmax"] - boxes["xmin"]) * (boxes["ymax"] - boxes["ymin"]) / SIZE**2
    assert area.median() < 0.12
    assert area.max() < 0.5


def test_hairlines_change_the_least():
    def energy(kind):
        patients = [phantoms.draw_patient(index, 0) for index in range(44)]
        broken = [patient for patient in patients if patient.kind == kind]
        return np.median([np.square(phantoms.render(p, 0, 64, 0)[1]).sum() for p in broken])

    assert min(phantoms.KINDS, key=energy) == "hairline"


def test_neither_file_nor_border_nor_brightness_predicts_the_class(folder, images):
    rows = []
    for path in images["path"]:
        pixels = np.asarray(Image.open(folder / path), float)
        border = np.concatenate([pixels[:3].ravel(), pixels[:, :3].ravel(), pixels[-3:].ravel()])
        size = (folder / path).stat().st_size
        rows.append([size, pixels.mean(), pixels.std(), border.mean()])
    for values in np.transpose(rows):
        auc = roc_auc_score(images["label"] == "fractured", values)
        assert auc == pytest.approx(0.5, abs=0.1)


def test_confounders_are_as_frequent_in_both_classes():
    patients = [phantoms.draw_patient(index, 0) for index in range(660)]
    for trait in (
        lambda patient: patient.cast,
        lambda patient: patient.bone == 0,
        lambda patient: patient.body_part == "finger",
        lambda patient: len(patient.views) == 2,
        lambda patient: patient.site > 0.5,
    ):
        broken, whole = ([trait(p) for p in patients if bool(p.kind) == b] for b in (True, False))
        assert np.mean(broken) == pytest.approx(np.mean(whole), abs=0.12)


def test_cortex_is_denser_than_marrow():
    tube = phantoms.Tube((0, 0, 0), (0, 400, 0), 15.0, cortex=4.0)
    along, across = np.full((1, 61), 200.0), np.arange(-30.0, 31.0)[None]
    (integral,) = phantoms._bone(tube, along, across, 400.0, np.zeros((1, 61)))
    marrow, cortex, outside = integral[30], integral[[17, 43]], integral[[10, 50]]
    assert cortex.min() > 1.5 * marrow > 0
    assert (outside == 0).all()
    np.testing.assert_allclose(integral, integral[::-1])
    # The chord of a ray through the middle of the bone meets twice the cortex.
    assert marrow == pytest.approx(2 * 4.0 * phantoms.CORTEX, rel=0.01)


def test_a_complete_set_is_left_alone(folder):
    def times():
        return {name: (folder / name).stat().st_mtime_ns for name in tree(folder)}

    before = times()
    phantoms.make(folder, COUNT, SIZE, SEED)
    assert times() == before


def test_a_killed_run_is_repaired_by_the_next(tmp_path):
    code = "import sys, pathlib; from fracture_utils.data import phantoms; "
    code += "phantoms.make(pathlib.Path(sys.argv[1]), 120, 64, 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        cwd=Path(phantoms.__file__).parents[2],
    )
    while len(list((tmp_path / "killed").rglob("*.png"))) < 20 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0
    (tmp_path / "killed" / "train" / ".fracture-partial-x.png").write_bytes(b"half an ima")
    phantoms.make(tmp_path / "killed", 120, 64, 0)
    phantoms.make(tmp_path / "whole", 120, 64, 0)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob(".fracture-partial-*"))


def test_other_settings_replace_the_whole_set_and_a_missing_file_is_replaced(tmp_path):
    phantoms.make(tmp_path / "a", 30, 64, 0)
    phantoms.make(tmp_path / "a", 20, 64, 5)
    phantoms.make(tmp_path / "b", 20, 64, 5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    next((tmp_path / "a").rglob("*.png")).unlink()
    phantoms.make(tmp_path / "a", 20, 64, 5)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize("name", ["notes.txt", "train/fractured/mine.png", "train/images.csv"])
def test_foreign_files_are_refused_and_untouched(tmp_path, name):
    phantoms.make(tmp_path, 12, 64, 0)
    Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    before = tree(tmp_path)
    for count in (12, 16):
        with pytest.raises(InputError, match=Path(name).name):
            phantoms.make(tmp_path, count, 64, 0)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("copied", [False, True])
def test_other_images_in_the_place_of_phantoms_are_not_overwritten(tmp_path, copied):
    """An image of the user under the name of a phantom, or a phantom under another name."""
    phantoms.make(tmp_path, 12, 64, 0)
    path = next((tmp_path / "train").rglob("*.png"))
    if copied:
        path = path.rename(path.with_name("copy.png"))
    else:
        Image.new("L", (8, 8)).save(path)
    content = path.read_bytes()
    with pytest.raises(InputError, match=path.name):
        phantoms.make(tmp_path, 12, 64, 1)
    assert path.read_bytes() == content


def test_tables_of_the_user_are_not_overwritten(tmp_path):
    (tmp_path / "images.csv").write_text("path,patient\n")
    with pytest.raises(InputError, match=r"images\.csv"):
        phantoms.make(tmp_path, 12, 64, 0)
    assert (tmp_path / "images.csv").read_text() == "path,patient\n"


def test_hidden_files_of_the_system_do_not_matter(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    phantoms.make(tmp_path, 12, 64, 0)
    assert (tmp_path / ".DS_Store").exists()
