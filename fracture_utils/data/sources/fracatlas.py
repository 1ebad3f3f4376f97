"""FracAtlas: hands, legs, hips and shoulders, with the boxes of their fractures."""

import json
import re
from pathlib import Path

import pandas as pd

from fracture_utils import download
from fracture_utils.data import folders
from fracture_utils.data.sources import published
from fracture_utils.errors import InputError

RECORD = "https://api.figshare.com/v2/articles/22363012"
"""Figshare's record of the data set: it names the archive, its address and its MD5."""
TEST_NUMBERS = (3297, 3732)
"""The numbers of the published test list; neighbours are often views of one patient."""
NEIGHBOURS = 25
"""Pictures in a row that stay in one part of train, because no table names the patients."""


def _download(store: Path) -> Path:
    record = download.fetch(RECORD, store / "figshare.json")
    try:
        described = json.loads(record.read_text(encoding="utf-8"))["files"]
        archive = next(entry for entry in described if entry["name"].endswith(".zip"))
        address, md5 = archive["download_url"], archive["computed_md5"]
    except (ValueError, KeyError, TypeError, StopIteration):
        raise InputError(f"{RECORD} names no archive; fetch FracAtlas.zip by hand.") from None
    finally:
        record.unlink(missing_ok=True)
    return download.fetch(address, store.with_name(".downloaded") / "FracAtlas.zip", md5=md5)


def read(upstream: published.Upstream) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts, views = ["hand", "leg", "hip", "shoulder"], ["frontal", "lateral", "oblique"]
    needed = ["image_id", *parts, *views, "mixed", "hardware", "multiscan", "fractured"]
    known = upstream.table("dataset.csv", needed)
    rows, places = [], {}
    for file in upstream.pictures:
        if file.name not in known.index or file.parent.parent.name != "images":
            outside = file.name in known.index
            upstream.leave(file, "outside images" if outside else published.UNLISTED)
            continue
        facts = known.loc[file.name]
        number = int(re.sub(r"\D", "", file.stem) or 0)
        split = "test" if TEST_NUMBERS[0] <= number <= TEST_NUMBERS[1] else "train"
        label = "fractured" if facts["fractured"] == "1" else "normal"
        shown = [part for part in parts if facts[part] == "1"]
        places[file.name] = f"{split}/{label}/{file.name}"
        said = folders.label_word(file.parent.name) or label  # the audit compares it with the path
        rows.append({"file": file, "path": places[file.name], "label": said, "split": split,
                     "body_part": "+".join(shown),
                     "view": "+".join(view for view in views if facts[view] == "1"),
                     "hardware": facts["hardware"], "multiscan": facts["multiscan"],
                     "mixed": facts["mixed"]})  # fmt: skip
    upstream.miss(known.index.difference(list(places)))
    return pd.DataFrame(rows), _coco(upstream, places)


def _coco(upstream: published.Upstream, places: dict[str, str]) -> pd.DataFrame:
    path = upstream.one("COCO_fracture_masks.json")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["file_name"] for entry in described["images"]}
        marks = [
            (names[mark["image_id"]], *map(float, mark["bbox"]))
            for mark in described["annotations"]
        ]
        return published.boxes([(places[name], x, y, x + width, y + height)
                       for name, x, y, width, height in marks if name in places])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no COCO annotation ({error}).") from None


SOURCE = published.Source(
    "FracAtlas", "fractured", "CC BY 4.0",
    "I. Abedeen, M. A. Rahman, F. Z. Prottyasha, T. Ahmed, T. M. Chowdhury, S. Shatabda, "
    "FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of "
    "Musculoskeletal Radiographs, Scientific Data 10 (2023), doi:10.1038/s41597-023-02432-4.",
    read,
    _download,
    NEIGHBOURS,
)  # fmt: skip
