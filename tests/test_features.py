"""Cached feature maps, and what the localization head learns from boxes."""

import keras
import numpy as np
import pandas as pd
import pytest

from fracture_utils import artifacts
from fracture_utils.config import Config, InputError
from fracture_utils.data import generators
from fracture_utils.models import builder, features

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 64, 64)).astype(np.uint8)
ROWS = np.arange(29)[::-1]
CONFIG = Config(source="phantoms", batch_size=2)
KEY = {"data": "a"}


@pytest.fixture(scope="module")
def body():
    network = builder.build_body("MobileNet", 64)
    builder.adapt_normalization(network, [PIXELS[..., None].astype(np.float32)])
    return network


def extract(body, folder, key=KEY, with_maps=True, calls=None):
    calls = [] if calls is None else calls
    arrays = features.extract(
        body, PIXELS, ROWS, CONFIG, folder, with_maps, key, lambda *done: calls.append(done)
    )
    return {name: np.array(array) for name, array in arrays.items()}


def test_features_are_those_of_the_rows_in_their_order(body, tmp_path):
    calls = []
    arrays = extract(body, tmp_path, calls=calls)
    assert calls == [(8, 29), (16, 29), (24, 29), (29, 29)]
    expected = body.predict(PIXELS[ROWS][..., None].astype(np.float32), verbose=0)
    for array, values in zip(arrays.values(), expected, strict=True):
        np.testing.assert_allclose(array, values, rtol=2e-3, atol=1e-3)
    assert [str(a.dtype) for a in arrays.values()] == ["float16", "float16", "float32"]
    alone = extract(body, tmp_path / "pooled", with_maps=False)
    assert list(alone) == ["pooled"]
    np.testing.assert_allclose(alone["pooled"], arrays["pooled"], rtol=1e-5, atol=1e-6)


def flip(content):
    content[len(content) // 2] ^= 0xFF


def cut(content):
    del content[len(content) * 2 // 3 :]


@pytest.mark.parametrize("name", features.NAMES)
@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_file_is_computed_again(body, tmp_path, name, damage):
    before, path, calls = extract(body, tmp_path), tmp_path / f"{name}.npy", []
    assert not calls
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
        features.extract(body, PIXELS, ROWS, CONFIG, tmp_path, True, KEY, interrupt)
    assert not list(tmp_path.iterdir())
    for key, expected in ((KEY, 4), (KEY, 0), ({"data": "b"}, 4)):
        calls = []
        extract(body, tmp_path, key, calls=calls)
        assert len(calls) == expected
    assert not list(tmp_path.glob(f"{artifacts.TEMPORARY}*"))


def test_features_that_are_not_finite_are_an_error(tmp_path):
    inputs = keras.Input((64, 64, 1))
    nothing = keras.layers.Rescaling(np.nan)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(nothing)
    broken = keras.Model(inputs, [nothing, nothing, pooled], name="Broken")
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
    targets, inside = features.cell_targets(pixels, rows, images, boxes, 4)
    assert targets.shape == inside.shape == (3, 4, 4)
    assert not inside[:, :, 0].any()
    assert inside[:, :, 1:].all()
    assert (targets[~inside] == builder.UNKNOWN).all()
    assert (targets[0][inside[0]] == 0).all()
    marked = generators.draw_boxes(np.array([[30, 20, 50, 40]]), (64, 64), 64)
    assert np.array_equal(targets[1] == 1, generators.box_grid(marked, 4) == 1)
    assert (targets[1] == 1).sum() == 2
    assert (targets[2] == builder.UNKNOWN).all()
