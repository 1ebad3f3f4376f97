"""Fine-tuning that can be killed at any moment, and what it shares with the heads."""

import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import log_loss, roc_auc_score

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.models import precision
from fracture_utils.models.evidence import picture_loss, place_loss

WARM_UP = 0.1
"""Share of the steps in which a learning rate rises from zero."""


class DivergedError(ArithmeticError):
    """The loss is no number any more."""


def class_weights(labels: np.ndarray) -> dict[int, float]:
    """Weights that give both classes the same share of the loss and keep its mean."""
    counts = np.bincount(labels.astype(int), minlength=2)
    return {label: len(labels) / (2 * count) for label, count in enumerate(counts)}


def watched_rows(splits: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The training pictures, the validation pictures, and as many training pictures as there are
    validation pictures, on which a history row measures both alike.
    """
    train, validation = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    sample = np.random.default_rng(config.seed).permutation(train)[: len(validation)]
    return train, validation, sample


def fine_tune(  # noqa: PLR0913  (what an epoch needs, each by its name)
    model: keras.Model,
    served: Callable[[int], keras.utils.PyDataset],
    watch: keras.utils.PyDataset,
    labels: np.ndarray,
    splits: np.ndarray,
    config: Config,
    head_auc: float,
    checkpoint: Path,
    progress: Callable[[int, int], None],
) -> list[dict]:
    """Train what `classifier.unfreeze` left trainable; `model` ends up with its best weights.

    `model` gives the logits, and the places where the evidence head learns from boxes. `served`
    gives the batches of an epoch, `watch` those of `watched_rows` (sample and validation, sorted).
    The best weights are those with the highest validation AUC, `head_auc` (before the first epoch)
    included, so that fine-tuning never makes a network worse on validation. After each epoch
    everything that training needs to go on goes into `checkpoint`, one file: weights, best
    weights, optimiser, schedule position, dropout's seeds, patience and history. Raises
    DivergedError where the loss is no number. Returns one history row an epoch.
    """
    train, validation, sample = watched_rows(splits, config)
    watched = np.sort(np.concatenate([sample, validation]))
    weights = class_weights(labels[train])
    steps = -(-len(train) // config.batch_size)
    total = config.fine_tune_epochs * steps
    compile_for(model, keras.optimizers.Adam(cosine(config.fine_tune_learning_rate, total)),
                weights, config)  # fmt: skip
    state = _State(model, checkpoint, head_auc)
    while state.epoch < config.fine_tune_epochs and state.waited < config.patience:
        started, epoch = time.monotonic(), state.epoch + 1
        clock = Clock(served(epoch), lambda step: progress(state.epoch * steps + step, total))
        fitted = model.fit(clock.batches, shuffle=False, callbacks=[clock], verbose=0)
        if not np.isfinite(fitted.history["loss"][-1]):
            raise DivergedError(f"The loss of {model.name} is no number in epoch {epoch}.")
        logits = np.full(len(labels), np.nan)
        logits[watched] = first_logits(model, watch)
        row = history_row("fine_tune", epoch, logits, labels, sample, validation, weights)
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        row |= {"learning_rate": rate, "seconds": time.monotonic() - started}
        row["seconds_waiting"] = clock.waited
        state.advance(row)
    state.restore_best()
    return state.history


def compile_for(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    weights: dict[int, float],
    config: Config,
) -> None:
    """Compile a model that gives logits, or logits and places, for `picture_loss` and
    `place_loss`. In float16 the loss is scaled, because small gradients would be zeros.

    Keras alone would look at the policy of the moment in which `model` was put together.
    """
    with_places = len(model.outputs) == 2
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        [picture_loss(weights), *([place_loss] if with_places else [])],
        loss_weights=[1.0, *([config.box_weight] if with_places else [])],
        auto_scale_loss=False,
        jit_compile=precision.compile_ahead(),
    )


def cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that rises from zero to `peak` and falls back by a cosine."""
    steps = max(steps, 1)
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=steps,
        warmup_target=peak,
        warmup_steps=max(round(WARM_UP * steps), 1),
    )


def first_logits(model: keras.Model, batches: keras.utils.PyDataset) -> np.ndarray:
    """The logits (n,) of a model that gives logits, or logits and more."""
    made = model.predict(batches, verbose=0)
    return (made[0] if isinstance(made, list) else made)[:, 0]


def restore_prior(model: keras.Model, labels: np.ndarray) -> None:
    """Shift the logit by the log odds of the training labels.

    Class weights teach the network that both classes are equally frequent; the shift gives
    it back how frequent fractures are (King & Zeng 2001, prior correction). Ranks stay.
    """
    *others, shift = model.get_layer("logit").get_weights()
    odds = labels.mean() / (1 - labels.mean())
    model.get_layer("logit").set_weights([*others, shift + np.log(odds)])


def history_row(stage, epoch, logits, labels, train, validation, weights) -> dict:
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


class Clock(keras.callbacks.Callback):
    """Hears each step of an epoch over timed `batches`, and adds up the seconds in which the
    training had ended a step and the next batch was being made: `waited`. Not so the start of an
    epoch, in which Keras traces its graph and starts its threads.
    """

    def __init__(
        self, batches: keras.utils.PyDataset, tick: Callable[[int], None] = lambda _: None
    ) -> None:
        super().__init__()
        self.batches, self.tick, self.waited = batches, tick, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        self._free = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:  # noqa: ARG002
        begun, ready = self.batches.made[batch]
        self.waited += max(ready - max(begun, self._free), 0.0)  # what was not begun is no wait
        self._free = time.monotonic()
        self.tick(batch + 1)


class _State:
    """Where fine-tuning stands: in the model, in memory and, after each epoch, in one file."""

    def __init__(self, model: keras.Model, path: Path, head_auc: float) -> None:
        self.model, self.path = model, path
        self.epoch, self.waited, self.best_auc = 0, 0, head_auc
        self.history: list[dict] = []
        model.optimizer.build(model.trainable_variables)
        seeds = [v for v in model.non_trainable_variables if "seed" in v.path]
        self._moving = [*model.trainable_variables, *seeds, *model.optimizer.variables]
        self._best = values_of(model.trainable_variables)
        self._resume()

    def advance(self, row: dict) -> None:
        """Take in an epoch's history row and save."""
        self.history.append(row)
        self.epoch, self.waited = row["epoch"], self.waited + 1
        if row["val_auc"] > self.best_auc:
            self.best_auc, self.waited = row["val_auc"], 0
            self._best = values_of(self.model.trainable_variables)
        names = ("epoch", "waited", "best_auc", "history")
        arrays = {f"moving_{k}": v for k, v in enumerate(values_of(self._moving))}
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
    def _assign(variables: list[keras.Variable], values: list[np.ndarray]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def values_of(variables: list[keras.Variable]) -> list[np.ndarray]:
    """The values of some variables as arrays of their own."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def history_table(rows: list[dict], model: str) -> pd.DataFrame:
    """The history table of one network, in the column order of history.csv."""
    columns = ["model", "stage", "epoch", "loss", "auc", "val_loss", "val_auc"]
    columns += ["learning_rate", "seconds", "seconds_waiting"]
    return pd.DataFrame([{"model": model} | row for row in rows], columns=columns)
