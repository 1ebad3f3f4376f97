"""Batches of images and of cached feature maps, augmentation, and boxes as grids."""

import dataclasses
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
from PIL import Image
from scipy import ndimage

from fracture_utils.config import Config
from fracture_utils.data import reader

MIDDLE_GRAY = 127.5
MIN_COVERED = 0.25  # fraction of a grid cell inside a box above which it is fractured
MIN_PIXELS = 0.5  # nonblack pixels in a grid cell above which it lies inside the image


def shuffled(rows: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows (n,) in an order that depends on the seed and the epoch only; from rows (n,
    variants), where each row lists the variants of one image, a random variant per image.
    """
    random = np.random.default_rng([seed, epoch])
    variants = random.permutation(rows).reshape(len(rows), -1)
    return variants[np.arange(len(rows)), random.integers(variants.shape[1], size=len(rows))]


def affine(size: int, config: Config, random: np.random.Generator) -> tuple[float, ...]:
    """A random flip, rotation, zoom and shift: six affine coefficients from output to input."""
    angle = np.deg2rad(random.uniform(-config.rotation, config.rotation))
    scale = 1 / (1 + random.uniform(-config.zoom, config.zoom))
    flip_x = -1 if config.horizontal_flip and random.random() < 0.5 else 1
    flip_y = -1 if config.vertical_flip and random.random() < 0.5 else 1
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * rotation @ np.diag([flip_x, flip_y])  # from output to input
    center = np.full(2, size / 2)
    offset = center - matrix @ (center + size * random.uniform(-config.shift, config.shift, 2))
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def warp(square: np.ndarray, coefficients: tuple[float, ...]) -> np.ndarray:
    """uint8 (size, size) after an affine map: one bilinear interpolation, black outside."""
    kind, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(square).transform(square.shape, kind, coefficients, bilinear))


def augment(image: np.ndarray, config: Config, random: np.random.Generator) -> np.ndarray:
    """A random variant of uint8 (size, size): an `affine` map, then contrast and brightness, as
    float32 in 0..255. The padding stays black, so that the localization head can mask it.
    """
    coefficients, lit = affine(len(image), config, random), image > 0
    frame = np.outer(lit.any(axis=1), lit.any(axis=0)).astype(np.uint8)
    gain = 1 + random.uniform(-config.contrast, config.contrast)
    offset = 255 * random.uniform(-config.brightness, config.brightness)
    moved = warp(image, coefficients).astype(np.float32)
    gray = np.clip((moved - MIDDLE_GRAY) * gain + MIDDLE_GRAY + offset, 0, 255)
    return gray * (warp(frame, coefficients) > 0)


@dataclasses.dataclass(eq=False)
class ImageBatches(keras.utils.PyDataset):
    """Images as float32 (batch, size, size, 1) in 0..255, with labels float32 (batch, 1).

    `rows` are the rows of `pixels`, uint8 (n, size, size), and of `labels` (n,) to use, in this
    order: unchanged, or augmented by `epoch`, identically after training is resumed.
    With `cell_targets`, a function of rows and epoch, targets of the grid cells follow the labels.
    """

    pixels: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    config: Config
    epoch: int | None = None
    cell_targets: Callable[[np.ndarray, int | None], tuple] | None = None

    def __post_init__(self) -> None:
        super().__init__(workers=os.cpu_count() or 1)
        self.rows = np.asarray(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.config.batch_size)

    def __getitem__(self, index: int) -> tuple:
        size, config = self.config.batch_size, self.config
        rows = self.rows[index * size : (index + 1) * size]
        images = self.pixels[rows]
        if self.epoch is not None:
            random = (np.random.default_rng([config.seed, self.epoch, row]) for row in rows)
            images = np.stack([augment(image, config, next(random)) for image in images])
        targets = self.labels[rows, None].astype(np.float32)
        if self.cell_targets is not None:
            targets = targets, self.cell_targets(rows, self.epoch)[0].astype(np.float32)
        return images[..., None].astype(np.float32), targets


class FeatureBatches(keras.utils.PyDataset):
    """Rows of cached arrays and of targets as tuples; targets float32, (n,) as (batch, 1). Where
    `rows` is (n, variants), `shuffled` must choose a variant of each image before the first batch.
    """

    def __init__(
        self, arrays: Sequence, targets: Sequence, rows: np.ndarray, batch_size: int
    ) -> None:
        super().__init__(workers=1)
        self.arrays, self.rows, self.batch_size = arrays, np.asarray(rows), batch_size
        self.targets = [target[:, None] if target.ndim == 1 else target for target in targets]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple[tuple, tuple]:
        rows = self.rows[index * self.batch_size : (index + 1) * self.batch_size]
        targets = tuple(target[rows].astype(np.float32) for target in self.targets)
        return tuple(np.asarray(array[rows]) for array in self.arrays), targets


def draw_boxes(boxes: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """Boxes (k, 4: xmin, ymin, xmax, ymax in pixels of a file of `shape`) in the frame of
    `reader.fit`: uint8 (size, size), 255 inside a box, 0 elsewhere.
    """
    top, left, height, width = reader.frame(shape, size)
    square = np.zeros((size, size), np.uint8)
    scale = np.array([width / shape[1], height / shape[0]] * 2)
    corners = np.maximum(boxes * scale + np.array([left, top] * 2), 0)
    for xmin, ymin, xmax, ymax in corners:
        last_row, last_column = max(np.ceil(ymax), ymin + 1), max(np.ceil(xmax), xmin + 1)
        square[int(ymin) : int(last_row), int(xmin) : int(last_column)] = 255
    return square


def box_grid(marked: np.ndarray, rows: int) -> np.ndarray:
    """Which cells of a (rows, rows) grid show a fracture, float32 of 0 and 1.

    A cell counts if more than MIN_COVERED of it lies in a box of `marked` (see `draw_boxes`), or if
    it has the largest part of a box: a hairline fracture may be smaller than a cell.
    """
    regions, count = ndimage.label(marked)
    weight = membership(len(marked), rows)
    area = weight.sum(axis=1)
    result = weight @ (regions > 0) @ weight.T > MIN_COVERED * np.outer(area, area)
    for number in range(1, count + 1):
        held = weight @ (regions == number) @ weight.T
        result[np.unravel_index(held.argmax(), held.shape)] = True
    return result.astype(np.float32)


def inside_grid(square: np.ndarray, rows: int) -> np.ndarray:
    """Which cells of a (rows, rows) grid lie inside the image, not its padding: bool."""
    weight = membership(len(square), rows)
    return weight @ (square > 0).astype(np.float32) @ weight.T > MIN_PIXELS


def membership(size: int, rows: int) -> np.ndarray:
    """Fraction of each of `size` pixels in each of `rows` equal cells, float32 (rows, size)."""
    edges, pixel = np.linspace(0, size, rows + 1), np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(overlap, 0, 1).astype(np.float32)
