"""Every figure with tiny, large and odd tables; no text lies on another or leaves the picture."""

import base64
import io
import itertools
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from answers import predictions
from matplotlib.text import Text
from PIL import Image

from fracture_utils.evaluation import calibration, comparison, metrics, plots, subgroups
from fracture_utils.evaluation.plots import style
from fracture_utils.networks import REGISTRY

NOTE = (
    "Synthetic phantoms, not radiographs · ImageNet weights: DenseNet121, ResNet50, VGG16, "
    "MobileNet · random initialisation: InceptionV3, Xception · research and education only"
)
FINDING = pd.DataFrame({"severity": ["red"], "check": ["x"]})
BOXES = pd.DataFrame(columns=["path", "xmin", "ymin", "xmax", "ymax"])
ROOT = Path(__file__).parents[1]
CASES = {
    "six": (tuple(REGISTRY), 120, 0.3),
    "one": (("MobileNet",), 8, 0.5),
    "one class": (("A", "B"), 6, 0.0),
    "odd names": (
        ("my_$\\frac{ResNet}$_with_a_very_long_name_2024-11-23", "模型", "<b>&"),
        60,
        0.4,
    ),
    "twelve": (tuple(f"network number {i}" for i in range(12)), 60, 0.4),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(c, marks=pytest.mark.slow) if c == "twelve" else c for c in CASES],
)
def tables(request):
    raw = predictions(*CASES[request.param])
    points = calibration.fit(raw)
    seen = calibration.apply(raw, points)
    known = dict.fromkeys(CASES[request.param][0], "random")
    return {
        "predictions": seen,
        "operating_points": points,
        "scores": metrics.scores(seen, known, resamples=100),
        "comparisons": comparison.pairs(seen, resamples=100),
        "subgroups": subgroups.table(seen, resamples=100),
    }


def history(networks, epochs):
    generator = np.random.default_rng(0)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "model": name,
                    "stage": ["head"] * epochs + ["fine_tune"] * (epochs // 3),
                    **{
                        column: generator.random(epochs + epochs // 3)
                        for column in ("loss", "auc", "val_loss", "val_auc")
                    },
                }
            )
            for name in networks
        ]
    )


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Add a figure to an album and compare the boxes of all texts that are really drawn."""
    monkeypatch.setattr(style, "RESOLUTION", 100)
    album = plots.Album(tmp_path, NOTE)
    boxes = {}
    original = Text.draw

    def draw(text, renderer, *arguments, **keywords):
        original(text, renderer, *arguments, **keywords)
        if text.get_visible() and text.get_text().strip():
            boxes[text] = text.get_window_extent(renderer)

    def add_and_compare(name, chart):
        boxes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Text, "draw", draw)
            album.add(drawn_already(name, chart))
        assert chart.caption and chart.alternative, f"{name} says nothing"
        width, height = chart.get_size_inches() * style.RESOLUTION
        for text, box in boxes.items():
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1
            assert inside, f"{name}: {text} leaves the figure"
        for (a, first), (b, second) in itertools.combinations(boxes.items(), 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            up = min(first.y1, second.y1) - max(first.y0, second.y0)
            assert across < 1.5 or up < 1.5, f"{name}: {a} lies on {b}"

    return add_and_compare


def drawn_already(name, chart):
    def draw():
        return chart

    draw.__name__ = name
    return draw


def picture(*size):
    return np.random.default_rng(0).integers(0, 255, size=size, dtype=np.uint8)


def test_figures_of_predictions(tables, add):
    seen, scores, pairs = tables["predictions"], tables["scores"], tables["comparisons"]
    points = tables["operating_points"]
    costs = pd.DataFrame({"model": scores["model"].unique(), "hardware": "CPU (a processor)"})
    costs["parameters"] = np.linspace(3e6, 140e6, len(costs))
    costs["seconds_per_picture"] = np.linspace(0.004, 2, len(costs))
    rows = seen[seen["split"] == "test"].iloc[:5]
    for name, chart in {
        "roc": plots.roc(seen, scores),
        "precision_recall": plots.precision_recall(seen, scores),
        "confusion_matrices": plots.confusion_matrices(seen, scores, points),
        "ranking": plots.ranking(scores),
        "pairwise": plots.pairwise(pairs),
        "reliability": plots.reliability(seen, scores),
        "subgroups": plots.subgroups(tables["subgroups"], seen, scores),
        "cost": plots.accuracy_against_cost(scores, costs),
        "samples": plots.sample_predictions(
            [picture(30, 40), *[picture(50, 20)] * 4], rows, points
        ),
    }.items():
        add(name, chart)


@pytest.mark.parametrize(("networks", "epochs"), [(tuple(REGISTRY), 40), (("VGG16",), 1)])
def test_history(networks, epochs, add):
    add("history", plots.history(history(networks, epochs)))


@pytest.mark.parametrize("count", [1, 40_000])
def test_figures_of_data(count, add):
    images = pd.DataFrame({"split": ["train", "test"] * count, "label": ["normal"] * 2 * count})
    checks = ["identical_pictures", "truncated_jpeg", "a_check_with_a_name_that_goes_on_and_on"]
    findings = pd.DataFrame(
        [(s, c) for s in ("info", "red", "amber") for c in checks] * min(count, 50),
        columns=["severity", "check"],
    )
    for name, chart in {
        "classes": plots.class_distribution(images),
        "audit": plots.audit(findings),
        "nothing": plots.audit(findings[:0]),
        "views": plots.augmentation(picture(9, 9), [picture(9, 9)] * min(count, 7)),
    }.items():
        add(name, chart)


def test_the_audit_shows_red_before_amber():
    findings = pd.DataFrame(
        {"severity": ["info"] * 3 + ["amber"] * 9 + ["red"], "check": [*"iii", *"aaaaaaaaa", "r"]}
    )
    ax = plots.audit(findings).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["r", "a", "i"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_a_network_looks_the_same_everywhere_and_no_two_look_alike():
    names = [*REGISTRY, *"abcdefgh"]
    looks = [tuple(plots.appearance(name, names).values()) for name in names]
    assert len(set(looks)) == len(names)
    for name, look in zip(REGISTRY, looks, strict=False):
        assert tuple(plots.appearance(name, [name]).values()) == look


def test_the_album_stamps_writes_and_remembers(tmp_path):
    album = plots.Album(tmp_path / "new" / "figures", NOTE)
    chart = plots.audit(FINDING).say("What it found, größer", "A bar, größer")
    assert album.add(drawn_already("audit", chart)) is chart
    assert "Synthetic phantoms" in "".join(text.get_text() for text in chart.texts)
    assert album.captions == {"audit": "What it found, größer"}
    written = {path.name for path in (tmp_path / "new" / "figures").iterdir()}
    assert written == {"audit.png", "audit.svg"}
    with Image.open(tmp_path / "new" / "figures" / "audit.png") as image:
        assert image.width == 1600
        assert image.text["Description"] == "What it found, größer"
        assert image.text["Alternative"] == "A bar, größer"


def test_an_album_draws_what_it_has_tables_for_in_the_order_of_the_story(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "RESOLUTION", 50)
    raw = predictions(("A", "B"), 20, 0.5)
    points = calibration.fit(raw)
    seen = calibration.apply(raw, points)
    tables = {
        "audit": FINDING[:0],
        "operating_points": points,
        "scores": metrics.scores(seen, {}, resamples=20),
        "predictions": seen,
    }
    album = plots.Album(tmp_path)
    album.add_all(plots.FIGURES, tables)
    expected = ["ranking", "roc", "precision_recall", "confusion_matrices", "reliability"]
    assert list(album.captions) == expected


def test_the_notebook_shows_every_figure_of_the_list():
    shown = re.findall(r"plots\.(\w+),", (ROOT / "fracture-detection.ipynb").read_text())
    assert set(shown) - {"Album"} == {draw.__name__ for draw in plots.FIGURES}


def test_jupyter_shows_a_figure_once_with_its_caption(tmp_path, capsys):
    """As the last expression of a cell, whether or not pyplot's inline backend is on."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    try:
        for backend in ("agg", "module://matplotlib_inline.backend_inline"):
            matplotlib.use(backend)
            with capture_output() as shown:
                shell.run_cell(
                    "import pandas as pd\n"
                    "from fracture_utils.evaluation import plots\n"
                    "album = plots.Album('figures', 'a note')\n"
                    "nothing = pd.DataFrame(columns=['severity', 'check'])\n"
                    "album.add(plots.audit, nothing)"
                )
            assert len(shown.outputs) == 1
            output = shown.outputs[0]
            assert output.data["image/png"]
            alternative = "Bar chart of findings by check: none."
            assert output.metadata["image/png"] == {"width": 800, "alt": alternative}
            assert output.data["text/plain"] == "The audit of the data found nothing."
            assert "pyplot" not in shown.stderr
    finally:
        matplotlib.use("agg")
        InteractiveShell.clear_instance()
    import matplotlib.pyplot as plt

    assert plt.get_fignums() == []


def test_no_figure_is_left_with_pyplot():
    import matplotlib.pyplot as plt

    plots.audit(FINDING)
    assert plt.get_fignums() == []


def test_a_figure_is_the_same_bytes_again():
    first, second = plots.audit(FINDING).png(), plots.audit(FINDING).png()
    assert first == second
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == "PNG"


def test_what_is_shown_is_what_was_written_until_something_is_drawn_over_it(tmp_path, monkeypatch):
    """Rendered once, because rendering is most of the time that the figures of a run take."""
    chart = plots.Album(tmp_path).add(plots.audit, FINDING)
    written, shown = (tmp_path / "audit.png").read_bytes(), []
    monkeypatch.setattr("IPython.display.display", lambda what, **_: shown.append(what))
    render, rendered = style.Chart.png, []
    monkeypatch.setattr(style.Chart, "png", lambda self: rendered.append(1) or render(self))
    chart._ipython_display_()
    assert base64.b64decode(shown[0]["image/png"]) == written and not rendered
    chart.axes[0].set_title("Another title")
    chart._ipython_display_()
    assert base64.b64decode(shown[1]["image/png"]) != written and rendered


def test_an_album_of_abnormal_pictures_never_says_fractured(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "RESOLUTION", 60)
    raw = predictions(*CASES["six"])
    points = calibration.fit(raw)
    seen = calibration.apply(raw, points)
    scores = metrics.scores(seen, {}, resamples=100)
    images = seen[seen["model"] == "VGG16"]
    sample = images.groupby("label").head(2)
    album, said = plots.Album(tmp_path, NOTE, "abnormal"), []
    draw = Text.draw

    def listen(text, *arguments, **keywords):
        said.append(text.get_text())
        draw(text, *arguments, **keywords)

    monkeypatch.setattr(Text, "draw", listen)
    tables = {
        **{"images": images, "scores": scores, "predictions": seen, "operating_points": points},
        "subgroups": subgroups.table(seen, resamples=20),
    }
    album.add_all(plots.FIGURES, tables)
    views = [picture(20, 20)] * len(sample)
    chart = album.add(plots.sample_predictions, views, sample, points)
    album.add(plots.gallery, views, views, BOXES, sample, points)
    assert "abnormal" in said
    texts = [*said, *album.captions.values(), chart.alternative]
    assert not [text for text in texts if "fractur" in text.lower()]
    assert len(album.captions) == 9
