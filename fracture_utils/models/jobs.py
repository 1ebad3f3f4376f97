"""Training jobs: one process a network, one line of progress, tables at the end.

This side never imports Keras, so that the notebook stays light and quiet.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils import files, tables
from fracture_utils.config import CLASS_NAMES, SPLITS, Config
from fracture_utils.data import places, reader, store
from fracture_utils.data.sidecars import BOX_COLUMNS
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger, claim, code_fingerprint, versions
from fracture_utils.models import backbones, process
from fracture_utils.models.backbones import REGISTRY, Weights
from fracture_utils.models.progress import Progress

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
    *("models/classifier", "models/evidence", "models/features", "models/heads"),
    *("models/training", "models/prediction", "models/precision", "models/worker"),
    *("data/greys", "data/dicom", "data/reader", "data/store"),
    *("data/augmentation", "data/batches", "data/places"),
)
"""The modules that a trained network depends on."""
LIBRARIES = ["keras", "tensorflow", "numpy"]
"""The libraries that it depends on."""
LATE_CODE = ("models/heatmaps", "models/familiarity")
"""Those that matter to the last stage only."""
ENSEMBLE = "Ensemble"
"""The model whose logit is the mean of the calibrated logits of all networks."""
_FILE_COLUMNS = {"width", "height", "bit_depth", "sha256"}
MAPS = "maps"
"""What the name of a folder begins with that holds maps until its network is trained."""
PLACES = 0.6
"""What a picture of 384 px costs in an epoch of the evidence head, in billions of multiply-adds."""
START = 1000.0
"""What starting a process and building its graph costs, in billions of multiply-adds."""


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

    @property
    def folder(self) -> Path:
        """Where features, checkpoints, history, predictions and the log of the network lie."""
        return self.config.cache_dir / "networks" / self.name

    def keys(self) -> dict[str, dict[str, str]]:
        """For each stage the fingerprints of all that its result depends on."""
        columns = ["path", "group", "label", "split", "sha256"]
        backend = process.environment()["KERAS_BACKEND"]
        key = {
            "data": files.fingerprint(
                [self.images[columns].to_numpy().tolist(), self.boxes.to_numpy().tolist()]
            ),
            "weights": f"{self.weights.initialisation} {self.weights.sha256}".strip(),
            "precision": self.config.precision,
            "architecture": files.fingerprint(asdict(REGISTRY[self.name])),
            "code": code_fingerprint(*CODE),
            "a library": f"{backend} {versions()[LIBRARIES].to_dict()}",
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

    def marks(self) -> list[np.ndarray | None]:
        """For each picture its boxes as a picture (`places.mark`), all black where it is normal,
        and None for a fracture without a box.
        """
        size, known = REGISTRY[self.name].size(self.config), dict(list(self.boxes.groupby("path")))
        marked: list[np.ndarray | None] = []
        for row in self.images.itertuples():
            if row.label == CLASS_NAMES[0]:
                marked.append(np.zeros((size, size), np.uint8))
            elif row.path in known:
                corners = known[row.path][BOX_COLUMNS[1:]].to_numpy(float)
                shape = (int(row.height), int(row.width))
                marked.append(places.mark(corners, shape, size, self.config.aspect))
            else:
                marked.append(None)
        return marked

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
        files.write_json(self.folder / "job.json", job)

    @classmethod
    def load(cls, folder: Path) -> "Job":
        """The job that was saved in `folder`."""
        job = files.read_json(folder / "job.json")
        path = job["weights"]["path"]
        weights = Weights(**job["weights"] | {"path": Path(path) if path else None})
        images = pd.read_csv(folder / "images.csv", dtype=str, keep_default_na=False)
        corners = dict.fromkeys(BOX_COLUMNS[1:], float)  # a key tells 61 from 61.0
        boxes = pd.read_csv(folder / "boxes.csv", dtype={"path": str} | corners)
        return cls(folder.name, Config(**job["config"]), weights, images, boxes)


def train(images: pd.DataFrame, config: Config, boxes: pd.DataFrame) -> pd.DataFrame:
    """Train every network of the settings, each in its own process, one after the other, on the
    images table and the `boxes` of `sidecars.boxes`.

    What is done and still valid is not done again; what was interrupted goes on. A network that
    fails leaves the others standing. Returns (and writes to networks.csv) one row a network:
    model, status (trained, failed or left out), why, initialisation, note, precision, hardware,
    parameters, multiply_adds, seconds_per_picture, seconds, and seconds_<stage>. InputError
    where no network at all can be trained, or where another run works in the same folder.
    """
    weights, left_out = backbones.find_weights(config)
    columns = ["path", "group", "label", "split", "sha256", "width", "height"]
    needed = images[[name for name in columns if name in images]]
    known = _known_boxes(images, boxes)
    jobs = [Job(name, config, weights[name], needed, known) for name in weights]
    sizes = [REGISTRY[job.name].size(config) for job in jobs]  # one too small stops the run here
    rows = []
    with claim(config.cache_dir), claim(config.models_dir):
        folders = [config.results_dir, config.models_dir, config.cache_dir]
        folders += [config.cache_dir / "pixels", *(job.folder for job in jobs)]
        for path in files.leftovers(*folders):
            path.unlink()
        progress = Progress({job.name: _work(job) for job in jobs}, config.results_dir / "run.log")
        for name, why in left_out.items():
            progress.finish(name, "left out", why)
            rows.append({"model": name, "status": "left out", "why": why})
        progress.announce({job.name for job in jobs if job.finished()})
        store.build(needed, config, sizes)  # each picture is decoded once for all networks
        for job in jobs:
            rows.append(_row(*_train_one(job, progress)))
    networks = tables.write(config.results_dir, "networks", pd.DataFrame(rows))
    if not (networks["status"] == "trained").any():
        raise InputError("No network could be trained. " + " ".join(networks["why"]))
    return networks


def history(networks: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The history table of all trained networks; also written to history.csv."""
    return tables.write(config.results_dir, "history", _collect(networks, config, "history"))


def seeds(networks: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The seeds table of all trained networks; also written to seeds.csv, where there are some."""
    table = _collect(networks, config, "seeds")
    if table.empty:
        tables.drop(config.results_dir, "seeds")
        return table
    return tables.write(config.results_dir, "seeds", table)


def predictions(networks: pd.DataFrame, images: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The predictions table of all trained networks, with what images.csv knows but digests.

    Rows are the validation and the test pictures; the probability is not calibrated yet.
    """
    table = _collect(networks, config, "predictions")
    known = [c for c in images if c not in {*table, *_FILE_COLUMNS} and not c.endswith("sha256")]
    return table.merge(images[["path", *known]], on="path", validate="many_to_one")


def heatmaps(
    networks: pd.DataFrame, images: pd.DataFrame, config: Config
) -> dict[str, dict[str, np.ndarray]]:
    """The class activation map of each trained network and test picture: maps[model][path].

    Each, float32 (reader.GRID, reader.GRID), covers the picture from edge to edge, whatever the
    shapes of picture and network. `images` needs path, split, height and width.
    """
    seen, maps = images[images["split"] != "train"].reset_index(drop=True), {}
    tested = seen[seen["split"] == "test"]
    for name in networks.loc[networks["status"] == "trained", "model"]:
        folder = folder_of(name, config)
        size = files.read_json(folder / "network.json")["input_size"]
        squares = files.read_arrays(folder / "heatmaps.npz")[1]["maps"]
        maps[name] = {
            row.path: reader.unfit(squares[row.Index], (row.height, row.width), size, config.aspect)
            for row in tested.itertuples()
        }
    return maps


def _known_boxes(images: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """The boxes of the pictures, as far as the table knows how large those are."""
    sized = images["path"] if {"width", "height"} <= set(images) else []
    return boxes[boxes["path"].isin(sized)].reset_index(drop=True).round(1)


def _train_one(job: Job, progress: Progress) -> tuple[Job, str, str]:
    """The job as it was finished, its status and why."""
    in_float32 = replace(job, config=job.config.model_copy(update={"precision": "float32"}))
    for candidate, why in ((job, ""), (in_float32, "float32, since the loss was no number before")):
        if candidate.finished():
            progress.finish(job.name, "kept from an earlier run")
            return candidate, "trained", why
    why, attempt = "", job
    code, error = _run_worker(job, progress)
    if code == DIVERGED and job.config.precision != "float32":
        progress.say(f"{job.name}: {error} Once more in float32.")
        attempt, why = in_float32, "float32, since the loss was no number before"
        code, error = _run_worker(in_float32, progress)
    if code == 0:
        progress.finish(job.name, "trained")
        return attempt, "trained", why
    progress.finish(job.name, "failed", error)
    return attempt, "failed", error


def _run_worker(job: Job, progress: Progress) -> tuple[int, str]:
    """Run the job's process to its end; its exit code and, where it is not 0, what went wrong."""
    job.save()
    return process.train(job.folder, lambda event: progress.hear(job.name, event))


def _row(job: Job, status: str, why: str) -> dict:
    row: dict[str, object] = {"model": job.name, "status": status, "why": why}
    row |= {"initialisation": job.weights.initialisation, "note": job.weights.note}
    if status != "trained":
        return row
    description = files.read_json(job.folder / "network.json")
    seconds = {f"seconds_{stage}": s for stage, s in Ledger(job.folder).seconds().items()}
    kept = ("head", "note", "precision", "hardware", "parameters", "waiting",
            "seconds_per_picture", "randomised_correlation")  # fmt: skip
    row |= {name: description[name] for name in kept}
    row["multiply_adds"] = REGISTRY[job.name].multiply_adds
    return row | {"seconds": round(sum(seconds.values()), 1)} | seconds


def _work(job: Job) -> dict[str, float]:
    """The cost of each stage in billions of multiply-adds: passes of pictures, and the start."""
    counts = job.images["split"].value_counts()
    train, validation, test = (int(counts.get(split, 0)) for split in SPLITS)
    size = REGISTRY[job.name].size(job.config)
    scale = (size / REGISTRY[job.name].native_size) ** 2
    cost = REGISTRY[job.name].multiply_adds * scale
    places = PLACES * (size / 384) ** 2 * job.config.place_epochs * job.config.seeds * train
    passes = {
        "features": len(job.images) + (job.config.views - 1) * train,
        "head": 0 if job.config.head == "mean" or job.boxes.empty else places / cost,
        "fine_tune": job.config.fine_tune_epochs * (1.5 * train + 2 * validation),
        "predict": (validation + test) * bool(job.config.fine_tune_epochs),
    }
    return {stage: START / len(STAGES) + count * cost for stage, count in passes.items()}


def _collect(networks: pd.DataFrame, config: Config, name: str) -> pd.DataFrame:
    trained = networks.loc[networks["status"] == "trained", "model"]
    parts = [tables.read(folder_of(model, config), name) for model in trained]
    return pd.concat(parts, ignore_index=True)


def folder_of(name: str, config: Config) -> Path:
    """Where the worker of a network leaves what it made."""
    return config.cache_dir / "networks" / name
