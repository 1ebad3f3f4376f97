"""Files that are either whole or absent: written under a temporary name, synced, renamed."""

import contextlib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fracture_utils.errors import InputError, first_line

TEMPORARY_PREFIX = ".fracture-partial-"
DIGITS = 6
"""Significant digits of a number in a table: more than any picture can bear out."""
_META = "meta_json"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`.

    The old file stays untouched until the new one is complete and on the disk. On an
    error the temporary file is removed. The temporary name keeps the suffix of `path`,
    because writers such as Keras and Matplotlib choose their format by it.

    Raises InputError where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=TEMPORARY_PREFIX, suffix="".join(path.suffixes[-2:])
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}). Free some space or choose "
            "another folder with FRACTURE_RESULTS_DIR or FRACTURE_MODELS_DIR; what was written "
            "before is intact."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def leftovers(*folders: Path) -> list[Path]:
    """What killed processes left of unfinished writes in these folders (not below them)."""
    found = [path for folder in folders for path in Path(folder).glob(TEMPORARY_PREFIX + "*")]
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def rounded(value: float) -> float:
    """A number as `write_table` writes it."""
    return float(f"{value:.{DIGITS}g}")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write `table` as CSV without its index, whole or not at all, numbers with DIGITS digits."""
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g"))


def read_spreadsheet(path: Path) -> pd.DataFrame:
    """Anybody's table as text, its index counting the rows: CSV as spreadsheets save it, separated
    by commas, semicolons or tabs, in UTF-8 or UTF-16. Empty rows are left out, empty cells are "".

    Raises InputError where it cannot be read.
    """
    try:
        data = Path(path).read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        lines = io.StringIO(data.decode("utf-16" if wide else "utf-8-sig"), newline=None)
        separator = max(",;\t", key=lines.readline().count)
        lines.seek(0)
        table = pd.read_csv(
            lines, sep=separator, dtype=str, skipinitialspace=separator != "\t",
            keep_default_na=False, skip_blank_lines=False,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        problem = first_line(error)
        raise InputError(f"{path} is no table ({problem}). Save it as CSV in UTF-8.") from None
    table.columns = [str(name).strip() for name in table.columns]
    return table[(table != "").any(axis=1)].copy()


def read_json(path: Path) -> Any:
    """What `write_json` wrote. InputError where the file is damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            f"{path} is damaged ({error}); run the notebook again to write it anew."
        ) from None


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_arrays(
    path: Path, meta: Mapping[str, object], arrays: Mapping[str, Any], compress: bool = False
) -> None:
    """Write named arrays and a JSON-able `meta` into one .npz, whole or not at all."""
    save = np.savez_compressed if compress else np.savez
    with replacing(path) as temporary, temporary.open("wb") as file:
        named: dict[str, Any] = {**arrays, _META: np.array(json.dumps(meta).encode())}
        save(file, **named)


def read_arrays(path: Path) -> Any:
    """What `write_arrays` wrote, meta and arrays, or None where the file is absent or damaged.

    Nothing is unpickled; the CRC that the zip format keeps of every member is checked.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return json.loads(arrays.pop(_META).item()), arrays
    except Exception:  # a damaged file fails in more ways than can be listed
        return None


def fingerprint(value: object) -> str:
    """Sixteen hexadecimal digits that change whenever the JSON form of `value` does, or an array
    or a table in it.
    """
    text = json.dumps(value, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, pd.DataFrame):
        rows = pd.util.hash_pandas_object(value).to_numpy()
        return [value.dtypes.astype(str).to_dict(), list(value.columns), _plain(rows)]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()  # type: ignore[arg-type]  # a buffer
        return [str(value.dtype), value.shape, digest]
    return str(value)


def md5(path: Path) -> str:
    """The MD5 of a file's bytes, as Keras publishes it for weights; for identity, not security."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
