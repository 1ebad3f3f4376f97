"""MURA-v1.1: studies of the upper limb, normal or abnormal."""

import re

import pandas as pd

from fracture_utils.data import folders
from fracture_utils.data.sources import published


def read(upstream: published.Upstream) -> tuple[pd.DataFrame, pd.DataFrame]:
    pattern = re.compile(r"([^/]+)/XR_(\w+)/(patient\d+)/(study\d+)_(positive|negative)/([^/]+)$")
    rows = []
    for file in upstream.pictures:
        match = pattern.search(file.as_posix())
        if not match:
            upstream.leave(file, published.NO_CLASS)
            continue
        above, part, patient, study, finding, name = match.groups()
        split = "train" if folders.split_word(above) == "train" else "test"
        label = "fractured" if finding == "positive" else "normal"
        study = f"{patient}_{part.lower()}_{study}"
        rows.append({"file": file, "path": f"{split}/{label}/{study}_{name}", "label": label,
                     "split": split, "patient": patient, "study": study,
                     "body_part": part.lower(),
                     "finding": "abnormal" if finding == "positive" else "normal"})  # fmt: skip
    return pd.DataFrame(rows), published.boxes([])


SOURCE = published.Source(
    "MURA-v1.1", "abnormal",
    "Stanford University School of Medicine MURA Dataset Research Use Agreement: no commercial "
    "use, no redistribution.",
    "P. Rajpurkar et al., MURA: Large Dataset for Abnormality Detection in Musculoskeletal "
    "Radiographs, 2018, arXiv:1712.06957. Its positive class is abnormal, not fractured.",
    read,
)  # fmt: skip
