"""What the trained networks and their ensemble say about some pictures, without files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from fracture_utils.config import Config
from fracture_utils.data import reader
from fracture_utils.evaluation import calibration, localisation
from fracture_utils.evaluation.conclusion import note, reword
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models import cards, familiarity

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
        from fracture_utils.models import heatmaps

        for name, card in self.cards.items():
            self.networks[name] = heatmaps.explaining(cards.build(name, card, self.config))
            self.known[name] = familiarity.read(familiarity.path(name, self.config))

    def answer(self, pictures: Sequence[Picture]) -> tuple[pd.DataFrame, list[np.ndarray]]:
        """The rows of some pictures, model by model, and one map a picture, of the last model."""
        from fracture_utils.models import heatmaps

        paths, shapes = [str(p.path) for p in pictures], [p.shape for p in pictures]
        tables, calibrated, maps, odd, rates = [], {}, {}, {}, {}
        for name, card in self.cards.items():
            squares = np.stack([p.squares[card["input_size"], card["aspect"]] for p in pictures])
            rows = np.arange(len(squares))
            seen = heatmaps.look(self.networks[name], squares, rows, self.config)
            calibrated[name] = calibration.calibrated(seen.logits, card)
            known = self.known[name]
            odd[name] = familiarity.unfamiliar(known, squares, seen.features, np.array(shapes))
            rates[name] = familiarity.rate(known)
            maps[name] = [
                reader.unfit(heat, shape, card["input_size"], card["aspect"])
                for heat, shape in zip(seen.maps, shapes, strict=True)
            ]
            tables.append(_rows(paths, name, seen.logits, card, odd[name], rates[name]))
        if self.together:
            members = list(self.together["members"])
            mean = np.mean([calibrated[name] for name in members], axis=0)
            agreed = [_agreed(found) for found in zip(*(odd[m] for m in members), strict=True)]
            rate = max(rates[name] for name in members)
            tables.append(_rows(paths, ENSEMBLE, mean, self.together, agreed, rate))
            maps[ENSEMBLE] = [
                localisation.combine(list(one))
                for one in zip(*(maps[m] for m in members), strict=True)
            ]
        return pd.concat(tables), list(maps.values())[-1]

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
