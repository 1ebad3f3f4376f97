"""Metrics of the test rows with 95 % confidence intervals that respect groups."""

import warnings
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy  # loads its modules on first use
from scipy import special

from fracture_utils import tables
from fracture_utils.config import FRACTURED
from fracture_utils.evaluation import intervals
from fracture_utils.evaluation.intervals import Z, percentiles, resample, with_limits
from fracture_utils.evaluation.predictions import MAJORITY, matrix

BINS = 10  # of the reliability diagram and of the expected calibration error
FEWEST = 10  # images of each class for which calibration is assessed


def scores(
    predictions: pd.DataFrame, initial: Mapping | None = None, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """The scores table: a row per model with metrics and calibration, references last.

    From the test rows of calibration.apply; `initial` maps networks to their initial weights.
    Intervals: Newcombe's for the AUC and Wilson's for proportions on effective sample sizes,
    otherwise a bootstrap over groups with varying prevalence. NaN where undefined.
    """
    data, initial, rows = matrix(predictions, "test"), initial or {}, []
    labels, groups, models, kinds = data.labels, data.groups, [*data.models], [*data.kinds]
    arrays = [*zip(data.logits.T, data.probabilities.T, data.decisions.T, strict=True)]
    if MAJORITY not in models:  # from the rows that are known before the test
        known = predictions[predictions["split"] != "test"]
        known = (known if len(known) else predictions).drop_duplicates("path")
        prior = (known["label"] == FRACTURED).mean()
        constants = special.logit(np.clip(prior, 1e-6, 1 - 1e-6)), prior, prior > 0.5
        arrays.append(tuple(np.full(len(labels), value) for value in constants))
        models, kinds = [*models, MAJORITY], [*kinds, "reference"]
    weights = [*resample(labels, groups, resamples, seed, stratified=False)]
    every = " + ".join(sorted(set(initial.values()))) or "not stated"  # of an ensemble
    for k, (logits, probabilities, decisions) in enumerate(arrays):
        row = {"model": models[k], "kind": kinds[k], "n": len(labels), "positives": labels.sum()}
        own = initial.get(models[k], "not stated")
        row["initialization"] = {"ensemble": every, "reference": "none"}.get(kinds[k], own)
        row |= with_limits("auc", *auc_with_interval(labels, logits, groups))
        proportions = {"sensitivity": labels == 1, "specificity": labels == 0}
        proportions["accuracy"] = np.ones(len(labels), bool)
        for name, of in proportions.items():
            row |= with_limits(name, *intervals.wilson((decisions == labels)[of], groups[of]))
        point = _measure(labels, arrays[k], np.ones((len(labels), 1)))
        resampled = [_measure(labels, arrays[k], chunk) for chunk in weights]
        for name, (value,) in point.items():
            draws = np.concatenate([part[name] for part in resampled])
            if name == "expected_calibration_error":
                # Noise inflates a sum of absolute values: keep the spread, not the bias.
                draws = np.clip(draws - draws.mean() + value, 0, 1)
            row |= with_limits(name, value, *percentiles(draws, groups))
        rows.append(row | calibration_metrics(labels, probabilities, groups))
    rows.sort(key=lambda row: row["kind"] == "reference")
    return pd.DataFrame(rows, columns=tables.columns("scores"))


def delong(
    labels: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray | None = None,
    folds: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The AUC (k,) of k models with scores (n, k) on the same n images, and its covariance (k, k);
    with `folds` (n,), scored by different heads, the mean of the AUCs of the folds.

    DeLong, DeLong and Clarke-Pearson (1988) in the midrank form of Sun and Xu (2014), with
    Obuchowski's extension (1997) to groups; influences are summed by group, also over folds (LeDell
    et al. 2015). Instead of the factor n / (n - 1) for n groups, the deviations of each group are
    divided by the root of the fraction of the others (CR2 of Bell and McCaffrey 2002): the same for
    groups of one size, and accurate where a few large ones have most images of a class. NaN where a
    class is empty in a fold; the covariance also where a class has a single group.
    """
    positive, k = labels == 1, scores.shape[1]
    groups = np.arange(len(labels)) if groups is None else groups
    folds = np.zeros(len(labels)) if folds is None else folds
    influences = np.zeros((groups.max(initial=0) + 1, k))
    aucs, numbers = [], np.unique(folds)
    for fold in numbers:
        true, false = positive & (folds == fold), ~positive & (folds == fold)
        m, n = int(true.sum()), int(false.sum())
        if not m or not n:
            return np.full(k, np.nan), np.full((k, k), np.nan)
        ranks = scipy.stats.rankdata(scores[np.append(*map(np.flatnonzero, (true, false)))], axis=0)
        above = (ranks[:m] - scipy.stats.rankdata(scores[true], axis=0)) / n
        below = 1 - (ranks[m:] - scipy.stats.rankdata(scores[false], axis=0)) / m
        aucs.append(above.mean(axis=0))
        for own, placements in ((groups[true], above), (groups[false], below)):
            others = 1 - np.bincount(own) / len(own)
            others[others == 0] = np.nan
            scale = len(own) * len(numbers) * np.sqrt(others[own, None])
            np.add.at(influences, own, (placements - aucs[-1]) / scale)
    return np.mean(aucs, axis=0), influences.T @ influences


def auc_with_interval(
    labels: np.ndarray, scores: np.ndarray, groups: np.ndarray, folds: np.ndarray | None = None
) -> tuple[float, float, float]:
    """The AUC of scores (n,), see `delong`, and Newcombe's limits on effective sample sizes."""
    (auc,), ((clustered,),) = delong(labels, scores[:, None], groups, folds)
    independent = delong(labels, scores[:, None], None, folds)[1].item()
    if np.isnan(clustered):
        return float(auc), np.nan, np.nan
    effect = max(1.0, clustered / independent if independent > 0 else 1.0)
    folds = np.zeros(len(labels)) if folds is None else folds
    counts = [np.unique(folds[labels == label], return_counts=True)[1] for label in (1, 0)]
    # A mean over folds is as precise as one over folds of their harmonic mean size.
    sizes = [len(own) * scipy.stats.hmean(own) / effect for own in counts]
    return float(auc), *intervals.newcombe(float(auc), *sizes)


def _measure(
    labels: np.ndarray, predictions: tuple[np.ndarray, ...], weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of logits, probabilities and decisions (n,) under weights (n, b), as arrays (b,)."""
    logits, probabilities, decisions = predictions
    excess, likelihood = probabilities - labels, np.where(labels, probabilities, 1 - probabilities)
    losses = excess**2, -np.log(likelihood.clip(np.finfo(float).eps, 1))
    by_bin = np.where(calibration_bins(probabilities), excess, 0)
    values = [np.ones(len(labels)), labels, decisions, labels * decisions, *losses, *by_bin]
    # Not `@`: idle BLAS threads spin, ten times slower where processes share the cores.
    sums = np.einsum("kn,nb->kb", np.array(values, float), weights)
    n, positives, predicted, tp, brier, log_loss, *gaps = sums
    negatives = n - positives
    tn = negatives - (predicted - tp)
    chance = (positives * predicted + negatives * (n - predicted)) / n**2
    true, false = roc_counts(labels, logits, weights)
    steps = np.diff(true, axis=0, prepend=np.zeros((1, len(n))))
    precision = true / np.maximum(true + false, 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.where(positives * negatives > 0, 1, np.nan)
        return {
            "average_precision": (steps * precision).sum(axis=0) / positives * both,
            "f1": 2 * tp / (positives + predicted),
            "balanced_accuracy": (tp / positives + tn / negatives) / 2,
            "kappa": ((tp + tn) / n - chance) / (1 - chance),
            "brier": brier / n,
            "log_loss": log_loss / n,
            "expected_calibration_error": np.abs(gaps).sum(axis=0) / n,
        }


def roc_counts(
    labels: np.ndarray, scores: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives (u, b) at the u distinct scores as thresholds, highest first, under
    weights (n, b) of the images.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_ties = np.append(np.diff(scores[order]) != 0, True)
    true_positives = np.cumsum(weights[order] * labels[order, None], axis=0)
    positives = np.cumsum(weights[order], axis=0)
    return true_positives[last_of_ties], (positives - true_positives)[last_of_ties]


def calibration_bins(probabilities: np.ndarray) -> np.ndarray:
    """Which of n probabilities lie in each of BINS bins of equal width: bool (BINS, n)."""
    number = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return number == np.arange(BINS)[:, None]


def calibration_metrics(
    labels: np.ndarray, probabilities: np.ndarray, groups: np.ndarray
) -> dict[str, float]:
    """The calibration of probabilities (n,) against labels (n,), by the columns of scores.

    Calibration in the large, slope and O/E (Van Calster et al. 2019, BMC Medicine 17:230) with a
    sandwich covariance by groups; calibration_p by a Wald test. Undefined entries are omitted:
    fewer than FEWEST images of a class, a single group, or constant probabilities.
    """
    observed, n, codes = labels.sum(), len(labels), np.unique(groups, return_inverse=True)[1]
    if min(observed, n - observed) < FEWEST or codes.max() == 0:
        return {}
    result, tiny = {}, 1e-6
    expected = max(probabilities.sum(), tiny)
    sums = np.bincount(codes, labels / observed - probabilities / expected)
    ratio, margin = np.log(observed / expected), Z * np.sqrt(np.square(sums).sum())
    limits = np.exp([ratio, ratio - margin, ratio + margin])
    result |= with_limits("observed_expected", *limits)
    if np.ptp(probabilities) < tiny:
        return result
    from statsmodels.genmod import families  # the import takes a second
    from statsmodels.genmod.generalized_linear_model import GLM
    from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

    logits, ones = special.logit(np.clip(probabilities, tiny, 1 - tiny)), np.ones(n)
    clusters = {"cov_type": "cluster", "cov_kwds": {"groups": groups}}
    robust = {"cov_type": "HC0"} if codes.max() + 1 == n else clusters
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error", PerfectSeparationWarning)
            intercept = GLM(labels, ones, families.Binomial(), offset=logits).fit(**robust)
            slope = GLM(labels, np.column_stack([logits, ones]), families.Binomial()).fit(**robust)
    except (PerfectSeparationWarning, np.linalg.LinAlgError, ValueError):
        return result
    errors = np.append(intercept.bse, slope.bse)
    if not (intercept.converged and slope.converged and ((errors > 0) & (errors < np.inf)).all()):
        return result
    test = slope.wald_test((np.eye(2), [1.0, 0.0]), use_f=False, scalar=True)
    result["calibration_p"] = float(test.pvalue)
    for name, fit in (("calibration_intercept", intercept), ("calibration_slope", slope)):
        result |= with_limits(name, fit.params[0], *fit.conf_int()[0])
    return result
