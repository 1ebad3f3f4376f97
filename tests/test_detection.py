"""The free-response curve: marks, matching and sensitivities, each against a plain recount."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fracture_utils.evaluation import detection, plots
from fracture_utils.evaluation.detection import Found

GRID = (24, 24)
LEVELS = st.integers(-3, 3).map(float)


def summits(heat):
    """Plateaus that no neighbour overtops, by flooding: the set of the heights, with repeats."""
    rows, columns = heat.shape
    seen, heights = set(), []
    for start in np.ndindex(heat.shape):
        if start in seen:
            continue
        plateau, edge, overtopped = {start}, [start], False
        while edge:
            row, column = edge.pop()
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    overtopped |= heat[r, c] > heat[start]
                    if heat[r, c] == heat[start] and (r, c) not in plateau:
                        plateau.add((r, c))
                        edge.append((r, c))
        seen |= plateau
        if not overtopped and len(plateau) < heat.size:
            heights.append(heat[start])
    return sorted(heights)


@settings(max_examples=200)
@given(arrays.arrays(float, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=LEVELS))
def test_marks_are_the_plateaus_that_nothing_overtops(heat):
    found = detection.marks(heat)
    assert sorted(found[:, 2]) == summits(heat)
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] < heat.shape).all()


def test_marks_do_not_mind_where_zero_lies():
    heat = np.random.default_rng(0).normal(size=(9, 9))
    plain, sunk = detection.marks(heat), detection.marks(heat - 100)
    np.testing.assert_allclose(plain[:, :2], sunk[:, :2])
    np.testing.assert_allclose(plain[:, 2] - 100, sunk[:, 2])
    assert not len(detection.marks(np.full((9, 9), -4.0, np.float32)))


def recount(found, weights, allowed):
    """Sensitivity for one threshold after the other."""
    heights = {np.inf, *found.lesions[np.isfinite(found.lesions)], *found.false}
    best = 0.0
    for threshold in heights:
        alarms = weights[found.false_pictures[found.false >= threshold]].sum() / weights.sum()
        if alarms <= allowed + 1e-9:
            hits = weights[found.lesion_pictures[found.lesions >= threshold]].sum()
            best = max(best, hits / weights[found.lesion_pictures].sum())
    return best


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 12), st.integers(1, 8))
def test_the_curve_is_a_recount_at_every_threshold(seed, lesions, false, pictures):
    random = np.random.default_rng(seed)
    heights = random.integers(-3, 4, lesions).astype(float)
    heights[random.random(lesions) < 0.3] = -np.inf
    found = Found(
        heights, random.integers(0, pictures, lesions),
        random.integers(-3, 4, false).astype(float), random.integers(0, pictures, false),
    )  # fmt: skip
    weights = random.integers(1, 4, (pictures, 3)).astype(float)
    allowed = np.array([0, 0.2, 0.5, 1, 4])
    shares = detection.free_response(found, weights, allowed)
    expected = [[recount(found, column, f) for column in weights.T] for f in allowed]
    np.testing.assert_allclose(shares, expected)
    assert (np.diff(shares, axis=0) >= 0).all()


def test_a_lesion_is_found_once_and_a_mark_beside_every_box_is_false():
    inside = np.zeros((2, *GRID), bool)
    inside[0, :5, :5] = inside[1, 10:15, 10:15] = True
    points = np.array([[1.0, 1, 3], [2, 3, 7], [20, 20, 5], [23, 0, -2]])
    found = detection.match([points, points[2:3]], [inside, inside[:0]])
    assert list(found.lesions) == [7, -np.inf]
    assert list(found.false) == [5, -2, 5]
    assert list(found.false_pictures) == [0, 0, 1]


def case(count=40):
    """Fractured pictures with a box each, one without any, and as many normal ones."""
    random = np.random.default_rng(3)
    rows = [(f"f{k}", "test", "fractured", f"g{k // 2}", 200, 100) for k in range(count)]
    rows += [(f"n{k}", "test", "normal", f"m{k}", 100, 100) for k in range(count)]
    rows += [("f_unboxed", "test", "fractured", "u", 100, 100)]
    images = pd.DataFrame(rows, columns=["path", "split", "label", "group", "width", "height"])
    corners = random.uniform(0.1, 0.8, (count, 2)) * [200, 100]
    boxes = [(f"f{k}", x, y, x + 20, y + 15) for k, (x, y) in enumerate(corners)]
    return images, pd.DataFrame(boxes, columns=["path", "xmin", "ymin", "xmax", "ymax"])


def peaked(images, boxes, misplace=0.0):
    """Evidence maps, negative everywhere: a bump in the box, or (a share of them) elsewhere."""
    random = np.random.default_rng(4)
    places = (np.mgrid[0:24, 0:24] + 0.5) / 24
    maps = {}
    for row in images.itertuples():
        box = detection.boxes_of(boxes, row.path)
        x, y, height = *random.random(2), -6.0
        if len(box) and random.random() >= misplace:
            x, y = box[0, ::2].mean() / row.width, box[0, 1::2].mean() / row.height
            height = -1.0
        distance = np.hypot(places[1] - x, places[0] - y)
        maps[row.path] = height - 5 * np.minimum(distance, 0.4)
    return maps


def test_good_maps_find_lesions_before_they_raise_false_marks():
    images, boxes = case()
    maps = {"good": peaked(images, boxes), "half": peaked(images, boxes, 0.5)}
    table = detection.curve(maps, images, boxes, 200)
    assert list(table) == list(detection.COLUMNS)
    assert (table["pictures"] == 80).all()  # not the fractured one without a box
    assert (table["lesions"] == 40).all()
    good = table[table["model"] == "good"]
    assert (good["sensitivity"] == 1).all()
    assert good["sensitivity_low"].iloc[0] == pytest.approx(0.912, abs=0.001)
    half = table[table["model"] == "half"].set_index("false_marks")
    assert 0.3 < half.loc[0.25, "sensitivity"] < 0.8
    assert half.loc[0.25, "sensitivity_low"] < half.loc[0.25, "sensitivity"]
    assert half["sensitivity"].is_monotonic_increasing
    assert set(detection.TOLD) <= set(half.index)


def test_without_boxes_there_is_no_curve():
    images, boxes = case(4)
    nothing = detection.curve({"A": peaked(images, boxes)}, images, boxes.head(0), 100)
    assert list(nothing) == list(detection.COLUMNS)
    assert nothing.empty


def test_the_interval_covers_the_true_sensitivity():
    """Lesions of two a group, found together or not: the bootstrap over groups knows it."""
    random, covered = np.random.default_rng(5), 0
    for _ in range(100):
        found = np.repeat(random.random(30) < 0.6, 2)
        lesions = Found(np.where(found, 1.0, -np.inf), np.arange(60), np.empty(0), np.empty(0, int))
        drawn = random.multinomial(30, np.full(30, 1 / 30), 400).T.repeat(2, axis=0)
        low, high = np.percentile(
            detection.free_response(lesions, drawn.astype(float), np.ones(1)), [2.5, 97.5]
        )
        covered += low <= 0.6 <= high
    assert covered >= 88


def test_the_figure_says_what_is_found_at_one_false_mark():
    images, boxes = case()
    maps = {"good": peaked(images, boxes), "half": peaked(images, boxes, 0.5)}
    table = detection.curve(maps, images, boxes, 100)
    scores = pd.DataFrame({"model": ["half", "good"], "kind": "network", "auc": [0.7, 0.9]})
    chart = plots.free_response(table, scores)
    assert chart.caption.startswith("good finds 100 % (95 % interval 91 to 100 %) of 40 boxes")
    assert chart.png()
    assert "No boxes are known" in plots.free_response(table.head(0), scores).caption
