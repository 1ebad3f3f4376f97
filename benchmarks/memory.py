"""Peak memory: of one training after the other, of the audit, and of a training on many pictures.

    python benchmarks/memory.py trainings                  # six of MobileNet, one after the other
    python benchmarks/memory.py audit [PICTURES ...]       # 4000 and 40000
    python benchmarks/memory.py pictures [PICTURES ...]    # 4000 and 100000, from files to tables

Pictures are phantoms of 64 px, of which 1,000 are drawn (--drawn) and the others are those turned,
moved and with noise, so that none is a copy of another. Counted is, every 20 ms, the memory that a
process cannot give back (resident less what is mapped from files), the largest of the process
itself and the largest of one of its workers, in MiB.
"""

import sys
import tempfile
import threading
from pathlib import Path

import measured
import numpy as np
import psutil
from PIL import Image

from fracture_utils.config import Config
from fracture_utils.data import audit, images, inventory, phantoms, sidecars
from fracture_utils.models import jobs

SIDE, EVERY = 64, 0.02


class Peak(threading.Thread):
    """While it is open: the largest `own` memory of this process and of one of its `workers`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.workers = 0.0
        self.process, self.closed = psutil.Process(), threading.Event()

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.join()

    def run(self) -> None:
        while not self.closed.wait(EVERY):
            self.own = max(self.own, held(self.process))
            workers = self.process.children(recursive=True)
            self.workers = max([self.workers, *map(held, workers)])


def held(process: psutil.Process) -> float:
    """MiB of a process that are no file's; 0 where it has ended."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0
    return round((memory.rss - getattr(memory, "shared", 0)) / 2**20, 1)


def draw(folder: Path, pictures: int, drawn: int) -> None:
    """Phantoms, and others made of them until there are `pictures`."""
    phantoms.make(folder, min(pictures, drawn), SIDE, 0)
    found, random = sorted(folder.rglob("*.png")), np.random.default_rng(0)
    for k in range(pictures - len(found)):
        source = found[k % len(found)]
        other = found[random.integers(len(found))]
        mixed = np.mean([np.asarray(Image.open(path), float) for path in (source, other)], axis=0)
        shift = random.integers(-SIDE // 2, SIDE // 2, 2)
        grey = np.roll(np.rot90(mixed, random.integers(4)), shift, (0, 1)) + random.normal(size=1)
        made = np.clip(grey, 0, 255).astype(np.uint8)
        Image.fromarray(made).save(source.with_name(f"{source.stem}-{k:06}.png"))


def audited(folder: str) -> dict:
    """The peak of this process after an audit of the pictures in a folder, and its findings."""
    config = Config(data_dir=folder, source="pictures", results_dir=Path(folder) / ".results")
    with Peak() as peak:
        taken = inventory.take(config)
        found = audit.run(images.table(config, taken), taken, config)
    return {"own (MiB)": peak.own, "findings": len(found)}


def trained(folder: str) -> dict:
    """The peaks of this process and of the worker that trains MobileNet on a folder's pictures."""
    config = Config(
        data_dir=folder, source="pictures", results_dir=Path(folder) / ".results", quick=True,
        models_dir=Path(folder) / ".models", backbones="MobileNet", initialisation="random",
        image_size=SIDE,
    )  # fmt: skip
    with Peak() as peak:
        taken = inventory.take(config)
        table, boxes = images.table(config, taken), sidecars.boxes(config, taken.files)
        jobs.predictions(jobs.train(table, config, boxes), table, config)
    return {"own (MiB)": peak.own, "largest worker (MiB)": peak.workers}


def of_counts(one: str, counts: list[int], drawn: int) -> dict:
    """The peaks at each number of pictures, each in a process of its own."""
    peaks = {}
    for pictures in counts:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder), pictures, drawn)
            peaks[f"{pictures} pictures"] = measured.apart(__file__, "--one", one, folder)
    return peaks


def of_trainings(count: int) -> list[dict]:
    """The peaks of several trainings that one process starts one after the other."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        common = {"data_dir": f"{folder}/data", "quick": True, "source": "phantoms",
                  "backbones": "MobileNet", "initialisation": "random"}  # fmt: skip
        config = Config(**common)
        phantoms.make(config.pictures_dir, config.phantom_pictures, config.phantom_size, 0)
        taken = inventory.take(config)
        table, boxes = images.table(config, taken), sidecars.boxes(config, taken.files)
        for k in range(count):
            places = {"results_dir": f"{folder}/{k}/results", "models_dir": f"{folder}/{k}/models"}
            with Peak() as peak:
                jobs.train(table, Config(**common, **places), boxes)
            peaks.append({"own (MiB)": peak.own, "largest worker (MiB)": peak.workers})
    return peaks


def main() -> None:
    """Measure; the figures go to results/memory_WHAT.json."""
    parser = measured.arguments(__doc__, rounds=1)
    parser.add_argument("what", choices=["trainings", "audit", "pictures"])
    parser.add_argument("counts", nargs="*", type=int)
    parser.add_argument("--trainings", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=1000)
    asked, load = parser.parse_args(), measured.busy()
    counts = asked.counts or {"audit": [4000, 40_000], "pictures": [4000, 100_000]}.get(asked.what)
    if asked.what == "trainings":
        figures: object = of_trainings(asked.trainings)
    else:
        figures = of_counts(asked.what, counts, asked.drawn)
    measured.keep(f"memory_{asked.what}", asked, load, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measured.answer({"audit": audited, "pictures": trained}[sys.argv[2]](sys.argv[3]))
    else:
        main()
