"""An epoch of fine-tuning the top block from cached feature maps, and from images.

    python benchmarks/fine_tuning.py [NETWORK ...]

Trains on phantoms in fresh folders, --rounds times each variant, interleaved; without a cache of
feature maps (disk_limit 0) every image passes through the whole model. Seconds are those of an
epoch, validation included.
"""

import sys
import tempfile
from pathlib import Path

import measured

from fracture_utils.config import Config
from fracture_utils.data import dataset, phantoms
from fracture_utils.models import backbones, jobs

EPOCHS = 2
VARIANTS = {"from cached maps": 16.0, "from images": 0.0}


def seconds(name: str, limit: float, data_dir: Path, quick: bool) -> float:
    """Seconds of an epoch of fine-tuning, validation included."""
    with tempfile.TemporaryDirectory() as scratch:
        config = Config(
            source="phantoms", data_dir=data_dir, results_dir=Path(scratch) / "results",
            models_dir=Path(scratch) / "models", backbones=name, fine_tune_epochs=EPOCHS,
            disk_limit=limit, quick=quick,
        )  # fmt: skip
        phantoms.make(config.images_dir, config.phantom_images, config.phantom_size, config.seed)
        data = dataset.load(config, backbones.sizes(config))
        history = jobs.train(data.images, data.boxes, config).history
        return float(history.loc[history["stage"] == "fine_tune", "seconds"].median())


def main() -> None:
    """Measure the named networks; the figures go to results/fine_tuning.json."""
    parser = measured.arguments(__doc__)
    parser.add_argument("networks", nargs="*", default=["MobileNet"])
    parser.add_argument("--quick", action="store_true", help="few and small images")
    options, load, figures = parser.parse_args(), measured.load(), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
            for _ in range(options.rounds):
                for variant, limit in VARIANTS.items():
                    times[variant].append(seconds(name, limit, Path(folder), options.quick))
            ratios = [slow / fast for fast, slow in zip(*times.values(), strict=True)]
            figures[name] = {f"{key} (s)": measured.spread(each) for key, each in times.items()}
            figures[name]["times as fast"] = measured.spread(ratios)
            sys.stderr.write(f"{name}: {figures[name]}\n")
    measured.write("fine_tuning", options, load, figures)


if __name__ == "__main__":
    main()
