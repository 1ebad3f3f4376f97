"""The surest answers as cards: one a picture, with what every model asked says of it, and, where
pictures may be kept, the X-ray and its heat map as two layers.
"""

import base64
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from fracture_utils import files
from fracture_utils.evaluation.gallery import OUTCOME_OF, OUTCOMES
from fracture_utils.evaluation.localisation import boxes_of, coloured
from fracture_utils.evaluation.predictions import FRACTURED, NORMAL

FOLDER = "cases"
"""Below the figures; a run on pictures that nobody may pass on goes without it."""
SIDE, BOX = 320, "#56B4E9"
"""Longest side of a picture in a card, in pixels, and the colour of the fracture's box."""
UNKNOWN = "not stated"


def keep(
    figures: Path,
    gallery: pd.DataFrame,
    pictures: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    boxes: pd.DataFrame,
) -> None:
    """Write into the folder FOLDER of `figures` what `cards` shows of each row of `gallery`: the
    X-ray, uint8 (height, width), the heat map of the first model that was asked about it, and the
    boxes of its fractures (path, xmin, ymin, xmax, ymax in pixels), as small WebP files.
    """
    folder = figures / FOLDER
    for path in folder.glob("*.webp"):
        path.unlink()
    for row, picture, heat in zip(gallery["path"], pictures, maps, strict=True):
        layers = _layers(folder, row)
        if layers["picture"].is_file():
            continue
        scale = min(1, SIDE / max(picture.shape))
        height, width = (max(1, round(side * scale)) for side in picture.shape)
        _write(layers["picture"], Image.fromarray(picture).resize((width, height)))
        _write(layers["heat"], Image.fromarray(coloured(heat)))
        known = boxes_of(boxes, row) * scale
        if len(known):
            outline = Image.new("RGBA", (width, height))
            for box in known:
                ImageDraw.Draw(outline).rectangle(tuple(box), outline=BOX, width=2)
            _write(layers["box"], outline)


def _layers(folder: Path, path: str) -> dict[str, Path]:
    name = files.fingerprint(path)
    return {layer: folder / f"{name}-{layer}.webp" for layer in ("picture", "heat", "box")}


def _write(path: Path, image: Image.Image) -> None:
    with files.replacing(path) as temporary:
        image.save(temporary, "WEBP", quality=65)


def cards(
    gallery: pd.DataFrame,
    predictions: pd.DataFrame,
    points: pd.DataFrame,
    layers: Path | None = None,
) -> list[dict[str, object]]:
    """A card a picture of `gallery` (of gallery.surest), misses first, then false alarms.

    `predictions` come from calibration.apply, `points` (model, threshold) from calibration.fit;
    `layers` is the folder that `keep` wrote.
    A card has outcome, wrong, label, path, name, body_part, view, picture, heat and box (data
    addresses, empty where there is none) and answers: model, probability and threshold (0 to 1) and
    outcome, a row a model that was asked.
    """
    if gallery.empty or predictions.empty or points.empty:
        return []
    threshold = points.set_index("model")["threshold"]
    asked = list(dict.fromkeys(gallery["model"]))
    tested = predictions[predictions["model"].isin(asked) & predictions["path"].isin(gallery.path)]
    told = dict(iter(tested.groupby("path")))
    order = list(OUTCOMES)
    firsts = gallery.drop_duplicates("path")
    firsts = firsts.sort_values("outcome", key=lambda names: names.map(order.index), kind="stable")
    return [
        _card(row, told[row["path"]], asked, threshold) | _shown(layers, row["path"])
        for row in firsts.to_dict("records")
        if row["path"] in told
    ]


def _shown(folder: Path | None, path: str) -> dict[str, str]:
    """The layers of a card as data addresses."""
    kept = {} if folder is None else _layers(folder, path)
    return dict.fromkeys(("picture", "heat", "box"), "") | {
        layer: f"data:image/webp;base64,{base64.b64encode(file.read_bytes()).decode()}"
        for layer, file in kept.items()
        if file.is_file()
    }


def _card(
    row: dict, rows: pd.DataFrame, asked: list[str], threshold: pd.Series
) -> dict[str, object]:
    probability = rows.drop_duplicates("model").set_index("model")["probability"]
    answers = []
    for model in [name for name in asked if name in probability and name in threshold]:
        called = probability[model] >= threshold[model]
        answers.append(
            {
                "model": model,
                "probability": float(probability[model]),
                "threshold": float(threshold[model]),
                "outcome": OUTCOME_OF[row["label"], FRACTURED if called else NORMAL],
            }
        )
    return {
        "outcome": row["outcome"],
        "wrong": len(set(OUTCOMES[row["outcome"]])) > 1,
        "label": row["label"],
        "path": row["path"],
        "name": PurePosixPath(row["path"]).name,
        "body_part": _text(row.get("body_part")) or UNKNOWN,
        "view": _text(row.get("view")),
        "answers": answers,
    }


def _text(value: object) -> str:
    return "" if value is None or pd.isna(value) else str(value)
