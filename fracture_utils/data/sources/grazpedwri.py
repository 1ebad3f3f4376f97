"""GRAZPEDWRI-DX: wrists of children, with the boxes of their fractures."""

from pathlib import Path
from xml.etree import ElementTree

import pandas as pd

from fracture_utils.data import groups
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError


def read(upstream: published.Upstream) -> tuple[pd.DataFrame, pd.DataFrame]:
    needed = ["filestem", "patient_id", "study_number", "projection", "laterality",
              "fracture_visible", "metal", "cast"]  # fmt: skip
    known = upstream.table("dataset.csv", needed)
    is_set = {"1", "1.0", "True", "true"}
    rows, boxes = [], []
    marks = upstream.ending(".xml")
    for file in upstream.pictures:
        if file.stem not in known.index:
            upstream.leave(file, published.UNLISTED)
            continue
        facts = known.loc[file.stem]
        patient = facts["patient_id"]
        split = "test" if groups.draw(patient) < published.TEST_SHARE else "train"
        label = "fractured" if facts["fracture_visible"] in is_set else "normal"
        path = f"{split}/{label}/{file.name}"
        view = {"1": "frontal", "2": "lateral", "3": "oblique"}.get(facts["projection"][:1], "")
        rows.append({"file": file, "path": path, "label": label, "split": split,
                     "patient": patient, "study": f"{patient}_{facts['study_number']}",
                     "body_part": "wrist", "view": view, "side": facts["laterality"],
                     "hardware": str(int(facts["metal"] in is_set)),
                     "cast": str(int(facts["cast"] in is_set))})  # fmt: skip
        if label == "fractured" and file.stem in marks:
            boxes += [(path, *box) for box in _pascal(marks[file.stem])]
    upstream.miss(known.index.difference([file.stem for file in upstream.pictures]))
    return pd.DataFrame(rows), published.boxes(boxes)


def _pascal(path: Path) -> list[tuple[float, ...]]:
    try:
        marks = ElementTree.parse(path).getroot().iter("object")
        found = [mark for mark in marks if mark.findtext("name") == "fracture"]
        sides = [f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
        return [tuple(float(mark.findtext(side, "")) for side in sides) for mark in found]
    except (OSError, ValueError, TypeError, AttributeError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is no Pascal VOC annotation ({error}).") from None


SOURCE = published.Source(
    "GRAZPEDWRI-DX", "fractured", "CC BY 4.0",
    "E. Nagy, M. Janisch, F. Hrzic, E. Sorantin, S. Tschauner, A pediatric wrist trauma X-ray "
    "dataset (GRAZPEDWRI-DX) for machine learning, Scientific Data 9 (2022) 222, "
    "doi:10.1038/s41597-022-01328-z.",
    read,
)  # fmt: skip
