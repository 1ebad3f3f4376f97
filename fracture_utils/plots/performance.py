"""Figures of the split, of the training and of the test results."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from sklearn.metrics import confusion_matrix

from fracture_utils.config import FRACTURED, NORMAL, OUT_OF_FOLD, SPLITS
from fracture_utils.evaluation import comparison, metrics
from fracture_utils.evaluation.intervals import PERCENTILES, SIGNIFICANCE, resample, wilson
from fracture_utils.evaluation.predictions import compared, matrix
from fracture_utils.evaluation.results import Results
from fracture_utils.evaluation.sentences import FLAGS, estimate, p_value
from fracture_utils.plots import style

DASHED = {"color": style.FAINT, "linewidth": 1, "linestyle": "--", "zorder": 0}
BAND, FEWEST = 500, 5
"""Resamples of a confidence band; smallest number of images in a bin with an interval."""


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


@style.figure("Line charts: AUC by epoch; dot: epoch whose weights are used.", "history")
def history(table: Any) -> style.Chart:
    """A panel per model: AUC by epoch; takes the history table or Results. The dot marks the last
    epoch of the head, which is kept unless fine-tuning reaches a higher validation AUC.
    """
    table = getattr(table, "history", table)
    models = list(table["model"].unique())
    chart, axes = style.panels(len(models), 2.1, across=3, sharey=True)
    for ax, model in zip(axes, models, strict=True):
        rows = table[table["model"] == model].reset_index(drop=True)
        epochs, color = rows.index + 1, style.look(model, models)["color"]
        head = (rows["stage"] == "head").sum()
        kept = rows["val_auc"][max(head - 1, 0) :].fillna(-1).idxmax()
        place, text = (epochs[kept], rows["val_auc"][kept]), f"{rows['val_auc'][kept]:.3f}"
        ax.plot(epochs, rows["auc"], ".:", color=color)
        ax.plot(epochs, rows["val_auc"], color=color)
        ax.plot(*place, "o", color=color)
        ax.annotate(text, place, (0, 5), textcoords="offset points", ha="center", size=9)
        ax.margins(y=0.2)
        if head < len(rows):
            ax.axvline(head + 0.5, color=style.MUTED, linewidth=0.8, linestyle="--")
        ax.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        ax.set(title=style.short(model), xlabel="epoch")
    chart.supylabel("AUC", size=10)
    title = "dotted: training, solid: validation, dashed: fine-tuning starts"
    chart.suptitle(title, size=9, weight="normal")
    return chart


@style.figure("Dot plot: test AUC of each model with its 95 % CI.", "scores")
def ranking(results: Results) -> style.Chart:
    """The AUC of each model with its interval, the highest first."""
    rows = results.scores.sort_values("auc", ascending=False, kind="stable")
    n, positives, word = rows["n"].iloc[0], rows["positives"].iloc[0], style.positive(results)
    label = f"AUC, 95 % CI ({n:,} test images, {positives:,} {word}; dashed: chance)"
    texts = [estimate(row, "auc", ci="") for row in rows.to_dict("records")]
    chart, (ax,) = style.intervals(rows, {"auc": label}, results, texts=texts)
    ax.axvline(0.5, **DASHED)
    ax.set_title(f"{style.short(results.selected)} is the selected model")
    return chart


@style.figure("ROC curves; markers: chosen thresholds; band: selected model, 95 % CI.", "scores")
def roc(results: Results) -> style.Chart:
    """Sensitivity against 1 - specificity of each model on the test images."""
    chart, ax = _trade_off(results, "auc", "AUC", lambda tp, fp, p, n: (fp / n, tp / p))
    ax.plot([0, 1], [0, 1], **DASHED)
    ax.set(xlabel="1 − specificity", ylabel="sensitivity", title="ROC curves")
    return chart


@style.figure("Precision-recall curves; markers: chosen thresholds; band: 95 % CI.", "scores")
def precision_recall(results: Results) -> style.Chart:
    """Positive predictive value against sensitivity of each model on the test images."""
    metric, title = "average_precision", "Average precision"
    chart, ax = _trade_off(results, metric, title, lambda tp, fp, p, _: (tp / p, tp / (tp + fp)))
    ax.axhline(results.scores["positives"].iloc[0] / results.scores["n"].iloc[0], **DASHED)
    ax.set(xlabel="sensitivity (recall)", ylabel="PPV (precision)")
    ax.set_title("Precision-recall curves (dashed: prevalence)")
    return chart


def _trade_off(results: Results, metric: str, title: str, rates: Callable) -> tuple:
    """A curve per model, the best first; `rates` takes true and false positives and the sizes of
    both classes. The band of the selected model is pointwise, by a bootstrap of groups.
    """
    data, scores = matrix(results.predictions, "test"), results.scores.set_index("model")
    labels, lines, points = data.labels, [], []
    chart, ax = style.subplots(max(4.8, 0.36 * len(scores) + 1.2))
    for model in scores.loc[data.models].sort_values(metric, ascending=False).index:
        k, weights = data.models.index(model), np.ones((len(labels), 1))
        look, bold = style.look(model, scores.index) | {"zorder": 4}, model == results.selected
        if bold:
            look |= {"markersize": 11, "linewidth": 2.6, "zorder": 5, "markeredgecolor": "white"}
        if bold and np.isfinite(scores.loc[model, f"{metric}_low"]):
            draws = resample(labels, data.groups, BAND, results.run["seed"], stratified=False)
            draws = np.hstack([*draws])
            both = draws[labels == 1].any(axis=0) & draws[labels == 0].any(axis=0)
            weights = np.hstack([weights, draws[:, both]])
        counts = metrics.roc_counts(labels, data.logits[:, k], weights)
        true, false = (np.pad(count, ((1, 0), (0, 0))) for count in counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            across, up = (of.T for of in rates(true, false, true[-1], false[-1]))
            tp, fp = (np.sum(data.decisions[:, k] & (labels == label)) for label in (1, 0))
            point = rates(tp, fp, true[-1, 0], false[-1, 0])
        lines.append(pd.DataFrame({"model": model, "x": across[0], "y": up[0]}))
        if weights.shape[1] > 1:
            band = [*map(np.interp, [across[0]] * len(up), across, np.nan_to_num(up, nan=1))][1:]
            lines[-1][["y_low", "y_high"]] = np.percentile(band, PERCENTILES, axis=0).T
        label = f"{style.short(model)}\n{estimate(scores.loc[model], metric, ci='')}"
        points += ax.plot(*point, label=label, **look)
    style.curves(ax, pd.concat(lines), "x", "y", results)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(handles=points, title=f"{title} (95 % CI)", **style.RIGHT)
    return chart, ax


@style.figure("Confusion matrices: counts and row percentages at the chosen thresholds.", "scores")
def confusion_matrices(results: Results) -> style.Chart:
    """A matrix per network, row percentages in color."""
    networks, names = results.predictions["kind"] == "network", [style.positive(results), NORMAL]
    data = compared(results.predictions[networks | ~networks.any()])
    thresholds = results.operating_points.set_index("model")["threshold"]
    chart, axes = style.panels(len(data.models), 1.75, across=3)
    colors = {"cmap": "Blues", "vmin": 0, "vmax": 1, "cbar": False}
    for ax, model, decisions in zip(axes, data.models, data.decisions.T, strict=True):
        counts = confusion_matrix(data.labels, decisions, labels=[1, 0])
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        texts = np.vectorize("{:,}\n{:.0f} %".format)(counts, 100 * shares)
        ticks = {"xticklabels": names, "yticklabels": names}
        sns.heatmap(shares, annot=texts, fmt="", ax=ax, **ticks, **colors)
        title = f"{style.short(model)}\nthreshold {thresholds[model]:.2f}"
        ax.set_title(title, size=9, weight="bold" if model == results.selected else "normal")
        ax.tick_params(length=0, rotation=0)
        ax.set(xlabel="predicted", ylabel="actual")
    return chart


@style.figure("Dot plot: differences in AUC from the selected model, 95 % CI.", "comparisons")
def comparisons(results: Results) -> style.Chart:
    """AUC of the selected model minus that of each other one, out of fold and on the test images,
    with intervals and the p values of the test.
    """
    rows = comparison.against(results.comparisons, results.selected)
    others = comparison.against(results.comparisons, results.selected, OUT_OF_FOLD)
    rows = rows.join(others.filter(like="lead").rename(columns=lambda name: f"folds_{name}"))
    rows = rows.rename_axis("model").sort_values("lead").reset_index()
    selected, significant = style.short(results.selected), (rows["p"] < SIGNIFICANCE).sum()
    names = {"lead": "test images (p: DeLong, Holm)"}
    if len(others):
        names = {"folds_lead": "out of fold (mean of the folds)"} | names
    texts = [f"{lead:+.3f}, {p_value(p)}" for lead, p in zip(rows["lead"], rows["p"], strict=True)]
    chart, axes = style.intervals(rows, names, results, texts=texts)
    for ax in axes:
        ax.axvline(0, **DASHED)
    title = f"AUC of {selected} minus that of each other model, unadjusted 95 % CI"
    chart.suptitle(f"{title}\n{significant} of {len(rows)} test differences are significant")
    return chart


@style.figure("Reliability diagram: observed frequency against predicted probability.", "scores")
def reliability(results: Results) -> style.Chart:
    """Observed frequency in ten bins of the probability of the selected model, with numbers of
    images and, for FEWEST or more, Wilson's intervals by group.
    """
    data, model, word = compared(results.predictions), results.selected, style.positive(results)
    k, score = data.models.index(model), results.scores.set_index("model").loc[model]
    probability = data.probabilities[:, k]
    bins = [inside for inside in metrics.calibration_bins(probability) if inside.any()]
    x = np.array([probability[inside].mean() for inside in bins])
    rates = [wilson(data.labels[inside] == 1, data.groups[inside]) for inside in bins]
    counts, (y, low, high) = np.sum(bins, axis=1), np.transpose(rates)
    (chart, ax), many = style.subplots(4.8), counts >= FEWEST
    color = style.look(model, results.scores["model"])["color"]
    margins = np.maximum([y - low, high - y], 0)
    ax.plot(x, y, "o", color=color, markerfacecolor="white")
    ax.errorbar(x[many], y[many], margins[:, many], color=color, fmt="o", capsize=3)
    for place in zip(x, y, counts, strict=True):
        ax.annotate(f" {place[2]:,}", place[:2], size=7.5, va="bottom")
    ax.plot([0, 1], [0, 1], **DASHED)
    ratio, slope = (estimate(score, c, 2) for c in ("observed_expected", "calibration_slope"))
    ax.set_title(f"Calibration of {style.short(model)}\nO/E {ratio}, slope {slope}", size=10)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel=f"observed frequency ({word}), 95 % CI")
    ax.set_xlabel(f"mean predicted probability ({word}); numbers: images (hollow: below {FEWEST})")
    return chart


@style.figure("Decision curves: net benefit by threshold; band: 95 % CI.", "decision_curve")
def decision_curve(results: Results) -> style.Chart:
    """Net benefit of each model, of treating all and none; 95 % band of the selected model."""
    table, (chart, ax) = results.decision_curve, style.subplots(4.2)
    style.curves(ax, table, "threshold", "net_benefit", results)
    own = table[table["model"] == results.selected]
    ax.plot(own["threshold"], own["treat_all"], "--", color=style.INK, label="treat all")
    ax.axhline(0, color=style.MUTED, linewidth=1, label="treat none")
    ax.legend(**style.RIGHT)
    top = max(table["net_benefit"].max(), 0.01)
    ax.set(xlim=(0, 0.5), ylim=(-0.25 * top, 1.15 * top), title="Decision curves")
    ax.set(xlabel="threshold probability", ylabel="net benefit per image")
    return chart


@style.figure("Dot plots: the selected model by subgroup; dotted line: all images.", "subgroups")
def subgroups(results: Results) -> style.Chart:
    """AUC, sensitivity and specificity of the selected model in subgroups with enough images."""
    rows = results.subgroups[results.subgroups["model"] == results.selected]
    rows, labels = rows[rows["sensitivity"].notna() | (rows["column"] == "all")], []
    for row in rows.itertuples():
        value = FLAGS.get((row.column, row.value), row.value)
        name = f"{row.column}: {value}".replace("_", " ")
        name = "all images" if row.column == "all" else style.short(name)
        labels.append(f"{name} ({row.positives}/{row.n})")
    names = {"auc": "AUC", "sensitivity": "sensitivity", "specificity": "specificity"}
    chart, axes = style.intervals(rows, names, results, labels)
    for ax, name in zip(axes, names, strict=True):
        ax.axvline(rows[name].iloc[0], color=style.INK, linewidth=0.8, linestyle=":")
    word = style.positive(results)
    chart.suptitle(f"{style.short(results.selected)} by subgroup ({word}/all test images)")
    return chart
