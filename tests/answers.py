"""Made-up tables of predictions for tests."""

import itertools

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.predictions import KIND_OF


def of_model(split, model, labels, logits):
    """The rows of one model and split; two pictures a group."""
    numbers = range(len(labels))
    return pd.DataFrame(
        {
            "path": [f"{split}/{i:03d}.png" for i in numbers],
            "group": [f"{split}{i // 2}" for i in numbers],
            "label": np.where(labels == 1, "fractured", "normal"),
            "split": split,
            "model": model,
            "kind": KIND_OF.get(model, "network"),
            "logit": logits,
            "probability": special.expit(logits),
        }
    )


def predictions(networks, count, share):
    generator = np.random.default_rng(3)
    tables = []
    for split, name in itertools.product(("validation", "test"), networks):
        labels = (np.arange(count) < round(share * count)).astype(int)
        logits = 1.5 * labels - 0.7 + generator.normal(size=count)
        parts = np.array(["hand", "an unusually long name of a body part"])[np.arange(count) % 2]
        tables.append(of_model(split, name, labels, logits).assign(body_part=parts))
    return calibration.ensembles(pd.concat(tables, ignore_index=True))
