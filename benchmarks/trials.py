"""Heads and input sizes on FracAtlas, compared on validation images only.

    python benchmarks/trials.py DATA WEIGHTS DenseNet121 MobileNet@512 >> benchmarks/trials.csv

DATA holds the images, images.csv and boxes.csv, WEIGHTS the files of keras.applications. No test
image is used. Validation is a fifth of the blocks of 25 consecutive file numbers, because neighbors
may be of one patient. The name of a network alone (MobileNet, where none is given) tries every row
of TRIALS at its own size; with @ and a number of pixels the localization head at that size.
"""

import csv
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from fracture_utils.config import Config
from fracture_utils.data import dataset
from fracture_utils.models import backbones, jobs

BLOCK, SHARE = 25, 5
TRIALS = ({"head": "pooled"}, {"head": "localization"}, {"head": "auto", "fine_tune_epochs": 2})


def in_blocks(images: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The training images of an images table, with a fifth of their blocks for validation."""
    images = images[images["split"] != "test"].reset_index(drop=True)
    block = images["path"].str.extract(r"(\d+)\.\w+$")[0].astype(int) // BLOCK
    blocks = np.random.default_rng(seed).permutation(np.unique(block))
    is_validation = block.isin(blocks[: len(blocks) // SHARE])
    return images.assign(split=np.where(is_validation, "validation", "train"))


def trial(name: str, config: Config, images: pd.DataFrame, boxes: pd.DataFrame) -> dict:
    """The row of one network and head."""
    started = time.monotonic()
    training = jobs.train(images, boxes, config)
    head = training.networks.set_index("model").loc[name, "head"]
    predictions = training.predictions.set_index("path")
    rows = images[images["split"] == "validation"]
    labels = (rows["label"] == "fractured").to_numpy(int)
    logits = predictions.loc[rows["path"], "logit"].to_numpy()
    return {
        "network": name,
        "stages": "early + last" if head == "localization" else "last",
        "image_size": backbones.size(name, config),
        "head": head,
        "views": 1 + config.augmented_copies,
        "boxes": int(head == "localization"),
        "other": f"package fine_tune_epochs={config.fine_tune_epochs}",
        "seed": config.seed,
        "validation_auc": round(roc_auc_score(labels, logits), 4),
        "validation_ap": round(average_precision_score(labels, logits), 4),
        "validation_hits": "",
        "validation_hits_all": "",
        "seconds": round(time.monotonic() - started),
    }


def main(data: str, weights: str, *names: str) -> None:
    """Write the rows of the named networks, MobileNet where none is named."""
    writer = None
    for request in names or ["MobileNet"]:
        name, _, size = request.partition("@")
        for settings in [{"head": "localization"}] if size else TRIALS:
            with tempfile.TemporaryDirectory() as scratch:
                config = Config(
                    source="images", data_dir=data, weights_dir=weights, backbones=name,
                    image_size=int(size) if size else None, results_dir=Path(scratch),
                    models_dir=Path(scratch) / "models", folds=0, **settings,
                )  # fmt: skip
                folder = dataset.load(config, backbones.sizes(config))
                row = trial(name, config, in_blocks(folder.images, seed=0), folder.boxes)
            if writer is None:
                writer = csv.DictWriter(sys.stdout, row)
            writer.writerow(row)
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
