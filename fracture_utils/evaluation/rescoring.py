"""Scores, comparisons, figures and conclusion of anybody's predictions.csv, without a network."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import (
    calibration,
    comparison,
    conclusion,
    gallery,
    metrics,
    plots,
    report,
    seeds,
    subgroups,
    use,
)
from fracture_utils.evaluation.predictions import ENSEMBLE, knows_patients, per_study, read


def evaluate(path: Path, config: Config) -> list[str]:
    """Write all that follows from the predictions in `path`; returns the conclusion.

    The tables are those that the notebook makes of the same predictions; run.json, scores.csv,
    localisation.csv and seed_spread.csv beside `path` are heeded.
    InputError where the results folder holds a run whose predictions are others.
    """
    folder = config.results_dir
    at_home = path.resolve().parent == folder.resolve()
    if not at_home and (folder / "run.json").is_file():
        raise InputError(
            f"{folder} holds the results of a run, and {path} is not one of them. Name another "
            "folder with --output, so that the two are not mixed."
        )
    source, initialisation, positive = report.provenance(path.parent)
    located = _beside(path, "localisation", ["model"])
    raw = read(path)
    points = calibration.fit(raw, config.threshold_rule, config.target_sensitivity)
    predictions, chosen = calibration.apply(raw, points), calibration.chosen(raw)
    made = _tables(predictions, chosen, config, initialisation)
    sampling = config.resamples, config.seed
    sentences = conclusion.sentences(
        made["scores"],
        made["comparisons"],
        points,
        comparison.rank_stability(predictions, *sampling),
        source,
        positive,
        chosen,
        located if len(located) else None,
        made["subgroups"],
        made["use"],
        made["decision_curve"],
    )
    sentences[-1:-1] = seeds.sentences(_beside(path, "seed_spread", seeds.COLUMNS))
    files.write_json(folder / "operating_points.json", points.to_dict("records"))
    files.write_text(folder / "conclusion.txt", "\n".join(sentences) + "\n")
    album = plots.Album(config.figures_dir, conclusion.note(source, initialisation, positive))
    album.add_all(plots.FIGURES, made | {"predictions": predictions, "operating_points": points})
    album.add(plots.verdict, predictions, made["scores"], made["comparisons"], located)
    report.write(folder, None if at_home else album.captions, predictions)
    return sentences


def _tables(
    predictions: pd.DataFrame, chosen: str | None, config: Config, starts: dict[str, str]
) -> dict[str, pd.DataFrame]:
    """The tables of calibrated predictions by name, as written to the results folder."""
    folder, sampling = config.results_dir, (config.resamples, config.seed)
    scores = tables.write(folder, "scores", metrics.scores(predictions, starts, *sampling))
    best = chosen or plots.best(scores)
    asked = [model for model in (best, ENSEMBLE) if model in set(predictions["model"])]
    of_best = predictions[predictions["model"] == best]
    made = {
        "comparisons": comparison.pairs(predictions, *sampling),
        "subgroups": subgroups.table(of_best, config.subgroups, *sampling),
        "use": use.table(predictions, scores, config.prevalence, *sampling),
        "decision_curve": use.decision_curve(predictions, config.prevalence),
        "gallery": gallery.surest(predictions, asked).fillna(""),
        "suspected_labels": gallery.suspected(predictions),
    }
    if knows_patients(predictions):
        patients = per_study(predictions)
        points = calibration.fit(patients, config.threshold_rule, config.target_sensitivity)
        patients = calibration.apply(patients, points)
        made["scores_by_patient"] = metrics.scores(patients, starts, *sampling)
    return {"scores": scores} | {n: tables.write(folder, n, table) for n, table in made.items()}


def _beside(path: Path, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table of the run that the predictions in `path` are of; empty where there is none."""
    there = (path.parent / f"{name}.csv").is_file()
    return tables.read(path.parent, name) if there else pd.DataFrame(columns=list(columns))
