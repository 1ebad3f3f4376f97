"""Feature maps of the frozen body, computed once per image and cached as memory-mapped .npy.

The pooled head learns from pooled features; the localization head and the top block from the maps,
which are many times larger.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from fracture_utils import artifacts
from fracture_utils.config import NORMAL
from fracture_utils.data import generators
from fracture_utils.models.builder import UNKNOWN

NAMES = ("early", "last", "pooled")
CHUNK = 4  # batches whose feature maps are in memory at once
LARGEST = float(np.finfo(np.float16).max)


def extract(
    body: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    config,
    folder: Path,
    with_maps: bool,
    key: dict,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """Early and last feature maps (float16), if `with_maps`, and pooled features (float32) of the
    `rows` of `pixels`, by name: files in `folder`, sealed by `key`.

    `body` is a (folded) `builder.build_body`. FloatingPointError where a feature is not finite.
    """
    outputs = dict(zip(NAMES, body.outputs, strict=True))
    paths = {name: folder / f"{name}.npy" for name in (NAMES if with_maps else NAMES[2:])}
    if not all(artifacts.is_valid(path, key) for path in paths.values()):
        model = keras.Model(body.input, [outputs[name] for name in paths])
        labels, step = np.zeros(len(pixels)), CHUNK * config.batch_size
        with contextlib.ExitStack() as files:
            arrays = []
            for name, path in paths.items():
                temporary = files.enter_context(artifacts.replacing(path))
                shape = (len(rows), *outputs[name].shape[1:])
                dtype = np.float32 if name == "pooled" else np.float16
                arrays.append(np.lib.format.open_memmap(temporary, "w+", dtype, shape))
                if hasattr(os, "posix_fallocate"):  # or a full disk would end the process
                    with temporary.open("rb+") as file:
                        os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            for start in range(0, len(rows), step):
                chunk = slice(start, start + step)
                batches = generators.ImageBatches(pixels, labels, rows[chunk], config)
                predicted = keras.tree.flatten(model.predict(batches, verbose=0))
                if not np.isfinite(predicted[-1]).all():
                    raise FloatingPointError(f"The features of {body.name} are not finite.")
                for array, values in zip(arrays, predicted, strict=True):
                    array[chunk] = np.clip(values, -LARGEST, LARGEST)
                progress(min(start + step, len(rows)), len(rows))
            for array in arrays:
                array.flush()
        for path in paths.values():
            artifacts.seal(path, key)
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def cell_targets(
    pixels: np.ndarray, rows: np.ndarray, images: pd.DataFrame, boxes: pd.DataFrame, grid: int
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of `builder.cell_loss`, int8 (n, grid, grid), and which cells lie inside the image,
    bool, for n `images` in these `rows` of `pixels`. Cells outside the image and those of a
    fracture without a box are UNKNOWN.
    """
    corners = {path: table.iloc[:, 1:].to_numpy(float) for path, table in boxes.groupby("path")}
    inside = np.stack([generators.inside_grid(pixels[row], grid) for row in rows])
    targets = np.full(inside.shape, UNKNOWN, np.int8)
    for number, image in enumerate(images.itertuples()):
        if image.label == NORMAL:
            targets[number][inside[number]] = 0
        elif image.path in corners:
            shape, size = (int(image.height), int(image.width)), pixels.shape[1]
            marked = generators.draw_boxes(corners[image.path], shape, size)
            fractured = generators.box_grid(marked, grid)
            targets[number] = np.where(inside[number], fractured, UNKNOWN)
    return targets, inside
