"""Localisation: the pointing game, chance, intervals, verdicts; the gallery; the two figures."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fracture_utils.evaluation import calibration, detection, gallery, localisation, plots
from fracture_utils.evaluation.localisation import CENTRE, CHANCE, POINTS
from fracture_utils.evaluation.predictions import with_kind

GRID = (64, 64)
EMPTY = pd.DataFrame(columns=["path", "xmin", "ymin", "xmax", "ymax"])


def case(count=60, centred=False):
    """Images of odd shapes with a box each, in twenty groups, and normal ones without."""
    random = np.random.default_rng(0)
    rows, boxes = [], []
    for k in range(count):
        width, height = int(random.integers(200, 300)), int(random.integers(200, 300))
        x, y = (0.5, 0.5) if centred else random.uniform(0.3, 0.7, 2)
        rows.append((f"test/fractured/{k}.png", "test", "fractured", f"g{k % 20}", width, height))
        box = np.array([x - 0.1, y - 0.1, x + 0.1, y + 0.1]) * [width, height, width, height]
        boxes.append((rows[-1][0], *box))
    rows += [(f"test/normal/{k}.png", "test", "normal", f"n{k}", 100, 80) for k in range(9)]
    rows += [("train/fractured/a.png", "train", "fractured", "t", 100, 80)]
    boxes += [("train/fractured/a.png", 0, 0, 50, 50), ("test/normal/1.png", 0, 0, 50, 50)]
    images = pd.DataFrame(rows, columns=["path", "split", "label", "group", "width", "height"])
    return images, pd.DataFrame(boxes, columns=["path", "xmin", "ymin", "xmax", "ymax"])


def peaked(row, box, at=None):
    """A map that peaks at the middle of the box, or `at` shares of width and height."""
    x, y = at or ((box[0] + box[2]) / 2 / row.width, (box[1] + box[3]) / 2 / row.height)
    rows, columns = (np.mgrid[0:64, 0:64] + 0.5) / 64
    return -np.hypot(columns - x, rows - y)


def drawn(images, boxes, at=None):
    return {
        row.path: peaked(row, [0, 0, 1, 1] if row.label == "normal" else box[0], at)
        for row in images.itertuples()
        if len(box := localisation.boxes_of(boxes, row.path)) or row.label == "normal"
    }


def located(maps, images, boxes, randomised=(), resamples=200):
    """The localisation table, with the free-response curve that it quotes."""
    froc = detection.curve(maps, images, boxes, resamples)
    return localisation.table(maps, images, boxes, dict(randomised), froc, resamples)


def test_good_random_and_central_maps_get_what_they_deserve():
    images, boxes = case()
    random = np.random.default_rng(1)
    blind = {path: random.random(GRID) for path in images["path"]}
    maps = {
        "good": drawn(images, boxes), "blind": blind, "central": drawn(images, boxes, (0.5, 0.5)),
        "corner": drawn(images, boxes, (0.01, 0.01)),
    }  # fmt: skip
    table = located(maps, images, boxes, {"good": 0.1}).set_index("model")
    assert list(table.reset_index()) == list(localisation.COLUMNS)
    assert (table["pictures"] == 60).all()
    assert (table["boxes"] == 60).all()
    assert table.loc["good", "hit_rate"] == 1
    assert table.loc["good", "hit_rate_low"] == pytest.approx(0.94, abs=0.01)
    assert table.loc["good", "verdict"] == POINTS
    assert table.loc["good", "energy"] > 2 * table.loc["good", "area"]
    assert table.loc["blind", "energy"] == pytest.approx(table.loc["blind", "area"], abs=0.01)
    assert table.loc["blind", "verdict"] == CHANCE
    assert table.loc["good", "energy_ratio"] == pytest.approx(
        table.loc["good", "energy"] / table.loc["good", "area"]
    )
    assert table.loc["good", "energy_ratio_low"] > 2
    assert table.loc["blind", "energy_ratio_low"] < 1.05
    assert table.loc["good", "p_swapped"] == pytest.approx(1 / 201)
    assert table.loc["good", "found_at_1"] == 1
    assert table.loc["central", "verdict"] == CHANCE  # no better than another picture's map
    assert table.loc["central", "p_swapped"] == 1
    assert table.loc["corner", "hit_rate"] == 0
    assert table.loc["corner", "hit_rate_high"] > 0
    assert table["area"].iloc[0] == pytest.approx(0.04, abs=0.005)
    assert table["chance"].iloc[0] == pytest.approx(0.27**2, abs=0.015)
    assert table.loc["blind", "hit_rate"] == pytest.approx(0.27**2, abs=0.1)
    assert table.loc["central", "hit_rate"] == table.loc["central", "centre"]
    assert table.loc["good", "randomised_correlation"] == 0.1
    assert np.isnan(table.loc["blind", "randomised_correlation"])
    again = located(maps, images, boxes, {"good": 0.1}).set_index("model")
    pd.testing.assert_frame_equal(table, again)


def test_maps_that_are_no_better_than_the_centre_are_not_taken_for_finding_fractures():
    images, boxes = case(centred=True)
    random = np.random.default_rng(2)
    corner = set(random.permutation(60)[:30])
    for k in corner:  # half of the boxes lie elsewhere, and the maps know which half
        boxes.iloc[k, 1:] = [0, 0, 40, 40]
    maps = {
        path: peaked(row, [0, 0, 1, 1], (0.05, 0.05) if k in corner else (0.95, 0.95))
        for k, (path, row) in enumerate(images.set_index("path", drop=False).iterrows())
    }
    row = located({"half": maps}, images, boxes).iloc[0]
    assert row["hit_rate"] == row["centre"] == 0.5
    assert row["swapped"] == pytest.approx(0.25, abs=0.05)
    assert row["p_swapped"] < 0.01
    assert row["p_centre"] > 0.4
    assert row["verdict"] == CENTRE
    assert "always pointing at the centre 50%" in localisation.warning(pd.DataFrame([row]), "half")


def test_swapped_maps_and_a_middle_that_serves_as_well_are_rarely_beaten_by_chance():
    """Patients of three pictures, whose maps and boxes are alike: 5 % of verdicts may be wrong."""
    random, wrong = np.random.default_rng(7), np.zeros(2)
    groups = np.repeat(np.arange(15), 3)
    for run in range(200):
        peaks = np.repeat(random.integers(0, 4, (15, 2)), 3, axis=0)
        near = np.zeros((45, 4, 4), bool)
        boxes = np.repeat(random.integers(0, 4, (15, 2)), 3, axis=0)
        near[np.arange(45), boxes[:, 0]] = True
        hits = near[np.arange(45), peaks[:, 0], peaks[:, 1]]
        draws = localisation.swap(peaks, near, groups, 200, run)
        middle = near[:, 2, 2]
        beaten = (1 + np.sum(draws >= hits.mean() - 1e-9)) / 201
        wrong += [beaten < 0.05, localisation.beyond(hits, middle, groups, 200, run) < 0.05]
    assert (wrong / 200 < 0.09).all()


def test_the_paired_test_against_the_middle_is_the_sign_test_on_groups():
    """All groups better by as much: of the 2^k flips only one gets as far."""
    hits, middle = np.ones(16, bool), np.zeros(16, bool)
    groups = np.repeat(np.arange(8), 2)
    p = localisation.beyond(hits, middle, groups, 20_000, 0)
    assert p == pytest.approx(2**-8, abs=0.002)
    assert localisation.beyond(middle, hits, groups, 100, 0) == 1
    assert localisation.beyond(hits, hits, groups, 100, 0) == 1


def test_a_swap_of_whole_groups_is_a_permutation_where_they_are_of_one_size():
    random = np.random.default_rng(0)
    groups = random.permutation(np.repeat(np.arange(4), 2))
    near = np.zeros((8, 8, 1), bool)
    near[np.arange(8), np.arange(8)] = True  # picture k is hit only by the map of picture k
    peaks = np.column_stack([np.arange(8), np.zeros(8, int)])
    rates = localisation.swap(peaks, near, groups, 4000, 1)
    assert set(np.round(rates * 8)) == {0, 2, 4, 8}  # groups at home: 0, 1, 2 or all 4
    assert rates.mean() == pytest.approx(1 / 4, abs=0.01)


def test_captions_warn_unless_the_maps_were_checked_and_point():
    images, boxes = case()
    maps = {"good": drawn(images, boxes), "corner": drawn(images, boxes, (0.01, 0.01))}
    table = located(maps, images, boxes)
    assert localisation.warning(table, "good") == ""
    assert "do not read these maps" in localisation.warning(table, "corner")
    nothing = located(maps, images, EMPTY)
    assert list(nothing) == list(localisation.COLUMNS)
    assert localisation.warning(nothing, "good").startswith("Unchecked")


@given(
    st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.02, 1), st.floats(0.02, 1),
    st.integers(20, 3000), st.integers(20, 3000),
)  # fmt: skip
def test_the_mask_of_a_box_has_its_place_and_area(x, y, wide, high, width, height):
    right, bottom = min(1, x + wide), min(1, y + high)
    picture = pd.Series({"width": width, "height": height})
    box = np.array([[x * width, y * height, right * width, bottom * height]])
    mask = localisation.inside_boxes(box, picture, GRID)
    assert abs(mask.mean() - (right - x) * (bottom - y)) < 0.04
    assert mask[int((y + bottom) / 2 * 63.99), int((x + right) / 2 * 63.99)]


def test_a_tiny_box_is_one_place_and_two_boxes_are_a_union():
    picture = pd.Series({"width": 1000, "height": 500})
    tiny = np.array([[500.0, 250, 501, 251]])
    assert localisation.inside_boxes(tiny, picture, GRID).sum() == 1
    assert localisation.inside_boxes(tiny, picture, GRID, 0.1).mean() == pytest.approx(
        0.2 * 0.4, abs=0.02
    )
    twice = np.array([[0.0, 0, 500, 500], [0, 0, 500, 500]])
    assert localisation.inside_boxes(twice, picture, GRID).mean() == 0.5


def test_a_plateau_points_at_its_middle_and_a_flat_map_says_nothing():
    heat = np.zeros(GRID)
    heat[10:21, 0:11] = 1
    inside = np.zeros(GRID, bool)
    inside[15, 5] = True
    assert inside[tuple(localisation.peak(heat))]
    assert localisation.energy(np.full(GRID, 0.3), inside) == inside.mean()
    assert not localisation.positive(np.full(GRID, -7.3, np.float16)).any()


def test_the_ensemble_map_is_the_mean_of_standardised_maps():
    random = np.random.default_rng(0)
    one, other = random.normal(size=(2, 64, 64))
    both = localisation.combine([100 * one + 5, other])
    np.testing.assert_allclose(both, localisation.combine([one, other]), atol=1e-4)
    np.testing.assert_allclose(localisation.combine([one, np.ones(GRID)]) * 2,
                               (one - one.mean()) / one.std(), atol=1e-4)  # fmt: skip
    predictions = answers({"A": [2, 1, -1, -2], "B": [2, 1, -1, -2], "C": [-1, 1, -1, 1]})
    maps = {name: {"1": one, "2": other} for name in "ABC"}
    found = localisation.with_ensembles(maps, calibration.members(predictions))
    assert list(found) == ["A", "B", "C", "Ensemble"]
    assert list(
        localisation.with_ensembles({"A": maps["A"]}, calibration.members(predictions, ["A"]))
    ) == ["A"]


def answers(logits):
    """Predictions of some models for two fractured and two normal pictures a split."""
    rows = [
        (f"{split}{k}", f"g{split}{k}", ("fractured", "normal")[k // 2], split, model, logit)
        for model, values in logits.items()
        for split in ("validation", "test")
        for k, logit in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["path", "group", "label", "split", "model", "logit"])
    probability = 1 / (1 + np.exp(-table["logit"]))
    decision = np.where(probability >= 0.5, "fractured", "normal")
    return with_kind(table).assign(probability=probability, decision=decision, body_part="hand")


def test_the_gallery_shows_misses_first_and_the_surest_of_each_kind():
    predictions = answers({"A": [-3, -1, 2, -4], "B": [5, 5, 5, 5], "Ensemble": [2, 4, -1, 3]})
    table = gallery.surest(predictions, ["A", "Ensemble"], errors=2)
    assert list(table["model"]) == ["A"] * 4 + ["Ensemble"] * 3
    assert list(table["outcome"])[:4] == ["missed", "missed", "false alarm", "cleared"]
    assert list(table["outcome"])[4:] == ["false alarm", "found", "cleared"]
    assert list(table["path"])[:4] == ["test0", "test1", "test2", "test3"]
    assert list(table["path"])[4:] == ["test3", "test1", "test2"]
    assert list(table)[:6] == ["model", "outcome", "path", "label", "decision", "probability"]
    assert "body_part" in table
    fewest = gallery.surest(predictions, ["A", "no such model"], errors=1)
    assert list(fewest["path"]) == ["test0", "test2", "test3"]


def test_labels_are_suspected_when_all_networks_are_sure_and_against_them():
    predictions = answers({"A": [-3, 3, 3, -3], "B": [-2, 3, 0.1, -3], "Ensemble": [3, 3, 3, 3]})
    table = gallery.suspected(predictions)
    assert sorted(table["path"]) == ["test0", "validation0"]
    assert (table["networks"] == 2).all()
    row = table.iloc[0]
    assert row["least_sure"] == pytest.approx(1 / (1 + np.exp(2)))
    normal = 1 / (1 + np.exp([0.1, -3]))  # what B gives to the pictures labelled normal
    assert row["threshold"] == pytest.approx(1 - normal.mean())
    assert list(table) == [
        *("path", "split", "label", "networks", "probability", "least_sure", "threshold")
    ]
    assert gallery.suspected(answers({"A": [3, 3, -3, -3]})).empty
    one_class = predictions[predictions["label"] == "normal"]
    assert gallery.suspected(one_class).empty
    assert gallery.suspected(predictions.head(0)).empty


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(2, 60), st.floats(0.05, 0.95))
def test_sure_means_what_cleanlab_means(seed, count, share):
    from cleanlab.count import compute_confident_joint, get_confident_thresholds

    random = np.random.default_rng(seed)
    fractured = random.random(count) < share
    fractured[:2] = True, False
    probability = random.beta(1, 1 + random.random() * 8, count).round(random.integers(1, 4))
    doubted, thresholds = gallery.confident(fractured, probability)
    both, labels = np.column_stack([1 - probability, probability]), fractured.astype(int)
    np.testing.assert_allclose(thresholds, get_confident_thresholds(labels, both), atol=3e-6)
    assume((thresholds > 1e-5).all())  # below, cleanlab puts a floor
    found = compute_confident_joint(labels, both, return_indices_of_off_diagonals=True)[1]
    assert set(np.flatnonzero(doubted)) == set(found)


def test_a_fracture_that_is_called_rarer_than_one_in_five_is_no_doubted_label():
    """The base rate is 0.14, and a network that says so of everything has no doubts."""
    fractured = np.arange(100) < 14
    assert not gallery.confident(fractured, np.linspace(0.15, 0.13, 100))[0][20:60].any()
    sure = np.where(fractured, 0.6, 0.05)
    sure[[0, 50]] = 0.01, 0.9
    assert list(np.flatnonzero(gallery.confident(fractured, sure)[0])) == [0, 50]


def test_the_figures_draw_and_name_what_they_show():
    images, boxes = case(12)
    maps = {"good": drawn(images, boxes), "corner": drawn(images, boxes, (0.01, 0.01))}
    table = located(maps, images, boxes)
    chart = plots.localisation(table)
    assert chart.get_suptitle().startswith("Only the heat maps of good clearly beat")
    none = plots.localisation(table.assign(verdict=CHANCE))
    assert none.caption.startswith("No model's heat maps clearly beat pointing at the centre.")
    assert f"good {table['hit_rate'][0]:.3f}" in none.alternative
    assert chart.png()
    assert plots.localisation(located(maps, images, EMPTY)).png()
    rows = images.head(3).assign(
        model="VGG16", decision="normal", probability=0.2, body_part="hand"
    )
    points = pd.DataFrame({"model": ["VGG16", "Ensemble"], "threshold": [0.204, 0.1]})
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (h, w)).astype(np.uint8)
                for h, w in ((900, 700), (40, 90), (64, 64))]  # fmt: skip
    heats, caution = [maps["good"][p] for p in rows["path"]], localisation.warning(table, "corner")
    chart = plots.heatmaps(pictures, heats, boxes, rows, points, caution)
    assert chart.get_suptitle().replace("\n", " ") == caution
    assert plots.heatmaps(pictures, heats, boxes, rows, points).get_suptitle() == ""
    titles = [ax.get_title() for ax in chart.axes]
    assert titles[0] == "fractured: missed\nVGG16 0.200 < 0.204"
    assert titles[1] == "0.png\nhand"
    assert max(chart.axes[0].images[0].get_array().shape) == plots.maps.LARGEST_SHOWN
    assert len(chart.axes[0].patches) == 1
    twice = pd.concat([rows, rows.assign(model="Ensemble", decision="fractured")])
    chart = plots.gallery(pictures * 2, heats * 2, boxes, twice, points)
    titles = [ax.get_title() for ax in chart.axes if ax.get_title()]
    assert len(titles) == 2 * len(rows)
    assert titles[0] == "fractured: missed\nVGG16 0.200 < 0.204\nEnsemble 0.20 ≥ 0.10"


def test_an_overlay_leaves_what_is_below_the_mean_as_it_is():
    picture = np.full((50, 30), 100, np.uint8)
    heat = np.zeros((8, 8))
    heat[:2] = 1
    shown = localisation.overlay(picture, heat)
    assert shown.shape == (50, 30, 3)
    assert (shown[30:] == 100).all()
    assert shown[0, 0, 0] > 150  # warm, where the map is high
