"""Seconds of `python -m fracture_utils predict` from a cold start, for one image and for many,
compared with the forward pass of the same model: `python benchmarks/predict.py IMAGES [ROUNDS]`.

Uses the models in FRACTURE_MODELS_DIR. Prints medians, and the cost of a further image as a
multiple of the forward pass (same process, same batches, pixels already in memory).
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.predict import Predictor

MANY = 500


def seconds(paths: list[Path], *options: str) -> float:
    """Of the command line, as a user waits for it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, "-m", "fracture_utils", "predict", *options]
        command += map(str, paths)
        environment = os.environ | {"FRACTURE_RESULTS_DIR": folder}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def forward(config: Config, paths: list[Path]) -> float:
    """Of the model over the same images in memory, after a warm-up."""
    predictor = Predictor(config)
    (model, _), size = predictor.model, predictor.card["input_size"]
    pixels = np.stack([reader.fit(reader.read(path), size) for path in paths])
    batch = pixels[..., None].astype(np.float32)
    model.predict(batch[:64], verbose=0)
    started = time.perf_counter()
    model.predict(batch, verbose=0, batch_size=config.batch_size)
    return time.perf_counter() - started


def main() -> None:
    """Interleaved rounds of one image, many images and the forward pass."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in reader.SUFFIXES)[:MANY]
    config, times = Config(source="phantoms"), []
    for _ in range(rounds):
        numbers, drawn = seconds(paths), seconds(paths, "--heat-maps")
        times.append((seconds(paths[:1]), drawn, numbers, forward(config, paths)))
    one, drawn, numbers, passes = np.median(times, axis=0)
    sys.stdout.write(
        f"{len(paths)} images, {rounds} rounds (medians): one image {one:.1f} s, all "
        f"{drawn:.1f} s, numbers only {numbers:.1f} s, forward pass {passes:.1f} s\n"
    )
    for name, column in (("with its heat map", 1), ("in numbers only", 2)):
        ratios = [(row[column] - row[0]) / row[3] for row in times]
        sys.stdout.write(
            f"a further image {name} costs {np.median(ratios):.2f} forward passes "
            f"({min(ratios):.2f} to {max(ratios):.2f})\n"
        )


if __name__ == "__main__":
    main()
