"""Every command of the README is run here or its parts are checked; CI runs `make test` itself."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import external
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import notebook, predict
from fracture_utils.__main__ import main
from fracture_utils.config import Config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN = re.compile(r"python -m fracture_utils ([a-z][^`\n]*)")
COMMANDS = {text.strip() for text in OWN.findall(README)}
IMPORT = "import fracatlas FracAtlas.zip datasets/fracatlas"
OTHER_DATA = "run --data-dir datasets/fracatlas --results-dir results/fracatlas"
EVALUATE = "evaluate predictions.csv --results-dir results/scored"
EXPORT = "export DenseNet121"
AUDIT, EXTERNAL = "audit --data-dir my_xrays --output audited", "evaluate my_xrays --output tested"
PREDICT = "predict my_xrays --output answers.csv"


def recipe(target: str) -> list[str]:
    """The commands of `make TARGET` in a fresh checkout."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if not line.startswith("touch")]


def windows(target: str) -> list[str]:
    """The same, as the README has it for Windows."""
    return re.search(rf"<!-- {target} on Windows -->\n```powershell\n(.+?)\n```", README, re.S)[
        1
    ].splitlines()


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_the_lines_for_windows_are_those_of_make():
    def translated(lines: list[str]) -> list[str]:
        return [line.strip().replace(".venv/bin/", ".venv\\Scripts\\").replace("python3", "python")
                for line in lines]  # fmt: skip

    assert windows("run") == translated(recipe("run"))
    assert translated(recipe("test"))[-len(windows("test")) :] == windows("test")


def test_the_first_screen_has_both_commands_and_the_purpose():
    screen = "\n".join(README.splitlines()[:20])
    assert re.search(r"^make run\b", screen, re.M)
    assert re.search(r"^make test\b", screen, re.M)
    assert "not a medical device" in screen


def test_extras_and_links_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = set(re.findall(r'install[^`\n]* -e "\.\[(\w+)\]"', README))
    assert named == set(project["optional-dependencies"])
    sections = [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", README, re.M)
    ]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in sections if target.startswith("#") else (ROOT / target).exists()


def test_settings_and_files_that_it_names_exist():
    known = {f"FRACTURE_{name.upper()}" for name in Config.model_fields}
    assert set(re.findall(r"FRACTURE_[A-Z_]+(?![<A-Z_])", README)) - {"FRACTURE_"} <= known
    from fracture_utils.evaluation.results import TABLES

    assert {f"{name}.csv" for name in TABLES} < set(re.findall(r"`(\w+\.csv)`", README))


def test_its_example_is_what_the_committed_results_state():
    folder = ROOT / "results" / "examples" / "fracatlas"
    sentences = (folder / "conclusions.txt").read_text(encoding="utf-8").splitlines()
    assert re.search(r"^> (.+)$", README, re.M)[1] in " ".join(sentences)
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert f"FracAtlas, {run['data']['images']:,} radiographs" in README


def archive() -> None:
    """FracAtlas in small, as published."""
    folder, rows = Path("published/FracAtlas"), []
    columns = ["image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan"]
    columns += ["fractured", "fracture_count", "frontal", "lateral", "oblique"]
    for number in [*range(12), *range(3300, 3304)]:
        name, fractured = f"IMG{number:07d}.jpg", number % 2
        path = folder / "images" / ("Non_fractured", "Fractured")[fractured] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        gray = np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(gray).save(path)
        rows.append((name, 1, 0, 0, 0, 0, 0, 0, fractured, fractured, 1, 0, 0))
    pd.DataFrame(rows, columns=columns).to_csv(folder / "dataset.csv", index=False)
    annotations = folder / "Annotations/COCO JSON/COCO_fracture_masks.json"
    annotations.parent.mkdir(parents=True)
    annotations.write_text('{"images": [], "annotations": []}')
    shutil.make_archive("FracAtlas", "zip", "published")


@pytest.fixture
def runs(monkeypatch):
    """The settings of each `run`, which executes no notebook here."""
    settings: list[Config] = []

    def execute(given: dict) -> Path:
        settings.append(Config(**given))
        return Path("x.html")

    monkeypatch.setattr(notebook, "execute", execute)
    return settings


def test_run_starts_the_notebook_on_phantoms(runs):
    assert main(["run"]) == 0
    assert runs[0].source == "phantoms"


def test_fracatlas_reaches_the_notebook_in_two_lines(runs, capsys):
    archive()
    for command in (IMPORT, OTHER_DATA):
        assert main(shlex.split(command)) == 0
    (config,) = runs
    assert (config.source, config.run_length) == ("images", 25)
    assert config.results_dir == Path("results/fracatlas")
    assert len(list(config.data_dir.glob("*/*/*.jpg"))) == 16
    assert (
        "CC BY 4.0" in capsys.readouterr().out + (config.data_dir / "ATTRIBUTION.txt").read_text()
    )


def test_predict_answers_with_the_released_models(capsys):
    Path("models").mkdir()
    Path("models/released").symlink_to(ROOT / "models/released")
    Image.fromarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)).save("X.jpg")
    assert main(["predict", "X.jpg"]) == 0
    output = capsys.readouterr().out
    shown = re.search(r"^\$ .* predict X.jpg\n(.+?)```", README, re.S | re.M)[1].splitlines()
    assert output.splitlines()[0] == shown[0] == "X.jpg"
    assert shown[1].split()[0] in output  # the model
    assert shown[-1] == output.splitlines()[-1]  # the note


def test_from_the_clone_to_an_audit_an_external_test_and_a_table_of_answers(monkeypatch, capsys):
    external.folder(normal=12, fractured=8)
    rows = [f"{path.relative_to('my_xrays')},{path.parent.name}"
            for path in Path("my_xrays").rglob("*.png")]  # fmt: skip
    Path("my_xrays/images.csv").write_text("\n".join(["path,label", *rows]))
    assert main(shlex.split(AUDIT)) == 0
    assert {path.stem for path in Path("audited").glob("*.csv")} == {"images", "audit"}
    assert main(shlex.split(PREDICT)) == 0
    answers = pd.read_csv("answers.csv")
    columns = ["path", "model", "probability", "threshold", "decision", "warning"]
    assert {*columns} <= {*answers} and len(answers) == 20
    monkeypatch.setattr(predict, "Predictor", external.Predictor)
    assert main([*shlex.split(EXTERNAL), "--quick"]) == 0
    assert Path("tested/report.html").is_file()
    assert "by itself gives an O/E of" in capsys.readouterr().out


BATCH = """
import os, signal, sys, time
from pathlib import Path
from fracture_utils.models import jobs

def work(number):
    Path(f"{number}-{os.getpid()}").touch()
    time.sleep(3)
    return os.getpid()

import distributed
client = distributed.Client(os.environ["FRACTURE_CLUSTER"], timeout=30)
client.wait_for_workers(2, timeout=60)
with jobs._cluster(os.environ["FRACTURE_CLUSTER"]) as executor:
    futures = [executor.submit(work, number) for number in range(3)]
    while len(started := list(Path().glob("[0-9]-*"))) < 2:
        time.sleep(0.1)
    os.kill(lost := int(started[0].name.split("-")[1]), signal.SIGKILL)
    done = [future.result(60) for future in futures]
    assert lost not in done and len(done) == 3
print("all three are done")
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_slurm_script_starts_a_scheduler_workers_and_the_run(tmp_path):
    """srun stands in by two local workers, the run by three tasks; one worker is killed."""
    pytest.importorskip("distributed")
    script = re.search(r"```bash\n(#!/bin/bash\n.+?)```", README, re.S)[1]
    assert "python -m fracture_utils run\n" in script
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = script.replace("8786", port).replace("$(hostname)", "127.0.0.1")
    bin_dir = tmp_path / ".venv" / "bin"
    bin_dir.mkdir(parents=True)
    (tmp_path / "batch.py").write_text(BATCH)
    stand_ins = {
        "srun": '"$@" & "$@" & wait',
        "dask": f'exec {sys.executable} -m dask "$@"',
        "python": f"exec {sys.executable} batch.py",
    }
    for name, command in stand_ins.items():
        (bin_dir / name).write_text(f"#!/bin/bash\n{command}\n")
        (bin_dir / name).chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{bin_dir}{os.pathsep}{environment['PATH']}"
    command = ["bash", "-c", f"{script}\nkill $(jobs -p)"]
    pipes = {"stdout": subprocess.PIPE, "stderr": (tmp_path / "log").open("w"), "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes,
                          start_new_session=True) as process:  # fmt: skip
        try:
            output = process.stdout.readline()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    pipes["stderr"].close()
    assert output == "all three are done\n", (tmp_path / "log").read_text()


def test_evaluate_writes_a_report():
    rows = {"path": list("abcd"), "label": [0, 1, 0, 1], "model": "A"}
    pd.DataFrame(rows | {"probability": [0.1, 0.9, 0.6, 0.4]}).to_csv("predictions.csv")
    assert main([*shlex.split(EVALUATE), "--quick"]) == 0
    assert Path("results/scored/report.html").is_file()


def test_no_command_is_without_a_test():
    """export has tests/test_export.py, `run --help` tests/test_command_line.py."""
    expected = {"run", "run --help", "predict X.jpg", IMPORT, OTHER_DATA, EVALUATE, EXPORT}
    assert expected | {AUDIT, EXTERNAL, PREDICT} == COMMANDS
    tools = {words.split()[0] for words in re.findall(r"\.venv[/\\]\w+[/\\]([\w-]+)", README)}
    assert tools <= {"python", "pip", "ruff", "jupyter", "dask"}
