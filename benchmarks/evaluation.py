"""Seconds for the intervals and paired tests of 6 models on 5,000 pictures, and for the import.

Run from the repository's root: python -m benchmarks.evaluation
"""

import subprocess
import sys
import time

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.evaluation import calibration, comparison, metrics
from fracture_utils.networks import REGISTRY

PICTURES = 5000
RESAMPLES = 2000


def predictions() -> pd.DataFrame:
    """Correlated logits of six networks on pictures of 2,500 patients, every fifth fractured."""
    generator = np.random.default_rng(0)
    labels = np.repeat(generator.random(PICTURES // 2) < 0.2, 2)
    shared = generator.normal(size=PICTURES)
    tables = []
    for split in ("validation", "test"):
        for model in REGISTRY:
            logits = 2.0 * labels - 1 + shared + generator.normal(size=PICTURES)
            columns = {
                "path": [f"{split}/{i}.png" for i in range(PICTURES)],
                "group": [f"{split}{i // 2}" for i in range(PICTURES)],
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
    raw = predictions()
    ready = calibration.apply(raw, calibration.fit(raw))
    steps = {
        "import": lambda: subprocess.run(
            [sys.executable, "-c", "import fracture_utils.evaluation.plots"], check=True
        ),
        "ensembles and operating points": lambda: calibration.fit(calibration.ensembles(raw)),
        "scores": lambda: metrics.scores(ready, resamples=RESAMPLES),
        "comparisons": lambda: comparison.pairs(ready, resamples=RESAMPLES),
        "rank stability": lambda: comparison.rank_stability(ready, resamples=RESAMPLES),
    }
    sys.stdout.write(f"{len(REGISTRY)} models, {PICTURES} pictures, {RESAMPLES} resamples\n")
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        sys.stdout.write(f"{name}: {time.perf_counter() - start:.2f} s\n")


if __name__ == "__main__":
    main()
