"""Figures of the pictures before anything is trained."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from fracture_utils.config import CLASS_NAMES, SPLITS
from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.wording import listed

SEVERITY_COLOURS = {"red": "#B2182B", "amber": "#E69F00", "info": "#9DB4C8"}


@style.figure
def class_distribution(images: pd.DataFrame, positive: str = FRACTURED) -> style.Chart:
    """How many pictures of each class each split holds."""
    counts = pd.crosstab(images["split"], images["label"])
    counts = counts.reindex(
        index=[s for s in SPLITS if s in counts.index], columns=list(CLASS_NAMES), fill_value=0
    )
    chart, ax = style.chart_of(4)
    for place, name in enumerate(CLASS_NAMES):
        word = positive if name == FRACTURED else name
        bars = ax.bar(
            np.arange(len(counts)) + 0.36 * (place - 0.5), counts[name], 0.34, label=word,
            color=style.CLASS_COLOURS[name],
        )  # fmt: skip
        ax.bar_label(bars, fmt="{:,.0f}", padding=2)
    shares = (100 * counts[FRACTURED] / counts.sum(axis=1)).round()
    ticks = [f"{split}\n{share:.0f} % {positive}" for split, share in shares.items()]
    ax.set_xticks(range(len(counts)), ticks)
    ax.set(ylabel="pictures", title=f"{len(images):,} pictures by split and class")
    ax.margins(y=0.12)
    ax.legend(loc="upper right", bbox_to_anchor=(1, 1.14), ncols=2)
    low, high = shares.min(), shares.max()
    share = f"{low:.0f} %" if low == high else f"{low:.0f} to {high:.0f} %"
    numbers = [
        f"{split} {row[CLASS_NAMES[0]]:,} {CLASS_NAMES[0]} and {row[FRACTURED]:,} {positive}"
        for split, row in counts.iterrows()
    ]
    return chart.say(
        f"{share} of the pictures of each split are {positive}.",
        f"Bar chart of pictures by split and class: {'; '.join(numbers)}.",
    )


@style.figure
def audit(audit: pd.DataFrame) -> style.Chart:
    """How many findings each check of the data made, the severe first."""
    order = [name for name in SEVERITY_COLOURS if name in set(audit["severity"])]
    counts = audit.groupby(["severity", "check"]).size().rename("count").reset_index()
    counts["rank"] = counts["severity"].map(order.index) if len(counts) else 0
    counts = counts.sort_values(["rank", "count"], ascending=[True, False], ignore_index=True)
    chart, ax = style.chart_of(0.32 * max(len(counts), 2) + 1.2)
    for severity in order:
        rows = counts[counts["severity"] == severity]
        bars = ax.barh(
            rows.index, rows["count"], 0.7, color=SEVERITY_COLOURS[severity], label=severity
        )
        ax.bar_label(bars, fmt="{:,.0f}", padding=3)
    checks = [check.replace("_", " ") for check in counts["check"]]
    ax.set_yticks(range(len(counts)), [style.short(check, 40) for check in checks])
    ax.set_ylim(max(len(counts), 1) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    title = "What the data audit found" if len(counts) else "The data audit found nothing"
    ax.set(xlabel="findings", title=title)
    if order:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02))
    return chart.say(_gravest(audit), f"Bar chart of findings by check: {_each(counts, checks)}.")


def _gravest(findings: pd.DataFrame) -> str:
    if findings.empty:
        return "The audit of the data found nothing."
    red = findings[findings["severity"] == "red"]
    if red.empty:
        return "The audit found nothing grave (red); what is amber deserves a look."
    checks = [check.replace("_", " ") for check in red["check"].unique()]
    return f"The audit found {len(red):,} grave findings (red): {listed(checks)}."


def _each(counts: pd.DataFrame, checks: Sequence[str]) -> str:
    found = zip(counts["severity"], checks, counts["count"], strict=True)
    return "; ".join(f"{severity} {check} {count:,}" for severity, check, count in found) or "none"


@style.figure
def augmentation(picture: np.ndarray, views: Sequence[np.ndarray]) -> style.Chart:
    """One X-ray, uint8 (height, width), and what training sees of it."""
    chart, axes = style.panels(len(views) + 1, 2.2)
    for place, (ax, view) in enumerate(zip(axes.flat, [picture, *views], strict=False)):
        style.xray(ax, view)
        ax.set_title(f"view {place}" if place else "as it is", size=9)
    return chart.say(
        f"A training picture as it is, and {len(views)} views of it as training sees them: "
        "the changes are those between two exposures of one bone.",
        f"X-ray, and {len(views)} slightly turned, shifted, scaled or brightened copies of it.",
    )
