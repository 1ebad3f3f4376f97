"""Jobs side by side: one on each graphics card of this machine; `cluster` does it on many machines.

Threads and machines only work and tell; one thread alone, that of the caller, hears what they tell.
"""

import concurrent.futures
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import Any, Protocol, Self

from fracture_utils.models.process import CARDS, ask_nvidia
from fracture_utils.models.progress import Progress

BEAT = 0.5
"""Seconds between two looks at what was told."""


class UnwantedError(Exception):
    """Nobody waits for the result any more."""


class Teller:
    """What a job elsewhere takes for `Progress`: passes on what it hears and says by `send`, as a
    list of a method's name and its arguments, while somebody waits for the job (`wanted`).
    """

    def __init__(self, send: Callable[[list], None], wanted: Callable[[], bool]) -> None:
        self._send, self._wanted = send, wanted

    def hear(self, name: str, event: dict) -> None:
        """Pass on an event of a worker; raises UnwantedError to end it."""
        if not self._wanted():
            raise UnwantedError(name)
        if event:
            self._send(["hear", name, event])

    def say(self, sentence: str) -> None:
        """Pass on a line that stays."""
        self._send(["say", sentence])


class Crew(Protocol):
    """Hands, each of which does one task at a time."""

    told: SimpleQueue
    """What tellers sent and nobody has heard yet."""

    def room(self) -> int:
        """How many tasks can be done at once now."""

    def submit(self, task: Callable) -> concurrent.futures.Future:
        """Have `task(teller, card)` done; its teller, and the card that it may use (empty: any)."""

    def result(self, future: concurrent.futures.Future) -> Any:
        """What came of a task, or a sentence where it was lost with its hands."""


def side_by_side(
    crew: Crew, tasks: Mapping[str, Callable], progress: Progress
) -> Iterator[tuple[str, Any]]:
    """The name and `crew.result` of each task as they end; `progress` is told meanwhile."""
    waiting, running = list(tasks), dict[concurrent.futures.Future, str]()
    words: dict[str, Callable] = {"hear": progress.hear, "say": progress.say}
    while waiting or running:
        for name in waiting[: max(0, crew.room() - len(running))]:
            running[crew.submit(tasks[name])] = name
            waiting.remove(name)
        ended = [(running.pop(future), crew.result(future)) for future in _ended(running)]
        while not crew.told.empty():
            word, *arguments = crew.told.get()
            words[word](*arguments)
        yield from ended
        if not running:
            time.sleep(BEAT * bool(waiting))


def _ended(running: Iterable[concurrent.futures.Future]) -> set[concurrent.futures.Future]:
    """Nobody keeps them for long, because a cluster makes anew what it lost and somebody holds."""
    return concurrent.futures.wait(running, BEAT, concurrent.futures.FIRST_COMPLETED).done


class Cards:
    """The graphics cards of this machine as a crew, while it is held by `with`."""

    def __init__(self, cards: list[str]) -> None:
        self.told: SimpleQueue = SimpleQueue()
        self._free: SimpleQueue = SimpleQueue()
        for card in cards:
            self._free.put(card)
        self._count, self._over = len(cards), threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(self._count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what still runs: there is something only where the caller was interrupted."""
        self._over.set()
        self._pool.shutdown(cancel_futures=True)

    def room(self) -> int:
        return self._count

    def submit(self, task: Callable) -> concurrent.futures.Future:
        return self._pool.submit(self._do, task)

    def result(self, future: concurrent.futures.Future) -> Any:
        return future.result()

    def _do(self, task: Callable) -> Any:
        card = self._free.get()
        try:
            return task(Teller(self.told.put, lambda: not self._over.is_set()), card)
        finally:
            self._free.put(card)


def visible() -> list[str]:
    """NVIDIA's cards that this process may use, by number or by UUID: those that
    CUDA_VISIBLE_DEVICES names where it is set, else all that nvidia-smi lists; of cards that are
    divided (MIG) their parts, because a process can use one part alone.
    """
    if CARDS in os.environ:
        named = [name.strip() for name in os.environ[CARDS].split(",")]
        invalid = [k for k, name in enumerate(named) if name in {"", "-1"}]  # CUDA stops there
        return named[: invalid[0] if invalid else None]
    listed = ask_nvidia("-L")
    return re.findall(r"UUID: (MIG-[^)\s]+)", listed) or re.findall(r"UUID: (GPU-[^)\s]+)", listed)
