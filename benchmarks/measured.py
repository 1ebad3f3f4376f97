"""Measurements as files: what was measured, how, on which machine, and under which other load."""

import argparse
import contextlib
import io
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fracture_utils import artifacts

RESULTS = Path(__file__).parent / "results"
TOGETHER = "--together"


def arguments(description: str, rounds: int = 3) -> argparse.ArgumentParser:
    """A command line with the options of all measurements: --rounds, --output, --together."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="of each variant, interleaved")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    parser.add_argument(
        TOGETHER, action="store_true", help="in one process, to test the script: measures nothing"
    )
    return parser


def in_subprocess(script: str, *words: object, environment: dict[str, str] | None = None) -> Any:
    """The JSON that `script` prints in its last line, in a fresh process with the variables of this
    one or those given; or in this process with --together.
    """
    if TOGETHER in sys.argv:
        return _here([script, *map(str, words)])
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _here(command: list[str]) -> Any:
    arguments, output = sys.argv, io.StringIO()
    sys.argv = command
    try:
        with contextlib.redirect_stdout(output):
            runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.argv = arguments
    return json.loads(output.getvalue().splitlines()[-1])


def answer(value: object) -> None:
    """Print a value for `in_subprocess`."""
    sys.stdout.write(json.dumps(value) + "\n")


def processor() -> str:
    """The model of the processor."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def load() -> float:
    """Mean number of busy cores over the last minute; to be read before a measurement starts."""
    return round(os.getloadavg()[0], 2)


def write(name: str, options: argparse.Namespace, load_before: float, figures: object) -> Path:
    """Write NAME.json: command (without folders of this machine), machine, load, rounds, versions
    and figures; and print the figures.
    """
    words = ["DIR" if os.sep in word else word for word in sys.argv[1:]]
    record = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load before": load_before},
        "versions": artifacts.versions(),
        "rounds": options.rounds,
        "figures": figures,
    }
    path = options.output / f"{name}.json"
    artifacts.write_json(path, record)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return path


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, least and greatest."""
    summary = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in summary.items()}
