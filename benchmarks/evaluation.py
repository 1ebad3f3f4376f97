"""Seconds for the intervals and paired tests of six models on 5,000 images, and for the import.

python benchmarks/evaluation.py
"""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.config import BACKBONES
from fracture_utils.evaluation import calibration, comparison, metrics

IMAGES = 5000
RESAMPLES = 2000


def predictions() -> pd.DataFrame:
    """Correlated logits of six models on images of 2,500 patients, every fifth fractured."""
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.random(IMAGES // 2) < 0.2, 2)
    shared = generator.normal(size=IMAGES)
    tables = []
    for split in ("validation", "test"):
        for model in BACKBONES:
            logits = 2.0 * labels - 1 + shared + generator.normal(size=IMAGES)
            columns = {
                "path": [f"{split}/{i}.png" for i in range(IMAGES)],
                "group": [f"{split}{i // 2}" for i in range(IMAGES)],
                "label": np.where(labels, "fractured", "normal"),
                "split": split,
                "model": model,
                "kind": "network",
                "logit": logits,
                "probability": special.expit(logits),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    """Print the seconds of each step."""
    raw = predictions()
    ready = calibration.apply(raw, calibration.fit(raw))
    steps = {
        "import": lambda: subprocess.run(
            [sys.executable, "-c", "import fracture_utils.plots.performance"], check=True
        ),
        "operating points": lambda: calibration.fit(raw),
        "scores": lambda: metrics.scores(ready, resamples=RESAMPLES),
        "comparisons": lambda: comparison.pairs(ready),
    }
    sys.stdout.write(f"{len(BACKBONES)} models, {IMAGES} images, {RESAMPLES} resamples\n")
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        sys.stdout.write(f"{name}: {time.perf_counter() - start:.2f} s\n")


if __name__ == "__main__":
    main()
