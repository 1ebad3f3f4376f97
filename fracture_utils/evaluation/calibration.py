"""Calibration, threshold and ensembles: chosen on validation rows, then applied to every row."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import optimize, special

from fracture_utils import files
from fracture_utils.evaluation import bootstrap, metrics
from fracture_utils.evaluation.intervals import named
from fracture_utils.evaluation.predictions import (
    ENSEMBLE,
    FRACTURED,
    NORMAL,
    SELECTED,
    Answers,
    answers,
)

RESAMPLES = 1000
"""Of the validation groups, by which a choice of members has to be clearly better."""
SLOPES = (0.05, 20.0)
"""Bounds of the slope; a negative one would turn the decisions of a network round."""


def fit(
    predictions: pd.DataFrame,
    rule: str = "youden",
    target_sensitivity: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """The operating points: model, slope, intercept, at_bound, threshold, threshold_low,
    threshold_high, rule, n, positives; a row a model.

    Only validation rows are looked at. Slope and intercept calibrate the logits (see `platt`);
    at_bound says that validation could not tell the slope, which lies at one of SLOPES. The
    threshold is a calibrated probability of validation, and decides for fractured from there on:
    with rule "youden" the one with the largest sensitivity + specificity, with rule "sensitivity"
    the largest one that finds `target_sensitivity` of the fractures. threshold_low and _high (95 %)
    are percentiles over validation sets drawn anew by group, NaN for a default. Without validation
    rows of both classes the slope is 1, the intercept 0 and the threshold 0.5, and rule says so.
    """
    validation = predictions[predictions["split"] == "validation"]
    rows = []
    for model in predictions["model"].unique():
        seen = validation[validation["model"] == model]
        labels = (seen["label"] == FRACTURED).to_numpy(dtype=int)
        logits = seen["logit"].to_numpy(dtype=float)
        row = {"model": model} | _line(labels, logits)
        if 0 < labels.sum() < len(labels):
            row["at_bound"] = bool(np.isclose(row["slope"], SLOPES, rtol=1e-3).any())
            probability = special.expit(calibrated(logits, row))
            ones, asked = np.ones((len(labels), 1)), (rule, target_sensitivity)
            threshold = _thresholds(labels, probability, ones, *asked)[0]
            groups = pd.factorize(seen["group"])[0]
            draws = [
                _thresholds(labels, probability, weights, *asked)
                for weights in bootstrap.resample(labels, groups, resamples, seed)
            ]
            ends = np.nanpercentile(np.concatenate(draws), [2.5, 97.5])
            row |= named("threshold", threshold, *ends)
            row["rule"] = rule if rule == "youden" else f"sensitivity {target_sensitivity:g}"
        else:
            row |= {"at_bound": False} | named("threshold", 0.5, np.nan, np.nan)
            row["rule"] = "default: no validation pictures of both classes"
        rows.append(row | {"n": len(labels), "positives": int(labels.sum())})
    return pd.DataFrame(rows)


def apply(predictions: pd.DataFrame, operating_points: pd.DataFrame) -> pd.DataFrame:
    """The predictions with the calibrated probability, sigmoid(slope * logit + intercept), and the
    column decision: "fractured" where it reaches the threshold of its model. The logit stays; the
    probability is then rounded as in the file of predictions.
    """
    points = operating_points.set_index("model").loc[predictions["model"]]
    logits = predictions["logit"].to_numpy(dtype=float)
    columns = {name: points[name].to_numpy(float) for name in ("slope", "intercept")}
    probability = special.expit(calibrated(logits, columns))
    reached = probability >= points["threshold"].to_numpy()
    rounded = pd.Series(probability, predictions.index).map(files.rounded)
    return predictions.assign(probability=rounded, decision=np.where(reached, FRACTURED, NORMAL))


def calibrated(logits: np.ndarray, point: Mapping) -> np.ndarray:
    """The logits (n,) on the scale on which sigmoid gives a probability; `point` is a row of the
    operating points or a network's card, and has slope and intercept.
    """
    return point["slope"] * logits + point["intercept"]


def platt(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of the logits (n,) with the smallest negative log-likelihood.

    Logistic calibration after Platt (1999), with his targets (positives + 1) / (positives + 2) and
    1 / (negatives + 2), so that few or perfectly separated pictures do not make a network
    boundlessly sure of itself. The intercept frees the share of fractures from the slope: a
    temperature alone would divide the prior, too. The slope stays within SLOPES.
    """
    positives = labels.sum()
    targets = np.where(
        labels == 1, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2)
    )
    spread = max(float(np.std(logits)), 1e-6)
    standard = (logits - np.mean(logits)) / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = parameters[0] * standard + parameters[1]
        excess = special.expit(scaled) - targets
        gradient = np.array([np.mean(excess * standard), np.mean(excess)])
        return float(np.mean(np.logaddexp(0, scaled) - targets * scaled)), gradient

    low, high = spread * SLOPES[0], spread * SLOPES[1]
    bounds = [(low, high), (None, None)]
    start = np.array([np.clip(1.0, low, high), special.logit(targets.mean())])
    found = optimize.minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", tol=1e-12)
    slope = float(found.x[0] / spread)
    return slope, float(found.x[1] - slope * np.mean(logits))


def _thresholds(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, rule: str, target: float
) -> np.ndarray:
    """The highest of the best thresholds under each of the weights (n, b), (b,); each is one of the
    probabilities, never infinite, and NaN where a class has no weight.
    """
    thresholds = np.unique(probabilities)[::-1]
    found, alarms = metrics.curve(labels, probabilities, weights)
    with np.errstate(invalid="ignore"):
        sensitivity, false_alarms = found / found[-1], alarms / alarms[-1]
    enough = sensitivity >= target - 1e-12
    best = np.round(sensitivity - false_alarms, 12) if rule == "youden" else enough
    places = np.argmax(best, axis=0)
    both = (found[-1] > 0) & (alarms[-1] > 0)
    return np.where(both, thresholds[places], np.nan)


def ensembles(predictions: pd.DataFrame, made: pd.DataFrame | None = None) -> pd.DataFrame:
    """The predictions with rows of the models "Ensemble" and "Selected ensemble" appended.

    Their logit is the mean of the calibrated logits of their members, as `members` made them (None:
    of all networks). Fit and apply treat them like any network. All logits are rounded as in the
    file of predictions, so that whoever scores that finds the same.
    """
    made = members(predictions) if made is None else made
    groups = made.groupby("model", sort=False)["member"]
    means = [_mean(predictions, list(of), name) for name, of in groups]
    every = pd.concat([predictions, *means], ignore_index=True)
    return every.assign(logit=every["logit"].map(files.rounded))


def members(predictions: pd.DataFrame, networks: Sequence[str] | None = None) -> pd.DataFrame:
    """Who is in which ensemble: columns model and member.

    In "Ensemble" are all `networks` (None: every model of that kind), where there are several; in
    "Selected ensemble" those that `select` picks on validation, where that is not all of them.
    """
    networks = _members(predictions, networks)
    made = {ENSEMBLE: networks} if len(networks) > 1 else {}
    if len(networks) > 2 and (picked := select(predictions, networks)) != networks:
        made[SELECTED] = picked
    rows = [(model, member) for model, of in made.items() for member in of]
    return pd.DataFrame(rows, columns=["model", "member"])


def select(predictions: pd.DataFrame, networks: Sequence[str] | None = None) -> list[str]:
    """Members of the "Selected ensemble", by greedy forward selection (Caruana et al. 2004), or all
    of the networks where validation does not clearly prefer these.

    Starts from the network with the best validation AUC and adds the one that raises the AUC of
    the mean calibrated logit most, at least one, until none raises it. Equal AUCs are decided by
    the smaller validation log loss, then by the order of the networks. Clearly means that a paired
    bootstrap over groups puts the whole 95 % interval of the gain above 0: with few fractures the
    greedy choice learns the validation pictures by heart and costs more than it brings. Without
    validation rows of both classes there is nothing to choose by.
    """
    networks = _members(predictions, networks)
    known = _validated(predictions, networks)
    if known is None:
        return networks
    seen, logits = known

    def mean(members: list[str]) -> np.ndarray:
        return np.mean([logits[model] for model in members], axis=0)

    def merit(members: list[str]) -> tuple[float, float]:
        return _merit(seen.labels, mean(members))

    picked: list[str] = []
    while len(picked) < len(networks):
        trials = [[*picked, model] for model in networks if model not in picked]
        best = max(trials, key=merit)
        if len(picked) >= 2 and merit(best)[0] <= merit(picked)[0]:
            break
        picked = best
    means = np.column_stack([mean(picked), mean(networks)])
    draws = metrics.resampled_auc(seen.labels, means, seen.groups, RESAMPLES, 0)
    clearly = np.percentile(draws[:, 0] - draws[:, 1], 2.5) > 0
    return sorted(picked, key=networks.index) if clearly else networks


def chosen(predictions: pd.DataFrame, networks: Sequence[str] | None = None) -> str | None:
    """The one of the `networks` (None: every model of that kind) with the highest AUC on the
    validation pictures; equal ones are decided by the smaller log loss of the calibrated logits,
    then by their order. The test has no say. None where validation has not both classes.
    """
    names = _members(predictions, networks)
    known = _validated(predictions, names)
    if known is None:
        return None
    seen, logits = known
    return max(names, key=lambda name: _merit(seen.labels, logits[name]))


def _validated(
    predictions: pd.DataFrame, networks: list[str]
) -> tuple[Answers, dict[str, np.ndarray]] | None:
    """What the networks say of the validation pictures, and their calibrated logits (n,) by name;
    None where there are no networks or not both classes.
    """
    validation = predictions[predictions["split"] == "validation"]
    if validation["label"].nunique() < 2 or not networks:
        return None
    seen = answers(validation[validation["model"].isin(networks)], "validation")
    own = zip(seen.models, seen.logits.T, strict=True)
    return seen, {name: calibrated(raw, _line(seen.labels, raw)) for name, raw in own}


def _merit(labels: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """What a choice goes by: the AUC, and among equals the smaller log loss."""
    auc = metrics.area(*metrics.curve(labels, logits, np.ones((len(logits), 1))))[0]
    return round(float(auc), 9), -float(np.mean(np.logaddexp(0, logits) - labels * logits))


def _line(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Slope and intercept of `platt`; 1 and 0 where a class is missing."""
    both = 0 < labels.sum() < len(labels)
    slope, intercept = platt(labels, logits) if both else (1.0, 0.0)
    return {"slope": slope, "intercept": intercept}


def _members(predictions: pd.DataFrame, networks: Sequence[str] | None) -> list[str]:
    own = predictions.loc[predictions["kind"] == "network", "model"].unique()
    return [model for model in (own if networks is None else networks) if model in own]


def _mean(predictions: pd.DataFrame, members: list[str], name: str) -> pd.DataFrame:
    rows = predictions[predictions["model"].isin(members)]
    logits = pd.Series(np.nan, rows.index)
    for _, own in rows.groupby("model"):
        seen = own[own["split"] == "validation"]
        labels = (seen["label"] == FRACTURED).to_numpy(dtype=int)
        line = _line(labels, seen["logit"].to_numpy(dtype=float))
        logits[own.index] = calibrated(own["logit"].to_numpy(dtype=float), line)
    mean = logits.groupby([rows["split"], rows["path"]]).transform("mean")
    rows = rows.assign(model=name, kind="ensemble", logit=mean, probability=special.expit(mean))
    return rows.drop_duplicates(["split", "path"])
