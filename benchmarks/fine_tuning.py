"""What fine-tuning on kept maps saves: an epoch of the top block from maps, and from pictures.

    python benchmarks/fine_tuning.py MobileNet > benchmarks/results/fine_tuning.json

Trains on phantoms, frozen features first, in fresh folders, ROUNDS times each way in turn; the way
without maps is that of maps_limit 0, which passes every picture through the whole network. Writes
the medians of seconds an epoch, and their ratio.
"""

import contextlib
import json
import statistics
import sys
import tempfile
from pathlib import Path

from fracture_utils.config import Config
from fracture_utils.data import images, inventory, phantoms
from fracture_utils.data.sidecars import boxes
from fracture_utils.models import jobs

ROUNDS, EPOCHS = 3, 2
WAYS = {"from kept maps": 16.0, "from pictures": 0.0}


def seconds(name: str, limit: float, data: Path) -> float:
    """Seconds of an epoch of fine-tuning, validation included."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Config(
            source="phantoms", data_dir=data, results_dir=Path(scratch) / "results",
            models_dir=Path(scratch) / "models", backbones=name, fine_tune_epochs=EPOCHS,
            patience=EPOCHS, maps_limit=limit,
        )  # fmt: skip
        phantoms.make(
            config.pictures_dir, config.phantom_pictures, config.phantom_size, config.seed
        )
        taken = inventory.take(config)
        table = images.table(config, taken)
        with contextlib.redirect_stdout(sys.stderr):  # its progress is no part of the results
            networks = jobs.train(table, config, boxes(config, taken.files))
        history = jobs.history(networks, config)
        return float(history.loc[history["stage"] == "fine_tune", "seconds"].median())


def main(*names: str) -> None:
    """Measure the named networks, MobileNet where none is named."""
    found = {}
    with tempfile.TemporaryDirectory() as data:
        for name in names or ["MobileNet"]:
            measured = {way: [] for way in WAYS}
            for _ in range(ROUNDS):
                for way, limit in WAYS.items():
                    measured[way].append(seconds(name, limit, Path(data)))
            medians = {way: statistics.median(all_of) for way, all_of in measured.items()}
            kept, pictures = medians.values()
            found[name] = measured | {"medians": medians, "ratio": pictures / kept}
    json.dump(found, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
