"""What a run on a published data set takes in time and disk, from the recorded run on FracAtlas.

    python benchmarks/costs.py

Reads results/examples/fracatlas/networks.csv (two shared cores: an upper bound) and prints a row
per data set for the README. Every network has its own input size for radiographs. Hours are those
of the frozen feature maps of all networks, of predictions and, where there are boxes, of the
localization heads of five folds; that run had no augmented copies, so feature maps are scaled by
the share of the images that have some. The disk for maps is that of the network that needs most,
because only one network's maps are on the disk at a time.
"""

import sys
from pathlib import Path

import numpy as np

from fracture_utils import tables
from fracture_utils.config import Config
from fracture_utils.models import backbones, builder

RUN = Path(__file__).parents[1] / "results" / "examples" / "fracatlas"
SETS = {
    "FracAtlas": (4083, True),
    "MURA": (40005, False),
    "Kaggle, multi-region": (10580, False),
}
"""Images of each data set as published, and whether it has boxes."""


def main() -> None:
    """Print the table."""
    config = Config(source="images")
    networks, images = tables.read(RUN, "networks"), tables.read(RUN, "images")
    passes = 1 + config.augmented_copies * (images["split"] != "test").mean()
    features = passes * networks["seconds_features"].sum() / len(images)
    features += networks["seconds_predict"].sum() / len(images)
    heads = networks["seconds_head"].sum() / len(images)
    pixels = sum(size**2 for size in backbones.sizes(config))
    maps = 0.0
    for name in config.backbones:
        early, last, *_ = builder.build_body(name, backbones.size(name, config)).output
        maps = max(maps, sum(2 * np.prod(each.shape[1:]) for each in (early, last)) / 2**30)
    maps *= passes
    sys.stdout.write(f"{features:.3f} s (maps, predictions) and {heads:.3f} s (heads) per image\n")
    for name, (count, boxes) in SETS.items():
        hours = count * (features + heads * boxes) / 3600
        sys.stdout.write(
            f"| {name} | {count:,} | {hours:.1f} h | {count * pixels / 2**30:.1f} GiB | "
            f"{count * maps:.0f} GiB |\n"
        )


if __name__ == "__main__":
    main()
