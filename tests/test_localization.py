"""Pointing game and its controls, against simulations and plain recounts."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from fracture_utils import tables
from fracture_utils.evaluation import comparison, intervals, localization
from fracture_utils.evaluation.localization import ASSESSMENTS

GRID = (64, 64)
EMPTY = pd.DataFrame(columns=["path", "xmin", "ymin", "xmax", "ymax"])


def case(count=60, centered=False):
    """Images of odd shapes with a box each, in twenty groups, and normal ones without."""
    random = np.random.default_rng(0)
    rows, boxes = [], []
    for k in range(count):
        width, height = int(random.integers(200, 300)), int(random.integers(200, 300))
        x, y = (0.5, 0.5) if centered else random.uniform(0.3, 0.7, 2)
        rows.append((f"test/fractured/{k}.png", "test", "fractured", f"g{k % 20}", width, height))
        box = np.array([x - 0.1, y - 0.1, x + 0.1, y + 0.1]) * [width, height, width, height]
        boxes.append((rows[-1][0], *box))
    rows += [(f"test/normal/{k}.png", "test", "normal", f"n{k}", 100, 80) for k in range(9)]
    rows += [("train/fractured/a.png", "train", "fractured", "t", 100, 80)]
    boxes += [("train/fractured/a.png", 0, 0, 50, 50), ("test/normal/1.png", 0, 0, 50, 50)]
    images = pd.DataFrame(rows, columns=["path", "split", "label", "group", "width", "height"])
    return images, pd.DataFrame(boxes, columns=["path", "xmin", "ymin", "xmax", "ymax"])


def peaked(row, box, at=None):
    """A map that peaks at the center of the box, or `at` shares of width and height."""
    x, y = at or ((box[0] + box[2]) / 2 / row.width, (box[1] + box[3]) / 2 / row.height)
    rows, columns = (np.mgrid[0:64, 0:64] + 0.5) / 64
    return -np.hypot(columns - x, rows - y)


def drawn(images, boxes, at=None):
    return {
        row.path: peaked(row, [0, 0, 1, 1] if row.label == "normal" else box[0], at)
        for row in images.itertuples()
        if len(box := localization.boxes_of(boxes, row.path)) or row.label == "normal"
    }


def located(maps, images, boxes, randomized=(), resamples=200):
    return localization.table(maps, images, boxes, dict(randomized), resamples)


def test_good_random_and_central_maps_are_assessed_correctly():
    images, boxes = case()
    random = np.random.default_rng(1)
    blind = {path: random.random(GRID) for path in images["path"]}
    maps = {
        "good": drawn(images, boxes), "blind": blind, "central": drawn(images, boxes, (0.5, 0.5)),
        "corner": drawn(images, boxes, (0.01, 0.01)),
    }  # fmt: skip
    table = located(maps, images, boxes, {"good": 0.1}).set_index("model")
    assert list(table.reset_index()) == tables.columns("localization")
    assert (table["images"] == 60).all()
    assert (table["boxes"] == 60).all()
    assert table.loc["good", "hit_rate"] == 1
    limits = intervals.wilson(np.ones(60, bool), np.arange(60) % 20)
    assert tuple(table.loc["good", [f"hit_rate{end}" for end in intervals.ENDS]]) == limits
    assert table.loc["good", "p_center"] < 0.001
    assert table.loc["good", "assessment"] == ASSESSMENTS[0]
    assert table.loc["blind", "assessment"] == ASSESSMENTS[2]
    assert table.loc["good", "p_permuted"] == pytest.approx(1 / 201)
    assert (
        table.loc["central", "assessment"] == ASSESSMENTS[2]
    )  # no better than another image's map
    assert table.loc["central", "p_permuted"] == 1
    assert table.loc["corner", "hit_rate"] == 0
    assert table.loc["corner", "hit_rate_high"] > 0
    assert table["chance"].iloc[0] == pytest.approx(0.27**2, abs=0.015)
    assert table.loc["blind", "hit_rate"] == pytest.approx(0.27**2, abs=0.1)
    assert table.loc["central", "hit_rate"] == table.loc["central", "center"]
    assert table.loc["good", "randomized_correlation"] == 0.1
    assert np.isnan(table.loc["blind", "randomized_correlation"])
    again = located(maps, images, boxes, {"good": 0.1}).set_index("model")
    pd.testing.assert_frame_equal(table, again)


def test_maps_no_better_than_the_center_are_above_permuted_maps_only():
    images, boxes = case(centered=True)
    random = np.random.default_rng(2)
    corner = set(random.permutation(60)[:30])
    for k in corner:  # half of the boxes lie elsewhere, and the maps know which half
        boxes.iloc[k, 1:] = [0, 0, 40, 40]
    maps = {
        path: peaked(row, [0, 0, 1, 1], (0.05, 0.05) if k in corner else (0.95, 0.95))
        for k, (path, row) in enumerate(images.set_index("path", drop=False).iterrows())
    }
    row = located({"half": maps}, images, boxes).iloc[0]
    assert row["hit_rate"] == row["center"] == 0.5
    assert row["permuted"] == pytest.approx(0.25, abs=0.05)
    assert row["p_permuted"] < 0.01
    assert row["p_center"] > 0.4
    assert row["assessment"] == ASSESSMENTS[1]


def test_both_controls_keep_their_significance_level():
    """Patients of three images, whose maps and boxes are alike: 5 % of tests may be wrong."""
    random, wrong = np.random.default_rng(7), np.zeros(2)
    groups = np.repeat(np.arange(15), 3)
    for run in range(200):
        peaks = np.repeat(random.integers(0, 4, (15, 2)), 3, axis=0)
        near = np.zeros((45, 4, 4), bool)
        boxes = np.repeat(random.integers(0, 4, (15, 2)), 3, axis=0)
        near[np.arange(45), boxes[:, 0]] = True
        hits = near[np.arange(45), peaks[:, 0], peaks[:, 1]]
        draws = localization.permute(peaks, near, groups, 200, run)
        center = near[:, 2, 2]
        beaten = (1 + np.sum(draws >= hits.mean() - 1e-9)) / 201
        wrong += [beaten < 0.05, comparison.paired(hits, center, groups) < 0.05]
    assert (wrong / 200 < 0.09).all()


def test_maps_worse_than_the_center_are_not_above_it():
    """The test is two-sided."""
    images, boxes = case(centered=True)
    maps = drawn(images, boxes)
    for path in images["path"][: len(boxes) // 2 : 2]:
        maps[path] = maps[path][::-1, ::-1].copy()
        maps[path][0, 0] = 1
    row = located({"A": maps}, images, boxes).iloc[0]
    assert row["hit_rate"] < row["center"]
    assert row["p_center"] < 0.05
    assert row["assessment"] != ASSESSMENTS[0]


def test_exchanging_groups_of_one_size_is_a_permutation():
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(4), 2))
    near = np.zeros((8, 8, 1), bool)
    near[np.arange(8), np.arange(8)] = True  # image k is hit only by the map of image k
    peaks = np.column_stack([np.arange(8), np.zeros(8, int)])
    rates = localization.permute(peaks, near, groups, 4000, 1)
    assert set(np.round(rates * 8)) == {0, 2, 4, 8}  # groups at home: 0, 1, 2 or all 4
    assert rates.mean() == pytest.approx(1 / 4, abs=0.01)


def test_without_boxes_or_maps_the_table_is_empty():
    images, boxes = case()
    nothing = located({"A": drawn(images, boxes)}, images, EMPTY)
    assert list(nothing) == tables.columns("localization")
    assert nothing.empty
    assert located({}, images, boxes).empty


@given(
    st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 1), st.floats(0.02, 1),
    st.integers(20, 3000), st.integers(20, 3000),
)  # fmt: skip
def test_the_mask_of_a_box_has_its_position_and_area(x, y, wide, high, width, height):
    right, bottom = min(1, x + wide), min(1, y + high)
    image = pd.Series({"width": width, "height": height})
    box = np.array([[x * width, y * height, right * width, bottom * height]])
    mask = localization.inside_boxes(box, image, GRID)
    assert abs(mask.mean() - (right - x) * (bottom - y)) < 0.04
    assert mask[int((y + bottom) / 2 * 63.99), int((x + right) / 2 * 63.99)]


def test_a_tiny_box_is_one_cell_and_two_boxes_are_a_union():
    image = pd.Series({"width": 1000, "height": 500})
    tiny = np.array([[500.0, 250, 501, 251]])
    assert localization.inside_boxes(tiny, image, GRID).sum() == 1
    assert localization.inside_boxes(tiny, image, GRID, 0.1).mean() == pytest.approx(
        0.2 * 0.4, abs=0.02
    )
    twice = np.array([[0.0, 0, 500, 500], [0, 0, 500, 500]])
    assert localization.inside_boxes(twice, image, GRID).mean() == 0.5


def test_a_plateau_peaks_at_its_center():
    heat = np.zeros(GRID)
    heat[10:21, 0:11] = 1
    inside = np.zeros(GRID, bool)
    inside[15, 5] = True
    assert inside[tuple(localization.peak(heat))]


def test_a_map_relative_to_the_threshold_peaks_at_the_log_odds_of_its_image():
    heat, point = np.array([[-1.0, 4.0], [3.0, 0.0]]), {"slope": 0.5, "threshold": 0.5}
    above = localization.relative_to_threshold(heat, special.expit(2), point)
    np.testing.assert_allclose(above, [[-0.5, 2], [1.5, 0]], atol=1e-9)
    assert localization.relative_to_threshold(heat, 0.2, point | {"threshold": 0.3}).max() < 0
    assert np.isfinite(localization.relative_to_threshold(heat, 1.0, point)).all()
