"""The tables of a results folder: what a row is, and every column with its meaning, once.

    predictions = tables.write(config.results_dir, "predictions", predictions)
    predictions = tables.read(config.results_dir, "predictions")

Both check the table against SCHEMAS. `write` returns what it wrote, as `read` gives it back, so
that whoever goes on computes with what stands in the file. To add a column or a table, add a line
or a block to SCHEMAS: name, kind, unit, meaning, two spaces or more between them. `name?` may be
lacking, `name±` has name_low and name_high (95 %) beside it. Kinds: text, whole, number (float,
empty where undefined), flag. Columns that only the user's sidecar images.csv knows are allowed in
the tables of SIDECAR, as text; any other is refused.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fracture_utils import files
from fracture_utils.errors import InputError, first_line
from fracture_utils.schemas import SCHEMAS

SIDECAR = frozenset({"images", "predictions", "gallery"})
"""Tables that take over, as text, what only the user's images.csv knows of a picture."""


class Column(NamedTuple):
    """One column; `kind` is text, whole, number or flag."""

    name: str
    kind: str
    unit: str
    meaning: str
    required: bool


def _parse(text: str) -> tuple[dict[str, str], dict[str, list[Column]]]:
    rows: dict[str, str] = {}
    columns: dict[str, list[Column]] = {}
    for block in text.strip().split("\n\n"):
        title, *lines = block.split("\n")
        table, rows[table] = title.split(": ")
        columns[table] = []
        for line in lines:
            name, kind, unit, meaning = re.split(r" {2,}|(?<=[?±]) ", line)
            plain, required = name.rstrip("?±"), "?" not in name
            ends = ("", "_low", "_high") if "±" in name else ("",)
            said = ("", "lower end of the 95 % interval: ", "upper end of the 95 % interval: ")
            columns[table] += [
                Column(plain + end, kind, unit, words + meaning, required)
                for end, words in zip(ends, said, strict=False)
            ]
    return rows, columns


ROWS, COLUMNS = _parse(SCHEMAS)
ROWS["scores_by_patient"] = "a model, over patients or studies instead of pictures"
COLUMNS["scores_by_patient"] = COLUMNS["scores"]
NAMES = {table: [column.name for column in columns] for table, columns in COLUMNS.items()}


def write(folder: Path, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write `table` to `<name>.csv` in `folder`, and return it as `read` does.

    ValueError where it does not fit its schema: the code that made it is wrong.
    """
    if fault := _fault(name, table):
        raise ValueError(f"The table {name} {fault}; SCHEMAS in schemas.py says what it holds.")
    files.write_table(Path(folder) / f"{name}.csv", table)
    return read(folder, name)


def read(folder: Path, name: str) -> pd.DataFrame:
    """The table `<name>.csv` of `folder`; missing text is empty.

    InputError where there is no such file, or it does not fit its schema.
    """
    path = Path(folder) / f"{name}.csv"
    known = {column.name: column.kind for column in COLUMNS[name]}
    kinds = defaultdict(lambda: str, {c: _TYPES[kind] for c, kind in known.items()})
    gaps = {column: [""] for column, kind in known.items() if kind == "number"}
    try:
        table = pd.read_csv(
            path, dtype=kinds, keep_default_na=False, na_values=gaps, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        problem = first_line(error)
        raise InputError(f"{path} cannot be read ({problem}); run the notebook again.") from None
    if fault := _fault(name, table):
        raise InputError(f"{path} {fault}; it is of another version, so run the notebook again.")
    return table


def drop(folder: Path, name: str) -> None:
    """Take away the table of an earlier run that this one has no use for."""
    (Path(folder) / f"{name}.csv").unlink(missing_ok=True)


def dictionary() -> pd.DataFrame:
    """Every column of every table: what `columns.csv` beside them holds."""
    rows = [
        (table, c.name, c.kind, c.unit, c.required, c.meaning)
        for table, columns in COLUMNS.items()
        for c in columns
    ]
    return pd.DataFrame(rows, columns=NAMES["columns"])


_TYPES = {"text": str, "whole": "int64", "number": float, "flag": bool}


def _fault(name: str, table: pd.DataFrame) -> str:
    """What is wrong with a table, in words; empty where it fits."""
    known = {column.name: column for column in COLUMNS[name]}
    for column in known.values():
        if column.required and column.name not in table:
            return f"has no column {column.name}"
    for column in table:
        if column not in known and name not in SIDECAR:
            return f"has a column {column} that nobody explains"
        kind = known[column].kind if column in known else "text"
        if not _is(table[column].dropna(), kind):
            return f"has something other than {kind} in the column {column}"
    return ""


def _is(values: pd.Series, kind: str) -> bool:
    if values.empty:
        return True
    if kind == "text":
        return bool(values.map(lambda value: isinstance(value, str)).all())
    if kind == "flag":
        return pd.api.types.is_bool_dtype(values)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return bool(numeric and (kind == "number" or (values % 1 == 0).all()))
