"""What a network would be worth to those who use it: errors in a hundred, predictive values where
fractures are as common as there, and whether acting on it beats acting on everyone or no one.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import special
from statsmodels.stats.proportion import proportion_confint

from fracture_utils import tables
from fracture_utils.evaluation import bootstrap, metrics
from fracture_utils.evaluation.intervals import ENDS, errors_of_100, named
from fracture_utils.evaluation.predictions import contenders
from fracture_utils.evaluation.subgroups import design_effect

THRESHOLDS = np.arange(1, 100) / 100
"""Probabilities of a fracture from which on a person might act."""
CURVE = tables.NAMES["decision_curve"]


def table(
    predictions: pd.DataFrame,
    scores: pd.DataFrame,
    prevalence: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a model but the references, at the threshold chosen on validation, on the test
    pictures: model, prevalence, then seven values, each with <value>_low and <value>_high (95 %).

    missed_of_100: of 100 fractures; alarms_of_100: of 100 normal pictures. ppv and npv hold where
    `prevalence` of the pictures are fractured (None: their share in the test). lr_positive and
    lr_negative are the likelihood ratios; a positive one is infinite where there is no false
    alarm. Their intervals, and by way of them those of ppv and npv, follow from those of
    sensitivity and specificity in `scores` (`ratio`). mcc: Matthews's correlation (0 where only
    one decision is made), interval by bootstrap over groups at this share of fractures.
    """
    seen = contenders(predictions)
    share = float(seen.labels.mean()) if prevalence is None else prevalence
    known = scores.set_index("model")
    weights = bootstrap.weights(seen.labels, seen.groups, resamples, seed)
    rows = []
    for index, model in enumerate(seen.models):
        row = {"model": model, "prevalence": share}
        row |= named("missed_of_100", *errors_of_100(known.loc[model], "sensitivity"))
        row |= named("alarms_of_100", *errors_of_100(known.loc[model], "specificity"))
        row |= _ratios(known.loc[model], share)
        decisions = seen.decisions[:, index]
        draws = correlation(seen.labels, decisions, weights)
        once = correlation(seen.labels, decisions, np.ones((len(decisions), 1)))
        several = len(np.unique(seen.groups)) > 1
        ends = np.percentile(draws, [2.5, 97.5]) if several else (np.nan, np.nan)
        rows.append(row | named("mcc", once[0], *ends))
    return pd.DataFrame(rows)


def _ratios(scores: Mapping[str, float], prevalence: float) -> dict[str, float]:
    """Likelihood ratios and predictive values (Bayes's rule), each with its interval."""
    found, cleared = (
        np.array([scores[f"{metric}{end}"] for end in ENDS], float)
        for metric in ("sensitivity", "specificity")
    )
    positive = ratio(found, 1 - cleared[[0, 2, 1]])
    negative = ratio(1 - found[[0, 2, 1]], cleared)
    odds = prevalence / (1 - prevalence) if prevalence < 1 else np.inf
    with np.errstate(invalid="ignore", divide="ignore"):
        ppv = 1 - 1 / (1 + odds * positive)
        npv = (1 / (1 + odds * negative))[[0, 2, 1]]
    worth = named("ppv", *ppv) | named("npv", *npv)
    return worth | named("lr_positive", *positive) | named("lr_negative", *negative)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """The ratio of two independent estimates and its interval, from the estimates, their lower and
    their upper bounds, (3,) each: Donner and Zou (2012), section 2.2. Holds at 0 and 1, too.
    """
    (p, p_low, p_high), (q, q_low, q_high) = above, below
    low_product, high_product = p_low * (2 * p - p_low), p_high * (2 * p - p_high)
    q_high_product, q_low_product = q_high * (2 * q - q_high), q_low * (2 * q - q_low)
    with np.errstate(invalid="ignore", divide="ignore"):
        low = p * q - np.sqrt(np.maximum((p * q) ** 2 - low_product * q_high_product, 0))
        high = p * q + np.sqrt(np.maximum((p * q) ** 2 - high_product * q_low_product, 0))
        low, high = np.divide(low, q_high_product), np.divide(high, q_low_product)
        point = np.divide(p, q)
    if np.isnan([p_low, q_low]).any():
        return np.array([point, np.nan, np.nan])
    return np.array([point, max(low, 0), np.inf if q_low_product <= 0 else high])


def correlation(labels: np.ndarray, decisions: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Matthews's correlation coefficient under weights (n, b), as (b,)."""
    values = [labels, decisions, labels * decisions]
    positives, called, found = metrics.weighted(values, weights)
    n = weights.sum(axis=0)
    spread = np.sqrt(positives * (n - positives) * called * (n - called))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 0, (n * found - positives * called) / spread, 0.0)


def decision_curve(predictions: pd.DataFrame, prevalence: float | None = None) -> pd.DataFrame:
    """The net benefit of acting where a model's calibrated probability reaches a threshold
    (Vickers and Elkin 2006): CURVE, a row for each of THRESHOLDS and models but the references.

    In true positives per picture, less the false ones at the odds of the threshold: who acts from
    0.1 on takes nine false alarms for one fracture. treat_all is the net benefit of acting on
    every picture, that of acting on none is 0. All of it where `prevalence` of the pictures are
    fractured (None: their share in the test): both classes are weighted so, and the probabilities
    moved there by Bayes's rule. Intervals (95 %) at that share: see `net_benefit`. Empty where the
    test has one class.
    """
    seen = contenders(predictions)
    observed = float(seen.labels.mean())
    if observed in (0, 1):
        return pd.DataFrame(columns=CURVE)
    share = observed if prevalence is None else prevalence
    moved = special.logit(share) - special.logit(observed)
    all_of_them = share - (1 - share) * THRESHOLDS / (1 - THRESHOLDS)
    curves = []
    for model, said in zip(seen.models, seen.probabilities.T, strict=True):
        probability = special.expit(special.logit(said) + moved) if moved else said
        found = net_benefit(seen.labels, probability, seen.groups, share)
        values = (model, THRESHOLDS, *found, all_of_them)
        curves.append(pd.DataFrame(dict(zip(CURVE, values, strict=True))))
    return pd.concat(curves, ignore_index=True)


def net_benefit(
    labels: np.ndarray, probability: np.ndarray, groups: np.ndarray, prevalence: float
) -> np.ndarray:
    """The net benefit at each of THRESHOLDS, its lower and its upper bound, (3, 99), of n pictures.

    Sensitivity and false alarms get Wilson's interval on counts divided by their design effect, and
    the bounds follow from both (Zou and Donner 2008), so that few fractures prove little. NaN
    where a class is in fewer than two groups.
    """
    odds = THRESHOLDS / (1 - THRESHOLDS)
    found, alarms = (
        np.array([_rate(probability[of] >= threshold, groups[of]) for threshold in THRESHOLDS]).T
        for of in (labels == 1, labels == 0)
    )
    gain, cost = prevalence * found, (1 - prevalence) * odds * alarms
    point = gain[0] - cost[0]
    below = np.hypot(gain[0] - gain[1], cost[2] - cost[0])
    above = np.hypot(gain[2] - gain[0], cost[0] - cost[1])
    return np.stack([point, point - below, point + above])


def _rate(acted: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
    """The share that is acted on, with its interval."""
    if len(np.unique(groups)) < 2:
        return float(acted.mean()), np.nan, np.nan
    effective = len(acted) / design_effect(acted, groups)
    low, high = proportion_confint(acted.mean() * effective, effective, method="wilson")
    return float(acted.mean()), float(low), float(high)


def worthwhile(curve: pd.DataFrame, model: str) -> tuple[float, float] | None:
    """The longest range of thresholds at each of which the whole interval of a model's net benefit
    lies above acting on all and on none; None where there is no such threshold.
    """
    rows = curve[curve["model"] == model].sort_values("threshold")
    better = (rows["net_benefit_low"] > rows["treat_all"].clip(lower=0) + 1e-12).to_numpy()
    runs = [run for _, run in rows[better].groupby((~better).cumsum()[better])]
    if not runs:
        return None
    longest = max(runs, key=len)["threshold"]
    return float(longest.iloc[0]), float(longest.iloc[-1])
