"""What the evidence head is worth on FracAtlas, on validation pictures alone.

    python benchmarks/trials.py DATA WEIGHTS DenseNet121 MobileNet@512 >> benchmarks/trials.csv

DATA holds the pictures, images.csv and boxes.csv, WEIGHTS the files of keras.applications. No
picture of the test folder is used. Validation is a fifth of the blocks of 25 consecutive numbers,
because neighbours may be one patient. A network's name alone (MobileNet, where none is given)
tries every head of TRIALS at its own size, on maps that are computed once; with @ and a number of
pixels it tries the evidence head at that size.
"""

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import images, inventory, reader, sidecars
from fracture_utils.evaluation.detection import MARGIN, boxes_of, inside_boxes
from fracture_utils.models import backbones, classifier, heatmaps
from fracture_utils.models.job import Job
from fracture_utils.models.worker import Desk

BLOCK, SHARE = 25, 5
TRIALS = [
    {"head": "mean"},
    {"head": "evidence", "box_weight": 0.0},
    {"head": "evidence"},
    {"head": "evidence", "fine_tune_epochs": 2, "fine_tune_learning_rate": 1e-4},
]


def in_blocks(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The training pictures of an images table, with a fifth of their blocks for validation."""
    table = table[table["split"] != "test"].reset_index(drop=True)
    block = table["path"].str.extract(r"(\d+)\.\w+$")[0].astype(int) // BLOCK
    blocks = np.random.default_rng(seed).permutation(np.unique(block))
    chosen = block.isin(blocks[: len(blocks) // SHARE])
    return table.assign(split=np.where(chosen, "validation", "train"))


def pointed(maps: np.ndarray, pictures: pd.DataFrame, boxes: pd.DataFrame, size: int) -> np.ndarray:
    """For each picture 1.0 where the map is highest in a box or within MARGIN of it, 0.0 where it
    is not, and NaN where no box is known.
    """
    hits = np.full(len(pictures), np.nan)
    for k, row in enumerate(pictures.itertuples()):
        if len(corners := boxes_of(boxes, row.path)):
            whole = reader.unfit(maps[k], (int(row.height), int(row.width)), size)
            hits[k] = inside_boxes(corners, row, whole.shape, MARGIN).flat[whole.argmax()]
    return hits


def score(labels: np.ndarray, logits: np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """AUC, average precision, and the share of hits among the fractures above Youden's threshold
    and among all; both of pictures with boxes.
    """
    alarms, found, thresholds = roc_curve(labels, logits)
    boxed = (labels == 1) & ~np.isnan(hits)
    above = boxed & (logits >= thresholds[np.argmax(found - alarms)])
    return {
        "validation_auc": roc_auc_score(labels, logits),
        "validation_ap": average_precision_score(labels, logits),
        "validation_hits": hits[above].mean(),
        "validation_hits_all": hits[boxed].mean(),
    }


def trial(
    name: str, settings: dict, table: pd.DataFrame, boxes: pd.DataFrame, config: Config
) -> dict:
    """The row of one network and head; features and maps of an earlier trial are used again."""
    started = time.monotonic()
    config = Config(**config.model_dump() | {"fine_tune_epochs": 0} | settings)
    weights = backbones.find_weights(config)[0][name]
    desk = Desk(Job(name, config, weights, table, boxes))
    for stage in (desk.extract, desk.fit_head, desk.fine_tune):
        stage(lambda *_: None)
    head = files.read_arrays(desk.job.path("head"))[0]["head"]
    model = classifier.with_head(desk.body, head, config)
    classifier.load(model, desk.weights)
    rows = np.flatnonzero(desk.splits == "validation")
    seen = heatmaps.look(heatmaps.explaining(model), desk.pixels, rows, config)
    pictures = table.iloc[rows]
    size = desk.backbone.size(config)
    hits = pointed(seen.maps, pictures, boxes, size)
    others = {key: value for key, value in settings.items() if key not in ("head", "box_weight")}
    return {
        "network": name,
        "stages": desk.backbone.early + " + last" if head == "evidence" else "last",
        "image_size": size,
        "head": head,
        "views": config.views,
        "boxes": int(head == "evidence" and config.box_weight > 0),
        "other": " ".join(["package", *(f"{key}={value}" for key, value in others.items())]),
        "seed": config.seed,
        **{key: round(v, 4) for key, v in score(desk.labels[rows], seen.logits, hits).items()},
        "seconds": round(time.monotonic() - started),
    }


def main(data: str, weights: str, *names: str) -> None:
    """Write the rows of the named networks, MobileNet where none is named."""
    out = None
    with tempfile.TemporaryDirectory() as scratch:
        given = {"data_dir": data, "weights_dir": weights, "views": 1}
        given |= {"results_dir": Path(scratch), "models_dir": Path(scratch) / "models"}
        known = Config(**given)
        taken = inventory.take(known)
        table = in_blocks(images.table(known, taken), seed=0)
        boxes = sidecars.boxes(known, taken.files)
        for asked in names or ["MobileNet"]:
            name, _, size = asked.partition("@")
            config = Config(**given, backbones=name, image_size=int(size) if size else None)
            for settings in [{"head": "evidence"}] if size else TRIALS:
                row = trial(name, settings, table, boxes, config)
                out = out or csv.DictWriter(sys.stdout, row)
                out.writerow(row)
                sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
