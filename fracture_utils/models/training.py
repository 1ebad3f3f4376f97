"""Two phases: the head on frozen features, then fine-tuning that can be killed at any moment."""

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data.batches import Batches
from fracture_utils.models import classifier, precision

HEAD_STEPS = 20
"""Steps per epoch of the head, however many pictures there are."""
SMALLEST_SPREAD = 0.05
"""Of the median; features that hardly vary are not blown up to unit variance."""
WARM_UP = 0.1
"""Share of the steps in which the learning rate of fine-tuning rises from zero."""


class DivergedError(ArithmeticError):
    """The loss is no number any more."""


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Weights that give both classes the same share of the loss and keep its mean."""
    counts = np.bincount(labels.astype(int), minlength=2)
    return {label: len(labels) / (2 * count) for label, count in enumerate(counts)}


def fit_head(
    features: np.ndarray, labels: np.ndarray, splits: np.ndarray, config: Config
) -> tuple[np.ndarray, float, list[dict]]:
    """Logistic regression on frozen features, by gradient descent with early stopping.

    `features` are the rows of `features.extract`: one a picture, then the augmented views of the
    training pictures; `labels` (0 or 1) and `splits` have one entry a picture. Learns on features
    of unit variance and folds the scaling into the result. Returns kernel (channels,) and bias of
    the epoch with the best validation AUC, and one history row an epoch.
    """
    train, validation = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    views = 1 + (len(features) - len(labels)) // max(len(train), 1)
    mean, spread = features[train].mean(axis=0), features[train].std(axis=0)
    spread = np.maximum(spread, SMALLEST_SPREAD * np.median(spread) + 1e-6)
    scaled = (features - mean) / spread
    x = np.concatenate([scaled[train], scaled[len(labels) :]])
    y = np.tile(labels[train], views).astype(np.float32)

    model, weights = _head(x.shape[1], config), class_weights(y)
    best, waited, history = (-np.inf, None, None), 0, []
    for epoch in range(1, config.head_epochs + 1):
        started = time.monotonic()
        model.fit(x, y, batch_size=-(-len(x) // HEAD_STEPS), class_weight=weights, verbose=0)
        kernel, bias = (np.asarray(value, np.float64) for value in model.get_weights())
        logits = scaled[: len(labels)] @ kernel + bias
        row = _history_row("head", epoch, logits, labels, train, validation, weights)
        row |= {"learning_rate": config.head_learning_rate, "seconds": time.monotonic() - started}
        history.append(row)
        waited += 1
        if row["val_auc"] > best[0]:
            best, waited = (row["val_auc"], kernel, bias), 0
        if waited >= config.patience:
            break
    _, kernel, bias = best
    return kernel / spread, float(bias - mean @ (kernel / spread)), history


def _head(channels: int, config: Config) -> keras.Model:
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy("float32")
    inputs = keras.Input((channels,))
    x = keras.layers.Dropout(config.dropout)(inputs)
    penalty = keras.regularizers.L2(config.head_l2)
    model = keras.Model(inputs, classifier.Logit(kernel_regularizer=penalty)(x))
    model.compile(
        keras.optimizers.Adam(config.head_learning_rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=precision.compile_ahead(),
    )
    return model


def fine_tune(
    model: keras.Model,
    pixels: np.ndarray,
    labels: np.ndarray,
    splits: np.ndarray,
    config: Config,
    head_auc: float,
    checkpoint: Path,
    progress: Callable[[int, int], None],
) -> list[dict]:
    """Train what `classifier.unfreeze` left trainable; `model` ends up with its best weights.

    The best weights are those with the highest validation AUC, `head_auc` (before the first epoch)
    included, so that fine-tuning never makes a network worse on validation. After each
    epoch everything that training needs to go on goes into `checkpoint`, one file: weights, best
    weights, optimiser, schedule position, dropout's seeds, patience and history. Raises
    DivergedError where the loss is no number. Returns one history row an epoch.
    """
    train, validation = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    sample = np.random.default_rng(config.seed).permutation(train)[: len(validation)]
    watched = np.sort(np.concatenate([sample, validation]))
    weights = class_weights(labels[train])
    steps = -(-len(train) // config.batch_size)
    _compile(model, steps, config)
    state = _State(model, checkpoint, head_auc)
    total = config.fine_tune_epochs * steps
    while state.epoch < config.fine_tune_epochs and state.waited < config.patience:
        started, epoch = time.monotonic(), state.epoch + 1
        ticker = _Ticker(lambda step, epoch=epoch: progress((epoch - 1) * steps + step, total))
        batches = Batches(pixels, labels, train, config, epoch)
        fitted = model.fit(
            batches, shuffle=False, class_weight=weights, callbacks=[ticker], verbose=0
        )
        if not np.isfinite(fitted.history["loss"][-1]):
            raise DivergedError(f"The loss of {model.name} is no number in epoch {epoch}.")
        logits = np.full(len(labels), np.nan)
        logits[watched] = model.predict(Batches(pixels, labels, watched, config), verbose=0)[:, 0]
        row = _history_row("fine_tune", epoch, logits, labels, sample, validation, weights)
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        row |= {"learning_rate": rate, "seconds": time.monotonic() - started}
        state.advance(row)
    state.restore_best()
    return state.history


def restore_prior(model: keras.Model, labels: np.ndarray) -> None:
    """Shift the logit by the log odds of the training labels.

    Class weights teach the network that both classes are equally frequent; the shift gives
    it back how frequent fractures are (King & Zeng 2001, prior correction). Ranks stay.
    """
    kernel, bias = model.get_layer("logit").get_weights()
    odds = labels.mean() / (1 - labels.mean())
    model.get_layer("logit").set_weights([kernel, bias + np.log(odds)])


def _compile(model: keras.Model, steps: int, config: Config) -> None:
    total = max(config.fine_tune_epochs * steps, 1)
    warm_up = max(round(WARM_UP * total), 1)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=total,
        warmup_target=config.fine_tune_learning_rate,
        warmup_steps=warm_up,
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=precision.compile_ahead(),
    )


def _history_row(stage, epoch, logits, labels, train, validation, weights) -> dict:
    """Loss and AUC in inference mode, on training and on validation pictures alike.

    Measured this way the two curves can be compared: no dropout, no augmentation in either.
    """
    row = {"stage": stage, "epoch": epoch}
    for prefix, rows in (("", train), ("val_", validation)):
        y, z = labels[rows], np.asarray(logits[rows], np.float64)
        if not np.isfinite(z).all():
            raise DivergedError(f"The {stage} stage gives logits that are no numbers.")
        probability = 1 / (1 + np.exp(-np.clip(z, -700, 700)))
        sample_weight = [weights[int(label)] for label in y]
        row[prefix + "loss"] = log_loss(y, probability, sample_weight=sample_weight, labels=[0, 1])
        row[prefix + "auc"] = roc_auc_score(y, z)
    return row


class _Ticker(keras.callbacks.Callback):
    def __init__(self, tick: Callable[[int], None]) -> None:
        super().__init__()
        self.tick = tick

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self.tick(batch + 1)


class _State:
    """Where fine-tuning stands: in the model, in memory and, after each epoch, in one file."""

    def __init__(self, model: keras.Model, path: Path, head_auc: float) -> None:
        self.model, self.path = model, path
        self.epoch, self.waited, self.best_auc, self.history = 0, 0, head_auc, []
        model.optimizer.build(model.trainable_variables)
        seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
        self._moving = [*model.trainable_variables, *seeds, *model.optimizer.variables]
        self._best = self._values(model.trainable_variables)
        self._resume()

    def advance(self, row: dict) -> None:
        """Take in an epoch's history row and save."""
        self.history.append(row)
        self.epoch, self.waited = row["epoch"], self.waited + 1
        if row["val_auc"] > self.best_auc:
            self.best_auc, self.waited = row["val_auc"], 0
            self._best = self._values(self.model.trainable_variables)
        names = ("epoch", "waited", "best_auc", "history")
        arrays = {f"moving_{k}": v for k, v in enumerate(self._values(self._moving))}
        arrays |= {f"best_{k}": v for k, v in enumerate(self._best)}
        files.write_arrays(self.path, {name: getattr(self, name) for name in names}, arrays)

    def restore_best(self) -> None:
        """Give the model the weights of its best epoch."""
        self._assign(self.model.trainable_variables, self._best)

    def _resume(self) -> None:
        stored = files.read_arrays(self.path)
        if stored is None:
            return
        meta, arrays = stored
        self._assign(self._moving, [arrays[f"moving_{k}"] for k in range(len(self._moving))])
        self._best = [arrays[f"best_{k}"] for k in range(len(self._best))]
        for name, value in meta.items():
            setattr(self, name, value)

    @staticmethod
    def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
        return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]

    @staticmethod
    def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def history_table(rows: list[dict], model: str) -> pd.DataFrame:
    """The history table of one network, in the column order of history.csv."""
    columns = ["model", "stage", "epoch", "loss", "auc", "val_loss", "val_auc"]
    columns += ["learning_rate", "seconds"]
    return pd.DataFrame([{"model": model} | row for row in rows], columns=columns)
