"""Export of trained models as ONNX files, each compared with Keras."""

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fracture_utils import artifacts
from fracture_utils.config import Config, InputError, RunError, first_line
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration, sentences
from fracture_utils.models import backbones, model_cards, ood

PACKAGES = ("tf2onnx", "onnx", "onnxruntime")
LIMITS = {"probability": 1e-3, "logit": 1e-2, "heat_map": 1e-2, "ood_score": 1e-2}
"""Largest accepted differences from Keras."""
SCRIPT = Path(__file__).parent / "templates" / "run_onnx.py.txt"


def export(names: Sequence[str], folder: Path, config: Config) -> Iterator[str]:
    """Write models (by default the one that `predict` uses) into `folder`; yields a line per model.

    Each becomes <name>.onnx and a card <name>.json, with run_onnx.py: from "image" uint8
    (n, size, size, 1) and "statistics" float32 (n, 23) to "probability" (calibrated), "logit",
    "heat_map" and "ood_score" in float32. An image with a score above "ood_threshold" of the card
    is out of distribution. The statistics depend on the frame of the image within the square, so
    `ood.statistics` computes them. InputError if a model or package is missing or `folder` holds
    other files of these names; RunError beyond LIMITS, and an earlier export is kept.
    """
    if missing := [package for package in PACKAGES if not importlib.util.find_spec(package)]:
        raise InputError(f'The export needs {", ".join(missing)}: pip install -e ".[export]".')
    home = model_cards.home(config)
    for name in dict.fromkeys(names or [model_cards.read(home)[1]]):
        path, target = folder / f"{name}.onnx", folder / f"{name}.json"
        ours = target.is_file() and "exported" in artifacts.read_json(target)
        if not ours and (path.exists() or target.exists()):
            raise InputError(f"{path} is not an export; choose another folder with --to.")
        card = artifacts.read_json(home / f"{name}.json")
        reference = ood.read(home / f"{name}.ood.npz")
        card["ood_threshold"] = ood.threshold(reference)
        card["ood_rate"] = sentences.warning_rate(card)
        with artifacts.replacing(path) as file, backbones.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # converters warn about NumPy and themselves
            differences = _write(file, model_cards.load(name, card, home), card, reference)
        exported = {"exported": artifacts.versions(), "differences_from_keras": differences}
        artifacts.write_json(target, exported | card)
        artifacts.write_text(folder / SCRIPT.stem, script())
        largest = ", ".join(f"{what} {value:.1g}" for what, value in differences.items())
        yield f"{path}; largest differences from Keras: {largest}"


def script() -> str:
    """run_onnx.py: the template with code of the package, so that both read files the same way."""
    module = inspect.getsource(reader).splitlines(keepends=True)
    parts = [line for line in module if not line.startswith(("from fracture_utils", "from scipy"))]
    parts += [f"{name} = {getattr(ood, name)}\n" for name in ("SIDE", "LEVELS", "SIGMAS")]
    parts += map(inspect.getsource, (first_line, ood.statistics, ood._blur))
    return SCRIPT.read_text(encoding="utf-8").replace("# {code}\n", "\n\n".join(parts))


def _write(path: Path, trained: Any, card: dict, reference: ood.Reference) -> dict[str, float]:
    """Write a model; its largest difference from Keras by output."""
    import keras
    import onnxruntime

    from fracture_utils.models import heatmaps

    if keras.backend.backend() != "tensorflow":
        raise InputError("Only TensorFlow exports models; unset KERAS_BACKEND.")

    def plain(value: Any) -> Any:
        symbolic = isinstance(value, keras.KerasTensor) or not keras.ops.is_tensor(value)
        return value if symbolic else keras.ops.convert_to_numpy(value)

    def call(operation: Callable, *inputs: Any, **options: Any) -> Any:
        """Pass constants as arrays: tf2onnx would make each tensor an input of the file."""
        inputs, options = keras.tree.map_structure(plain, (inputs, options))
        return operation(*inputs, **options)

    model = heatmaps.explain(trained)
    model = keras.models.clone_model(model, clone_function=lambda la: la, call_function=call)
    size = card["input_size"]
    image = keras.Input((size, size, 1), dtype="uint8", name="image")
    center = np.float32(reference["center/" + next(iter(ood.WEIGHTS))])
    inputs = {"image": image, "statistics": keras.Input(center.shape, name="statistics")}
    logit, heat_map, features = model(keras.ops.cast(image, "float32"))
    probability = keras.ops.sigmoid(calibration.calibrated(logit, card))
    outputs = {"probability": probability, "logit": logit, "heat_map": heat_map}
    reference = {name: np.float32(array) for name, array in reference.items()}
    distances = ood.distances(reference, inputs["statistics"], features, keras.ops)
    outputs["ood_score"] = sum(distances)[:, None]
    model = keras.Model(inputs, outputs, name=trained.name)
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 9), np.uint8)
    images = np.stack([reader.fit(one, size) for one in noise])[..., None]  # smooth, with padding
    inputs = {"image": images, "statistics": np.tile(center, (len(images), 1))}
    expected = model.predict_on_batch(inputs)  # builds the model as well
    model.export(str(path), format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    results = zip(LIMITS.items(), session.run(list(LIMITS), inputs), strict=True)
    differences = {}
    for (what, limit), values in results:
        differences[what] = float(np.abs(values - expected[what]).max())
        if not differences[what] <= limit:  # refuses NaN as well
            problem = f"its {what} differs from that of Keras by more than {limit:g}"
            raise RunError(f"{card['model']}.onnx was not written: {problem}.")
    return differences
