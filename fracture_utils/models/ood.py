"""Out-of-distribution warning: the distance of an image from the reference set of a model."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy.spatial.distance import cdist

from fracture_utils import artifacts
from fracture_utils.config import InputError
from fracture_utils.data import reader
from fracture_utils.evaluation import intervals

RATE, SIZE, NEIGHBORS, TAIL, FLOOR = 0.025, 600, 5, 0.95, 0.1
SIDE, LEVELS, SIGMAS = 256, 16, (0.7, 1.4, 2.8, 5.6, 11.2)
WEIGHTS = {"gray levels or sharpness": 0.25, "content": 1.0}  # see benchmarks/README.md
PARTS = "center", "spread", "descriptors", "spacing", "scale"
Reference = dict[str, np.ndarray]
"""Of n images: scores, groups, neighbors, and by check the PARTS, for `artifacts.write_arrays`."""


def sample(groups: np.ndarray, seed: int) -> np.ndarray:
    """Sorted positions of at most SIZE images for `fit`, as equally from all groups as possible."""
    order = np.random.default_rng(seed).permutation(len(groups))
    turn = pd.Series(order).groupby(np.asarray(groups)[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")][:SIZE])


def fit(squares: np.ndarray, features: np.ndarray, images: pd.DataFrame) -> Reference:
    """The reference set of n > 1 images, none from test: `squares` uint8 (n, size, size), pooled
    `features` (n, channels; see `heatmaps.explain`), `images` with group, width, height. Only
    images of other groups are neighbors.
    """
    groups = np.unique(images["group"].to_numpy(str), return_inverse=True)[1]
    groups = groups if groups.any() else np.arange(len(images))
    other, scores = groups[:, None] != groups, np.zeros(len(images))
    neighbors = np.minimum(NEIGHBORS, other.sum(axis=1).min())
    reference = {"groups": groups, "neighbors": neighbors, "scores": scores}
    statistics = _describe(squares, images[["height", "width"]].to_numpy())
    for check, values in zip(WEIGHTS, (statistics, _roots(features)), strict=True):
        center, spread = values.mean(axis=0), values.std(axis=0)
        spread = np.maximum(spread, max(FLOOR * spread.mean(), 1e-9))
        descriptors = ((values - center) / spread).astype(np.float16)
        lengths = np.where(other, cdist((values - center) / spread, descriptors), np.inf)
        spacing = np.exp(_logs(lengths, np.ones(len(images)), neighbors))
        logs = _logs(lengths, spacing, neighbors)
        median, tail = np.quantile(logs, [0.5, TAIL])
        scale = max(tail - median, 1e-9)
        scores += WEIGHTS[check] * np.maximum(0, (logs - median) / scale)
        parts = center, spread, descriptors, spacing, np.array([median, scale])
        reference |= {f"{name}/{check}": part for name, part in zip(PARTS, parts, strict=True)}
    return reference


def read(path: Path) -> Reference:
    """A saved reference set; InputError if it is missing or damaged."""
    reference = artifacts.read_arrays(path)
    if reference is None or "scores" not in reference:
        raise InputError(f"{path} is missing or damaged; run the notebook again to write it.")
    return reference


def warnings(reference: Reference, squares: np.ndarray, features: np.ndarray, shapes) -> list[str]:
    """For each of n images (`shapes` (n, 2): height, width) the check with the largest distance
    if the sum of the `distances` exceeds `threshold`, or else "".
    """
    by_check = distances(reference, _describe(squares, shapes), features)
    flags = np.sum(by_check, axis=0) > threshold(reference)
    return np.where(flags, np.array(list(WEIGHTS))[np.argmax(by_check, axis=0)], "").tolist()


def observed(
    reference: Reference, squares: np.ndarray, features: np.ndarray, images: pd.DataFrame
) -> dict[str, float]:
    """The number n of test images (arguments as of `fit`) and the share of them with a warning,
    with its limits by group.
    """
    shapes = images[["height", "width"]].to_numpy()
    flags = np.array(warnings(reference, squares, features, shapes)) != ""
    share = intervals.wilson(flags, images["group"].to_numpy())
    return {"n": len(images)} | intervals.with_limits("warning_rate", *share)


def distances(reference: Reference, statistics: Any, features: Any, xp: Any = np) -> list:
    """The weighted distances (n,) of images to the reference set (Sun et al. 2022) by check:
    arrays, or with `xp` keras.ops tensors.
    """
    result, neighbors = [], int(reference["neighbors"])
    for check, values in zip(WEIGHTS, (statistics, _roots(features, xp)), strict=True):
        parts = (reference[f"{name}/{check}"] for name in PARTS)
        center, spread, descriptors, spacing, (median, scale) = parts
        values = (values - center) / spread
        if xp is np:
            lengths = cdist(values, descriptors)  # never holds images x references x channels
        else:  # without a matrix product, which would be rounded by the bfloat16 graph rewrite
            lengths = xp.sqrt(xp.sum((values[:, None] - descriptors) ** 2, axis=-1))
        logs = _logs(lengths, spacing, neighbors, xp)
        result.append(WEIGHTS[check] * xp.maximum(0, (logs - median) / scale))
    return result


def threshold(reference: Reference) -> float:
    """Score above which an image gets a warning: the largest reference score with a conformal p
    value (Vovk et al. 2005; groups have equal weight, Dunn et al. 2023) above `rate`.
    """
    groups, scores = reference["groups"], reference["scores"]
    weights = len(groups) / (1 + groups.max()) / np.bincount(groups)[groups]
    p_values = (1 + (scores >= scores[:, None]) @ weights) / (1 + len(groups))
    return float(scores[p_values > rate(reference) + 1e-9].max())


def rate(reference: Reference) -> float:
    """Fraction of in-distribution images with a warning: RATE, or 1 / (1 + groups) if larger."""
    return max(RATE, 1 / (1 + len(np.unique(reference["groups"]))))


def statistics(square: np.ndarray, frame: tuple[int, int, int, int]) -> np.ndarray:
    """Gray levels, contrast by spatial frequency, and border (23,) of a uint8 image (size, size)
    whose padding at SIDE pixels lies outside `frame`. Without SciPy, because run_onnx.py uses it.
    """
    top, left, height, width = frame
    small = Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    inside = np.asarray(small)[top : top + height, left : left + width].astype(np.float32)
    levels = np.histogram(inside, LEVELS, (0, 256))[0].cumsum()[:-1] / inside.size
    blurred = [inside]
    for sigma in SIGMAS:
        blurred.append(_blur(height, sigma) @ blurred[-1] @ _blur(width, sigma).T)
    bands = np.log(np.diff([*blurred, 0 * inside], axis=0).std(axis=(1, 2)) + 0.3)
    edge = max(1, min(inside.shape) // 25)
    border = inside / 255
    border[edge:-edge, edge:-edge] = np.nan
    return np.array([*levels, *bands, np.nanmean(border), np.nanstd(border)])


@functools.lru_cache(64)
def _blur(side: int, sigma: float) -> np.ndarray:
    """The matrix (side, side) of a Gaussian filter over three sigmas, mirrored at both ends."""
    radius = int(3 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    mirrored = np.pad(np.eye(side), ((radius, radius), (0, 0)), "symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(mirrored, 2 * radius + 1, axis=0)
    return (windows @ (kernel / kernel.sum())).astype(np.float32)


def _describe(squares: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    frames = [reader.frame(shape, SIDE) for shape in shapes]
    return np.array([statistics(*pair) for pair in zip(squares, frames, strict=True)])


def _roots(features: Any, xp: Any = np) -> Any:  # else a few channels would dominate
    return xp.sign(features) * xp.abs(features) ** 0.25


def _logs(lengths: Any, spacing: np.ndarray, neighbors: int, xp: Any = np) -> Any:
    """Log of the mean of the smallest distances over the root of the spacing of these neighbors."""
    distance = xp.mean(xp.sort(lengths, axis=1)[:, :neighbors], axis=1)
    nearest = xp.argsort(lengths, axis=1)[:, :neighbors]
    spacing = xp.mean(xp.take(spacing, nearest), axis=1)
    return xp.log(xp.maximum(distance, 1e-9)) - xp.log(xp.maximum(spacing, 1e-9)) / 2
