"""The answer on one screen: who wins or ties, what is missed, and what may be believed."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from fracture_utils.evaluation import calibration, comparison, localisation
from fracture_utils.evaluation.intervals import SIGNIFICANT, errors_of_100
from fracture_utils.evaluation.predictions import FRACTURED, single

ROUGH = (2 / 3, 3 / 2)
"""Observed over expected fractures between which probabilities hold roughly."""


ANSWERS = {"green": "yes", "amber": "with care", "red": "no", "grey": "unknown"}
"""Each colour as an answer to "may I believe it?", for whoever tells no colours apart."""


class Light(NamedTuple):
    """One thing a reader may or may not believe: colour is one of ANSWERS."""

    what: str
    colour: str
    words: str

    @property
    def answer(self) -> str:
        """The colour in words."""
        return ANSWERS[self.colour]


class Verdict(NamedTuple):
    """What stands on the card; `missed` and `alarms` are of 100, with their 95 % interval."""

    model: str
    headline: str
    missed: tuple[float, float, float]
    alarms: tuple[float, float, float]
    counts: str
    lights: list[Light]


def chosen(predictions: pd.DataFrame | None, scores: pd.DataFrame) -> str:
    """The network that validation chose, which page and figures put forward; the first on the test
    where the predictions have no validation of both classes.
    """
    rows = single(scores)
    if predictions is None or predictions.empty:
        return rows["model"].iloc[0]
    own = predictions[predictions["model"].isin(rows["model"])]
    return calibration.chosen(own) or rows["model"].iloc[0]


def standing(comparisons: pd.DataFrame, models: Iterable[str], model: str) -> dict[str, str]:
    """How each of the models stands to one: chosen (itself), tie, behind or ahead by a paired test,
    or "not tested".
    """
    said = dict.fromkeys(models, "not tested") | {model: "chosen"}
    if len(comparisons):
        for row in comparison.against(comparisons, model).itertuples():
            apart = row.p < SIGNIFICANT
            said[row.Index] = ("behind" if row.lead > 0 else "ahead") if apart else "tie"
    return said


def of(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    located: pd.DataFrame,
    positive: str = FRACTURED,
    model: str | None = None,
) -> Verdict:
    """The verdict about one model (None: the first on the test) from the tables scores, comparisons
    and localisation; the latter two may be empty.
    """
    rows = single(scores)
    row = rows.set_index("model", drop=False).loc[model or rows["model"].iloc[0]]
    place = standing(comparisons, rows["model"], row["model"])
    places = pd.Series([place[name] for name in rows["model"] if name != row["model"]], dtype=str)
    positives, negatives = int(row["positives"]), int(row["n"] - row["positives"])
    missed = (1 - row["sensitivity"]) * positives
    said = f"misses {missed:.0f} of {positives:,} {positive} pictures"
    said = f"the test holds no {positive} pictures" if not positives else said
    return Verdict(
        row["model"],
        f"{_standing(row['model'], places)} {said}.",
        errors_of_100(row, "sensitivity"),
        errors_of_100(row, "specificity"),
        f"{row['n']:,} test pictures, {positives:,} {positive}, {negatives:,} normal",
        [_ranking(row, places), _probabilities(row), _maps(row["model"], located)],
    )


def _standing(model: str, places: pd.Series) -> str:
    """The first half of the headline; `places` are those of the other networks."""
    others, tied = len(places), int(places.isin(["tie", "not tested"]).sum())
    ahead = int((places == "ahead").sum())
    if not others:
        return f"{model}, the only network,"
    if ahead:
        return f"{model}, chosen on validation but behind {ahead} of {others} others on the test,"
    if tied:
        of_them = "" if tied == others else f"{tied + 1} of them "
        return f"{others + 1} networks, {of_them}not to be told apart; {model}, the chosen one,"
    return f"{model}, ahead of {f'{others} other networks' if others > 1 else 'the other network'},"


def _ranking(row: pd.Series, places: pd.Series) -> Light:
    tied = int(places.isin(["tie", "not tested"]).sum())
    if np.isnan(row["auc"]) or not row["auc_low"] > 0.5:
        return Light("Ranking", "red", "not shown to be better than chance")
    if (places == "ahead").any():
        return Light("Ranking", "red", "others are ahead of it in the paired tests")
    if places.empty:
        return Light("Ranking", "grey", "one network: nothing to rank")
    if tied:
        return Light("Ranking", "amber", f"a tie with {tied} of {len(places)} other networks")
    return Light("Ranking", "green", "its lead holds in the paired tests")


def _probabilities(best: pd.Series) -> Light:
    p = best.get("calibration_p", np.nan)  # a folder of an earlier version has none
    if np.isnan(p):
        return Light("Probabilities", "amber", "too few test pictures to judge them")
    ratio = best["observed_expected"]
    off = f"{ratio:.2f} fractures seen for each expected"
    if p >= SIGNIFICANT:
        return Light("Probabilities", "green", f"not shown to be wrong: {off}")
    rough = ROUGH[0] <= ratio <= ROUGH[1]
    words = "not to be taken at their word" if rough else "wrong"
    return Light("Probabilities", "amber" if rough else "red", f"{words}: {off}")


def _maps(model: str, located: pd.DataFrame) -> Light:
    rows = located[located["model"] == model] if len(located) else located
    if rows.empty:
        return Light("Heat maps", "grey", "unchecked: no boxes of fractures are known")
    verdict = rows["verdict"].iloc[0]
    if verdict == localisation.POINTS:
        return Light("Heat maps", "green", "point at the fracture better than the centre does")
    if verdict == localisation.CENTRE:
        return Light("Heat maps", "amber", "not shown to be better than pointing at the centre")
    return Light("Heat maps", "red", "not shown to point at the fracture")
