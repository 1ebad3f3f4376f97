"""Figures of the training and the test results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from scipy import special
from sklearn.metrics import confusion_matrix
from statsmodels.stats.proportion import proportion_confint

from fracture_utils.config import NORMAL
from fracture_utils.evaluation import metrics
from fracture_utils.evaluation.intervals import SIGNIFICANCE
from fracture_utils.evaluation.predictions import compared, matrix
from fracture_utils.evaluation.results import Results
from fracture_utils.evaluation.sentences import FLAGS, estimate, p_value
from fracture_utils.plots import style

DASHED = {"color": style.FAINT, "linewidth": 1, "linestyle": "--", "zorder": 0}


@style.figure("Line charts: training and validation by epoch; dot: best epoch.", "history")
def history(table: Any, metric: str = "auc") -> style.Chart:
    """A panel per model: `metric` (auc or loss) by epoch; takes the history table or Results."""
    table = getattr(table, "history", table)
    models = list(table["model"].unique())
    chart, axes = style.panels(len(models), 2.1, across=3, sharey=True)
    for ax, model in zip(axes, models, strict=True):
        rows = table[table["model"] == model].reset_index(drop=True)
        epochs, color = rows.index + 1, style.look(model, models)["color"]
        best = rows["val_auc"].fillna(-1).idxmax()
        ax.plot(epochs, rows[metric], ":", color=color, marker="." if len(rows) == 1 else None)
        ax.plot(epochs, rows[f"val_{metric}"], color=color)
        ax.plot(epochs[best], rows.loc[best, f"val_{metric}"], "o", color=color)
        for start in np.flatnonzero(rows["stage"].ne(rows["stage"].shift()))[1:]:
            ax.axvline(start + 0.5, color=style.MUTED, linewidth=0.8, linestyle="--")
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        ax.set(title=style.short(model), xlabel="epoch")
    chart.supylabel({"auc": "AUC"}.get(metric, metric), size=10)
    title = "dotted: training, solid: validation, dot: best epoch, dashed: fine-tuning starts"
    chart.suptitle(title, size=9, weight="normal")
    return chart


@style.figure("Dot plot: Test AUC of each model with its 95 % CI.", "scores")
def ranking(results: Results) -> style.Chart:
    """The AUC of each model with its interval, the highest first, references last."""
    rows = results.scores.assign(last=results.scores["kind"] == "reference")
    rows = rows.sort_values(["last", "auc"], ascending=[True, False], kind="stable")
    n, positives, word = rows["n"].iloc[0], rows["positives"].iloc[0], style.positive(results)
    label = f"AUC, 95 % CI ({n:,} test images, {positives:,} {word}; dashed: chance)"
    chart, (ax,) = style.intervals(rows, {"auc": label}, rows["model"].map(style.short), results)
    for y, row in enumerate(rows.to_dict("records")):
        right = {"transform": ax.get_yaxis_transform(), "va": "center"}
        ax.text(1.02, y, estimate(row, "auc", ci=""), **right)
    ax.axvline(0.5, **DASHED)
    ax.set_title(f"{style.short(results.selected)} is the selected model")
    return chart


@style.figure("ROC curves: all test images; markers: chosen thresholds.", "scores")
def roc(results: Results) -> style.Chart:
    """Sensitivity against 1 - specificity of each model on the test images."""
    chart, ax = _trade_off(results, "auc", "AUC", lambda tp, fp, p, n: (fp / n, tp / p))
    ax.plot([0, 1], [0, 1], **DASHED)
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC curves")
    return chart


@style.figure("Precision-recall curves: all test images; markers: chosen thresholds.", "scores")
def precision_recall(results: Results) -> style.Chart:
    """Positive predictive value against sensitivity of each model on the test images."""
    metric, title = "average_precision", "Average precision"
    chart, ax = _trade_off(results, metric, title, lambda tp, fp, p, _: (tp / p, tp / (tp + fp)))
    ax.axhline(results.scores["positives"].iloc[0] / results.scores["n"].iloc[0], **DASHED)
    ax.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)")
    ax.set_title("Precision-recall curves (dashed: prevalence)")
    return chart


def _trade_off(
    results: Results, metric: str, title: str, rates: Callable
) -> tuple[style.Chart, Axes]:
    """A curve per model; `rates` takes true and false positives and the sizes of both classes."""
    data, scores = matrix(results.predictions, "test"), results.scores.set_index("model")
    totals, lines, labels = (data.labels.sum(), (1 - data.labels).sum()), [], {}
    chart, ax = style.subplots(max(4.8, 0.36 * len(scores) + 1.2))
    with np.errstate(divide="ignore", invalid="ignore"):
        for model in scores.loc[data.models].sort_values(metric, ascending=False).index:
            k = data.models.index(model)
            counts = metrics.curve(data.labels, data.logits[:, k], np.ones((len(data.labels), 1)))
            x, y = rates(*(np.append(0, count) for count in counts), *totals)
            lines.append(pd.DataFrame({"model": model, "x": x, "y": y}))
            tp, fp = (np.sum(data.decisions[:, k] & (data.labels == label)) for label in (1, 0))
            look = style.look(model, data.models) | {"linestyle": "", "zorder": 4}
            look["markersize"] = 10 if model == results.selected else 6
            ax.plot(*rates(tp, fp, *totals), **look)
            labels[model] = f"{style.short(model)}\n{estimate(scores.loc[model], metric, ci='')}"
    style.curves(ax, pd.concat(lines), "x", "y", results.selected, labels)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(title=f"{title} (95 % CI)", **style.RIGHT)
    return chart, ax


@style.figure("Confusion matrices: counts and row shares at the chosen thresholds.", "scores")
def confusion_matrices(results: Results) -> style.Chart:
    """A matrix per model except references, the share of its row in color."""
    data, names = compared(results.predictions), [style.positive(results), NORMAL]
    points = results.operating_points.set_index("model")
    chart, axes = style.panels(len(data.models), 2.1)
    for k, (ax, model) in enumerate(zip(axes, data.models, strict=True)):
        counts = confusion_matrix(data.labels, data.decisions[:, k], labels=[1, 0])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        texts = np.vectorize("{:,}\n{:.0f} %".format)(counts, 100 * shares)
        sns.heatmap(
            shares, annot=texts, fmt="", cmap="Blues", vmin=0, vmax=1, cbar=False,
            xticklabels=names, yticklabels=names if k % 4 == 0 else False, ax=ax,
        )  # fmt: skip
        title = f"{style.short(model, 18)}\nthreshold {points['threshold'][model]:.2f}"
        ax.set_title(title, size=8.5, weight="bold" if model == results.selected else "normal")
        ax.tick_params(length=0, rotation=0)
        ax.set(xlabel="decision", ylabel="" if k % 4 else "label")
    return chart


@style.figure("Matrix: differences in AUC, with p of DeLong's test.", "comparisons")
def comparisons(results: Results) -> style.Chart:
    """AUC of the row minus AUC of the column with p after Holm's correction over all pairs and, in
    brackets, over the pairs of the selected model; significant pairs in color.
    """
    pairs = results.comparisons[results.comparisons["family"] == "networks"]
    pairs = pairs if len(pairs) else results.comparisons
    models = list(dict.fromkeys([*pairs["model_a"], *pairs["model_b"]]))
    names, size = [style.short(model) for model in models], len(models) - 1
    significant, texts = np.full((size, size), np.nan), np.full((size, size), "", object)
    for row in pairs.itertuples():
        own = "" if np.isnan(row.p_selected_holm) else f" ({row.p_selected_holm:.2g})"
        cell = models.index(row.model_a), models.index(row.model_b) - 1
        significant[cell] = np.nanmin([row.p_delong_holm, row.p_selected_holm, 1]) < SIGNIFICANCE
        texts[cell] = f"{row.difference:+.3f}\n{p_value(row.p_delong_holm)}{own}"
    chart, ax = style.subplots(0.5 * size + 1.7)
    sns.heatmap(
        significant, annot=texts, fmt="", cmap=["#E9EDF1", "#8EC1E6"], vmin=0, vmax=1, cbar=False,
        linewidths=2, annot_kws={"size": min(9, 50 / size), "color": style.INK}, ax=ax,
        xticklabels=names[1:], yticklabels=names[:-1],
    )  # fmt: skip
    ax.tick_params(length=0, rotation=0)
    ax.tick_params("x", rotation=90 if size > 6 else 0)
    ax.set_xlabel(
        "row minus column; p after Holm over all pairs (over those of the selected model)"
    )
    ax.set_title(f"{np.nansum(significant):.0f} of {len(pairs)} pairs differ significantly (blue)")
    return chart


@style.figure("Reliability diagram: share of positives against the probability.", "scores")
def reliability(results: Results) -> style.Chart:
    """The selected model in ten bins with 95 % intervals and counts, before and after scaling."""
    data, model, word = compared(results.predictions), results.selected, style.positive(results)
    k, color = data.models.index(model), style.look(model, data.models)["color"]
    chart, (ax, below) = style.subplots(4.8, 2, 1, sharex=True, height_ratios=(4, 1))
    raw, scaled = special.expit(data.logits[:, k]), data.probabilities[:, k]
    before = {"label": "before calibration", "color": style.MUTED, "linestyle": ":"}
    after = {"label": "after calibration, 95 % CI", "color": color, "marker": "o"}
    for values, options in ((raw, before), (scaled, after)):
        bins = [inside for inside in metrics.calibration_bins(values) if inside.any()]
        x = [values[inside].mean() for inside in bins]
        hits, counts = (np.array([f(data.labels[inside]) for inside in bins]) for f in (sum, len))
        ax.plot(x, hits / counts, **options)
    ax.vlines(x, *proportion_confint(hits, counts, method="beta"), color, alpha=0.4, linewidth=4)
    ax.plot([0, 1], [0, 1], **DASHED)
    ax.legend(loc="upper left")
    ax.set(ylabel=f"share {word}", title=f"Calibration of {style.short(model)} on the test images")
    below.hist(scaled, np.linspace(0, 1, 11), color=color, alpha=0.6, rwidth=0.9)
    below.bar_label(below.containers[0], fmt="{:,.0f}", size=7.5)
    below.set(xlabel=f"probability of {word}", ylabel="images", yticks=[], xlim=(-0.02, 1.02))
    below.margins(y=0.35)
    return chart


@style.figure("Decision curves: net benefit against the threshold.", "decision_curve")
def decision_curve(results: Results) -> style.Chart:
    """Net benefit of each model, of acting on all images and on none; 95 % band of the selected."""
    table, (chart, ax) = results.decision_curve, style.subplots(4.2)
    style.curves(ax, table, "threshold", "net_benefit", results.selected)
    own = table[table["model"] == results.selected]
    ax.plot(own["threshold"], own["treat_all"], "--", color=style.INK, label="act on all")
    ax.axhline(0, color=style.MUTED, linewidth=1, label="act on none")
    ax.legend(**style.RIGHT)
    top = max(table["net_benefit"].max(), 0.01)
    ax.set(xlim=(0, 1), ylim=(-0.25 * top, 1.15 * top), title="Decision curves")
    ax.set(xlabel="threshold probability", ylabel="net benefit per image")
    return chart


@style.figure("Dot plots: the selected model by subgroup; dotted: all images.", "subgroups")
def subgroups(results: Results) -> style.Chart:
    """AUC, sensitivity and specificity of the selected model in subgroups with enough images."""
    rows = results.subgroups[results.subgroups["model"] == results.selected]
    rows, labels = rows[rows["sensitivity"].notna() | (rows["column"] == "all")], []
    for row in rows.itertuples():
        name = f"{row.column}: {FLAGS.get(row.value, row.value)}".replace("_", " ")
        name = "all images" if row.column == "all" else style.short(name)
        labels.append(f"{name} ({row.positives}/{row.n})")
    names = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
    chart, axes = style.intervals(rows, names, labels, results)
    for ax, name in zip(axes, names, strict=True):
        ax.axvline(rows[name].iloc[0], color=style.INK, linewidth=0.8, linestyle=":")
        ax.set_xlim(None, 1.03)
    word = style.positive(results)
    chart.suptitle(f"{style.short(results.selected)} by subgroup ({word}/all test images)")
    return chart
