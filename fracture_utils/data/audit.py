"""Audit of a data set: leakage, conflicting labels, damaged images and shortcuts.

    findings = audit.run(data, seed)
    images = audit.apply(data.images, findings, policy)

Findings are "red" (results would be wrong), "amber" (check it) or "info". No file is changed.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath

import numpy as np
import pandas as pd

from fracture_utils.config import FRACTURED, NORMAL, SPLITS, InputError, may_be_image
from fracture_utils.data import dataset, duplicates, splits
from fracture_utils.evaluation import shortcuts

SEVERITIES = ("red", "amber", "info")
COLUMNS = ["severity", "check", "path", "other_path", "finding", "advice"]
EXACT, NEAR = "exact copy", "near duplicate"
CONFLICT, MISMATCH = "conflicting labels", "label mismatch"


def run(data: dataset.Dataset, seed: int) -> pd.DataFrame:
    """The audit table of a data set, red findings first."""
    checks = (_files, _copies, _groups, _classes, _tables)
    rows = pd.DataFrame([row for check in checks for row in check(data)], columns=COLUMNS)
    table = pd.concat([rows, pd.DataFrame([shortcuts.finding(data, seed)])])
    table = table.assign(rank=table["severity"].map(SEVERITIES.index))
    return table.sort_values(["rank", *COLUMNS[1:4]], ignore_index=True)[COLUMNS]


def apply(images: pd.DataFrame, findings: pd.DataFrame, policy: str) -> pd.DataFrame:
    """The images that remain under a policy. "report": all. "stop": InputError if a finding is red.
    "drop": removes images with conflicting labels. From a group in several splits, keeps only the
    images in test (or else in validation); from a set of copies, keeps one.
    """
    red = findings[findings["severity"] == "red"]
    if policy == "stop" and len(red):
        first = red.iloc[0]
        what = f"{first['path']} {first['other_path']} ({first['check']}): {first['finding']}"
        advice = "Correct them, or set FRACTURE_AUDIT_POLICY=drop to leave these images out."
        raise InputError(f"The audit has {len(red)} red findings, the first about {what}. {advice}")
    if policy != "drop":
        return images
    wrong = findings.loc[findings["check"].isin([CONFLICT, MISMATCH]), ["path", "other_path"]]
    copies = findings.loc[findings["check"].isin([EXACT, NEAR]), ["path", "other_path"]]
    rows = {path: row for row, path in enumerate(images["path"])}
    links = copies.map(rows.get).set_axis(["first", "second"], axis=1).dropna()
    left = images.assign(cluster=duplicates.clusters(links, len(images)))
    left["rank"] = -images["split"].map(SPLITS.index)
    left = left[left["rank"] == left.groupby("group")["rank"].transform("min")]
    bad = left.loc[left["path"].isin(wrong.to_numpy().ravel()), "cluster"]
    left = left[~left["cluster"].isin(bad)].sort_values(["rank", "path"])
    kept = images[images["path"].isin(left.drop_duplicates("cluster")["path"])]
    before, after = (set(zip(t["split"], t["label"], strict=True)) for t in (images, kept))
    for split, label in sorted(before - after):
        problem = f"Without copies and conflicts no {label} image is left in {split}"
        advice = "Add other images there, or set FRACTURE_AUDIT_POLICY=report to keep them."
        raise InputError(f"{problem}. {advice}")
    return kept.reset_index(drop=True)


def _files(data: dataset.Dataset) -> Iterator[tuple]:
    """Files that are left out, and unusual images."""
    files, images, depth = data.files, data.images, data.images["bit_depth"]
    for path, reason in files.loc[files["reason"] != "", ["path", "reason"]].to_numpy():
        if may_be_image(PurePath(path)):  # else a document or a system file
            yield "amber", "excluded file", path, "", reason, "repair or remove it"
    blank = np.array([image.std() for image in data.thumbnails]) < 2
    sides = images[["width", "height"]].agg(["min", "max"], axis=1)
    boxed = images["path"].isin(data.boxes["path"])
    rotated = boxed & images["path"].isin(files.loc[files["rotated"], "path"])
    odd, usual = (sides["min"] < 64) | (sides["max"] > 4 * sides["min"]), depth.mode()[0]
    marked = boxed & (images["label"] == NORMAL)
    turned = "EXIF rotates or flips it; boxes must refer to the upright image"
    for severity, check, where, finding, advice in (
        ("amber", "blank image", blank, "it has no contrast", "remove it"),
        ("amber", "unusual size", odd, "it is very small or very long", "is it cropped or scaled?"),
        ("amber", "box on rotated image", rotated, turned, "check its boxes"),
        ("amber", "box on normal image", marked, "boxes.csv marks a fracture", "check both"),
        ("info", "bit depth", depth != usual, f"most images have {usual}", "check the source"),
    ):
        for path in images.loc[np.asarray(where), "path"]:
            yield severity, check, path, "", finding, advice


def _copies(data: dataset.Dataset) -> Iterator[tuple]:
    for pair in data.duplicates.itertuples():
        one, other = data.images.iloc[int(pair.first)], data.images.iloc[int(pair.second)]
        check = EXACT if one["sha256"] == other["sha256"] else NEAR
        finding = f"{check}{', mirrored' if pair.mirrored else ''} (agreement {pair.agreement:.3f})"
        tested = "test" in (one["split"], other["split"])
        severity, advice = "amber", "keep one of them: otherwise it counts twice"
        if one["label"] != other["label"]:
            severity, check, finding = "red", CONFLICT, f"{finding}, but one is fractured"
            advice = "look at both and correct the wrong label"
        elif one["split"] != other["split"] and (tested or one["group"] == other["group"]):
            severity, finding = "red", f"{finding} in {one['split']} and {other['split']}"
            advice = "keep one of them: a memorized image would count as detected"
        yield severity, check, one["path"], other["path"], finding, advice


def _groups(data: dataset.Dataset) -> Iterator[tuple]:
    """Groups in several splits, and images without a patient identifier."""
    images, runs = data.images, data.images["group"].str.fullmatch(splits.RUN)
    guessed = images["group"].isin(images["path"])  # from near duplicates, reported by pair
    copies = images["group"].str.match("(?:normal|fractured)/") & ~guessed  # by their names
    shared = images.groupby("group")["split"].transform("nunique") > 1
    for group, members in images[shared & ~guessed].groupby("group"):
        counts = members["split"].value_counts().items()
        finding = f"{group} has " + " and ".join(f"{count} in {split}" for split, count in counts)
        path, other = members.drop_duplicates("split")["path"].iloc[[0, -1]]
        yield "red", "group in several splits", path, other, finding, "move it into one split"
    if len(images) > 1 and (guessed | copies | runs).mean() > 0.5:
        finding = "most images have no patient identifier: groups are clusters of near duplicates"
        finding += ", or copies by their names" if copies.any() else ""
        finding += ", or runs of consecutive file numbers" if runs.any() else ""
        yield "amber", "no patient identifiers", "", "", finding, "add patients to images.csv"
    for column in (name for name in ("patient", "study") if name in images):
        if empty := sorted(set(splits.empty_identities(images, column)) - set(images["group"])):
            finding = f"the {column} of every image is {' or '.join(empty)}, as after "
            finding += "de-identification: groups come from file names and near duplicates instead"
            yield "amber", "no patient identifiers", "", "", finding, "add it to images.csv"


def _classes(data: dataset.Dataset) -> Iterator[tuple]:
    """Class balance, and columns or file numbers that nearly determine the class."""
    images, fractured = data.images, data.images["label"] == FRACTURED
    share, by_split = fractured.mean(), fractured.groupby(images["split"]).mean()
    finding = ", ".join(f"{split} {value:.1%}" for split, value in by_split.items()) + " fractured"
    rare = not 0.2 <= share <= 0.8
    advice = "use AUC and average precision rather than accuracy" if rare else ""
    yield "amber" if rare else "info", "class balance", "", "", finding, advice
    for column in (name for name in dataset.SUBGROUPS if name in images):
        for value, labels in fractured.groupby(images[column]):
            if value and len(labels) >= 20 and labels.mean() >= 0.9 > share:
                finding = f"{column} = {value}: {labels.sum()} of {len(labels)} are fractured"
                advice = "compare scores without them: a model may detect this instead"
                yield "amber", "confounder", "", "", finding, advice
    run, chance = splits.one_class_run(images)
    if run.any():
        numbers = images["path"][run].str.extract(r"(\d+)\D*$")[0].map(int)
        finding = f"the {run.sum()} images numbered {numbers.min()} to {numbers.max()} are all "
        finding += f"{images['label'][run].iloc[0]}; by chance, the longest run would have about "
        advice = "compare scores without them: the number predicts the class"
        yield "amber", "run of one class", "", "", f"{finding}{chance:.0f}", advice


def _tables(data: dataset.Dataset) -> Iterator[tuple]:
    """Contradictions between folders, images.csv and boxes.csv, and tables that are not read."""
    images, annotations = data.images, data.annotations
    if "label" in annotations:
        cells = annotations[["path"]].assign(cell=annotations["label"], line=annotations.index + 2)
        both = images[["path", "label"]].merge(cells[cells["cell"] != ""], on="path")
        meaning = both["cell"].map(dataset.label_of)
        for row in both[(meaning != "") & (meaning != both["label"])].itertuples():
            finding = f"its folder is {row.label}, row {row.line} of images.csv has {row.cell}"
            yield "red", MISMATCH, row.path, "", finding, "move the image or correct the table"
        for cell, paths in both[meaning == ""].groupby("cell")["path"]:
            finding = f"the label {cell!r} in {len(paths)} rows of images.csv is not a known class"
            yield "amber", "unknown label", paths.iloc[0], "", finding, "the folder's class is used"
    for name, table in (("images.csv", annotations), ("boxes.csv", data.boxes)):
        missing = table["path"][~table["path"].isin(data.files["path"])].drop_duplicates()
        if len(missing):
            finding = f"{name} names {len(missing)} files that do not exist"
            yield "amber", "missing file", missing.iloc[0], "", finding, "correct its paths"
    for cell, count in data.other_boxes.items():
        finding = f"{count} boxes of the class {cell!r} in boxes.csv are not used"
        yield "info", "other class of boxes", "", "", finding, "if fractures, use class fracture"
    read = {name for name in ("images.csv", "boxes.csv") if (data.folder / name).exists()}
    read |= {name.upper() for name in read - {*data.files["path"]}}  # where case is ignored
    for path in data.files["path"]:
        is_table = re.fullmatch(r"(?i)[^/.][^/]*\.(csv|tsv|xlsx?|ods)", path)
        if is_table and not {path, path.upper()} & read:
            finding = "only images.csv and boxes.csv are read"
            yield "amber", "unread table", path, "", finding, "rename it, or remove it"
