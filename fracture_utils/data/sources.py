"""Importers: a published data set -> {train,test}/{fractured,normal}, images.csv, boxes.csv.

Images are linked, or copied where they cannot be. A second call continues an interrupted one.
"""

import filecmp
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePath

import pandas as pd
from tqdm.auto import tqdm

from fracture_utils import artifacts
from fracture_utils.config import CLASS_NAMES, InputError, is_hidden
from fracture_utils.data import dataset

FRACATLAS_TEST = range(3297, 3733)  # of the published test list; neighbors often show one patient
MAX_BYTES = 2 * 2**30  # of a file in an archive
TABLES = (".csv", ".json")
Files = dict[str, Path]
Rows = tuple[list[dict[str, str]], pd.DataFrame]


def bring(
    name: str, source: Path, destination: Path, words: dict | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Import the data set `name` from a folder or zip archive. For the source `folders`, `words`
    ({word: class}) are additional names of classes. Returns the new images.csv, and path and
    reason of each file that was not imported and of each missing image.
    """
    if name not in SOURCES:
        raise InputError(f"There is no source {name!r}; choose from {', '.join(SOURCES)}.")
    (read, facts), source, destination = SOURCES[name], Path(source), Path(destination)
    named = ((word.removesuffix(".0"), label) for word, label in (words or {}).items())
    words = dataset.WORDS | {dataset.plain(word) or word: label for word, label in named}
    file = destination / "source.json"
    title = artifacts.read_json(file).get("title") if file.is_file() else ""
    inside = dict(dataset.walk(destination, ())) if destination.exists() else {}
    if title != facts["title"] and not all(is_hidden(PurePath(path)) for path in inside):
        raise InputError(f"{destination} already contains other files; choose an empty folder.")
    if not source.exists():
        raise InputError(f"There is no file or folder {source}; correct the name.")
    unpacked = destination / ".unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    if source.is_file():
        try:
            with zipfile.ZipFile(source) as archive:  # corrects paths that lead outside the folder
                if max(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise InputError(f"a file in it declares more than {MAX_BYTES:,} bytes")
                archive.extractall(unpacked)
        except Exception as error:  # zipfile and zlib raise many kinds of errors
            shutil.rmtree(unpacked, ignore_errors=True)
            problem = f"is not a valid zip archive ({error}); download it again"
            raise InputError(f"{source} {problem}.") from None
        source = unpacked
    reasons = dict(dataset.walk(source, {destination}))
    files = {path: source / path for path, reason in reasons.items() if not reason}
    others = {path: source / path for path, reason in reasons.items() if reason}
    rows, boxes = read(files, others, words)
    images = pd.DataFrame(rows, columns=None if rows else ["name", "path"]).fillna("")
    found = images["name"].isin(files)
    reasons = {p: reasons[p] for p in others if PurePath(p).suffix.lower() not in TABLES}
    reasons |= dict.fromkeys(set(files) - set(images["name"]), "no class, or not in the table")
    reasons |= dict.fromkeys(images["path"][~found], "named in a table, but missing")
    images = images[found].sort_values("path", ignore_index=True)
    if images.empty or (twice := images["path"].duplicated()).any():
        problem = "no images" if images.empty else f"two images {images['path'][twice].iloc[0]}"
        raise InputError(f"Read as {facts['title']}, {source} holds {problem}.")
    if old := sorted({path for path in inside if not inside[path]} - {*images["path"]}):
        example = f"such as {old[0]}"
        raise InputError(f"{destination} has {len(old)} more images, {example}; remove them.")
    artifacts.write_json(file, facts | {"name": name, "images": len(images)})
    attribution = "{title}\n{license}\n\n{attribution}\n".format(**facts)
    artifacts.write_text(destination / "ATTRIBUTION.txt", attribution)
    paths = dict(zip(images.pop("name"), images["path"], strict=True))
    for name, path in tqdm(paths.items(), "Importing images", delay=3, mininterval=1):
        file, target = files[name], destination / path
        if not target.exists() or not filecmp.cmp(file, target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), target)
            except OSError:  # another file system, or one without links, or another image is there
                with artifacts.replacing(target) as temporary:
                    shutil.copyfile(file, temporary)
    artifacts.write_csv(destination / "images.csv", images)
    boxes = boxes.assign(path=boxes["path"].map(paths)).dropna(subset="path")
    artifacts.write_csv(destination / "boxes.csv", boxes)
    shutil.rmtree(unpacked, ignore_errors=True)
    return images, pd.DataFrame(sorted(reasons.items()), columns=["path", "reason"])


def _mura(images: Files, *_: object) -> Rows:
    pattern = r"(?:.*/)?(\w+)/XR_(\w+)/(patient\d+)/(study\d+)_(positive|negative)/([^/]+)"
    rows = []
    for match in filter(None, (re.fullmatch(pattern, name) for name in images)):
        group, part, patient, study, finding, file = match.groups()
        split, label = "train" if group == "train" else "test", dataset.label_of(finding)
        study = f"{patient}_{part.lower()}_{study}"
        rows.append({"name": match[0], "path": f"{split}/{label}/{study}_{file}", "label": label,
                     "split": split, "patient": patient, "study": study,
                     "body_part": part.lower()})  # fmt: skip
    return rows, pd.DataFrame(columns=dataset.BOX_COLUMNS)


def _fracatlas(images: Files, others: Files, _: object) -> Rows:
    parts, views = ["hand", "leg", "hip", "shoulder"], ["frontal", "lateral", "oblique"]
    names = {PurePath(name).name: name for name in images if "images" in PurePath(name).parts}
    tables = {path.name: path for path in others.values()}
    rows = []
    try:
        for row in dataset.read_spreadsheet(tables["dataset.csv"]).to_dict("records"):
            file, name = row["image_id"], names.get(row["image_id"], "")
            number = int(re.sub(r"\D", "", PurePath(file).stem) or 0)
            split = "test" if number in FRACATLAS_TEST else "train"
            label = dataset.label_of(row["fractured"])
            folder = dataset.label_of(PurePath(name).parent.name)  # the audit compares both
            part = "+".join(part for part in parts if row[part] == "1")
            view = "+".join(view for view in views if row[view] == "1")
            facts = {fact: row[fact] for fact in ("hardware", "multiscan", "mixed")}
            rows.append({"name": name, "path": f"{split}/{label}/{file}", "label": folder or label,
                         "split": split, "body_part": part, "view": view} | facts)  # fmt: skip
        coco = json.loads(tables["COCO_fracture_masks.json"].read_text(encoding="utf-8"))
        files = {entry["id"]: names.get(entry["file_name"]) for entry in coco["images"]}
        marks = [[files[m["image_id"]], *map(float, m["bbox"])] for m in coco["annotations"]]
        boxes = pd.DataFrame(marks, columns=dataset.BOX_COLUMNS)
        boxes[["xmax", "ymax"]] += boxes[["xmin", "ymin"]].to_numpy()  # they hold width and height
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"FracAtlas lacks a table or column ({error!r}); download it.") from None
    return rows, boxes


def _folders(images: Files, others: Files, classes: dict) -> Rows:
    """Class folders and the user's tables; the validation set replaces a missing test set."""
    tables = ("images.csv", "boxes.csv")
    found = [[name for name in others if PurePath(name).name == own] for own in tables]
    for first, second, *_ in (names for names in found if len(names) > 1):
        raise InputError(f"There are {first} and {second}; only one is read, so join them.")
    first = "".join(found[0] or found[1])
    top = first[: first.rfind("/") + 1]
    table, marks = (others.get("".join(name), Path(os.devnull, "none")) for name in found)
    names = {name.removeprefix(top): name for name in images}
    inside = pd.Series(list(names), dtype=str)
    annotations = dataset.read_annotations(table, inside)
    words = dataset.assign(table, inside, annotations, classes)
    for label in sorted({*CLASS_NAMES} - {*words["label"]}):
        what = f"There are no {label} images: folders, or labels in images.csv, may be named"
        own = "or as given by --fractured NAME --normal NAME"
        raise InputError(f"{what} {dataset.ACCEPTED}, {own}.")
    if words["split"].any():
        words["split"] = words["split"].replace("", "train")
    if "test" not in set(words["split"]):
        words["split"] = words["split"].replace("validation", "test")
    cells = annotations.set_index("path").to_dict("index")
    rows: list[dict[str, str]] = [{"name": "", "path": path} for path in set(cells) - set(names)]
    for path, label, split in zip(names, words["label"], words["split"], strict=True):
        if label:
            *folders, file = names[path].split("/")
            folders = [name for name in folders if not any(dataset.meaning(f"{name}/", classes))]
            target = PurePath(split, label, *folders, file).as_posix()
            own = cells.get(path, {})  # the audit compares its label with the folder
            label = dataset.label_of(own.get("label", ""), classes) or own.get("label") or label
            row = {"name": names[path], "path": target, "label": label, "split": split}
            rows.append(row | own | row)
    boxes = dataset.read_table(marks, dataset.BOX_COLUMNS, inside)
    for column in {"class", "label"} & {*boxes}:
        boxes[column] = boxes[column].map(lambda cell: dataset.label_of(cell, classes) or cell)
    return rows, boxes.assign(path=boxes["path"].map(names))


SOURCES: dict[str, tuple[Callable[..., Rows], dict[str, str | int]]] = {
    "mura": (_mura, {
        "title": "MURA-v1.1",
        "license": "MURA Research Use Agreement of Stanford: no commercial use or redistribution.",
        "attribution": "P. Rajpurkar et al., MURA, 2018, arXiv:1712.06957.",
        "positive": "abnormal", "neighbors": 0,
    }),
    "fracatlas": (_fracatlas, {
        "title": "FracAtlas",
        "license": "CC BY 4.0",
        "attribution": "I. Abedeen et al., FracAtlas, Scientific Data 10, 2023, "
                       "doi:10.1038/s41597-023-02432-4.",
        "positive": "fractured", "neighbors": 25,  # no table identifies the patients
    }),
    "folders": (_folders, {
        "title": "folders",
        "license": "As its publisher states; see the page it came from.",
        "attribution": "Images in folders by class. Add their author, title and address here.",
        "positive": "fractured", "neighbors": 0,
    }),
}  # fmt: skip
"""For each source: images, other files and words -> images.csv and boxes.csv; source.json."""
