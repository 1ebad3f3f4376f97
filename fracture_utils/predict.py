"""Predictions for single images: calibrated probability, decision, heat map, OOD warning."""

import functools
import glob
import sys
import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from scipy import special
from tqdm.auto import tqdm

from fracture_utils import artifacts, tables
from fracture_utils.config import FRACTURED, Config, InputError, may_be_image
from fracture_utils.data import dataset, reader
from fracture_utils.evaluation import calibration, localization, sentences
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models import backbones, model_cards, ood

CHUNK = 32  # images in memory at once
FEW = 4  # images up to which tracing a graph takes longer than it saves
SIDE, WIDTH, FONT = 512, 800, 18
"""Of the PNG, in pixels: longest side of the image, smallest width, font size."""


class Predictor:
    """The selected model of the last run, or of the released ones, or the one with this `name`."""

    def __init__(self, config: Config, name: str = "") -> None:
        self.config, self.folder = config, model_cards.home(config)
        self.members, selected, self.ensemble = model_cards.read(self.folder)
        self.name = name or selected
        self.card = self.members[self.name]

    @functools.cached_property
    def model(self) -> tuple[Any, ood.Reference]:
        """The Keras model with heat maps, and its reference set. Its precision is float32 unless
        the setting names another one: 16 bits change probabilities by more than 0.02.
        """
        # Keras would import both, which takes a second, for functions that are not used here.
        hidden = {name: None for name in ("matplotlib", "sklearn") if name not in sys.modules}
        sys.modules.update(hidden)
        from fracture_utils.models import heatmaps

        for name in hidden:
            del sys.modules[name]
        named = "precision" in self.config.model_fields_set
        precision = self.config.precision if named else "float32"
        model = model_cards.load(self.name, self.card, self.folder, precision)
        return heatmaps.explain(model), ood.read(self.folder / f"{self.name}.ood.npz")

    def answer(self, images: Mapping[Path, np.ndarray]) -> tuple[pd.DataFrame, list[np.ndarray]]:
        """The answers for uint8 images (height, width), a row per image without overlay, and their
        heat maps, each float32 (GRID, GRID). The decision is empty if there is a warning.
        """
        card, size, (model, reference) = self.card, self.card["input_size"], self.model
        shapes = np.array([image.shape for image in images.values()])
        squares = np.stack([reader.fit(image, size) for image in images.values()])
        inputs = squares[..., None].astype(np.float32)
        few = len(images) <= FEW
        outputs = model(inputs) if few else model.predict(inputs, CHUNK, verbose=0)
        logits, heat_maps, features = map(np.asarray, outputs)
        table = pd.DataFrame({"path": list(map(str, images)), "model": self.name})
        table["logit"] = logits[:, 0].astype(float)
        table["probability"] = special.expit(calibration.calibrated(table["logit"], card))
        decision = np.where(table["probability"] >= card["threshold"], *card["class_names"][::-1])
        warnings = np.array(ood.warnings(reference, squares, features, shapes))
        decision = np.where(warnings == "", decision, "")
        table = table.assign(threshold=card["threshold"], decision=decision, warning=warnings)
        maps = [reader.unfit(*of, size) for of in zip(heat_maps, shapes, strict=True)]
        rate = card.get("ood_test", {}).get("warning_rate", np.nan)
        return table.assign(warning_rate=rate), maps


def find(names: Sequence[Path], config: Config) -> list[Path]:
    """The files that match `names` (files, folders and wildcards), each once, without documents.
    InputError if there are none.
    """
    paths, apart = [], {config.results_dir, config.models_dir}
    for name in names:
        matches = [] if name.exists() else sorted(glob.glob(str(name)))  # noqa: PTH207  (absolute)
        for match in map(Path, matches or [str(name)]):
            if not match.is_dir():
                paths.append(match)
                continue
            for path, reason in sorted(dataset.walk(match, apart)):
                if reason != "not an image" or may_be_image(Path(path)):
                    paths.append(match / path)
    if not any(path.is_file() for path in paths):
        raise InputError(f"There is no image {', '.join(map(str, names))}; correct the name.")
    return list(dict.fromkeys(paths))


def predict(
    paths: Sequence[Path],
    predictor: Predictor,
    draw: bool | None = None,
    output: Path | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """The answers table, also written to `output` (None: answers.csv in results_dir), and a
    sentence per file that cannot be read. `draw` (None: for at most MOST_LISTED images) writes
    each image next to its heat map.
    """
    folder, few = predictor.config.results_dir, len(paths) <= sentences.MOST_LISTED
    draw, output = few if draw is None else draw, output or folder / "answers.csv"
    parts, problems = [tables.empty("answers")], []
    first = output.read_bytes()[:16] if output.is_file() else b""
    if output.exists() and first != b"path,model,logit":
        raise InputError(f"{output} is not a table of answers; choose another name with --output.")
    bar: dict[str, Any] = {"unit": " images", "unit_scale": CHUNK, "disable": few or None}
    chunks = tqdm(range(0, len(paths), CHUNK), **bar)
    with artifacts.replacing(output) as temporary, ThreadPoolExecutor() as pool:
        temporary.touch()  # fails early if the folder cannot be written
        for start in chunks:
            chunk = paths[start : start + CHUNK]
            images, futures = {}, [pool.submit(reader.read, path) for path in chunk]
            for path, future in zip(chunk, futures, strict=True):
                try:
                    images[path] = future.result()
                except InputError as error:
                    problems.append(str(error))
            if images:
                with backbones.quiet():
                    table, maps = predictor.answer(images)
                overlays: str | list[str] = ""
                if draw:
                    write = functools.partial(_draw, card=predictor.card, folder=folder / "answers")
                    rows = table.to_dict("records")
                    overlays = list(pool.map(write, images, images.values(), maps, rows))
                parts.append(table.assign(overlay=overlays))
        table = pd.concat(parts[1:] or parts, ignore_index=True)
        digits = f"%.{artifacts.DIGITS}g"
        table.to_csv(temporary, index=False, lineterminator="\n", float_format=digits)
    return table, problems


def _draw(path: Path, image: np.ndarray, heat_map, row: Mapping, card, folder: Path) -> str:
    """Write a PNG of an image next to its heat map, with the answer below and in text chunks."""
    stem = path.stem.encode()[:100].decode(errors="ignore")  # a file name has at most 255 bytes
    target = folder / f"{stem}-{artifacts.fingerprint(str(path.resolve()))}.png"
    small = np.asarray(ImageOps.contain(Image.fromarray(image), (SIDE, SIDE)))
    heat_map = localization.relative_to_threshold(heat_map, row["probability"], card)
    panels = np.hstack([np.dstack([small] * 3), localization.overlay(small, heat_map)])
    lines = [*sentences.answer(row, card), sentences.DIAGNOSIS]
    width, information = max(panels.shape[1], WIDTH), PngInfo()
    text = "\n".join(textwrap.fill(line, 2 * width // FONT) for line in lines)
    height = small.shape[0] + 3 * FONT // 2 * (text.count("\n") + 2)
    drawn = Image.new("RGB", (width, height))
    drawn.paste(Image.fromarray(panels))
    position, font = (FONT, small.shape[0] + FONT), ImageFont.load_default(FONT)
    ImageDraw.Draw(drawn).multiline_text(position, text, "white", font, spacing=FONT // 3)
    for name in ("model", "probability", "threshold", "decision", "warning"):
        information.add_text(name.capitalize(), str(row[name]))
    information.add_text("Purpose", sentences.DIAGNOSIS)
    with artifacts.replacing(target) as temporary:  # the default compression takes twice as long
        drawn.save(temporary, compress_level=1, pnginfo=information)
    return str(target)


def external_test(config: Config) -> Any:
    """Score the models of models_dir, or the released ones, on the labeled images of data_dir with
    the calibration, thresholds and selected model of the cards, and draw the figures.
    """
    from fracture_utils import plots  # these imports take seconds
    from fracture_utils.data import audit
    from fracture_utils.evaluation import results

    if config.target_sensitivity is not None:
        raise InputError("Thresholds are those of the model cards; leave out --target-sensitivity.")
    source = config.data_dir.resolve()
    results.check_target(config.results_dir, source)
    run_lock = artifacts.lock(config.results_dir)
    selected, data = Predictor(config), dataset.load(config, external=True)
    card, predictors = selected.card, [Predictor(config, name) for name in selected.members]
    paths, answers, heat_maps = data.images["path"], [], {name: {} for name in selected.members}
    for start in tqdm(range(0, len(paths), CHUNK), "Scoring images", delay=3):
        images = {path: reader.read(source / path) for path in paths[start : start + CHUNK]}
        for predictor in predictors:
            with backbones.quiet():
                table, maps = predictor.answer(images)
            answers.append(table)
            heat_maps[predictor.name] |= dict(zip(images, maps, strict=True))
    table = pd.concat(answers, ignore_index=True)
    own = table[table["model"] == selected.name]
    omitted = {"width", "height", "bit_depth", "sha256", "fold", "kind", *table} - {"path"}
    about = data.images[data.images.columns.difference(omitted, sort=False)]
    about["out_of_distribution"] = np.where(own["warning"] == "", "0", "1")
    predictions = table[["path", "model", "logit", "probability"]].merge(about, on="path")
    predictions["kind"] = "network"
    cards = selected.members | ({ENSEMBLE: selected.ensemble} if selected.ensemble else {})
    rows = pd.DataFrame([card | {"model": name} for name, card in cards.items()])
    counts = {name: card[name] for name in ("training", "validation") if name in card}
    fitted = counts.get("validation") or counts.get("training", {"images": 0, "fractured": 0})
    points = rows.reindex(columns=tables.columns("operating_points")).assign(
        at_bound=False, n=fitted["images"], positives=fitted["fractured"]
    )
    networks = rows[rows["model"] != ENSEMBLE].reindex(columns=tables.columns("networks"))
    trained = {"status": "trained", "reason": "", "seconds": None}  # cards list them by stage
    scored = results.evaluate(
        predictions, config, data.boxes, heat_maps, points, selected.name,
        images=data.images, audit=audit.run(data, config.seed),
        networks=networks.assign(**trained).dropna(axis=1, how="all"),
    )  # fmt: skip
    shares = {name: of["fractured"] / of["images"] for name, of in counts.items()}
    shares["test"] = float((data.images["label"] == FRACTURED).mean())
    external = {
        "models_dir": str(selected.folder),
        "trained_on": card.get("trained_on", "images not named in their cards"),
        "prevalence": shares,
        "warnings": int((own["warning"] != "").sum()),
        "ood_test": card.get("ood_test"),
    }
    before, after = fitted["fractured"] / max(fitted["images"], 1), shares["test"]
    if min(before, after, 1 - before, 1 - after) > 0:
        moved = calibration.shifted(own["probability"], before, after)
        external["by_shift"] = float(moved.sum() / own["probability"].sum())
    scored.run |= {"evaluated": str(source), "external": external}
    plots.style.save_to(config.results_dir / "figures", config)
    plots.draw_all(scored)
    for draw in (plots.sample_predictions, plots.heat_maps, plots.most_confident_errors):
        draw(scored)
    run_lock.release()
    return scored
