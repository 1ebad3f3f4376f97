"""Arrays that are made when they are asked for and never held, so that memory does not grow with
the number of pictures.
"""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np


class Lazy(Mapping[str, np.ndarray]):
    """What `make` gives for the position of a name in `names`, anew each time it is asked for."""

    def __init__(self, names: Sequence[str], make: Callable[[int], np.ndarray]) -> None:
        self._place, self._make = {name: place for place, name in enumerate(names)}, make

    def __getitem__(self, name: str) -> np.ndarray:
        return self._make(self._place[name])

    def __contains__(self, name: object) -> bool:
        return name in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self._place)

    def __len__(self) -> int:
        return len(self._place)


def rows(path: Path, name: str) -> Callable[[int], np.ndarray]:
    """A function that reads row k of an array that `files.write_arrays` wrote uncompressed.

    The file is open only while a row is read: Windows replaces no file that is open or mapped.
    """
    start, shape, dtype = _member(path, name)
    count = math.prod(shape[1:])

    def row(k: int) -> np.ndarray:
        offset = start + k * count * dtype.itemsize
        return np.fromfile(path, dtype, count, offset=offset).reshape(shape[1:])

    return row


def mapped(path: Path, name: str) -> np.ndarray:
    """An array that `files.write_arrays` wrote, mapped from its file, to read."""
    start, shape, dtype = _member(path, name)
    return np.memmap(path, dtype, "r", start, shape)


def _member(path: Path, name: str) -> tuple[int, tuple[int, ...], np.dtype]:
    """Where the numbers of an array begin in such a file, in bytes, its shape and its dtype."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        np.lib.format.read_magic(member)
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
        begin, header = archive.getinfo(f"{name}.npy").header_offset, member.tell()
    lengths = np.fromfile(path, "<u2", 2, offset=begin + 26)  # of the name and the extra field
    return begin + 30 + int(lengths.sum()) + header, shape, dtype
