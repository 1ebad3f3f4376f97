"""The out-of-distribution warning: right about photographs, and as rare as promised."""

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from fracture_utils import artifacts
from fracture_utils.config import InputError
from fracture_utils.models import ood

CHECKS = list(ood.WEIGHTS)


def radiograph(random, size=64):
    """A bright bar with a soft edge on black, somewhere."""
    x = np.linspace(-1, 1, size)
    bar = 180 * np.exp(-(((x - random.uniform(-0.3, 0.3)) / 0.3) ** 4))
    return (bar + random.normal(0, 5, (size, size))).clip(0, 255).astype(np.uint8)


def radiographs(seed, count):
    random = np.random.default_rng(seed)
    return np.array([radiograph(random) for _ in range(count)])


def features_of(squares):
    """A few pixels, of which a statistic of the whole image changes none."""
    return squares.reshape(len(squares), -1)[:, ::97] + 1.0


@pytest.fixture(scope="module")
def reference():
    """Forty bars, two per group."""
    squares = radiographs(1, 40)
    images = pd.DataFrame({"group": [f"g{k // 2}" for k in range(40)]})
    return ood.fit(squares, features_of(squares), images.assign(width=300, height=300))


def test_foreign_images_get_a_warning_and_radiographs_seldom(reference, tmp_path):
    artifacts.write_arrays(tmp_path / "x.ood.npz", **reference)
    reference = ood.read(tmp_path / "x.ood.npz")
    normal = radiographs(2, 100)
    noise = np.random.default_rng(3).integers(90, 200, (64, 64)).astype(np.uint8)
    foreign = [noise, 255 - normal[0], np.full((64, 64), 200), np.zeros((64, 64))]
    squares = np.concatenate([normal, np.array(foreign, np.uint8)])
    shapes = np.full((len(squares), 2), 300)
    warnings = ood.warnings(reference, squares, features_of(squares), shapes)
    assert all(warnings[100:])
    assert sum(map(bool, warnings[:100])) < 15


def test_the_decisive_check_is_named(reference):
    square, shapes = radiographs(2, 1), np.array([[300, 300]])
    same = features_of(square)
    assert ood.warnings(reference, square, same, shapes) == [""]
    assert ood.warnings(reference, 255 - square, same, shapes) == [CHECKS[0]]
    assert ood.warnings(reference, square, same[:, ::-1] * 40 + 900, shapes) == [CHECKS[1]]


@pytest.mark.parametrize(
    ("groups", "of", "rate"), [(300, 1, 0.025), (40, 3, 0.025), (16, 3, 1 / 17)]
)
def test_the_warning_rate_holds_for_new_patients(groups, of, rate, monkeypatch):
    """All checks together; and a photograph gets a warning even with a small reference set."""
    monkeypatch.setattr(ood, "SIDE", 16)  # faster
    share, of_photographs = [], set()
    for run in range(12 if groups > 40 else 25):
        random = np.random.default_rng(run)

        def draw(patients, each, random=random):
            middle = random.normal(0, 1, (patients, 1, 6))
            features = (middle + random.normal(0, 0.5, (patients, each, 6))).reshape(-1, 6) + 3
            bright = 100 + 10 * middle[..., :1, None]
            squares = random.normal(bright, 30, (patients, each, 8, 8))
            squares = squares.clip(0, 255).astype(np.uint8).reshape(-1, 8, 8)
            return squares, features, np.full((len(squares), 2), 8)

        squares, features, shapes = draw(groups, of)
        images = pd.DataFrame({"group": np.repeat(np.arange(groups), of), "height": 8, "width": 8})
        reference = ood.fit(squares, features, images)
        assert ood.rate(reference) == pytest.approx(rate)
        share.append(np.mean([bool(text) for text in ood.warnings(reference, *draw(60, 1))]))
        of_photographs |= {
            *ood.warnings(reference, squares[:1] * 0 + 255, -features[:1] * 20, shapes[:1])
        }
    assert 0.3 * rate < np.mean(share) < 1.7 * rate
    assert "" not in of_photographs


def test_the_sample_is_sorted_limited_and_spread_over_the_groups():
    groups = np.repeat(["a", "b", "c"], [5000, 300, 100])
    chosen = ood.sample(groups, 0)
    assert (np.diff(chosen) > 0).all()
    assert pd.Series(groups[chosen]).value_counts().to_dict() == {"a": 250, "b": 250, "c": 100}
    np.testing.assert_array_equal(ood.sample(groups[:30], 0), np.arange(30))


def test_a_reference_image_is_scored_without_its_group():
    """Copies within a group do not hide how distant the group is."""
    squares = np.repeat(radiographs(4, 12), 2, axis=0)
    images = pd.DataFrame({"group": np.repeat(np.arange(12), 2), "height": 9, "width": 9})
    reference = ood.fit(squares, features_of(squares), images)
    assert (reference["spacing/content"] > 0.1).all()


@pytest.mark.parametrize("shape", [(3000, 1), (1, 3000)])
def test_an_image_of_one_line_is_described(reference, shape):
    square = radiographs(5, 1)
    assert ood.warnings(reference, square, features_of(square), np.array([shape]))[0] in CHECKS


def test_the_statistics_are_those_of_a_gaussian_filter():
    """Of SciPy, mirrored at the ends, also where it is wider than the image."""
    image = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)
    for sigma in ood.SIGMAS:
        expected = ndimage.gaussian_filter(image, sigma, truncate=3)
        blurred = ood._blur(9, sigma) @ image @ ood._blur(40, sigma).T
        np.testing.assert_allclose(blurred, expected, atol=1e-6)


def test_the_threshold_is_that_of_the_p_value(reference):
    """Directly: the weighted share of reference scores that are as large."""
    groups, scores = reference["groups"], reference["scores"]
    weights = len(groups) / len(set(groups)) / np.bincount(groups)[groups]
    for score in [*scores, *(scores + 1e-6), *np.linspace(-1, 9, 50)]:
        p = (1 + weights[scores >= score].sum()) / (1 + len(groups))
        assert (score > ood.threshold(reference)) == (p <= ood.rate(reference) + 1e-9)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "x.ood.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"x\.ood\.npz is missing or damaged"):
        ood.read(tmp_path / "x.ood.npz")


def test_the_observed_rate_is_that_of_images_with_a_warning(reference):
    """Whole groups of them have wider limits."""
    squares = np.concatenate([radiographs(2, 30), 255 - radiographs(3, 10)])
    shapes = pd.DataFrame({"height": 300, "width": 300}, index=range(40))
    given = reference, squares, features_of(squares)
    share = np.mean([text != "" for text in ood.warnings(*given, shapes.to_numpy())])
    single = ood.observed(*given, shapes.assign(group=range(40)))
    grouped = ood.observed(*given, shapes.assign(group=[k // 5 for k in range(40)]))
    for found in (single, grouped):
        assert (found["n"], found["warning_rate"]) == (40, share)
    assert grouped["warning_rate_low"] < single["warning_rate_low"] < share
    assert share < single["warning_rate_high"] < grouped["warning_rate_high"]
