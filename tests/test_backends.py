"""Trained on JAX, a model gives the same predictions on TensorFlow.

Skipped where JAX is not installed; `.ci/backends` installs it.
"""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
import runs

from fracture_utils import artifacts
from fracture_utils.config import OUT_OF_FOLD
from fracture_utils.data import dataset
from fracture_utils.data.generators import ImageBatches
from fracture_utils.models import backbones, builder, heatmaps, model_cards
from fracture_utils.models.backbones import Weights

WEIGHTS = Weights("released", backbones.RELEASED_DIR / "MobileNet.npz")
RUNS = {
    "frozen": {"fine_tune_epochs": 0, "head": "pooled", "disk_limit": 0.0},
    "folds": {"fine_tune_epochs": 0, "head": "localization"},
    "tuned": {"fine_tune_epochs": 1, "head": "localization"},
}
"""Without cached maps the predictions of a frozen body come from images, in float32."""

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compares with TensorFlow in this process"
)


@pytest.mark.parametrize("run", RUNS)
def test_a_model_of_another_backend_gives_the_same_predictions(tmp_path, monkeypatch, run):
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed; .ci/backends installs it")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(backbones, "find_weights", lambda config: ({"MobileNet": WEIGHTS}, {}))
    config = runs.small(tmp_path, **RUNS[run])
    trained = runs.train(config)
    card = artifacts.read_json(config.cache_dir / "models" / "MobileNet" / "network.json")
    assert card["keras"] == f"{keras.__version__} on jax"
    stages = trained.history["stage"].value_counts()
    assert stages.get("fine_tune", 0) == config.fine_tune_epochs

    model = model_cards.load("MobileNet", card, config.models_dir)
    assert builder.head_of(model) == RUNS[run]["head"]
    pixels, row_of = dataset.pixels(config.cache_dir, 64)
    own = trained.predictions[trained.predictions["split"] != OUT_OF_FOLD]  # of other heads
    rows = np.array([row_of[path] for path in own["path"]])
    batches = ImageBatches(pixels, np.zeros(len(pixels)), rows, config)
    logits, heat_maps, _ = heatmaps.explain(model).predict(batches, verbose=0)
    assert logits.std() > 0.01
    close = 3e-3 if run == "folds" else 1e-4  # from cached maps in 16 bits
    np.testing.assert_allclose(own["logit"], logits[:, 0], rtol=close, atol=close)
    stored = np.load(config.cache_dir / "models" / "MobileNet" / "heatmaps.npy")
    np.testing.assert_allclose(stored, heat_maps, rtol=10 * close, atol=10 * close)
    tested = trained.predictions.query("split == 'test'")["path"]
    assert list(trained.heat_maps["MobileNet"]) == list(tested)


def test_all_of_the_model_code_is_free_of_tensorflow():
    """Only the graph rewrite and the choice of devices are TensorFlow's."""
    for module in ("builder", "features", "training", "heatmaps", "jobs"):
        path = Path(backbones.__file__).with_name(f"{module}.py")
        assert "import tensorflow" not in path.read_text(encoding="utf-8")
