"""Batch generators over the pixel store."""

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.augmentation import augment


class Batches(keras.utils.PyDataset):
    """Pictures as float32 (batch, size, size, 1) in 0..255, with labels float32 (batch, 1).

    `rows` are the rows of `pixels` (uint8, (pictures, size, size)) and of `labels` to serve. As
    they stand: in this order, unchanged. With `epoch`: shuffled and augmented, in a way that
    depends on the seed, the epoch and the row only, so that an interrupted training sees the
    same pictures again and each epoch sees others.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        rows: np.ndarray,
        config: Config,
        epoch: int | None = None,
    ) -> None:
        super().__init__()
        self.pixels, self.labels, self.config, self.epoch = pixels, labels, config, epoch
        self.rows = np.asarray(rows)
        if epoch is not None:
            self.rows = np.random.default_rng([config.seed, epoch]).permutation(self.rows)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.config.batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = index * self.config.batch_size
        rows = self.rows[start : start + self.config.batch_size]
        pictures = np.stack([self._picture(row) for row in rows])
        return pictures[..., None], self.labels[rows, None].astype(np.float32)

    def _picture(self, row: int) -> np.ndarray:
        picture = np.asarray(self.pixels[row])
        if self.epoch is None:
            return picture.astype(np.float32)
        random = np.random.default_rng([self.config.seed, self.epoch, row])
        return augment(picture, self.config, random)
