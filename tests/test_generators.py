"""Batches keep rows, order and labels; augmentation and boxes move alike."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_utils.config import Config
from fracture_utils.data import generators, reader
from fracture_utils.data.generators import FeatureBatches, ImageBatches, augment, shuffled

CONFIG = Config(source="phantoms", batch_size=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 48, 48), np.uint8)
LABELS = np.arange(10) % 2
STILL = dict.fromkeys(("rotation", "zoom", "shift", "brightness", "contrast"), 0)
GOLDEN = Path(__file__).parent / "golden"


def test_evaluated_images_keep_order_and_values():
    rows = np.array([7, 2, 9, 0, 4])
    batches = ImageBatches(PIXELS, LABELS, rows, CONFIG)
    images, labels = (np.concatenate(part) for part in zip(batches[0], batches[1], strict=True))
    assert len(batches) == 2
    assert images.dtype == labels.dtype == np.float32
    assert np.array_equal(images[..., 0], PIXELS[rows])
    assert np.array_equal(labels[:, 0], LABELS[rows])


def test_each_epoch_differs_and_can_be_repeated():
    epochs = []
    for epoch in (1, 2, 1):
        rows = shuffled(np.arange(10), 0, epoch)
        assert sorted(rows) == list(range(10))
        batches = ImageBatches(PIXELS, LABELS, rows, CONFIG, epoch)
        epochs.append(np.concatenate([batches[k][0] for k in range(len(batches))]))
    assert np.array_equal(epochs[0], epochs[2])
    assert not np.array_equal(np.sort(epochs[0], axis=None), np.sort(epochs[1], axis=None))


def test_labels_follow_their_images_through_the_shuffle():
    still = Config(source="phantoms", horizontal_flip=False, **STILL)
    rows = shuffled(np.arange(10), 0, 3)
    assert list(rows) != sorted(rows)
    images, labels = ImageBatches(PIXELS, LABELS, rows, still, epoch=3)[0]
    assert np.array_equal(images[..., 0], PIXELS[rows])
    assert np.array_equal(labels[:, 0], LABELS[rows])


def test_augmentation_keeps_range_type_and_source():
    before = PIXELS[0].copy()
    copies = [augment(PIXELS[0], CONFIG, np.random.default_rng(k)) for k in range(50)]
    assert np.array_equal(PIXELS[0], before)
    assert all(copy.dtype == np.float32 and copy.shape == (48, 48) for copy in copies)
    assert min(copy.min() for copy in copies) >= 0
    assert max(copy.max() for copy in copies) <= 255


def test_flips_are_exact_and_never_upside_down_by_default():
    def copies(**settings):
        config = Config(source="phantoms", **settings, **STILL)
        return {augment(PIXELS[0], config, np.random.default_rng(k)).tobytes() for k in range(60)}

    expected = [PIXELS[0].astype(np.float32), PIXELS[0][:, ::-1].astype(np.float32)]
    assert copies() == {image.tobytes() for image in expected}
    assert len(copies(vertical_flip=True)) == 4


@pytest.mark.parametrize(("setting", "value"), [("rotation", 10), ("zoom", 0.05), ("shift", 0.05)])
def test_geometry_keeps_the_middle(setting, value):
    image = np.zeros((101, 101), np.uint8)
    image[40:61, 40:61] = 200
    config = Config(source="phantoms", **STILL | {setting: value})
    for seed in range(20):
        bright = augment(image, config, np.random.default_rng(seed)) > 100
        assert np.abs(np.argwhere(bright).mean(axis=0) - 50).max() < 6
        assert 0.8 < bright.sum() / 441 < 1.25


def test_augmentation_is_that_of_the_golden_file():
    golden = json.loads((GOLDEN / "augmentation.json").read_text())
    image = reader.fit(reader.read(GOLDEN / golden["picture"]), golden["size"])
    assert hashlib.sha256(image.tobytes()).hexdigest() == golden["fitted_sha256"]
    config = Config(source="phantoms", **golden["settings"])
    still = config.model_copy(update={"brightness": 0, "contrast": 0})
    moved = augment(image, still, np.random.default_rng(golden["generator"])).astype(np.uint8)
    assert hashlib.sha256(moved.tobytes()).hexdigest() == golden["warped_sha256"]
    copy = augment(image, config, np.random.default_rng(golden["generator"]))
    np.testing.assert_allclose(copy[40:44, 40:44], golden["augmented_middle"], atol=0.1)
    assert copy.mean() == pytest.approx(golden["augmented_mean"], abs=1e-3)


def test_padding_stays_black():
    image = np.full((64, 64), 120, np.uint8)
    image[:, :16] = 0
    bright = Config(source="phantoms", **STILL | {"brightness": 0.3}, horizontal_flip=False)
    copies = [augment(image, bright, np.random.default_rng(k)) for k in range(20)]
    assert max(copy[32, 32] for copy in copies) > 140
    assert all((copy[:, :16] == 0).all() and (copy[:, 16:] > 0).all() for copy in copies)


def test_an_epoch_takes_one_variant_of_each_image():
    variants = np.arange(60).reshape(20, 3)
    epochs = [shuffled(variants, 0, epoch) for epoch in (1, 2, 1)]
    assert np.array_equal(epochs[0], epochs[2])
    assert all(sorted(rows // 3) == list(range(20)) for rows in epochs)
    assert len({*(epochs[0] % 3)}) == 3
    assert not np.array_equal(np.sort(epochs[0]), np.sort(epochs[1]))


def test_feature_maps_come_with_the_targets_of_their_row():
    random = np.random.default_rng(5)
    maps = [random.normal(size=(9, side, side, 3)).astype(np.float16) for side in (4, 2)]
    labels, inside = np.arange(9) % 2, random.random((9, 4, 4)) > 0.5
    cells = random.integers(-1, 2, (9, 4, 4)).astype(np.int8)
    batches = FeatureBatches([*maps, inside], [labels, cells], np.array([8, 0, 5, 3]), 3)
    assert len(batches) == 2
    inputs, (label, truth) = batches[1]
    for batch, array in zip(inputs, [*maps, inside], strict=True):
        assert np.array_equal(batch, array[[3]])
    assert label.tolist() == [[1.0]]
    assert truth.dtype == np.float32
    assert np.array_equal(truth, cells[[3]])
    plain = FeatureBatches(maps[:1], [labels], np.arange(2), 3)[0]
    assert [len(part) for part in plain] == [1, 1]


@given(size=st.integers(5, 80), rows=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_grid_cells_share_out_all_pixels(size, rows):
    weight = generators.membership(size, rows)
    np.testing.assert_allclose(weight.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(weight.sum(axis=1), size / rows, rtol=1e-4)


@given(
    shape=st.tuples(st.integers(30, 300), st.integers(30, 300)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    extent=st.tuples(st.floats(0.001, 0.6), st.floats(0.001, 0.6)),
)
@settings(max_examples=60, deadline=None)
def test_covered_cells_are_fractured_and_cells_outside_the_box_are_not(shape, corner, extent):
    left, top = corner[0] * shape[1], corner[1] * shape[0]
    right = min(left + extent[0] * shape[1], shape[1])
    bottom = min(top + extent[1] * shape[0], shape[0])
    marked = generators.draw_boxes(np.array([[left, top, right, bottom]]), shape, 96)
    grid = generators.box_grid(marked, 6)
    covered = (marked > 0).reshape(6, 16, 6, 16).sum(axis=(1, 3))
    assert not grid[covered == 0].any()
    assert (grid[covered > 0.25 * 256] == 1).all()
    assert grid[np.unravel_index(covered.argmax(), covered.shape)] == 1


def test_each_of_several_boxes_has_a_cell_and_no_box_has_none():
    marked = generators.draw_boxes(np.array([[5, 5, 6, 6], [80, 80, 95, 95]]), (96, 96), 96)
    grid = generators.box_grid(marked, 6)
    assert (grid[0, 0], grid[5, 5], grid.sum()) == (1, 1, 2)
    assert not generators.box_grid(np.zeros((96, 96), np.uint8), 6).any()


def test_boxes_are_those_of_the_golden_file():
    golden = json.loads((GOLDEN / "augmentation.json").read_text())["places"]
    shape = golden["height"], golden["width"]
    marked = generators.draw_boxes(np.array(golden["boxes"]), shape, golden["size"])
    assert hashlib.sha256(marked.tobytes()).hexdigest() == golden["mark_sha256"]
    grid = generators.box_grid(marked, golden["rows"])
    assert grid.astype(int).tolist() == golden["fractured"]


def test_cells_of_padding_lie_outside_the_image():
    square = np.ones((75, 75), np.uint8)
    square[:, :20] = 0
    assert generators.inside_grid(square, 5).sum() == 20
    assert not generators.inside_grid(np.zeros((75, 75), np.uint8), 5).any()
