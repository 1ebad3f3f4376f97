"""Groups of images that belong to one patient or one original, and splits that keep them whole."""

import hashlib
import itertools
import re
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES, FRACTURED, LAYOUT, SPLITS, InputError
from fracture_utils.data import duplicates

VALIDATION_SHARE = 0.2  # of train, where the user has no validation set
TEST_SHARE = 0.2  # of a data set without a test set
IDENTITIES = ("group", "patient", "study")  # columns of images.csv; the first with a value counts
PATIENT = re.compile(r"((?:patient|subject)[-_ ]?\d+)", re.IGNORECASE)
COPY = re.compile(
    r"(?:_(?:jpe?g|png))?\.rf\.\w+|[-_ ](?:aug(?:mented)?|rotated|flipped)[-_ ]?\d*(?=$|[-_ .])",
    re.IGNORECASE,
)  # what augmentation tools append to the name of the original
RUN = re.compile(r"block\d+")  # a group that is only a run of consecutive file numbers


def assign_groups(images: pd.DataFrame, pairs: pd.DataFrame, run_length: int = 0) -> pd.Series:
    """The group of each image: the first available of a column of IDENTITIES, the patient in its
    path, the original in the name of an augmented copy, the run of `run_length` consecutive file
    numbers (train only), the first of its near duplicates (`pairs` of rows).
    """
    groups = pd.Series(np.nan, images.index, dtype=str)
    for column in (name for name in IDENTITIES if name in images):
        empty = images[column].isin(["", *empty_identities(images, column)])
        groups = groups.fillna(images[column].mask(empty))
    groups = groups.fillna(images["path"].str.extract(PATIENT)[0].str.lower())
    stems = images["path"].map(lambda path: PurePosixPath(path).stem)
    bare = stems.map(lambda stem: COPY.sub("", stem))
    originals = images["label"] + "/" + bare
    groups = groups.fillna(originals.where(originals.isin(originals[stems != bare])))
    if run_length:
        numbers = stems.where(images["split"] == "train").str.extract(r"(\d+)\D*$")[0]
        run = numbers.map(lambda number: f"block{int(number) // run_length}", na_action="ignore")
        groups = groups.fillna(run.astype(str))
    clusters = duplicates.clusters(pairs, len(images))
    groups = groups.fillna(groups.groupby(clusters).transform("first"))
    return groups.fillna(images["path"].groupby(clusters).transform("first"))


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


def split_validation(images: pd.DataFrame, seed: int) -> pd.Series:
    """The split of each image: whole groups of train become validation, unless there is one, and
    test, where no image has a split (the same for every seed). InputError where one lacks a class.
    """
    result = images["split"]
    if (result == "").all():
        test = images["group"].isin(draw_groups(images, TEST_SHARE, seed=0))
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
