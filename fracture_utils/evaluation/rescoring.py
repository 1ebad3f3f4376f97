"""Scores, comparisons, figures and conclusion of anybody's predictions.csv, without a network."""

from pathlib import Path

import pandas as pd

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import (
    calibration,
    comparison,
    conclusion,
    metrics,
    plots,
    report,
    subgroups,
    use,
)
from fracture_utils.evaluation.predictions import read


def evaluate(path: Path, config: Config) -> list[str]:
    """Write all that follows from the predictions in `path`; returns the conclusion.

    InputError where the results folder holds a run whose predictions are others.
    """
    folder = config.results_dir
    at_home = path.resolve().parent == folder.resolve()
    if not at_home and (folder / "run.json").is_file():
        raise InputError(
            f"{folder} holds the results of a run, and {path} is not one of them. Name another "
            "folder with --output, so that the two are not mixed."
        )
    sampling = {"resamples": config.resamples, "seed": config.seed}
    source, initialisation = report.provenance(path.parent)
    raw = read(path)
    points = calibration.fit(raw, config.threshold_rule, config.target_sensitivity)
    predictions = calibration.apply(raw, points)
    scores = metrics.scores(predictions, initialisation, **sampling)
    comparisons = comparison.pairs(predictions, **sampling)
    chosen = calibration.chosen(raw)
    told = predictions[predictions["model"] == (chosen or plots.best(scores))]
    by_group = subgroups.table(told, config.subgroups, **sampling)
    worth = use.table(predictions, scores, config.prevalence, **sampling)
    worth = tables.write(folder, "use", worth)
    net_benefit = use.decision_curve(predictions, config.prevalence)
    net_benefit = tables.write(folder, "decision_curve", net_benefit)
    sentences = conclusion.sentences(
        scores,
        comparisons,
        points,
        comparison.rank_stability(predictions, **sampling),
        source,
        chosen=chosen,
        by_group=by_group,
        worth=worth,
        net_benefit=net_benefit,
    )
    scores = tables.write(folder, "scores", scores)
    comparisons = tables.write(folder, "comparisons", comparisons)
    files.write_json(folder / "operating_points.json", points.to_dict("records"))
    files.write_text(folder / "conclusion.txt", "\n".join(sentences) + "\n")
    shown = {"predictions": predictions, "scores": scores, "operating_points": points}
    shown |= {"comparisons": comparisons, "decision_curve": net_benefit}
    shown |= {"subgroups": tables.write(folder, "subgroups", by_group)}
    _show(config, shown, conclusion.note(source, initialisation), at_home)
    return sentences


def _show(config: Config, shown: dict[str, pd.DataFrame], note: str, at_home: bool) -> None:
    """Draw the figures of the tables and write the page. A run's localisation.csv is heeded where
    the predictions are its own (`at_home`), and then its other figures belong to the page.
    """
    folder, album = config.results_dir, plots.Album(config.figures_dir, note)
    beside = folder / "localisation.csv"
    known = at_home and beside.is_file()
    located = pd.read_csv(beside) if known else pd.DataFrame(columns=["model"])
    album.add_all(plots.FIGURES, shown)
    needed = ("predictions", "scores", "comparisons")
    album.add(plots.verdict, *(shown[name] for name in needed), located)
    report.write(folder, None if at_home else album.captions, shown["predictions"])
