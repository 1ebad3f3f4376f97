"""One X-ray at a time: the same answer on every way, and a refusal or a warning where it is due."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import radiographs
from PIL import Image
from scipy import special
from sklearn.datasets import load_sample_image

from fracture_utils import files, predict, widget
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.data import phantoms, places, store
from fracture_utils.errors import InputError
from fracture_utils.evaluation import calibration
from fracture_utils.models import cards, heatmaps, jobs, precision

CAUTIONS = {"MobileNet": "Warning: they miss.", "Ensemble": "Warning: they miss, too."}
ROOT = files.Path(files.__file__).parents[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network trained on phantoms: settings, images, networks, predictions."""
    folder = tmp_path_factory.mktemp("trained")
    config = Config(
        data_dir=folder / "data", results_dir=folder / "results", models_dir=folder / "models",
        source="phantoms", phantom_pictures=120, phantom_size=64, seed=3, image_size=64, views=1,
        batch_size=16, head_epochs=2, fine_tune_epochs=1, backbones="MobileNet",
        initialisation="random", precision="float32", head="evidence", seeds=1,
    )  # fmt: skip
    phantoms.make(config.pictures_dir, config.phantom_pictures, config.phantom_size, config.seed)
    images = radiographs.table(config)
    networks = jobs.train(images, config, radiographs.boxes(config))
    predictions = jobs.predictions(networks, images, config)
    points = calibration.fit(predictions)
    cards.save(networks, points, config, CAUTIONS)
    return config, images, networks, calibration.apply(predictions, points)


@pytest.fixture(scope="module")
def answered(trained):
    """What the package answers in this process about some test pictures."""
    config, _, _, predictions = trained
    paths = [config.pictures_dir / p for p in predictions.query("split == 'test'")["path"]]
    return paths, *predict.answer(paths[:20], predict.Panel(config))


def command(config, *paths):
    environment = os.environ | {
        "FRACTURE_MODELS_DIR": str(config.models_dir),
        "FRACTURE_RESULTS_DIR": str(config.results_dir),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [sys.executable, "-m", "fracture_utils", "predict", *map(str, paths)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip


def test_notebook_saved_weights_and_command_line_give_the_same_probability(trained, answered):
    config, _, _, predictions = trained
    paths, table, problems = answered
    assert not problems
    assert list(table) == list(predict.NOTHING)
    notebook = predictions.set_index("path")["probability"]
    for row in table.to_dict("records"):
        name = files.Path(row["path"]).relative_to(config.pictures_dir).as_posix()
        assert row["probability"] == pytest.approx(notebook[name], abs=1e-5)
    alone = predict.predict_one(paths[3], config)
    assert list(alone["model"]) == ["MobileNet"]
    assert alone["probability"].iloc[0] == pytest.approx(table["probability"].iloc[3], abs=1e-5)
    assert alone["decision"].iloc[0] == table["decision"].iloc[3]


def test_the_maps_of_the_run_belong_to_its_logits(trained):
    config, images, networks, predictions = trained
    folder = config.cache_dir / "networks" / "MobileNet"
    maps = files.read_arrays(folder / "heatmaps.npz")[1]["maps"]
    logits = predictions["logit"].to_numpy()
    assert len(maps) == len(predictions)
    assert list(networks["head"]) == ["evidence"]
    size = files.read_json(folder / "network.json")["input_size"]
    squares = store.pixels(images, config, size)[images["split"] != "train"]
    inside = np.array([places.inside(square, maps.shape[1]) for square in squares])
    pooled = special.logsumexp(np.where(inside, maps, -np.inf), axis=(1, 2))
    gain_and_offset = np.polyfit(pooled, logits, 1)
    np.testing.assert_allclose(np.polyval(gain_and_offset, pooled), logits, atol=1e-4)
    on_pictures = jobs.heatmaps(networks, images, config)["MobileNet"]
    assert set(on_pictures) == set(images.query("split == 'test'")["path"])
    place = int(np.flatnonzero(predictions["split"] == "test")[5])
    whole = on_pictures[predictions["path"].iloc[place]]
    assert whole.shape == (64, 64)
    assert maps[place].min() - 1e-2 <= whole.min() <= whole.max() <= maps[place].max() + 1e-2
    assert np.isfinite(networks["randomised_correlation"].iloc[0])


def test_the_command_line_answers_all_it_can_read_and_says_what_it_cannot(
    trained, tmp_path, monkeypatch
):
    config, _, _, predictions = trained
    good = config.pictures_dir / predictions.query("split == 'test'")["path"].iloc[0]
    bad = tmp_path / "broken.png"
    bad.write_bytes(good.read_bytes()[:200])
    done = command(config, good, bad, tmp_path / "absent.png")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert "broken.png cannot be read" in lines[-2]
    assert "absent.png cannot be read" in lines[-1]
    assert len(lines) == 2  # and no chatter of TensorFlow
    assert str(good) in done.stdout
    assert "Warning: they miss." in done.stdout
    assert "research and education only" in done.stdout
    assert "Synthetic phantoms" in done.stdout
    table = pd.read_csv(config.results_dir / "answers.csv")
    assert list(table["path"]) == [str(good)]
    with Image.open(table["overlay"].iloc[0]) as overlay:
        assert overlay.size == (128, 64)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(InputError, match=r"absent\.png cannot be read"):
        predict.predict_one(bad, config)


def test_numbers_alone_are_the_same_and_leave_no_picture(trained, answered, monkeypatch, capsys):
    config, paths = trained[0], answered[0]
    monkeypatch.setenv("FRACTURE_MODELS_DIR", str(config.models_dir))
    monkeypatch.setenv("FRACTURE_RESULTS_DIR", "elsewhere")
    assert main(["predict", "--numbers-only", *map(str, paths[:3])]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.endswith(".png")] == [str(path) for path in paths[:3]]
    assert [path.name for path in files.Path("elsewhere").iterdir()] == ["answers.csv"]
    table = pd.read_csv("elsewhere/answers.csv", keep_default_na=False)
    assert set(table["overlay"]) == {""}
    np.testing.assert_allclose(table["probability"], answered[1]["probability"][:3], atol=1e-5)


def test_photographs_are_flagged_and_x_rays_seldom(trained, answered, tmp_path):
    config = trained[0]
    flagged = answered[1]["warning"].ne("").mean()
    assert flagged <= 0.25
    china, flower = tmp_path / "china.jpg", tmp_path / "flower.jpg"
    for path in (china, flower):
        Image.fromarray(load_sample_image(path.name)).save(path)
    panel = predict.Panel(config)
    table, _ = predict.answer([china, flower], panel)
    assert list(table["warning"].str.split(", ").str[0]) == ["size", "size"]
    assert set(table["decision"]) == {predict.WITHHELD}
    lines = list(predict.sentences(table, panel))
    assert lines[1].startswith("  No decision: the picture is unlike those")
    rate = table["warning_rate"].iloc[0]
    assert 0.01 <= rate < 0.25
    assert f"About one in {1 / rate:.0f} ordinary pictures is warned of" in lines[1]
    large = tmp_path / "large.png"
    Image.open(answered[0][0]).resize((64, 640)).save(large)
    assert "aspect ratio" in predict.answer([large], predict.Panel(config))[0]["warning"].iloc[0]


def test_every_file_of_the_networks_is_read_once(trained, answered, monkeypatch):
    config, read = trained[0], []
    for name in ("read_json", "read_arrays"):
        asked = getattr(files, name)
        monkeypatch.setattr(files, name, lambda path, a=asked: read.append(path.name) or a(path))
    monkeypatch.setattr(predict, "CHUNK", 2)
    predict.answer(answered[0][:5], predict.Panel(config), draw=False)
    assert sorted(read) == ["Ensemble.json", "MobileNet.json", "MobileNet.known.npz"]


def test_each_network_is_asked_in_its_own_arithmetic(trained, answered, monkeypatch):
    """It is a matter of the process, so the network that was loaded last would decide for all."""
    panel, look, told = predict.Panel(trained[0]), heatmaps.look, []
    panel.load()
    panel.cards["Other"] = panel.cards["MobileNet"] | {"precision": "mixed_bfloat16"}
    panel.networks["Other"] = panel.networks["MobileNet"]
    panel.known["Other"] = panel.known["MobileNet"]
    monkeypatch.setattr(precision, "apply", told.append)
    monkeypatch.setattr(heatmaps, "look", lambda *a: told.append("looked") or look(*a))
    panel.answer([predict.read(answered[0][0], panel.squares)])
    assert told == ["float32", "looked", "mixed_bfloat16", "looked"]


def test_the_ensemble_is_the_mean_of_the_calibrated_logits(trained, answered):
    config = trained[0]
    panel = predict.Panel(config)
    assert panel.together is None
    panel.load()
    card = panel.cards["MobileNet"]
    panel.cards["Other"] = card | {"slope": 1 / 3, "intercept": 0.0, "threshold": 0.9}
    panel.networks["Other"] = panel.networks["MobileNet"]
    panel.known["Other"] = panel.known["MobileNet"]
    panel.together = card | {"members": dict.fromkeys(panel.cards, "")}
    panel.together |= {"slope": 0.5, "intercept": 0.0, "threshold": 0.5}
    pictures = [predict.read(path, panel.squares) for path in answered[0][:3]]
    table, maps = panel.answer(pictures)
    logits = {name: rows["logit"].to_numpy() for name, rows in table.groupby("model")}
    mean = (calibration.calibrated(logits["MobileNet"], card) + logits["Other"] / 3) / 2
    np.testing.assert_allclose(logits["Ensemble"], mean, rtol=1e-6)
    rows = table[table["model"] == "Ensemble"]
    np.testing.assert_allclose(rows["probability"], 1 / (1 + np.exp(-mean / 2)), rtol=1e-6)
    assert len(maps) == 3
    assert abs(float(maps[0].mean())) < 1e-4


def test_an_ensemble_card_counts_only_for_its_own_members(trained):
    config, _, networks, predictions = trained
    card = json.loads((config.models_dir / "MobileNet.json").read_text())
    ensemble, rule = config.models_dir / "Ensemble.json", {"threshold": 0.5}
    members = {"MobileNet": card["weights_sha256"]}
    assert json.loads(ensemble.read_text())["members"] == members
    assert cards.read(config)[1] is None  # a single network makes no ensemble
    files.write_json(ensemble, {"members": members} | rule)
    assert cards.read(config)[1] is not None
    for others in ({"VGG16": "x"}, {"MobileNet": "x"}):
        files.write_json(ensemble, {"members": members | others} | rule)
        assert cards.read(config)[1] is None
    points = calibration.fit(calibration.ensembles(_two_models(predictions)))
    cards.save(pd.concat([networks] * 2, ignore_index=True), points, config, CAUTIONS)
    written = json.loads(ensemble.read_text())
    assert written["members"] == members
    assert {"slope", "intercept", "threshold", "rule"} <= set(written)
    cards.save(networks, points[points["model"] == "MobileNet"], config, CAUTIONS)
    assert set(json.loads(ensemble.read_text())) == {"members", "class_names"}


def test_a_network_of_an_earlier_run_is_not_asked_with_those_of_the_last(trained):
    config = trained[0]
    old = config.models_dir / "VGG16.json"
    old.write_bytes((config.models_dir / "MobileNet.json").read_bytes())
    try:
        assert list(cards.read(config)[0]) == ["MobileNet"]
        (config.models_dir / "Ensemble.json").rename(config.models_dir / "aside")
        assert list(cards.read(config)[0]) == ["VGG16", "MobileNet"]  # which run, nobody knows
    finally:
        (config.models_dir / "aside").rename(config.models_dir / "Ensemble.json")
        old.unlink()


def _two_models(predictions):
    return pd.concat([predictions, predictions.assign(model="Other")], ignore_index=True)


def test_heat_maps_are_warned_of_in_the_words_of_the_data_and_where_nobody_checked_them(
    trained, monkeypatch
):
    known, _ = cards.read(trained[0])
    card = known["MobileNet"] | {"heat_maps": "They miss the fracture."}
    abnormal = card | {"class_names": ["normal", "abnormal"]}
    unsaid = {name: value for name, value in card.items() if name != "heat_maps"}
    for given, words in (
        (card, "They miss the fracture."),
        (abnormal, "They miss the abnormality."),
        (unsaid, predict.UNCHECKED),
    ):
        monkeypatch.setattr(cards, "read", lambda config, g=given: ({"MobileNet": g}, None))
        assert predict.Panel(trained[0]).caution() == words


def test_a_damaged_card_is_one_sentence(trained, monkeypatch, capsys):
    card = trained[0].models_dir / "MobileNet.json"
    whole = card.read_bytes()
    card.write_bytes(whole[:-20])
    monkeypatch.setenv("FRACTURE_MODELS_DIR", str(card.parent))
    files.Path("x.png").touch()
    try:
        assert main(["predict", "x.png"]) == 2
    finally:
        card.write_bytes(whole)
    assert "MobileNet.json is damaged" in capsys.readouterr().err


def test_without_networks_a_sentence_says_what_to_do(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FRACTURE_MODELS_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(cards, "RELEASED_DIR", tmp_path / "none")
    files.Path("x.png").touch()
    assert main(["predict", "x.png"]) == 2
    assert "Run the notebook first" in capsys.readouterr().err


def test_released_networks_answer_where_no_run_has_been_and_say_why(trained, monkeypatch, tmp_path):
    config = trained[0].model_copy(update={"models_dir": tmp_path / "empty"})
    monkeypatch.setattr(cards, "RELEASED_DIR", trained[0].models_dir)
    panel = predict.Panel(config)
    assert panel.origin().startswith(f"{tmp_path / 'empty'} holds no trained network.")
    assert "holds no" not in predict.Panel(trained[0]).origin()


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    from IPython import display

    found = []
    monkeypatch.setattr(display, "display", lambda *things, **_: found.extend(things))
    return found


def test_the_upload_button_waits_for_a_browser_and_never_without_one(trained, monkeypatch):
    for name in widget.BROWSER:
        monkeypatch.delenv(name, raising=False)
    assert "browser" in widget.upload(trained[0])
    monkeypatch.setenv("JPY_SESSION_NAME", "fracture-detection.ipynb")
    button = widget.upload(trained[0])
    assert type(button).__name__ == "VBox"


def test_an_uploaded_picture_is_answered_and_what_is_none_is_refused_as_plain_text(
    trained, answered, shown, monkeypatch
):
    config = trained[0]
    monkeypatch.setenv("JPY_SESSION_NAME", "fracture-detection.ipynb")
    button = widget.upload(config).children[0]
    good = {"name": "../mine.png", "content": answered[0][0].read_bytes(), "type": "", "size": 1}
    button.value = ({**good, "last_modified": datetime.now(UTC)},)
    table = next(thing for thing in shown if isinstance(thing, pd.DataFrame))
    expected = answered[1]["probability"].iloc[0]
    assert table.loc["MobileNet", "probability"] == pytest.approx(expected, abs=1e-3)
    assert (config.results_dir / "answers" / "mine.png").is_file()
    shown.clear()
    bad = {**good, "name": "<b>bad.png", "content": b"no picture"}
    button.value = ({**bad, "last_modified": datetime.now(UTC)},)
    assert [list(thing) for thing in shown] == [["text/plain"]]
    assert "<b>bad.png cannot be read" in shown[0]["text/plain"]


def test_an_odd_picture_is_shown_with_a_warning(trained, answered, shown):
    row = answered[1].head(1)
    widget.show(row.assign(warning=""), trained[0])
    assert len(shown) == 3
    assert shown[2].data.startswith("Warning: they miss. Research and education only")
    widget.show(row.assign(warning="size, content"), trained[0])
    assert "unlike those that the networks know (size, content)" in shown[3].data


def test_odd_words_count_when_half_of_the_networks_say_them():
    assert predict._agreed(["size, content", "size", "size", ""]) == "size"
    assert predict._agreed(["", "content"]) == "content"
    assert predict._agreed(["", ""]) == ""
