"""Peak memory of successive training jobs, of the audit, and of training on many images.

    python benchmarks/memory.py trainings              # six of MobileNet, one after the other
    python benchmarks/memory.py audit [IMAGES ...]     # 4000 and 40000
    python benchmarks/memory.py images [IMAGES ...]    # 4000 and 100000, from files to tables

Images are phantoms of 64 px, of which 1,000 are generated (--generated) and the others are mixtures
of two of those, rotated and shifted, so that none is a copy of another. Every 20 ms the memory that
a process cannot give back (resident minus mapped files) is read: the maximum of the process itself
and the maximum of one of its subprocesses, in MiB.
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
from fracture_utils.data import audit, dataset, phantoms
from fracture_utils.models import backbones, jobs

SIDE, INTERVAL = 64, 0.02


class Peak(threading.Thread):
    """Inside its `with` block: the maxima of this process and of one of its subprocesses."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.own = self.subprocess = 0.0
        self.process, self.closed = psutil.Process(), threading.Event()

    def __enter__(self) -> "Peak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed.set()
        self.join()

    def run(self) -> None:
        while not self.closed.wait(INTERVAL):
            self.own = max(self.own, used(self.process))
            children = self.process.children(recursive=True)
            self.subprocess = max([self.subprocess, *map(used, children)])

    def figures(self) -> dict[str, float]:
        return {"own (MiB)": self.own, "largest subprocess (MiB)": self.subprocess}


def used(process: psutil.Process) -> float:
    """MiB of a process without mapped files; 0 where it has ended."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0.0
    return round((memory.rss - getattr(memory, "shared", 0)) / 2**20, 1)


def fill(folder: Path, images: int, generated: int) -> None:
    """Generate phantoms, and mix others from them until there are `images`."""
    phantoms.make(folder, max(48, min(images, generated)), SIDE, 0)
    paths, random = sorted(folder.rglob("*.png")), np.random.default_rng(0)
    for k in range(images - len(paths)):
        source, other = paths[k % len(paths)], paths[random.integers(len(paths))]
        mixture = np.mean([np.asarray(Image.open(p), float) for p in (source, other)], axis=0)
        shift = random.integers(-SIDE // 2, SIDE // 2, 2)
        gray = np.roll(np.rot90(mixture, random.integers(4)), shift, (0, 1)) + random.normal()
        image = Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8))
        image.save(source.with_name(f"{source.stem}-{k:06}.png"))
    for name in ("images.csv", "boxes.csv"):  # they describe the phantoms only
        (folder / name).unlink()


def audited(folder: str) -> dict:
    """The peak of this process after an audit of a folder, and the number of findings."""
    config = Config(data_dir=folder, source="images", results_dir=Path(folder) / ".results")
    with Peak() as peak:
        findings = audit.run(dataset.load(config), config.seed)
    return {"own (MiB)": peak.own, "findings": len(findings)}


def trained(folder: str) -> dict:
    """The peaks of a training of MobileNet on the images of a folder."""
    config = Config(
        data_dir=folder, source="images", results_dir=Path(folder) / ".results", quick=True,
        models_dir=Path(folder) / ".models", backbones="MobileNet", initialization="random",
        image_size=SIDE,
    )  # fmt: skip
    with Peak() as peak:
        data = dataset.load(config, backbones.sizes(config))
        jobs.train(data.images, data.boxes, config)
    return peak.figures()


def by_count(what: str, counts: list[int], generated: int) -> dict:
    """The peaks for each number of images, each in a process of its own."""
    peaks = {}
    for images in counts:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), images, generated)
            peaks[f"{images} images"] = measured.in_subprocess(__file__, "--one", what, folder)
    return peaks


def by_training(count: int) -> list[dict]:
    """The peaks of successive training jobs that one process starts."""
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        common = {"data_dir": f"{folder}/data", "quick": True, "source": "phantoms",
                  "backbones": "MobileNet", "initialization": "random"}  # fmt: skip
        for k in range(count):
            config = Config(
                **common, results_dir=f"{folder}/{k}/results", models_dir=f"{folder}/{k}/models"
            )
            phantoms.make(config.images_dir, config.phantom_images, config.phantom_size, 0)
            data = dataset.load(config, backbones.sizes(config))
            with Peak() as peak:
                jobs.train(data.images, data.boxes, config)
            peaks.append(peak.figures())
    return peaks


def main() -> None:
    """Measure; the figures go to results/memory_WHAT.json."""
    parser = measured.arguments(__doc__, rounds=1)
    parser.add_argument("what", choices=["trainings", "audit", "images"])
    parser.add_argument("counts", nargs="*", type=int)
    parser.add_argument("--trainings", type=int, default=6)
    parser.add_argument("--generated", type=int, default=1000)
    options, load = parser.parse_args(), measured.load()
    defaults = {"audit": [4000, 40_000], "images": [4000, 100_000]}
    if options.what == "trainings":
        figures: object = by_training(options.trainings)
    else:
        counts = options.counts or defaults[options.what]
        figures = by_count(options.what, counts, options.generated)
    measured.write(f"memory_{options.what}", options, load, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measured.answer({"audit": audited, "images": trained}[sys.argv[2]](sys.argv[3]))
    else:
        main()
