"""What the tables say, in sentences that change when the numbers do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES
from fracture_utils.evaluation import comparison, findings
from fracture_utils.evaluation.intervals import SIGNIFICANT
from fracture_utils.evaluation.predictions import FRACTURED, PROBE, single
from fracture_utils.evaluation.wording import counted, listed, percent, spread

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


def sentences(  # noqa: PLR0913  (one a table that it tells of)
    scores: pd.DataFrame,
    comparisons: pd.DataFrame,
    operating_points: pd.DataFrame | None = None,
    stability: pd.DataFrame | None = None,
    source: str = "",
    positive: str = FRACTURED,
    chosen: str | None = None,
    located: pd.DataFrame | None = None,
    by_group: pd.DataFrame | None = None,
    worth: pd.DataFrame | None = None,
    net_benefit: pd.DataFrame | None = None,
) -> list[str]:
    """The conclusion: how good the network is that was chosen on validation, whether the test can
    tell it from the others, what it misses and for whom, what its probabilities and heat maps are
    worth, and what all of the numbers are worth.

    Takes the tables of metrics.scores, comparison.pairs, calibration.fit,
    comparison.rank_stability, localisation.table (`located`), subgroups.table (`by_group`),
    use.table (`worth`) and use.decision_curve; what is not
    given is not said. Where nothing was `chosen`, the first on the test is told about, and that its
    lead is flattered. Where a network ranks fractures behind normal pictures, nothing is ranked.
    """
    networks = single(scores)
    ends = [*_worth(networks, source), EDUCATION]
    if said := _swapped(networks):
        return [reword(sentence, positive) for sentence in (*said, *ends)]
    row = networks.iloc[0]
    if chosen in set(networks["model"]):
        row = networks.set_index("model", drop=False).loc[chosen]
    model, points = row["model"], operating_points
    point = None if points is None else points.set_index("model").loc[model]
    said = [_reached(row, networks, chosen == model)]
    if not np.isnan(row["auc"]):
        said += [
            _ranking(networks),
            _tied(model, networks, comparisons),
            _sure(stability),
            _more(model, comparisons),
            *_ensembles(scores, row, comparisons),
        ]
    said += [findings.missed(row, point), findings.unsteady(point)]
    said += findings.worth(row, worth, net_benefit) + findings.uneven(model, by_group)
    said += [findings.believed(row, point), *findings.pointing(model, located)]
    said += [_few(row), _metadata(scores), *ends]
    return [reword(sentence, positive) for sentence in said if sentence]


def _swapped(networks: pd.DataFrame) -> list[str]:
    """Where whole intervals lie below one half: said instead of everything else."""
    below = networks[networks["auc_high"] < 0.5]
    if below.empty:
        return []
    worst, one = below.iloc[-1], len(below) == 1
    puts, its = ("puts", "its answers are") if one else ("put", "their answers are")
    return [
        f"The classes seem swapped: {listed(list(below['model']))} {puts} normal pictures above "
        f"fractured ones, {worst['model']} with an AUC of {worst['auc']:.3f}"
        f"{spread(worst, 'auc')}.",
        f"Either {its} probabilities of the other class, or the labels are the wrong way round; "
        "until that is settled nothing is ranked here.",
    ]


def _reached(row: pd.Series, networks: pd.DataFrame, chosen: bool) -> str:
    n, positives = int(row["n"]), int(row["positives"])
    if np.isnan(row["auc"]):
        name = CLASS_NAMES[int(positives > 0)]
        every = f"All {n:,} test pictures are" if n > 1 else "The only test picture is"
        return (
            f"{every} {name}: without both classes no model can be ranked. "
            "Add pictures of the other class to the test set."
        )
    auc = f"an AUC of {row['auc']:.3f}{spread(row, 'auc')}"
    pictures = f"{counted(n, 'test pictures')}, {positives:,} of them fractured"
    model = row["model"]
    if len(networks) == 1:
        return f"On {pictures}, {model}, the only network, reaches {auc}."
    if chosen:
        return (
            f"{model}, chosen of {len(networks)} networks on the validation pictures, reaches "
            f"{auc} on {pictures}."
        )
    first = list(networks.loc[networks["auc"] > row["auc"] - 1e-9, "model"])
    flattered = "without validation pictures to choose on, the first on the test is flattered by it"
    if len(first) > 1:
        return f"On {pictures}, {listed(first)} share the first place, with {auc}; {flattered}."
    return (
        f"On {pictures}, {model} ranks first of {len(networks)} networks, with {auc}; {flattered}."
    )


def _ranking(networks: pd.DataFrame) -> str:
    """The order on the test, which is no choice."""
    if len(networks) < 2:
        return ""
    parts = [
        f"{listed(list(rows['model']))} ({auc:.3f})"
        for auc, rows in networks.groupby(networks["auc"].round(9), sort=False)
    ]
    if len(parts) == 1:
        return f"On the test pictures {listed(list(networks['model']))} are level."
    return f"By AUC the order on the test pictures is {', '.join(parts)}."


def _tied(model: str, networks: pd.DataFrame, comparisons: pd.DataFrame) -> str:
    """Which networks the paired test tells from one, and on which side they are."""
    p = comparison.against(comparisons, model)["p"].to_dict() if len(comparisons) else {}
    auc = networks.set_index("model")["auc"]
    known = [other for other in networks["model"] if other in p]
    apart = [other for other in known if p[other] < SIGNIFICANT]
    tied = [other for other in known if other not in apart]
    test = "paired test (DeLong's, corrected by Holm's method)"
    if not known:
        return ""
    if not apart:
        return (
            f"No {test} tells {model} from {listed(tied, 'or')}: "
            "this test set cannot say which network is best."
        )
    sides = {
        "ahead of": [other for other in apart if auc[other] < auc[model]],
        "behind": [other for other in apart if auc[other] > auc[model]],
    }
    told = listed([f"{side} {listed(names)}" for side, names in sides.items() if names])
    if not tied:
        return f"By the {test}, {model} is {told}."
    return f"By the {test}, {model} is {told}, and not to be told from {listed(tied, 'or')}."


def _sure(stability: pd.DataFrame | None) -> str:
    if stability is None or len(stability) < 2 or stability["wins"].isna().any():
        return ""
    first, second = stability.iloc[0], stability.iloc[1]
    sentence = (
        "Drawn anew from the same pictures, "
        f"{percent(first['wins'])} of the test sets put {first['model']} first"
    )
    if second["wins"] >= 0.01:
        sentence += f" and {percent(second['wins'])} {second['model']}"
    return (
        f"{sentence}: that is how firm this order is, not how likely a network is the best (of "
        "three equal networks one passes 80 % in about one test of five)."
    )


def _more(model: str, comparisons: pd.DataFrame) -> str:
    if comparisons.empty:
        return ""
    easiest, hardest = comparison.detectable(comparisons, model)
    if np.isnan(easiest):
        return ""
    size = f"{easiest:.3f}"
    if f"{hardest:.3f}" != size:
        size += f" to {hardest:.3f}, by network"
    return (
        f"The smallest difference in AUC between {model} and another network that a test set like "
        f"this one shows in four cases of five is {size} (2.8 standard errors of the difference)."
    )


def _ensembles(scores: pd.DataFrame, best: pd.Series, comparisons: pd.DataFrame) -> list[str]:
    said = []
    p = comparison.against(comparisons, best["model"])["p"] if len(comparisons) else {}
    for row in scores[scores["kind"] == "ensemble"].to_dict("records"):
        if row["model"] == best["model"]:
            continue
        sentence = f"The {row['model'].lower()} reaches {row['auc']:.3f}{spread(row, 'auc')}"
        if row["model"] in p:
            apart = p[row["model"]] < SIGNIFICANT
            side = "above" if row["auc"] > best["auc"] else "below"
            told = f"significantly {side}" if apart else "not to be told from"
            sentence += f", {told} {best['model']}"
        said.append(sentence + ".")
    return said


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
        "The facts of the file, its border and its mean brightness alone reach an AUC of "
        f"{probe['auc'].iloc[0]:.3f}: the classes differ in more than fractures, and a network may "
        "have learnt that instead."
    )


def _worth(networks: pd.DataFrame, source: str) -> list[str]:
    random = list(networks.loc[networks["initialisation"] == "random", "model"])
    said = []
    if random:
        names = "All networks" if len(random) == len(networks) > 1 else listed(random)
        their = "their" if len(random) > 1 else "its"
        said.append(
            f"{names} started from random weights, not from ImageNet: "
            f"{their} numbers say nothing about what the architecture can do."
        )
    if source == "phantoms":
        said.append(
            "All pictures are synthetic phantoms: the numbers show that the procedure works, "
            "and nothing about radiographs of people."
        )
    return said
