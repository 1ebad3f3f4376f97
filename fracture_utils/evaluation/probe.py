"""A model that knows each file and no bone: how far a shortcut alone would carry a network.

It sees size, depth, quality, border and mean brightness of a picture. Where those tell the class,
a network may have learnt them instead of fractures. After Badgeley et al., npj Digital Medicine 2
(2019) 31.
"""

import numpy as np
import pandas as pd
from scipy import special
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from fracture_utils.evaluation.metrics import auc_with_interval
from fracture_utils.evaluation.predictions import FRACTURED, PROBE

METADATA = (
    "width", "height", "aspect", "file_bytes", "bit_depth", "jpeg_quality", "border", "mean",
)  # fmt: skip
FOLDS = 5
LEAF = 10
"""Pictures in the smallest leaf of a tree: enough that none is learnt by heart."""
WARN_ABOVE = 0.6
"""AUC that is worth a warning, if its interval leaves out 0.5."""


def predictions(images: pd.DataFrame, files: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Rows of the predictions table for validation and test, by a probe fitted on train alone, so
    that it can stand beside the networks as a reference.

    `images` is the images table, `files` the inventory's, with METADATA but for the aspect.
    """
    facts, truth = _facts(images, files), _truth(images)
    train = (images["split"] == "train").to_numpy()
    fitted = _forest(seed).fit(facts[train], truth[train])
    probability = fitted.predict_proba(facts[~train])[:, 1].clip(1e-6, 1 - 1e-6)
    known = images.loc[~train, ["path", "group", "label", "split"]].reset_index(drop=True)
    said = {"logit": special.logit(probability), "probability": probability}
    return known.assign(model=PROBE, kind="reference", **said)


def finding(images: pd.DataFrame, files: pd.DataFrame, seed: int) -> dict[str, str]:
    """A row for the audit: the AUC that the probe reaches, cross-validated by group over all
    pictures, with its 95 % interval, and the one fact that alone does best.
    """
    row = {"severity": "info", "check": "shortcut", "path": "", "other": ""}
    if images.groupby("label")["group"].nunique().min() < FOLDS:
        what = f"the shortcut probe needs {FOLDS} groups of each class"
        return row | {"what": what, "advice": ""}
    facts, truth = _facts(images, files), _truth(images)
    groups = pd.factorize(images["group"])[0]
    folds = list(
        StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(facts, truth, groups)
    )

    def unseen(learner: object, columns: np.ndarray) -> np.ndarray:
        said = cross_val_predict(learner, columns, truth, cv=folds, method="predict_proba")
        return said[:, 1]

    auc, low, high = auc_with_interval(truth, unseen(_forest(seed), facts), groups)
    stump = DecisionTreeClassifier(max_leaf_nodes=8, min_samples_leaf=LEAF, random_state=seed)
    alone = {
        name: roc_auc_score(truth, unseen(stump, column[:, None]))
        for name, column in zip(METADATA, facts.T, strict=True)
    }
    best = max(alone, key=alone.__getitem__)
    what = (
        f"size, depth, quality, border and brightness alone reach AUC {auc:.2f} ({low:.2f} to "
        f"{high:.2f}); most telling: {best}, alone {alone[best]:.2f}"
    )
    advice = f"a network may learn this instead of fractures: compare it with the row {PROBE}"
    if auc > WARN_ABOVE and low > 0.5:
        return row | {"severity": "amber", "what": what, "advice": advice}
    return row | {"what": what, "advice": ""}


def _forest(seed: int) -> RandomForestClassifier:
    return RandomForestClassifier(60, min_samples_leaf=LEAF, random_state=seed)


def _truth(images: pd.DataFrame) -> np.ndarray:
    return (images["label"] == FRACTURED).to_numpy(int)


def _facts(images: pd.DataFrame, files: pd.DataFrame) -> np.ndarray:
    known = files.assign(aspect=files["width"] / files["height"].clip(1))
    return images[["path"]].merge(known, on="path")[list(METADATA)].fillna(-1).to_numpy(float)
