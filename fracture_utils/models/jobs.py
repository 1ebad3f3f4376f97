"""Training jobs: one process a network, one line of progress, tables at the end.

This side never imports Keras, so that the notebook stays light and quiet.
"""

import functools
import platform
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from fracture_utils import events, files, lazy, tables
from fracture_utils.config import SPLITS, Config
from fracture_utils.data import reader, store
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger, claim
from fracture_utils.models import backbones, crew, process
from fracture_utils.models.backbones import REGISTRY
from fracture_utils.models.cluster import Cluster
from fracture_utils.models.job import DIVERGED, LIBRARIES, SAVED, STAGES, Job, folder_of
from fracture_utils.models.progress import Progress

ENSEMBLE = "Ensemble"
"""The model whose logit is the mean of the calibrated logits of all networks."""
_FILE_COLUMNS = {"width", "height", "bit_depth", "sha256"}
PLACES = 0.6
"""What a picture of 384 px costs in an epoch of the evidence head, in billions of multiply-adds."""
IN_FLOAT32 = "float32, since the loss was no number before"
START = 1000.0
"""What starting a process and building its graph costs, in billions of multiply-adds."""


Done = tuple[Job, str, str]
"""A job as it was finished, its status (trained or failed) and why."""


def train(images: pd.DataFrame, config: Config, boxes: pd.DataFrame) -> pd.DataFrame:
    """Train every network of the settings, each in its own process, on the images table and the
    `boxes` of `sidecars.boxes`: on the cluster of the settings, or else here, one on each graphics
    card at once where there are several, one after the other where there are not.

    What is done and still valid is not done again; what was interrupted goes on. A network that
    fails leaves the others standing. Returns (and writes to networks.csv) one row a network:
    model, status (trained, failed or left out), why, initialisation, note, precision, hardware,
    parameters, multiply_adds, seconds_per_picture, seconds, and seconds_<stage>. InputError
    where no network at all can be trained, or where another run works in the same folder.
    """
    events.check(config.tensorboard)
    weights, left_out = backbones.find_weights(config)
    columns = ["path", "group", "label", "split", "sha256", "width", "height"]
    needed = images[[name for name in columns if name in images]]
    known = _known_boxes(images, boxes)
    jobs = [Job(name, config, weights[name], needed, known) for name in weights]
    sizes = {job.name: REGISTRY[job.name].size(config) for job in jobs}  # too small: it stops here
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
        done = {job.name: kept for job in jobs if (kept := _kept(job))}
        for name in done:
            progress.finish(name, "kept from an earlier run")
        if not config.cluster:
            progress.announce()
        waiting = [job for job in jobs if job.name not in done]
        if waiting:  # each picture is decoded once for all networks
            store.build(needed, config, [sizes[job.name] for job in waiting])
        for job, status, why in _trained(waiting, config, progress):
            progress.finish(job.name, status, why if status == "failed" else "")
            done[job.name] = job, status, why
        rows += [_row(*done[job.name]) for job in jobs]
    networks = tables.write(config.results_dir, "networks", pd.DataFrame(rows))
    if not (networks["status"] == "trained").any():
        raise InputError("No network could be trained. " + " ".join(networks["why"]))
    return networks


def history(networks: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The history table of all trained networks; also written to history.csv, and for TensorBoard
    where the settings ask for that.
    """
    table = tables.write(config.results_dir, "history", _collect(networks, config, "history"))
    if config.tensorboard:
        events.write(table, config.tensorboard)
    return table


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


def heatmaps(networks: pd.DataFrame, images: pd.DataFrame, config: Config) -> dict[str, lazy.Lazy]:
    """The class activation map of each trained network and test picture: maps[model][path].

    Each, float32 (reader.GRID, reader.GRID), covers the picture from edge to edge, whatever the
    shapes of picture and network; it is read when it is asked for, and not held. `images` needs
    path, split, height and width.
    """
    seen = images[images["split"] != "train"].reset_index(drop=True)
    tested = list(seen[seen["split"] == "test"].itertuples())

    def of(name: str) -> lazy.Lazy:
        folder = folder_of(name, config)
        size = files.read_json(folder / "network.json")["input_size"]
        squares = lazy.rows(folder / "heatmaps.npz", "maps")

        def made(place: int) -> np.ndarray:
            row = tested[place]
            shape = (row.height, row.width)
            return reader.unfit(squares(row.Index), shape, size, config.aspect)

        return lazy.Lazy([row.path for row in tested], made)

    return {name: of(name) for name in networks.loc[networks["status"] == "trained", "model"]}


def _known_boxes(images: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """The boxes of the pictures, as far as the table knows how large those are."""
    sized = images["path"] if {"width", "height"} <= set(images) else []
    return boxes[boxes["path"].isin(sized)].reset_index(drop=True).round(1)


def _kept(job: Job) -> Done | None:
    """What an earlier run made of a job, where all of it is still valid."""
    for candidate, why in ((job, ""), (job.in_float32(), IN_FLOAT32)):
        if candidate.finished():
            return candidate, "trained", why
    return None


def _trained(waiting: list[Job], config: Config, progress: Progress) -> Iterator[Done]:
    """What `_train_one` says of each job, as they end."""
    cards = crew.visible()
    if not waiting or not (config.cluster or min(len(cards), len(waiting)) > 1):
        yield from (_train_one(job, progress) for job in waiting)
        return
    jobs = {job.name: job.with_whole_paths() for job in waiting}
    for job in jobs.values():
        job.save()
    tasks = {n: functools.partial(_train_elsewhere, job, job.keys()) for n, job in jobs.items()}
    with Cluster(config.cluster) if config.cluster else crew.Cards(cards) as hands:
        for name, result in crew.side_by_side(hands, tasks, progress):
            yield (jobs[name], "failed", result) if isinstance(result, str) else result


def _train_elsewhere(job: Job, keys: dict, teller: crew.Teller, card: str) -> Done:
    """`_train_one` on a card or a machine, if that sees the job's files and computes alike."""
    if not (job.folder / SAVED).is_file():
        why = f"{platform.node()} does not see {job.folder}; the cluster has to share that folder."
        return job, "failed", why
    if job.keys() != keys:
        why = (
            f"{platform.node()} has another version of this project, of {', '.join(LIBRARIES)}, or "
        )
        return job, "failed", why + "another KERAS_BACKEND; install the same there."
    return _train_one(replace(job, card=card), teller)


def _train_one(job: Job, progress: Progress | crew.Teller) -> Done:
    """The job as it was finished, its status and why."""
    why, attempt = "", job
    code, error = _run_worker(job, progress)
    if code == DIVERGED and job.config.precision != "float32":
        progress.say(f"{job.name}: {error} Once more in float32.")
        attempt, why = job.in_float32(), IN_FLOAT32
        code, error = _run_worker(attempt, progress)
    return (attempt, "failed", error) if code else (attempt, "trained", why)


def _run_worker(job: Job, progress: Progress | crew.Teller) -> tuple[int, str]:
    """Run the job's process to its end; its exit code and, where it is not 0, what went wrong."""
    job.save()
    return process.train(job.folder, lambda event: progress.hear(job.name, event), job.card)


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
