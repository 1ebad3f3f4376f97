"""Errors per 100 images, predictive values at a prevalence, and net benefit."""

import numpy as np
import pandas as pd

from fracture_utils import tables
from fracture_utils.evaluation.calibration import shifted
from fracture_utils.evaluation.intervals import ENDS, wilson, with_limits
from fracture_utils.evaluation.predictions import compared

THRESHOLDS = np.arange(1, 100) / 100


def table(
    predictions: pd.DataFrame, scores: pd.DataFrame, prevalence: float | None = None
) -> pd.DataFrame:
    """The clinical_utility table: a row per model except references, at its threshold.

    `prevalence` None: that of the test set. Intervals follow from those of sensitivity and
    specificity in `scores` (`ratio`).
    """
    data, rows = compared(predictions), []
    share = float(data.labels.mean()) if prevalence is None else prevalence
    odds = share / (1 - share) if share < 1 else np.inf
    flip = [0, 2, 1]  # limits of 1 - x
    for model in data.models:
        score = scores.set_index("model").loc[model]
        sensitivity = score[[f"sensitivity{end}" for end in ENDS]].to_numpy(float)
        specificity = score[[f"specificity{end}" for end in ENDS]].to_numpy(float)
        false_negatives, false_positives = 1 - sensitivity[flip], 1 - specificity[flip]
        row = {"model": model, "prevalence": share}
        row |= with_limits("false_negatives_per_100", *100 * false_negatives)
        row |= with_limits("false_positives_per_100", *100 * false_positives)
        with np.errstate(invalid="ignore", divide="ignore"):
            row |= with_limits("ppv", *1 - 1 / (1 + odds * ratio(sensitivity, false_positives)))
            npv = 1 / (1 + odds * ratio(false_negatives, specificity))
            row |= with_limits("npv", *npv[flip])
        rows.append(row)
    return pd.DataFrame(rows, columns=tables.columns("clinical_utility"))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The ratio of two independent estimates and its limits, from estimate, lower and upper limit
    of each, (3,): Donner and Zou (2012), section 2.2. Valid at 0 and 1, too.
    """
    p, q = above[0], below[0]
    first, second = above[1:] * (2 * p - above[1:]), below[:0:-1] * (2 * q - below[:0:-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(np.maximum((p * q) ** 2 - first * second, 0))
        low, high = (p * q + [-1, 1] * root) / second
        high = np.inf if second[1] <= 0 <= root[1] else high  # NaN stays NaN
        return np.array([p / q, max(low, 0), high])


def decision_curve(predictions: pd.DataFrame, prevalence: float | None = None) -> pd.DataFrame:
    """The decision_curve table (Vickers and Elkin 2006): a row per model and threshold.

    At another `prevalence`, classes are weighted and probabilities adjusted by Bayes's rule. Empty
    where the test set has one class.
    """
    data, names, curves = compared(predictions), tables.columns("decision_curve"), []
    if (observed := float(data.labels.mean())) in (0, 1):
        return tables.empty("decision_curve")
    share = observed if prevalence is None else prevalence
    treat_all = share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS)
    for model, probability in zip(data.models, data.probabilities.T, strict=True):
        if share != observed:
            probability = shifted(probability, observed, share)
        benefit = net_benefit(data.labels, probability, data.groups, share)
        values = (model, THRESHOLDS, *benefit, treat_all)
        curves.append(pd.DataFrame(dict(zip(names, values, strict=True))))
    return pd.concat(curves, ignore_index=True)


def net_benefit(
    labels: np.ndarray, probability: np.ndarray, groups: np.ndarray, prevalence: float
) -> np.ndarray:
    """The net benefit of n images at each of THRESHOLDS, its lower and its upper limit, (3, 99).

    Limits: Wilson's of both rates, combined after Zou and Donner (2008); NaN where a class has
    fewer than two groups.
    """
    true, false = (
        np.transpose([wilson(probability[of] >= t, groups[of]) for t in THRESHOLDS])
        for of in (labels == 1, labels == 0)
    )
    odds = THRESHOLDS / (1 - THRESHOLDS)
    gain, cost = prevalence * true, (1 - prevalence) * odds * false
    point = gain[0] - cost[0]
    below = np.hypot(gain[0] - gain[1], cost[2] - cost[0])
    above = np.hypot(gain[2] - gain[0], cost[0] - cost[1])
    return np.stack([point, point - below, point + above])
