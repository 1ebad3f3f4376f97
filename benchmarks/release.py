"""Make models/released/ of a finished run on FracAtlas: 8-bit weights, and a card a network.

    python benchmarks/release.py DATA RESULTS MODELS

DATA holds the pictures, RESULTS the tables of the run and MODELS its weights and cards. Every
released network looks at the test pictures again, and its card says what 8 bits changed; where
that is too much, its small kernels stay in 16 bits.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.predictions import ENSEMBLE, read
from fracture_utils.models import cards, familiarity, heatmaps, released
from fracture_utils.models.backbones import RELEASED_DIR

SAYS = (
    "Answered by networks that were trained on FracAtlas (hands, legs, hips and shoulders from "
    "three hospitals in Bangladesh) and released with this project."
)
INTENDED = "Teaching, research, and first weights for training. Never diagnosis."
LIMITS = [
    "One source, without patient ids: nobody knows how it does elsewhere.",
    "Metal hardware gives fractures away: 97 of 99 pictures with hardware are fractured.",
    "The test folder is one block of consecutive numbers.",
    "Pictures were at most about 400 px wide; hairline fractures may not be visible in them.",
]
FROM = {
    "DenseNet121": "ImageNet weights of Keras 2.1.4, exact",
    "ResNet50": "another training run than Keras's: a pruned 8-bit ImageNet network of unknown "
    "author, its batch normalisation measured on photographs (top-1 72.1 %)",
    "VGG16": "ImageNet weights; whether a publisher fine-tuned the later blocks is not documented",
    "MobileNet": "Google's 8-bit ImageNet training, dequantised",
    "InceptionV3": "ImageNet weights, but two thirds of one kernel of mixed9 and of one of mixed10 "
    "were drawn at random",
    "Xception": "ImageNet weights of Keras",
}
"""Where the first weights of each network came from."""
HALVED = (0, 100_000, 300_000)
"""Kernels of fewer numbers than this stay in 16 bits; the first is taken that keeps the AUC."""
ALLOWED = 0.002
"""Change of the AUC by the release."""
SCORES = ("auc", "average_precision", "sensitivity", "specificity", "brier")


def release(name: str, data: Path, config: Config) -> dict:
    """Write one network's weights, known pictures and card; the card."""
    model, card = cards.load(name, config)
    target = RELEASED_DIR / f"{name}.npz"
    trained = {weight.path: np.asarray(weight) for weight in model.weights}
    predictions = read(config.results_dir / "predictions.csv")
    for halved in HALVED:
        released.write(target, trained, halved)
        model.set_weights(list(released.read(target).values()))
        changed = {"halved": halved} | eight_bits(model, card, data, predictions)
        if abs(changed["change_of_auc"]) <= ALLOWED:
            break
    shutil.copyfile(familiarity.path(name, config), RELEASED_DIR / f"{name}.known.npz")
    card |= {"weights": target.name, "weights_sha256": files.sha256(target), "precision": "auto"}
    results = config.results_dir
    card["released"] = {
        "says": SAYS,
        "intended_use": INTENDED,
        "limits": LIMITS,
        "attribution": files.read_json(results / "run.json")["attribution"].strip(),
        "licence": "CC BY 4.0 (data); see LICENSE for the code",
        "first_weights": FROM[name],
        "test": _rows(tables.read(results, "scores"), name, SCORES)[0],
        "by_group": [
            row
            for row in _rows(
                tables.read(results, "subgroups"), name, ("sensitivity", "specificity"),
                ("column", "value", "n", "positives"),
            )
            if row["column"] == "body_part"
        ],
        "localisation": _rows(tables.read(results, "localisation"), name, ("hit_rate",))[0],
        "eight_bits": changed,
    }  # fmt: skip
    files.write_json(RELEASED_DIR / f"{name}.json", card)
    return card


def _rows(
    table: pd.DataFrame, name: str, metrics: tuple[str, ...], others: tuple[str, ...] = ()
) -> list[dict]:
    """What the card says of a network: `metrics` with their intervals, rounded, and `others`."""
    ends = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    rows = table[table["model"] == name][[*others, *ends]].round(3)
    return json.loads(rows.to_json(orient="records"))


def eight_bits(model, card: dict, data: Path, predictions: pd.DataFrame) -> dict[str, float]:
    """What the quantised network says of the test pictures, beside what the run said."""
    rows = predictions[(predictions["model"] == model.name) & (predictions["split"] == "test")]
    size, aspect = card["input_size"], card["aspect"]
    squares = np.stack(
        [reader.fit(reader.read(data / path), size, aspect) for path in rows["path"]]
    )
    seen = heatmaps.look(heatmaps.explaining(model), squares, np.arange(len(squares)), Config())
    labels, before = rows["label"] == "fractured", rows["logit"].to_numpy()
    change = special.expit(calibration.calibrated(seen.logits, card))
    change = change - special.expit(calibration.calibrated(before, card))
    auc = roc_auc_score(labels, seen.logits)
    return {
        "largest_change_of_probability": round(float(np.abs(change).max()), 4),
        "auc": round(auc, 4),
        "change_of_auc": round(auc - roc_auc_score(labels, before), 4),
    }


def main(data: str, results: str, models: str) -> None:
    """Release every network of the run, and say what came of it."""
    config = Config(source="pictures", data_dir=data, results_dir=results, models_dir=models)
    described = {name: release(name, Path(data), config) for name in cards.read(config)[0]}
    chosen = calibration.chosen(read(config.results_dir / "predictions.csv"))
    members = {chosen: described[chosen]["weights_sha256"]}
    classes = {"class_names": ["normal", "fractured"]}
    files.write_json(RELEASED_DIR / f"{ENSEMBLE}.json", {"members": members} | classes)
    for name, card in described.items():
        size = (RELEASED_DIR / f"{name}.npz").stat().st_size / 1e6
        sys.stdout.write(f"{name}: {size:.1f} MB, {card['released']['eight_bits']}\n")
    sys.stdout.write(f"asked by predict: {chosen}, which validation chose\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
