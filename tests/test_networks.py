"""A seventh network is one row in one place."""

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fracture_utils
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import calibration, comparison, conclusion, metrics, plots
from fracture_utils.models import backbones, classifier
from fracture_utils.networks import REGISTRY, Backbone

PACKAGE = Path(fracture_utils.__file__).parent
SEVENTH = Backbone(
    *("MobileNetV2", "mobilenet_v2", 224, 224, 32, "block_13_expand_relu", 2_257_984, 0.3),
    "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    None,
)


@pytest.fixture
def seventh(monkeypatch):
    monkeypatch.setitem(REGISTRY, SEVENTH.name, SEVENTH)
    return SEVENTH


def test_settings_and_help_offer_it(seventh, capsys):
    assert Config().backbones[-1] == seventh.name
    assert Config(backbones=seventh.name).backbones == (seventh.name,)
    with pytest.raises(InputError, match=f"choose from .*{seventh.name}"):
        Config(backbones="Foo")
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert seventh.name in capsys.readouterr().out


def test_it_can_be_built_and_is_in_the_table_of_networks(seventh):
    config = Config(image_size=32, initialisation="random")
    found, missing = backbones.find_weights(config)
    assert list(found) == list(REGISTRY)
    assert not missing
    assert backbones.table().index[-1] == seventh.name
    model = classifier.build(seventh, found[seventh.name], config, "float32")
    assert model.count_params() == pytest.approx(seventh.parameters, rel=0.01)


def predictions():
    generator, tables = np.random.default_rng(0), []
    for split in ("validation", "test"):
        label = np.arange(80) % 2
        for name in REGISTRY:
            logit = 2 * label - 1 + generator.normal(size=80)
            table = pd.DataFrame({"path": [f"{split}/{n}.png" for n in range(80)], "logit": logit})
            table["label"] = np.where(label == 1, "fractured", "normal")
            tables.append(table.assign(split=split, model=name, kind="network"))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(group=table["path"], probability=1 / (1 + np.exp(-table["logit"])))


def test_figures_and_prose_take_it(seventh):
    raw = predictions()
    seen = calibration.apply(raw, calibration.fit(raw))
    scores = metrics.scores(seen, resamples=100)
    looks = {tuple(plots.appearance(name, REGISTRY).values()) for name in REGISTRY}
    assert len(looks) == len(REGISTRY) == 7
    drawn = plots.ranking(scores)
    assert seventh.name in [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    comparisons = comparison.pairs(seen, 100)
    assert len(comparisons) == 21
    said = " ".join(conclusion.sentences(scores, comparisons))
    assert seventh.name in said
    assert not re.search(r"\b(six|6) networks", said)


def test_no_network_is_named_nor_are_they_counted_elsewhere():
    """Comments may tell of one; code and prose take them from the registry."""
    for path in PACKAGE.rglob("*.py"):
        if path.name != "networks.py":
            words = {n.value for n in ast.walk(ast.parse(path.read_text()))
                     if isinstance(n, ast.Constant) and isinstance(n.value, str)}  # fmt: skip
            assert not words & set(REGISTRY), path.name
    prose = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("templates/*"), PACKAGE.parent / "README.md"]
    for path in [*prose, PACKAGE.parent / "fracture-detection.ipynb"]:
        found = re.search(r"\b(six|seven) (\w+ )*(networks?|backbones?)\b", path.read_text())
        assert not found, f"{path.name}: {found}"
