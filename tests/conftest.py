"""Fixtures of several test modules. Every test starts without FRACTURE_* variables and in an empty
working folder of its own.
"""

import functools
import gc
import os
import shutil

import hypothesis
import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import files
from fracture_utils.models import progress
from fracture_utils.models.backbones import RELEASED_DIR

matplotlib.use("Agg")
hypothesis.settings.register_profile("unhurried", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("unhurried")

LONGEST = (
    *("test_project", "test_faults", "test_small_sets", "test_benchmarks", "test_cluster"),
    *("test_models", "test_evaluation_plots", "test_predict", "test_released_models", "test_jobs"),
)
"""Files that take a minute or more."""


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one of them in the end."""
    place = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish():
    """What was imported is not looked through again at every collection of garbage: with Keras
    that takes a good part of a second, and statsmodels collects at each correction.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def speed():
    """How fast the machine is gets measured once, not before each training: it takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "_speed", functools.cache(progress._speed))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("FRACTURE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures whose class is a bright band, and their images table."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for k in range(48):
        label = ("normal", "fractured")[k % 3 // 2]
        split = ("train", "train", "validation", "test")[k // 3 % 4]
        place = "test" if split == "test" else "train"
        path = folder / place / label / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = random.integers(0, 120, (40, 32)).astype(np.uint8)
        grey[12:20] += 100 * (k % 3 // 2)
        Image.fromarray(grey).save(path)
        rows.append((path.relative_to(folder).as_posix(), f"g{k}", label, split, "hand"))
    images = pd.DataFrame(rows, columns=["path", "group", "label", "split", "body_part"])
    images["sha256"] = [files.sha256(folder / path) for path in images["path"]]
    return folder, images


@pytest.fixture(scope="session")
def small_released(tmp_path_factory):
    """A folder with the released MobileNet; it is asked in float32 and about small pictures."""
    folder = tmp_path_factory.mktemp("released")
    for path in RELEASED_DIR.glob("MobileNet.*"):
        shutil.copy(path, folder)
    card = files.read_json(folder / "MobileNet.json") | {"precision": "float32", "input_size": 128}
    files.write_json(folder / "MobileNet.json", card)
    return folder
