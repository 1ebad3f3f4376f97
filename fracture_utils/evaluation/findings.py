"""What is to be said of one network: its errors, probabilities, subgroups, heat maps and use."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fracture_utils.evaluation import localisation, use
from fracture_utils.evaluation.intervals import SIGNIFICANT, errors_of_100
from fracture_utils.evaluation.subgroups import ALL, FEWEST, TESTED
from fracture_utils.evaluation.wording import (
    counted,
    in_words,
    p_value,
    percent,
    ranged,
    spread_in_percent,
)

FEW_POSITIVES = 50
"""Fractures in validation below which a threshold is warned of."""
OF_CLASS = {"sensitivity": "fractures", "specificity": "normal pictures"}


def missed(row: Mapping, point: Mapping | None) -> str:
    """Misses and false alarms at the threshold; `row` of scores, `point` of operating points."""
    positives, negatives = int(row["positives"]), int(row["n"] - row["positives"])
    at = "At its threshold"
    if point is not None:
        chosen = "the default" if point["rule"].startswith("default") else "chosen on validation"
        ends = [point.get(f"threshold_{end}", np.nan) for end in ("low", "high")]
        near = "" if np.isnan(ends).any() else ", 95 % interval {:.2g} to {:.2g}".format(*ends)
        at = f"At its threshold of {point['threshold']:.2g} ({chosen}{near})"
    parts = []
    if positives:
        parts.append("misses " + _share(positives, "fractures", row, "sensitivity"))
    if negatives:
        counted_alarms = _share(negatives, "normal pictures", row, "specificity")
        parts.append(f"sounds a false alarm on {counted_alarms}")
    return f"{at}, {row['model']} {' and '.join(parts)}."


def unsteady(point: Mapping | None) -> str:
    """A warning where a threshold was chosen on fewer than FEW_POSITIVES fractures."""
    if point is None or point["rule"].startswith("default") or point["positives"] >= FEW_POSITIVES:
        return ""
    seen = counted(int(point["positives"]), "fractured validation pictures")
    return (
        f"That threshold was chosen on {seen}, fewer than {FEW_POSITIVES}: on other pictures it "
        "could lie anywhere in its interval, and the errors change with it."
    )


def _share(out_of: int, what: str, row: Mapping, metric: str) -> str:
    """The count of errors, with the interval of one minus the metric."""
    count = round((1 - row[metric]) * out_of)
    _, low, high = errors_of_100(row, metric)
    interval = "" if np.isnan(low) else f", 95 % interval {low:.0f} to {high:.0f} %"
    number = "none" if count == 0 else f"{count:,}"
    return f"{number} of {counted(out_of, what)} ({100 * count / out_of:.0f} %{interval})"


def believed(row: Mapping, point: Mapping | None) -> str:
    """Whether its probabilities may be taken at their word."""
    how = "Its probabilities"
    if point is not None and point["rule"].startswith("default"):
        how = (
            "There are no validation pictures of both classes, so nothing was calibrated (slope 1, "
            "threshold 0.5); its probabilities"
        )
    elif point is not None:
        unsure = ", a bound: validation could not tell it" if point["at_bound"] else ""
        how = f"Calibrated on validation (slope {point['slope']:.2f}{unsure}), its probabilities"
    if np.isnan(row["calibration_p"]):
        return f"{how} cannot be judged on so few test pictures."
    found = (
        f"observed over expected fractures {ranged(row, 'observed_expected', 2)}, slope "
        f"{ranged(row, 'calibration_slope', 2)}, {p_value(row['calibration_p'])}"
    )
    if row["calibration_p"] < SIGNIFICANT:
        return f"{how} should not be taken at their word ({found})."
    return f"{how} are not shown to be wrong ({found})."


def worth(row: Mapping, worth: pd.DataFrame | None, curve: pd.DataFrame | None) -> list[str]:
    """Predictive values where fractures are as common as there, and the range of thresholds in
    which acting on the network pays, if there are FEWEST pictures of each class; from use.table
    and use.decision_curve.
    """
    said, model = [], row["model"]
    if worth is not None and model in set(worth["model"]):
        known = worth.set_index("model").loc[model]
        if 0 < known["prevalence"] < 1 and not np.isnan(known["npv"]):
            said.append(_predictive(model, known))
    enough = min(row["positives"], row["n"] - row["positives"]) >= FEWEST
    if enough and curve is not None and model in set(curve["model"]):
        pays = use.worthwhile(curve, model)
        better = f"acting on {model} is shown to be worth more than acting on every picture"
        where = "no threshold of its probability" if pays is None else _range(*pays)
        said.append(f"At {where}, {better} and than acting on none (net benefit, 95 % interval).")
    return said


def _range(low: float, high: float) -> str:
    if low == high:
        return f"a threshold of {low:.2f}"
    return f"every threshold of its probability from {low:.2f} to {high:.2f}"


def _predictive(model: str, row: Mapping) -> str:
    alarm = "it never calls a picture fractured"
    if not np.isnan(row["ppv"]):
        alarm = f"{percent(row['ppv'])} of its alarms are right{spread_in_percent(row, 'ppv')}"
    return (
        f"Where {percent(row['prevalence'])} of the pictures are fractured, {alarm}, and "
        f"{percent(row['npv'])} of the pictures that {model} calls normal are normal"
        f"{spread_in_percent(row, 'npv')}."
    )


def uneven(model: str, by_group: pd.DataFrame | None) -> list[str]:
    """A sentence for each column whose values differ in sensitivity or specificity by more than
    chance, after Holm's correction; from subgroups.table.
    """
    if by_group is None or model not in set(by_group["model"]):
        return []
    known = by_group[(by_group["model"] == model) & (by_group["column"] != ALL)]
    tests = known.drop_duplicates("column")
    family = int(tests[[f"p_{measure}" for measure in TESTED]].notna().sum().sum())
    said = []
    for test in tests.to_dict("records"):
        for measure in TESTED:
            p = test[f"p_{measure}_holm"]
            if p < SIGNIFICANT:
                rows = known[(known["column"] == test["column"]) & known[measure].notna()]
                said.append(_differs(model, measure, test["column"], rows, p, family))
    return said


def _differs(
    model: str, measure: str, column: str, rows: pd.DataFrame, p: float, family: int
) -> str:
    rows = rows.sort_values(measure)
    name, parts = column.replace("_", " "), []
    flags = {"yes": f"pictures with {name}", "no": f"pictures without {name}"}
    words = in_words(rows["value"])
    for place in (0, -1):
        row, value = rows.iloc[place], flags.get(words[place], words[place])
        of_class = row["positives"] if measure == "sensitivity" else row["n"] - row["positives"]
        parts.append(
            f"{percent(row[measure])} for {value}{spread_in_percent(row, measure)[:-1]}; "
            f"{counted(int(of_class), OF_CLASS[measure])})"
        )
    corrected = f"after Holm's correction for {family} tests" if family > 1 else "a single test"
    return (
        f"{model} does not do alike for every {name}: its {measure} is {parts[0]} but {parts[1]}, "
        f"and the values of {name} differ by more than chance ({p_value(p)} {corrected})."
    )


def pointing(model: str, located: pd.DataFrame | None) -> list[str]:
    """What the heat maps are worth; from localisation.table."""
    if located is None or model not in set(located["model"]):
        return []
    row = located.set_index("model").loc[model]
    verdict = {
        localisation.POINTS: "they point at the fracture",
        localisation.CENTRE: "better than chance, but not shown to be better than the middle",
        localisation.CHANCE: "they are not shown to point at the fracture",
    }[row["verdict"]]
    return [
        f"The heat maps of {model} are highest in or right beside the fracture in "
        f"{percent(row['hit_rate'])} of {counted(int(row['pictures']), 'pictures')}"
        f"{spread_in_percent(row, 'hit_rate')}, against {percent(row['swapped'])} for the maps of "
        f"other pictures ({p_value(row['p_swapped'])}) and {percent(row['centre'])} for the "
        f"middle of the picture ({p_value(row['p_centre'])}): {verdict}.",
        f"They hold {row['energy_ratio']:.1f} times as much in the box as an even map, and find "
        f"{percent(row['found_at_1'])} of {counted(int(row['boxes']), 'boxed fractures')} at one "
        "false mark per picture.",
    ]
