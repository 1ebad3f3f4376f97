"""The training curves as event files of TensorBoard, whose writer needs no TensorFlow here."""

import importlib.util
import time
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from fracture_utils import files
from fracture_utils.errors import InputError

NAME = "events.out.tfevents.fracture"
"""Of each event file; a word that TensorBoard looks for is in it."""
RUNS = {
    "train": {"loss": "loss", "auc": "auc", "learning_rate": "learning_rate", "seconds": "seconds"},
    "validation": {"val_loss": "loss", "val_auc": "auc"},
}
"""By run: the columns of the history table, and their names in TensorBoard."""


def check(folder: Path | None) -> None:
    """InputError where a folder is named and the package tensorboard is missing."""
    if folder and importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "FRACTURE_TENSORBOARD asks for event files, which need tensorboard: "
            'pip install -e ".[tensorboard]", or unset it.'
        )


def write(history: pd.DataFrame, folder: Path) -> list[Path]:
    """Write <folder>/<model>/{train,validation}/NAME for each network of a history table.

    The tags are <stage>/<column> (head/loss and the like), equal ones side by side in TensorBoard;
    the step is the epoch, the wall time that at which the network would have ended now. Files of
    networks that are not in the table stay. NaN is left out.
    """
    check(folder)
    written = []
    for model, rows in history.groupby("model", sort=False):
        times = time.time() - rows["seconds"][::-1].fillna(0).cumsum()[::-1] + rows["seconds"]
        for run, columns in RUNS.items():
            path = folder / str(model) / run / NAME
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                _write(file, rows, times, columns)
            written.append(path)
    return written


def _write(file: BinaryIO, rows: pd.DataFrame, times: pd.Series, columns: dict[str, str]) -> None:
    """Those of the columns that are numbers, epoch by epoch, each at its wall time."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    writer = RecordWriter(file)
    writer.write(Event(file_version="brain.Event:2", wall_time=time.time()).SerializeToString())
    for row, moment in zip(rows.to_dict("records"), times.fillna(time.time()), strict=True):
        for column, name in columns.items():
            if pd.notna(value := row.get(column)):
                shown = Summary.Value(tag=f"{row['stage']}/{name}", simple_value=value)
                event = Event(wall_time=moment, step=row["epoch"], summary=Summary(value=[shown]))
                writer.write(event.SerializeToString())
