"""Every test starts without FRACTURE_* variables, in an empty working folder of its own."""

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
