"""The table of predictions: what its words mean, read from anybody's file, and as arrays."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils import files
from fracture_utils.config import CLASS_NAMES, SPLITS
from fracture_utils.errors import InputError

NORMAL, FRACTURED = CLASS_NAMES
ENSEMBLE, SELECTED = ENSEMBLES = ("Ensemble", "Selected ensemble")
MAJORITY, PROBE = REFERENCES = ("Majority class", "Metadata only")
KIND_OF = dict.fromkeys(ENSEMBLES, "ensemble") | dict.fromkeys(REFERENCES, "reference")
"""Kinds of the models that are ours by name, for files without a column kind."""
KINDS = ("network", "ensemble", "reference")
"""References set the bar; they take no part in comparisons, ensembles or the ranking."""
NUMBERS = ("probability", "logit")
OWN = ("path", "label", "model", "group", "split", "kind", "decision", "patient", "study", *NUMBERS)
"""Columns of the table of predictions that this package gives a meaning."""
ANSWERED = ("predicted", "prediction", "pred", "correct", "threshold", "score")
"""Names that such tables give to what follows from a model's answer."""


class Answers(NamedTuple):
    """What k models say about n pictures: pictures in rows, models in columns."""

    models: list[str]
    kinds: list[str]
    paths: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray


def read(path: Path) -> pd.DataFrame:
    """The predictions in anybody's CSV, with every column of the predictions table.

    Separated by commas, semicolons or tabs, in UTF-8 or UTF-16; the case of a header is no
    matter. Needed are path, label (fractured/normal or 1/0), model and probability; other columns
    stay where they tell of pictures, and are left out where they follow from an answer. Without a
    column split all rows are test; without group each path is its own; without kind every model
    is a network, unless it has the name of an ensemble or a reference of ours. The logit follows
    from the probability; a column logit is heeded where there are validation rows to calibrate it
    on.
    Raises InputError with one sentence that names file, column and row.
    """
    table = _table(path)
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
    table = _without_answers(table)
    probability = pd.to_numeric(table["probability"], errors="coerce")
    _refuse(path, table, "probability", ~probability.between(0, 1), "is no number from 0 to 1")
    split = table.get("split", pd.Series("test", table.index))
    _refuse(path, table, "split", ~split.isin(SPLITS), f"is none of {', '.join(SPLITS)}")
    table = with_kind(table)
    _refuse(path, table, "kind", ~table["kind"].isin(KINDS), f"is none of {', '.join(KINDS)}")
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
    return table.reset_index(drop=True)


def _table(path: Path) -> pd.DataFrame:
    """The file as it is, the headers that we know in lower case."""
    table = files.read_spreadsheet(path).replace("", np.nan)
    table.columns = [name.lower() if name.lower() in OWN else name for name in table.columns]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has two columns {twice[0]}; keep one of them.")
    commas = {name: table[name].str.replace(",", ".") for name in NUMBERS if name in table}
    return table.assign(**commas)


def with_kind(table: pd.DataFrame) -> pd.DataFrame:
    """A table of models with the column kind; where it is lacking or empty, our own ensembles and
    references are known by name, and all others are networks.
    """
    known = table["model"].map(KIND_OF).fillna(KINDS[0])
    stated = table.get("kind", known).fillna(known)
    return table.assign(kind=stated.str.strip().str.lower())


def _without_answers(table: pd.DataFrame) -> pd.DataFrame:
    """The table without the columns that follow from a model's answer: those with such a name, and
    those that differ between models for the same picture (to be empty for one is no difference).
    They tell nothing of pictures.
    """
    others = [name for name in table if name not in OWN]
    differing = table.groupby("path")[others].nunique().gt(1).any()
    answered = [name for name in others if differing[name] or name.lower() in ANSWERED]
    return table.drop(columns=answered)


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        value = table[column].iloc[row]
        number = table.index[row] + 2
        raise InputError(f"{path}, row {number}: the {column} {str(value)!r} {what}; correct it.")


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
        kinds=list(rows["kind"].iloc[:: len(paths)]),
        paths=grid["path"][:, 0],
        labels=(grid["label"][:, 0] == FRACTURED).astype(int),
        groups=pd.factorize(grid["group"][:, 0])[0],
        logits=grid["logit"].astype(float),
        probabilities=grid["probability"].astype(float),
        decisions=decisions.to_numpy().reshape(len(models), -1).T,
    )


def contenders(predictions: pd.DataFrame) -> Answers:
    """The test rows of every model that is no reference, as arrays."""
    return answers(predictions[predictions["kind"] != "reference"], "test")


def single(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the networks in a table of scores, best AUC first (the first of equals); of the
    ensembles where there are none.
    """
    rows = scores[scores["kind"] == "network"]
    rows = rows if len(rows) else scores[scores["kind"] != "reference"]
    return rows.sort_values("auc", ascending=False, kind="stable", ignore_index=True)


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
    predictions = predictions[predictions["kind"] != "reference"]
    keys = [name for name in ("patient", "study") if name in predictions] or ["group"]
    parts = predictions[keys].fillna("").astype(str).agg("/".join, axis=1)
    name = parts.where(predictions[keys].notna().all(axis=1), predictions["path"])
    fractured = predictions["label"] == FRACTURED
    studies = (
        predictions.assign(path=name, label=fractured)
        .groupby(["model", "kind", "split", "path"], sort=False)
        .agg(group=("group", "first"), label=("label", "any"), logit=("logit", "mean"))
        .reset_index()
    )
    label = np.where(studies["label"], FRACTURED, NORMAL)
    return studies.assign(label=label, probability=special.expit(studies["logit"]))
