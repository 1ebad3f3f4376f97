"""One command line: one exit code for bad input, one sentence, nothing heavy before it."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, get_args, get_origin

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

import fracture_utils
from fracture_utils import __version__, notebook
from fracture_utils.__main__ import COMMANDS, main
from fracture_utils.config import Config, InputError, RunError

ROOT = Path(fracture_utils.__file__).parents[1]
SMALL = "path,label,model,probability\na,1,A,0.9\nb,0,A,0.2\nc,1,A,0.4\nd,0,A,0.3\n"


def python(*arguments, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, errors="replace",
        check=False, env=environment,
    )  # fmt: skip


def start(*arguments, **variables):
    return python("-m", "fracture_utils", *arguments, **variables)


BAD = {
    "predict": ["nofile.png"],
    "audit": ["--data-dir", "nowhere"],
    "export": ["nonsense"],
    "evaluate": ["nofile.csv"],
    "import": ["mura", "nofile.zip", "there"],
    "run": ["--batch-size", "many"],
}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_bad_input_is_one_sentence_and_exit_code_2(name, capsys):
    assert main([name, *BAD[name]]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.endswith(".\n")


@pytest.mark.parametrize(
    "arguments",
    [[], ["nonsense"], ["predict"], ["run", "--nonsense"], ["export", "--to"]],
)
def test_a_wrong_command_or_option_is_exit_code_2_too(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and message.endswith("--help.\n")


def test_a_missing_file_is_reported_before_keras_starts():
    started = time.monotonic()
    done = start("predict", "nofile.png")
    assert (done.returncode, done.stderr) == (
        2,
        "There is no image nofile.png; correct the name.\n",
    )
    assert time.monotonic() - started < 10  # about a second on an idle machine


def test_every_setting_is_an_option_of_run_and_every_help_has_an_example(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    text = capsys.readouterr().out
    for name, field in Config.model_fields.items():
        assert re.search(rf"--{name.replace('_', '-')}\b", text)
        assert field.description.split()[0] in text
        if get_origin(field.annotation) is Literal:
            assert f"{{{','.join(get_args(field.annotation))}}}" in text
    parts = re.split(r"^(data|augmentation|training|evaluation):$", text, flags=re.M)
    groups = dict(zip(parts[1::2], parts[2::2], strict=True))
    expected = {"data": "results-dir", "augmentation": "rotation", "training": "head"}
    for title, option in (expected | {"evaluation": "prevalence"}).items():
        assert [name for name, part in groups.items() if f"--{option} " in part] == [title]
    assert "None)" not in text and "VALUE" not in text
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert f"Example: python -m fracture_utils {name} " in text


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"fracture_utils {__version__}\n")


OTHER = """
import runpy
from pathlib import Path
from fracture_utils import notebook
notebook.NOTEBOOK = Path("story.ipynb")
runpy.run_module("fracture_utils", run_name="__main__")
"""
"""The command line with the notebook of `story` instead of the project's."""


def story(*sources: str) -> Path:
    """A notebook with a title and these code cells."""
    cells = [nbformat.v4.new_markdown_cell("## Begin"), *map(nbformat.v4.new_code_cell, sources)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), "story.ipynb")
    return Path("story.ipynb")


def execute(*sources: str) -> None:
    """Run these code cells as a notebook."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "NOTEBOOK", story(*sources))
        notebook.execute({"source": "phantoms"})


def test_run_passes_every_setting_to_the_notebook_and_writes_a_page(capsys, monkeypatch):
    path = story(
        "from fracture_utils.config import Config\nConfig().table().loc[['quick', 'seed']]"
    )
    arguments = ["--quick", "--seed", "77", "--results-dir", "mine", "--source", "phantoms"]
    monkeypatch.setattr(notebook, "NOTEBOOK", path)
    assert main(["run", *arguments]) == 0
    assert "Begin" in capsys.readouterr().out
    page = Path("mine/story.html").read_text(encoding="utf-8")
    assert "<td>77</td>" in page
    assert "<td>True</td>" in page


def test_a_notebook_that_fails_is_one_sentence():
    wrong = "from fracture_utils.config import InputError\nraise InputError('Correct that.')"
    with pytest.raises(InputError, match=r"^Correct that\.$"):
        execute(wrong)
    with pytest.raises(RunError, match=r"ZeroDivisionError.*run\.log") as caught:
        execute("1 / 0")
    assert "\n" not in str(caught.value)
    assert "Traceback" in Path("results/run.log").read_text(encoding="utf-8")
    assert not Path("results/story.html").exists()


def test_a_kernel_that_dies_is_one_sentence():
    with pytest.raises(RunError, match=r"process died; lower FRACTURE_BATCH_SIZE"):
        execute("import os; os._exit(9)")


AUDIT = """
import sys
from fracture_utils.__main__ import main
code = main(["audit", "--data-dir", "x", "--output", "audited"])
sys.exit(code or ("keras" in sys.modules) or ("tensorflow" in sys.modules))
"""


def test_audit_prints_its_findings_by_check_and_writes_two_tables_without_keras():
    """Labels in a table, no split, and two copies with different labels."""
    Path("x/all").mkdir(parents=True)
    random, rows = np.random.default_rng(0), ["path,label"]
    for k in range(24):
        pixels = random.integers(0, 256, (60, 60), np.uint8)
        for name in [f"{k}.png", "copy.png"][: 2 if k == 1 else 1]:
            Image.fromarray(pixels).save(Path("x/all", name))
            rows.append(f"all/{name},{(len(rows) + 1) % 2}")
    Path("x/images.csv").write_text("\n".join(rows))
    done = python("-c", AUDIT)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    findings = [line for line in lines if line.startswith(("red", "amber", "info"))]
    assert findings[0].split()[:4] == ["red", "1", "conflicting", "labels:"]
    assert "all/1.png, all/copy.png" in findings[0]
    table = pd.read_csv("audited/audit.csv")
    assert len(findings) == len(table.drop_duplicates(["severity", "check"]))
    assert {path.name for path in Path("audited").glob("*.csv")} == {"audit.csv", "images.csv"}
    assert len(pd.read_csv("audited/images.csv")) == 25


def test_the_notebook_runs_in_this_python_whatever_a_kernel_is_named(monkeypatch):
    """A kernel python3 of another Python, found first, as after `ipykernel install --user`."""
    other = Path("other/kernels/python3")
    other.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]}
    (other / "kernel.json").write_text(
        json.dumps(spec | {"display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(other.parents[1].resolve()))
    execute("import sys; print(sys.executable)")
    assert sys.executable in Path("results/story.html").read_text(encoding="utf-8")


CHILD = """
import subprocess, sys
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stderr=-3)
Path("started").touch()
child.wait()
"""
TRAINING = ["--source", "phantoms", "--quick", "--backbones", "MobileNet"]


@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(
    ("number", "code", "sources", "begun"),
    [
        (signal.SIGINT, 130, [], "results/cache/models/MobileNet/status.json"),  # trains
        (signal.SIGTERM, 143, [CHILD], "started"),
    ],
)
def test_a_signal_ends_a_run_its_kernel_and_its_trainings(number, code, sources, begun):
    if sources:
        story(*sources)
    own = ["-c", OTHER] if sources else ["-m", "fracture_utils"]
    command = [sys.executable, *own, "run", *TRAINING]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HTTPS_PROXY": "http://127.0.0.1:9"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A test run that was started in the background ignores interruptions, and so do its children.
    usual = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, env=environment, preexec_fn=usual, **pipes) as process:
        while not Path(begun).exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        _, message = process.communicate(timeout=120)
    assert message == "Interrupted; the next run continues where this one stopped.\n"
    assert process.returncode == code
    assert len(family) >= 2 and not psutil.wait_procs(family, 10)[1]


@pytest.mark.parametrize("encoding", ["cp932", "cp1252", "ascii"])
def test_any_file_name_can_be_printed_in_any_code_page(encoding):
    name = "Łódź ü 模型.png"
    Image.new("L", (8, 8)).save(name)
    Path("Łódź").mkdir()
    Path("Łódź/MobileNet.json").write_text("{")
    done = start("predict", name, PYTHONIOENCODING=encoding, FRACTURE_MODELS_DIR="Łódź")
    assert done.returncode == 2
    assert "MobileNet.json cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["cp932", "ascii"])
def test_a_run_and_an_import_accept_any_file_name_in_any_code_page(encoding):
    for place in ("train/fractured", "train/normal", "test/fractured", "test/normal"):
        Path("Łódź ü 模型", place).mkdir(parents=True)
        for number in range(4):
            image = Image.effect_noise((40, 40), 60 + number)
            image.save(Path("Łódź ü 模型", place, f"Łódź ü 模型 patient{number}{place[:2]}.png"))
    Path("Łódź ü 模型/test/normal/模型.gif").write_bytes(b"x")
    done = start("import", "folders", "Łódź ü 模型", "imported", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert "1 file" in done.stdout
    story(
        "from fracture_utils.config import Config\n"
        "from fracture_utils.data import dataset\n"
        "print(dataset.load(Config()).images['path'].to_string())"
    )
    arguments = ("run", "--data-dir", "imported")
    done = python("-c", OTHER, *arguments, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Łódź ü 模型 patient0tr.png" in Path("results/story.html").read_text(encoding="utf-8")


def test_the_package_works_without_docstrings_home_or_cache(tmp_path):
    Path("p q ü").mkdir()
    Path("p q ü/x.csv").write_text(SMALL)
    variables = {"HOME": "/dev/null/none", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    arguments = ("evaluate", "p q ü/x.csv", "--results-dir", "ö", "--quick")
    done = python("-OO", "-m", "fracture_utils", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    assert Path("ö/report.html").is_file()


LAUNCHER = (
    "import ctypes, os, sys; os.geteuid() or ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""Starts Python without root's right to write where the mode of a file forbids it."""


@pytest.fixture
def read_only_package(tmp_path):
    """A function that starts Python with a read-only copy of the package, and its folder."""
    home = tmp_path / "home"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fracture_utils", home / "fracture_utils", ignore=ignored)
    paths = [home, *home.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield lambda *words: python("-c", LAUNCHER, *words, PYTHONPATH=str(home)), home
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_read_only_package_works_and_nothing_is_written_into_it(read_only_package):
    launch, home = read_only_package
    attempt = launch("-c", f"open({str(home / 'fracture_utils' / 'x')!r}, 'w')")
    assert "PermissionError" in attempt.stderr
    before = sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*"))
    story(
        "from fracture_utils.config import Config\n"
        "from fracture_utils.data import dataset, phantoms\n"
        "config = Config()\n"
        "phantoms.make(config.images_dir, 48, 64, config.seed)\n"
        "len(dataset.load(config).images)"
    )
    for label in ("normal", "fractured"):
        Path("set", label).mkdir(parents=True)
        Image.new("L", (8, 8)).save(Path("set", label, "a.png"))
    Path("x.csv").write_text(SMALL)
    for expected, arguments in (
        (2, ("predict", "nofile.png")),
        (0, ("import", "folders", "set", "there")),
        (0, ("run", "--source", "phantoms")),
        (0, ("evaluate", "x.csv", "--results-dir", "scored", "--quick")),
    ):
        done = launch("-c", OTHER, *arguments)
        assert done.returncode == expected, done.stderr
        assert "Traceback" not in done.stderr
    assert Path("results/story.html").is_file()
    assert sorted((path, path.stat().st_mtime_ns) for path in home.rglob("*")) == before
