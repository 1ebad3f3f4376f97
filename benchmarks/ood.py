"""How many images of nine out-of-distribution kinds do the released models flag?

    python benchmarks/ood.py DATA [MODEL ...]

DATA is FracAtlas as `import fracatlas` writes it; some kinds are altered test images.
"""

import collections
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.datasets import load_sample_images

from fracture_utils.data import reader
from fracture_utils.evaluation import sentences
from fracture_utils.models import heatmaps, model_cards, ood
from fracture_utils.models.backbones import RELEASED_DIR

COUNT, CHUNK = 40, 30
WORDS = ["the", "radiograph", "shows", "no", "displaced", "fracture", "of", "distal", "radius"]


def foreign(radiographs: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """COUNT images of each kind by name; the kinds after "collage" chose no setting."""
    random, font = np.random.default_rng(0), ImageFont.load_default(15)
    kinds = collections.defaultdict(list)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    for k in range(COUNT):
        x_ray, other = (Image.fromarray(radiographs[n]) for n in random.choice(len(radiographs), 2))
        width, height = x_ray.size
        left, top = random.integers(0, (340, 127))
        crop = photographs[k % 2].crop((left, top, left + 300, top + 300))
        kinds["photograph"].append(ImageOps.grayscale(crop))
        level = (0, 255, 128, int(random.integers(40, 220)))[k % 4]
        blank = random.normal(level, (0, 1.5)[k % 2], (height, width))
        kinds["blank"].append(Image.fromarray(blank.clip(0, 255).astype(np.uint8)))
        kinds["inverted"].append(ImageOps.invert(x_ray))
        small = ImageOps.contain(x_ray, (48, 48))
        kinds["thumbnail"].append(small.resize(x_ray.size, (Image.Resampling.BICUBIC, 2, 0)[k % 3]))
        columns, rows = ((2, 2), (3, 2), (2, 3), (3, 3))[k % 4]
        collage = Image.new("L", (200 * columns, 200 * rows))
        for n in range(columns * rows):
            tile = ImageOps.pad((x_ray, other)[n % 2], (200, 200))
            collage.paste(tile, (n % columns * 200, n // columns * 200))
        kinds["collage"].append(collage)
        noise = random.normal(128, 40, (height, width)), random.poisson(20, (height, width)) * 6
        kinds["noise"].append(Image.fromarray(noise[k % 2].clip(0, 255).astype(np.uint8)))
        page = Image.new("L", (500, 700), 255)
        lines = "\n".join(" ".join(random.choice(WORDS, 9)) for _ in range(30))
        ImageDraw.Draw(page).multiline_text((30, 30), lines, 0, font)
        kinds["text"].append(page)
        y, x = np.mgrid[-1:1:384j, -1:1:384j]
        body = (x / random.uniform(0.6, 0.9)) ** 2 + (y / random.uniform(0.5, 0.8)) ** 2
        slices = np.where(body < 1, random.normal(110, 6, x.shape), 0)
        for gray in (10, 140, 160, 240):
            a, b = random.uniform(0.06, 0.2, 2)
            organ = ((x - random.uniform(-0.4, 0.4)) / a) ** 2 + ((y - a) / b) ** 2 < 1
            slices[organ & (body < 1)] = gray
        kinds["ct"].append(Image.fromarray(slices.clip(0, 255).astype(np.uint8)))
        window = Image.new("L", (int(width * 1.8), int(height * 1.6)), (240, 30, 200, 255)[k % 4])
        ImageDraw.Draw(window).rectangle((0, 0, window.width, window.height // 12), fill=90)
        ImageDraw.Draw(window).text((10, 6), "Viewer  File  Edit  View  Tools", 255, font)
        window.paste(x_ray, (width // 2, height // 3))
        kinds["screenshot"].append(window)
    return {kind: list(map(np.asarray, images)) for kind, images in kinds.items()}


def main(data: str, *names: str) -> None:
    test = [reader.read(path) for path in sorted((Path(data) / "test").rglob("*.jpg"))]
    kinds, table = foreign(test), {}
    cards = model_cards.cards_in(RELEASED_DIR)
    for name in names or cards:
        card = cards[name]
        model = heatmaps.explain(model_cards.load(name, card, RELEASED_DIR))
        reference, flagged = ood.read(RELEASED_DIR / f"{name}.ood.npz"), table.setdefault(name, {})
        for kind, images in kinds.items():
            squares = np.stack([reader.fit(image, card["input_size"]) for image in images])
            features = model.predict(squares[..., None].astype(np.float32), CHUNK, verbose=0)[2]
            shapes = np.array([image.shape for image in images])
            flags = np.array(ood.warnings(reference, squares, features, shapes)) != ""
            flagged[kind] = round(100 * flags.mean(), 1)
        flagged["test folder"] = sentences.estimate(card["ood_test"], "warning_rate", 1, 100)
        sys.stdout.write(f"{pd.DataFrame(table).T.to_string()}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
