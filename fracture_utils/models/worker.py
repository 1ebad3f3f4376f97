"""One network, trained in a process of its own: `python -m fracture_utils.models.worker FOLDER`.

A fresh process for each network gives its memory back, keeps TensorFlow's chatter out of the
notebook, and leaves the other networks standing when one runs out of memory.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

from fracture_utils import files
from fracture_utils.config import CLASS_NAMES, PREFIX
from fracture_utils.data import store
from fracture_utils.data.batches import Batches
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger
from fracture_utils.models import (
    classifier,
    familiarity,
    features,
    heatmaps,
    precision,
    prediction,
    training,
)
from fracture_utils.models.backbones import REGISTRY
from fracture_utils.models.jobs import DIVERGED, REFUSED, Job

BATCHES_TO_ADAPT = 2


def work(job: Job, tell: Callable[[dict], None]) -> None:
    """Do every stage of `job` that its ledger does not know as finished, telling the progress."""
    ledger, keys = Ledger(job.folder), job.keys()
    pixels = store.pixels(job.images, job.config, REGISTRY[job.name].size(job.config))
    labels = (job.images["label"] == CLASS_NAMES[1]).to_numpy(int)
    splits = job.images["split"].to_numpy()
    arithmetic = precision.resolve(job.config.precision)
    model = classifier.build(REGISTRY[job.name], job.weights, job.config, arithmetic)
    if job.weights.initialisation == "random":
        batches = Batches(pixels, labels, np.flatnonzero(splits == "train"), job.config, epoch=0)
        first = range(min(len(batches), BATCHES_TO_ADAPT))
        classifier.adapt_normalisation(model, (batches[k][0] for k in first))

    def run(stage: str, outputs: list[Path], action: Callable) -> None:
        if why := ledger.why(stage, keys[stage]):
            tell({"stage": stage, "why": why})
            started = time.monotonic()
            action(lambda done, total: tell({"stage": stage, "done": done, "total": total}))
            ledger.record(stage, keys[stage], outputs, time.monotonic() - started)

    def extract(progress: Callable) -> None:
        network, train = classifier.features(model), np.flatnonzero(splits == "train")
        features.extract(network, pixels, train, job.config, job.path("features"), progress)

    def fit_head(_: Callable) -> None:
        extracted = files.read_arrays(job.path("features"))[1]["features"]
        kernel, bias, history = training.fit_head(extracted, labels, splits, job.config)
        arrays = {"kernel": kernel, "bias": np.array(bias)}
        files.write_arrays(job.path("head"), {"history": history}, arrays)

    def fine_tune(progress: Callable) -> None:
        stored, head = files.read_arrays(job.path("head"))
        model.get_layer("logit").set_weights([head["kernel"], head["bias"]])
        classifier.unfreeze(model, REGISTRY[job.name], job.config.fine_tune_depth)
        best = max(row["val_auc"] for row in stored["history"])
        history = training.fine_tune(
            model, pixels, labels, splits, job.config, best, job.path("checkpoint"), progress
        )
        training.restore_prior(model, labels[splits == "train"])
        prediction.save_weights(model, job.config)
        table = training.history_table(stored["history"] + history, job.name)
        files.write_table(job.folder / "history.csv", table)

    def predict(_: Callable) -> None:
        classifier.load(model, weights)
        table, seen = prediction.predict(explained, pixels, job.images, job.config)
        files.write_table(job.folder / "predictions.csv", table)
        files.write_arrays(job.folder / "heatmaps.npz", {"model": job.name}, {"maps": seen.maps})
        validation, rows = splits == "validation", splits[splits != "train"] == "validation"
        familiarity.save(
            known, pixels[validation], seen.features[rows], job.images[validation], job.config.seed
        )
        files.write_json(job.folder / "network.json", describe())

    def describe() -> dict:
        tested = np.flatnonzero(splits == "test")
        return {
            "model": job.name,
            "initialisation": job.weights.initialisation,
            "note": job.weights.note,
            "input_size": REGISTRY[job.name].size(job.config),
            "aspect": job.config.aspect,
            "precision": arithmetic,
            "hardware": precision.hardware(),
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "parameters": model.count_params(),
            "seconds_per_picture": prediction.seconds_per_picture(model, pixels, job.config),
            "randomised_correlation": heatmaps.randomised_correlation(
                explained, REGISTRY[job.name], pixels, tested, job.config
            ),
            "weights_sha256": files.sha256(weights),
            "fingerprint": files.fingerprint(keys["predict"]),
        }

    explained = heatmaps.explaining(model)
    weights = prediction.weights_path(job.name, job.config)
    known = familiarity.path(job.name, job.config)
    run("features", [job.path("features")], extract)
    run("head", [job.path("head")], fit_head)
    run("fine_tune", [weights, job.folder / "history.csv"], fine_tune)
    outputs = [job.folder / name for name in ("predictions.csv", "heatmaps.npz", "network.json")]
    run("predict", [*outputs, known], predict)
    job.path("checkpoint").unlink(missing_ok=True)


def main(folder: Path) -> NoReturn:
    """Work through the job in `folder`, with one JSON event a line on standard output."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints goes to the log

    def tell(event: dict) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    code = _exit_code(folder, tell)
    sys.stderr.flush()
    os._exit(code)  # at once: a slow farewell would look like a parent that has gone


def _exit_code(folder: Path, tell: Callable[[dict], None]) -> int:
    try:
        work(Job.load(folder), tell)
    except training.DivergedError as error:
        tell({"error": str(error)})
        return DIVERGED
    except InputError as error:
        tell({"error": str(error)})
        return REFUSED
    except Exception as error:
        traceback.print_exc()
        if not _lacks_memory(error):
            return 1
        tell({"error": f"Not enough memory; lower {PREFIX}BATCH_SIZE and run again."})
        return REFUSED
    return 0


def _lacks_memory(error: Exception) -> bool:
    """TensorFlow, JAX and PyTorch each have their own word for a full memory."""
    words = f"{type(error).__name__} {error}".lower()
    return any(
        known in words
        for known in ("memoryerror", "resourceexhausted", "resource_exhausted", "out of memory")
    )


def _end_with_parent() -> None:
    """Standard input ends when the parent does: nobody waits for the result any more."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
