"""A data folder -> the images table: class folders, images.csv, boxes.csv."""

import contextlib
import csv
import functools
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from fracture_utils import artifacts
from fracture_utils.config import CLASS_NAMES, LAYOUT, SPLITS, Config, InputError, may_be_image
from fracture_utils.data import duplicates, reader, splits

COLUMNS = ["path", "label", "split", "group", "width", "height", "bit_depth", "sha256"]
BOX_COLUMNS = ["path", "xmin", "ymin", "xmax", "ymax"]
FACTS: dict[str, Any] = {"width": 0, "height": 0, "bit_depth": 0, "file_bytes": 0, "sha256": ""}
FACTS |= {"patient": "", "rotated": False, "jpeg_quality": np.nan, "mean": np.nan, "border": np.nan}
CODE = ["data/reader.py", "data/dataset.py", "data/duplicates.py"]  # they determine the cache
WORDS = {  # class or split of a folder or cell, without case, spaces and punctuation
    **dict.fromkeys(["train", "training", "trainset", "trainingset"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "valset", "validationset"], "validation"),
    **dict.fromkeys(["test", "testing", "testset", "testingset"], "test"),
    **dict.fromkeys(["fractured", "fracture", "positive", "abnormal"], "fractured"),
    **dict.fromkeys(["normal", "negative", "healthy", "unfractured"], "normal"),
    **dict.fromkeys(["notfractured", "nonfractured", "nofracture"], "normal"),
}
ACCEPTED = ", ".join(word for word, meaning in WORDS.items() if meaning in CLASS_NAMES)
NUMBERS = {"1": "fractured", "1.0": "fractured", "0": "normal", "0.0": "normal"}
SUBGROUPS = ["body_part", "view", "laterality", "hardware", "cast", "age_group", "sex", "ethnicity"]
SUBGROUPS += ["device", "manufacturer", "site", "hospital"]
FACTS_OF_IMAGES = {name.replace("_", ""): name for name in [*splits.IDENTITIES, *SUBGROUPS]}
FACTS_OF_IMAGES |= {"patientid": "patient", "subject": "patient", "studyinstanceuid": "study"}
SYNONYMS = FACTS_OF_IMAGES | {name: name for name in [*BOX_COLUMNS, "label", "split", "class"]}
SYNONYMS |= {"filename": "path", "classname": "class", "categoryname": "class"}
COMPOSED = functools.partial(unicodedata.normalize, "NFC")  # macOS decomposes umlauts
SLACK = 5  # pixels by which a box may exceed its image: rounding of an annotation tool, clipped


class Dataset(NamedTuple):
    """The contents of a data folder."""

    folder: Path
    images: pd.DataFrame  # COLUMNS and the text columns of images.csv, sorted by path
    files: pd.DataFrame  # each file: path, label, split, reason (empty for an image), FACTS
    boxes: pd.DataFrame  # BOX_COLUMNS in pixels of the upright image; fractures only
    annotations: pd.DataFrame  # images.csv as text; the index counts its rows
    thumbnails: np.ndarray  # uint8 (images, SIDE, SIDE)
    duplicates: pd.DataFrame  # `duplicates.pairs` of the thumbnails
    other_boxes: pd.Series = pd.Series(dtype=int)  # number of boxes of each other class


def load(config: Config, sizes: Sequence[int] = (), external: bool = False) -> Dataset:
    """Read the data folder, and cache the pixels of its images at each of `sizes` (see `pixels`).

    Files are decoded only if one of them or a size is new. InputError if files have no class, a
    split lacks a class, or a table is wrong. In an external test, every image with a class
    belongs to the split test, and one class suffices.
    """
    folder = config.images_dir
    found = sorted(walk(folder, {config.results_dir, config.models_dir}))
    files = pd.DataFrame(found, columns=["path", "reason"], dtype=str)
    table, is_image = folder / "images.csv", files["reason"] == ""
    paths = files["path"][is_image]
    annotations = read_annotations(table, paths, ["split"] * external)
    files = files.join(assign(table, paths, annotations)).fillna("")
    has_labels, has_splits = "label" in annotations, "split" in annotations
    if external:
        files["split"] = np.where(files["label"] == "", "", "test")
    elif has_labels and not has_splits and set(files["split"]) <= {"", "train"}:
        files["split"] = ""  # `split_validation` draws them
    drawn = has_labels and not files["split"].any()
    lost = is_image & ((files["label"] == "") | (files["split"] == "") & (not drawn))
    if lost.any() and (lost.equals(is_image) or not (has_labels or external)):
        folders = files["path"][lost].str.rpartition("/")[0].value_counts(sort=False)
        counts = ", ".join(f"{name or '.'} ({count})" for name, count in folders[:8].items())
        what = f"{folder} holds {lost.sum()} files that no folder assigns to a class and a split"
        advice = f"Move them to {LAYOUT}, name path and label in images.csv, or run "
        advice += f"python -m fracture_utils import folders {folder} NEW_FOLDER."
        raise InputError(f"{what}: {counts}. {advice}")
    problem = "neither its folder nor images.csv names its class and split"
    files.loc[lost, ["reason", "label"]] = problem, ""
    candidates = files.loc[files["reason"] == "", "path"].to_list()
    facts, thumbnails, pairs = _scan(folder, candidates, config.cache_dir, sizes)
    records = [row | FACTS | facts.get(row["path"], {}) for row in files.to_dict("records")]
    files = pd.DataFrame(records, columns=[*COLUMNS[:3], "reason", *FACTS])
    for (label, split), part in files[files["label"] != ""].groupby(["label", "split"]):
        if part["reason"].all():
            path, reason = part[["path", "reason"]].iloc[0]
            raise InputError(f"{folder} has no readable {label} {split} image ({path}: {reason}).")
    boxes, other_boxes = read_boxes(folder / "boxes.csv", files[is_image])
    text = annotations[[n for n in annotations if n in ("path", "group") or n not in COLUMNS]]
    own = ["patient"] if files["patient"].any() else []  # from DICOM
    images = files.loc[files["reason"] == "", [*COLUMNS[:3], *COLUMNS[4:], *own]]
    images = images.merge(text, "left", "path", suffixes=("_of_file", "")).fillna("")
    images["group"] = splits.assign_groups(images, pairs, config.run_length)
    if splits.OF_FILE in images:
        images["patient"] = images["patient"].where(images["patient"] != "", images[splits.OF_FILE])
    if not external:
        images["split"] = splits.split_validation(images, config.seed, config.test_share)
    images = images[[*COLUMNS, *images.columns.difference([*COLUMNS, splits.OF_FILE], sort=False)]]
    return Dataset(folder, images, files, boxes, annotations, thumbnails, pairs, other_boxes)


def assign(path: Path, paths: pd.Series, table: pd.DataFrame, words: dict = WORDS) -> pd.DataFrame:
    """Columns label and split of the files at `paths`: from their folders or else the table at
    `path`, which may also move an image from train to validation.
    """
    folders = [meaning(name, words) for name in paths]
    folders = pd.DataFrame(folders, paths.index, ["label", "split"], dtype=str)
    cells = table.set_index("path").reindex(index=paths, columns=list(folders), fill_value="")
    cells.index = paths.index
    label = cells["label"].map(lambda cell: label_of(cell, words))
    label = folders["label"].mask(folders["label"] == "", label)
    wrong = table["path"].isin(paths[(label == "") & (cells["label"] != "")])
    _refuse(path, wrong, f"the label is not one of {ACCEPTED}; correct it or leave it empty")
    split = cells["split"].mask(cells["split"] == "", folders["split"])
    other = (folders["split"] != "") & (split != folders["split"])
    wrong = paths[other & ((folders["split"] != "train") | (split != "validation"))]
    wrong = table["path"].isin(wrong)
    _refuse(path, wrong, "the split differs from that of the folder; correct one of them")
    return pd.DataFrame({"label": label, "split": split})


def pixels(cache_dir: Path, size: int) -> tuple[np.ndarray, dict[str, int]]:
    """The cached pixels: uint8 (rows, size, size), memory-mapped; and the row of each path."""
    file = cache_dir / "pixels" / f"{size}.npy"
    paths = artifacts.facts(file)["paths"]
    return np.load(file, mmap_mode="r"), {path: row for row, path in enumerate(paths)}


def summary(images: pd.DataFrame) -> pd.DataFrame:
    """Number of images by class (rows) and split (columns), with their sums."""
    counts = pd.crosstab(images["label"], images["split"], margins=True, margins_name="all")
    return counts.reindex(index=[*CLASS_NAMES, "all"], columns=[*SPLITS, "all"], fill_value=0)


def label_of(cell: str, words: dict = WORDS) -> str:
    """The class that a cell of a table names; empty if none."""
    word = words.get(plain(cell.removesuffix(".0"))) or NUMBERS.get(cell, "")
    return word if word in CLASS_NAMES else ""


def meaning(path: str, words: dict = WORDS) -> tuple[str, str]:
    """The class and the split that the folders of `path` name, each empty if none does."""
    found = {words.get(plain(name)) for name in path.split("/")[:-1]}
    labels, names = found & {*CLASS_NAMES}, found & {*SPLITS}
    if len(labels) > 1 or len(names) > 1:
        raise InputError(f"The folders of {path} contradict each other; rename or move them.")
    return "".join(labels), "".join(names)


def walk(folder: Path, apart: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Each file below `folder`, except in folders `apart`, and why it is not an image, or ""."""
    errors: list[OSError] = []
    skipped = {os.path.realpath(path) for path in apart}
    for parent, folders, names in os.walk(folder, onerror=errors.append, followlinks=True):
        above = os.path.realpath(parent) + os.sep
        for name in list(folders):
            real = os.path.realpath(Path(parent, name))
            endless = above.startswith(real + os.sep)  # a link to a folder above
            if not may_be_image(Path(name, "image")) or real in skipped or endless:
                folders.remove(name)
        for file in (Path(parent, name) for name in names):
            inside = file.relative_to(folder)
            path = inside.as_posix().encode("utf-8", "backslashreplace").decode()
            if path != inside.as_posix():
                yield path, "its name is not valid UTF-8"
            elif not file.is_file():
                yield path, "it cannot be opened"
            else:
                yield path, "" if may_be_image(inside) and reader.is_image(file) else "not an image"
    for error in errors:
        yield os.path.relpath(error.filename, folder), f"it cannot be read ({error.strerror})"


def read_annotations(path: Path, paths: pd.Series, without: Sequence[str] = ()) -> pd.DataFrame:
    """images.csv as text, for the files at `paths`."""
    table = read_table(path, ["path"], paths).drop(columns=without, errors="ignore")
    _refuse(path, table["path"].duplicated(), "the path repeats; keep one row per image")
    if "split" in table:
        table["split"] = table["split"].map(lambda cell: WORDS.get(plain(cell), cell))
        wrong = ~table["split"].isin([*SPLITS, ""])
        _refuse(path, wrong, "the split is not train, validation or test; correct it")
    return table


def read_boxes(path: Path, files: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Fractures of boxes.csv in pixels of the `files`, clipped to them; counts of other classes."""
    table, others = read_table(path, BOX_COLUMNS, files["path"]), pd.Series(dtype=int)
    for column in [name for name in ("class", "label") if name in table][:1]:
        numbered = {*table[column]} <= {*NUMBERS}  # else 1 is the number of any class
        words = table[column] if numbered else table[column].replace([*NUMBERS], "")
        fractured = words.map(label_of) == "fractured"
        _refuse(path, ~fractured & ~fractured.any(), f"no row has the {column} fracture")
        table, others = table[fractured], table[column][~fractured].value_counts()
    corners = table[BOX_COLUMNS[1:]].replace(",", ".", regex=True)
    corners = corners.apply(pd.to_numeric, errors="coerce").astype(float)
    sides = files.set_index("path")[["width", "height"]].reindex(table["path"]).to_numpy(float)
    sides = np.tile(np.where(sides > 0, sides, np.inf), 2)  # of a file that cannot be read
    clipped = corners.clip(0, sides)
    right = ((clipped - corners).abs() <= SLACK).all(axis=1) & (corners.abs() > 1).any(axis=1)
    right &= (clipped["xmin"] < clipped["xmax"]) & (clipped["ymin"] < clipped["ymax"])
    _refuse(path, ~right, "the box is empty, not in pixels, or outside its image; correct it")
    return table[["path"]].join(clipped).reset_index(drop=True), others


def read_table(path: Path, columns: list[str], paths: pd.Series) -> pd.DataFrame:
    """A table about `paths` as text, with the documented column names and full paths."""
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=str)
    table = read_spreadsheet(path, SYNONYMS)
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} has no column {', '.join(missing)}; name it in the first row.")
    bare = paths.str.rpartition("/")[2]
    names = pd.concat([bare[~bare.duplicated(keep=False)], paths])
    known = dict(zip(names.map(COMPOSED), paths[names.index], strict=True))
    cells = table["path"].str.replace("\\", "/").str.removeprefix("./")
    table = table.assign(path=cells.map(lambda cell: known.get(COMPOSED(cell), cell)))
    exists, given, real = table["path"].isin(paths), "".join(cells[:1]), "".join(paths[:1])
    _refuse(path, ~exists & ~exists.any(), f"no image has the path {given}; one has {real}")
    return table


def read_spreadsheet(path: Path, names: dict | None = None) -> pd.DataFrame:
    """A CSV file from a spreadsheet, as text, in UTF-8 or UTF-16. The index counts the rows;
    empty ones are left out. `names` renames columns by their `plain` name. Placeholder
    identities become empty.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        named = re.match(r'(?i)"?sep=(.).*\n', text)  # a line that Excel writes and does not show
        text = text[named.end() :] if named else text
        first = text.splitlines()[0]
        delimiter = named[1] if named else max(",;\t", key=first.count)
        width = len(next(csv.reader([first], delimiter=delimiter)))
        options = {"names": range(width + 1), "header": None, "dtype": str}
        options |= {"keep_default_na": False, "skip_blank_lines": False}
        cells = pd.read_csv(io.StringIO(text), sep=delimiter, **options)
    except (OSError, ValueError, IndexError) as error:
        problem = f"{path} is not a table ({str(error).strip()})"
        raise InputError(f"{problem}; save it as CSV in UTF-8.") from None
    cells = cells.fillna("").apply(lambda column: column.str.strip())
    written, cells = cells.iloc[0], cells[1:].reset_index(drop=True)
    _refuse(path, cells.iloc[:, -1] != "", "more cells than column names")
    header = written[written != ""].map(lambda name: (names or {}).get(plain(name), name))
    for name in header[header.duplicated()]:
        columns = ", ".join(written[header.index][header == name])
        raise InputError(f"{path} has more than one column {name} ({columns}); keep one of them.")
    table = cells.loc[(cells != "").any(axis=1), header.index].set_axis(header.array, axis=1)
    for column in {*splits.IDENTITIES}.intersection(table):
        table[column] = table[column].mask(table[column].str.fullmatch(reader.NO_PATIENT), "")
    return table


def _refuse(path: Path, wrong: pd.Series, problem: str) -> None:
    if wrong.any():
        raise InputError(f"{path}, row {wrong.idxmax() + 2}: {problem} ({wrong.sum()} rows).")


def plain(text: str) -> str:
    """A word without case, spaces and punctuation."""
    return re.sub(r"[\W_]", "", COMPOSED(text).casefold())


def _scan(folder: Path, paths: list[str], cache_dir: Path, sizes: Sequence[int]) -> tuple:
    """Facts of each path (or a reason), thumbnails of the readable images, and their duplicates."""
    stamps = [(s.st_size, s.st_mtime_ns) for s in ((folder / path).stat() for path in paths)]
    key = artifacts.key(CODE, [*reader.LIBRARIES, "scikit-learn"], paths=paths, stamps=stamps)
    store = cache_dir / "thumbnails.npy"
    sides = {store: duplicates.SIDE} | {cache_dir / f"pixels/{size}.npy": size for size in sizes}

    def decode(path: str) -> tuple[dict, list[Any]]:
        try:
            image, facts = reader.load(folder / path)
        except reader.ReadError as error:
            return {"reason": error.reason}, [np.zeros((s, s), np.uint8) for s in sides.values()]
        small = Image.fromarray(image).resize((duplicates.SIDE,) * 2, Image.Resampling.BILINEAR)
        depth = max(1, min(image.shape) // 50)
        rim = [image[:depth], image[-depth:], image[:, :depth], image[:, -depth:]]
        border = float(np.median(np.concatenate([part.ravel() for part in rim])))
        facts |= {"mean": round(float(image.mean()), 2), "border": border}
        return facts, [small, *(reader.fit(image, size) for size in sizes)]

    if not all(artifacts.is_valid(file, key) for file in sides):
        records, outputs = {}, []
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
            for file, side in sides.items():
                temporary = stack.enter_context(artifacts.replacing(file))
                outputs.append(stack.enter_context(temporary.open("wb")))
                shape = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), side, side)}
                np.lib.format.write_array_header_1_0(outputs[-1], shape)
            parts = (paths[start : start + 64] for start in range(0, len(paths), 64))  # in memory
            decoded = chain.from_iterable(pool.map(decode, part) for part in parts)
            bar = tqdm(decoded, "Reading images", len(paths), delay=3, mininterval=1)
            for path, (facts, squares) in zip(paths, bar, strict=True):
                records[path] = facts
                for output, square in zip(outputs, squares, strict=True):
                    output.write(square.tobytes())
        readable = ["reason" not in facts for facts in records.values()]
        pairs = duplicates.pairs(np.load(store)[readable]).to_dict("records")
        for file in [*sides][1:]:
            artifacts.seal(file, key, paths=paths)
        artifacts.seal(store, key, files=records, duplicates=pairs)
    facts = artifacts.facts(store)
    readable = ["reason" not in facts["files"][path] for path in paths]
    pairs = pd.DataFrame(facts["duplicates"], columns=duplicates.COLUMNS)
    return facts["files"], np.load(store)[readable], pairs
