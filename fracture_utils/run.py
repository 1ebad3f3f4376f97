"""The record of a run: how its tables came about."""

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pandas as pd

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.ledger import Results, versions
from fracture_utils.models import process
from fracture_utils.models.job import STAGES


def begin(config: Config) -> Results:
    """Take the results folder for this process; keep what is returned as long as it works there."""
    return Results(config)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Close the terminal's ear to TensorFlow, which talks past Python while it starts."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def keras() -> ModuleType:
    """Keras, for a look at it in the notebook: without its backend's chatter, whatever keras.json
    says, and without a hand on the graphics card, where the networks train in other processes.
    """
    for name, value in (process.DEFAULTS | {"TF_CPP_MIN_LOG_LEVEL": "3"}).items():
        os.environ.setdefault(name, value)
    with quiet():
        import keras

        from fracture_utils.models import precision

        precision.keep_to_processor()
        precision.apply("float32")
    return keras


def record(config: Config, images: pd.DataFrame, networks: pd.DataFrame) -> dict:
    """Write columns.csv (what each column means) and run.json: settings, versions, hardware,
    precision, seed, data and time per stage.

    Returns what was written. Seconds are those in which a stage was computed, in this run or
    in an earlier one whose result was still valid.
    """
    trained = networks[networks["status"] == "trained"].set_index("model")
    failed = networks[networks["status"] != "trained"].set_index("model")
    attribution = config.pictures_dir / "ATTRIBUTION.txt"
    seconds = trained[[f"seconds_{stage}" for stage in STAGES]].set_axis(list(STAGES), axis=1)
    written = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "purpose": "education and research only, never clinical use",
        "source": config.source,
        "positive": config.positive_name,
        "attribution": attribution.read_text("utf-8") if attribution.is_file() else "",
        "data": {
            "fingerprint": files.fingerprint(images[["path", "sha256"]].to_numpy().tolist()),
            "pictures": len(images),
            "groups": int(images["group"].nunique()),
        },
        "settings": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": versions().to_dict(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "hardware": sorted(trained["hardware"].unique()),
        "precision": trained["precision"].to_dict(),
        "initialisation": trained["initialisation"].to_dict(),
        "weights_notes": trained["note"][trained["note"] != ""].to_dict(),
        "seconds": seconds.to_dict("index"),
        "waiting": trained["waiting"].round(4).to_dict(),
        "failed": failed["why"].to_dict(),
    }
    tables.write(config.results_dir, "columns", tables.dictionary())
    files.write_json(config.results_dir / "run.json", written)
    return written
