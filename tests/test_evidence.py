"""The evidence head: its mathematics, its places, and that it finds what was planted."""

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from fracture_utils.config import Config
from fracture_utils.data import places
from fracture_utils.data.augmentation import augment, warp
from fracture_utils.models import classifier, evidence, features, heads, heatmaps, precision
from fracture_utils.models.backbones import REGISTRY, Weights

GRIDS = st.tuples(st.integers(1, 5), st.integers(1, 5))


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@given(seed=st.integers(0, 2**16), grid=GRIDS, spread=st.sampled_from([0.1, 5.0, 300.0]))
@settings(max_examples=30, deadline=None)
def test_pooling_is_the_log_sum_exp_of_scipy_over_the_places_inside(seed, grid, spread):
    random = np.random.default_rng(seed)
    logits = random.normal(scale=spread, size=(3, *grid)).astype(np.float32)
    inside = random.random((3, *grid)) < 0.7
    inside[:, 0, 0] = True
    found = numpy(evidence.log_sum_exp(logits, inside.astype(np.float32)))[:, 0]
    expected = [special.logsumexp(one[where]) for one, where in zip(logits, inside, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    logits[~inside] += 50  # what lies in the padding changes nothing
    np.testing.assert_array_equal(
        numpy(evidence.log_sum_exp(logits, inside.astype(np.float32)))[:, 0], found
    )


def test_the_gradient_of_the_pooling_is_the_softmax_over_places():
    tensorflow = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the gradient is taken with TensorFlow's tape")
    logits = np.random.default_rng(1).normal(scale=3, size=(2, 4, 3)).astype(np.float32)
    inside = np.ones_like(logits)
    inside[1, 2:] = 0
    with tensorflow.GradientTape() as tape:
        variable = tensorflow.Variable(logits)
        pooled = evidence.log_sum_exp(variable, inside)
    gradient = tape.gradient(pooled, variable).numpy()
    share = special.softmax(np.where(inside > 0, logits, -np.inf).reshape(2, -1), axis=1)
    np.testing.assert_allclose(gradient.reshape(2, -1), share, atol=1e-6)


@given(seed=st.integers(0, 2**16), grid=GRIDS)
@settings(max_examples=30, deadline=None)
def test_the_losses_are_weighted_cross_entropies_of_what_is_known(seed, grid):
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4, size=(3, *grid)).astype(np.float32)
    truth = random.integers(-1, 2, (3, *grid)).astype(np.float32)
    found = numpy(evidence.place_loss(truth, keras.ops.convert_to_tensor(logits)))
    for one, said, loss in zip(logits, truth, found, strict=True):
        terms = [
            -np.log(special.expit(z)) * evidence.PLACE_WEIGHT if y else -np.log(special.expit(-z))
            for z, y in zip(one.ravel().astype(float), said.ravel(), strict=True)
            if y >= 0
        ]
        assert loss == pytest.approx(np.mean(terms) if terms else 0.0, rel=1e-4, abs=1e-5)
    picture = evidence.picture_loss({0: 0.5, 1: 3.0})
    labels, scores = np.array([[0.0], [1.0]], np.float32), np.array([[2.0], [-1.0]], np.float32)
    expected = [0.5 * np.log1p(np.exp(2)), 3 * np.log1p(np.exp(1))]
    np.testing.assert_allclose(
        numpy(picture(labels, keras.ops.convert_to_tensor(scores))), expected
    )


@given(size=st.integers(5, 80), rows=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_places_share_out_all_pixels(size, rows):
    weight = places.membership(size, rows)
    np.testing.assert_allclose(weight.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(weight.sum(axis=1), size / rows, rtol=1e-4)


@pytest.mark.parametrize("aspect", ["pad", "squash"])
@given(
    shape=st.tuples(st.integers(30, 300), st.integers(30, 300)),
    corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)),
    extent=st.tuples(st.floats(0.001, 0.6), st.floats(0.001, 0.6)),
)
@settings(max_examples=40, deadline=None)
def test_the_place_of_the_middle_of_a_box_is_fractured_and_far_places_are_not(
    aspect, shape, corner, extent
):
    left, top = corner[0] * shape[1], corner[1] * shape[0]
    right = min(left + extent[0] * shape[1], shape[1])
    bottom = min(top + extent[1] * shape[0], shape[0])
    size, rows = 96, 6
    marked = places.mark(np.array([[left, top, right, bottom]]), shape, size, aspect)
    fractured = places.fractured(marked, rows)
    assert fractured.any()
    lit = np.argwhere(marked > 0)
    far = np.ones((rows, rows), bool)
    for row, column in lit // (size // rows):
        far[row, column] = False
    assert not fractured[far].any()
    covered = np.add.reduceat(np.add.reduceat(marked > 0, range(0, 96, 16), 0), range(0, 96, 16), 1)
    assert (fractured[covered > 0.25 * 256] == 1).all()
    assert fractured[np.unravel_index(covered.argmax(), covered.shape)] == 1


def test_each_of_several_boxes_has_a_place_and_no_box_has_none():
    marked = places.mark(np.array([[5, 5, 6, 6], [80, 80, 95, 95]]), (96, 96), 96, "pad")
    fractured = places.fractured(marked, 6)
    assert (fractured[0, 0], fractured[5, 5], fractured.sum()) == (1, 1, 2)
    assert not places.fractured(np.zeros((96, 96), np.uint8), 6).any()


def test_the_graph_and_the_truth_agree_on_what_lies_inside():
    random = np.random.default_rng(2)
    squares = random.integers(1, 255, (4, 75, 75)).astype(np.uint8)
    squares[0, :, :20], squares[1, 60:], squares[2] = 0, 0, 0
    layer = evidence.Inside(5)
    found = numpy(layer(squares[..., None].astype(np.float32)))
    expected = np.array([places.inside(square, 5) for square in squares])
    assert np.array_equal(found > 0, expected)
    assert expected[0].sum() == 20
    assert not expected[2].any()


def test_boxes_are_turned_with_their_picture():
    picture = np.zeros((96, 96), np.uint8)
    picture[20:44, 50:74] = 255
    config = Config(source="phantoms", brightness=0, contrast=0)
    for seed in range(10):
        moved = warp(picture, config, np.random.default_rng(seed))
        seen = augment(picture, config, np.random.default_rng(seed))
        assert np.array_equal(moved.astype(np.float32), seen)


SIZE, ROWS, COUNT = 128, 8, 256


@pytest.fixture(scope="module")
def planted():
    """Maps of noise (early 8 x 8, last 4 x 4 places) of which half hold a lesion: a direction of
    the channels at one place of both stages. Every place of the grid is hit in training and in
    validation; of every eighth lesion no box is known.
    """
    random = np.random.default_rng(3)
    early = random.normal(size=(COUNT, ROWS, ROWS, 512)).astype(np.float16)
    last = random.normal(size=(COUNT, ROWS // 2, ROWS // 2, 1024)).astype(np.float16)
    labels, place = np.arange(COUNT) % 2, np.arange(COUNT) // 4
    truth = np.zeros((COUNT, ROWS, ROWS), np.int8)
    directions = [random.normal(size=channels) for channels in (512, 1024)]
    for number in np.flatnonzero(labels):
        row, column = divmod(place[number], ROWS)
        early[number, row, column] += (0.6 * directions[0]).astype(np.float16)
        last[number, row // 2, column // 2] += (0.2 * directions[1]).astype(np.float16)
        truth[number, row, column] = 1
    truth[1::16] = evidence.UNKNOWN
    splits = np.where(np.arange(COUNT) % 4 < 2, "train", "validation")
    return [early, last], labels, splits, truth, place


@pytest.fixture(scope="module")
def fitted(planted):
    """An evidence head that learned the lesions, on a MobileNet that nobody asks."""
    maps, labels, splits, truth, _ = planted
    config = Config(source="phantoms", image_size=SIZE, batch_size=16, views=1, place_epochs=8)
    body = classifier.body(REGISTRY["MobileNet"], Weights("random"), config, "float32")
    model = classifier.with_head(body, "evidence", config)
    seen = features.views(COUNT, np.flatnonzero(splits == "train"), config)
    known = truth, np.ones((COUNT, ROWS, ROWS), bool)
    history = heads.fit_evidence(model, maps, known, seen, labels, splits, config, lambda *_: None)
    return model, history, config


def test_a_planted_lesion_is_found_and_pointed_at_wherever_it_lies(planted, fitted):
    maps, labels, splits, _, place = planted
    model, history, _ = fitted
    assert max(row["val_auc"] for row in history) > 0.99
    rows = np.flatnonzero((splits == "validation") & (labels == 1))
    assert set(place[rows]) == set(range(ROWS**2))
    head = keras.Model(model.get_layer("places").input, model.get_layer("places").output)
    heat = head.predict([array[rows].astype(np.float32) for array in maps], verbose=0)
    hits = heat.reshape(len(rows), -1).argmax(1) == place[rows]
    assert hits.mean() > 0.9


def test_truth_knows_normal_places_boxes_and_nothing_of_a_fracture_without_one():
    random = np.random.default_rng(4)
    pixels = random.integers(60, 120, (3, 64, 64)).astype(np.uint8)
    pixels[:, :, :16] = 0
    normal, boxed = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    boxed[20:40, 30:50] = places.MARK
    config = Config(source="phantoms", views=2, rotation=0, zoom=0, shift=0)
    seen = features.views(3, np.array([0, 1, 2]), config)
    known, inside = features.truth(seen, pixels, [normal, boxed, None].__getitem__, 4, config)
    assert known.shape == (6, 4, 4)
    assert (known[~inside] == evidence.UNKNOWN).all()
    assert not inside[:3, :, 0].any()
    assert inside[:3, :, 1:].all()
    for normal_row, boxed_row, unknown_row in ((0, 1, 2), (3, 4, 5)):
        assert (known[normal_row][inside[normal_row]] == 0).all()
        assert (known[boxed_row] == 1).sum() == 2
        assert (known[unknown_row] == evidence.UNKNOWN).all()
    mirrored = known[4][:, ::-1] if not inside[4, 0, 3] else known[4]
    assert np.array_equal(mirrored, known[1])  # turned with its picture


def test_the_logit_pools_the_places_and_padding_does_not_matter(fitted):
    model, _, config = fitted
    pixels = np.random.default_rng(5).integers(60, 120, (6, SIZE, SIZE)).astype(np.uint8)
    pixels[:, :, :40] = 0
    seen = heatmaps.look(heatmaps.explaining(model), pixels, np.arange(6), config)
    gain, offset = model.get_layer("logit").get_weights()
    for row in range(6):
        inside = places.inside(pixels[row], ROWS)
        assert inside.sum() == ROWS * (ROWS - 2)
        expected = gain * special.logsumexp(seen.maps[row][inside]) + offset
        assert seen.logits[row] == pytest.approx(expected, abs=1e-3)
    assert model.output.dtype == "float32"
    assert seen.features.shape == (6, 1024)


@pytest.mark.parametrize("arithmetic", ["mixed_bfloat16", "graph_bfloat16"])
def test_sixteen_bits_do_not_tie_the_logits_of_the_evidence_head(arithmetic):
    config = Config(source="phantoms", image_size=64, batch_size=8)
    pixels = np.random.default_rng(6).integers(0, 255, (60, 64, 64)).astype(np.uint8)
    body = classifier.body(REGISTRY["MobileNet"], Weights("random"), config, arithmetic)
    classifier.adapt_normalisation(body, [pixels[..., None].astype(np.float32)])
    model = classifier.with_head(body, "evidence", config)
    logits = model.predict(pixels[..., None].astype(np.float32), verbose=0)[:, 0]
    assert logits.dtype == np.float32
    assert len(np.unique(logits)) == len(logits)
    for name in ("maps", "inside", "places", "logit"):
        assert model.get_layer(name).compute_dtype == "float32", name
    precision.apply("float32")


def test_a_trained_evidence_head_survives_saving(fitted, tmp_path):
    model, _, config = fitted
    picture = np.full((1, SIZE, SIZE, 1), 99, np.float32)
    before = model.predict(picture, verbose=0)
    model.save_weights(tmp_path / "x.weights.h5")
    again = classifier.build(
        REGISTRY["MobileNet"], Weights("random"), config, "float32", "evidence"
    )
    classifier.load(again, tmp_path / "x.weights.h5")
    np.testing.assert_allclose(again.predict(picture, verbose=0), before, rtol=1e-5)
    assert classifier.head_of(again) == "evidence"


def test_one_view_of_each_picture_is_drawn_and_others_in_other_epochs():
    config = Config(source="phantoms", views=3)
    train = np.array([1, 3, 4])
    seen = features.views(6, train, config)
    assert list(seen.picture) == [0, 1, 2, 3, 4, 5, 1, 3, 4, 1, 3, 4]
    drawn = [features.drawn(seen, train, config, epoch) for epoch in range(30)]
    assert all(list(seen.picture[rows]) == [1, 3, 4] for rows in drawn)
    assert {row for rows in drawn for row in rows} == {1, 3, 4, 6, 7, 8, 9, 10, 11}
    pd.testing.assert_series_equal(
        pd.Series(drawn[3]), pd.Series(features.drawn(seen, train, config, 3))
    )
