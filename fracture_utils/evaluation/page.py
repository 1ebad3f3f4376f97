"""The parts of the page that are computed from tables: card, explorer, leaderboard, figures."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2.utils import markupsafe
from PIL import Image

from fracture_utils.evaluation import drawings, metrics, verdict
from fracture_utils.evaluation.predictions import contenders

COLUMNS = {
    "auc": "AUC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "expected_calibration_error": "calibration error",
}
"""What the leaderboard shows; the other metrics are folded below."""
LARGEST = 200_000
"""Bytes from which on a figure is kept as WebP in the page, which halves it several times."""


def card(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    located: pd.DataFrame,
    positive: str,
    chosen: str,
) -> dict[str, object]:
    """The verdict card as the template wants it."""
    said = verdict.of(scores, comparisons, located, positive, chosen)
    return {
        "headline": said.headline,
        "missed": f"Of 100 {positive} pictures it misses {_of_100(said.missed)}",
        "missed_count": _rounded(said.missed[0]),
        "alarms": f"Of 100 normal pictures it alarms on {_of_100(said.alarms)}",
        "alarms_count": _rounded(said.alarms[0]),
        "counts": said.counts,
        "lights": said.lights,
    }


def _of_100(errors: tuple[float, float, float]) -> str:
    value, low, high = errors
    if np.isnan(value):
        return "an unknown number: the test holds none."
    interval = "" if np.isnan(low) else f" (95 % interval {low:.0f} to {high:.0f})"
    return f"{value:.0f}{interval}."


def _rounded(value: float) -> int:
    """As JavaScript's Math.round does, so that the page says the same before and after."""
    return 0 if np.isnan(value) else int(np.floor(value + 0.5))


def explorer(
    predictions: pd.DataFrame, chosen: str, points: pd.DataFrame
) -> tuple[dict[str, object], dict[str, object]]:
    """What the threshold slider shows before it is moved, and the data that it computes from:
    labels (n,) and, per model, probabilities (n,) and the chosen threshold.
    """
    seen = contenders(predictions)
    threshold = points.set_index("model")["threshold"]
    models = [
        {
            "name": model,
            "threshold": float(threshold[model]),
            "probabilities": seen.probabilities[:, place].tolist(),
        }
        for place, model in enumerate(seen.models)
    ]
    place = seen.models.index(chosen)
    called, fractured = seen.probabilities[:, place] >= threshold[chosen], seen.labels == 1
    cells = [called & fractured, ~called & fractured, called & ~fractured, ~called & ~fractured]
    counts = [int(cell.sum()) for cell in cells]
    positives, negatives = max(1, counts[0] + counts[1]), max(1, counts[2] + counts[3])
    missed, alarms = 100 * counts[1] / positives, 100 * counts[2] / negatives
    ones = np.ones((len(seen.labels), 1))
    found, false = metrics.curve(seen.labels, seen.probabilities[:, place], ones)
    line = zip(100 * false[:, 0] / negatives, 100 - 100 * found[:, 0] / positives, strict=True)
    shown = {
        "models": models,
        "chosen": chosen,
        "threshold_text": f"{threshold[chosen]:.3g}",
        "counts": counts,
        "missed_of_100": _rounded(missed),
        "alarms_of_100": _rounded(alarms),
        "prevalence": round(100 * float(seen.labels.mean()), 1),
        "point": (f"{alarms:.2f}", f"{missed:.2f}"),
        "path": "M0 100" + "".join(f"L{x:.2f} {y:.2f}" for x, y in line),
    }
    return shown, {"labels": seen.labels.tolist(), "models": models}


def leaderboard(
    scores: pd.DataFrame, comparisons: pd.DataFrame, networks: pd.DataFrame, chosen: str
) -> dict[str, object]:
    """Models as rows, best AUC first and references last; a cell holds value, interval and bar."""
    place = verdict.standing(comparisons, scores["model"], chosen)
    last = scores["kind"] == "reference"
    rows = scores.assign(last=last).sort_values(["last", "auc"], ascending=[True, False])
    known = networks.get("seconds_per_picture", pd.Series(dtype=float))
    times = dict(zip(networks.get("model", []), known, strict=False))
    hardware = " and ".join(networks.get("hardware", pd.Series(dtype=str)).dropna().unique())
    scales = {name: _scale(rows[~rows["last"]], name) for name in COLUMNS if name in rows}
    shown = []
    for row in rows.to_dict("records"):
        cells = [_cell(row, metric, scales[metric]) for metric in scales]
        seconds = times.get(row["model"], np.nan)
        cells += [_time(seconds)] if times else []
        reference = "reference" if row["kind"] == "reference" else place[row["model"]]
        random = row["initialisation"] == "random"
        model = row["model"]
        shown.append({"model": model, "standing": reference, "random": random, "cells": cells})
    head = ["model", *(title for metric, title in COLUMNS.items() if metric in scores)]
    head += ["time a picture"] if times else []
    intro = "Press a heading to sort. The bars of a column share a scale. A line at the left joins "
    intro += "the chosen network and those tied with it."
    intro += f" Times are of {hardware}." if hardware else ""
    hollow = " Hollow dots: the network started from random weights."
    intro += hollow if any(row["random"] for row in shown) else ""
    return {"head": [*head, "paired test"], "rows": shown, "intro": intro}


def _scale(rows: pd.DataFrame, metric: str) -> tuple[float, float]:
    """From where to where the bars of a column reach: over all intervals, and a little further."""
    names = [metric, f"{metric}_low", f"{metric}_high"]
    known = rows[[name for name in names if name in rows]].melt()["value"].dropna()
    low, high = (known.min(), known.max()) if len(known) else (0, 1)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin


def _cell(row: dict, metric: str, scale: tuple[float, float]) -> dict[str, object]:
    value, low, high = (float(row.get(f"{metric}{end}", np.nan)) for end in ("", "_low", "_high"))
    if np.isnan(value):
        return {"value": "", "text": "not defined"}
    cell = {"value": value, "text": f"{value:.3f}"}
    if np.isnan(low):
        return cell
    cell["range"] = f"{low:.3f} to {high:.3f}"
    if row["last"]:  # a reference may lie anywhere, and would stretch the scale
        return cell
    ends = {"at": value, "low": low, "high": high}
    width = scale[1] - scale[0]
    return cell | {name: f"{100 * (x - scale[0]) / width:.1f}" for name, x in ends.items()}


def _time(seconds: float) -> dict[str, object]:
    if pd.isna(seconds):
        return {"value": "", "text": ""}
    return {"value": seconds, "text": f"{1000 * seconds:.0f} ms"}


def figures(folder: Path, wanted: set[str] | None) -> list[dict[str, object]]:
    """The figures of a results folder in the order of the story: name, caption, alternative, and
    the drawing beside it or a data address; large ones as WebP.
    """
    paths = [path for path in folder.glob("[!.]*.png") if wanted is None or path.stem in wanted]
    return sorted(map(_figure, paths), key=lambda shown: (shown["place"], shown["name"]))


def _figure(path: Path) -> dict[str, object]:
    with Image.open(path) as image:
        known = getattr(image, "text", {})
        place = known.get("Place", "")
        caption = known.get("Description") or path.stem.replace("_", " ")
        alternative = known.get("Alternative") or caption
        beside = path.with_suffix(".svg")
        drawing = drawings.inline(beside, alternative) if beside.is_file() else ""
        return {
            "name": path.stem,
            "caption": caption,
            "alternative": alternative,
            "place": int(place) if place.isdigit() else 1000,
            "drawing": markupsafe.Markup(drawing),
            "data": "" if drawing else _address(path, image),
        }


def _address(path: Path, image: Image.Image) -> str:
    data, kind = path.read_bytes(), "png"
    if len(data) > LARGEST:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=70, method=4)
        data, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
