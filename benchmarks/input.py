"""Pictures per second of the pixel store, of its batches, and of augmentation on all cores.

    python benchmarks/input.py [--pictures N] [--size N]

Phantoms are decoded into a pixel store, which then lies in the memory of the system as during a
training. `store` copies every picture out of it, one by one, in a shuffled order; `plain` and
`augmented` are whole batches as a training step gets them, in one thread.
"""

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import measured
import numpy as np
import pandas as pd

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import phantoms, store
from fracture_utils.data.batches import Batches, shuffled

DRAWN, SIDE = 48, 256


def stored(config: Config, pictures: int, size: int) -> np.ndarray:
    """A pixel store of phantoms, of which DRAWN are drawn and then repeated."""
    phantoms.make(config.pictures_dir, DRAWN, SIDE, 0)
    paths = sorted(config.pictures_dir.rglob("*.png"))
    names = [path.relative_to(config.pictures_dir).as_posix() for path in paths]
    known = pd.DataFrame({"path": names, "sha256": [files.sha256(path) for path in paths]})
    table = known.iloc[np.arange(pictures) % len(known)].reset_index(drop=True)
    return store.pixels(table, config, size)


def ways(pixels: np.ndarray, config: Config) -> dict:
    """What is measured: each name and what passes all pictures once."""
    labels, rows = np.zeros(len(pixels)), shuffled(np.arange(len(pixels)), config, 1)
    plain, augmented = (Batches(pixels, labels, rows, config, epoch) for epoch in (None, 1))

    def copied() -> None:
        for row in rows:
            np.array(pixels[row])

    def on_all_cores() -> None:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(augmented.__getitem__, range(len(augmented))))

    return {
        "store": copied,
        "plain": lambda: [plain[k] for k in range(len(plain))],
        "augmented": lambda: [augmented[k] for k in range(len(augmented))],
        "augmented, all cores": on_all_cores,
    }


def main() -> None:
    """Rounds of all ways in turns after one that warms up; figures go to results/input.json."""
    parser = measured.arguments(__doc__, rounds=7)
    parser.add_argument("--pictures", type=int, default=1920)
    parser.add_argument("--size", type=int, default=224, help="side of the pictures in pixels")
    asked, load = parser.parse_args(), measured.busy()
    with tempfile.TemporaryDirectory() as folder:
        config = Config(source="phantoms", data_dir=folder, results_dir=Path(folder) / "results")
        each = ways(stored(config, asked.pictures, asked.size), config)
        rates: dict[str, list[float]] = {name: [] for name in each}
        for _ in range(asked.rounds + 1):
            for name, way in each.items():
                started = time.perf_counter()
                way()
                rates[name].append(asked.pictures / (time.perf_counter() - started))
    figures = {f"{name} (pictures/s)": measured.spread(r[1:], 0) for name, r in rates.items()}
    measured.keep("input", asked, load, figures)


if __name__ == "__main__":
    main()
