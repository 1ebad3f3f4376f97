"""What the words in folder names and tables mean: the one vocabulary of classes and splits.

Read by the run's own folders, by the sidecars and by the importer of folder sets. Imports
nothing of the package but its exceptions, because the settings ask it where pictures lie.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from fracture_utils.errors import InputError

SPLIT_WORDS = {
    **dict.fromkeys(["train", "training", "trainset", "trainingset"], "train"),
    **dict.fromkeys(["val", "valid", "validation", "dev", "valset"], "validation"),
    **dict.fromkeys(["test", "testing", "testset", "holdout"], "test"),
}
FRACTURED = {"fractured", "fracture", "fractures", "positive", "pos", "abnormal"}
NORMAL = {"normal", "negative", "neg", "healthy", "intact", "unfractured", "uninjured"}
NEGATIONS = {"no", "non", "not", "without", "free", "un"}
FILLERS = {
    *("bone", "bones", "set", "class", "label", "study", "case", "cases", "patients", "finding"),
    *("image", "images", "img", "picture", "pictures", "xray", "xrays", "x", "ray", "rays"),
    *("elbow", "finger", "fingers", "forearm", "hand", "hip", "humerus", "leg", "shoulder"),
    *("wrist", "ankle", "foot", "knee", "arm", "femur", "tibia", "spine"),
}
"""Words that may stand beside a class without changing it. Any unknown word (as in "bone fracture
detection") makes a name say nothing."""
KINDS = {
    *("avulsion", "comminuted", "greenstick", "hairline", "impacted", "spiral", "transverse"),
    *("oblique", "longitudinal", "pathological", "compression", "crush", "stress", "buckle"),
    *("torus", "segmental", "displaced", "nondisplaced", "simple", "compound", "open", "closed"),
    *("linear", "intra", "articular", "dislocation", "dislocated"),
}
KINDS_ALONE = {"avulsion", "comminuted", "greenstick", "hairline"}
"""Kinds of fracture that mean nothing else, as "oblique" (a view) and "simple" do."""
DOCUMENTS = (
    *(".csv", ".tsv", ".json", ".txt", ".md", ".toml", ".xml", ".yaml", ".yml", ".pdf", ".html"),
    *(".xls", ".xlsx", ".ods", ".doc", ".docx", ".py", ".ipynb", ".log", ".ini", ".rtf", ".lock"),
    *(".db", ".part", ".tmp", ".crdownload"),
)
PAPERS = {"license", "licence", "readme", "copying", "makefile", "notice", "authors"}
SIDECARS = ("images.csv", "boxes.csv")
"""The tables that may lie beside the pictures."""
EXPECTED = "train/fractured, train/normal, test/fractured and test/normal"


class Place(NamedTuple):
    """Split ("train", "validation", "test") and label ("normal", "fractured") of a picture,
    empty where its folders do not say, and the problem if they say two things.
    """

    split: str
    label: str
    problem: str = ""


def split_word(text: str) -> str:
    """The split that a word in any spelling means; empty if none."""
    return _split_of(_tokens(text))


def label_word(text: str) -> str:
    """The class that a word in any spelling means (1, true, yes too); empty if none."""
    text = text.strip().lower()
    if re.fullmatch(r"[01](\.0*)?", text):
        return ("normal", "fractured")[int(text[0])]
    return {"true": "fractured", "yes": "fractured", "false": "normal", "no": "normal"}.get(
        text
    ) or _label_of(_tokens(text))


def places(paths: Sequence[Sequence[str]]) -> list[Place]:
    """What the folders of each path (its parts, the file's name last) say. Folders that all
    share say something only where those below say nothing. Folders 0 and 1 are classes where no
    folder has another word for them.
    """
    levels = zip(*(parts[:-1] for parts in paths), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    found = [_place(parts[:-1], shared) for parts in paths]
    digits = [[part for part in parts[:-1] if part in ("0", "1")] for parts in paths]
    if not any(place.label or place.problem for place in found) and {
        digit for each in digits for digit in each
    } == {"0", "1"}:
        return [
            place._replace(label=("normal", "fractured")[int(each[0])])
            if len(each) == 1 else place
            for place, each in zip(found, digits, strict=True)
        ]  # fmt: skip
    return found


def _place(folders: Sequence[str], shared: int) -> Place:
    values, problem = [], ""
    for meaning in (_split_of, _label_of):
        words = [meaning(_tokens(name)) for name in folders]
        said = {word for word in words[shared:] if word} or {word for word in words if word}
        if len(said) > 1:
            problem = f"its folders contradict each other ({' and '.join(sorted(said))})"
        values.append(said.pop() if len(said) == 1 else "")
    split, label = values
    return Place(split, label, problem)


def _tokens(name: str) -> list[str]:
    """The words of a name in lower case: "NonFractured_2" gives non, fractured."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", apart.lower())
    return [part for word in words for part in _parts(word)]


def _parts(word: str) -> list[str]:
    glued = re.fullmatch(r"(no|non|not|un)(fractured?|fractures|abnormal)", word)
    return list(glued.groups()) if glued else [word]


def _split_of(words: list[str]) -> str:
    said = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    known = {"data", "dataset", "split", *SPLIT_WORDS, *FILLERS, *FRACTURED, *NORMAL, *NEGATIONS}
    return said.pop() if len(said) == 1 and set(words) <= known else ""


def _label_of(words: list[str]) -> str:
    words = [word for word in words if word not in FILLERS and word not in SPLIT_WORDS]
    core = {word for word in words if word not in KINDS}
    if not core:
        return "fractured" if KINDS_ALONE.intersection(words) else ""
    fractured, normal, negated = core & FRACTURED, core & NORMAL, core & NEGATIONS
    if core - FRACTURED - NORMAL - NEGATIONS or not fractured | normal:
        return ""
    if fractured and normal:  # "fracture negative" is a class, "fractured and normal" is none
        plain = fractured <= {"fracture", "fractures"} and normal <= {"negative", "neg"}
        return "normal" if plain and not negated else ""
    return "fractured" if bool(fractured) != bool(negated) else "normal"


def walk(folder: Path, seen: frozenset[str] = frozenset()) -> Iterator[tuple[Path, str]]:
    """Every file below `folder`, linked folders too, and every folder that cannot be entered,
    with the reason (empty for a file).
    """
    real = os.path.realpath(folder)
    if real in seen:
        yield folder, "it is a link to a folder above it"
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield folder, f"the folder cannot be read ({error.strerror})"
        return
    for entry in entries:
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads to itself
            is_folder = False
        if is_folder:
            yield from walk(Path(entry.path), seen | {real})
        else:
            yield Path(entry.path), ""


def candidates(data_dir: Path, apart: Sequence[Path] = ()) -> Iterator[tuple[Path, str]]:
    """As `walk`, without what is no picture of the user's: hidden things and documents at the top,
    the phantoms, and the folders `apart`.
    """
    others = {os.path.realpath(folder) for folder in (data_dir / "phantoms", *apart)}
    if not data_dir.is_dir():
        return
    for path in sorted(data_dir.iterdir()):
        if path.name.startswith(".") or os.path.realpath(path) in others:
            continue
        if path.is_dir():
            yield from walk(path)
        elif may_be_picture(Path(path.name)):
            yield path, ""


def find_source(data_dir: Path, named: bool) -> str:
    """The source of pictures: "pictures" where the folder holds any, wherever; else "phantoms".

    Raises InputError where the folder was `named` by the user and has no picture, and where
    tables lie there without pictures, because phantoms would not answer for either.
    """
    if named and not data_dir.is_dir():
        raise InputError(
            f"The data folder {data_dir} does not exist. Correct FRACTURE_DATA_DIR, or unset it "
            "to use data/ (and phantoms where data/ has no pictures)."
        )
    if any(may_be_picture(path.relative_to(data_dir)) for path, _ in candidates(data_dir)):
        return "pictures"
    tables = [name for name in SIDECARS if sidecar(data_dir, name).is_file()]
    if tables or (named and data_dir.resolve() != Path("data").resolve()):
        there = f" (only {' and '.join(tables)})" if tables else ""
        raise InputError(
            f"The data folder {data_dir} has no pictures{there}. Put them into {EXPECTED} below "
            "it, or set FRACTURE_SOURCE=phantoms to make synthetic ones there."
        )
    return "phantoms"


def sidecar(data_dir: Path, name: str) -> Path:
    """The table of this `name` beside the pictures, also as Images.CSV; it may be absent."""
    if not (data_dir / name).exists() and data_dir.is_dir():
        for path in sorted(data_dir.iterdir()):
            if path.name.casefold() == name:
                return path
    return data_dir / name


def may_be_picture(inside: PurePath) -> bool:
    """Whether a file (its path below the data folder) is neither hidden nor a document."""
    document = inside.suffix.lower() in DOCUMENTS or inside.name.lower() in PAPERS
    return not document and not hidden(inside)


def hidden(inside: PurePath) -> bool:
    """Whether a file is a leftover of the system or of a tool."""
    return any(part.startswith((".", "__MACOSX")) for part in inside.parts)


def legible(inside: PurePath) -> str:
    """A path as text with slashes, also where its names are no valid text."""
    return inside.as_posix().encode("utf-8", "backslashreplace").decode()


def misplaced(data_dir: Path, strays: Sequence[str]) -> InputError:
    """The sentence about pictures (relative paths) whose folders say no class or no split."""
    tops = Counter("/".join(path.split("/")[:-1]) or path for path in strays)
    listed = ", ".join(f"{name} ({number})" for name, number in sorted(tops.items())[:8])
    more = f" and {len(tops) - 8} more folders" if len(tops) > 8 else ""
    return InputError(
        f"{data_dir} holds {len(strays)} files that no folder assigns to a class and a split: "
        f"{listed}{more}. Expected are {EXPECTED} (and validation/ likewise, if you want your "
        "own). Move them there or away, or let python -m fracture_utils import folders "
        f"{data_dir} NEW_FOLDER sort them."
    )
