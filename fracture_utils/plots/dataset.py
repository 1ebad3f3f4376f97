"""Figures of the data before training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns

from fracture_utils.config import FRACTURED, NORMAL, SPLITS
from fracture_utils.data import reader
from fracture_utils.plots import style


@style.figure("Bar chart: images of each class in each split.", "images")
def class_distribution(images: Any) -> style.Chart:
    """Images by split and class; takes the images table, a Dataset or Results."""
    table, word = getattr(images, "images", images), style.positive(images)
    shares = 100 * (table["label"] == FRACTURED).groupby(table["split"]).mean()
    splits = [split for split in SPLITS if split in shares]
    chart, ax = style.subplots(3.6)
    colors = {"palette": style.CLASS_COLORS, "hue_order": style.CLASS_COLORS}
    sns.countplot(table, x="split", hue="label", order=splits, ax=ax, **colors)
    for bars in ax.containers:
        ax.bar_label(bars, fmt="{:,.0f}", padding=2)
    ax.margins(y=0.1)
    ax.set_xticks(range(len(splits)), [f"{name}\n{shares[name]:.0f} % {word}" for name in splits])
    ax.set(xlabel="", ylabel="images", title=f"{len(table):,} images by split and class")
    ax.legend(ax.containers, [NORMAL, word], **style.RIGHT)
    return chart


def show(ax: Any, image: np.ndarray, title: str = "", wrong: bool = False) -> None:
    """An X-ray, uint8 (height, width), in gray and without ticks; an RGB image as it is."""
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
    ax.set_axis_off()
    color = style.WRONG if wrong else style.INK
    ax.set_title(title, size=8.5, color=color, weight="bold" if wrong else "normal")


@style.figure("Grid of radiographs: training images of both classes, drawn at random.")
def image_grid(data: Any, count: int = 8) -> style.Chart:
    """Random training images, as many of each class; takes a Dataset."""
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
