"""The embedded data set: the same everywhere, honest about its class, safe for other files."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score

from fracture_utils.data import anatomy, phantoms, radiography
from fracture_utils.errors import InputError

PICTURES, SIZE, SEED = 220, 64, 0


def tree(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def times(directory: Path) -> dict[str, int]:
    return {name: (directory / name).stat().st_mtime_ns for name in tree(directory)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("phantoms")
    phantoms.make(directory, PICTURES, SIZE, SEED)
    return directory


@pytest.fixture(scope="module")
def images(directory):
    return pd.read_csv(directory / "images.csv", keep_default_na=False)


@pytest.fixture(scope="module")
def boxes(directory):
    return pd.read_csv(directory / "boxes.csv")


def test_layout_and_sidecars_agree(directory, images, boxes):
    pictures = sorted(name for name in tree(directory) if name.endswith(".png"))
    assert list(images["path"]) == pictures and len(pictures) == PICTURES
    assert (images["path"].str.split("/").str[0] == images["split"]).all()
    assert (images["path"].str.split("/").str[1] == images["label"]).all()
    assert set(boxes["path"]) == set(images["path"][images["label"] == "fractured"])
    assert list(boxes.columns) == ["path", "xmin", "ymin", "xmax", "ymax"]
    stamp = json.loads((directory / "phantoms.json").read_text())
    assert stamp["complete"] and stamp["pictures"] == PICTURES and "ynthetic" in stamp["statement"]


def test_pictures_are_eight_bit_grey_of_the_asked_size(directory, images):
    for path in images["path"][:20]:
        with Image.open(directory / path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (SIZE, SIZE))


def test_every_split_class_family_view_and_kind_is_there(images):
    assert set(images["split"]) == {"train", "test"}
    for _, part in images.groupby("split"):
        assert set(part["label"]) == {"fractured", "normal"}
    assert set(images["body_part"]) == set(anatomy.LIMBS)
    assert set(images["view"]) == {"frontal", "lateral", "oblique"}
    assert set(images["fracture"]) - {""} == set(anatomy.KINDS)
    assert ((images["fracture"] != "") == (images["label"] == "fractured")).all()
    assert set(images["age"]) == {"adult", "child"} and set(images["cast"]) == {0, 1}


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_shares_of_classes_and_splits(seed):
    drawn = [anatomy.draw_patient(index, seed) for index in range(44)]
    assert sum(p.fracture is not None for p in drawn) == 16
    assert sum(p.split == "train" for p in drawn) == 32


def test_a_patient_lies_in_one_split_and_one_class(images):
    assert not images.drop_duplicates(["patient", "split", "label"])["patient"].duplicated().any()
    assert images["patient"].value_counts().between(1, 3).all()


def test_file_names_tell_the_patient_and_not_the_class(images):
    assert images["path"].str.fullmatch(r"\w+/\w+/patient\d{5}_view[123]\.png").all()
    assert (images["path"].str.extract(r"(patient\d{5})", expand=False) == images["patient"]).all()


def test_same_seed_same_bytes_and_more_pictures_change_none(directory, tmp_path):
    phantoms.make(tmp_path / "fewer", 60, SIZE, SEED)
    fewer, all_pictures = tree(tmp_path / "fewer"), tree(directory)
    pictures = [name for name in fewer if name.endswith(".png")]
    assert len(pictures) == 60
    assert all(fewer[name] == all_pictures[name] for name in pictures)


def test_the_patient_of_a_seed_is_who_it_always_was():
    """An edit that only asks the generator in another order changes every phantom."""
    patient = anatomy.draw_patient(2, 3)
    bone = patient.limb.bones[patient.bone]
    drawn = [bone.radius, bone.bow[0], bone.canal, patient.limb.field]
    assert drawn == pytest.approx([5.459244, -1.975525, 144.73919, 241.65942], abs=1e-5)
    assert (patient.body_part, patient.fracture.kind) == ("lower leg", "hairline")
    assert patient.fracture.phase == pytest.approx(3.895886, abs=1e-5)


def test_another_seed_makes_other_pictures():
    first, second = (
        radiography.render(anatomy.draw_patient(0, seed), 0, 64, seed)[0] for seed in (0, 1)
    )
    assert (first != second).mean() > 0.5


BROKEN = [index for index in range(60) if anatomy.draw_patient(index, 3).fracture][:12]


def test_there_are_fractures_to_look_at():
    assert len(BROKEN) == 12


@pytest.mark.parametrize("index", BROKEN)
def test_box_holds_the_change_and_little_else(index):
    patient = anatomy.draw_patient(index, 3)
    for view in range(patient.views):
        with_fracture, without = (line_integrals(p, view, 128) for p in both(patient))
        change = np.square(with_fracture - without)
        _, reported = radiography.render(patient, view, 128, 3)
        xmin, ymin, xmax, ymax = radiography.box_around(reported)
        assert 0 <= xmin < xmax <= 128 and 0 <= ymin < ymax <= 128
        assert change[ymin:ymax, xmin:xmax].sum() > 0.94 * change.sum()
        middle_x, middle_y = (xmin + xmax) // 2, (ymin + ymax) // 2
        assert change[ymin:ymax, xmin:middle_x].sum() < 0.97 * change.sum()
        assert change[ymin:middle_y, xmin:xmax].sum() < 0.97 * change.sum()


def both(patient):
    return patient, anatomy.replace(patient, fracture=None)


def line_integrals(patient, view, size):
    random = np.random.default_rng([3, 2, patient.index, view])
    geometry = radiography.draw_view(patient, view, size, random)
    return radiography.line_integrals(patient, geometry, random)[0]


def test_boxes_are_small_and_hairlines_the_least_visible(images, boxes):
    area = (boxes["xmax"] - boxes["xmin"]) * (boxes["ymax"] - boxes["ymin"]) / SIZE**2
    assert area.median() < 0.12 and area.max() < 0.5
    visibility = images[images["fracture"] != ""].astype({"visibility": float})
    assert visibility.groupby("fracture")["visibility"].median().idxmin() == "hairline"


def test_neither_file_nor_border_nor_brightness_tells_the_class(directory, images):
    rows = []
    for path in images["path"]:
        pixels = np.asarray(Image.open(directory / path), float)
        border = np.concatenate([pixels[:3].ravel(), pixels[:, :3].ravel(), pixels[-3:].ravel()])
        size = (directory / path).stat().st_size
        rows.append([size, pixels.mean(), pixels.std(), border.mean()])
    fractured = images["label"] == "fractured"
    for values in np.transpose(rows):
        assert roc_auc_score(fractured, values) == pytest.approx(0.5, abs=0.1)


def test_confounders_are_as_frequent_in_both_classes():
    drawn = [anatomy.draw_patient(index, 0) for index in range(660)]
    for trait in (
        lambda p: p.age == "child",
        lambda p: p.cast,
        lambda p: p.side == "L",
        lambda p: p.limb.bones[p.bone].canal != 0,
        lambda p: p.body_part == "hand",
        lambda p: p.views == 2,
    ):
        broken, whole = ([trait(p) for p in drawn if bool(p.fracture) == b] for b in (True, False))
        assert np.mean(broken) == pytest.approx(np.mean(whole), abs=0.12)


def test_bone_is_brighter_than_flesh_and_cortex_brighter_than_marrow():
    tube = anatomy.Tube((0, -200, 0), (0, 200, 0), 15.0, cortex=4.0)
    flesh = anatomy.Tube((0, -300, 0), (0, 300, 0), 40.0)
    patient = anatomy.draw_patient(0, 0)
    limb = anatomy.Limb([tube], 1, [flesh], 100.0)
    patient = anatomy.replace(patient, limb=limb, bone=0, site=0.5, fracture=None, cast=False)
    view = radiography.View(0.0, 0.0, np.zeros(2), 1.0, 100)
    random = np.random.default_rng(0)
    integrals, _ = radiography.line_integrals(patient, view, random)
    grey = radiography.develop(integrals, random)[30:70].mean(0)
    air, soft, marrow, cortex = grey[[7, 8]].mean(), grey[[30, 69]], grey[49:51], grey[[37, 62]]
    assert cortex.min() > marrow.max() > marrow.min() > soft.max() > soft.min() > air


@given(st.floats(0, 3.1), st.floats(-0.95, 0.95))
@settings(max_examples=30, deadline=None)
def test_chord_is_that_of_the_turned_ellipse(turn, place):
    tube = anatomy.Tube((0, -500, 0), (0, 500, 0), 10.0, depth=0.6)
    view = radiography.View(turn, 0.0, np.zeros(2), 0.5, 4)
    shadow = radiography.Shadow.cast(tube, view, (slice(0, 4), slice(0, 4)))
    half, depth, _ = shadow.semi_axes(shadow.across)
    across = np.full_like(half, place * half[0, 0])
    chord = radiography._chord(half, depth, across)[0, 0]
    # Brute force: points of the ray inside (x / 10)^2 + (z / 6)^2 < 1.
    w = np.linspace(-12, 12, 200_001)
    x = across[0, 0] * np.cos(turn) - w * np.sin(turn)
    z = across[0, 0] * np.sin(turn) + w * np.cos(turn)
    inside = ((x / 10) ** 2 + (z / 6) ** 2 < 1).mean() * 24
    assert chord == pytest.approx(inside, abs=0.02)


def test_a_complete_set_is_left_alone(directory):
    before = times(directory)
    phantoms.make(directory, PICTURES, SIZE, SEED)
    assert times(directory) == before


def test_an_interrupted_set_is_finished_and_keeps_what_is_done(tmp_path, monkeypatch):
    phantoms.make(tmp_path / "whole", 30, 64, 0)
    calls = 0

    def interrupt(*arguments):
        nonlocal calls
        calls += 1
        if calls > 12:
            raise KeyboardInterrupt
        return radiography.render(*arguments)

    target = tmp_path / "interrupted"
    with monkeypatch.context() as patch:
        patch.setattr(phantoms, "render", interrupt)
        with pytest.raises(KeyboardInterrupt):
            phantoms.make(target, 30, 64, 0)
    (target / "train" / "normal" / ".fracture-partial-x.png").write_bytes(b"half a pict")
    done = {name: time for name, time in times(target).items() if name.endswith(".png")}
    assert 0 < len(done) < 30
    phantoms.make(target, 30, 64, 0)
    assert tree(target) == tree(tmp_path / "whole")
    assert all(times(target)[name] == time for name, time in done.items())
    assert not list(target.rglob(".fracture-partial-*"))


def test_a_killed_run_is_finished_by_the_next(tmp_path):
    code = "import sys, pathlib; from fracture_utils.data import phantoms; "
    code += "phantoms.make(pathlib.Path(sys.argv[1]), 120, 64, 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "killed")],
        cwd=Path(phantoms.__file__).parents[2],
    )
    while len(tree(tmp_path / "killed")) < 20 and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    assert process.wait() != 0
    phantoms.make(tmp_path / "killed", 120, 64, 0)
    phantoms.make(tmp_path / "whole", 120, 64, 0)
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_other_settings_replace_the_whole_set(tmp_path):
    phantoms.make(tmp_path, 30, 64, 0)
    phantoms.make(tmp_path, 20, 64, 5)
    found = tree(tmp_path)
    assert sum(name.endswith(".png") for name in found) == 20
    phantoms.make(tmp_path / ".again", 20, 64, 5)
    assert found == tree(tmp_path / ".again")


@pytest.mark.parametrize("name", ["notes.txt", "train/fractured/mine.png"])
def test_foreign_files_are_refused_and_untouched(tmp_path, name):
    phantoms.make(tmp_path, 12, 64, 0)
    Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    before = tree(tmp_path)
    for pictures in (12, 16):
        with pytest.raises(InputError, match=Path(name).name):
            phantoms.make(tmp_path, pictures, 64, 0)
    assert tree(tmp_path) == before


def test_a_foreign_picture_in_the_place_of_a_phantom_is_not_overwritten(tmp_path):
    phantoms.make(tmp_path, 12, 64, 0)
    place = next((tmp_path / "train").rglob("*.png"))
    Image.new("L", (8, 8)).save(place)
    mine = place.read_bytes()
    with pytest.raises(InputError, match=place.name):
        phantoms.make(tmp_path, 12, 64, 1)
    assert place.read_bytes() == mine


def test_a_copy_of_a_phantom_under_another_name_counts_as_foreign(tmp_path):
    phantoms.make(tmp_path, 12, 64, 0)
    original = next((tmp_path / "train" / "normal").glob("*.png"))
    copy = original.with_name("copy.png")
    copy.write_bytes(original.read_bytes())
    with pytest.raises(InputError, match=r"copy\.png"):
        phantoms.make(tmp_path, 16, 64, 0)
    assert copy.exists()


def test_sidecars_of_the_user_are_not_overwritten(tmp_path):
    (tmp_path / "images.csv").write_text("path,patient\n")
    with pytest.raises(InputError, match=r"images\.csv"):
        phantoms.make(tmp_path, 12, 64, 0)
    assert (tmp_path / "images.csv").read_text() == "path,patient\n"


def test_hidden_files_of_the_system_do_not_matter(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    phantoms.make(tmp_path, 12, 64, 0)
    assert (tmp_path / ".DS_Store").exists()
