"""Whether a picture looks like those that a network was trained for, or like a photograph."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import spatial

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.errors import InputError

LARGEST = 400
"""Pictures kept for comparison."""
NEIGHBOURS = 3
QUANTILE = 0.99
"""One in a hundred pictures of the training data's own kind is called unfamiliar, too."""
LEVELS = 32
SLACK = {"side": 2.0, "aspect": 1.25}
"""Factors beyond the extremes of the known pictures at which a size becomes odd."""


def path(name: str, config: Config) -> Path:
    """Where the known pictures of a network are described, beside its weights."""
    return config.models_dir / f"{name}.known.npz"


def save(
    target: Path, squares: np.ndarray, features: np.ndarray, images: pd.DataFrame, seed: int
) -> None:
    """Keep what `unfamiliar` compares with: numbers about pictures, never pictures.

    `squares` uint8 (n, size, size), `features` (n, channels) and `images` (n rows; group, and
    width and height if known) should be the validation pictures, of the same source as the
    training pictures but not learned by heart.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(images))[:LARGEST])
    groups = images["group"].to_numpy(str)[rows]
    known = {
        "features": _directions(features[rows]),
        "levels": _levels(squares[rows]),
        "shapes": np.empty((0, 2)),
    }
    if {"width", "height"} <= set(images):
        known["shapes"] = images[["height", "width"]].to_numpy(float)
    strangers = groups[:, None] != groups
    limits = {
        name: float(np.quantile(_distances(known[name], known[name], strangers), QUANTILE))
        for name in ("features", "levels")
    }
    files.write_arrays(target, {"limits": limits}, known)


def unfamiliar(
    source: Path, squares: np.ndarray, features: np.ndarray, shapes: np.ndarray
) -> list[str]:
    """For each of n pictures what is odd about it, in words; empty where nothing is.

    Compared are the size (`shapes` are (n, 2): height and width of the file), the grey levels
    (Cramer's distance of their distributions) and the content: the direction of the features of
    the network. The distance is that to the nearest neighbours (Sun et al. 2022).
    """
    stored = files.read_arrays(source)
    if stored is None:
        raise InputError(f"{source} is missing or damaged; run the notebook again to write it.")
    meta, known = stored
    far = {
        "grey levels": _distances(_levels(squares), known["levels"]) > meta["limits"]["levels"],
        "content": _distances(_directions(features), known["features"])
        > meta["limits"]["features"],
    }
    odd = [_odd_size(shape, known["shapes"]) for shape in np.asarray(shapes, float)]
    return [
        ", ".join([*filter(None, [size]), *(name for name in far if far[name][row])])
        for row, size in enumerate(odd)
    ]


def _levels(squares: np.ndarray) -> np.ndarray:
    """Cumulative histograms (n, LEVELS) of grey levels."""
    counts = [
        np.bincount(square.ravel() // (256 // LEVELS), minlength=LEVELS) for square in squares
    ]
    return np.cumsum(counts, axis=1) / squares[0].size


def _directions(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(length, 1e-12)).astype(np.float32)


def _distances(one: np.ndarray, known: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Mean distance of each row of `one` to its nearest rows of `known`, among those `allowed`."""
    distances = spatial.distance.cdist(one, known)
    if allowed is not None:
        distances[~allowed] = np.inf
    return np.sort(distances, axis=1)[:, :NEIGHBOURS].mean(axis=1)


def _odd_size(shape: np.ndarray, known: np.ndarray) -> str:
    if not len(known):
        return ""
    sides, aspect = known.min(axis=1), known[:, 1] / known[:, 0]
    if not sides.min() / SLACK["side"] <= shape.min() <= sides.max() * SLACK["side"]:
        return "size"
    ratio, slack = shape[1] / shape[0], SLACK["aspect"]
    return "" if aspect.min() / slack <= ratio <= aspect.max() * slack else "aspect ratio"
