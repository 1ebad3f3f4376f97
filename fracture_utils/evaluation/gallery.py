"""Which pictures to go and look at: the surest errors, and labels that may be wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fracture_utils.evaluation.predictions import FRACTURED, NORMAL

OUTCOMES = {
    "missed": (FRACTURED, NORMAL),
    "false alarm": (NORMAL, FRACTURED),
    "found": (FRACTURED, FRACTURED),
    "cleared": (NORMAL, NORMAL),
}
"""Truth and decision, in the order in which a reader should see them."""
OUTCOME_OF = {answer: outcome for outcome, answer in OUTCOMES.items()}
ROUNDING = 1e-6
"""Of a mean: a probability that equals it counts as reaching it."""


def surest(
    predictions: pd.DataFrame, models: Sequence[str], errors: int = 3, right: int = 1
) -> pd.DataFrame:
    """The test pictures about which each of the `models` that were asked is surest: misses first,
    then false alarms, up to `errors` of each, then up to `right` found and cleared. `predictions`
    come from calibration.apply. Columns: model, outcome, path, label, decision, probability, then
    group and subgroups.
    """
    tested, parts = predictions[predictions["split"] == "test"], []
    for model in models:
        rows = tested[tested["model"] == model]
        for outcome, (label, decision) in OUTCOMES.items():
            part = rows[(rows["label"] == label) & (rows["decision"] == decision)]
            part = part.sort_values("probability", ascending=decision == NORMAL, kind="stable")
            count = right if label == decision else errors
            parts.append(part.head(count).assign(outcome=outcome))
    first = ["model", "outcome", "path", "label", "decision", "probability"]
    table = pd.concat(parts, ignore_index=True)
    others = [c for c in table if c not in {*first, "split", "logit"}]
    return table[first + others]


def suspected(predictions: pd.DataFrame) -> pd.DataFrame:
    """Validation and test pictures whose label every network contradicts and is sure of it.

    A person should look at them: the label may be wrong, or the fracture be one that only other
    views show. What is sure is settled by `confident` for each network, on the pictures that it
    did not learn from. Columns: path, split, label, networks (how many), probability (mean of
    fractured), least_sure (the probability of fractured of the network that is least sure) and
    threshold (the one that it had to pass). The surest contradiction comes first.
    """
    rows = predictions[predictions["kind"] == "network"]
    parts = [_doubted(part) for _, part in rows.groupby("model")] or [_doubted(rows)]
    rows = pd.concat(parts).sort_values("margin", kind="stable")
    table = rows.groupby(["path", "split", "label"], as_index=False, sort=False).agg(
        networks=("model", "nunique"),
        probability=("probability", "mean"),
        least_sure=("probability", "first"),
        threshold=("threshold", "first"),
        margin=("margin", "first"),
        doubted=("doubted", "all"),
    )
    table = table[table["doubted"].astype(bool)]
    table = table.sort_values("margin", ascending=False, kind="stable")
    return table.drop(columns=["margin", "doubted"]).reset_index(drop=True)


def _doubted(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one network with doubted, threshold (of the probability of fractured) and margin
    (by how much the other class passes it).
    """
    fractured = (rows["label"] == FRACTURED).to_numpy()
    doubted, thresholds = confident(fractured, rows["probability"].to_numpy())
    threshold = np.where(fractured, 1 - thresholds[0], thresholds[1])
    margin = np.where(fractured, -1, 1) * (rows["probability"] - threshold)
    return rows.assign(doubted=doubted, threshold=threshold, margin=margin)


def confident(fractured: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which labels a network doubts, bool (n,), and from which probability on it is sure of normal
    and of fractured, (2,): confident learning (Northcutt et al. 2021, equation 2).

    `fractured` (n,) are the labels and `probability` (n,) what was said without having learned
    them. A network is sure of a class where it gives it at least the mean probability that it
    gives to pictures labelled so; of two such classes the likelier counts. A class that no
    picture has is never sure (infinite).
    """
    of_class = np.column_stack([1 - probability, probability])
    labelled = np.column_stack([~fractured, fractured])
    thresholds = np.array(
        [of_class[has, k].mean() if has.any() else np.inf for k, has in enumerate(labelled.T)]
    )
    sure = of_class >= thresholds - ROUNDING
    guess = np.where(sure.all(axis=1), of_class.argmax(axis=1), sure.argmax(axis=1))
    return sure.any(axis=1) & (guess != fractured), thresholds
