from pathlib import Path

import pytest
import radiographs
from radiographs import make, save

from fracture_utils.config import Config
from fracture_utils.data import folders
from fracture_utils.errors import InputError


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("fractured", "fractured Fractured FRACTURE fractures positive Positive abnormal "
         "Bone_Fracture study1_positive fractured-bones wrist_positive not_normal"),
        ("normal", "normal Normal negative healthy not_fractured Not-Fractured nonfractured "
         "NonFractured Non_fractured no_fracture NoFracture unfractured notfractured "
         "fracture_negative without_fracture normal_bones un_fractured no-finding-fracture"),
        ("fractured", "Avulsion_fracture Comminuted_fracture Greenstick_fracture Comminuted "
         "Fracture_Dislocation Spiral_Fracture Intra-articular_fracture hairline"),
        ("", "oblique wrist images data bone_fracture_detection fractured_and_normal normals123x "
         "patient0001 FracAtlas train fractured-vs-normal"),
    ],
)  # fmt: skip
def test_words_of_the_class(label, names):
    for name in names.split():
        assert folders.label_word(name) == label, name
        assert folders.label_word(name.replace("_", " ")) == label, name


@pytest.mark.parametrize(
    ("split", "names"),
    [("train", "train Train TRAINING train_set Training-Data train_fractured"),
     ("test", "test Testing TEST test_images testing_data"),
     ("validation", "val VALID validation Val_set"),
     ("", "train_test other images trainer")],
)  # fmt: skip
def test_words_of_the_split(split, names):
    for name in names.split():
        assert folders.split_word(name) == split, name


def test_places():
    def of(*paths):
        return [tuple(place)[:2] for place in folders.places([p.split("/") for p in paths])]

    assert of("train/0/a.png", "test/1/b.png") == [("train", "normal"), ("test", "fractured")]
    assert of("train/0/a.png", "train/0/b.png") == [("train", ""), ("train", "")]
    assert of("Bone Fracture/train/normal/a", "Bone Fracture/test/fractured/a") == [
        ("train", "normal"), ("test", "fractured")]  # fmt: skip
    (one, *_) = folders.places([("train", "fractured", "normal", "a"), ("test", "normal", "b")])
    assert "contradict each other (fractured and normal)" in one.problem
    (one, *_) = folders.places([("train", "test", "normal", "a"), ("test", "normal", "b")])
    assert "contradict each other (test and train)" in one.problem


SPELLINGS = [
    ("Train/Fractured", "Train/Normal", "Test/Fractured", "Test/Normal"),
    ("training/positive", "training/negative", "testing/positive", "testing/negative"),
    ("TRAIN/fracture", "TRAIN/no fracture", "TEST/fracture", "TEST/no fracture"),
    ("train/fractured", "train/not fractured", "test/fractured", "test/non-fractured"),
    ("train/1", "train/0", "test/1", "test/0"),
    ("fractured/train", "normal/train", "fractured/test", "normal/test"),
    (
        "mydata/train/fractured",
        "mydata/train/normal",
        "mydata/test/fractured",
        "mydata/test/normal",
    ),
    ("train/Avulsion fracture", "train/healthy", "test/Spiral fracture", "test/healthy"),
]


def lay(names, root="data"):
    for place, name in enumerate(names):
        for number in range(6):
            save(f"{root}/{name}/{number}.png", 100 * place + number)


@pytest.mark.parametrize("names", SPELLINGS, ids=lambda names: names[0])
@pytest.mark.parametrize("root", ["data", "mine"])
def test_spellings_of_the_four_folders_are_used(names, root):
    lay(names, root)
    config = Config(data_dir=root if root != "data" else None)
    assert config.source == "pictures"
    table = radiographs.table(config)
    assert len(table) == 24
    assert table.groupby("label").size().tolist() == [12, 12]
    assert (Path(root) / table["path"].iloc[0]).is_file()
    for name, label in zip(names, ["fractured", "normal"] * 2, strict=True):
        assert set(table.loc[table["path"].str.startswith(name + "/"), "label"]) == {label}


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_a_validation_folder_is_the_validation_split(name):
    make(patients=9)
    for number in range(3):
        save(f"data/{name}/fractured/v{number}.png", 7000 + number)
        save(f"data/{name}/normal/v{number}.png", 8000 + number)
    table = radiographs.table(Config())
    here = table["path"].str.startswith(name + "/")
    assert (here == (table["split"] == "validation")).all()
    assert here.sum() == 6
    for path in Path("data", name, "normal").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"data/validation/normal does not exist"):
        radiographs.table(Config())


@pytest.mark.parametrize(
    "name",
    ["fractured/a.png", "Train/a.png", "a.png", "mydata/train/a.png", "train/unsure/a.png",
     "scans/a.dcm", "set.zip", "train/a.webp", "normal/IM0001", "val/a.jpg"],
)  # fmt: skip
@pytest.mark.parametrize("beside", [False, True])
def test_anything_else_stops_with_what_lies_there_and_what_is_expected(name, beside):
    if beside:
        make(patients=9)
    save(Path("data", name).with_suffix(".png"), 1)
    Path("data", name).with_suffix(".png").rename(Path("data", name))
    config = Config()
    assert config.source == "pictures"
    with pytest.raises(InputError, match="train/fractured, train/normal, test/fractured") as said:
        radiographs.table(config)
    assert (str(Path(name).parent) if "/" in name else name) in str(said.value)
    assert "import folders" in str(said.value)


def test_contradicting_words_in_a_path_are_refused():
    make(patients=9)
    save("data/train/normal/fractured/a.png", 1)
    with pytest.raises(InputError, match=r"normal/fractured/a\.png: its folders contradict"):
        radiographs.table(Config())


def test_phantoms_are_drawn_only_where_there_is_no_picture():
    for name in ("train/fractured/.gitkeep", "README.md", "phantoms/train/normal/a.png",
                 ".hidden/a.png", "train/notes.txt"):  # fmt: skip
        Path("data", name).parent.mkdir(parents=True, exist_ok=True)
        Path("data", name).touch()
    assert Config().source == "phantoms"
    Path("data/boxes.csv").write_text("path\n")
    with pytest.raises(InputError, match=r"has no pictures \(only boxes\.csv\)"):
        Config()


def test_linked_folders_are_read():
    lay(SPELLINGS[0], "elsewhere")
    Path("data").mkdir()
    for name in ("Train", "Test"):
        Path("data", name).symlink_to(Path("elsewhere", name).resolve())
    assert len(radiographs.table(Config())) == 24
