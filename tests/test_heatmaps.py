"""Heat maps: equal to Grad-CAM, consistent with the logit, and changed by randomized weights."""

import keras
import numpy as np
import pytest

from fracture_utils.config import Config
from fracture_utils.data.generators import ImageBatches
from fracture_utils.models import builder, heatmaps

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 64, 64)).astype(np.uint8)
IMAGES = PIXELS[..., None].astype(np.float32)
ROWS, LABELS = np.arange(20), np.zeros(20)
CONFIG = Config(source="phantoms", batch_size=8)
BATCHES = ImageBatches(PIXELS, LABELS, ROWS, CONFIG)


def normalized(head):
    """MobileNet with normalized random weights; its last feature maps have 2 x 2 cells."""
    model = builder.build("MobileNet", head, size=64)
    builder.adapt_normalization(model, IMAGES)
    return model


@pytest.fixture(scope="module")
def model():
    built = normalized("pooled")
    kernel = RANDOM.normal(size=1024).astype(np.float32)
    built.get_layer("logit").set_weights([kernel, np.float32(0.3)])
    return built


@pytest.fixture(scope="module")
def outputs(model):
    return heatmaps.explain(model).predict(BATCHES, verbose=0)


def test_the_mean_of_a_map_is_the_logit(model, outputs):
    logits = model.predict(IMAGES, verbose=0)[:, 0]
    np.testing.assert_allclose(outputs[0][:, 0], logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs[1].mean((1, 2)), logits, rtol=1e-4, atol=1e-4)
    assert outputs[2].shape == (20, 512)  # the channels of the early feature maps


@pytest.mark.parametrize("name", ["MobileNet", "InceptionV3"])
def test_the_features_of_the_warning_are_those_that_are_cached(name):
    body = builder.build_body(name, 160)
    builder.adapt_normalization(body, RANDOM.uniform(0, 255, (8, 160, 160, 1)).astype(np.float32))
    image = RANDOM.uniform(0, 255, (1, 160, 160, 1)).astype(np.float32)
    explained = heatmaps.explain(builder.add_head(body, "pooled"))
    ours, cached = (keras.ops.convert_to_numpy(model(image)[2]) for model in (explained, body))
    assert ours.std() > 0
    np.testing.assert_allclose(ours, cached, rtol=1e-5, atol=1e-6)


def test_a_map_is_grad_cam_without_relu(model, outputs):
    """Selvaraju et al. (2017), equations 1 and 2, by automatic differentiation."""
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    maps = keras.Model(model.input, model.get_layer("feature_maps").output)
    maps = tensorflow.convert_to_tensor(maps.predict(IMAGES, verbose=0))
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        logits = model.get_layer("logit")(model.get_layer("pooled")(maps))
    importance = tape.gradient(logits, maps).numpy().mean((1, 2), keepdims=True)
    cells = maps.shape[1] * maps.shape[2]  # their 1/Z, which the pooling contains
    gradient_form = (importance * maps.numpy()).sum(-1) * cells
    np.testing.assert_allclose(outputs[1] - 0.3, gradient_form, rtol=1e-4, atol=1e-4)


def test_a_localization_map_has_the_unit_of_the_logit_and_no_peak_in_the_padding():
    model = normalized("localization")
    images = IMAGES * (np.arange(64) >= 32)[:, None]  # the left half is padding
    logit = model.get_layer("logit")
    logit.set_weights([np.float32(2), np.float32(-1)])
    logits, maps, _ = heatmaps.explain(model).predict(images, verbose=0)
    columns = maps.shape[2] // 2
    assert (maps[..., :columns] <= maps[..., columns:].max((1, 2), keepdims=True)).all()
    shown = maps[..., columns:]
    np.testing.assert_allclose(maps[..., :columns].std((1, 2)), 0, atol=1e-4)
    pooled = 2 * np.log(np.exp((shown + 1) / 2).sum((1, 2))) - 1
    np.testing.assert_allclose(pooled, logits[:, 0], rtol=1e-3, atol=1e-3)


def test_randomized_weights_change_the_map_and_are_restored(model, outputs, monkeypatch):
    explained, before = heatmaps.explain(model), model.get_weights()
    correlation = heatmaps.randomized_correlation(explained, PIXELS, ROWS, CONFIG.seed)
    assert abs(correlation) < 0.6
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    _, again, _ = explained.predict(BATCHES, verbose=0)
    np.testing.assert_allclose(again, outputs[1], rtol=1e-4, atol=1e-4)
    constant = np.ones((16, 1)), np.ones((16, 3, 3)), None
    monkeypatch.setattr(keras.Model, "__call__", lambda *_, **__: constant)
    assert heatmaps.randomized_correlation(explained, PIXELS, ROWS, CONFIG.seed) == 0


def test_the_padding_of_two_maps_does_not_count_as_agreement(model, monkeypatch):
    """It has the lowest value in both; most of a radiograph's square may be padding."""
    pixels, maps = PIXELS.copy(), RANDOM.normal(size=(2, 16, 8, 8))
    pixels[:, 16:], maps[:, :, 2:] = 0, maps.min()
    given, explained = iter(maps), heatmaps.explain(model)
    monkeypatch.setattr(keras.Model, "__call__", lambda *_, **__: (None, next(given), None))
    correlation = heatmaps.randomized_correlation(explained, pixels, ROWS, CONFIG.seed)
    assert abs(correlation) < 0.3
