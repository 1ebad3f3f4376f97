"""Figures of what is decided at the chosen threshold, and the verdict as a picture."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from fracture_utils.evaluation import verdict as verdicts
from fracture_utils.evaluation.gallery import OUTCOME_OF
from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.predictions import FRACTURED, NORMAL, contenders

LIGHTS = {"green": "#1B7F4B", "amber": "#B26A00", "red": "#B2182B", "grey": "#6B7280"}
CARD = (6.0, 3.15)
"""Inches: at 200 dots an inch 1200 x 630 pixels, the size in which links are previewed."""
CELL = {True: ("#1B5E8A", "white"), False: ("#F3D9D5", style.INK)}
"""Background and text of right and of wrong decisions: contrasts of 7.3 and 12.2 to 1."""


@style.figure
def confusion_matrices(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    operating_points: pd.DataFrame,
    positive: str = FRACTURED,
) -> style.Chart:
    """What became of the fractured and the normal test pictures: the chosen network's matrix large,
    a row a model beside it.
    """
    seen, first = contenders(predictions), verdicts.chosen(predictions, scores)
    threshold = operating_points.set_index("model")["threshold"]
    cells = 2 * (1 - seen.labels[:, None]) + (1 - seen.decisions)
    counts = {
        model: np.bincount(cells[:, place], minlength=4) for place, model in enumerate(seen.models)
    }
    chart, (left, right) = style.chart_of(
        max(3.6, 0.3 * len(seen.models) + 1.2), 1, 2, width_ratios=(1, 1.75)
    )
    _matrix(left, counts[first], positive)
    title = (
        f"{style.short(first)} at its threshold of {threshold[first]:.3g}, and every other model"
    )
    chart.suptitle(title, size=11)
    _listing(right, counts, threshold, first)
    found, missed, alarms, cleared = counts[first]
    said = [
        f"{model} at {threshold[model]:.3g}: {n[0]} found, {n[1]} missed, {n[2]} false alarms, "
        f"{n[3]} cleared"
        for model, n in counts.items()
    ]
    return chart.say(
        f"At its threshold of {threshold[first]:.3g}, {first} misses {missed:,} of "
        f"{found + missed:,} {positive} pictures and sounds a false alarm on {alarms:,} of "
        f"{alarms + cleared:,} normal ones.",
        f"Truth against decision: {'; '.join(said)}.",
    )


def _matrix(ax: Axes, counts: np.ndarray, positive: str) -> None:
    totals = np.repeat(counts.reshape(2, 2).sum(axis=1), 2)
    for place, (count, total) in enumerate(zip(counts, totals, strict=True)):
        row, column = divmod(place, 2)
        back, ink = CELL[row == column]
        ax.fill([column, column + 1, column + 1, column], [row, row, row + 1, row + 1], color=back)
        share = f"{100 * count / total:.0f} %" if total else ""
        ax.text(
            column + 0.5, row + 0.5, f"{count:,}\n{share}", ha="center", va="center", size=13,
            color=ink,
        )  # fmt: skip
    ax.set(xlim=(0, 2), ylim=(2, 0), aspect="equal", xlabel="decision", ylabel="truth")
    ax.set_xticks([0.5, 1.5], [positive, NORMAL])
    ax.set_yticks([0.5, 1.5], [positive, NORMAL], rotation=90, va="center")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _listing(ax: Axes, counts: dict[str, np.ndarray], threshold: pd.Series, first: str) -> None:
    """A row a model: threshold, and the four counts."""
    heads = ["threshold", "found", "missed", "false\nalarms", "cleared"]
    edges = np.linspace(0.5, 1, len(heads))
    for x, head in zip(edges, heads, strict=True):
        ax.text(x, -0.9, head, ha="right", va="center", size=9, color="#555555")
    for row, (model, n) in enumerate(counts.items()):
        texts = [f"{threshold[model]:.3g}", *(f"{count:,}" for count in n)]
        weight = "bold" if model == first else "normal"
        ax.text(0, row, style.short(model, 20), va="center", size=9, weight=weight)
        for x, text in zip(edges, texts, strict=True):
            ax.text(x, row, text, ha="right", va="center", size=9, weight=weight)
    ax.axhline(-0.45, color="#888888", linewidth=0.8)
    ax.set(xlim=(0, 1.02), ylim=(max(len(counts), 5) - 0.3, -1.5))
    ax.set_axis_off()


@style.figure
def sample_predictions(
    pictures: Sequence[np.ndarray],
    rows: pd.DataFrame,
    operating_points: pd.DataFrame,
    positive: str = FRACTURED,
) -> style.Chart:
    """Test pictures, uint8 (height, width), with truth and calibrated probability beside the
    threshold; `rows` are their predictions (model, label, probability, decision) in that order.
    """
    threshold = operating_points.set_index("model")["threshold"]
    chart, axes = style.panels(len(pictures), 2.4)
    for ax, picture, row in zip(axes.flat, pictures, rows.to_dict("records"), strict=False):
        style.xray(ax, picture)
        right = row["label"] == row["decision"]
        truth = positive if row["label"] == FRACTURED else row["label"]
        said = style.probability(row["probability"], threshold[row["model"]])
        ax.set_title(
            f"{truth}: {OUTCOME_OF[row['label'], row['decision']]}\nprobability {said}",
            size=9, color=style.INK if right else style.WRONG, weight="normal" if right else "bold",
        )  # fmt: skip
    outcomes = pd.Series(
        [OUTCOME_OF[pair] for pair in zip(rows["label"], rows["decision"], strict=True)]
    )
    counted = ", ".join(f"{count} {name}" for name, count in outcomes.value_counts().items())
    model = " and ".join(rows["model"].unique())
    return chart.say(
        f"Test pictures drawn at random from each class, and what {model} says: {counted}. "
        f"A picture is called {positive} where its probability reaches the threshold.",
        f"{len(rows)} X-rays with truth, decision of {model} and probability: {counted}.",
    )


@style.figure
def verdict(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    localisation: pd.DataFrame,
    positive: str = FRACTURED,
) -> style.Chart:
    """The verdict card, to be shown where only one picture is: headline, errors of 100, and three
    lights.
    """
    said = verdicts.of(
        scores, comparisons, localisation, positive, verdicts.chosen(predictions, scores)
    )
    chart = style.Chart(figsize=CARD, dpi=100, layout="constrained")
    ax = chart.subplots()
    ax.set(xlim=(0, 100), ylim=(0, 50))
    ax.set_axis_off()
    ax.text(1, 49, textwrap.fill(said.headline, 62), size=11.5, weight="bold", va="top")
    errors = [(said.missed, f"of 100 {positive} pictures\nit misses", style.WRONG),
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
        words = textwrap.shorten(f"{light.answer}, {light.words}", 78)
        ax.plot(2, y, "o", markersize=8, color=LIGHTS[light.colour])
        ax.text(5, y, light.what, size=8.5, weight="bold", va="center", color=style.INK)
        ax.text(24, y, words, size=8.5, va="center", color=style.INK)
    counts = f"In brackets: 95 % interval. {said.counts}."
    ax.text(1, 0.4, counts, size=8, va="center", color="#555555")
    lights = "; ".join(f"{light.what}: {light.answer}, {light.words}" for light in said.lights)
    return chart.say(
        said.headline,
        f"{said.headline} Of 100 {positive} pictures it misses {said.missed[0]:.0f}, of 100 normal "
        f"ones it alarms on {said.alarms[0]:.0f} ({said.counts}). {lights}.",
    )
