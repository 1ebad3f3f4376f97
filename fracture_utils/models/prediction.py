"""From logits to the predictions table, and the file of a trained network's weights."""

import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy import special

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data.batches import Batches
from fracture_utils.models import folding

TIMED_BATCHES, LONG = 3, 1.0  # seconds


def table_of(name: str, logits: np.ndarray, images: pd.DataFrame) -> pd.DataFrame:
    """The predictions table of one network; `logits` (n,) are those of the rows of `images`."""
    table = images[["path", "group", "label", "split"]].assign(model=name, kind="network")
    return table.assign(logit=logits, probability=special.expit(logits))


def seeds_table(name: str, logits: np.ndarray, images: pd.DataFrame) -> pd.DataFrame:
    """The seeds table of one network: `logits` (seeds, n) of the n rows of `images`."""
    table = images[["path", "split", "label"]].assign(model=name)
    parts = [table.assign(seed=seed, logit=row) for seed, row in enumerate(logits)]
    return pd.concat(parts) if parts else table.assign(seed=0, logit=0.0).iloc[:0]


def seconds_per_picture(model: keras.Model, pixels: np.ndarray, config: Config) -> float:
    """Median over a few full batches of the folded network, after one that warms up; over fewer
    where they take long.
    """
    rows, quick = np.arange(config.batch_size) % len(pixels), folding.folded(model)
    batch = Batches(pixels, np.zeros(len(pixels)), rows, config)[0][0]
    quick.predict_on_batch(batch)
    seconds: list[float] = []
    while len(seconds) < TIMED_BATCHES and sum(seconds) < LONG:
        started = time.perf_counter()
        quick.predict_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)) / len(batch)


def weights_path(name: str, config: Config) -> Path:
    """Where the trained weights of a network lie; their JSON lies beside them."""
    return config.models_dir / f"{name}.weights.h5"


def save_weights(model: keras.Model, config: Config) -> None:
    """Write the weights of a trained network, whole or not at all."""
    without_optimiser = keras.Model(model.input, model.output)
    with files.replacing(weights_path(model.name, config)) as temporary:
        without_optimiser.save_weights(temporary)
