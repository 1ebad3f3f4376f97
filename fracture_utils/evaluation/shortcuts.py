"""Metadata-only baseline: how well facts about the files, without the anatomy, predict the class.

If they do, a network may learn them instead of fractures (Badgeley et al., npj Digital Medicine
2, 2019, 31).
"""

import numpy as np
import pandas as pd
from scipy import special
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from fracture_utils.config import FRACTURED
from fracture_utils.data.dataset import Dataset
from fracture_utils.evaluation.metrics import auc_with_interval
from fracture_utils.evaluation.predictions import METADATA_ONLY

METADATA = ["width", "height", "aspect", "file_bytes", "bit_depth", "jpeg_quality", "border",
            "mean"]  # fmt: skip
FOLDS = 5
LEAF = {"min_samples_leaf": 10}  # so that no single image is memorized
MAX_AUC = 0.6  # above it the audit warns, if the interval excludes 0.5


def predictions(data: Dataset, seed: int = 0) -> pd.DataFrame:
    """Rows of the predictions table for validation and test, by a random forest fitted on train."""
    metadata, labels = _inputs(data)
    train = (data.images["split"] == "train").to_numpy()
    forest = RandomForestClassifier(60, random_state=seed, **LEAF)
    probability = forest.fit(metadata[train], labels[train]).predict_proba(metadata[~train])[:, 1]
    probability = probability.clip(1e-6, 1 - 1e-6)
    rows = data.images.loc[~train, ["path", "group", "label", "split"]].reset_index(drop=True)
    rows = rows.assign(model=METADATA_ONLY, kind="reference", logit=special.logit(probability))
    return rows.assign(probability=probability, fold=0)


def finding(data: Dataset, seed: int) -> dict[str, str]:
    """A row of the audit: the AUC of metadata over all images, cross-validated by group, with its
    95 % interval.
    """
    row = {"severity": "info", "check": "shortcut", "path": "", "other_path": "", "advice": ""}
    counts = data.images.groupby("label")["group"].nunique()
    if len(counts) < 2 or counts.min() < FOLDS:
        return row | {"finding": f"the metadata-only baseline needs {FOLDS} groups of each class"}
    metadata, labels = _inputs(data)
    groups = pd.factorize(data.images["group"])[0]
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    options = {"cv": list(splitter.split(metadata, labels, groups)), "method": "predict_proba"}
    forest = RandomForestClassifier(60, random_state=seed, **LEAF)
    probability = cross_val_predict(forest, metadata, labels, **options)[:, 1]
    auc, low, high = auc_with_interval(labels, probability, groups)
    facts = "image and file size, bit depth, JPEG quality, border and brightness"
    row["finding"] = f"{facts} alone reach an AUC of {auc:.2f} (95 % CI {low:.2f}-{high:.2f})"
    if auc > MAX_AUC and low > 0.5:
        row["severity"] = "amber"
        row["advice"] = f"compare the models with {METADATA_ONLY}: they may have learned this"
    return row


def _inputs(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """METADATA (n, 8), -1 where unknown, and labels (n,) of the images."""
    files = data.files.assign(aspect=data.files["width"] / data.files["height"].clip(1))
    metadata = data.images[["path"]].merge(files, on="path")[METADATA]
    return metadata.fillna(-1).to_numpy(float), (data.images["label"] == FRACTURED).to_numpy(int)
