"""Figures about use: whether acting on a network pays, and how many boxes its marks find."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from fracture_utils.evaluation import use
from fracture_utils.evaluation.plots.style import (
    FAINT,
    INK,
    MUTED,
    Chart,
    appearance,
    chart_of,
    figure,
    numbered,
    short,
)
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.verdict import chosen

LEAST = -0.05
"""Net benefit below which nothing is shown: acting on all falls without end."""


@figure
def decision_curve(
    decision_curve: pd.DataFrame,
    scores: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    positive: str = FRACTURED,
) -> Chart:
    """Net benefit against the probability from which on a person would act, beside acting on every
    picture and on none; the chosen network (without `predictions` the best) with its interval.
    """
    chart, ax = chart_of(4.6)
    first = chosen(predictions, scores)
    every = decision_curve.drop_duplicates("threshold")
    top = max(decision_curve["net_benefit"].max(), 0.01) if len(decision_curve) else 1
    ax.set(
        xlim=(0, 1),
        ylim=(LEAST, 1.15 * top),
        xlabel=f"probability of {positive} from which on one would act",
        ylabel="net benefit, true positives a picture",
        title="What acting on a network is worth",
    )
    _lines(ax, decision_curve, "threshold", "net_benefit", first)
    ax.plot(every["threshold"], every["treat_all"], color=INK, linestyle="--", label="act on all")
    ax.axhline(0, color=FAINT, label="act on none")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    pays = use.worthwhile(decision_curve, first)
    where = f"from a probability of {pays[0]:.2f} to {pays[1]:.2f}" if pays else "nowhere"
    return chart.say(
        f"Acting on {first} is shown to be worth more than acting on every picture and than acting "
        f"on none {where} (the whole 95 % interval, shaded).",
        f"Curves of net benefit against threshold. {first} lies above both others {where}.",
    )


@figure
def free_response(
    froc: pd.DataFrame, scores: pd.DataFrame, predictions: pd.DataFrame | None = None
) -> Chart:
    """Sensitivity per lesion against false marks per picture, the chosen network (without
    `predictions` the best) with its interval; a sentence where no boxes are known.
    """
    chart, ax = chart_of(4.6)
    first = chosen(predictions, scores)
    if froc.empty:
        ax.text(0.5, 0.5, "no boxes are known", ha="center", transform=ax.transAxes)
        ax.set_axis_off()
        return chart.say("No boxes are known, so no mark can be judged.", "No curve.")
    ticks = [1 / 32, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, ["1/32", "1/8", "1/4", "1/2", *map(str, ticks[4:])])
    ax.set(
        ylim=(-0.02, 1.02),
        xlabel="false marks per picture",
        ylabel="sensitivity per box",
        xlim=(froc["false_marks"].min(), froc["false_marks"].max()),
        title="How many boxes the peaks of the heat maps find",
    )
    _lines(ax, froc, "false_marks", "sensitivity", first)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False)
    rows = froc[(froc["model"] == first) & (froc["false_marks"] == 1)]
    told = "".join(
        f"{first} finds {100 * row.sensitivity:.0f} % (95 % interval "
        f"{100 * row.sensitivity_low:.0f} to {100 * row.sensitivity_high:.0f} %) of "
        f"{row.lesions} boxes at one false mark per picture."
        for row in rows.itertuples()
    )
    return chart.say(
        f"{told} A mark is a peak of the map; it finds a box in or right beside which it lies.",
        f"Free-response curves. {told}",
    )


def _lines(ax: Axes, table: pd.DataFrame, x: str, y: str, first: str) -> None:
    """A line a model: the first in colour and over its interval, the others in grey with the number
    under which the legend names them. Scales and limits of `ax` are set before.
    """
    models = sorted(table["model"].unique(), key=lambda name: name != first)
    taken: list[np.ndarray] = []
    for number, model in enumerate(models, 1):
        rows = table[table["model"] == model]
        if model == first:
            colour = appearance(model, models)["color"]
            ax.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=colour, alpha=0.15)
            ax.plot(rows[x], rows[y], color=colour, linewidth=2.4, zorder=3, label=short(model))
            continue
        ax.plot(rows[x], rows[y], color=MUTED, linewidth=1.0, label=f"{number}  {short(model)}")
        numbered(ax, (rows[x].to_numpy(float), rows[y].to_numpy(float)), number, taken)
