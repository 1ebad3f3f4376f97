"""Every test starts without FRACTURE_* variables and in an empty working folder of its own."""

import os

import matplotlib
import pytest

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith("FRACTURE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
