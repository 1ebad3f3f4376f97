"""What is chance of training and what of the test set: planted, and simulated."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from fracture_utils.evaluation import seeds


def drawn(random, lifts, spread, count=160, runs=3):
    """A seeds table: networks see the same pictures, and each seed adds its own noise."""
    labels = np.arange(count) % 4 == 0
    picture = random.normal(size=count)
    parts = []
    for number, lift in enumerate(lifts):
        network = random.normal(size=count)
        for seed in range(runs):
            own = lift + spread * random.normal()
            parts.append(pd.DataFrame({
                "path": [f"{k}.png" for k in range(count)],
                "split": "test",
                "label": np.where(labels, "fractured", "normal"),
                "model": f"model {number}",
                "seed": seed,
                "logit": own * labels + picture + network + 0.3 * random.normal(size=count),
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def groups(table):
    return table.assign(group=table["path"])


def test_mean_and_spread_are_those_of_the_seeds():
    table = drawn(np.random.default_rng(0), (1.0, 2.0), 0.2)
    found = seeds.spread(table, groups(table)).set_index("model")
    for model, rows in table.groupby("model"):
        auc = [
            roc_auc_score(r["label"] == "fractured", r["logit"]) for _, r in rows.groupby("seed")
        ]
        assert found.loc[model, "auc"] == pytest.approx(np.mean(auc))
        assert found.loc[model, "auc_sd"] == pytest.approx(np.std(auc, ddof=1))
    assert list(found.index) == ["model 1", "model 0"]
    assert found["difference"].iloc[1] == pytest.approx(found["auc"].iloc[0] - found["auc"].iloc[1])


def test_equal_networks_are_seldom_called_different_and_others_are():
    """Networks that are alike but for chance, of the pictures and of training: 200 data sets."""
    random, wrong = np.random.default_rng(1), 0
    for _ in range(200):
        table = drawn(random, (1.2, 1.2), 0.2)
        wrong += seeds.spread(table, groups(table))["p"].iloc[1] < 0.05
    assert wrong / 200 <= 0.08
    clear = drawn(random, (0.2, 3.0, 0.3), 0.1)
    found = seeds.spread(clear, groups(clear))
    assert (found["p"][1:] < 0.05).all()
    said = " ".join(seeds.sentences(found))
    assert "Trained with 3 seeds" in said
    assert "model 1's lead over model" in said
    assert "outlasts training and test set alike" in said


def test_without_seeds_nothing_is_said():
    table = drawn(np.random.default_rng(0), (1.0,), 0.1)
    found = seeds.spread(table.iloc[:0], groups(table))
    assert list(found) == list(seeds.spread(table, groups(table)))
    assert seeds.sentences(found) == []


def test_a_lead_that_is_chance_of_training_is_told_as_that():
    random = np.random.default_rng(2)
    table = drawn(random, (1.0, 1.1), 0.6)
    assert (
        "does not outlast both training and test set"
        in seeds.sentences(seeds.spread(table, groups(table)))[1]
    )
