"""Cached feature maps, and what the localization head learns from boxes."""

import functools

import keras
import numpy as np
import pandas as pd
import pytest

from fracture_utils import artifacts
from fracture_utils.config import Config, InputError
from fracture_utils.data import generators
from fracture_utils.models import builder, features

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 64, 64)).astype(np.uint8)
ROWS, TRAINING = np.arange(29)[::-1], np.array([20, 3, 11])
PASSES = [(ROWS, None), (TRAINING, 1), (TRAINING, 2)]
CONFIG = Config(source="phantoms", batch_size=2)
KEY = {"data": "a"}


@pytest.fixture(scope="module")
def body():
    network = builder.build_body("MobileNet", 64)
    builder.adapt_normalization(network, PIXELS[..., None].astype(np.float32))
    return network


def extract(body, folder, key=KEY, with_maps=True, calls=None):
    calls = [] if calls is None else calls
    arrays = features.extract(
        body, PIXELS, PASSES, CONFIG, folder, with_maps, key, lambda *done: calls.append(done)
    )
    return {name: np.array(array) for name, array in arrays.items()}


def test_features_are_those_of_the_rows_in_their_order_and_then_of_the_copies(body, tmp_path):
    calls = []
    arrays = extract(body, tmp_path, calls=calls)
    assert calls == [(8, 35), (16, 35), (24, 35), (29, 35), (32, 35), (35, 35)]
    copies = [
        generators.augment(PIXELS[row], CONFIG, np.random.default_rng([CONFIG.seed, copy, row]))
        for copy in (1, 2)
        for row in TRAINING
    ]
    images = np.concatenate([PIXELS[ROWS], copies])[..., None].astype(np.float32)
    expected = body.predict(images, verbose=0)
    for array, values in zip(arrays.values(), expected, strict=True):
        np.testing.assert_allclose(array, values, rtol=2e-3, atol=1e-3)
    assert [str(a.dtype) for a in arrays.values()] == ["float16", "float16", "float32", "float32"]
    alone = extract(body, tmp_path / "pooled", with_maps=False)
    assert list(alone) == ["pooled"]
    np.testing.assert_allclose(alone["pooled"], arrays["pooled"], rtol=1e-5, atol=1e-6)


def flip(content):
    content[len(content) // 2] ^= 0xFF


def cut(content):
    del content[len(content) * 2 // 3 :]


def test_a_damaged_file_is_computed_again(body, tmp_path):
    before = extract(body, tmp_path)
    for name, damage in zip(features.TYPES, (flip, cut, cut, flip), strict=True):
        path, calls = tmp_path / f"{name}.npy", []
        content = bytearray(path.read_bytes())
        damage(content)
        path.write_bytes(content)
        after = extract(body, tmp_path, calls=calls)
        assert calls
        for one, other in zip(before.values(), after.values(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_features_are_cached_under_their_key_and_only_when_complete(body, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.extract(body, PIXELS, PASSES, CONFIG, tmp_path, True, KEY, interrupt)
    assert not list(tmp_path.iterdir())
    for key, expected in ((KEY, 6), (KEY, 0), ({"data": "b"}, 6)):
        calls = []
        extract(body, tmp_path, key, calls=calls)
        assert len(calls) == expected
    assert not list(tmp_path.glob(f"{artifacts.TEMPORARY}*"))


def test_features_that_are_not_finite_are_an_error(tmp_path):
    inputs = keras.Input((64, 64, 1))
    nothing = keras.layers.Rescaling(np.nan)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(nothing)
    broken = keras.Model(inputs, [nothing, nothing, pooled, pooled], name="Broken")
    with pytest.raises(FloatingPointError, match="The features of Broken are not finite"):
        extract(broken, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_sentence(body, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"early\.npy cannot be written"):
        extract(body, tmp_path / "file")


def test_targets_are_normal_cells_boxes_and_unknown_without_one():
    pixels = np.random.default_rng(4).integers(60, 120, (6, 64, 64)).astype(np.uint8)
    pixels[:, :, :16] = 0
    images = pd.DataFrame({"path": ["n", "b", "u"], "label": ["normal", *["fractured"] * 2]})
    images = images.assign(height=64, width=64)
    boxes = pd.DataFrame(
        [("b", 30, 20, 50, 40), ("n", 30, 20, 50, 40)],
        columns=["path", "xmin", "ymin", "xmax", "ymax"],
    )
    rows = np.array([4, 2, 0])
    located = features.boxes_by_row(images, rows, boxes)
    targets, inside = features.cell_targets(pixels, located, 4, CONFIG, rows, None)
    assert targets.shape == inside.shape == (3, 4, 4)
    assert not inside[:, :, 0].any()
    assert inside[:, :, 1:].all()
    assert (targets[~inside] == builder.UNKNOWN).all()
    assert (targets[0][inside[0]] == 0).all()
    marked = generators.draw_boxes(np.array([[30, 20, 50, 40]]), (64, 64), 64)
    assert np.array_equal(targets[1] == 1, generators.box_grid(marked, 4) == 1)
    assert (targets[1] == 1).sum() == 2
    assert (targets[2] == builder.UNKNOWN).all()


@pytest.mark.parametrize("copy", range(4))
def test_the_box_of_an_augmented_copy_follows_its_image(copy):
    """A bright square on noise: its cells, found in the copy itself, are those of its box."""
    config = Config(source="phantoms", rotation=40, zoom=0.2, shift=0.1, vertical_flip=True)
    pixels = np.random.default_rng(4).integers(1, 60, (3, 64, 64)).astype(np.uint8)
    pixels[:, 12:28, 36:52] = 255
    images = pd.DataFrame({"path": ["b"], "label": ["fractured"], "height": 32, "width": 32})
    columns = ["path", "xmin", "ymin", "xmax", "ymax"]
    boxes = pd.DataFrame([("b", 18, 6, 26, 14)], columns=columns)
    located = features.boxes_by_row(images, np.array([2]), boxes)
    targets, _ = features.cell_targets(pixels, located, 8, config, np.array([2]), copy)
    batches = generators.ImageBatches(
        pixels, np.ones(3), np.array([2]), config, copy,
        functools.partial(features.cell_targets, pixels, located, 8, config),
    )  # fmt: skip
    image, (label, again) = batches[0]
    bright = (image[0, ..., 0] > 160).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert label == 1
    assert np.array_equal(again, targets)
    assert (targets[0][bright > 0.5] == 1).all()
    assert (targets[0][bright == 0] != 1).all()
    plain, _ = features.cell_targets(pixels, located, 8, config, np.array([2]), None)
    assert not np.array_equal(plain, targets)
