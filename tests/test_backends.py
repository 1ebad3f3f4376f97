"""The package on JAX and on PyTorch: trained there, asked under TensorFlow, the same answer.

Skipped where they are not installed; `.ci/backends` installs them.
"""

import importlib.util

import keras
import numpy as np
import pytest
from radiographs import NO_BOXES, small_run

from fracture_utils import files
from fracture_utils.data import store
from fracture_utils.models import backbones, classifier, heatmaps, jobs
from fracture_utils.models.backbones import REGISTRY, RELEASED_DIR, Weights

SIZED = {"width": 32, "height": 40}
WEIGHTS = Weights("released", RELEASED_DIR / "MobileNet.npz")
RUNS = {
    "frozen": {"fine_tune_epochs": 0, "head": "mean", "maps_limit": 0.0},
    "tuned": {"fine_tune_epochs": 1, "head": "evidence", "place_epochs": 2},
}
"""Without maps what a frozen network says comes from pixels, so in float32."""

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compares with TensorFlow in this process"
)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_trained_there_it_says_the_same_here(data, tmp_path, monkeypatch, backend, run):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; .ci/backends does it")
    monkeypatch.setenv("KERAS_BACKEND", backend)
    monkeypatch.setattr(backbones, "find_weights", lambda config: ({"MobileNet": WEIGHTS}, {}))
    config, images = small_run(data, tmp_path, **RUNS[run]), data[1].assign(**SIZED)
    networks = jobs.train(images, config, NO_BOXES)
    card = files.read_json(jobs.folder_of("MobileNet", config) / "network.json")
    assert card["keras"] == f"{keras.__version__} on {backend}"
    stages = jobs.history(networks, config)["stage"]
    assert stages.value_counts().get("fine_tune", 0) == config.fine_tune_epochs

    model = classifier.build(REGISTRY["MobileNet"], WEIGHTS, config, "float32", card["head"])
    classifier.load(model, config.models_dir / "MobileNet.weights.h5")
    rows = np.flatnonzero(images["split"] != "train")
    here = heatmaps.look(heatmaps.explaining(model), store.pixels(images, config, 32), rows, config)
    there = jobs.predictions(networks, images, config)
    assert here.logits.std() > 0.01
    np.testing.assert_allclose(there["logit"], here.logits, rtol=1e-4, atol=1e-4)
    kept = files.read_arrays(jobs.folder_of("MobileNet", config) / "heatmaps.npz")[1]["maps"]
    np.testing.assert_allclose(kept, here.maps, rtol=1e-3, atol=1e-3)
    assert set(jobs.heatmaps(networks, images, config)["MobileNet"]) == set(
        images.query("split == 'test'")["path"]
    )
