"""Training on a cluster: a scheduler and two worker processes on this machine."""

import contextlib
import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from radiographs import NO_BOXES, small_run

import fracture_utils
from fracture_utils.errors import InputError
from fracture_utils.ledger import Ledger
from fracture_utils.models import crew, jobs
from fracture_utils.models.backbones import Weights
from fracture_utils.models.cluster import GPU, KILLED, NOBODY, Cluster
from fracture_utils.models.job import Job
from fracture_utils.models.progress import Progress

needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason='needs pip install -e ".[cluster]"'
)
ROOT, HERE = Path(fracture_utils.__file__).parents[1], Path(__file__).parent


def start(*words: str, **variables: str) -> subprocess.Popen:
    path = os.pathsep.join([str(ROOT), str(HERE)])
    environment = os.environ | {"PYTHONPATH": path, "FRACTURE_NONSENSE": "1"} | variables
    with Path("cluster.txt").open("a") as log:
        return subprocess.Popen([sys.executable, "-m", *words], env=environment, stderr=log)


@pytest.fixture
def machines(tmp_path, monkeypatch):
    """A function that starts a scheduler and a worker for each list of options: the scheduler's
    address, and its process and theirs. A task may cost two workers.
    """
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    file, started = tmp_path / "scheduler.json", []
    common = ("--scheduler-file", str(file), "--no-dashboard")

    def begin(*workers: str) -> tuple[str, list[subprocess.Popen]]:
        scheduler = ("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        started.append(start(*scheduler, *common))
        wait_for(file)
        command = ("distributed.cli.dask_worker", "--nthreads", "1", *common)
        started.extend(start(*command, *options.split()) for options in workers)
        return json.loads(file.read_text())["address"], started

    yield begin
    for process in reversed(started):
        process.terminate()  # a nanny has to end its worker
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
        process.kill()
        process.wait()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not (path.exists() and (path.is_dir() or path.read_text())):
        assert time.monotonic() < deadline, path
        time.sleep(0.1)


class Ear:
    """What stands for `Progress` here."""

    def __init__(self) -> None:
        self.heard, self.said = [], []

    def hear(self, name, event):
        self.heard.append((name, event))

    def say(self, sentence):
        self.said.append(sentence)


def tell(teller, card):
    teller.hear("good", {"done": 1})
    return os.getpid()


def kill_this_worker(teller, card):
    os.kill(os.getpid(), signal.SIGKILL)


def wait_until_unwanted(teller, card, folder):
    (folder / "began").write_text("now")
    try:
        while True:
            time.sleep(0.1)
            teller.hear("long", {})
    finally:
        (folder / "ended").write_text("now")


@needs_dask
def test_a_task_that_costs_workers_is_lost_and_the_others_stand(machines):
    ear, (address, _) = Ear(), machines("--nanny")  # which brings a killed worker back
    tasks = {"good": tell, "bad": kill_this_worker, "late": tell}
    with Cluster(address) as cluster:
        done = dict(crew.side_by_side(cluster, tasks, ear))
    assert done["bad"] == KILLED
    assert done["late"] != done["good"]  # another process by then
    assert ear.heard == [("good", {"done": 1})] * 2


@needs_dask
def test_tasks_ask_for_a_gpu_where_there_is_one_and_an_interruption_ends_them(tmp_path, machines):
    address, (*_, with_gpu) = machines("--no-nanny", f"--no-nanny --resources {GPU}=1")
    with Cluster(address) as cluster:
        while len(cluster._client.scheduler_info()["workers"]) < 2:
            time.sleep(0.1)
        assert cluster.room() == 1
        done = dict(crew.side_by_side(cluster, dict.fromkeys("abc", tell), Ear()))
        assert set(done.values()) == {with_gpu.pid}
        cluster.submit(functools.partial(wait_until_unwanted, folder=tmp_path))
        wait_for(tmp_path / "began")
    wait_for(tmp_path / "ended")


@needs_dask
def test_no_worker_and_a_scheduler_that_goes_are_sentences(machines, monkeypatch):
    monkeypatch.setattr("fracture_utils.models.cluster.PATIENCE", 5)
    ear, (address, (scheduler,)) = Ear(), machines()
    with Cluster(address) as cluster:
        threading.Timer(2, scheduler.kill).start()
        with pytest.raises(InputError, match=r"The Dask scheduler at 'tcp://.*has gone"):
            list(crew.side_by_side(cluster, {"a": tell}, ear))
    assert ear.said == [NOBODY]


class Killer:
    """Kills the worker that fine-tunes, once, after its first epoch, and notes what was heard."""

    def __init__(self, workers: list[subprocess.Popen], folder: Path) -> None:
        self.workers, self.folder, self.steps, self.killed = workers, folder, [], []

    def hear(self, name: str, event: dict) -> None:
        if event.get("stage") == "fine_tune":
            self.steps.append(event.get("done", 0))
            if not self.killed and list(self.folder.glob("checkpoint-*.npz")):
                self.killed += [w.pid for w in self.workers if self._is_at_work(w)]
                os.kill(self.killed[0], signal.SIGKILL)
                assert "fine_tune" not in Ledger(self.folder).seconds()

    @staticmethod
    def _is_at_work(worker: subprocess.Popen) -> bool:
        children = Path(f"/proc/{worker.pid}/task").glob("*/children")
        return any(path.read_text().strip() for path in children)


@needs_dask
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the child by Linux's /proc")
def test_the_job_of_a_lost_worker_goes_on_elsewhere_from_its_checkpoint(
    data, tmp_path, machines, monkeypatch
):
    address, (_, *workers) = machines("--no-nanny", "--no-nanny")
    longer = {"fine_tune_epochs": 6, "patience": 50}
    config = small_run(data, Path("far"), cluster=address, **longer)  # as a user writes a path
    killer, hear = Killer(workers, config.cache_dir / "networks" / "MobileNet"), Progress.hear
    with monkeypatch.context() as patch:
        patch.setattr(
            Progress, "hear", lambda self, *words: hear(self, *words) or killer.hear(*words)
        )
        networks = jobs.train(data[1], config, NO_BOXES)
    assert len(killer.killed) == 1
    begun = [k for k, step in enumerate(killer.steps) if step == 0]
    assert len(begun) == 2
    assert killer.steps[begun[1] + 1] > killer.steps[1] + 1  # not from the beginning
    assert networks["status"].tolist() == ["trained"]
    epochs = jobs.history(networks, config).query("stage == 'fine_tune'")["epoch"].tolist()
    assert epochs == [1, 2, 3, 4, 5, 6]
    here = small_run(data, tmp_path / "here", **longer)
    expected = jobs.predictions(jobs.train(data[1], here, NO_BOXES), data[1], here)
    found = jobs.predictions(networks, data[1], config)
    np.testing.assert_allclose(found["logit"], expected["logit"], atol=1e-4)
    kept = config.model_copy(update={"cluster": "tcp://127.0.0.1:9"})
    assert jobs.train(data[1], kept, NO_BOXES).equals(networks)  # nothing to ask anybody for


def test_a_machine_that_sees_or_computes_something_else_says_so(data, tmp_path):
    job = Job("MobileNet", small_run(data, tmp_path), Weights("random"), data[1], NO_BOXES)
    _, status, why = jobs._train_elsewhere(job, job.keys(), None, "")
    assert status == "failed"
    assert "the cluster has to share that folder" in why
    job.save()
    _, status, why = jobs._train_elsewhere(job, {}, None, "")
    assert status == "failed"
    assert "has another version of this project" in why


def test_where_jobs_run_does_not_enter_their_keys(data, tmp_path):
    job = Job("MobileNet", small_run(data, tmp_path), Weights("random"), data[1], NO_BOXES)
    config = job.config.model_copy(update={"cluster": "tcp://127.0.0.1:9"})
    assert replace(job, config=config, card="1").with_whole_paths().keys() == job.keys()


@needs_dask
def test_an_address_where_no_scheduler_answers_is_a_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr("fracture_utils.models.cluster.PATIENCE", 1)
    config = small_run(data, tmp_path, cluster="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"No Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        jobs.train(data[1], config, NO_BOXES)


def test_without_dask_a_sentence_says_what_to_install(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    config = small_run(data, tmp_path, cluster="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"FRACTURE_CLUSTER needs Dask: pip install .*\[cluster\]"):
        jobs.train(data[1], config, NO_BOXES)
