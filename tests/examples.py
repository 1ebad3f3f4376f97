"""Synthetic tables of predictions for tests."""

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.evaluation.predictions import KIND_OF


def model_rows(split, model, labels, logits, groups=None):
    """The rows of one model and split, without decisions; by default two images per group."""
    count, logits = len(labels), np.asarray(logits, float)
    groups = np.arange(count) // 2 if groups is None else groups
    return pd.DataFrame(
        {
            "path": [f"{split}/{i:03d}.png" for i in range(count)],
            "group": [f"{split}{group}" for group in groups],
            "label": np.where(np.asarray(labels) == 1, "fractured", "normal"),
            "split": split,
            "model": model,
            "kind": KIND_OF.get(model, "network"),
            "logit": logits,
            "probability": special.expit(logits),
        }
    )


def decided(split, model, labels, logits, groups=None):
    """The same, each image its own group by default, fractured from a logit of 0 on."""
    groups = range(len(labels)) if groups is None else groups
    rows = model_rows(split, model, labels, logits, groups)
    return rows.assign(decision=np.where(rows["logit"] >= 0, "fractured", "normal"))


def roc_area(true_positives, false_positives):
    """Area under each of the b ROC curves of `metrics.roc_counts`; NaN where a class is missing."""
    true, false = (np.pad(part, ((1, 0), (0, 0))) for part in (true_positives, false_positives))
    with np.errstate(invalid="ignore"):
        return np.trapezoid(true, false, axis=0) / (true[-1] * false[-1])
