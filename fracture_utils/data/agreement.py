"""Whether folders, tables and splits say the same: findings for the audit.

Each finding is a row with COLUMNS.
"""

import re

import pandas as pd
from scipy import stats

from fracture_utils.config import SPLITS, Config
from fracture_utils.data import folders, groups, sidecars

COLUMNS = ("severity", "check", "path", "other", "what", "advice")
LEAST_RATIO = 1.5
"""Of the odds of a fracture in validation and test, that is worth a warning."""
PERSON = re.compile("patient|person|subject|study|exam|accession|case", re.IGNORECASE)
"""Words in the name of a column that may tell patients apart."""

LABEL = "label conflict"
"""The check of `labels`."""


def findings(table: pd.DataFrame) -> list[dict]:
    """What the columns of the images table tell about each other."""
    return [*_prevalence(table), *_shared_groups(table), *_identities(table)]


def labels(table: pd.DataFrame, known: pd.DataFrame) -> list[dict]:
    """Where images.csv (`known`: path, perhaps label; its index counts the rows) calls a picture
    of the images table otherwise than its folder, or by a word that means no class.
    """
    if "label" not in known:
        return []
    words = known.assign(row=known.index + 2)[["path", "label", "row"]]
    both = table[["path", "label"]].merge(words, on="path", suffixes=("", "_said"))
    both["meant"] = both["label_said"].map(folders.label_word)
    found = []
    for row in both[(both["meant"] != "") & (both["meant"] != both["label"])].itertuples():
        what = f"its folder says {row.label}, images.csv in row {row.row} {row.label_said.strip()}"
        advice = "look at the picture, then move it or correct the table"
        found.append(finding("red", LABEL, row.path, what, advice))
    unclear = both[(both["meant"] == "") & (both["label_said"].str.strip() != "")]
    for word, rows in unclear.groupby("label_said"):
        what = f"the label {word.strip()!r} in {len(rows)} rows of images.csv means no class"
        advice = "write fractured or normal; the folders were believed"
        found.append(finding("amber", "label unknown", rows["path"].iloc[0], what, advice))
    return found


def idle(config: Config, known: pd.DataFrame) -> list[dict]:
    """What lies beside the pictures and takes no effect, although it seems meant to; `known` is
    what images.csv says.
    """
    found = []
    for name in sidecars.unread(config):
        what = f"it is not read: only {' and '.join(folders.SIDECARS)} are"
        found.append(finding("amber", "sidecar", name, what, "rename it, or take it away"))
    if not set(groups.IDENTITIES).intersection(known):
        for name in (name for name in known if PERSON.search(name)):
            what = f"images.csv has a column {name}, but pictures are not grouped by it"
            advice = "if it tells the patient, call it patient"
            found.append(finding("amber", "sidecar", "images.csv", what, advice))
    return found


def finding(
    severity: str, check: str, path: str, what: str, advice: str, other: str = ""
) -> dict[str, str]:
    """A row of the audit's table."""
    row = (severity, check, path, other, what, advice)
    return dict(zip(COLUMNS, row, strict=True))


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
    return [finding("amber", "prevalence", "", what, advice)]


def _shared_groups(table: pd.DataFrame) -> list[dict]:
    """One finding for each group in two splits. (Clusters of near duplicates, which bear the
    path of their first picture, are judged pair by pair.)
    """
    found = []
    known = table[~table["group"].isin(table["path"])]
    several = known.groupby("group")["split"].transform("nunique") > 1
    for group, rows in known[several].groupby("group"):
        first = rows.groupby("split")["path"].agg(["first", "size"])
        first = first.reindex([split for split in SPLITS if split in first.index])
        counts = " and ".join(f"{row.size} in {row.Index}" for row in first.itertuples())
        advice = "give all pictures of a patient to one split"
        ends = first["first"].iloc[0], first["first"].iloc[-1]
        what = f"{group} has pictures in two splits: {counts}"
        found.append(finding("red", "group in two splits", ends[0], what, advice, ends[1]))
    guessed = table["group"].isin(table["path"])
    if len(table) > 1 and (guessed | groups.runs(table)).mean() > 0.5:
        what = "most pictures bear no patient: groups are clusters of near duplicates"
        what += ", or runs of neighbouring numbers" if groups.runs(table).any() else ""
        advice = "add a column patient to images.csv; other views may lie in train and test"
        found.append(finding("amber", "no patients", "", what, advice))
    return found


def _identities(table: pd.DataFrame) -> list[dict]:
    for column in ("patient", "study"):
        if empty := sorted(set(groups.empty_identities(table, column))):
            what = (
                f"the {column} of every picture is {' or '.join(empty)}, as in de-identified "
                "exports: it says nothing, so pictures are grouped by their names and likeness"
            )
            advice = f"name the true {column} in images.csv, or see that none is in train and test"
            return [finding("amber", "no patients", "", what, advice)]
    return []
