"""The standard Keras recipe against the package, on the same images, machine and size.

    python benchmarks/stock.py DATA WEIGHTS [NETWORK ...]                  # frozen
    python benchmarks/stock.py DATA WEIGHTS [NETWORK ...] --fine-tune 5    # and fine-tuned

Recipe: `image_dataset_from_directory`, float32, a frozen base called with `training=False`, a head
of one unit trained for --epochs with Adam at 1e-3, then --fine-tune epochs of the whole base at
1e-5; one network after the other, each in a fresh process. Package: `jobs.train` on the same folder
and size in one fresh process, its default head, with fine-tuning of the top block where the recipe
fine-tunes. Both are timed as processes, imports included, from the files on the disk to the
predictions of the test folder. A network of the package counts with its own stages and its share of
the rest.

The recipe takes hours. With --measured N only N epochs of each phase are run and their median is
extrapolated to the rest. The frozen head is then scored after all its epochs on pooled features of
one untimed pass, which gives the same numbers because the base does not change; a fine-tuned base
that was not trained to the end has no AUC.
"""

import sys
import tempfile
import time
from pathlib import Path

import measured
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from fracture_utils.config import Config
from fracture_utils.data import dataset
from fracture_utils.models import backbones, jobs
from fracture_utils.models.backbones import REGISTRY

BATCH = 32


def datasets(data: Path, size: int):
    """Train, validation and test in the recipe's batches."""
    import keras

    def of(split: str, **options):
        return keras.utils.image_dataset_from_directory(
            data / split, class_names=["normal", "fractured"], label_mode="binary",
            image_size=(size, size), batch_size=BATCH, seed=0, verbose=False, **options,
        )  # fmt: skip

    parts = [of("train", validation_split=0.2, subset=s) for s in ("training", "validation")]
    return *parts, of("test", shuffle=False)


def models(weights: Path, name: str, size: int):
    """The frozen base up to its pooled features, and the head on it."""
    import keras

    module = getattr(keras.applications, REGISTRY[name].module)
    base = getattr(module, name)(weights=None, include_top=False, input_shape=(size, size, 3))
    if weights.is_dir():
        base.load_weights(weights / REGISTRY[name].weights_file)
    base.trainable = False
    inputs = keras.Input((size, size, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(
        base(module.preprocess_input(inputs), training=False)
    )
    features = keras.Input(pooled.shape[1:])
    x = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(features))
    head = keras.Model(features, x)
    return base, keras.Model(inputs, pooled), head


def fitted(model, parts: tuple, rate: float, epochs: int) -> list[float]:
    """Train for some epochs; the seconds of each."""
    import keras

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
            seconds.append(time.perf_counter() - self.started)

    seconds: list[float] = []
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy")
    train, validation = parts
    if epochs:
        model.fit(train, validation_data=validation, epochs=epochs, verbose=0, callbacks=[Clock()])
    return seconds


def measured_on(test, scores: np.ndarray) -> dict[str, float]:
    """AUC and average precision on the test folder."""
    labels = np.concatenate([batch for _, batch in test])[:, 0]
    precision = average_precision_score(labels, scores)
    return {"AUC": float(roc_auc_score(labels, scores)), "AP": float(precision)}


def on_features(body, head, parts: tuple, epochs: int) -> np.ndarray:
    """Test scores of the head after `epochs` on features that are extracted once."""
    import keras

    train, _, test = parts
    x, y = zip(*((body(batch, training=False), labels) for batch, labels in train), strict=True)
    x, y = (np.concatenate([np.asarray(part) for part in of]) for of in (x, y))
    fresh = keras.models.clone_model(head)
    fresh.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    fresh.fit(x, y, epochs=epochs, batch_size=BATCH, verbose=0)
    return fresh.predict(body.predict(test, verbose=0), verbose=0)[:, 0]


def stock(data: str, weights: str, name: str, size: str, *counts: str) -> dict:
    """The recipe in this process: test figures, seconds of the epochs, and those of work that only
    the measurement needs.
    """
    import keras

    epochs, tuned, most = (int(count) for count in counts)
    parts, uncounted = datasets(Path(data), int(size)), 0.0
    base, body, head = models(Path(weights), name, int(size))
    model = keras.Model(body.input, head(body.output))
    seconds = {"head": fitted(model, parts[:2], 1e-3, min(epochs, most))}
    scores = model.predict(parts[2], verbose=0)[:, 0]
    if most < epochs:
        started = time.perf_counter()
        scores = on_features(body, head, parts, epochs)
        uncounted += time.perf_counter() - started
    figures = measured_on(parts[2], scores)
    base.trainable = True
    seconds["fine_tune"] = fitted(model, parts[:2], 1e-5, min(tuned, most))
    if tuned:
        complete = tuned <= most
        scores = model.predict(parts[2], verbose=0)[:, 0] if complete else None
        figures = measured_on(parts[2], scores) if complete else {"AUC": None, "AP": None}
    return figures | {"seconds": seconds, "uncounted": uncounted}


def package(data: str, weights: str, size: str, tuned: str, *names: str) -> dict:
    """The package in this process: test figures and seconds of the stages of each network."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            data_dir=Path(data), weights_dir=Path(weights), source="images",
            backbones=",".join(names), image_size=int(size), fine_tune_epochs=int(tuned),
            initialization="imagenet" if Path(weights).is_dir() else "random",
            results_dir=Path(folder) / "results", models_dir=Path(folder) / "models",
        )  # fmt: skip
        data_set = dataset.load(config, backbones.sizes(config))
        training = jobs.train(data_set.images, data_set.boxes, config)
        test = training.predictions.query("split == 'test'")
    rows, figures = training.networks.set_index("model"), {}
    for name, part in test.groupby("model"):
        labels = part["label"] == "fractured"
        figures[name] = {
            "seconds": float(rows.loc[name, "seconds"]),
            "head": rows.loc[name, "head"],
            "AUC": float(roc_auc_score(labels, part["logit"])),
            "AP": float(average_precision_score(labels, part["logit"])),
        }
    return figures


def of_stock(options, name: str) -> dict:
    """Seconds of the whole recipe, extrapolated where not all epochs were run, and test figures."""
    counts = {"head": options.epochs, "fine_tune": options.fine_tune}
    started = time.perf_counter()
    words = (options.data, options.weights, name, options.size, *counts.values(), options.measured)
    made = measured.in_subprocess(__file__, "--one", "stock", *words)
    total = time.perf_counter() - started - made.pop("uncounted")
    run = {phase: len(each) for phase, each in made["seconds"].items()}
    for phase, each in made.pop("seconds").items():
        total += (counts[phase] - len(each)) * float(np.median(each or [0]))
    return {"seconds": round(total, 1), "epochs run": run, **made}


def main() -> None:
    """Both for each network; the figures go to results/stock.json, or stock_fine_tuned.json."""
    parser = measured.arguments(__doc__, rounds=1)
    parser.add_argument("data")
    parser.add_argument("weights", help="folder of initial weights, or random")
    parser.add_argument("networks", nargs="*", default=list(REGISTRY))
    parser.add_argument("--epochs", type=int, default=10, help="of the head of the recipe")
    parser.add_argument("--fine-tune", type=int, default=0, help="epochs of both, after the head")
    parser.add_argument("--measured", type=int, default=1000, help="epochs to run at most")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    options, load = parser.parse_args(), measured.load()
    started = time.perf_counter()
    words = (options.data, options.weights, options.size, options.fine_tune, *options.networks)
    ours = measured.in_subprocess(__file__, "--one", "package", *words)
    whole = time.perf_counter() - started
    shared = (whole - sum(row["seconds"] for row in ours.values())) / len(ours)
    figures: dict = {"package, all (s)": round(whole, 1), "networks": {}}
    for name in options.networks:
        theirs, own = of_stock(options, name), ours[name]
        own["seconds"] = round(own["seconds"] + shared, 1)
        ratio = round(theirs["seconds"] / own["seconds"], 2)
        figures["networks"][name] = {"package": own, "stock": theirs, "times as fast": ratio}
        total = sum(row["stock"]["seconds"] for row in figures["networks"].values())
        sys.stderr.write(f"{name}: {figures['networks'][name]}\n")
    figures |= {"stock, all (s)": round(total, 1), "times as fast": round(total / whole, 2)}
    measured.write("stock_fine_tuned" if options.fine_tune else "stock", options, load, figures)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        kinds = {"stock": stock, "package": package}
        measured.answer(kinds[sys.argv[2]](*sys.argv[3:]))
    else:
        main()
