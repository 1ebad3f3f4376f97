"""What a frozen network makes of the pictures: computed once, kept in half precision.

Each picture passes the network plain, each training picture also in a few augmented views. The
pooled features are enough for a linear head; the maps, many times larger, are what the evidence
head and the top block learn from. They lie in memory-mapped files until the network is trained.
"""

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from fracture_utils import files
from fracture_utils.config import PREFIX, Config
from fracture_utils.data import places
from fracture_utils.data.augmentation import warp
from fracture_utils.data.batches import Batches, randomness
from fracture_utils.errors import InputError
from fracture_utils.models.evidence import UNKNOWN

BATCHES_AT_ONCE = 4
FIRST_VIEW = 1_000_000
"""Views are augmented like epochs that no fine-tuning ever reaches."""
HALF = float(np.finfo(np.float16).max)
NAMES = ("early", "last", "pooled")


class Views(NamedTuple):
    """What the rows of the kept arrays show: the picture (a row of the pixels), and the epoch of
    its augmentation (-1: plain). First every picture plain, then view by view the training ones.
    """

    picture: np.ndarray
    epoch: np.ndarray


def views(pictures: int, train: np.ndarray, config: Config) -> Views:
    """The views of `pictures` pictures, of which `train` are rows to view again."""
    more = range(FIRST_VIEW + 1, FIRST_VIEW + config.views)
    picture = np.concatenate([np.arange(pictures), *(train for _ in more)])
    epoch = np.concatenate([np.full(pictures, -1), *(np.full(len(train), e) for e in more)])
    return Views(picture.astype(int), epoch.astype(int))


def drawn(seen: Views, pictures: np.ndarray, config: Config, epoch: int) -> np.ndarray:
    """One row of the views for each of some pictures, drawn by the seed and the epoch."""
    random = np.random.default_rng([config.seed, epoch, len(pictures)])
    order = np.argsort(seen.picture, kind="stable")
    ends = [np.searchsorted(seen.picture, pictures, side, order) for side in ("left", "right")]
    return np.array([random.choice(order[start:end]) for start, end in zip(*ends, strict=True)])


def gibibytes(network: keras.Model, rows: int) -> float:
    """What the maps of so many rows take on the disk, in GiB."""
    numbers = sum(int(np.prod(output.shape[1:])) for output in network.outputs[:2])
    return 2 * numbers * rows / 2**30


def extract(
    network: keras.Model,
    pixels: np.ndarray,
    seen: Views,
    config: Config,
    folder: Path,
    with_maps: bool,
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """Early maps, last maps (float16) and pooled features (float32) of each view, by NAMES.

    `network` is `classifier.body`'s. Without `with_maps` the pooled features alone. The arrays are
    memory-mapped files in `folder`; after an interruption those chunks are taken from there whose
    checksum is right.
    """
    outputs = dict(zip(NAMES, network.outputs, strict=True))
    kept = NAMES if with_maps else NAMES[2:]
    shapes = {name: (len(seen.picture), *outputs[name].shape[1:]) for name in kept}
    arrays = {name: _opened(folder / f"{name}.npy", shape) for name, shape in shapes.items()}
    step = BATCHES_AT_ONCE * config.batch_size
    ledger = folder / "chunks.json"
    sums = _sound(ledger, arrays, step)
    model = keras.Model(network.input, [outputs[name] for name in kept])
    for start in range(len(sums) * step, len(seen.picture), step):
        chunk = slice(start, start + step)
        made = _look(model, pixels, Views(seen.picture[chunk], seen.epoch[chunk]), config)
        for array, values in zip(arrays.values(), made, strict=True):
            array[chunk] = np.clip(values.astype(np.float32), -HALF, HALF)
        sums.append(_checksum(arrays, chunk))
        files.write_text(ledger, json.dumps(sums))
        progress(min(start + step, len(seen.picture)), len(seen.picture))
    return arrays


def truth(
    seen: Views,
    pixels: np.ndarray,
    mark: Callable[[int], np.ndarray | None],
    rows: int,
    config: Config,
) -> tuple[np.ndarray, np.ndarray]:
    """What is known of the places of each view: `evidence.place_loss`'s truth, int8 (views, rows,
    rows), and which lie inside the picture, bool.

    `mark` gives of each picture a picture of its boxes (`places.mark`), or None where nothing is
    known: a fracture without a box. Places outside the picture are unknown.
    """
    inside = np.zeros((len(seen.picture), rows, rows), bool)
    known = np.full(inside.shape, UNKNOWN, np.int8)
    for view, (row, epoch) in enumerate(zip(*seen, strict=True)):
        lit = np.where(pixels[row] > 0, places.MARK, 0).astype(np.uint8)
        inside[view] = places.inside(_moved(lit, row, epoch, config), rows)
        if (marked := mark(row)) is not None:
            fractured = places.fractured(_moved(marked, row, epoch, config), rows)
            known[view] = np.where(inside[view], fractured, UNKNOWN)
    return known, inside


def _moved(square: np.ndarray, row: int, epoch: int, config: Config) -> np.ndarray:
    return square if epoch < 0 else warp(square, config, randomness(config, epoch, row))


def _look(model: keras.Model, pixels: np.ndarray, seen: Views, config: Config) -> list[np.ndarray]:
    parts = []
    for epoch in dict.fromkeys(seen.epoch.tolist()):  # in order; a chunk spans two views at most
        rows = seen.picture[seen.epoch == epoch]
        labels = np.zeros(len(pixels))
        batches = Batches(pixels, labels, rows, config, None if epoch < 0 else epoch)
        made = model.predict(batches, verbose=0)
        parts.append(made if isinstance(made, list) else [made])
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _opened(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The memory-mapped file of that shape, made where it is not there or another."""
    dtype = np.float32 if len(shape) == 2 else np.float16
    try:
        found = np.load(path, mmap_mode="r+")
        if found.shape == shape and found.dtype == dtype:
            return found
    except (OSError, ValueError, EOFError):
        pass
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # or a disk that fills up later would end the process
            with path.open("rb+") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); it needs "
            f"{np.prod(shape) * np.dtype(dtype).itemsize / 2**30:.2f} GiB. Free some space, choose "
            f"another folder with {PREFIX}RESULTS_DIR, or lower {PREFIX}MAPS_LIMIT."
        ) from None
    return array


def _checksum(arrays: dict[str, np.ndarray], chunk: slice) -> int:
    result = 0
    for array in arrays.values():
        result = zlib.crc32(np.ascontiguousarray(array[chunk]).data, result)
    return result


def _sound(ledger: Path, arrays: dict[str, np.ndarray], step: int) -> list[int]:
    """The checksums of the chunks that were finished and are whole, up to the first that is not."""
    try:
        sums = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    for number, expected in enumerate(sums):
        if _checksum(arrays, slice(number * step, (number + 1) * step)) != expected:
            return sums[:number]
    return sums
