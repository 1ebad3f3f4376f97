"""Answers about single images: the same on every way, and refused or warned about where due."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image
from scipy import special
from sklearn.datasets import load_sample_image

from fracture_utils import artifacts, predict, tables
from fracture_utils.__main__ import main
from fracture_utils.config import InputError
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration, results, sentences
from fracture_utils.models import backbones, model_cards, ood

ROOT = Path(predict.__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Settings of a small finished training with its cards, and its results."""
    config = runs.copy_of_finished(tmp_path_factory.mktemp("trained"))
    training = runs.train(config)  # valid, so nothing is trained
    evaluated = results.evaluate(training.predictions, config, networks=training.networks)
    model_cards.save(evaluated, config)
    return config, evaluated


@pytest.fixture(scope="module")
def paths(trained):
    """Test images."""
    names = trained[1].predictions.query("split == 'test' and kind == 'network'")["path"]
    return [trained[0].images_dir / name for name in names]


@pytest.fixture
def predictor(trained):
    return predict.Predictor(trained[0])


@pytest.fixture(scope="module")
def answered(trained, paths):
    table, problems = predict.predict(paths, predict.Predictor(trained[0]))
    assert not problems
    return table


def command(config, *arguments):
    own = {"FRACTURE_MODELS_DIR": config.models_dir, "FRACTURE_RESULTS_DIR": config.results_dir}
    environment = os.environ | {name: str(path) for name, path in own.items()}
    words = [sys.executable, "-m", "fracture_utils", "predict", *map(str, arguments)]
    environment |= {"PYTHONPATH": str(ROOT)}
    return subprocess.run(words, capture_output=True, text=True, env=environment)


def test_run_saved_weights_and_command_line_give_the_same_probability(trained, answered, paths):
    config, evaluated = trained
    assert list(answered) == tables.columns("answers")
    of_run = evaluated.predictions.set_index("path")
    for row in answered.to_dict("records"):
        expected = of_run.loc[Path(row["path"]).relative_to(config.images_dir).as_posix()]
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-5)
        assert row["decision"] in ("", expected["decision"])
        assert (row["decision"] == "") == (row["warning"] != "")
    alone = predict.predict_one(paths[3], config)
    assert f"{alone['probability'].iloc[0]:.3f}" in alone.attrs["text"]
    assert list(alone["model"]) == ["MobileNet"]
    for column in ("probability", "decision", "warning"):
        value = answered[column].iloc[3]
        expected = value if isinstance(value, str) else pytest.approx(value, abs=1e-5)
        assert alone[column].iloc[0] == expected


def test_the_command_line_answers_what_it_can_read_and_names_what_it_cannot(
    trained, paths, tmp_path, monkeypatch
):
    config = trained[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(paths[0].read_bytes()[:200])
    done = command(config, paths[0], broken, tmp_path / "absent.png")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, lines  # and no logging of TensorFlow
    assert "broken.png cannot be read" in lines[0]
    assert "absent.png cannot be read" in lines[1]
    assert str(paths[0]) in done.stdout
    assert "research and education only" in done.stdout
    table = tables.read(config.results_dir, "answers")
    assert list(table["path"]) == [str(paths[0])]
    with Image.open(table["overlay"].iloc[0]) as overlay, Image.open(paths[0]) as image:
        assert overlay.size == (2 * image.width, image.height)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(InputError, match=r"absent\.png cannot be read"):
        predict.predict_one(broken, config)


def test_numbers_only_draws_nothing(trained, paths, answered, monkeypatch, capsys):
    folders = ["--models-dir", str(trained[0].models_dir), "--results-dir", "elsewhere"]
    assert main(["predict", "--numbers-only", *map(str, paths[:3]), *folders]) == 0
    assert [path.name for path in Path("elsewhere").iterdir()] == ["answers.csv"]
    table = tables.read(Path("elsewhere"), "answers")
    assert set(table["overlay"]) == {""}
    np.testing.assert_allclose(table["probability"], answered["probability"][:3], atol=1e-5)


def test_photographs_get_a_warning_and_no_decision(trained, answered, paths, tmp_path):
    rate = answered["warning_rate"].iloc[0]
    assert 0.01 <= rate < 0.25
    assert answered["warning"].ne("").mean() <= 1 / 3  # of 12 images, by 20 patients
    china, flower, tall = (tmp_path / name for name in ("china.jpg", "flower.jpg", "tall.png"))
    for path in (china, flower):
        Image.fromarray(load_sample_image(path.name)).save(path)
    Image.open(paths[0]).resize((40, 400)).save(tall)
    predictor = predict.Predictor(trained[0])
    table, _ = predict.predict([china, flower, tall], predictor)
    assert set(table["warning"]) <= set(ood.WEIGHTS)
    assert set(table["decision"]) == {""}
    text = list(sentences.answers(table, predictor.cards))
    assert text[1].startswith(f"  No decision: out of distribution ({table['warning'][0]})")


def test_many_images_are_answered_in_chunks_and_in_order(
    trained, paths, answered, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "CHUNK", 2)
    (tmp_path / "empty.png").touch()
    some = [paths[4], paths[1], tmp_path / "empty.png", paths[0], paths[1], paths[2]]
    table, problems = predict.predict(some, predict.Predictor(trained[0]), draw=False)
    assert len(problems) == 1
    assert list(table["path"]) == [str(paths[k]) for k in (4, 1, 0, 2)]
    expected = answered["probability"].to_numpy()[[4, 1, 0, 2]]
    np.testing.assert_allclose(table["probability"], expected, atol=1e-5)


def test_each_model_runs_in_its_own_precision(predictor, paths, monkeypatch):
    """It is a setting of the process, so that of the last loaded model would hold for all."""
    calls, (model, reference) = [], predictor.models["MobileNet"]
    card = predictor.members["MobileNet"]
    predictor.members["Other"] = predictor.cards["Other"] = card | {"precision": "mixed_bfloat16"}
    forward = types.SimpleNamespace(
        predict=lambda *a, **k: calls.append("forward") or model.predict(*a, **k)
    )
    predictor.models = dict.fromkeys(["MobileNet", "Other"], (forward, reference))
    monkeypatch.setattr(backbones, "apply_precision", calls.append)
    predictor.answer({paths[0]: reader.read(paths[0])})
    assert calls == ["float32", "forward", "mixed_bfloat16", "forward"]


def test_the_ensemble_is_the_mean_of_the_calibrated_logits(predictor, paths):
    card = predictor.members["MobileNet"]
    other = card | {"slope": 1 / 3, "intercept": 0.0, "threshold": 0.9}
    predictor.models["Other"] = predictor.models["MobileNet"]
    predictor.members = {"MobileNet": card, "Other": other}
    ensemble = card | {"slope": 0.5, "intercept": 0.0, "threshold": 0.5}
    predictor.cards = predictor.members | {"Ensemble": ensemble}
    table, maps = predictor.answer({path: reader.read(path) for path in paths[:3]})
    assert list(table["path"][::3]) == list(map(str, paths[:3]))
    logits = {name: rows["logit"].to_numpy() for name, rows in table.groupby("model")}
    mean = (calibration.calibrated(logits["MobileNet"], card) + logits["Other"] / 3) / 2
    np.testing.assert_allclose(logits["Ensemble"], mean, rtol=1e-6)
    rows = table[table["model"] == "Ensemble"]
    np.testing.assert_allclose(rows["probability"], special.expit(mean / 2), rtol=1e-6)
    assert len(maps) == 3
    assert abs(float(maps[0].mean())) < 1e-4


def test_a_warning_of_the_ensemble_needs_half_of_its_members():
    gray, content = ood.WEIGHTS
    assert predict._majority([content, gray, content, "", "", ""]) == content
    assert predict._majority([content, gray, "", "", ""]) == ""
    assert predict._majority(["", content]) == content
    assert predict._majority(["", ""]) == ""


@pytest.mark.parametrize("name", ["MobileNet.json", "MobileNet.ood.npz", "MobileNet.weights.h5"])
def test_a_damaged_file_of_a_model_is_one_sentence(trained, paths, name, capsys):
    path = trained[0].models_dir / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    try:
        assert main(["predict", str(paths[0]), "--models-dir", str(path.parent)]) == 2
    finally:
        path.write_bytes(whole)
    error = capsys.readouterr().err
    assert name in error
    assert error.count("\n") == 1


def test_released_models_answer_where_there_was_no_run(trained, monkeypatch, tmp_path):
    config = trained[0].model_copy(update={"models_dir": tmp_path / "empty"})
    monkeypatch.setattr(model_cards, "RELEASED_DIR", trained[0].models_dir)
    assert predict.Predictor(config).folder == trained[0].models_dir
    monkeypatch.setattr(model_cards, "RELEASED_DIR", tmp_path / "none")
    with pytest.raises(InputError, match="Run the notebook first"):
        predict.Predictor(config)


def test_every_file_of_a_model_is_read_once(trained, paths, monkeypatch):
    files = []
    for name in ("read_json", "read_arrays"):
        read = getattr(artifacts, name)
        monkeypatch.setattr(artifacts, name, lambda p, r=read: files.append(p.name) or r(p))
    predict.predict(paths[:3], predict.Predictor(trained[0]), draw=False)
    assert sorted(files) == ["Ensemble.json", "MobileNet.json", "MobileNet.ood.npz"]


def test_an_answer_is_displayed_as_plain_text(answered, monkeypatch):
    from IPython import display

    displayed = []
    monkeypatch.setattr(display, "display", lambda *shown, **_: displayed.extend(shown))
    answers = answered.head(1)
    answers.attrs["text"] = "<b>the sentences"
    predict.show(answers)
    assert displayed[0] == {"text/plain": "<b>the sentences"}
    assert displayed[1].data == Path(answers["overlay"].iloc[0]).read_bytes()
