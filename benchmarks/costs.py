"""What a run on a published set costs in time, disk and memory, from measured rates.

    python benchmarks/costs.py

Reads results/forward.json (pictures per second, at the native size) and asks the networks how large
their maps are; prints a row a set for the README. Time is that of the pass through all frozen
networks of the registry, each at its own size for radiographs, which is nearly all of a run without
boxes; with boxes the heads take half as long again (results/fracatlas/networks.csv). The limit on
maps is that at which the evidence head can learn from a set with boxes.
"""

import sys

import measured

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.models import classifier, features
from fracture_utils.models.backbones import Weights
from fracture_utils.networks import REGISTRY

SETS = {"FracAtlas": 4083, "GRAZPEDWRI-DX": 20327, "MURA": 40005, "Kaggle multi-region": 10580}
"""Pictures of each set, as published."""


def main() -> None:
    """Print the table."""
    config = Config(source="pictures", data_dir="data")
    rates = files.read_json(measured.RESULTS / "forward.json")["figures"]
    seconds, largest = 0.0, 0.0
    stored = sum(side**2 for side in {backbone.size(config) for backbone in REGISTRY.values()})
    for name, backbone in REGISTRY.items():
        size = backbone.size(config)
        rate = rates[name]["pictures/s"]["auto"]["median"]
        seconds += (size / backbone.native_size) ** 2 / rate
        body = classifier.body(backbone, Weights("random"), config, "float32")
        largest = max(largest, features.gibibytes(body, 1))
    heads = "| set | pictures | minutes | pixel store (GB) | maps (GiB) |"
    sys.stdout.write(f"{heads}\n|---|---|---|---|---|\n")
    for name, pictures in SETS.items():
        minutes, store = pictures * seconds / 60, pictures * stored / 1e9
        maps = pictures * largest
        sys.stdout.write(f"| {name} | {pictures:,} | {minutes:.0f} | {store:.1f} | {maps:.0f} |\n")


if __name__ == "__main__":
    main()
