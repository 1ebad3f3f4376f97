"""Which pictures belong together, and a share of them split off without tearing a group apart.

A group is everything that shows one patient, or one original.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils.data import duplicates

PATIENT = re.compile(r"(?:patient|subject)[-_ ]?\d+", re.IGNORECASE)
COPY = re.compile(
    r"(?:_(?:jpe?g|png))?\.rf\.\w+|[-_ ](?:aug(?:mented)?|rotated|flipped)[-_ ]?\d*(?=$|[-_ .])",
    re.IGNORECASE,
)
"""What augmentation tools append to the name of the original."""
NUMBER = re.compile(r"(\d+)\D*$")
"""The last number of a file's name without its ending."""
RUN = "block"
"""What the name of a run of neighbouring numbers begins with; the number of the run follows."""
IDENTITIES = ("group", "patient", "study")
"""Columns that name the group of a picture, the first known one counts."""


def of(
    pictures: pd.DataFrame, thumbnails: np.ndarray, cache_dir: Path, neighbours: int = 0
) -> pd.Series:
    """The group of each picture: the sidecar's group, patient or study; else the patient in its
    path; else the name of the original it was made from; else, with `neighbours`, the run of so
    many numbers that the number in its name lies in, for pictures of train; else the first of its
    near duplicates.

    `pictures` has path, label and split, and may have IDENTITIES; what `empty_identities` names
    is not believed. `thumbnails` are those of the inventory, row by row.
    """
    groups = named(pictures)
    if neighbours:
        numbers = pictures["path"].map(lambda path: NUMBER.search(Path(path).stem))
        runs = numbers.map(lambda n: f"{RUN}{int(n[1]) // neighbours}" if n else "")
        groups = groups.mask((groups == "") & (pictures["split"] == "train"), runs)
    if (alone := groups == "").any():
        linked = duplicates.clusters(duplicates.find(thumbnails, cache_dir), len(thumbnails))
        first = (pictures["path"].where(alone, groups)).groupby(linked)
        known = groups.mask(alone).groupby(linked).transform("first")
        groups = groups.where(~alone, known.fillna(first.transform("first")))
    return groups


def named(pictures: pd.DataFrame) -> pd.Series:
    """The group of each picture as far as columns and names tell it; otherwise empty."""
    groups = pd.Series("", index=pictures.index)
    for column in IDENTITIES:
        groups = groups.mask(groups == "", telling(pictures, column))
    patients = pictures["path"].str.extract(f"({PATIENT.pattern})", re.IGNORECASE)[0].fillna("")
    groups = groups.mask(groups == "", patients.str.lower())
    stems = pictures["path"].map(lambda path: Path(path).stem)
    bare = stems.map(lambda stem: COPY.sub("", stem))
    originals = pictures["label"] + "/" + bare
    copies = originals.isin(originals[stems != bare])
    return groups.mask((groups == "") & copies, originals)


def runs(table: pd.DataFrame) -> pd.Series:
    """Whether the group of each picture is but a run of neighbouring numbers."""
    return table["group"].str.fullmatch(RUN + r"\d+")


def telling(pictures: pd.DataFrame, column: str) -> pd.Series:
    """The identities in `column`, empty where they say nothing (see `empty_identities`)."""
    if column not in pictures:
        return pd.Series("", index=pictures.index)
    return pictures[column].mask(pictures[column].isin(empty_identities(pictures, column)), "")


def empty_identities(pictures: pd.DataFrame, column: str) -> list[str]:
    """Identities that say nothing: one and the same for every identified picture of train, or of
    test, although these are of both classes, as in de-identified exports.
    """
    empty = []
    if column in pictures:
        for _, part in pictures[pictures[column] != ""].groupby(pictures["split"] == "test"):
            if len(set(part[column])) == 1 and len(set(part["label"])) == 2:
                empty.append(part[column].iloc[0])
    return empty


def lowest(pictures: pd.DataFrame, share: float, seed: int) -> set[str]:
    """The groups that make up about `share` of the pictures of each class: those whose number,
    drawn from nothing but their name and the seed, is lowest. So added pictures move others only
    as far as the share forces.

    `pictures` has group and label. Groups with fractures are counted by their fractured pictures,
    then the others fill up the normal ones. Of each kind of group at least one is taken and half
    are left, where there are two.
    """
    counts = pd.crosstab(pictures["group"], pictures["label"] == "fractured")
    counts = counts.reindex(columns=[False, True], fill_value=0)
    counts = counts.loc[sorted(counts.index, key=lambda group: draw(f"{seed}:{group}"))]
    wanted = share * counts.sum()
    fractured = counts[counts[True] > 0]
    chosen = list(fractured.index[: _cut(fractured[True], wanted[True])])
    normal = counts[counts[True] == 0]
    left = wanted[False] - counts.loc[chosen, False].sum()
    return {*chosen, *normal.index[: _cut(normal[False], left)]}


def _cut(sizes: pd.Series, wanted: float) -> int:
    """How many of the groups, in this order, come nearest to `wanted` pictures together."""
    totals = np.concatenate([[0], sizes.cumsum()])
    nearest = int(np.abs(totals - wanted).argmin())
    return min(max(nearest, 1), len(sizes) // 2)


def draw(text: str) -> float:
    """A number in [0, 1) that depends on nothing but a text, and looks like chance."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
