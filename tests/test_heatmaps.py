"""Heat maps: equal to Grad-CAM, in place on the picture, and gone when the weights are."""

import keras
import numpy as np
import pandas as pd
import pytest

from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.models import classifier, familiarity, heatmaps
from fracture_utils.models.backbones import REGISTRY, Weights

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (20, 64, 64)).astype(np.uint8)
CONFIG = Config(
    source="phantoms", image_size=64, batch_size=8, initialisation="random", precision="float32"
)


@pytest.fixture(scope="module")
def model():
    """MobileNet with normalised random weights and a random head; its maps have 2 x 2 places."""
    built = classifier.build(REGISTRY["MobileNet"], Weights("random"), CONFIG, "float32")
    classifier.adapt_normalisation(built, [PIXELS[..., None].astype(np.float32)])
    kernel = RANDOM.normal(size=1024).astype(np.float32)
    built.get_layer("logit").set_weights([kernel, np.float32(0.3)])
    return built


@pytest.fixture(scope="module")
def seen(model):
    return heatmaps.look(heatmaps.explaining(model), PIXELS, np.arange(20), CONFIG)


def test_the_mean_of_a_map_and_the_bias_are_the_logit(model, seen):
    logits = model.predict(PIXELS[..., None].astype(np.float32), verbose=0)[:, 0]
    np.testing.assert_allclose(seen.logits, logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.maps.mean((1, 2)) + 0.3, logits, rtol=1e-4, atol=1e-4)
    assert seen.features.shape == (20, 1024)


def test_features_are_held_of_the_rows_that_are_compared(model, seen, monkeypatch):
    """And what is made in parts is what is made at once."""
    monkeypatch.setattr(heatmaps, "AT_ONCE", 1)
    compared = np.array([2, 9, 17])
    parts = heatmaps.look(heatmaps.explaining(model), PIXELS, np.arange(20), CONFIG, compared)
    np.testing.assert_array_equal(parts.logits, seen.logits)
    np.testing.assert_array_equal(parts.maps, seen.maps)
    np.testing.assert_array_equal(parts.features, seen.features[compared])


def test_a_map_is_grad_cam_without_relu(model, seen):
    """Selvaraju et al. (2017), equations 1 and 2, by automatic differentiation."""
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    maps = tensorflow.convert_to_tensor(
        keras.Model(model.input, model.get_layer("maps").output).predict(
            PIXELS[..., None].astype(np.float32), verbose=0
        )
    )
    with tensorflow.GradientTape() as tape:
        tape.watch(maps)
        x = model.get_layer("pooled")(maps)
        logits = model.get_layer("logit")(model.get_layer("dropout")(x, training=False))
    importance = tape.gradient(logits, maps).numpy().mean((1, 2), keepdims=True)
    places = maps.shape[1] * maps.shape[2]
    gradient_form = (importance * maps.numpy()).sum(-1) * places  # their 1/Z, which pooling holds
    np.testing.assert_allclose(seen.maps, gradient_form, rtol=1e-4, atol=1e-4)


def test_randomised_weights_destroy_the_map_and_come_back(model, seen):
    explained = heatmaps.explaining(model)
    before = model.get_weights()
    rows = np.arange(20)
    found = heatmaps.randomised_correlation(explained, REGISTRY["MobileNet"], PIXELS, rows, CONFIG)
    assert abs(found) < 0.6
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    again = heatmaps.look(explained, PIXELS, np.arange(3), CONFIG)
    np.testing.assert_allclose(again.maps, seen.maps[:3], rtol=1e-4, atol=1e-4)
    assert heatmaps._correlation(seen.maps[0], 2 * seen.maps[0] + 1) == pytest.approx(1, abs=1e-5)
    assert heatmaps._correlation(np.ones((2, 2)), seen.maps[0]) == 0


@pytest.mark.parametrize("aspect", ["pad", "squash"])
@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64), (333, 500)])
def test_what_fit_puts_into_the_square_unfit_finds_on_the_picture(aspect, shape):
    size = 96
    picture = np.zeros(shape, np.uint8)
    top, left = int(0.6 * shape[0]), int(0.2 * shape[1])
    bottom, right = int(0.9 * shape[0]), int(0.5 * shape[1])
    picture[top:bottom, left:right] = 200
    on_picture = reader.unfit(reader.fit(picture, size, aspect), shape, size, aspect) > 100
    rows, columns = np.flatnonzero(on_picture.any(1)), np.flatnonzero(on_picture.any(0))
    cell = reader.GRID
    assert rows[0] / cell == pytest.approx(top / shape[0], abs=0.04)
    assert (rows[-1] + 1) / cell == pytest.approx(bottom / shape[0], abs=0.04)
    assert columns[0] / cell == pytest.approx(left / shape[1], abs=0.04)
    assert (columns[-1] + 1) / cell == pytest.approx(right / shape[1], abs=0.04)
    place = reader.frame(shape, size, aspect)
    assert all(0 <= side <= size for side in place)
    assert max(place[2:]) == size


def xray(random, size=64):
    """A bright bar with a soft edge on black, somewhere."""
    x = np.linspace(-1, 1, size)
    bar = 180 * np.exp(-(((x - random.uniform(-0.3, 0.3)) / 0.3) ** 4))
    return (bar + random.normal(0, 5, (size, size))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def known(tmp_path):
    """The description of forty bars, two a group; the features tell how bright the sides are."""
    random = np.random.default_rng(1)
    squares = np.array([xray(random) for _ in range(40)])
    images = pd.DataFrame({"group": [f"g{k // 2}" for k in range(40)]})
    images = images.assign(width="300", height=[str(300 + k) for k in range(40)])
    features = squares.reshape(40, -1)[:, ::97] + 1.0
    familiarity.save(tmp_path / "known.npz", squares, features, images)
    return familiarity.read(tmp_path / "known.npz")


def test_a_photograph_is_unlike_x_rays_and_an_x_ray_is_not(known):
    random = np.random.default_rng(2)
    normal = np.array([xray(random) for _ in range(100)])
    photograph = random.integers(90, 200, (1, 64, 64)).astype(np.uint8)
    squares = np.concatenate([normal, photograph])
    features = squares.reshape(101, -1)[:, ::97] + 1.0
    found = familiarity.unfamiliar(known, squares, features, np.tile([310, 300], (101, 1)))
    assert found[-1] == "grey levels, content"
    assert sum(map(bool, found[:-1])) < 15
    odd = familiarity.unfamiliar(known, squares[:2], features[:2], [[3000, 3000], [310, 600]])
    assert [text.split(",")[0] for text in odd] == ["size", "aspect ratio"]


@pytest.mark.parametrize(("groups", "of", "rate"), [(300, 1, 0.01), (40, 3, 1 / 41), (4, 2, 0.2)])
def test_ordinary_pictures_are_warned_of_as_often_as_is_said(tmp_path, groups, of, rate):
    """All checks together, on pictures of patients who were not seen before; and where the known
    ones are few, a photograph is still found out.
    """
    target, share, found = tmp_path / "known.npz", [], []
    for run in range(25 if groups > 40 else 60):
        random = np.random.default_rng(run)

        def draw(patients, each, random=random):
            middle = random.normal(0, 1, (patients, 1, 6))
            features = (middle + random.normal(0, 0.5, (patients, each, 6))).reshape(-1, 6) + 3
            bright = 100 + 10 * middle[..., :1, None]
            squares = random.normal(bright, 30, (patients, each, 8, 8))
            squares = squares.clip(0, 255).astype(np.uint8).reshape(-1, 8, 8)
            sides = random.lognormal(6, 0.2, (len(squares), 2))
            return squares, features, sides

        squares, features, sides = draw(groups, of)
        images = pd.DataFrame({"group": np.repeat(np.arange(groups), of)})
        images = images.assign(height=sides[:, 0], width=sides[:, 1])
        familiarity.save(target, squares, features, images)
        known = familiarity.read(target)
        assert familiarity.rate(known) == pytest.approx(max(0.01, rate))
        share.append(np.mean([bool(x) for x in familiarity.unfamiliar(known, *draw(100, 1))]))
        strange = familiarity.unfamiliar(known, squares[:1] * 0 + 255, -features[:1], sides[:1])
        found.append(strange[0])
    assert (
        np.mean(share) < (1.5 if groups < 10 else 1.25) * rate
    )  # scales from 8 pictures are rough
    assert np.mean(share) > 0.3 * rate
    assert set(found) == {"grey levels, content"}


def test_of_many_known_pictures_some_are_chosen_in_order_and_of_few_all():
    many = familiarity.chosen(10_000, 0)
    assert len(many) == familiarity.LARGEST
    assert (np.diff(many) > 0).all()
    np.testing.assert_array_equal(familiarity.chosen(30, 0), np.arange(30))


def test_a_single_known_picture_tells_nothing(tmp_path):
    images = pd.DataFrame({"group": ["a"], "height": [10], "width": [10]})
    squares, features = np.zeros((1, 8, 8), np.uint8), np.ones((1, 3))
    familiarity.save(tmp_path / "known.npz", squares, features, images)
    known = familiarity.read(tmp_path / "known.npz")
    odd = familiarity.unfamiliar(known, squares + 200, -features, [[900, 10]])
    assert odd == [""]
