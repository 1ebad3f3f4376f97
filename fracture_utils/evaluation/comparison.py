"""Paired tests between models on the same test images."""

import itertools

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils import tables
from fracture_utils.evaluation.intervals import Z, holm, percentiles, resample, with_limits
from fracture_utils.evaluation.metrics import delong, roc_area, roc_counts
from fracture_utils.evaluation.predictions import compared

POWER = Z + special.ndtri(0.8)  # standard errors that are detected in 80 % of test sets


def pairs(
    predictions: pd.DataFrame, selected: str | None = None, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The comparisons table: a row per pair of models except references, on the test images.

    Intervals: paired bootstrap over groups; tests: clustered DeLong, `paired`. Holm's correction by
    family: pairs of networks, pairs with an ensemble, and (AUC only) pairs with `selected`.
    """
    data, rows = compared(predictions), []
    auc, covariance = delong(data.labels, data.logits, data.groups)
    weights = resample(data.labels, data.groups, resamples, seed)
    draws = np.hstack([
        [roc_area(*roc_counts(data.labels, logits, chunk)) for logits in data.logits.T]
        for chunk in weights
    ])  # fmt: skip
    correct = data.decisions == (data.labels == 1)[:, None]
    tested = {"sensitivity": data.labels == 1, "specificity": data.labels == 0}
    for a, b in itertools.combinations(np.argsort(-auc, kind="stable"), 2):
        limits = percentiles(draws[a] - draws[b], data.groups)
        variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        family = "ensembles" if "ensemble" in (data.kinds[a], data.kinds[b]) else "networks"
        row = {"model_a": data.models[a], "model_b": data.models[b], "family": family}
        row |= with_limits("difference", auc[a] - auc[b], *limits)
        row |= {"p_delong": p_delong(auc[a] - auc[b], variance)}
        for name, of in tested.items():
            row[f"p_{name}"] = paired(correct[of, a], correct[of, b], data.groups[of])
        rows.append(row)
    table = pd.DataFrame(rows, columns=tables.columns("comparisons"))
    for test in ("p_delong", "p_sensitivity", "p_specificity"):
        table[f"{test}_holm"] = table.groupby("family")[test].transform(holm)
    of_selected = table[["model_a", "model_b"]].eq(selected).any(axis=1)
    return table.assign(p_selected_holm=holm(table["p_delong"].where(of_selected)))


def p_delong(difference: float, variance: float) -> float:
    """The two-sided p value of a difference of AUCs; NaN where the variance is undefined."""
    if variance > 1e-15:
        return float(2 * special.ndtr(-abs(difference) / np.sqrt(variance)))
    return 1.0 if variance <= 1e-15 and abs(difference) < 1e-12 else np.nan


def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> float:
    """The p value of the test that two models are equally often correct, (n,) bool, in groups (n,).

    McNemar's exact test on groups: under the null hypothesis, the balance of a group (images that
    only the first gets right minus those of the second) has either sign with equal probability
    (large-sample form: Durkalski et al. 2003, Stat Med 22:2417). NaN below two groups.
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


def against(comparisons: pd.DataFrame, model: str) -> pd.DataFrame:
    """Pairs of a model by the other's name: lead in AUC with limits, detectable difference,
    corrected p.
    """
    rows = comparisons[comparisons[["model_a", "model_b"]].eq(model).any(axis=1)]
    first, width = rows["model_a"] == model, rows["difference_high"] - rows["difference_low"]
    columns = {
        "lead": rows["difference"].where(first, -rows["difference"]),
        "lead_low": rows["difference_low"].where(first, -rows["difference_high"]),
        "lead_high": rows["difference_high"].where(first, -rows["difference_low"]),
        "detectable": POWER * width / (2 * Z),
        "p": rows["p_selected_holm"].fillna(rows["p_delong_holm"]),
    }
    return pd.DataFrame(columns).set_axis(rows["model_b"].where(first, rows["model_a"]), axis=0)
