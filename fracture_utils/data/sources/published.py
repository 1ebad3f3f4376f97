"""What a published data set is, and how its files are found and read."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fracture_utils.data import folders, reader
from fracture_utils.errors import InputError

TEST_SHARE = 0.2
"""Of the patients, where a source has no test list of its own."""


class Upstream:
    """The files of a data set as they lie in its `roots`, through links too, but nothing hidden
    and nothing below `apart`.
    """

    def __init__(self, roots: Sequence[Path], apart: Path) -> None:
        self.root = roots[0]
        self.inside: dict[Path, Path] = {}
        """Where each file lies below its root."""
        for root in roots:
            for path in _files(root, apart):
                self.inside[path] = path.relative_to(root)

    @property
    def pictures(self) -> list[Path]:
        """What may be a picture."""
        return [path for path in self.inside if path.suffix.lower() in reader.SUFFIXES]

    def ending(self, suffix: str) -> dict[str, Path]:
        """The other files with this ending, by their names without it."""
        return {path.stem: path for path in self.inside if path.suffix == suffix}

    def one(self, name: str) -> Path:
        """The one file of this name; InputError where there is another number of them."""
        found = [path for path in self.inside if path.name == name]
        if len(found) != 1:
            raise InputError(f"{self.root} should hold one {name}, but holds {len(found)}.")
        return found[0]

    def table(self, name: str, columns: list[str]) -> pd.DataFrame:
        """The published table of this name, by the first of the needed `columns`, which names
        each picture once; all as text. InputError where it is another.
        """
        path = self.one(name)
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is no table ({str(error).splitlines()[0]}).") from None
        if missing := [name for name in columns if name not in table]:
            raise InputError(f"{path} has no column {', '.join(missing)}; is it the published one?")
        twice = table[columns[0]].duplicated()
        if twice.any():
            row = table.index[twice][0]
            raise InputError(
                f"{path} names {table[columns[0]][row]} twice, again in row {row + 2}. Keep one "
                "row."
            )
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


def frame(rows: list[dict]) -> pd.DataFrame:
    """The table of pictures, what is unknown empty."""
    table = pd.DataFrame(rows, columns=None if rows else ["file", "path", "label", "split"])
    return table.fillna("")


def boxes(rows: list[tuple]) -> pd.DataFrame:
    """The table of boxes."""
    return pd.DataFrame(rows, columns=["path", "xmin", "ymin", "xmax", "ymax"])


def hidden(path: Path) -> bool:
    """Whether a file at `path` below its root is a leftover of the system or of a tool."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _files(root: Path, apart: Path) -> Iterator[Path]:
    for path, reason in folders.walk(root):
        if not reason and not hidden(path.relative_to(root)):
            yield path
