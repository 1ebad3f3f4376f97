"""Exported models give the outputs of Keras without this package; files of others stay."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fracture_utils import artifacts, export, predict
from fracture_utils.__main__ import main
from fracture_utils.config import Config, InputError, RunError
from fracture_utils.models import builder, model_cards

with_extra = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, export.PACKAGES)),
    reason='needs pip install -e ".[export]"',
)


@pytest.fixture(scope="module")
def small_released(tmp_path_factory):
    """Settings whose models_dir holds the released MobileNet for small images, in float32."""
    folder = tmp_path_factory.mktemp("released")
    for path in model_cards.RELEASED_DIR.glob("MobileNet.*"):
        shutil.copy(path, folder)
    card = artifacts.read_json(folder / "MobileNet.json")
    card |= {"precision": "float32", "input_size": 128}
    artifacts.write_json(folder / "MobileNet.json", card)
    return Config(source="phantoms", models_dir=folder)


@pytest.fixture(scope="module")
def exported(small_released, tmp_path_factory):
    """The folder and the lines of the command."""
    folder = tmp_path_factory.mktemp("exported")
    return folder, list(export.export([], folder, small_released))


@pytest.fixture
def small(tmp_path):
    """Settings whose models_dir holds a small model of random weights with the pooled head."""
    config = Config(source="phantoms", models_dir=tmp_path / "small")
    model = builder.build("MobileNet", "pooled", size=32, seed=2)
    model.get_layer("logit").kernel.assign(np.linspace(-9, 9, 1024))
    config.models_dir.mkdir()
    model.save_weights(config.models_dir / "MobileNet.weights.h5")
    card = {"model": "MobileNet", "input_size": 32, "precision": "auto", "head": "pooled"}
    card |= {"class_names": ["normal", "torn"], "slope": 2.0, "intercept": 0.5, "threshold": 0.3}
    card["weights_sha256"] = artifacts.digest(config.models_dir / "MobileNet.weights.h5")
    artifacts.write_json(config.models_dir / "MobileNet.json", card)
    return config


@with_extra
def test_the_file_gives_the_outputs_of_keras_and_has_a_card(exported, small_released):
    folder, lines = exported
    card = artifacts.read_json(folder / "MobileNet.json")
    for what, limit in export.LIMITS.items():
        assert 0 <= card["differences_from_keras"][what] < limit
    assert lines[0].startswith(f"{folder / 'MobileNet.onnx'}; largest differences from Keras")
    trained = artifacts.read_json(small_released.models_dir / "MobileNet.json")
    for key in ("class_names", "threshold", "weights_sha256", "released", "input_size"):
        assert card[key] == trained[key]
    names = {path.name for path in folder.iterdir()}
    assert names == {"MobileNet.onnx", "MobileNet.json", "run_onnx.py"}


@with_extra
def test_the_script_gives_the_answers_of_predict_without_keras(exported, small_released):
    """Upright, landscape, odd sides and EXIF rotation; the decision included."""
    folder, random = exported[0], np.random.default_rng(3)
    for number, shape in enumerate([(96, 72), (71, 128), (128, 128), (127, 60)]):
        noise = Image.fromarray(random.integers(0, 256, (9, 9), np.uint8))
        noise.resize(shape[::-1], Image.Resampling.BICUBIC).save(f"{number}.png")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    noise.resize((71, 128), Image.Resampling.BICUBIC).save("rotated.jpg", exif=rotated)
    images = sorted(Path().glob("*.*g"))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0]); "
        "assert not {'keras', 'tensorflow', 'fracture_utils'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, folder / "run_onnx.py", folder / "MobileNet.onnx", *images]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, _ = predict.predict(images, predict.Predictor(small_released), draw=False)
    lines = done.stdout.splitlines()
    assert len(table) == len(lines) == 5
    for line, row in zip(lines, table.to_dict("records"), strict=True):
        path, answer = line.split(": ", 1)
        assert path == row["path"]
        assert float(answer.split()[0]) == pytest.approx(row["probability"], abs=1e-3)
        fractured = row["probability"] >= row["threshold"]
        assert answer.split()[1] == f"{('normal', 'fractured')[fractured]}."


@with_extra
def test_a_file_that_differs_from_keras_is_refused_and_an_earlier_export_stays(
    small, tmp_path, monkeypatch
):
    folder = tmp_path / "to"
    assert len(list(export.export([], folder, small))) == 1
    (folder / "run_onnx.py").write_text("old")
    before = {path: artifacts.digest(path) for path in files(folder)}
    assert len(before) == 3
    monkeypatch.setitem(export.LIMITS, "probability", -1)
    with pytest.raises(RunError, match=r"MobileNet\.onnx was not written: its probability"):
        list(export.export([], folder, small))
    assert {path: artifacts.digest(path) for path in files(folder)} == before
    monkeypatch.setitem(export.LIMITS, "probability", 1e-3)
    list(export.export(["MobileNet"], folder, small))
    assert (folder / "run_onnx.py").read_text() != "old"


@with_extra
@pytest.mark.parametrize("name", ["MobileNet.json", "MobileNet.onnx"])
def test_files_of_others_stay(name, small, capsys):
    path = Path("there", name)
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    words = ["export", "--to", "there", "--models-dir", str(small.models_dir)]
    assert main(words) == 2
    assert "is not an export; choose another folder with --to." in capsys.readouterr().err
    assert path.read_text() == '{"mine": 1}'
    assert files(Path("there")) == [path]


@with_extra
def test_a_missing_model_or_backend_is_one_sentence(small, monkeypatch):
    import keras

    with pytest.raises(InputError, match=r"VGG16\.json cannot be read"):
        list(export.export(["VGG16"], Path("to"), small))
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="unset KERAS_BACKEND"):
        list(export.export([], Path("to"), small))
    assert not files(Path("to"))


def test_a_missing_package_is_one_sentence(small, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[export\]"'):
        list(export.export([], Path("to"), small))


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())
