"""Results of made-up models for tests."""

import numpy as np
import pandas as pd

from fracture_utils import tables
from fracture_utils.config import Config
from fracture_utils.evaluation.results import evaluate

WORTH = {"DenseNet121": 2.0, "VGG16": 1.4, "MobileNet": 0.6}
"""How far apart the mean logits of both classes are."""


def predictions(worth=WORTH, count=90, share=1 / 3, splits=("validation", "test")):
    """Raw predictions; every third image is fractured by default, two images per group."""
    random, parts = np.random.default_rng(1), []
    for split in splits:
        fractured = np.arange(count) < round(share * count)
        for model, gain in worth.items():
            rows = {"path": [f"{split}/{k:03d}.png" for k in range(count)]}
            rows |= {"group": [f"{split}{k // 2}" for k in range(count)], "split": split}
            rows |= {"label": np.where(fractured, "fractured", "normal"), "model": model}
            logit = gain * fractured - 0.7 + random.normal(size=count)
            rows |= {"kind": "network", "logit": logit, "probability": 1 / (1 + np.exp(-logit))}
            rows["body_part"] = np.array(["hand", "leg"])[np.arange(count) % 2]
            parts.append(pd.DataFrame(rows))
    return pd.concat(parts, ignore_index=True)


def images(table):
    """The images table of a predictions table."""
    rows = table.drop_duplicates("path")[["path", "label", "split", "group", "body_part"]]
    return rows.assign(width=60, height=80, bit_depth=8, sha256="0" * 64).reset_index(drop=True)


def networks(worth=WORTH, **columns):
    row = {"status": "trained", "reason": "", "initialization": "imagenet", "provenance": ""}
    row |= {"hardware": "CPU", "precision": "float32", "head": "pooled", "seconds": 1.5}
    row |= {"input_size": 384, "boxes": 0, "augmented_copies": 1, "fine_tune_depth": "top"}
    row |= {"parameters": 3_000_000, "seconds_per_image": 0.02, "randomized_correlation": 0.1}
    rows = pd.DataFrame([row | {"model": model} for model in worth]).assign(**columns)
    return rows[[name for name in tables.columns("networks") if name in rows]]


def history(worth=WORTH, epochs=5):
    random = np.random.default_rng(0)
    stages = ["head"] * epochs + ["fine_tune"] * 2
    numbers = [*range(1, epochs + 1), 1, 2]
    parts = []
    for model in worth:
        part = pd.DataFrame({"model": model, "stage": stages, "epoch": numbers})
        for name in ("loss", "auc", "val_loss", "val_auc", "learning_rate", "seconds"):
            part[name] = random.random(len(part))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def audit(*rows):
    """Findings from (severity, check) pairs."""
    columns = tables.columns("audit")
    return pd.DataFrame([(*row, "", "", "a finding", "an advice") for row in rows], columns=columns)


def located(table):
    """Boxes and heat maps of the fractured test images: those of the first model point at them."""
    test = table[(table["split"] == "test")].drop_duplicates("path")
    fractured = test.loc[test["label"] == "fractured", "path"]
    column = np.arange(len(fractured)) % 5 * 10.0
    boxes = pd.DataFrame({"path": fractured, "xmin": column, "ymin": 8.0}).reset_index(drop=True)
    boxes = boxes.assign(xmax=boxes["xmin"] + 10, ymax=24.0)
    good, random = {}, np.random.default_rng(0)
    for path in test["path"]:
        good[path] = random.normal(size=(16, 16)).astype(np.float32)
    for row in boxes.itertuples():
        good[row.path][3, int((row.xmin + 5) / 60 * 16)] = 9
    bad = {path: random.normal(size=(16, 16)).astype(np.float32) for path in good}
    return boxes, {
        model: good if k == 0 else bad for k, model in enumerate(table["model"].unique())
    }


def results(folder, worth=WORTH, **given):
    """Results of a whole run on made-up predictions, images and heat maps."""
    table = given.pop("predictions", predictions(worth))
    boxes, heat_maps = located(table)
    known = {"images": images(table), "boxes": boxes, "heat_maps": heat_maps}
    known |= {"networks": networks(worth), "history": history(worth), "audit": audit()}
    config = Config(source="images", results_dir=folder, quick=True, data_dir=folder / "my data")
    return evaluate(table, config, **known | given)
