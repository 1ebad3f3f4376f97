"""Scores of the test rows, each with a 95 % interval that heeds groups."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from fracture_utils.config import CLASS_NAMES, SPLITS
from fracture_utils.errors import InputError
from fracture_utils.evaluation import intervals
from fracture_utils.evaluation.probabilities import bins, judge

NORMAL, FRACTURED = CLASS_NAMES
ENSEMBLE, SELECTED = ENSEMBLES = ("Ensemble", "Selected ensemble")
MAJORITY, PROBE = REFERENCES = ("Majority class", "Metadata only")
"""Rows that set the bar; they take no part in comparisons, ensembles or the ranking."""
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
    "sensitivity": lambda labels, called: labels == 1,
    "specificity": lambda labels, called: labels == 0,
    "ppv": lambda labels, called: called,
    "npv": lambda labels, called: ~called,
    "accuracy": lambda labels, called: np.ones(len(labels), bool),
}
"""Metrics that are the share of right decisions among some pictures, and which these are."""
WEIGHTS_IN_MEMORY = 200_000
"""Largest pictures x resamples worked on at once; keeps a chunk within the processor's cache."""


class Answers(NamedTuple):
    """What k models say about n pictures: pictures in rows, models in columns."""

    models: list[str]
    paths: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray


def read(path: Path) -> pd.DataFrame:
    """The predictions in anybody's CSV, with every column of the predictions table.

    Needed are path, label (fractured/normal or 1/0), model and probability. Without a column
    split all rows are test; without group each path is its own. The logit follows from the
    probability; a column logit is heeded where there are validation rows to calibrate it on.
    Raises InputError with one sentence that names file, column and row.
    """
    try:
        table = pd.read_csv(
            path, dtype=dict.fromkeys(("path", "label", "model", "group", "split"), str),
            encoding="utf-8-sig", skipinitialspace=True, keep_default_na=False, na_values=[""],
        )  # fmt: skip
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} cannot be read as a CSV table ({error}).") from None
    for column in ("path", "label", "model", "probability"):
        if column not in table:
            raise InputError(
                f"{path} has no column {column}; needed are path, label, model and probability."
            )
        _refuse(path, table, column, table[column].isna(), "is empty")
    if table.empty:
        raise InputError(f"{path} has no rows; it needs one for each picture and model.")
    names = {"0": NORMAL, "1": FRACTURED, "0.0": NORMAL, "1.0": FRACTURED}
    label = table["label"].str.strip().str.lower().replace(names)
    _refuse(path, table, "label", ~label.isin(CLASS_NAMES), "is neither fractured/normal nor 1/0")
    probability = pd.to_numeric(table["probability"], errors="coerce")
    _refuse(path, table, "probability", ~probability.between(0, 1), "is no number from 0 to 1")
    split = table.get("split", pd.Series("test", table.index))
    _refuse(path, table, "split", ~split.isin(SPLITS), f"is none of {', '.join(SPLITS)}")
    # The smallest float and the largest below 1 keep the order of extreme probabilities.
    logit = special.logit(probability.clip(1e-300, np.nextafter(1, 0)))
    if "logit" in table and (split == "validation").any():
        logit = pd.to_numeric(table["logit"], errors="coerce")
        _refuse(path, table, "logit", ~np.isfinite(logit), "is no finite number")
    group = table.get("group", table["path"]).fillna(table["path"])
    table = table.assign(
        label=label, probability=probability, split=split, logit=logit, group=group
    )
    try:
        for _, rows in table.groupby("split"):
            _answers(rows)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return table


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        value = table[column].iloc[row]
        raise InputError(f"{path}, row {row + 2}: the {column} {str(value)!r} {what}; correct it.")


def answers(predictions: pd.DataFrame, split: str) -> Answers:
    """The rows of one split as arrays; models in the order in which they first appear.

    Raises InputError where the split has no rows, a model has seen a picture twice or not at
    all (a comparison is paired, or it is none), or two models disagree about a label; and where
    test rows come without the column decision, which calibration.apply adds.
    """
    if split == "test" and "decision" not in predictions:
        raise InputError("The predictions have no column decision; use calibration.apply first.")
    rows = predictions[predictions["split"] == split]
    if rows.empty:
        raise InputError(f"The predictions have no rows of the split {split}; add some.")
    return _answers(rows)


def _answers(rows: pd.DataFrame) -> Answers:
    twice = rows[rows.duplicated(["path", "model"])]
    if len(twice):
        path, model = twice.iloc[0][["path", "model"]]
        raise InputError(f"{model} has more than one prediction for {path}; keep one of them.")
    models = list(rows["model"].unique())
    paths = np.unique(rows["path"].to_numpy(dtype=str))
    counts = rows["model"].value_counts()
    if (counts < len(paths)).any():
        model = counts.idxmin()
        lacking = np.setdiff1d(paths, rows.loc[rows["model"] == model, "path"].to_numpy(dtype=str))
        raise InputError(
            f"{model} has no prediction for {len(lacking)} of {len(paths)} pictures (the first is "
            f"{lacking[0]}); models are compared on the same pictures, so add or remove them."
        )
    order = pd.Categorical(rows["model"], models)
    rows = rows.assign(model=order).sort_values(["model", "path"])
    grid = {
        name: rows[name].to_numpy().reshape(len(models), -1).T
        for name in ("path", "label", "group", "logit", "probability")
    }
    differing = (grid["label"] != grid["label"][:, :1]).any(axis=1)
    if differing.any():
        raise InputError(f"{grid['path'][differing][0, 0]} has two labels; correct one of them.")
    decisions = rows.get("decision", pd.Series(NORMAL, rows.index)) == FRACTURED
    return Answers(
        models=models,
        paths=grid["path"][:, 0],
        labels=(grid["label"][:, 0] == FRACTURED).astype(int),
        groups=pd.factorize(grid["group"][:, 0])[0],
        logits=grid["logit"].astype(float),
        probabilities=grid["probability"].astype(float),
        decisions=decisions.to_numpy().reshape(len(models), -1).T,
    )


def contenders(predictions: pd.DataFrame) -> Answers:
    """The test rows of every model that is no reference, as arrays."""
    return answers(predictions[~predictions["model"].isin(REFERENCES)], "test")


def scores(
    predictions: pd.DataFrame,
    initialisation: Mapping[str, str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row a model, references last: model, initialisation, n, positives, then each of METRICS
    with <metric>_low and <metric>_high (95 %), auc_delong_low and auc_delong_high, and what
    `probabilities.judge` finds.

    `predictions` come from calibration.apply; only test rows count. `initialisation` says for
    each network what it started from; ensembles and variants ("ResNet50 + mirror") follow it.
    The interval of the AUC is Newcombe's on the effective numbers of pictures, that of a share
    Wilson's (see `intervals`); the others are percentiles of a bootstrap over groups, in which the
    share of fractures varies as it would from one test set to the next. A metric or interval that
    is not defined (one class, below two groups of it) is NaN.
    """
    answers(predictions, "test")
    seen = answers(pd.concat([predictions, _majority(predictions)]), "test")
    table = _measure_all(seen, METRICS, resamples, seed)
    auc, covariance = delong(seen.labels, seen.logits, seen.groups)
    margin = stats.norm.ppf(0.975) * np.sqrt(np.diag(covariance))
    table["auc_delong_low"] = np.clip(auc - margin, 0, 1)
    table["auc_delong_high"] = np.clip(auc + margin, 0, 1)
    judged = [judge(seen.labels, said, seen.groups, seed) for said in seen.probabilities.T]
    table = pd.concat([table, pd.DataFrame(judged)], axis=1)
    origin = [_initialisation(model, initialisation or {}) for model in seen.models]
    table.insert(1, "initialisation", origin)
    last = table["model"].isin(REFERENCES)
    return pd.concat([table[~last], table[last]], ignore_index=True)


def _majority(predictions: pd.DataFrame) -> pd.DataFrame:
    """Rows of a model that always answers the commoner class, as known before the test."""
    known = predictions["split"] != "test"
    known = predictions[known] if known.any() else predictions
    share = float((known.drop_duplicates("path")["label"] == FRACTURED).mean())
    rows = predictions[predictions["split"] == "test"].drop_duplicates("path")
    return rows.assign(
        model=MAJORITY,
        logit=float(special.logit(np.clip(share, 1e-6, 1 - 1e-6))),
        probability=share,
        decision=FRACTURED if share > 0.5 else NORMAL,
    )


def _initialisation(model: str, known: Mapping[str, str]) -> str:
    if model in REFERENCES:
        return "none"
    if model in ENSEMBLES and known:
        return " + ".join(sorted(set(known.values())))
    return known.get(model) or known.get(model.split(" + ")[0]) or "not stated"


def knows_patients(predictions: pd.DataFrame) -> bool:
    """Whether any picture has a patient or a study, so that scores over them say anything new."""
    known = [name for name in ("patient", "study") if name in predictions]
    return any((predictions[name].notna() & (predictions[name] != "")).any() for name in known)


def per_study(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row a study and model: the mean logit of its views, fractured if any view is.

    A study shares the columns patient and study, as far as the table has them, else the group.
    References, which know no studies, are left out. Take the raw predictions, then
    calibration.fit and calibration.apply as for pictures.
    """
    predictions = predictions[~predictions["model"].isin(REFERENCES)]
    keys = [name for name in ("patient", "study") if name in predictions] or ["group"]
    parts = predictions[keys].fillna("").astype(str).agg("/".join, axis=1)
    name = parts.where(predictions[keys].notna().all(axis=1), predictions["path"])
    fractured = predictions["label"] == FRACTURED
    studies = (
        predictions.assign(path=name, label=fractured)
        .groupby(["model", "split", "path"], sort=False)
        .agg(group=("group", "first"), label=("label", "any"), logit=("logit", "mean"))
        .reset_index()
    )
    label = np.where(studies["label"], FRACTURED, NORMAL)
    return studies.assign(label=label, probability=special.expit(studies["logit"]))


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


def resample(
    labels: np.ndarray, groups: np.ndarray, resamples: int, seed: int, stratified: bool = True
) -> Iterator[np.ndarray]:
    """Weights of the pictures in bootstrap resamples, as arrays (n, up to `resamples`).

    Groups are drawn with replacement; `stratified`: those with a fracture and those without apart.
    """
    generator = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    with_fracture = np.bincount(groups, weights=labels, minlength=count) > 0
    with_fracture &= stratified
    size = max(1, WEIGHTS_IN_MEMORY // len(labels))
    for start in range(0, resamples, size):
        many = min(size, resamples - start)
        drawn = np.zeros((count, many))
        for stratum in (np.flatnonzero(with_fracture), np.flatnonzero(~with_fracture)):
            if len(stratum):
                picks = stratum[generator.integers(len(stratum), size=(many, len(stratum)))]
                cells = picks * many + np.arange(many)[:, None]
                drawn += np.bincount(cells.ravel(), minlength=count * many).reshape(count, many)
        yield drawn[groups]


def _measure_all(seen: Answers, names: Sequence[str], resamples: int, seed: int) -> pd.DataFrame:
    chunks = [
        [_measure(seen, index, weights) for index in range(len(seen.models))]
        for weights in resample(seen.labels, seen.groups, resamples, seed, stratified=False)
    ]
    table, numbers = [], _effective_numbers(seen)
    for index, model in enumerate(seen.models):
        once = _measure(seen, index, np.ones((len(seen.labels), 1)))
        point = {name: float(value[0]) for name, value in once.items()}
        row = {"model": model, "n": len(seen.labels), "positives": int(seen.labels.sum())}
        for name in names:
            if name == "auc":
                low, high = intervals.newcombe(point[name], *numbers[index])
            elif name in SHARES:
                low, high = _of_share(name, seen, index)
            else:
                draws = np.concatenate([chunk[index][name] for chunk in chunks])
                low, high = _percentiles(name, point[name], draws, seen.groups)
            row |= {name: point[name], f"{name}_low": low, f"{name}_high": high}
        table.append(row)
    return pd.DataFrame(table)


def _effective_numbers(seen: Answers) -> list[tuple[float, float]]:
    """For each model how many independent pictures of each class its AUC is worth; none where a
    class has fewer than two groups.
    """
    _, clustered = delong(seen.labels, seen.logits, seen.groups)
    _, independent = delong(seen.labels, seen.logits)
    classes = [seen.labels == 1, seen.labels == 0]
    counts = [of.sum() if len(np.unique(seen.groups[of])) > 1 else 0 for of in classes]
    effects = map(intervals.design_effect, np.diag(clustered), np.diag(independent))
    return [tuple(count / effect for count in counts) for effect in effects]


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
    tp, positives, called = _sum_up([labels * decisions, labels, decisions], weights)
    negatives, cleared = n - positives, n - called
    tn = negatives - (called - tp)
    right = tp + tn
    chance = (positives * called + negatives * cleared) / n**2
    return {
        "n": n, "positives": positives, "negatives": negatives, "called": called,
        "cleared": cleared, "tp": tp, "tn": tn, "right": right,
        "sensitivity": tp / positives,
        "specificity": tn / negatives,
        "ppv": tp / called,
        "npv": tn / cleared,
        "f1": 2 * tp / (positives + called),
        "accuracy": right / n,
        "balanced_accuracy": (tp / positives + tn / negatives) / 2,
        "kappa": (right / n - chance) / (1 - chance),
    }  # fmt: skip


def _calibrated(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    rounding = np.finfo(float).eps
    of_truth = np.where(labels == 1, probabilities, 1 - probabilities).clip(rounding, 1)
    excess = probabilities - labels
    by_bin = np.where(bins(probabilities), excess, 0)
    brier, log_loss, *gaps = _sum_up([excess**2, -np.log(of_truth), *by_bin], weights)
    n = weights.sum(axis=0)
    return {
        "brier": brier / n,
        "log_loss": log_loss / n,
        "expected_calibration_error": np.abs(gaps).sum(axis=0) / n,
    }


def _sum_up(values: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
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
