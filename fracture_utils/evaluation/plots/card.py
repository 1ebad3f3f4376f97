"""The verdict as a picture of 1200 x 630 pixels, to be shown where only one picture is."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from fracture_utils.evaluation import verdict as verdicts
from fracture_utils.evaluation.plots.style import INK, WRONG, Chart, figure
from fracture_utils.evaluation.predictions import FRACTURED

LIGHTS = {"green": "#1B7F4B", "amber": "#B26A00", "red": "#B2182B", "grey": "#6B7280"}
SIZE = (6.0, 3.15)
"""Inches: at 200 dots an inch 1200 x 630 pixels, the size in which links are previewed."""


@figure
def verdict(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    localisation: pd.DataFrame,
    positive: str = FRACTURED,
) -> Chart:
    """The verdict card: headline, errors of 100, and three lights."""
    said = verdicts.of(
        scores, comparisons, localisation, positive, verdicts.chosen(predictions, scores)
    )
    chart = Chart(figsize=SIZE, dpi=100, layout="constrained")
    ax = chart.subplots()
    ax.set(xlim=(0, 100), ylim=(0, 50))
    ax.set_axis_off()
    ax.text(1, 49, textwrap.fill(said.headline, 62), size=11.5, weight="bold", va="top")
    errors = [(said.missed, f"of 100 {positive} pictures\nit misses", WRONG),
              (said.alarms, "of 100 normal pictures\nit alarms on", "#B26A00")]  # fmt: skip
    for left, ((value, low, high), words, colour) in zip((1, 51), errors, strict=True):
        for cell in range(100):
            x, y = left + 1.1 * (cell % 10), 35 - 1.6 * (cell // 10)
            face = colour if cell + 0.5 <= value else "#D9DEE4"
            ax.add_patch(Rectangle((x, y), 0.85, 1.25, color=face, lw=0))
        ax.text(left + 13, 31, words, size=8.5, va="center")
        text = "unknown" if np.isnan(value) else f"{value:.0f}  ({low:.0f} to {high:.0f})"
        ax.text(left + 13, 23, text, size=11, weight="bold")
    for place, light in enumerate(said.lights):
        y = 14 - 4.4 * place
        ax.plot(2, y, "o", markersize=8, color=LIGHTS[light.colour])
        ax.text(5, y, light.what, size=8.5, weight="bold", va="center", color=INK)
        ax.text(
            24,
            y,
            textwrap.shorten(f"{light.answer}, {light.words}", 78),
            size=8.5,
            va="center",
            color=INK,
        )
    counts = f"In brackets: 95 % interval. {said.counts}."
    ax.text(1, 0.4, counts, size=8, va="center", color="#555555")
    lights = "; ".join(f"{light.what}: {light.answer}, {light.words}" for light in said.lights)
    return chart.say(
        said.headline,
        f"{said.headline} Of 100 {positive} pictures it misses {said.missed[0]:.0f}, of 100 normal "
        f"ones it alarms on {said.alarms[0]:.0f} ({said.counts}). {lights}.",
    )
