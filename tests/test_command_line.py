"""One command line: one exit code for bad input, a sentence, and nothing heavy before it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from PIL import Image

import fracture_utils
from fracture_utils import headless
from fracture_utils.__main__ import COMMANDS, main
from fracture_utils.config import Config
from fracture_utils.errors import InputError, RunError
from fracture_utils.models import process

ROOT = Path(fracture_utils.__file__).parents[1]


def start(*arguments, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, *variables.pop("flags", ()), "-m", "fracture_utils", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, env=environment
    )


BAD = {
    "predict": ["nofile.png"],
    "export": ["nonsense", "--format", "savedmodel"],
    "evaluate": ["nofile.csv"],
    "import": ["mura", "nofile.zip", "there"],
    "run": ["--batch-size", "many"],
    "clean": ["--results-dir", "/dev/null/x", "--remove"],
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_bad_input_is_one_sentence_and_exit_code_2(name, capsys):
    assert main([name, *BAD[name]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.endswith(".\n")


def test_a_wrong_option_or_no_command_is_exit_code_2_too(capsys):
    for arguments in ([], ["nonsense"], ["predict"], ["run", "--nonsense"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2


def test_a_picture_that_is_not_there_is_said_before_anything_heavy_starts():
    code = (
        "import sys; from fracture_utils.__main__ import main; assert main(['predict', 'no.png']) "
        "== 2; heavy = {'keras', 'tensorflow', 'pandas', 'numpy', 'pydantic'} & set(sys.modules); "
        "sys.exit(f'{heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "There is no file no.png; correct the name.\n"


def test_every_setting_is_an_option_of_run_and_help_can_be_pasted(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text.replace("\n", " ")
        assert field.description.split()[0] in text
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        assert f"Example: python -m fracture_utils {name} " in " ".join(
            capsys.readouterr().out.split()
        )


def notebook(*sources):
    story = nbformat.v4.new_notebook()
    story.cells = [nbformat.v4.new_markdown_cell("## Say it")]
    story.cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(story, "story.ipynb")
    return Path("story.ipynb")


def test_run_hands_every_setting_to_the_notebook_and_leaves_a_page(capsys):
    path = notebook(
        "from fracture_utils.config import Config\nConfig().table().loc[['quick', 'seed']]"
    )
    arguments = ["--quick", "--seed", "77", "--results-dir", "mine", "--source", "phantoms"]
    assert main(["run", "--notebook", str(path), *arguments]) == 0
    assert "Say it" in capsys.readouterr().out
    page = Path("mine/story.html").read_text(encoding="utf-8")
    assert "<td>77</td>" in page
    assert "<td>True</td>" in page


@pytest.mark.parametrize("text", [None, "no JSON", "{}"])
def test_a_notebook_that_is_none_is_one_sentence(text, capsys):
    if text:
        Path("story.ipynb").write_text(text)
    assert main(["run", "--notebook", "story.ipynb", "--source", "phantoms"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("story.ipynb is no notebook (")
    assert said.endswith("correct --notebook.\n") and said.count("\n") == 1


def test_a_notebook_that_fails_is_one_sentence():
    wrong = "from fracture_utils.errors import InputError\nraise InputError('Mend that.')"
    with pytest.raises(InputError, match=r"^Mend that\.$"):
        headless.execute(notebook(wrong), {"source": "phantoms"})
    with pytest.raises(RunError, match=r"ZeroDivisionError.*run\.log") as it:
        headless.execute(notebook("1 / 0"), {"source": "phantoms"})
    assert "\n" not in str(it.value)
    assert "Traceback" in Path("results/run.log").read_text(encoding="utf-8")
    assert not Path("results/story.html").exists()


CODE_PAGES = ("cp932", "cp874", "cp1252", "ascii")


@pytest.mark.parametrize("encoding", CODE_PAGES)
def test_any_name_can_be_said_in_any_code_page(encoding):
    name = "Łódź ü 模型.png"
    Image.new("L", (8, 8)).save(name)
    Path("Łódź").mkdir()
    Path("Łódź/MobileNet.json").write_text("{")
    done = start("predict", name, PYTHONIOENCODING=encoding, FRACTURE_MODELS_DIR="Łódź")
    assert done.returncode == 2
    assert "MobileNet.json is damaged" in done.stderr
    assert "Traceback" not in done.stderr
    done = start("predict", f"no {name}", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("encoding", ["cp932", "ascii"])
def test_a_run_and_an_import_say_any_name_in_any_code_page(encoding):
    for place in ("train/fractured", "train/normal", "test/fractured", "test/normal"):
        Path("Łódź ü 模型", place).mkdir(parents=True)
        for number in range(4):
            grey = Image.effect_noise((40, 40), 60 + number)
            grey.save(Path("Łódź ü 模型", place, f"Łódź ü 模型 patient{number}{place[:2]}.png"))
    Path("Łódź ü 模型/模型.gif").write_bytes(b"x")
    done = start("import", "folders", "Łódź ü 模型", "brought", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "1 file left out: no picture (1, such as " in done.stdout
    path = notebook(
        "from fracture_utils.config import Config\n"
        "from fracture_utils.data import images, inventory\n"
        "config = Config()\n"
        "print(images.table(config, inventory.take(config))['path'].to_string())"
    )
    arguments = ("run", "--notebook", str(path), "--data-dir", "brought")
    done = start(*arguments, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Łódź ü 模型 patient0tr.png" in Path("results/story.html").read_text(encoding="utf-8")


def test_children_write_utf_8_and_use_a_keras_that_is_there(monkeypatch, tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "nonsense"}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    given = process.environment()
    assert given["KERAS_BACKEND"] == "tensorflow"
    assert given["PYTHONIOENCODING"] == "utf-8:replace"
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert process.environment()["KERAS_BACKEND"] == "jax"


def test_keras_in_the_notebook_is_quiet_and_ours_whatever_keras_json_says(tmp_path):
    unfit = {"image_data_format": "channels_first", "backend": "nonsense", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(unfit))
    code = (
        "from fracture_utils import run; from fracture_utils.models import backbones; "
        "keras = run.keras(); body = keras.applications.MobileNet(weights=None, "
        "include_top=False, input_shape=(32, 32, 3)); body.trainable = False; "
        "print(body.output.shape, body.compute_dtype); print(backbones.layers(body).to_string())"
    )
    variables = {"KERAS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={name: v for name, v in os.environ.items() if name != "KERAS_BACKEND"} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("(None, 1, 1, 1024) float32\n")
    assert "trainable" not in done.stdout
    assert "3228864" in done.stdout


def test_the_package_works_without_docstrings_a_home_or_write_access(tmp_path):
    Path("p q ü").mkdir()
    Path("p q ü/x.csv").write_text("path,label,model,probability\na,1,A,0.9\nb,0,A,0.2\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": "/dev/null/none"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    command = [sys.executable, "-OO", "-m", "fracture_utils", "evaluate", "p q ü/x.csv"]
    done = subprocess.run(
        [*command, "--output", "ö", "--resamples", "100"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path("ö/report.html").is_file()


LAUNCHER = (
    "import ctypes, os, sys; os.geteuid() or ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Starts Python without the right of root to write where the file's mode forbids it."""


@pytest.fixture
def read_only_package(tmp_path):
    """A function that starts Python with a copy of the package that it cannot write to, and the
    folder of that copy.
    """
    house = tmp_path / "house"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fracture_utils", house / "fracture_utils", ignore=ignored)
    places = [house, *house.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}

    def launch(*arguments):
        return subprocess.run(
            [sys.executable, "-c", LAUNCHER, *arguments],
            env=environment | {"PYTHONPATH": str(house)},
            capture_output=True,
            text=True,
            check=False,
        )

    yield launch, house
    for path in places:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.skipif(os.name != "posix", reason="modes of files bind elsewhere in other ways")
def test_a_read_only_package_works_and_nothing_is_written_into_it(read_only_package):
    launch, house = read_only_package
    touched = launch("-c", f"open({str(house / 'fracture_utils' / 'x')!r}, 'w')")
    assert "PermissionError" in touched.stderr
    before = sorted((path, path.stat().st_mtime_ns) for path in house.rglob("*"))
    path = notebook(
        "from fracture_utils.config import Config\n"
        "from fracture_utils.data import images, inventory, phantoms\n"
        "config = Config()\n"
        "phantoms.make(config.pictures_dir, 48, 64, config.seed)\n"
        "len(images.table(config, inventory.take(config)))"
    )
    Path("set/normal").mkdir(parents=True)
    Image.new("L", (8, 8)).save("set/normal/a.png")
    Path("x.csv").write_text("path,label,model,probability\na,1,A,0.9\nb,0,A,0.2\n")
    scored = ("evaluate", "x.csv", "--output", "scored", "--resamples", "100")
    for expected, arguments in (
        (2, ("predict", "nofile.png")),
        (0, ("import", "folders", "set", "there")),
        (0, ("run", "--notebook", str(path), "--source", "phantoms")),
        (0, scored),
        (0, ("clean", "--remove")),
    ):
        done = launch("-m", "fracture_utils", *arguments)
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
    assert Path("results/story.html").is_file()
    assert sorted((path, path.stat().st_mtime_ns) for path in house.rglob("*")) == before


def test_predict_on_a_missing_file_is_quick():
    started = time.monotonic()
    done = start("predict", "nofile.png")
    assert done.returncode == 2
    assert time.monotonic() - started < 5  # under a second where nothing else is at work
