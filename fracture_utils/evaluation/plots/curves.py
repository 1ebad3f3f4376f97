"""Figures over all thresholds: curves of trade-offs, what a probability is worth, whether acting
on it pays, and how many boxes the marks find.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import special
from statsmodels.stats.proportion import proportion_confint

from fracture_utils.evaluation import metrics, use
from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.predictions import FRACTURED, Answers, answers, contenders
from fracture_utils.evaluation.probabilities import BINS, bins
from fracture_utils.evaluation.verdict import chosen
from fracture_utils.evaluation.wording import of_each, ranged

LEAST = -0.05
"""Net benefit below which nothing is shown: acting on all falls without end."""
Points = tuple[np.ndarray, np.ndarray]
CHANCE: dict[str, Any] = {"color": style.FAINT, "linewidth": 1, "linestyle": "--"}


@style.figure
def roc(predictions: pd.DataFrame, scores: pd.DataFrame, positive: str = FRACTURED) -> style.Chart:
    """Sensitivity against false alarms on the test rows, the chosen thresholds marked."""

    def rates(found, alarms, positives, negatives):
        return alarms / negatives, found / positives

    chart, ax = _trade_off(predictions, scores, "auc", "AUC", rates)
    ax.plot([0, 1], [0, 1], zorder=0, **CHANCE)
    ax.set(
        xlabel=f"1 - specificity (share of normal pictures called {positive})",
        ylabel=f"sensitivity (share of {positive} pictures found)",
        title=f"{positive.capitalize()} pictures found against false alarms",
    )
    row = scores.set_index("model").loc[chosen(predictions, scores)]
    return chart.say(
        f"At its chosen threshold {row.name} finds {100 * row['sensitivity']:.0f} % of the "
        f"{positive} pictures and sounds a false alarm on {100 - 100 * row['specificity']:.0f} % "
        "of the normal ones; its curve shows what other thresholds would give.",
        f"ROC curves. AUC with 95 % interval: {of_each(scores, 'auc')}.",
    )


@style.figure
def precision_recall(
    predictions: pd.DataFrame, scores: pd.DataFrame, positive: str = FRACTURED
) -> style.Chart:
    """Positive predictive value against sensitivity on the test rows."""

    def rates(found, alarms, positives, _):
        return found / positives, found / (found + alarms)

    chart, ax = _trade_off(predictions, scores, "average_precision", "Average precision", rates)
    prevalence = scores["positives"].iloc[0] / scores["n"].iloc[0]
    ax.axhline(prevalence, zorder=0, **CHANCE)
    ax.set(
        xlabel=f"sensitivity (share of {positive} pictures found)",
        ylabel="positive predictive value",
        title=f"How many of the pictures called {positive} really are",
    )
    row = scores.set_index("model").loc[chosen(predictions, scores)]
    called = "no picture" if np.isnan(row["ppv"]) else f"{100 * row['ppv']:.0f} %"
    return chart.say(
        f"Of the pictures that {row.name} calls {positive} at its chosen threshold, {called} "
        f"really are; calling all of them so would give {100 * prevalence:.0f} %.",
        "Curves of positive predictive value against sensitivity. Average precision with 95 % "
        f"interval: {of_each(scores, 'average_precision')}.",
    )


def _trade_off(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    metric: str,
    title: str,
    rates: Callable[..., Points],
) -> tuple[style.Chart, Axes]:
    """A curve a model over all thresholds, and a marker at the chosen one: the chosen network in
    colour, the others in grey with the number under which the legend names them.

    `rates` makes x and y of the numbers of fractures found and of false alarms, and of the numbers
    of fractured and of normal pictures.
    """
    seen = answers(predictions, "test")
    chart, ax = style.chart_of(max(4.9, 0.4 * len(seen.models) + 2.0))
    rows, first = scores.set_index("model"), chosen(predictions, scores)
    order = sorted(seen.models, key=lambda name: (name != first, -rows[metric].fillna(0)[name]))
    lines = {model: _line(seen, model, rates) for model in order}
    taken = [np.array(point) for _, point in lines.values()]
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for number, model in enumerate(order, 1):
        line, point = lines[model]
        look = style.appearance(model, seen.models)
        if model == first:
            wide = {"linewidth": 2.4, "zorder": 3}
        else:
            look |= {"color": style.MUTED}
            wide = {"linewidth": 1.0}
        tag = "" if model == first else f"{number}  "
        ax.plot(*line, color=look["color"], **wide)
        ax.plot(*point, markersize=9 if model == first else 6, linestyle="", zorder=4, **look)
        name, value = style.short(model), ranged(rows.loc[model], metric)
        ax.plot([], [], label=f"{tag}{name}\n{value}", **look)
        if tag:
            style.numbered(ax, line, number, taken)
    ax.plot([], [], label="chance", **CHANCE)
    legend = ax.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.02),
        title=f"{title}, 95 % interval\n(marker: chosen threshold)",
    )  # fmt: skip
    legend.get_texts()[0].set_fontweight("bold")
    return chart, ax


def _line(seen: Answers, model: str, rates: Callable[..., Points]) -> tuple[Points, Points]:
    """The curve of one model, and its point at the chosen threshold."""
    place, fractured = seen.models.index(model), seen.labels == 1
    sizes = np.array([fractured.sum(), (~fractured).sum()], dtype=float)
    ones = np.ones((len(fractured), 1))
    found, alarms = metrics.curve(seen.labels, seen.logits[:, place], ones)
    called = seen.decisions[:, place]
    chosen = (called & fractured).sum(), (called & ~fractured).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        line = rates(np.append(0, found), np.append(0, alarms), *sizes)
        return line, rates(*chosen, *sizes)


@style.figure
def reliability(
    predictions: pd.DataFrame, scores: pd.DataFrame, positive: str = FRACTURED
) -> style.Chart:
    """Share of fractures against the probability said by the chosen network, with counts and bands,
    after calibration (before: pale); beside it the calibration error of every model.
    """
    seen, model = contenders(predictions), chosen(predictions, scores)
    place, look = seen.models.index(model), style.appearance(model, seen.models)
    said = {"before": special.expit(seen.logits), "after": seen.probabilities}
    height = max(4.6, 0.36 * len(seen.models) + 1.6)
    chart = style.Chart(figsize=(style.WIDTH, height), dpi=100, layout="constrained")
    grid = chart.add_gridspec(2, 2, height_ratios=(4, 1), width_ratios=(1.25, 1))
    ax, below = chart.add_subplot(grid[0, 0]), chart.add_subplot(grid[1, 0])
    ax.plot([0, 1], [0, 1], **CHANCE)
    before = _bins(said["before"][:, place], seen.labels)
    after = _bins(said["after"][:, place], seen.labels)
    ax.plot(before["said"], before["share"], "-", color=style.FAINT, label="before scaling")
    ax.vlines(after["said"], after["low"], after["high"], color=look["color"], alpha=0.45, lw=4)
    ax.plot(after["said"], after["share"], linewidth=1.5, label="after, 95 % bands", **look)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=f"share that is {positive}")
    ax.tick_params(labelbottom=False)
    ax.legend(loc="upper left")
    edges = (np.arange(BINS) + 0.5) / BINS
    counts = after["count"].reindex(range(BINS), fill_value=0)
    bars = below.bar(edges, counts, 0.9 / BINS, color=look["color"], alpha=0.6)
    below.bar_label(bars, fmt="{:,.0f}", size=7, padding=1)
    below.set(xlim=(-0.02, 1.02), xlabel="probability said", ylabel="pictures", yticks=[])
    below.margins(y=0.4)
    errors = [
        [metrics.calibration_error(seen.labels, part[:, k]) for part in said.values()]
        for k in range(len(seen.models))
    ]
    _errors(chart.add_subplot(grid[:, 1]), seen.models, np.array(errors), model)
    off = 100 * errors[place][1]
    chart.suptitle(
        f"Probabilities of {style.short(model)} are {off:.1f} points off on average", size=11
    )
    return chart.say(*_told(model, positive, seen.models, errors, after))


def _bins(said: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """Per bin of equal width that holds a picture: mean probability said, share of fractures with
    the exact 95 % interval of Clopper and Pearson, and count.
    """
    table = pd.DataFrame({"said": said, "share": labels}).groupby(bins(said).argmax(axis=0))
    shares = table.mean().assign(count=table.size())
    low, high = proportion_confint(table["share"].sum(), shares["count"], method="beta")
    return shares.assign(low=low, high=high)


def _errors(ax: Axes, models: list[str], errors: np.ndarray, chosen: str) -> None:
    """The calibration error of every model before (hollow) and after (filled) scaling."""
    for place, model in enumerate(models):
        colour = style.appearance(model, models)["color"] if model == chosen else style.MUTED
        ax.plot(100 * errors[place], [place, place], color=colour, linewidth=1)
        ax.plot(100 * errors[place, 0], place, "o", color=colour, markerfacecolor="white")
        ax.plot(100 * errors[place, 1], place, "o", color=colour)
    ax.set_yticks(range(len(models)), [style.short(model, 18) for model in models])
    ax.set_ylim(len(models) - 0.5, -0.5)
    ax.set_xlim(left=0)
    ax.margins(x=0.1)
    ax.set(xlabel="percentage points", title="Error of each model\n(hollow: before scaling)")


def _told(
    model: str, positive: str, models: list[str], errors: list[list[float]], shares: pd.DataFrame
) -> tuple[str, str]:
    place = models.index(model)
    before, after = (100 * error for error in errors[place])
    rows = [
        f"{100 * said:.0f} % said, {100 * share:.0f} % of {count:,} were"
        for said, share, count in zip(shares["said"], shares["share"], shares["count"], strict=True)
    ]
    others = [
        f"{name} {100 * pair[0]:.1f} and {100 * pair[1]:.1f}"
        for name, pair in zip(models, errors, strict=True)
    ]
    return (
        f"The probabilities of {model} are on average {after:.1f} percentage points off "
        f"({before:.1f} before calibration). On the dashed line they would be exact; "
        "a band that misses it is an error beyond chance.",
        f"Reliability diagram of {model}, share {positive} by probability said: {'; '.join(rows)}. "
        f"Error in points before and after scaling: {'; '.join(others)}.",
    )


@style.figure
def decision_curve(
    decision_curve: pd.DataFrame,
    scores: pd.DataFrame,
    predictions: pd.DataFrame | None = None,
    positive: str = FRACTURED,
) -> style.Chart:
    """Net benefit against the probability from which on a person would act, beside acting on every
    picture and on none; the chosen network (without `predictions` the best) with its interval.
    """
    chart, ax = style.chart_of(4.6)
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
    ax.plot(
        every["threshold"], every["treat_all"], color=style.INK, linestyle="--", label="act on all"
    )
    ax.axhline(0, color=style.FAINT, label="act on none")
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02))
    pays = use.worthwhile(decision_curve, first)
    where = f"from a probability of {pays[0]:.2f} to {pays[1]:.2f}" if pays else "nowhere"
    return chart.say(
        f"Acting on {first} is shown to be worth more than acting on every picture and than acting "
        f"on none {where} (the whole 95 % interval, shaded).",
        f"Curves of net benefit against threshold. {first} lies above both others {where}.",
    )


@style.figure
def free_response(
    froc: pd.DataFrame, scores: pd.DataFrame, predictions: pd.DataFrame | None = None
) -> style.Chart:
    """Sensitivity per lesion against false marks per picture, the chosen network (without
    `predictions` the best) with its interval; a sentence where no boxes are known.
    """
    chart, ax = style.chart_of(4.6)
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
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.02))
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
        rows, name = table[table["model"] == model], style.short(model)
        if model == first:
            colour = style.appearance(model, models)["color"]
            ax.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=colour, alpha=0.15)
            ax.plot(rows[x], rows[y], color=colour, linewidth=2.4, zorder=3, label=name)
            continue
        ax.plot(rows[x], rows[y], color=style.MUTED, linewidth=1.0, label=f"{number}  {name}")
        style.numbered(ax, (rows[x].to_numpy(float), rows[y].to_numpy(float)), number, taken)
