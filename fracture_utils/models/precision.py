"""Arithmetic by hardware, and the only lines that TensorFlow alone understands."""

from pathlib import Path

import keras

from fracture_utils.config import PREFIX
from fracture_utils.errors import InputError
from fracture_utils.models.process import ask_nvidia


def resolve(setting: str) -> str:
    """The precision to use: `setting` itself, or for "auto" what this hardware does fastest.

    GPU: mixed_bfloat16 from compute capability 8 (Ampere), mixed_float16 from 7 (Volta), else
    float32. TPU: mixed_bfloat16. CPU: with bfloat16 instructions and TensorFlow graph_bfloat16,
    its oneDNN graph rewrite (measured by benchmarks/precision.py), else float32. Never float16
    on a CPU, where it is several times slower.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if setting == "graph_bfloat16" and not on_tensorflow:
        raise InputError(
            f"The precision graph_bfloat16 exists in TensorFlow only, and the Keras backend is "
            f"{keras.backend.backend()}; set {PREFIX}PRECISION=auto."
        )
    if setting != "auto":
        return setting
    if _has("tpu"):
        return "mixed_bfloat16"
    if _has("gpu"):
        capability = _compute_capability()
        if capability >= 8:
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= 7 else "float32"
    return "graph_bfloat16" if on_tensorflow and _cpu_has_bfloat16() else "float32"


def apply(precision: str) -> None:
    """Make `precision` hold for the models built from now on in this process, and channels come
    last, whatever keras.json says.

    Called where a model is built, because `keras.utils.clear_session()` forgets it.
    """
    graph_rewrite = precision == "graph_bfloat16"
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32" if graph_rewrite else precision)
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.optimizer.set_experimental_options(
            {"auto_mixed_precision_onednn_bfloat16": graph_rewrite}
        )


def keep_to_processor() -> None:
    """Leave the graphics card alone in this process: the networks train in others, and TensorFlow
    takes all of its memory at the first touch.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.set_visible_devices([], "GPU")


def compile_ahead() -> bool | str:
    """Keras's `jit_compile`: left to Keras, but off for TensorFlow on a CPU.

    There XLA makes depthwise convolutions about ten times slower.
    """
    on_cpu = not (_has("gpu") or _has("tpu"))
    return False if on_cpu and keras.backend.backend() == "tensorflow" else "auto"


def hardware() -> str:
    """The accelerator, or else the processor, in words."""
    if _has("gpu"):
        return _of_cards("name") or "GPU"
    if _has("tpu"):
        return "TPU"
    return f"CPU ({_cpu_field('model name') or 'unknown'})"


def _has(kind: str) -> bool:
    """Whether Keras's backend sees a device of a kind. Asked for all devices, because JAX raises
    where it is asked for a kind that is not there, and on PyTorch Keras has no list of them.
    """
    if keras.backend.backend() == "torch":
        import torch

        return kind == "gpu" and torch.cuda.is_available()
    return any(name.lower().startswith(kind) for name in keras.distribution.list_devices())


def _compute_capability() -> float:
    answer = _of_cards("compute_cap")
    return float(answer.splitlines()[0]) if answer else 0.0


def _of_cards(field: str) -> str:
    return ask_nvidia(f"--query-gpu={field}", "--format=csv,noheader")


def _cpu_has_bfloat16() -> bool:
    return bool({"avx512_bf16", "amx_bf16"} & set(_cpu_field("flags").split()))


def _cpu_field(name: str) -> str:
    """A field of Linux's /proc/cpuinfo; empty elsewhere."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
