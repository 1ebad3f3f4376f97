"""Folders of small pictures for tests, and what the package reads from them."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fracture_utils.config import Config
from fracture_utils.data import audit, images, inventory, sidecars


def picture(seed: int, size: int = 40) -> Image.Image:
    """A picture like no other: smooth random structure, distinct for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def save(path: str | Path, seed: int, **options) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)


def make(root: str = "data", patients: int = 20, views: int = 2, test: int = 6) -> Config:
    """Pictures of `patients` in train and `test` in test, every third patient fractured."""
    for number in range(patients + test):
        label = "fractured" if number % 3 == 0 else "normal"
        split = "train" if number < patients else "test"
        for view in range(views):
            name = f"{root}/{split}/{label}/patient{number:05d}_view{view}.png"
            save(name, 100 * number + view)
    return Config(data_dir=root, source="pictures", results_dir="results")


def table(config: Config) -> pd.DataFrame:
    """The images table of what now lies in the data folder."""
    return images.table(config, inventory.take(config))


def audited(config: Config, images: pd.DataFrame | None = None) -> pd.DataFrame:
    """The audit's findings about what now lies there, or about some of its pictures."""
    taken = inventory.take(config)
    return audit.run(table(config) if images is None else images, taken, config)


def boxes(config: Config) -> pd.DataFrame:
    """What boxes.csv says now."""
    return sidecars.boxes(config, inventory.take(config).files)


def said(config: Config) -> pd.DataFrame:
    """What images.csv says now."""
    return sidecars.pictures(config, inventory.take(config).files)
