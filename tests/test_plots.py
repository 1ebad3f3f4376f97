"""What a figure shows is what the tables say; no text lies on another or leaves the figure."""

import base64
import dataclasses
import itertools
from types import SimpleNamespace

import evaluated
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.text import Text
from PIL import Image
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from fracture_utils import plots
from fracture_utils.config import BACKBONES, Config
from fracture_utils.evaluation import comparison
from fracture_utils.evaluation.intervals import resample
from fracture_utils.evaluation.localization import ASSESSMENTS
from fracture_utils.evaluation.results import evaluate
from fracture_utils.plots import images, performance, style

ALL = [*style.of_tables, plots.sample_predictions, plots.heat_maps, plots.most_confident_errors]


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Fewer pixels, so that the tests are fast."""
    before, style.DPI = style.DPI, 60
    yield
    style.DPI = before


@pytest.fixture(autouse=True)
def fresh():
    yield
    style.save_to(None)


def with_images(results, folder):
    """The results with random images of 80 x 60 pixels."""
    random, base = np.random.default_rng(0), folder / "my data"
    for path in results.images.loc[results.images["split"] != "validation", "path"]:
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (80, 60), np.uint8)).save(base / path)
    return results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plots")
    findings = evaluated.audit(
        ("red", "exact_copies"), ("amber", "inverted"), ("amber", "inverted")
    )
    return with_images(evaluated.results(folder, audit=findings), folder)


def curves(chart):
    """The points (n, 2) of every line."""
    lines = itertools.chain.from_iterable(axes.get_lines() for axes in chart.axes)
    return [np.column_stack(line.get_data()).astype(float) for line in lines]


def is_drawn(chart, points):
    """Whether one line consists of these points, in whatever order and number."""
    wanted = np.unique(np.round(points, 6), axis=0)
    drawn = [line[np.isfinite(line).all(axis=1)] for line in curves(chart)]
    return any(np.array_equal(np.unique(line.round(6), axis=0), wanted) for line in drawn)


def texts(chart):
    found = [text.get_text() for axes in chart.axes for text in axes.texts]
    legends = [axes.get_legend() for axes in chart.axes if axes.get_legend()]
    return found + [text.get_text() for legend in legends for text in legend.get_texts()]


def test_rows(run, model):
    rows = run.predictions[
        (run.predictions["model"] == model) & (run.predictions["split"] == "test")
    ]
    return (rows["label"] == "fractured").to_numpy(int), rows


test_rows.__test__ = False


@pytest.mark.parametrize("model", [*evaluated.WORTH, "Ensemble"])
def test_curves_are_those_of_scikit_learn(run, model):
    labels, rows = test_rows(run, model)
    called = (rows["decision"] == "fractured").to_numpy()
    false, true, _ = reference.roc_curve(labels, rows["logit"], drop_intermediate=False)
    chart = plots.roc(run)
    assert is_drawn(chart, np.column_stack([false, true]))
    point = [called[labels == 0].mean(), called[labels == 1].mean()]
    assert is_drawn(chart, [point]), "the chosen threshold"
    precision, recall, _ = reference.precision_recall_curve(labels, rows["logit"])
    assert is_drawn(plots.precision_recall(run), np.column_stack([recall, precision])[:-1])
    score = run.scores.set_index("model").loc[model]
    legend = f"{model}\n{score['auc']:.3f} ({score['auc_low']:.3f}–{score['auc_high']:.3f})"
    assert legend in texts(chart)


def legend(chart):
    """The models in a legend, in its order, and the color of each."""
    shown = chart.axes[0].get_legend()
    names = [text.get_text().split("\n")[0] for text in shown.get_texts()]
    return dict(zip(names, [line.get_color() for line in shown.get_lines()], strict=True))


def test_legends_are_in_the_order_of_the_areas_and_colors_the_same_everywhere(run):
    results = dataclasses.replace(run, selected="VGG16")  # not the highest
    for draw, metric in (
        (plots.roc, "auc"),
        (plots.precision_recall, "average_precision"),
        (plots.decision_curve, "auc"),
    ):
        ranked = run.scores.sort_values(metric, ascending=False)["model"]
        drawn = legend(draw(results))
        assert [name for name in drawn if name in set(ranked)] == [m for m in ranked if m in drawn]
        for model in {*drawn} & {*ranked}:
            assert drawn[model] == style.look(model)["color"]


def test_the_operating_point_of_the_selected_model_is_the_largest(run):
    for draw in (plots.roc, plots.precision_recall):
        points = [line for line in draw(run).axes[0].get_lines() if len(line.get_xdata()) == 1]
        largest = max(points, key=lambda line: line.get_markersize())
        assert largest.get_color() == style.look(run.selected)["color"]
        others = [line.get_markersize() for line in points if line is not largest]
        assert largest.get_markersize() > max(others)


@pytest.mark.parametrize("name", ["roc", "precision_recall"])
def test_the_band_is_that_of_scikit_learn_on_resampled_groups(run, name, monkeypatch):
    monkeypatch.setattr(performance, "BAND", 40)
    labels, rows = test_rows(run, run.selected)
    rows = rows.assign(positive=labels).sort_values("path")
    labels, groups = rows["positive"].to_numpy(), rows["group"].factorize()[0]
    draws, x = [], None
    resamples = np.hstack([*resample(labels, groups, 40, run.run["seed"], stratified=False)])
    for weights in [np.ones(len(labels)), *resamples.T]:
        if name == "roc":
            known = {"sample_weight": weights, "drop_intermediate": False}
            across, up, _ = reference.roc_curve(labels, rows["logit"], **known)
        else:
            known = {"sample_weight": weights}
            up, across, _ = reference.precision_recall_curve(labels, rows["logit"], **known)
            across, up = across[::-1], up[::-1]
        x = across if x is None else x
        draws.append(np.interp(x, across, up))
    (band,) = getattr(plots, name)(run).axes[0].collections
    corners = band.get_paths()[0].vertices
    for limit in np.percentile(draws[1:], [2.5, 97.5], axis=0):
        for place in np.column_stack([x, limit]):
            assert np.abs(corners - place).sum(axis=1).min() < 1e-9


def test_a_band_needs_both_classes_in_several_groups(run):
    one = run.predictions.assign(group="one patient")
    scores = run.scores.assign(auc_low=np.nan, auc_high=np.nan)
    assert (
        not plots.roc(dataclasses.replace(run, predictions=one, scores=scores)).axes[0].collections
    )


def test_the_ranking_shows_each_auc_on_its_interval_and_the_selected_model_is_bold(run):
    chart = plots.ranking(run)
    widths = {}
    for line in chart.axes[0].get_lines():
        x = np.asarray(line.get_xdata(), float)
        for row in run.scores.itertuples():
            if len(x) == 2 and x == pytest.approx([row.auc_low, row.auc_high]):
                widths[row.model] = line.get_linewidth()
    assert set(widths) == set(run.scores["model"])
    assert max(widths, key=widths.get) == run.selected
    for row in run.scores.itertuples():
        assert any(
            len(line) == 1 and line[0, 0] == pytest.approx(row.auc) for line in curves(chart)
        )


def test_the_matrices_count_as_scikit_learn(run):
    chart = plots.confusion_matrices(run)
    assert len([ax for ax in chart.axes if ax.get_title()]) == len(evaluated.WORTH)  # no ensemble
    for ax in [ax for ax in chart.axes if ax.get_title()]:
        labels, rows = test_rows(run, ax.get_title().split("\n")[0])
        matrix = reference.confusion_matrix(labels, rows["decision"] == "fractured")[::-1, ::-1]
        shown = [text.get_text().split("\n") for text in ax.texts]
        assert [int(count) for count, _ in shown] == matrix.ravel().tolist()
        shares = (100 * matrix / matrix.sum(axis=1, keepdims=True)).round()
        assert [int(share.split()[0]) for _, share in shown] == shares.ravel().tolist()


def test_reliability_shows_the_shares_of_scikit_learn(run):
    labels, rows = test_rows(run, run.selected)
    share, probability = calibration_curve(labels, rows["probability"], n_bins=10)
    chart = plots.reliability(run)
    assert is_drawn(chart, np.column_stack([probability, share]))
    counts = np.histogram(rows["probability"], np.linspace(0, 1, 11))[0]
    counts = counts[counts > 0]
    (bars,) = chart.axes[0].containers  # an interval only where there are five images
    assert 0 < len(bars[0].get_xdata()) == (counts >= 5).sum() < len(counts)
    assert bars[0].get_xdata() == pytest.approx(probability[counts >= 5])
    assert "hollow: below 5" in chart.axes[0].get_xlabel()
    title = chart.axes[0].get_title()
    assert "O/E" in title and "slope" in title


@pytest.mark.parametrize(
    ("tuned", "kept"), [([], 3), ([0.7, 0.9, 0.8], 5), ([0.6, 0.5], 3), ([0.7, 0.7], 3)]
)
def test_history_shows_every_epoch_and_the_one_that_is_kept(run, tuned, kept):
    """As `training.fit`: the last epoch of the head, or a better one of fine-tuning."""
    rows = pd.DataFrame({"val_auc": [0.8, 0.6, 0.7, *tuned], "auc": 0.9, "model": "VGG16"})
    rows["stage"] = ["head"] * 3 + ["fine_tune"] * len(tuned)
    chart = plots.history(rows)
    for column in ("auc", "val_auc"):
        assert any(np.array_equal(c[:, 1], rows[column]) for c in curves(chart))
    assert is_drawn(chart, [[kept, rows["val_auc"][kept - 1]]])
    assert f"{rows['val_auc'][kept - 1]:.3f}" in texts(chart)


def test_history_of_fine_tuning_alone():
    rows = pd.DataFrame({"val_auc": [0.7, 0.9, 0.8], "auc": 0.9, "model": "VGG16"})
    assert is_drawn(plots.history(rows.assign(stage="fine_tune")), [[2, 0.9]])


def test_history_of_one_epoch(run):
    one = run.history[run.history["epoch"] == 1].drop_duplicates("model")
    plots.history(one)  # a head fitted in closed form has one epoch


def test_bars_are_as_long_as_there_are_images(run):
    heights = [bar.get_height() for bar in plots.class_distribution(run).axes[0].patches]
    assert sorted(h for h in heights if h) == sorted(run.images.groupby(["label", "split"]).size())


def test_the_comparison_figure_shows_the_tests_of_the_headline(run):
    pairs = run.comparisons.assign(p_delong_holm=0.06)
    chart = plots.comparisons(dataclasses.replace(run, comparisons=pairs))
    title = f"\n0 of {len(pairs)} test differences are significant"
    assert chart.get_suptitle().endswith(title) and run.selected in chart.get_suptitle()
    pairs.loc[0, "p_delong_holm"] = 0.023
    chart = plots.comparisons(dataclasses.replace(run, comparisons=pairs))
    assert "\n1 of" in chart.get_suptitle()
    assert any(text.endswith("p = 0.023") for text in texts(chart))
    lead = comparison.against(pairs, run.selected).sort_values("lead")
    lines = curves(chart)
    for row in lead.to_dict("records"):
        assert any(np.allclose(line[:, 0], [row["lead_low"], row["lead_high"]]) for line in lines)
        assert row["lead_low"] <= row["lead"] <= row["lead_high"]


def test_decision_curves_are_those_of_their_table(run):
    chart = plots.decision_curve(run)
    for model, rows in run.decision_curve.groupby("model"):
        assert is_drawn(chart, rows[["threshold", "net_benefit"]].to_numpy()), model


def test_subgroups_and_localization_show_their_tables(run):
    shown = run.subgroups.dropna(subset="sensitivity")
    chart = plots.subgroups(run)
    for ax, name in zip(chart.axes, ("auc", "sensitivity", "specificity"), strict=True):
        drawn = [line.get_xdata()[0] for line in ax.get_lines() if len(line.get_xdata()) == 1]
        assert drawn == pytest.approx(shown[name].tolist())
    ticks = [label.get_text() for label in chart.axes[0].get_yticklabels()]
    assert ticks == ["all images (30/90)", "body part: hand (15/45)", "body part: leg (15/45)"]
    chart.canvas.draw()
    for line in [
        line for ax in chart.axes for line in ax.get_lines() if line.get_marker() != "None"
    ]:
        size, frame = line.get_markersize() / 2 * chart.dpi / 72, line.axes.bbox
        x = line.axes.transData.transform(line.get_xydata())[0, 0]
        whole = frame.x0 <= x - size and x + size <= frame.x1
        assert whole or not line.get_clip_on()
    lines = curves(plots.localization(run))
    for value in run.localization[["hit_rate", "permuted", "center"]].to_numpy().ravel():
        assert any(np.isclose(line[:, 0], value).any() for line in lines)
    above = (run.localization["assessment"] == ASSESSMENTS[0]).sum()
    title = plots.localization(run).get_suptitle()
    assert title.startswith(f"{above} of {len(run.localization)} models exceed")


def test_an_overlay_colors_what_lies_above_the_threshold():
    image, above = np.full((40, 20), 100, np.uint8), np.full((4, 4), -1, np.float32)
    above[0, 0] = 3
    drawn = images.overlay(image, above, 3)
    assert drawn.shape == (40, 20, 3) and (drawn[20:, 10:] == 100).all()
    assert drawn[2, 1, 0] > drawn[2, 1, 2] + 30
    assert (images.overlay(image, above - 3) == 100).all()
    faint = images.overlay(image, above - 2.9, 3)  # on the same scale
    assert 100 < faint[2, 1, 0] < drawn[2, 1, 0]


@pytest.mark.parametrize("draw", [plots.heat_maps, plots.most_confident_errors])
def test_heat_maps_are_on_one_scale_transparent_below_the_threshold(run, draw, monkeypatch):
    """A false negative has no color, the most confident positive that of the top of the scale."""
    drawn, overlay = [], images.overlay
    monkeypatch.setattr(images, "overlay", lambda *of: drawn.append(of[1:]) or overlay(*of))
    chart = draw(run)
    tops = {top for _, top in drawn}
    assert len(tops) == 1
    titles = [ax.get_title() for ax in chart.axes[::2] if ax.get_title()]
    titles = [title for title in titles if title.startswith(run.selected)]  # others have no map
    called = np.array(["positive" in title for title in titles])
    peaks = np.array([above.max() for above, _ in drawn])
    assert len(peaks) == len(called) and ((peaks >= 0) == called).all()
    assert tops == {max(peaks.max(), images.SMALLEST_TOP)}
    label = chart.axes[-1].get_xlabel()
    assert label == "log odds above the decision threshold (transparent: below)"


def test_a_model_looks_the_same_everywhere_and_no_two_look_alike():
    names = [*BACKBONES, *"abcdef", "Ensemble", "Metadata only", "Majority class"]
    looks = [tuple(style.look(name, names).values()) for name in names]
    assert len(set(looks)) == len(names)
    for name, look in zip(BACKBONES, looks, strict=False):
        assert tuple(style.look(name).values()) == look


def test_figures_before_training_name_the_positive_class_of_the_data(run, tmp_path):
    style.save_to(tmp_path, SimpleNamespace(source="images", positive="abnormal"))
    chart = plots.class_distribution(run.images)
    assert "positive class: abnormal" in chart.texts[-1].get_text()
    assert "abnormal" in texts(chart)


def test_figures_are_stamped_written_and_recorded_from_save_to_on(run, tmp_path):
    assert plots.ranking(run).png and not style.output.drawn
    style.save_to(tmp_path / "new" / "figures", Config(source="phantoms"))
    chart = plots.class_distribution(run.images)
    note = chart.texts[-1].get_text()  # before training nothing is known about initial weights
    assert "Synthetic phantoms" in note and "weights" not in note
    plots.draw_all(run)
    assert set(style.output.drawn) == {draw.__name__ for draw in style.of_tables}
    for name, drawn in style.output.drawn.items():
        path = tmp_path / "new" / "figures" / f"{name}.png"
        assert path.read_bytes() == drawn.png
        assert drawn.caption.endswith(".")
        with Image.open(path) as image:
            assert image.width == 8 * style.DPI
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert "ImageNet weights: all models" in style.output.drawn["ranking"].texts[-1].get_text()
    again = dict(style.output.drawn)
    plots.ranking(run)
    assert style.output.drawn["ranking"].png == again["ranking"].png  # the same bytes


def test_jupyter_shows_a_figure_with_its_alternative_text_and_pyplot_does_not_know_it(run):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        data, metadata = shell.display_formatter.format(plots.ranking(run))
    finally:
        InteractiveShell.clear_instance()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert data["text/plain"].startswith("Dot plot: test AUC of each model")
    assert metadata["image/png"] == {"width": 800, "alt": data["text/plain"]}
    assert pyplot.get_fignums() == []


def test_another_word_for_the_positive_class_is_used_in_every_figure(run, monkeypatch):
    shown, draw = [], Text.draw
    monkeypatch.setattr(
        Text, "draw", lambda text, *a, **k: shown.append(text.get_text()) or draw(text, *a, **k)
    )
    results = dataclasses.replace(run, run=run.run | {"positive": "abnormal"})
    for figure in ALL:
        figure(results)
    assert any("abnormal" in text for text in shown)
    assert not [text for text in shown if "fractur" in text.lower()]


CASES = {
    "six": (dict.fromkeys(BACKBONES, 1.5), 120, 0.3),
    "one": ({"MobileNet": 1.0}, 8, 0.5),
    "one class": ({"A": 1.0, "B": 1.0}, 6, 0.0),
    "odd names": (
        dict.fromkeys(("my_$\\frac{Net}$_with_a_very_long_name_2024-11-23", "<b>&"), 1),
        60,
        0.4,
    ),
    "twelve": ({f"network number {i}": 1.5 for i in range(12)}, 60, 0.4),
}


@pytest.mark.parametrize(
    "case", [*list(CASES)[:-1], pytest.param("twelve", marks=pytest.mark.slow)]
)
def test_no_text_lies_on_another_or_leaves_the_figure(tmp_path, monkeypatch, case):
    worth, count, share = CASES[case]
    table = evaluated.predictions(worth, count, share)
    results = evaluated.results(tmp_path, worth, predictions=table)
    results = with_images(results, tmp_path)
    boxes, draw = {}, Text.draw

    def record(text, renderer, *arguments, **keywords):
        draw(text, renderer, *arguments, **keywords)
        if text.get_visible() and text.get_text().strip():
            boxes[text] = text.get_window_extent(renderer)

    monkeypatch.setattr(Text, "draw", record)
    needed = style.of_tables | {plots.sample_predictions: "scores"}
    needed |= {
        plots.heat_maps: "localization",
        plots.most_confident_errors: "most_confident_errors",
    }
    for figure in [figure for figure, name in needed.items() if len(getattr(results, name))]:
        boxes.clear()
        chart, name = figure(results), figure.__name__
        width, height = chart.get_size_inches() * style.DPI
        for text, box in boxes.items():
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, f"{name}: {text} leaves the figure"
        for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            up = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert across < 1.5 or up < 1.5, f"{name}: {a} lies on {b}"


def test_grids_of_images_take_any_number_of_them(run):
    data = SimpleNamespace(images=run.images.assign(split="train").tail(90), folder=run.images_dir)
    chart = plots.image_grid(data, count=6)
    assert sum(len(ax.images) for ax in chart.axes) == 6
    image = np.zeros((9, 9), np.uint8)
    assert sum(len(ax.images) for ax in plots.augmentation_grid(image, [image] * 4).axes) == 5


def test_figures_of_anybody_s_predictions(tmp_path):
    """Without images, training and boxes: a notebook without boxes draws the same figures."""
    table = evaluated.predictions({"A": 1.0}, splits=("test",))
    results = evaluate(table, Config(source="images", results_dir=tmp_path, quick=True))
    plots.draw_all(results)
    for draw, name in style.of_tables.items():
        empty = getattr(results, name).empty
        titles = [ax.get_title() for ax in draw(results).axes]
        assert (f"No figure: the table {name} is empty" in titles) == empty
    boxless = evaluated.results(tmp_path, boxes=None)
    boxless = with_images(boxless, tmp_path)
    assert "there are no boxes" in plots.heat_maps(boxless).get_suptitle()
    errors = boxless.most_confident_errors.head(0)
    plots.most_confident_errors(dataclasses.replace(boxless, most_confident_errors=errors))
