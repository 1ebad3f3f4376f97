"""The notebook, executed headless on quick phantoms: by the command line, papermill, nbconvert."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbformat import v4

from fracture_utils import notebook
from fracture_utils.config import Config
from fracture_utils.evaluation import results as evaluation

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "fracture-detection.ipynb"
BROKEN = "xception_weights_tf_dim_ordering_tf_kernels_notop.h5"
NAMES = "MobileNet,Xception,VGG16"
"""Two networks from the released weights, and one whose weights file is broken."""


def offline(folder: Path) -> dict[str, str]:
    """The environment of a run without internet."""
    proxies = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    return proxies | {"KERAS_HOME": str(folder / "keras"), "PYTHONPATH": str(ROOT)}


def run(folder: Path) -> subprocess.CompletedProcess:
    """A quick run by the command line, as `make run` starts it."""
    options = ["--quick", "--source", "phantoms", "--backbones", NAMES]
    for name in ("data", "models", "weights", "results"):
        options += [f"--{name}-dir", str(folder / name)]
    return subprocess.run(
        [sys.executable, "-m", "fracture_utils", "run", *options],
        cwd=ROOT, env=os.environ | offline(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip


def papermill(folder: Path) -> nbformat.NotebookNode:
    """The same run by papermill, which fills in the parameters cell; the executed notebook."""
    from papermill import execute_notebook

    with pytest.MonkeyPatch.context() as patch:
        settings = {f"FRACTURE_{n.upper()}_DIR": folder / n for n in ("data", "models", "weights")}
        settings |= {"FRACTURE_QUICK": "1", "FRACTURE_SOURCE": "phantoms"}
        for name, value in (settings | offline(folder)).items():
            patch.setenv(name, str(value))
        parameters = {"results_dir": str(folder / "results"), "backbone_names": NAMES}
        execute_notebook(NOTEBOOK, folder / "run.ipynb", parameters, progress_bar=False,
                         kernel_name="python3")  # fmt: skip
    return nbformat.read(folder / "run.ipynb", as_version=4)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("quick")
    (folder / "weights").mkdir()
    (folder / "weights" / BROKEN).write_bytes(b"not HDF5")
    done = run(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert str(folder / "results" / "report.html") in done.stdout
    assert "Train all models" in done.stdout
    return folder


def test_a_run_leaves_every_result(quick_run):
    folder = quick_run / "results"
    results = evaluation.Results.load(folder)
    assert results.run["source"] == "phantoms"
    assert results.run["initialization"] == {"MobileNet": "released", "VGG16": "released"}
    assert BROKEN in results.run["failed"]["Xception"]
    assert results.run["seconds"]["VGG16"] > 0
    for name in ("images", "audit", "history", "predictions", "scores_by_patient", "comparisons",
                 "subgroups", "clinical_utility", "decision_curve", "localization"):  # fmt: skip
        assert len(getattr(results, name)), name
    assert {"body_part", "view", "patient"} <= set(results.predictions)
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "synthetic phantoms" in report.lower()
    assert BROKEN in report
    assert not re.search(r'(src|href)="(http|/)', report)
    figures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert {"class_distribution", "image_grid", "augmentation_grid", "history", "ranking", "roc",
            "precision_recall", "confusion_matrices", "sample_predictions", "comparisons",
            "reliability", "decision_curve", "subgroups", "localization", "heat_maps",
            "most_confident_errors"} <= figures  # fmt: skip
    for name in ("MobileNet", "VGG16"):
        card = json.loads((quick_run / f"models/{name}.json").read_text(encoding="utf-8"))
        assert {"slope", "intercept", "threshold", "input_size", "class_names"} <= set(card)


def csv_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "results").glob("*.csv"))}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["quick", "results/examples/fracatlas"])
def test_evaluate_gives_the_tables_that_the_notebook_gave(source, quick_run, tmp_path):
    folder = quick_run / "results" if source == "quick" else ROOT / source
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    scoring = ("seed", "quick", "target_sensitivity", "prevalence")
    settings = {name: run["settings"][name] for name in scoring}
    config = Config(source="images", results_dir=tmp_path / "again", **settings)
    evaluation.evaluate_file(folder / "predictions.csv", config).save(config.results_dir)
    names = [f"{name}.csv" for name in (*evaluation.TABLES, "columns")]
    for name in (*names, "conclusions.txt"):
        again = (config.results_dir / name).read_text(encoding="utf-8")
        assert again == (folder / name).read_text(encoding="utf-8"), name


@pytest.mark.filterwarnings("ignore")  # of papermill and its kernel client
def test_a_second_run_trains_nothing_and_what_is_missing_is_made_again_alike(quick_run):
    """One model is cached; the other and the images are made again, by papermill."""
    first, folder = csv_files(quick_run), quick_run / "results" / "cache" / "models"
    cached = (folder / "MobileNet" / "network.json").stat().st_mtime_ns
    shutil.rmtree(quick_run / "data")
    shutil.rmtree(folder / "VGG16")
    for path in (quick_run / "models").glob("VGG16*"):
        path.unlink()
    executed = papermill(quick_run)
    assert (folder / "MobileNet" / "network.json").stat().st_mtime_ns == cached
    again = csv_files(quick_run)
    assert list(again) == list(first)
    differ = [name for name in first if again[name] != first[name]]
    assert set(differ) <= {"history.csv", "networks.csv"}
    for name in differ:
        one, other = (pd.read_csv(io.BytesIO(tables[name])) for tables in (first, again))
        times = [column for column in one if column.startswith("seconds")]
        is_cached = one["model"] != "VGG16"
        pd.testing.assert_frame_equal(other[is_cached], one[is_cached], check_exact=True)
        pd.testing.assert_frame_equal(
            other.drop(columns=times), one.drop(columns=times), check_exact=True
        )
    cells = [cell for cell in executed.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) >= 15
    silent = [cell.source for cell in cells if not cell.outputs]
    assert len(silent) <= 3, silent  # the imports, the parameters, and those of papermill
    assert any(f'"{quick_run / "results"}"' in source for source in silent)
    assert best_auc(executed) > 0.5


def best_auc(story: nbformat.NotebookNode) -> float:
    """The highest validation AUC that Keras printed in the cells with a call of `fit`."""
    cells = [cell for cell in story.cells if ".fit(train" in cell.source]
    printed = "".join(o.get("text", "") for cell in cells for o in cell.outputs)
    return max(float(value) for value in re.findall(r"val_auc: (\S+)", printed))


def test_the_committed_run_trains_a_network_in_plain_sight():
    story = nbformat.read(NOTEBOOK, as_version=4)
    source = "\n".join(cell.source for cell in story.cells if cell.cell_type == "code")
    for step in (
        "ImageBatches(",
        "add_head(",
        ".compile(",
        ".fit(",
        "EarlyStopping(",
        "jobs.train(",
    ):
        assert step in source, step
    if any(cell.get("outputs") for cell in story.cells):
        assert best_auc(story) > 0.7


def test_the_notebook_has_no_plumbing():
    story = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell.source for cell in story.cells if cell.cell_type == "code"]
    assert len([line for line in cells[0].splitlines() if line]) <= 10
    assert not [source for source in cells[1:] if re.search(r"^(from|import) ", source, re.M)]
    assert not re.search(r"tables\.|write_|\.lock\(", "\n".join(cells))


@pytest.mark.filterwarnings("ignore")  # of the kernel client
def test_after_a_restart_the_evaluation_goes_on_from_the_saved_results(quick_run, monkeypatch):
    """The import cell, then everything from the cell that loads the results."""
    for name, value in offline(quick_run).items():
        monkeypatch.setenv(name, value)
    for name in ("data", "models", "results"):
        monkeypatch.setenv(f"FRACTURE_{name.upper()}_DIR", str(quick_run / name))
    monkeypatch.setenv("FRACTURE_SOURCE", "phantoms")
    (quick_run / "results" / "figures" / "heat_maps.png").unlink()
    story = nbformat.read(NOTEBOOK, as_version=4)
    loading = next(k for k, cell in enumerate(story.cells) if "Results.load(" in cell.source)
    story.cells = [story.cells[1], *story.cells[loading:]]
    NotebookClient(story, kernel_name="python3", extra_arguments=notebook.QUIET).execute()
    outputs = [output for cell in story.cells for output in cell.get("outputs", [])]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) >= 12
    assert (quick_run / "results" / "figures" / "heat_maps.png").is_file()
    page = (quick_run / "results" / "report.html").read_text(encoding="utf-8")
    for caption in ("Bar chart: images of each class", "the heat maps of the selected model"):
        assert caption in page


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("BATCH_SIZE", "many", "The setting batch_size (FRACTURE_BATCH_SIZE) is 'many'"),
        ("BACKBONES", "Foo", "keras.applications has no network 'Foo' (FRACTURE_BACKBONES)"),
    ],
)
def test_a_wrong_setting_ends_nbconvert_with_a_sentence(tmp_path, setting, value, sentence):
    environment = os.environ | {f"FRACTURE_{setting}": value, "PYTHONPATH": str(ROOT)}
    path = tmp_path / NOTEBOOK.name
    shutil.copy(NOTEBOOK, path)
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", str(path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert sentence in done.stderr
    message = done.stderr.split("------------------")[-1]  # behind the source of the cell
    assert "pydantic" not in message
    assert "fracture_utils/" not in message
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.filterwarnings("ignore")  # of the kernel client
def test_an_interrupted_cell_ends_with_one_line(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [
        "from fracture_utils.models import backbones; keras = backbones.import_keras()",
        "import _thread, time; _thread.interrupt_main(); time.sleep(9)",
        "raise KeyboardInterrupt('run it again to resume')",
    ]
    story = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(story, kernel_name="python3", extra_arguments=notebook.QUIET)
    client.allow_errors = True
    client.execute()
    tracebacks = [cell.outputs[-1].traceback for cell in story.cells[1:]]
    assert tracebacks == [
        ["KeyboardInterrupt: the cell was interrupted; run it again"],
        ["KeyboardInterrupt: run it again to resume"],
    ]


def story() -> nbformat.NotebookNode:
    figure = v4.new_output(
        "display_data",
        {"image/png": "iVBORw0KGgo=", "text/plain": "a caption"},
        metadata={"image/png": {"width": 800, "alt": "ROC 'curves' <b>\"0.9\""}},
    )
    cells = [v4.new_markdown_cell("# Title\n\nText."), v4.new_code_cell("1", outputs=[figure])]
    widgets = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    return v4.new_notebook(cells=cells, metadata={"widgets": widgets})


@pytest.mark.parametrize("source", [story, lambda: nbformat.read(NOTEBOOK, as_version=4)])
def test_the_page_of_a_notebook_requests_nothing(source):
    text = notebook.html(source())
    assert "<h1" in text
    for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", text):
        assert not re.search(r"""(?:src|href)=["']?(?:https?:|//)""", tag), tag
    scripts = re.findall(r"<script\b[^>]*>(.*?)</script>", text, re.S)
    assert not [script for script in scripts if "http" in script]
    styles = "".join(re.findall(r"<style\b[^>]*>(.*?)</style>", text, re.S))
    assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:|//)", styles)


def test_a_figure_has_its_alternative_text_on_the_page():
    class Images(HTMLParser):
        texts: tuple = ()

        def handle_starttag(self, tag, attributes):
            if tag == "img":
                self.texts += (dict(attributes)["alt"],)

    page = Images()
    page.feed(notebook.html(story()))
    assert page.texts == ("ROC 'curves' <b>\"0.9\"",)
