"""The look of every figure: palette, fonts, the note below it, and the PNG files."""

import base64
import functools
import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from fracture_utils import artifacts
from fracture_utils.config import BACKBONES, FRACTURED, NORMAL, Config
from fracture_utils.evaluation import sentences
from fracture_utils.evaluation.results import Results

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""For models, in the order of BACKBONES: Okabe and Ito's, safe for color-blind readers."""
MARKERS = "os^DvPh<>pd"
FIXED = {"Ensemble": ("#222222", "*"), "Majority class": ("#888888", "d"),
         "Metadata only": ("#888888", "X")}  # fmt: skip
CLASS_COLORS = {NORMAL: "#9DB4C8", FRACTURED: "#8C2D5E"}
WRONG, INK, MUTED, FAINT = "#B2182B", "#222222", "#8A8F98", "#CCCCCC"
WIDTH, DPI = 8.0, 130
"""Inches and dots per inch; pages show a figure 800 pixels wide."""
RC = {"text.parse_math": False, "font.size": 10, "legend.frameon": False, "legend.fontsize": 8.5,
      "axes.titlesize": 11, "axes.titleweight": "bold", "figure.titlesize": 11,
      "figure.titleweight": "bold", "axes.edgecolor": MUTED, "axes.spines.top": False,
      "axes.spines.right": False}  # fmt: skip
RIGHT = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.02)}
"""A legend to the right of the Axes."""
output = SimpleNamespace(folder=None, run={}, drawn={})
"""The folder of the figures, the run of those without Results, and those written, by name."""
of_tables: dict[Callable[..., "Chart"], str] = {}
"""The figures that need no images, and the table of Results that each needs."""


class Chart(Figure):
    """A figure outside pyplot, with a caption; Jupyter shows it 800 pixels wide."""

    caption, png = "", b""

    def _repr_mimebundle_(self, **_: object) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.caption}
        return data, {"image/png": {"width": int(100 * WIDTH), "alt": self.caption}}


def save_to(folder: Path | None, config: Config | None = None) -> None:
    """From now on, write each figure into `folder` (None: nowhere); figures without Results take
    source and positive class from `config`.
    """
    output.run = {"source": config.source, "positive": config.positive} if config else {}
    output.folder, output.drawn = folder, {}


def positive(subject: object) -> str:
    """The word for the positive class."""
    return _run(subject).get("positive", FRACTURED)


def _run(subject: object) -> dict[str, Any]:
    return subject.run if isinstance(subject, Results) else output.run


def figure(caption: str, table: str = "") -> Callable[[Callable], Callable[..., Chart]]:
    """Decorate a function that draws a figure: apply the style, add the note, write the PNG."""

    def decorate(draw: Callable) -> Callable[..., Chart]:
        @functools.wraps(draw)
        def styled(subject: Any, *arguments: object, **keywords: object) -> Chart:
            note = textwrap.fill(sentences.note(_run(subject)), 130)
            with mpl.rc_context(RC):
                if table and len(getattr(subject, table, "full")) == 0:
                    chart, ax = subplots(1.2)
                    ax.set(title=f"No figure: the table {table} is empty")
                    ax.set_axis_off()
                else:
                    chart = draw(subject, *arguments, **keywords)
                chart.supxlabel(note, x=0.01, ha="left", size=7.5, color=MUTED)
                chart.savefig(buffer := io.BytesIO(), format="png", dpi=DPI)
            image = Image.open(buffer).convert("RGB")
            image = image.quantize(256, Image.Quantize.MAXCOVERAGE)  # a quarter of the size
            image.save(buffer := io.BytesIO(), "PNG", optimize=True)
            chart.caption, chart.png = caption, buffer.getvalue()
            if output.folder:
                with artifacts.replacing(output.folder / f"{draw.__name__}.png") as temporary:
                    temporary.write_bytes(chart.png)
                output.drawn[draw.__name__] = chart
            return chart

        if table:
            of_tables[styled] = table
        return styled

    return decorate


def subplots(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Chart, Any]:
    """An empty figure `height` inches high and its Axes, or an array of them."""
    chart = Chart(figsize=(WIDTH, height), layout="constrained")
    return chart, chart.subplots(rows, columns, **options)


def panels(count: int, height: float, across: int = 4, **options: Any) -> tuple[Chart, np.ndarray]:
    """A figure of `count` panels, `across` in a row, and their Axes (count,)."""
    rows = -(-max(count, 1) // across)
    chart, axes = subplots(height * rows + 0.3, rows, across, squeeze=False, **options)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return chart, axes.flat[:count]


def look(model: str, models: Iterable[str] = ()) -> dict[str, str]:
    """Color and marker of a model, the same in every figure; unknown names by their order."""
    if model in FIXED:
        return dict(zip(("color", "marker"), FIXED[model], strict=True))
    names = [*BACKBONES, *sorted(set(models) - {*BACKBONES, *FIXED})]
    k = names.index(model) if model in names else 0
    return {"color": PALETTE[k % len(PALETTE)], "marker": MARKERS[k % len(MARKERS)]}


def short(text: object, longest: int = 24) -> str:
    """The text, shortened in the middle if it is long."""
    text, half = " ".join(str(text).split()), (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def intervals(
    table: pd.DataFrame, names: Mapping, results: Results, rows: Sequence = (), texts: Sequence = ()
) -> tuple[Chart, np.ndarray]:
    """A panel per estimate (its name: label) with a 95 % interval for each row of a table, labeled
    by `rows` or its model, and `texts` on the right; the selected model in bold.
    """
    rows = rows or table["model"].map(short)
    height = 0.33 * len(table) + 1.5
    chart, axes = subplots(height, 1, len(names), sharey=True, squeeze=False)
    for ax, (name, label) in zip(axes[0], names.items(), strict=True):
        for y, row in enumerate(table.to_dict("records")):
            bold = row["model"] == results.selected
            own = look(row["model"], results.scores["model"])
            ends = [row[f"{name}_low"], row[f"{name}_high"]]
            ax.plot(ends, [y, y], color=own["color"], linewidth=3 if bold else 1.5)
            ax.plot(row[name], y, markersize=9 if bold else 6, linestyle="", clip_on=False, **own)
        ax.set(xlabel=label, ylim=(len(table) - 0.5, -0.7))
    axes[0, 0].set_yticks(range(len(table)), rows)
    for y, text in enumerate(texts):
        ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center")
    return chart, axes[0]


def curves(ax: Axes, table: pd.DataFrame, x: str, y: str, results: Results) -> None:
    """A line per model of a table, the highest AUC first; the selected one bold, with a band."""
    ranked = results.scores.sort_values("auc", ascending=False)["model"]
    for model in ranked[ranked.isin(table["model"])]:
        rows, bold = table[table["model"] == model], model == results.selected
        color = look(model, ranked)["color"]
        options = {"linewidth": 2.6, "zorder": 3} if bold else {"linewidth": 1.1, "alpha": 0.8}
        ax.plot(rows[x], rows[y], color=color, label=short(model), **options)
        if bold and f"{y}_low" in rows:
            ax.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=color, alpha=0.15)
