"""The search for near duplicates on stacks of every size, also where nothing is alike."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from fracture_utils.data import duplicates


def stack(seed: int, count: int, shared: float) -> np.ndarray:
    """Blurred noise (count, SIDE, SIDE) as uint8; `shared` is what all have in common coarsely,
    as all hands have: it makes candidates that the alignment must give up.
    """
    random = np.random.default_rng(seed)
    shape = (duplicates.SIDE, duplicates.SIDE)
    common = ndimage.gaussian_filter(random.normal(size=shape), 5)
    own = ndimage.gaussian_filter(random.normal(size=(count, *shape)), (0, 3, 3)) / 0.094
    mixed = shared * common / common.std() + (1 - shared) * own
    return np.clip(128 + 50 * mixed, 0, 255).astype(np.uint8)


@given(
    seed=st.integers(0, 2**16),
    count=st.integers(0, 12),
    shared=st.sampled_from([0.0, 0.5, 0.7, 0.8, 0.9, 1.0]),
    flat=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_stack_gives_a_sound_table(seed, count, shared, flat):
    thumbnails = stack(seed, count, shared)
    if flat and count:
        thumbnails[0] = 7
    found = duplicates.pairs(thumbnails)
    assert list(found) == duplicates.COLUMNS
    assert (found["first"] < found["second"]).all()
    assert not found.duplicated(["first", "second"]).any()
    assert found["agreement"].ge(duplicates.LEAST_AGREEMENT).all()
    assert set(found[["first", "second"]].to_numpy().ravel()) <= set(range(count))


@given(seed=st.integers(0, 2**16), count=st.integers(2, 12), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_planted_copy_is_found_in_any_company(seed, count, data):
    """Brighter and mirrored, among pictures that are coarsely like it."""
    thumbnails = stack(seed, count, data.draw(st.sampled_from([0.3, 0.6])))
    original, copy = data.draw(st.permutations(range(count)))[:2]
    bright = np.clip(thumbnails[original].astype(int) + 9, 0, 255).astype(np.uint8)
    thumbnails[copy] = bright[:, ::-1]
    found = duplicates.pairs(thumbnails)
    pair = found[(found["first"] == min(original, copy)) & (found["second"] == max(original, copy))]
    assert list(pair["mirrored"]) == [True]


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_the_answer_does_not_depend_on_the_chunks(chunk, monkeypatch):
    """A chunk of one is where every candidate of a chunk is given up most often."""
    thumbnails = stack(3, 24, 0.8)
    thumbnails[20] = np.roll(thumbnails[4], 1, axis=1)
    whole = duplicates.pairs(thumbnails)
    assert len(whole) >= 1
    monkeypatch.setattr(duplicates, "CHUNK", chunk)
    parts = duplicates.pairs(thumbnails)
    assert whole[["first", "second"]].equals(parts[["first", "second"]])


def test_no_pair_is_sought_among_none_or_one():
    for count in (0, 1):
        assert duplicates.pairs(stack(0, count, 0.0)).empty


@pytest.mark.parametrize(
    "of", [duplicates.pairs, duplicates.polarity, duplicates.contrast], ids=lambda of: of.__name__
)
def test_memory_grows_by_less_than_four_thumbnails_a_picture(of):
    def peak(count: int) -> int:
        thumbnails = np.random.default_rng(0).integers(0, 256, (count, 64, 64)).astype(np.uint8)
        tracemalloc.start()
        try:
            of(thumbnails)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = 4 * duplicates.CHUNK, 8 * duplicates.CHUNK  # what grows with the square shows
    assert (peak(many) - peak(few)) / (many - few) < 4 * duplicates.SIDE**2


def test_contrast_is_the_standard_deviation_of_each():
    thumbnails = stack(3, 5, 0.5)
    np.testing.assert_allclose(
        duplicates.contrast(thumbnails), [np.std(one, dtype=float) for one in thumbnails]
    )
    assert duplicates.contrast(thumbnails[:0]).shape == (0,)


@pytest.mark.parametrize("blanks", [0, 2])
def test_polarity_compares_the_cosines_of_the_nearest_also_beside_blank_pictures(blanks):
    thumbnails = stack(3, 24, 0.5)
    thumbnails[5] = 255 - thumbnails[5]
    thumbnails = np.concatenate([thumbnails, np.zeros((blanks, *thumbnails.shape[1:]), np.uint8)])
    every = np.arange(len(thumbnails))
    described = duplicates._descriptors(duplicates._normalised(thumbnails, every), False)
    cosines = described @ described.T
    opposed = (-cosines).max(axis=1)
    np.fill_diagonal(cosines, -np.inf)
    found = duplicates.polarity(thumbnails)
    np.testing.assert_allclose(found, cosines.max(axis=1) - opposed, atol=1e-5)
    assert found.argmin() == 5
