"""The images table: every picture, its class, its group and its split.

The folders give class and split, the files give size and digest, the sidecar `images.csv`
gives whatever the source knows. Validation is split off train by group.
"""

import itertools

import pandas as pd

from fracture_utils.config import CLASS_NAMES, SPLITS, Config
from fracture_utils.data import folders, groups, inventory, sidecars
from fracture_utils.errors import InputError

COLUMNS = ["path", "label", "split", "group", "width", "height", "bit_depth", "sha256"]


def table(config: Config, taken: inventory.Inventory) -> pd.DataFrame:
    """The images table: COLUMNS, then those of the sidecar; readable pictures, sorted by path.

    `taken` is the inventory of the data folder. Raises InputError where a class is missing in
    train, validation or test, or the sidecar has another split than the folders. (Other labels are
    for the audit to tell.)
    """
    found = taken.files
    _check_folders(config, found)
    readable = (found["reason"] == "").to_numpy()
    pictures = found[readable].reset_index(drop=True)
    known = sidecars.pictures(config, found)
    pictures["split"] = _said_splits(config, pictures, known)
    extra = [name for name in known if name in ("path", "group") or name not in COLUMNS]
    merged = pictures[["path"]].merge(known[extra], how="left", on="path").fillna("")
    if "patient" not in merged and (pictures["patient"] != "").any():
        merged["patient"] = pictures["patient"]
    facts, thumbnails = pictures.assign(**merged), taken.of(pictures["path"])
    grouped = groups.of(facts, thumbnails, config.cache_dir, config.neighbours)
    splits = _split_off_validation(pictures.assign(group=grouped), config)
    pictures = pictures.assign(group=grouped, split=splits)
    return pictures[COLUMNS].merge(merged.drop(columns="group", errors="ignore"), on="path")


def summary(images: pd.DataFrame) -> pd.DataFrame:
    """Number of pictures by class (rows) and split (columns), with their sums."""
    counts = pd.crosstab(images["label"], images["split"], margins=True, margins_name="all")
    return counts.reindex(index=[*CLASS_NAMES, "all"], columns=[*SPLITS, "all"], fill_value=0)


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


def _said_splits(config: Config, pictures: pd.DataFrame, known: pd.DataFrame) -> pd.Series:
    """The split of each picture by its folder; validation where the sidecar takes it from train,
    for which it has to give every picture of train a split.
    """
    if "split" not in known:
        return pictures["split"]
    ours, table = pictures["split"], config.pictures_dir / "images.csv"
    rows = pd.Series(known.index, index=known["path"]).reindex(pictures["path"]).to_numpy()
    said = known.set_index("path")["split"].reindex(pictures["path"]).fillna("")
    said = said.set_axis(pictures.index)
    moved = (ours == "train") & (said == "validation")
    if (wrong := (said != "") & (said != ours) & ~moved).any():
        first = wrong.idxmax()
        raise InputError(
            f"{table} gives in row {int(rows[first]) + 2} {pictures['path'][first]} the split "
            f"{said[first]}, its folder says {ours[first]}. Move the picture or correct the table "
            f"({int(wrong.sum())} such rows)."
        )
    if moved.any() and (silent := (ours == "train") & (said == "")).any():
        raise InputError(
            f"{table} takes {int(moved.sum())} pictures of train for validation, but gives "
            f"{pictures['path'][silent.idxmax()]} no split. Give every picture of train one, or "
            f"leave the column out ({int(silent.sum())} such pictures)."
        )
    return ours.mask(moved, "validation")


def _split_off_validation(pictures: pd.DataFrame, config: Config) -> pd.Series:
    """The split of each picture; validation takes whole groups of train (see `groups.lowest`),
    unless the user has laid out a validation of his own.
    """
    splits = pictures["split"]
    if (splits == "validation").any():
        why = "as you have split them off: move some, or leave that to the run"
    else:
        train = splits == "train"
        chosen = groups.lowest(pictures[train], config.validation_share, config.seed)
        splits = splits.mask(train & pictures["group"].isin(chosen), "validation")
        why = (
            "because too few patients (groups) have it. Add pictures of other patients, or name "
            "the true patient of each picture in the column patient of "
            f"{config.pictures_dir / 'images.csv'}"
        )
    for split, label in itertools.product(SPLITS, CLASS_NAMES):
        if not ((splits == split) & (pictures["label"] == label)).any():
            raise InputError(
                f"Validation cannot be split off {config.pictures_dir / 'train'}: {split} would "
                f"have no {label} picture, {why}."
            )
    return splits
