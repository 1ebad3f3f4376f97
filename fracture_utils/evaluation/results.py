"""From predictions to every result table and the selected model, each computed once."""

import contextlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fracture_utils import artifacts, tables
from fracture_utils.config import FRACTURED, Config, InputError
from fracture_utils.evaluation import (
    calibration,
    clinical_utility,
    comparison,
    error_analysis,
    localization,
    metrics,
    sentences,
    subgroups,
)
from fracture_utils.evaluation.predictions import ENSEMBLE, by_patient, read

SCHEMA_VERSION = 1
BOXES = pd.DataFrame(columns=["path", "xmin", "ymin", "xmax", "ymax"])
HeatMaps = Mapping[str, Mapping[str, np.ndarray]]
"""By model, then by path: float32 (rows, columns)."""


@dataclass(repr=False)
class Results:
    """The tables of a run by name (see columns.csv; empty where not available) and how they came
    about: `run` is run.json, `selected` the model that figures and report emphasize. Heat maps,
    boxes and the folder of the images are not saved.
    """

    run: dict[str, Any]
    selected: str
    images: pd.DataFrame
    audit: pd.DataFrame
    networks: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    operating_points: pd.DataFrame
    scores: pd.DataFrame
    scores_by_patient: pd.DataFrame
    comparisons: pd.DataFrame
    subgroups: pd.DataFrame
    clinical_utility: pd.DataFrame
    decision_curve: pd.DataFrame
    localization: pd.DataFrame
    most_confident_errors: pd.DataFrame
    suspected_label_errors: pd.DataFrame
    images_dir: Path | None = None
    boxes: pd.DataFrame = field(default_factory=BOXES.copy)
    heat_maps: HeatMaps = field(default_factory=dict)

    @property
    def conclusions(self) -> list[str]:
        """The results in sentences."""
        return sentences.conclusions(self)

    def save(self, folder: Path) -> None:
        """Write every table, columns.csv, conclusions.txt and, last, run.json into `folder`."""
        folder = Path(folder)
        with contextlib.suppress(OSError):  # without run.json, the folder is not complete
            (folder / "run.json").unlink()
        for name in TABLES:
            tables.write(folder, name, getattr(self, name))
        tables.write(folder, "columns", tables.dictionary())
        artifacts.write_text(folder / "conclusions.txt", "\n".join(self.conclusions) + "\n")
        self.run["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        artifacts.write_json(folder / "run.json", self.run)

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """What `save` wrote; InputError where it is not complete or of another version."""
        run = artifacts.read_json(Path(folder) / "run.json")
        if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{Path(folder) / 'run.json'} is of another version; run the notebook again."
            )
        return cls(run, run["selected"], **{name: tables.read(folder, name) for name in TABLES})


TABLES = [each.name for each in fields(Results) if each.type is pd.DataFrame][:-1]
"""The names of the tables; the last, boxes, is not saved."""


def evaluate(
    predictions: pd.DataFrame,
    config: Config,
    boxes: pd.DataFrame | None = None,
    heat_maps: HeatMaps | None = None,
    **given: pd.DataFrame,
) -> Results:
    """The results of predictions (required columns of the table predictions), on their test rows;
    `given` are the tables images, audit, networks and history as far as there are any.

    Calibration, thresholds and the selected model come from validation rows; without these, the
    network with the highest test AUC is selected. With networks, their ensemble is added.
    """
    known = {name: tables.empty(name) for name in TABLES} | given
    images, networks = known["images"], known["networks"]
    trained = networks[networks["status"] == "trained"].set_index("model")
    initialization, sampling = trained["initialization"].to_dict(), (config.resamples, config.seed)
    if len(trained):  # rounded as in the file, so that re-scoring it gives the same numbers
        predictions = calibration.add_ensemble(tables.rounded(predictions))
    points = calibration.fit(predictions, config.target_sensitivity)
    predictions = calibration.apply(predictions, points)
    scores = metrics.scores(predictions, initialization, *sampling)
    ranked = scores[scores["kind"] != "reference"]
    ranked = ranked.sort_values("auc", ascending=False, kind="stable")
    ranked = ranked.sort_values("kind", ascending=False, kind="stable")  # networks first
    validated = calibration.select_model(predictions)
    selected = validated or ranked["model"].iloc[0]
    own = predictions[predictions["model"] == selected]
    known |= {
        "predictions": predictions,
        "operating_points": points,
        "scores": scores,
        "comparisons": comparison.pairs(predictions, validated, *sampling),
        "subgroups": subgroups.table(own, config.subgroups),
        "clinical_utility": clinical_utility.table(predictions, scores, config.prevalence),
        "decision_curve": clinical_utility.decision_curve(predictions, config.prevalence),
        "most_confident_errors": error_analysis.most_confident(predictions, [selected, ENSEMBLE]),
        "suspected_label_errors": error_analysis.suspected_label_errors(predictions),
    }
    if len(patients := by_patient(predictions)):
        patients = calibration.apply(patients, calibration.fit(patients, config.target_sensitivity))
        known["scores_by_patient"] = metrics.scores(patients, initialization, *sampling)
    maps, boxes = localization.ensemble_maps(heat_maps or {}), BOXES if boxes is None else boxes
    if maps and boxes["path"].isin(own["path"]).any():
        randomized = trained.get("randomized_correlation", pd.Series(dtype=float)).to_dict()
        known["localization"] = localization.table(maps, images, boxes, randomized, *sampling)

    attribution = config.images_dir / "ATTRIBUTION.txt"
    unofficial = trained.query("initialization == 'imagenet' and provenance != ''")
    files, failed = images[["path", "sha256"]].to_numpy().tolist(), networks["status"] != "trained"
    data = {"fingerprint": artifacts.fingerprint(files), "images": len(files)}
    run = {
        "schema_version": SCHEMA_VERSION,
        "finished": "",
        "purpose": sentences.PURPOSE,
        "source": config.source if "images" in given else "predictions",
        "positive": config.positive,
        "attribution": attribution.read_text("utf-8") if attribution.is_file() else "",
        "data": data | {"groups": images["group"].nunique()},
        "selected": selected,
        "selected_on": "validation" if validated else "test",
        "settings": config.model_dump(mode="json"),
        "seed": config.seed,
        "versions": artifacts.versions(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "hardware": sorted(set(trained.get("hardware", []))),
        "provenance": unofficial["provenance"].to_dict(),
        "failed": networks[failed].set_index("model")["reason"].to_dict(),
    }
    measured = ("initialization", "precision", "head", "seconds")
    run |= {name: trained[name].to_dict() for name in measured if name in trained}
    return Results(
        run, selected, **known, images_dir=config.images_dir, boxes=boxes, heat_maps=maps
    )


def evaluate_file(path: Path, config: Config) -> Results:
    """The results of anybody's predictions (see predictions.read), with the other tables of the
    run beside them, if any. InputError where the results folder holds a run on others.
    """
    path, folder = Path(path), config.results_dir
    foreign = (folder / "run.json").is_file() and folder.resolve() != path.resolve().parent
    if foreign and artifacts.read_json(folder / "run.json").get("source") != "predictions":
        raise InputError(
            f"{folder} holds the results of a run on other predictions than {path}; choose another "
            "folder with --results-dir."
        )
    predictions = read(path)
    if not (path.parent / "run.json").is_file():
        results = evaluate(predictions, config)
        results.run |= {"positive": FRACTURED, "attribution": ""}
        return results
    run = Results.load(path.parent)
    given = {name: getattr(run, name) for name in ("images", "networks", "history", "audit")}
    results = evaluate(predictions, config, **given)
    results.localization = run.localization
    results.run = run.run | {name: results.run[name] for name in ("selected", "selected_on")}
    return results
