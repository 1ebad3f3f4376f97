"""Seconds to the report of a first run, and of later ones with everything cached.

    python benchmarks/rerun.py [OPTION ...]

The options are those of `python -m fracture_utils run`; without any: a quick run on phantoms. The
folders are temporary unless the options name them. With folders of a finished run, say --first 0.
"""

import subprocess
import sys
import tempfile
import time

import measured

QUICK = ["--quick", "--source", "phantoms"]


def seconds(command: list[str]) -> float:
    """Of one run."""
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    """Run once and then --rounds times; the seconds go to results/rerun.json."""
    parser = measured.arguments(__doc__)
    parser.add_argument("--first", type=int, default=1, help="0: everything is cached already")
    options, settings = parser.parse_known_args()
    load, figures, settings = measured.load(), {}, settings or QUICK
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fracture_utils", "run", *settings]
        for name in ("data", "results", "models"):
            if f"--{name}-dir" not in settings:
                command += [f"--{name}-dir", f"{folder}/{name}"]
        if options.first:
            figures["first run (s)"] = round(seconds(command), 1)
        later = [seconds(command) for _ in range(options.rounds)]
    figures["second run (s)"] = measured.spread(later, 1)
    measured.write("rerun", options, load, figures)


if __name__ == "__main__":
    main()
