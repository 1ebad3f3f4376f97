"""The surest answers as cards: one a picture, with what every model asked says of it."""

from pathlib import PurePosixPath

import pandas as pd

from fracture_utils.evaluation.gallery import OUTCOMES
from fracture_utils.evaluation.predictions import FRACTURED, NORMAL

OUTCOME_OF = {truth_and_decision: outcome for outcome, truth_and_decision in OUTCOMES.items()}
UNKNOWN = "not stated"


def cards(
    gallery: pd.DataFrame | None, predictions: pd.DataFrame | None, points: pd.DataFrame
) -> list[dict[str, object]]:
    """A card a picture of `gallery` (of gallery.surest), misses first, then false alarms.

    `predictions` come from calibration.apply, `points` (model, threshold) from calibration.fit.
    A card has outcome, wrong, label, path, name, body_part, view and answers:
    model, probability and threshold (0 to 1) and outcome, a row a model that was asked.
    """
    if gallery is None or gallery.empty or predictions is None or "model" not in points:
        return []
    threshold = points.set_index("model")["threshold"]
    asked = list(dict.fromkeys(gallery["model"]))
    tested = predictions[predictions["model"].isin(asked) & predictions["path"].isin(gallery.path)]
    told = dict(iter(tested.groupby("path")))
    order = list(OUTCOMES)
    firsts = gallery.drop_duplicates("path")
    firsts = firsts.sort_values("outcome", key=lambda names: names.map(order.index), kind="stable")
    return [
        _card(row, told[row["path"]], asked, threshold)
        for row in firsts.to_dict("records")
        if row["path"] in told
    ]


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
