"""Time and peak memory of the audit at two sizes, and what follows for 40,000 pictures.

    python benchmarks/audit.py [PICTURES PICTURES]

Makes phantoms in a temporary folder and audits each set in a process of its own. Prints a row
for each size; the last row continues them: times by the power law through both, at least in
proportion, memory by the straight line.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils.config import Config
from fracture_utils.data import audit, images, inventory, phantoms

SIZE, EXPECTED = 256, 40_000


def measure(folder: Path) -> str:
    """One line: seconds to read the files, to build the table and to audit it, and peak MiB."""
    config = Config(data_dir=folder, source="pictures", results_dir=folder / ".results")
    marks = [time.perf_counter()]
    taken = inventory.take(config)
    marks.append(time.perf_counter())
    table = images.table(config, taken)
    marks.append(time.perf_counter())
    audit.run(table, taken, config)
    marks.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return " ".join(f"{value:.2f}" for value in [*np.diff(marks), peak])


def main() -> None:
    if len(sys.argv) == 2:
        sys.stdout.write(measure(Path(sys.argv[1])))
        return
    sizes = [int(word) for word in sys.argv[1:]] or [1000, 4000]
    columns = ["read (s)", "table (s)", "audit (s)", "peak (MiB)"]
    rows = []
    for pictures in sizes:
        with tempfile.TemporaryDirectory() as folder:
            phantoms.make(Path(folder), pictures, SIZE, 0)
            command = [sys.executable, __file__, folder]
            rows.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    measured = np.array([row.split() for row in rows], float)
    growth = np.log(measured[1] / measured[0]) / np.log(sizes[1] / sizes[0])
    expected = measured[1] * (EXPECTED / sizes[1]) ** np.maximum(growth, 1)
    slope = (measured[1, -1] - measured[0, -1]) / (sizes[1] - sizes[0])
    expected[-1] = measured[1, -1] + slope * (EXPECTED - sizes[1])
    table = pd.DataFrame([*measured, expected], [*sizes, f"{EXPECTED} (extrapolated)"], columns)
    sys.stdout.write(f"{os.cpu_count()} cores, {SIZE} px\n{table.round(1).to_string()}\n")


if __name__ == "__main__":
    main()
