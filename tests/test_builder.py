"""Bodies, heads, losses, freezing and folding."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from fracture_utils import artifacts
from fracture_utils.config import InputError
from fracture_utils.data import generators
from fracture_utils.models import backbones, builder
from fracture_utils.models.backbones import REGISTRY, Weights

EARLY_CHANNELS = {
    "DenseNet121": 1024, "ResNet50": 1024, "VGG16": 512, "MobileNet": 512, "InceptionV3": 768,
    "Xception": 728,
}  # fmt: skip
GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5))
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(0, 255, (12, 64, 64, 1)).astype(np.float32)


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def first_convolution(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


@pytest.fixture(scope="module", params=list(REGISTRY))
def body(request):
    """The body of each backbone at its smallest size, with statistics as after a training."""
    name = request.param
    network = builder.build_body(name, REGISTRY[name].smallest_size)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([RANDOM.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return network


def test_every_backbone_is_one_flat_graph_with_preprocessing(body):
    size = REGISTRY[body.name].smallest_size
    assert not [layer for layer in body.layers if isinstance(layer, keras.Model)]
    assert body.input.shape == (None, size, size, 1)
    assert body.outputs[0].shape[-1] == EARLY_CHANNELS[body.name]  # released models depend on it
    for head in builder.HEADS:
        model = builder.add_head(body, head)
        assert (model.output.shape, model.output.dtype) == ((None, 1), "float32")
        assert builder.head_of(model) == head
        builder.unfreeze(model, "top")
        top = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        builder.unfreeze(model, "all")
        whole = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
        assert 0.1 * whole < top < 0.7 * whole
        normal = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
        assert not any(layer.trainable for layer in normal)


def test_a_head_may_be_given_as_a_function():
    def build_head(pooled):
        hidden = keras.layers.Dense(8, "relu")(pooled)
        return keras.layers.Dense(1, dtype="float32", name="own")(hidden)

    model = builder.build("MobileNet", size=64, build_head=build_head)
    builder.unfreeze(model, "top")
    assert model.output.shape == (None, 1)
    assert model.get_layer("own").count_params() == 9
    assert len(model.get_layer("own").trainable_weights) == 2
    assert "conv_pw_11" not in {la.name for la in model.layers if la.trainable and la.weights}


def test_a_folded_body_is_equal_without_its_normalizations(body):
    """DenseNet normalizes concatenations, which cannot be folded into a convolution."""
    folded = builder.fold_batch_norm(body)
    left = [la for la in folded.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert len(left) == (62 if body.name == "DenseNet121" else 0)
    images = RANDOM.uniform(0, 255, (2, *body.input.shape[1:])).astype(np.float32)
    for expected, output in zip(
        body.predict_on_batch(images), folded.predict_on_batch(images), strict=True
    ):
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(output, expected, rtol=1e-3, atol=atol)


def test_preprocessing_is_in_the_graph_and_leaves_the_input_unchanged():
    batch = np.full((2, 32, 32, 1), 255.0, np.float32)
    body = builder.build_body("MobileNet", 32)
    body.predict(batch, verbose=0)
    assert (batch == 255).all()
    scaled = numpy(keras.Model(body.input, first_convolution(body).input)(batch))
    assert scaled.min() == scaled.max() == 1.0  # MobileNet takes -1 to 1


def test_efficientnet_sees_what_keras_gives_it_with_imagenet_weights(tmp_path, monkeypatch):
    options = {"include_top": False, "input_shape": (64, 64, 3)}
    plain = keras.applications.EfficientNetB0(weights=None, **options)
    normalization = next(la for la in plain.layers if isinstance(la, keras.layers.Normalization))
    values = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0
    normalization.set_weights([np.array(value) for value in values])
    plain.save(tmp_path / "efficientnet.h5")
    from keras.src.applications import efficientnet

    path = tmp_path / "efficientnet.h5"
    monkeypatch.setattr(efficientnet.file_utils, "get_file", lambda *_, **__: str(path))
    keras_own = keras.applications.EfficientNetB0(weights="imagenet", **options)
    body = builder.build_body("EfficientNetB0", 64, Weights("imagenet", path))
    images = [keras.Model(m.input, first_convolution(m).input) for m in (keras_own, body)]
    expected, given = (
        model.predict(batch, verbose=0)
        for model, batch in zip(images, (np.repeat(IMAGES, 3, axis=-1), IMAGES), strict=True)
    )
    assert expected.std() > 0.5
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", builder.HEADS)
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "graph_bfloat16"])
def test_sixteen_bits_do_not_tie_the_logits(precision, head):
    if precision == "graph_bfloat16" and keras.backend.backend() != "tensorflow":
        pytest.skip("the graph rewrite is TensorFlow's")
    images = RANDOM.uniform(0, 255, (60, 64, 64, 1)).astype(np.float32)
    body = builder.build_body("MobileNet", 64, precision=precision)
    builder.adapt_normalization(body, images)
    model = builder.add_head(body, head)
    if head == "pooled":
        kernel = 1e4 * RANDOM.normal(size=1024)
        model.get_layer("logit").set_weights([kernel, np.float32(0)])
    logits = model.predict(images, verbose=0)[:, 0]
    assert not ((logits.view(np.uint32) & 0xFFFF) == 0).all()  # what bfloat16 can represent
    assert len(np.unique(logits)) == len(logits)
    backbones.apply_precision("float32")


def test_mixed_precision_survives_clear_session_and_the_heads_stay_float32():
    for head in builder.HEADS:
        model = builder.build("MobileNet", head, size=64, precision="mixed_bfloat16")
        assert first_convolution(model).compute_dtype == "bfloat16"
        own = {"feature_maps", "pooled", "dropout", "inside", "cell_logits", "logit"}
        for layer in model.layers:
            assert layer.name not in own or layer.compute_dtype == "float32", layer.name
        assert all(variable.dtype == "float32" for variable in model.trainable_variables)
        keras.utils.clear_session()
    builder.build_body("MobileNet", 32)
    assert keras.config.dtype_policy().name == "float32"


def test_random_bodies_respond_to_images_once_normalization_is_adapted():
    body = builder.build_body("MobileNet", 64)
    before = body.predict(IMAGES, verbose=0)[2]
    builder.adapt_normalization(body, IMAGES)
    after = body.predict(IMAGES, verbose=0)[2]
    assert after.std(axis=0).mean() > 100 * before.std(axis=0).mean()
    first = next(la for la in body.layers if isinstance(la, keras.layers.BatchNormalization))
    mean = numpy(keras.Model(body.input, first.input)(IMAGES)).mean(axis=(0, 1, 2))
    np.testing.assert_allclose(first.moving_mean, mean, rtol=1e-3, atol=1e-4)


def test_layers_that_are_not_folded_are_shared_and_the_model_is_unchanged():
    model = builder.build("MobileNet", "localization", size=64)
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    folded = builder.fold_batch_norm(model)
    assert [layer.name for layer in model.layers] == names
    assert all(map(np.array_equal, before, model.get_weights()))
    assert folded.get_layer("logit") is model.get_layer("logit")
    model.get_layer("logit").offset.assign(7.0)
    expected = model.predict_on_batch(IMAGES[:1])
    assert folded.predict_on_batch(IMAGES[:1]) == pytest.approx(expected, abs=1e-3)


def test_a_normalization_that_is_not_alone_behind_a_convolution_stays():
    def network(use_bias, scale, twice, activation=None):
        inputs = keras.Input((6, 6, 2))
        x = keras.layers.Conv2D(3, 3, use_bias=use_bias, activation=activation)(inputs)
        normal = keras.layers.BatchNormalization(scale=scale, center=use_bias)(x)
        model = keras.Model(inputs, [normal, x] if twice else normal)
        model.set_weights([RANDOM.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
        return model

    batch = RANDOM.normal(size=(4, 6, 6, 2)).astype(np.float32)
    for use_bias, scale in [(True, True), (True, False), (False, True)]:
        model = network(use_bias, scale, twice=False)
        folded = builder.fold_batch_norm(model)
        assert len(folded.layers) == 2
        expected = model.predict_on_batch(batch)
        np.testing.assert_allclose(folded.predict_on_batch(batch), expected, rtol=1e-4, atol=1e-5)
    assert len(builder.fold_batch_norm(network(True, True, twice=True)).layers) == 3
    assert len(builder.fold_batch_norm(network(True, True, False, "relu")).layers) == 3


def test_folding_does_not_add_to_the_error_of_sixteen_bits():
    """In mixed_bfloat16, which every processor supports."""
    images, outputs = RANDOM.uniform(0, 255, (8, 96, 96, 1)).astype(np.float32), {}
    released = Weights("released", backbones.RELEASED_DIR / "MobileNet.npz")
    for precision in ("float32", "mixed_bfloat16"):
        body = builder.build_body("MobileNet", 96, released, precision)
        for folding in (lambda model: model, builder.fold_batch_norm):
            pooled = folding(body).predict_on_batch(images)[-1]
            outputs[precision, folding is builder.fold_batch_norm] = np.asarray(pooled, np.float32)
    backbones.apply_precision("float32")
    exact = outputs["float32", False]

    def error(folded):
        difference = outputs["mixed_bfloat16", folded] - exact
        return float(np.sqrt(np.square(difference).mean()) / exact.std())

    assert 1e-3 < error(False) < 0.1
    assert error(True) < 1.3 * error(False)


def test_weights_files_are_checked(tmp_path):
    path = tmp_path / "mobilenet_1_0_224_tf_no_top.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(InputError, match=r"mobilenet_1_0_224_tf_no_top.h5 does not hold weights"):
        builder.build_body("MobileNet", 32, Weights("imagenet", path))
    artifacts.write_arrays(tmp_path / "x.npz", a=np.zeros((3, 3), np.float32))
    for damaged in (tmp_path / "x.npz", path):
        with pytest.raises(InputError, match="does not hold weights for MobileNet"):
            builder.build_body("MobileNet", 32, Weights("released", damaged))


@pytest.mark.parametrize("head", builder.HEADS)
def test_a_model_survives_saving_and_released_weights_fill_it_or_its_body(tmp_path, head):
    model = builder.build("MobileNet", head, size=64, seed=1)
    model.set_weights([w + 0.01 * RANDOM.random(w.shape) for w in model.get_weights()])
    model.save_weights(tmp_path / "x.weights.h5")
    again = builder.build("MobileNet", head, size=64)
    builder.load_weights(again, tmp_path / "x.weights.h5")
    assert all(map(np.array_equal, model.get_weights(), again.get_weights()))
    named = {f"{k}/w": array for k, array in enumerate(model.get_weights())}
    halved = named["0/w"] / 2
    artifacts.write_arrays(
        tmp_path / "x.npz", **named | {"0/w": halved, "0/w/scale": np.float32(2)}
    )
    again = builder.build("MobileNet", head, size=64)
    builder.load_weights(again, tmp_path / "x.npz")
    assert all(map(np.array_equal, model.get_weights(), again.get_weights()))
    body = builder.build_body("MobileNet", 64, Weights("released", tmp_path / "x.npz"))
    assert all(map(np.array_equal, body.get_weights(), model.get_weights()))


@given(seed=st.integers(0, 2**16), grid=GRIDS, spread=st.sampled_from([0.1, 5.0, 300.0]))
@settings(max_examples=30)
def test_pooling_is_scipys_log_sum_exp_of_the_cells_inside(seed, grid, spread):
    random, pool = np.random.default_rng(seed), builder.LogSumExpPool(dtype="float32")
    cells = random.normal(scale=spread, size=(3, *grid)).astype(np.float32)
    inside = random.random((3, *grid)) < 0.7
    inside[:, 0, 0] = True
    mask = inside.astype(np.float32)
    logits = numpy(pool([cells, mask]))[:, 0]
    expected = [special.logsumexp(one[where]) for one, where in zip(cells, inside, strict=True)]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    cells[~inside] += 50  # padding changes nothing
    np.testing.assert_array_equal(numpy(pool([cells, mask]))[:, 0], logits)


def test_the_gradient_of_the_pooling_is_the_softmax_over_cells():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    cells = np.random.default_rng(1).normal(scale=3, size=(2, 4, 3)).astype(np.float32)
    inside, pool = np.ones_like(cells), builder.LogSumExpPool(dtype="float32")
    inside[1, 2:] = 0
    with tensorflow.GradientTape() as tape:
        variable = tensorflow.Variable(cells)
        logits = pool([variable, inside])
    gradient = tape.gradient(logits, variable).numpy()
    share = special.softmax(np.where(inside > 0, cells, -np.inf).reshape(2, -1), axis=1)
    np.testing.assert_allclose(gradient.reshape(2, -1), share, atol=1e-6)


@given(seed=st.integers(0, 2**16), grid=GRIDS)
@settings(max_examples=30)
def test_the_losses_are_weighted_cross_entropies(seed, grid):
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4, size=(3, *grid)).astype(np.float32)
    targets = random.integers(-1, 2, (3, *grid)).astype(np.float32)
    losses = numpy(builder.cell_loss(targets, keras.ops.convert_to_tensor(logits)))
    for one, target, loss in zip(logits, targets, losses, strict=True):
        terms = [
            -np.log(special.expit(z)) * builder.CELL_WEIGHT if y else -np.log(special.expit(-z))
            for z, y in zip(one.ravel().astype(float), target.ravel(), strict=True)
            if y >= 0
        ]
        assert loss == pytest.approx(np.mean(terms) if terms else 0.0, rel=1e-4, abs=1e-5)
    labels, scores = np.array([[0.0], [1.0]], np.float32), np.array([[2.0], [-1.0]], np.float32)
    losses = builder.image_loss([0.5, 3.0])(labels, keras.ops.convert_to_tensor(scores))
    np.testing.assert_allclose(numpy(losses), [0.5 * np.log1p(np.exp(2)), 3 * np.log1p(np.exp(1))])


def test_the_graph_and_the_targets_agree_on_the_cells_inside():
    squares = np.random.default_rng(2).integers(1, 255, (4, 75, 75)).astype(np.uint8)
    squares[0, :, :20], squares[1, 60:], squares[2] = 0, 0, 0
    mask = numpy(builder.InsideMask(5, dtype="float32")(squares[..., None].astype(np.float32)))
    expected = np.array([generators.inside_grid(square, 5) for square in squares])
    assert np.array_equal(mask > 0, expected)
    assert expected[0].sum() == 20
    assert not expected[2].any()


def test_the_logit_pools_the_cells_without_padding():
    images = IMAGES.copy()
    images[:, :, :20] = 0
    model = builder.build("MobileNet", "localization", size=64)
    builder.adapt_normalization(model, images)
    cells = keras.Model(model.input, model.get_layer("cell_logits").output)
    cells, logits = cells.predict(images, verbose=0), model.predict(images, verbose=0)[:, 0]
    gain, offset = model.get_layer("logit").get_weights()
    for image, one, logit in zip(images, cells, logits, strict=True):
        inside = generators.inside_grid(image[..., 0], 4)
        assert inside.sum() == 12
        assert logit == pytest.approx(gain * special.logsumexp(one[inside]) + offset, abs=1e-3)
