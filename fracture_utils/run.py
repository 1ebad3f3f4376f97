"""The record of a run: how its tables came about."""

import os
import platform
from datetime import UTC, datetime

import pandas as pd

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.data import sources
from fracture_utils.ledger import versions


def record(config: Config, images: pd.DataFrame, networks: pd.DataFrame) -> dict:
    """Write columns.csv (what each column means) and run.json: settings, versions, hardware,
    precision, seed, data and time per stage.

    Returns what was written. Seconds are those in which a stage was computed, in this run or
    in an earlier one whose result was still valid.
    """
    trained = networks[networks["status"] == "trained"]
    attribution = config.pictures_dir / "ATTRIBUTION.txt"
    stages = [name for name in networks if name.startswith("seconds_") and "picture" not in name]
    written = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "purpose": "education and research only, never clinical use",
        "source": config.source,
        "positive": sources.positive(config.pictures_dir),
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
        "precision": trained.set_index("model")["precision"].to_dict(),
        "initialisation": trained.set_index("model")["initialisation"].to_dict(),
        "weights_notes": {
            m: n for m, n in zip(trained["model"], trained["note"], strict=True) if n
        },
        "seconds": {
            row["model"]: {stage.removeprefix("seconds_"): row[stage] for stage in stages}
            for row in trained.to_dict("records")
        },
        "failed": networks.loc[networks["status"] != "trained"].set_index("model")["why"].to_dict(),
    }
    tables.write(config.results_dir, "columns", tables.dictionary())
    files.write_json(config.results_dir / "run.json", written)
    return written
