"""Figures of what is decided at the chosen threshold."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fracture_utils.evaluation.gallery import OUTCOME_OF
from fracture_utils.evaluation.plots.style import (
    INK,
    WRONG,
    Chart,
    chart_of,
    figure,
    panels,
    probability,
    short,
    xray,
)
from fracture_utils.evaluation.predictions import FRACTURED, NORMAL, contenders
from fracture_utils.evaluation.verdict import chosen

CELL = {True: ("#1B5E8A", "white"), False: ("#F3D9D5", INK)}
"""Background and text of right and of wrong decisions: contrasts of 7.3 and 12.2 to 1."""


@figure
def confusion_matrices(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    operating_points: pd.DataFrame,
    positive: str = FRACTURED,
) -> Chart:
    """What became of the fractured and the normal test pictures: the chosen network's matrix large,
    a row a model beside it.
    """
    seen, first = contenders(predictions), chosen(predictions, scores)
    threshold = operating_points.set_index("model")["threshold"]
    cells = 2 * (1 - seen.labels[:, None]) + (1 - seen.decisions)
    counts = {
        model: np.bincount(cells[:, place], minlength=4) for place, model in enumerate(seen.models)
    }
    chart, (left, right) = chart_of(
        max(3.6, 0.3 * len(seen.models) + 1.2), 1, 2, width_ratios=(1, 1.75)
    )
    _matrix(left, counts[first], positive)
    title = f"{short(first)} at its threshold of {threshold[first]:.3g}, and every other model"
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
        ax.text(0, row, short(model, 20), va="center", size=9, weight=weight)
        for x, text in zip(edges, texts, strict=True):
            ax.text(x, row, text, ha="right", va="center", size=9, weight=weight)
    ax.axhline(-0.45, color="#888888", linewidth=0.8)
    ax.set(xlim=(0, 1.02), ylim=(max(len(counts), 5) - 0.3, -1.5))
    ax.set_axis_off()


@figure
def sample_predictions(
    pictures: Sequence[np.ndarray],
    rows: pd.DataFrame,
    operating_points: pd.DataFrame,
    positive: str = FRACTURED,
) -> Chart:
    """Test pictures, uint8 (height, width), with truth and calibrated probability beside the
    threshold; `rows` are their predictions (model, label, probability, decision) in that order.
    """
    threshold = operating_points.set_index("model")["threshold"]
    chart, axes = panels(len(pictures), 2.4)
    for ax, picture, row in zip(axes.flat, pictures, rows.to_dict("records"), strict=False):
        xray(ax, picture)
        right = row["label"] == row["decision"]
        truth = positive if row["label"] == FRACTURED else row["label"]
        said = probability(row["probability"], threshold[row["model"]])
        ax.set_title(
            f"{truth}: {OUTCOME_OF[row['label'], row['decision']]}\nprobability {said}",
            size=9, color=INK if right else WRONG, weight="normal" if right else "bold",
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
