"""Every fracture as a thing to be found: marks on a heat map, boxes, and the free-response curve.

A map is an array (rows, columns) that covers its picture from edge to edge; maps[model][path].
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage
from statsmodels.stats.proportion import proportion_confint

from fracture_utils import tables
from fracture_utils.evaluation import bootstrap
from fracture_utils.evaluation.predictions import FRACTURED

Maps = Mapping[str, Mapping[str, np.ndarray]]
MARGIN = 0.03
"""Of the longer side, beside a box: the 15 pixels in about 500 of Zhang et al. (2018)."""
FALSE_MARKS = 2.0 ** (np.arange(-20, 13) / 4)
"""False marks per picture at which the curve is told, from 1/32 to 8."""
TOLD = (0.25, 0.5, 1.0, 2.0)
"""Those of them that stand in the localisation table, too."""
COLUMNS = tables.NAMES["froc"]
SAME = 1e-5
"""Share of a map's range below which two heights count as equal: bilinear maps ripple by less."""


class Found(NamedTuple):
    """What the marks of one model come to, on n pictures: the height of the best mark of each of
    the lesions (minus infinity where none lies in its box) and of every false mark, each with the
    number of its picture.
    """

    lesions: np.ndarray
    lesion_pictures: np.ndarray
    false: np.ndarray
    false_pictures: np.ndarray


def curve(
    maps: Maps, images: pd.DataFrame, boxes: pd.DataFrame, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The free-response curve of each model (Bunch et al. 1978): COLUMNS, a row for each of
    FALSE_MARKS: the highest sensitivity per lesion at no more false marks per picture than that.

    Over the normal test pictures and the fractured ones that have a box (`boxes`: path, xmin,
    ymin, xmax, ymax in pixels of the file); where a fractured picture has none, nobody knows which
    marks are false. A mark is a local maximum of the map (`marks`) and as sure as it is high. A
    lesion is found where the middle of a mark lies in its box or within MARGIN of it; a further
    mark there counts neither way, and a mark in no such box is false. The intervals (95 %) are
    percentiles of a bootstrap over groups; where every lesion or none is found, they are those of
    Clopper and Pearson (1934). Empty where no test picture has a box.
    """
    test = images[images["split"] == "test"]
    seen = test[(test["label"] != FRACTURED) | test["path"].isin(boxes["path"])]
    if not len(seen) or not (seen["label"] == FRACTURED).any():
        return pd.DataFrame(columns=COLUMNS)
    grid = next(iter(next(iter(maps.values())).values())).shape
    masks = [
        np.array([inside_boxes(box[None], row, grid, MARGIN) for box in boxes_of(boxes, row.path)])
        if row.label == FRACTURED
        else np.empty((0, *grid), bool)
        for row in seen.itertuples()
    ]
    groups = np.unique(seen["group"].to_numpy(str), return_inverse=True)[1]
    labels = (seen["label"] == FRACTURED).to_numpy(int)
    weights = bootstrap.weights(labels, groups, resamples, seed)
    curves = [
        _curve(match([marks(its[path]) for path in seen["path"]], masks), weights).assign(
            model=model
        )
        for model, its in maps.items()
    ]
    return pd.concat(curves, ignore_index=True)[COLUMNS]


def _curve(found: Found, weights: np.ndarray) -> pd.DataFrame:
    once = free_response(found, np.ones((len(weights), 1)), FALSE_MARKS)[:, 0]
    draws = free_response(found, weights, FALSE_MARKS)
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=1)
    total = len(found.lesions)
    exact = proportion_confint(once * total, total, method="beta")
    low, high = np.where(np.isin(once, [0, 1]), exact, (low, high))
    return pd.DataFrame(
        {
            "false_marks": FALSE_MARKS,
            "sensitivity": once,
            "sensitivity_low": low,
            "sensitivity_high": high,
            "lesions": total,
            "pictures": len(weights),
        }
    )


def marks(heat: np.ndarray) -> np.ndarray:
    """The local maxima of a map, (k, 3): row, column, height; none of a level map.

    A place is one where none of its eight neighbours is higher; neighbours of equal height are
    one mark, at their middle. No height is too low: a map may be negative everywhere.
    """
    span = float(np.ptp(heat))
    if span <= SAME * float(np.abs(heat).max()):
        return np.empty((0, 3))
    level = np.round((heat - heat.min()) / (SAME * span))
    peaks = level == ndimage.maximum_filter(level, 3, mode="nearest")
    around = np.where(peaks, -1, level)
    beside = ndimage.maximum_filter(around, 3, mode="nearest")
    names, count = ndimage.label(peaks, np.ones((3, 3)))
    index = np.arange(1, count + 1)
    # A terrace below a step is as high as its neighbours only on its far side: no summit.
    summits = index[ndimage.maximum(beside, names, index) < ndimage.maximum(level, names, index)]
    middles = np.array(ndimage.center_of_mass(peaks, names, summits)).reshape(-1, 2)
    heights = np.asarray(ndimage.maximum(heat, names, summits), float)
    return np.column_stack([middles.round(), heights])


def match(marked: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> Found:
    """What the marks of n pictures, (k, 3) each, find of their lesions: `masks`, (lesions, rows,
    columns) bool each, are the places where a mark finds one.
    """
    best, best_pictures, false, false_pictures = [], [], [], []
    for picture, (points, inside) in enumerate(zip(marked, masks, strict=True)):
        rows, columns = points[:, 0].astype(int), points[:, 1].astype(int)
        hits = inside[:, rows, columns]
        heights = np.where(hits, points[:, 2], -np.inf)
        best.append(heights.max(axis=1, initial=-np.inf))
        best_pictures.append(np.full(len(inside), picture))
        wrong = points[~hits.any(axis=0), 2]
        false.append(wrong)
        false_pictures.append(np.full(len(wrong), picture))
    return Found(*map(np.concatenate, (best, best_pictures, false, false_pictures)))


def free_response(found: Found, weights: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The highest sensitivity per lesion at no more than `allowed` (a,) false marks per picture,
    as (a, b), where the n pictures weigh `weights` (n, b); NaN where no lesion has a weight.
    """
    heights = np.concatenate([found.lesions, found.false])
    order = np.argsort(-heights, kind="stable")
    order = order[np.isfinite(heights[order])]
    true = np.concatenate([weights[found.lesion_pictures], 0 * weights[found.false_pictures]])
    false = np.concatenate([0 * weights[found.lesion_pictures], weights[found.false_pictures]])
    last_of_ties = np.append(np.diff(heights[order]) != 0, True)[: len(order)]
    hits = np.cumsum(true[order], axis=0)[last_of_ties]
    alarms = np.cumsum(false[order], axis=0)[last_of_ties] / weights.sum(axis=0)
    hits = np.vstack([np.zeros(weights.shape[1]), hits])
    with np.errstate(invalid="ignore"):
        shares = hits / weights[found.lesion_pictures].sum(axis=0)
    return np.stack(
        [
            share[np.searchsorted(alarm, allowed + 1e-9, side="right")]
            for share, alarm in zip(shares.T, alarms.T, strict=True)
        ],
        axis=1,
    )


def boxes_of(boxes: pd.DataFrame, path: str) -> np.ndarray:
    """The boxes of one picture: (k, 4), xmin, ymin, xmax, ymax in pixels of the file."""
    columns = ["xmin", "ymin", "xmax", "ymax"]
    return boxes.loc[boxes["path"] == path, columns].to_numpy(float)


def inside_boxes(
    boxes: np.ndarray, picture: Any, grid: tuple[int, int], margin: float = 0.0
) -> np.ndarray:
    """Which places of a map lie in a box, bool `grid`, or beside it by up to `margin` of the longer
    side; `picture` has width and height in pixels.

    A place counts by its middle; a box too small to hold one counts as the place it lies in.
    """
    rows, columns = grid
    y, x = (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    mask, wider = np.zeros(grid, bool), margin * max(picture.width, picture.height)
    for box in boxes + wider * np.array([-1, -1, 1, 1]):
        left, top, right, bottom = box / np.tile([picture.width, picture.height], 2)
        mask |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
        row, column = int((top + bottom) / 2 * rows), int((left + right) / 2 * columns)
        mask[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return mask
