"""Exported models give the outputs of Keras without this package; files of others stay."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import radiographs
from PIL import Image
from sklearn.datasets import load_sample_image

from fracture_utils import artifacts, export, predict
from fracture_utils.__main__ import main
from fracture_utils.config import Config, InputError, RunError
from fracture_utils.evaluation import sentences
from fracture_utils.models import builder, heatmaps, model_cards, ood

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
    card |= {"input_size": 128}
    artifacts.write_json(folder / "MobileNet.json", card)
    refer(model_cards.load("MobileNet", card, folder), folder)
    return Config(source="phantoms", models_dir=folder)


def refer(model, folder):
    """Write a reference set of 60 smooth images."""
    size = model.input_shape[1]
    squares = np.stack([np.asarray(radiographs.image(k, size)) for k in range(60)])
    features = heatmaps.explain(model).predict(squares[..., None].astype("float32"), verbose=0)[2]
    images = pd.DataFrame({"group": map(str, range(60)), "width": size, "height": size})
    arrays = ood.fit(squares, features, images)
    artifacts.write_arrays(folder / "MobileNet.ood.npz", **arrays)


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
    card = {"model": "MobileNet", "input_size": 32, "head": "pooled"}
    card |= {"class_names": ["normal", "torn"], "slope": 2.0, "intercept": 0.5, "threshold": 0.3}
    card["weights_sha256"] = artifacts.digest(config.models_dir / "MobileNet.weights.h5")
    artifacts.write_json(config.models_dir / "MobileNet.json", card)
    refer(model, config.models_dir)
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


def save_all_kinds():
    """One image as files of every kind that the package reads, foreign images, and files that it
    refuses. Returns the refused.
    """
    smooth = np.asarray(radiographs.image(100, 128).convert("F"))
    wide = np.uint16(16 * smooth)
    gray = Image.fromarray(np.uint8(smooth))
    gray.save("gray.png")
    gray.resize((71, 96)).save("small.bmp")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    gray.save("rotated.jpg", exif=rotated, quality=95)
    Image.fromarray(wide).save("deep.png")
    Image.fromarray(wide).save("deep.tif")
    Image.fromarray(smooth / 7).save("float.tif")
    gray.convert("P").save("palette.png")
    gray.convert("CMYK").save("inks.jpg", quality=95)
    half = gray.copy()
    half.putalpha(Image.linear_gradient("L").resize(gray.size))
    half.save("transparent.png")
    Image.fromarray(wide.max() - wide).save("inverted.tif", tiffinfo={262: 0})  # white is zero
    radiographs.dicom("scan.dcm", wide)
    radiographs.dicom("negative.dcm", wide.max() - wide, PhotometricInterpretation="MONOCHROME1")
    Image.fromarray(load_sample_image("china.jpg")).save("photograph.jpg")
    Image.effect_noise((90, 120), 60).save("noise.png")
    Image.new("L", (99, 120), 255).save("blank.png")
    gray.save("pages.tif", save_all=True, append_images=[gray])
    gray.convert("LAB").save("lab.tif")
    gray.save("web.webp")
    gray.save("half.png")
    Path("half.png").write_bytes(Path("gray.png").read_bytes()[:999])
    return {"pages.tif", "lab.tif", "web.webp", "half.png"}


@with_extra
def test_the_script_gives_the_answers_of_predict_without_keras(exported, small_released):
    """Probability, decision and warning about every kind of file; the same files are refused."""
    folder, refused = exported[0], save_all_kinds()
    images = sorted(Path().glob("*.*"))
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; sys.modules['scipy'] = None; "
        "runpy.run_path(sys.argv[0], {'__name__': 'x'})['main'](*sys.argv[1:]); "
        "assert not {'keras', 'tensorflow', 'fracture_utils'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", code, folder / "run_onnx.py", folder / "MobileNet.onnx", *images]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table, problems = predict.predict(images, predict.Predictor(small_released), draw=False)
    assert done.stderr.splitlines() == problems
    assert {problem.split()[0] for problem in problems} == refused
    lines, card = done.stdout.splitlines(), artifacts.read_json(folder / "MobileNet.json")
    assert len(lines) == len(table) == len(images) - len(refused)
    for line, row in zip(lines, table.to_dict("records"), strict=True):
        path, answer = line.split(": ", 1)
        assert path == row["path"]
        assert float(answer.split()[0]) == pytest.approx(row["probability"], abs=1e-3)
        warning = f"No decision: out of distribution. {sentences.warning_rate(card)}"
        expected = f"{row['decision']}." if row["decision"] else warning
        assert answer.endswith(f" {expected} Research only, not for diagnosis.")
    table = table.set_index("path")
    assert all(table["warning"][["blank.png", "noise.png", "photograph.jpg"]])
    others = ["small.bmp", "transparent.png", "blank.png", "noise.png", "photograph.jpg"]
    assert set(table["warning"].drop(others)) == {""}
    same = table["probability"].drop([*others, "rotated.jpg"])
    np.testing.assert_allclose(same, same["gray.png"], atol=0.02)
    words = [sys.executable, folder / "run_onnx.py", folder / "MobileNet.onnx", "web.webp"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


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
