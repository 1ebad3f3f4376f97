"""The package against the standard recipe of `stock.py` where few images are there to learn from.

    python benchmarks/small_sets.py DATA WEIGHTS WORK [NETWORK ...]

From the training folder of DATA, whole groups (blocks of 25 file numbers) are drawn at random until
they hold 500 or 800 images, three times each. Both learn from them, frozen, at 224 px; the AUC is
that of all other images of the folder, and differences are paired and grouped. The test folder is
not used. The features of an image are computed once, and kept in WORK. Prints a table as CSV.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import stock

from fracture_utils.config import FRACTURED, Config
from fracture_utils.data import dataset
from fracture_utils.evaluation.metrics import delong
from fracture_utils.models import backbones, features, jobs, training

SIZE, DRAWS, COUNTS = 224, 3, (500, 800)
extract = features.extract


def stock_features(data: Path, weights: Path, name: str, file: Path) -> tuple[np.ndarray, list]:
    """Pooled features of the training folder as the recipe computes them, and the paths."""
    body = stock.models(weights, name, SIZE)[1]
    images = keras.utils.image_dataset_from_directory(
        data / "train", class_names=["normal", "fractured"], image_size=(SIZE, SIZE),
        batch_size=stock.BATCH, shuffle=False, verbose=False,
    )  # fmt: skip
    if not file.exists():
        np.save(file, body.predict(images, verbose=0))
    return np.load(file), [Path(path).relative_to(data).as_posix() for path in images.file_paths]


def stock_scores(weights: Path, name: str, values: np.ndarray, labels, drawn) -> np.ndarray:
    """Logits of all images by a head that learned from four fifths of the drawn ones."""
    keras.utils.set_random_seed(0)
    head = stock.models(weights, name, SIZE)[2]
    rows = np.random.default_rng(0).permutation(np.flatnonzero(drawn))
    rows = rows[len(rows) // 5 :]
    head.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    head.fit(values[rows], labels[rows, None], epochs=10, batch_size=stock.BATCH, verbose=0)
    return head.predict(values, verbose=0)[:, 0]


def package_scores(images, boxes, config: Config, file: Path) -> pd.DataFrame:
    """Predictions of the images of the split test and the head, by the training script."""

    def cached(body, pixels, passes, config, scratch, *others):
        """Originals from `file`, in the order of the images; copies as they are needed."""
        if not file.with_suffix(".content.npy").exists():
            for part, values in extract(body, pixels, passes[:1], config, scratch, *others).items():
                np.save(file.with_suffix(f".{part}.npy"), values)
        made = extract(body, pixels, passes[1:], config, scratch / "copies", *others)
        return {
            part: np.concatenate([np.load(file.with_suffix(f".{part}.npy")), values])
            for part, values in made.items()
        }

    (name,) = config.backbones
    features.extract, jobs._train_all = cached, lambda folders, *_: train(folders[name])
    trained = jobs.train(images, boxes, config)
    head = trained.networks["head"].iloc[0]
    return trained.predictions.query("split == 'test'").assign(head=head).set_index("path")


def train(folder: Path) -> dict[str, str]:
    """The training script in this process."""
    training.train(folder.absolute(), lambda *_: None)
    return {}


def main(data: str, weights: str, work: str, *names: str) -> None:
    rows, folder = [], Path(work)
    for name in names or ("MobileNet", "ResNet50", "DenseNet121"):
        config = Config(
            data_dir=data, weights_dir=weights, source="images", neighbors=25, backbones=name,
            image_size=SIZE, results_dir=folder / "results", models_dir=folder / "models",
        )  # fmt: skip
        everything = dataset.load(config, backbones.sizes(config))
        images = everything.images.query("split != 'test'").reset_index(drop=True)
        labels = (images["label"] == FRACTURED).to_numpy(int)
        pooled, paths = stock_features(
            Path(data), Path(weights), name, folder / f"{name}.stock.npy"
        )
        pooled = pooled[pd.Series(range(len(paths)), paths)[images["path"]]]
        for count, draw in ((count, draw) for count in COUNTS for draw in range(DRAWS)):
            order = np.random.default_rng(draw).permutation(images["group"].unique())
            sizes = images["group"].value_counts()[order].cumsum()
            drawn = images["group"].isin(order[: int((sizes < count).sum()) + 1]).to_numpy()
            split = images.assign(split=np.where(drawn, "train", "test"))
            split["split"] = dataset.splits.split_validation(split, draw)
            own = package_scores(split, everything.boxes, config, folder / f"{name}.npy")
            left = ~drawn
            theirs = stock_scores(Path(weights), name, pooled, labels, drawn)[left]
            scores = np.column_stack([own.loc[images["path"][left], "logit"], theirs])
            groups = pd.factorize(images["group"][left])[0]
            auc, covariance = delong(labels[left], scores, groups)
            error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
            rows.append({"network": name, "images": drawn.sum(), "fractured": labels[drawn].sum(),
                         "draw": draw, "head": own["head"].iloc[0], "package": auc[0],
                         "stock": auc[1], "difference": auc[0] - auc[1], "SE": error})  # fmt: skip
            table = pd.DataFrame(rows).to_csv(index=False, float_format="%.4f")
            (folder / "small_sets.csv").write_text(table)
    sys.stdout.write(table)


if __name__ == "__main__":
    main(*sys.argv[1:])
