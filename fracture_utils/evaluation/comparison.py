"""Which model is better, tested in pairs on the same pictures; how often each one wins."""

import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from fracture_utils.evaluation import bootstrap, metrics
from fracture_utils.evaluation.intervals import SIGNIFICANT
from fracture_utils.evaluation.metrics import delong
from fracture_utils.evaluation.predictions import Answers, contenders

COLUMNS = (
    "model_a",
    "model_b",
    "difference",
    "difference_low",
    "difference_high",
    "p_delong",
    "p_sensitivity",
    "p_specificity",
    "p_delong_holm",
    "p_sensitivity_holm",
    "p_specificity_holm",
)
TESTS = ("p_delong", "p_sensitivity", "p_specificity")


def pairs(predictions: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every pair of models but the references, on the test rows: see COLUMNS.

    model_a is the one with the higher AUC; difference is AUC a - AUC b, its interval a paired
    bootstrap's over groups. p_delong is DeLong's test (clustered by group, see metrics.delong),
    p_sensitivity and p_specificity compare the decisions about the pictures of one class
    (`paired`, clustered too). NaN where a test is not defined.

    Each test is adjusted by Holm's method within a family: the pairs of networks are one, the
    pairs with an ensemble another. So the p values of the
    networks are the same whether or not ensembles stand beside them.
    """
    seen = contenders(predictions)
    auc, covariance = delong(seen.labels, seen.logits, seen.groups)
    ranking = np.argsort(-auc, kind="stable")
    draws = _bootstrap(seen, resamples, seed)
    rows = []
    for a, b in itertools.combinations(ranking, 2):
        low, high = np.nan, np.nan
        if len(np.unique(seen.groups)) > 1:
            low, high = np.percentile(draws[:, a] - draws[:, b], [2.5, 97.5])
        variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
        p_delong = _p_delong(auc[a] - auc[b], variance)
        right = seen.decisions[:, [a, b]] == (seen.labels == 1)[:, None]
        p_decisions = []
        for of_class in (seen.labels == 1, seen.labels == 0):
            first, second = right[of_class].T
            p_decisions.append(paired(first, second, seen.groups[of_class]))
        names = seen.models[a], seen.models[b]
        rows.append((*names, auc[a] - auc[b], low, high, p_delong, *p_decisions))
    table = pd.DataFrame(rows, columns=list(COLUMNS[:8]))
    networks = {m for m, kind in zip(seen.models, seen.kinds, strict=True) if kind == "network"}
    derived = ~table[["model_a", "model_b"]].isin(networks).all(axis=1)
    for test in TESTS:
        table[f"{test}_holm"] = np.nan
        for family in (derived, ~derived):
            table.loc[family, f"{test}_holm"] = _holm(table.loc[family, test])
    return table


def rank_stability(predictions: pd.DataFrame, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Columns model and wins: the share of bootstrap resamples in which the network has the
    highest test AUC (a shared first place is divided), highest share first.
    """
    seen = _networks(predictions)
    draws = _bootstrap(seen, resamples, seed)
    first = draws >= draws.max(axis=1, keepdims=True) - 1e-12
    wins = (first / np.maximum(first.sum(axis=1, keepdims=True), 1)).mean(axis=0)
    wins = wins if np.isfinite(draws).all() else np.full(len(wins), np.nan)
    table = pd.DataFrame({"model": seen.models, "wins": wins})
    return table.sort_values("wins", ascending=False, kind="stable", ignore_index=True)


class Power(NamedTuple):
    """How many test pictures it takes to separate the first two networks."""

    model_a: str
    model_b: str
    difference: float
    pictures: int
    needed: float
    """Infinite where the two do not differ, NaN where their variance is not defined."""


def power(
    predictions: pd.DataFrame, power: float = 0.8, level: float = SIGNIFICANT
) -> Power | None:
    """Test pictures needed to find the difference between the two highest AUCs significant.

    Takes the observed difference for the true one, and the observed variance of the paired
    difference (which holds the correlation of the two) as shrinking with the number of pictures,
    at the same share of fractures. None where there are no two models to compare.
    """
    seen = _networks(predictions)
    auc, covariance = delong(seen.labels, seen.logits, seen.groups)
    if len(auc) < 2 or np.isnan(auc).any():
        return None
    a, b = np.argsort(-auc, kind="stable")[:2]
    variance = covariance[a, a] + covariance[b, b] - 2 * covariance[a, b]
    quantiles = stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)
    difference = float(auc[a] - auc[b])
    pictures = len(seen.labels)
    needed = np.inf
    if difference > 1e-12:
        needed = np.ceil(pictures * variance * (quantiles / difference) ** 2)
    return Power(seen.models[a], seen.models[b], difference, pictures, float(needed))


def _networks(predictions: pd.DataFrame) -> Answers:
    """The contenders without the ensembles that are made of them, if that leaves any."""
    single = predictions[predictions["kind"] == "network"]
    return contenders(single if len(single) else predictions)


def _bootstrap(seen: Answers, resamples: int, seed: int) -> np.ndarray:
    """AUC of each model in each resample, (resamples, models); the resamples of metrics.scores."""
    return np.concatenate([
        np.stack([
            metrics.area(*metrics.curve(seen.labels, logits, weights)) for logits in seen.logits.T
        ], axis=1)
        for weights in bootstrap.resample(seen.labels, seen.groups, resamples, seed)
    ])  # fmt: skip


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


def _holm(p: pd.Series) -> np.ndarray:
    adjusted = np.full(len(p), np.nan)
    tested = p.notna().to_numpy()
    if tested.any():
        adjusted[tested] = multipletests(p[tested], method="holm")[1]
    return adjusted
