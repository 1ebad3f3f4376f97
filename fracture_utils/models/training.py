"""One model from initial weights to predictions, in the process that `jobs` starts for it.

Feature maps and epochs are saved in the job folder, so that a run that was killed repeats at most
one stage or epoch, and ends with the same numbers.
"""

import ctypes
import functools
import gc
import os
import re
import shutil
import sys
import threading
import time
import timeit
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    gc.disable()  # until all modules are imported: collections would take a fifth of that time

import keras
import numpy as np
import pandas as pd
from scipy import special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from fracture_utils import artifacts, tables
from fracture_utils.config import FRACTURED, OUT_OF_FOLD, PREFIX, Config, InputError, first_line
from fracture_utils.data import dataset
from fracture_utils.data.generators import FeatureBatches, ImageBatches, shuffled
from fracture_utils.models import backbones, builder, features, heatmaps, ood

L2 = 0.1  # pooled head: penalty on the squared weights of standardized features
SMALLEST_DEVIATION = 0.05  # of those, relative to the median: smaller variation is noise
HEAD_EPOCHS, HEAD_RATE, HEAD_DECAY = 12, 2e-3, 1e-2  # localization head: AdamW, peak rate
BOX_WEIGHT = 10.0  # localization head: weight of the loss of grid cells relative to that of labels
STANDARD = 256  # localization head: images for the standardization of feature maps
BODY_RATE = 0.05  # fine-tuning: learning rate of the backbone, relative to that of the head
WARM_UP = 0.1  # fraction of the steps in which the learning rate rises from zero
STATUS_SECONDS = 0.3  # between two writes of status.json
TIMED = 8  # images of a forward pass whose time is measured


def fit(
    model: keras.Model,
    batches: FeatureBatches | ImageBatches,
    watch: keras.utils.PyDataset,
    measure: Callable[[np.ndarray], dict],
    report: Callable[[int, int], None],
    path: Path,
    key: dict,
    seed: int,
    epochs: int,
    best: float | None = None,
) -> list[dict]:
    """Train a compiled model; returns a history row per epoch, which `measure` computes from the
    logits of the batches `watch`. Each epoch uses the rows of `batches` in a different order.

    The model ends with the weights of the highest validation AUC above `best` or, without it, the
    last ones. `path`, sealed by `key`, has what a run that was killed needs to continue: weights,
    optimizer, random seeds and history.
    """
    history: list[dict] = []
    trained, rows = model.trainable_variables, batches.rows
    steps, total = len(batches), epochs * len(batches)
    model.optimizer.build(trained)
    kept = [keras.Variable(variable) for variable in trained]
    seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
    state = [*trained, *kept, *seeds, *model.optimizer.variables]

    def assign(variables: list, values: Iterable) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    if artifacts.is_valid(path, key):
        history = artifacts.facts(path)["history"]
        assign(state, artifacts.read_arrays(path).values())
    progress = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, **_: report(len(history) * steps + batch + 1, total)
    )
    while len(history) < epochs:
        epoch, started = len(history) + 1, time.monotonic()
        batches.rows, batches.epoch = shuffled(rows, seed, epoch), epoch
        losses = model.fit(batches, shuffle=False, callbacks=[progress], verbose=0).history["loss"]
        logits = keras.tree.flatten(model.predict(watch, verbose=0))[0][:, 0]
        if not np.isfinite([*losses, *logits]).all():
            raise FloatingPointError(f"The loss of {model.name} is not finite.")
        row = measure(logits)
        row |= {"learning_rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))}
        if best is None or row["val_auc"] > max([best, *(one["val_auc"] for one in history)]):
            assign(kept, trained)
        history.append(row | {"epoch": epoch, "seconds": time.monotonic() - started})
        arrays = {str(k): keras.ops.convert_to_numpy(value) for k, value in enumerate(state)}
        artifacts.write_arrays(path, **arrays)
        artifacts.seal(path, key, history=history)
    assign(trained, kept)
    return history


class LayerwiseAdamW(keras.optimizers.AdamW):
    """AdamW with the learning rate of the head, and BODY_RATE times that in other layers."""

    def update_step(self, gradient, variable, learning_rate) -> None:
        path = self._trainable_variables[self._get_variable_index(variable)].path
        rate = learning_rate * (1.0 if "logit" in path else BODY_RATE)
        super().update_step(gradient, variable, rate)


def compile_model(model: keras.Model, optimizer: Any, class_weights: np.ndarray) -> None:
    """Compile a model of logits, or of logits and cell logits; Keras scales a loss in float16."""
    losses, count = [builder.image_loss(class_weights), builder.cell_loss], len(model.outputs)
    model.compile(optimizer, losses[:count], loss_weights=[1.0, BOX_WEIGHT][:count])


def fit_pooled(pooled: np.ndarray, labels: np.ndarray, copies: int = 0) -> tuple[np.ndarray, float]:
    """Kernel (channels,) and bias of a logistic regression on the pooled features (n, channels) of
    original images (they set the scale), followed by `copies` augmented copies of each.
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
    """Run the job in `folder`; in float32 if a number is not finite in 16 bits.

    Writes predictions.csv, history.csv, heatmaps.npy and, last, network.json there, and weights and
    OOD reference to models_dir. Calls `report(stage, done, total)` to show the progress.
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
    """`train` in one precision; raises FloatingPointError if a number is not finite."""
    name, config, key = job["name"], Config(**job["config"]), job["key"] | {"precision": precision}
    initial, size = backbones.Weights(**job["weights"]), backbones.size(name, config)
    scratch, text = folder / "scratch", ["path", "group", "label", "split"]
    types = dict.fromkeys(text, str)
    images = pd.read_csv(folder / "images.csv", dtype=types, keep_default_na=False)
    boxes = pd.read_csv(folder / "boxes.csv", dtype={"path": str})
    labels, splits = (images["label"] == FRACTURED).to_numpy(int), images["split"].to_numpy()
    validation, folds = np.flatnonzero(splits == "validation"), images["fold"].to_numpy()
    pixels, row_of = dataset.pixels(config.cache_dir, size)
    rows = np.array([row_of[path] for path in images["path"]])
    labels_by_row = np.zeros(len(pixels), int)
    labels_by_row[rows] = labels
    served = functools.partial(ImageBatches, pixels, labels_by_row, config=config)

    # The images that each head learns from: the heads of the folds, without the images of the fold,
    # and the final one; or without folds one head, without the validation images.
    cross_validated, random = folds.max() > 0, np.random.default_rng(config.seed)
    learned = np.flatnonzero(folds if cross_validated else splits == "train")
    held_out = learned if cross_validated else validation
    evaluated = np.flatnonzero(splits == "test" if cross_validated else splits != "train")
    own_head = folds[held_out] - 1
    learning = [*(held_out[own_head != head] for head in range(folds.max())), learned]
    permuted = [random.permutation(own) for own in learning]
    balances = np.array([np.bincount(labels[own], minlength=2) for own in learning])
    class_weights = balances.sum(axis=1, keepdims=True) / (2 * balances)
    priors = special.logit(balances[:, 1] / balances.sum(axis=1))
    # Loss and AUC of the first head, in inference mode, on as many training as validation images.
    watched = np.sort(np.concatenate([permuted[0][: len(validation)], validation]))

    def measure(logits: np.ndarray) -> dict[str, float]:
        row, validating = {}, splits[watched] == "validation"
        for prefix, chosen in (("", ~validating), ("val_", validating)):
            y, z = labels[watched[chosen]], logits[chosen].astype(float)
            options = {"sample_weight": class_weights[0][y], "labels": [0, 1]}
            row[f"{prefix}loss"] = log_loss(y, special.expit(z), **options)
            row[f"{prefix}auc"] = roc_auc_score(y, z)
        return row

    def train_stage(stage, model, batches, watch, weights, epochs, *limits) -> list[dict]:
        steps = epochs * len(batches)
        warm_up = {"warmup_target": HEAD_RATE, "warmup_steps": max(round(WARM_UP * steps), 1)}
        rate = keras.optimizers.schedules.CosineDecay(0.0, steps, **warm_up)
        compile_model(model, LayerwiseAdamW(rate, weight_decay=HEAD_DECAY), weights)
        show, path = functools.partial(report, stage), scratch / f"{stage}.npz"
        given = measure, show, path, key, config.seed, epochs, *limits
        return [row | {"stage": stage} for row in fit(model, batches, watch, *given)]

    started = {}

    def begin(stage: str) -> None:
        started[stage] = time.monotonic()
        report(stage, 0, 1)

    # Feature maps: every image and every augmented copy passes through the frozen backbone once.
    begin("features")
    body = builder.build_body(name, size, initial, precision, config.seed)
    if initial.path is None:
        builder.adapt_normalization(body, served(rows[learned], epoch=0)[0][0])
    copies, gib = config.augmented_copies, 2 / 2**30  # of an image's maps in float16
    gib *= sum(np.prod(output.shape[1:]) for output in body.outputs[:2])
    fitting = int((config.disk_limit / gib - len(images)) // len(learned))  # copies
    with_maps = fitting >= 0
    if fitting < copies and (with_maps or config.head != "pooled"):
        needed = gib * (len(images) + copies * len(learned))
        why = f"its feature maps need {needed:.1f} GiB of disk; raise {PREFIX}DISK_LIMIT"
        if not with_maps and config.head == "localization":
            raise InputError(f"{name} cannot have the localization head: {why}.")
        limited = f"{fitting} of {copies} augmented copies" if with_maps else "pooled head"
        reason = "; ".join(filter(None, [reason, f"{limited}, because {why}"]))
        copies = fitting if with_maps else copies
    passes = [(rows, None), *((rows[learned], copy) for copy in range(1, copies + 1))]
    source = np.concatenate([np.arange(len(images)), *[learned] * copies])  # of cached rows
    numbers = np.arange(len(images), len(source))
    variants = np.stack([learned, *numbers.reshape(copies, len(learned))], axis=1)
    cached = features.extract(
        builder.fold_batch_norm(body), pixels, passes, config, scratch, with_maps, key,
        functools.partial(report, "features"),
    )  # fmt: skip
    cached_batches = functools.partial(FeatureBatches, batch_size=config.batch_size)

    # Heads: the pooled one, and the localization one if there are boxes. The one with the higher
    # AUC on held-out images is used. The pooled one is a logistic regression.
    begin("head")
    trained = {}  # by head: weights, history, logits of the held-out images
    boxed = images["path"].isin(boxes["path"])[learned]
    if config.head != "localization":
        fitted = []
        for own in learning:
            ordered = variants[np.isin(learned, own)].T.ravel()
            fitted.append(fit_pooled(cached["pooled"][ordered], labels[source[ordered]], copies))
        kernels, biases = map(np.array, zip(*fitted, strict=True))
        scores = cached["pooled"][: len(images)] @ kernels.T + biases
        row = {"stage": "head", "epoch": 1, "seconds": time.monotonic() - started["head"]}
        row |= measure(scores[watched, 0])
        own = {"logit": [kernels[-1], biases[-1]]}
        trained["pooled"] = own, [row], scores[held_out, own_head]
    if with_maps and (config.head == "localization" or (config.head == "auto" and boxed.any())):
        heads, maps = builder.fold_heads(body, len(learning), config.seed), [*cached.values()][:2]
        located, grid = features.boxes_by_row(images, rows, boxes), maps[0].shape[1]
        locate = functools.partial(features.cell_targets, pixels, located, grid, config)
        targets, inside = map(np.concatenate, zip(*(locate(*part) for part in passes), strict=True))
        samples = [np.sort(order[:STANDARD]) for order in permuted]
        heads.get_layer("cell_logits").standardize(maps, samples)
        learns = np.stack([np.isin(source, own) for own in learning], axis=1)
        given = [*maps, inside, learns], [labels[source], targets]
        batches, watch, scored = (cached_batches(*given, r) for r in (variants, watched, held_out))
        history = train_stage("head", heads, batches, watch, class_weights, HEAD_EPOCHS)
        layers = [heads.get_layer(layer) for layer in ("cell_logits", "logit")]
        own = {layer.name: [values[-1] for values in layer.get_weights()] for layer in layers}
        scores = keras.Model(heads.input, heads.output[0]).predict(scored, verbose=0)
        trained["localization"] = own, history, scores[np.arange(len(held_out)), own_head]
    aucs = {head: _mean_auc(labels[held_out], of[-1], own_head) for head, of in trained.items()}
    chosen = max(aucs, key=aucs.__getitem__)
    weights, history, logits = trained[chosen]
    model = builder.add_head(body, chosen, config.seed)
    for layer, values in weights.items():
        model.get_layer(layer).set_weights(values)

    # Fine-tuning: the top block on the cached early maps of originals and copies, or all layers on
    # images with new augmentation in each epoch.
    begin("fine_tune")
    mask, in_cells = ([inside], [targets]) if chosen == "localization" else ([], [])
    if config.fine_tune_epochs:
        builder.unfreeze(model, config.fine_tune_depth)
        if with_maps and config.fine_tune_depth == "top":
            tuned = builder.top(model)
            given = [cached["early"], *mask], [labels[source], *in_cells]
            batches, watch = cached_batches(*given, variants), cached_batches(*given, watched)
        else:
            cells = [model.get_layer("cell_logits").output for _ in in_cells]
            tuned = keras.Model(model.input, [model.output, *cells], name=name)
            batches = served(rows[learned], epoch=1, cell_targets=locate if cells else None)
            watch = served(rows[watched])
        limits = class_weights[0], config.fine_tune_epochs, aucs[chosen]
        history = history + train_stage("fine_tune", tuned, batches, watch, *limits)

    # With class weights, both classes count as equally frequent in training; the log odds of the
    # training labels correct the logit (King & Zeng 2001).
    begin("predict")
    *others, offset = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([*others, offset + priors[-1]])
    weights_path = config.models_dir / f"{name}.weights.h5"
    with artifacts.replacing(weights_path) as temporary:
        keras.Model(model.input, model.output).save_weights(temporary)  # without the optimizer

    # Predictions and heat maps: with a frozen backbone, from the cached maps.
    explained = heatmaps.explain(model)
    reference = np.flatnonzero(splits != "test")
    reference = reference[ood.sample(images["group"].to_numpy()[reference], config.seed)]
    passed = np.union1d(evaluated, reference)
    if with_maps and not config.fine_tune_epochs:
        layers = [builder.EARLY, "feature_maps", *["inside"] * len(mask)]
        inputs = [model.get_layer(layer).output for layer in layers]
        predictor = keras.Model(inputs, explained.outputs[:2])
        batches = cached_batches([cached["early"], cached["last"], *mask], [labels], passed)
    else:
        predictor, batches = builder.fold_batch_norm(explained), served(rows[passed])
    scores, heat_maps, *content = predictor.predict(batches, verbose=0)
    content = content[0] if content else cached["content"][passed]
    scores, heat_maps = (values[np.isin(passed, evaluated)] for values in (scores, heat_maps))
    table = images.loc[evaluated, text].assign(fold=0, logit=scores[:, 0].astype(float))
    if cross_validated:
        own = logits + priors[own_head]
        others = images.loc[held_out, [*text, "fold"]].assign(split=OUT_OF_FOLD, logit=own)
        table = pd.concat([table, others])
    table = table.assign(model=name, kind="network", probability=special.expit(table["logit"]))
    tables.write(folder, "predictions", table)
    table = pd.DataFrame(history, columns=tables.columns("history")).assign(model=name)
    tables.write(folder, "history", table)
    with artifacts.replacing(folder / "heatmaps.npy") as temporary:
        np.save(temporary, heat_maps)
    tested, ood_path = np.flatnonzero(splits == "test"), config.models_dir / f"{name}.ood.npz"

    def about(own: np.ndarray) -> tuple:
        return pixels[rows[own]], content[np.isin(passed, own)], images.iloc[own]

    described = ood.fit(*about(reference))
    artifacts.write_arrays(ood_path, **described)

    correlation = heatmaps.randomized_correlation(explained, pixels, rows[tested], config.seed)
    folded = builder.fold_batch_norm(model)  # whose first pass traces the graph
    batch = pixels[np.resize(rows, TIMED)][..., None].astype(np.float32)
    durations = timeit.repeat(lambda: folded.predict_on_batch(batch), number=1, repeat=4)
    card = {
        "model": name,
        "initialization": initial.initialization,
        "provenance": initial.provenance,
        "input_size": size,
        "head": chosen,
        "head_auc": aucs,
        "folds": int(folds.max()),
        "epochs": table.groupby("stage").size().to_dict(),
        "augmented_copies": copies,
        "augmentation": config.augmentation,
        "boxes": int(boxed.sum()) if chosen == "localization" else 0,
        "fine_tune_depth": config.fine_tune_depth if config.fine_tune_epochs else "",
        "precision": precision,
        "reason": reason,
        "hardware": backbones.hardware(),
        "keras": f"{keras.__version__} on {keras.backend.backend()}",
        "parameters": model.count_params(),
        "seconds_per_image": float(np.median(durations[1:])) / TIMED,
        "randomized_correlation": correlation,
        "ood_layer": backbones.find(name).content,
        "ood_test": ood.observed(described, *about(tested)),
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
    """Run the job in `folder`; status.json has the progress, stdout the reason for a failure. Exits
    when the process `parent` ends.
    """
    gc.enable()
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
        kernel = ctypes.windll.kernel32  # a process handle that may be waited for
        kernel.WaitForSingleObject(kernel.OpenProcess(0x100000, False, parent), -1)
    else:
        while os.getppid() == parent:
            time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
