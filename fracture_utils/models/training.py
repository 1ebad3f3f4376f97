"""One model from initial weights to predictions: `python -m fracture_utils.models.training FOLDER`.

FOLDER is a job folder that `jobs` wrote. Feature maps and epochs are kept in it, so that a run that
was killed repeats one stage or epoch at most, and ends with the same numbers.
"""

import functools
import os
import re
import shutil
import sys
import threading
import time
import timeit
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import pandas as pd
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from fracture_utils import artifacts, tables
from fracture_utils.config import FRACTURED, PREFIX, SPLITS, Config, InputError, first_line
from fracture_utils.data import dataset
from fracture_utils.data.generators import FeatureBatches, ImageBatches, shuffled
from fracture_utils.models import backbones, builder, features, heatmaps, ood

L2 = 0.1  # pooled head: penalty on the squared weights of standardized features
SMALLEST_DEVIATION = 0.05  # of those, relative to the median: what hardly varies is noise
HEAD_EPOCHS, HEAD_RATE, HEAD_DECAY = 12, 2e-3, 1e-2  # localization head: AdamW, peak rate
BOX_WEIGHT = 10.0  # localization head: grid cells in the loss, relative to the labels of the images
STANDARD = 256  # localization head: images by which feature maps are standardized
TUNE_RATE, PATIENCE = 3e-5, 5  # fine-tuning: Adam, peak rate; epochs without a higher AUC
WARM_UP = 0.1  # share of the steps in which a learning rate rises from zero
ADAPTED_BATCHES, TIMED_BATCHES = 2, 3
STATUS_SECONDS = 0.3  # between two writes of status.json


class Checkpoint(keras.callbacks.Callback):
    """What Keras's callbacks lose when a run is killed: the best weights by validation AUC,
    patience, history, optimizer and random seeds, in one file per training.

    Each epoch takes the rows of `batches` in another order; after it, `measure` turns the logits of
    the batches `watch` into a history row. The model ends with its best weights.
    """

    def __init__(self, path, key, seed, batches, watch, measure, report, best, patience) -> None:
        super().__init__()
        self.path, self.key, self.seed, self.patience = path, key, seed, patience
        self.batches, self.rows = batches, batches.rows
        self.watch, self.measure, self.report = watch, measure, report
        self.state = {"epoch": 0, "waited": 0, "best": best, "history": []}
        self.arrays: dict | None = None
        if artifacts.is_valid(path, key):
            self.state, self.arrays = artifacts.facts(path)["state"], artifacts.read_arrays(path)

    def fit(self, model: keras.Model, epochs: int) -> list[dict]:
        """Train the rest of `epochs`; returns the history rows of all."""
        done, stopped = self.state["epoch"], self.state["waited"] >= self.patience
        model.fit(
            self.batches, initial_epoch=done, epochs=done if stopped else epochs, shuffle=False,
            callbacks=[self], verbose=0,
        )  # fmt: skip
        return self.state["history"]

    def on_train_begin(self, _=None) -> None:
        self.model.optimizer.build(self.model.trainable_variables)
        seeds = [v for v in self.model.non_trainable_variables if "seed" in v.path]
        self.last = [*self.model.trainable_variables, *seeds, *self.model.optimizer.variables]
        if self.arrays is None:
            self.arrays = _values("best", self.model.trainable_variables)
        else:
            _assign(self.last, "last", self.arrays)

    def on_epoch_begin(self, epoch: int, _=None) -> None:
        self.batches.rows = shuffled(self.rows, self.seed, epoch + 1)
        self.batches.epoch, self.started = epoch + 1, time.monotonic()

    def on_train_batch_end(self, batch: int, **_) -> None:
        steps = len(self.batches)
        self.report(self.state["epoch"] * steps + batch + 1, self.params["epochs"] * steps)

    def on_epoch_end(self, epoch: int, logs=None) -> None:
        if not np.isfinite(logs["loss"]):
            raise FloatingPointError(f"The loss of {self.model.name} is not finite.")
        logits = keras.tree.flatten(self.model.predict(self.watch, verbose=0))[0][:, 0]
        row, state = self.measure(logits), self.state
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row |= {"learning_rate": rate, "seconds": time.monotonic() - self.started}
        state["history"].append(row | {"epoch": epoch + 1})
        state |= {"epoch": epoch + 1, "waited": state["waited"] + 1}
        if row["val_auc"] > state["best"]:
            state |= {"best": row["val_auc"], "waited": 0}
            self.arrays |= _values("best", self.model.trainable_variables)
        self.arrays |= _values("last", self.last)
        artifacts.write_arrays(self.path, **self.arrays)
        artifacts.seal(self.path, self.key, state=state)
        self.model.stop_training = state["waited"] >= self.patience

    def on_train_end(self, _=None) -> None:
        _assign(self.model.trainable_variables, "best", self.arrays)


def _values(name: str, variables: list) -> dict[str, np.ndarray]:
    arrays = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    return {f"{name}_{number}": array for number, array in enumerate(arrays)}


def _assign(variables: list, name: str, arrays: dict[str, np.ndarray]) -> None:
    for number, variable in enumerate(variables):
        variable.assign(arrays[f"{name}_{number}"])


def compile_model(model: keras.Model, optimizer: Any, class_weights: Sequence[float]) -> None:
    """Compile a model of logits, or of logits and cell logits, with loss scaling in float16 (Keras
    alone would decide by the dtype policy of the moment).
    """
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    losses, count = [builder.image_loss(class_weights), builder.cell_loss], len(model.outputs)
    weights = [1.0, BOX_WEIGHT][:count]
    model.compile(optimizer, losses[:count], loss_weights=weights, auto_scale_loss=False)


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises from zero to `peak` and falls back by a cosine."""
    warm_up = {"warmup_target": peak, "warmup_steps": max(round(WARM_UP * steps), 1)}
    return keras.optimizers.schedules.CosineDecay(0.0, steps, **warm_up)


def fit_pooled(pooled: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """Kernel (channels,) and bias of a logistic regression on the pooled features (n, channels)."""
    mean, deviation = pooled.mean(axis=0, dtype=float), pooled.std(axis=0, dtype=float)
    deviation = np.maximum(deviation, SMALLEST_DEVIATION * np.median(deviation) + 1e-6)
    strength = 1 / (2 * L2 * len(labels))
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    regression.fit((pooled - mean) / deviation, labels)
    kernel = regression.coef_[0] / deviation
    return kernel, float(regression.intercept_[0] - mean @ kernel)


def train(folder: Path, report: Callable) -> None:
    """Work through the job in `folder`, in float32 where a number is not finite in 16 bits.

    Leaves predictions.csv, history.csv, heatmaps.npy and, last, network.json there, and weights and
    OOD reference in models_dir. Calls `report(stage, done, total)` as it goes.
    """
    job = artifacts.read_json(folder / "job.json")
    precision = backbones.resolve_precision(job["config"]["precision"])
    try:
        train_with(precision, folder, job, report)
    except FloatingPointError as error:
        if precision == "float32":
            raise InputError(f"{error} Choose another backbone or other weights.") from error
        reason = f"trained in float32, because in {precision} a number was not finite"
        train_with("float32", folder, job, report, reason)


def train_with(precision: str, folder: Path, job: dict, report: Callable, reason: str = "") -> None:
    """`train` in one precision; raises FloatingPointError where a number is not finite."""
    name, config, key = job["name"], Config(**job["config"]), job["key"] | {"precision": precision}
    initial = backbones.Weights(**job["weights"])
    text = dict.fromkeys(["path", "group", "label", "split"], str)
    images = pd.read_csv(folder / "images.csv", dtype=text, keep_default_na=False)
    boxes = pd.read_csv(folder / "boxes.csv", dtype={"path": str})
    labels, splits = (images["label"] == FRACTURED).to_numpy(int), images["split"].to_numpy()
    training, validation, test = (np.flatnonzero(splits == split) for split in SPLITS)
    evaluated = np.flatnonzero(splits != "train")
    permuted = np.random.default_rng(config.seed).permutation(training)
    watched = np.sort(np.concatenate([permuted[: len(validation)], validation]))
    class_weights = len(training) / (2 * np.bincount(labels[training], minlength=2))
    size = backbones.size(name, config)
    pixels, row_of = dataset.pixels(config.cache_dir, size)
    rows = np.array([row_of[path] for path in images["path"]])
    labels_by_row = np.zeros(len(pixels), int)
    labels_by_row[rows] = labels
    scratch, started = folder / "scratch", {}

    def begin(stage: str) -> None:
        started[stage] = time.monotonic()
        report(stage, 0, 1)

    def measure(logits: np.ndarray) -> dict[str, float]:
        """Loss and AUC, in inference mode, of as many training as validation images."""
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"The logits of {name} are not finite.")
        row = {}
        for prefix, split in (("", "train"), ("val_", "validation")):
            chosen = splits[watched] == split
            y, z = labels[watched[chosen]], logits[chosen].astype(float)
            options = {"sample_weight": class_weights[y], "labels": [0, 1]}
            row[f"{prefix}loss"] = log_loss(y, special.expit(z), **options)
            row[f"{prefix}auc"] = roc_auc_score(y, z)
        return row

    def fit(stage, model, optimizer, batches, watch, epochs, best, patience) -> list[dict]:
        compile_model(model, optimizer, class_weights)
        checkpoint = Checkpoint(
            scratch / f"{stage}.npz", key, config.seed, batches, watch, measure,
            functools.partial(report, stage), best, patience,
        )  # fmt: skip
        return [row | {"stage": stage} for row in checkpoint.fit(model, epochs)]

    # Feature maps: every image passes the frozen body once.
    begin("features")
    body = builder.build_body(name, size, initial, precision, config.seed)
    if initial.path is None:
        augmented = ImageBatches(pixels, labels_by_row, rows[training], config, epoch=0)
        first = range(min(len(augmented), ADAPTED_BATCHES))
        builder.adapt_normalization(body, (augmented[k][0] for k in first))
    numbers = sum(np.prod(output.shape[1:]) for output in body.outputs[:2])
    space = 2 * numbers * len(images) / 2**30
    with_maps = space <= config.disk_limit
    if not with_maps and config.head != "pooled":
        why = (
            f"its feature maps need {space:.1f} GiB of disk, more than {PREFIX}DISK_LIMIT "
            f"({config.disk_limit:g}); raise it, or lower {PREFIX}IMAGE_SIZE"
        )
        if config.head == "localization":
            raise InputError(f"{name} cannot have the localization head: {why}.")
        reason = "; ".join(filter(None, [reason, f"pooled head, because {why}"]))
    cached = features.extract(
        builder.fold_batch_norm(body), pixels, rows, config, scratch, with_maps, key,
        functools.partial(report, "features"),
    )  # fmt: skip

    # Heads: the pooled one, the localization one where there are boxes, and the better one stays.
    begin("head")
    models, histories, boxed = {}, {}, images["path"].isin(boxes["path"])[training].any()
    if config.head != "localization":
        models["pooled"] = builder.add_head(body, "pooled", config.seed)
        kernel, bias = fit_pooled(cached["pooled"][training], labels[training])
        models["pooled"].get_layer("logit").set_weights([kernel, np.array(bias)])
        row = measure(cached["pooled"][watched] @ kernel + bias)
        row |= {"stage": "head", "epoch": 1, "seconds": time.monotonic() - started["head"]}
        histories["pooled"] = [row]
    if with_maps and (config.head == "localization" or (config.head == "auto" and boxed)):
        model = models["localization"] = builder.add_head(body, "localization", config.seed)
        cells, maps = model.get_layer("cell_logits"), [cached["early"], cached["last"]]
        targets, inside = features.cell_targets(pixels, rows, images, boxes, maps[0].shape[1])
        cells.standardize([array[np.sort(permuted[:STANDARD])] for array in maps])
        inputs = [*cells.input, model.get_layer("inside").output]
        head = keras.Model(inputs, [model.output, cells.output], name=name)
        arrays = [*maps, inside]
        batches = FeatureBatches(arrays, [labels, targets], training, config.batch_size)
        watch = FeatureBatches(arrays, [labels], watched, config.batch_size)
        rate = cosine(HEAD_RATE, HEAD_EPOCHS * len(batches))
        optimizer = keras.optimizers.AdamW(rate, weight_decay=HEAD_DECAY)
        limits = HEAD_EPOCHS, -np.inf, HEAD_EPOCHS
        histories["localization"] = fit("head", head, optimizer, batches, watch, *limits)
    aucs = {head: max(row["val_auc"] for row in rows) for head, rows in histories.items()}
    chosen = max(aucs, key=lambda head: aucs[head])
    model, history = builder.add_head(body, chosen, config.seed), histories[chosen]
    model.set_weights(models[chosen].get_weights())  # the same, with dropout from the start

    # Fine-tuning: the top block on the cached early maps, or all layers on augmented images.
    begin("fine_tune")
    mask, grid = ([inside], [targets]) if chosen == "localization" else ([], [])
    if config.fine_tune_epochs:
        builder.unfreeze(model, config.fine_tune_depth)
        if with_maps and config.fine_tune_depth == "top":
            tuned, arrays = builder.top(model), [cached["early"], *mask]
            batches = FeatureBatches(arrays, [labels, *grid], training, config.batch_size)
            watch = FeatureBatches(arrays, [labels], watched, config.batch_size)
        else:
            tuned = keras.Model(model.input, [model.output], name=name)
            batches = ImageBatches(pixels, labels_by_row, rows[training], config, epoch=1)
            watch = ImageBatches(pixels, labels_by_row, rows[watched], config)
        optimizer = keras.optimizers.Adam(cosine(TUNE_RATE, config.fine_tune_epochs * len(batches)))
        limits = config.fine_tune_epochs, aucs[chosen], PATIENCE
        history = history + fit("fine_tune", tuned, optimizer, batches, watch, *limits)

    # Class weights train as if both classes were equally frequent; the log odds of the training
    # labels correct the logit (King & Zeng 2001).
    begin("predict")
    *others, offset = model.get_layer("logit").get_weights()
    prior = special.logit(labels[training].mean())
    model.get_layer("logit").set_weights([*others, offset + prior])
    weights_path = config.models_dir / f"{name}.weights.h5"
    with artifacts.replacing(weights_path) as temporary:
        keras.Model(model.input, model.output).save_weights(temporary)  # without the optimizer

    # Predictions and heat maps: of a frozen body from the cached maps.
    explained = heatmaps.explain(model)
    reference = np.flatnonzero(splits != "test")
    reference = reference[ood.sample(images["group"].to_numpy()[reference], config.seed)]
    passed = np.union1d(evaluated, reference)
    if with_maps and not config.fine_tune_epochs:
        arrays = [cached["early"], cached["last"], *mask]
        batches = FeatureBatches(arrays, [labels], passed, config.batch_size)
        outputs = heatmaps.predict(heatmaps.explain(model, from_features=True), batches)
    else:
        batches = ImageBatches(pixels, labels_by_row, rows[passed], config)
        outputs = heatmaps.predict(builder.fold_batch_norm(explained), batches)
    pooled = outputs.features[np.isin(passed, reference)]
    outputs = heatmaps.Outputs(*(values[np.isin(passed, evaluated)] for values in outputs))
    table = images.loc[evaluated, [*text]].assign(model=name, kind="network", logit=outputs.logits)
    tables.write(folder, "predictions", table.assign(probability=special.expit(outputs.logits)))
    table = pd.DataFrame(history, columns=tables.columns("history")).assign(model=name)
    tables.write(folder, "history", table)
    with artifacts.replacing(folder / "heatmaps.npy") as temporary:
        np.save(temporary, outputs.heat_maps)
    ood_path = config.models_dir / f"{name}.ood.npz"
    described = ood.fit(pixels[rows[reference]], pooled, images.iloc[reference])
    artifacts.write_arrays(ood_path, **described)
    correlation = heatmaps.randomized_correlation(explained, pixels, rows[test], config)
    folded = builder.fold_batch_norm(model)
    batch = pixels[np.resize(rows, config.batch_size)][..., None].astype(np.float32)
    _, *durations = timeit.repeat(  # the first pass traces the graph
        lambda: folded.predict_on_batch(batch), number=1, repeat=1 + TIMED_BATCHES
    )
    card = {
        "model": name,
        "initialization": initial.initialization,
        "provenance": initial.provenance,
        "input_size": size,
        "head": chosen,
        "head_validation_auc": aucs,
        "precision": precision,
        "reason": reason,
        "hardware": backbones.hardware(),
        "keras": f"{keras.__version__} on {keras.backend.backend()}",
        "parameters": model.count_params(),
        "seconds_per_image": float(np.median(durations)) / config.batch_size,
        "randomized_correlation": correlation,
        "weights_sha256": artifacts.digest(weights_path),
        "seconds": dict(zip(started, np.diff([*started.values(), time.monotonic()]), strict=True)),
    }
    artifacts.write_json(folder / "network.json", card)
    files = [folder / file for file in ("predictions.csv", "history.csv", "heatmaps.npy")]
    files += [weights_path, ood_path]
    digests = {os.path.relpath(path, folder): artifacts.digest(path) for path in files}
    artifacts.seal(folder / "network.json", job["key"], files=digests)
    shutil.rmtree(scratch)


def main(folder: Path) -> NoReturn:
    """Work through the job in `folder`; status.json has the progress, stdout why it failed."""
    threading.Thread(target=_end_with_parent, args=[os.getppid()], daemon=True).start()
    written, reason = 0.0, ""

    def report(stage: str, done: int, total: int) -> None:
        nonlocal written
        if done == 0 or time.monotonic() - written > STATUS_SECONDS:
            written = time.monotonic()
            status = {"stage": stage, "done": done, "total": total}
            artifacts.write_json(folder / "status.json", status)

    try:
        train(folder, report)
    except InputError as error:
        reason = str(error)
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {first_line(error)} (see {folder / 'log.txt'})."
        full = "memoryerror|resource_?exhausted|out of memory"  # in Python, TensorFlow and JAX
        if re.search(full, f"{type(error).__name__} {error}", re.IGNORECASE):
            reason = f"Not enough memory; lower {PREFIX}BATCH_SIZE and run again."
    sys.stdout.write(reason)
    sys.stdout.flush()
    os._exit(1 if reason else 0)  # at once: TensorFlow's threads may take seconds to end


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
