"""One X-ray at a time: what the trained networks say about it.

Calibrated probability, decision at the stored threshold, heat map, and a warning where a picture
is unlike those they know. Writes answers.csv and answers/*.png into the results folder. Research
and education only.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from scipy import special

from fracture_utils import files, tables
from fracture_utils.config import PREFIX, Config
from fracture_utils.data import reader
from fracture_utils.errors import InputError
from fracture_utils.evaluation import calibration, localisation
from fracture_utils.evaluation.conclusion import EDUCATION, note, reword
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models import cards, familiarity, jobs
from fracture_utils.run import quiet

CHUNK = 128
"""Pictures in memory at once."""
OVERLAY_SIDE = 512
"""Longest side of a picture in its overlay, in pixels."""
BROWSER = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Variables of the environment, one of which is set where a notebook stands in a browser."""
UNCHECKED = (
    "Unchecked: these networks were trained before their cards said what their heat maps are "
    "worth; run the notebook again to know."
)
WITHHELD = "withheld"
"""The decision about a picture that the networks do not know the like of."""
COLUMNS = [
    *("path", "model", "logit", "probability", "threshold", "decision", "warning"),
    *("warning_rate", "overlay"),
]


class _Picture(NamedTuple):
    path: Path
    shape: tuple[int, int]
    small: np.ndarray
    squares: dict[tuple[int, str], np.ndarray]


class _Network(NamedTuple):
    explained: object
    card: dict


def answer(
    paths: Sequence[Path], config: Config, draw: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """What every trained network and their ensemble say about each picture, and what went wrong.

    The table has a row a picture and model, with COLUMNS: logit (raw; of the ensemble the mean of
    the calibrated ones), probability (calibrated), threshold, decision, warning (what about
    the picture is unlike those the network knows; empty: nothing; else the decision is withheld),
    warning_rate (the share of ordinary pictures that are warned of, too) and overlay (the PNG: the
    picture, and the heat map of the last model on it; empty unless `draw`). The list holds a
    sentence for each file that cannot be read. Starts Keras in this process; `predict_one` starts
    another.
    """
    known, together = cards.read(config)
    squares = {(card["input_size"], card["aspect"]) for card in known.values()}
    folder, tables, problems = config.results_dir / "answers", [], []
    overlays: dict[str, Future[str]] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def read(start: int) -> list[Future]:
            return [pool.submit(_read, path, squares) for path in paths[start : start + CHUNK]]

        ahead = read(0)  # the threads work while Keras starts, and while the networks look
        networks = _load(known, config)
        for start in range(0, len(paths), CHUNK):
            behind, done = list(overlays.values()), [future.result() for future in ahead]
            ahead = read(start + CHUNK)
            problems += [str(item) for item in done if isinstance(item, reader.ReadError)]
            pictures = [item for item in done if isinstance(item, _Picture)]
            if pictures:
                table, maps = _answer(pictures, networks, together, config)
                wait(behind)  # no more than one chunk of them may pile up
                for picture, heat in zip(pictures, maps, strict=True) if draw else ():
                    overlays[str(picture.path)] = pool.submit(_overlay, picture, heat, folder)
                tables.append(table)
    if not tables:
        return pd.DataFrame(columns=COLUMNS), problems
    table = pd.concat(tables, ignore_index=True)
    table["overlay"] = [overlays[path].result() if draw else "" for path in table["path"]]
    order = {str(path): place for place, path in enumerate(paths)}
    table = table.sort_values("path", key=lambda path: path.map(order), kind="stable")
    return table[COLUMNS].reset_index(drop=True), problems


def predict_one(path: Path, config: Config) -> pd.DataFrame:
    """The rows of `answer` for one picture, from a process of its own, which keeps Keras and its
    chatter out of the notebook. InputError where the picture cannot be read.
    """
    environment = jobs.environment() | {
        f"{PREFIX}MODELS_DIR": str(config.models_dir),
        f"{PREFIX}RESULTS_DIR": str(config.results_dir),
    }
    command = [sys.executable, "-m", "fracture_utils", "predict", str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=environment,
    )
    if done.returncode:
        reason = done.stderr.strip() or f"The prediction ended with code {done.returncode}."
        raise InputError(reason.splitlines()[-1])
    return tables.read(config.results_dir, "answers")


def show(table: pd.DataFrame, config: Config) -> None:
    """Display in a notebook what `predict_one` returned: warnings, numbers and heat map."""
    from IPython import display

    if odd := _odd(table):
        display.display(display.Markdown(f"**{odd}**"))
    display.display(table.drop(columns=["path", "overlay"]).round(3).set_index("model"))
    display.display(display.Image(table["overlay"].iloc[-1]))
    display.display(display.Markdown(f"{_caution(config)} {EDUCATION}".strip()))


def upload(config: Config) -> object:
    """A button for a picture of one's own, where a browser is there; elsewhere a sentence."""
    if not set(BROWSER) & set(os.environ):
        return "In a browser a button to upload an X-ray stands here."
    import ipywidgets
    from IPython import display

    button = ipywidgets.FileUpload(
        description="Upload an X-ray", multiple=False, layout={"width": "max-content"}
    )
    output = ipywidgets.Output()

    def answer_to(_: object) -> None:
        sent = button.value[0]
        target = config.results_dir / "answers" / Path(sent["name"]).name
        with output:
            output.clear_output()
            try:
                with files.replacing(target) as temporary:
                    temporary.write_bytes(sent["content"])
                show(predict_one(target, config), config)
            except InputError as error:  # as plain text, because a file's name may hold HTML
                display.display({"text/plain": str(error)}, raw=True)

    button.observe(answer_to, "value")
    return ipywidgets.VBox([button, output])


def _load(names: Iterable[str], config: Config) -> dict[str, _Network]:
    from fracture_utils.models import heatmaps

    networks = {}
    for name in names:
        model, card = cards.load(name, config)
        networks[name] = _Network(heatmaps.explaining(model), card)
    return networks


def _read(path: Path, squares: Iterable[tuple[int, str]]) -> _Picture | reader.ReadError:
    try:
        picture = reader.read(path)
    except reader.ReadError as error:
        return error
    small = Image.fromarray(picture)
    small.thumbnail((OVERLAY_SIDE, OVERLAY_SIDE))
    fitted = {square: reader.fit(picture, *square) for square in squares}
    return _Picture(path, picture.shape, np.asarray(small), fitted)


def _answer(
    pictures: list[_Picture], networks: dict[str, _Network], together: dict | None, config: Config
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """The rows of some pictures, model by model, and one map a picture, of the last model."""
    from fracture_utils.models import heatmaps

    paths, shapes = [str(p.path) for p in pictures], [p.shape for p in pictures]
    tables, calibrated, maps, odd, rates = [], {}, {}, {}, {}
    for name, (explained, card) in networks.items():
        squares = np.stack([p.squares[card["input_size"], card["aspect"]] for p in pictures])
        seen = heatmaps.look(explained, squares, np.arange(len(squares)), config)
        calibrated[name] = calibration.calibrated(seen.logits, card)
        known = familiarity.path(name, config)
        odd[name] = familiarity.unfamiliar(known, squares, seen.features, np.array(shapes))
        rates[name] = familiarity.rate(known)
        maps[name] = [
            reader.unfit(heat, shape, card["input_size"], card["aspect"])
            for heat, shape in zip(seen.maps, shapes, strict=True)
        ]
        tables.append(_rows(paths, name, seen.logits, card, odd[name], rates[name]))
    if together:
        members = list(together["members"])
        mean = np.mean([calibrated[name] for name in members], axis=0)
        agreed = [_agreed(warnings) for warnings in zip(*(odd[m] for m in members), strict=True)]
        rate = max(rates[name] for name in members)
        tables.append(_rows(paths, ENSEMBLE, mean, together, agreed, rate))
        maps[ENSEMBLE] = [
            localisation.combine(one) for one in zip(*(maps[m] for m in members), strict=True)
        ]
    return pd.concat(tables), list(maps.values())[-1]


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


def _overlay(picture: _Picture, heat: np.ndarray, folder: Path) -> str:
    """Write the picture beside its heat map; the file's name, which tells equal stems apart."""
    tail = files.fingerprint(str(picture.path.resolve()))[:6]
    target = folder / f"{picture.path.stem}-{tail}.png"
    plain = np.repeat(picture.small[..., None], 3, axis=2)
    both = np.concatenate([plain, localisation.overlay(picture.small, heat)], axis=1)
    with files.replacing(target) as temporary:
        Image.fromarray(both).save(temporary, compress_level=1)  # the default takes twice as long
    return str(target)


def _sentences(table: pd.DataFrame) -> Iterator[str]:
    """What a person reads in the terminal, picture by picture; a warning before the numbers."""
    for path, rows in table.groupby("path", sort=False):
        yield str(path)
        if odd := _odd(rows):
            yield f"  {odd}"
        for row in rows.to_dict("records"):
            yield (
                f"  {row['model']:<12} {row['probability']:.3f}  {row['decision']} "
                f"(threshold {row['threshold']:.3f})"
            )
        if overlay := rows["overlay"].iloc[-1]:
            yield f"  {overlay}"


def _odd(rows: pd.DataFrame) -> str:
    """A sentence where a picture is odd to the last model: the ensemble, if there is one."""
    last = rows.iloc[-1]
    if not last["warning"]:
        return ""
    return (
        "No decision: the picture is unlike those that the networks know "
        f"({last['warning']}). Do not trust the numbers. About one in "
        f"{1 / last['warning_rate']:.0f} ordinary pictures is warned of in this way, too."
    )


def _caution(config: Config) -> str:
    """What the run found out about the heat maps of the last model; empty if they are good."""
    known, together = cards.read(config)
    card = together or list(known.values())[-1]
    return reword(card.get("heat_maps", UNCHECKED), card["class_names"][1])


def _origin(config: Config) -> str:
    """What the networks were trained on."""
    known, _ = cards.read(config)
    starts = {name: card["initialisation"] for name, card in known.items()}
    made_up = any(card["source"] == "phantoms" for card in known.values())
    return note("phantoms" if made_up else "", starts)


def answer_all(
    paths: Sequence[Path], config: Config, draw: bool = True
) -> tuple[pd.DataFrame, list[str]]:
    """What `answer` returns, written to answers.csv, and without TensorFlow's talk."""
    with quiet():
        table, problems = answer(list(dict.fromkeys(paths)), config, draw)
    return tables.write(config.results_dir, "answers", table), problems


def sentences(table: pd.DataFrame, config: Config) -> Iterator[str]:
    """What a person reads in the terminal about the answers."""
    yield from _sentences(table)
    if table["overlay"].ne("").any() and (caution := _caution(config)):
        yield caution
    yield _origin(config)
