"""The pixel store: each picture decoded once into a uint8 grey array on disk."""

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.ledger import Ledger, maker

CHUNK = 64


def build(images: pd.DataFrame, config: Config, sizes: Sequence[int]) -> None:
    """Decode every picture of the images table once and store it at each side in `sizes`.

    What is already stored for the same pictures is kept.
    """
    key, ledger = _key(images, config), Ledger(config.cache_dir / "pixels")
    missing = [size for size in sorted(set(sizes)) if not ledger.finished(str(size), key)]
    if not missing:
        return
    paths = [config.pictures_dir / path for path in images["path"]]

    def decode(path: Path) -> list[np.ndarray]:
        picture = reader.read(path)
        return [reader.fit(picture, size, config.aspect) for size in missing]

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        temporaries = [stack.enter_context(files.replacing(_path(config, s))) for s in missing]
        outputs = [stack.enter_context(temporary.open("wb")) for temporary in temporaries]
        for size, output in zip(missing, outputs, strict=True):
            shape = {"descr": "|u1", "fortran_order": False, "shape": (len(paths), size, size)}
            np.lib.format.write_array_header_1_0(output, shape)
        for start in range(0, len(paths), CHUNK):  # appended, so that memory does not grow
            for pictures in pool.map(decode, paths[start : start + CHUNK]):
                for picture, output in zip(pictures, outputs, strict=True):
                    output.write(picture.tobytes())
    for size in missing:
        ledger.record(str(size), key, [_path(config, size)])


def pixels(images: pd.DataFrame, config: Config, size: int) -> np.ndarray:
    """The stored pictures, uint8 (pictures, size, size), row by row as in the images table.

    The array is read from the disk as needed. What is missing or damaged is decoded again.
    """
    build(images, config, [size])
    return np.load(_path(config, size), mmap_mode="r")


def _path(config: Config, size: int) -> Path:
    return config.cache_dir / "pixels" / f"{size}.npy"


def _key(images: pd.DataFrame, config: Config) -> dict[str, str]:
    return {
        "data": files.fingerprint(images[["path", "sha256"]].to_numpy().tolist()),
        "settings": config.aspect,
        **maker(reader.CODE, reader.LIBRARIES),
    }
