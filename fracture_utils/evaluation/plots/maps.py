"""Figures of where the networks look, and whether that is the fracture."""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from fracture_utils.evaluation.gallery import OUTCOME_OF
from fracture_utils.evaluation.localisation import POINTS, boxes_of, overlay
from fracture_utils.evaluation.plots import style
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.wording import listed, of_each

LARGEST_SHOWN = 600
"""Longest side of an X-ray beside its heat map, in pixels: what the panel can show."""
BARS = {"swapped": ("maps of other pictures", "--"), "centre": ("always the centre", ":")}


@style.figure
def localisation(localisation: pd.DataFrame) -> style.Chart:
    """How often the heat maps point at a box, against the maps of other pictures (dashed) and
    against always pointing at the middle (dotted); and how much of them lies inside.
    """
    table = localisation.reset_index(drop=True)
    models = list(table["model"])
    chart, axes = style.chart_of(0.36 * max(len(models), 1) + 1.9, 1, 2, sharey=True)
    panels = [
        ("hit_rate", list(BARS), "highest point in or beside a box"),
        ("energy", ["area"], "share of the map inside a box"),
    ]
    for ax, (name, bars, title) in zip(axes.flat, panels, strict=True):
        for place, row in table.iterrows():
            look = style.appearance(row["model"], models)
            style.interval(ax, row, name, place, look)
        for column in bars if len(table) else ():
            word, line = BARS.get(column, ("an even map", "--"))
            ax.axvline(
                table[column].mean(), color="#888888", linewidth=1, linestyle=line, label=word
            )
        widest = table[[f"{name}_high", *bars]].max(axis=None) if len(table) else 1
        ax.set(xlim=(-0.03 * widest, 1.1 * widest), xlabel=f"{title}, 95 % interval")
        if len(table):
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=1)
    axes.flat[0].set_yticks(range(len(models)), [style.short(model) for model in models])
    axes.flat[0].set_ylim(max(len(models), 1) - 0.5, -0.5)
    verdict, pictures = _pointing(table), table["pictures"].max() if len(table) else 0
    chart.suptitle(textwrap.fill(f"{verdict} ({pictures} test pictures with boxes)", 90), size=11)
    middle = f"; always the centre {table['centre'].iloc[0]:.3f}" if len(table) else ""
    return chart.say(
        f"{verdict}. A heat map that does not point is no evidence of where the fracture is.",
        f"Share of {pictures} pictures whose heat map is highest in or beside the fracture's box: "
        f"{of_each(table, 'hit_rate') or 'none'}{middle}.",
    )


def _pointing(table: pd.DataFrame) -> str:
    pointing = list(table.loc[table["verdict"] == POINTS, "model"])
    if table.empty:
        return "No boxes are known, so the heat maps are unchecked"
    if not pointing:
        return "No model's heat maps clearly beat pointing at the centre"
    if len(pointing) == len(table):
        return "The heat maps of every model beat pointing at the centre"
    who = listed(pointing) if len(pointing) < 4 else f"{len(pointing)} of {len(table)} models"
    return f"Only the heat maps of {who} clearly beat pointing at the centre"


@style.figure
def heatmaps(
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: pd.DataFrame,
    rows: pd.DataFrame,
    operating_points: pd.DataFrame,
    caution: str = "",
    positive: str = FRACTURED,
) -> style.Chart:
    """X-rays, uint8 (height, width), each beside what of its heat map lies above the mean.

    `rows` are their predictions (path, model, label, decision, probability) in the same order;
    `boxes` (path, xmin, ymin, xmax, ymax in pixels) are drawn where there are any.
    `caution` stands above them all.
    """
    said = [[row] for row in rows.to_dict("records")]
    chart = _cards(pictures, maps, boxes, said, operating_points, caution, positive)
    model = listed(list(rows["model"].unique()))
    return chart.say(
        f"X-rays drawn at random, and beside each the heat map of {model}. {caution}",
        f"{len(said)} X-rays, each beside its heat map, with the truth and the probability of "
        f"{positive} by {model}. {caution}",
    )


@style.figure
def gallery(
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: pd.DataFrame,
    rows: pd.DataFrame,
    operating_points: pd.DataFrame,
    caution: str = "",
    positive: str = FRACTURED,
) -> style.Chart:
    """The surest answers, misses first: one card a picture, with what each model asked says of it;
    the heat map is that of the first. Arguments as in `heatmaps`, a row a picture and model.
    """
    records = rows.to_dict("records")
    first = list(dict.fromkeys(row["path"] for row in records))
    place = [next(k for k, row in enumerate(records) if row["path"] == path) for path in first]
    said = [[row for row in records if row["path"] == path] for path in first]
    shown = [pictures[k] for k in place], [maps[k] for k in place]
    chart = _cards(*shown, boxes, said, operating_points, caution, positive)
    wrong = [OUTCOME_OF[card[0]["label"], card[0]["decision"]] for card in said]
    missed, alarms = wrong.count("missed"), wrong.count("false alarm")
    models = listed(list(rows["model"].unique()))
    return chart.say(
        f"The surest answers of {models}: {missed} missed pictures, then {alarms} false alarms, "
        f"then answers that are right. {caution}",
        f"{len(said)} X-rays, each beside its heat map, with the truth and what {models} say: "
        f"{missed} missed, {alarms} false alarms, {len(said) - missed - alarms} right. {caution}",
    )


def _cards(
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: pd.DataFrame,
    said: Sequence[list[dict]],
    operating_points: pd.DataFrame,
    caution: str,
    positive: str,
) -> style.Chart:
    threshold = operating_points.set_index("model")["threshold"]
    chart, axes = style.panels(2 * len(pictures), 2.5)
    for pair, picture, heat, answers in zip(
        axes.reshape(-1, 2), pictures, maps, said, strict=False
    ):
        _pair(pair, picture, heat, boxes_of(boxes, answers[0]["path"]))
        _headings(pair, answers, threshold, positive)
    if caution:
        lines = [textwrap.fill(line, 115) for line in caution.splitlines()]
        chart.suptitle("\n".join(lines), size=9, color=style.WRONG)
    return chart


def _pair(pair: Iterable[Axes], picture: np.ndarray, heat: np.ndarray, boxes: np.ndarray) -> None:
    scale = min(1, LARGEST_SHOWN / max(picture.shape))
    sides = [max(1, round(side * scale)) for side in picture.T.shape]
    small = np.asarray(Image.fromarray(picture).resize((sides[0], sides[1])))
    for ax, view in zip(pair, [small, overlay(small, heat)], strict=True):
        style.xray(ax, view)
        for xmin, ymin, xmax, ymax in boxes * scale:
            corner, size = (xmin - 0.5, ymin - 0.5), (xmax - xmin, ymax - ymin)
            ax.add_patch(mpl.patches.Rectangle(corner, *size, fill=False, lw=1.2, color="#56B4E9"))


def _headings(pair: np.ndarray, answers: list[dict], threshold: pd.Series, positive: str) -> None:
    """Above the X-ray truth and answers, above the map where the picture is from."""
    row, lines = answers[0], []
    wrong = any(answer["label"] != answer["decision"] for answer in answers)
    truth = positive if row["label"] == FRACTURED else row["label"]
    lines = [f"{truth}: {OUTCOME_OF[row['label'], row['decision']]}"]
    for answer in answers:
        said = style.probability(answer["probability"], threshold[answer["model"]])
        lines.append(f"{style.short(answer['model'], 18)} {said}")
    pair[0].set_title(
        "\n".join(lines), size=8, color=style.WRONG if wrong else style.INK,
        weight="bold" if wrong else "normal",
    )  # fmt: skip
    known = [str(row[name]) for name in ("body_part", "view") if row.get(name)]
    pair[1].set_title(
        f"{style.short(Path(row['path']).name, 28)}\n{style.short(' '.join(known))}", size=8
    )
