"""The released models: complete, small, and with the outputs that they had when they were made.

The golden file was written before the package was rewritten (see golden/README.md).
"""

import json
import shutil
from pathlib import Path

import external
import numpy as np
import pandas as pd
import pytest
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import artifacts
from fracture_utils.__main__ import main
from fracture_utils.config import BACKBONES, Config
from fracture_utils.data import reader
from fracture_utils.data.generators import ImageBatches
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.results import Results
from fracture_utils.models import builder, heatmaps, model_cards, ood
from fracture_utils.models.backbones import RELEASED_DIR, Weights

GOLDEN = Path(__file__).parent / "golden"
EXAMPLE = Path(__file__).parents[1] / "results" / "examples" / "fracatlas"
FRACATLAS = Path(__file__).parents[2] / "shared" / "data" / "fracatlas"
FINE_TUNED = "DenseNet121-fine-tuned"
NAMES = [*BACKBONES, FINE_TUNED]
CARDS = {name: artifacts.read_json(RELEASED_DIR / f"{name}.json") for name in NAMES}
CONFIG = Config(source="phantoms")


def outputs(name, images):
    """Logits, heat maps and OOD warnings of a released model for images, and their rate."""
    size = CARDS[name]["input_size"]
    model = model_cards.load(name, CARDS[name], RELEASED_DIR)
    squares = np.stack([reader.fit(image, size) for image in images])
    batches = ImageBatches(squares, np.zeros(len(squares)), np.arange(len(squares)), CONFIG)
    logits, heat_maps, features = heatmaps.explain(model).predict(batches, verbose=0)
    reference = ood.read(RELEASED_DIR / f"{name}.ood.npz")
    shapes = np.array([image.shape for image in images])
    warnings = ood.warnings(reference, squares, features, shapes)
    return logits[:, 0].astype(float), heat_maps, warnings, ood.rate(reference)


def test_the_files_are_complete_and_small_and_the_cards_state_their_origin():
    assert model_cards.read(RELEASED_DIR) == (CARDS, FINE_TUNED, None)
    record = artifacts.read_json(RELEASED_DIR / "Ensemble.json")
    assert record["members"] == {name: card["weights_sha256"] for name, card in CARDS.items()}
    sizes = [path.stat().st_size for path in RELEASED_DIR.glob("*.*")]
    assert sum(sizes) < 100e6
    assert max(sizes) < 45e6
    for name, card in CARDS.items():
        assert card["weights_sha256"] == artifacts.digest(RELEASED_DIR / f"{name}.npz")
        assert card["model"] in name and card["weights"] == f"{name}.npz"
        assert card["usable_as_initialization"] == (name in BACKBONES)
        released = card["released"]
        assert "doi:10.1038/s41597-023-02432-4" in released["attribution"]
        assert "Never diagnosis" in released["intended_use"]
        assert any("91 of the 93 images" in text for text in released["limitations"])
        assert released["quantization"]["change_in_auc"] >= -0.002
        assert released["test"]["auc_low"] < released["test"]["auc"] < released["test"]["auc_high"]


@pytest.mark.parametrize("name", ["MobileNet", "DenseNet121"])
def test_the_body_as_initial_weights_is_that_of_the_model(name):
    size, weights = CARDS[name]["input_size"], Weights("released", RELEASED_DIR / f"{name}.npz")
    model = model_cards.load(name, CARDS[name], RELEASED_DIR)
    body = builder.build_body(name, size=size, weights=weights)
    for layer in (layer for layer in body.layers if layer.weights):
        pairs = zip(layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_predict_uses_the_model_with_the_highest_auc_on_held_out_images():
    table = pd.read_csv(EXAMPLE / "cross_validation.csv").query("fold == 0").set_index("model")
    held_out = {name: card["released"]["held_out_auc"] for name, card in CARDS.items()}
    assert table["auc"].round(3).to_dict() == {name: held_out[name] for name in BACKBONES}
    history = pd.read_csv(EXAMPLE / "history.csv").query(f"model == '{FINE_TUNED}'")
    assert history["val_auc"].max().round(3) == held_out[FINE_TUNED] == max(held_out.values())


def test_the_fine_tuned_model_states_how_it_was_trained_and_is_no_initialization():
    card = CARDS[FINE_TUNED]
    assert not card["usable_as_initialization"] and card["fine_tune_depth"] == "all"
    assert card["epochs"]["fine_tune"] == 6 and card["boxes"] > 0
    assert card["training"]["images"] + card["validation"]["images"] == 3226
    assert "initial weights" not in card["released"]["intended_use"]


@pytest.mark.parametrize("name", ["MobileNet", FINE_TUNED])
def test_a_labeled_folder_is_scored_with_released_models(name):
    """With all files of a model, where the tests of external tests have a stand-in."""
    for path in RELEASED_DIR.glob(f"{name}.*"):
        Path("models").mkdir(exist_ok=True)
        shutil.copy(path, "models")
    words = ["--models-dir", "models", "--output", "out", "--quick"]
    assert main(["evaluate", external.folder(normal=6, fractured=6), *words]) == 0
    results = Results.load(Path("out"))
    assert results.selected == name and results.run["selected_on"] == "model card"
    assert len(results.predictions) == 12 and len(results.localization) == 1
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize("name", BACKBONES)
def test_golden_outputs(name):
    golden = json.loads((GOLDEN / "released.json").read_text(encoding="utf-8"))
    expected = golden["networks"][name]
    paths = [GOLDEN / "phantoms" / image["file"] for image in golden["pictures"]]
    images = [reader.read(path) for path in paths]
    first = images[[path.name for path in paths].index("fractured_1.png")]
    unusual = [255 - first, first[:, 96:160], np.full((256, 256), 200, np.uint8)]
    noise = np.random.default_rng(0).integers(0, 256, (256, 256), np.uint8)
    found, heat_maps, warnings, rate = outputs(name, [*images, *unusual, noise])
    probability = special.expit(calibration.calibrated(found, CARDS[name]))
    np.testing.assert_allclose(probability[:8], expected["probability"], atol=1e-3)
    logits = [*expected["logit"], *expected["strange"]["logit"]]
    np.testing.assert_allclose(found[:-1], logits, atol=5e-3)
    assert all(warnings[8:])  # altered phantoms and noise resemble no radiograph of FracAtlas
    assert rate == ood.RATE
    assert list(heat_maps[:8].shape) == expected["maps_shape"]
    # Cells without an image in them have the lowest value.
    for heat_map, corner in zip(heat_maps, np.array(expected["maps_corner"]), strict=False):
        inside = heat_map[:4, :4] > heat_map.min() + 1e-4
        pair = [values - values.mean() for values in (heat_map[:4, :4][inside], corner[inside])]
        np.testing.assert_allclose(*(values / values.std() for values in pair), atol=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_warnings_about_images_of_left_out_groups_are_as_rare_as_promised(name, monkeypatch):
    """Of the 600 reference images; a tenth of the groups at a time is left out."""
    reference = ood.read(RELEASED_DIR / f"{name}.ood.npz")
    groups, values = reference["groups"], []
    for check in ood.WEIGHTS:
        center, spread, descriptors = (reference[f"{part}/{check}"] for part in ood.PARTS[:3])
        values.append(descriptors * spread + center)
    fold = np.random.default_rng(0).permutation(groups.max() + 1)[groups] % 10
    monkeypatch.setattr(ood, "_roots", lambda features, xp=np: features)
    warned = np.zeros(len(groups), bool)
    for number in range(10):
        own = fold == number
        statistics, features = (part[~own] for part in values)
        monkeypatch.setattr(ood, "_describe", lambda *_, known=statistics: known)
        images = pd.DataFrame({"group": groups[~own], "height": 1, "width": 1})
        rest = ood.fit(statistics, features, images)
        total = sum(ood.distances(rest, *(part[own] for part in values)))
        warned[own] = total > ood.threshold(rest)
    assert 0.015 < warned.mean() < 0.04


@pytest.mark.slow
@pytest.mark.skipif(not FRACATLAS.is_dir(), reason="the radiographs of FracAtlas are not here")
def test_the_auc_on_fracatlas_is_that_of_the_card():
    paths = sorted((FRACATLAS / "test").rglob("*.jpg"))
    logits, *_ = outputs("MobileNet", [reader.read(path) for path in paths])
    labels = [path.parent.name == "fractured" for path in paths]
    assert len(paths) == 432
    expected = CARDS["MobileNet"]["released"]["test"]["auc"]
    assert roc_auc_score(labels, logits) == pytest.approx(expected, abs=0.002)
