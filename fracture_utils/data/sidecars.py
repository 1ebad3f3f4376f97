"""The tables beside the pictures, images.csv and boxes.csv: read, matched and checked.

Whatever in them would take no effect stops the run with its row, or is told by the audit.
"""

import re
import unicodedata
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import folders
from fracture_utils.errors import InputError

BOX_COLUMNS = ["path", "xmin", "ymin", "xmax", "ymax"]
KNOWN = {*BOX_COLUMNS, "label", "split", "patient", "study", "group", "body_part", "view",
         "hardware"}  # fmt: skip
"""Columns that are known in any case, as Path or LABEL."""
SYNONYMS = {
    **dict.fromkeys(["patientid", "subject", "subjectid"], "patient"),
    **dict.fromkeys(["studyid", "studyuid", "studyinstanceuid"], "study"),
    **dict.fromkeys(["bodypart", "bodypartexamined"], "body_part"),
    "viewposition": "view",
}
"""Other names of known columns, in any case and with any marks, as PatientID or Study-UID."""
SHEETS = (".csv", ".tsv", ".xls", ".xlsx", ".ods")
SLACK = 5
"""Pixels by which a box may leave its picture: rounding of a marking tool, clipped."""


def pictures(config: Config, found: pd.DataFrame) -> pd.DataFrame:
    """What images.csv says, as text: path (as in the inventory's files `found`, where it is one of
    them), and any other columns; split is one of train, validation, test or empty. The index
    counts the rows.

    Raises InputError with the row where it names a picture twice or unclearly, where no row
    names any picture, or where a split is no split.
    """
    return known(folders.sidecar(config.pictures_dir, "images.csv"), found["path"])


def known(path: Path, paths: pd.Series) -> pd.DataFrame:
    """As `pictures`, of the table at `path`, about the pictures at `paths`."""
    known = _read(path, ["path"])
    if known.empty:
        return known
    known["path"] = _matched(path, known["path"], paths)
    refuse_twice(path, known["path"])
    if "split" in known:
        said = known["split"].map(folders.split_word)
        if (wrong := (said == "") & (known["split"].str.strip() != "")).any():
            row = known.index[wrong][0]
            raise InputError(
                f"{path} has in row {row + 2} the split {known['split'][row]!r}. Write train, "
                f"validation or test, or leave the column out ({int(wrong.sum())} such rows)."
            )
        known["split"] = said
    return known


def refuse_twice(table: Path, named: pd.Series) -> None:
    """InputError where a column of the table at `table`, its index counting the rows, names a
    picture twice.
    """
    if (twice := named.duplicated()).any():
        row = named.index[twice][0]
        raise InputError(
            f"{table} names {named[row]} twice, again in row {row + 2}. Keep one row for each "
            "picture."
        )


def unread(config: Config) -> list[str]:
    """Names of tables that lie beside the pictures and take no effect."""
    read = [folders.sidecar(config.pictures_dir, name) for name in folders.SIDECARS]
    there = [path for path in config.pictures_dir.iterdir() if path.suffix.lower() in SHEETS]
    names = (path.name for path in there if path not in read)
    return sorted(name for name in names if not name.startswith((".", "~$")))


def boxes(config: Config, found: pd.DataFrame) -> pd.DataFrame:
    """The fractures' boxes: path (as in the inventory's files `found`), xmin, ymin, xmax, ymax
    (pixels of the file, clipped to it where they leave it by at most SLACK); may be empty.

    Raises InputError with the row where a box is no number, empty, relative (0 to 1) or outside
    its picture, where a path is unclear, or where no row names any picture.
    """
    path = folders.sidecar(config.pictures_dir, "boxes.csv")
    marked = marks(path, found["path"])
    if marked.empty:
        return marked
    return _clipped(path, marked, found.set_index("path")).reset_index(drop=True)


def marks(path: Path, paths: pd.Series) -> pd.DataFrame:
    """As `boxes`, of the table at `path`, about the pictures at `paths`, whose sizes are unknown:
    nothing is clipped. The index counts the rows.
    """
    marked = _read(path, BOX_COLUMNS)[BOX_COLUMNS]
    for side in BOX_COLUMNS[1:]:
        text = marked[side].str.strip().str.replace(",", ".")
        marked[side] = pd.to_numeric(text, errors="coerce").astype(float)
    if marked.empty:
        return marked
    corners = marked[BOX_COLUMNS[1:]].to_numpy()
    wrong = ~np.isfinite(corners).all(axis=1) | (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    wrong |= np.abs(corners).max(axis=1) <= 1
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{path} has in row {marked.index[row] + 2} a box that is empty, reversed, no number, "
            f"or relative (0 to 1): {corners[row].tolist()}. Give xmin < xmax and ymin < ymax in "
            f"pixels of the file ({wrong.sum()} such rows)."
        )
    marked["path"] = _matched(path, marked["path"], paths)
    return marked


def _clipped(path: Path, marked: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    sides = found[["width", "height"]].reindex(marked["path"]).to_numpy(float)
    sides = np.tile(np.where(sides > 0, sides, np.inf), 2)  # a file that cannot be read
    corners = marked[BOX_COLUMNS[1:]].to_numpy()
    inside = np.clip(corners, 0, sides)
    wrong = (np.abs(inside - corners) > SLACK).any(axis=1)
    wrong |= (inside[:, 2:] <= inside[:, :2]).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        width, height = sides[row, :2].astype(int)
        raise InputError(
            f"{path} has in row {marked.index[row] + 2} a box outside its picture: "
            f"{corners[row].tolist()}, but {marked['path'].iloc[row]} is {width} pixels wide and "
            f"{height} high. Give xmin, ymin, xmax, ymax in pixels of the file as it lies there "
            f"({wrong.sum()} such rows)."
        )
    return marked.assign(**dict(zip(BOX_COLUMNS[1:], inside.T, strict=True)))


def _matched(table: Path, named: pd.Series, known: pd.Series) -> pd.Series:
    """The `named` paths as those of `known` files: a named path may be absolute, begin with
    further folders, or lack the first ones, down to the bare name.
    """
    exact, similar = set(known), defaultdict(list)
    for path in known:
        similar[_plain(path).rpartition("/")[2]].append(path)
    matched = named.copy()
    for row, path in named.items():
        if path in exact:
            continue
        meant = _meant(path, similar[_plain(path).rpartition("/")[2]])
        if len(meant) > 1:
            raise InputError(
                f"{table} names in row {row + 2} {path}, which may be {meant[0]} or {meant[1]}. "
                "Write its path below the data folder."
            )
        matched[row] = meant[0] if meant else path
    if len(named) and not matched.isin(exact).any():
        example = known.iloc[0] if len(known) else "train/fractured/a.png"
        raise InputError(
            f"{table} names no picture that exists: row {named.index[0] + 2} has "
            f"{named.iloc[0]}. Write paths below the data folder, as {example}, or take the table "
            "away."
        )
    return matched


def _meant(path: str, known: list[str]) -> list[str]:
    """Those of the `known` paths, of the same file name, that `path` may mean."""
    ours = f"/{_plain(path)}"
    longer = [other for other in known if ours.endswith(f"/{_plain(other)}")]
    if longer:
        return [max(longer, key=len)]
    told = [part for part in path.split("/")[:-1]
            if folders.split_word(part) or folders.label_word(part)]  # fmt: skip
    return [other for other in known if not told or f"/{_plain(other)}".endswith(ours)]


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=str)
    known = files.read_spreadsheet(path)
    known.columns = _columns(list(known.columns))
    if missing := [name for name in columns if name not in known]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}. Its first line must name the columns, "
            f"separated by commas; needed are {', '.join(columns)}."
        )
    known["path"] = known["path"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    return known


def _columns(names: list[str]) -> list[str]:
    """The names with those of known columns as KNOWN has them; a synonym counts where the table
    has no column of the name itself, the first of several.
    """
    found = [name.lower() if name.lower() in KNOWN else name for name in names]
    for place, name in enumerate(found):
        meant = SYNONYMS.get(re.sub(r"[\W_]", "", name.lower()))
        if meant and meant not in found:
            found[place] = meant
    return found
