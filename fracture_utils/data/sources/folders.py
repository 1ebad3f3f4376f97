"""Pictures in folders by class and, perhaps, split, as on Kaggle."""

import contextlib
import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from fracture_utils.data import folders, groups, reader
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError


def read(upstream: published.Upstream) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures in folders by class and, where they are, split (see `folders.places`).

    A validation becomes the test where there is none; without any split each group draws its own.
    Folders that say neither class nor split are kept, so that equal names stay apart.
    """
    found = upstream.pictures
    inside = [upstream.inside[file] for file in found]
    places = folders.places([path.parts for path in inside])
    for file, place in zip(found, places, strict=True):
        if place.problem:
            raise InputError(f"{file}: {place.problem}. Rename one of them.")
        if not place.label:
            upstream.leave(file, published.NO_CLASS)
    rows = [
        {"file": file, "label": place.label, "split": place.split, "path": _rest(path)}
        for file, path, place in zip(found, inside, places, strict=True)
        if place.label
    ]
    table = published.frame(rows)
    if table.empty:
        return table, published.boxes([])
    table["split"] = _splits(table)
    table["path"] = table["split"] + "/" + table["label"] + "/" + table["path"]
    twice = table["path"].duplicated(keep=False)
    for row in table.index[twice]:
        path = PurePosixPath(table.loc[row, "path"])
        original = upstream.inside[table.loc[row, "file"]].as_posix()
        digest = hashlib.sha256(original.encode()).hexdigest()[:8]
        table.loc[row, "path"] = path.with_stem(f"{path.stem}-{digest}").as_posix()
    return table, published.boxes([])


def _rest(path: Path) -> str:
    kept = [part for part in path.parts[:-1]
            if not folders.label_word(part) and not folders.split_word(part)]  # fmt: skip
    return PurePosixPath(*kept, path.name).as_posix()


def _splits(table: pd.DataFrame) -> pd.Series:
    split = table["split"]
    if not (split == "test").any():
        split = split.replace("validation", "test")
    if (split == "test").any():
        return split.mask(split == "", "train")
    grouped = groups.named(table.assign(patient=table["file"].map(_patient)))
    grouped = grouped.mask(grouped == "", table["path"])
    test = groups.lowest(table.assign(group=grouped), published.TEST_SHARE, 0)
    return pd.Series(np.where(grouped.isin(test), "test", "train"), index=table.index)


def _patient(file: Path) -> str:
    """The patient that a DICOM file names (a digest), so that none is in train and test."""
    with contextlib.suppress(reader.ReadError):
        return reader.load(file)[1]["patient"] if reader.is_dicom(file) else ""
    return ""


SOURCE = published.Source(
    "folders", "fractured", "As its publisher states; see the page it came from.",
    "Pictures in folders by class, as on Kaggle. Add author, title and address here.",
    read,
)  # fmt: skip
