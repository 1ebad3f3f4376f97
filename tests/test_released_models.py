"""The released models: whole, small enough, and answering what they answered when they were made.

The last test is the regression test of the whole pipeline, from pixels to probabilities.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.data import phantoms, reader
from fracture_utils.models import cards, classifier, heatmaps, precision
from fracture_utils.models.backbones import RELEASED_DIR, Weights
from fracture_utils.networks import REGISTRY
from fracture_utils.predict import Panel, answer

CASES = Path(__file__).parent / "cases"
FRACATLAS = Path(__file__).parents[2] / "shared" / "data" / "fracatlas"
RELEASED = Config(source="pictures", models_dir=RELEASED_DIR)


def test_the_files_are_whole_small_and_say_where_they_come_from():
    known, together = cards.read(RELEASED)
    assert (list(known), together) == (["DenseNet121"], None)  # the chosen one answers alone
    described = {name: files.read_json(RELEASED_DIR / f"{name}.json") for name in REGISTRY}
    sizes = [path.stat().st_size for path in RELEASED_DIR.iterdir()]
    assert sum(sizes) < 100e6
    assert max(sizes) < 45e6
    for name, card in described.items():
        assert card["weights_sha256"] == files.sha256(RELEASED_DIR / f"{name}.npz")
        said = card["released"]
        assert "doi:10.1038/s41597-023-02432-4" in said["attribution"]
        assert "Never diagnosis" in said["intended_use"]
        assert said["limits"]
        assert abs(said["eight_bits"]["change_of_auc"]) <= 0.002
        assert said["test"]["auc_low"] < said["test"]["auc"] < said["test"]["auc_high"]


@pytest.mark.parametrize("name", ["MobileNet", "DenseNet121"])
def test_a_body_for_training_is_the_body_that_answers(name):
    model, card = cards.load(name, RELEASED)
    config = RELEASED.model_copy(update={"image_size": card["input_size"]})
    first = Weights("released", RELEASED_DIR / f"{name}.npz")
    body = classifier.body(REGISTRY[name], first, config, "float32")
    for layer in (layer for layer in body.layers if layer.weights):
        for one, other in zip(
            layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
        ):
            assert np.array_equal(one, other)


def test_phantoms_get_the_probabilities_that_they_got(tmp_path, monkeypatch):
    """In float32, because 16 bits, where a processor has them, change them by up to 0.03."""
    monkeypatch.setattr(precision, "resolve", lambda _: "float32")
    expected = json.loads((CASES / "released_phantoms.json").read_text())
    phantoms.make(tmp_path / "phantoms", 48, 128, seed=7)
    paths = [tmp_path / "phantoms" / path for path in expected["paths"]]
    config = Config(models_dir=tmp_path / "none", results_dir=tmp_path / "results")
    table, problems = answer(paths, Panel(config), draw=False)
    assert not problems
    for model, probabilities in expected["probabilities"].items():
        found = table.loc[table["model"] == model, "probability"]
        np.testing.assert_allclose(found, probabilities, atol=2e-3)
    assert set(table["model"]) == set(expected["probabilities"])


@pytest.mark.skipif(not FRACATLAS.is_dir(), reason="the radiographs of FracAtlas are not here")
def test_fracatlas_gets_the_scores_that_the_card_tells():
    model, card = cards.load("MobileNet", RELEASED)
    paths = sorted((FRACATLAS / "test").rglob("*.jpg"))
    size, aspect = card["input_size"], card["aspect"]
    squares = np.stack([reader.fit(reader.read(path), size, aspect) for path in paths])
    seen = heatmaps.look(heatmaps.explaining(model), squares, np.arange(len(paths)), RELEASED)
    labels = [path.parent.name == "fractured" for path in paths]
    assert len(paths) == card["released"]["test"].get("n", 432)
    told = card["released"]["test"]["auc"]
    assert roc_auc_score(labels, seen.logits) == pytest.approx(told, abs=0.002)
