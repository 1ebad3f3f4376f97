"""Which pictures to go and look at: the surest errors, and labels that may be wrong."""

from collections.abc import Sequence

import pandas as pd

from fracture_utils.evaluation.metrics import ENSEMBLES, FRACTURED, NORMAL, REFERENCES

OUTCOMES = {
    "missed": (FRACTURED, NORMAL),
    "false alarm": (NORMAL, FRACTURED),
    "found": (FRACTURED, FRACTURED),
    "cleared": (NORMAL, NORMAL),
}
"""Truth and decision, in the order in which a reader should see them."""
SURE = 0.2
"""A network is sure that a label is wrong where it gives it less than this probability."""


def surest(
    predictions: pd.DataFrame, models: Sequence[str], errors: int = 3, right: int = 1
) -> pd.DataFrame:
    """The test pictures about which each of the `models` that were asked is surest: misses first,
    then false alarms, up to `errors` of each, then up to `right` found and cleared. `predictions`
    come from calibration.apply. Columns: model, outcome, path, label, decision, probability, then
    group and subgroups.
    """
    tested, parts = predictions[predictions["split"] == "test"], []
    for model in models:
        rows = tested[tested["model"] == model]
        for outcome, (label, decision) in OUTCOMES.items():
            part = rows[(rows["label"] == label) & (rows["decision"] == decision)]
            part = part.sort_values("probability", ascending=decision == NORMAL, kind="stable")
            count = right if label == decision else errors
            parts.append(part.head(count).assign(outcome=outcome))
    first = ["model", "outcome", "path", "label", "decision", "probability"]
    table = pd.concat(parts, ignore_index=True)
    others = [c for c in table if c not in {*first, "split", "logit"}]
    return table[first + others]


def suspected(predictions: pd.DataFrame) -> pd.DataFrame:
    """Validation and test pictures whose label every network contradicts and is sure of it.

    A person should look at them: the label may be wrong, or the fracture be one that only other
    views show. Columns: path, split, label, networks (how many), probability (mean of fractured),
    least_sure (the probability of fractured of the network that is least sure).
    """
    named = predictions["model"].isin([*ENSEMBLES, *REFERENCES])
    rows = predictions[~named & ~predictions["model"].str.contains(" + ", regex=False)]
    fractured = rows["label"] == FRACTURED
    of_label = rows["probability"].where(fractured, 1 - rows["probability"])
    rows = rows.assign(of_label=of_label, against=rows["label"] != rows["decision"])
    table = rows.groupby(["path", "split", "label"], as_index=False).agg(
        networks=("model", "nunique"),
        probability=("probability", "mean"),
        worst=("of_label", "max"),
        against=("against", "all"),
    )
    table = table[table["against"] & (table["worst"] < SURE)].sort_values("worst")
    least = table["worst"].where(table["label"] == FRACTURED, 1 - table["worst"])
    table = table.assign(least_sure=least).drop(columns=["worst", "against"])
    return table.reset_index(drop=True)
