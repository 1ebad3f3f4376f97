"""What may be trusted: everything in the data that would make a result look better than it is.

    findings = audit.run(table, taken, config)
    table = audit.apply(table, findings, config.audit_policy)
    findings = audit.ranked(findings, another)

The findings table has the columns severity ("red": the figures would be wrong; "amber":
look at it before you believe them; "info"), check, path, other (the second picture of a pair,
or empty), what and advice; red before amber before info. Nothing is deleted or moved.
"""

import numpy as np
import pandas as pd

from fracture_utils.config import Config
from fracture_utils.data import agreement, duplicates, sidecars
from fracture_utils.data.agreement import COLUMNS, finding
from fracture_utils.data.inventory import Inventory
from fracture_utils.errors import InputError

SEVERITIES = ("red", "amber", "info")
SMALLEST_SIDE = 64
LARGEST_ASPECT = 4.0
LEAST_SHARE = 0.2
"""Of the rarer class; below it accuracy says little."""
INVERTED = -0.08
"""`duplicates.polarity` below which a picture seems inverted: 0.1 % of the upright pictures of
FracAtlas and 0.5 % of the phantoms, but nearly nine in ten of inverted ones."""
ENOUGH = 60
"""Pictures that a comparison of each with its neighbours needs."""
GREY_FILL = 0.04
NUISANCES = frozenset({"body_part", "view", "side", "hardware", "cast"})


def run(table: pd.DataFrame, taken: Inventory, config: Config) -> pd.DataFrame:
    """The findings about the pictures of the images table and the files `taken` around them."""
    facts = table[["path", "label", "split", "group"]].merge(
        taken.files.drop(columns=["label", "split"]), on="path"
    )
    thumbnails = taken.of(table["path"])
    known = sidecars.pictures(config, taken.files)
    findings = [
        *_unreadable(taken.files),
        *_copies(facts, thumbnails, config),
        *_odd_pictures(facts, thumbnails),
        *_balance(table),
        *agreement.findings(table),
        *agreement.labels(table, known),
        *agreement.idle(config, known),
        *_telling_columns(table),
        *_sidecars(table, taken.files, known, sidecars.boxes(config, taken.files)),
    ]
    labels = taken.files.set_index("path")["label"]
    return ranked(pd.DataFrame(columns=COLUMNS), *findings, *_one_sided(findings, labels))


def ranked(findings: pd.DataFrame, *more: dict[str, str]) -> pd.DataFrame:
    """The findings and `more` of them (rows with COLUMNS), the worst first."""
    found = pd.DataFrame([*findings.to_dict("records"), *more], columns=COLUMNS)
    rank = found["severity"].map(SEVERITIES.index)
    order = ["rank", "check", "path", "other"]
    return found.assign(rank=rank).sort_values(order, ignore_index=True)[list(COLUMNS)]


def apply(table: pd.DataFrame, findings: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The images table as `policy` wants it: "report" leaves it alone, "drop" leaves out what
    `surplus` lists, "stop" raises InputError where a finding is red.
    """
    red = findings[findings["severity"] == "red"]
    if policy == "stop" and len(red):
        first = red.iloc[0]
        raise InputError(
            f"The audit found {len(red)} faults that would make the results wrong, the first: "
            f"{first['path']} {first['other']} ({first['check']}): {first['what']}. Mend them "
            "(audit.csv lists all), or set FRACTURE_AUDIT_POLICY=drop to leave them out."
        )
    if policy != "drop":
        return table
    kept = table[~table["path"].isin(surplus(table, findings)["path"])].reset_index(drop=True)
    for split, label in table[["split", "label"]].drop_duplicates().itertuples(index=False):
        if not ((kept["split"] == split) & (kept["label"] == label)).any():
            raise InputError(
                f"Without copies and conflicts no {label} picture is left in {split}. Add other "
                "pictures there, or set FRACTURE_AUDIT_POLICY=report to see what happens."
            )
    return kept


def surplus(table: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """What the policy "drop" leaves out: path and why. Pictures with conflicting labels go
    (among copies, or between folder and table), groups that are also in test go from train and
    validation, those that are also in validation from train, and of each set of copies all but
    one, which is in test if any is.
    """
    pairs = findings[findings["other"] != ""]
    conflicts = pairs[pairs["check"] == "conflicting labels"]
    why = dict.fromkeys([*conflicts["path"], *conflicts["other"]], "conflicting labels")
    disputed = findings.loc[findings["check"] == agreement.LABEL, "path"]
    why |= dict.fromkeys(disputed, "its table calls it otherwise")
    for split, others in (("test", ["train", "validation"]), ("validation", ["train"])):
        here = set(table.loc[table["split"] == split, "group"])
        leaked = table["group"].isin(here) & table["split"].isin(others)
        why = dict.fromkeys(table.loc[leaked, "path"], f"its group is in {split}") | why
    place = {path: position for position, path in enumerate(table["path"])}
    copies = pairs[pairs["check"].isin(["exact copy", "near duplicate"])]
    links = pd.DataFrame({"first": copies["path"].map(place), "second": copies["other"].map(place)})
    cluster = duplicates.clusters(links.dropna(), len(table))
    left = table.assign(cluster=cluster, rank=table["split"].ne("test"))
    left = left[~left["path"].isin(why)].sort_values(["rank", "path"])
    why |= dict.fromkeys(left.loc[left["cluster"].duplicated(), "path"], "a copy of another")
    return pd.DataFrame(sorted(why.items()), columns=["path", "why"])


def _unreadable(found: pd.DataFrame) -> list[dict]:
    advice = "mend it or take it away; the run goes on without it"
    left = found[found["reason"] != ""]
    return [
        finding("info" if "hidden" in reason else "amber", "left out", path, reason, advice)
        for path, reason in zip(left["path"], left["reason"], strict=True)
    ]


def _one_sided(findings: list[dict], label_of: pd.Series) -> list[dict]:
    """Damage that befell one class only, as in FracAtlas, where every truncated file is normal."""
    result = []
    damaged = [row for row in findings if row["check"] in ("left out", "grey fill")]
    labels = [label for row in damaged if (label := label_of[row["path"]])]
    if len(labels) >= 10 and len(set(labels)) == 1:
        what = f"all {len(labels)} damaged files are {labels[0]}: damage gives the class away"
        advice = "fetch the originals, or leave these pictures out"
        result.append(finding("amber", "one-sided damage", "", what, advice))
    return result


def _copies(facts: pd.DataFrame, thumbnails: np.ndarray, config: Config) -> list[dict]:
    number = pd.Series(range(len(facts)))
    origin = number.groupby(facts["sha256"]).transform("first")
    equal = pd.DataFrame({"first": origin, "second": number, "mirrored": False})
    equal = equal[origin != number]
    near = duplicates.find(thumbnails, config.cache_dir)
    digest = facts["sha256"].to_numpy()
    near = near[digest[near["first"].astype(int)] != digest[near["second"].astype(int)]]
    both = pd.concat(
        [equal.assign(check="exact copy", agreement=1.0), near.assign(check="near duplicate")]
    )
    rows = facts[["path", "label", "split", "group"]].to_dict("records")
    return [
        _judged(rows[int(pair.first)], rows[int(pair.second)], pair.check,
                f"{pair.check}{', mirrored' if pair.mirrored else ''}"
                f" (agreement {pair.agreement:.3f})")
        for pair in both.itertuples()
    ]  # fmt: skip


def _judged(one: dict, other: dict, check: str, what: str) -> dict:
    torn = one["split"] != other["split"]
    tested = "test" in (one["split"], other["split"])
    if one["label"] != other["label"]:
        severity, check, what = "red", "conflicting labels", f"{what}, but one is fractured"
        advice = "look at both and correct the wrong label"
    elif torn and (tested or one["group"] == other["group"]):  # which no split of ours does
        severity, what = "red", f"{what} in {one['split']} and {other['split']}"
        advice = "keep one of them: what was learnt by heart counts as found"
    else:
        severity, advice = "amber", "keep one of them: it counts twice"
    return finding(severity, check, one["path"], what, advice, other["path"])


def _odd_pictures(facts: pd.DataFrame, thumbnails: np.ndarray) -> list[dict]:
    blank = duplicates.contrast(thumbnails) < 2
    polarity = (
        duplicates.polarity(thumbnails) if len(thumbnails) >= ENOUGH else np.zeros(len(facts))
    )
    sides = facts[["width", "height"]]
    usual = facts["bit_depth"].mode().iloc[0]
    odd = {
        "grey fill": (facts["grey_fill"] >= GREY_FILL, "its lower part is one grey block, as of a "
                      "file cut short", "fetch the original again"),
        "blank": (blank, "it shows nothing", "take it away"),
        "inverted": ((polarity < INVERTED) & ~blank, "bones seem dark on bright air",
                     "look at it; invert it if so"),
        "odd size": ((sides.min(axis=1) < SMALLEST_SIDE)
                     | (sides.max(axis=1) > LARGEST_ASPECT * sides.min(axis=1)),
                     "it is very small or very long", "look at it; was it cut or scaled?"),
        "bit depth": (facts["bit_depth"] != usual, f"its bit depth is not {usual}, as most have",
                      "see whether one class comes from another source"),
    }  # fmt: skip
    return [
        finding("amber" if check != "bit depth" else "info", check, path, what, advice)
        for check, (where, what, advice) in odd.items()
        for path in facts.loc[np.asarray(where), "path"]
    ]


def _balance(table: pd.DataFrame) -> list[dict]:
    fractured = (table["label"] == "fractured").groupby(table["split"]).mean()
    share = (table["label"] == "fractured").mean()
    what = ", ".join(f"{split} {value:.1%}" for split, value in fractured.items()) + " fractured"
    rare = min(share, 1 - share) < LEAST_SHARE
    advice = "judge by AUC and average precision, not by accuracy" if rare else ""
    return [finding("amber" if rare else "info", "class balance", "", what, advice)]


def _telling_columns(table: pd.DataFrame) -> list[dict]:
    """Things in the picture, other than the fracture, that nearly always come with it."""
    findings = []
    fractured = table["label"] == "fractured"
    for column in NUISANCES.intersection(table.columns):
        for value, of_value in fractured.groupby(table[column]):
            if value and len(of_value) >= 20 and of_value.mean() >= 0.9 > fractured.mean():
                what = f"{column} = {value}: {of_value.sum()} of {len(of_value)} are fractured"
                advice = f"look at the scores without them: a network may look for the {column}"
                findings.append(finding("amber", "telling column", "", what, advice))
    return findings


def _sidecars(
    table: pd.DataFrame, found: pd.DataFrame, known: pd.DataFrame, boxes: pd.DataFrame
) -> list[dict]:
    findings = []
    unknown = set(known["path"]) | set(boxes["path"])
    for path in sorted(unknown - set(found["path"])):
        what = "images.csv or boxes.csv names it, but there is no such file"
        findings.append(finding("info", "sidecar", path, what, "correct the table"))
    normal = table.loc[table["label"] == "normal", "path"]
    for path in normal[normal.isin(boxes["path"])]:
        what = "boxes.csv marks a fracture in it, its folder says normal"
        findings.append(finding("amber", "box", path, what, "correct boxes.csv"))
    return findings
