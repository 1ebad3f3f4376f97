"""Whether a network does as well for every body part, view, device … as on the whole."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fracture_utils import tables
from fracture_utils.errors import InputError
from fracture_utils.evaluation import metrics
from fracture_utils.evaluation.intervals import ENDS, holm
from fracture_utils.evaluation.predictions import FRACTURED

KNOWN = (
    *("body_part", "region", "bone", "view", "projection", "laterality", "side", "hardware"),
    *("implant", "cast", "age_group", "sex", "gender", "ethnicity", "device", "manufacturer"),
    *("scanner", "detector", "site", "hospital", "institution", "country", "year"),
)
"""Columns that say who or what was pictured, and how; others only where a setting names them."""
FEWEST = 5
"""Pictures of each class below which a group gets its counts and no more."""
VALUES = (2, 12)
"""Fewest and most different values of a column that makes subgroups."""
ALL = "all"
MEASURES = ("auc", "sensitivity", "specificity")
TESTED = MEASURES[1:]
COLUMNS = tables.NAMES["subgroups"]


def table(
    predictions: pd.DataFrame, named: Sequence[str] = (), resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """AUC, sensitivity and specificity, with intervals, for each value of `columns`: COLUMNS.

    The first row of each model, column and value "all", is of all its test pictures. A value with
    fewer than FEWEST pictures of a class has counts only. p_sensitivity and p_specificity are of
    one test a column, that all its values of that size are alike (`heterogeneity`), repeated on its
    rows; …_holm are adjusted by Holm's method over both measures of all columns of a model.
    """
    rivals = predictions["kind"] != "reference"
    test = predictions[(predictions["split"] == "test") & rivals]
    sampling = {"resamples": resamples, "seed": seed}
    measured = [_measured(test, ALL, ALL, sampling)]
    for column in columns(test, named):
        for value, rows in test.groupby(test[column].map(_text)):
            measured.append(_measured(rows, column, value, sampling))
    result = pd.concat(measured, ignore_index=True)
    for model, rows in test.groupby("model"):
        tests = _tested(rows, result[result["model"] == model])
        for (column, measure), (p, adjusted) in tests.items():
            there = (result["model"] == model) & (result["column"] == column)
            result.loc[there, [f"p_{measure}", f"p_{measure}_holm"]] = p, adjusted
    return result.reindex(columns=COLUMNS)


def columns(pictures: pd.DataFrame, named: Sequence[str] = ()) -> list[str]:
    """The columns of a table of pictures (or predictions; label and, if it is there, split) that
    make subgroups of the test: those `named`, and those of KNOWN, with 2 to 12 values.

    A column that gives the class away (each value has one) is none, nor is one that says the same
    as an earlier one in other words. InputError where that is so of a column that is named.
    """
    test = pictures[pictures["split"] == "test"] if "split" in pictures else pictures
    found: dict[str, pd.Series] = {}
    for column in dict.fromkeys([*named, *(name for name in KNOWN if name in test)]):
        values, why = None, "there is no such column in images.csv"
        if column in test:
            values = test[column].map(_text)
            why = _unfit(values, test["label"], found)
        if not why:
            found[column] = values
        elif column in named:
            raise InputError(
                f"The setting subgroups names {column}, but {why}; correct FRACTURE_SUBGROUPS."
            )
    return list(found)


def _unfit(values: pd.Series, label: pd.Series, found: dict[str, pd.Series]) -> str:
    """Why a column makes no subgroups; empty where it does."""
    least, most = VALUES
    if not least <= values.nunique() <= most:
        return f"it has {values.nunique()} different values in the test, and {least} to {most} do"
    if label.groupby(values).nunique().max() == 1 < len(label.unique()):
        return "each of its values has one class only, so it tells the answer"
    for other, known in found.items():
        both = pd.DataFrame({"a": values, "b": known}).dropna().drop_duplicates()
        if not both["a"].duplicated().any() and not both["b"].duplicated().any():
            return f"it says the same as {other}"
    return ""


def _text(value: Any) -> str | None:
    """A value as it is shown; nothing where it is missing."""
    if pd.isna(value) or not str(value).strip():
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value).strip()


def _measured(rows: pd.DataFrame, column: str, value: str, sampling: dict) -> pd.DataFrame:
    fractured = rows.drop_duplicates("path")["label"] == FRACTURED
    counts = {"column": column, "value": value, "n": len(fractured), "positives": fractured.sum()}
    few = min(fractured.sum(), (~fractured).sum()) < FEWEST and column != ALL
    if few:
        return pd.DataFrame({"model": rows["model"].unique()}).assign(**counts)
    scores = metrics.scores(rows, **sampling)
    ends = [f"{measure}{end}" for measure in MEASURES for end in ENDS]
    return scores[scores["kind"] != "reference"][["model", *ends]].assign(**counts)


def _tested(
    rows: pd.DataFrame, measured: pd.DataFrame
) -> dict[tuple[str, str], tuple[float, float]]:
    """The p-value, as it is and after Holm, for each column and measure of one model."""
    enough = measured[measured["sensitivity"].notna() & (measured["column"] != ALL)]
    right = (rows["label"] == rows["decision"]).to_numpy()
    fractured = (rows["label"] == FRACTURED).to_numpy()
    raw = {}
    for column, known in enough.groupby("column", sort=False):
        values = rows[column].map(_text).to_numpy()
        for measure, of_class in zip(TESTED, (fractured, ~fractured), strict=True):
            asked = of_class & np.isin(values, known["value"].to_list())
            groups = rows["group"].to_numpy(str)[asked]
            raw[column, measure] = heterogeneity(right[asked], values[asked], groups)
    adjusted = holm(list(raw.values()))
    return {key: (p, after) for (key, p), after in zip(raw.items(), adjusted, strict=True)}


def heterogeneity(right: np.ndarray, values: np.ndarray, groups: np.ndarray) -> float:
    """The p-value that the share of `right` (n,) bool is the same for all `values` (n,), where the
    n pictures come in `groups` (n,): Pearson's chi-squared test on counts divided by the design
    effect of their value (Rao and Scott 1992). NaN where fewer than two values are there; where
    each picture is its own group it is Pearson's test.
    """
    found = []
    for value in np.unique(values.astype(str)):
        of_value = values == value
        effect = design_effect(right[of_value], groups[of_value])
        found.append((right[of_value].sum() / effect, of_value.sum() / effect))
    if len(found) < 2:
        return np.nan
    hits, totals = np.array(found).T
    if hits.sum() in (0, totals.sum()):
        return 1.0
    return float(stats.chi2_contingency([hits, totals - hits], correction=False).pvalue)


def design_effect(right: np.ndarray, groups: np.ndarray) -> float:
    """How many times larger the variance of the share of `right` (n,) is for coming in `groups`
    (n,), and at least 1: that of a ratio of sums over groups, against the binomial one.
    """
    share, index = right.mean(), np.unique(groups, return_inverse=True)[1]
    count = index.max() + 1
    if count in (1, len(right)) or share in (0, 1):
        return float(len(right)) if count == 1 else 1.0
    excess = np.bincount(index, right - share)
    variance = count / (count - 1) * np.sum(excess**2) / len(right)
    return max(1.0, float(variance / (share * (1 - share))))
