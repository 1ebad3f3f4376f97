"""What fine-tuning on kept maps saves: an epoch of the top block from maps, and from pictures.

    python benchmarks/fine_tuning.py [NETWORK ...]

Trains on phantoms, frozen features first, in fresh folders, --rounds times each way in turn; the
way without maps is that of maps_limit 0, which passes every picture through the whole network.
Seconds are those of an epoch, validation included.
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import measured

from fracture_utils.config import Config
from fracture_utils.data import images, inventory, phantoms
from fracture_utils.data.sidecars import boxes
from fracture_utils.models import jobs

EPOCHS = 2
WAYS = {"from kept maps": 16.0, "from pictures": 0.0}


def seconds(name: str, limit: float, data: Path, quick: bool) -> float:
    """Seconds of an epoch of fine-tuning, validation included."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Config(
            source="phantoms", data_dir=data, results_dir=Path(scratch) / "results",
            models_dir=Path(scratch) / "models", backbones=name, fine_tune_epochs=EPOCHS,
            patience=EPOCHS, maps_limit=limit, quick=quick,
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


def main() -> None:
    """Measure the named networks; the figures go to results/fine_tuning.json."""
    parser = measured.arguments(__doc__)
    parser.add_argument("networks", nargs="*", default=["MobileNet"])
    parser.add_argument("--quick", action="store_true", help="few and small pictures")
    asked, load, figures = parser.parse_args(), measured.busy(), {}
    with tempfile.TemporaryDirectory() as data:
        for name in asked.networks:
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(asked.rounds):
                for way, limit in WAYS.items():
                    found[way].append(seconds(name, limit, Path(data), asked.quick))
            ratios = [one / other for other, one in zip(*found.values(), strict=True)]
            figures[name] = {f"{way} (s)": measured.spread(each) for way, each in found.items()}
            figures[name]["times as fast"] = measured.spread(ratios)
    measured.keep("fine_tuning", asked, load, figures)


if __name__ == "__main__":
    main()
