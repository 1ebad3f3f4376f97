"""Figures of how the networks were trained, and of what they cost."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.wording import listed, ranged


@style.figure
def history(history: pd.DataFrame) -> style.Chart:
    """Loss and AUC by epoch, training and validation, a row a network; a dot at the kept epoch."""
    models = list(history["model"].unique())
    chart, axes = style.chart_of(1.3 * len(models) + 0.7, len(models), 2, sharey="col")
    axes = axes.reshape(-1, 2)
    kept = {}
    for (left, right), model in zip(axes, models, strict=True):
        rows = history[history["model"] == model].reset_index(drop=True)
        kept[model] = int(rows["val_auc"].fillna(-1).idxmax())
        for ax, name in ((left, "loss"), (right, "auc")):
            _course(ax, rows, name, style.appearance(model, models)["color"], kept[model])
        left.set_ylabel(style.short(model, 16))
    axes[0, 0].set_title("loss")
    axes[0, 1].set_title("AUC")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    looks: list[dict[str, Any]] = [{"linestyle": ":"}, {}, {"linestyle": "--", "linewidth": 0.8}]
    lines = [Line2D([], [], color=style.INK, **look) for look in looks]
    lines.append(Line2D([], [], color=style.INK, marker="o", linestyle="", markersize=6))
    words = ["training", "validation", "fine-tuning begins", "kept epoch"]
    if not (history["stage"] == "fine_tune").any():
        del lines[2], words[2]
    chart.legend(lines, words, loc="outside upper center", ncols=4)
    return chart.say(_gained(history, models, kept), _ends(history, models, kept))


def _course(ax: Axes, rows: pd.DataFrame, name: str, colour: str, kept: int) -> None:
    epochs = np.arange(1, len(rows) + 1)
    ax.plot(epochs, rows[name], color=colour, linestyle=":")
    ax.plot(epochs, rows[f"val_{name}"], color=colour)
    ax.plot(epochs[kept], rows.loc[kept, f"val_{name}"], "o", color=colour, markersize=6)
    for start in np.flatnonzero(rows["stage"].ne(rows["stage"].shift()))[1:]:
        ax.axvline(start + 0.5, color=style.MUTED, linewidth=0.8, linestyle="--")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4))


def _gained(history: pd.DataFrame, models: list[str], kept: dict[str, int]) -> str:
    better = []
    for model in models:
        stages = history.loc[history["model"] == model, "stage"].reset_index(drop=True)
        better += [model] if stages[kept[model]] != stages[0] else []
    apart = (
        "the weights of the epoch with the dot are kept. Networks share each axis, so that they "
        "can be compared."
    )
    if not (history["stage"] == "fine_tune").any():
        return f"The networks stayed frozen, and only their heads were trained; {apart}"
    verb = "bettered the validation AUC of"
    who = listed(better) if len(better) < len(models) or len(models) < 3 else "every network"
    return f"Fine-tuning {verb} {who if better else 'no network'}; {apart}"


def _ends(history: pd.DataFrame, models: list[str], kept: dict[str, int]) -> str:
    said = []
    for model in models:
        row = history[history["model"] == model].iloc[kept[model]]
        said.append(
            f"{model} keeps epoch {kept[model] + 1} with a validation AUC of {row['val_auc']:.3f} "
            f"and a training AUC of {row['auc']:.3f}"
        )
    return f"Line charts of loss and AUC by epoch: {'; '.join(said)}."


@style.figure
def accuracy_against_cost(scores: pd.DataFrame, networks: pd.DataFrame) -> style.Chart:
    """AUC against parameters and against time a picture, for the networks that were trained."""
    costs = networks.dropna(subset=["parameters", "seconds_per_picture"])
    wanted = ["model", "parameters", "seconds_per_picture"]
    rows = scores.merge(costs[wanted], on="model")
    chart, axes = style.chart_of(4.2, 1, 2, sharey=True)
    hardware = listed(
        [style.short(name, 44) for name in costs.get("hardware", pd.Series()).unique()]
    )
    panels = [
        (rows["parameters"] / 1e6, "parameters (millions)"),
        (1000 * rows["seconds_per_picture"], "milliseconds a picture"),
    ]
    for ax, (cost, title) in zip(axes.flat, panels, strict=True):
        for x, row in zip(cost, rows.to_dict("records"), strict=True):
            look = style.appearance(row["model"], rows["model"])
            ax.plot([x, x], [row["auc_low"], row["auc_high"]], color=look["color"], alpha=0.5)
            ax.plot(
                x, row["auc"], linestyle="", markersize=8, label=style.short(row["model"]), **look
            )
        ax.set(xlabel=title, xscale="log")
        ax.margins(x=0.12)
        _plain_log_ticks(ax)
    axes.flat[1].set_xlabel(f"{panels[1][1]}\n{hardware}".strip())
    axes.flat[0].set_ylabel("AUC, 95 % interval")
    chart.suptitle("What accuracy costs (up and to the left is better)", size=11)
    axes.flat[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return chart.say(_cheapest(rows, hardware), _costs(rows))


def _cheapest(rows: pd.DataFrame, hardware: str) -> str:
    rows = rows.dropna(subset=["auc"])
    if rows.empty:
        return "No network has both an AUC and a known cost."
    first, quick = rows.loc[rows["auc"].idxmax()], rows.loc[rows["seconds_per_picture"].idxmin()]
    on = f" Times are of {hardware}." if hardware else ""
    if first["model"] == quick["model"]:
        return f"{first['model']} is both the best by AUC and the quickest.{on}"
    times = first["seconds_per_picture"] / quick["seconds_per_picture"]
    return (
        f"{first['model']}, the best by AUC, takes {times:.1f} times as long a picture as "
        f"{quick['model']}, the quickest, for {first['auc'] - quick['auc']:.3f} of AUC.{on}"
    )


def _costs(rows: pd.DataFrame) -> str:
    said = [
        f"{row['model']} {row['parameters'] / 1e6:.1f} million parameters, "
        f"{1000 * row['seconds_per_picture']:.0f} ms a picture, AUC {ranged(row, 'auc')}"
        for row in rows.to_dict("records")
    ]
    return f"AUC of each network against its size and its time: {'; '.join(said)}."


def _plain_log_ticks(ax: Axes) -> None:
    """Numbers as people write them, at least two of them, also on a short stretch."""
    low, high = ax.get_xlim()
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8), np.arange(10, 100) / 10):
        steps = [digit * 10.0**power for power in range(-4, 7) for digit in digits]
        ticks = [step for step in steps if low <= step <= high]
        if len(ticks) >= 3:
            break
    ax.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 7) or 1]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
