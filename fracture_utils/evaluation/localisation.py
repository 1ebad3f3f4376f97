"""Do the heat maps point at the fracture? Checked where boxes are known, and how a map is shown.

A map is an array (rows, columns) that covers its picture from edge to edge; maps[model][path].
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image
from scipy import stats

from fracture_utils.evaluation import calibration, metrics
from fracture_utils.evaluation.metrics import ENSEMBLE, FRACTURED, SELECTED

Maps = Mapping[str, Mapping[str, np.ndarray]]
COLUMNS = (
    *("model", "pictures", "boxes", "hit_rate", "hit_rate_low", "hit_rate_high", "chance"),
    *("centre", "energy", "energy_low", "energy_high", "area"),
    *("randomised_correlation", "verdict"),
)
POINTS, CENTRE, CHANCE = VERDICTS = (
    "points at the fracture",
    "above chance, but no better than pointing at the centre",
    "not above chance",
)
MARGIN = 0.03
"""Of the longer side, beside a box: the 15 pixels in about 500 of Zhang et al. (2018)."""
COLOURS = "inferno"
OPACITY = 0.7


def with_ensembles(maps: Maps, predictions: pd.DataFrame) -> Maps:
    """The maps with those of the ensembles of `calibration.ensembles` added: the mean of the
    members' maps, each brought to mean 0 and spread 1 on its picture.
    """
    members = {}
    if len(maps) > 1:
        members[ENSEMBLE] = list(maps)
    if len(maps) > 2:
        members[SELECTED] = calibration.select(predictions, list(maps))
    return dict(maps) | {
        name: {path: combine([maps[model][path] for model in models]) for path in maps[models[0]]}
        for name, models in members.items()
    }


def combine(maps: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of several maps of one picture, each brought to mean 0 and spread 1."""
    stack = np.asarray(maps, np.float32)
    spread = stack.std((1, 2), keepdims=True)
    flat = spread <= 1e-5 * np.abs(stack).max((1, 2), keepdims=True)
    stack = (stack - stack.mean((1, 2), keepdims=True)) / np.where(flat, np.inf, spread)
    return stack.mean(0)


def table(
    maps: Maps,
    images: pd.DataFrame,
    boxes: pd.DataFrame,
    randomised: Mapping[str, float],
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The localisation table: a row a model, with COLUMNS; over the fractured test pictures that
    have a box (`boxes`: path, xmin, ymin, xmax, ymax in pixels of the file).

    hit_rate: share of the pictures whose map is highest in a box or within MARGIN of it (pointing
    game, Zhang et al. 2018). chance: the hit rate of a random point; centre: that of always
    pointing at the middle. energy: mean share of the map above its mean that lies inside a box,
    without margin (after Wang et al. 2020); area: that of an even map. The intervals (95 %) are
    from a bootstrap over groups, for a hit rate of 0 or 1 exact. `randomised` maps a network to
    `randomised_correlation`, which says how alike its maps are to those of the same network with
    shuffled weights.
    """
    fractured = images[(images["split"] == "test") & (images["label"] == FRACTURED)]
    rows = fractured[fractured["path"].isin(boxes["path"])]
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    drawn = boxes[boxes["path"].isin(rows["path"])]
    grid = next(iter(next(iter(maps.values())).values())).shape
    inside, near = (
        [inside_boxes(boxes_of(drawn, r.path), r, grid, margin) for r in rows.itertuples()]
        for margin in (0, MARGIN)
    )
    area, chance = (float(np.mean([mask.mean() for mask in masks])) for masks in (inside, near))
    centre = float(np.mean([mask[grid[0] // 2, grid[1] // 2] for mask in near]))
    groups = np.unique(rows["group"].to_numpy(str), return_inverse=True)[1]
    weights = np.concatenate(
        list(metrics.resample(np.ones(len(rows)), groups, resamples, seed)), axis=1
    )
    result = []
    for model, its_maps in maps.items():
        heats = [its_maps[path] for path in rows["path"]]
        row = {"model": model, "pictures": len(rows), "boxes": len(drawn)}
        row |= _with_interval("hit_rate", list(map(hit, heats, near)), weights)
        row |= _with_interval("energy", list(map(energy, heats, inside)), weights)
        row |= {"chance": chance, "centre": centre, "area": area}
        row |= {"randomised_correlation": randomised.get(model, np.nan)}
        better = [row["hit_rate_low"] > bar for bar in (chance, centre)]
        row["verdict"] = POINTS if all(better) else CENTRE if better[0] else CHANCE
        result.append(row)
    return pd.DataFrame(result, columns=COLUMNS)


def boxes_of(boxes: pd.DataFrame, path: str) -> np.ndarray:
    """The boxes of one picture: (k, 4), xmin, ymin, xmax, ymax in pixels of the file."""
    columns = ["xmin", "ymin", "xmax", "ymax"]
    return boxes.loc[boxes["path"] == path, columns].to_numpy(float)


def inside_boxes(
    boxes: np.ndarray, picture: object, grid: tuple[int, int], margin: float = 0.0
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


def hit(heat: np.ndarray, inside: np.ndarray) -> bool:
    """Whether the map is highest inside; of several equal heights their middle counts, because
    the maps are level near the rim.
    """
    row, column = np.argwhere(heat == heat.max()).mean(0).round().astype(int)
    return bool(inside[row, column])


def energy(heat: np.ndarray, inside: np.ndarray) -> float:
    """Share of the map above its mean that lies inside; the share of the area for a flat map."""
    above = positive(heat)
    return float(above[inside].sum() / above.sum()) if above.any() else float(inside.mean())


def positive(heat: np.ndarray) -> np.ndarray:
    """What of a map lies above its mean, from 0 to 1."""
    heat = np.asarray(heat, np.float32)
    above = np.maximum(heat - heat.mean(), 0)
    return above / above.max() if above.max() > 1e-5 * np.abs(heat).max() else np.zeros_like(heat)


def warning(localisation: pd.DataFrame, model: str) -> str:
    """What the caption of a model's heat maps must say; empty where they point at fractures."""
    rows = localisation[localisation["model"] == model]
    if rows.empty:
        return "Unchecked: no boxes are known, so nobody knows whether these maps show fractures."
    row = rows.iloc[0]
    if row["verdict"] == POINTS:
        return ""
    return (
        f"Warning: do not read these maps as the place of the fracture. Those of {model} hit it in "
        f"{row['hit_rate']:.0%} of {row['pictures']} pictures ({row['hit_rate_low']:.0%} to "
        f"{row['hit_rate_high']:.0%}); chance hits {row['chance']:.0%}, always pointing at the "
        f"centre {row['centre']:.0%}."
    )


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The X-ray, uint8 (height, width), under what of the map lies above its mean, uint8 RGB."""
    height, width = picture.shape
    level = Image.fromarray((255 * positive(heat)).round().astype(np.uint8))
    level = level.resize((width, height), Image.Resampling.BILINEAR)
    colour = level.copy()
    colour.putpalette(mpl.colormaps[COLOURS](range(256), bytes=True)[:, :3].tobytes())
    opacity = level.point(lambda value: OPACITY * value)
    grey = Image.fromarray(picture).convert("RGB")
    return np.asarray(Image.composite(colour.convert("RGB"), grey, opacity))


def _with_interval(name: str, values: Sequence[float], weights: np.ndarray) -> dict[str, float]:
    values = np.asarray(values, float)
    draws = values @ weights / weights.sum(0)
    low, high = np.percentile(draws, [2.5, 97.5])
    if set(values) <= {0.0, 1.0} and values.mean() in (0, 1):
        exact = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="exact")
        low, high = exact.low, exact.high
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}
