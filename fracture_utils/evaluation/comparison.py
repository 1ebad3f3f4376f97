"""Which model is better, tested in pairs on the same pictures; how often each one wins."""

import itertools

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from fracture_utils import tables
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.intervals import QUANTILE, holm
from fracture_utils.evaluation.metrics import delong, resampled_auc
from fracture_utils.evaluation.predictions import Answers, contenders

COLUMNS = tables.NAMES["comparisons"]
TESTS = ("p_delong", "p_sensitivity", "p_specificity", "p_mcnemar")
RULE = (
    "Holm's method corrects each test within a family: the pairs of networks are one, the pairs "
    "with an ensemble another, and a third, of the AUC alone, are the pairs of the network chosen "
    "on validation with every other network and ensemble"
)
"""What the p values are corrected for; the same in the notebook and on the command line."""
POWER = QUANTILE + stats.norm.ppf(0.8)
"""Standard errors of a difference that a test at 5 % shows in 80 % of test sets: 2.8."""


def pairs(predictions: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every pair of models but the references, on the test rows: see COLUMNS.

    model_a is the one with the higher AUC; difference is AUC a - AUC b, its interval a paired
    bootstrap's over groups. p_delong is DeLong's test (clustered by group, see metrics.delong),
    p_sensitivity and p_specificity compare the decisions about the pictures of one class
    (`paired`, clustered too), p_mcnemar all decisions (exact; it heeds no groups). NaN where a test
    is not defined.

    The column family is networks or ensembles, and …_holm is adjusted within it, p_chosen_holm
    within a third: see RULE. So the p values of the networks are the same whether or not ensembles
    stand beside them. p_chosen_holm is NaN in pairs without the chosen network.
    """
    seen = contenders(predictions)
    auc, covariance = delong(seen.labels, seen.logits, seen.groups)
    ranking = np.argsort(-auc, kind="stable")
    draws = resampled_auc(seen.labels, seen.logits, seen.groups, resamples, seed)
    several, rows = len(np.unique(seen.groups)) > 1, []
    for a, b in itertools.combinations(ranking, 2):
        gains = draws[:, a] - draws[:, b]
        ends = np.percentile(gains, [2.5, 97.5]) if several else (np.nan, np.nan)
        variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        p_delong = _p_delong(auc[a] - auc[b], variance)
        right = seen.decisions[:, [a, b]] == (seen.labels == 1)[:, None]
        classes = (seen.labels == 1, seen.labels == 0)
        p_decisions = [paired(right[of, 0], right[of, 1], seen.groups[of]) for of in classes]
        agreement = np.bincount(right @ [2, 1], minlength=4).reshape(2, 2)
        p_mcnemar = mcnemar(agreement, exact=True).pvalue
        family = "ensembles" if "ensemble" in (seen.kinds[a], seen.kinds[b]) else "networks"
        names = seen.models[a], seen.models[b], family
        rows.append((*names, auc[a] - auc[b], *ends, p_delong, *p_decisions, p_mcnemar))
    table = pd.DataFrame(rows, columns=COLUMNS[:10])
    for test in TESTS:
        table[f"{test}_holm"] = table.groupby("family")[test].transform(holm)
    asked = table[["model_a", "model_b"]].eq(calibration.chosen(predictions)).any(axis=1)
    table["p_chosen_holm"] = holm(table["p_delong"].where(asked))
    return table


def against(comparisons: pd.DataFrame, model: str) -> pd.DataFrame:
    """The pairs of one model, by the name of the other: lead (AUC of the model less the other's),
    error (its standard error), and p after Holm's correction: p_chosen_holm where it is known, else
    p_delong_holm.
    """
    mine = (comparisons["model_a"] == model) | (comparisons["model_b"] == model)
    rows = comparisons[mine]
    first = rows["model_a"] == model
    known = {
        "lead": np.where(first, 1, -1) * rows["difference"],
        "error": (rows["difference_high"] - rows["difference_low"]) / (2 * QUANTILE),
        "p": rows["p_chosen_holm"].fillna(rows["p_delong_holm"]),
    }
    return pd.DataFrame(known).set_axis(rows["model_b"].where(first, rows["model_a"]), axis=0)


def detectable(comparisons: pd.DataFrame, model: str) -> tuple[float, float]:
    """The smallest differences in AUC between one network and another that the test set can show:
    POWER standard errors of the paired difference, of the easiest and the hardest of its pairs
    with networks. NaN where no pair has a standard error.
    """
    error = against(comparisons[comparisons["family"] == "networks"], model)["error"]
    return POWER * error.min(), POWER * error.max()


def rank_stability(predictions: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Columns model and wins: the share of bootstrap resamples in which the network has the
    highest test AUC (a shared first place is divided), highest share first.
    """
    seen = _networks(predictions)
    draws = resampled_auc(seen.labels, seen.logits, seen.groups, resamples, seed)
    first = draws >= draws.max(axis=1, keepdims=True) - 1e-12
    wins = (first / np.maximum(first.sum(axis=1, keepdims=True), 1)).mean(axis=0)
    wins = wins if np.isfinite(draws).all() else np.full(len(wins), np.nan)
    table = pd.DataFrame({"model": seen.models, "wins": wins})
    return table.sort_values("wins", ascending=False, kind="stable", ignore_index=True)


def _networks(predictions: pd.DataFrame) -> Answers:
    """The contenders without the ensembles that are made of them, if that leaves any."""
    single = predictions[predictions["kind"] == "network"]
    return contenders(single if len(single) else predictions)


def _p_delong(difference: float, variance: float) -> float:
    if np.isnan(variance):
        return np.nan
    if variance <= 1e-15:
        return 1.0 if abs(difference) < 1e-12 else np.nan
    return float(2 * stats.norm.sf(abs(difference) / np.sqrt(variance)))


def paired(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> float:
    """The p value that two networks are right about equally many of the same n pictures.

    `first` and `second` (n,) say where each is right, `groups` (n,) which pictures belong together.
    McNemar's exact test with groups in the place of pictures: where nothing differs, a group's
    balance (pictures that only the first gets right less those that only the second does) is as
    likely to have the other sign, and the distribution of the sum over all signs is exact.
    Durkalski et al. (2003, Stat Med 22:2417) give a large-sample form. NaN where there are fewer
    than two groups; 1 where no group has a balance.
    """
    names, places = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        return np.nan
    balance = np.bincount(places, weights=first.astype(float) - second).round().astype(int)
    chances = np.ones(1)
    for size in np.abs(balance[balance != 0]):
        gap = np.zeros(size)
        chances = (np.concatenate([chances, gap, gap]) + np.concatenate([gap, gap, chances])) / 2
    sums = np.arange(len(chances)) - len(chances) // 2
    return float(min(1, chances[np.abs(sums) >= abs(balance.sum())].sum()))
