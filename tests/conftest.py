"""Every test starts without FRACTURE_* variables, in an empty working folder of its own."""

# ruff: noqa: I001
import fracture_utils  # noqa: F401  (first, because it limits the threads of NumPy)

import gc
import os

import hypothesis
import matplotlib
import pytest

matplotlib.use("Agg")
hypothesis.settings.register_profile("unhurried", deadline=None)  # machines here are shared
hypothesis.settings.load_profile("unhurried")


def pytest_collection_finish():
    """Keep imported modules out of garbage collection, which is slow beside Keras."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("FRACTURE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


CAPPED = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")
SIXTEEN_BITS = ("bfloat16", "sixteen_bits", "clear_session", "unless_a_precision_is_named")


LONGEST = ("test_notebook", "test_training", "test_jobs", "test_command_line", "test_features")


def pytest_collection_modifyitems(items):
    """The longest files first, so that no worker waits at the end for the last of them. Where
    oneDNN is limited to instructions without bfloat16, TensorFlow still asks for it.
    """
    items.sort(key=lambda item: item.path.stem not in LONGEST)
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in CAPPED:
        skipped = pytest.mark.skip(reason="ONEDNN_MAX_CPU_ISA leaves oneDNN without bfloat16")
        for item in items:
            if any(part in item.name for part in SIXTEEN_BITS):
                item.add_marker(skipped)
