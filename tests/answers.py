"""Made-up tables of predictions for tests."""

import itertools

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.evaluation import calibration


def predictions(networks, count, share):
    generator = np.random.default_rng(3)
    tables = []
    for split, name in itertools.product(("validation", "test"), networks):
        labels = (np.arange(count) < round(share * count)).astype(int)
        logits = 1.5 * labels - 0.7 + generator.normal(size=count)
        tables.append(
            pd.DataFrame(
                {
                    "path": [f"{split}/{i:03d}.png" for i in range(count)],
                    "group": [f"{split}{i // 2}" for i in range(count)],
                    "label": np.where(labels == 1, "fractured", "normal"),
                    "split": split,
                    "model": name,
                    "kind": "network",
                    "logit": logits,
                    "probability": special.expit(logits),
                    "body_part": np.array(["hand", "an unusually long name of a body part"])[
                        np.arange(count) % 2
                    ],
                }
            )
        )
    return calibration.ensembles(pd.concat(tables, ignore_index=True))
