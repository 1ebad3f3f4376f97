"""Exported networks answer like the package, without it; what is not theirs stays as it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import export, files
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.data.anatomy import draw_patients
from fracture_utils.data.radiography import render
from fracture_utils.models import classifier, prediction
from fracture_utils.models.backbones import Weights
from fracture_utils.networks import REGISTRY

ROOT = Path(export.__file__).parents[1]
EXTRA = [name for _, _, names, _ in export.FORMATS.values() for name in names]
with_extra = pytest.mark.skipif(
    not all(map(export.importlib.util.find_spec, EXTRA)),
    reason='needs pip install -e ".[export]"',
)


@pytest.fixture(scope="module")
def exported(small_released, tmp_path_factory):
    """The folder with all formats of it, and what the command said."""
    folder = tmp_path_factory.mktemp("exported")
    config = Config(source="phantoms", models_dir=small_released)
    return folder, list(export.export([], list(export.FORMATS), folder, config))


@pytest.fixture
def small(tmp_path):
    """Settings whose models_dir holds a small network of random weights with the mean head."""
    config = Config(
        source="phantoms", models_dir=tmp_path / "small", image_size=32, seed=2, precision="float32"
    )
    model = classifier.build(REGISTRY["MobileNet"], Weights("random"), config, "float32")
    model.get_layer("logit").kernel.assign(np.linspace(-9, 9, 1024))
    prediction.save_weights(model, config)
    card = {"model": "MobileNet", "input_size": 32, "aspect": "squash", "precision": "auto"}
    card |= {"class_names": ["normal", "torn"], "slope": 2.0, "intercept": 0.5, "threshold": 0.3}
    card["weights_sha256"] = files.sha256(prediction.weights_path("MobileNet", config))
    files.write_json(config.models_dir / "MobileNet.json", card)
    return config


@with_extra
def test_every_format_says_what_keras_says_and_the_command_says_how_nearly(exported):
    folder, said = exported
    card = files.read_json(folder / "MobileNet.json")
    assert said[0].startswith("MobileNet, asked about 50 phantoms")
    assert said[-1].startswith("Research and education only")
    suffixes = [suffix for _, suffix, _, _ in export.FORMATS.values()]
    for line, suffix in zip(said[1:-1], suffixes, strict=True):
        assert f"MobileNet{suffix}: " in line
        differences = card["differences_from_keras"][f"MobileNet{suffix}"]
        assert 0 <= differences["probability"] < 1e-3
        assert differences["logit"] < 1e-2
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@with_extra
def test_the_card_tells_what_a_user_of_the_files_has_to_know(exported, small_released):
    folder, trained = exported[0], files.read_json(small_released / "MobileNet.json")
    card = files.read_json(folder / "MobileNet.json")
    assert "never clinical" in card["purpose"]
    for key in ("class_names", "threshold", "weights_sha256", "released"):
        assert card[key] == trained[key]
    assert card["input"]["shape"] == ["n", 128, 128, 1]
    assert {"MobileNet.onnx", "MobileNet.tflite"} < set(card["files"])
    assert "MobileNet.savedmodel/saved_model.pb" in card["files"]
    for name, digest in card["files"].items():
        assert files.sha256(folder / name) == digest


@with_extra
def test_the_script_of_the_readme_answers_like_predict_and_without_keras(exported, small_released):
    """Upright, across, of odd sides and turned by its EXIF; the decision included."""
    folder = exported[0]
    script = (folder / "run_onnx.py").read_text()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"<!-- run_onnx.py -->\n```python\n(.+?)```", readme, re.S)[1] == script
    patients = list(draw_patients(16, 11))
    shapes = [(96, 72), (71, 128), (128, 128), (127, 60)]
    for number, (patient, shape) in enumerate(zip(patients, shapes, strict=False)):
        whole = render(patient, 0, 128, 11)[0]
        Image.fromarray(whole[: shape[0], : shape[1]]).save(f"{number}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(whole[:, :71]).save("turned.jpg", exif=turned)
    pictures = sorted(Path().glob("*.*g"))
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[0]); "
        "assert not {'keras', 'tensorflow', 'fracture_utils'} & set(sys.modules)"
    )
    code = f"import sys; sys.argv = sys.argv[1:]; {code}"
    command = [sys.executable, "-c", code, folder / "run_onnx.py", folder / "MobileNet.onnx"]
    done = subprocess.run([*command, *pictures], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folders = ["--models-dir", str(small_released), "--results-dir", "results"]
    assert main(["predict", "--numbers-only", *map(str, pictures), *folders]) == 0
    table = pd.read_csv("results/answers.csv", keep_default_na=False)
    card = files.read_json(small_released / "MobileNet.json")
    assert len(table) == 5
    for line, row in zip(done.stdout.splitlines(), table.to_dict("records"), strict=True):
        path, answer = line.split(": ", 1)
        assert path == row["path"]
        assert float(answer.split()[0]) == pytest.approx(row["probability"], abs=1e-3)
        fractured = row["probability"] >= card["threshold"]
        assert answer.split()[1] == f"{('normal', 'fractured')[fractured]}."


def test_a_file_that_answers_otherwise_is_refused_and_the_earlier_export_stays(
    small, tmp_path, monkeypatch, capsys
):
    """Here with the mean head, and squashed pictures."""
    command = ["export", "--format", "savedmodel", "--to", str(tmp_path / "to")]
    command += ["--models-dir", str(small.models_dir)]
    assert main(command) == 0
    before = {path: files.sha256(path) for path in _files(tmp_path / "to")}
    assert len(before) > 3
    word, suffix, needs, opened = export.FORMATS["savedmodel"]

    def other(path):
        ask = opened(path)
        return lambda squares: ask(squares) | {"probability": ask(squares)["probability"] + 2e-3}

    monkeypatch.setitem(export.FORMATS, "savedmodel", (word, suffix, needs, other))
    capsys.readouterr()
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith("MobileNet.savedmodel was not written: on phantoms its probability")
    assert said.count("\n") == 1
    assert {path: files.sha256(path) for path in _files(tmp_path / "to")} == before
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "MobileNet.onnx").touch()
    export._place("MobileNet", tmp_path / "new", tmp_path / "to", {"exported": "later"})
    left = {path.name for path in _files(tmp_path / "to")}
    assert left == {"MobileNet.onnx", "MobileNet.json", "run_onnx.py"}  # all of one export


@pytest.mark.parametrize("name", ["MobileNet.json", "MobileNet.savedmodel/mine.txt"])
def test_what_no_export_wrote_stays(name, small, capsys):
    path = Path("there", name)
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    command = ["export", "--format", "savedmodel", "--to", "there"]
    assert main([*command, "--models-dir", str(small.models_dir)]) == 2
    assert "is of no export; choose another folder with --to." in capsys.readouterr().err
    assert path.read_text() == '{"mine": 1}'
    assert _files(Path("there")) == [path]


def test_without_the_extra_a_sentence_names_the_command(monkeypatch, capsys):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert main(["export"]) == 2
    said = capsys.readouterr().err
    assert 'pip install -e ".[export]"' in said
    assert said.count("\n") == 1


def test_another_backend_is_refused(monkeypatch, capsys):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(export.run, "keras", lambda: keras)
    assert main(["export", "--format", "savedmodel"]) == 2
    assert "unset KERAS_BACKEND" in capsys.readouterr().err
    assert not os.listdir()  # noqa: PTH208


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())
