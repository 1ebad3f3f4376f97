"""Weights small enough to be shipped: 8 bits a number, with a scale for each channel, or 16.

A file is a compressed .npz of plain arrays; nothing in it is ever unpickled or run.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fracture_utils import files
from fracture_utils.errors import InputError

LARGEST = 127
"""Kernels become whole numbers from -LARGEST to LARGEST."""
SCALE = "/scale"
"""What the name of an array of scales ends with; the rest is the name of its kernel."""


def write(target: Path, weights: Mapping[str, np.ndarray], halved: int = 0) -> None:
    """Write named weights: kernels (two axes or more) of fewer than `halved` numbers in float16,
    other kernels in 8 bits, all else in float32.

    With 8 bits each output channel has a float32 scale of its own, so that its largest weight
    becomes LARGEST (symmetric per-channel quantisation, Krishnamoorthi 2018, arXiv:1806.08342);
    no weight moves by more than half a scale. Small kernels are cheap, and where an error in them
    goes through a whole network they cost the most. Raises InputError where a weight is no number.
    """
    stored = {}
    for name, values in weights.items():
        if not np.isfinite(values).all():
            raise InputError(f"{target} was not written: {name} holds values that are no numbers.")
        if values.ndim < 2:
            stored[name] = values.astype(np.float32)
        elif values.size < halved:
            stored[name] = values.astype(np.float16)
        else:
            scale = _scale(values)
            stored[name] = np.rint(values / scale).astype(np.int8)
            stored[name + SCALE] = scale
    files.write_arrays(target, {"halved": halved}, stored, compress=True)


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights that `write` wrote, by name, float32. InputError where the file is damaged."""
    found = files.read_arrays(path)
    if found is None:
        raise InputError(f"{path} is missing or damaged; fetch it from the project again.")
    _, stored = found
    names = [name for name in stored if not name.endswith(SCALE)]
    return {
        name: stored[name].astype(np.float32) * stored.get(name + SCALE, np.float32(1))
        for name in names
    }


def _scale(values: np.ndarray) -> np.ndarray:
    """The step of each channel, in a shape that multiplies `values`: channels lie on the last
    axis, of depthwise kernels (rows, columns, channels, 1) on the last but one.
    """
    channel = values.ndim - (2 if values.shape[-1] == 1 and values.ndim > 2 else 1)
    others = tuple(axis for axis in range(values.ndim) if axis != channel)
    largest = np.abs(values).max(axis=others, keepdims=True)
    return np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
