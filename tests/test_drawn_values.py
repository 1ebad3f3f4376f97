"""What a figure shows is what the tables say: the drawn values against independent references."""

import itertools

import numpy as np
import pandas as pd
import pytest
from answers import predictions
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from fracture_utils.evaluation import calibration, comparison, metrics, plots, use

NAMES = ("DenseNet121", "VGG16", "MobileNet")


@pytest.fixture(scope="module")
def tables():
    raw = predictions(NAMES, 90, 0.3)
    points = calibration.fit(raw)
    seen = calibration.apply(raw, points)
    return seen, metrics.scores(seen, resamples=100), points


def curves(chart):
    """The points (n, 2) of every line that is drawn."""
    lines = itertools.chain.from_iterable(axes.get_lines() for axes in chart.axes)
    drawn = [np.column_stack(line.get_data()) for line in lines]
    return [points.astype(float) for points in drawn if len(points)]


def is_drawn(chart, points):
    """Whether one line consists of these points, in whatever order and number."""
    wanted = np.unique(np.round(points, 6), axis=0)
    return any(np.array_equal(np.unique(np.round(c, 6), axis=0), wanted) for c in curves(chart))


def texts(chart):
    return [text.get_text() for axes in chart.axes for text in axes.texts]


def of(seen, model, split="test"):
    rows = seen[(seen["model"] == model) & (seen["split"] == split)]
    return (rows["label"] == "fractured").to_numpy(int), rows


@pytest.mark.parametrize("name", NAMES)
def test_curves_are_those_of_scikit_learn(tables, name):
    seen, scores, _ = tables
    truth, rows = of(seen, name)
    called = (rows["decision"] == "fractured").to_numpy()
    alarms, found, _ = reference.roc_curve(truth, rows["logit"], drop_intermediate=False)
    chart = plots.roc(seen, scores)
    assert is_drawn(chart, np.column_stack([alarms, found]))
    point = [called[truth == 0].mean(), called[truth == 1].mean()]
    assert is_drawn(chart, [point]), "the chosen threshold"
    precision, recall, _ = reference.precision_recall_curve(truth, rows["logit"])
    chart = plots.precision_recall(seen, scores)
    expected = np.unique(np.column_stack([recall, precision])[:-1].round(6), axis=0)
    drawn = [np.unique(c[np.isfinite(c).all(axis=1)].round(6), axis=0) for c in curves(chart)]
    assert any(np.array_equal(points, expected) for points in drawn)


def test_each_grey_curve_bears_the_number_of_its_network(tables):
    """Where there is room; and each number stands on its own curve."""
    seen, scores, _ = tables
    for chart in (plots.roc(seen, scores), plots.decision_curve(use.decision_curve(seen), scores)):
        ax = chart.axes[0]
        named = dict(reversed(label.get_text().split("\n")[0].split("  ")) for label in
                     ax.get_legend().get_texts() if "  " in label.get_text())  # fmt: skip
        assert len(named) > 1
        numbers = {text.get_text(): text.get_position() for text in ax.texts}
        assert numbers
        assert set(numbers) <= set(named.values())
        to_axes = ax.transData + ax.transAxes.inverted()
        for spot in numbers.values():
            gaps = []
            for line in ax.get_lines():
                points = to_axes.transform(np.column_stack(line.get_data()).astype(float))
                dense = [np.linspace(a, b, 50) for a, b in itertools.pairwise(points)]
                gaps += [np.hypot(*(np.concatenate(dense) - spot).T).min()] if dense else []
            assert min(gaps) < 0.01


def test_the_ranking_shows_each_auc_on_its_interval(tables):
    _, scores, _ = tables
    chart = plots.ranking(scores)
    drawn = curves(chart)
    for row in scores.itertuples():
        at = [c for c in drawn if len(c) == 1 and c[0, 0] == pytest.approx(row.auc)]
        assert at, row.model
        ends = [c for c in drawn if len(c) == 2 and c[0, 1] == c[1, 1] == at[0][0, 1]]
        if not np.isnan(row.auc_low):
            assert any(c[:, 0] == pytest.approx([row.auc_low, row.auc_high]) for c in ends)


def test_the_matrices_count_as_scikit_learn(tables):
    seen, scores, points = tables
    shown = texts(plots.confusion_matrices(seen, scores, points))
    for name in NAMES:
        truth, rows = of(seen, name)
        cleared, alarms, missed, found = reference.confusion_matrix(
            truth, rows["decision"] == "fractured"
        ).ravel()
        place = shown.index(name)
        assert shown[place + 2 : place + 6] == [str(n) for n in (found, missed, alarms, cleared)]


def test_reliability_shows_the_shares_of_scikit_learn(tables):
    seen, scores, _ = tables
    chart = plots.reliability(seen, scores)
    expected = []
    for name in NAMES:
        truth, rows = of(seen, name)
        share, said = calibration_curve(truth, rows["probability"], n_bins=10)
        expected.append(np.column_stack([said, share]))
    assert sum(is_drawn(chart, points) for points in expected) == 1  # of the chosen one


def test_history_shows_every_epoch_and_the_kept_one():
    values = np.random.default_rng(0).random((8, 4))
    table = pd.DataFrame(values, columns=["loss", "auc", "val_loss", "val_auc"])
    table["model"], table["stage"] = "VGG16", ["head"] * 5 + ["fine_tune"] * 3
    chart = plots.history(table)
    for column in ("loss", "auc", "val_loss", "val_auc"):
        assert any(np.array_equal(c[:, 1], table[column]) for c in curves(chart)), column
    kept = [table["val_auc"].idxmax() + 1, table["val_auc"].max()]
    assert is_drawn(chart, [kept])


def test_history_speaks_of_fine_tuning_only_where_there_was_some():
    values = np.random.default_rng(0).random((6, 4))
    table = pd.DataFrame(values, columns=["loss", "auc", "val_loss", "val_auc"])
    table = table.assign(model="VGG16", stage="head")
    frozen = plots.history(table)
    assert frozen.caption.startswith("The networks stayed frozen")
    tuned = plots.history(table.assign(stage=["head"] * 5 + ["fine_tune"]))
    assert tuned.caption.startswith("Fine-tuning bettered")
    for chart, third in ((frozen, []), (tuned, ["fine-tuning begins"])):
        words = [text.get_text() for text in chart.legends[0].get_texts()]
        assert words == ["training", "validation", *third, "kept epoch"]


def test_pairs_that_only_the_chosen_network_s_family_tells_apart_are_named(tables):
    pairs = comparison.pairs(tables[0], resamples=50)
    pairs = pairs.assign(p_delong_holm=0.06, p_chosen_holm=np.nan)
    assert "chosen" not in plots.pairwise(pairs).caption
    own = pairs.index[pairs["family"] == "networks"][0]
    pairs.loc[own, "p_chosen_holm"] = 0.02
    first, second = pairs.loc[own, ["model_a", "model_b"]]
    said = plots.pairwise(pairs).caption
    alone = f"the pairs of the chosen network alone, {first} and {second} (p 0.020) differ."
    assert said.endswith(f"Corrected for {alone}")


def test_bars_are_as_long_as_there_are_pictures_and_findings():
    images = pd.DataFrame(itertools.product(["train", "test"], ["normal", "fractured"], range(9)))
    images.columns = ["split", "label", "number"]
    images = images.drop(index=[0, 1, 9, 20])
    heights = [bar.get_height() for bar in plots.class_distribution(images).axes[0].patches]
    counts = images.groupby(["label", "split"]).size()
    assert sorted(heights) == sorted(counts)
    findings = pd.DataFrame({"severity": ["red", "amber", "amber"], "check": ["a", "b", "b"]})
    widths = [bar.get_width() for bar in plots.audit(findings).axes[0].patches]
    assert widths == [1, 2]


def test_the_decision_curve_is_the_net_benefit_of_the_table(tables):
    seen, scores, _ = tables
    table = use.decision_curve(seen)
    chart = plots.decision_curve(table, scores)
    for name in NAMES:
        rows = table[table["model"] == name]
        assert is_drawn(chart, rows[["threshold", "net_benefit"]].to_numpy())
        truth, answers = of(seen, name)
        at = rows.iloc[len(rows) // 2]
        acted = answers["probability"].to_numpy() >= at["threshold"]
        odds = at["threshold"] / (1 - at["threshold"])
        expected = (truth * acted).mean() - ((1 - truth) * acted).mean() * odds
        assert at["net_benefit"] == pytest.approx(expected)
