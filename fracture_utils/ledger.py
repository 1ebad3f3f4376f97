"""What has been computed, from what, and whether it is still whole."""

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import pandas as pd

import fracture_utils
from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.errors import InputError

LOCK = "run.lock"
UNFINISHED = "UNFINISHED.txt"
WARNING = (
    "A run began here, and is at work or was interrupted: what lies beside this file may be "
    "of it or of the run before. Run the notebook again; it goes on where it stopped."
)
PACKAGES = (
    *("tensorflow", "keras", "numpy", "pandas", "matplotlib", "scikit-learn", "scipy"),
    *("statsmodels", "pillow"),
)
NEW = "not done yet"
"""Why a stage has to be done that never was."""


def versions() -> pd.Series:
    """The versions that the numbers depend on, by name."""
    found = {"fracture_utils": fracture_utils.__version__, "python": platform.python_version()}
    return pd.Series(found | {package: _version(package) for package in PACKAGES}, name="version")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def code_fingerprint(*modules: str) -> str:
    """A fingerprint of the source of some modules ("models/training"), or of the whole package."""
    package = Path(fracture_utils.__file__).parent
    paths = [package / f"{module}.py" for module in modules] or sorted(package.rglob("*.py"))
    return files.fingerprint([files.sha256(path) for path in paths])


def maker(modules: Sequence[str], libraries: Sequence[str]) -> dict[str, str]:
    """The parts of a key that say what computes a result: the source of some modules, and the
    versions of the libraries that they use.
    """
    versions = {name: _version(name) for name in libraries}
    return {"code": code_fingerprint(*modules), "a library": str(versions)}


def note(log: Path, line: str) -> None:
    """Add a line to the run's log; a full disk must not end a run whose results still fit."""
    with contextlib.suppress(OSError), Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%H:%M:%S')} {line}\n")


def claim(folder: Path) -> filelock.FileLock:
    """Hold a folder for this process: released by the caller, or when the process ends.

    The system frees the lock of a process that died, so a lock never has to be removed by hand.
    Claiming again in the same process is no conflict. Raises InputError while another process
    holds the folder.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder.resolve() / LOCK, timeout=0, is_singleton=True)
        lock.acquire()
    except filelock.Timeout:
        raise InputError(
            f"Another run is at work in {folder}. Wait for its end (or close its notebook), or "
            "give this one other folders with FRACTURE_RESULTS_DIR and FRACTURE_MODELS_DIR."
        ) from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}). Choose another folder with "
            "FRACTURE_RESULTS_DIR."
        ) from error
    return lock


class Ledger:
    """The finished stages of one piece of work, in `folder/ledger.json`.

    A stage is finished when it was recorded under the same key (a dictionary of the
    fingerprints of everything it depends on) and each of its files still has the SHA-256
    that was recorded. Files are named relative to the folder of the ledger, so that the whole
    may be moved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._path = self.folder / "ledger.json"

    def finished(self, stage: str, key: dict[str, str]) -> bool:
        """Whether nothing is left to do for `stage`."""
        return self.why(stage, key) is None

    def why(self, stage: str, key: dict[str, str]) -> str | None:
        """Why `stage` has to be done (again), in words; None where it is finished."""
        entry = self._read().get(stage)
        if entry is None:
            return NEW
        before = entry["key"]
        if changed := sorted(p for p in before | key if before.get(p) != key.get(p)):
            return f"{' and '.join(changed)} changed"
        for name, digest in entry["files"].items():
            path = self.folder / name
            if not path.is_file():
                return f"{name} is missing"
            if files.sha256(path) != digest:
                return f"{name} is damaged"
        return None

    def record(
        self, stage: str, key: dict[str, str], outputs: list[Path], seconds: float = 0.0
    ) -> None:
        """Note that `stage` is finished, what it wrote and how long it took."""
        digests = {self._relative(path): files.sha256(path) for path in outputs}
        entry = {"key": key, "files": digests, "seconds": round(seconds, 1)}
        files.write_json(self._path, self._read() | {stage: entry})

    def seconds(self) -> dict[str, float]:
        """How long each recorded stage took."""
        return {stage: entry["seconds"] for stage, entry in self._read().items()}

    def _relative(self, path: Path) -> str:
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # on another drive of Windows
            return str(Path(path).resolve())

    def _read(self) -> dict[str, dict]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}


class Results:
    """A results folder while a run is at work in it: until `finish` the file UNFINISHED warns
    whoever looks into it that it may hold parts of two runs.

    Holds it for this process (InputError where another run works in it), and sweeps up what a
    killed run left of an unfinished file.
    """

    def __init__(self, config: Config) -> None:
        self._lock = claim(config.cache_dir)
        self._unfinished = config.results_dir / UNFINISHED
        for path in files.leftovers(config.results_dir, config.figures_dir, config.cache_dir):
            path.unlink()
        files.write_text(self._unfinished, f"{time.strftime('%Y-%m-%d %H:%M')} {WARNING}\n")

    def finish(self) -> None:
        """Say that all in the folder is of one run."""
        self._unfinished.unlink(missing_ok=True)
