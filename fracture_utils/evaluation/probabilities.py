"""What probabilities are worth: tests that are fair to a network whose word can be believed.

The mean distance of said and seen shares (expected calibration error) is above zero for every
network on every finite test set, an honest one included. What can be tested is whether the
probabilities are right on the whole and spread as they should be (Van Calster et al. 2019, BMC
Medicine 17:230).
"""

import warnings
from typing import Any

import numpy as np
from scipy import special, stats
from statsmodels.genmod import families
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from fracture_utils.evaluation import intervals

NAMES = ("calibration_intercept", "calibration_slope", "observed_expected")
"""Columns of `judge`, each with `_low` and `_high`; the values of an honest network are 0, 1, 1."""
BINS = 10
"""Of the reliability figure and of the expected calibration error."""
LEAST = 10
"""Pictures of each class below which no calibration is judged."""
EXTREME = 1e-6
SIMULATIONS = 200


def judge(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, seed: int = 0
) -> dict[str, float]:
    """How far the probabilities (n,) of one model agree with the labels (n,), n pictures in groups.

    calibration_intercept (calibration-in-the-large: log odds by which they are too low),
    calibration_slope (below 1: too sure), observed_expected (fractures seen over fractures
    expected), each with 95 % limits; calibration_p, the joint test of intercept 0 and slope 1;
    brier_skill (share of the Brier score of always saying the base rate that is saved); and
    chance_calibration_error, the expected calibration error that an honest network with these
    probabilities would show on as many pictures. Covariances heed groups (sandwich). NaN where a
    class has fewer than LEAST pictures, all pictures are one group or all probabilities are equal.
    """
    nothing = {f"{name}{end}": np.nan for name in NAMES for end in intervals.ENDS}
    nothing |= dict.fromkeys(("calibration_p", "brier_skill", "chance_calibration_error"), np.nan)
    positives = labels.sum()
    if min(positives, len(labels) - positives) < LEAST or len(np.unique(groups)) < 2:
        return nothing
    found = {"brier_skill": _skill(labels, probabilities)}
    found |= {"chance_calibration_error": _by_chance(probabilities, seed)}
    expected = _interval("observed_expected", *_ratio(labels, probabilities, groups), np.exp)
    if np.ptp(probabilities) < EXTREME:
        return nothing | found | expected
    logits = special.logit(np.clip(probabilities, EXTREME, 1 - EXTREME))
    ones = np.ones((len(labels), 1))
    large = _fit(labels, ones, groups, logits)
    both = _fit(labels, np.column_stack([logits, ones]), groups)
    if large is None or both is None:
        return nothing | found | expected
    off = both.params - [1, 0]
    wald = float(off @ np.linalg.solve(both.cov_params(), off))
    found["calibration_p"] = float(stats.chi2.sf(wald, 2))
    found |= _interval("calibration_intercept", large.params[0], large.bse[0])
    found |= _interval("calibration_slope", both.params[0], both.bse[0])
    return nothing | found | expected


def _fit(
    labels: np.ndarray, design: np.ndarray, groups: np.ndarray, offset: np.ndarray | None = None
) -> Any:
    """A logistic regression with a covariance that heeds groups; None where it has no solution."""
    alone = len(np.unique(groups)) == len(groups)
    kind = {"cov_type": "HC0"} if alone else {"cov_type": "cluster", "cov_kwds": {"groups": groups}}
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", PerfectSeparationWarning)
            fitted = GLM(labels, design, families.Binomial(), offset=offset).fit(**kind)
    except (PerfectSeparationWarning, np.linalg.LinAlgError, ValueError):
        return None
    sound = np.isfinite(fitted.params).all() and np.isfinite(fitted.bse).all()
    return fitted if sound and (fitted.bse > 0).all() and fitted.converged else None


def _interval(name: str, value: float, error: float, shown: Any = float) -> dict[str, float]:
    margin = intervals.QUANTILE * error
    return intervals.named(name, *map(shown, (value, value - margin, value + margin)))


def _ratio(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    """The logarithm of observed over expected fractures, and its standard error (delta method)."""
    observed, expected = labels.sum(), max(probabilities.sum(), EXTREME)
    residual = labels / observed - probabilities / expected
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], residual)
    return float(np.log(observed / expected)), float(np.sqrt(np.square(sums).sum()))


def _skill(labels: np.ndarray, probabilities: np.ndarray) -> float:
    base = labels.mean()
    return float(1 - np.mean((probabilities - labels) ** 2) / (base * (1 - base)))


def _by_chance(probabilities: np.ndarray, seed: int) -> float:
    """The mean expected calibration error of labels drawn from the probabilities themselves (the
    consistency resampling of Broecker & Smith 2007).
    """
    generator = np.random.default_rng(seed)
    excess = probabilities - (generator.random((SIMULATIONS, len(probabilities))) < probabilities)
    gaps = [excess[:, of].sum(axis=1) for of in bins(probabilities)]
    return float(np.abs(gaps).sum(axis=0).mean() / len(probabilities))


def bins(probabilities: np.ndarray) -> np.ndarray:
    """Which of n probabilities lie in each of BINS bins of equal width: bool (BINS, n)."""
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return number == np.arange(BINS)[:, None]
