"""Small trainings, made once per process and shared by tests."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import radiographs

from fracture_utils.config import Config
from fracture_utils.data import dataset
from fracture_utils.models import backbones, jobs


@functools.cache
def scratch() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def data_dir() -> Path:
    """52 images of 26 patients; every fractured image has a box."""
    config = radiographs.make(str(scratch() / "data"))
    paths = sorted(config.data_dir.rglob("*.png"))
    names = [path.relative_to(config.data_dir).as_posix() for path in paths]
    annotations = pd.DataFrame({"path": names, "body_part": "hand"})
    annotations.to_csv(config.data_dir / "images.csv", index=False)
    boxes = annotations[annotations["path"].str.contains("fractured")][["path"]]
    boxes = boxes.assign(xmin=10, ymin=12, xmax=20.04, ymax=22)
    boxes.to_csv(config.data_dir / "boxes.csv", index=False)
    return config.data_dir


def small(folder: Path, **settings) -> Config:
    """Settings of a training of seconds."""
    quick = {
        "data_dir": data_dir(), "results_dir": folder / "results", "models_dir": folder / "models",
        "image_size": 64, "batch_size": 8, "fine_tune_epochs": 2, "backbones": "MobileNet",
        "initialization": "random", "precision": "float32",
    }  # fmt: skip
    return Config(**quick | settings)


def load(config: Config) -> dataset.Dataset:
    return dataset.load(config, backbones.sizes(config))


def train(config: Config) -> jobs.Training:
    data = load(config)
    return jobs.train(data.images, data.boxes, config)


@functools.cache
def finished() -> tuple[Config, jobs.Training]:
    """An uninterrupted training with both heads and fine-tuning."""
    config = small(scratch() / "finished")
    return config, train(config)


def copy_of_finished(folder: Path) -> Config:
    """The folders of `finished` at another place."""
    shutil.copytree(finished()[0].results_dir.parent, folder, dirs_exist_ok=True)
    return small(folder)
