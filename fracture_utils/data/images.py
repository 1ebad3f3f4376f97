"""The images table: every picture, its class, its group and its split.

The folders give class and split, the files give size and digest, the sidecar `images.csv`
gives whatever the source knows. Validation is split off train by group: a group is everything
that shows one patient, or one original.
"""

import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES, SPLITS, Config
from fracture_utils.data import duplicates, inventory
from fracture_utils.errors import InputError

COLUMNS = ["path", "label", "split", "group", "width", "height", "bit_depth", "sha256"]
BOX_COLUMNS = ["path", "xmin", "ymin", "xmax", "ymax"]
PATIENT = re.compile(r"(?:patient|subject)[-_ ]?\d+", re.IGNORECASE)
COPY = re.compile(
    r"(?:_(?:jpe?g|png))?\.rf\.\w+|[-_ ](?:aug(?:mented)?|rotated|flipped)[-_ ]?\d*(?=$|[-_ .])",
    re.IGNORECASE,
)
"""What augmentation tools append to the name of the original."""


def table(config: Config, progress: inventory.Progress = lambda done, total: None) -> pd.DataFrame:
    """The images table: COLUMNS, then those of the sidecar; readable pictures, sorted by path.

    `progress` hears (done, total) files while they are read for the first time. Raises InputError
    where a class is missing in train, validation or test, or the sidecar contradicts the folders.
    """
    found, thumbnails = inventory.take(config, progress)
    _check_folders(config, found)
    readable = (found["reason"] == "").to_numpy()
    pictures = found[readable].reset_index(drop=True)
    known = sidecar(config)
    _check_agreement(config, pictures, known)
    extra = [name for name in known if name in ("path", "patient") or name not in inventory.FACTS]
    merged = pictures[["path"]].merge(known[extra], how="left", on="path").fillna("")
    if "patient" not in merged and (pictures["patient"] != "").any():
        merged["patient"] = pictures["patient"]
    groups = _groups(
        pictures.assign(**merged), thumbnails[readable], config.cache_dir / duplicates.CACHE
    )
    splits = _split_off_validation(pictures.assign(group=groups), config)
    pictures = pictures.assign(group=groups, split=splits)
    return pictures[COLUMNS].merge(merged.drop(columns="group", errors="ignore"), on="path")


def summary(images: pd.DataFrame) -> pd.DataFrame:
    """Number of pictures by class (rows) and split (columns), with their sums."""
    counts = pd.crosstab(images["label"], images["split"], margins=True, margins_name="all")
    return counts.reindex(index=[*CLASS_NAMES, "all"], columns=[*SPLITS, "all"], fill_value=0)


def sidecar(config: Config) -> pd.DataFrame:
    """What `images.csv` beside the pictures says, as text: path, and any other columns."""
    known = _read_sidecar(config.pictures_dir / "images.csv", ["path"])
    if (twice := known["path"].duplicated()).any():
        raise InputError(
            f"{config.pictures_dir / 'images.csv'} names {known['path'][twice].iloc[0]} twice. "
            "Keep one row for each picture."
        )
    return known


def boxes(config: Config) -> pd.DataFrame:
    """The fractures' boxes: path, xmin, ymin, xmax, ymax (pixels of the file); may be empty."""
    path = config.pictures_dir / "boxes.csv"
    try:
        return _read_sidecar(path, BOX_COLUMNS)[BOX_COLUMNS].astype(
            dict.fromkeys(BOX_COLUMNS[1:], float)
        )
    except ValueError as error:
        raise InputError(
            f"{path} has a box that is no number ({error}). Correct its columns xmin, ymin, xmax "
            "and ymax, or take the file away."
        ) from None


def _read_sidecar(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=str)
    try:
        known = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{path} is no table ({problem}). Save it as CSV in UTF-8.") from None
    known.columns = [str(name).strip() for name in known.columns]
    if missing := [name for name in columns if name not in known]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}. Its first line must name the columns, "
            f"separated by commas; needed are {', '.join(columns)}."
        )
    known["path"] = known["path"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    return known


def _check_folders(config: Config, found: pd.DataFrame) -> None:
    for split in ("train", "test"):
        for label in CLASS_NAMES:
            here = found[(found["split"] == split) & (found["label"] == label)]
            if (here["reason"] == "").any():
                continue
            folder = config.pictures_dir / split / label
            why = f" ({here['path'].iloc[0]}: {here['reason'].iloc[0]})" if len(here) else ""
            state = "holds no readable picture" if folder.is_dir() else "does not exist"
            raise InputError(
                f"The folder {folder} {state}{why}. Put {label} X-rays there as PNG, JPEG, TIFF, "
                "BMP or DICOM, or name another data folder with FRACTURE_DATA_DIR."
            )


def _check_agreement(config: Config, pictures: pd.DataFrame, known: pd.DataFrame) -> None:
    both = pictures[["path", "label", "split"]].merge(known, on="path", suffixes=("", "_said"))
    for column, words in (("label", CLASS_NAMES), ("split", ("train", "test"))):
        said = both.get(f"{column}_said", both[column])
        if (wrong := said.isin(words) & (said != both[column])).any():
            row = both[wrong].iloc[0]
            raise InputError(
                f"{config.pictures_dir / 'images.csv'} gives {row['path']} the {column} "
                f"{said[wrong].iloc[0]}, its folder says {row[column]}. Move the picture or "
                f"correct the table ({int(wrong.sum())} such rows)."
            )


def _groups(pictures: pd.DataFrame, thumbnails: np.ndarray, cache: Path) -> pd.Series:
    """The group of each picture: the sidecar's group, patient or study; else the patient in its
    path; else the name of the original it was made from; else the first of its near duplicates.
    """
    groups = pd.Series("", index=pictures.index)
    for column in ("group", "patient", "study"):
        groups = groups.mask(groups == "", pictures.get(column, ""))
    named = pictures["path"].str.extract(f"({PATIENT.pattern})", re.IGNORECASE)[0].fillna("")
    groups = groups.mask(groups == "", named.str.lower())
    stems = pictures["path"].map(lambda path: Path(path).stem)
    originals = pictures["label"] + "/" + stems.map(lambda stem: COPY.sub("", stem))
    copies = originals.isin(originals[stems != stems.map(lambda stem: COPY.sub("", stem))])
    groups = groups.mask((groups == "") & copies, originals)
    if (alone := groups == "").any():
        linked = duplicates.clusters(duplicates.find(thumbnails, cache), len(thumbnails))
        first = (pictures["path"].where(alone, groups)).groupby(linked)
        known = groups.mask(alone).groupby(linked).transform("first")
        groups = groups.where(~alone, known.fillna(first.transform("first")))
    return groups


def _split_off_validation(pictures: pd.DataFrame, config: Config) -> pd.Series:
    """The split of each picture; validation takes whole groups of train.

    Each group draws a number from its name and the seed, and goes to validation if that lies
    below the share: so no other picture can move it, whatever is added. Only in small sets a
    class may draw too few: then those of the lowest numbers go, up to half of the share.
    """
    train = pictures[pictures["split"] == "train"]
    draws = {group: _draw(config.seed, group) for group in train["group"].unique()}
    fractured = (train["label"] == "fractured").groupby(train["group"]).any()
    chosen: set[str] = set()
    for stratum in (True, False):
        order = sorted(fractured.index[fractured == stratum], key=draws.__getitem__)
        wanted = sum(draws[group] < config.validation_share for group in order)
        least = int(np.ceil(len(order) * config.validation_share / 2))
        chosen.update(order[: min(max(wanted, least), len(order) // 2)])
    splits = pictures["split"].mask(
        (pictures["split"] == "train") & pictures["group"].isin(chosen), "validation"
    )
    for split, label in itertools.product(SPLITS, CLASS_NAMES):
        if not ((splits == split) & (pictures["label"] == label)).any():
            raise InputError(
                f"Validation cannot be split off {config.pictures_dir / 'train'}: {split} would "
                f"have no {label} picture, because too few patients (groups) are {label}. Add "
                "pictures of other patients, or correct the groups in images.csv."
            )
    return splits


def _draw(seed: int, group: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the group's name."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
