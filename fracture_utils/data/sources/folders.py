"""Pictures in folders by class and, perhaps, split, as on Kaggle."""

import contextlib
import hashlib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from fracture_utils.data import folders, groups, reader, sidecars
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError


def read(upstream: published.Upstream) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures in folders by class and, where they are, split (see `folders.places`).

    A validation becomes the test where there is none; without any split each group draws its own.
    Folders that say neither class nor split are kept, so that equal names stay apart. What an
    images.csv and a boxes.csv say goes along.
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
    table = pd.DataFrame(rows)
    if table.empty:
        return table, published.boxes([])
    origin = table["file"].map(lambda file: upstream.inside[file].as_posix())
    known = _known(upstream, origin)
    table = table.join(known[known.columns.difference(table.columns, sort=False)])
    table["split"] = _splits(table, known)
    table["path"] = _paths(table, origin)
    if "label" in known:  # the audit compares it with the folder
        table["label"] = known["label"].mask(known["label"] == "", table["label"])
    boxes = sidecars.marks(upstream.beside("boxes.csv"), origin)
    moved = boxes["path"].map(dict(zip(origin, table["path"], strict=True)))
    upstream.miss(boxes.loc[moved.isna(), "path"])
    return table, boxes.assign(path=moved).dropna(subset="path")


def _known(upstream: published.Upstream, origin: pd.Series) -> pd.DataFrame:
    """What an images.csv in the source says of the pictures, row by row."""
    known = sidecars.known(upstream.beside("images.csv"), origin)
    known = known.set_index("path")
    upstream.miss(known.index.difference(origin))
    return known.reindex(origin).fillna("").set_axis(origin.index)


def _paths(table: pd.DataFrame, origin: pd.Series) -> pd.Series:
    """Where each picture goes; a digest of where it lay tells equal names apart."""
    paths = table["split"] + "/" + table["label"] + "/" + table["path"]
    for row in paths.index[paths.duplicated(keep=False)]:
        path = PurePosixPath(paths[row])
        digest = hashlib.sha256(origin[row].encode()).hexdigest()[:8]
        paths[row] = path.with_stem(f"{path.stem}-{digest}").as_posix()
    return paths


def _rest(path: Path) -> str:
    kept = [part for part in path.parts[:-1]
            if not folders.label_word(part) and not folders.split_word(part)]  # fmt: skip
    return PurePosixPath(*kept, path.name).as_posix()


def _splits(table: pd.DataFrame, known: pd.DataFrame) -> pd.Series:
    split = table["split"]
    if "split" in known:
        said = known["split"]
        ours = (split == "") | ((split == "train") & (said == "validation"))
        if (torn := (said != "") & (said != split) & ~ours).any():
            row = torn.idxmax()
            raise InputError(
                f"{table['file'][row]} lies in {split[row]}, but images.csv says {said[row]}; "
                "move it, or correct the table."
            )
        split = split.mask(ours & (said != ""), said)
    if not (split == "test").any():
        split = split.replace("validation", "test")
    if (split == "test").any():
        return split.mask(split == "", "train")
    if not (groups.telling(table.assign(split=split), "patient") != "").any():
        table = table.assign(patient=table["file"].map(_patient))
    grouped = groups.named(table)
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
