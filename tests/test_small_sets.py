"""A person's first try: the notebook's own cells, audit to report, on a handful of pictures.

The networks' answers are made up, because training has tests of its own; all else is the real
thing. Radiographs where they are at hand, phantoms elsewhere.
"""

import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import fracture_utils
from fracture_utils.data import phantoms
from fracture_utils.errors import InputError
from fracture_utils.evaluation.plots import style
from fracture_utils.models import cards, jobs

ROOT = Path(fracture_utils.__file__).parents[1]
RADIOGRAPHS = ROOT.parent / "shared" / "data" / "fracatlas"
CELLS = [
    cell.source
    for cell in nbformat.read(ROOT / "fracture-detection.ipynb", as_version=4).cells
    if cell.cell_type == "code"
    and not re.search(
        r"keras|predict\.|display_id=True|^data_dir = None", cell.source, re.MULTILINE
    )
]
IMPORTS = next(
    cell.source
    for cell in nbformat.read(ROOT / "fracture-detection.ipynb", as_version=4).cells
    if cell.cell_type == "code"
)
NETWORKS = ("DenseNet121", "MobileNet")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Paths of pictures by class."""
    folder = RADIOGRAPHS
    if not folder.is_dir():
        folder = tmp_path_factory.mktemp("pool")
        phantoms.make(folder, 400, 96, 5)
    return {
        label: sorted(folder.glob(f"*/{label}/*.[jp][pn]g")) for label in ("fractured", "normal")
    }


def made(pool, folder, count, sharing, seed=0):
    """`count` pictures of each class in train and as many in test; patients by `sharing`."""
    random, rows = np.random.default_rng(seed), []
    for label, paths in pool.items():
        drawn = random.permutation(len(paths))[: 2 * count]
        for number, place in enumerate(drawn):
            split = ("train", "test")[number % 2]
            target = folder / split / label / f"{label[0]}{number}{paths[place].suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(paths[place], target)
            patient = {"own": f"{label}{number}", "pairs": f"{split}{number // 4}", "all": "one"}
            rows.append((f"{split}/{label}/{target.name}", patient[sharing]))
    pd.DataFrame(rows, columns=["path", "patient"]).to_csv(folder / "images.csv", index=False)


class Display:
    """Takes what a notebook would show."""

    def __call__(self, *_, **__):
        return self

    def update(self, *_):
        pass


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    """A function that runs the cells on a data folder; returns the results folder."""

    def train(images, config, boxes):
        row = {"status": "trained", "why": "", "initialisation": "imagenet", "note": ""}
        row |= {"precision": "float32", "hardware": "CPU", "parameters": 3e6, "seconds": 1.0}
        row |= {"waiting": 0.0} | {f"seconds_{stage}": 0.2 for stage in jobs.STAGES}
        row |= {"seconds_per_picture": 0.01, "randomised_correlation": 0.1, "multiply_adds": 0.6}
        return pd.DataFrame([{"model": name} | row for name in NETWORKS])

    def history(networks, config):
        row = {"stage": "head", "epoch": 1, "loss": 0.5, "auc": 0.7, "val_loss": 0.6}
        row |= {"val_auc": 0.6, "learning_rate": 1e-3, "seconds": 1.0}
        return pd.DataFrame([{"model": name} | row for name in networks["model"]])

    def answers(networks, images, config):
        """Both networks say the same, so that their AUCs are equal."""
        random = np.random.default_rng(1)
        rows = images[images["split"] != "train"][["path", "group", "label", "split", "patient"]]
        logit = random.normal(size=len(rows)) + 1.5 * (rows["label"] == "fractured")
        one = rows.assign(logit=logit, probability=1 / (1 + np.exp(-logit)))
        return pd.concat(
            [one.assign(model=name, kind="network") for name in NETWORKS], ignore_index=True
        )

    def heat(networks, images, config):
        tested, random = images.loc[images["split"] == "test", "path"], np.random.default_rng(2)
        return {
            name: {path: random.random((64, 64)).astype(np.float32) for path in tested}
            for name in NETWORKS
        }

    for name, fake in (("train", train), ("history", history), ("predictions", answers)):
        monkeypatch.setattr(jobs, name, fake)
    monkeypatch.setattr(style, "RESOLUTION", style.RESOLUTION // 5)  # most of the time
    monkeypatch.setattr(style.Chart, "svg", lambda _: "")
    monkeypatch.setattr(jobs, "heatmaps", heat)
    monkeypatch.setattr(jobs, "seeds", lambda *_: pd.DataFrame())
    monkeypatch.setattr(cards, "save", lambda *_: None)

    def run(folder):
        results, show = tmp_path / "results", Display()
        names = {"on_top": show}
        exec(IMPORTS.rsplit("\n", 1)[0], names)
        names["display"] = show
        given = {"data_dir": folder, "results_dir": results, "weights_dir": None}
        names |= given | {"backbone_names": ",".join(NETWORKS), "quick": True}
        monkeypatch.setenv("FRACTURE_SOURCE", "pictures")
        for cell in CELLS[1:]:
            exec(cell, names)
        return results

    return run


@pytest.mark.filterwarnings("ignore:.*tight_layout")
@pytest.mark.parametrize(
    ("count", "sharing"),
    [
        *((2, "own"), (3, "pairs"), (5, "own"), (8, "pairs"), (13, "own"), (21, "pairs")),
        *((40, "own"), (80, "pairs")),
    ],
)
def test_a_handful_of_pictures_gives_a_report(pool, notebook, tmp_path, count, sharing):
    made(pool, tmp_path / "mine", count, sharing, seed=count)
    try:
        results = notebook(tmp_path / "mine")
    except InputError as error:  # patients on both sides may leave a class without a group
        assert sharing == "pairs" and count < 8, error
        assert re.fullmatch(r"[^\n]+\.", str(error))
        return
    said = (results / "conclusion.txt").read_text()
    assert "nan" not in said
    assert not re.search(r"1\.000 (\(|to )1\.000", said)
    assert "Its " not in said.split("\n")[0]
    assert (results / "report.html").stat().st_size > 10_000
    assert not (results / "UNFINISHED.txt").exists()
    scores = pd.read_csv(results / "scores.csv")
    assert set(NETWORKS) <= set(scores["model"])
    with Image.open(results / "figures" / "verdict.png") as card:
        assert card.size == (1200 // 5, 630 // 5)


@pytest.mark.parametrize("count", [2, 13])
def test_one_patient_for_all_is_not_believed_or_ends_with_a_sentence(
    pool, notebook, tmp_path, count
):
    made(pool, tmp_path / "mine", count, "all")
    try:
        audit = pd.read_csv(notebook(tmp_path / "mine") / "audit.csv")
    except InputError as error:
        assert re.fullmatch(r"[^\n]+\.", str(error))
        return
    assert audit["what"].str.contains("one").any()
