"""What the tables say, in sentences that change when the numbers do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES
from fracture_utils.evaluation import localisation
from fracture_utils.evaluation.comparison import Power
from fracture_utils.evaluation.metrics import ENSEMBLES, FRACTURED, PROBE, REFERENCES

LEVEL = 0.05
FEW = 50
"""Pictures of a class below which an interval is too wide to rank networks by."""
ABNORMAL = {
    "a fractured": "an abnormal", "a fracture": "an abnormality",
    "fractures": "abnormalities", "fracture": "abnormality",
}  # fmt: skip
EDUCATION = "Research and education only: nothing here may be used to diagnose, or not to, anyone."


def reword(text: str, positive: str) -> str:
    """The text with another word for the positive class: of MURA, "abnormal" for "fractured"."""
    if positive == FRACTURED:
        return text
    words = {FRACTURED: positive} | (ABNORMAL if positive == "abnormal" else {})
    for old, new in sorted(words.items(), key=lambda pair: -len(pair[0])):
        text = text.replace(old, new).replace(old.capitalize(), new.capitalize())
    return text


def note(
    source: str = "",
    initialisation: Mapping[str, str] | None = None,
    positive: str = FRACTURED,
    unofficial: Sequence[str] = (),
) -> str:
    """The line on each figure: what the pictures are and what the networks started from.

    `source` is that of the settings, "phantoms" or "pictures"; `initialisation` maps a network to
    imagenet, released or random; `positive` is the word for the positive class; `unofficial`
    are the networks whose weights file is not the one that Keras publishes.
    """
    parts = ["Synthetic phantoms, not radiographs"] if source == "phantoms" else []
    if positive != FRACTURED:
        parts.append(f"positive means {positive}, with or without a break of the bone")
    starts = initialisation or {}
    for start in sorted(set(starts.values()), reverse=True):
        networks = [name for name, value in starts.items() if value == start]
        names = "all networks" if len(networks) == len(starts) else ", ".join(networks)
        named = {"imagenet": "ImageNet weights", "random": "random initialisation"}
        parts.append(f"{named.get(start, f'{start} weights')}: {names}")
    if len(unofficial):
        parts.append(f"weights not from Keras's own file: {', '.join(unofficial)}")
    return " · ".join([*parts, "research and education only"])


def sentences(
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    operating_points: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    power: Power | None = None,
    source: str = "",
    positive: str = FRACTURED,
    located: pd.DataFrame | None = None,
) -> list[str]:
    """The conclusion: which model is best and with which it is tied, what it misses, how sure all
    of that is, whether its probabilities and heat maps may be believed, and what the numbers are
    worth.

    Takes the tables of metrics.scores, comparison.pairs, calibration.fit,
    comparison.rank_stability and (`located`) localisation.table, and the result of
    comparison.power; what is not given is not said.
    The best model is sought among the networks; ensembles are told about after it.
    """
    models = scores[~scores["model"].isin(REFERENCES)]
    networks = models[~models["model"].isin(ENSEMBLES)]
    networks = (networks if len(networks) else models).sort_values(
        "auc", ascending=False, kind="stable"
    )
    best = networks.iloc[0]
    said = [_best(best, networks)]
    if not np.isnan(best["auc"]):
        said += [
            _tied(best["model"], list(networks["model"][1:]), comparisons),
            _sure(best["model"], stability),
            _more(power),
            *_ensembles(models, best, comparisons),
        ]
    said += [_missed(best, operating_points), _believed(best, operating_points)]
    said += [_pointing(best["model"], located)]
    said += [_few(best), _metadata(scores), *_worth(networks, source), EDUCATION]
    return [reword(sentence, positive) for sentence in said if sentence]


def _best(best: pd.Series, networks: pd.DataFrame) -> str:
    n, positives = int(best["n"]), int(best["positives"])
    if np.isnan(best["auc"]):
        name = CLASS_NAMES[int(positives > 0)]
        return (
            f"All {n:,} test pictures are {name}: without both classes no model can be ranked. "
            "Add pictures of the other class to the test set."
        )
    auc = f"AUC of {best['auc']:.3f}{_range(best, 'auc', '{:.3f}')}"
    pictures = f"{n:,} test pictures, {positives:,} of them fractured"
    first = list(networks.loc[networks["auc"] > best["auc"] - 1e-9, "model"])
    if len(networks) == 1:
        return f"On {pictures}, {best['model']}, the only network, reaches an {auc}."
    if len(first) > 1:
        return f"On {pictures}, {_list(first)} share the first place, with an {auc}."
    return f"On {pictures}, {best['model']} ranks best of {len(networks)} networks, with an {auc}."


def _tied(best: str, others: Sequence[str], comparisons: pd.DataFrame) -> str:
    pairs = comparisons[(comparisons["model_a"] == best) | (comparisons["model_b"] == best)]
    p = {
        row.model_b if row.model_a == best else row.model_a: row.p_delong_holm
        for row in pairs.itertuples()
    }
    known = [model for model in others if model in p]
    beaten = [model for model in known if p[model] < LEVEL]
    tied = [model for model in known if model not in beaten]
    test = "paired test (DeLong's, corrected by Holm's method for all pairs)"
    if not known:
        return ""
    if not beaten:
        return (
            f"No {test} tells it from {_list(tied, 'or')}: "
            "this test set cannot say which network is best."
        )
    if not tied:
        every = "every other network" if len(beaten) > 1 else beaten[0]
        return f"Its lead over {every} holds in the {test}."
    return f"The {test} does not tell it from {_list(tied, 'or')}; it is ahead of {_list(beaten)}."


def _sure(best: str, stability: pd.DataFrame | None) -> str:
    if stability is None or len(stability) < 2 or stability["wins"].isna().any():
        return ""
    wins = stability.set_index("model")["wins"]
    if best not in wins:
        return ""
    sentence = f"In {_percent(wins[best])} of the resampled test sets {best} comes first"
    rival = wins.drop(best)
    if rival.max() >= 0.01:
        sentence += f", in {_percent(rival.max())} {rival.idxmax()} does"
    return sentence + "."


def _more(power: Power | None) -> str:
    if power is None or np.isnan(power.needed):
        return ""
    pair = f"{power.model_a} and {power.model_b}"
    if np.isinf(power.needed):
        return f"The AUCs of {pair} do not differ, so no number of pictures would separate them."
    if power.needed <= power.pictures:
        return (
            f"To separate {pair} with 80 % power, about {_round(power.needed)} test pictures "
            f"suffice where the observed difference of {power.difference:.3f} is the true one; "
            f"there are {power.pictures:,}."
        )
    return (
        f"Were the observed difference of {power.difference:.3f} between {pair} the true one, "
        f"it would take about {_round(power.needed)} test pictures to show it with 80 % power; "
        f"there are {power.pictures:,}."
    )


def _ensembles(models: pd.DataFrame, best: pd.Series, comparisons: pd.DataFrame) -> list[str]:
    said = []
    for row in models[models["model"].isin(ENSEMBLES)].to_dict("records"):
        if row["model"] == best["model"]:
            continue
        names = {row["model"], best["model"]}
        pair = comparisons[comparisons["model_a"].isin(names) & comparisons["model_b"].isin(names)]
        sentence = (
            f"The {row['model'].lower()} reaches {row['auc']:.3f}{_range(row, 'auc', '{:.3f}')}"
        )
        if len(pair):
            apart = pair["p_delong_holm"].iloc[0] < LEVEL
            side = "above" if row["auc"] > best["auc"] else "below"
            told = f"significantly {side}" if apart else "not to be told from"
            sentence += f", {told} {best['model']}"
        said.append(sentence + ".")
    return said


def _missed(best: pd.Series, operating_points: pd.DataFrame | None) -> str:
    positives, negatives = int(best["positives"]), int(best["n"] - best["positives"])
    at = "At its threshold"
    if operating_points is not None:
        point = operating_points.set_index("model").loc[best["model"]]
        chosen = "the default" if point["rule"].startswith("default") else "chosen on validation"
        at = f"At its threshold of {point['threshold']:.2g} ({chosen})"
    parts = []
    if positives:
        missed = round((1 - best["sensitivity"]) * positives)
        parts.append("misses " + _share(missed, positives, "fractures", best, "sensitivity"))
    if negatives:
        alarms = round((1 - best["specificity"]) * negatives)
        counted = _share(alarms, negatives, "normal pictures", best, "specificity")
        parts.append(f"sounds a false alarm on {counted}")
    return f"{at}, {best['model']} {' and '.join(parts)}."


def _share(count: int, out_of: int, what: str, row: pd.Series, metric: str) -> str:
    """The count of errors, with the interval of one minus the metric."""
    low, high = 100 - 100 * row[f"{metric}_high"], 100 - 100 * row[f"{metric}_low"]
    interval = "" if np.isnan(low) else f", 95 % interval {low:.0f} to {high:.0f} %"
    number = "none" if count == 0 else f"{count:,}"
    return f"{number} of {out_of:,} {what} ({100 * count / out_of:.0f} %{interval})"


def _believed(best: pd.Series, operating_points: pd.DataFrame | None) -> str:
    error = best["expected_calibration_error"]
    off = f"on average {100 * error:.1f} percentage points off on the test set"
    if operating_points is None:
        return f"Its probabilities are {off} (expected calibration error)."
    point = operating_points.set_index("model").loc[best["model"]]
    if point["rule"].startswith("default"):
        return (
            "There are no validation pictures of both classes, so nothing was calibrated "
            f"(temperature 1, threshold 0.5); its probabilities are {off}."
        )
    judged = "may be read as such" if error < 0.05 else "should not be taken at their word"
    return (
        f"Calibrated on validation (temperature {point['temperature']:.2f}), its probabilities "
        f"are {off} (expected calibration error) and {judged}."
    )


def _pointing(best: str, located: pd.DataFrame | None) -> str:
    if located is None or best not in set(located["model"]):
        return ""
    row = located.set_index("model").loc[best]
    verdict = {
        localisation.POINTS: "they point at the fracture",
        localisation.CENTRE: "better than chance, but not shown to be better than the middle",
        localisation.CHANCE: "they are not shown to point at the fracture",
    }[row["verdict"]]
    return (
        f"The heat maps of {best} are highest in or right beside the fracture in "
        f"{_percent(row['hit_rate'])} of {row['pictures']:,} pictures (95 % interval "
        f"{100 * row['hit_rate_low']:.0f} to {100 * row['hit_rate_high']:.0f} %), against "
        f"{_percent(row['swapped'])} for the maps of other pictures (p {_p(row['p_swapped'])}) and "
        f"{_percent(row['centre'])} for the middle of the picture (p {_p(row['p_centre'])}): "
        f"{verdict}. They hold {row['energy_ratio']:.1f} times as much in the box as an even map, "
        f"and find {_percent(row['found_at_1'])} of {row['boxes']:,} fractures at one false mark "
        "per picture."
    )


def _few(best: pd.Series) -> str:
    fewer = min(int(best["positives"]), int(best["n"] - best["positives"]))
    if fewer >= FEW or fewer == 0:
        return ""
    name = CLASS_NAMES[int(best["positives"] <= best["n"] / 2)]
    pictures = (
        f"only {fewer} {name} test pictures" if fewer > 1 else f"a single {name} test picture"
    )
    return f"With {pictures}, every interval is wide: take the ranking as a hint, no more."


def _metadata(scores: pd.DataFrame) -> str:
    probe = scores[scores["model"] == PROBE]
    if not len(probe) or not probe["auc_low"].iloc[0] > 0.5:
        return ""
    return (
        f"Metadata alone (no pixels) reach an AUC of {probe['auc'].iloc[0]:.3f}: the classes "
        "differ in more than fractures, and a network may have learnt that instead."
    )


def _worth(networks: pd.DataFrame, source: str) -> list[str]:
    random = list(networks.loc[networks["initialisation"] == "random", "model"])
    said = []
    if random:
        names = "All networks" if len(random) == len(networks) > 1 else _list(random)
        verb, their = ("started", "their") if len(random) > 1 else ("started", "its")
        said.append(
            f"{names} {verb} from random weights, not from ImageNet: "
            f"{their} numbers say nothing about what the architecture can do."
        )
    if source == "phantoms":
        said.append(
            "All pictures are synthetic phantoms: the numbers show that the procedure works, "
            "and nothing about radiographs of people."
        )
    return said


def _range(row: Mapping, metric: str, form: str) -> str:
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    if np.isnan(low):
        return " (too few groups for an interval)"
    if low == high:
        return " (the same in every resample, so without an interval)"
    return f" (95 % interval {form.format(low)} to {form.format(high)})"


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.{2 if value >= 0.01 else 3}f}"


def _percent(share: float) -> str:
    if 0.99 < share < 1:
        return "more than 99 %"
    return f"{100 * share:.0f} %"


def _round(number: float) -> str:
    """Two significant digits: an estimate of an estimate deserves no more."""
    digits = max(0, len(str(int(number))) - 2)
    return f"{round(number, -digits):,.0f}"


def _list(names: Sequence[str], last: str = "and") -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"
