"""Paired tests between models, on the test images and out of fold."""

import itertools

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils import tables
from fracture_utils.config import OUT_OF_FOLD
from fracture_utils.evaluation.intervals import Z, holm, with_limits
from fracture_utils.evaluation.metrics import auc_with_interval, delong
from fracture_utils.evaluation.predictions import PredictionMatrix, compared, out_of_fold

POWER = Z + special.ndtri(0.8)  # standard errors for a power of 80 %
DRAWS = 2000  # Monte Carlo draws of the largest error of several AUCs


def pairs(predictions: pd.DataFrame, selected: str | None = None) -> pd.DataFrame:
    """The comparisons table. On the test images: `selected`, a model that was selected without
    them, against every other model except references; if None, a row per pair. Out of fold: a row
    per pair of networks, by the mean AUC of the folds.

    Clustered DeLong with Student's t (interval and test) and, on the test images, `paired`. Holm's
    correction over the rows of the same data.
    """
    parts = [_pairs(compared(predictions), None, selected, "test")]
    if (predictions["split"] == OUT_OF_FOLD).any():
        data, folds = out_of_fold(predictions)
        parts.append(_pairs(data, folds, None, OUT_OF_FOLD))
    return pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)


def _pairs(
    data: PredictionMatrix, folds: np.ndarray | None, selected: str | None, name: str
) -> pd.DataFrame:
    auc, covariance = delong(data.labels, data.logits, data.groups, folds)
    correct = data.decisions == (data.labels == 1)[:, None]
    counts = [len(np.unique(data.groups[data.labels == label])) for label in (0, 1)]
    degrees = max(1, min(counts) - (1 if folds is None else len(np.unique(folds))))
    tested = {"sensitivity": data.labels == 1, "specificity": data.labels == 0}
    by_auc, rows = np.argsort(-auc, kind="stable"), []
    order = sorted(by_auc, key=lambda k: data.models[k] != selected)  # the selected one first
    for a, b in itertools.combinations(order, 2):
        if selected not in (None, data.models[a]):
            continue
        difference = auc[a] - auc[b]
        variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        margin = special.stdtrit(degrees, 0.975) * np.sqrt(np.maximum(variance, 0))
        row = {"data": name, "model_a": data.models[a], "model_b": data.models[b]}
        row |= with_limits("difference", difference, difference - margin, difference + margin)
        row |= {"p_delong": p_delong(difference, variance, degrees)}
        for metric, of in tested.items() if folds is None else ():
            row[f"p_{metric}"] = paired(correct[of, a], correct[of, b], data.groups[of])
        rows.append(row)
    table = pd.DataFrame(rows, columns=tables.columns("comparisons"))
    for test in ("p_delong", "p_sensitivity", "p_specificity"):
        table[f"{test}_holm"] = holm(table[test])
    return table


def cross_validation(predictions: pd.DataFrame, run: set[str]) -> pd.DataFrame:
    """The cross_validation table: per network a row for each fold and, as fold 0, their mean, also
    without the images in `run` (see `splits.one_class_run`); empty without out-of-fold rows.

    Intervals: Newcombe's on effective sample sizes. The first network, the one with the highest
    mean, was selected by it: its lower limit is reduced by the expected optimism of the highest of
    equally good networks, given their covariance. (A bootstrap that repeats the selection treats
    chance differences as true ones and underestimates the optimism.)
    """
    if not (predictions["split"] == OUT_OF_FOLD).any():
        return tables.empty("cross_validation")
    data, folds = out_of_fold(predictions)
    auc, covariance = delong(data.labels, data.logits, data.groups, folds)
    left, rows = ~np.isin(data.paths, [*run]), []
    parts = {0: np.ones(len(folds), bool)} | {fold: folds == fold for fold in np.unique(folds)}
    for k in np.argsort(-auc, kind="stable"):
        arrays = data.labels, data.logits[:, k], data.groups, folds
        for fold, own in parts.items():
            row = {"model": data.models[k], "fold": fold, "n": own.sum()}
            row["positives"] = data.labels[own].sum()
            row |= with_limits("auc", *auc_with_interval(*(array[own] for array in arrays)))
            if fold == 0 and not left.all():
                without = auc_with_interval(*(array[left] for array in arrays))
                row |= with_limits("auc_without_run", *without)
            rows.append(row)
    if len(auc) > 1 and np.isfinite(covariance).all():
        errors = np.random.default_rng(0).multivariate_normal(0 * auc, covariance, DRAWS)
        rows[0]["auc_low"] = max(0.0, rows[0]["auc_low"] - errors.max(axis=1).mean())
    return pd.DataFrame(rows, columns=tables.columns("cross_validation"))


def p_delong(difference: float, variance: float, degrees: float = np.inf) -> float:
    """The two-sided p value of a difference of AUCs by Student's t with as many degrees of freedom
    as groups of the rarer class, less one per fold; NaN where the variance is undefined.
    """
    if variance > 1e-15:
        return float(2 * special.stdtr(degrees, -abs(difference) / np.sqrt(variance)))
    return 1.0 if variance <= 1e-15 and abs(difference) < 1e-12 else np.nan


def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> float:
    """The p value of the test that two models are equally often correct, (n,) bool, in groups (n,).

    McNemar's exact test on groups: under the null hypothesis, the balance of a group (images that
    only the first gets right minus those of the second) has either sign with equal probability
    (large-sample form: Durkalski et al. 2003, Stat Med 22:2417). NaN for fewer than two groups.
    """
    names, codes = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return np.nan
    balance = np.bincount(codes, weights=first.astype(float) - second).astype(int)
    chances = np.ones(1)  # of each possible sum of the balances
    for size in np.abs(balance[balance != 0]):
        gap = np.zeros(size)
        chances = (np.concatenate([chances, gap, gap]) + np.concatenate([gap, gap, chances])) / 2
    sums = np.arange(len(chances)) - len(chances) // 2
    return float(min(1, chances[np.abs(sums) >= abs(balance.sum())].sum()))


def against(comparisons: pd.DataFrame, model: str, data: str = "test") -> pd.DataFrame:
    """The pairs with a model, indexed by the other model, on the test images or other `data`: lead
    in AUC with limits, detectable difference, corrected p.
    """
    rows = comparisons[comparisons["data"] == data]
    rows = rows[rows[["model_a", "model_b"]].eq(model).any(axis=1)]
    first, width = rows["model_a"] == model, rows["difference_high"] - rows["difference_low"]
    columns = {
        "lead": rows["difference"].where(first, -rows["difference"]),
        "lead_low": rows["difference_low"].where(first, -rows["difference_high"]),
        "lead_high": rows["difference_high"].where(first, -rows["difference_low"]),
        "detectable": POWER * width / (2 * Z),
        "p": rows["p_delong_holm"],
    }
    return pd.DataFrame(columns).set_axis(rows["model_b"].where(first, rows["model_a"]), axis=0)
