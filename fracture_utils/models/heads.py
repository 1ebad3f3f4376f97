"""The heads on frozen features: one on the mean over places, one on the places themselves."""

import time
from collections.abc import Callable, Iterator

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.batches import MapBatches, shuffled
from fracture_utils.models import classifier
from fracture_utils.models.features import Views, drawn
from fracture_utils.models.training import (
    Clock,
    class_weights,
    compile_for,
    cosine,
    first_logits,
    history_row,
    values_of,
    watched_rows,
)

HEAD_STEPS = 20
"""Steps per epoch of the mean head, however many pictures there are."""
SMALLEST_SPREAD = 0.05
"""Of the median; features that hardly vary are not blown up to unit variance."""
STANDARD = 256
"""Pictures from which mean and spread of the maps' channels are taken."""
WEIGHT_DECAY = 1e-2
PART = 1024
"""Rows of features in memory at once."""


def fit_mean(
    features: np.ndarray, labels: np.ndarray, splits: np.ndarray, config: Config
) -> tuple[np.ndarray, float, list[dict]]:
    """Logistic regression on pooled features, by gradient descent with early stopping.

    `features` are the pooled ones of `features.extract`: one a picture, then the augmented views
    of the training pictures; `labels` (0 or 1) and `splits` have one entry a picture. Learns on
    features of unit variance and folds the scaling into the result. Returns kernel (channels,) and
    bias of the epoch with the best validation AUC, and one history row an epoch.
    """
    train, validation = np.flatnonzero(splits == "train"), np.flatnonzero(splits == "validation")
    views = np.arange(len(labels), len(features))
    rows = np.concatenate([train, views])
    by_row = np.append(labels, np.resize(labels[train], len(views)))
    mean, spread = _moments(features, train)
    spread = np.maximum(spread, SMALLEST_SPREAD * np.median(spread) + 1e-6)
    weights, size = class_weights(labels[train]), -(-len(rows) // HEAD_STEPS)
    model = _linear(mean, spread, weights, config)
    best, waited, history = -np.inf, 0, []
    kept = np.zeros(len(mean)), 0.0
    for epoch in range(1, config.head_epochs + 1):
        started = time.monotonic()
        clock = Clock(MapBatches([features], by_row, shuffled(rows, config, epoch), size))
        model.fit(clock.batches, shuffle=False, callbacks=[clock], verbose=0)
        kernel, bias = (value.astype(float) for value in model.get_layer("logit").get_weights())
        folded = kernel / spread, float(bias - mean @ (kernel / spread))
        products = [part @ folded[0] for part in _parts(features, np.arange(len(labels)))]
        logits = np.concatenate(products) + folded[1]
        row = history_row("head", epoch, logits, labels, train, validation, weights)
        row |= {"learning_rate": config.head_learning_rate, "seconds_waiting": clock.waited}
        history.append(row | {"seconds": time.monotonic() - started})
        waited += 1
        if row["val_auc"] > best:
            best, kept, waited = row["val_auc"], folded, 0
        if waited >= config.patience:
            break
    return *kept, history


def _parts(features: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of features in float64, PART at a time: there may be a hundred thousand."""
    for part in np.array_split(rows, -(-len(rows) // PART)):
        yield features[part].astype(np.float64)


def _moments(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (channels,) of some rows of features."""
    mean = sum(part.sum(axis=0) for part in _parts(features, rows)) / len(rows)
    squares = sum(np.square(part - mean).sum(axis=0) for part in _parts(features, rows))
    return mean, np.sqrt(squares / len(rows))


def _linear(
    mean: np.ndarray, spread: np.ndarray, weights: dict[int, float], config: Config
) -> keras.Model:
    """A logit on features of unit variance, compiled."""
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy("float32")
    inputs = keras.Input(mean.shape)
    x = keras.layers.Normalization(mean=mean, variance=spread**2)(inputs)
    x = keras.layers.Dropout(config.dropout)(x)
    penalty = keras.regularizers.L2(config.head_l2)
    model = keras.Model([inputs], [classifier.Logit(kernel_regularizer=penalty, name="logit")(x)])
    compile_for(model, keras.optimizers.Adam(config.head_learning_rate), weights, config)
    return model


def fit_evidence(  # noqa: PLR0913  (what a head learns from, each by its name)
    model: keras.Model,
    maps: list[np.ndarray],
    truth: tuple[np.ndarray, np.ndarray],
    seen: Views,
    labels: np.ndarray,
    splits: np.ndarray,
    config: Config,
    progress: Callable[[int, int], None],
) -> list[dict]:
    """Train the evidence head of `model` on early and last maps as `features.extract` keeps them.

    `truth` is `features.truth`'s, `seen` says which picture a row of both shows, `labels` and
    `splits` have one entry a picture. An epoch serves each training picture once, in a view drawn
    by `features.drawn`. The head ends up with the weights of the epoch with the best validation
    AUC; returns one history row an epoch.
    """
    train, validation, sample = watched_rows(splits, config)
    known, inside = truth
    places = model.get_layer("places")
    some = np.sort(np.random.default_rng(config.seed).permutation(train)[:STANDARD])
    places.standardise([array[some] for array in maps])
    inputs = [*places.input, model.get_layer("inside").output]
    head = keras.Model(inputs, [model.output, places.output], name=model.name)
    weights = class_weights(labels[train])
    steps = -(-len(train) // config.batch_size)
    rate = cosine(config.place_learning_rate, config.place_epochs * steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=WEIGHT_DECAY)
    compile_for(head, optimizer, weights, config)
    by_row = labels[seen.picture]
    watched = np.sort(np.concatenate([sample, validation]))
    watch = MapBatches(maps, by_row, watched, config.batch_size, inside)
    best, kept, history = -np.inf, values_of(head.trainable_variables), []
    for epoch in range(1, config.place_epochs + 1):
        started = time.monotonic()
        rows = drawn(seen, shuffled(train, config, epoch), config, epoch)
        clock = Clock(MapBatches(maps, by_row, rows, config.batch_size, inside, known))
        head.fit(clock.batches, shuffle=False, callbacks=[clock], verbose=0)
        logits = np.full(len(labels), np.nan)
        logits[watched] = first_logits(head, watch)
        row = history_row("head", epoch, logits, labels, sample, validation, weights)
        now = float(keras.ops.convert_to_numpy(head.optimizer.learning_rate))
        row |= {"learning_rate": now, "seconds_waiting": clock.waited}
        history.append(row | {"seconds": time.monotonic() - started})
        if row["val_auc"] > best:
            best, kept = row["val_auc"], values_of(head.trainable_variables)
        progress(epoch, config.place_epochs)
    for variable, value in zip(head.trainable_variables, kept, strict=True):
        variable.assign(value)
    return history
