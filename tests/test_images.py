import shutil
from pathlib import Path

import pandas as pd
import pytest
import radiographs
from radiographs import make, save

from fracture_utils.config import Config
from fracture_utils.data import images
from fracture_utils.errors import InputError


def test_the_table_has_its_columns_and_is_sorted():
    config = make()
    table = radiographs.table(config)
    assert list(table.columns) == images.COLUMNS
    assert list(table["path"]) == sorted(table["path"])
    assert len(table) == 52
    first = table.iloc[0]
    assert (first["width"], first["height"], first["bit_depth"]) == (40, 40, 8)
    assert len(first["sha256"]) == 64
    assert set(table["split"]) == {"train", "validation", "test"}
    assert table.groupby("group")["split"].nunique().max() == 1
    assert first["group"].startswith("patient000")


def test_validation_has_both_classes_and_about_its_share():
    table = radiographs.table(make(patients=60, views=1))
    train = table[table["split"] != "test"]
    share = (train["split"] == "validation").groupby(train["label"]).mean()
    assert (share > 0.09).all()
    assert (share < 0.5).all()
    summary = images.summary(table)
    assert summary.loc["all", "all"] == len(table)
    assert (summary.loc["fractured"] > 0).all()
    assert list(summary.columns) == ["train", "validation", "test", "all"]


def splits(groups, seed=0):
    rows = [
        (f"{g}/{k}", "fractured" if g % 3 == 0 else "normal", "train", f"g{g}")
        for g in groups
        for k in range(2)
    ]
    rows += [("t0", "normal", "test", "t0"), ("t1", "fractured", "test", "t1")]
    table = pd.DataFrame(rows, columns=["path", "label", "split", "group"])
    config = Config(seed=seed, source="pictures")
    return dict(zip(table["path"], images._split_off_validation(table, config), strict=True))


def test_added_pictures_move_few_between_splits():
    before, after = splits(range(300)), splits(range(330))
    moved = sum(after[path] != split for path, split in before.items())
    assert moved <= 12


def test_another_seed_splits_otherwise():
    assert splits(range(60), 0) != splits(range(60), 1)
    assert splits(range(60), 0) == splits(range(60), 0)


@pytest.mark.parametrize("seed", range(8))
def test_sixty_pictures_suffice(seed):
    here = splits(range(15), seed)
    assert sum(split == "validation" for split in here.values()) >= 2


def test_too_few_patients_is_one_sentence():
    save("data/train/fractured/patient1_a.png", 1)
    save("data/train/fractured/patient1_b.png", 2)
    for number in range(4):
        save(f"data/train/normal/patient9{number}.png", 10 + number)
    save("data/test/fractured/a.png", 30)
    save("data/test/normal/b.png", 31)
    with pytest.raises(InputError, match="too few patients"):
        radiographs.table(Config(source="pictures"))


def test_groups_come_from_sidecar_then_name_then_likeness():
    save("data/train/normal/one.png", 1)
    save("data/train/normal/again.jpg", 1, quality=60)
    save("data/train/normal/other.png", 3)
    save("data/train/normal/wrist_aug_1.png", 4)
    save("data/train/normal/wrist_rotated.png", 5)
    save("data/train/normal/wrist.png", 6)
    save("data/train/normal/knee_jpg.rf.0a1b2c.jpg", 7)
    save("data/train/normal/knee_jpg.rf.ffff.jpg", 8)
    save("data/train/normal/Patient 0007 view.png", 9)
    save("data/train/normal/told.png", 10)
    for number in range(5):
        save(f"data/train/fractured/f{number}.png", 50 + number)
    save("data/test/normal/knee_jpg.rf.bbbb.jpg", 11)
    save("data/test/fractured/wrist.png", 12)
    Path("data/images.csv").write_text("path,patient\ntrain/normal/told.png,p12\n")
    table = radiographs.table(Config(source="pictures"))
    groups = {
        Path(p).relative_to(Path(p).parts[0]).as_posix(): g
        for p, g in zip(table["path"], table["group"], strict=True)
    }
    assert groups["normal/one.png"] == groups["normal/again.jpg"]
    assert groups["normal/one.png"] != groups["normal/other.png"]
    assert len({groups[f"normal/wrist{x}.png"] for x in ("", "_aug_1", "_rotated")}) == 1
    assert groups["fractured/wrist.png"] != groups["normal/wrist.png"]
    knees = table[table["path"].str.contains("knee")]
    assert len(set(knees["group"])) == 1
    assert "test" in set(knees["split"])
    assert groups["normal/Patient 0007 view.png"] == "patient 0007"
    assert groups["normal/told.png"] == "p12"
    assert list(table.columns) == [*images.COLUMNS, "patient"]


def test_the_sidecar_is_merged_and_must_agree():
    config = make()
    table = radiographs.table(config)
    known = pd.DataFrame(
        {
            "path": table["path"],
            "body_part": "wrist",
            "reason": "a fall",  # also the name of a fact about files
            "width": "9.0",
            "label": table["label"],
            "split": table["split"],
        }
    )
    known = known.replace({"split": {"validation": "train"}})
    known.to_csv("data/images.csv", index=False)
    merged = radiographs.table(config)
    assert list(merged.columns) == [*images.COLUMNS, "body_part", "reason"]
    assert (merged["width"] == 40).all()
    known.iloc[1:].to_csv("data/images.csv", index=False)
    assert radiographs.table(config)["body_part"].tolist()[:2] == ["", "wrist"]


@pytest.mark.parametrize("folder", ["test/normal", "test/fractured", "train/fractured", "test"])
def test_a_missing_or_empty_folder_is_named(folder):
    config = make(patients=6)
    shutil.rmtree(Path("data", folder))
    with pytest.raises(InputError, match=rf"data/{folder}.* does not exist") as caught:
        radiographs.table(config)
    assert "\n" not in str(caught.value)
    if folder != "test":
        Path("data", folder).mkdir()
        Path("data", folder, "a.png").write_text("x")
        with pytest.raises(InputError, match=r"holds no readable picture .*a\.png: its content"):
            radiographs.table(config)
