"""Figures that set models, pairs of models and subgroups side by side."""

import textwrap

import matplotlib as mpl
import numpy as np
import pandas as pd

from fracture_utils.evaluation.intervals import SIGNIFICANT
from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.subgroups import ALL, FEWEST
from fracture_utils.evaluation.verdict import chosen
from fracture_utils.evaluation.wording import in_words, listed, of_each, p_value, ranged


@style.figure
def ranking(scores: pd.DataFrame, positive: str = FRACTURED) -> style.Chart:
    """The AUC of each model with its interval, best first, references last."""
    models = list(scores["model"])
    reference = scores["kind"] == "reference"
    rows = scores.assign(last=reference).sort_values(
        ["last", "auc"], ascending=[True, False], kind="stable", ignore_index=True
    )
    chart, ax = style.chart_of(0.36 * len(rows) + 1.4)
    labels = []
    for place, row in rows.iterrows():
        look = style.appearance(row["model"], models)
        if row["initialisation"] == "random":
            look = look | {"markerfacecolor": "white"}
        style.interval(ax, row, "auc", place, look)
        start = {"random": "\n(random start)"}.get(row["initialisation"], "")
        labels.append(style.short(row["model"]) + start)
        ax.text(
            1.02, place, ranged(row, "auc"), transform=ax.get_yaxis_transform(), va="center", size=9
        )
    ax.axvline(0.5, color=style.FAINT, linewidth=1, linestyle="--", zorder=0)
    ax.annotate(
        "chance", (0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
        textcoords="offset points", va="top", size=8, color="#666666",
    )  # fmt: skip
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.5, -0.8)
    n, positives = rows.loc[0, ["n", "positives"]]
    ax.set(
        title=f"How well each model ranks {positive} above normal",
        xlabel=f"AUC with 95 % interval, {n:,} test pictures, {positives:,} {positive}",
    )
    return chart.say(_first(scores), f"AUC with 95 % interval: {of_each(rows, 'auc')}.")


def _first(scores: pd.DataFrame) -> str:
    row = scores.set_index("model").loc[style.best(scores)]
    if np.isnan(row["auc"]):
        return "Without both classes in the test pictures no model can be ranked."
    hollow = " Hollow markers started from random weights."
    return (
        f"{row.name} has the highest AUC of the networks, {ranged(row, 'auc')}; where intervals "
        "overlap, only the paired tests tell two models apart."
        + (hollow if (scores["initialisation"] == "random").any() else "")
    )


@style.figure
def pairwise(comparisons: pd.DataFrame) -> style.Chart:
    """Which models can be told apart: difference in AUC and adjusted p of each pair."""
    own = comparisons["family"] == "networks"
    comparisons = comparisons[own] if own.any() else comparisons
    models = list(dict.fromkeys([*comparisons["model_a"], *comparisons["model_b"]]))
    k = len(models)
    chart, ax = style.chart_of(min(8.0, 0.62 * k + 1.5))
    for row in comparisons.itertuples():
        x, y = models.index(row.model_a), models.index(row.model_b)
        apart = row.p_delong_holm < SIGNIFICANT
        colour = "#2C6DA4" if apart else "#E3E6EA"
        ax.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, lw=0))
        text = f"{row.difference:+.3f}\n{p_value(row.p_delong_holm)}"
        ax.text(
            x, y, text if k <= 10 else f"{row.difference:+.2f}", ha="center", va="center",
            size=min(9, 98 / k), color="white" if apart else style.INK,
        )  # fmt: skip
    ax.set(xlim=(-0.5, max(k - 1.5, 0.5)), ylim=(k - 0.5, 0.5))
    names = [style.short(m) if k > 8 else textwrap.fill(style.short(m), 12) for m in models[:-1]]
    ax.set_xticks(range(max(k - 1, 0)), names, rotation=90 if k > 8 else 0)
    ax.set_yticks(range(1, k), [style.short(m) for m in models[1:]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    tied = int((~(comparisons["p_delong_holm"] < SIGNIFICANT)).sum())
    ax.set_title(
        f"{tied} of {len(comparisons)} pairs cannot be told apart (grey)\n"
        "AUC of the column minus AUC of the row; p of DeLong's test after Holm"
    )
    numbers = [
        f"{row.model_a} minus {row.model_b} {row.difference:+.3f}, {p_value(row.p_delong_holm)}"
        for row in comparisons.itertuples()
    ]
    return chart.say(
        f"{tied} of {len(comparisons)} pairs of networks cannot be told apart by AUC on these "
        f"test pictures, whatever the third decimal says.{_asked_alone(comparisons)}",
        f"Grid of differences in AUC with p after Holm: {'; '.join(numbers) or 'no pairs'}.",
    )


def _asked_alone(comparisons: pd.DataFrame) -> str:
    """The pairs that are tied among all pairs, but not among those of the chosen network."""
    if "p_chosen_holm" not in comparisons:
        return ""
    told = comparisons["p_chosen_holm"] < SIGNIFICANT
    told &= ~(comparisons["p_delong_holm"] < SIGNIFICANT)
    pairs = [
        f"{row.model_a} and {row.model_b} ({p_value(row.p_chosen_holm)})"
        for row in comparisons[told].itertuples()
    ]
    if not pairs:
        return ""
    return f" Corrected for the pairs of the chosen network alone, {listed(pairs)} differ."


@style.figure
def subgroups(
    subgroups: pd.DataFrame,
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    positive: str = FRACTURED,
) -> style.Chart:
    """AUC, sensitivity and specificity of the chosen network (or the first that the table is
    about) on the whole (a line) and in each subgroup that is large enough, with counts.
    """
    known, model = list(subgroups["model"]), chosen(predictions, scores)
    model = known[0] if known and model not in known else model
    rows = subgroups[subgroups["model"] == model]
    rows = rows[~rows["value"].astype(str).isin(["", "nan"]) & rows["sensitivity"].notna()]
    rows = rows.reset_index(drop=True)
    chart, axes = style.chart_of(0.34 * max(len(rows), 1) + 1.5, 1, 3, sharey=True)
    look = style.appearance(model, [model])
    for ax, name in zip(axes.flat, ("auc", "sensitivity", "specificity"), strict=True):
        for place, row in rows.iterrows():
            style.interval(ax, row, name, place, look)
        for whole in rows.loc[rows["column"] == "all", name]:
            ax.axvline(whole, color=look["color"], linewidth=0.8, linestyle=":")
        for start in np.flatnonzero(rows["column"].ne(rows["column"].shift()))[1:]:
            ax.axhline(start - 0.5, color="#CCCCCC", linewidth=0.8)
        ax.set(xlim=(-0.02, 1.02), xlabel={"auc": "AUC"}.get(name, name) + ", 95 % interval")
    words = _words(rows)
    counts = zip(words, rows["positives"], rows["n"], strict=True)
    ticks = [f"{word}  ({found}/{n})" for word, found, n in counts]
    axes.flat[0].set_yticks(range(len(rows)), ticks)
    axes.flat[0].set_ylim(max(len(rows), 1) - 0.5, -0.5)
    chart.suptitle(
        f"{style.short(model)} by subgroup ({positive}/all test pictures; dotted: all)", size=11
    )
    return chart.say(*_weakest(rows, words, model, positive))


def _words(rows: pd.DataFrame) -> list[str]:
    """Subgroups as a reader says them."""
    said = []
    for column, group in rows.groupby("column", sort=False):
        name = str(column).replace("_", " ")
        words = [f"{name}: {style.short(word)}" for word in in_words(group["value"])]
        said += ["all pictures"] if column == ALL else words
    return said


def _weakest(rows: pd.DataFrame, words: list[str], model: str, positive: str) -> tuple[str, str]:
    if rows.empty:
        return "No subgroup holds enough pictures.", "An empty chart."
    numbers = [
        f"{word} ({row['positives']} of {row['n']} {positive}): AUC {ranged(row, 'auc')}, "
        f"sensitivity {ranged(row, 'sensitivity')}"
        for word, row in zip(words, rows.to_dict("records"), strict=True)
    ]
    parts = rows.index[rows["column"] != "all"]
    if parts.empty:
        return "The pictures name no subgroups that are large enough.", numbers[0] + "."
    place = int(rows.loc[parts, "sensitivity"].idxmin())
    row = rows.iloc[place]
    adjusted = rows.get("p_sensitivity_holm", pd.Series(np.nan, rows.index))
    differ = rows.loc[adjusted < SIGNIFICANT, "column"].unique()
    verdict = (
        f"Sensitivity differs between the values of {listed(differ)} beyond chance."
        if len(differ)
        else "No subgroup's sensitivity is shown to differ beyond chance."
    )
    return (
        f"{model} finds least where {words[place]}: {ranged(row, 'sensitivity')} of "
        f"{row['positives']} {positive} pictures. {verdict} What has fewer than {FEWEST} "
        "pictures of a class is left out.",
        f"AUC and sensitivity of {model} by subgroup: {'; '.join(numbers)}.",
    )
