"""Every command of the README does what it says; .ci/run runs its two installs for real."""

import re
import shlex
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import headless
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.data.sources import SOURCES
from fracture_utils.evaluation import plots

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OWN = re.compile(r"python -m fracture_utils ([a-z][^`\n]*)")
COMMANDS = sorted({found.split(" [")[0].strip() for found in OWN.findall(README)})


DOWNLOAD = "import fracatlas download fracatlas"
OTHER_DATA = "run --data-dir fracatlas --results-dir results/mine"
EVALUATE = "evaluate predictions.csv --output scored"


def block(mark, language):
    return re.search(rf"<!-- {mark} -->\n```{language}\n(.+?)\n```", README, re.S)[1].splitlines()


def test_windows_has_the_same_lines():
    there = [
        line.replace(".venv/bin/", ".venv\\Scripts\\").replace("python3", "python")
        for line in block("run", "bash")
    ]
    assert block("run on Windows", "powershell") == there


def test_the_test_command_stands_under_develop():
    assert README.index("## Develop") < README.index("<!-- test -->") < README.index("## Licence")
    assert "-m pytest" in block("test", "bash")[-1]


def test_what_it_installs_and_links_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = set(re.findall(r'install[^`\n]* -e "\.\[(\w+)\]"', README))
    assert {"dicom", "test"} <= named <= set(extras["optional-dependencies"])
    sections = [
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", README, re.M)
    ]
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target[1:] in sections if target.startswith("#") else (ROOT / target).exists()


def test_the_verdict_on_real_radiographs_comes_first():
    picture = re.search(r"!\[(.+?)\]\((.+?)\)", README)
    assert picture[2] == "results/fracatlas/figures/verdict.png"
    assert README[: picture.start()].count("\n") < 4
    headline = re.search(
        r"^\*\*(.+?)\*\*", (ROOT / "results/fracatlas/README.md").read_text(), re.M
    )
    assert picture[1] == f"Verdict on FracAtlas: {headline[1]}"


def archive():
    """FracAtlas in small, as published."""
    folder, rows = Path("published/FracAtlas"), []
    columns = ["image_id", "hand", "leg", "hip", "shoulder", "mixed", "hardware", "multiscan"]
    columns += ["fractured", "fracture_count", "frontal", "lateral", "oblique"]
    for number in [*range(12), *range(3300, 3304)]:
        name, fractured = f"IMG{number:07d}.jpg", number % 2
        path = folder / "images" / ("Non_fractured", "Fractured")[fractured] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = np.random.default_rng(number).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(grey).save(path)
        rows.append((name, 1, 0, 0, 0, 0, 0, 0, fractured, fractured, 1, 0, 0))
    pd.DataFrame(rows, columns=columns).to_csv(folder / "dataset.csv", index=False)
    notes = folder / "Annotations/COCO JSON/COCO_fracture_masks.json"
    notes.parent.mkdir(parents=True)
    notes.write_text('{"images": [], "annotations": []}')
    return shutil.make_archive("FracAtlas", "zip", "published")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A folder with what the README's commands need, and nothing slow behind them."""
    monkeypatch.chdir(tmp_path)
    source = SOURCES["fracatlas"]._replace(fetch=lambda _: Path(archive()))
    monkeypatch.setitem(SOURCES, "fracatlas", source)
    Path("models").mkdir()
    Path("models/released").symlink_to(ROOT / "models/released")
    Image.fromarray(np.arange(96 * 96, dtype=np.uint8).reshape(96, 96)).save("X.jpg")
    said = {"path": list("abcd"), "label": [0, 1, 0, 1], "model": "A"}
    pd.DataFrame(said | {"probability": [0.1, 0.9, 0.6, 0.4]}).to_csv("predictions.csv")


def headlessly(monkeypatch):
    """Have `run` only say what it was asked."""
    asked = []
    monkeypatch.setattr(
        headless, "execute", lambda _, settings: asked.append(Config(**settings)) or Path("x.html")
    )
    return asked


def test_run_starts_the_notebook_on_phantoms(fresh, monkeypatch):
    asked = headlessly(monkeypatch)
    assert main(["run"]) == 0
    assert asked[0].source == "phantoms"


def test_fracatlas_comes_to_the_page_in_two_lines(fresh, monkeypatch, capsys):
    asked = headlessly(monkeypatch)
    for arguments in (DOWNLOAD, OTHER_DATA):
        assert main(shlex.split(arguments)) == 0
    config = asked[0]
    assert (config.source, config.neighbours) == ("pictures", 25)
    assert config.results_dir == Path("results/mine")
    assert len(list(config.data_dir.glob("*/*/*.jpg"))) == 16
    assert "CC BY 4.0" in capsys.readouterr().out


def test_predict_answers_with_the_released_networks(fresh, capsys):
    assert main(["predict", "X.jpg"]) == 0
    said = capsys.readouterr().out
    shown = re.search(r"^\$ .* predict X.jpg\n(.+?)```", README, re.S | re.M)[1].splitlines()
    assert said.splitlines()[0] == shown[0] == "X.jpg"
    assert shown[1].split()[0] in said  # the network that answers
    assert shown[-1].split(". ")[1] in said  # and what it was trained on


def test_evaluate_and_clean(fresh, capsys, monkeypatch):
    monkeypatch.setenv("FRACTURE_RESAMPLES", "100")
    monkeypatch.setattr(plots, "FIGURES", (plots.ranking,))
    assert main(shlex.split(EVALUATE)) == 0
    assert Path("scored/report.html").is_file()
    assert main(["clean"]) == 0
    assert "would be freed with --remove" in capsys.readouterr().out


def test_no_command_is_without_a_test():
    """export has tests/test_export.py, with its script."""
    assert set(COMMANDS) == {
        *("run", "clean", "export", "predict X.jpg", DOWNLOAD, OTHER_DATA, EVALUATE)
    }
    other = set(re.findall(r"^\.venv/bin/(\w+)", README, re.M)) - {"python"}
    assert other == {"pip", "ruff"}  # .ci/run starts them
