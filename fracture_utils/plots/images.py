"""Figures of images: of the data, of predictions, of heat maps and their assessment."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from PIL import Image

from fracture_utils.config import FRACTURED, NORMAL
from fracture_utils.data import reader
from fracture_utils.evaluation.localization import (
    ASSESSMENTS,
    OPACITY,
    SMALLEST_TOP,
    boxes_of,
    colors,
    overlay,
    relative_to_threshold,
)
from fracture_utils.evaluation.results import Results
from fracture_utils.evaluation.sentences import counted, heat_map_caution
from fracture_utils.plots import style

LARGEST, BOX = 600, "#56B4E9"
"""Longest side of an image in a figure; color of boxes."""


def show(ax: Any, image: np.ndarray, title: str = "", wrong: bool = False) -> None:
    """An X-ray, uint8 (height, width), in gray and without ticks; an RGB image unchanged."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_axis_off()
    ax.set_title(title, size=8.5, weight="normal", color=style.WRONG if wrong else style.INK)


@style.figure("Grid of radiographs: training images of both classes, drawn at random.")
def image_grid(data: Any, count: int = 8) -> style.Chart:
    """Random training images, equally many of each class; takes a Dataset."""
    train = data.images[data.images["split"] == "train"].sample(frac=1, random_state=0)
    rows = train.groupby("label").head(count // 2).sort_values("label", kind="stable")
    chart, axes = style.panels(len(rows), 2.1)
    for ax, row in zip(axes, rows.itertuples(), strict=True):
        label = style.positive(data) if row.label == FRACTURED else NORMAL
        show(ax, reader.read(data.folder / row.path), label)
    return chart


@style.figure("Grid of radiographs: one training image and augmented copies of it.")
def augmentation_grid(image: np.ndarray, copies: Sequence[np.ndarray]) -> style.Chart:
    """An image, uint8 (height, width), and augmented copies of it."""
    chart, axes = style.panels(len(copies) + 1, 2.1)
    for k, (ax, copy) in enumerate(zip(axes, [image, *copies], strict=True)):
        show(ax, copy, f"augmented copy {k}" if k else "original")
    return chart


def above_threshold(results: Results, rows: pd.DataFrame) -> tuple[dict[str, np.ndarray], float]:
    """By path, the heat maps of the selected model for its predictions in `rows`, on one scale (see
    `localization.relative_to_threshold`), and the top of this scale.
    """
    point, maps = results.operating_points.set_index("model").loc[results.selected], {}
    own = rows[rows["path"].isin(list(results.heat_maps))]
    for path, probability in own[["path", "probability"]].to_numpy():
        maps[path] = relative_to_threshold(results.heat_maps[path], probability, point)
    return maps, max([SMALLEST_TOP, *(heat_map.max() for heat_map in maps.values())])


def read(results: Results, path: str, side: int = LARGEST) -> tuple[np.ndarray, float]:
    """An image with sides of at most `side` pixels, uint8 (height, width), and its scale."""
    image = Image.fromarray(reader.read(results.images_dir / path))
    width = image.width
    image.thumbnail((side, side))
    return np.asarray(image), image.width / width


def _random(results: Results) -> pd.DataFrame:
    """The predictions of the selected model for the test images, in random order."""
    rows = results.predictions[results.predictions["model"] == results.selected]
    return rows[rows["split"] == "test"].sample(frac=1, random_state=results.run["seed"])


def _title(results: Results, row: Mapping) -> str:
    threshold = results.operating_points.set_index("model")["threshold"][row["model"]]
    correct, called = row["label"] == row["decision"], row["decision"] == FRACTURED
    outcome = f"{'true' if correct else 'false'} {'positive' if called else 'negative'}"
    return f"{outcome}\n{row['probability']:.2f} {'≥' if called else '<'} {threshold:.2f}"


@style.figure("Radiographs: random test images with outcome, probability and threshold.")
def sample_predictions(results: Results, count: int = 12) -> style.Chart:
    """Test images of both classes and the predictions of the selected model."""
    rows = _random(results).groupby("label").head(count // 2).sort_values("label", kind="stable")
    chart, axes = style.panels(len(rows), 2.3)
    for ax, row in zip(axes, rows.to_dict("records"), strict=True):
        wrong = row["label"] != row["decision"]
        show(ax, read(results, row["path"])[0], _title(results, row), wrong)
    chart.suptitle(f"Random test images, predictions of {results.selected}")
    return chart


@style.figure("Radiographs: test images next to the heat maps of the selected model.")
def heat_maps(results: Results, count: int = 6) -> style.Chart:
    """Fractured test images with boxes (if there are any) next to their heat maps."""
    rows = _random(results)
    boxed = rows[rows["path"].isin(results.boxes["path"]) & (rows["label"] == FRACTURED)]
    return _pairs(results, (boxed if len(boxed) else rows).head(count))


@style.figure("Radiographs: the most confident errors next to their heat maps.")
def most_confident_errors(results: Results) -> style.Chart:
    """False negatives, then false positives of the selected model."""
    return _pairs(results, results.most_confident_errors)


def _pairs(results: Results, rows: pd.DataFrame) -> style.Chart:
    maps, top = above_threshold(results, rows)
    chart, axes = style.panels(2 * len(rows), 2.5)
    for (left, right), row in zip(axes.reshape(-1, 2), rows.to_dict("records"), strict=True):
        image, scale = read(results, row["path"])
        wrong = row["label"] != row["decision"]
        show(left, image, f"{style.short(row['model'], 20)}\n{_title(results, row)}", wrong)
        where = " ".join(str(row[name]) for name in ("body_part", "view") if row.get(name))
        title = f"{style.short(Path(row['path']).name)}\n{style.short(where)}"
        above = maps.get(row["path"])
        show(right, image if above is None else overlay(image, above, top), title)
        for xmin, ymin, xmax, ymax in boxes_of(results.boxes, row["path"]) * scale:
            for ax in (left, right):
                size = xmax - xmin, ymax - ymin
                ax.add_patch(mpl.patches.Rectangle((xmin, ymin), *size, fill=False, edgecolor=BOX))
    if maps:
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, top), colors())
        options = {"location": "bottom", "shrink": 0.5, "aspect": 40, "pad": 0.02}
        bar = chart.colorbar(scale, ax=chart.axes, alpha=OPACITY, **options)
        bar.set_label("log odds above the decision threshold (transparent: below)", size=8.5)
        bar.ax.tick_params(labelsize=8.5)
        caution = textwrap.fill(heat_map_caution(results.localization, results.selected), 110)
        chart.suptitle(caution, size=8.5, color=style.WRONG)
    return chart


@style.figure("Dot plot: pointing game of each model and its controls, 95 % CI.", "localization")
def localization(results: Results) -> style.Chart:
    """Hit rates of the pointing game and of its controls."""
    table, names = results.localization, {"hit_rate": "peak in or beside a box, 95 % CI"}
    chart, (ax,) = style.intervals(table, names, results)
    controls = {"permuted": "maps of other images", "center": "center"}
    for marker, (column, label) in zip("|x", controls.items(), strict=True):
        ax.plot(table[column], range(len(table)), f"k{marker}", markersize=9, label=label)
    ax.set_xlim(0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    above = (table["assessment"] == ASSESSMENTS[0]).sum()
    images = counted(table["images"].max(), "test image")
    chart.suptitle(f"{above} of {len(table)} models exceed both controls ({images})")
    return chart
