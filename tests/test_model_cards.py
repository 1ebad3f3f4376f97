"""Model cards, and the format of released weights: small, exact where promised, checked."""

import runpy
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_utils import artifacts
from fracture_utils.config import Config, InputError
from fracture_utils.models import builder, model_cards

RELEASE = Path(model_cards.__file__).parents[2] / "benchmarks" / "release.py"
write = runpy.run_path(str(RELEASE))["write"]
SHAPES = [(3, 3, 5, 7), (3, 3, 6, 1), (1, 1, 4, 2), (9, 3), (5, 1), (7,), ()]


class Weights(dict):
    """Stands in for a Keras model with named weights: `builder.load_weights` fills it."""

    name = "x"
    weights = property(lambda self: list(self.values()))

    def set_weights(self, arrays):
        self.update(zip(self, arrays, strict=True))


def released(path, weights, float16_below=0):
    """The weights after writing and reading."""
    write(path, weights, float16_below)
    stored = Weights(weights)
    builder.load_weights(stored, path)
    return stored


@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from(SHAPES),
    spread=st.sampled_from([1e-6, 0.05, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(tmp_path_factory, seed, shape, spread):
    """The step by brute force, channel by channel."""
    values = np.random.default_rng(seed).normal(scale=spread, size=shape).astype(np.float32)
    stored = released(tmp_path_factory.mktemp("released") / "x.npz", {"kernel": values})["kernel"]
    assert (stored.shape, stored.dtype) == (values.shape, np.float32)
    if values.ndim < 2:
        np.testing.assert_array_equal(stored, values)
        return
    depthwise = values.ndim > 2 and shape[-1] == 1
    axis = values.ndim - 2 if depthwise else values.ndim - 1
    for channel in range(shape[axis]):
        one, other = (np.take(array, channel, axis) for array in (values, stored))
        step = np.abs(one).max() / 127
        assert np.abs(one - other).max() <= step / 2 * (1 + 1e-5)
        assert np.abs(other).max() == pytest.approx(np.abs(one).max(), rel=1e-5)


def test_a_channel_of_zeros_stays_zero_and_others_keep_their_precision(tmp_path):
    values = np.zeros((3, 3, 2, 3), np.float32)
    values[..., 1], values[..., 2] = 1e-5, 1e5
    stored = released(tmp_path / "x.npz", {"kernel": values})["kernel"]
    np.testing.assert_allclose(stored, values, rtol=1e-6)


def test_a_weight_takes_about_a_byte_or_in_a_small_kernel_two(tmp_path):
    random = np.random.default_rng(0)
    shapes = {"a": (3, 3, 64, 128), "b": (3, 3, 64, 256)}
    values = {k: random.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    sizes = {name: kernel.size for name, kernel in values.items()}
    for below, size in ((0, sizes["a"] + sizes["b"]), (sizes["b"], 2 * sizes["a"] + sizes["b"])):
        stored = released(tmp_path / "x.npz", values, below)
        assert 0.8 * size < (tmp_path / "x.npz").stat().st_size < 1.05 * size
    np.testing.assert_allclose(stored["a"], values["a"], rtol=2**-10, atol=1e-7)
    assert np.abs(stored["b"] - values["b"]).max() > 1e-3


def test_damaged_files_and_values_that_are_not_finite_are_refused(tmp_path):
    path, kernel = tmp_path / "x.npz", {"kernel": np.ones((2, 2), np.float32)}
    with pytest.raises(InputError, match=r"x\.npz does not hold weights for x"):
        builder.load_weights(Weights(kernel), path)
    write(path, kernel)
    whole = path.read_bytes()
    with pytest.raises(InputError, match="kernel holds values that are not finite"):
        write(path, {"kernel": np.full((2, 2), np.nan)})
    assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.npz does not hold weights for x"):
        builder.load_weights(Weights(kernel), path)


NAMES = ("VGG16", "MobileNet")
POINT = {"slope": 1.0, "intercept": 0.5, "threshold": 0.3, "rule": "Youden's J"}
POINT |= {"threshold_low": 0.2, "threshold_high": 0.4}


@pytest.fixture
def run(tmp_path):
    """Settings and results of a run of two models of which a third failed."""
    config = Config(source="phantoms", results_dir=tmp_path / "r", models_dir=tmp_path / "m")
    for name in NAMES:
        card = {"model": name, "weights_sha256": f"digest of {name}", "input_size": 64}
        artifacts.write_json(config.cache_dir / "models" / name / "network.json", card)
    networks = pd.DataFrame({"model": [*NAMES, "Xception"], "status": "trained"})
    networks.loc[2, "status"] = "failed"
    models = [*NAMES, "Ensemble"]
    points = pd.DataFrame([POINT | {"model": name} for name in models])
    localization = pd.DataFrame({"model": NAMES, "assessment": "above the controls"})
    splits = ["train", "train", "train", "validation", "validation", "test"]
    labels = ["fractured", "normal", "normal", "fractured", "normal", "normal"]
    images = pd.DataFrame({"split": splits, "label": labels})
    return config, types.SimpleNamespace(
        networks=networks, operating_points=points, localization=localization, images=images,
        selected="MobileNet",
    )  # fmt: skip


def test_a_card_has_what_training_and_evaluation_measured(run):
    config, results = run
    model_cards.save(results, config)
    cards, selected, ensemble = model_cards.read(config.models_dir)
    assert (list(cards), selected) == (list(NAMES), "MobileNet")
    expected = POINT | {"class_names": ["normal", "fractured"], "source": "phantoms"}
    expected |= {"heat_map_caution": "", "trained_on": "phantoms"}
    expected |= {"training": {"images": 3, "fractured": 1}}
    expected |= {"validation": {"images": 2, "fractured": 1}}
    assert cards["VGG16"].items() >= (expected | {"input_size": 64}).items()
    assert ensemble["members"] == {name: f"digest of {name}" for name in NAMES}
    assert ensemble.items() >= POINT.items()
    results.operating_points = results.operating_points.iloc[:2]
    results.localization = results.localization.iloc[:0]
    model_cards.save(results, config)
    cards, selected, ensemble = model_cards.read(config.models_dir)
    assert (selected, ensemble) == ("MobileNet", None)
    assert cards["VGG16"]["heat_map_caution"]  # unchecked


def test_only_models_of_the_last_run_are_read_and_an_ensemble_needs_all_members(run):
    config, results = run
    model_cards.save(results, config)
    path = config.models_dir / "Ensemble.json"
    complete = artifacts.read_json(path)
    for members in ({"VGG16": "another digest"}, {"DenseNet121": "missing"}):
        artifacts.write_json(path, complete | {"members": complete["members"] | members})
        assert model_cards.read(config.models_dir)[1:] == ("MobileNet", None)
    artifacts.write_json(path, complete | {"members": {"VGG16": "digest of VGG16"}})
    with pytest.raises(InputError, match=r"no card MobileNet\.json in .*Name the folder of a run"):
        model_cards.read(config.models_dir)
    artifacts.write_json(path, {"members": {"VGG16": "digest of VGG16"}})  # of an older version
    assert model_cards.read(config.models_dir)[1:] == ("VGG16", None)
    path.unlink()
    assert sorted(model_cards.read(config.models_dir)[0]) == sorted(NAMES)


def test_cards_of_earlier_runs_and_other_files_do_not_count():
    config = Config(source="phantoms")
    cards = {"MobileNet": {"source": "images"}, "VGG16": {"source": "phantoms"}}
    for name, card in cards.items():
        artifacts.write_json(Path("models", f"{name}.json"), card | {"weights_sha256": name})
    for name in ("classes", "list"):
        artifacts.write_json(Path("models", f"{name}.json"), None if name == "list" else {"a": 1})
    assert model_cards.home(config) == model_cards.RELEASED_DIR
    artifacts.write_json(Path("models/Ensemble.json"), {"members": {"MobileNet": "MobileNet"}})
    assert model_cards.home(config) == Path("models")
    for name in cards:
        Path("models", f"{name}.json").unlink()
    assert model_cards.home(config) == model_cards.RELEASED_DIR


def test_a_folder_that_is_named_is_used_and_has_to_hold_a_model(run, tmp_path):
    config, results = run
    model_cards.save(results, config)
    assert model_cards.home(config) == config.models_dir
    with pytest.raises(InputError, match=r"no trained model in .*Name the folder of a run"):
        model_cards.read(tmp_path / "empty")
    path = config.models_dir / "VGG16.json"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"VGG16\.json cannot be read"):
        model_cards.read(config.models_dir)


def test_weights_other_than_those_of_the_card_are_refused(tmp_path):
    card = {"weights_sha256": "0", "input_size": 64, "head": "pooled", "model": "VGG16"}
    path = tmp_path / "VGG16.weights.h5"
    for content in (None, b"others"):
        if content:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"VGG16\.weights\.h5 is missing or differs"):
            model_cards.load("VGG16", card, tmp_path)
    # A reference set of the features of another layer would be compared with those of this one.
    card |= {"weights_sha256": artifacts.digest(path), "ood_layer": "block1_pool"}
    with pytest.raises(InputError, match="run the notebook again"):
        model_cards.load("VGG16", card, tmp_path)
