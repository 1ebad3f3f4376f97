"""The page from a results folder, and the command line on anybody's predictions."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import Page
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fracture_utils import files
from fracture_utils.__main__ import main
from fracture_utils.config import Config
from fracture_utils.evaluation import comparison, grids, metrics, plots, report

HOSTILE = "<script>alert('x')</script>&\"><img src=http://evil/x>"


def write_predictions(path, networks=("A", "B"), split=None, count=40):
    said = [(i * 7 % 40) / 80 + i % 2 / 3 for i in range(count)]
    rows = [(f"{i}.png", i % 2, name, said[i]) for name in networks for i in range(count)]
    table = pd.DataFrame(rows, columns=["path", "label", "model", "probability"])
    if split:
        table["split"] = [split[i % len(split)] for i in range(len(table))]
    table.to_csv(path, index=False)
    return path


@pytest.fixture
def quick(monkeypatch):
    """Few resamples, and a dot with the caption in place of each figure."""

    def dot(chart):
        known, buffer = PngInfo(), io.BytesIO()
        known.add_text("Description", chart.caption)
        Image.new("L", (1, 1)).save(buffer, "PNG", pnginfo=known)
        return buffer.getvalue()

    monkeypatch.setenv("FRACTURE_RESAMPLES", "100")
    monkeypatch.setattr(plots.Chart, "png", dot)
    monkeypatch.setattr(plots.Chart, "svg", lambda chart: "")


def test_every_value_is_escaped(tmp_path, quick, monkeypatch):
    table = pd.read_csv(write_predictions(tmp_path / "p.csv")).replace({"A": HOSTILE})
    table["path"] = HOSTILE + table["path"]
    table.to_csv(tmp_path / "p.csv", index=False)
    assert main(["evaluate", str(tmp_path / "p.csv"), "--output", str(tmp_path)]) == 0
    finding = {"severity": "red", "check": HOSTILE, "path": HOSTILE, "advice": HOSTILE}
    pd.DataFrame([finding]).to_csv(tmp_path / "audit.csv", index=False)
    image = {"path": HOSTILE, "label": HOSTILE, "split": HOSTILE, "group": HOSTILE}
    pd.DataFrame([image]).to_csv(tmp_path / "images.csv", index=False)
    run = {"settings": {HOSTILE: HOSTILE}, HOSTILE: HOSTILE, "failed": {HOSTILE: HOSTILE}}
    (tmp_path / "run.json").write_text(json.dumps(run))
    monkeypatch.undo()  # one figure as it is, drawing and all
    album = plots.Album(tmp_path / "figures", HOSTILE)
    album.add(plots.audit, pd.DataFrame([finding]))
    text = report.write(tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 2
    assert "evil" in text
    assert "<script>alert" not in text
    for tag, attributes in zip(page.tags, page.attributes, strict=True):
        assert not [name for name in attributes if name.startswith("on") and name != "onsubmit"]
        assert "evil" not in attributes.get("href", "") + attributes.get("class", "")
        if tag == "img":
            assert attributes["src"].startswith(("data:image/png;base64,", "data:image/webp;"))
            assert attributes["alt"]
        else:
            assert "src" not in attributes
            assert re.fullmatch(r"#[\w-]+|\w+\.(csv|json)", attributes.get("href", "#top"))
    written = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "<script" not in written
    assert "<img" not in written


def test_the_readme_of_a_folder_shows_verdict_conclusion_figures_and_tables(tmp_path, quick):
    main(["evaluate", str(write_predictions(tmp_path / "p.csv")), "--output", str(tmp_path)])
    said = (tmp_path / "README.md").read_text(encoding="utf-8")
    headline = "2 networks, not to be told apart; B, the chosen one"
    first = pd.read_csv(tmp_path / "scores.csv").iloc[0]
    assert headline.replace("B", first["model"]) in said
    for path in (tmp_path / "figures").glob("*.png"):
        assert f"](figures/{path.name})" in said
    assert "- [scores.csv](scores.csv)" in said
    assert "research and education only" in said.lower()


def test_a_readme_that_someone_wrote_is_left_alone(tmp_path):
    readme = tmp_path / "README.md"
    report.write(tmp_path)
    assert readme.read_text(encoding="utf-8").startswith(report.GENERATED)
    (tmp_path / "conclusion.txt").write_text("Something new.\n")
    report.write(tmp_path)
    assert "- Something new." in readme.read_text(encoding="utf-8")
    readme.write_text("Mine.\n")
    report.write(tmp_path)
    assert readme.read_text(encoding="utf-8") == "Mine.\n"


def test_sections_come_in_order_and_say_what_is_missing(tmp_path, quick):
    main(["evaluate", str(write_predictions(tmp_path / "p.csv")), "--output", str(tmp_path)])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert Page(text).titles == [
        *("Verdict", "Move the threshold", "Leaderboard", "Conclusion", "The surest answers"),
        "Where it fails",
        *("Limits and intended use", "Figures", "All numbers, and how they were made", "Words"),
        "Tables and their columns",
    ]  # fmt: skip
    assert "images.csv, audit.csv" in text
    (tmp_path / "run.json").write_text('{"failed": {"VGG16": "out of memory"}}')
    (tmp_path / "audit.csv").write_text("severity,check,path,other,what,advice\n")
    (tmp_path / "ensembles.csv").write_text("model,member\nEnsemble,A\nEnsemble,B\n")
    text = report.write(tmp_path).read_text(encoding="utf-8")
    data = text[text.index('id="data-audit"') : text.index('id="limits"')]
    assert "VGG16: out of memory" in data
    assert "Members of the ensembles" in text
    assert "A, B" in text
    assert "The audit of the data found nothing." in text
    assert Page(text).titles[4] == "Can I trust the data?"


def test_results_of_other_predictions_are_never_mixed_in(tmp_path, quick, capsys):
    path = write_predictions(tmp_path / "p.csv")
    run, before = tmp_path / "run", tmp_path / "before"
    files.write_json(run / "run.json", {})
    assert main(["evaluate", str(path), "--output", str(run)]) == 2
    assert "holds the results of a run" in capsys.readouterr().err
    assert [p.name for p in run.iterdir()] == ["run.json"]
    album = plots.Album(before / "figures")
    album.add(plots.audit, pd.DataFrame(columns=["severity", "check"]))
    assert main(["evaluate", str(path), "--output", str(before)]) == 0
    assert "audit of the data" not in (before / "report.html").read_text(encoding="utf-8")
    assert (before / "figures" / "audit.png").is_file()


def test_an_empty_folder_makes_a_page_that_says_so(tmp_path):
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert Page(text).titles == ["Conclusion", "Limits and intended use", "Words"]
    assert "scores.csv, comparisons.csv, images.csv, audit.csv, conclusion.txt, figures" in text


def test_the_audit_shows_red_first_and_not_without_end(tmp_path):
    rows = [
        {"severity": s, "check": "c", "path": f"{s}{i}"} for s in ("info", "red") for i in range(90)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "audit.csv", index=False)
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert text.index("red0<") < text.index("info0<")
    assert text.split('id="columns"')[0].count("<tr>") == 101
    assert "all are in audit.csv" in text


def test_provenance_is_that_of_the_run(tmp_path):
    assert report.provenance(tmp_path) == ("", {}, "fractured")
    (tmp_path / "run.json").write_text(
        '{"settings": {"source": "phantoms"}, "positive": "abnormal"}'
    )
    pd.DataFrame(
        {
            "model": ["VGG16", "Ensemble", "Majority class"],
            "kind": ["network", "ensemble", "reference"],
            "initialisation": ["random", "random", "none"],
        }
    ).to_csv(tmp_path / "scores.csv", index=False)
    assert report.provenance(tmp_path) == ("phantoms", {"VGG16": "random"}, "abnormal")


def test_a_rerun_on_phantoms_keeps_saying_so(tmp_path, quick):
    path = write_predictions(tmp_path / "predictions.csv")
    (tmp_path / "run.json").write_text('{"settings": {"source": "phantoms"}}')
    main(["evaluate", str(path), "--output", str(tmp_path / "again")])
    assert "synthetic phantoms" in (tmp_path / "again" / "conclusion.txt").read_text()
    pd.DataFrame({"model": ["A"], "initialisation": ["random"]}).to_csv(tmp_path / "scores.csv")
    main(["evaluate", str(path), "--output", str(tmp_path / "again")])
    scores = pd.read_csv(tmp_path / "again" / "scores.csv").set_index("model")
    assert list(scores["initialisation"][["A", "B"]]) == ["random", "not stated"]


def test_four_columns_give_every_file(tmp_path, capsys):
    path = write_predictions(tmp_path / "p.csv", networks=("A", "B", "C"))
    assert main(["evaluate", str(path), "--output", str(tmp_path / "out")]) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    comparisons = pd.read_csv(tmp_path / "out" / "comparisons.csv")
    assert list(scores["model"]) == ["A", "B", "C", "Majority class"]
    assert list(comparisons) == list(comparison.COLUMNS)
    assert len(comparisons) == 3
    for name in ("conclusion.txt", "operating_points.json", "report.html", "figures/ranking.png"):
        assert (tmp_path / "out" / name).stat().st_size
    points = json.loads((tmp_path / "out" / "operating_points.json").read_text())
    assert (points[0]["slope"], points[0]["threshold"]) == (1, 0.5)
    said = capsys.readouterr().out
    assert "nothing was calibrated (slope 1, threshold 0.5)" in said
    assert "Written to" in said


def test_validation_rows_fit_and_are_not_scored(tmp_path, quick):
    path = write_predictions(tmp_path / "p.csv", split=["validation", "validation", "test", "test"])
    assert main(["evaluate", str(path), "--output", str(tmp_path / "out")]) == 0
    assert pd.read_csv(tmp_path / "out" / "scores.csv")["n"].iloc[0] == 20
    points = json.loads((tmp_path / "out" / "operating_points.json").read_text())
    assert points[0]["rule"] == "youden"


def test_one_model_and_one_class(tmp_path, quick, capsys):
    path = tmp_path / "p.csv"
    path.write_text("path,label,model,probability\na,normal,A,0.2\nb,normal,A,0.7\n")
    assert main(["evaluate", str(path), "--output", str(tmp_path / "out")]) == 0
    assert "All 2 test pictures are normal" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out" / "comparisons.csv").empty


def test_a_bad_file_ends_with_one_sentence_and_exit_code_2(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("path,label,model,probability\na,1,A,2\n")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fracture_utils", "evaluate",
         str(path), "--output", str(tmp_path / "scored")],
        capture_output=True, text=True, cwd=Path(metrics.__file__).parents[2], check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert (
        run.stderr == f"{path}, row 2: the probability '2' is no number from 0 to 1; correct it.\n"
    )
    assert run.stdout == ""


def test_results_are_the_default_and_data_are_not_needed(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("FRACTURE_DATA_DIR", "nowhere")
    monkeypatch.setenv("FRACTURE_RESULTS_DIR", "mine")
    assert main(["evaluate", str(write_predictions(tmp_path / "p.csv"))]) == 0
    assert (tmp_path / "mine" / "scores.csv").is_file()


def test_predictions_without_test_rows_say_so(tmp_path, quick, capsys):
    path = write_predictions(tmp_path / "p.csv", split=["validation"])
    assert main(["evaluate", str(path), "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "The predictions have no rows of the split test; add some.\n"


def test_the_page_names_networks_whose_first_weights_are_not_keras_s_own(tmp_path, quick):
    main(["evaluate", str(write_predictions(tmp_path / "p.csv")), "--output", str(tmp_path)])
    scores = pd.read_csv(tmp_path / "scores.csv")
    network = scores["kind"] == "network"
    scores.loc[network, "initialisation"] = "imagenet"
    scores.to_csv(tmp_path / "scores.csv", index=False)
    name = scores.loc[network, "model"].iloc[0]
    files.write_json(tmp_path / "run.json", {"weights_notes": {name: "pruned", "Other": "x"}})
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert f"weights not from Keras's own file: {name} " in text.replace("&#39;", "'")


def test_what_the_data_are_worth_is_said_in_sentences(tmp_path):
    rows = [("amber", "near duplicate", f"{k}.png", "x", "keep one") for k in range(3)]
    rows += [("info", "shortcut", "", "alone 0.52", "")]
    table = pd.DataFrame(rows, columns=["severity", "check", "path", "what", "advice"])
    table.to_csv(tmp_path / "audit.csv", index=False)
    images = {"path": list("abcde"), "split": ["train"] * 4 + ["test"], "group": list("ppqrs")}
    images["label"] = ["fractured", "normal", "normal", "normal", "fractured"]
    pd.DataFrame(images).to_csv(tmp_path / "images.csv", index=False)
    text = report.write(tmp_path).read_text(encoding="utf-8")
    assert "<li>Near duplicate (amber): 3 findings; keep one.</li>" in text
    assert "<li>Shortcut (info): alone 0.52.</li>" in text
    assert '<th scope="row">train</th><td>1</td><td>3</td><td>25 %</td><td>3</td>' in text
    assert '<th scope="row">test</th><td>1</td><td>0</td><td>100 %</td><td>1</td>' in text


def test_the_record_of_a_run_is_short_and_in_words():
    usual = Config.model_construct().model_dump(mode="json")
    run = {"seed": 3, "cores": 2, "failed": {"A": "why"}, "hardware": ["CPU"]}
    run |= {"seconds": {"A": {"head": 1.5, "predict": 2}, "B": {"head": 3}}}
    rows = dict(grids.record(run | {"settings": usual | {"patience": 9}})["rows"])
    assert rows == {
        **{"seed": "3", "cores": "2", "hardware": "CPU"},
        "seconds": "A: head: 1.5, predict: 2; B: head: 3",
        "settings other than the default": "patience: 9",
    }
    assert (
        dict(grids.record(run | {"settings": usual})["rows"])["settings other than the default"]
        == "none"
    )


def test_a_number_without_an_interval_has_none_in_the_grid_either():
    """As where all test pictures are of one patient; it was "0.800 (nan to nan)"."""
    scores = {name: [np.nan] for m in metrics.METRICS for name in (f"{m}_low", f"{m}_high")}
    scores |= {name: [0.8] for name in metrics.METRICS} | {"ppv": [np.nan], "model": ["A"]}
    scores = pd.DataFrame(scores | {"initialisation": ["random"], "n": [9], "positives": [3]})
    rows = dict(grids.scores(scores, "fractured")["rows"])
    assert (rows["AUC"], rows["PPV"]) == ("0.800 (no interval)", "not defined")
