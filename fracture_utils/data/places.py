"""Boxes of fractures as places of a grid over the square picture: what the evidence head learns."""

import numpy as np
from scipy import ndimage

from fracture_utils.data import reader

COVERED = 0.25
"""Share of a place from which it counts as fractured."""
MARK = 255
LIT = 0.5
"""Pixels that are not black, of which a place needs more to lie inside the picture."""


def mark(boxes: np.ndarray, shape: tuple[int, int], size: int, aspect: str) -> np.ndarray:
    """The boxes (k, 4: xmin, ymin, xmax, ymax in pixels of a file of `shape`) as a picture, uint8
    (size, size): MARK inside a box, 0 elsewhere, in the frame of `reader.fit`.

    As a picture it can be turned and shifted by `augmentation.warp` like the X-ray itself.
    """
    top, left, height, width = reader.frame(shape, size, aspect)
    square = np.zeros((size, size), np.uint8)
    scale = np.array([width / shape[1], height / shape[0]] * 2)
    for xmin, ymin, xmax, ymax in boxes * scale + np.array([left, top] * 2):
        rows = slice(max(int(np.floor(ymin)), 0), max(int(np.ceil(ymax)), int(ymin) + 1))
        columns = slice(max(int(np.floor(xmin)), 0), max(int(np.ceil(xmax)), int(xmin) + 1))
        square[rows, columns] = MARK
    return square


def fractured(marked: np.ndarray, rows: int) -> np.ndarray:
    """Which places of a (rows, rows) grid hold a fracture, float32 of 0 and 1.

    `marked` (size, size) comes from `mark`. A place counts where more than COVERED of it is
    marked; of each marked region the place that holds the most of it counts in any case, because
    a hairline may be smaller than a place.
    """
    regions, count = ndimage.label(marked > MARK // 2)
    result = np.zeros((rows, rows), np.float32)
    if not count:
        return result
    weight = membership(len(marked), rows)
    area = weight.sum(axis=1)
    result[weight @ (regions > 0) @ weight.T > COVERED * np.outer(area, area)] = 1
    for number in range(1, count + 1):
        held = weight @ (regions == number) @ weight.T
        result[np.unravel_index(held.argmax(), held.shape)] = 1
    return result


def inside(square: np.ndarray, rows: int) -> np.ndarray:
    """Which places of a (rows, rows) grid hold any pixel of `square` (size, size) that is not
    black, bool: the picture, and not the padding around it.
    """
    weight = membership(len(square), rows)
    return weight @ (square > 0).astype(np.float32) @ weight.T > LIT


def membership(size: int, rows: int) -> np.ndarray:
    """How much of each of `size` pixels lies in each of `rows` equal places: float32 (rows, size),
    each column with the sum 1.
    """
    edges = np.linspace(0, size, rows + 1)
    pixel = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return np.clip(overlap, 0, 1).astype(np.float32)
