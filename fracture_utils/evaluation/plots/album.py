"""Figures, written into a folder in the order of the story."""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from fracture_utils import files
from fracture_utils.evaluation.plots.style import Chart
from fracture_utils.evaluation.predictions import FRACTURED


class Album:
    """Writes figures into a folder, each stamped with a note on what its numbers are worth.

    `positive` is the word for the positive class, where the data know better than "fractured".
    """

    def __init__(self, folder: Path, note: str = "", positive: str = FRACTURED) -> None:
        self.folder = Path(folder)
        self.note = note
        self.positive = positive
        self.captions: dict[str, str] = {}
        """Name of each figure and what it shows, in the order in which they were added."""

    def add(self, draw: Callable[..., Chart], *arguments: object, **keywords: object) -> Chart:
        """Have `draw` draw, stamp its figure, write it to `<folder>/<name of draw>.png`, beside it
        as .svg where it holds no pictures, and return it to be shown.
        """
        if "positive" in inspect.signature(draw).parameters:
            keywords["positive"] = self.positive
        chart, name = draw(*arguments, **keywords), draw.__name__
        self._stamp(chart)
        chart.place = len(self.captions)
        self.captions[name] = chart.caption
        chart.written = chart.png()
        with files.replacing(self.folder / f"{name}.png") as temporary:
            temporary.write_bytes(chart.written)
        if drawing := chart.svg():
            files.write_text(self.folder / f"{name}.svg", drawing)
        chart.stale = False
        return chart

    def add_all(
        self, figures: Sequence[Callable[..., Chart]], tables: Mapping[str, pd.DataFrame]
    ) -> None:
        """Add those of the `figures` whose tables are here and not empty; a figure's parameters
        bear the names of the tables that it needs.
        """
        for draw in figures:
            needed = [name for name in inspect.signature(draw).parameters if name != "positive"]
            if all(name in tables and len(tables[name]) for name in needed):
                self.add(draw, *(tables[name] for name in needed))

    def _stamp(self, figure: Chart) -> None:
        lines = textwrap.wrap(self.note, int(figure.get_figwidth() * 17))
        height = (0.16 * len(lines) + 0.12) / figure.get_figheight() if lines else 0
        figure.set_layout_engine("constrained", rect=(0, height, 1, 1 - height))
        foot = 0.04 / figure.get_figheight()
        figure.text(0.01, foot, "\n".join(lines), size=8, color="#555555", va="bottom")
