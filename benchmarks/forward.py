"""The forward pass by Keras in float32, as the package does it, and by OpenVINO.

    python benchmarks/forward.py [NETWORK ...] [--data DATA] [--size N] [--pictures N]

Each pass runs in a process of its own, all ways in turns, on phantoms of the native size (or
--size); pictures per second are medians. "keras" is the network as keras.applications builds it, in
float32, with TensorFlow's own settings; "package" is folded, with oneDNN, and in 16 bits where the
processor has them and they are faster. OpenVINO, in 16 bits where the processor has them, is a
yardstick and takes part where it is installed (DIR of
`pip install --target DIR --no-deps openvino openvino-telemetry` in PYTHONPATH).

What the package's way changes is asked of the released networks at the size of their training:
the largest change of a logit, and the change of the AUC, over the test folder of --data, or over
the phantoms where it is not given (then the AUC itself says nothing, only its change).
"""

import importlib.util
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measured
import numpy as np
from sklearn.metrics import roc_auc_score

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import phantoms, reader
from fracture_utils.models import process
from fracture_utils.models.backbones import RELEASED_DIR, Weights
from fracture_utils.networks import REGISTRY

BATCH, SIDE = 32, 256


def grey(paths: list[Path], size: int) -> np.ndarray:
    """Pictures as the networks take them, float32 (n, size, size, 1)."""
    return np.stack([reader.fit(reader.read(path), size) for path in paths])[..., None].astype("f4")


def network(name: str, way: str, size: int):
    """The released network as it computes in `way`, at any size."""
    from fracture_utils.models import classifier, folding, precision, speed

    card = files.read_json(RELEASED_DIR / f"{name}.json")
    config = Config(image_size=size, head_width=card["head_width"])
    model = classifier.build(REGISTRY[name], Weights("random"), config, "float32", card["head"])
    classifier.load_released(model, RELEASED_DIR / card["weights"])
    if way != "package":
        return model, precision.resolve("auto")
    with tempfile.TemporaryDirectory() as folder:
        return folding.folded(model), speed.arithmetic(model, config, Path(folder))


def passing(model, way: str, best: str):
    """A function from a batch to logits (n,)."""
    if way != "openvino":
        return lambda batch: model.predict_on_batch(batch)[:, 0]
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32" if best == "float32" else "bf16"}
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        compiled = openvino.compile_model(openvino.convert_model(folder), "CPU", hint)
    return lambda batch: next(iter(compiled(batch).values()))[:, 0]


def rate(name: str, way: str, size: str, folder: str) -> dict:
    """Pictures per second over the pictures of a folder, in this process."""
    model, best = network(name, way, int(size))
    run, pictures = passing(model, way, best), grey(sorted(Path(folder).rglob("*.png")), int(size))
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    for batch in (batches[0], batches[-1]):  # the graph is made anew for a smaller one
        run(batch)
    started = time.perf_counter()
    for batch in batches:
        run(batch)
    return {"rate": len(pictures) / (time.perf_counter() - started), "precision": best}


def logits(name: str, way: str, size: str, folder: str) -> list[float]:
    """The logits of all pictures of a folder, in this process."""
    model, best = network(name, way, int(size))
    run, paths = passing(model, way, best), shown(Path(folder))
    parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return np.concatenate([run(grey(part, int(size))) for part in parts]).tolist()


def shown(folder: Path) -> list[Path]:
    """The pictures of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in reader.SUFFIXES)


def asked_of(what: str, name: str, way: str, size: int, folder: Path) -> Any:
    """What `rate` or `logits` says in a process of its own: the package's has its environment."""
    environment = process.environment() if way == "package" else None
    return measured.apart(__file__, "--one", what, name, way, size, folder, environment=environment)


def changes(name: str, asked, folder: Path) -> dict:
    """What the package's way changes of the answers of a network."""
    size = asked.size or files.read_json(RELEASED_DIR / f"{name}.json")["input_size"]
    labels = [path.parent.name == "fractured" for path in shown(folder)]
    plain, own = (
        np.array(asked_of("logits", name, way, size, folder)) for way in ("keras", "package")
    )
    auc = [roc_auc_score(labels, found) for found in (plain, own)]
    return {
        "pictures": len(labels),
        "largest change of a logit": round(float(np.abs(own - plain).max()), 4),
        "standard deviation of the logits": round(float(plain.std()), 4),
        "AUC by Keras": round(auc[0], 5),
        "change of the AUC": round(auc[1] - auc[0], 5),
    }


def compare(name: str, asked, folder: Path) -> dict:
    """The rates of one network in all ways, and their ratios round by round."""
    ways = ["keras", "package", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    size, found = asked.size or REGISTRY[name].native_size, {way: [] for way in ways}
    for _ in range(asked.rounds):
        for way in ways:
            found[way].append(asked_of("rate", name, way, size, folder))
    rates = {way: [each["rate"] for each in made] for way, made in found.items()}
    ratios = {
        f"package to {way}": measured.spread(np.divide(rates["package"], rates[way]).tolist())
        for way in ways
        if way != "package"
    }
    spreads = {way: measured.spread(each) for way, each in rates.items()}
    return {"precision": found["package"][0]["precision"], "pictures/s": spreads, **ratios}


def main() -> None:
    """Compare the networks one after the other; the figures go to results/forward.json."""
    parser = measured.arguments(__doc__)
    parser.add_argument("networks", nargs="*", default=list(REGISTRY))
    parser.add_argument("--data", type=Path, help="folder with test/{fractured,normal}")
    parser.add_argument("--pictures", type=int, default=64, help="phantoms of a pass")
    parser.add_argument("--size", type=int, help="side of the pictures in pixels")
    asked, load, figures = parser.parse_args(), measured.busy(), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        phantoms.make(folder, asked.pictures, SIDE, 0)
        for name in asked.networks:
            figures[name] = compare(name, asked, folder)
            figures[name] |= changes(name, asked, asked.data / "test" if asked.data else folder)
            sys.stderr.write(f"{name}: {figures[name]}\n")
    measured.keep("forward", asked, load, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measured.answer({"rate": rate, "logits": logits}[sys.argv[2]](*sys.argv[3:]))
    else:
        main()
