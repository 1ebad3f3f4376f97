"""Processes of this package: their environment, and the one that trains a network."""

import functools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, SimpleQueue

import fracture_utils
from fracture_utils.config import PREFIX

WORKER = "fracture_utils.models.worker"
BEAT = 1.0
"""Seconds after which a silent process is heard all the same, so that one can end it."""
DEFAULTS = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}
"""Of variables that nobody set. TensorFlow uses oneDNN by itself on processors with 512-bit
instructions only, and others gain, too (benchmarks/README.md)."""
PATIENCE = 60.0
"""Seconds for nvidia-smi to answer; the first time it may have to wake several cards."""
CARDS = "CUDA_VISIBLE_DEVICES"
KILLED = (
    "The process was killed, most often for lack of memory; lower "
    f"{PREFIX}BATCH_SIZE and run again."
)


@functools.cache  # it starts a program, and networks that answer ask it again and again
def ask_nvidia(*arguments: str) -> str:
    """What nvidia-smi prints; empty where it is not there, fails, or is silent for PATIENCE."""
    if not shutil.which("nvidia-smi"):
        return ""
    command = ["nvidia-smi", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def environment() -> dict[str, str]:
    """The environment of a process that uses this package, wherever it is started.

    It writes UTF-8 whatever the code page, and its Keras runs on TensorFlow unless KERAS_BACKEND
    names another, whatever ~/.keras/keras.json says.
    """
    root, inherited = str(Path(fracture_utils.__file__).parents[1]), os.environ.get("PYTHONPATH")
    own = {"PYTHONPATH": os.pathsep.join(filter(None, [root, inherited]))}
    own |= {"PYTHONIOENCODING": "utf-8:replace", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return DEFAULTS | dict(os.environ) | own


def train(folder: Path, hear: Callable[[dict], None], card: str = "") -> tuple[int, str]:
    """Work through the job that was saved in `folder`, in a process of its own, to its end.

    Its settings are those that were saved, whatever this machine's FRACTURE_* say. It sees the
    graphics `card` alone; empty: what this process sees. `hear` hears each of its events, and an
    empty one while it is silent; where that raises, the process ends. Returns the exit code and,
    where it is not 0, what went wrong.
    """
    own = {k: v for k, v in environment().items() if not k.startswith(PREFIX)}
    own |= {CARDS: card} if card else {}
    log, error = folder / "log.txt", ""
    with (
        log.open("a", encoding="utf-8") as messages,
        subprocess.Popen(
            [sys.executable, "-m", WORKER, str(folder.resolve())],
            stdin=subprocess.PIPE,  # its end tells the worker that nobody waits any more
            stdout=subprocess.PIPE,
            stderr=messages,
            encoding="utf-8",
            errors="replace",
            env=own,
        ) as process,
    ):
        lines: SimpleQueue[str | None] = SimpleQueue()
        reader = threading.Thread(target=_pass_on, args=(process.stdout, lines))
        reader.start()
        try:
            while (line := _next(lines)) is not None:
                event = json.loads(line)
                error = event.get("error", error)
                hear(event)
        except BaseException:
            process.kill()
            process.wait()  # leaving after an interruption, Popen waits a quarter of a second only
            raise
        finally:
            reader.join()
    if process.returncode and not error:
        error = f"The process ended with code {process.returncode}; the reason is in {log}."
        error = KILLED if process.returncode in (-9, 137) else error
    return process.returncode, error


def _pass_on(stream: Iterable[str], lines: SimpleQueue) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _next(lines: SimpleQueue) -> str | None:
    try:
        return lines.get(timeout=BEAT)
    except Empty:
        return "{}"
