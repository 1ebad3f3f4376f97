"""Progress that a person can follow: in a notebook, in a terminal, and in results/run.log."""

import shutil
import sys
import time
from pathlib import Path

import numpy as np

from fracture_utils import ledger

SECONDS_BETWEEN_LINES = 60
SIDE, PRODUCTS = 1024, 20
"""Of the matrices that show how fast the machine is."""
GAIN = 1.5
_STAGE = {
    "features": "frozen features",
    "head": "head",
    "fine_tune": "fine-tuning",
    "predict": "predictions",
}


class Progress:
    """What runs, how long it will take, and which network is next.

    `work` gives the cost of each stage of each network, in any unit, in the order in which they
    come; the remaining time is guessed from it.
    Several networks may be at work at once. In a notebook one output is updated in place; elsewhere
    a line is written at each new stage and at most once a minute. Everything also goes to the log
    file.
    """

    def __init__(self, work: dict[str, dict[str, float]], log: Path) -> None:
        self.work, self.log = work, Path(log)
        self.started = time.monotonic()
        self.share = dict.fromkeys(work, 0.0)
        self.kept: set[str] = set()
        self._began: dict[str, float] = {}
        self._lines: list[str] = []
        self._current: dict[str, str] = {}
        self._spoke = 0.0
        self._output = _notebook_output()
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def announce(self) -> None:
        """Say how long all networks but those that are kept will take on the processor."""
        cost = self._cost()
        if cost and not shutil.which("nvidia-smi"):
            which = "one network" if len(cost) == 1 else f"{len(cost)} networks"
            took = _minutes(sum(cost.values()) / _speed())
            self.say(f"About {took} for {which} on this machine, as a guess.")

    def hear(self, name: str, event: dict) -> None:
        """Take in an event of the network's worker: a new stage, or how far it is."""
        if "stage" not in event:
            return
        self._began.setdefault(name, time.monotonic())
        stage, costs = _STAGE[event["stage"]], list(self.work[name].values())
        position = list(self.work[name]).index(event["stage"])
        within = event["done"] / event["total"] if event.get("total") else 0.0
        self.share[name] = (sum(costs[:position]) + within * costs[position]) / sum(costs)
        number = f"{list(self.work).index(name) + 1} of {len(self.work)}"
        self._current[name] = (
            f"{name} ({number}): {stage} {within:.0%}{self._remaining()}{self._next()}"
        )
        if "why" in event and event["why"] != ledger.NEW:
            self.say(f"{name}: {stage} again, because {event['why']}.")
        self._show(name if "why" in event else "")

    def finish(self, name: str, how: str, why: str = "") -> None:
        """Note that nothing more will come of a network, how it ended and, in a sentence, why."""
        took = time.monotonic() - self._began[name] if name in self._began else None
        if took is None:
            self.kept.add(name)
        self.share[name] = 1.0
        self._current.pop(name, None)
        duration = f" in {_minutes(took)}" if took else ""
        self.say(f"{name}: {how}{duration}. {why[:1].upper()}{why[1:]}".strip())

    def say(self, sentence: str) -> None:
        """A line that stays."""
        self._lines.append(sentence)
        self._write(sentence)
        self._show()

    def _cost(self) -> dict[str, float]:
        """Of each network that is not kept from an earlier run."""
        return {n: sum(w.values()) for n, w in self.work.items() if n not in self.kept}

    def _remaining(self) -> str:
        cost = self._cost()
        done, total = sum(self.share[n] * w for n, w in cost.items()), sum(cost.values())
        elapsed = time.monotonic() - self.started
        if done < 0.02 * total or elapsed < 5:
            return ""
        return f", about {_minutes(elapsed / done * (total - done))} left for all"

    def _next(self) -> str:
        waiting = [n for n in self.work if self.share[n] == 0 and n not in self._began]
        return f"; next {waiting[0]}" if waiting else "; the last one"

    def _show(self, name: str = "") -> None:
        """Show where the networks are: in a line that of `name` now, all of them in a minute."""
        now = time.monotonic()
        if self._output is not None:
            text = "\n".join([*self._lines, *self._current.values()]).strip()
            self._output.update({"text/plain": text}, raw=True)
        if name or (self._current and now - self._spoke > SECONDS_BETWEEN_LINES):
            self._spoke = now
            for line in [self._current[name]] if name else list(self._current.values()):
                self._write(line)

    def _write(self, line: str) -> None:
        ledger.note(self.log, line)
        if self._output is None:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def _notebook_output():
    """A display to be updated in place, or None outside a notebook."""
    if "ipykernel" not in sys.modules:
        return None
    from IPython.display import display

    return display({"text/plain": ""}, raw=True, display_id=True)


def _speed() -> float:
    """Billions of multiply-adds that the networks do in a second, guessed from a product of float32
    matrices: on two crowded cores with bfloat16 DenseNet121 did 1.5 times as many.
    """
    matrix = np.ones((SIDE, SIDE), np.float32)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        matrix @ matrix
    return GAIN * PRODUCTS * SIDE**3 / 1e9 / (time.perf_counter() - started)


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
