"""The registry of backbones, their initial weights, and what depends on the hardware."""

import contextlib
import difflib
import functools
import os
import re
import socket
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fracture_utils import artifacts
from fracture_utils.config import PREFIX, Config, InputError

ADDRESS = "https://storage.googleapis.com/tensorflow/keras-applications/"
NO_TOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
RELEASED_DIR = Path(__file__).parents[2] / "models" / "released"
DEVICES = "CUDA_VISIBLE_DEVICES"
EARLY = "early_maps"  # name of the layer that outputs the early feature maps
GPU_EPOCHS, CPU_EPOCHS = 8, 0  # of fine-tuning, by default
TIMEOUT, NVIDIA_TIMEOUT = 30.0, 60.0  # seconds: for a download; for nvidia-smi to wake several GPUs
# By default, TensorFlow uses oneDNN only on processors with 512-bit instructions; others gain, too.
DEFAULTS = {"KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"}


class Backbone(NamedTuple):
    """One network of keras.applications, preprocessed by its `module`.

    `early` names the layer of the early feature maps, if `builder.early_layer` would choose
    another one; `content` that of the out-of-distribution warning, if not the early one.
    `radiograph_size` is the default input side, chosen on validation images (benchmarks/README.md).
    """

    name: str
    module: str
    native_size: int
    radiograph_size: int
    smallest_size: int
    early: str = ""
    weights_file: str = ""
    weights_md5: str | None = None
    content: str = EARLY


REGISTRY = {row[0]: Backbone(*row) for row in (
    ("DenseNet121", "densenet", 224, 384, 32, "pool4_relu",
     f"densenet121{NO_TOP}", "30ee3e1110167f948a6b9946edeeb738"),
    ("ResNet50", "resnet", 224, 384, 32, "",
     f"resnet50{NO_TOP}", "4d473c1dd8becc155b73f8504c6f6626"),
    ("VGG16", "vgg16", 224, 224, 32, "block4_pool",
     f"vgg16{NO_TOP}", "6d6bbae143d832006294945121d1f1fc"),
    ("MobileNet", "mobilenet", 224, 512, 32, "",
     "mobilenet_1_0_224_tf_no_top.h5", None),
    ("InceptionV3", "inception_v3", 299, 384, 75, "",
     f"inception_v3{NO_TOP}", "bcbd6486424b2319ff4ef7d526e38f63", "mixed3"),
    ("Xception", "xception", 299, 320, 71, "",
     f"xception{NO_TOP}", "b0042744bf5b25fce3cb969f33bebb97"),
)}  # fmt: skip


class Weights(NamedTuple):
    """Initial weights: imagenet, released or random; a remark if they are not those of Keras."""

    initialization: str
    path: Path | None = None
    sha256: str = ""
    provenance: str = ""


def find(name: str) -> Backbone:
    """A network of keras.applications, in the registry or not; InputError if there is none."""
    return REGISTRY.get(name) or _infer(name)


@functools.cache
def _infer(name: str) -> Backbone:
    import keras

    builders = {n: build for n, build in vars(keras.applications).items() if callable(build)}
    if name not in builders:
        names = {n.lower(): n for n in builders}
        nearest = names[difflib.get_close_matches(name.lower(), names, 1, cutoff=0)[0]]
        what = f"keras.applications has no network {name!r} ({PREFIX}BACKBONES)"
        raise InputError(f"{what}; did you mean {nearest!r}?")
    build = builders[name]
    module, native = build.__module__.rpartition(".")[2], build(weights=None).input_shape[1] or 224
    return Backbone(name, module, native, native, 75 if name == "InceptionResNetV2" else 32)


def by_hardware(config: Config) -> Config:
    """The settings, with unset fine-tuning settings filled in: with a GPU, GPU_EPOCHS epochs of
    the whole network; without one, no epochs (of the top block, if epochs are set).
    """
    has_gpu = bool({*gpus()} - {"-1"})
    epochs = (1 if config.quick else GPU_EPOCHS) if has_gpu else CPU_EPOCHS
    defaults = {"fine_tune_epochs": epochs, "fine_tune_depth": "all" if has_gpu else "top"}
    left_open = {n: v for n, v in defaults.items() if getattr(config, n) in (None, "auto")}
    return config.model_copy(update=left_open)


def size(name: str, config: Config) -> int:
    """Side of the input in pixels; InputError if it is too small."""
    backbone = find(name)
    own = backbone.native_size if config.source == "phantoms" else backbone.radiograph_size
    side = config.image_size or own
    if side < backbone.smallest_size:
        problem = f"{name} needs images of at least {backbone.smallest_size} px and image_size "
        problem += f"({PREFIX}IMAGE_SIZE) is {side}"
        raise InputError(f"{problem}; raise it, or leave {name} out of {PREFIX}BACKBONES.")
    return side


def sizes(config: Config) -> list[int]:
    """The input sides of all backbones of the settings, each once."""
    return sorted({size(name, config) for name in config.backbones})


def find_weights(config: Config) -> tuple[dict[str, Weights], dict[str, str]]:
    """The initial weights of each backbone of the settings, and why others are left out.

    Searches weights_dir, Keras's cache, the download, and models/released; for phantoms, weights
    may be random. InputError if no backbone remains, or an explicitly named one does not.
    """
    if config.initialization == "random":
        return dict.fromkeys(config.backbones, Weights("random", provenance="as requested")), {}
    available, missing, online = {}, {}, True
    cache = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"
    folders = [folder.absolute() for folder in (config.weights_dir, cache) if folder]
    for name in config.backbones:
        backbone, card = find(name), RELEASED_DIR / f"{name}.json"
        file, checksum = backbone.weights_file, backbone.weights_md5
        address = f"{ADDRESS}{backbone.module}/{file}" if file else f"Keras's {name}*notop.h5"
        path = _weights_file(backbone, folders)
        if path is None and online:
            import keras

            socket.setdefaulttimeout(TIMEOUT)
            # Keras downloads and checks them. It warns about the size of the input and, where a
            # download fails, raises no narrower exception.
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                getattr(keras.applications, name)(weights="imagenet", include_top=False)
            socket.setdefaulttimeout(None)
            path = _weights_file(backbone, folders)
            online = path is not None  # one refusal or timeout is enough: all files have one host
        why = f"its ImageNet weights cannot be downloaded; put {address} into "
        why += f"{config.weights_dir or cache}, or set {PREFIX}INITIALIZATION=random."
        if path is not None:
            official = checksum in (None, artifacts.digest(path, "md5"))
            remark = "" if official else f"{file} differs from Keras's official file"
            available[name] = Weights("imagenet", path, artifacts.digest(path), remark)
        elif card.is_file() and artifacts.read_json(card).get("usable_as_initialization"):
            path, remark = card.with_suffix(".npz"), "released by this project; see models/released"
            available[name] = Weights("released", path, artifacts.digest(path), remark)
        elif config.source == "phantoms":
            available[name] = Weights("random", provenance=why)
        else:
            missing[name] = why
    if missing and (not available or "backbones" in config.model_fields_set):
        raise InputError(" ".join(f"{name}: {why}" for name, why in missing.items()))
    return available, missing


def _weights_file(backbone: Backbone, folders: list[Path]) -> Path | None:
    """The weights file without top: as registered, or else one named after the backbone."""
    own = re.compile(re.escape(backbone.weights_file) or rf"{backbone.name}(?!v\d).*notop", re.I)
    for path in (path for folder in folders for path in sorted(folder.glob("*.h5"))):
        if own.search(path.name if backbone.weights_file else re.sub(r"[\W_]", "", path.name)):
            return path
    return None


def resolve_precision(setting: str) -> str:
    """`setting`, or for "auto" the fastest precision that this hardware supports.

    GPU: mixed_bfloat16 from compute capability 8 (Ampere), mixed_float16 from 7 (Volta). CPU with
    bfloat16 instructions, unless ONEDNN_MAX_CPU_ISA rules them out: graph_bfloat16, TensorFlow's
    oneDNN graph rewrite. Otherwise float32.
    """
    import keras

    graph = "graph_bfloat16" if keras.backend.backend() == "tensorflow" else "float32"
    if setting != "auto":
        return graph if setting == "graph_bfloat16" else setting
    if _has_gpu():
        capability = float(next(iter(_nvidia("compute_cap")), 0))
        half = "mixed_float16" if capability >= 7 else "float32"
        return "mixed_bfloat16" if capability >= 8 else half
    bfloat16 = {"avx512_bf16", "amx_bf16"} & set(_processor("flags").split())
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or "ALL"
    unlimited = re.search("DEFAULT|ALL|BF16|FP16|AMX", limit.upper())
    return graph if bfloat16 and unlimited else "float32"


def apply_precision(precision: str) -> None:
    """Set the precision of models built from now on; `clear_session` resets it."""
    import keras

    rewrite = precision == "graph_bfloat16"
    keras.config.set_image_data_format("channels_last")  # keras.json may set others
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32" if rewrite else precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        options = {"auto_mixed_precision_onednn_bfloat16": rewrite}
        tensorflow.config.optimizer.set_experimental_options(options)


def hardware() -> str:
    """The name of the GPU, or else of the processor."""
    return next(iter(_nvidia("name")), "GPU") if _has_gpu() else _processor("model name") or "CPU"


def gpus() -> list[str]:
    """Numbers or UUIDs of the NVIDIA GPUs in CUDA_VISIBLE_DEVICES if it is set, or else of all."""
    if DEVICES in os.environ:
        return re.findall(r"[^\s,]+", os.environ[DEVICES])
    return [name for name in _nvidia("uuid") if name.startswith("GPU-")]


def environment() -> dict[str, str]:
    """The environment variables for a subprocess that uses this package with Keras."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONIOENCODING": "utf-8:replace", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return DEFAULTS | dict(os.environ) | own | {"PYTHONPATH": os.pathsep.join(paths)}


def import_keras() -> ModuleType:
    """Keras for the notebook: quiet, and on the CPU, because training jobs need the GPU memory."""
    for name, value in (DEFAULTS | {"TF_CPP_MIN_LOG_LEVEL": "3"}).items():
        os.environ.setdefault(name, value)
    from IPython import get_ipython

    with quiet():
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow

            tensorflow.config.set_visible_devices([], "GPU")
            tensorflow.get_logger().setLevel("ERROR")  # or each further model gives a warning
        apply_precision("float32")
    if shell := get_ipython():
        shell.set_custom_exc((KeyboardInterrupt,), _show_interruption)
    return keras


def _show_interruption(shell: Any, kind: type, error: Any, trace: Any, tb_offset: int) -> None:
    """One line instead of the traceback of an interrupted cell."""
    line = f"{kind.__name__}: {str(error) or 'the cell was interrupted; run it again'}"
    error._render_traceback_ = lambda: [line]
    shell.showtraceback((kind, error, trace), tb_offset=tb_offset)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Redirect file descriptor 2: TensorFlow's C++ logging bypasses `sys.stderr`."""
    with Path(os.devnull).open("wb") as nowhere:
        original = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def _has_gpu() -> bool:
    import keras

    return any(name.lower().startswith("gpu") for name in keras.distribution.list_devices())


def _nvidia(field: str) -> list[str]:
    """A field of nvidia-smi for each GPU; empty where it is missing, fails or hangs."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    options = {"capture_output": True, "text": True, "check": True, "timeout": NVIDIA_TIMEOUT}
    try:
        return subprocess.run(command, **options).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def _processor(field: str) -> str:
    """A field of Linux's /proc/cpuinfo; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    match = re.search(rf"^{field}\s*: (.*)$", path.read_text(), re.M) if path.is_file() else None
    return match[1] if match else ""
