"""Images to look at: the most confident errors, and labels that may be wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fracture_utils import tables
from fracture_utils.config import FRACTURED


def most_confident(
    predictions: pd.DataFrame, models: Sequence[str], count: int = 3
) -> pd.DataFrame:
    """The most_confident_errors table: up to `count` false negatives and false positives of each of
    the `models` in the test set, with the other columns of `predictions`.
    """
    wrong = predictions.query("split == 'test' and label != decision and model in @models")
    negative, probability = wrong["label"] == FRACTURED, wrong["probability"]
    wrong = wrong.assign(outcome=np.where(negative, "false negative", "false positive"))
    order = probability.where(negative, -probability), ~negative, wrong["model"].map(models.index)
    table = wrong.iloc[np.lexsort(order)].groupby(["model", "label"], sort=False).head(count)
    first = tables.columns("most_confident_errors")[:6]
    others = table.columns.difference([*first, "split", "fold", "logit"], sort=False)
    return table[[*first, *others]].reset_index(drop=True)


def suspected_label_errors(predictions: pd.DataFrame) -> pd.DataFrame:
    """The suspected_label_errors table: images whose label every network confidently contradicts
    (`confident`), the most confident first. The fracture may also be visible in other views only.
    """
    rows, parts = predictions[predictions["kind"] == "network"], []
    for _, own in rows.groupby("model"):
        fractured = (own["label"] == FRACTURED).to_numpy()
        contradicts, thresholds = confident(fractured, own["probability"].to_numpy())
        threshold = np.where(fractured, 1 - thresholds[0], thresholds[1])
        margin = np.where(fractured, -1, 1) * (own["probability"] - threshold)
        parts.append(own.assign(contradicts=contradicts, threshold=threshold, margin=margin))
    if not parts:
        return tables.empty("suspected_label_errors")
    rows = pd.concat(parts, ignore_index=True)
    images = rows.groupby(["path", "split"])
    models, mean = images["model"].transform("nunique"), images["probability"].transform("mean")
    rows = rows.assign(models=models, least_confident=rows["probability"], probability=mean)
    rows = rows[images["contradicts"].transform("all")].sort_values("margin", kind="stable")
    rows = rows.drop_duplicates(["path", "split"])
    rows = rows.sort_values("margin", ascending=False, kind="stable", ignore_index=True)
    return rows[tables.columns("suspected_label_errors")]


def confident(fractured: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which labels a model confidently contradicts, bool (n,), and its thresholds of both classes.

    Confident learning (Northcutt et al. 2021, equation 2): a class is confident if its
    probability reaches the mean of the images with that label; of two, the more probable counts.
    """
    of_class = np.column_stack([1 - probability, probability])
    labeled = np.column_stack([~fractured, fractured])
    means = [of_class[own, k].mean() if own.any() else np.inf for k, own in enumerate(labeled.T)]
    reached = of_class >= np.array(means) - 1e-6  # a probability equal to the mean counts
    guess = np.where(reached.all(axis=1), of_class.argmax(axis=1), reached.argmax(axis=1))
    return reached.any(axis=1) & (guess != fractured), np.array(means)
