"""What a published data set is, and how its files are found and read."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import pandas as pd

from fracture_utils import files
from fracture_utils.data import dicom, folders, reader, sidecars
from fracture_utils.errors import InputError

TEST_SHARE = 0.2
"""Of the patients, where a source has no test list of its own."""
HIDDEN, NO_PICTURE, NO_CLASS = "hidden", "no picture", "no class in its path"
UNLISTED, MISSING = "not in the publisher's table", "named in a table, but not there"
"""Why files are left out."""


class Upstream:
    """The files of a data set as they lie in its `roots`, through links too; nothing below `apart`,
    the folder that the pictures go to. Each becomes a picture, is asked for by its name or ending,
    or is left out with a reason.

    `left`: (path, reason) of what an archive holds but was not unpacked; `archives`: what was.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        apart: Path,
        left: Iterable[tuple[str, str]] = (),
        archives: Iterable[Path] = (),
    ) -> None:
        self.root = roots[0]
        self.inside: dict[Path, Path] = {}
        """Where each file lies below its root."""
        self.pictures: list[Path] = []
        self._left, self._used = list(left), set(archives)
        for root in roots:
            for path, reason in _files(root, apart):
                self.inside[path] = path.relative_to(root)
                if not reason:
                    self.pictures.append(path)
                elif reason != NO_PICTURE:
                    self.leave(path, reason)
        self._others = set(self.inside) - set(self.pictures) - self._used

    def leave(self, file: Path, reason: str) -> None:
        """Leave a file out, for a reason of a few words."""
        self._left.append((folders.legible(self.inside[file]), reason))
        self._used.add(file)

    def miss(self, names: Iterable[str]) -> None:
        """Note what the publisher's table names, but nobody finds."""
        self._left += [(name, MISSING) for name in names]

    def left_out(self) -> pd.DataFrame:
        """What was left out up to now: path (below its root) and reason, sorted."""
        rest = [
            (folders.legible(self.inside[file]), NO_PICTURE) for file in self._others - self._used
        ]
        return pd.DataFrame(sorted([*self._left, *rest]), columns=["path", "reason"])

    def ending(self, suffix: str) -> dict[str, Path]:
        """The other files with this ending, by their names without it."""
        found = {path.stem: path for path in self._others if path.suffix == suffix}
        self._used |= set(found.values())
        return found

    def one(self, name: str) -> Path:
        """The one file of this name, in any case; InputError where there is another number."""
        found = [path for path in self._others if path.name.casefold() == name.casefold()]
        if len(found) != 1:
            raise InputError(f"{self.root} should hold one {name}, but holds {len(found)}.")
        self._used.add(found[0])
        return found[0]

    def beside(self, name: str) -> Path:
        """The table that may lie beside a person's own pictures; else a path where nothing is."""
        with contextlib.suppress(InputError):
            return self.one(name)
        return self.root / name / "absent"

    def table(self, name: str, columns: list[str]) -> pd.DataFrame:
        """The published table of this name, by the first of the needed `columns`, which names
        each picture once; all as text. InputError where it is another.
        """
        path = self.one(name)
        table = files.read_spreadsheet(path)
        if missing := [name for name in columns if name not in table]:
            raise InputError(f"{path} has no column {', '.join(missing)}; is it the published one?")
        sidecars.refuse_twice(path, table[columns[0]])
        return table.set_index(columns[0])


class Source(NamedTuple):
    """A published data set. `positive` is its own word for the class that we file as fractured;
    `read` takes its files and gives (pictures, boxes): pictures has file (where it lies), path
    (where it goes) and what else is known; boxes has path, xmin, ymin, xmax, ymax. `fetch`
    downloads it into a folder and says which file it is. `neighbours` becomes the default of the
    setting of that name where it is used.
    """

    title: str
    positive: str
    licence: str
    attribution: str
    read: Callable[[Upstream], tuple[pd.DataFrame, pd.DataFrame]]
    fetch: Callable[[Path], Path] | None = None
    neighbours: int = 0


def boxes(rows: list[tuple]) -> pd.DataFrame:
    """The table of boxes."""
    return pd.DataFrame(rows, columns=sidecars.BOX_COLUMNS)


def refusal(inside: PurePath, head: Callable[[], bytes]) -> str:
    """Why a file, `inside` its root, is no picture; empty where it may be one, by its ending or by
    its content. `head` gives its first reader.HEAD bytes.
    """
    if folders.hidden(inside):
        return HIDDEN
    if folders.legible(inside) != inside.as_posix():
        return "its name is no valid text"
    suffix = inside.suffix.lower()
    if suffix in reader.SUFFIXES:
        return ""
    begin = head()
    known = dicom.resembles(begin) or (not suffix and begin.startswith(tuple(reader.MAGIC)))
    return "" if known else NO_PICTURE


def _files(root: Path, apart: Path) -> Iterator[tuple[Path, str]]:
    """Every file below `root`, and why it is no picture."""
    real, theirs = root.resolve(), apart.resolve()
    skipped = theirs.relative_to(real) if theirs.is_relative_to(real) else None
    for path, reason in folders.walk(root):
        inside = path.relative_to(root)
        if skipped is None or not inside.is_relative_to(skipped):
            if not reason and not path.is_file():
                reason = "it cannot be opened"
            yield path, reason or refusal(inside, functools.partial(reader.head, path))
