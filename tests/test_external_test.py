"""External test: trained models on labeled images, nothing fitted on them, every sentence true."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from external import Predictor, folder
from PIL import Image
from scipy import special

from fracture_utils import predict
from fracture_utils.__main__ import main
from fracture_utils.evaluation import calibration
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.evaluation.results import Results
from fracture_utils.plots import style

TABLES = ["scores", "operating_points", "comparisons", "subgroups", "clinical_utility"]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(predict, "Predictor", Predictor)
    monkeypatch.setattr(style, "DPI", 40)
    yield
    style.save_to(None)


def test_a_labeled_folder_is_scored_with_the_cards_alone(capsys):
    assert main(["evaluate", folder(), "--output", "out", "--quick"]) == 0
    text = capsys.readouterr().out
    results = Results.load(Path("out"))
    assert results.selected == "MobileNet" and results.run["selected_on"] == "model card"
    assert set(results.scores["model"]) == {"MobileNet", "VGG16", ENSEMBLE, "Majority class"}
    points = results.operating_points.set_index("model")
    assert dict(points["threshold"]) == {"MobileNet": 0.4, "VGG16": 0.4, ENSEMBLE: 0.3}
    assert points["n"].eq(30).all() and points["positives"].eq(18).all()
    table = results.predictions
    called = table["probability"] >= table["model"].map(points["threshold"])
    assert points["intercept"].eq(0.2).all() and table["decision"].eq("fractured").equals(called)
    assert set(results.images["split"]) == {"test"}
    assert list(results.localization["model"]) == ["MobileNet", "VGG16"]
    assert results.history.empty and len(results.most_confident_errors)
    assert "MobileNet, selected before this external test, has a test AUC of" in text
    assert "The models were trained on other images;" in text
    assert "50.0 % in training, 60.0 % in validation and 33.3 % in test" in text
    assert (
        "Out of distribution: 4 of 36 test images; they are scored like the others. Of the 80 "
        "images of the model's test set, 1.2 % (95 % CI 0.2–7.0) got this warning." in text
    )
    page = Path("out/report.html").read_text(encoding="utf-8")
    for words in (
        "by itself gives an O/E of",
        "30 images, only 18 of them fractured",
        "figure-heat_maps",
    ):
        assert words in page
    assert "selected on the validation" not in page and "the same source" not in page
    assert Path("out/figures/sample_predictions.png").is_file()


def test_the_ensemble_is_the_mean_of_the_calibrated_logits_and_needs_a_card(monkeypatch, capsys):
    assert main(["evaluate", folder(), "--output", "out", "--quick"]) == 0
    table = Results.load(Path("out")).predictions
    logits = table.pivot(index="path", columns="model", values=["logit", "probability"])  # noqa: PD010
    mean = logits["logit"][["MobileNet", "VGG16"]].mean(axis=1) + 0.2
    np.testing.assert_allclose(logits["logit"][ENSEMBLE].astype(float), mean, rtol=1e-4)
    probability = special.expit(mean.astype(float) + 0.2)
    np.testing.assert_allclose(logits["probability"][ENSEMBLE].astype(float), probability, 1e-4)
    monkeypatch.setattr(Predictor, "ensemble", None)
    assert main(["evaluate", "my_xrays", "--output", "without", "--quick"]) == 0
    assert set(Results.load(Path("without")).predictions["model"]) == {"MobileNet", "VGG16"}
    command = ["evaluate", "without/predictions.csv", "--results-dir", "again", "--quick"]
    assert main(command) == 0
    assert set(Results.load(Path("again")).predictions["model"]) == {"MobileNet", "VGG16"}


def test_its_predictions_are_scored_again_alike_and_its_folder_serves_no_other_test(capsys):
    assert main(["evaluate", folder(), "--results-dir", "out", "--quick"]) == 0
    assert main(["evaluate", "my_xrays", "--results-dir", "out", "--quick"]) == 0
    command = ["evaluate", "out/predictions.csv", "--results-dir", "again", "--quick"]
    assert main(command) == 0
    for name in TABLES:
        first, again = (Path(place, f"{name}.csv").read_text() for place in ("out", "again"))
        assert first == again, name
    capsys.readouterr()
    assert main(["evaluate", folder("others"), "--results-dir", "out"]) == 2
    assert main(["audit", "--data-dir", "my_xrays", "--results-dir", "out"]) == 2
    message = "out holds the results of another run; name another with --output.\n"
    assert capsys.readouterr().err == 2 * message


def test_a_model_without_card_cannot_join_an_external_test(capsys):
    assert main(["evaluate", folder(), "--output", "out", "--quick"]) == 0
    table = pd.read_csv("out/predictions.csv")
    other = table[table["model"] == "VGG16"].assign(model="Other")
    pd.concat([table, other]).to_csv("out/predictions.csv", index=False)
    command = ["evaluate", "out/predictions.csv", "--results-dir", "again", "--quick"]
    assert main(command) == 2
    assert "Other is not in this external test" in capsys.readouterr().err
    assert main([*command, "--target-sensitivity", "0.9"]) == 2
    assert "A target sensitivity needs validation images" in capsys.readouterr().err


def test_columns_of_the_user_do_not_replace_those_of_the_predictions():
    names = ["fold", "model", "logit", "kind", "probability", "decision"]
    rows = [",".join(["path", *names]), ",".join(["normal/0.png", *["x"] * len(names)])]
    Path(folder(), "images.csv").write_text("\n".join(rows))
    assert main(["evaluate", "my_xrays", "--output", "out", "--quick"]) == 0
    assert set(Results.load(Path("out")).predictions["model"]) == {"MobileNet", "VGG16", ENSEMBLE}


@pytest.mark.parametrize("command", ["evaluate my_xrays", "audit --data-dir my_xrays"])
def test_the_tables_of_the_user_are_not_overwritten(command, capsys):
    path, text = Path(folder(), "images.csv"), "path,body_part\nnormal/0.png,hand\n"
    path.write_text(text)
    assert main([*command.split(), "--output", "my_xrays"]) == 2
    assert path.read_text() == text
    message = "my_xrays is the data folder; name another for results.\n"
    assert capsys.readouterr().err == message


def test_one_class_is_enough(capsys):
    assert main(["evaluate", folder(fractured=0), "--output", "out", "--quick"]) == 0
    text = capsys.readouterr().out
    assert "Every test image (24) is normal" in text and "by itself gives" not in text


@pytest.mark.parametrize("options", [[], ["--target-sensitivity", "0.9"]])
def test_bad_input_is_one_sentence(options, capsys):
    Path("unlabeled").mkdir()
    Image.new("L", (64, 64)).save("unlabeled/a.png")
    assert main(["evaluate", "unlabeled", "--output", "out", *options]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.endswith(".\n")


def test_a_shift_of_the_prevalence_explains_o_e_of_a_model_that_is_calibrated_elsewhere():
    """Two Gaussians: twice the value is the log odds at a prevalence of one half."""
    random = np.random.default_rng(3)
    fractured = random.random(8000) < 0.2
    probability = special.expit(2 * random.normal(np.where(fractured, 1, -1)))
    moved = calibration.shifted(probability, 0.5, 0.2)
    assert fractured.sum() / probability.sum() < 0.7
    by_shift = moved.sum() / probability.sum()
    assert by_shift == pytest.approx(fractured.sum() / probability.sum(), rel=0.05)
    assert moved.sum() == pytest.approx(fractured.sum(), rel=0.05)
