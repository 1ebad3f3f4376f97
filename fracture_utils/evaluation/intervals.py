"""Intervals that keep their promise where pictures are few, come in groups, or are all right."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
"""Of all intervals of the project."""
QUANTILE = stats.norm.ppf(0.5 + LEVEL / 2)
"""Standard errors from a normal estimate to an end of its interval."""
ENDS = ("", "_low", "_high")
"""Behind a column's name: the number itself, and the ends of its interval."""
SIGNIFICANT = 0.05
"""p value below which a difference is said; of all tests of the project."""
EDGE = 1e-9


def named(name: str, value: float, low: float, high: float) -> dict[str, float]:
    """A number and the ends of its interval, by the names of their columns."""
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


def errors_of_100(scores: Mapping, share: str) -> tuple[float, float, float]:
    """How many of 100 a share of right answers leaves wrong, and the ends of its interval."""
    value, low, high = (100 - 100 * scores[f"{share}{end}"] for end in ENDS)
    return value, high, low


def holm(p: Sequence[float]) -> np.ndarray:
    """The p values of a family of tests after Holm's correction; NaN, no test, stays NaN.

    Not by statsmodels, which collects the garbage of the whole process at each call.
    """
    raw = np.asarray(p, float)
    adjusted, tested = np.full(len(raw), np.nan), np.flatnonzero(~np.isnan(raw))
    order = tested[np.argsort(raw[tested])]
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def newcombe(auc: float, positives: float, negatives: float) -> tuple[float, float]:
    """The interval of an AUC from (effective) numbers of both classes.

    Method 5 of Newcombe (2006, Statistics in Medicine 25:559-573): the AUCs whose own standard
    error, Hanley and McNeil's for exponential scores with both classes at their mean size, puts
    them a normal quantile away from the one observed. Like Wilson's interval it never leaves 0
    to 1 and has a width where the observed AUC is 1. NaN where a class is empty.
    """
    if not positives > 0 or not negatives > 0 or np.isnan(auc):
        return np.nan, np.nan
    others = (positives + negatives) / 2 - 1

    def distance(truth: float) -> float:
        spread = 1 + others * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * max(spread, EDGE) / (positives * negatives)
        return (auc - truth) ** 2 - QUANTILE**2 * variance

    near = float(np.clip(auc, EDGE, 1 - EDGE))
    low = 0.0 if distance(EDGE) <= 0 else optimize.brentq(distance, EDGE, near)
    high = 1.0 if distance(1 - EDGE) <= 0 else optimize.brentq(distance, near, 1 - EDGE)
    return float(low), float(high)


def design_effect(clustered: float, independent: float) -> float:
    """How many pictures of a set of groups are worth one independent picture: the variance with
    groups over the one without (Obuchowski 1997; Kish 1965), at least 1.
    """
    if not independent > 0 or not np.isfinite(clustered):
        return 1.0
    return max(clustered / independent, 1.0)


def wilson(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The interval of a share: `right` (n,) of 0 and 1, in `groups` (n,) of integers.

    Wilson's (1927) interval on the effective number of pictures, with the quantile of Student's t
    for the number of groups (Korn & Graubard 1998; Dean & Pavlou 2015). Where all agree nothing
    tells the effective number, and each group counts as one picture. NaN below two groups.
    """
    number = len(np.unique(groups))
    if number < 2:
        return np.nan, np.nan
    share = float(right.mean())
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], right - share)
    clustered = number / (number - 1) * np.square(sums).sum() / len(right) ** 2
    independent = share * (1 - share) / len(right)
    count = number if independent == 0 else len(right) / design_effect(clustered, independent)
    t = stats.t.ppf(0.5 + LEVEL / 2, number - 1)
    middle = (share + t**2 / (2 * count)) / (1 + t**2 / count)
    half = t * np.sqrt(share * (1 - share) / count + t**2 / (4 * count**2)) / (1 + t**2 / count)
    return float(max(middle - half, 0)), float(min(middle + half, 1))
