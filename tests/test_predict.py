"""Answers about single images: the same on every way, and refused or warned about where due."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import runs
from PIL import Image
from scipy import special
from sklearn.datasets import load_sample_image

from fracture_utils import artifacts, predict, tables
from fracture_utils.__main__ import main
from fracture_utils.config import Config, InputError
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration, results, sentences
from fracture_utils.models import model_cards, ood

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
    done = command(config, paths[3])
    alone = tables.read(config.results_dir, "answers")
    assert f"{alone['probability'].iloc[0]:.3f}" in done.stdout
    assert list(alone["model"]) == ["MobileNet"]
    for column in ("probability", "decision", "warning"):
        value = answered[column].iloc[3]
        expected = value if isinstance(value, str) else pytest.approx(value, abs=1e-5)
        assert alone[column].iloc[0] == expected


def test_the_command_line_answers_what_it_can_read_and_names_what_it_cannot(
    trained, paths, tmp_path
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
    assert Path(table["overlay"].iloc[0]).is_file()


def test_without_heat_maps_nothing_is_drawn(trained, paths, answered, monkeypatch, capsys):
    folders = ["--models-dir", str(trained[0].models_dir), "--results-dir", "elsewhere"]
    assert main(["predict", "--no-heat-maps", *map(str, paths[:3]), *folders]) == 0
    assert [path.name for path in Path("elsewhere").iterdir()] == ["answers.csv"]
    table = tables.read(Path("elsewhere"), "answers")
    assert set(table["overlay"]) == {""}
    np.testing.assert_allclose(table["probability"], answered["probability"][:3], atol=1e-5)


def test_photographs_get_a_warning_and_no_decision(trained, answered, paths, tmp_path):
    observed = answered["warning"].ne("").mean()
    assert observed <= 1 / 3  # of 12 images, by 20 patients
    assert answered["warning_rate"].iloc[0] == pytest.approx(observed, abs=0.1)  # 16 bits: one more
    china, flower, tall = (tmp_path / name for name in ("china.jpg", "flower.jpg", "tall.png"))
    for path in (china, flower):
        Image.fromarray(load_sample_image(path.name)).save(path)
    Image.open(paths[0]).resize((40, 400)).save(tall)
    predictor = predict.Predictor(trained[0])
    table, _ = predict.predict([china, flower, tall], predictor)
    assert set(table["warning"]) <= set(ood.WEIGHTS)
    assert set(table["decision"]) == {""}
    text = list(sentences.answers(table, predictor.card))
    flagged = f"  No decision: out of distribution ({table['warning'][0]})"
    assert text[1].startswith(flagged)


def test_many_images_are_answered_in_chunks_and_in_order(
    trained, paths, answered, tmp_path, monkeypatch
):
    monkeypatch.setattr(predict, "CHUNK", 2)
    (tmp_path / "empty.png").touch()
    some = [paths[4], paths[1], tmp_path / "empty.png", paths[0], paths[1], paths[2]]
    some = predict.find(some, trained[0])
    table, problems = predict.predict(some, predict.Predictor(trained[0]), draw=False)
    assert len(problems) == 1
    assert list(table["path"]) == [str(paths[k]) for k in (4, 1, 0, 2)]
    expected = answered["probability"].to_numpy()[[4, 1, 0, 2]]
    np.testing.assert_allclose(table["probability"], expected, atol=1e-5)


def test_models_answer_in_float32_unless_a_precision_is_named(trained, monkeypatch):
    precisions = []
    monkeypatch.setattr(model_cards, "load", lambda *a: precisions.append(a[-1]) or 1 / 0)
    for named in (None, "auto", "mixed_bfloat16"):
        settings = {} if named is None else {"FRACTURE_PRECISION": named}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        config = Config(source="phantoms", models_dir=trained[0].models_dir)
        with pytest.raises(ZeroDivisionError):
            predict.Predictor(config).model  # noqa: B018
    assert precisions == ["float32", "auto", "mixed_bfloat16"]


def test_the_selected_model_alone_answers(trained, paths, tmp_path):
    """Of two trained models; the other one where its name is given."""
    folder = tmp_path / "models"
    shutil.copytree(trained[0].models_dir, folder)
    card = artifacts.read_json(folder / "MobileNet.json")
    ensemble = {"members": dict.fromkeys(("VGG16", "MobileNet"), card["weights_sha256"])}
    artifacts.write_json(folder / "VGG16.json", card | {"model": "VGG16", "intercept": 9.0})
    config = trained[0].model_copy(update={"models_dir": folder})
    for selected, first in (({"selected": "MobileNet"}, "MobileNet"), ({}, "VGG16")):
        artifacts.write_json(folder / "Ensemble.json", ensemble | selected)
        predictor = predict.Predictor(config)
        assert (predictor.name, predictor.card["model"]) == (first, first)
        assert predict.Predictor(config, "VGG16").card["intercept"] == 9
    artifacts.write_json(folder / "Ensemble.json", ensemble | {"selected": "MobileNet"})
    predictor = predict.Predictor(config)
    table, maps = predictor.answer({path: reader.read(path) for path in paths[:3]})
    assert list(table["path"]) == list(map(str, paths[:3]))
    assert set(table["model"]) == {"MobileNet"}
    calibrated = calibration.calibrated(table["logit"], card)
    np.testing.assert_allclose(table["probability"], special.expit(calibrated), rtol=1e-6)
    assert [heat_map.shape for heat_map in maps] == [(reader.GRID, reader.GRID)] * 3
    artifacts.write_json(folder / "Ensemble.json", ensemble | {"selected": "Xception"})
    with pytest.raises(InputError, match=r"no card Xception\.json in .*Name the folder of a run"):
        predict.Predictor(config)


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


def test_few_images_are_answered_as_many_are(predictor, paths):
    """Without a graph, whose tracing takes a second, and with it."""
    images = {path: reader.read(path) for path in paths[: predict.FEW + 1]}
    many, maps = predictor.answer(images)
    few, few_maps = predictor.answer(dict(list(images.items())[:2]))
    pd.testing.assert_frame_equal(few, many.loc[:1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(few_maps, maps[:2], rtol=1e-3, atol=1e-3)


def test_one_answer_imports_neither_training_nor_statistics():
    """They take as long as TensorFlow."""
    code = (
        "import sys, fracture_utils.predict; sys.exit(', '.join({'sklearn', 'statsmodels', "
        "'seaborn', 'scipy.stats', 'matplotlib', 'tensorflow'} & set(sys.modules)) or 0)"
    )
    words, environment = [sys.executable, "-c", code], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


def test_released_models_answer_where_no_folder_is_named(trained, paths, monkeypatch, capsys):
    monkeypatch.setattr(model_cards, "RELEASED_DIR", trained[0].models_dir)
    assert predict.Predictor(Config(source="phantoms")).folder == trained[0].models_dir
    assert main(["predict", str(paths[0]), "--models-dir", "none"]) == 2
    assert "There is no trained model in none. Name the folder of a run" in capsys.readouterr().err


def test_models_trained_on_phantoms_answer_only_where_they_are_named(
    trained, paths, monkeypatch, capsys
):
    """In a folder as a run on phantoms leaves it."""
    shutil.copytree(trained[0].models_dir, "models")
    monkeypatch.setattr(model_cards, "RELEASED_DIR", trained[0].models_dir)
    card = artifacts.read_json(Path("models/MobileNet.json"))
    for source, expected in (("phantoms", trained[0].models_dir), ("images", Path("models"))):
        artifacts.write_json(Path("models/MobileNet.json"), card | {"source": source})
        assert predict.Predictor(Config(source="phantoms")).folder == expected
        named = predict.Predictor(Config(source="phantoms", models_dir="models"))
        assert named.folder == Path("models")
        assert main(["predict", str(paths[0])]) == 0
        assert ("trained on phantoms" in capsys.readouterr().err) == (source == "phantoms")


def test_a_drawn_answer_carries_its_numbers_and_its_purpose(trained, predictor, paths, tmp_path):
    """As text chunks, as visible text below image and heat map, and for a name of 255 bytes."""
    lengthy = tmp_path / f"{'ü' * 125}x.png"
    assert len(lengthy.name.encode()) == 255
    for path, size in ((lengthy, (40, 90)), (tmp_path / "gray.png", (90, 40))):
        Image.new("L", size, 90).save(path)
    with Image.open(paths[0]) as image:
        image.save(tmp_path / "x.png")
    table, problems = predict.predict(
        [tmp_path / "x.png", lengthy, tmp_path / "gray.png"], predictor
    )
    assert not problems
    for row in table.to_dict("records"):
        with Image.open(row["overlay"]) as drawn:
            chunks, pixels = drawn.text, np.asarray(drawn.convert("L"))
        assert (chunks["Model"], chunks["Decision"]) == (row["model"], row["decision"])
        assert chunks["Warning"] == row["warning"]
        assert float(chunks["Probability"]) == pytest.approx(row["probability"], rel=1e-5)
        assert float(chunks["Threshold"]) == pytest.approx(row["threshold"], rel=1e-5)
        assert "not for diagnosis" in chunks["Purpose"]
        below = pixels[-2 * predict.FONT :]
        assert drawn.width >= 800
        assert (below > 200).sum() > 100
        assert below[:, : predict.FONT // 2].max() == below[:, -predict.FONT // 2 :].max() == 0
    assert table["warning"].iloc[1]
    assert table["warning"].iloc[2]


def test_files_folders_and_wildcards_are_answered_once_and_documents_are_not(trained, paths):
    folder, config = Path("x rays/hand"), trained[0]
    folder.mkdir(parents=True)
    for k, path in enumerate(paths[:3]):
        shutil.copy(path, folder / f"{k}.png")
    for name in (".hidden.png", "notes.csv", "photo.webp"):
        (folder / name).write_bytes(b"RIFF1234WEBP")
    files = predict.find([folder.parent, folder / "[01].png", folder / "2.png"], config)
    assert files == [*(folder / f"{k}.png" for k in range(3)), folder / "photo.webp"]
    files = predict.find([Path("x*/*/1.p?g"), Path("absent.png")], config)
    assert files == [folder / "1.png", Path("absent.png")]
    absolute = predict.find([folder.absolute() / "*.png"], config)
    assert absolute == [folder.absolute() / f"{k}.png" for k in range(3)]
    for names in ([folder / "*.bmp"], [Path()]):
        if names == [Path()]:
            shutil.rmtree(folder)
        with pytest.raises(InputError, match="There is no image"):
            predict.find(names, config)


def test_a_batch_writes_its_table_and_draws_on_request_only(
    trained, paths, answered, monkeypatch, capsys
):
    monkeypatch.setattr(sentences, "MOST_LISTED", 2)
    Path("folder").mkdir()
    for k, path in enumerate(paths[:3]):
        shutil.copy(path, f"folder/{k}.png")
    Path("folder/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = ["predict", "folder", "--output", "new/answers.csv"]
    words += ["--models-dir", str(trained[0].models_dir), "--results-dir", "elsewhere"]
    for extra, drawn in (([], 0), (["--heat-maps"], 3)):
        assert main([*words, *extra]) == 2
        output = capsys.readouterr()
        assert "broken.png cannot be read" in output.err
        assert output.out.startswith("3 images: ")
        table = tables.read(Path("new"), "answers")
        assert list(table) == tables.columns("answers")
        assert list(table["path"]) == [f"folder/{k}.png" for k in range(3)]
        np.testing.assert_allclose(table["probability"], answered["probability"][:3], atol=1e-5)
        assert len(list(Path("elsewhere").rglob("*.png"))) == drawn
    for name in ("folder/0.png", "folder"):  # no file of the user is replaced
        before = sorted(Path("folder").iterdir()), Path("folder/0.png").read_bytes()
        assert main(["predict", "folder", "--output", name, *words[4:]]) == 2
        assert "choose another name with --output" in capsys.readouterr().err
        assert before == (sorted(Path("folder").iterdir()), Path("folder/0.png").read_bytes())


def test_only_the_files_of_a_model_are_read_and_its_arrays_once(trained, paths, monkeypatch):
    files = []
    for name in ("read_json", "read_arrays"):
        read = getattr(artifacts, name)
        monkeypatch.setattr(artifacts, name, lambda p, r=read: files.append(p.name) or r(p))
    predict.predict(paths[:3], predict.Predictor(trained[0]), draw=False)
    assert {*files} == {"Ensemble.json", "MobileNet.json", "MobileNet.ood.npz"}
    assert files.count("MobileNet.ood.npz") == 1
