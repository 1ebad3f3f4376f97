"""In which arithmetic a network is faster on this machine: measured once, and kept."""

import contextlib
import json
import time
from collections.abc import Sequence

import keras
import numpy as np

from fracture_utils import files, ledger
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.models import backbones, folding, precision

PICTURES, ROUNDS = 8, 3


def arithmetic(network: keras.Model, config: Config) -> str:
    """The precision of the settings (`precision.resolve`), which from then on holds. Where "auto"
    would choose 16 bits on a processor, float32 instead if a pass of this frozen `classifier.body`
    is faster in it.

    The seconds a picture of both are kept beside Keras's downloads (speed.json), by network, size,
    processor and versions, so that they are measured once; where that file cannot be written they
    are measured each time.
    """
    chosen = precision.resolve(config.precision)
    if config.precision == "auto" and chosen == "graph_bfloat16":
        seconds = _measured(network, ("float32", chosen))
        chosen = min(seconds, key=lambda way: seconds[way])
    precision.apply(chosen)
    return chosen


def _measured(network: keras.Model, ways: Sequence[str]) -> dict[str, float]:
    """Seconds a picture in each precision, from the file or by `_seconds`."""
    found, path = ledger.versions(), backbones.keras_cache().parent / "fracture_utils/speed.json"
    versions = ", ".join(f"{name} {found[name]}" for name in ("tensorflow", "keras"))
    key = f"{network.name} at {network.input.shape[1]} px on {precision.hardware()}, {versions}"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = {way: _seconds(network, way) for way in ways}
        with contextlib.suppress(InputError):  # somebody's read-only home
            files.write_json(path, known)
    return known[key]


def _seconds(network: keras.Model, way: str) -> float:
    """The median of a few batches after one that warms up. The graph is made in the precision that
    holds when it is first asked, so each way asks a network of its own.
    """
    precision.apply(way)
    model, shape = folding.folded(network), (PICTURES, *network.input.shape[1:])
    batch = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    seconds = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        model.predict_on_batch(batch)
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds[1:])) / PICTURES
