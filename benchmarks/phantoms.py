"""How many phantoms a second this machine makes: median, least and most of several runs."""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fracture_utils.data import phantoms


def main() -> None:
    """Make a set several times in a temporary folder and write what that took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    rates = []
    for run in range(chosen.runs):
        with tempfile.TemporaryDirectory() as directory:
            start = time.perf_counter()
            phantoms.make(Path(directory), chosen.pictures, chosen.size, seed=run)
            rates.append(chosen.pictures / (time.perf_counter() - start))
    sys.stdout.write(
        f"{chosen.pictures} phantoms of {chosen.size} px, {chosen.runs} runs: "
        f"{statistics.median(rates):.1f} pictures/s ({min(rates):.1f} to {max(rates):.1f})\n"
    )


if __name__ == "__main__":
    main()
