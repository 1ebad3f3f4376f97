"""Images per second of the pixel cache, of its batches, and of augmentation on all cores.

    python benchmarks/input.py [--images N] [--size N]

Phantoms are decoded into a pixel cache, which then lies in the memory of the system as during a
training. `cache` copies every image, one by one, in a shuffled order; `plain` and `augmented` are
whole batches as a training step gets them, in one thread.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import measured
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data import dataset, phantoms
from fracture_utils.data.generators import ImageBatches, shuffled

GENERATED, SIDE = 48, 256


def variants(config: Config, images: int, size: int) -> dict:
    """What is measured: names, and functions that pass all images once."""
    phantoms.make(config.images_dir, GENERATED, SIDE, 0)
    dataset.load(config, [size])
    pixels, _ = dataset.pixels(config.cache_dir, size)
    pixels = pixels[np.arange(images) % len(pixels)]
    rows, labels = shuffled(np.arange(images), config.seed, 1), np.zeros(images)
    plain, augmented = (ImageBatches(pixels, labels, rows, config, epoch) for epoch in (None, 1))

    def copies() -> None:
        for row in rows:
            np.array(pixels[row])

    def on_all_cores() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(augmented.__getitem__, range(len(augmented))))

    return {
        "cache": copies,
        "plain": lambda: [plain[k] for k in range(len(plain))],
        "augmented": lambda: [augmented[k] for k in range(len(augmented))],
        "augmented, all cores": on_all_cores,
    }


def main() -> None:
    """Interleaved rounds after one that warms up; the figures go to results/input.json."""
    parser = measured.arguments(__doc__, rounds=7)
    parser.add_argument("--images", type=int, default=1920)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    options, load = parser.parse_args(), measured.load()
    with tempfile.TemporaryDirectory() as folder:
        config = Config(source="phantoms", data_dir=folder, results_dir=Path(folder) / "results")
        each = variants(config, options.images, options.size)
        rates: dict[str, list[float]] = {name: [] for name in each}
        for _ in range(options.rounds + 1):
            for name, variant in each.items():
                started = time.perf_counter()
                variant()
                rates[name].append(options.images / (time.perf_counter() - started))
    figures = {f"{name} (images/s)": measured.spread(r[1:], 0) for name, r in rates.items()}
    measured.write("input", options, load, figures)


if __name__ == "__main__":
    main()
