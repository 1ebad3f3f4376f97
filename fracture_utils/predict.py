"""What the trained networks say about X-rays, one picture at a time.

Calibrated probability, decision at the stored threshold, heat map, and a warning where a picture
is unlike those they know. Writes answers.csv and answers/*.png into the results folder. Research
and education only.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from fracture_utils import files, tables
from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.errors import InputError
from fracture_utils.evaluation import calibration, localisation
from fracture_utils.evaluation.conclusion import note, reword
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models import cards, familiarity, process
from fracture_utils.run import quiet

CHUNK = 128
"""Pictures in memory at once."""
OVERLAY_SIDE = 512
"""Longest side of a picture in its overlay, in pixels."""
NOTHING = pd.DataFrame(columns=tables.NAMES["answers"])
"""The answers where no picture can be read."""
UNCHECKED = (
    "Unchecked: these networks were trained before their cards said what their heat maps are "
    "worth; run the notebook again to know."
)
WITHHELD = "withheld"
"""The decision about a picture that the networks do not know the like of."""


class Picture(NamedTuple):
    """A picture as the networks want it: `small` for the overlay, and one square for each of
    their sizes and aspects.
    """

    path: Path
    shape: tuple[int, int]
    small: np.ndarray
    squares: dict[tuple[int, str], np.ndarray]


class Panel:
    """The networks of the last run, or the released ones where there was none yet; Keras starts
    with `load`. InputError where there is no card.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.asked = cards.home(config), config.models_dir
        self.cards, self.together = cards.read(self.config)
        self.networks: dict[str, Any] = {}  # Keras models
        self.known: dict[str, familiarity.Known] = {}

    @property
    def squares(self) -> set[tuple[int, str]]:
        """The sizes and aspects in which the networks want a picture."""
        return {(card["input_size"], card["aspect"]) for card in self.cards.values()}

    def load(self) -> None:
        """Build the networks and fill them with their numbers."""
        from fracture_utils.models import folding, heatmaps

        for name, card in self.cards.items():
            model = heatmaps.explaining(cards.build(name, card, self.config))
            self.networks[name] = folding.folded(model)
            self.known[name] = familiarity.read(familiarity.path(name, self.config))

    def answer(self, pictures: Sequence[Picture]) -> tuple[pd.DataFrame, list[np.ndarray]]:
        """The rows of some pictures, model by model, and one map a picture, of the last model."""
        from fracture_utils.models import heatmaps, precision

        paths, shapes = [str(p.path) for p in pictures], [p.shape for p in pictures]
        parts, calibrated, maps, strange, rates = [], {}, {}, {}, {}
        for name, card in self.cards.items():
            squares = np.stack([p.squares[card["input_size"], card["aspect"]] for p in pictures])
            rows = np.arange(len(squares))
            precision.apply(precision.resolve(card["precision"]))  # of the process, not the model
            seen = heatmaps.look(self.networks[name], squares, rows, self.config)
            calibrated[name] = calibration.calibrated(seen.logits, card)
            known = self.known[name]
            strange[name] = familiarity.unfamiliar(known, squares, seen.features, np.array(shapes))
            rates[name] = familiarity.rate(known)
            maps[name] = [
                reader.unfit(heat, shape, card["input_size"], card["aspect"])
                for heat, shape in zip(seen.maps, shapes, strict=True)
            ]
            parts.append(_rows(paths, name, seen.logits, card, strange[name], rates[name]))
        if self.together:
            members = list(self.together["members"])
            mean = np.mean([calibrated[name] for name in members], axis=0)
            agreed = [_agreed(found) for found in zip(*(strange[m] for m in members), strict=True)]
            rate = max(rates[name] for name in members)
            parts.append(_rows(paths, ENSEMBLE, mean, self.together, agreed, rate))
            maps[ENSEMBLE] = [
                localisation.combine(list(one))
                for one in zip(*(maps[m] for m in members), strict=True)
            ]
        return pd.concat(parts), list(maps.values())[-1]

    def caution(self) -> str:
        """What the run found out about the heat maps of the last model; empty if they are good."""
        card = self.together or list(self.cards.values())[-1]
        return reword(card.get("heat_maps", UNCHECKED), card["class_names"][1])

    def origin(self) -> str:
        """Who answers, and why others than those that were asked."""
        absent = f"{self.asked} holds no trained network. "
        return (absent if self.asked != self.config.models_dir else "") + self.makers()

    def makers(self) -> str:
        """Who answers, and what the networks were trained on."""
        starts = {name: card["initialisation"] for name, card in self.cards.items()}
        made_up = any(card["source"] == "phantoms" for card in self.cards.values())
        said = note("phantoms" if made_up else "", starts)
        released = [card["released"]["says"] for card in self.cards.values() if "released" in card]
        return " ".join([*dict.fromkeys(released), said])


@quiet()
def answer(
    paths: Sequence[Path], panel: Panel, draw: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """What every trained network and their ensemble say about each picture, and what went wrong.

    The table, also written to answers.csv, has a row a picture and model: logit (raw; of the
    ensemble the mean of the calibrated ones), probability (calibrated), threshold, decision,
    warning (what about the picture is unlike those the network knows; empty: nothing; else the
    decision is withheld), warning_rate (the share of ordinary pictures that are warned of, too) and
    overlay (the PNG: the picture, and the heat map of the last model on it; empty unless `draw`).
    The list holds a sentence for each file that cannot be read. Starts Keras in this process;
    `predict_one` starts another.
    """
    folder, parts, problems = panel.config.results_dir / "answers", [], []
    paths = list(dict.fromkeys(paths))
    overlays: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def ask(start: int) -> list[Future]:
            return [pool.submit(read, path, panel.squares) for path in paths[start : start + CHUNK]]

        ahead = ask(0)  # the threads work while Keras starts, and while the networks look
        panel.load()
        for start in range(0, len(paths), CHUNK):
            behind, done = list(overlays.values()), [future.result() for future in ahead]
            ahead = ask(start + CHUNK)
            problems += [str(item) for item in done if isinstance(item, reader.ReadError)]
            pictures = [item for item in done if isinstance(item, Picture)]
            if pictures:
                table, maps = panel.answer(pictures)
                wait(behind)  # no more than one chunk of them may pile up
                for picture, heat in zip(pictures, maps, strict=True) if draw else ():
                    overlays[str(picture.path)] = pool.submit(_overlay, picture, heat, folder)
                parts.append(table)
    table = pd.concat(parts or [NOTHING], ignore_index=True)
    table["overlay"] = [overlays[path].result() if draw else "" for path in table["path"]]
    order = {str(path): place for place, path in enumerate(paths)}
    table = table.sort_values("path", key=lambda path: path.map(order), kind="stable")
    return tables.write(panel.config.results_dir, "answers", table), problems


def read(path: Path, squares: Iterable[tuple[int, str]]) -> Picture | reader.ReadError:
    """The picture, or why it cannot be read."""
    try:
        picture = reader.read(path)
    except reader.ReadError as error:
        return error
    small = Image.fromarray(picture)
    small.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    fitted = {square: reader.fit(picture, *square) for square in squares}
    return Picture(path, picture.shape, np.asarray(small), fitted)


def predict_one(path: Path, config: Config) -> pd.DataFrame:
    """The rows of `answer` for one picture, from a process of its own, which keeps Keras and its
    chatter out of the notebook. InputError where the picture cannot be read.
    """
    command = [sys.executable, "-m", "fracture_utils", "predict", str(path)]
    command += ["--models-dir", str(config.models_dir), "--results-dir", str(config.results_dir)]
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=process.environment(),
    )
    if done.returncode:
        reason = done.stderr.strip() or f"The prediction ended with code {done.returncode}."
        raise InputError(reason.splitlines()[-1])
    return tables.read(config.results_dir, "answers")


def _overlay(picture: Picture, heat: np.ndarray, folder: Path) -> str:
    """Write the picture beside its heat map; the file's name, which tells equal stems apart."""
    tail = files.fingerprint(str(picture.path.resolve()))[:6]
    target = folder / f"{picture.path.stem}-{tail}.png"
    plain = np.repeat(picture.small[..., None], 3, axis=2)
    both = np.concatenate([plain, localisation.overlay(picture.small, heat)], axis=1)
    with files.replacing(target) as temporary:
        Image.fromarray(both).save(temporary, compress_level=1)  # the default takes twice as long
    return str(target)


def said(row: Mapping) -> str:
    """A row of the answers table in words."""
    return (
        f"{row['model']:<12} {row['probability']:.3f}  {row['decision']} "
        f"(threshold {row['threshold']:.3f})"
    )


def odd(rows: pd.DataFrame) -> str:
    """A sentence where a picture is odd to the last model: the ensemble, if there is one."""
    last = rows.iloc[-1]
    if not last["warning"]:
        return ""
    return (
        "No decision: the picture is unlike those that the networks know "
        f"({last['warning']}). Do not trust the numbers. About one in "
        f"{1 / last['warning_rate']:.0f} ordinary pictures is warned of in this way, too."
    )


def sentences(table: pd.DataFrame, panel: Panel) -> Iterator[str]:
    """What a person reads in the terminal, picture by picture; a warning before the numbers."""
    for path, rows in table.groupby("path", sort=False):
        yield str(path)
        if warning := odd(rows):
            yield f"  {warning}"
        for row in rows.to_dict("records"):
            yield f"  {said(row)}"
        if overlay := rows["overlay"].iloc[-1]:
            yield f"  {overlay}"
    if table["overlay"].ne("").any() and (caution := panel.caution()):
        yield caution
    yield panel.origin()


def _rows(
    paths: list[str], model: str, logits: np.ndarray, card: dict, warnings: list[str], rate: float
) -> pd.DataFrame:
    probability = special.expit(calibration.calibrated(logits, card))
    reached = (probability >= card["threshold"]).astype(int)
    warned = np.array([bool(warning) for warning in warnings])
    return pd.DataFrame(
        {
            "path": paths,
            "model": model,
            "logit": logits,
            "probability": probability,
            "threshold": card["threshold"],
            "decision": np.where(warned, WITHHELD, np.array(card["class_names"])[reached]),
            "warning": warnings,
            "warning_rate": rate,
        }
    )


def _agreed(warnings: Sequence[str]) -> str:
    """What at least half of the networks find odd."""
    found = [word for text in warnings for word in text.split(", ") if word]
    return ", ".join(w for w in dict.fromkeys(found) if 2 * found.count(w) >= len(warnings))
