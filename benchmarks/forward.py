"""The forward pass of Keras in float32, of the package, and of OpenVINO.

    python benchmarks/forward.py [NETWORK ...] [--data DATA] [--size N] [--images N]

Each pass runs in a process of its own, the variants interleaved, on phantoms of the native size (or
--size); images per second are medians. "keras" is the network as keras.applications builds it, in
float32, with TensorFlow's default settings; "package" has batch normalization folded into the
convolutions, oneDNN, and bfloat16 where the processor supports it. OpenVINO, in bfloat16 where the
processor supports it, is included where it is installed (DIR of
`pip install --target DIR --no-deps openvino openvino-telemetry` in PYTHONPATH).

The effect on the predictions of the released models, at the size of their training: the largest
change of a logit and the change of the AUC over the test folder of --data, or over the phantoms
(then only the change is meaningful, not the AUC itself).
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

from fracture_utils import artifacts
from fracture_utils.data import phantoms, reader
from fracture_utils.models import backbones
from fracture_utils.models.backbones import REGISTRY, RELEASED_DIR, Weights

BATCH, SIDE = 32, 256


def gray(paths: list[Path], size: int) -> np.ndarray:
    """Images as inputs of a model, float32 (n, size, size, 1)."""
    return np.stack([reader.fit(reader.read(path), size) for path in paths])[..., None].astype("f4")


def released(name: str, variant: str, size: int):
    """The released model in a variant, at any size, and the precision of "auto"."""
    from fracture_utils.models import builder

    card = artifacts.read_json(RELEASED_DIR / f"{name}.json")
    precision = backbones.resolve_precision("auto")
    own = precision if variant == "package" else "float32"
    model = builder.build(name, card["head"], size=size, weights=Weights("random"), precision=own)
    builder.load_weights(model, RELEASED_DIR / card["weights"])
    return builder.fold_batch_norm(model) if variant == "package" else model, precision


def forward(model, variant: str, precision: str):
    """A function from a batch to logits (n,)."""
    if variant != "openvino":
        return lambda batch: model.predict_on_batch(batch)[:, 0]
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16"}
    with tempfile.TemporaryDirectory() as folder:
        model.export(folder, format="tf_saved_model", verbose=False)
        compiled = openvino.compile_model(openvino.convert_model(folder), "CPU", hint)
    return lambda batch: next(iter(compiled(batch).values()))[:, 0]


def rate(name: str, variant: str, size: str, folder: str) -> dict:
    """Images per second over the images of a folder, in this process."""
    model, precision = released(name, variant, int(size))
    run, images = forward(model, variant, precision), gray(image_paths(Path(folder)), int(size))
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    for batch in (batches[0], batches[-1]):  # a smaller batch has a graph of its own
        run(batch)
    started = time.perf_counter()
    for batch in batches:
        run(batch)
    return {"rate": len(images) / (time.perf_counter() - started), "precision": precision}


def logits(name: str, variant: str, size: str, folder: str) -> list[float]:
    """The logits of all images of a folder, in this process."""
    model, precision = released(name, variant, int(size))
    run, paths = forward(model, variant, precision), image_paths(Path(folder))
    parts = [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]
    return np.concatenate([run(gray(part, int(size))) for part in parts]).tolist()


def image_paths(folder: Path) -> list[Path]:
    """The images of a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in reader.SUFFIXES)


def in_subprocess(what: str, name: str, variant: str, size: int, folder: Path) -> Any:
    """The result of `rate` or `logits` in a process of its own, with the package's environment
    variables where the package is measured.
    """
    words = ("--one", what, name, variant, size, folder)
    environment = backbones.environment() if variant == "package" else None
    return measured.in_subprocess(__file__, *words, environment=environment)


def changes(name: str, options, folder: Path) -> dict:
    """The effect of the package's variant on the predictions of a model."""
    size = options.size or artifacts.read_json(RELEASED_DIR / f"{name}.json")["input_size"]
    labels = [path.parent.name == "fractured" for path in image_paths(folder)]
    plain, own = (
        np.array(in_subprocess("logits", name, variant, size, folder))
        for variant in ("keras", "package")
    )
    auc = [roc_auc_score(labels, values) for values in (plain, own)]
    return {
        "images": len(labels),
        "largest change of a logit": round(float(np.abs(own - plain).max()), 4),
        "standard deviation of the logits": round(float(plain.std()), 4),
        "AUC of Keras": round(auc[0], 5),
        "change of the AUC": round(auc[1] - auc[0], 5),
    }


def compare(name: str, options, folder: Path) -> dict:
    """The rates of one network in all variants, and their ratios round by round."""
    variants = ["keras", "package", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    size = options.size or REGISTRY[name].native_size
    rounds: dict[str, list[dict]] = {variant: [] for variant in variants}
    for _ in range(options.rounds):
        for variant in variants:
            rounds[variant].append(in_subprocess("rate", name, variant, size, folder))
    rates = {variant: [one["rate"] for one in each] for variant, each in rounds.items()}
    ratios = {
        f"package to {other}": measured.spread(np.divide(rates["package"], rates[other]).tolist())
        for other in variants
        if other != "package"
    }
    spreads = {variant: measured.spread(each) for variant, each in rates.items()}
    return {"precision": rounds["package"][0]["precision"], "images/s": spreads, **ratios}


def main() -> None:
    """Compare the networks; the figures go to results/forward.json."""
    parser = measured.arguments(__doc__)
    parser.add_argument("networks", nargs="*", default=list(REGISTRY))
    parser.add_argument("--data", type=Path, help="folder with test/{fractured,normal}")
    parser.add_argument("--images", type=int, default=64, help="phantoms of a pass")
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    options, load, figures = parser.parse_args(), measured.load(), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        phantoms.make(folder, options.images, SIDE, 0)
        for name in options.networks:
            figures[name] = compare(name, options, folder)
            figures[name] |= changes(
                name, options, options.data / "test" if options.data else folder
            )
            sys.stderr.write(f"{name}: {figures[name]}\n")
    measured.write("forward", options, load, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measured.answer({"rate": rate, "logits": logits}[sys.argv[2]](*sys.argv[3:]))
    else:
        main()
