"""Atomic file writes, and the rule for which cached artifacts are valid.

An artifact is valid if the key in its JSON file equals the current key and its bytes have the
recorded SHA-256. It is written under a temporary name, synced and renamed; its JSON comes last.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

import fracture_utils
from fracture_utils.config import InputError, first_line

TEMPORARY = ".fracture-partial-"
DIGITS = 6  # significant digits of a number in a table
PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scipy", "scikit-learn", "pillow")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, with the suffixes of `path`, by which Keras and
    Pillow choose the format. It replaces `path` after the block; InputError if it cannot.
    """
    suffixes = "".join(suffix for suffix in path.suffixes[-2:] if len(suffix) <= 8)
    temporary = path.with_name(TEMPORARY + uuid.uuid4().hex[:12] + suffixes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror or error})"
        advice = "Free some space, shorten the name, or choose another folder."
        raise InputError(f"{problem}. {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in or below `folder`."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote; InputError if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"{path} cannot be read ({reason}); run the notebook again.") from None


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, floats with DIGITS significant digits."""
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g"))


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write named arrays as .npz."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read what `write_arrays` wrote, without pickle; None where the file is missing or damaged."""
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception:  # a damaged archive raises too many kinds to list
        return None


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file, recomputed where its inode, size or time has changed."""
    stat = Path(path).stat()
    return _digest(str(path), algorithm, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(4096)
def _digest(path: str, algorithm: str, *_: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def fingerprint(value: object) -> str:
    """16 hexadecimal digits that change whenever `value` (JSON) does."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key(code: Sequence[str] = (), libraries: Sequence[str] = (), **inputs: object) -> dict:
    """A key: a fingerprint of each input, of the package's source below `code` ("data",
    "models/training.py") and of the versions of `libraries`.
    """
    parts = {name: fingerprint(value) for name, value in inputs.items()}
    return parts | {"code": _source_digest(tuple(code)), "libraries": versions(libraries)}


@functools.cache  # the source as imported, even if a file changes later
def _source_digest(names: tuple[str, ...]) -> str:
    roots = [Path(fracture_utils.__file__).parent / name for name in names]
    paths = [path for root in roots for path in (root.rglob("*.py") if root.is_dir() else [root])]
    return fingerprint([digest(path) for path in sorted(paths)])


def is_valid(path: Path, key: dict) -> bool:
    """Whether `path` was sealed under the same key and its bytes are unchanged."""
    try:
        sealed = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
        return sealed["key"] == key and sealed["sha256"] == digest(path)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def seal(path: Path, key: dict, **facts: object) -> None:
    """Declare `path` valid under `key`; `facts` (JSON) are stored with the key."""
    write_json(Path(f"{path}.json"), {"key": key, "sha256": digest(path), **facts})


def facts(path: Path) -> dict[str, Any]:
    """The facts that `path` was sealed with."""
    return read_json(Path(f"{path}.json"))


def lock(folder: Path) -> filelock.FileLock:
    """Lock a folder for this process (which may lock it again) until release, exit or crash."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(folder.resolve() / "run.lock", timeout=0, is_singleton=True)
        held.acquire()
    except OSError as error:
        problem = f"{folder} cannot be written ({error.strerror})"
        if isinstance(error, filelock.Timeout):
            problem = f"Another run is using {folder}. Wait until it ends, or close its notebook"
        raise InputError(f"{problem}, or choose another folder.") from None
    return held


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Version of this package, of Python and of some libraries, by name."""
    result = {"fracture_utils": fracture_utils.__version__, "python": platform.python_version()}
    result |= dict.fromkeys(names, "not installed")
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[name] = importlib.metadata.version(name)
    return result
