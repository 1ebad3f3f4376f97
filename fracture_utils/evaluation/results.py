"""From predictions to every result table and the selected model, each computed once."""

import contextlib
import itertools
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
from fracture_utils.config import FRACTURED, OUT_OF_FOLD, SCORING, Config, InputError
from fracture_utils.data import splits
from fracture_utils.evaluation import (
    calibration,
    clinical_utility,
    comparison,
    localization,
    metrics,
    sentences,
    subgroups,
)
from fracture_utils.evaluation.localization import HeatMaps
from fracture_utils.evaluation.predictions import ENSEMBLE, by_patient, read

SCHEMA_VERSION = 2
HEAT_MAPS, SAVED_BOXES = Path("cache", "heat_maps.npz"), Path("cache", "boxes.csv")
BOXES = pd.DataFrame(columns=["path", "xmin", "ymin", "xmax", "ymax"])


@dataclass(repr=False)
class Results:
    """The tables of a run by name (see columns.csv; empty where not available): `run` is run.json,
    `selected` the model that figures and report emphasize. Boxes, and the heat maps of the
    selected model by path, are saved in the cache of `folder`.
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
    cross_validation: pd.DataFrame
    subgroups: pd.DataFrame
    clinical_utility: pd.DataFrame
    decision_curve: pd.DataFrame
    localization: pd.DataFrame
    most_confident_errors: pd.DataFrame
    folder: Path | None = None
    images_dir: Path | None = None
    boxes: pd.DataFrame = field(default_factory=BOXES.copy)
    heat_maps: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def conclusions(self) -> list[str]:
        """The conclusions as sentences."""
        return [*itertools.chain(*sentences.topics(self).values()), sentences.PURPOSE]

    def save(self, folder: Path | None = None) -> None:
        """Write every table, columns.csv, conclusions.txt and, last, run.json into `folder` (None:
        the results folder).
        """
        folder = Path(folder or self.folder)
        with contextlib.suppress(OSError):  # without run.json, the folder is not complete
            (folder / "run.json").unlink()
        for name in sorted(TABLES):  # audit.csv first: it marks a folder of results
            tables.write(folder, name, getattr(self, name))
        tables.write(folder, "columns", tables.dictionary())
        artifacts.write_text(folder / "conclusions.txt", "\n".join(self.conclusions) + "\n")
        if self.heat_maps:
            arrays = {self.selected: np.array([*self.heat_maps.values()], np.float16)}
            artifacts.write_arrays(folder / HEAT_MAPS, paths=np.array([*self.heat_maps]), **arrays)
            artifacts.write_csv(folder / SAVED_BOXES, self.boxes)
        self.run["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        artifacts.write_json(folder / "run.json", self.run)

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """What `save` wrote; InputError if it is not complete or of another version."""
        folder, path = Path(folder), Path(folder, "run.json")
        run = artifacts.read_json(path)
        if not isinstance(run, dict) or run.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{path} is of another version; run the notebook again.")
        known = {name: tables.read(folder, name) for name in TABLES}
        if "parameters" in known["networks"]:  # written with all digits, also with gaps
            known["networks"] = known["networks"].astype({"parameters": "Int64"})
        arrays = artifacts.read_arrays(folder / HEAT_MAPS) or {}
        if (selected := run["selected"]) in arrays:
            maps = zip(arrays["paths"].tolist(), np.float32(arrays[selected]), strict=True)
            boxes = pd.read_csv(folder / SAVED_BOXES, dtype={"path": str})
            known |= {"heat_maps": dict(maps), "boxes": boxes}
        data_dir = Path(run["settings"]["data_dir"])
        images_dir = data_dir / "phantoms" if run["source"] == "phantoms" else data_dir
        return cls(run, selected, **known, folder=folder, images_dir=images_dir)


TABLES = [each.name for each in fields(Results) if each.type is pd.DataFrame][:-1]
"""The names of the tables; the last, boxes, is not saved."""


def evaluate(
    predictions: pd.DataFrame,
    config: Config,
    boxes: pd.DataFrame | None = None,
    heat_maps: HeatMaps | None = None,
    operating_points: pd.DataFrame | None = None,
    selected: str | None = None,
    **given: pd.DataFrame,
) -> Results:
    """The results of predictions (required columns of the table predictions), on their test rows;
    `given` are the tables images, audit, networks and history, if available.

    Calibration, thresholds and the selected model come from out-of-fold or validation rows;
    without these, the network with the highest test AUC is selected. With networks, their ensemble
    is added. In an external test, `operating_points` and the `selected` model are those of the
    model cards, and the ensemble is added where it has an operating point.
    """
    known = {name: tables.empty(name) for name in TABLES} | given
    images, networks = known["images"], known["networks"]
    trained = networks[networks["status"] == "trained"].set_index("model")
    initialization, sampling = trained["initialization"].to_dict(), (config.resamples, config.seed)
    external = operating_points is not None
    if len(trained):  # rounded as in the file, so that re-scoring it gives the same numbers
        predictions = tables.rounded(predictions)

    def fit(rows: pd.DataFrame) -> pd.DataFrame:
        return operating_points if external else calibration.fit(rows, config.target_sensitivity)

    points, target = fit(predictions), config.target_sensitivity
    if target is not None and (external or calibration.calibrating(predictions).empty):
        raise InputError("A target sensitivity needs validation images; leave it out.")
    for model in predictions.loc[~predictions["model"].isin(points["model"]), "model"]:
        raise InputError(f"{model} is not in this external test; remove its predictions.")
    ensemble = calibration.ensemble(predictions, points)
    if len(ensemble) and (ENSEMBLE in set(points["model"]) if external else len(trained)):
        predictions = pd.concat([predictions, ensemble], ignore_index=True)
        points = points if external else pd.concat([points, fit(ensemble)], ignore_index=True)
    predictions = calibration.apply(predictions, points)
    scores = metrics.scores(predictions, initialization, *sampling)
    ranked = scores[scores["kind"] != "reference"]
    ranked = ranked.sort_values(["kind", "auc"], ascending=False)  # networks first
    validated = selected or calibration.select_model(predictions)
    by_folds = (predictions["split"] == OUT_OF_FOLD).any()
    how = "model card" if selected else OUT_OF_FOLD if by_folds else "validation"
    how = how if validated else "test"
    in_run = set(images["path"][splits.one_class_run(images)[0]])
    selected = validated or ranked["model"].iloc[0]
    own = predictions[predictions["model"] == selected]
    known |= {
        "predictions": predictions,
        "operating_points": points,
        "scores": scores,
        "comparisons": comparison.pairs(predictions, validated),
        "cross_validation": comparison.cross_validation(predictions, in_run),
        "subgroups": subgroups.table(own),
        "clinical_utility": clinical_utility.table(predictions, scores, config.prevalence),
        "decision_curve": clinical_utility.decision_curve(predictions, config.prevalence),
        "most_confident_errors": most_confident_errors(own),
    }
    if len(patients := by_patient(predictions)):
        patients = calibration.apply(patients, fit(patients))
        known["scores_by_patient"] = metrics.scores(patients, initialization, *sampling)
    maps, boxes = heat_maps or {}, BOXES if boxes is None else boxes
    randomized = dict(trained.get("randomized_correlation", {}))
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
        "selected_on": how,
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
        run, selected, **known, folder=config.results_dir, images_dir=config.images_dir,
        boxes=boxes, heat_maps=maps.get(selected, {}),
    )  # fmt: skip


def most_confident_errors(predictions: pd.DataFrame, count: int = 3) -> pd.DataFrame:
    """The most_confident_errors table of one model: up to `count` false negatives and false
    positives in the test set, with the other columns of its `predictions`.
    """
    wrong = predictions.query("split == 'test' and label != decision")
    negative, probability = wrong["label"] == FRACTURED, wrong["probability"]
    wrong = wrong.assign(outcome=np.where(negative, "false negative", "false positive"))
    order = probability.where(negative, -probability), ~negative
    table = wrong.iloc[np.lexsort(order)].groupby("label", sort=False).head(count)
    first = tables.columns("most_confident_errors")[:6]
    others = table.columns.difference([*first, "split", "fold", "logit"], sort=False)
    return table[[*first, *others]].reset_index(drop=True)


def check_target(folder: Path, evaluated: Path | None = None) -> None:
    """InputError if `folder` holds the results of other images or predictions."""
    run, names = folder / "run.json", ("images.csv", "predictions.csv")
    if not (folder / "audit.csv").is_file() and any((folder / name).is_file() for name in names):
        raise InputError(f"{folder} holds tables other than results; name another with --output.")
    if run.is_file() and artifacts.read_json(run).get("evaluated") != str(evaluated):
        raise InputError(f"{folder} holds the results of another run; name another with --output.")


def evaluate_file(path: Path, config: Config) -> Results:
    """The results of a CSV file of predictions (see predictions.read), with the other tables of a
    run in its folder, if any. InputError if the results folder holds those of another run.
    """
    path = Path(path).resolve()
    is_run = path.name == "predictions.csv" and (path.parent / "run.json").is_file()
    if not is_run or config.results_dir.resolve() != path.parent:
        check_target(config.results_dir, path)
    if not is_run:
        results = evaluate(read(path), config)
        results.run |= {"positive": FRACTURED, "attribution": "", "evaluated": str(path)}
        results.images_dir = None
        return results
    run = Results.load(path.parent)
    given = {name: getattr(run, name) for name in ("images", "networks", "history", "audit")}
    if external := "external" in run.run:
        given |= {"operating_points": run.operating_points, "selected": run.selected}
    results = evaluate(read(path, external), config, **given)
    results.localization, results.images_dir = run.localization, run.images_dir
    own = {name: results.run[name] for name in ("selected", "selected_on")}
    own["settings"] = run.run["settings"] | config.model_dump(mode="json", include={*SCORING})
    results.run = run.run | own | {"evaluated": str(path)}
    return results
