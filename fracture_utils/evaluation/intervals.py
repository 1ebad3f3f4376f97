"""Confidence intervals, tests and resamples for images in groups (of one patient)."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint

SIGNIFICANCE, PERCENTILES, QUANTILE = 0.05, [2.5, 97.5], stats.norm.ppf(0.975)
ENDS = ("", "_low", "_high")


def with_limits(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """An estimate and its confidence limits by the names of their columns."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values of a family of tests after Holm's correction; NaN (no test) stays NaN."""
    # Not by statsmodels, which runs the garbage collector at each call.
    raw = np.asarray(p, float)
    order = np.argsort(raw)[: np.isfinite(raw).sum()]
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1))
    adjusted = np.full(len(raw), np.nan)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def newcombe(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """The limits of an AUC from the (effective) numbers of both classes; NaN if one is 0.

    Newcombe's method 5 (2006, Stat Med 25:559): the AUCs that lie QUANTILE of their own standard
    errors (Hanley and McNeil's, both classes at their mean size) from the estimate.
    """
    if min(positives, negatives) <= 0:
        return np.nan, np.nan
    others, edge = (positives + negatives) / 2 - 1, 1e-9

    def excess(truth: float) -> float:
        spread = 1 + others * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * max(spread, edge) / (positives * negatives)
        return (auc - truth) ** 2 - QUANTILE**2 * variance

    near = float(np.clip(auc, edge, 1 - edge))
    low = 0.0 if excess(edge) <= 0 else optimize.brentq(excess, edge, near)
    high = 1.0 if excess(1 - edge) <= 0 else optimize.brentq(excess, near, 1 - edge)
    return low, high


def design_effect(correct: np.ndarray, groups: np.ndarray) -> float:
    """The variance of a proportion in groups over the binomial one, at least 1 (Kish 1965)."""
    share, codes = correct.mean(), np.unique(groups, return_inverse=True)[1]
    count = codes.max() + 1
    if count in (1, len(correct)) or share in (0, 1):
        return float(len(correct)) if count == 1 else 1.0
    excess = np.bincount(codes, correct - share)
    variance = count / (count - 1) * np.sum(excess**2) / len(correct)
    return max(1.0, float(variance / (share * (1 - share))))


def wilson(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """The share of `correct` (n,) bool in `groups` (n,) and its limits; NaN below two groups.

    Wilson's (1927) on the effective sample size, with Student's t for the number of groups (Korn &
    Graubard 1998; Dean & Pavlou 2015). Where all values are equal, a group counts as one image.
    """
    number, n = len(np.unique(groups)), len(correct)
    share = float(correct.mean()) if n else np.nan
    if number < 2:
        return share, np.nan, np.nan
    effective = n - 1 if number == n else n / design_effect(correct, groups)
    count = number if share in (0, 1) else effective
    alpha = 2 * stats.norm.sf(stats.t.ppf(0.975, number - 1))
    return share, *proportion_confint(share * count, count, alpha, "wilson")


def resample(
    labels: np.ndarray, groups: np.ndarray, resamples: int, seed: int, stratified: bool = True
) -> Iterator[np.ndarray]:
    """Weights (n, some of `resamples`) of n images in bootstrap resamples of whole groups; if
    `stratified`, groups with and without a fracture are drawn separately.
    """
    generator, count = np.random.default_rng(seed), int(groups.max()) + 1
    fractured = (np.bincount(groups, weights=labels, minlength=count) > 0) & stratified
    strata = [np.flatnonzero(fractured), np.flatnonzero(~fractured)]
    size = max(1, 200_000 // len(labels))  # a chunk fits into the processor's cache
    for start in range(0, resamples, size):
        width = min(size, resamples - start)
        counts = np.zeros((count, width))
        for stratum in filter(len, strata):
            draws = stratum[generator.integers(len(stratum), size=(width, len(stratum)))]
            cells = draws * width + np.arange(width)[:, None]
            counts += np.bincount(cells.ravel(), minlength=count * width).reshape(count, width)
        yield counts[groups]


def percentiles(draws: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The limits of bootstrap draws; NaN below two groups of images or without a defined draw."""
    defined = len(np.unique(groups)) > 1 and not np.isnan(draws).all()
    return np.nanpercentile(draws, PERCENTILES) if defined else np.full(2, np.nan)
