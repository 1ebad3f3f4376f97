"""One network, trained in a process of its own: `python -m fracture_utils.models.worker FOLDER`.

A fresh process for each network gives its memory back, keeps TensorFlow's chatter out of the
notebook, and leaves the other networks standing when one runs out of memory.
"""

import functools
import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import keras
import numpy as np

from fracture_utils import files, lazy, tables
from fracture_utils.config import CLASS_NAMES, PREFIX, Config
from fracture_utils.data import store
from fracture_utils.data.batches import Batches, MapBatches, shuffled
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger
from fracture_utils.models import (
    classifier,
    familiarity,
    features,
    folding,
    heads,
    heatmaps,
    precision,
    prediction,
    speed,
    training,
)
from fracture_utils.models.backbones import REGISTRY
from fracture_utils.models.job import DIVERGED, MAPS, REFUSED, Job

BATCHES_TO_ADAPT = 2
SEEDS = "seeds"
"""The logits of the frozen network with the heads of several seeds, in the file of the head."""


def work(job: Job, tell: Callable[[dict], None]) -> None:
    """Do every stage of `job` that its ledger does not know as finished, telling the progress."""
    ledger, keys, desk = Ledger(job.folder), job.keys(), Desk(job)
    for stage, (outputs, action) in desk.stages().items():
        if why := ledger.why(stage, keys[stage]):
            tell({"stage": stage, "why": why})
            started = time.monotonic()
            action(lambda done, total, s=stage: tell({"stage": s, "done": done, "total": total}))
            ledger.record(stage, keys[stage], outputs, time.monotonic() - started)
    desk.clear()


class Desk:
    """What the stages of one job share: pictures, labels, and the network as far as it is built."""

    def __init__(self, job: Job) -> None:
        self.job, self.config, self.backbone = job, job.config, REGISTRY[job.name]
        self.pixels = store.pixels(job.images, job.config, self.backbone.size(job.config))
        self.labels = (job.images["label"] == CLASS_NAMES[1]).to_numpy(int)
        self.splits = job.images["split"].to_numpy()
        self.train = np.flatnonzero(self.splits == "train")
        self.judged = np.flatnonzero(self.splits != "train")
        validation = np.flatnonzero(self.splits == "validation")
        self.compared = validation[familiarity.chosen(len(validation), job.config.seed)]
        arithmetic = precision.resolve(job.config.precision)
        self.body = classifier.body(self.backbone, job.weights, job.config, arithmetic)
        if job.weights.initialisation == "random":
            batches = Batches(self.pixels, self.labels, self.train, job.config, epoch=0)
            first = range(min(len(batches), BATCHES_TO_ADAPT))
            classifier.adapt_normalisation(self.body, (batches[k][0] for k in first))
        self.arithmetic = speed.arithmetic(self.body, job.config, job.folder)
        self.views = features.views(len(self.labels), self.train, job.config)
        self.arrays: dict[str, np.ndarray] = {}
        self.without_maps = self._too_large()
        self.weights = prediction.weights_path(job.name, job.config)
        self.known = familiarity.path(job.name, job.config)

    def _too_large(self) -> str:
        """Why the maps are not kept, in words; empty where they are. InputError where they must."""
        needed = features.gibibytes(self.body, len(self.views.picture))
        if needed <= self.config.maps_limit:
            return ""
        said = (
            f"its maps need {needed:.1f} GiB of disk, more than {PREFIX}MAPS_LIMIT "
            f"({self.config.maps_limit:g}); raise it, or lower {PREFIX}IMAGE_SIZE or {PREFIX}VIEWS"
        )
        if self.config.head == "evidence":
            raise InputError(f"{self.job.name} cannot have the evidence head: {said}.")
        return f"mean head, because {said}"

    def stages(self) -> dict[str, tuple[list[Path], Callable]]:
        """The files and the action of each stage, in order."""
        folder = self.job.folder
        names = ("predictions.csv", "seeds.csv", "heatmaps.npz", "network.json")
        return {
            "features": ([self.job.path("features")], self.extract),
            "head": ([self.job.path("head")], self.fit_head),
            "fine_tune": ([self.weights, folder / "history.csv"], self.fine_tune),
            "predict": ([*(folder / name for name in names), self.known], self.predict),
        }

    def clear(self) -> None:
        """Remove what only unfinished work needs."""
        self.job.path("checkpoint").unlink(missing_ok=True)
        for folder in self.job.folder.glob(f"{MAPS}-*"):
            shutil.rmtree(folder)

    def extract(self, progress: Callable) -> None:
        pooled = self._kept(progress)["pooled"]
        files.write_arrays(self.job.path("features"), {}, {"features": pooled})

    def fit_head(self, progress: Callable) -> None:
        """Each head that is possible, and of them the one with the highest validation AUC."""
        possible = ["mean"] if self.config.head != "evidence" else []
        possible += ["evidence"] if self._may_look_at_places() else []
        fitted = {head: self._fitted(head, self.config, progress) for head in possible}
        best = {head: max(row["val_auc"] for row in rows) for head, (rows, _) in fitted.items()}
        head = max(best, key=lambda name: best[name])
        history, model = fitted[head]
        layers = ("places", "logit")[head == "mean" :]
        weights = {name: model.get_layer(name).get_weights() for name in layers}
        arrays = {f"{name} {k}": w for name, ws in weights.items() for k, w in enumerate(ws)}
        if self.config.seeds > 1:
            arrays[SEEDS] = self._of_seeds(head, model, progress)
        meta = {"head": head, "validation_auc": best, "history": history}
        files.write_arrays(self.job.path("head"), meta, arrays)

    def _of_seeds(self, head: str, first: keras.Model, progress: Callable) -> np.ndarray:
        """Logits (seeds, validation and test pictures) of heads that differ by chance alone."""
        logits = [self._look(heatmaps.explaining(first), frozen=True).logits]
        for seed in range(1, self.config.seeds):
            config = self.config.model_copy(update={"seed": self.config.seed + seed})
            _, model = self._fitted(head, config, progress)
            logits.append(self._look(heatmaps.explaining(model), frozen=True).logits)
        return np.array(logits)

    def _fitted(
        self, head: str, config: Config, progress: Callable
    ) -> tuple[list[dict], keras.Model]:
        """The history rows and the network of one head, trained with the seed of `config`."""
        model = classifier.with_head(self.body, head, config)
        if head == "mean":
            pooled = lazy.mapped(self.job.path("features"), "features")
            kernel, bias, history = heads.fit_mean(pooled, self.labels, self.splits, config)
            model.get_layer("logit").set_weights([kernel, np.array(bias)])
            return history, model
        maps = self._kept(progress)
        history = heads.fit_evidence(
            model, [maps["early"], maps["last"]], self._truth, self.views,
            self.labels, self.splits, config, progress,
        )  # fmt: skip
        return history, model

    def fine_tune(self, progress: Callable) -> None:
        stored, model = self._with_fitted_head()
        classifier.unfreeze(model, self.backbone, self.config.fine_tune_depth)
        from_maps = not self.without_maps and self.config.fine_tune_depth == "top"
        tune = self._on_maps if from_maps else self._on_pixels
        history = []
        if self.config.fine_tune_epochs:
            tuned, served, watch = tune(model, progress)
            history = training.fine_tune(
                tuned, served, watch, self.labels, self.splits, self.config,
                max(row["val_auc"] for row in stored["history"]), self.job.path("checkpoint"),
                progress,
            )  # fmt: skip
        training.restore_prior(model, self.labels[self.splits == "train"])
        prediction.save_weights(model, self.config)
        table = training.history_table(stored["history"] + history, self.job.name)
        tables.write(self.job.folder, "history", table)

    def predict(self, _: Callable) -> None:
        stored, model = self._with_fitted_head()
        classifier.load(model, self.weights)
        explained = heatmaps.explaining(model)
        folder, pictures = self.job.folder, self.job.images.iloc[self.judged]
        seen = self._look(explained, frozen=not self.config.fine_tune_epochs)
        tables.write(folder, "predictions", prediction.table_of(model.name, seen.logits, pictures))
        of_seeds = files.read_arrays(self.job.path("head"))[1].get(
            SEEDS, np.empty((0, len(pictures)))
        )
        tables.write(folder, "seeds", prediction.seeds_table(model.name, of_seeds, pictures))
        files.write_arrays(folder / "heatmaps.npz", {"model": self.job.name}, {"maps": seen.maps})
        squares, images = self.pixels[self.compared], self.job.images.iloc[self.compared]
        familiarity.save(self.known, squares, seen.features, images)
        files.write_json(folder / "network.json", self._description(model, explained, stored))

    def _description(self, model: keras.Model, explained: keras.Model, stored: dict) -> dict:
        history = tables.read(self.job.folder, "history")
        tested = np.flatnonzero(self.splits == "test")
        return {
            "model": self.job.name,
            "initialisation": self.job.weights.initialisation,
            "note": "; ".join(filter(None, [self.job.weights.note, self.without_maps])),
            "input_size": self.backbone.size(self.config),
            "aspect": self.config.aspect,
            "head": stored["head"],
            "head_validation_auc": stored["validation_auc"],
            "head_width": self.config.head_width,
            "precision": self.arithmetic,
            "hardware": precision.hardware(),
            "keras": f"{keras.__version__} on {keras.backend.backend()}",
            "parameters": model.count_params(),
            "waiting": history["seconds_waiting"].sum() / max(history["seconds"].sum(), 1e-9),
            "seconds_per_picture": prediction.seconds_per_picture(model, self.pixels, self.config),
            "randomised_correlation": heatmaps.randomised_correlation(
                explained, self.backbone, self.pixels, tested, self.config
            ),
            "weights_sha256": files.sha256(self.weights),
            "fingerprint": files.fingerprint(self.job.keys()["predict"]),
        }

    def _may_look_at_places(self) -> bool:
        marked = self.job.images["path"].isin(self.job.boxes["path"])
        boxed = marked[self.splits == "train"].any() and self.config.box_weight > 0
        return not self.without_maps and (
            self.config.head == "evidence" or (self.config.head == "auto" and boxed)
        )

    def _kept(self, progress: Callable) -> dict[str, np.ndarray]:
        """The features and maps of the frozen network, computed as far as they are not there."""
        if not self.arrays:  # checked once a process
            self.arrays = features.extract(
                folding.folded(self.body), self.pixels, self.views, self.config,
                self.job.folder / self.job.maps_name(), not self.without_maps, progress,
            )  # fmt: skip
        return self.arrays

    def _look(self, explained: keras.Model, frozen: bool) -> heatmaps.Seen:
        """What a network says of the validation and the test pictures, in their order: a frozen one
        from the maps, where they are at hand.
        """
        at_hand = (self.job.folder / self.job.maps_name()).is_dir() and not self.without_maps
        if not (frozen and at_hand):
            quick, rows = folding.folded(explained), self.judged
            return heatmaps.look(quick, self.pixels, rows, self.config, self.compared)
        maps, inside = [self._kept(_silent)["last"]], None
        if classifier.head_of(explained) == "evidence":
            maps, inside = [self._kept(_silent)["early"], *maps], self._truth[1]
        size, labels = self.config.batch_size, self.labels[self.views.picture]
        batches = MapBatches(maps, labels, self.judged, size, inside)
        return heatmaps.look_at_maps(explained, batches, self.compared)

    @functools.cached_property
    def _truth(self) -> tuple[np.ndarray, np.ndarray]:
        rows = self.body.outputs[0].shape[1]
        return features.truth(self.views, self.pixels, self.job.mark(), rows, self.config)

    def _with_fitted_head(self) -> tuple[dict, keras.Model]:
        stored, arrays = files.read_arrays(self.job.path("head"))
        model = classifier.with_head(self.body, stored["head"], self.config)
        arrays.pop(SEEDS, None)
        for name in dict.fromkeys(key.split()[0] for key in arrays):
            values = [array for key, array in arrays.items() if key.split()[0] == name]
            model.get_layer(name).set_weights(values)
        return stored, model

    def _on_maps(self, model: keras.Model, progress: Callable) -> tuple:
        """The top block on the early maps of the frozen rest: the model, and its batches."""
        evidence = classifier.head_of(model) == "evidence"
        early, labels = [self._kept(progress)["early"]], self.labels[self.views.picture]
        known, inside = self._truth if evidence else (None, None)
        size = self.config.batch_size

        def served(epoch: int) -> MapBatches:
            rows = features.drawn(
                self.views, shuffled(self.train, self.config, epoch), self.config, epoch
            )
            return MapBatches(early, labels, rows, size, inside, known)

        watch = MapBatches(early, labels, self._watched(), size, inside)
        return classifier.top(model, self.backbone), served, watch

    def _on_pixels(self, model: keras.Model, _: Callable) -> tuple:
        """The whole network on freshly augmented pictures; boxes are not heeded here."""

        def served(epoch: int) -> Batches:
            rows = shuffled(self.train, self.config, epoch)
            return Batches(self.pixels, self.labels, rows, self.config, epoch)

        watch = Batches(self.pixels, self.labels, self._watched(), self.config)
        return keras.Model(model.input, [model.output], name=model.name), served, watch

    def _watched(self) -> np.ndarray:
        _, validation, sample = training.watched_rows(self.splits, self.config)
        return np.sort(np.concatenate([sample, validation]))


def _silent(done: int, total: int) -> None:
    """Progress that nobody hears."""


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
