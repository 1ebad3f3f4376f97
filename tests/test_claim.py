"""The checklist says what the run knows, what a person states, and of the rest that it is not."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import claim, comparison, metrics, report


@pytest.fixture
def config(tmp_path):
    """A results folder as a run leaves it, as far as the checklist reads it."""
    results, models, data = (tmp_path / name for name in ("results", "models", "data"))
    for folder in (results, models, data):
        folder.mkdir()
    images = pd.DataFrame(
        [
            (f"{split}/{k}.png", split, ("normal", "fractured")[k % 2], f"{split}{k // 2}",
             f"{split}p{k // 2}", ("hand", "leg")[k // 2 % 2], 300 + k, 400, 8)
            for split, count in (("train", 20), ("validation", 8), ("test", 12))
            for k in range(count)
        ],
        columns=["path", "split", "label", "group", "patient", "body_part", "width", "height",
                 "bit_depth"],
    )  # fmt: skip
    row = {"model": "VGG16", "kind": "network", "n": 12, "positives": 6}
    row |= {f"{m}{end}": 0.8 for m in metrics.METRICS for end in ("", "_low", "_high")}
    row |= {"initialisation": "imagenet"}
    scores = pd.DataFrame(
        [row, row | {"model": "MobileNet"}, row | {"model": "Metadata only", "kind": "reference"}]
    )
    networks = pd.DataFrame(
        [("VGG16", "trained", "imagenet", 14.7e6), ("MobileNet", "trained", "random", 3.2e6),
         ("Xception", "failed", None, np.nan)],
        columns=["model", "status", "initialisation", "parameters"],
    )  # fmt: skip
    pairs = pd.DataFrame({"model_a": ["VGG16"], "model_b": ["MobileNet"], "difference": [0.03]})
    pairs = pairs.assign(difference_low=-0.02, difference_high=0.08, family="networks")
    tests = [name for name in comparison.COLUMNS if name.startswith("p_")]
    pairs = pairs.assign(**dict.fromkeys(tests, 0.2))
    run = {
        "source": "pictures", "attribution": "By A. N. Author.", "seed": 7,
        "purpose": "education and research only, never clinical use",
        "data": {"fingerprint": "abc"}, "versions": {"keras": "3.15.1"},
        "settings": {"image_size": None, "aspect": "pad", "validation_share": 0.2, "views": 2},
        "failed": {"Xception": "out of memory"},
    }  # fmt: skip
    for name, table in {"images": images, "scores": scores, "networks": networks,
                        "comparisons": pairs}.items():  # fmt: skip
        table.to_csv(results / f"{name}.csv", index=False)
    (results / "run.json").write_text(json.dumps(run))
    (models / "VGG16.json").write_text(json.dumps({"weights_sha256": "d1g35t"}))
    (models / "Ensemble.json").write_text(json.dumps({"members": {"VGG16": "", "MobileNet": ""}}))
    return Config(source="pictures", data_dir=data, results_dir=results, models_dir=models)


def test_what_the_run_knows_is_filled_in_and_the_rest_is_not_stated(config):
    table = claim.write(config, "VGG16").set_index("number")
    answer = table["answer"]
    assert list(table.index) == list(range(1, 45))
    for number in (2, 3, 5, 11, 15, 16, 18, 33, 34, 40, 41, 44):
        assert answer[number] == claim.UNKNOWN
    expected = {
        1: "(VGG16 and MobileNet)", 7: "By A. N. Author.", 13: "300 to 319", 19: "20 train",
        20: "Disjoint by patient.", 21: "0.071 to 0.071", 22: "VGG16 14.7 million",
        23: "keras 3.15.1", 24: "MobileNet from random weights", 26: "VGG16: the highest AUC on",
        27: "MobileNet and VGG16", 35: "Xception (out of memory)", 38: "auc 0.800 (0.800 to 0.800)",
        32: "2 models on 12 test pictures", 42: "data fingerprint abc", 31: "not validated",
    }  # fmt: skip
    for number, words in expected.items():
        assert words in answer[number]
    assert "d1g35t" in answer[24]
    page = (config.results_dir / "claim.md").read_text("utf-8")
    assert "| fractured | 10 (50 %) | 4 (50 %) | 6 (50 %) |" in page
    assert "| patients | 10 | 4 | 6 |" in page
    assert "| body part: hand | 10 (50 %) |" in page
    assert "| validation_share | 0.2 |" in page


def test_a_person_adds_what_only_a_person_knows(config):
    (config.data_dir / "study.toml").write_text(
        'purpose = "triage at night"\nreaders = """two\n radiologists"""\ndata_source = "Ward 3."\n'
    )
    answer = claim.write(config, "VGG16").set_index("number")["answer"]
    assert answer[3] == "triage at night"
    assert answer[16] == "two radiologists"
    assert answer[7] == "Ward 3. By A. N. Author."


@pytest.mark.parametrize(
    ("text", "reason"),
    [('purpos = "x"', "did you mean purpose"), ("purpose = 3", "purpose is no text"),
     ("purpose =", "cannot be read as TOML")],
)  # fmt: skip
def test_a_wrong_study_file_is_refused_with_its_name(config, text, reason):
    (config.data_dir / "study.toml").write_text(text)
    with pytest.raises(InputError, match=reason) as raised:
        claim.study(config.data_dir)
    assert "study.toml" in str(raised.value)


def test_patients_in_two_partitions_and_unknown_ones_are_said(config):
    path = config.results_dir / "images.csv"
    images = pd.read_csv(path)
    images.assign(patient=["a", *images["patient"][1:-1], "a"]).to_csv(path, index=False)
    assert "1 patient in several." in claim.write(config, "VGG16")["answer"][19]
    images.drop(columns="patient").to_csv(path, index=False)
    assert "Disjoint by patient: unknown" in claim.write(config, "VGG16")["answer"][19]


def test_the_report_holds_the_checklist_and_the_labels_to_look_at(config):
    (config.data_dir / "study.toml").write_text('purpose = "a | b <c>"')
    claim.write(config, "VGG16")
    folder = config.results_dir
    row = {"path": "test/1.png", "label": "normal", "networks": 2, "least_sure": 0.7}
    pd.DataFrame([row | {"threshold": 0.51}]).to_csv(folder / "suspected_labels.csv", index=False)
    page = report.write(folder).read_text("utf-8")
    assert "<td>a | b &lt;c&gt;</td>" in page
    assert page.count("<td>not stated</td>") > 10
    assert re.search(
        r"<th[^>]*>test/1\.png</th>\s*<td>normal</td>\s*<td>2</td>\s*<td>0\.7</td>\s*<td>0\.51</td>",
        page,
    )


def test_a_choice_on_the_test_is_called_one(config):
    path = config.results_dir / "images.csv"
    images = pd.read_csv(path)
    images[images["split"] != "validation"].to_csv(path, index=False)
    assert "the first on the test" in claim.write(config, "VGG16")["answer"][25]


def test_an_empty_folder_states_nothing(tmp_path):
    config = Config(source="phantoms", results_dir=tmp_path, models_dir=tmp_path)
    assert set(claim.write(config, "VGG16")["answer"]) == {claim.UNKNOWN}
