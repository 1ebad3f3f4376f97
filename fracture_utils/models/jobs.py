"""All models of a run, each in its own process: here, one per GPU, or on a Dask cluster."""

import contextlib
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from fracture_utils import artifacts, tables
from fracture_utils.config import AUGMENTATION, PREFIX, Config, InputError, first_line
from fracture_utils.data import reader, splits
from fracture_utils.models import backbones
from fracture_utils.models.backbones import Weights

TRAINING = "fracture_utils.models.training"
STAGES = ("features", "head", "fine_tune", "predict")
SETTINGS = {  # of `Config`, on which a trained model depends
    *("batch_size", "seed", "precision", "head", "disk_limit", "fine_tune_epochs"),
    *("fine_tune_depth", "augmented_copies", *AUGMENTATION),
}
CODE = ["data/dataset.py", "data/generators.py", "data/reader.py", "evaluation/intervals.py"]
CODE += [f"models/{name}.py" for name in ("backbones", "builder", "features", "heatmaps", "ood")]
CODE += ["models/training.py"]
LIBRARIES = ["keras", "tensorflow", "jax", "numpy", "scikit-learn"]
CANCEL = "cancel"  # a file of this name in a job folder stops the training, on any machine
POLL, PATIENCE = 0.3, 30  # seconds: between updates of the progress; to wait for a scheduler
BAR = "{desc:<26}{percentage:3.0f} %|{bar}| {elapsed}"
OWN = threading.local()  # of a thread that trains on this machine: its GPU
KILLED = f"The process was killed, most often for lack of memory; lower {PREFIX}BATCH_SIZE."


class Training(NamedTuple):
    """Tables networks, history and predictions (uncalibrated), and for the test images
    heat_maps[model][path], each float32 (GRID, GRID) over the image.
    """

    networks: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    heat_maps: dict[str, dict[str, np.ndarray]]


def train(images: pd.DataFrame, boxes: pd.DataFrame, config: Config) -> Training:
    """Train every backbone of the settings that has no valid model from an earlier run.

    InputError if all fail or another run uses the folders.
    """
    absolute = {n: getattr(config, n).absolute() for n in ("results_dir", "models_dir")}
    config = backbones.by_hardware(config).model_copy(update=absolute)
    weights, left_out = backbones.find_weights(config)
    needed = images[["path", "group", "label", "split", "sha256", "width", "height"]]
    folds = 0 if config.fine_tune_epochs else config.folds
    needed = needed.assign(fold=splits.draw_folds(images, folds, config.seed))
    boxes = boxes[boxes["path"].isin(images["path"])].round(1)
    folders = {name: config.cache_dir / "models" / name for name in weights}
    keys = {name: job_key(name, needed, boxes, config, weights[name]) for name in weights}
    with artifacts.lock(config.cache_dir), artifacts.lock(config.models_dir):
        for folder in (config.cache_dir, config.models_dir):
            artifacts.remove_leftovers(folder)
        waiting = {n: f for n, f in folders.items() if not _is_trained(f, keys[n])}
        for name, folder in waiting.items():
            for old in (CANCEL, "status.json"):
                (folder / old).unlink(missing_ok=True)
            job = {"name": name, "key": keys[name], "weights": weights[name]._asdict()}
            job["config"] = config.model_dump(mode="json")
            artifacts.write_json(folder / "job.json", job)
            artifacts.write_text(folder / "images.csv", needed.to_csv(index=False))
            artifacts.write_text(folder / "boxes.csv", boxes.to_csv(index=False))
        failed = _train_all(waiting, keys, config.cluster) if waiting else {}
    rows = [{"model": n, "status": "left out", "reason": why} for n, why in left_out.items()]
    shapes = images.set_index("path")[["height", "width"]].T.to_dict("list")
    history, predictions, heat_maps = [], [], {}
    for name, initial in weights.items():
        row = {"model": name, "status": "failed", "reason": failed.get(name), **initial._asdict()}
        if name not in failed:
            card = artifacts.read_json(folders[name] / "network.json")
            seconds = {f"seconds_{stage}": value for stage, value in card["seconds"].items()}
            row |= card | seconds | {"status": "trained", "seconds": sum(seconds.values())}
            history.append(tables.read(folders[name], "history"))
            predictions.append(tables.read(folders[name], "predictions"))
            tested = predictions[-1].query("split == 'test'")["path"].items()
            maps, size = np.load(folders[name] / "heatmaps.npy"), card["input_size"]
            heat_maps[name] = {p: reader.unfit(maps[k], shapes[p], size) for k, p in tested}
        rows.append(row)
    networks = pd.DataFrame(rows, columns=tables.columns("networks"))
    networks["parameters"] = networks["parameters"].astype("Int64")  # written with all digits
    if not predictions:
        raise InputError("No model could be trained. " + " ".join(networks["reason"]))
    omitted = {"width", "height", "bit_depth", "sha256", *predictions[0]} - {"path"}
    about = images[[column for column in images if column not in omitted]]
    merged = pd.concat(predictions).merge(about, on="path", how="left")
    return Training(networks, pd.concat(history, ignore_index=True), merged, heat_maps)


def job_key(
    name: str, images: pd.DataFrame, boxes: pd.DataFrame, config: Config, weights: Weights
) -> dict:
    """The key of everything on which a trained model depends."""
    data = images[["path", "group", "label", "split", "sha256", "fold"]].to_numpy().tolist()
    return artifacts.key(
        CODE,
        LIBRARIES,
        data=[data, boxes.to_numpy().tolist()],
        settings=config.model_dump(mode="json", include=SETTINGS),
        weights=[weights.initialization, weights.sha256],
        backbone=[backbones.find(name), backbones.size(name, config)],
        backend=backbones.environment()["KERAS_BACKEND"],
    )


def _is_trained(folder: Path, key: dict) -> bool:
    """Whether network.json has this key and the files that it names are unchanged."""
    if not artifacts.is_valid(folder / "network.json", key):
        return False
    files = artifacts.facts(folder / "network.json")["files"].items()
    return all((folder / n).is_file() and artifacts.digest(folder / n) == sha for n, sha in files)


def _train_all(folders: dict[str, Path], keys: dict[str, dict], cluster: str) -> dict[str, str]:
    """Train the jobs and show their progress; returns why some failed, by name."""
    gpus = backbones.gpus()[: len(folders)] or [""]
    pool = ThreadPoolExecutor(len(gpus), initializer=lambda: setattr(OWN, "gpu", gpus.pop()))
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    shown = {"total": len(STAGES), "bar_format": BAR, "mininterval": 0.1 if live else 60}
    with _cluster(cluster) if cluster else pool as executor:
        futures = {n: executor.submit(run, f, keys[n]) for n, f in folders.items()}
        bars, waiting = {name: tqdm(desc=name, **shown) for name in folders}, set(futures.values())
        try:
            while waiting:
                waiting = wait(waiting, POLL).not_done
                for name, bar in bars.items():
                    with contextlib.suppress(InputError):
                        status = artifacts.read_json(folders[name] / "status.json")
                        bar.set_description_str(f"{name}: {status['stage']}", refresh=False)
                        done = STAGES.index(status["stage"]) + status["done"] / status["total"]
                        bar.update(done - bar.n)
        except KeyboardInterrupt:
            why = "the training was stopped; run this cell again to resume it"
            raise KeyboardInterrupt(why) from None
        finally:
            for name, future in futures.items():
                bars[name].close()
                if waiting:  # after an error
                    (folders[name] / CANCEL).touch()
                    future.cancel()
    reasons = {}
    for name, future in futures.items():
        try:
            reasons[name] = future.result()
        except Exception as error:  # from the cluster
            what = f"{type(error).__name__}: {first_line(error)}"
            reasons[name] = f"The cluster lost this training ({what}); run again."
    return {name: reason for name, reason in reasons.items() if reason}


def run(folder: Path, key: dict) -> str:
    """Train the job in `folder` in a process of its own, on the GPU of this thread if it has one,
    on this machine or one of a cluster; returns why it failed, or an empty string.
    """
    here, own = platform.node(), artifacts.key(CODE, LIBRARIES)
    if not (folder / "job.json").is_file():
        return f"{here} has no {folder}; the machines of a cluster must share that folder."
    if any(key[part] != own[part] for part in own):
        return f"{here} has other versions of this project, of Python or of {', '.join(LIBRARIES)}."
    variables = {k: v for k, v in backbones.environment().items() if not k.startswith(PREFIX)}
    if gpu := getattr(OWN, "gpu", ""):
        variables[backbones.DEVICES] = gpu
    command = [sys.executable, "-m", TRAINING, str(folder), str(os.getpid())]
    log, reason = folder / "log.txt", None
    streams = {"stdout": subprocess.PIPE, "encoding": "utf-8", "env": variables}
    with log.open("a") as file, subprocess.Popen(command, stderr=file, **streams) as process:
        while reason is None:
            if (folder / CANCEL).exists():
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                reason, _ = process.communicate(timeout=POLL)
    if process.returncode in (-9, 137):
        return KILLED
    failure = f"The process ended with code {process.returncode}; {log} shows the reason."
    return (reason.strip() or failure) if process.returncode else ""


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    """The workers of a Dask scheduler; a task reserves a GPU where they declare that resource."""
    try:
        import distributed

        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except ImportError:
        install = 'pip install -e ".[cluster]", here and on the cluster'
        raise InputError(f"{PREFIX}CLUSTER needs Dask: {install}.") from None
    except (OSError, ValueError) as error:
        problem = f"No Dask scheduler answers at {address!r} ({PREFIX}CLUSTER): {first_line(error)}"
        raise InputError(f"{problem}. Start one (dask scheduler), or unset it.") from None
    with client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        gpu = {"resources": {"GPU": 1}} if any("GPU" in w["resources"] for w in workers) else {}
        yield client.get_executor(pure=False, **gpu)
