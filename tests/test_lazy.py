"""Arrays that are not held say the same as those that are."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fracture_utils import files, lazy
from fracture_utils.evaluation import localisation


@given(
    st.dictionaries(
        st.text("abcdefgh_ é", min_size=1, max_size=30),
        arrays.arrays(
            st.sampled_from([np.float32, np.float16, np.uint8, np.int64]),
            arrays.array_shapes(min_dims=1, max_dims=4, max_side=5),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_rows_are_those_of_the_whole_array(tmp_path_factory, stored):
    path = tmp_path_factory.mktemp("lazy") / "stored.npz"
    files.write_arrays(path, {"about": "é" * 7}, stored)
    whole = files.read_arrays(path)[1]
    for name, array in whole.items():
        row = lazy.rows(path, name)
        for k in range(len(array)):
            np.testing.assert_array_equal(row(k), array[k])
            assert row(k).dtype == array.dtype
        mapped = lazy.mapped(path, name)
        np.testing.assert_array_equal(mapped, array)
        assert mapped.dtype == array.dtype and not mapped.flags.writeable


def test_nothing_is_made_before_it_is_asked_for():
    asked = []
    seen = lazy.Lazy(["a", "b"], lambda k: asked.append(k) or np.full(2, k))
    assert list(seen) == ["a", "b"] and len(seen) == 2 and "b" in seen and not asked
    assert seen["b"][0] == 1 and asked == [1]
    with pytest.raises(KeyError):
        seen["c"]


def test_ensembles_of_lazy_maps_are_those_of_held_ones_and_hold_nothing():
    random, paths = np.random.default_rng(0), ["x", "y", "z"]
    held = {name: dict(zip(paths, random.normal(size=(3, 4, 4)), strict=True)) for name in "AB"}
    asked = []

    def of(name):
        return lazy.Lazy(paths, lambda k: asked.append(name) or held[name][paths[k]])

    made = pd.DataFrame({"model": ["both", "both"], "member": ["A", "B"]})
    found = localisation.with_ensembles({"A": of("A"), "B": of("B")}, made)
    assert list(found) == ["A", "B", "both"] and list(found["both"]) == paths and not asked
    for path in paths:
        expected = localisation.combine([held["A"][path], held["B"][path]])
        np.testing.assert_array_equal(found["both"][path], expected)
    assert len(asked) == 6
