"""Whether folders, tables and splits say the same: findings for the audit.

Each finding is a row with severity, check, path, other, what and advice.
"""

import pandas as pd
from scipy import stats

from fracture_utils.data import groups

LEAST_RATIO = 1.5
"""Of the odds of a fracture in validation and test, that is worth a warning."""


def findings(table: pd.DataFrame) -> list[dict]:
    """What the columns of the images table tell about each other."""
    return [*_prevalence(table), *_identities(table)]


def _finding(severity: str, check: str, path: str, what: str, advice: str) -> dict:
    return {"severity": severity, "check": check, "path": path, "other": "",
            "what": what, "advice": advice}  # fmt: skip


def _prevalence(table: pd.DataFrame) -> list[dict]:
    counts = pd.crosstab(table["split"], table["label"])
    counts = counts.reindex(
        index=["validation", "test"], columns=["fractured", "normal"], fill_value=0
    )
    if (counts == 0).any(axis=None):
        return []
    odds = counts["fractured"] / counts["normal"]
    ratio = odds["validation"] / odds["test"]
    chance = stats.fisher_exact(counts).pvalue
    if chance >= 0.05 or max(ratio, 1 / ratio) < LEAST_RATIO:
        return []
    share = counts["fractured"] / counts.sum(axis=1)
    what = (
        f"{share['validation']:.0%} of validation but {share['test']:.0%} of test are fractured: "
        f"in test, probabilities calibrated on validation are too {'high' if ratio > 1 else 'low'}"
        f" (their odds {max(ratio, 1 / ratio):.1f} times), and a threshold chosen there keeps its "
        "sensitivity and specificity, but not its predictive values"
    )
    advice = "judge by AUC; read probabilities as of pictures mixed like validation"
    return [_finding("amber", "prevalence", "", what, advice)]


def _identities(table: pd.DataFrame) -> list[dict]:
    for column in ("patient", "study"):
        if empty := sorted(set(groups.empty_identities(table, column))):
            what = (
                f"the {column} of every picture is {' or '.join(empty)}, as in de-identified "
                "exports: it says nothing, so pictures are grouped by their names and likeness"
            )
            advice = f"name the true {column} in images.csv, or see that none is in train and test"
            return [_finding("amber", "no patients", "", what, advice)]
    return []
