"""AUC, sensitivity and specificity by body part, view, device and other columns."""

import numpy as np
import pandas as pd
from scipy import stats

from fracture_utils import tables
from fracture_utils.data.dataset import SUBGROUPS
from fracture_utils.evaluation.intervals import design_effect, holm, wilson, with_limits
from fracture_utils.evaluation.metrics import auc_with_interval
from fracture_utils.evaluation.predictions import compared

FEWEST = 5  # images of each class for estimates and tests
ALL = "all"


def table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The subgroups table of one model: a row for all images, then a row per value of each of
    SUBGROUPS that has 2 to 12 values in the test set and does not determine the class.

    Values with fewer than FEWEST images of a class have counts only. The others are tested for
    equal sensitivity and specificity (`heterogeneity`), with Holm's correction over all tests.
    """
    data, rows, tests = compared(predictions), [], {}
    images = predictions[predictions["split"] == "test"].set_index("path").loc[data.paths]
    labels, groups, (model,) = data.labels, data.groups, data.models
    classes = {"sensitivity": labels == 1, "specificity": labels == 0}
    correct = data.decisions[:, 0] == labels
    parts = {ALL: pd.Series(ALL, images.index)}
    for column in (name for name in SUBGROUPS if name in images):
        values = images[column].replace("", np.nan)
        labels_of = images["label"].groupby(values).nunique()
        if 2 <= len(labels_of) <= 12 and labels_of.max() == images["label"].nunique():
            parts[column] = values
    for column, values in parts.items():
        large = []
        for value in sorted(values.dropna().unique()):
            own = (values == value).to_numpy()
            row = {"column": column, "value": value, "model": model, "n": own.sum()}
            row["positives"] = positives = labels[own].sum()
            if enough := min(positives, own.sum() - positives) >= FEWEST:
                large.append(value)
            if enough or column == ALL:
                auc = auc_with_interval(labels[own], data.logits[own, 0], groups[own])
                row |= with_limits("auc", *auc)
                for name, of in classes.items():
                    row |= with_limits(name, *wilson(correct[own & of], groups[own & of]))
            rows.append(row)
        for name, of in classes.items():
            own = values.isin(large).to_numpy() & of
            tests[column, name] = heterogeneity(correct[own], values.to_numpy()[own], groups[own])
    result = pd.DataFrame(rows, columns=tables.columns("subgroups"))
    for (column, name), *p in zip(tests, tests.values(), holm([*tests.values()]), strict=True):
        result.loc[result["column"] == column, [f"p_{name}", f"p_{name}_holm"]] = p
    return result


def heterogeneity(correct: np.ndarray, values: np.ndarray, groups: np.ndarray) -> float:
    """The p value of the test that the mean of `correct` (n,) bool is equal for all `values` (n,):
    Pearson's test on counts divided by design effects (Rao and Scott 1992); NaN for fewer than two.
    """
    counts = []
    for value in np.unique(values.astype(str)):
        own = values == value
        effect = design_effect(correct[own], groups[own])
        counts.append((correct[own].sum() / effect, own.sum() / effect))
    if len(counts) < 2:
        return np.nan
    hits, totals = np.array(counts).T
    if hits.sum() in (0, totals.sum()):
        return 1.0
    return float(stats.chi2_contingency([hits, totals - hits], correction=False).pvalue)
