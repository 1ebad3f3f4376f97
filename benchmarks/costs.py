"""What a run on a published set costs in time and disk, from the measured run on FracAtlas.

    python benchmarks/costs.py

Reads results/fracatlas/networks.csv (two cores that other work shared: an upper bound), asks the
networks of the registry how large their maps are, and prints a row a set for the README. Every
network is at its own size for radiographs. Hours are those of the frozen maps of all networks and,
with boxes, of the evidence heads; the maps are those of the network that needs most, because only
one network's lie on the disk at a time.
"""

import sys
from pathlib import Path

from fracture_utils import tables
from fracture_utils.config import Config
from fracture_utils.models import classifier, features
from fracture_utils.models.backbones import Weights
from fracture_utils.networks import REGISTRY

RUN = Path(__file__).parents[1] / "results" / "fracatlas"
SETS = {
    "FracAtlas": (4083, True),
    "GRAZPEDWRI-DX": (20327, True),
    "MURA": (40005, False),
    "Kaggle, multi-region": (10580, False),
}
"""Pictures of each set as published, and whether boxes come with it."""


def main() -> None:
    """Print the table."""
    config = Config(source="pictures", data_dir="data")
    networks, pictures = tables.read(RUN, "networks"), tables.read(RUN, "images")
    train = (pictures["split"] == "train").mean()
    maps = networks["seconds_features"].sum() / len(pictures)
    heads = networks["seconds_head"].sum() / len(pictures)
    stored = sum(side**2 for side in {backbone.size(config) for backbone in REGISTRY.values()})
    largest = max(
        features.gibibytes(classifier.body(row, Weights("random"), config, "float32"), 1)
        for row in REGISTRY.values()
    )
    sys.stdout.write(f"{maps:.3f} and {heads:.3f} s a picture, {train:.0%} of them for training\n")
    for name, (count, boxes) in SETS.items():
        hours = count * (maps + heads * boxes) / 3600
        store, kept = count * stored / 1e9, count * largest
        sys.stdout.write(
            f"| {name} | {count:,} | {hours:.1f} h | {store:.1f} GB | {kept:.0f} GiB |\n"
        )


if __name__ == "__main__":
    main()
