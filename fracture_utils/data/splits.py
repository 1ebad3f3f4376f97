"""Groups of images that belong to one patient or one original, and splits that keep them whole."""

import functools
import hashlib
import itertools
import re
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES, FRACTURED, LAYOUT, SPLITS, InputError
from fracture_utils.data import duplicates

VALIDATION_SHARE = 0.2  # of train, where the user has no validation set
IDENTITIES = ("group", "patient", "study")  # columns of images.csv; the first with a value counts
PATIENT = re.compile(r"((?:patient|subject)[-_ ]?\d+)", re.IGNORECASE)
COPY = re.compile(
    r"^.*?_original_(.+?)(?:\.\w+)?_[\da-f]{8}-[-\da-f]{27}$"  # Augmentor
    r"|^((?:aug\w*)?_\d+)_\d+$|(?<=.)_0_\d+$|(?:_(?:jpe?g|png))?\.rf\.\w+"  # Keras, Roboflow
    r"|^aug(?:mented)?[-_ ]?\d*[-_ ]+| - copy(?: \(\d+\))?$"
    r"|[-_ ](?:aug(?:mented)?|rot(?:ated)?|[hv]?flip(?:ped)?)[-_ ]?\d*(?=$|[-_ .])",
    re.IGNORECASE,
)  # what augmentation tools and Windows add to the name of the original
RUN = re.compile(r"(?:\w+ )?block\d+")  # a group of consecutive file numbers only


def assign_groups(images: pd.DataFrame, pairs: pd.DataFrame, run_length: int = 0) -> pd.Series:
    """The group of each image: the first available of a column of IDENTITIES, the patient in its
    path, the original in the name of a copy (see COPY), the block of `run_length` consecutive
    file numbers, the first of its near duplicates (`pairs` of rows), which join groups
    where no image has a split yet.
    """
    groups = pd.Series(np.nan, images.index, dtype=str)
    for column in (name for name in IDENTITIES if name in images):
        empty = images[column].isin(["", *empty_identities(images, column)])
        groups = groups.fillna(images[column].mask(empty))
    groups = groups.fillna(images["path"].str.extract(PATIENT)[0].str.lower())
    stems = images["path"].map(lambda path: PurePosixPath(path).stem)
    names = images["label"] + "/" + stems
    bare = images["label"] + "/" + stems.map(lambda stem: COPY.sub(r"\1\2", stem))
    originals = bare.map(functools.partial(_original, names=set(names)))
    counts = [names.groupby(part).transform("size") for part in (originals, images["label"])]
    copies = originals.isin(originals[originals != names]) & (2 * counts[0] <= counts[1])
    originals = originals.where(copies)  # what most of a class share is the name of a series
    groups = groups.fillna(groups.groupby(originals).transform("first")).fillna(originals)
    if run_length:
        numbers = stems.str.extract(r"(\d+)\D*$")[0]
        run = numbers.map(lambda number: f"block{int(number) // run_length}", na_action="ignore")
        prefix = images["split"].replace("train", "") + " "  # a block may lie in two splits
        groups = groups.fillna((prefix + run).str.strip())
    if join := (images["split"] == "").all():
        rows = pd.DataFrame({"second": range(len(images)), "group": groups.array}).dropna()
        pairs = pd.concat([pairs, rows.assign(first=rows.groupby("group").transform("first"))])
    clusters = duplicates.clusters(pairs, len(images))
    joined = groups.groupby(clusters).transform("first")
    groups = joined if join else groups.fillna(joined)
    return groups.fillna(images["path"].groupby(clusters).transform("first"))


def _original(name: str, names: set[str]) -> str:
    """The longest of `names` with which `name` begins before a separator; else `name`."""
    starts = [name[: match.start()] for match in re.finditer(r"[-_ (]+", name)]
    return next((start for start in reversed(starts) if start in names), name)


def empty_identities(images: pd.DataFrame, column: str) -> list[str]:
    """Identities that all images of train, or of test, share although both classes have them."""
    parts = images[images[column] != ""].groupby(images["split"] == "test")
    counts = parts.agg({column: "nunique", "label": "nunique"})
    return parts[column].first()[(counts[column] == 1) & (counts["label"] == 2)].to_list()


def draw_groups(images: pd.DataFrame, share: float, seed: int) -> set[str]:
    """Groups that hold about `share` of the images of each class, in the order of a hash, so that
    added images move few others: first groups with fractures, by their fractured images, then
    groups without. Of each kind at least one is drawn and half remain, where there are two.
    """
    counts = pd.crosstab(images["group"], images["label"] == FRACTURED)
    counts = counts.reindex(columns=[False, True], fill_value=0)
    digests = {group: hashlib.sha256(f"{seed}:{group}".encode()).digest() for group in counts.index}
    counts = counts.loc[sorted(digests, key=digests.get)]
    drawn: list[str] = []
    for label in (True, False):
        sizes = counts.loc[(counts[True] > 0) == label, label]
        totals = np.concatenate([[0], sizes.cumsum()])
        remaining = share * counts[label].sum() - counts.loc[drawn, label].sum()
        nearest = int(np.abs(totals - remaining).argmin())
        drawn.extend(sizes.index[: min(max(nearest, 1), len(sizes) // 2)])
    return set(drawn)


def split_validation(images: pd.DataFrame, seed: int, test_share: float = 0.2) -> pd.Series:
    """The split of each image: whole groups of train become validation, unless there is one, and
    test, where no image has a split (the same for every seed). InputError where one lacks a class.
    """
    result = images["split"]
    if (result == "").all():
        test = images["group"].isin(draw_groups(images, test_share, seed=0))
        result = pd.Series(np.where(test, "test", "train"), images.index)
    train = result == "train"
    if train.any() and not (result == "validation").any():
        drawn = draw_groups(images[train], VALIDATION_SHARE, seed)
        result = result.mask(train & images["group"].isin(drawn), "validation")
    for split, label in itertools.product(SPLITS, CLASS_NAMES):
        if not ((result == split) & (images["label"] == label)).any():
            problem = f"The {split} set has no {label} image, or too few patients have one to split"
            raise InputError(f"{problem}. Add images to {LAYOUT}, or name patients in images.csv.")
    return result
