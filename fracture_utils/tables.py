"""Result tables: read, write and check them against the data dictionary in columns.csv.

columns.csv has one row per column: table, column, kind (text, integer, number, boolean), unit,
required, interval (whether the 95 % interval <column>_low, <column>_high follows it) and meaning.
"""

import functools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils import artifacts
from fracture_utils.config import InputError, first_line

OPEN = ("images", "predictions", "most_confident_errors")  # may have other columns of images.csv
ENDS = {"": "", "_low": "lower limit of the 95 % CI: ", "_high": "upper limit of the 95 % CI: "}
TYPES = {"text": str, "integer": "int64", "number": float, "boolean": bool}


@functools.cache
def dictionary() -> pd.DataFrame:
    """Every column of every result table: table, column, kind, unit, required, meaning."""
    path = Path(__file__).with_name("columns.csv")
    short = pd.read_csv(path, keep_default_na=False, dtype={"required": bool, "interval": bool})
    rows = [
        row | {"column": row["column"] + end, "meaning": prefix + row["meaning"]}
        for row in short.to_dict("records")
        for end, prefix in (ENDS.items() if row["interval"] else [("", "")])
    ]
    scores = [row | {"table": "scores_by_patient"} for row in rows if row["table"] == "scores"]
    return pd.DataFrame(rows + scores).drop(columns="interval")


def columns(name: str) -> list[str]:
    """The columns of a table, in order."""
    return _known(name).index.to_list()


def empty(name: str) -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=columns(name))


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its floats rounded as in a file."""
    numbers = table.select_dtypes(np.floating)
    texts = numbers.map(lambda value: f"{value:.{artifacts.DIGITS}g}")
    return table.assign(**texts.astype(float))


def write(folder: Path, name: str, table: pd.DataFrame) -> None:
    """Write `<name>.csv` into `folder`; ValueError if columns.csv does not describe it."""
    _check(name, table)
    artifacts.write_csv(folder / f"{name}.csv", table)


def read(folder: Path, name: str) -> pd.DataFrame:
    """The table `<name>.csv` of `folder`, missing text as empty strings. InputError if it does
    not match columns.csv.
    """
    path, kinds = folder / f"{name}.csv", _known(name)["kind"]
    types = defaultdict(lambda: str, kinds.map(TYPES))
    gaps = {column: [""] for column in kinds.index[kinds == "number"]}
    try:
        table = pd.read_csv(
            path, dtype=types, keep_default_na=False, na_values=gaps, encoding="utf-8-sig"
        )
        _check(name, table)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"{path} cannot be read ({reason}); run the notebook again.") from None
    return table


def _known(name: str) -> pd.DataFrame:
    return dictionary()[dictionary()["table"] == name].set_index("column")


def _check(name: str, table: pd.DataFrame) -> None:
    """ValueError if a table lacks a required column or has an unknown one."""
    known = _known(name)
    for column in known.index[known["required"]].difference(table.columns):
        raise ValueError(f"the table {name} has no column {column}")
    for column in table.columns.difference(known.index) if name not in OPEN else ():
        raise ValueError(f"the table {name} has an unknown column {column}")
