"""The pointing game and its controls: whether heat maps peak at fractures.

A heat map is an array (rows, columns) that covers its image; heat_maps[model][path].
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from fracture_utils import tables
from fracture_utils.config import FRACTURED
from fracture_utils.evaluation.comparison import paired
from fracture_utils.evaluation.intervals import SIGNIFICANCE, wilson, with_limits

HeatMaps = Mapping[str, Mapping[str, np.ndarray]]
"""By model, then by path: float32 (rows, columns)."""
MARGIN = 0.03  # around a box, relative to the longer side: 15 of 500 px, Zhang et al. (2018)
ASSESSMENTS = ("above the controls", "above permuted maps only", "not above chance")
OPACITY, OPAQUE, SMALLEST_TOP = 0.7, 0.25, 3.0
"""Opacity of a map; fraction of the color scale at which it is reached; smallest maximum."""


def relative_to_threshold(heat_map: np.ndarray, probability: float, point: Mapping) -> np.ndarray:
    """A heat map in log odds relative to the threshold: its peak has the log odds of the image,
    every other grid cell is lower by the difference of the calibrated logits. `point` is an
    operating point or a model card.
    """
    probabilities = np.clip([probability, point["threshold"]], 1e-6, 1 - 1e-6)
    own, threshold = special.logit(probabilities)
    return own - threshold + point["slope"] * (heat_map - heat_map.max())


def table(
    heat_maps: HeatMaps,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    randomized: Mapping[str, float],
    permutations: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The localization table: a row per model, on the fractured test images with boxes.

    Pointing game (Zhang et al. 2018) with MARGIN, compared with maps of other images (`permute`)
    and the image center (`paired`); Wilson's intervals. `randomized`: see `heatmaps`.
    """
    rows = images[(images["split"] == "test") & (images["label"] == FRACTURED)]
    rows = rows[rows["path"].isin(boxes["path"])]
    if rows.empty or not heat_maps:
        return tables.empty("localization")
    grid = next(iter(next(iter(heat_maps.values())).values())).shape
    n, result, each = len(rows), [], rows.itertuples()
    near = np.array([inside_boxes(boxes_of(boxes, r.path), r, grid, MARGIN) for r in each])
    groups = np.unique(rows["group"].to_numpy(str), return_inverse=True)[1]
    center = near[:, grid[0] // 2, grid[1] // 2]
    for model, maps in heat_maps.items():
        peaks = np.array([peak(maps[path]) for path in rows["path"]])
        hits = near[np.arange(n), peaks[:, 0], peaks[:, 1]]
        permuted = permute(peaks, near, groups, permutations, seed)
        p_permuted = (1 + np.sum(permuted >= hits.mean() - 1e-9)) / (1 + len(permuted))
        p_center = paired(hits, center, groups)
        above = p_center < SIGNIFICANCE and hits.mean() > center.mean()
        assessment = ASSESSMENTS[2 if p_permuted >= SIGNIFICANCE else int(not above)]
        row = {"model": model, "images": n, "boxes": boxes["path"].isin(rows["path"]).sum()}
        row |= {"chance": near.mean(), "center": center.mean(), "p_center": p_center}
        row |= {"permuted": permuted.mean(), "p_permuted": p_permuted}
        row |= {"randomized_correlation": randomized.get(model, np.nan), "assessment": assessment}
        row |= with_limits("hit_rate", *wilson(hits, groups))
        result.append(row)
    return pd.DataFrame(result, columns=tables.columns("localization"))


def permute(
    peaks: np.ndarray, near: np.ndarray, groups: np.ndarray, permutations: int, seed: int
) -> np.ndarray:
    """Hit rates (permutations,) of heat maps of other images: the effect of the usual position.

    `peaks` (n, 2) are rows and columns of the maxima, `near` (n, rows, columns) the hits. Whole
    groups are exchanged, as maps of a patient are similar; those of a smaller group are repeated.
    """
    generator, (n, *_) = np.random.default_rng(seed), near.shape
    order, sizes, index = np.argsort(groups, kind="stable"), np.bincount(groups), np.arange(n)
    start, within = np.cumsum(sizes) - sizes, np.empty(n, int)
    within[order] = index - np.repeat(start, sizes)
    rates = np.empty(permutations)
    for number in range(permutations):
        given = generator.permutation(len(sizes))[groups]
        donor = order[start[given] + within % sizes[given]]
        rates[number] = near[index, peaks[donor, 0], peaks[donor, 1]].mean()
    return rates


def peak(heat: np.ndarray) -> np.ndarray:
    """Row and column of the maximum, or the middle of several (maps are flat near the edge)."""
    return np.argwhere(heat == heat.max()).mean(0).round().astype(int)


def boxes_of(boxes: pd.DataFrame, path: str) -> np.ndarray:
    """The boxes of one image: (k, 4), xmin, ymin, xmax, ymax in pixels of the file."""
    return boxes.loc[boxes["path"] == path, ["xmin", "ymin", "xmax", "ymax"]].to_numpy(float)


def inside_boxes(
    boxes: np.ndarray, image: Any, grid: tuple[int, int], margin: float = 0.0
) -> np.ndarray:
    """Grid cells whose center lies in a box or within `margin` of the longer side, bool `grid`;
    `image` has width and height in pixels. A smaller box counts as the cell that contains it.
    """
    rows, columns = grid
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    mask, wider = np.zeros(grid, bool), margin * max(image.width, image.height)
    for box in boxes + wider * np.array([-1, -1, 1, 1]):
        left, top, right, bottom = box / np.tile([image.width, image.height], 2)
        mask |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
        row, column = int((top + bottom) / 2 * rows), int((left + right) / 2 * columns)
        mask[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return mask


@functools.cache
def colors() -> Any:
    """The color map of heat maps."""
    import matplotlib as mpl  # takes half a second

    return mpl.colors.ListedColormap(mpl.colormaps["inferno"](np.linspace(0.3, 1, 256)))


def color(above: np.ndarray, top: float) -> np.ndarray:
    """A heat map of log odds relative to the threshold in color, uint8 RGBA (rows, columns, 4);
    values below the threshold are transparent.
    """
    share = np.clip(above / top, 0, 1)
    layer = colors()(share, bytes=True)
    layer[..., 3] = 255 * np.minimum(share / OPAQUE, 1)
    return layer


def overlay(image: np.ndarray, above: np.ndarray, top: float | None = None) -> np.ndarray:
    """The image, uint8 (height, width), under its heat map (see `color`; top None: its peak),
    uint8 RGB (height, width, 3).
    """
    top = max(SMALLEST_TOP, above.max()) if top is None else top
    layer = Image.fromarray(color(above, top)).resize(image.shape[::-1], Image.Resampling.BILINEAR)
    opacity = layer.getchannel("A").point(lambda value: OPACITY * value)
    gray = Image.fromarray(image).convert("RGB")
    return np.asarray(Image.composite(layer.convert("RGB"), gray, opacity))
