"""Scores of the test rows, each with a 95 % interval that heeds groups."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special, stats

from fracture_utils.evaluation import intervals
from fracture_utils.evaluation.bootstrap import resample
from fracture_utils.evaluation.predictions import (
    FRACTURED,
    MAJORITY,
    NORMAL,
    Answers,
    answers,
)
from fracture_utils.evaluation.probabilities import bins, judge

METRICS = (
    "auc",
    "average_precision",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "sensitivity_at_90_specificity",
    "specificity_at_95_sensitivity",
    "brier",
    "log_loss",
    "expected_calibration_error",
)
SHARES = {
    "sensitivity": lambda labels, _: labels == 1,
    "specificity": lambda labels, _: labels == 0,
    "ppv": lambda _, called: called,
    "npv": lambda _, called: ~called,
    "accuracy": lambda labels, _: np.ones(len(labels), bool),
}
"""Metrics that are the share of right decisions among some pictures, and which these are."""


def scores(
    predictions: pd.DataFrame,
    initialisation: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a model, references last: model, kind, initialisation, n, positives, then each of
    METRICS with <metric>_low and <metric>_high (95 %), auc_delong_low and auc_delong_high, and what
    `probabilities.judge` finds.

    `predictions` come from calibration.apply; only test rows count. `initialisation` says for
    each network what it started from; ensembles follow their networks.
    The interval of the AUC is Newcombe's on the effective numbers of pictures, that of a share
    Wilson's (see `intervals`); the others are percentiles of a bootstrap over groups, in which the
    share of fractures varies as it would from one test set to the next. A metric or interval that
    is not defined (one class, below two groups of it) is NaN.
    """
    answers(predictions, "test")
    seen = answers(pd.concat([predictions, _majority(predictions)]), "test")
    table = _measure_all(seen, resamples, seed)
    auc, covariance = delong(seen.labels, seen.logits, seen.groups)
    margin = intervals.QUANTILE * np.sqrt(np.diag(covariance))
    table["auc_delong_low"] = np.clip(auc - margin, 0, 1)
    table["auc_delong_high"] = np.clip(auc + margin, 0, 1)
    judged = [judge(seen.labels, said, seen.groups, seed) for said in seen.probabilities.T]
    table = pd.concat([table, pd.DataFrame(judged)], axis=1)
    named = zip(seen.models, seen.kinds, strict=True)
    origin = [_initialisation(model, kind, initialisation or {}) for model, kind in named]
    table.insert(1, "kind", seen.kinds)
    table.insert(2, "initialisation", origin)
    last = table["kind"] == "reference"
    return pd.concat([table[~last], table[last]], ignore_index=True)


def _majority(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of a model that always answers the commoner class, as known before the test."""
    known = predictions["split"] != "test"
    known = predictions[known] if known.any() else predictions
    share = float((known.drop_duplicates("path")["label"] == FRACTURED).mean())
    rows = predictions[predictions["split"] == "test"].drop_duplicates("path")
    return rows.assign(
        model=MAJORITY,
        kind="reference",
        logit=float(special.logit(np.clip(share, 1e-6, 1 - 1e-6))),
        probability=share,
        decision=FRACTURED if share > 0.5 else NORMAL,
    )


def _initialisation(model: str, kind: str, known: Mapping[str, str]) -> str:
    if kind == "reference":
        return "none"
    if kind == "ensemble" and known:
        return " + ".join(sorted(set(known.values())))
    return known.get(model, "not stated")


def delong(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The AUC (k,) of k models on the same n pictures and its covariance (k, k).

    `labels` (n,) in {0, 1}, `scores` (n, k), `groups` (n,) integers. DeLong, DeLong and
    Clarke-Pearson (1988) in the midrank form of Sun and Xu (2014); where a group holds several
    pictures, Obuchowski's extension (1997) for clustered data, which equals DeLong's where each
    picture is its own group. NaN where a class is lacking, or fewer than two groups hold it.
    """
    positive = labels == 1
    m, n = int(positive.sum()), int((~positive).sum())
    k = scores.shape[1]
    if not m or not n:
        return np.full(k, np.nan), np.full((k, k), np.nan)
    ranks = stats.rankdata(scores, axis=0)
    above = (ranks[positive] - stats.rankdata(scores[positive], axis=0)) / n
    below = 1 - (ranks[~positive] - stats.rankdata(scores[~positive], axis=0)) / m
    auc = above.mean(axis=0)
    groups = np.arange(len(labels)) if groups is None else groups
    total = len(np.unique(groups))
    first = _sums((above - auc) / m, groups[positive], groups.max() + 1)
    second = _sums((below - auc) / n, groups[~positive], groups.max() + 1)
    own = [_unbias(len(np.unique(groups[positive]))), _unbias(len(np.unique(groups[~positive])))]
    shared = first.T @ second * _unbias(total)
    covariance = own[0] * first.T @ first + own[1] * second.T @ second + shared + shared.T
    return auc, covariance


def _sums(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def _unbias(count: int) -> float:
    return count / (count - 1) if count > 1 else np.nan


def _measure_all(seen: Answers, resamples: int, seed: int) -> pd.DataFrame:
    chunks = [
        [_measure(seen, index, weights) for index in range(len(seen.models))]
        for weights in resample(seen.labels, seen.groups, resamples, seed, stratified=False)
    ]
    table, numbers = [], _effective_numbers(seen.labels, seen.logits, seen.groups)
    for index, model in enumerate(seen.models):
        once = _measure(seen, index, np.ones((len(seen.labels), 1)))
        row = {"model": model, "n": len(seen.labels), "positives": int(seen.labels.sum())}
        for name in METRICS:
            point = float(once[name][0])
            if name == "auc":
                low, high = intervals.newcombe(point, *numbers[index])
            elif name in SHARES:
                low, high = _of_share(name, seen, index)
            else:
                draws = np.concatenate([chunk[index][name] for chunk in chunks])
                low, high = _percentiles(name, point, draws, seen.groups)
            row |= intervals.named(name, point, low, high)
        table.append(row)
    return pd.DataFrame(table)


def auc_with_interval(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray
) -> tuple[float, float, float]:
    """The AUC of scores (n,) and its 95 % interval, as `scores` gives it for a model."""
    auc, _ = delong(labels, scores[:, None])
    (numbers,) = _effective_numbers(labels, scores[:, None], groups)
    return float(auc[0]), *intervals.newcombe(float(auc[0]), *numbers)


def _effective_numbers(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray
) -> list[tuple[float, float]]:
    """For each model how many independent pictures of each class its AUC is worth; none where a
    class has fewer than two groups.
    """
    _, clustered = delong(labels, logits, groups)
    _, independent = delong(labels, logits)
    classes = [labels == 1, labels == 0]
    counts = [of.sum() if len(np.unique(groups[of])) > 1 else 0 for of in classes]
    effects = map(intervals.design_effect, np.diag(clustered), np.diag(independent))
    return [(counts[0] / effect, counts[1] / effect) for effect in effects]


def _of_share(name: str, seen: Answers, index: int) -> tuple[float, float]:
    called = seen.decisions[:, index].astype(bool)
    counted = SHARES[name](seen.labels, called)
    right = (called == (seen.labels == 1))[counted]
    return intervals.wilson(right.astype(float), seen.groups[counted])


def _percentiles(
    name: str, point: float, draws: np.ndarray, groups: np.ndarray
) -> tuple[float, float]:
    if len(np.unique(groups)) < 2 or np.isnan(draws).all():
        return np.nan, np.nan
    if name == "expected_calibration_error":
        # Noise only adds to a sum of absolute values: keep the spread of the draws, not their bias.
        draws = np.clip(draws - draws.mean() + point, 0, 1)
    return tuple(np.nanpercentile(draws, [2.5, 97.5]))


def _measure(seen: Answers, index: int, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Each metric of one model under weights (n, b), as arrays (b,); NaN where it is undefined."""
    true_positives, false_positives = curve(seen.labels, seen.logits[:, index], weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (
            _ranked(true_positives, false_positives)
            | _decided(seen.labels, seen.decisions[:, index], weights)
            | _calibrated(seen.labels, seen.probabilities[:, index], weights)
        )


def curve(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the true and of the false positives, each (u, b), at each of the u different
    scores as threshold, highest first; `weights` are (n, b).
    """
    order = np.argsort(-scores, kind="stable")
    sorted_weights = weights[order]
    true_positives = np.cumsum(sorted_weights * labels[order, None], axis=0)
    false_positives = np.cumsum(sorted_weights, axis=0) - true_positives
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    if last_of_ties.all():
        return true_positives, false_positives
    return true_positives[last_of_ties], false_positives[last_of_ties]


def area(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """Area under each of the b ROC curves given by `curve`; NaN where a class has no weight."""
    start = np.zeros((1, true_positives.shape[1]))
    steps = np.diff(false_positives, axis=0, prepend=start)
    twice = np.einsum("ub,ub->b", steps, true_positives)
    twice += np.einsum("ub,ub->b", steps[1:], true_positives[:-1])
    with np.errstate(invalid="ignore"):
        return twice / 2 / (true_positives[-1] * false_positives[-1])


def resampled_auc(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """The AUC of k models with logits (n, k) in each resample of the pictures: (resamples, k)."""
    return np.concatenate([
        np.stack([area(*curve(labels, own, weights)) for own in logits.T], axis=1)
        for weights in resample(labels, groups, resamples, seed)
    ])  # fmt: skip


def _ranked(true_positives: np.ndarray, false_positives: np.ndarray) -> dict[str, np.ndarray]:
    positives, negatives = true_positives[-1], false_positives[-1]
    both = np.where(positives * negatives > 0, 1, np.nan)
    steps = np.diff(true_positives, axis=0, prepend=np.zeros((1, len(positives))))
    precision = true_positives / np.maximum(true_positives + false_positives, 1e-12)
    specific = false_positives <= 0.1 * negatives + 1e-9
    sensitive = true_positives >= 0.95 * positives - 1e-9
    found = np.where(specific, true_positives, 0).max(axis=0) / positives
    alarms = np.where(sensitive, false_positives, np.inf).min(axis=0) / negatives
    return {
        "auc": area(true_positives, false_positives),
        "average_precision": np.einsum("ub,ub->b", steps, precision) / positives * both,
        "sensitivity_at_90_specificity": found * both,
        "specificity_at_95_sensitivity": (1 - alarms) * both,
    }


def _decided(
    labels: np.ndarray, decisions: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    n = weights.sum(axis=0)
    tp, positives, called = weighted([labels * decisions, labels, decisions], weights)
    negatives, cleared = n - positives, n - called
    tn = negatives - (called - tp)
    right = tp + tn
    chance = (positives * called + negatives * cleared) / n**2
    return {
        "sensitivity": tp / positives,
        "specificity": tn / negatives,
        "ppv": tp / called,
        "npv": tn / cleared,
        "f1": 2 * tp / (positives + called),
        "accuracy": right / n,
        "balanced_accuracy": (tp / positives + tn / negatives) / 2,
        "kappa": (right / n - chance) / (1 - chance),
    }


def _calibrated(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    rounding = np.finfo(float).eps
    of_truth = np.where(labels == 1, probabilities, 1 - probabilities).clip(rounding, 1)
    excess = probabilities - labels
    by_bin = np.where(bins(probabilities), excess, 0)
    brier, log_loss, *gaps = weighted([excess**2, -np.log(of_truth), *by_bin], weights)
    n = weights.sum(axis=0)
    return {
        "brier": brier / n,
        "log_loss": log_loss / n,
        "expected_calibration_error": np.abs(gaps).sum(axis=0) / n,
    }


def weighted(values: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Weighted sums of k rows of n values, (k, b). Not `@`: the threads of BLAS wait for each other
    busily, which takes ten times as long where another process uses the processor.
    """
    return np.einsum("kn,nb->kb", np.stack(values).astype(float), weights)


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error: the mean distance between the probability said and the share
    of fractures, over bins of equal width (Naeini et al. 2015).
    """
    ones = np.ones((len(labels), 1))
    return float(_calibrated(labels, probabilities, ones)["expected_calibration_error"][0])
