"""Batch generators over the pixel store, and over maps that a frozen network made of it."""

import copy
import os
import time
from collections.abc import Iterator, Sequence
from typing import Self

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.augmentation import augment


def shuffled(rows: np.ndarray, config: Config, epoch: int) -> np.ndarray:
    """The rows in an order that depends on the seed and the epoch only."""
    return np.random.default_rng([config.seed, epoch]).permutation(rows)


def randomness(config: Config, epoch: int, row: int) -> np.random.Generator:
    """What augments a picture: it depends on the seed, the epoch and the row only, so that an
    interrupted training sees the same pictures again and each epoch sees others.
    """
    return np.random.default_rng([config.seed, epoch, row])


class _Timed(keras.utils.PyDataset):
    """Batches of some rows that know when each was begun and ready (`made`, by `time.monotonic`),
    made by `workers` threads ahead of the training.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, workers: int) -> None:
        super().__init__(workers=workers)
        self.rows, self.batch_size = np.asarray(rows), batch_size
        self.made: dict[int, tuple[float, float]] = {}

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> tuple:
        start, begun = index * self.batch_size, time.monotonic()
        batch = self.batch(self.rows[start : start + self.batch_size])
        self.made[index] = begun, time.monotonic()
        return batch

    def parts(self, batches: int) -> Iterator[Self]:
        """The same in parts of so many batches, so that what is made of one can be let go."""
        step = batches * self.batch_size
        for start in range(0, len(self.rows), step):
            part = copy.copy(self)
            part.rows = self.rows[start : start + step]
            yield part

    def batch(self, rows: np.ndarray) -> tuple:
        """The inputs and targets of the rows of a batch."""
        raise NotImplementedError


class Batches(_Timed):
    """Pictures as float32 (batch, size, size, 1) in 0..255, with labels float32 (batch, 1).

    `rows` are the rows of `pixels` (uint8, (pictures, size, size)) and of `labels` to serve, in
    their order: as they stand, or with `epoch` augmented by `randomness`.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        config: Config,
        epoch: int | None = None,
    ) -> None:
        super().__init__(rows, config.batch_size, os.cpu_count() or 1)
        self.pixels, self.labels, self.config, self.epoch = pixels, labels, config, epoch

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pictures = np.stack([self._picture(row) for row in rows])
        return pictures[..., None], self.labels[rows, None].astype(np.float32)

    def _picture(self, row: int) -> np.ndarray:
        picture = np.asarray(self.pixels[row])
        if self.epoch is None:
            return picture.astype(np.float32)
        return augment(picture, self.config, randomness(self.config, self.epoch, row))


class MapBatches(_Timed):
    """Maps as they were kept, each (batch, rows, columns, channels), with what is known of them.

    Inputs are `maps` and `inside`, targets `labels` (batch, 1) and `truth`, as far as they are
    given; all of these have one entry a row of the maps, and `rows` are those to serve.
    """

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        labels: np.ndarray,
        rows: np.ndarray,
        batch_size: int,
        inside: np.ndarray | None = None,
        truth: np.ndarray | None = None,
    ) -> None:
        super().__init__(rows, batch_size, 1)
        self.inputs = [*maps, *([] if inside is None else [inside])]
        self.targets = [labels[:, None], *([] if truth is None else [truth])]

    def batch(self, rows: np.ndarray) -> tuple[tuple, tuple]:
        targets = tuple(array[rows].astype(np.float32) for array in self.targets)
        return tuple(array[rows] for array in self.inputs), targets
