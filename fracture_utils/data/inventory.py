"""Every file below the data folder: read, or left out with its reason.

Taken once and kept, so that a second run reads only what is new or changed. Beside the facts of
each picture it keeps a thumbnail: all that the search for duplicates needs.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from fracture_utils import files, lazy
from fracture_utils.config import Config
from fracture_utils.data import duplicates, folders, reader
from fracture_utils.ledger import Ledger, maker

FACTS = {
    **dict.fromkeys(["path", "split", "label", "reason", "stamp"], ""),
    **dict.fromkeys(["width", "height", "bit_depth", "file_bytes"], 0),
    **dict.fromkeys(["sha256", "patient"], ""),
    **dict.fromkeys(["jpeg_quality", "mean", "border", "grey_fill"], np.nan),
}
"""The columns of `files`, and what stands there for a file that cannot be read."""
CODE = ("data/inventory", *duplicates.CODE, *reader.CODE)
LIBRARIES = (*duplicates.LIBRARIES, *reader.LIBRARIES)
"""What the facts and the thumbnail of a file depend on, beside its bytes."""

UNASSIGNED = "no folder assigns it"
"""How the reason begins of a file whose folders name no class or no split."""


class Inventory(NamedTuple):
    """`files`: a row for every file below the data folder, sorted by path, with the columns of
    FACTS: reason says why a file is left out (empty: it is a picture), mean and border are
    grey levels, grey_fill is the share of the height that is one mid-grey block at the bottom.
    `thumbnails`: uint8 (pictures, duplicates.SIDE, duplicates.SIDE), of those without a reason.
    """

    files: pd.DataFrame
    thumbnails: np.ndarray

    def of(self, paths: pd.Series) -> np.ndarray:
        """The thumbnails of some pictures; no copies where it is all of them."""
        readable = self.files.loc[self.files["reason"] == "", "path"]
        rows = pd.Index(readable).get_indexer(paths)
        everything = np.array_equal(rows, np.arange(len(readable)))
        return self.thumbnails if everything else self.thumbnails[rows]


def take(config: Config) -> Inventory:
    """Read every file once. What a picture gave is kept in `cache_dir/inventory.npz` and taken
    from there as long as its size and time, and the code that reads it, stay the same.
    """
    root, cache = config.pictures_dir, config.cache_dir / "inventory.npz"
    ledger, key = Ledger(config.cache_dir), maker(CODE, LIBRARIES)
    before = _kept(cache) if ledger.finished("inventory", key) else {}

    def look(path: Path, reason: str, place: folders.Place) -> tuple[dict, np.ndarray | None]:
        inside = path.relative_to(root)
        row = FACTS | {"path": folders.legible(inside), "split": place.split, "label": place.label}
        return _examine(path, row | {"reason": reason or _refusal(path, inside, place)}, before)

    walked = sorted(
        folders.candidates(root, (config.results_dir, config.models_dir)),
        key=lambda found: folders.legible(found[0].relative_to(root)),
    )
    places = folders.places([path.relative_to(root).parts for path, _ in walked])
    thumbnails = np.empty((len(walked), duplicates.SIDE, duplicates.SIDE), np.uint8)
    rows: list[dict[str, Any]] = []
    count = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, small in pool.map(look, *zip(*walked, strict=True), places):
            rows.append(row)
            if small is not None:
                thumbnails[count] = small
                count += 1
    pictures = [row for row in rows if not row["reason"]]
    stamps = {row["path"]: row["stamp"] for row in pictures}
    if stamps != {path: row["stamp"] for path, (row, _) in before.items()}:
        files.write_arrays(cache, {"pictures": pictures}, {"thumbnails": thumbnails[:count]})
        ledger.record("inventory", key, [cache])
    if count and os.name == "posix":  # Windows replaces no file that is mapped
        thumbnails = lazy.mapped(cache, "thumbnails")
    return Inventory(pd.DataFrame(rows, columns=list(FACTS)), thumbnails[:count])


def _refusal(file: Path, path: Path, place: folders.Place) -> str:
    """Why a `file`, at `path` below the data folder, is no candidate; empty if it is one."""
    if folders.legible(path) != path.as_posix():
        return "its name is no valid text"
    if folders.hidden(path):
        return "it is hidden, a leftover of the system or of a tool"
    if place.problem:
        return place.problem
    if folders.may_be_picture(path) and not (place.label and place.split):
        return f"{UNASSIGNED}: it lies in neither fractured/ nor normal/ of train, test or val"
    known = not path.suffix or path.suffix.lower() in reader.SUFFIXES
    if not known and not reader.is_dicom(file):  # whose names often are numbers
        return f"its ending {path.suffix} is none of {', '.join(reader.SUFFIXES)}"
    return ""


def _examine(
    path: Path, row: dict[str, Any], before: dict[str, tuple[dict[str, Any], np.ndarray]]
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The row of a file and its thumbnail, where it is a picture."""
    if row["reason"]:
        return row, None
    try:
        status = path.stat()
        row["stamp"] = f"{status.st_size} {status.st_mtime_ns}"
        kept = before.get(row["path"])
        if kept and kept[0]["stamp"] == row["stamp"]:
            return kept[0] | {"split": row["split"], "label": row["label"]}, kept[1]
        pixels, facts = reader.load(path)
    except reader.ReadError as error:
        return row | {"reason": error.reason}, None
    except OSError as error:
        return row | {"reason": f"the system refuses it ({error.strerror})"}, None
    return row | facts | _grey_levels(pixels), thumbnail(pixels)


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """The picture (height, width) squashed to uint8 (duplicates.SIDE, duplicates.SIDE)."""
    small = Image.fromarray(picture).resize((duplicates.SIDE,) * 2, Image.Resampling.BILINEAR)
    return np.asarray(small)


def _grey_levels(pixels: np.ndarray) -> dict[str, float]:
    """mean; border, the median of the outermost 2 %; grey_fill. A JPEG cut short and closed
    again decodes without complaint, its lost part one block of mid-grey (about 128).
    """
    depth = max(1, min(pixels.shape) // 50)
    rim = [pixels[:depth], pixels[-depth:], pixels[:, :depth], pixels[:, -depth:]]
    lowest, highest = pixels.min(1).astype(int), pixels.max(1).astype(int)
    grey = (highest - lowest <= 4) & (lowest >= 100) & (highest <= 156)
    fill = len(grey) if grey.all() else int(np.argmin(grey[::-1]))
    return {
        "mean": round(float(pixels.mean()), 2),
        "border": float(np.median(np.concatenate([part.ravel() for part in rim]))),
        "grey_fill": round(fill / len(grey), 3),
    }


def _kept(cache: Path) -> dict[str, tuple[dict[str, Any], np.ndarray]]:
    meta, arrays = files.read_arrays(cache) or ({"pictures": []}, {"thumbnails": []})
    pairs = zip(meta["pictures"], arrays["thumbnails"], strict=True)
    return {row["path"]: (row, small) for row, small in pairs}
