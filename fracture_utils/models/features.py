"""Feature maps of the frozen backbone, computed once per image and augmented copy, cached as .npy.

The pooled head learns from pooled features; the localization head and the top block from the maps,
which are many times larger.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from fracture_utils import artifacts
from fracture_utils.config import NORMAL, Config
from fracture_utils.data import generators
from fracture_utils.models.builder import UNKNOWN

TYPES = {"early": "<f2", "last": "<f2", "content": "<f4", "pooled": "<f4"}
CHUNK = 4  # batches whose feature maps are in memory at once
LARGEST = float(np.finfo(np.float16).max)


def extract(
    body: keras.Model,
    pixels: np.ndarray,
    passes: Sequence[tuple[np.ndarray, int | None]],
    config: Config,
    folder: Path,
    with_maps: bool,
    key: dict,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """The outputs of `body` by name, only the pooled one unless `with_maps`: feature maps in
    float16, averages in float32. They are files in `folder`, sealed by `key`.

    Each of the `passes` has rows of `pixels` and the number of their augmented copy (None: the
    originals). `body` is a `builder.build_body`. FloatingPointError if a feature is not finite.
    """
    outputs = dict(zip(TYPES, body.outputs, strict=True))
    names = TYPES if with_maps else ["pooled"]
    paths = {name: folder / f"{name}.npy" for name in names}
    if not all(artifacts.is_valid(path, key) for path in paths.values()):
        model = keras.Model(body.input, [outputs[name] for name in paths])
        labels, step = np.zeros(len(pixels)), CHUNK * config.batch_size
        done, total = 0, sum(len(rows) for rows, _ in passes)
        with contextlib.ExitStack() as stack:
            files = []
            for name, path in paths.items():
                temporary = stack.enter_context(artifacts.replacing(path))
                files.append(stack.enter_context(temporary.open("wb")))
                header = {"descr": TYPES[name], "fortran_order": False}
                header["shape"] = (total, *outputs[name].shape[1:])
                np.lib.format.write_array_header_1_0(files[-1], header)
            for whole, copy in passes:
                for rows in np.split(whole, range(step, len(whole), step)):
                    batches = generators.ImageBatches(pixels, labels, rows, config, copy)
                    predicted = keras.tree.flatten(model.predict(batches, verbose=0))
                    if not np.isfinite(predicted[-1]).all():
                        raise FloatingPointError(f"The features of {body.name} are not finite.")
                    for name, file, values in zip(paths, files, predicted, strict=True):
                        file.write(np.clip(values, -LARGEST, LARGEST).astype(TYPES[name]))
                    progress(done := done + len(rows), total)
        for path in paths.values():
            artifacts.seal(path, key)
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def boxes_by_row(
    images: pd.DataFrame, rows: np.ndarray, boxes: pd.DataFrame
) -> dict[int, tuple[np.ndarray, tuple[int, int]]]:
    """Corners (k, 4) of the boxes and the shape of the file, by row of the pixels, of the `images`
    with known fracture positions: normal ones have no box, fractured ones without one are left out.
    """
    corners = {path: table.iloc[:, 1:].to_numpy(float) for path, table in boxes.groupby("path")}
    corners |= dict.fromkeys(images.loc[images["label"] == NORMAL, "path"], np.empty((0, 4)))
    shapes = images[["height", "width"]].astype(int).itertuples(index=False, name=None)
    of_row = zip(rows, images["path"], shapes, strict=True)
    return {row: (corners[path], shape) for row, path, shape in of_row if path in corners}


def cell_targets(
    pixels: np.ndarray, located: dict, grid: int, config: Config, rows: np.ndarray, copy: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Targets of `builder.cell_loss`, int8 (n, grid, grid), and which cells lie inside the image,
    bool, for n `rows` of `pixels`: the originals, or an augmented `copy`, whose boxes move with it.
    Cells outside the image and those of a fracture without a box (see `boxes_by_row`) are UNKNOWN.
    """
    inside = np.zeros((len(rows), grid, grid), bool)
    targets = np.full(inside.shape, UNKNOWN, np.int8)
    for number, row in enumerate(rows):
        squares = [pixels[row]]
        if row in located:
            squares.append(generators.draw_boxes(*located[row], pixels.shape[1]))
        if copy is not None:
            random = np.random.default_rng([config.seed, copy, row])  # as in `ImageBatches`
            coefficients = generators.affine(pixels.shape[1], config, random)
            squares = [generators.warp(square, coefficients) for square in squares]
        inside[number] = generators.inside_grid(squares[0], grid)
        for marked in squares[1:]:
            fractured = generators.box_grid(marked, grid)
            targets[number] = np.where(inside[number], fractured, UNKNOWN)
    return targets, inside
