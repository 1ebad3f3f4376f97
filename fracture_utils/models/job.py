"""One training job: what it depends on, what its worker has to know, and where it works."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils import files
from fracture_utils.config import CLASS_NAMES, Config
from fracture_utils.data import places
from fracture_utils.data.sidecars import BOX_COLUMNS
from fracture_utils.ledger import Ledger, code_fingerprint, maker
from fracture_utils.models import process
from fracture_utils.models.backbones import REGISTRY, Weights

DIVERGED, REFUSED = 3, 4
"""Exit codes of a worker: the loss is no number; an InputError, told as an event."""
STAGES = ("features", "head", "fine_tune", "predict")
_SETTINGS = {
    "features": (
        "aspect", "image_size", "views", "batch_size", "seed", "horizontal_flip", "vertical_flip",
        "rotation", "zoom", "shift", "brightness", "contrast", "maps_limit",
    ),
    "head": (
        "dropout", "head_epochs", "head_learning_rate", "head_l2", "patience", "head", "head_width",
        "place_dropout", "place_epochs", "place_learning_rate", "box_weight", "seeds",
    ),
    "fine_tune": ("fine_tune_epochs", "fine_tune_learning_rate", "fine_tune_depth"),
    "predict": (),
}  # fmt: skip
"""What each stage depends on, beside what the stages before it depend on."""
CODE = (
    *("models/classifier", "models/folding", "models/evidence", "models/features", "models/heads"),
    *("models/training", "models/prediction", "models/precision", "models/worker"),
    *("data/greys", "data/dicom", "data/reader", "data/store"),
    *("data/augmentation", "data/batches", "data/places"),
)
"""The modules that a trained network depends on."""
LIBRARIES = ["keras", "tensorflow", "numpy"]
"""The libraries that it depends on, beside Keras's backend where that is another."""
LATE_CODE = ("models/heatmaps", "models/familiarity")
"""Those that matter to the last stage only."""
SAVED = "job.json"
MAPS = "maps"
"""What the name of a folder begins with that holds maps until its network is trained."""


def folder_of(name: str, config: Config) -> Path:
    """Where features, checkpoints, history, predictions and the log of a network lie."""
    return config.cache_dir / "networks" / name


@dataclass(frozen=True)
class Job:
    """The training of one network: everything its worker has to know, and where it works.

    `images` has the columns path, group, label, split and sha256, and may have width and height;
    `boxes` are those of `sidecars.boxes`, of pictures whose width and height are known.
    """

    name: str
    config: Config
    weights: Weights
    images: pd.DataFrame
    boxes: pd.DataFrame
    card: str = ""
    """The graphics card that it uses; empty: any."""

    @property
    def folder(self) -> Path:
        return folder_of(self.name, self.config)

    def keys(self) -> dict[str, dict[str, str]]:
        """For each stage the fingerprints of all that its result depends on."""
        columns = ["path", "group", "label", "split", "sha256"]
        backend = process.environment()["KERAS_BACKEND"]
        key = maker(CODE, list(dict.fromkeys([backend, *LIBRARIES]))) | {
            "data": files.fingerprint(
                [self.images[columns].to_numpy().tolist(), self.boxes.to_numpy().tolist()]
            ),
            "weights": f"{self.weights.initialisation} {self.weights.sha256}".strip(),
            "precision": self.config.precision,
            "architecture": files.fingerprint(asdict(REGISTRY[self.name])),
        }
        keys: dict[str, dict[str, str]] = {}
        settings: dict[str, object] = {}
        for stage in STAGES:
            settings |= {name: getattr(self.config, name) for name in _SETTINGS[stage]}
            keys[stage] = key | {"settings": files.fingerprint(settings)}
        keys["predict"]["code"] += code_fingerprint(*LATE_CODE)
        return keys

    def path(self, stage: str) -> Path:
        """The file of arrays of a stage ("checkpoint" is fine-tuning's), named by its key."""
        key = self.keys()["fine_tune" if stage == "checkpoint" else stage]
        return self.folder / f"{stage}-{files.fingerprint(key)}.npz"

    def maps_name(self) -> str:
        """The folder of maps inside `folder`, named by the key of the features."""
        return f"{MAPS}-{files.fingerprint(self.keys()['features'])}"

    def mark(self) -> Callable[[int], np.ndarray | None]:
        """A function that draws the boxes of a row of `images` as a picture (`places.mark`), all
        black where it is normal, and gives None for a fracture without a box.
        """
        size, known = REGISTRY[self.name].size(self.config), dict(list(self.boxes.groupby("path")))
        names, labels = self.images["path"].to_numpy(), self.images["label"].to_numpy()

        def draw(row: int) -> np.ndarray | None:
            if labels[row] == CLASS_NAMES[0]:
                return np.zeros((size, size), np.uint8)
            if names[row] not in known:
                return None
            height, width = self.images[["height", "width"]].iloc[row]
            corners = known[names[row]][BOX_COLUMNS[1:]].to_numpy(float)
            return places.mark(corners, (int(height), int(width)), size, self.config.aspect)

        return draw

    def in_float32(self) -> "Job":
        """The same job in plain arithmetic."""
        return replace(self, config=self.config.model_copy(update={"precision": "float32"}))

    def with_whole_paths(self) -> "Job":
        """The same job for a process that works in another folder."""
        names = ("data_dir", "results_dir", "models_dir")
        whole = {name: getattr(self.config, name).absolute() for name in names}
        path = self.weights.path and Path(self.weights.path).absolute()
        config = self.config.model_copy(update=whole)
        return replace(self, config=config, weights=replace(self.weights, path=path))

    def finished(self) -> bool:
        """Whether every stage is finished and its files are whole."""
        ledger = Ledger(self.folder)
        return all(ledger.finished(stage, key) for stage, key in self.keys().items())

    def save(self) -> None:
        """Write what `load` reads."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_table(self.folder / "images.csv", self.images)
        files.write_table(self.folder / "boxes.csv", self.boxes)
        job = {"config": self.config.model_dump(mode="json"), "weights": asdict(self.weights)}
        files.write_json(self.folder / SAVED, job)

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """The job that was saved in `folder`."""
        job = files.read_json(folder / SAVED)
        path = job["weights"]["path"]
        weights = Weights(**job["weights"] | {"path": Path(path) if path else None})
        images = pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)
        corners = dict.fromkeys(BOX_COLUMNS[1:], float)  # a key tells 61 from 61.0
        boxes = pd.read_csv(folder / "boxes.csv", dtype={"path": str} | corners)
        return cls(folder.name, Config(**job["config"]), weights, images, boxes)
