"""One figure, one message: tables in, a Matplotlib figure out, kept in an album."""

import base64
import io
import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import special

from fracture_utils import files
from fracture_utils.config import CLASS_NAMES, SPLITS
from fracture_utils.evaluation import metrics
from fracture_utils.evaluation.conclusion import reword
from fracture_utils.evaluation.gallery import OUTCOMES
from fracture_utils.evaluation.localisation import POINTS, boxes_of, overlay
from fracture_utils.evaluation.metrics import FRACTURED, NORMAL, REFERENCES
from fracture_utils.ledger import Results

STYLE_OF = {
    "DenseNet121": ("#0072B2", "o"),
    "ResNet50": ("#D55E00", "s"),
    "VGG16": ("#009E73", "^"),
    "MobileNet": ("#CC79A7", "D"),
    "InceptionV3": ("#E69F00", "v"),
    "Xception": ("#56B4E9", "P"),
    "Ensemble": ("#222222", "*"),
    "Selected ensemble": ("#666666", "X"),
    "Majority class": ("#AAAAAA", "|"),
    "Metadata only": ("#AAAAAA", "x"),
}
"""Colour (Okabe and Ito's palette, safe for colour-blind readers) and marker, everywhere."""
UNKNOWN_COLOURS = tuple(colour for colour, _ in tuple(STYLE_OF.values())[:6])
UNKNOWN_MARKERS = "h<>pd8"
CLASS_COLOURS = {NORMAL: "#9DB4C8", FRACTURED: "#8C2D5E"}
SEVERITY_COLOURS = {"red": "#B2182B", "amber": "#E69F00", "info": "#9DB4C8"}
WIDTH = 8.0
"""Inches; a figure is drawn at 200 dots an inch and shown 800 pixels wide."""
RESOLUTION = 200
LARGEST_SHOWN = 600
"""Longest side of an X-ray beside its heat map, in pixels: what the panel can show."""
TEXT = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,
}
_styled = mpl.rc_context(TEXT)


class Chart(Figure):
    """A figure that pyplot does not know: Jupyter shows it once, at 800 pixels, with its caption
    as alternative text, whichever backend is set.
    """

    caption = ""
    place = 0
    saved = b""

    def png(self) -> bytes:
        """The bytes of a PNG file that carries caption and place in the album.

        256 colours make the file a third as large; where there are pictures they are dithered, so
        that heat maps show no bands.
        """
        drawn, buffer, known = io.BytesIO(), io.BytesIO(), PngInfo()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.savefig(drawn, dpi=RESOLUTION)
        known.add_text("Description", self.caption)
        known.add_text("Place", str(self.place))
        image = Image.open(drawn).convert("RGB")
        palette = image.quantize(256)
        has_pictures = any(ax.images for ax in self.axes)
        image = image.quantize(palette=palette) if has_pictures else palette  # dithered, or not
        image.save(buffer, "PNG", optimize=True, dpi=(RESOLUTION, RESOLUTION), pnginfo=known)
        return buffer.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        png = base64.b64encode(self.saved or self.png()).decode()
        about = {"image/png": {"width": int(WIDTH * 100), "alt": self.caption}}
        display({"image/png": png, "text/plain": self.caption}, metadata=about, raw=True)


class Album:
    """Writes figures into a folder, each stamped with a note on what its numbers are worth.

    `positive` is the word for the positive class, where the data know better than "fractured".
    With `results` a figure that an earlier run drew from the same arguments is kept.
    """

    def __init__(
        self,
        folder: Path,
        note: str = "",
        positive: str = FRACTURED,
        results: Results | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.note = note
        self.positive = positive
        self.results = results
        self.captions: dict[str, str] = {}
        """Name of each figure and what it shows, in the order in which they were added."""

    def add(self, name: str, caption: str, draw: Callable[..., Chart], *arguments: object) -> Chart:
        """Have `draw(*arguments)` drawn, stamp it, write it to `<folder>/<name>.png`, and return
        it to be shown.
        """
        caption, place = reword(caption, self.positive), len(self.captions)
        self.captions[name] = caption
        chart, path = Chart(), self.folder / f"{name}.png"

        def make() -> None:
            nonlocal chart
            chart = draw(*arguments)
            self._stamp(chart)
            chart.caption, chart.place = caption, place
            with files.replacing(path) as temporary:
                temporary.write_bytes(chart.png())

        if self.results is None:
            make()
        else:
            words = [caption, place, self.note, self.positive]
            self.results.once(f"figures/{path.name}", path, make, draw, arguments, words)
        chart.caption, chart.saved = caption, path.read_bytes()
        return chart

    def _stamp(self, figure: Chart) -> None:
        _reword(figure, self.positive)
        lines = textwrap.wrap(self.note, int(figure.get_figwidth() * 17))
        height = (0.16 * len(lines) + 0.12) / figure.get_figheight() if lines else 0
        figure.get_layout_engine().set(rect=(0, height, 1, 1 - height))
        foot = 0.04 / figure.get_figheight()
        figure.text(0.01, foot, "\n".join(lines), size=8, color="#555555", va="bottom")


def _reword(figure: Chart, positive: str) -> None:
    """Use another word for the positive class in every text of a figure."""
    if positive == FRACTURED:
        return
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if isinstance(axis.get_major_locator(), FixedLocator):
                labels = [label.get_text() for label in axis.get_ticklabels()]
                axis.set_ticklabels([reword(label, positive) for label in labels])
    for text in figure.findobj(Text):
        text.set_text(reword(text.get_text(), positive))


def style(model: str, models: Sequence[str]) -> dict[str, str]:
    """Colour and marker of a model: fixed for known names, a variant's ("ResNet50 + mirror") from
    its network with a hollow marker, any other's by its place among the unknown names.
    """
    known = STYLE_OF.get(model)
    if known:
        return {"color": known[0], "marker": known[1]}
    base = STYLE_OF.get(model.split(" + ")[0])
    if base:
        return {"color": base[0], "marker": base[1], "markerfacecolor": "white"}
    unknown = sorted(name for name in set(models) if name not in STYLE_OF)
    place = unknown.index(model)
    return {
        "color": UNKNOWN_COLOURS[place % 6],
        "marker": UNKNOWN_MARKERS[(place + place // 6) % 6],
    }


@_styled
def class_distribution(images: pd.DataFrame) -> Chart:
    """How many pictures of each class each split holds."""
    counts = pd.crosstab(images["split"], images["label"])
    counts = counts.reindex(
        index=[s for s in SPLITS if s in counts.index], columns=list(CLASS_NAMES), fill_value=0
    )
    chart, ax = _chart(4)
    for place, name in enumerate(CLASS_NAMES):
        bars = ax.bar(
            np.arange(len(counts)) + 0.36 * (place - 0.5), counts[name], 0.34, label=name,
            color=CLASS_COLOURS[name],
        )  # fmt: skip
        ax.bar_label(bars, fmt="{:,.0f}", padding=2)
    shares = counts[FRACTURED] / counts.sum(axis=1)
    ticks = [f"{split}\n{100 * share:.0f} % fractured" for split, share in shares.items()]
    ax.set_xticks(range(len(counts)), ticks)
    ax.set(ylabel="pictures", title=f"{len(images):,} pictures by split and class")
    ax.margins(y=0.12)
    ax.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 1.14), ncols=2)
    return chart


@_styled
def history(history: pd.DataFrame) -> Chart:
    """Loss and AUC by epoch, training and validation, a row a network."""
    models = list(history["model"].unique())
    chart, axes = _chart(1.3 * len(models) + 0.7, len(models), 2, sharex=False)
    for (left, right), model in zip(axes.reshape(-1, 2), models, strict=True):
        rows = history[history["model"] == model].reset_index(drop=True)
        colour = style(model, models)["color"]
        epochs = np.arange(1, len(rows) + 1)
        for ax, name in ((left, "loss"), (right, "auc")):
            ax.plot(epochs, rows[name], color=colour, linestyle=":", label="training")
            ax.plot(epochs, rows[f"val_{name}"], color=colour, label="validation")
            for start in np.flatnonzero(rows["stage"].ne(rows["stage"].shift()))[1:]:
                ax.axvline(start + 0.5, color="#888888", linewidth=0.8, linestyle="--")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
        left.set_ylabel(_short(model, 16))
    axes = axes.reshape(-1, 2)
    axes[0, 0].set_title("loss")
    axes[0, 1].set_title("AUC (dashed line: fine-tuning begins)")
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    lines = [Line2D([], [], color="#444444", linestyle=look) for look in (":", "-")]
    chart.legend(
        lines, ["training", "validation"], loc="outside upper center", ncols=2, frameon=False
    )
    return chart


@_styled
def roc(predictions: pd.DataFrame, scores: pd.DataFrame) -> Chart:
    """Sensitivity against false alarms on the test rows, the chosen thresholds marked."""

    def rates(found, alarms, positives, negatives):
        return alarms / negatives, found / positives

    chart, ax = _trade_off(predictions, scores, "auc", "AUC", rates)
    ax.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, linestyle="--", zorder=0)
    ax.set(
        xlabel="1 - specificity (share of normal pictures called fractured)",
        ylabel="sensitivity (share of fractures found)",
        title="Fractures found against false alarms",
    )
    return chart


@_styled
def precision_recall(predictions: pd.DataFrame, scores: pd.DataFrame) -> Chart:
    """Positive predictive value against sensitivity on the test rows."""

    def rates(found, alarms, positives, negatives):
        return found / positives, found / (found + alarms)

    chart, ax = _trade_off(predictions, scores, "average_precision", "Average precision", rates)
    prevalence = scores["positives"].iloc[0] / scores["n"].iloc[0]
    ax.axhline(prevalence, color="#BBBBBB", linewidth=1, linestyle="--", zorder=0)
    ax.set(
        xlabel="sensitivity (share of fractures found)",
        ylabel="positive predictive value",
        title="How many of the pictures called fractured really are",
    )
    return chart


@_styled
def confusion_matrices(predictions: pd.DataFrame) -> Chart:
    """What became of the fractured and the normal test pictures, a panel a model."""
    import seaborn  # slow to import, and needed only here

    seen = metrics.contenders(predictions)
    chart, axes = _panels(len(seen.models), 2.5)
    for place, (ax, model) in enumerate(zip(axes.flat, seen.models, strict=False)):
        cells = 2 * (1 - seen.labels) + (1 - seen.decisions[:, place])
        table = np.bincount(cells, minlength=4).reshape(2, 2)
        share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
        texts = [f"{n:,}\n{100 * s:.0f} %" for n, s in zip(table.flat, share.flat, strict=True)]
        seaborn.heatmap(
            share, ax=ax, annot=np.reshape(texts, (2, 2)), fmt="", cmap="Blues", vmin=0, vmax=1,
            cbar=False, square=True, linewidths=2, xticklabels=[FRACTURED, NORMAL],
            yticklabels=[FRACTURED, NORMAL] if place % axes.shape[1] == 0 else [],
        )  # fmt: skip
        ax.set_title(_short(model))
        ax.tick_params(length=0)
    for ax in axes[:, 0]:
        ax.set_ylabel("truth")
    for ax in axes[-1]:
        ax.set_xlabel("decision")
    return chart


@_styled
def ranking(scores: pd.DataFrame) -> Chart:
    """The AUC of each model with its interval, best first, references last."""
    models = list(scores["model"])
    reference = scores["model"].isin(REFERENCES)
    rows = scores.assign(last=reference).sort_values(
        ["last", "auc"], ascending=[True, False], kind="stable", ignore_index=True
    )
    chart, ax = _chart(0.36 * len(rows) + 1.3)
    labels = []
    for place, row in rows.iterrows():
        _interval(
            ax, row["auc"], row["auc_low"], row["auc_high"], place, style(row["model"], models)
        )
        start = {"random": "\n(random start)"}.get(row["initialisation"], "")
        labels.append(_short(row["model"]) + start)
        ax.text(
            1.02, place, _range(row, "auc"), transform=ax.get_yaxis_transform(), va="center", size=9
        )
    ax.axvline(0.5, color="#BBBBBB", linewidth=1, linestyle="--")
    ax.set_yticks(range(len(rows)), labels)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    n, positives = rows.loc[0, ["n", "positives"]]
    ax.set(
        title="How well each model ranks fractured above normal",
        xlabel=f"AUC with 95 % interval, {n:,} test pictures, {positives:,} fractured",
    )
    return chart


@_styled
def pairwise(comparisons: pd.DataFrame) -> Chart:
    """Which models can be told apart: difference in AUC and adjusted p of each pair."""
    models = list(dict.fromkeys([*comparisons["model_a"], *comparisons["model_b"]]))
    k = len(models)
    chart, ax = _chart(min(8.0, 0.62 * k + 1.5))
    for row in comparisons.itertuples():
        x, y = models.index(row.model_a), models.index(row.model_b)
        apart = row.p_delong_holm < 0.05
        colour = "#2C6DA4" if apart else "#E3E6EA"
        ax.add_patch(mpl.patches.Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, lw=0))
        text = f"{row.difference:+.3f}\n{_p(row.p_delong_holm)}"
        ax.text(
            x, y, text if k <= 10 else f"{row.difference:+.2f}", ha="center", va="center",
            size=min(9, 98 / k), color="white" if apart else "#222222",
        )  # fmt: skip
    ax.set(xlim=(-0.5, max(k - 1.5, 0.5)), ylim=(k - 0.5, 0.5))
    names = [_short(m) if k > 8 else textwrap.fill(_short(m), 12) for m in models[:-1]]
    ax.set_xticks(range(max(k - 1, 0)), names, rotation=90 if k > 8 else 0)
    ax.set_yticks(range(1, k), [_short(m) for m in models[1:]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    tied = int((~(comparisons["p_delong_holm"] < 0.05)).sum())
    ax.set_title(
        f"{tied} of {len(comparisons)} pairs cannot be told apart (grey)\n"
        "AUC of the column minus AUC of the row; p of DeLong's test after Holm"
    )
    return chart


@_styled
def reliability(predictions: pd.DataFrame) -> Chart:
    """Share of fractures against the probability said, before and after temperature scaling."""
    seen = metrics.contenders(predictions)
    stages = {"before temperature scaling": special.expit(seen.logits), "after": seen.probabilities}
    chart, axes = _chart(max(3.6, 0.4 * len(seen.models) + 1.3), 1, 2, sharey=True)
    errors = np.zeros((len(seen.models), 2))
    for column, (title, probabilities) in enumerate(stages.items()):
        ax = axes[column]
        ax.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=1, linestyle="--")
        for place, model in enumerate(seen.models):
            said = probabilities[:, place]
            table = pd.DataFrame({"said": said, "truth": seen.labels})
            bins = table.groupby(np.minimum((said * 10).astype(int), 9))
            points = bins.mean()[bins.size() >= 5]
            errors[place, column] = metrics.calibration_error(seen.labels, said)
            ax.plot(
                points["said"], points["truth"], linewidth=1.2, markersize=5,
                label=f"{_short(model, 18)}\n{errors[place, 0]:.3f} → {errors[place, 1]:.3f}",
                **style(model, seen.models),
            )  # fmt: skip
        ax.set(title=title, xlabel="probability said", aspect="equal", anchor="N")
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes[1].legend(
        frameon=False, loc="upper left", bbox_to_anchor=(1.02, 1.04),
        title="calibration error\nbefore and after",
    )  # fmt: skip
    axes[0].set_ylabel("share that is fractured")
    return chart


@_styled
def subgroups(table: pd.DataFrame, model: str | None = None) -> Chart:
    """AUC, sensitivity and specificity of one model (None: the first) on the whole and in each
    subgroup, with counts.
    """
    model = model or (table["model"].iloc[0] if len(table) else "")
    rows = table[table["model"] == model].reset_index(drop=True)
    chart, axes = _chart(0.34 * len(rows) + 1.5, 1, 3, sharey=True)
    look = style(model, [model])
    for ax, name in zip(axes.flat, ("auc", "sensitivity", "specificity"), strict=True):
        for place, row in rows.iterrows():
            _interval(ax, row[name], row[f"{name}_low"], row[f"{name}_high"], place, look)
        for start in np.flatnonzero(rows["column"].ne(rows["column"].shift()))[1:]:
            ax.axhline(start - 0.5, color="#CCCCCC", linewidth=0.8)
        ax.set(xlim=(-0.02, 1.02), xlabel={"auc": "AUC"}.get(name, name) + ", 95 % interval")
    ticks = [
        f"{row.column.replace('_', ' ')}: {_short(row.value)}  ({row.positives}/{row.n})"
        for row in rows.itertuples()
    ]
    axes.flat[0].set_yticks(range(len(rows)), ticks)
    axes.flat[0].set_ylim(max(len(rows), 1) - 0.5, -0.5)
    chart.suptitle(f"{_short(model)} by subgroup (fractured/all test pictures)", size=11)
    return chart


@_styled
def accuracy_against_cost(scores: pd.DataFrame, costs: pd.DataFrame) -> Chart:
    """AUC against parameters and against seconds a picture; `costs` has the columns model,
    parameters (millions) and seconds_per_picture.
    """
    rows = scores.merge(costs, on="model")
    chart, axes = _chart(4.2, 1, 2, sharey=True)
    titles = {
        "parameters": "parameters (millions)",
        "seconds_per_picture": "milliseconds a picture",
    }
    for ax, (name, title) in zip(axes.flat, titles.items(), strict=True):
        for row in rows.to_dict("records"):
            x = row[name] * (1000 if name == "seconds_per_picture" else 1)
            look = style(row["model"], list(rows["model"]))
            ax.plot([x, x], [row["auc_low"], row["auc_high"]], color=look["color"], alpha=0.5)
            ax.plot(x, row["auc"], linestyle="", markersize=8, label=_short(row["model"]), **look)
        ax.set(xlabel=title, xscale="log")
        ax.margins(x=0.1)
        _plain_log_ticks(ax)
    axes.flat[0].set_ylabel("AUC, 95 % interval")
    chart.suptitle("What accuracy costs (up and to the left is better)", size=11)
    axes.flat[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return chart


@_styled
def sample_predictions(pictures: Sequence[np.ndarray], rows: pd.DataFrame) -> Chart:
    """Test pictures, uint8 (height, width), with truth and calibrated probability; `rows` are
    their predictions (label, probability, decision) in the same order.
    """
    words = {
        (FRACTURED, FRACTURED): "found", (FRACTURED, NORMAL): "missed",
        (NORMAL, FRACTURED): "false alarm", (NORMAL, NORMAL): "cleared",
    }  # fmt: skip
    chart, axes = _panels(len(pictures), 2.4)
    for ax, picture, row in zip(axes.flat, pictures, rows.to_dict("records"), strict=False):
        _xray(ax, picture)
        right = row["label"] == row["decision"]
        outcome = words[row["label"], row["decision"]]
        ax.set_title(
            f"{row['label']}: {outcome}\nprobability {row['probability']:.2f}",
            size=9, color="#222222" if right else "#B2182B", weight="normal" if right else "bold",
        )  # fmt: skip
    return chart


@_styled
def augmentation(picture: np.ndarray, views: Sequence[np.ndarray]) -> Chart:
    """One X-ray, uint8 (height, width), and what training sees of it."""
    chart, axes = _panels(len(views) + 1, 2.2)
    for place, (ax, view) in enumerate(zip(axes.flat, [picture, *views], strict=False)):
        _xray(ax, view)
        ax.set_title(f"view {place}" if place else "as it is", size=9)
    return chart


@_styled
def audit(findings: pd.DataFrame) -> Chart:
    """How many findings each check of the data made, the severe first."""
    order = [name for name in SEVERITY_COLOURS if name in set(findings["severity"])]
    counts = findings.groupby(["severity", "check"]).size().rename("count").reset_index()
    counts["rank"] = counts["severity"].map(order.index) if len(counts) else 0
    counts = counts.sort_values(["rank", "count"], ascending=[True, False], ignore_index=True)
    chart, ax = _chart(0.32 * max(len(counts), 2) + 1.2)
    for severity in order:
        rows = counts[counts["severity"] == severity]
        bars = ax.barh(
            rows.index, rows["count"], 0.7, color=SEVERITY_COLOURS[severity], label=severity
        )
        ax.bar_label(bars, fmt="{:,.0f}", padding=3)
    ax.set_yticks(
        range(len(counts)), [_short(check.replace("_", " "), 40) for check in counts["check"]]
    )
    ax.set_ylim(max(len(counts), 1) - 0.5, -0.5)
    ax.margins(x=0.1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.set(
        xlabel="findings",
        title="What the data audit found" if len(counts) else "The data audit found nothing",
    )
    if order:
        ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    return chart


@_styled
def localisation(table: pd.DataFrame) -> Chart:
    """How often the heat maps point at a box, and how much of them lies inside, against chance
    (dashed) and always pointing at the middle of the picture (dotted).
    """
    models = list(table["model"])
    chart, axes = _chart(0.36 * max(len(models), 1) + 1.6, 1, 2, sharey=True)
    panels = [
        ("hit_rate", ["chance", "centre"], "highest point in or beside a box"),
        ("energy", ["area"], "share of the map inside a box"),
    ]
    for ax, (name, even, title) in zip(axes.flat, panels, strict=True):
        for place, row in table.reset_index(drop=True).iterrows():
            look = style(row["model"], models)
            _interval(ax, row[name], row[f"{name}_low"], row[f"{name}_high"], place, look)
        for column, line in zip(even if len(table) else (), ("--", ":"), strict=False):
            ax.axvline(table[column].iloc[0], color="#888888", linewidth=1, linestyle=line)
        widest = table[[f"{name}_high", *even]].max(axis=None) if len(table) else 1
        ax.set(xlim=(-0.03 * widest, 1.1 * widest), xlabel=f"{title}, 95 % interval")
    axes.flat[0].set_yticks(range(len(models)), [_short(model) for model in models])
    axes.flat[0].set_ylim(max(len(models), 1) - 0.5, -0.5)
    pointing = int((table["verdict"] == POINTS).sum())
    pictures = f"{table['pictures'].iloc[0]:,} pictures" if len(table) else "none"
    chart.suptitle(
        f"The heat maps of {pointing} of {len(models)} models point at the fracture\n"
        f"test pictures with boxes: {pictures}; dashed: chance; dotted: always the centre",
        size=11,
    )
    return chart


@_styled
def heatmaps(
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: pd.DataFrame,
    rows: pd.DataFrame,
    caution: str = "",
) -> Chart:
    """X-rays, uint8 (height, width), each beside what of its heat map lies above the mean.

    `rows` are their predictions (path, model, label, decision, probability) in the same order;
    `boxes` (path, xmin, ymin, xmax, ymax in pixels) are drawn where there are any.
    `caution` stands above them all.
    """
    words = {answer: outcome for outcome, answer in OUTCOMES.items()}
    chart, axes = _panels(2 * len(pictures), 2.5)
    for (left, right), picture, heat, row in zip(
        axes.reshape(-1, 2), pictures, maps, rows.to_dict("records"), strict=False
    ):
        scale = min(1, LARGEST_SHOWN / max(picture.shape))
        small = Image.fromarray(picture).resize([max(1, round(s * scale)) for s in picture.T.shape])
        small = np.asarray(small)
        _xray(left, small)
        _xray(right, overlay(small, heat))
        for xmin, ymin, xmax, ymax in boxes_of(boxes, row["path"]) * scale:
            for ax in (left, right):
                corner, size = (xmin - 0.5, ymin - 0.5), (xmax - xmin, ymax - ymin)
                ax.add_patch(
                    mpl.patches.Rectangle(corner, *size, fill=False, lw=1.2, color="#56B4E9")
                )
        outcome = words[row["label"], row["decision"]]
        wrong = row["label"] != row["decision"]
        left.set_title(
            f"{row['label']}: {outcome}\n{_short(row['model'])} {row['probability']:.2f}",
            size=8, color="#B2182B" if wrong else "#222222", weight="bold" if wrong else "normal",
        )  # fmt: skip
        known = [str(row[name]) for name in ("body_part", "view") if row.get(name)]
        right.set_title(f"{_short(Path(row['path']).name, 30)}\n{_short(' '.join(known))}", size=8)
    if caution:
        lines = [textwrap.fill(line, 115) for line in caution.splitlines()]
        chart.suptitle("\n".join(lines), size=9, color="#B2182B")
    return chart


def _chart(
    height: float, rows: int = 1, columns: int = 1, **keywords
) -> tuple[Chart, Axes | np.ndarray]:
    chart = Chart(figsize=(WIDTH, height), dpi=100, layout="constrained")
    return chart, chart.subplots(rows, columns, **keywords)


def _panels(count: int, height: float) -> tuple[Chart, np.ndarray]:
    """Up to four panels a row, each `height` inches; the unused ones are blank."""
    rows, columns = -(-max(count, 1) // 4), max(2, min(count, 4))
    chart, axes = _chart(height * rows + 0.3, rows, columns, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_axis_off()
    return chart, axes


def _xray(ax: Axes, picture: np.ndarray) -> None:
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255)
    ax.set_anchor("N")
    ax.set_axis_off()


def _short(text: str, longest: int = 24) -> str:
    """Long names lose their middle, which tells them apart least."""
    text = " ".join(str(text).split())
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def _p(value: float) -> str:
    if np.isnan(value):
        return "no test"
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


def _range(row: pd.Series, name: str) -> str:
    if np.isnan(row[f"{name}_low"]):
        return "not defined" if np.isnan(row[name]) else f"{row[name]:.3f} (no interval)"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _trade_off(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    metric: str,
    title: str,
    rates: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> tuple[Chart, Axes]:
    """A curve a model over all thresholds, and a marker at the chosen one.

    `rates` makes x and y of the numbers of fractures found and of false alarms, and of the numbers
    of fractured and of normal pictures.
    """
    seen = metrics.answers(predictions, "test")
    chart, ax = _chart(max(4.9, 0.4 * len(seen.models) + 1.5))
    fractured = seen.labels == 1
    sizes = np.array([fractured.sum(), (~fractured).sum()], dtype=float)
    range_of = scores.set_index("model").apply(_range, axis=1, name=metric)
    for place, model in enumerate(seen.models):
        look = style(model, seen.models)
        ones = np.ones((len(fractured), 1))
        found, alarms = metrics.curve(seen.labels, seen.logits[:, place], ones)
        called = seen.decisions[:, place]
        chosen = (called & fractured).sum(), (called & ~fractured).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            line = rates(np.append(0, found), np.append(0, alarms), *sizes)
            point = rates(*chosen, *sizes)
        ax.plot(*line, color=look["color"], linewidth=1.5)
        ax.plot(*point, markersize=8, linestyle="", **look)
        ax.plot([], [], markersize=7, label=f"{_short(model)}\n{range_of[model]}", **look)
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.02), frameon=False,
        title=f"{title}, 95 % interval\n(marker: chosen threshold)",
    )  # fmt: skip
    return chart, ax


def _interval(
    ax: Axes, value: float, low: float, high: float, place: int, look: dict[str, str]
) -> None:
    ax.plot([low, high], [place, place], color=look["color"], linewidth=2, solid_capstyle="butt")
    ax.plot(value, place, markersize=8, linestyle="", **look)


def _plain_log_ticks(ax: Axes) -> None:
    low, high = ax.get_xlim()
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    ticks = [step for step in steps if low <= step <= high][:: 1 + (high / low > 200)]
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
