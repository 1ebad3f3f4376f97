"""Trained networks as files that answer without this package: ONNX, TFLite, SavedModel.

A picture in, the calibrated probability, the logit and the heat map out; all arithmetic between
them is inside, in float32. What is written has been asked about phantoms and said what Keras says.
"""

import contextlib
import importlib.util
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from fracture_utils import files, run
from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.data.anatomy import draw_patients
from fracture_utils.data.radiography import render
from fracture_utils.errors import InputError, RunError
from fracture_utils.evaluation import calibration
from fracture_utils.ledger import versions
from fracture_utils.models import cards
from fracture_utils.networks import REGISTRY

if TYPE_CHECKING:
    import keras

PURPOSE = "Research and education only, never clinical use"
PICTURES, SIDE, AT_ONCE = 50, 128, 5
"""Phantoms to ask about, their side in pixels before they are fitted, and how many at a time."""
LIMITS = {"probability": 1e-3, "logit": 1e-2, "heat_map": 1e-2}
"""How far an answer may lie from that of Keras; the last two have no bounds to hide in."""
TEMPLATE = Path(__file__).parent / "templates" / "run_onnx.py.txt"
Answers = dict[str, np.ndarray]


def _onnx(path: Path) -> Callable[[np.ndarray], Answers]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = list(LIMITS)
    return lambda squares: dict(zip(names, session.run(names, {"picture": squares}), strict=True))


def _tflite(path: Path) -> Callable[[np.ndarray], Answers]:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    return lambda squares: runner(picture=squares)


def _saved_model(path: Path) -> Callable[[np.ndarray], Answers]:
    import keras

    layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
    return lambda squares: {name: np.asarray(value) for name, value in layer(squares).items()}


FORMATS: dict[str, tuple[str, str, tuple[str, ...], Callable]] = {
    "onnx": ("onnx", ".onnx", ("tf2onnx", "onnx", "onnxruntime"), _onnx),
    "tflite": ("litert", ".tflite", ("ai_edge_litert",), _tflite),
    "savedmodel": ("tf_saved_model", ".savedmodel", (), _saved_model),
}
"""By name: Keras's word, the suffix, the packages it takes, and what asks such a file."""


def export(
    names: Sequence[str], formats: Sequence[str], folder: Path, config: Config
) -> Iterator[str]:
    """Write networks (none named: those that `predict` asks) into `folder`, and say what came of it
    network by network.

    Of each, <name>.onnx, .tflite, .savedmodel/ (those of `formats`) and a card <name>.json;
    run_onnx.py asks the first. All of a network or nothing, in place of its earlier export:
    RunError where a file answers otherwise than Keras by more than LIMITS. InputError where a
    network or a package is not there, or `folder` holds files of these names that no export wrote.
    """
    check(formats)
    home = cards.home(config)
    chosen = list(dict.fromkeys(names)) or list(cards.read(home)[0])
    for name in chosen:
        if name not in REGISTRY:
            raise InputError(f"There is no network {name}; known are {', '.join(REGISTRY)}.")
        _earlier(folder, name)
    with run.quiet():
        if run.keras().backend.backend() != "tensorflow":
            raise InputError("Only TensorFlow exports networks; unset KERAS_BACKEND.")
    for name in chosen:
        with run.quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of converters about NumPy and themselves
            written = _one(name, formats, folder, home)
        yield f"{name}, asked about {PICTURES} phantoms, differs from Keras by at most"
        for file, found in written.items():
            told = ", ".join(f"{value:.1g} ({what})" for what, value in found.items())
            yield f"  {folder / file}: {told}"
    yield f"{PURPOSE}; the thresholds are in the cards."


def check(formats: Sequence[str]) -> None:
    """InputError where a package is missing that these formats take."""
    needed = [package for name in formats for package in FORMATS[name][2]]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"The export to {' and '.join(formats)} needs {', '.join(missing)}: "
            'pip install -e ".[export]" (SavedModel alone needs nothing: --format savedmodel).'
        )


def standalone(explained: "keras.Model", card: dict) -> "keras.Model":
    """From "picture", uint8 (n, size, size, 1), to "probability" and "logit" (n, 1) and "heat_map"
    (n, rows, columns); it shares the weights of a model of `heatmaps.explaining`.
    """
    import keras

    def plain(value: Any) -> Any:
        constant = keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor)
        return keras.ops.convert_to_numpy(value) if constant else value

    def call(operation: Callable, *given: Any, **named: Any) -> Any:
        """With constants as arrays; tf2onnx would make each tensor an input of the file."""
        given, named = keras.tree.map_structure(plain, (given, named))
        return operation(*given, **named)

    same = keras.models.clone_model(explained, clone_function=lambda la: la, call_function=call)
    size = card["input_size"]
    picture = keras.Input((size, size, 1), dtype="uint8", name="picture")
    logit, heat_map, _ = same(keras.ops.cast(picture, "float32"))
    probability = keras.ops.sigmoid(calibration.calibrated(logit, card))
    outputs = {"probability": probability, "logit": logit, "heat_map": heat_map}
    return keras.Model(picture, outputs, name=explained.name)


def phantoms(size: int, aspect: str) -> np.ndarray:
    """PICTURES phantoms as a network wants them, uint8 (n, size, size), upright and not."""
    drawn = [
        render(patient, view, SIDE, 0)[0]
        for patient in draw_patients(PICTURES, 0)
        for view in range(patient.views)
    ]
    drawn[1::2] = [picture[:, : 3 * SIDE // 4] for picture in drawn[1::2]]
    return np.stack([reader.fit(picture, size, aspect) for picture in drawn])


def _one(name: str, formats: Sequence[str], folder: Path, config: Config) -> dict[str, dict]:
    """Export one network; by file, how far its answers lie from those of Keras."""
    from fracture_utils.models import heatmaps

    model, card = cards.load(name, config, "float32")
    explained = heatmaps.explaining(model)
    squares = phantoms(card["input_size"], card["aspect"])
    seen = heatmaps.look(explained, squares, np.arange(len(squares)), config)
    probability = special.expit(calibration.calibrated(seen.logits, card))
    expected = {"probability": probability, "logit": seen.logits, "heat_map": seen.maps}
    alone = standalone(explained, card)
    alone(squares[:1, ..., None])  # Keras exports to ONNX only what was called
    found = {}
    with _workshop(folder) as work:
        for format_ in formats:
            word, suffix, _, opened = FORMATS[format_]
            path = work / f"{name}{suffix}"
            alone.export(str(path), format=word, verbose=False)
            found[path.name] = _differences(path.name, opened(path), squares, expected)
        _place(name, work, folder, _card(card, found))
    return found


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` that is gone afterwards."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=files.TEMPORARY_PREFIX, dir=folder) as work:
            yield Path(work)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); free some space, or choose "
            "another folder with --to."
        ) from None


def _earlier(folder: Path, name: str) -> list[Path]:
    """What an earlier export of a network left; InputError where others wrote such files."""
    card = folder / f"{name}.json"
    taken = [card, *(folder / f"{name}{suffix}" for _, suffix, _, _ in FORMATS.values())]
    taken = [path for path in taken if path.exists()]
    if taken and not (card.is_file() and "exported" in files.read_json(card)):
        raise InputError(f"{taken[0]} is of no export; choose another folder with --to.")
    return taken


def _place(name: str, work: Path, folder: Path, card: dict) -> None:
    """Put what lies in `work` into `folder`, in place of the earlier export, the card at last."""
    made = sorted(path for path in work.rglob("*") if path.is_file())
    card["files"] = {path.relative_to(work).as_posix(): files.sha256(path) for path in made}
    for path in _earlier(folder, name):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in work.iterdir():
        path.rename(folder / path.name)
    script = folder / "run_onnx.py"
    if not script.exists():
        files.write_text(script, TEMPLATE.read_text(encoding="utf-8"))
    files.write_json(folder / f"{name}.json", card)


def _differences(
    file: str, asked: Callable[[np.ndarray], Answers], squares: np.ndarray, expected: Answers
) -> dict[str, float]:
    """By what is answered, the largest difference from Keras; RunError where it is over LIMITS."""
    steps = range(0, len(squares), AT_ONCE)
    parts = [asked(squares[start : start + AT_ONCE, ..., None]) for start in steps]
    found = {}
    for what, limit in LIMITS.items():
        values = np.concatenate([part[what] for part in parts]).reshape(expected[what].shape)
        found[what] = float(np.abs(values - expected[what]).max())
        if not found[what] <= limit:  # so that NaN is refused, too
            raise RunError(
                f"{file} was not written: on phantoms its {what} differs from that of Keras by "
                f"{found[what]:.2g}, and {limit:g} is allowed. Choose another --format."
            )
    return found


def _card(card: dict, found: dict[str, dict[str, float]]) -> dict:
    """What whoever gets the files has to know."""
    said = ("model", "class_names", "threshold", "rule", "heat_maps", "source", "released")
    size = card["input_size"]
    return {
        "purpose": PURPOSE,
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "input": {
            "name": "picture",
            "dtype": "uint8",
            "shape": ["n", size, size, 1],
            "aspect": card["aspect"],
            "grey": "8-bit levels as they are, bone bright; pad: centred on black; squash: "
            "stretched",
        },
        "outputs": {
            "probability": "calibrated, (n, 1); the second class from the threshold on",
            "logit": "not calibrated, (n, 1)",
            "heat_map": "what each place of the square brings to the logit, (n, rows, columns)",
        },
        "not_inside": "the warning of pictures unlike those that the network knows",
        **{key: card[key] for key in said if key in card},
        "weights_sha256": card["weights_sha256"],
        "versions": versions().to_dict(),
        "differences_from_keras": found,
    }
