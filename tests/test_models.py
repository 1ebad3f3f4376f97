"""Backbones, classifier, features, training, prediction: small pictures, random weights."""

import time
import tracemalloc

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from fracture_utils import files, lazy
from fracture_utils.config import Config
from fracture_utils.data.batches import Batches, MapBatches, shuffled
from fracture_utils.errors import InputError
from fracture_utils.models import (
    backbones,
    classifier,
    features,
    heads,
    heatmaps,
    precision,
    prediction,
    released,
    training,
)
from fracture_utils.models.backbones import REGISTRY, Weights

RANDOM = Weights("random")
SMALL = {"source": "phantoms", "image_size": 32, "batch_size": 8, "views": 2, "patience": 50}
RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3 // 2
PIXELS = RNG.integers(0, 120, (60, 32, 32)).astype(np.uint8)
PIXELS[LABELS == 1, 12:20] += 100  # a bright band gives the positives away
SPLITS = np.array(["train"] * 36 + ["validation"] * 12 + ["test"] * 12)
IMAGES = pd.DataFrame(
    {
        "path": [f"{k:02}.png" for k in range(60)],
        "group": [str(k) for k in range(60)],
        "label": np.array(["normal", "fractured"])[LABELS],
        "split": SPLITS,
    }
)


def small_model(config=None, arithmetic="float32", name="MobileNet"):
    return classifier.build(REGISTRY[name], RANDOM, config or Config(**SMALL), arithmetic)


def pooled(model):
    return keras.Model(model.input, model.get_layer("pooled").output)


def test_the_registry_is_what_the_settings_offer():
    assert Config().backbones == tuple(REGISTRY)
    assert list(backbones.table().index) == list(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_backbone_builds_flat_with_its_own_preprocessing(name):
    backbone = REGISTRY[name]
    config = Config(**SMALL | {"image_size": backbone.smallest_size})
    model = small_model(config, name=name)
    assert not [layer for layer in model.layers if isinstance(layer, keras.Model)]
    assert pooled(model).count_params() == backbone.parameters
    assert model.input.shape == (None, backbone.smallest_size, backbone.smallest_size, 1)
    assert model.output.shape == (None, 1)
    assert model.output.dtype == "float32"
    classifier.unfreeze(model, backbone, "top")
    top = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    classifier.unfreeze(model, backbone, "all")
    whole = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    assert 0.1 * whole < top < 0.7 * whole


def test_preprocessing_happens_inside_and_leaves_the_input_alone():
    batch = np.full((2, 32, 32, 1), 255.0, np.float32)
    model = small_model()
    first = model.predict(batch, verbose=0)
    assert (batch == 255).all()
    assert np.array_equal(first, model.predict(batch, verbose=0))
    scaled = keras.Model(model.input, _first_convolution(model).input)
    white = np.asarray(keras.ops.convert_to_numpy(scaled(batch)))
    assert white.min() == white.max() == 1.0  # MobileNet wants -1 to 1


def _first_convolution(model):
    return next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


@pytest.mark.parametrize("name", ["InceptionV3", "Xception"])
def test_too_small_an_image_names_the_smallest_size(name):
    config = Config(source="phantoms", image_size=64)
    smallest = REGISTRY[name].smallest_size
    with pytest.raises(InputError, match=f"{name} needs pictures of at least {smallest} px"):
        REGISTRY[name].size(config)


def test_mixed_precision_survives_clear_session_and_the_head_stays_float32():
    for _ in range(2):
        model = small_model(arithmetic="mixed_bfloat16")
        assert _first_convolution(model).compute_dtype == "bfloat16"
        for name in ("maps", "pooled", "dropout", "logit"):
            assert model.get_layer(name).compute_dtype == "float32", name
        assert all(v.dtype == "float32" for v in model.trainable_variables)
        keras.utils.clear_session()
    small_model()
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("arithmetic", ["mixed_bfloat16", "graph_bfloat16"])
def test_sixteen_bits_do_not_tie_the_logits(arithmetic):
    model = small_model(arithmetic=arithmetic)
    channels = model.get_layer("pooled").output.shape[-1]
    kernel = RNG.normal(size=channels).astype(np.float32)
    model.get_layer("logit").set_weights([1e4 * kernel, np.float32(0)])
    logits = model.predict(PIXELS[..., None].astype(np.float32), verbose=0)[:, 0]
    coarse = (logits.view(np.uint32) & 0xFFFF) == 0  # what bfloat16 can represent
    assert not coarse.all()
    assert len(np.unique(logits)) == len(logits)
    precision.apply("float32")


def test_automatic_precision_never_means_float16_on_a_cpu(monkeypatch):
    if precision._has("gpu"):
        pytest.skip("this machine has a GPU")
    assert precision.resolve("auto") in {"float32", "graph_bfloat16"}
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    assert precision.resolve("auto") == "float32"
    assert precision.resolve("mixed_float16") == "mixed_float16"
    if keras.backend.backend() == "tensorflow":
        assert precision.compile_ahead() is False


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(9.0, "mixed_bfloat16"), (7.5, "mixed_float16"), (6.1, "float32"), (0.0, "float32")],
)
def test_automatic_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["cpu:0", "gpu:0"])
    monkeypatch.setattr(precision, "_compute_capability", lambda: capability)
    assert precision.resolve("auto") == expected


def test_features_are_in_order_and_an_interrupted_extraction_goes_on(tmp_path):
    config, train = Config(**SMALL), np.flatnonzero(SPLITS == "train")
    network = classifier.body(REGISTRY["MobileNet"], RANDOM, config, "float32")
    classifier.adapt_normalisation(network, [PIXELS[..., None].astype(np.float32)])
    seen, told = features.views(60, train, config), []

    def extract():
        told.clear()
        kept = features.extract(
            network, PIXELS, seen, config, tmp_path, True, lambda d, t: told.append((d, t))
        )
        return {name: np.array(array) for name, array in kept.items()}

    whole = extract()
    direct = network.predict(PIXELS[..., None].astype(np.float32), verbose=0)
    for (name, array), expected in zip(whole.items(), direct, strict=True):
        np.testing.assert_allclose(array[:60], expected, rtol=2e-3, atol=1e-5, err_msg=name)
    assert whole["pooled"].shape == (60 + 36, 1024)
    assert told[-1] == (96, 96)
    damaged = np.load(tmp_path / "early.npy", mmap_mode="r+")
    damaged[70] += 1  # in the third of three chunks
    again = extract()
    assert told == [(96, 96)]
    for name, array in whole.items():
        assert np.array_equal(array, again[name]), name
    (tmp_path / "last.npy").write_bytes(b"cut short")
    assert all(
        np.array_equal(a, b) for a, b in zip(whole.values(), extract().values(), strict=True)
    )
    assert len(told) == 3
    assert features.gibibytes(network, 96) == pytest.approx(
        sum(whole[name].nbytes for name in ("early", "last")) / 2**30
    )
    alone = features.extract(network, PIXELS, seen, config, tmp_path / "b", False, lambda *_: None)
    assert list(alone) == ["pooled"]
    np.testing.assert_allclose(alone["pooled"], whole["pooled"], rtol=1e-5, atol=1e-6)


def test_random_networks_see_something_once_normalisation_is_adapted():
    model = small_model()
    batches = [PIXELS[k : k + 12, ..., None].astype(np.float32) for k in range(0, 60, 12)]
    network = pooled(model)
    dead = network.predict(PIXELS[..., None].astype(np.float32), verbose=0)
    classifier.adapt_normalisation(model, batches)
    alive = network.predict(PIXELS[..., None].astype(np.float32), verbose=0)
    assert alive.std(axis=0).mean() > 100 * dead.std(axis=0).mean()
    first = next(la for la in model.layers if isinstance(la, keras.layers.BatchNormalization))
    entering = keras.Model(model.input, first.input)
    means = [np.asarray(entering(batch)).mean(axis=(0, 1, 2)) for batch in batches]
    np.testing.assert_allclose(first.moving_mean, np.mean(means, axis=0), rtol=1e-3, atol=1e-4)
    assert first.momentum == 0.99


def planted_features(n=400, channels=40):
    random = np.random.default_rng(3)
    y = (random.random(n) < 0.3).astype(int)
    x = random.normal(size=(n, channels)) * np.geomspace(0.01, 10, channels) + 5
    x[:, :10] += y[:, None] * 0.8 * x[:, :10].std(axis=0)
    splits = np.where(np.arange(n) % 4 == 0, "validation", "train")
    return x.astype(np.float32), y, splits


def test_the_head_is_as_good_as_scikit_learns_logistic_regression():
    x, y, splits = planted_features()
    kernel, bias, history = heads.fit_mean(x, y, splits, Config(**SMALL))
    fit, held = splits == "train", splits == "validation"
    mean, spread = x[fit].mean(0), x[fit].std(0)
    reference = LogisticRegression(C=0.01, class_weight="balanced")
    reference.fit((x[fit] - mean) / spread, y[fit])
    expected = roc_auc_score(y[held], reference.decision_function((x[held] - mean) / spread))
    ours = roc_auc_score(y[held], x[held] @ kernel + bias)
    assert ours > expected - 0.02, (ours, expected)
    assert ours == pytest.approx(max(row["val_auc"] for row in history), abs=1e-6)
    assert {"loss", "auc", "val_loss", "val_auc", "learning_rate", "seconds"} <= set(history[0])


def test_the_head_never_sees_the_test_split():
    (x, y, splits), config = planted_features(), Config(**SMALL | {"head_epochs": 3})
    splits[:40] = "test"
    one = heads.fit_mean(x, y, splits, config)
    x[:40], y[:40] = 1e6, 1 - y[:40]
    other = heads.fit_mean(x, y, splits, config)
    assert np.array_equal(one[0], other[0])


def test_the_mean_head_holds_no_copy_of_the_features(tmp_path):
    n = 20_000
    labels, splits = np.arange(n) % 2, np.array(["train", "validation"])[np.arange(n) % 5 // 4]
    path = tmp_path / "features.npz"
    random = np.random.default_rng(0).normal(size=(n, 256)).astype(np.float32)
    files.write_arrays(path, {}, {"features": random + labels[:, None]})
    config = Config(**SMALL | {"head_epochs": 2})
    tracemalloc.start()
    _, _, history = heads.fit_mean(lazy.mapped(path, "features"), labels, splits, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert history[-1]["val_auc"] > 0.99
    assert peak < random.nbytes / 2, f"{peak / random.nbytes:.2f} of what the features take"


def tuned(path, config, head_auc=0.0, stop_after=None, monkeypatch=None):
    """A fine-tuned model and its history; `stop_after` epochs the process 'dies'."""
    model = small_model(config)
    classifier.unfreeze(model, REGISTRY["MobileNet"], "top")
    if stop_after:
        save = training._State.advance

        def die(state, row):
            save(state, row)
            if row["epoch"] == stop_after:
                raise KeyboardInterrupt

        monkeypatch.setattr(training._State, "advance", die)
    return model, training.fine_tune(*arguments(model, config, head_auc, path))


def arguments(model, config, head_auc, path):
    """What fine_tune takes, on pixels."""
    train, validation, sample = training.watched_rows(SPLITS, config)
    watched = np.sort(np.concatenate([sample, validation]))

    def served(epoch):
        return Batches(PIXELS, LABELS, shuffled(train, config, epoch), config, epoch)

    watch = Batches(PIXELS, LABELS, watched, config)
    return model, served, watch, LABELS, SPLITS, config, head_auc, path, lambda done, total: None


def test_fine_tuning_leaves_batch_normalisation_and_the_trunk_alone(tmp_path):
    config = Config(**SMALL, fine_tune_epochs=1, fine_tune_learning_rate=1e-2)
    before, after = small_model(config), tuned(tmp_path / "c.npz", config)[0]
    assert len(before.layers) == len(after.layers)
    moved = []
    for old, new in zip(before.layers, after.layers, strict=True):
        pairs = zip(old.get_weights(), new.get_weights(), strict=True)
        if any(not np.array_equal(a, b) for a, b in pairs):
            moved.append(new)
    assert moved
    assert not [layer for layer in moved if isinstance(layer, keras.layers.BatchNormalization)]
    names = [layer.name for layer in after.layers]
    first = names.index(REGISTRY["MobileNet"].early)
    assert min(names.index(layer.name) for layer in moved) > first


class Slow(Batches):
    """Batches that each take a while to come."""

    def batch(self, rows):
        time.sleep(0.5)
        return super().batch(rows)


@pytest.mark.parametrize(("kind", "least", "most"), [(Batches, 0.0, 0.5), (Slow, 0.8, 5.0)])
def test_the_time_spent_waiting_for_batches_is_told(kind, least, most):
    config = Config(**SMALL)
    inputs = keras.Input((*PIXELS.shape[1:], 1))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(inputs)))
    model.compile("sgd", "mse")
    rows = np.arange(config.batch_size).repeat(4)
    batches = kind(PIXELS, LABELS, rows, config)
    assert len(batches) == 4
    batches.workers = 1
    heard = []
    clock = training.Clock(batches, heard.append)
    model.fit(batches, shuffle=False, callbacks=[clock], verbose=0)
    assert heard == [1, 2, 3, 4]
    assert least <= clock.waited <= most


def test_an_interrupted_fine_tuning_ends_like_an_uninterrupted_one(tmp_path, monkeypatch):
    config = Config(**SMALL, fine_tune_epochs=3)
    whole, history = tuned(tmp_path / "whole.npz", config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tuned(tmp_path / "cut.npz", config, stop_after=2, monkeypatch=patch)
    resumed, resumed_history = tuned(tmp_path / "cut.npz", config)
    assert [row["epoch"] for row in resumed_history] == [1, 2, 3]
    for one, other in zip(history, resumed_history, strict=True):
        assert one["val_auc"] == pytest.approx(other["val_auc"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["learning_rate"] == other["learning_rate"]
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_fine_tuning_that_does_not_help_leaves_the_head_as_it_was(tmp_path):
    config = Config(**SMALL | {"patience": 1}, fine_tune_epochs=3, fine_tune_learning_rate=0.5)
    before = small_model(config)
    model, history = tuned(tmp_path / "c.npz", config, head_auc=2.0)
    assert len(history) == 1  # patience
    for one, other in zip(before.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_loss_that_is_no_number_is_reported(tmp_path):
    config = Config(**SMALL, fine_tune_epochs=1)
    model = small_model(config)
    classifier.unfreeze(model, REGISTRY["MobileNet"], "top")
    kernel, bias = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([kernel * np.nan, bias])
    with pytest.raises(training.DivergedError, match="MobileNet is no number in epoch 1"):
        training.fine_tune(*arguments(model, config, 0.0, tmp_path / "c.npz"))


@pytest.mark.parametrize("arithmetic", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_gradients_too_small_for_sixteen_bits_move_the_weights(arithmetic):
    """In float16 by scaling the loss; also where the mean head was fitted in float32 before."""
    config = Config(**SMALL | {"head_epochs": 1})
    body = classifier.body(REGISTRY["MobileNet"], RANDOM, config, arithmetic)
    classifier.adapt_normalisation(body, [PIXELS[:16, ..., None].astype(np.float32)])
    heads.fit_mean(*planted_features(), config)
    model = classifier.with_head(body, "mean", config)
    kernel, bias = model.get_layer("logit").get_weights()
    model.get_layer("logit").set_weights([RNG.normal(size=kernel.shape), bias])
    classifier.unfreeze(model, REGISTRY["MobileNet"], "top")
    tiny = dict.fromkeys((0, 1), 1e-9)  # of a loss; the least that float16 can tell from 0 is 6e-8
    training.compile_for(model, keras.optimizers.Adam(1e-3, epsilon=1e-20), tiny, config)
    assert model.optimizer.name.startswith("loss_scale") == (arithmetic == "mixed_float16")
    before = training.values_of(model.trainable_variables)
    model.fit(PIXELS[:8, ..., None].astype(np.float32), LABELS[:8], verbose=0)
    after = training.values_of(model.trainable_variables)
    moved = [np.mean(one != other) for one, other in zip(before, after, strict=True)]
    assert min(moved) > 0.01, moved  # of a depthwise kernel on one place only the middle moves
    precision.apply("float32")


def test_class_weights_balance_the_classes_and_the_prior_is_given_back():
    weights = training.class_weights(np.array([0, 0, 0, 1]))
    assert weights == {0: pytest.approx(4 / 6), 1: 2.0}
    model = small_model()
    training.restore_prior(model, np.array([0, 0, 0, 1]))
    logit = model.predict(PIXELS[:1, ..., None].astype(np.float32), verbose=0)
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(0.25, abs=1e-4)


@pytest.mark.parametrize("head", classifier.HEADS)
def test_what_is_seen_in_kept_maps_is_what_is_seen_in_the_pictures(head, tmp_path):
    config = Config(**SMALL)
    body = classifier.body(REGISTRY["MobileNet"], Weights("random"), config, "float32")
    classifier.adapt_normalisation(body, [PIXELS[:16, ..., None].astype(np.float32)])
    model = classifier.with_head(body, head, config)
    for layer in model.layers[-2:]:
        noise = [RNG.normal(0.1, size=w.shape) for w in layer.get_weights()]
        layer.set_weights(noise)
    rows = np.arange(3, 20)
    explained = heatmaps.explaining(model)
    seen = features.views(60, np.arange(0), config)
    kept = features.extract(body, PIXELS, seen, config, tmp_path, True, lambda done, total: None)
    marks = [np.zeros((32, 32), np.uint8)] * 60
    _, inside = features.truth(seen, PIXELS, marks.__getitem__, kept["early"].shape[1], config)
    maps = [kept["early"], kept["last"]] if head == "evidence" else [kept["last"]]
    batches = MapBatches(
        maps, np.zeros(60), rows, config.batch_size, inside if head == "evidence" else None
    )
    kept_seen = heatmaps.look_at_maps(explained, batches)
    for one, other in zip(heatmaps.look(explained, PIXELS, rows, config), kept_seen, strict=True):
        assert np.abs(one - other).max() <= 4e-3 * np.abs(one).max()  # half precision
        assert one.std() > 0


def test_predictions_and_seeds_are_told_picture_by_picture():
    pictures, logits = IMAGES.iloc[36:], RNG.normal(size=(3, 24))
    table = prediction.table_of("MobileNet", logits[0], pictures)
    assert list(table["path"]) == list(pictures["path"])
    assert set(table["kind"]) == {"network"}
    assert np.allclose(np.log(table["probability"] / (1 - table["probability"])), logits[0])
    seeds = prediction.seeds_table("MobileNet", logits, pictures)
    again = seeds.pivot_table(index="path", columns="seed", values="logit").loc[pictures["path"]]
    assert np.array_equal(again.to_numpy(), logits.T)
    assert list(prediction.seeds_table("A", logits[:0], pictures)) == list(seeds)


def weights_folder(tmp_path, name="MobileNet"):
    folder = tmp_path / "weights"
    folder.mkdir()
    module = getattr(keras.applications, REGISTRY[name].module)
    keras.utils.set_random_seed(7)
    network = getattr(module, name)(weights=None, include_top=False, input_shape=(32, 32, 3))
    network.save(folder / REGISTRY[name].weights_file)  # HDF5, as the official files are
    return folder, network


def test_imagenet_weights_are_taken_from_the_folder(tmp_path, monkeypatch):
    folder, network = weights_folder(tmp_path)
    config = Config(**SMALL, weights_dir=folder, backbones="MobileNet")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    found, missing = backbones.find_weights(config)
    assert not missing
    assert found["MobileNet"].initialisation == "imagenet"
    assert found["MobileNet"].path.parent == folder
    assert len(found["MobileNet"].sha256) == 64
    model = classifier.build(REGISTRY["MobileNet"], found["MobileNet"], config, "float32")
    np.testing.assert_array_equal(
        _first_convolution(model).get_weights()[0], network.layers[1].get_weights()[0]
    )


def test_a_file_that_is_not_kerass_own_is_noted(tmp_path, monkeypatch):
    folder, _ = weights_folder(tmp_path, "VGG16")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    config = Config(**SMALL, weights_dir=folder, backbones="VGG16")
    assert "not Keras's own file" in backbones.find_weights(config)[0]["VGG16"].note


def test_a_broken_weights_file_is_named(tmp_path):
    path = tmp_path / "mobilenet_1_0_224_tf_no_top.h5"
    path.write_bytes(b"not HDF5")
    broken = Weights("imagenet", path)
    with pytest.raises(InputError, match=r"mobilenet_1_0_224_tf_no_top.h5 does not hold weights"):
        classifier.build(REGISTRY["MobileNet"], broken, Config(**SMALL), "float32")


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """No Keras cache, no released weights, and every download is refused and counted."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(backbones, "RELEASED_DIR", tmp_path / "released")
    asked = []

    def refuse(address, path, md5=None):
        asked.append(address)
        raise InputError("no internet")

    monkeypatch.setattr(backbones.download, "fetch", refuse)
    return asked


def test_phantoms_go_on_with_random_weights_and_say_so(offline):
    found, missing = backbones.find_weights(Config(source="phantoms"))
    assert not missing
    assert {w.initialisation for w in found.values()} == {"random"}
    assert all(REGISTRY[name].weights_address in w.note for name, w in found.items())
    assert len(offline) == 1  # one refusal is enough


def pictures(tmp_path, **settings):
    (tmp_path / "mine/train/normal").mkdir(parents=True)
    (tmp_path / "mine/train/normal/a.png").touch()
    return Config(data_dir=tmp_path / "mine", **settings)


def test_pictures_stop_where_no_weights_can_be_had(offline, tmp_path):
    config = pictures(tmp_path, weights_dir=tmp_path / "w")
    with pytest.raises(InputError) as caught:
        backbones.find_weights(config)
    for name in REGISTRY:
        for part in (REGISTRY[name].weights_file, REGISTRY[name].weights_address):
            assert part in str(caught.value)
    assert str(tmp_path / "w") in str(caught.value)
    assert "FRACTURE_INITIALISATION=random" in str(caught.value)


def test_pictures_go_on_with_the_networks_that_have_weights(offline, tmp_path):
    folder, _ = weights_folder(tmp_path)
    config = pictures(tmp_path, weights_dir=folder)
    found, missing = backbones.find_weights(config)
    assert set(found) == {"MobileNet"}
    assert set(missing) == set(REGISTRY) - {"MobileNet"}
    by_name = Config(data_dir=config.data_dir, weights_dir=folder, backbones="MobileNet,VGG16")
    with pytest.raises(InputError, match="VGG16: its ImageNet weights"):
        backbones.find_weights(by_name)


def test_random_weights_on_request(offline, tmp_path):
    found, missing = backbones.find_weights(pictures(tmp_path, initialisation="random"))
    assert {w.initialisation for w in found.values()} == {"random"}
    assert not missing
    assert not offline


def test_released_weights_come_last(offline, tmp_path):
    (tmp_path / "released").mkdir()
    config = Config(**SMALL, backbones="MobileNet")
    path = tmp_path / "released" / "MobileNet.npz"
    body = classifier.body(REGISTRY["MobileNet"], RANDOM, config, "float32")
    body.set_weights([RNG.normal(size=w.shape).astype(np.float32) for w in body.weights])
    released.write(path, {str(k): np.asarray(w) for k, w in enumerate(body.get_weights())})
    found, _ = backbones.find_weights(config)
    assert found["MobileNet"].initialisation == "released"
    again = classifier.build(REGISTRY["MobileNet"], found["MobileNet"], config, "float32")
    stored = list(released.read(path).values())
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), stored, strict=False))
    released.write(path, {"0": np.zeros((3, 3), np.float32)})
    with pytest.raises(InputError, match=r"MobileNet\.npz does not hold weights for"):
        classifier.build(REGISTRY["MobileNet"], found["MobileNet"], config, "float32")
