"""Frozen features: each picture passes each backbone once, plain, and as a few augmented views."""

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data.batches import Batches

BATCHES_AT_ONCE = 8
SECONDS_BETWEEN_SAVES = 30
FIRST_VIEW = 1_000_000
"""Views are augmented like epochs that no fine-tuning ever reaches."""


def extract(
    network: keras.Model,
    pixels: np.ndarray,
    train: np.ndarray,
    config: Config,
    path: Path,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """Pooled features of all pictures and of the augmented views of the training pictures.

    `network` ends with pooled features; `train` are the rows of `pixels` to view again. Returns
    float32 (pictures + (views - 1) * len(train), channels), in that order. What has been
    computed is saved to `path` about twice a minute, and found there after an interruption.
    """
    passes = [(np.arange(len(pixels)), None)]
    passes += [(train, FIRST_VIEW + view) for view in range(1, config.views)]
    total = sum(len(rows) for rows, _ in passes)
    result, done = _resume(path, total, network.output.shape[-1])
    start, saved = 0, time.monotonic()
    for rows, epoch in passes:
        step = BATCHES_AT_ONCE * config.batch_size
        for first in range(0, len(rows), step):
            chunk = rows[first : first + step]
            if start >= done:
                result[start : start + len(chunk)] = _predict(network, pixels, chunk, epoch, config)
                done = start + len(chunk)
                progress(done, total)
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    files.write_arrays(path, {"done": done}, {"features": result[:done]})
                    saved = time.monotonic()
            start += len(chunk)
    files.write_arrays(path, {"done": total}, {"features": result})
    return result


def _resume(path: Path, total: int, channels: int) -> tuple[np.ndarray, int]:
    result = np.empty((total, channels), np.float32)
    stored = files.read_arrays(path)
    if stored is None or stored[1]["features"].shape[1] != channels:
        return result, 0
    done = min(stored[0]["done"], total)
    result[:done] = stored[1]["features"][:done]
    return result, done


def _predict(
    network: keras.Model, pixels: np.ndarray, rows: np.ndarray, epoch: int | None, config: Config
) -> np.ndarray:
    batches = Batches(pixels, np.zeros(len(pixels)), rows, config, epoch)
    output = network.predict(batches, verbose=0)
    position = {row: k for k, row in enumerate(batches.rows)}  # views are served shuffled
    return output[[position[row] for row in rows]]
