"""The images table: every picture, its class, its group and its split.

The folders give class and split, the files give size and digest, the sidecar `images.csv`
gives whatever the source knows. Validation is split off train by group.
"""

import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils.config import CLASS_NAMES, SPLITS, Config
from fracture_utils.data import duplicates, folders, groups, inventory
from fracture_utils.errors import InputError

COLUMNS = ["path", "label", "split", "group", "width", "height", "bit_depth", "sha256"]
BOX_COLUMNS = ["path", "xmin", "ymin", "xmax", "ymax"]


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
    grouped = groups.of(
        pictures.assign(**merged), thumbnails[readable], config.cache_dir / duplicates.CACHE
    )
    splits = _split_off_validation(pictures.assign(group=grouped), config)
    pictures = pictures.assign(group=grouped, split=splits)
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
        marked = _read_sidecar(path, BOX_COLUMNS)[BOX_COLUMNS].replace(
            dict.fromkeys(BOX_COLUMNS[1:], ""), "nan"
        )
        marked = marked.astype(dict.fromkeys(BOX_COLUMNS[1:], float))
    except ValueError as error:
        raise InputError(
            f"{path} has a box that is no number ({error}). Correct its columns xmin, ymin, xmax "
            "and ymax, or take the file away."
        ) from None
    corners = marked[BOX_COLUMNS[1:]]
    sides = corners[["xmax", "ymax"]].to_numpy() - corners[["xmin", "ymin"]].to_numpy()
    wrong = ~np.isfinite(corners).all(axis=1) | (sides <= 0).any(axis=1)
    wrong |= corners.abs().max(axis=1) <= 1
    if wrong.any():
        row = marked.index[wrong][0]
        raise InputError(
            f"{path} has in row {row + 2} a box that is empty, reversed, no number, or relative "
            f"(0 to 1): {corners.loc[row].tolist()}. Give xmin < xmax and ymin < ymax in pixels "
            f"of the file ({int(wrong.sum())} such rows)."
        )
    return marked.reset_index(drop=True)


def _read_sidecar(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=columns, dtype=str)
    try:
        data = path.read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if wide else "utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        known = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False,
                            skip_blank_lines=False)  # fmt: skip
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{path} is no table ({problem}). Save it as CSV in UTF-8.") from None
    known.columns = [str(name).strip() for name in known.columns]
    if missing := [name for name in columns if name not in known]:
        raise InputError(
            f"{path} has no column {', '.join(missing)}. Its first line must name the columns, "
            f"separated by commas; needed are {', '.join(columns)}."
        )
    known = known[(known != "").any(axis=1)].copy()  # Excel leaves empty rows behind
    known["path"] = known["path"].str.strip().str.replace("\\", "/").str.removeprefix("./")
    return known


def _check_folders(config: Config, found: pd.DataFrame) -> None:
    torn = found[found["reason"].str.contains("contradict each other")]
    if len(torn):
        first = torn.iloc[0]
        raise InputError(
            f"{config.pictures_dir / first['path']}: {first['reason']}. Rename or move the folder, "
            f"so that each path says one class and one split ({len(torn)} such files)."
        )
    strays = found.loc[found["reason"].str.startswith(inventory.UNASSIGNED), "path"]
    if len(strays):
        raise folders.misplaced(config.pictures_dir, list(strays))
    own = found["split"].eq("validation") & found["reason"].eq("")
    for split, label in itertools.product(SPLITS, CLASS_NAMES):
        here = found[(found["split"] == split) & (found["label"] == label)]
        if (here["reason"] == "").any() or (split == "validation" and not own.any()):
            continue
        folder = config.pictures_dir / split / label
        why = f" ({here['path'].iloc[0]}: {here['reason'].iloc[0]})" if len(here) else ""
        state = "holds no readable picture" if len(here) or folder.is_dir() else "does not exist"
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


def _split_off_validation(pictures: pd.DataFrame, config: Config) -> pd.Series:
    """The split of each picture; validation takes whole groups of train (see `groups.lowest`),
    unless the user has laid out a validation of his own.
    """
    if (pictures["split"] == "validation").any():
        return pictures["split"]
    train = pictures[pictures["split"] == "train"]
    chosen = groups.lowest(train, config.validation_share, config.seed)
    splits = pictures["split"].mask(
        (pictures["split"] == "train") & pictures["group"].isin(chosen), "validation"
    )
    for split, label in itertools.product(SPLITS, CLASS_NAMES):
        if not ((splits == split) & (pictures["label"] == label)).any():
            raise InputError(
                f"Validation cannot be split off {config.pictures_dir / 'train'}: {split} would "
                f"have no {label} picture, because too few patients (groups) are {label}. Add "
                "pictures of other patients, or name the true patient of each picture in the "
                f"column patient of {config.pictures_dir / 'images.csv'}."
            )
    return splits
