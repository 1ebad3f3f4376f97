"""What may be trusted: everything in the data that would make a result look better than it is.

    findings = audit.run(table, config)
    table = audit.apply(table, findings, config.audit_policy)

The findings table has the columns severity ("red": the figures would be wrong; "amber":
look at it before you believe them; "info"), check, path, other (the second picture of a pair,
or empty), what and advice; red before amber before info. Nothing is deleted or moved.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from fracture_utils.config import Config
from fracture_utils.data import agreement, duplicates, inventory, sidecars
from fracture_utils.errors import InputError

COLUMNS = ["severity", "check", "path", "other", "what", "advice"]
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
METADATA = (
    "width", "height", "aspect", "file_bytes", "bit_depth", "jpeg_quality", "border", "mean",
)  # fmt: skip
WARN_ABOVE = 0.6
"""AUC of the shortcut probe that is worth a warning, if its interval leaves out 0.5."""
FOLDS, RESAMPLES = 5, 500
PROBE = "Metadata only"
NUISANCES = frozenset({"body_part", "view", "side", "hardware", "cast"})


def run(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The findings about the pictures of the images table and the files around them."""
    taken = inventory.take(config)
    facts = table[["path", "label", "split", "group"]].merge(
        taken.files.drop(columns=["label", "split"]), on="path"
    )
    places = pd.Index(taken.files["path"]).get_indexer(table["path"])
    thumbnails = taken.thumbnails[places]
    findings = [
        *_unreadable(taken.files),
        *_copies(facts, thumbnails, config),
        *_odd_pictures(facts, thumbnails),
        *_balance(table),
        *agreement.findings(table),
        *agreement.labels(table, sidecars.pictures(config)),
        *agreement.idle(config),
        *_telling_columns(table),
        *_sidecars(table, taken.files, config),
        *_shortcut(table, config),
    ]
    labels = taken.files.set_index("path")["label"]
    found = pd.DataFrame([*findings, *_one_sided(findings, labels)], columns=COLUMNS)
    rank = found["severity"].map(SEVERITIES.index)
    order = found.assign(rank=rank).sort_values(["rank", "check", "path", "other"]).index
    return found.loc[order].reset_index(drop=True)


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


def probe(table: pd.DataFrame, config: Config) -> tuple[dict[str, Any], pd.DataFrame]:
    """How well the metadata alone tell the class, without a look at the bones.

    Returns a row with auc, auc_low, auc_high (95 %, bootstrap over groups), feature (the one
    that alone does best) and feature_auc, cross-validated by group over all pictures; and a
    predictions table (path, group, label, split, model, logit, probability) for validation and
    test from a probe fitted on train alone, so that it can stand beside the networks.
    After Badgeley et al., npj Digital Medicine 2 (2019) 31.
    """
    known = inventory.take(config).files.assign(aspect=lambda t: t["width"] / t["height"].clip(1))
    facts = table[["path"]].merge(known, on="path")[list(METADATA)].fillna(-1).to_numpy(float)
    truth = (table["label"] == "fractured").to_numpy()
    groups = table["group"].to_numpy()
    folds = _folds(truth, groups, config.seed)
    forest = RandomForestClassifier(60, min_samples_leaf=10, random_state=config.seed)
    probability = _cross_validated(forest, facts, truth, folds)
    stump = DecisionTreeClassifier(max_leaf_nodes=8, min_samples_leaf=10, random_state=config.seed)
    alone = {
        name: _auc(truth, _cross_validated(stump, column[:, None], truth, folds))
        for name, column in zip(METADATA, facts.T, strict=True)
    }
    feature = max(alone, key=alone.__getitem__)
    low, high = _interval(truth, probability, groups, config.seed)
    row = {"auc": _auc(truth, probability), "auc_low": low, "auc_high": high}
    row |= {"feature": feature, "feature_auc": alone[feature]}
    train = (table["split"] == "train").to_numpy()
    forest.fit(facts[train], truth[train])
    predicted = forest.predict_proba(facts[~train])[:, 1].clip(1e-6, 1 - 1e-6)
    predictions = table.loc[~train, ["path", "group", "label", "split"]].assign(
        model=PROBE, logit=np.log(predicted / (1 - predicted)), probability=predicted
    )
    return row, predictions.reset_index(drop=True)


def _folds(truth: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """The fold (n,) of each picture: whole groups, those with fractures dealt out evenly."""
    names, group = np.unique(groups, return_inverse=True)
    fractured = np.bincount(group, truth) > 0
    shuffled = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), int)
    fold[shuffled[np.argsort(fractured[shuffled], kind="stable")]] = np.arange(len(names)) % FOLDS
    return fold[group]


def _cross_validated(
    learner: Any, facts: np.ndarray, truth: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Probability (n,) of each picture by a learner that has seen none of its fold."""
    result = np.full(len(truth), truth.mean())
    for unseen in (folds == fold for fold in np.unique(folds)):
        if truth[~unseen].all() or not truth[~unseen].any():
            continue  # one class alone teaches nothing
        learner.fit(facts[~unseen], truth[~unseen])
        result[unseen] = learner.predict_proba(facts[unseen])[:, 1]
    return result


def _auc(truth: np.ndarray, score: np.ndarray) -> float:
    return _weighted_auc(truth, np.unique(score, return_inverse=True)[1], np.ones(len(truth)))


def _weighted_auc(truth: np.ndarray, rank: np.ndarray, weight: np.ndarray) -> float:
    """Area under the ROC curve of ranks (n,), ties counting half; NaN if a class is absent."""
    fractured = np.bincount(rank, weight * truth)
    normal = np.bincount(rank, weight * ~truth)
    pairs = fractured.sum() * normal.sum()
    return float(fractured @ (np.cumsum(normal) - normal / 2) / pairs) if pairs else np.nan


def _interval(
    truth: np.ndarray, probability: np.ndarray, groups: np.ndarray, seed: int
) -> tuple[float, float]:
    """95 % by a bootstrap over groups."""
    generator = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    _, rank = np.unique(probability, return_inverse=True)
    share = np.full(len(names), 1 / len(names))
    drawn = [
        _weighted_auc(truth, rank, generator.multinomial(len(names), share)[group])
        for _ in range(RESAMPLES)
    ]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _finding(severity: str, check: str, path: str, what: str, advice: str, other: str = "") -> dict:
    return dict(zip(COLUMNS, (severity, check, path, other, what, advice), strict=True))


def _unreadable(found: pd.DataFrame) -> list[dict]:
    advice = "mend it or take it away; the run goes on without it"
    return [
        _finding("info" if "hidden" in reason else "amber", "left out", path, reason, advice)
        for path, reason in found.loc[found["reason"] != "", ["path", "reason"]].itertuples(
            index=False
        )
    ]


def _one_sided(findings: list[dict], label_of: pd.Series) -> list[dict]:
    """Damage that befell one class only, as in FracAtlas, where every truncated file is normal."""
    result = []
    damaged = [row for row in findings if row["check"] in ("left out", "grey fill")]
    labels = [label for row in damaged if (label := label_of[row["path"]])]
    if len(labels) >= 10 and len(set(labels)) == 1:
        what = f"all {len(labels)} damaged files are {labels[0]}: damage gives the class away"
        advice = "fetch the originals, or leave these pictures out"
        result.append(_finding("amber", "one-sided damage", "", what, advice))
    return result


def _copies(facts: pd.DataFrame, thumbnails: np.ndarray, config: Config) -> list[dict]:
    exact = facts.groupby("sha256")["path"].transform("first")
    origin = pd.Index(facts["path"]).get_indexer(exact)
    same = np.flatnonzero(origin != np.arange(len(facts)))
    equal = pd.DataFrame({"first": origin[same], "second": same, "mirrored": False})
    near = duplicates.find(thumbnails, config.cache_dir / duplicates.CACHE)
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
    return _finding(severity, check, one["path"], what, advice, other["path"])


def _odd_pictures(facts: pd.DataFrame, thumbnails: np.ndarray) -> list[dict]:
    blank = thumbnails.reshape(len(thumbnails), -1).std(1) < 2
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
        _finding("amber" if check != "bit depth" else "info", check, path, what, advice)
        for check, (where, what, advice) in odd.items()
        for path in facts.loc[np.asarray(where), "path"]
    ]


def _balance(table: pd.DataFrame) -> list[dict]:
    fractured = (table["label"] == "fractured").groupby(table["split"]).mean()
    share = (table["label"] == "fractured").mean()
    what = ", ".join(f"{split} {value:.1%}" for split, value in fractured.items()) + " fractured"
    rare = min(share, 1 - share) < LEAST_SHARE
    advice = "judge by AUC and average precision, not by accuracy" if rare else ""
    return [_finding("amber" if rare else "info", "class balance", "", what, advice)]


def _telling_columns(table: pd.DataFrame) -> list[dict]:
    """Things in the picture, other than the fracture, that nearly always come with it."""
    findings = []
    fractured = table["label"] == "fractured"
    for column in NUISANCES.intersection(table.columns):
        for value, of_value in fractured.groupby(table[column]):
            if value and len(of_value) >= 20 and of_value.mean() >= 0.9 > fractured.mean():
                what = f"{column} = {value}: {of_value.sum()} of {len(of_value)} are fractured"
                advice = f"look at the scores without them: a network may look for the {column}"
                findings.append(_finding("amber", "telling column", "", what, advice))
    return findings


def _sidecars(table: pd.DataFrame, found: pd.DataFrame, config: Config) -> list[dict]:
    findings = []
    boxes = sidecars.boxes(config)
    unknown = set(sidecars.pictures(config)["path"]) | set(boxes["path"])
    for path in sorted(unknown - set(found["path"])):
        what = "images.csv or boxes.csv names it, but there is no such file"
        findings.append(_finding("info", "sidecar", path, what, "correct the table"))
    normal = table.loc[table["label"] == "normal", "path"]
    for path in normal[normal.isin(boxes["path"])]:
        what = "boxes.csv marks a fracture in it, its folder says normal"
        findings.append(_finding("amber", "box", path, what, "correct boxes.csv"))
    return findings


def _shortcut(table: pd.DataFrame, config: Config) -> list[dict]:
    if table.groupby("label")["group"].nunique().min() < FOLDS:
        what = f"the shortcut probe needs {FOLDS} groups of each class"
        return [_finding("info", "shortcut", "", what, "")]
    row, _ = probe(table, config)
    warn = row["auc"] > WARN_ABOVE and row["auc_low"] > 0.5
    what = (
        f"size, depth, quality, border and brightness alone reach AUC {row['auc']:.2f} "
        f"({row['auc_low']:.2f} to {row['auc_high']:.2f}); most telling: {row['feature']}, alone "
        f"{row['feature_auc']:.2f}"
    )
    advice = f"a network may learn this instead of fractures: compare it with the row {PROBE}"
    return [_finding("amber" if warn else "info", "shortcut", "", what, advice if warn else "")]
