"""Jobs on a cluster: through Dask, in folders that all of its machines share."""

import concurrent.futures
import functools
import uuid
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Self

from fracture_utils.config import PREFIX
from fracture_utils.errors import InputError, first_line
from fracture_utils.models.crew import Teller

PATIENCE = 30
"""Seconds that a scheduler has to answer, at the start and where the connection breaks."""
GPU = "GPU"
"""The resource that a task asks for, where any worker of the cluster offers it."""
INSTALL = f'{PREFIX}CLUSTER needs Dask: pip install -e ".[cluster]", here and on the cluster.'
KILLED = (
    "It cost the cluster several workers one after the other, most often for lack of memory; lower "
    f"{PREFIX}BATCH_SIZE or give them more, and run again."
)
NOBODY = "The cluster has no worker now; the networks wait for one."


class Cluster:
    """The workers of Dask's scheduler at an address as a crew, while it is held by `with`.

    A task whose worker is lost begins again on another one, until it has cost several (Dask's
    setting allowed-failures). Tasks are handed out one a worker, so that none is blamed for
    another. Raises InputError where Dask is not installed, or no scheduler answers any more.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise InputError(INSTALL) from None
        self.told: SimpleQueue = SimpleQueue()
        self._address, self._topic, self._idle = address, f"{PREFIX}{uuid.uuid4().hex}", False
        self._killed = distributed.KilledWorker
        try:
            self._client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise InputError(
                f"No Dask scheduler answers at {address!r} ({PREFIX}CLUSTER): "
                f"{first_line(error)}. Start one (dask scheduler), or unset it."
            ) from None
        self._client.subscribe_topic(self._topic, lambda event: self.told.put(event[1]))
        self._executor = self._client.get_executor(pure=False)
        self._asked: dict[str, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what still runs: there is something only where the caller was interrupted."""
        self._client.close()

    def room(self) -> int:
        """As many as there are GPUs, or else workers."""
        if self._client.status == "closed":  # until then it tries to connect again
            raise self._lost()
        workers = self._client.scheduler_info(n_workers=-1).get("workers", {}).values()
        cards = sum(int(worker["resources"].get(GPU, 0)) for worker in workers)
        self._asked = {GPU: 1} if cards else None
        if not workers and not self._idle:
            self.told.put(["say", NOBODY])
        self._idle = not workers
        return cards or len(workers)

    def submit(self, task: Callable) -> concurrent.futures.Future:
        return self._executor.submit(_do, task, self._topic, resources=self._asked)

    def result(self, future: concurrent.futures.Future) -> Any:
        """What came of a task, or a sentence where it failed in a way of the cluster's."""
        try:
            return future.result()
        except self._killed:
            return KILLED
        except concurrent.futures.CancelledError:
            raise self._lost() from None
        except InputError as error:
            return str(error)
        except Exception as error:
            return f"The cluster could not do it ({type(error).__name__}: {error})."

    def _lost(self) -> InputError:
        return InputError(
            f"The Dask scheduler at {self._address!r} ({PREFIX}CLUSTER) has gone. Start it again, "
            "and run again: each network goes on where it stopped."
        )


def _do(task: Callable, topic: str) -> Any:
    """A task, in a thread of a worker; its words travel as the worker's events."""
    from distributed import get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        known = worker.state.tasks.get(key)
        return known is not None and known.state != "cancelled"

    return task(Teller(functools.partial(worker.log_event, topic), wanted), "")
