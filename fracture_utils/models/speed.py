"""In which arithmetic a network is faster on this machine: measured once, and kept."""

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from fracture_utils import files, ledger
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.models import backbones, folding, precision

PICTURES, ROUNDS = 8, 3
FILE = "speed.json"


def arithmetic(network: keras.Model, config: Config, folder: Path) -> str:
    """The precision of the settings (`precision.resolve`), which from then on holds. Where "auto"
    would choose 16 bits on a processor, float32 instead if a pass of this frozen `classifier.body`
    is faster in it.

    The seconds a picture of both are kept in `folder` (speed.json), so that a job goes on as it
    began, and beside Keras's downloads for other jobs, by network, size, processor and versions.
    """
    chosen = precision.resolve(config.precision)
    if config.precision == "auto" and chosen == "graph_bfloat16":
        seconds = _measured(network, ("float32", chosen), folder)
        chosen = min(seconds, key=lambda way: seconds[way])
    precision.apply(chosen)
    return chosen


def _measured(network: keras.Model, ways: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds a picture in each precision, from a file or by `_seconds`."""
    versions = ledger.versions()
    key = f"{network.name} at {network.input.shape[1]} px on {precision.hardware()}"
    key += "".join(f", {name} {versions[name]}" for name in ("tensorflow", "keras"))
    paths = [folder / FILE, backbones.keras_cache().parent / "fracture_utils" / FILE]
    found = [_known(path, key, ways) for path in paths]
    seconds = found[0] or found[1] or {way: _seconds(network, way) for way in ways}
    for path, known in zip(paths, found, strict=True):
        if known is None:
            _keep(path, key, seconds)
    return seconds


def _known(path: Path, key: str, ways: Sequence[str]) -> dict[str, float] | None:
    """What a file says, if anything: somebody may have cut it short."""
    try:
        row = json.loads(path.read_text(encoding="utf-8"))[key]
        return {way: float(row[way]) for way in ways}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _keep(path: Path, key: str, seconds: dict[str, float]) -> None:
    with contextlib.suppress(InputError):  # somebody's read-only home
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            known = {}
        files.write_json(path, known | {key: seconds})


def _seconds(network: keras.Model, way: str) -> float:
    """The median of a few batches after one that warms up; the precision is that of the process
    while the network is asked.
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
