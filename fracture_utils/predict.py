"""Answers about single images: calibrated probability, decision, heat map and OOD warning."""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from fracture_utils import artifacts, tables
from fracture_utils.config import Config, InputError
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration, localization
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models import backbones, model_cards, ood
from fracture_utils.plots import explanations

CHUNK = 128  # images in memory at once


class Predictor:
    """The models of the last run, or the released ones; `cards` with the ensemble (if any) last."""

    def __init__(self, config: Config) -> None:
        self.config, self.folder = config, model_cards.home(config)
        self.members, ensemble = model_cards.read(self.folder)
        self.cards = self.members | ({ENSEMBLE: ensemble} if ensemble else {})

    @functools.cached_property
    def models(self) -> dict[str, tuple[Any, ood.Reference]]:
        """The Keras models with heat maps, and their reference sets."""
        from fracture_utils.models import builder, heatmaps

        folder, models = self.folder, {}
        for name, card in self.members.items():
            model = builder.fold_batch_norm(heatmaps.explain(model_cards.load(name, card, folder)))
            models[name] = model, ood.read(folder / f"{name}.ood.npz")
        return models

    def answer(self, images: Mapping[Path, np.ndarray]) -> tuple[pd.DataFrame, list[np.ndarray]]:
        """The answers about uint8 images (height, width), image by image (the index) and without
        overlay, and a heat map per image, of the last card. The logit of the ensemble is the mean
        of the calibrated ones; where a warning stands, the decision is empty.
        """
        shapes = np.array([image.shape for image in images.values()])
        outputs, parts = {}, []
        for name, card in self.members.items():
            size, (model, reference) = card["input_size"], self.models[name]
            squares = np.stack([reader.fit(image, size) for image in images.values()])
            backbones.apply_precision(backbones.resolve_precision(card["precision"]))  # per process
            inputs, batch_size = squares[..., None].astype(np.float32), self.config.batch_size
            logits, maps, features = model.predict(inputs, batch_size, verbose=0)
            warnings = ood.warnings(reference, squares, features, shapes)
            maps = [reader.unfit(*pair, size) for pair in zip(maps, shapes, strict=True)]
            outputs[name] = logits[:, 0].astype(float), warnings, ood.rate(reference), maps
        if ENSEMBLE in self.cards:
            logits, warnings, rates, maps = zip(*outputs.values(), strict=True)
            pairs = zip(logits, self.members.values(), strict=True)
            logits = np.mean([calibration.calibrated(*pair) for pair in pairs], axis=0)
            warnings = [_majority(of) for of in zip(*warnings, strict=True)]
            maps = [localization.combine(of) for of in zip(*maps, strict=True)]
            outputs[ENSEMBLE] = logits, warnings, max(rates), maps
        paths, columns = list(map(str, images)), tables.columns("answers")
        for name, card in self.cards.items():
            logits, warnings, rate, maps = outputs[name]
            probability = special.expit(calibration.calibrated(logits, card))
            decision = np.where(probability >= card["threshold"], *card["class_names"][::-1])
            decision = np.where(np.array(warnings) == "", decision, "")
            values = paths, name, logits, probability, card["threshold"], decision, warnings, rate
            parts.append(pd.DataFrame(dict(zip(columns, values, strict=False))))
        return pd.concat(parts).sort_index(kind="stable"), maps


def predict(paths: Sequence[Path], predictor: Predictor, draw: bool = True) -> tuple:
    """The answers table, also written to answers.csv, and a sentence per file that cannot be read;
    `draw` writes each image beside the heat map of the last card.
    """
    paths, parts, problems = list(dict.fromkeys(paths)), [tables.empty("answers")], []
    folder = predictor.config.results_dir
    with backbones.quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            images, futures = {}, [pool.submit(reader.read, path) for path in chunk]
            for path, future in zip(chunk, futures, strict=True):
                try:
                    images[path] = future.result()
                except InputError as error:
                    problems.append(str(error))
            if images:
                table, maps = predictor.answer(images)
                targets = [folder / "answers"] * len(maps) if draw else []
                overlays = list(pool.map(_draw, images, images.values(), maps, targets))
                parts.append(table.assign(overlay=np.array(overlays)[table.index] if draw else ""))
    table = pd.concat(parts[1:] or parts, ignore_index=True)
    tables.write(folder, "answers", table)
    return table, problems


def _draw(path: Path, image: np.ndarray, heat_map: np.ndarray, folder: Path) -> str:
    target = folder / f"{path.stem}-{artifacts.fingerprint(str(path.resolve()))[:6]}.png"
    small = Image.fromarray(image)
    small.thumbnail((512, 512))
    pair = small.convert("RGB"), explanations.overlay(np.asarray(small), heat_map)
    with artifacts.replacing(target) as temporary:  # the default compression takes twice as long
        Image.fromarray(np.concatenate(pair, axis=1)).save(temporary, compress_level=1)
    return str(target)


def _majority(warnings: Sequence[str]) -> str:
    """The check that most models name, where at least half of the models warn."""
    checks = [check for check in warnings if check]
    return max(checks, key=checks.count) if 2 * len(checks) >= len(warnings) else ""


def predict_one(path: Path, config: Config) -> pd.DataFrame:
    """The answers about one image, from another process; their sentences in `attrs["text"]`."""
    command = [sys.executable, "-m", "fracture_utils", "predict", str(path)]
    command += ["--models-dir", str(config.models_dir), "--results-dir", str(config.results_dir)]
    options = {"encoding": "utf-8", "env": backbones.environment()}
    done = subprocess.run(command, capture_output=True, check=False, **options)
    if done.returncode:
        reason = done.stderr.strip() or f"The prediction ended with code {done.returncode}."
        raise InputError(reason.splitlines()[-1])
    answers = tables.read(config.results_dir, "answers")
    answers.attrs["text"] = done.stdout
    return answers


def show(answers: pd.DataFrame) -> None:
    """Display in a notebook what `predict_one` returned."""
    from IPython import display

    display.display({"text/plain": answers.attrs["text"]}, raw=True)  # file names may hold HTML
    display.display(display.Image(answers["overlay"].iloc[-1]))
