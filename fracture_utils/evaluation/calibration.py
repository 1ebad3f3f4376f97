"""Platt scaling, thresholds, ensemble and selected model, from validation or out-of-fold rows."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy  # loads its modules on first use
from scipy import special

from fracture_utils import tables
from fracture_utils.config import FRACTURED, NORMAL
from fracture_utils.evaluation import metrics
from fracture_utils.evaluation.intervals import PERCENTILES, SIGNIFICANCE, resample, with_limits
from fracture_utils.evaluation.predictions import ENSEMBLE, calibrating, folds_of

SLOPES = (0.05, 20.0)  # bounds; a negative slope would invert the decisions of a model
RESAMPLES, POWER = 1000, 0.85
"""For the interval of a threshold, an argmax, for which the plain bootstrap is too narrow."""


def fit(predictions: pd.DataFrame, target_sensitivity: float | None = None) -> pd.DataFrame:
    """The operating_points table: a row per model with its Platt scaling and threshold, both from
    its out-of-fold rows or else its validation rows.

    The threshold is the calibrated probability with the largest Youden's J or, with a
    `target_sensitivity`, the largest one that reaches it. Its 95 % limits are percentiles of an
    m out of n bootstrap over groups. Without such rows of both classes: slope 1, intercept 0,
    threshold 0.5.
    """
    rows = []
    rule = "youden" if target_sensitivity is None else f"sensitivity {target_sensitivity:g}"
    for model in predictions["model"].unique():
        labels, logits, groups, p_folds = _pooled(predictions[predictions["model"] == model])
        point = {"p_folds": p_folds} | platt(labels, logits)
        row = {"model": model, "n": len(labels), "positives": int(labels.sum()), **point}
        row["at_bound"] = bool(np.isclose(point["slope"], SLOPES, rtol=1e-3).any())
        row |= {"threshold": 0.5, "rule": "default: no validation images of both classes"}
        if 0 < labels.sum() < len(labels):
            data = labels, special.expit(calibrated(logits, point)), target_sensitivity
            weights = resample(labels, groups, RESAMPLES, 0, power=POWER)
            weights = np.ones((len(labels), 1)), *weights
            threshold, *draws = np.concatenate([thresholds(*data, each) for each in weights])
            row |= with_limits("threshold", threshold, *np.nanpercentile(draws, PERCENTILES))
            row["rule"] = rule
        rows.append(row)
    return pd.DataFrame(rows, columns=tables.columns("operating_points"))


def _pooled(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Labels, logits after `align_folds` and groups of the calibrating rows of a model, and p."""
    own = calibrating(rows)
    labels, groups = (own["label"] == FRACTURED).to_numpy(int), pd.factorize(own["group"])[0]
    logits, p = align_folds(labels, own["logit"].to_numpy(), groups, folds_of(own))
    return labels, logits, groups, p


def align_folds(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, folds: np.ndarray
) -> tuple[np.ndarray, float]:
    """Logits (n,) of heads of different folds on one scale, and the p value of the test that the
    folds share one calibration intercept (NaN for one fold). If not, each fold is shifted by its
    own intercept minus their mean.

    The test compares the expected fractures of each fold with those of the same class mix over all
    folds (the mix depends on the groups, not on the head); the variance is clustered by group.
    """
    numbers = np.unique(folds)
    if len(numbers) < 2 or not 0 < labels.sum() < len(labels):
        return logits, np.nan
    point = platt(labels, logits)
    scaled = calibrated(logits, point)
    probabilities = special.expit(scaled)
    means = np.array([probabilities[labels == label].mean() for label in (0, 1)])[labels]
    excess = pd.Series(probabilities - means).groupby([folds, groups]).sum()
    variance = excess.pow(2).groupby(level=0).sum().clip(lower=1e-12)
    statistic = (excess.groupby(level=0).sum() ** 2 / variance).sum()
    p = float(scipy.stats.chi2.sf(statistic, len(numbers) - 1))
    if p >= SIGNIFICANCE:
        return logits, p

    def gap(shift: float, fold: int) -> float:
        own = folds == fold
        return special.expit(scaled[own] + shift).sum() - means[own].sum()

    ends = -50 - scaled.max(), 50 - scaled.min()
    shifts = [scipy.optimize.brentq(gap, *ends, args=(fold,)) for fold in numbers]
    moved = (shifts - np.mean(shifts))[np.searchsorted(numbers, folds)]
    return logits + moved / point["slope"], p


def thresholds(
    labels: np.ndarray, probabilities: np.ndarray, target: float | None, weights: np.ndarray
) -> np.ndarray:
    """The highest of the best thresholds under weights (n, b), (b,); NaN if a class has none."""
    true_positives, false_positives = metrics.roc_counts(labels, probabilities, weights)
    with np.errstate(invalid="ignore"):
        sensitivity = true_positives / true_positives[-1]
        youden = np.round(sensitivity - false_positives / false_positives[-1], 12)
    best = youden if target is None else sensitivity >= target - 1e-12
    thresholds = np.unique(probabilities)[::-1][np.argmax(best, axis=0)]
    return np.where(true_positives[-1] * false_positives[-1] > 0, thresholds, np.nan)


def apply(predictions: pd.DataFrame, operating_points: pd.DataFrame) -> pd.DataFrame:
    """The predictions with calibrated probability (rounded as in files) and decision; out of fold,
    from the aligned logits to which the operating points were fitted.
    """
    points, logits = operating_points.set_index("model"), predictions["logit"].copy()
    for model in points.index[points["p_folds"] < SIGNIFICANCE]:
        own = predictions[predictions["model"] == model]
        logits[calibrating(own).index] = _pooled(own)[1]
    points = points.loc[predictions["model"]].set_axis(predictions.index)
    probability = special.expit(calibrated(logits, points))
    decision = np.where(probability >= points["threshold"], FRACTURED, NORMAL)
    table = predictions.assign(probability=probability, decision=decision)
    return table.assign(probability=tables.rounded(table[["probability"]])["probability"])


def calibrated(logits: np.ndarray, point: Mapping) -> np.ndarray:
    """Calibrated logits (n,); `point` has slope and intercept (operating point or model card)."""
    return point["slope"] * logits + point["intercept"]


def shifted(probabilities: np.ndarray, before: float, after: float) -> np.ndarray:
    """Probabilities (n,) at the prevalence `after` instead of `before`, by Bayes's rule (Saerens et
    al. 2002).
    """
    shift = special.logit(after) - special.logit(before)
    return special.expit(special.logit(probabilities) + shift)


def platt(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Slope (within SLOPES) and intercept with the smallest loss on Platt's (1999) targets, which
    keep the slope finite where few images or separation determine it; 1 and 0 without both classes.
    """
    labels, logits = np.asarray(labels, int), np.asarray(logits, float)
    positives, negatives = labels.sum(), (1 - labels).sum()
    if not positives or not negatives:
        return {"slope": 1.0, "intercept": 0.0}
    targets = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    spread = max(float(np.std(logits)), 1e-6)
    standard = (logits - np.mean(logits)) / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = parameters[0] * standard + parameters[1]
        excess = special.expit(scaled) - targets
        gradient = np.array([np.mean(excess * standard), np.mean(excess)])
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled)), gradient

    low, high = spread * np.array(SLOPES)
    start = [np.clip(1.0, low, high), special.logit(targets.mean())]
    options = {"jac": True, "bounds": [(low, high), (None, None)], "tol": 1e-12}
    best = scipy.optimize.minimize(loss, start, method="L-BFGS-B", **options).x
    slope = float(best[0] / spread)
    return {"slope": slope, "intercept": float(best[1] - slope * np.mean(logits))}


def ensemble(predictions: pd.DataFrame, operating_points: pd.DataFrame) -> pd.DataFrame:
    """The rows of the Ensemble, the mean of the calibrated logits of several networks, rounded
    as in files; no rows if there is one network or the predictions already have an Ensemble.
    """
    rows = predictions[predictions["kind"] == "network"]
    if rows["model"].nunique() < 2 or ENSEMBLE in set(predictions["model"]):
        return rows.head(0)
    points = operating_points.set_index("model").loc[rows["model"]].set_axis(rows.index)
    logits = pd.Series(calibrated(rows["logit"], points))
    logits = logits.groupby([rows["split"], rows["path"]]).transform("mean")
    rows = rows.assign(model=ENSEMBLE, kind="ensemble", logit=logits)
    rows = rows.assign(probability=special.expit(logits)).drop_duplicates(["split", "path"])
    return rows.assign(logit=tables.rounded(rows[["logit"]])["logit"])


def select_model(predictions: pd.DataFrame) -> str | None:
    """The network with the highest AUC on validation, or mean AUC out of fold; ties are broken
    by the likelihood of the probabilities; None if a class is missing, overall or in a fold.
    """
    rows = calibrating(predictions[predictions["kind"] == "network"])
    merits = {}
    for model, own in rows.groupby("model", sort=False):
        labels = (own["label"] == FRACTURED).to_numpy(int)
        (auc,), _ = metrics.delong(labels, own[["logit"]].to_numpy(), None, folds_of(own))
        likelihood = np.where(labels == 1, own["probability"], 1 - own["probability"])
        merits[model] = auc.round(9), np.log(likelihood.clip(1e-15)).mean()
    if np.isnan([*merits.values()]).any():
        return None
    return max(merits, key=merits.get, default=None)
