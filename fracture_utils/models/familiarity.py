"""Whether a picture looks like those that a network was trained for, or like a photograph."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import spatial

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.errors import InputError

LARGEST = 400
"""Pictures kept for comparison."""
NEIGHBOURS = 3
RATE = 0.01
"""Share of the pictures of the training data's own kind that are called unfamiliar, too."""
LEVELS = 32
TAIL = 0.95
"""Quantile of the known pictures' own distances that makes those of two checks comparable."""
LEAST = {"size": np.log(2) / 5, "aspect ratio": np.log(1.25) / 5}
"""What that quantile counts as at least: where all known pictures are of one size, a slightly
other one is no oddity, and twice the size is."""
ROUNDING = 1e-9
SHAPE = {"height", "width"}


class Known(NamedTuple):
    """The known pictures of a network, as numbers."""

    meta: dict
    arrays: dict[str, np.ndarray]


def path(name: str, config: Config) -> Path:
    """Where the known pictures of a network are described, beside its weights."""
    return config.models_dir / f"{name}.known.npz"


def chosen(count: int, seed: int) -> np.ndarray:
    """Which of so many pictures to `save`: LARGEST at most, in order."""
    return np.sort(np.random.default_rng(seed).permutation(count)[:LARGEST])


def save(target: Path, squares: np.ndarray, features: np.ndarray, images: pd.DataFrame) -> None:
    """Keep what `unfamiliar` compares with: numbers about pictures, never pictures.

    `squares` uint8 (n, size, size), `features` (n, channels) and `images` (n rows; group, and
    width and height if known) should be those `chosen` of the validation pictures, which are of
    the same source as the training pictures but not learned by heart.
    """
    groups = np.unique(images["group"].to_numpy(str), return_inverse=True)[1]
    if len(np.unique(groups)) < 2:
        groups = np.arange(len(images))
    shapes = images[["height", "width"]].to_numpy(float) if set(images) >= SHAPE else None
    described = _described(squares, features, shapes)
    strangers = groups[:, None] != groups
    neighbours = int(min(NEIGHBOURS, strangers.sum(axis=1).min())) if len(images) > 1 else 0
    scales: dict[str, list[float]] = {}
    known = Known({"neighbours": neighbours, "scales": scales}, described)
    for check in described if neighbours else ():
        own = _distances(described[check], described[check], neighbours, strangers)
        middle, tail = np.quantile(own, [0.5, TAIL])
        scales[check] = [middle, max(tail - middle, LEAST.get(check, ROUNDING))]
    scores = _scores(described, known, strangers).values()
    described |= {"groups": groups, "scores": np.max(list(scores) or [groups], axis=0)}
    files.write_arrays(target, *known)


def read(source: Path) -> Known:
    """What `save` kept. InputError where it is missing, damaged or of an earlier version."""
    stored = files.read_arrays(source)
    if stored is None or "neighbours" not in stored[0]:
        raise InputError(
            f"{source} is missing, damaged or of an earlier version; run the notebook again to "
            "write it."
        )
    return Known(*stored)


def unfamiliar(
    known: Known, squares: np.ndarray, features: np.ndarray, shapes: np.ndarray
) -> list[str]:
    """For each of n pictures what is odd about it, in words; empty where nothing is.

    Compared are the size (`shapes` are (n, 2): height and width of the file), the grey levels
    (Cramer's distance of their distributions) and the content: the direction of the features of
    the network. The distance is that to the nearest neighbours (Sun et al. 2022), and of the checks
    the one that finds most counts. A picture is odd where its conformal p-value, the rank among the
    scores that the known pictures have in the eyes of those of other groups (Vovk et al. 2005;
    with every group of the same weight, Dunn et al. 2023), is no larger than `rate`: of pictures
    of the known kind about that share is called odd, by all checks together.
    """
    asked = _described(squares, features, np.asarray(shapes, float))
    scores = _scores(asked, known)
    bar = rate(known) + ROUNDING
    odd = {check: _p_values(score, known.arrays) <= bar for check, score in scores.items()}
    return [", ".join(check for check in odd if odd[check][row]) for row in range(len(squares))]


def rate(known: Known) -> float:
    """The share of pictures of the known kind that `unfamiliar` calls odd: RATE, or as little as
    so few known groups can promise.
    """
    return max(RATE, 1 / (1 + len(np.unique(known.arrays["groups"]))))


def _p_values(scores: np.ndarray, known: dict[str, np.ndarray]) -> np.ndarray:
    """Of each score (n,), among those of the known pictures; every group weighs the same."""
    sizes = np.bincount(known["groups"])
    weights = 1 / sizes[known["groups"]]
    as_odd = known["scores"] >= scores[:, None]
    return (1 + as_odd @ weights) / (1 + len(sizes))


def _scores(
    asked: dict[str, np.ndarray], known: Known, allowed: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """How odd n pictures are by each check, (n,) each, on scales that can be compared; `allowed`
    (n, known) says which known pictures are looked at.
    """
    scores = {}
    for check, (middle, spread) in known.meta["scales"].items():
        far = _distances(asked[check], known.arrays[check], known.meta["neighbours"], allowed)
        scores[check] = (far - middle) / spread
    return scores


def _described(
    squares: np.ndarray, features: np.ndarray, shapes: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What each check compares: n rows each, in the order in which they are told."""
    sizes = {}
    if shapes is not None:
        sizes["size"] = np.log(shapes.min(axis=1, keepdims=True))
        sizes["aspect ratio"] = np.log(shapes[:, 1:] / shapes[:, :1])
    return sizes | {"grey levels": _levels(squares), "content": _directions(features)}


def _levels(squares: np.ndarray) -> np.ndarray:
    """Cumulative histograms (n, LEVELS) of grey levels."""
    counts = [
        np.bincount(square.ravel() // (256 // LEVELS), minlength=LEVELS) for square in squares
    ]
    return np.cumsum(counts, axis=1) / squares[0].size


def _directions(features: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.maximum(length, 1e-12)).astype(np.float16)  # the file is small so


def _distances(
    one: np.ndarray, known: np.ndarray, neighbours: int, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Mean distance of each row of `one` to its nearest rows of `known`, among those `allowed`."""
    distances = spatial.distance.cdist(one, known)
    if allowed is not None:
        distances[~allowed] = np.inf
    return np.sort(distances, axis=1)[:, :neighbours].mean(axis=1)
