"""Confidence intervals, tests and resampling for images in groups (such as patients)."""

from collections.abc import Iterator, Sequence

import numpy as np
import scipy  # loads its modules on first use
from scipy import special

SIGNIFICANCE, PERCENTILES, Z = 0.05, [2.5, 97.5], special.ndtri(0.975)
ENDS = ("", "_low", "_high")


def with_limits(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """An estimate and its confidence limits, keyed by column name."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values of a family of tests after Holm's correction; NaN (no test) stays NaN."""
    # Not with statsmodels, which runs the garbage collector in each call.
    raw = np.asarray(p, float)
    order = np.argsort(raw)[: np.isfinite(raw).sum()]
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1))
    adjusted = np.full(len(raw), np.nan)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def newcombe(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """The limits of an AUC from the (effective) numbers of both classes, above 0.

    Newcombe's method 5 (2006, Stat Med 25:559): the AUCs that lie Z of their own standard
    errors (Hanley and McNeil's, both classes at their mean size) from the estimate.
    """
    others, edge = (positives + negatives) / 2 - 1, 1e-9

    def excess(truth: float) -> float:
        spread = 1 + others * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * max(spread, edge) / (positives * negatives)
        return (auc - truth) ** 2 - Z**2 * variance

    near = float(np.clip(auc, edge, 1 - edge))
    low = 0.0 if excess(edge) <= 0 else scipy.optimize.brentq(excess, edge, near)
    high = 1.0 if excess(1 - edge) <= 0 else scipy.optimize.brentq(excess, near, 1 - edge)
    return low, high


def design_effect(correct: np.ndarray, groups: np.ndarray) -> float:
    """Variance of a proportion in groups relative to the binomial one, at least 1 (Kish 1965)."""
    share, codes = correct.mean(), np.unique(groups, return_inverse=True)[1]
    count = codes.max() + 1
    if count in (1, len(correct)) or share in (0, 1):
        return float(len(correct)) if count == 1 else 1.0
    excess = np.bincount(codes, correct - share)
    variance = count / (count - 1) * np.sum(excess**2) / len(correct)
    return max(1.0, float(variance / (share * (1 - share))))


def wilson(correct: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """Proportion of `correct` (n,) bool in `groups` (n,) and limits; NaN for fewer than two groups.

    Wilson's interval (1927) on the effective sample size, with Student's t for the number of groups
    (Korn & Graubard 1998; Dean & Pagano 2015). For equal values, a group counts as one image.
    """
    from statsmodels.stats.proportion import proportion_confint  # the import takes a second

    number, n = len(np.unique(groups)), len(correct)
    share = float(correct.mean()) if n else np.nan
    if number < 2:
        return share, np.nan, np.nan
    effective = n - 1 if number == n else n / design_effect(correct, groups)
    count = number if share in (0, 1) else effective
    alpha = 2 * special.ndtr(-special.stdtrit(number - 1, 0.975))
    return share, *proportion_confint(share * count, count, alpha, "wilson")


def resample(
    labels: np.ndarray,
    groups: np.ndarray,
    resamples: int,
    seed: int,
    stratified: bool = True,
    power: float = 1.0,
) -> Iterator[np.ndarray]:
    """Weights (n, some of `resamples`) of n images in bootstrap resamples of whole groups; if
    `stratified`, groups with and without a fracture are drawn separately. With a `power` below 1,
    m = k**power of k groups are drawn (m out of n bootstrap, Bickel, Goetze and van Zwet 1997).
    """
    generator, count = np.random.default_rng(seed), int(groups.max()) + 1
    fractured = (np.bincount(groups, weights=labels, minlength=count) > 0) & stratified
    strata = [np.flatnonzero(fractured), np.flatnonzero(~fractured)]
    size = max(1, 200_000 // len(labels))  # a chunk fits into the processor's cache
    for start in range(0, resamples, size):
        width = min(size, resamples - start)
        counts = np.zeros((count, width))
        for stratum in filter(len, strata):
            drawn = max(1, round(len(stratum) ** power))
            draws = stratum[generator.integers(len(stratum), size=(width, drawn))]
            cells = draws * width + np.arange(width)[:, None]
            counts += np.bincount(cells.ravel(), minlength=count * width).reshape(count, width)
        yield counts[groups]


def percentiles(draws: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The limits of bootstrap draws; NaN for fewer than two groups or without a defined draw."""
    defined = len(np.unique(groups)) > 1 and not np.isnan(draws).all()
    return np.nanpercentile(draws, PERCENTILES) if defined else np.full(2, np.nan)
