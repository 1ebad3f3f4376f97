"""Write models/released/ from a finished run on FracAtlas: 8-bit weights and a card per model.

    python benchmarks/release.py DATA RESULTS MODELS [SUFFIX]

DATA holds the images, RESULTS the tables of the run and MODELS its weights and cards; models with
a SUFFIX in their names stand beside the others. `predict` uses the model with the highest AUC on
held-out images. A fine-tuned model never serves as initial weights. Every quantized model predicts
the test images again, and its card records what quantization changed; where the AUC falls too much,
small kernels stay in float16.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import artifacts, tables
from fracture_utils.config import Config, InputError
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.predictions import ENSEMBLE, read
from fracture_utils.models import builder, heatmaps, model_cards, ood
from fracture_utils.models.backbones import RELEASED_DIR

STATEMENT = (
    "Released models, trained on FracAtlas (hands, legs, hips and shoulders from three hospitals "
    "in Bangladesh)."
)
INTENDED_USE = (
    "Teaching and research. Never diagnosis.",
    "Teaching, research, and initial weights for training. Never diagnosis.",
)
LIMITATIONS = [
    "One source without patient identifiers; performance elsewhere is unknown.",
    "Metal hardware is a confounder: {fractured} of the {images} images with hardware are "
    "fractured.",
    "The test set is one block of consecutive file numbers.",
    "Most images were 389 px on the long side; hairline fractures may not be visible in them.",
]
INITIAL_WEIGHTS = {
    "DenseNet121": "ImageNet weights of Keras 2.1.4, exact",
    "ResNet50": "a pruned 8-bit ImageNet model of unknown author instead of Keras's weights, with "
    "batch normalization statistics measured on photographs (top-1 accuracy 72.1 %)",
    "VGG16": "ImageNet weights; whether a publisher fine-tuned the later blocks is not documented",
    "MobileNet": "Google's 8-bit ImageNet training, dequantized",
    "InceptionV3": "ImageNet weights, with two thirds of one kernel of mixed9 and of one kernel of "
    "mixed10 drawn at random",
    "Xception": "ImageNet weights of Keras",
}
FLOAT16_BELOW = (0, 100_000, 300_000)
"""Kernels of fewer numbers stay in float16; the first value that keeps the AUC is used."""
ALLOWED = 0.002
"""Largest loss of AUC."""
SCORES = ("auc", "average_precision", "sensitivity", "specificity", "brier")


def release(name: str, card: dict, data: Path, config: Config, suffix: str) -> dict:
    """Write the weights, OOD reference and card of one model; return the card."""
    model = model_cards.load(name, card, config.models_dir)
    target, results = RELEASED_DIR / f"{name}{suffix}.npz", config.results_dir
    trained = {weight.path: np.asarray(weight) for weight in model.weights}
    images, predictions = tables.read(results, "images"), read(results / "predictions.csv")
    test = images[images["split"] == "test"]
    for below in FLOAT16_BELOW:
        write(target, trained, below)
        builder.load_weights(model, target)
        change = {"bits": 8, "float16_below": below}
        passed = through(model, test, data)
        change |= quantization(name, card, test, passed[0], predictions)
        if change["change_in_auc"] >= -ALLOWED:
            break
    card |= {"weights": target.name, "weights_sha256": artifacts.digest(target)}
    rest = images[images["split"] != "test"]
    rest = rest.iloc[ood.sample(rest["group"].to_numpy(), config.seed)]
    reference = ood.fit(*through(model, rest, data)[1:], rest)
    artifacts.write_arrays(target.with_suffix(".ood.npz"), **reference)
    card["ood_test"] = ood.observed(reference, *passed[1:], test)
    frozen = not card["fine_tune_depth"]
    held_out = tables.read(results, "cross_validation" if frozen else "history")
    held_out = held_out[held_out["model"] == name]
    held_out = held_out.query("fold == 0")["auc"] if frozen else held_out["val_auc"]
    card |= {"precision": "float32", "usable_as_initialization": frozen}
    hardware = images[images["hardware"] == "1"]
    counts = {"images": len(hardware), "fractured": (hardware["label"] == "fractured").sum()}
    subgroups, columns = tables.read(results, "subgroups"), ("column", "value", "n", "positives")
    parts = rows(subgroups, name, ("sensitivity", "specificity"), columns)
    card["released"] = {
        "statement": STATEMENT,
        "intended_use": INTENDED_USE[frozen],
        "limitations": [text.format(**counts) for text in LIMITATIONS],
        "training_data": "FracAtlas",
        "attribution": artifacts.read_json(results / "run.json")["attribution"].strip(),
        "license": "CC BY 4.0 (data); see LICENSE for the code",
        "initial_weights": INITIAL_WEIGHTS[name],
        "held_out_auc": round(float(held_out.max()), 3),
        "test": rows(tables.read(results, "scores"), name, SCORES)[0],
        "subgroups": [row for row in parts if row["column"] == "body_part"],
        "localization": rows(tables.read(results, "localization"), name, ("hit_rate",))[0],
        "quantization": change,
    }
    artifacts.write_json(target.with_suffix(".json"), card)
    return card


def write(path: Path, weights: dict[str, np.ndarray], float16_below: int = 0) -> None:
    """Write named weights: kernels (two axes or more) with 8 bits and a scale <name>/scale that
    maps the largest weight of an output channel to 127 (symmetric per-channel quantization,
    Krishnamoorthi 2018, arXiv:1806.08342); those of fewer than `float16_below` numbers in float16;
    everything else in float32.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise InputError(f"{path} was not written: {name} holds values that are not finite.")
        if values.ndim < 2 or values.size < float16_below:
            arrays[name] = values.astype(np.float32 if values.ndim < 2 else np.float16)
            continue
        depthwise = values.shape[-1] == 1 and values.ndim > 2  # (rows, columns, channels, 1)
        channel = values.ndim - (2 if depthwise else 1)
        largest = np.abs(values).max(axis=tuple({*range(values.ndim)} - {channel}), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        arrays |= {name: np.rint(values / scale).astype(np.int8), f"{name}/scale": scale}
    with artifacts.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def rows(
    table: pd.DataFrame, name: str, metrics: tuple[str, ...], others: tuple[str, ...] = ()
) -> list[dict]:
    """The rows of a model: `metrics` with their intervals, rounded, and `others`."""
    columns = [f"{metric}{end}" for metric in metrics for end in ("", "_low", "_high")]
    own = table[table["model"] == name][[*others, *columns]].round(3)
    return json.loads(own.to_json(orient="records"))


def through(model, images: pd.DataFrame, data: Path) -> tuple[np.ndarray, ...]:
    """Logits, squares and the features of `ood` of images."""
    size = model.input_shape[1]
    squares = np.stack([reader.fit(reader.read(data / path), size) for path in images["path"]])
    inputs = squares[..., None].astype(np.float32)
    logits, _, features = heatmaps.explain(model).predict(inputs, verbose=0)
    return logits[:, 0].astype(float), squares, features


def quantization(
    name: str, card: dict, test: pd.DataFrame, logits: np.ndarray, predictions: pd.DataFrame
) -> dict[str, float]:
    """What quantization, and float32 where the run used 16 bits, change in the predictions of the
    test images.
    """
    own = predictions[predictions["model"] == name].set_index("path").loc[test["path"]]
    labels, before = own["label"] == "fractured", own["logit"].to_numpy()
    new, old = (special.expit(calibration.calibrated(z, card)) for z in (logits, before))
    auc = roc_auc_score(labels, logits)
    return {
        "largest_change_in_probability": round(float(np.abs(new - old).max()), 4),
        "auc": round(auc, 4),
        "change_in_auc": round(auc - roc_auc_score(labels, before), 4),
    }


def main(data: str, results: str, models: str, suffix: str = "") -> None:
    """Release every model of the run, and the name of the one for `predict`."""
    config = Config(source="images", data_dir=data, results_dir=results, models_dir=models)
    cards = model_cards.cards_in(RELEASED_DIR)
    for name, card in model_cards.cards_in(config.models_dir).items():
        cards[name + suffix] = card = release(name, card, Path(data), config, suffix)
        size = (RELEASED_DIR / card["weights"]).stat().st_size / 1e6
        sys.stdout.write(f"{name}: {size:.1f} MB, {card['released']['quantization']}\n")
    digests = {name: card["weights_sha256"] for name, card in cards.items()}
    selected = max(cards, key=lambda name: cards[name]["released"]["held_out_auc"])
    ensemble = {"members": digests, "selected": selected}  # without operating point: not scored
    artifacts.write_json(RELEASED_DIR / f"{ENSEMBLE}.json", ensemble)
    sys.stdout.write(f"used by predict: {selected}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
