"""One model from initial weights to predictions, in the process that `jobs` starts for it.

Feature maps and epochs are kept in the job folder, so that a run that was killed repeats one stage
or epoch at most, and ends with the same numbers.
"""

import ctypes
import functools
import os
import re
import shutil
import sys
import threading
import time
import timeit
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import keras
import numpy as np
import pandas as pd
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from fracture_utils import artifacts, tables
from fracture_utils.config import (
    FRACTURED,
    OUT_OF_FOLD,
    PREFIX,
    SPLITS,
    Config,
    InputError,
    first_line,
)
from fracture_utils.data import dataset
from fracture_utils.data.generators import FeatureBatches, ImageBatches, shuffled
from fracture_utils.models import backbones, builder, features, heatmaps, ood

L2 = 0.1  # pooled head: penalty on the squared weights of standardized features
SMALLEST_DEVIATION = 0.05  # of those, relative to the median: what hardly varies is noise
HEAD_EPOCHS, HEAD_RATE, HEAD_DECAY = 12, 2e-3, 1e-2  # localization head: AdamW, peak rate
BOX_WEIGHT = 10.0  # localization head: grid cells in the loss, relative to the labels of the images
STANDARD = 256  # localization head: images by which feature maps are standardized
BODY_RATE, PATIENCE = 0.05, 5  # fine-tuning: of the backbone, relative to the head; epochs without
#                                a higher validation AUC
WARM_UP = 0.1  # share of the steps in which a learning rate rises from zero
TIMED_BATCHES = 3
STATUS_SECONDS = 0.3  # between two writes of status.json


class Checkpoint(keras.callbacks.Callback):
    """What Keras's callbacks lose when a run is killed: the best weights by validation AUC,
    patience, history, optimizer and random seeds, in one file per training.

    Each epoch takes the rows of `batches` in another order; after it, `measure` turns the logits of
    the batches `watch` into a history row. The model ends with its best weights, or, where
    `patience` is None, with those of the last epoch.
    """

    def __init__(self, path, key, seed, batches, watch, measure, report, best, patience) -> None:
        super().__init__()
        self.path, self.key, self.seed = path, key, seed
        self.fixed, self.patience = patience is None, patience or np.inf
        self.batches, self.rows = batches, batches.rows
        batches.rows = shuffled(self.rows, seed, 1)  # Keras looks at a batch before the first epoch
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
        if self.fixed or row["val_auc"] > state["best"]:
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


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate is that of the head; it is BODY_RATE times as high elsewhere."""

    def update_step(self, gradient, variable, learning_rate) -> None:
        path = self._trainable_variables[self._get_variable_index(variable)].path
        rate = learning_rate * (1.0 if "logit" in path else BODY_RATE)
        super().update_step(gradient, variable, rate)


def compile_model(model: keras.Model, optimizer: Any, class_weights: np.ndarray) -> None:
    """Compile a model of logits, or of logits and cell logits; in mixed_float16 Keras scales the
    loss.
    """
    losses, count = [builder.image_loss(class_weights), builder.cell_loss], len(model.outputs)
    model.compile(optimizer, losses[:count], loss_weights=[1.0, BOX_WEIGHT][:count])


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises from zero to `peak` and falls back by a cosine."""
    warm_up = {"warmup_target": peak, "warmup_steps": max(round(WARM_UP * steps), 1)}
    return keras.optimizers.schedules.CosineDecay(0.0, steps, **warm_up)


def fit_pooled(pooled: np.ndarray, labels: np.ndarray, copies: int = 0) -> tuple[np.ndarray, float]:
    """Kernel (channels,) and bias of a logistic regression on the pooled features (n, channels) of
    original images, which standardize them, followed by `copies` augmented copies of each.
    """
    originals = pooled[: len(pooled) // (1 + copies)]
    mean, deviation = originals.mean(axis=0, dtype=float), originals.std(axis=0, dtype=float)
    deviation = np.maximum(deviation, SMALLEST_DEVIATION * np.median(deviation) + 1e-6)
    strength = 1 / (2 * L2 * len(labels))
    regression = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
    regression.fit((pooled - mean) / deviation, labels)
    kernel = regression.coef_[0] / deviation
    return kernel, float(regression.intercept_[0] - mean @ kernel)


def _mean_auc(labels: np.ndarray, logits: np.ndarray, folds: np.ndarray) -> float:
    parts = [folds == fold for fold in np.unique(folds)]
    return float(np.mean([roc_auc_score(labels[own], logits[own]) for own in parts]))


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
    initial = initial._replace(path=Path(initial.path) if initial.path else None)  # of JSON
    text = dict.fromkeys(["path", "group", "label", "split"], str)
    images = pd.read_csv(folder / "images.csv", dtype=text, keep_default_na=False)
    boxes = pd.read_csv(folder / "boxes.csv", dtype={"path": str})
    labels, splits = (images["label"] == FRACTURED).to_numpy(int), images["split"].to_numpy()
    folds = images["fold"].to_numpy()
    training, validation, test = (np.flatnonzero(splits == split) for split in SPLITS)
    # The images that each head learns from: the heads of the folds, which see no image of theirs,
    # and the final one; or one head, which sees no validation image.
    learning = [training]
    held_out, own_head = validation, np.zeros(len(validation), int)
    if cross_validated := folds.max() > 0:
        learning = [np.flatnonzero((folds > 0) & (folds != k)) for k in range(1, folds.max() + 1)]
        held_out = np.flatnonzero(folds)
        learning, own_head = [*learning, held_out], folds[held_out] - 1
    learned, evaluated = (
        learning[-1],
        test if cross_validated else np.flatnonzero(splits != "train"),
    )
    random = np.random.default_rng(config.seed)
    permuted = [random.permutation(rows) for rows in learning]
    watched = np.sort(np.concatenate([permuted[0][: len(validation)], validation]))
    balances = np.array([np.bincount(labels[rows], minlength=2) for rows in learning])
    class_weights = balances.sum(axis=1, keepdims=True) / (2 * balances)
    priors = special.logit(balances[:, 1] / balances.sum(axis=1))
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
        """Loss and AUC of the first head, in inference mode, of as many training as validation
        images.
        """
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"The logits of {name} are not finite.")
        row = {}
        for prefix, split in (("", "train"), ("val_", "validation")):
            chosen = splits[watched] == split
            y, z = labels[watched[chosen]], logits[chosen].astype(float)
            options = {"sample_weight": class_weights[0][y], "labels": [0, 1]}
            row[f"{prefix}loss"] = log_loss(y, special.expit(z), **options)
            row[f"{prefix}auc"] = roc_auc_score(y, z)
        return row

    def fit(stage, model, optimizer, batches, watch, weights, epochs, best, patience) -> list[dict]:
        compile_model(model, optimizer, weights)
        checkpoint = Checkpoint(
            scratch / f"{stage}.npz", key, config.seed, batches, watch, measure,
            functools.partial(report, stage), best, patience,
        )  # fmt: skip
        return [row | {"stage": stage} for row in checkpoint.fit(model, epochs)]

    # Feature maps: every image and every augmented copy passes the frozen backbone once.
    begin("features")
    body = builder.build_body(name, size, initial, precision, config.seed)
    if initial.path is None:
        augmented = ImageBatches(pixels, labels_by_row, rows[learned], config, epoch=0)
        builder.adapt_normalization(body, augmented[0][0])
    copies = config.augmented_copies
    counts = len(images) + len(learned) * np.arange(copies + 1)
    space = counts * sum(np.prod(output.shape[1:]) for output in body.outputs[:2]) * 2 / 2**30
    fitting = int(sum(space <= config.disk_limit))
    with_maps = fitting > 0
    if fitting <= copies and (with_maps or config.head != "pooled"):
        why = (
            f"its feature maps need {space[-1 if with_maps else 0]:.1f} GiB of disk, more than "
            f"{PREFIX}DISK_LIMIT ({config.disk_limit:g}); raise it, or lower {PREFIX}IMAGE_SIZE"
        )
        if not with_maps and config.head == "localization":
            raise InputError(f"{name} cannot have the localization head: {why}.")
        limited = f"{fitting - 1} of {copies} augmented copies" if with_maps else "pooled head"
        reason = "; ".join(filter(None, [reason, f"{limited}, because {why}"]))
    copies = fitting - 1 if with_maps else copies
    passes = [(rows, None), *((rows[learned], copy) for copy in range(1, copies + 1))]
    numbers = np.arange(len(images), len(images) + copies * len(learned))
    variants = np.stack([learned, *numbers.reshape(copies, len(learned))], axis=1)
    source = np.concatenate([np.arange(len(images)), *[learned] * copies])  # of cached rows
    cached = features.extract(
        builder.fold_batch_norm(body), pixels, passes, config, scratch, with_maps, key,
        functools.partial(report, "features"),
    )  # fmt: skip

    # Heads: the pooled one, the localization one where there are boxes. The one with the higher
    # AUC on held-out images stays; all heads run for a fixed number of epochs.
    begin("head")
    models, histories, logits = {}, {}, {}
    boxed = images["path"].isin(boxes["path"])[learned]
    if config.head != "localization":
        models["pooled"] = builder.add_head(body, "pooled", config.seed)
        fitted = []
        for own in learning:
            ordered = variants[np.isin(learned, own)].T.ravel()
            fitted.append(fit_pooled(cached["pooled"][ordered], labels[source[ordered]], copies))
        kernels, biases = map(np.array, zip(*fitted, strict=True))
        models["pooled"].get_layer("logit").set_weights([kernels[-1], biases[-1]])
        logits["pooled"] = cached["pooled"][: len(images)] @ kernels.T + biases
        row = measure(logits["pooled"][watched, 0])
        row |= {"stage": "head", "epoch": 1, "seconds": time.monotonic() - started["head"]}
        histories["pooled"] = [row]
    if with_maps and (config.head == "localization" or (config.head == "auto" and boxed.any())):
        models["localization"] = builder.add_head(body, "localization", config.seed)
        heads, maps = builder.fold_heads(body, len(learning), config.seed), [*cached.values()][:2]
        located, grid = features.boxes_by_row(images, rows, boxes), maps[0].shape[1]
        locate = functools.partial(features.cell_targets, pixels, located, grid, config)
        targets, inside = map(np.concatenate, zip(*(locate(*part) for part in passes), strict=True))
        samples = [np.sort(order[:STANDARD]) for order in permuted]
        heads.get_layer("cell_logits").standardize(maps, samples)
        learns = np.stack([np.isin(source, own) for own in learning], axis=1)
        arrays, learned_labels = [*maps, inside, learns], [labels[source], targets]
        batches = FeatureBatches(arrays, learned_labels, variants, config.batch_size)
        watch = FeatureBatches(arrays, [labels], watched, config.batch_size)
        rate = cosine(HEAD_RATE, HEAD_EPOCHS * len(batches))
        optimizer = keras.optimizers.AdamW(rate, weight_decay=HEAD_DECAY)
        limits = class_weights, HEAD_EPOCHS, -np.inf, None
        histories["localization"] = fit("head", heads, optimizer, batches, watch, *limits)
        builder.set_head(models["localization"], heads, -1)
        scored = FeatureBatches(arrays, [labels], held_out, config.batch_size)
        logits["localization"] = np.empty((len(images), len(learning)))
        scorer = keras.Model(heads.input, heads.output[0])
        logits["localization"][held_out] = scorer.predict(scored, verbose=0)
    logits = {head: of[held_out, own_head] for head, of in logits.items()}
    aucs = {head: _mean_auc(labels[held_out], of, own_head) for head, of in logits.items()}
    chosen = max(aucs, key=lambda head: aucs[head])
    model, history = builder.add_head(body, chosen, config.seed), histories[chosen]
    model.set_weights(models[chosen].get_weights())  # the same, with dropout from the start

    # Fine-tuning: the top block on the cached early maps of originals and copies, or all layers on
    # images that are augmented anew in each epoch.
    begin("fine_tune")
    mask, in_cells = ([inside], [targets]) if chosen == "localization" else ([], [])
    if config.fine_tune_epochs:
        builder.unfreeze(model, config.fine_tune_depth)
        if with_maps and config.fine_tune_depth == "top":
            tuned, arrays = builder.top(model), [cached["early"], *mask]
            batches = FeatureBatches(
                arrays, [labels[source], *in_cells], variants, config.batch_size
            )
            watch = FeatureBatches(arrays, [labels], watched, config.batch_size)
        else:
            cells = [model.get_layer("cell_logits").output for _ in in_cells]
            tuned = keras.Model(model.input, [model.output, *cells], name=name)
            images_of = pixels, labels_by_row, rows[training], config
            batches = ImageBatches(*images_of, epoch=1, cell_targets=locate if cells else None)
            watch = ImageBatches(pixels, labels_by_row, rows[watched], config)
        rate = cosine(HEAD_RATE, config.fine_tune_epochs * len(batches))
        optimizer = LayerwiseAdamW(rate, weight_decay=HEAD_DECAY)
        limits = class_weights[0], config.fine_tune_epochs, aucs[chosen], PATIENCE
        history = history + fit("fine_tune", tuned, optimizer, batches, watch, *limits)

    # Class weights train as if both classes were equally frequent; the log odds of the training
    # labels correct the logit (King & Zeng 2001).
    begin("predict")
    *others, offset = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([*others, offset + priors[-1]])
    weights_path = config.models_dir / f"{name}.weights.h5"
    with artifacts.replacing(weights_path) as temporary:
        keras.Model(model.input, model.output).save_weights(temporary)  # without the optimizer

    # Predictions and heat maps: of a frozen backbone from the cached maps.
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
    table = images.loc[evaluated, [*text]].assign(fold=0, logit=outputs.logits)
    if cross_validated:
        own = logits[chosen] + priors[own_head]
        others = images.loc[held_out, [*text, "fold"]].assign(split=OUT_OF_FOLD, logit=own)
        table = pd.concat([table, others])
    table = table.assign(model=name, kind="network", probability=special.expit(table["logit"]))
    tables.write(folder, "predictions", table)
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
        "head_auc": aucs,
        "folds": int(folds.max()) if cross_validated else 0,
        "augmented_copies": copies,
        "boxes": int(boxed.sum()) if chosen == "localization" else 0,
        "fine_tune_depth": config.fine_tune_depth if config.fine_tune_epochs else "",
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


def main(folder: Path, parent: int) -> NoReturn:
    """Work through the job in `folder`; status.json has the progress, stdout why it failed. Ends
    with the process `parent`.
    """
    threading.Thread(target=_end_with_parent, args=[parent], daemon=True).start()
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
    if sys.platform == "win32":
        kernel = ctypes.windll.kernel32  # its handle of a process with the right to wait for it
        kernel.WaitForSingleObject(kernel.OpenProcess(0x100000, False, parent), -1)
    else:
        while os.getppid() == parent:
            time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
