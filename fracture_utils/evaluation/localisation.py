"""Do the heat maps point at the fracture? Checked where boxes are known, and how a map is shown.

A map is an array (rows, columns) that covers its picture from edge to edge; maps[model][path].
"""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from fracture_utils import tables
from fracture_utils.evaluation import bootstrap
from fracture_utils.evaluation.detection import MARGIN, TOLD, Maps, boxes_of, inside_boxes
from fracture_utils.evaluation.intervals import SIGNIFICANT, named
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.lazy import Lazy

FOUND = {f"found_at_{marks:g}": marks for marks in TOLD}
COLUMNS = tables.NAMES["localisation"]
POINTS, CENTRE, CHANCE = (
    "points at the fracture",
    "better than swapped maps, not shown to be better than the centre",
    "not shown to point at the fracture",
)
COLOURS = "inferno"
OPACITY = 0.7


def with_ensembles(maps: Maps, made: pd.DataFrame) -> Maps:
    """The maps with those of the ensembles added that `calibration.members` made: the mean of the
    members' maps, each brought to mean 0 and spread 1 on its picture.
    """
    members = made.groupby("model", sort=False)["member"]
    return dict(maps) | {name: _combined([maps[model] for model in of]) for name, of in members}


def _combined(maps: Sequence[Mapping[str, np.ndarray]]) -> Lazy:
    paths = list(maps[0])
    return Lazy(paths, lambda place: combine([of[paths[place]] for of in maps]))


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
    froc: pd.DataFrame,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """The localisation table: a row a model, with COLUMNS; over the fractured test pictures that
    have a box (`boxes`: path, xmin, ymin, xmax, ymax in pixels of the file).

    hit_rate: share of the pictures whose map is highest in a box or within MARGIN of it (pointing
    game, Zhang et al. 2018). chance: the hit rate of a random point; swapped: that of maps which
    belong to other pictures, and p_swapped the share of such swaps that hit as often (`swap`).
    centre: the hit rate of always pointing at the middle, and p_centre a paired test of it on the
    same pictures (`beyond`). energy: mean share of the map above its mean that lies inside a box,
    without margin (after Wang et al. 2020); area: that of an even map; energy_ratio: how many
    times the one is the other. The intervals (95 %) are from a bootstrap over groups, for a hit
    rate of 0 or 1 exact. found_at_…: sensitivity per lesion at so many false marks a picture, from
    `froc` (detection.curve). `randomised` maps a network to `randomised_correlation`, which
    says how alike its maps are to those of the same network with shuffled weights.
    """
    fractured = images[(images["split"] == "test") & (images["label"] == FRACTURED)]
    rows = fractured[fractured["path"].isin(boxes["path"])]
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    drawn = boxes[boxes["path"].isin(rows["path"])]
    grid = next(iter(next(iter(maps.values())).values())).shape
    inside, near = (
        np.array(
            [inside_boxes(boxes_of(drawn, r.path), r, grid, margin) for r in rows.itertuples()]
        )
        for margin in (0, MARGIN)
    )
    groups = np.unique(rows["group"].to_numpy(str), return_inverse=True)[1]
    ones = np.ones(len(rows), int)
    weights = bootstrap.weights(ones, groups, resamples, seed)
    known = froc.set_index(["model", "false_marks"])["sensitivity"]
    result = []
    for model, its_maps in maps.items():
        heats = [its_maps[path] for path in rows["path"]]
        row = {"model": model, "pictures": len(rows), "boxes": len(drawn)}
        row |= {"randomised_correlation": randomised.get(model, np.nan)}
        row |= _pointing(np.array(list(map(peak, heats))), near, groups, weights, seed)
        row |= _energy(np.array(list(map(energy, heats, inside))), inside, weights)
        row |= {column: known[model, marks] for column, marks in FOUND.items()}
        result.append(row)
    return pd.DataFrame(result, columns=COLUMNS)


def _pointing(
    peaks: np.ndarray, near: np.ndarray, groups: np.ndarray, weights: np.ndarray, seed: int
) -> dict[str, object]:
    n, rows, columns = near.shape
    hits = near[np.arange(n), peaks[:, 0], peaks[:, 1]]
    middle = near[:, rows // 2, columns // 2]
    draws = swap(peaks, near, groups, weights.shape[1], seed)
    beaten = (1 + np.sum(draws >= hits.mean() - 1e-9)) / (1 + len(draws))
    better = beyond(hits, middle, groups, weights.shape[1], seed)
    verdict = CHANCE if beaten >= SIGNIFICANT else CENTRE if better >= SIGNIFICANT else POINTS
    return _with_interval("hit_rate", hits, weights) | {
        "chance": float(near.mean()),
        "swapped": float(draws.mean()),
        "p_swapped": float(beaten),
        "centre": float(middle.mean()),
        "p_centre": float(better),
        "verdict": verdict,
    }


def _energy(values: np.ndarray, inside: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    area = inside.mean((1, 2))
    low, high = np.percentile((values @ weights) / (area @ weights), [2.5, 97.5])
    ratio = named("energy_ratio", values.mean() / area.mean(), low, high)
    return _with_interval("energy", values, weights) | {"area": float(area.mean())} | ratio


def swap(
    peaks: np.ndarray, near: np.ndarray, groups: np.ndarray, swaps: int, seed: int
) -> np.ndarray:
    """Hit rates (swaps,) where each of n pictures gets the map of another: what a network reaches
    that knows where fractures usually are, and nothing about the picture.

    `peaks` (n, 2) are the rows and columns at which the maps are highest, `near` (n, rows, columns)
    the places that hit. Whole groups (n,) trade places, because maps of one patient are alike;
    where the groups differ in size, the pictures of the smaller one serve in turn.
    """
    generator, (n, *_) = np.random.default_rng(seed), near.shape
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    start, place = np.cumsum(sizes) - sizes, np.arange(n)
    place_in_group = np.empty(n, int)
    place_in_group[order] = place - np.repeat(start, sizes)
    rates = np.empty(swaps)
    for number in range(swaps):
        given = generator.permutation(len(sizes))[groups]
        donor = order[start[given] + place_in_group % sizes[given]]
        rates[number] = near[place, peaks[donor, 0], peaks[donor, 1]].mean()
    return rates


def beyond(
    hits: np.ndarray, middle: np.ndarray, groups: np.ndarray, flips: int, seed: int
) -> float:
    """The one-sided p-value that maps hit more often than the middle does on the same pictures:
    (n,) bool each. Within each group the two trade names together (a sign-flip test).
    """
    excess = np.bincount(groups, hits.astype(float) - middle)
    excess = excess[excess != 0]
    signs = np.random.default_rng(seed).choice([-1, 1], (flips, len(excess)))
    return float((1 + np.sum(signs @ excess >= excess.sum() - 1e-9)) / (1 + flips))


def peak(heat: np.ndarray) -> np.ndarray:
    """Row and column of the highest place; of several equal heights their middle counts, because
    the maps are level near the rim.
    """
    return np.argwhere(heat == heat.max()).mean(0).round().astype(int)


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
    rows = localisation[localisation["model"] == model] if len(localisation) else localisation
    if rows.empty:
        return "Unchecked: no boxes are known, so nobody knows whether these maps show fractures."
    row = rows.iloc[0]
    if row["verdict"] == POINTS:
        return ""
    return (
        f"Warning: do not read these maps as the place of the fracture. Those of {model} hit it in "
        f"{row['hit_rate']:.0%} of {row['pictures']} pictures ({row['hit_rate_low']:.0%} to "
        f"{row['hit_rate_high']:.0%}); maps of other pictures hit {row['swapped']:.0%}, always "
        f"pointing at the centre {row['centre']:.0%}."
    )


def overlay(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The X-ray, uint8 (height, width), under what of the map lies above its mean, uint8 RGB."""
    height, width = picture.shape
    layer = Image.fromarray(coloured(heat))
    layer = layer.resize((width, height), Image.Resampling.BILINEAR)
    opacity = layer.getchannel("A").point(lambda value: OPACITY * value)
    grey = Image.fromarray(picture).convert("RGB")
    return np.asarray(Image.composite(layer.convert("RGB"), grey, opacity))


def coloured(heat: np.ndarray) -> np.ndarray:
    """What of a map lies above its mean in colour, uint8 (rows, columns, 4): the higher, the less
    transparent.
    """
    above = positive(heat)
    layer = mpl.colormaps[COLOURS](above, bytes=True)
    layer[..., 3] = (255 * above).round()
    return layer


def _with_interval(name: str, values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    draws = values @ weights / weights.sum(0)
    low, high = np.percentile(draws, [2.5, 97.5])
    if set(values) <= {0.0, 1.0} and values.mean() in (0, 1):
        low, high = proportion_confint(values.sum(), len(values), method="beta")
    return named(name, values.mean(), low, high)
