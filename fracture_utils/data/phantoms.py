"""Phantoms: synthetic radiographs of limbs, the data set that needs no download.

`anatomy` draws a patient: a skeleton of bent, flared tubes in three dimensions. `radiography`
makes a view of it: turns it about the long axis and exposes a detector behind it. A fracture is a
surface through one tube, whose fragments are drawn apart, shifted and bent. Growth plates,
nutrient canals, overlapping bones, skin folds, casts, markers, framing and exposure are drawn
from the same distribution in both classes.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock
from PIL import Image, PngImagePlugin

from fracture_utils import files
from fracture_utils.data.anatomy import Patient, draw_patients
from fracture_utils.data.radiography import box_around, render
from fracture_utils.errors import InputError

NAME = "fracture-detection phantoms"
GENERATOR = f"{NAME} 1"
"""Written into every picture and the stamp; the number rises when the pictures change."""
SYNTHETIC = (
    "Synthetic phantoms: computed pictures, no patients; no result on them holds for patients."
)

STAMP = "phantoms.json"
SIDECARS = {STAMP, "images.csv", "boxes.csv"}


def make(directory: Path, pictures: int, size: int, seed: int) -> None:
    """Leave exactly this set of phantoms in `directory`, doing only what is still missing.

    Pictures: `{train,test}/{fractured,normal}/patientNNNNN_viewN.png`, 8-bit grey. `images.csv`
    has path, label, split, patient, body_part, view, age, cast, fracture (its kind or empty)
    and visibility (root of the energy of its change in the line integrals, in mm; empty where
    there is none); `boxes.csv` has path, xmin, ymin, xmax, ymax in pixels, maxima excluded.
    `phantoms.json` says what the set is, and last of all that it is complete. A set of other
    settings is replaced. Every picture carries the generator's name as PNG text; InputError
    where the folder holds a file that the generator did not write.
    """
    directory = Path(directory)
    stamp = {
        "generator": GENERATOR,
        "pictures": pictures,
        "size": size,
        "seed": seed,
        "statement": SYNTHETIC,
    }
    patients = list(draw_patients(pictures, seed))
    paths = {_path(patient, view) for patient in patients for view in range(patient.views)}
    if _is_complete(directory, stamp, paths):
        return
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        if _is_complete(directory, stamp, paths):
            return
        _clear(directory, paths, f"{GENERATOR} {seed} {size}")
        files.write_json(directory / STAMP, stamp | {"complete": False})
        pool = ThreadPoolExecutor(os.cpu_count())
        jobs = [
            pool.submit(_make_one, directory, patient, view, size, seed)
            for patient in patients
            for view in range(patient.views)
        ]
        try:
            rows = [job.result() for job in jobs]
        finally:
            pool.shutdown(cancel_futures=True)
        boxes = [{"path": row["path"], **row.pop("box")} for row in rows if "box" in row]
        for name, table in (("images.csv", rows), ("boxes.csv", boxes)):
            files.write_table(directory / name, pd.DataFrame(table).sort_values("path"))
        files.write_json(directory / STAMP, stamp | {"complete": True})


def _path(patient: Patient, view: int) -> str:
    label = "fractured" if patient.fracture else "normal"
    return f"{patient.split}/{label}/patient{patient.index:05d}_view{view + 1}.png"


def _make_one(directory: Path, patient: Patient, view: int, size: int, seed: int) -> dict:
    """Write one picture where it is missing; its row for images.csv, with the box if it has one."""
    path = _path(patient, view)
    picture, change = render(patient, view, size, seed)
    if not (directory / path).exists():
        text = PngImagePlugin.PngInfo()
        text.add_text("Software", f"{GENERATOR} {seed} {size}")
        text.add_text("Title", Path(path).name)
        text.add_text("Comment", SYNTHETIC)
        with files.replacing(directory / path) as temporary:
            Image.fromarray(picture).save(temporary, pnginfo=text, compress_level=4)
    row = {
        "path": path,
        "label": path.split("/")[1],
        "split": patient.split,
        "patient": f"patient{patient.index:05d}",
        "body_part": patient.body_part,
        "view": patient.limb.views[view],
        "age": patient.age,
        "cast": int(patient.cast),
        "fracture": patient.fracture.kind if patient.fracture else "",
    }
    if patient.fracture:
        row["box"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), box_around(change), strict=True))
        row["visibility"] = round(float(np.sqrt(np.square(change).sum())), 3)
    return row


def _is_complete(directory: Path, stamp: dict, paths: set[str]) -> bool:
    names = {path.relative_to(directory).as_posix() for path in _visible_files(directory)}
    return _read_stamp(directory) == stamp | {"complete": True} and names == paths | SIDECARS


def _read_stamp(directory: Path) -> dict:
    try:
        stamp = json.loads((directory / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _visible_files(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _clear(directory: Path, paths: set[str], author: str) -> None:
    """Remove what the generator wrote for other settings; refuse where anything else is there."""
    stamped = str(_read_stamp(directory).get("generator")).startswith(NAME)
    outdated = []
    for path in _visible_files(directory):
        name = path.relative_to(directory).as_posix()
        is_sidecar = name in SIDECARS
        found = _author(path)
        if not (stamped if is_sidecar else found.startswith(NAME)):
            raise InputError(
                f"{path} was not written by the phantom generator, which needs the folder "
                f"{directory} for itself. Move the file elsewhere."
            )
        if not is_sidecar and (found != author or name not in paths):
            outdated.append(path)
    for path in outdated:
        path.unlink()
    for path in directory.rglob(f"{files.TEMPORARY_PREFIX}*"):
        path.unlink()


def _author(path: Path) -> str:
    """What a phantom says of its origin in its PNG text; empty for any other file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            return picture.info["Software"] if picture.info["Title"] == path.name else ""
    except (OSError, ValueError, SyntaxError, KeyError):
        return ""
