import filelock
import pytest

from fracture_utils import clean, files
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.errors import InputError


@pytest.fixture
def config(tmp_path):
    """A results folder with caches, results and the rest of an interrupted write."""
    config = Config(source="phantoms")
    for name, size in {
        "results/cache/pixels/224.npy": 3_000_000,
        "results/cache/networks/VGG16/features-1.npz": 1_000_000,
        "results/.fracture-partial-abc.csv": 500_000,
        "models/.fracture-partial-x.weights.h5": 500_000,
        "results/scores.csv": 10,
        "models/VGG16.weights.h5": 10,
        "data/train/normal/mine.png": 10,
        "data/phantoms/train/normal/made.png": 10,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
    return config


def test_listing_changes_nothing_and_says_how_much(config, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert main(["clean"]) == 0
    assert "5.0 MB would be freed" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


def test_removing_leaves_results_models_and_pictures(config, capsys, tmp_path):
    assert main(["clean", "--remove"]) == 0
    assert "5.0 MB freed" in capsys.readouterr().out
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left - {"results/cache/run.lock", "models/run.lock"} == {
        "results/scores.csv",
        "models/VGG16.weights.h5",
        "data/train/normal/mine.png",
        "data/phantoms/train/normal/made.png",
    }
    assert not list(tmp_path.rglob(files.TEMPORARY_PREFIX + "*"))


def test_a_link_out_of_the_cache_is_not_followed(config, tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "mine.png").touch()
    (config.cache_dir / "link").symlink_to(outside)
    (config.cache_dir / "pixels" / "link").symlink_to(outside)
    clean.remove(config)
    assert (outside / "mine.png").exists()


def test_a_run_at_work_is_not_disturbed(config):
    with (
        filelock.FileLock(config.cache_dir / "run.lock"),
        pytest.raises(InputError, match="at work"),
    ):
        clean.remove(config)
    assert (config.cache_dir / "pixels" / "224.npy").exists()
