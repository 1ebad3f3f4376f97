"""The format of released weights: small, exact where it says so, and never trusted blindly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fracture_utils.errors import InputError
from fracture_utils.models import released

SHAPES = [(3, 3, 5, 7), (3, 3, 6, 1), (1, 1, 4, 2), (9, 3), (5, 1), (7,), ()]


@given(
    seed=st.integers(0, 2**16),
    shape=st.sampled_from(SHAPES),
    spread=st.sampled_from([1e-6, 0.05, 30.0]),
)
@settings(max_examples=60, deadline=None)
def test_no_weight_moves_by_more_than_half_a_step(tmp_path_factory, seed, shape, spread):
    """The step is taken by brute force, channel by channel."""
    values = np.random.default_rng(seed).normal(scale=spread, size=shape).astype(np.float32)
    path = tmp_path_factory.mktemp("released") / "x.npz"
    released.write(path, {"layer/kernel": values})
    back = released.read(path)["layer/kernel"]
    assert back.shape == values.shape
    assert back.dtype == np.float32
    if values.ndim < 2:
        np.testing.assert_array_equal(back, values)
        return
    depthwise = values.ndim > 2 and shape[-1] == 1
    axis = values.ndim - 2 if depthwise else values.ndim - 1
    for channel in range(shape[axis]):
        one, other = (np.take(array, channel, axis) for array in (values, back))
        step = np.abs(one).max() / 127
        assert np.abs(one - other).max() <= step / 2 * (1 + 1e-5)
        assert np.abs(other).max() == pytest.approx(np.abs(one).max(), rel=1e-5)


def test_a_channel_of_zeros_stays_zero_and_others_keep_their_precision(tmp_path):
    values = np.zeros((3, 3, 2, 3), np.float32)
    values[..., 1], values[..., 2] = 1e-5, 1e5
    released.write(tmp_path / "x.npz", {"kernel": values})
    np.testing.assert_allclose(released.read(tmp_path / "x.npz")["kernel"], values, rtol=1e-6)


def test_the_file_takes_about_a_byte_a_weight_or_where_kernels_are_small_two(tmp_path):
    random = np.random.default_rng(0)
    shapes = {"a": (3, 3, 64, 128), "b": (3, 3, 64, 256)}
    values = {k: random.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
    sizes = {name: kernel.size for name, kernel in values.items()}
    for halved, most in ((0, sizes["a"] + sizes["b"]), (sizes["b"], 2 * sizes["a"] + sizes["b"])):
        released.write(tmp_path / "x.npz", values, halved)
        assert 0.8 * most < (tmp_path / "x.npz").stat().st_size < 1.05 * most
    back = released.read(tmp_path / "x.npz")
    np.testing.assert_allclose(back["a"], values["a"], rtol=2**-10, atol=1e-7)
    assert np.abs(back["b"] - values["b"]).max() > 1e-3


def test_what_is_damaged_or_no_number_is_refused_with_its_name(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match=r"x\.npz is missing or damaged"):
        released.read(path)
    released.write(path, {"kernel": np.ones((2, 2), np.float32)})
    whole = path.read_bytes()
    with pytest.raises(InputError, match="kernel holds values that are no numbers"):
        released.write(path, {"kernel": np.full((2, 2), np.nan)})
    assert path.read_bytes() == whole
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"x\.npz is missing or damaged"):
        released.read(path)
