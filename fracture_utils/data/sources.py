"""Bring published data sets into the layout {train,test}/{fractured,normal}.

    python -m fracture_utils import NAME SOURCE DESTINATION [--copy]

NAME is mura, fracatlas, grazpedwri or folders (Kaggle's folder sets). SOURCE is the folder or
archive as published; for fracatlas the word "download" fetches it. The pictures are linked, or
copied where they cannot be; images.csv, boxes.csv, source.json and ATTRIBUTION.txt are written
beside them. A second call continues where the first one stopped.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from fracture_utils import download, files
from fracture_utils.data import folders, groups, reader
from fracture_utils.errors import InputError

FRACATLAS = "https://api.figshare.com/v2/articles/22363012"
"""Figshare's record of the data set: it names the archive, its address and its MD5."""
FRACATLAS_TEST = (3297, 3732)
"""The numbers of the published test list; neighbours are often views of one patient."""
MAX_MEMBER_BYTES = 2 * 2**30
MAX_ARCHIVE_BYTES = 200 * 2**30
KEPT = (*reader.SUFFIXES, ".csv", ".json", ".xml", ".zip")
"""What is unpacked; the rest of an archive is of no use here."""
TEST_SHARE = 0.2
"""Of the patients, where a source has no test list of its own."""
Progress = Callable[[int, int], None]


class Source(NamedTuple):
    """A published data set. `positive` is its own word for the class that we file as fractured;
    `read` takes the folder and gives (pictures, boxes): pictures has file (where it lies), path
    (where it goes) and what else is known; boxes has path, xmin, ymin, xmax, ymax.
    """

    title: str
    positive: str
    licence: str
    attribution: str
    read: Callable[[Path], tuple[pd.DataFrame, pd.DataFrame]]


def bring(
    name: str,
    source: Path | str,
    destination: Path,
    copy: bool = False,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Bring the data set `name` from `source` to `destination`; returns its images.csv.

    Raises InputError with one sentence where the source is not laid out as published, an archive
    is unsafe, or the destination holds something else. Nothing in `source` is changed.
    """
    if name not in SOURCES:
        raise InputError(f"There is no source {name!r}; choose from {', '.join(SOURCES)}.")
    destination, kind = Path(destination), SOURCES[name]
    _check_destination(destination, kind)
    pictures, boxes = kind.read(_folder(name, source, destination))
    if pictures.empty:
        raise InputError(f"{source} holds no pictures laid out as {kind.title} is published.")
    if (twice := pictures["path"].duplicated()).any():
        raise InputError(f"{source} holds {pictures['path'][twice].iloc[0]} twice; remove one.")
    pictures = pictures.sort_values("path", ignore_index=True)
    description = kind._asdict() | {"name": name, "pictures": len(pictures)}
    del description["read"]
    files.write_json(destination / "source.json", description)
    files.write_text(
        destination / "ATTRIBUTION.txt", f"{kind.title}\n{kind.licence}\n\n{kind.attribution}\n"
    )
    for done, row in enumerate(pictures.itertuples(), start=1):
        _place(Path(row.file), destination / row.path, copy)
        progress(done, len(pictures))
    table = pictures.drop(columns="file")
    files.write_table(destination / "images.csv", table)
    files.write_table(destination / "boxes.csv", boxes[boxes["path"].isin(table["path"])])
    return table


def _check_destination(destination: Path, kind: Source) -> None:
    described = destination / "source.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(described.read_text(encoding="utf-8"))["title"] == kind.title:
            return
    theirs = (path.relative_to(destination) for path in _files(destination))
    if destination.is_file() or any(path.parts[0] != "phantoms" for path in theirs):
        raise InputError(f"{destination} holds something else; choose a new or empty folder.")


def _place(file: Path, target: Path, copy: bool) -> None:
    if target.exists() and target.stat().st_size == file.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if not copy:
        with contextlib.suppress(OSError):  # another file system, or one without links
            target.unlink(missing_ok=True)
            os.link(file.resolve(), target)
            return
    with files.replacing(target) as temporary:
        shutil.copyfile(file, temporary)


def _folder(name: str, source: Path | str, destination: Path) -> Path:
    """The folder with the source's files; archives are unpacked below the destination."""
    store = destination / ".unpacked"
    if name == "fracatlas" and str(source) == "download":
        source = _download(store)
    source = Path(source)
    if source.is_dir():
        archives = sorted(source.glob("*.zip"))
        for archive in archives:
            _unpack(archive, store / archive.stem)
        if not archives:
            return source
        for path in _files(source):
            if path.suffix != ".zip":
                _place(path, store / "folder" / path.relative_to(source), copy=False)
        return store
    if not source.is_file():
        raise InputError(f"There is no file or folder {source}; name the data set as published.")
    _unpack(source, store)
    for archive in [path for path in _files(store) if path.suffix == ".zip" and path != source]:
        _unpack(archive, archive.with_suffix(""))
    return store


def _download(store: Path) -> Path:
    record = download.fetch(FRACATLAS, store / "figshare.json")
    try:
        described = json.loads(record.read_text(encoding="utf-8"))["files"]
        archive = next(entry for entry in described if entry["name"].endswith(".zip"))
        address, md5 = archive["download_url"], archive["computed_md5"]
    except (ValueError, KeyError, TypeError, StopIteration):
        raise InputError(f"{FRACATLAS} names no archive; fetch FracAtlas.zip by hand.") from None
    finally:
        record.unlink(missing_ok=True)
    return download.fetch(address, store.with_name(".downloaded") / "FracAtlas.zip", md5=md5)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what is KEPT, after every member has been checked; members already there stay."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                members = [(m.filename, m.file_size, _zip_kind(m), m) for m in opened.infolist()]
                _unpack_members(folder, _checked(archive, members), opened.open)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as opened:
                members = ((m.name, m.size, _tar_kind(m), m) for m in opened)
                _unpack_members(folder, _checked(archive, members), opened.extractfile)
        else:
            raise InputError(f"{archive} is neither a folder nor a zip or tar archive.")
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile,
            tarfile.TarError) as error:  # fmt: skip
        raise InputError(f"{archive} cannot be unpacked ({error}). Fetch it again.") from None


def _zip_kind(member: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.is_dir():
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "link"


def _tar_kind(member: tarfile.TarInfo) -> str:
    return "file" if member.isreg() else "folder" if member.isdir() else "link"


def _checked(archive: Path, members: Iterable[tuple]) -> list[tuple]:
    """The members (name, size, kind, member), none of them hostile. Judged one by one, because
    a tar archive is read on the way, and by what they declare.
    """
    total, checked = 0, []
    for name, size, kind, member in members:
        total += size
        if re.search(r"^/|(^|/)\.\.(/|$)|[\\:\0]", name):
            problem = "leads out of its folder"
        elif kind == "link":
            problem = "is a link or a device"
        elif size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES:
            problem = f"is absurdly large ({size:,} bytes)"
        else:
            checked.append((name, size, kind, member))
            continue
        raise InputError(f"{archive} was not unpacked: its member {name!r} {problem}.")
    return checked


def _unpack_members(folder: Path, members: list[tuple], open_member: Callable) -> None:
    for name, size, kind, member in members:
        target = folder / name
        hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
        if kind == "folder" or hidden or target.suffix.lower() not in KEPT:
            continue
        if not target.exists() or target.stat().st_size != size:
            with files.replacing(target) as temporary, open_member(member) as stream:
                _copy_bytes(stream, temporary, size)


def _copy_bytes(stream: BinaryIO, target: Path, size: int) -> None:
    with target.open("wb") as file:
        while block := stream.read(2**20):
            size -= len(block)
            if size < 0:
                raise ValueError("a member is larger than it declares")
            file.write(block)


def _files(folder: Path) -> Iterator[Path]:
    """Every file below `folder`, through links too, but nothing hidden."""
    for path, reason in folders.walk(folder):
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if not reason and not hidden:
            yield path


def _pictures(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.suffix.lower() in reader.SUFFIXES]


def _frame(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=None if rows else ["file", "path", "label", "split"])
    return table.fillna("")


def _boxes(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "xmin", "ymin", "xmax", "ymax"])


def _one(folder: Path, name: str) -> Path:
    found = [path for path in _files(folder) if path.name == name]
    if len(found) != 1:
        raise InputError(f"{folder} should hold one {name}, but holds {len(found)}.")
    return found[0]


def _csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """The published table, by its first needed column, which names each picture once."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is no table ({str(error).splitlines()[0]}).") from None
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path} has no column {', '.join(missing)}; is it the published one?")
    twice = table[columns[0]].duplicated()
    if twice.any():
        row = table.index[twice][0]
        raise InputError(
            f"{path} names {table[columns[0]][row]} twice, again in row {row + 2}. Keep one row."
        )
    return table.set_index(columns[0])


def _mura(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    pattern = re.compile(r"([^/]+)/XR_(\w+)/(patient\d+)/(study\d+)_(positive|negative)/([^/]+)$")
    rows = []
    for file in _pictures(folder):
        if match := pattern.search(file.as_posix()):
            upstream, part, patient, study, finding, name = match.groups()
            split = "train" if folders.split_word(upstream) == "train" else "test"
            label = "fractured" if finding == "positive" else "normal"
            study = f"{patient}_{part.lower()}_{study}"
            rows.append({"file": file, "path": f"{split}/{label}/{study}_{name}", "label": label,
                         "split": split, "patient": patient, "study": study,
                         "body_part": part.lower(),
                         "finding": "abnormal" if finding == "positive" else "normal"})  # fmt: skip
    return _frame(rows), _boxes([])


def _fracatlas(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts, views = ["hand", "leg", "hip", "shoulder"], ["frontal", "lateral", "oblique"]
    needed = ["image_id", *parts, *views, "mixed", "hardware", "multiscan", "fractured"]
    known = _csv(_one(folder, "dataset.csv"), needed)
    rows, places = [], {}
    for file in _pictures(folder):
        if file.name not in known.index or file.parent.parent.name != "images":
            continue
        facts = known.loc[file.name]
        number = int(re.sub(r"\D", "", file.stem) or 0)
        split = "test" if FRACATLAS_TEST[0] <= number <= FRACATLAS_TEST[1] else "train"
        label = "fractured" if facts["fractured"] == "1" else "normal"
        shown = [part for part in parts if facts[part] == "1"]
        places[file.name] = f"{split}/{label}/{file.name}"
        said = folders.label_word(file.parent.name) or label  # the audit compares it with the path
        rows.append({"file": file, "path": places[file.name], "label": said, "split": split,
                     "body_part": "+".join(shown),
                     "view": "+".join(view for view in views if facts[view] == "1"),
                     "hardware": facts["hardware"], "multiscan": facts["multiscan"],
                     "mixed": facts["mixed"]})  # fmt: skip
    return _frame(rows), _coco(folder, places)


def _coco(folder: Path, places: dict[str, str]) -> pd.DataFrame:
    path = _one(folder, "COCO_fracture_masks.json")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        names = {entry["id"]: entry["file_name"] for entry in described["images"]}
        marks = [
            (names[mark["image_id"]], *map(float, mark["bbox"]))
            for mark in described["annotations"]
        ]
        return _boxes([(places[name], x, y, x + width, y + height)
                       for name, x, y, width, height in marks if name in places])  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no COCO annotation ({error}).") from None


def _grazpedwri(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    needed = ["filestem", "patient_id", "study_number", "projection", "laterality",
              "fracture_visible", "metal", "cast"]  # fmt: skip
    known = _csv(_one(folder, "dataset.csv"), needed)
    is_set = {"1", "1.0", "True", "true"}
    rows, boxes = [], []
    marks = {path.stem: path for path in _files(folder) if path.suffix == ".xml"}
    for file in _pictures(folder):
        if file.stem not in known.index:
            continue
        facts = known.loc[file.stem]
        patient = facts["patient_id"]
        split = "test" if _draw(patient) < TEST_SHARE else "train"
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
    return _frame(rows), _boxes(boxes)


def _draw(patient: str) -> float:
    return int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64


def _pascal(path: Path) -> list[tuple[float, ...]]:
    try:
        marks = ElementTree.parse(path).getroot().iter("object")
        found = [mark.find("bndbox") for mark in marks if mark.findtext("name") == "fracture"]
        return [tuple(float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax"))
                for box in found]  # fmt: skip
    except (OSError, ValueError, TypeError, AttributeError, ElementTree.ParseError) as error:
        raise InputError(f"{path} is no Pascal VOC annotation ({error}).") from None


def _folders(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pictures in folders by class and, where they are, split (see `folders.places`).

    A validation becomes the test where there is none; without any split each group draws its own.
    Folders that say neither class nor split are kept, so that equal names stay apart.
    """
    found = _pictures(folder)
    inside = [file.relative_to(folder) for file in found]
    places = folders.places([path.parts for path in inside])
    for path, place in zip(inside, places, strict=True):
        if place.problem:
            raise InputError(f"{folder / path}: {place.problem}. Rename one of them.")
    rows = [
        {"file": file, "label": place.label, "split": place.split, "path": _rest(path)}
        for file, path, place in zip(found, inside, places, strict=True)
        if place.label
    ]
    table = _frame(rows)
    if table.empty:
        return table, _boxes([])
    table["split"] = _splits(table)
    table["path"] = table["split"] + "/" + table["label"] + "/" + table["path"]
    twice = table["path"].duplicated(keep=False)
    for row in table.index[twice]:
        path = PurePosixPath(table.loc[row, "path"])
        original = table.loc[row, "file"].relative_to(folder).as_posix()
        digest = hashlib.sha256(original.encode()).hexdigest()[:8]
        table.loc[row, "path"] = path.with_stem(f"{path.stem}-{digest}").as_posix()
    return table, _boxes([])


def _rest(path: Path) -> str:
    kept = [part for part in path.parts[:-1]
            if not folders.label_word(part) and not folders.split_word(part)]  # fmt: skip
    return PurePosixPath(*kept, path.name).as_posix()


def _splits(table: pd.DataFrame) -> pd.Series:
    split = table["split"]
    if not (split == "test").any():
        split = split.replace("validation", "test")
    if (split == "test").any():
        return split.mask(split == "", "train")
    grouped = groups.named(table)
    grouped = grouped.mask(grouped == "", table["path"])
    test = groups.lowest(table.assign(group=grouped), TEST_SHARE, 0)
    return pd.Series(np.where(grouped.isin(test), "test", "train"), index=table.index)


SOURCES = {
    "mura": Source(
        "MURA-v1.1", "abnormal",
        "Stanford University School of Medicine MURA Dataset Research Use Agreement: no commercial "
        "use, no redistribution.",
        "P. Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal "
        "Radiographs, 2018, arXiv:1712.06957. Its positive class is abnormal, not fractured.",
        _mura,
    ),
    "fracatlas": Source(
        "FracAtlas", "fractured", "CC BY 4.0",
        "I. Abedeen, M. A. Rahman, F. Z. Prottyasha, T. Ahmed, T. M. Chowdhury, S. Shatabda, "
        "FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of "
        "Musculoskeletal Radiographs, Scientific Data 10 (2023), doi:10.1038/s41597-023-02432-4.",
        _fracatlas,
    ),
    "grazpedwri": Source(
        "GRAZPEDWRI-DX", "fractured", "CC BY 4.0",
        "E. Nagy, M. Janisch, F. Hrzic, E. Sorantin, S. Tschauner, A pediatric wrist trauma X-ray "
        "dataset (GRAZPEDWRI-DX) for machine learning, Scientific Data 9 (2022) 222, "
        "doi:10.1038/s41597-022-01328-z.",
        _grazpedwri,
    ),
    "folders": Source(
        "folders", "fractured", "As its publisher states; see the page it came from.",
        "Pictures in folders by class, as on Kaggle. Add author, title and address here.",
        _folders,
    ),
}  # fmt: skip
