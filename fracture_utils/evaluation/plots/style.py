"""How every figure looks: colours, markers, panels, and the words on them."""

import base64
import functools
import io
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fracture_utils.evaluation.predictions import FRACTURED, NORMAL, single
from fracture_utils.networks import REGISTRY

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of networks, by their place in the registry: Okabe and Ito's, safe for colour-blind readers."""
MARKERS = "os^DvPh<>pd8"
STYLE_OF = {
    "Ensemble": ("#222222", "*"),
    "Selected ensemble": ("#666666", "X"),
    "Majority class": ("#888888", "d"),
    "Metadata only": ("#888888", "x"),
}
"""Colour and marker of what is no network."""
CLASS_COLOURS = {NORMAL: "#9DB4C8", FRACTURED: "#8C2D5E"}
WRONG, INK, MUTED, FAINT = "#B2182B", "#222222", "#8A8F98", "#BBBBBB"
WIDTH = 8.0
"""Inches; a figure is drawn at 200 dots an inch and shown 800 pixels wide."""
RESOLUTION = 200
APART = 0.055
"""Smallest distance between the numbers on curves, as a share of an axis."""
TEXT: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}


class Chart(Figure):
    """A figure that pyplot does not know: Jupyter shows it once, at 800 pixels, with its
    alternative text, whichever backend is set.
    """

    caption = ""
    """What the figure finds and how to read it: stands below it."""
    alternative = ""
    """What a reader who cannot see the figure must know: kind of picture, and its numbers."""
    place = 0
    written = b""
    """The PNG as the album wrote it, to be shown as long as nothing is drawn over it (`stale`)."""

    def say(self, caption: str, alternative: str) -> "Chart":
        """Set the caption and the alternative text, and return the figure."""
        self.caption, self.alternative = " ".join(caption.split()), " ".join(alternative.split())
        return self

    def png(self) -> bytes:
        """The bytes of a PNG file that carries the texts and the place in the album.

        256 colours make the file a third as large; where there are pictures they are dithered, so
        that heat maps show no bands.
        """
        buffer, known, usual, dpi = io.BytesIO(), PngInfo(), self.canvas, self.dpi
        canvas, self.dpi = FigureCanvasAgg(self), RESOLUTION
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            canvas.draw()  # savefig draws everything twice, and compresses what is taken apart here
        self.dpi = dpi
        self.set_canvas(usual)  # or the figure would hold its pixels
        known.add_itxt("Description", self.caption)
        known.add_itxt("Alternative", self.alternative)
        known.add_text("Place", str(self.place))
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        palette = image.quantize(256)
        has_pictures = any(ax.images for ax in self.axes)
        image = image.quantize(palette=palette) if has_pictures else palette  # dithered, or not
        image.save(buffer, "PNG", optimize=True, dpi=(RESOLUTION, RESOLUTION), pnginfo=known)
        return buffer.getvalue()

    def svg(self) -> str:
        """The figure as lines and words instead of pixels, without a background; empty where there
        are pictures in it.
        """
        if any(ax.images for ax in self.axes):
            return ""
        drawn = io.StringIO()
        words: Any = {"svg.fonttype": "none", "svg.hashsalt": "figure"}
        with mpl.rc_context(words), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
        return drawn.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        shown = self.png() if self.stale or not self.written else self.written
        png = base64.b64encode(shown).decode()
        about = {"image/png": {"width": int(WIDTH * 100), "alt": self.alternative}}
        display({"image/png": png, "text/plain": self.caption}, metadata=about, raw=True)


def figure(draw: Callable[..., Chart]) -> Callable[..., Chart]:
    """Give a function that draws a figure the fonts and lines that all of them share."""

    @functools.wraps(draw)
    def styled(*arguments: object, **keywords: object) -> Chart:
        with mpl.rc_context(TEXT):
            return draw(*arguments, **keywords)

    return styled


def appearance(model: str, models: Iterable[str]) -> dict[str, Any]:
    """Colour and marker of a model: fixed for known names, another's by its place among the unknown
    ones of `models`.
    """
    if model in STYLE_OF:
        colour, marker = STYLE_OF[model]
        return {"color": colour, "marker": marker}
    known = list(REGISTRY)
    unknown = sorted(set(models) - {*known, *STYLE_OF})
    place = [*known, *unknown].index(model)
    marker = MARKERS[(place + place // len(MARKERS)) % len(MARKERS)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": marker}


def best(scores: pd.DataFrame) -> str:
    """The network with the highest AUC, which the figures put forward (the first of equals)."""
    return single(scores)["model"].iloc[0]


def chart_of(height: float, rows: int = 1, columns: int = 1, **keywords) -> tuple[Chart, Any]:
    """An empty figure `height` inches high, and its Axes, or an array of them where several."""
    chart = Chart(figsize=(WIDTH, height), dpi=100, layout="constrained")
    return chart, chart.subplots(rows, columns, **keywords)


def panels(count: int, height: float, across: int = 4) -> tuple[Chart, np.ndarray]:
    """Up to `across` panels a row, each `height` inches; the unused ones are blank."""
    rows, columns = -(-max(count, 1) // across), max(2, min(count, across))
    chart, axes = chart_of(height * rows + 0.3, rows, columns, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return chart, axes


def xray(ax: Axes, picture: np.ndarray) -> None:
    """Show an X-ray, uint8 (height, width), in grey and without ticks."""
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
    ax.set_anchor("N")
    ax.set_axis_off()


def interval(ax: Axes, row: pd.Series, name: str, place: int, look: dict[str, Any]) -> None:
    """A number of a table's row as a point with its interval, lying on row `place`."""
    ends = [row[f"{name}_low"], row[f"{name}_high"]]
    ax.plot(ends, [place, place], color=look["color"], linewidth=2, solid_capstyle="butt")
    ax.plot(row[name], place, markersize=8, linestyle="", **look)


def numbered(
    ax: Axes, line: tuple[np.ndarray, np.ndarray], number: int, taken: list[np.ndarray]
) -> None:
    """Write a curve's number on it, where it is farthest from the points already `taken`, as shares
    of the axes (1, 1); nowhere where there is no room.
    """
    points = ax.transLimits.transform(ax.transScale.transform(np.column_stack(line)))
    points = points[np.isfinite(points).all(axis=1) & (points >= 0).all(1) & (points <= 1).all(1)]
    if not len(points):
        return
    steps = np.append(0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    along = np.linspace(0.12, 0.88, 60) * steps[-1]
    spots = np.column_stack([np.interp(along, steps, column) for column in points.T])
    gaps = np.min([np.hypot(*(spots - other).T) for other in taken] or [np.ones(60)], axis=0)
    if gaps.max() < APART:
        return
    spot = spots[int(np.argmax(np.minimum(gaps, 3 * APART)))]
    taken.append(spot)
    ax.text(
        spot[0], spot[1], str(number), size=7, ha="center", va="center", color=INK, zorder=5,
        transform=ax.transAxes,
        bbox={"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": MUTED, "lw": 0.7},
    )  # fmt: skip


def short(text: object, longest: int = 24) -> str:
    """Long names lose their middle, which tells them apart least."""
    text = " ".join(str(text).split())
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def probability(value: float, threshold: float) -> str:
    """A probability beside the threshold that decides about it: "0.53 < 0.54"."""
    sign, digits = "≥" if value >= threshold else "<", 2
    while digits < 6 and f"{value:.{digits}f}" == f"{threshold:.{digits}f}" and value != threshold:
        digits += 1
    return f"{value:.{digits}f} {sign} {threshold:.{digits}f}"
