"""What has been computed, from what, and whether it is still whole."""

import json
from pathlib import Path

import filelock

from fracture_utils import files
from fracture_utils.errors import InputError

LOCK = "run.lock"


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
    that was recorded. Files are named relative to the folder of the ledger or absolutely.
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
            return "not done yet"
        changed = [
            part for part in {**entry["key"], **key} if entry["key"].get(part) != key.get(part)
        ]
        if changed:
            return " and ".join(sorted(changed)) + " changed"
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
        digests = {str(self._relative(path)): files.sha256(path) for path in outputs}
        entry = {"key": key, "files": digests, "seconds": round(seconds, 1)}
        files.write_json(self._path, self._read() | {stage: entry})

    def seconds(self) -> dict[str, float]:
        """How long each recorded stage took."""
        return {stage: entry["seconds"] for stage, entry in self._read().items()}

    def _relative(self, path: Path) -> Path:
        path = Path(path)
        return path.relative_to(self.folder) if path.is_relative_to(self.folder) else path.resolve()

    def _read(self) -> dict[str, dict]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
