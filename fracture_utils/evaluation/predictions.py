"""The predictions table: read from a CSV file, checked, and converted to arrays."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.config import CLASS_NAMES, FRACTURED, OUT_OF_FOLD, SPLITS, InputError
from fracture_utils.data import dataset, splits

ENSEMBLE, MAJORITY, METADATA_ONLY = "Ensemble", "Majority class", "Metadata only"
KIND_OF = {ENSEMBLE: "ensemble", MAJORITY: "reference", METADATA_ONLY: "reference"}
# A variant is a network trained with other settings: compared, but neither selected nor a member of
# the ensemble. A reference is a baseline without paired tests.
KINDS = ("network", "variant", "ensemble", "reference")
REQUIRED = ("path", "label", "model", "probability")
COLUMNS = (*REQUIRED, "group", "split", "fold", "kind", "decision", "patient", "study", "logit")
DERIVED = ("predicted", "prediction", "pred", "correct", "threshold", "score")


class PredictionMatrix(NamedTuple):
    """The predictions of k models for n images: (n,), the last three (n, k)."""

    models: list[str]
    kinds: list[str]
    paths: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    decisions: np.ndarray


def read(path: Path, keep_logits: bool = False) -> pd.DataFrame:
    """The predictions table of a CSV file with at least REQUIRED; labels fractured/normal or 1/0.

    Defaults: split test, group the patient, study or path, kind by KIND_OF or network. A logit
    column is used if validation rows can calibrate it, or with `keep_logits`. Other columns stay if
    they describe images, not predictions. Raises InputError that names file, column and row.
    """
    names = dataset.FACTS_OF_IMAGES | {name: name for name in COLUMNS}
    table = dataset.read_spreadsheet(path, names).replace("", np.nan)
    if missing := [name for name in REQUIRED if name not in table]:
        raise InputError(f"{path} has no column {missing[0]}; required are {', '.join(REQUIRED)}.")
    if table.empty:
        raise InputError(f"{path} has no rows; it needs one per image and model.")
    others = [name for name in table if name not in COLUMNS]
    differs = table.groupby("path")[others].nunique().gt(1).any()  # between models
    table = table.drop(columns=[c for c in others if differs[c] or c.lower() in DERIVED])
    kind = table["model"].map(KIND_OF).fillna("network")
    kind = table.get("kind", kind).fillna(kind).str.lower()
    varied = [c for c in splits.IDENTITIES if c in table and len({*table[c]}) > 1]
    group = table[[*varied, "path"]].bfill(axis=1).iloc[:, 0]
    split = table.get("split", pd.Series("test", table.index)).fillna("")
    words = dataset.WORDS | {dataset.plain(OUT_OF_FOLD): OUT_OF_FOLD}
    split = split.map(lambda cell: words.get(dataset.plain(cell), cell))
    has_folds = "fold" in table
    fold = table.get("fold", pd.Series("0", table.index)).fillna("0").str.removesuffix(".0")
    table = table.assign(split=split, kind=kind, group=group, fold=fold)
    allowed = (*SPLITS, OUT_OF_FOLD)
    label = table["label"].fillna("").map(dataset.label_of)
    commas = {c: table[c].str.replace(",", ".") for c in ("probability", "logit") if c in table}
    numbers = pd.DataFrame(commas).apply(pd.to_numeric, errors="coerce")
    # 1 becomes 1 - tiny; 0 becomes tiny or, if less, half of the smallest other probability.
    p, tiny = numbers["probability"], np.finfo(float).epsneg
    p = p.mask(p == 0, np.fmin(tiny, p[p > 0].min() / 2)).clip(1e-300, 1 - tiny)
    logit = special.logit(p)
    if keep_logits or {*CLASS_NAMES} <= {*label[calibrating(table).index]}:
        logit = numbers.get("logit", logit)
    checks = {
        "path": (table["path"].notna(), "is empty"),
        "model": (table["model"].notna(), "is empty"),
        "label": (label.isin(CLASS_NAMES), "is neither fractured/normal nor 1/0"),
        "probability": (numbers["probability"].between(0, 1), "is not a number from 0 to 1"),
        "split": (table["split"].isin(allowed), f"is not one of {', '.join(allowed)}"),
        "fold": (table["fold"].str.fullmatch(r"\d+"), "is not a whole number"),
        "kind": (kind.isin(KINDS), f"is not one of {', '.join(KINDS)}"),
        "logit": (np.isfinite(logit), "is not a finite number"),
    }
    for column, (valid, problem) in checks.items():
        for row in table.index[~valid][:1]:
            place = f"{path}, row {row + 2}: the {column} {str(table.loc[row, column])!r}"
            raise InputError(f"{place} {problem}; correct it.")
    table = table.assign(label=label, probability=numbers["probability"], logit=logit)
    table["fold"] = table["fold"].astype(int)
    of_folds = table[table["split"] == OUT_OF_FOLD]
    for image in of_folds["path"][of_folds.groupby("path")["fold"].transform("nunique") > 1]:
        raise InputError(f"{path}: {image} is in two folds; give it the same one for each model.")
    for split in table["split"].unique():
        try:
            matrix(table.assign(decision=label), split)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return table.reset_index(drop=True).drop(columns=[] if has_folds else "fold")


def matrix(predictions: pd.DataFrame, split: str) -> PredictionMatrix:
    """The rows of one split as arrays; models in order of appearance, images sorted by path.

    InputError if it is empty, images or labels differ between models or decisions are missing.
    """
    rows = predictions[predictions["split"] == split]
    if rows.empty:
        raise InputError(f"The predictions have no rows of the split {split}; add some.")
    for path, model in rows.loc[rows.duplicated(["path", "model"]), ["path", "model"]].to_numpy():
        raise InputError(f"{model} has more than one prediction for {path}; keep one of them.")
    first = rows.drop_duplicates("model")
    names = ["label", "group", "logit", "probability", "decision"]
    by_path = rows.pivot(index="path", columns="model", values=names)  # noqa: PD010
    labels, groups, *values = (by_path[name][first["model"]] for name in names)
    for model in labels.columns[labels.isna().any()]:
        gaps = labels.index[labels[model].isna()]
        count = f"{len(gaps)} of {len(labels)} images, for example {gaps[0]}"
        raise InputError(f"{model} has no prediction for {count}; complete the file.")
    for path in labels.index[labels.ne(labels.iloc[:, 0], axis=0).any(axis=1)]:
        raise InputError(f"{path} has two labels; correct one of them.")
    logits, probabilities, decisions = (value.to_numpy() for value in values)
    return PredictionMatrix(
        list(first["model"]), list(first["kind"]), labels.index.to_numpy(str),
        (labels.iloc[:, 0] == FRACTURED).to_numpy(int), pd.factorize(groups.iloc[:, 0])[0],
        logits.astype(float), probabilities.astype(float), decisions == FRACTURED,
    )  # fmt: skip


def compared(predictions: pd.DataFrame) -> PredictionMatrix:
    """The test rows of all models except references."""
    return matrix(predictions[predictions["kind"] != "reference"], "test")


def calibrating(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows for calibration and selection of models: out of fold, or else validation."""
    by_folds = (predictions["split"] == OUT_OF_FOLD).any()
    return predictions[predictions["split"] == (OUT_OF_FOLD if by_folds else "validation")]


def folds_of(rows: pd.DataFrame) -> np.ndarray:
    """The cross-validation fold of each row; 0 where there is none."""
    return rows["fold"].fillna(0).to_numpy(int) if "fold" in rows else np.zeros(len(rows), int)


def out_of_fold(predictions: pd.DataFrame) -> tuple[PredictionMatrix, np.ndarray]:
    """The out-of-fold rows of the networks, and the fold (n,) of each image, from 1 on; all 0 where
    there are no folds.
    """
    rows = predictions[predictions["kind"] == "network"]
    data = matrix(rows, OUT_OF_FOLD)
    first = rows[rows["split"] == OUT_OF_FOLD].drop_duplicates("path").set_index("path")
    folds = folds_of(first.loc[data.paths])
    return data, folds + (folds.min() < 1 <= folds.max())


def by_patient(predictions: pd.DataFrame) -> pd.DataFrame:
    """Raw predictions by study (columns patient and study, if present), without
    references: mean logit, fractured if any image of it is; no rows without patients and studies.
    """
    rows = predictions[predictions["kind"] != "reference"]
    rows = rows.assign(fold=folds_of(rows))
    keys = rows[[name for name in ("patient", "study") if name in rows]].fillna("").astype(str)
    keys = keys[[name for name in keys if len({*keys[name]}) > 1]]
    if keys.eq("").all(axis=None):
        return rows.head(0)
    rows["path"] = keys.agg("/".join, axis=1).where(keys.ne("").all(axis=1), rows["path"])
    grouped = rows.groupby(["model", "kind", "split", "path"], sort=False, as_index=False)
    # "fractured" precedes "normal" in the alphabet.
    columns = {"group": "first", "label": "min", "logit": "mean", "fold": "first"}
    studies = grouped.agg(columns)
    return studies.assign(probability=special.expit(studies["logit"]))
