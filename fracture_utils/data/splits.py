"""Groups of images of one patient or one original; splits and folds that keep them whole."""

import hashlib
import itertools
import re
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES, FRACTURED, LAYOUT, SPLITS, InputError
from fracture_utils.data import duplicates

VALIDATION_SHARE = 0.2  # fraction of train, if there is no validation set
IDENTITIES = ("group", "patient", "study")  # columns of images.csv; the first with a value is used
OF_FILE = "patient_of_file"  # patients from DICOM files, if images.csv has some as well
PATIENT = re.compile(r"((?<!out)(?<!\bin)(?:patient|subject)[-_ ]?\d+)", re.IGNORECASE)
COPY = re.compile(
    r"^.*?_original_(.+?)(?:\.\w+)?_[\da-f]{8}-[-\da-f]{27}$"  # Augmentor
    r"|^((?:aug\w*)?_\d+)_\d+$|(?<=.)_0_\d+$|(?:_(?:jpe?g|png))?\.rf\.\w+"  # Keras, Roboflow
    r"|^aug(?:mented)?[-_ ]?\d*[-_ ]+| - copy(?: \(\d+\))?$"
    r"|[-_ ](?:aug(?:mented)?|rot(?:ated)?|[hv]?flip(?:ped)?)[-_ ]?\d*(?=$|[-_ .])",
    re.IGNORECASE,
)  # what augmentation tools and Windows add to the name of the original
MIN_IMAGES, MIN_RUN = 60, 20  # of `one_class_run`: numbered images of a data set, and of the run
RUN = re.compile(r"(?:\w+ )?block\d+")  # a group of consecutive file numbers only


def assign_groups(images: pd.DataFrame, pairs: pd.DataFrame, run_length: int = 0) -> pd.Series:
    """The group of each image: the first value in IDENTITIES, the patient in its path, the
    original in the name of a copy (COPY), the block of `run_length` file numbers. Near duplicates
    (`pairs` of rows) join groups within test and within the others; a group in both stays whole.
    """
    groups = pd.Series(np.nan, images.index, dtype=str)
    people = []
    for column in (name for name in (*IDENTITIES, OF_FILE) if name in images):
        empty = images[column].isin(["", *empty_identities(images, column)])
        groups = groups.fillna(identity := images[column].mask(empty))
        people += [identity.to_numpy()] * column.startswith("patient")
    groups = groups.fillna(images["path"].str.extract(PATIENT)[0].str.lower())
    stems = images["path"].map(lambda path: PurePosixPath(path).stem)
    names = images["label"] + "/" + stems
    bare = images["label"] + "/" + stems.map(lambda stem: COPY.sub(r"\1\2", stem))
    known = set(names)

    def original(name: str) -> str:
        """The longest known name with which `name` begins before a separator; else `name`."""
        starts = [name[: match.start()] for match in re.finditer(r"[-_ (]+", name)]
        return next((start for start in reversed(starts) if start in known), name)

    originals = bare.map(original)
    counts = [names.groupby(part).transform("size") for part in (originals, images["label"])]
    copies = originals.isin(originals[originals != names]) & (2 * counts[0] <= counts[1])
    originals = originals.where(copies)  # a name that most of a class share is that of a series
    groups = groups.fillna(groups.groupby(originals).transform("first")).fillna(originals)
    if run_length:
        numbers = stems.str.extract(r"(\d+)\D*$")[0]
        run = numbers.map(lambda number: f"block{int(number) // run_length}", na_action="ignore")
        prefix = images["split"].replace("train", "") + " "  # a block may span two splits
        groups = groups.fillna((prefix + run).str.strip())
    copies = [duplicates.clusters(pairs, len(images)), (images["split"] == "test").to_numpy()]
    keys = [copies, groups.to_numpy(), *people]
    rows = pd.DataFrame({"second": range(len(images))})
    links = [rows.assign(first=rows.groupby(key)["second"].transform("first")) for key in keys]
    clusters = duplicates.clusters(pd.concat(links).dropna(), len(images))
    groups = groups.groupby(clusters).transform("first")
    return groups.fillna(images["path"].groupby(clusters).transform("first"))


def empty_identities(images: pd.DataFrame, column: str) -> list[str]:
    """Identities shared by all images of train, or of test (most have one, in both classes)."""
    in_test, known = images["split"] == "test", images[column] != ""
    parts, most = images[known].groupby(in_test[known]), known.groupby(in_test).mean() > 0.5
    counts = parts.agg({column: "nunique", "label": "nunique"})
    shared = (counts[column] == 1) & (counts["label"] == 2) & most.reindex(counts.index)
    return parts[column].first()[shared].to_list()


def draw_groups(images: pd.DataFrame, share: float, seed: int) -> set[str]:
    """Groups that hold about `share` of the images of each class, in the order of a hash, so that
    added images move few others: first groups with fractures, then groups without. If a kind has
    two or more groups, at least one is drawn and at least half remain.
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


def draw_folds(images: pd.DataFrame, count: int, seed: int) -> pd.Series:
    """The cross-validation fold of each image, 0 for test images. Fold 1 is the validation set;
    up to `count` - 1 others are drawn from train: as many as can have two groups of each class
    (needed for intervals) or else one. All 0 where fewer than two folds have both classes.
    """
    learned = images[images["split"] != "test"]
    groups = learned.groupby("label")["group"].nunique()
    validation = learned.loc[learned["split"] == "validation", "group"]
    for least, folds in itertools.product((2, 1), range(min(count, groups.min()), 1, -1)):
        result = pd.Series(np.where(images["group"].isin(validation), 1, folds), images.index)
        result = result.mask(images["split"] == "test", 0)
        for fold in range(2, folds):
            rest = images[result == folds]
            drawn = rest["group"].isin(draw_groups(rest, 1 / (folds + 1 - fold), seed))
            result[rest.index[drawn]] = fold
        counts = images[result > 0].groupby([result, "label"])["group"].nunique()
        if len(counts) == folds * len(CLASS_NAMES) and counts.min() >= least:
            return result
    return pd.Series(0, images.index)


def one_class_run(images: pd.DataFrame) -> tuple[pd.Series, float]:
    """Which images, numbered in their names, form the longest run of one class relative to chance,
    and the expected length of the longest run by chance; none where it has fewer than MIN_RUN
    images or is less than three times as long as that.
    """
    parts = images["path"].str.extract(r"([^/]*?)(\d+)[^\d/]*$")
    fractured, number = images["label"] == FRACTURED, pd.to_numeric(parts[1])
    best, expected, longest = pd.Series(False, images.index), np.nan, 3.0
    for _, rows in number.sort_values().groupby(parts[0]):
        labels = fractured[rows.index]
        if len(rows) < MIN_IMAGES or min(labels.sum(), (~labels).sum()) < 2:
            continue
        run = (labels != labels.shift()).cumsum()
        p = np.where(labels, labels.mean(), 1 - labels.mean())
        chance = np.log(len(rows) * (1 - p)) / -np.log(p)
        sizes = run.groupby(run).transform("size")
        ratio = (sizes / chance).where(sizes >= MIN_RUN, 0)
        if ratio.max() >= longest:
            first = ratio.idxmax()
            longest, expected = ratio.max(), float(chance[labels.index.get_loc(first)])
            best = pd.Series(images.index.isin(run.index[run == run[first]]), images.index)
    return best, expected


def split_validation(images: pd.DataFrame, seed: int, test_share: float = 0.2) -> pd.Series:
    """The split of each image. Without a validation set, whole groups of train form one; if no
    image has a split, a test set is drawn (with a fixed seed). InputError if one lacks a class.
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
            problem = f"The {split} set has no {label} image; perhaps too few patients have one"
            raise InputError(f"{problem}. Add images to {LAYOUT}, or patients to images.csv.")
    return result
