"""Resamples of the pictures, drawn by whole groups."""

from collections.abc import Iterator

import numpy as np

WEIGHTS_IN_MEMORY = 200_000
"""Largest pictures x resamples worked on at once; keeps a chunk within the processor's cache."""


def resample(
    labels: np.ndarray, groups: np.ndarray, resamples: int, seed: int, stratified: bool = True
) -> Iterator[np.ndarray]:
    """Weights of the pictures in bootstrap resamples, as arrays (n, up to `resamples`).

    Groups are drawn with replacement; `stratified`: those with a fracture and those without apart.
    """
    generator = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    with_fracture = np.bincount(groups, weights=labels, minlength=count) > 0
    with_fracture &= stratified
    size = max(1, WEIGHTS_IN_MEMORY // len(labels))
    for start in range(0, resamples, size):
        many = min(size, resamples - start)
        drawn = np.zeros((count, many))
        for stratum in (np.flatnonzero(with_fracture), np.flatnonzero(~with_fracture)):
            if len(stratum):
                picks = stratum[generator.integers(len(stratum), size=(many, len(stratum)))]
                cells = picks * many + np.arange(many)[:, None]
                drawn += np.bincount(cells.ravel(), minlength=count * many).reshape(count, many)
        yield drawn[groups]


def weights(labels: np.ndarray, groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Those of all resamples at once, (n, resamples)."""
    return np.concatenate(list(resample(labels, groups, resamples, seed)), axis=1)
