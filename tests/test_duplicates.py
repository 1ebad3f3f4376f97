"""Near duplicates in stacks of every size, also where no two images are alike."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fracture_utils.data import duplicates


def stack(seed: int, count: int, shared: float) -> np.ndarray:
    """Blurred noise, uint8 (count, SIDE, SIDE); `shared` is the weight of the coarse structure in
    common, as of hands: it makes candidates whose registration must be given up.
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
    pairs = duplicates.pairs(thumbnails)
    assert list(pairs) == duplicates.COLUMNS
    assert (pairs["first"] < pairs["second"]).all()
    assert not pairs.duplicated(["first", "second"]).any()
    assert pairs["agreement"].ge(duplicates.MIN_AGREEMENT).all()
    assert set(pairs[["first", "second"]].to_numpy().ravel()) <= set(range(count))


@given(seed=st.integers(0, 2**16), count=st.integers(2, 12), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_planted_copy_is_detected_among_any_others(seed, count, data):
    """Brighter and mirrored, among images that resemble it coarsely."""
    thumbnails = stack(seed, count, data.draw(st.sampled_from([0.3, 0.6])))
    original, copy = data.draw(st.permutations(range(count)))[:2]
    bright = np.clip(thumbnails[original].astype(int) + 9, 0, 255).astype(np.uint8)
    thumbnails[copy] = bright[:, ::-1]
    pairs = duplicates.pairs(thumbnails).set_index(["first", "second"])
    assert pairs.loc[(min(original, copy), max(original, copy)), "mirrored"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_smallest_sets(count):
    assert len(duplicates.pairs(np.zeros((count, 64, 64), np.uint8))) == max(0, count - 1)
    assert duplicates.pairs(stack(0, count, 0.0)).empty


def test_many_equal_images_do_not_hide_a_near_one():
    random = np.random.default_rng(0)
    small = [Image.fromarray(random.integers(0, 255, (12, 12)).astype(np.uint8)) for _ in range(30)]
    images = [image.resize((200, 200), Image.Resampling.BICUBIC) for image in small]
    images += [*[images[0]] * 12, images[0].crop((5, 5, 195, 195))]
    squares = [image.resize((64, 64), Image.Resampling.BILINEAR) for image in images]
    thumbnails = np.stack([np.asarray(square) for square in squares])
    clusters = duplicates.clusters(duplicates.pairs(thumbnails), len(thumbnails))
    assert len(set(clusters[[0, *range(30, 43)]])) == 1
    assert len(set(clusters)) == 30


def test_memory_grows_by_less_than_four_thumbnails_an_image():
    def peak(count: int) -> int:
        thumbnails = np.random.default_rng(0).integers(0, 256, (count, 64, 64)).astype(np.uint8)
        tracemalloc.start()
        try:
            duplicates.pairs(thumbnails)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = 1024, 2048  # growth with the square of the number would show
    assert (peak(many) - peak(few)) / (many - few) < 4 * duplicates.SIDE**2
