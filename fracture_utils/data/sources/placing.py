"""Where the pictures of a published data set go, and what is written beside them."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fracture_utils import files
from fracture_utils.data import folders
from fracture_utils.data.sources import archives, fracatlas, grazpedwri, mura, published
from fracture_utils.data.sources import folders as classes
from fracture_utils.errors import InputError

SOURCES = {
    "mura": mura.SOURCE,
    "fracatlas": fracatlas.SOURCE,
    "grazpedwri": grazpedwri.SOURCE,
    "folders": classes.SOURCE,
}
Progress = Callable[[int, int], None]


class Brought(NamedTuple):
    """What an import gives: `pictures`, its images.csv, and `left_out` (path, reason), every other
    file of the source that no table is, and what its tables name in vain.
    """

    pictures: pd.DataFrame
    left_out: pd.DataFrame

    def sentence(self) -> str:
        """How many files were left out, by reason, each with its first file."""
        if self.left_out.empty:
            return "0 files left out."
        by_reason = self.left_out.groupby("reason")["path"].agg(["size", "first"])
        by_reason = by_reason.sort_values("size", ascending=False, kind="stable")
        said = [f"{why} ({size}, such as {path})" for why, size, path in by_reason.itertuples()]
        count = len(self.left_out)
        return f"{count} file{'s' * (count != 1)} left out: {', '.join(said)}."


def bring(
    name: str,
    source: Path | str,
    destination: Path,
    copy: bool = False,
    progress: Progress = lambda *_: None,
) -> Brought:
    """Bring the data set `name` from `source` to `destination`.

    Raises InputError with one sentence where the source is not laid out as published, an archive
    is unsafe, or the destination holds something else. Nothing in `source` is changed.
    """
    if name not in SOURCES:
        raise InputError(f"There is no source {name!r}; choose from {', '.join(SOURCES)}.")
    destination, kind = Path(destination), SOURCES[name]
    _check_destination(destination, kind)
    store = destination / ".unpacked"
    file = kind.fetch(store) if kind.fetch and str(source) == "download" else Path(source)
    upstream = archives.opened(file, store)
    pictures, boxes = kind.read(upstream)
    left_out = upstream.left_out()
    if pictures.empty:
        why = Brought(pictures, left_out).sentence()
        raise InputError(f"{source} holds no pictures laid out as {kind.title} is published: {why}")
    if (twice := pictures["path"].duplicated()).any():
        raise InputError(f"{source} holds {pictures['path'][twice].iloc[0]} twice; remove one.")
    pictures = pictures.sort_values("path", ignore_index=True)
    _describe(destination, name, kind, len(pictures))
    for done, row in enumerate(pictures.itertuples(), start=1):
        _place(Path(row.file), destination / row.path, copy)
        progress(done, len(pictures))
    table = pictures.drop(columns="file")
    files.write_table(destination / "images.csv", table)
    files.write_table(destination / "boxes.csv", boxes[boxes["path"].isin(table["path"])])
    return Brought(table, left_out)


def _check_destination(destination: Path, kind: published.Source) -> None:
    described = destination / "source.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(described.read_text(encoding="utf-8"))["title"] == kind.title:
            return
    theirs = (path.relative_to(destination) for path, _ in folders.walk(destination))
    if destination.is_file() or any(
        path.parts[0] != "phantoms" and not folders.hidden(path) for path in theirs
    ):
        raise InputError(f"{destination} holds something else; choose a new or empty folder.")


def _describe(destination: Path, name: str, kind: published.Source, pictures: int) -> None:
    said = kind._asdict() | {"name": name, "pictures": pictures}
    files.write_json(
        destination / "source.json",
        {key: value for key, value in said.items() if not callable(value) and value is not None},
    )
    files.write_text(
        destination / "ATTRIBUTION.txt", f"{kind.title}\n{kind.licence}\n\n{kind.attribution}\n"
    )


def _place(file: Path, target: Path, copy: bool) -> None:
    if target.exists() and target.stat().st_size == file.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        with contextlib.suppress(OSError):  # another file system, or one without links
            target.unlink(missing_ok=True)
            os.link(file.resolve(), target)
            return
    with files.replacing(target) as temporary:
        shutil.copyfile(file, temporary)
