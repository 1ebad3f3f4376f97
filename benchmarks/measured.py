"""Figures as files: what was measured, how, on what machine, and what else was at work on it."""

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

from fracture_utils import files
from fracture_utils.ledger import versions

RESULTS = Path(__file__).parent / "results"
TOGETHER = "--together"


def arguments(description: str, rounds: int = 3) -> argparse.ArgumentParser:
    """A command line with what all measurements have in common: --rounds, --output, --together."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="of each way, in turns")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    parser.add_argument(
        TOGETHER, action="store_true", help="in one process, to see that it works: measures nothing"
    )
    return parser


def apart(script: str, *words: object, environment: dict[str, str] | None = None) -> Any:
    """What `script` prints as JSON in its last line, in a fresh process of its own, with the
    variables of this one unless others are given; or in this one where --together was asked.
    """
    if TOGETHER in sys.argv:
        return _here([script, *map(str, words)])
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _here(command: list[str]) -> Any:
    asked, said = sys.argv, io.StringIO()
    sys.argv = command
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(command[0], run_name="__main__")
    finally:
        sys.argv = asked
    return json.loads(said.getvalue().splitlines()[-1])


def answer(value: object) -> None:
    """What `apart` hears."""
    sys.stdout.write(json.dumps(value) + "\n")


def processor() -> str:
    """The processor in words, as far as the system says."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def busy() -> float:
    """Cores' worth of work over the last minute: figures taken beside other work are not the
    machine's own. To be asked before a measurement starts.
    """
    return round(os.getloadavg()[0], 2)


def keep(name: str, asked: argparse.Namespace, load: float, figures: object) -> Path:
    """Write NAME.json: the command (folders by their place in it), the machine, `busy` before it
    began, rounds, versions and figures; and print the figures.
    """
    words = ["DIR" if os.sep in word else word for word in sys.argv[1:]]
    written = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load before": load},
        "versions": versions().to_dict(),
        "rounds": asked.rounds,
        "figures": figures,
    }
    path = asked.output / f"{name}.json"
    files.write_json(path, written)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return path


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, least and most."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}
