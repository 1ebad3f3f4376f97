"""Networks with folded normalisation, and the arithmetic that was measured to be the faster one."""

import json
import time

import keras
import numpy as np
import pytest

from fracture_utils.config import Config
from fracture_utils.models import backbones, classifier, folding, precision, speed
from fracture_utils.models.backbones import REGISTRY, Weights

RELEASED = Weights("released", backbones.RELEASED_DIR / "MobileNet.npz")
RNG = np.random.default_rng(0)


def lived_in(network):
    """A network whose normalisations have numbers of their own, as after a training."""
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RNG.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


def random_body(name):
    config = Config(image_size=REGISTRY[name].smallest_size)
    return lived_in(classifier.body(REGISTRY[name], Weights("random"), config, "float32"))


@pytest.mark.parametrize(
    ("name", "left"),
    # DenseNet normalises what it has concatenated: those cannot be multiplied into a convolution.
    [
        *[("DenseNet121", 62), ("ResNet50", 0), ("VGG16", 0), ("MobileNet", 0)],
        *[("InceptionV3", 0), ("Xception", 0)],
    ],
)
def test_a_folded_network_says_the_same_without_its_normalisations(name, left):
    body = random_body(name)
    quick = folding.folded(body)
    kinds = [isinstance(layer, keras.layers.BatchNormalization) for layer in quick.layers]
    assert sum(kinds) == left
    pictures = RNG.uniform(0, 255, (2, *body.input.shape[1:])).astype(np.float32)
    before, after = body.predict_on_batch(pictures), quick.predict_on_batch(pictures)
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_what_is_not_folded_is_shared_and_the_network_stays_as_it_was():
    body = random_body("MobileNet")
    kept = [np.array(w) for w in body.get_weights()]
    layers = [layer.name for layer in body.layers]
    head = classifier.with_head(body, "evidence", Config(image_size=32))
    quick = folding.folded(head)
    assert [layer.name for layer in body.layers] == layers
    assert all(map(np.array_equal, kept, body.get_weights()))
    assert quick.get_layer("logit") is head.get_layer("logit")
    picture = RNG.uniform(0, 255, (1, 32, 32, 1)).astype(np.float32)
    head.get_layer("logit").offset.assign(7.0)
    expected = head.predict_on_batch(picture)
    assert quick.predict_on_batch(picture) == pytest.approx(expected, abs=1e-3)


def test_a_normalisation_that_is_not_alone_behind_a_convolution_stays():
    def network(use_bias, scale, twice, activation=None):
        inputs = keras.Input((6, 6, 2))
        made = keras.layers.Conv2D(3, 3, use_bias=use_bias, activation=activation)(inputs)
        normal = keras.layers.BatchNormalization(scale=scale, center=use_bias)(made)
        return lived_in(keras.Model(inputs, [normal, made] if twice else normal))

    batch = RNG.normal(size=(4, 6, 6, 2)).astype(np.float32)
    for use_bias, scale in [(True, True), (True, False), (False, True)]:
        model = network(use_bias, scale, twice=False)
        model.layers[1].set_weights([RNG.normal(size=w.shape) for w in model.layers[1].weights])
        quick = folding.folded(model)
        assert len(quick.layers) == 2
        expected = model.predict_on_batch(batch)
        np.testing.assert_allclose(quick.predict_on_batch(batch), expected, rtol=1e-4, atol=1e-5)
    assert len(folding.folded(network(True, True, twice=True)).layers) == 3
    assert len(folding.folded(network(True, True, twice=False, activation="relu")).layers) == 3


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A processor with 16 bits whose passes take the seconds of `taken`; which were measured."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow's graph has 16 bits on a processor")
    taken, asked = {"float32": 1.0, "graph_bfloat16": 0.5}, []
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(precision, "_has", lambda kind: False)
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(speed, "_seconds", lambda _, way: (asked.append(way), taken[way])[1])
    yield taken, asked
    precision.apply("float32")


def test_the_faster_arithmetic_is_measured_once_a_network_size_and_machine(
    measured, monkeypatch, tmp_path
):
    taken, asked = measured
    body, config = random_body("MobileNet"), Config()
    assert speed.arithmetic(body, config, tmp_path / "one") == "graph_bfloat16"
    assert asked == ["float32", "graph_bfloat16"]
    taken["graph_bfloat16"] = 2.0
    assert speed.arithmetic(body, config, tmp_path / "other") == "graph_bfloat16"
    assert len(asked) == 2, "measured again though it is known"
    monkeypatch.setattr(precision, "hardware", lambda: "another processor")
    assert speed.arithmetic(body, config, tmp_path / "one") == "float32"
    assert len(asked) == 4
    known = json.loads((backbones.keras_cache().parent / "fracture_utils/speed.json").read_text())
    assert [row["graph_bfloat16"] for row in known.values()] == [0.5, 2.0]
    assert all("MobileNet at 32 px on " in key for key in known)


def test_a_job_goes_on_in_the_arithmetic_in_which_it_began(measured, tmp_path):
    taken, asked = measured
    body, home = random_body("MobileNet"), backbones.keras_cache().parent / "fracture_utils"
    assert speed.arithmetic(body, Config(), tmp_path / "job") == "graph_bfloat16"
    (home / "speed.json").unlink()
    taken["graph_bfloat16"] = 2.0
    assert speed.arithmetic(body, Config(), tmp_path / "job") == "graph_bfloat16"
    assert len(asked) == 2
    assert (home / "speed.json").is_file(), "what is known there is known for others"


def test_a_setting_is_obeyed_without_a_measurement(measured, tmp_path):
    body, asked = random_body("MobileNet"), measured[1]
    for setting in ("float32", "graph_bfloat16"):
        assert speed.arithmetic(body, Config(precision=setting), tmp_path) == setting
    assert not asked


@pytest.mark.parametrize("content", ["{cut short", "null", "[1]", '{"a": 1}', "\x00"])
def test_a_damaged_file_costs_a_measurement_and_no_more(measured, tmp_path, content):
    body, asked = random_body("MobileNet"), measured[1]
    path = backbones.keras_cache().parent / "fracture_utils" / "speed.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert speed.arithmetic(body, Config(), tmp_path / "one") == "graph_bfloat16"
    assert len(asked) == 2
    assert speed.arithmetic(body, Config(), tmp_path / "other") == "graph_bfloat16"
    assert len(asked) == 2, "the damaged file was not replaced"


def test_a_home_that_cannot_be_written_costs_a_measurement_and_no_more(measured, tmp_path):
    body, asked = random_body("MobileNet"), measured[1]
    backbones.keras_cache().parent.mkdir(parents=True)
    (backbones.keras_cache().parent / "fracture_utils").write_text("a file, no folder")
    assert speed.arithmetic(body, Config(), tmp_path / "job") == "graph_bfloat16"
    assert len(asked) == 2


def test_sixteen_bits_change_a_folded_network_no_more_than_another():
    """Of the released MobileNet, in mixed_bfloat16, which every processor can."""

    def pooled(arithmetic, change=lambda network: network):
        body = classifier.body(REGISTRY["MobileNet"], RELEASED, Config(image_size=96), arithmetic)
        return np.asarray(change(body).predict_on_batch(pictures)[-1], np.float32)

    pictures = np.random.default_rng(0).uniform(0, 255, (8, 96, 96, 1)).astype(np.float32)
    exact = pooled("float32")
    plain, quick = (
        float(np.sqrt(np.square(coarse - exact).mean()) / exact.std())
        for coarse in (pooled("mixed_bfloat16"), pooled("mixed_bfloat16", folding.folded))
    )
    precision.apply("float32")
    assert 1e-3 < plain < 0.1, "so much is lost by 16 bits themselves"
    assert quick < 1.3 * plain


def test_the_seconds_are_those_of_a_pass_in_that_arithmetic(monkeypatch):
    applied, real = [], precision.apply
    monkeypatch.setattr(precision, "apply", lambda way: (applied.append(way), real(way)))
    started = time.perf_counter()
    seconds = speed._seconds(random_body("MobileNet"), "float32")
    assert applied == ["float32", "float32"]  # as the body was built, and as it was measured
    assert 0 < speed.PICTURES * seconds < time.perf_counter() - started
