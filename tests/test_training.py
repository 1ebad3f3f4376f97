"""One training: its parts, whole, killed, damaged and overflowing."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import runs
from scipy import special
from sklearn.metrics import roc_auc_score

from fracture_utils import artifacts, tables
from fracture_utils.config import Config, InputError
from fracture_utils.data import dataset
from fracture_utils.data.generators import FeatureBatches, ImageBatches
from fracture_utils.models import (
    backbones,
    builder,
    features,
    heatmaps,
    jobs,
    model_cards,
    training,
)
from fracture_utils.models.backbones import Weights

TIMES = ["seconds"]


def folder_of(config: Config) -> Path:
    return config.cache_dir.absolute() / "models" / "MobileNet"


def prepare(config: Config, monkeypatch, images=None) -> Path:
    """Write the job folder without training; returns it."""
    data = runs.load(config)
    images = data.images if images is None else images
    with monkeypatch.context() as patch, pytest.raises(InputError, match="No model"):
        patch.setattr(jobs, "TRAINING", "nothing_of_this_name")
        jobs.train(images, data.boxes, config)
    return folder_of(config)


def silent(stage, done, total):
    """Progress that is not shown."""


def same(one: jobs.Training, other: jobs.Training) -> None:
    pd.testing.assert_frame_equal(one.predictions, other.predictions, check_exact=True)
    histories = [training.history.drop(columns=TIMES) for training in (one, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


# Parts


def planted_features(n=400, channels=40):
    generator = np.random.default_rng(3)
    y = (generator.random(n) < 0.3).astype(int)
    x = generator.normal(size=(n, channels)) * np.geomspace(0.01, 10, channels) + 5
    x[:, :10] += y[:, None] * 0.8 * x[:, :10].std(axis=0)
    return x.astype(np.float32), y


def test_the_pooled_head_minimizes_the_penalized_balanced_loss():
    x, y = planted_features()
    kernel, bias = training.fit_pooled(x, y)
    deviation = x.std(axis=0, dtype=float)
    deviation = np.maximum(deviation, training.SMALLEST_DEVIATION * np.median(deviation))
    weights = len(y) / (2 * np.bincount(y))[y]

    def objective(kernel, bias):
        logits = x @ kernel + bias
        losses = np.logaddexp(0, np.where(y == 1, -logits, logits))
        return np.mean(weights * losses) + training.L2 * np.square(kernel * deviation).sum()

    best = objective(kernel, bias)
    for channel in range(0, 40, 5):
        for step in (-1e-2, 1e-2):
            moved = kernel.copy()
            moved[channel] += step / deviation[channel]
            assert objective(moved, bias) > best
    assert roc_auc_score(y, x @ kernel + bias) > 0.9


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_gradients_too_small_for_sixteen_bits_move_the_weights(precision):
    images = np.random.default_rng(0).uniform(0, 255, (16, 64, 64, 1)).astype(np.float32)
    body = builder.build_body("MobileNet", 64, precision=precision)
    builder.adapt_normalization(body, images)
    model = builder.add_head(body, "pooled")
    kernel = np.random.default_rng(1).normal(size=1024)
    model.get_layer("logit").set_weights([kernel, np.float32(0)])
    builder.unfreeze(model, "top")
    tiny = [1e-9, 1e-9]  # of a loss; the smallest number of float16 is 6e-8
    training.compile_model(model, keras.optimizers.Adam(1e-3, epsilon=1e-20), tiny)
    assert model.optimizer.name.startswith("loss_scale") == (precision == "mixed_float16")
    if keras.backend.backend() == "tensorflow" and "gpu" not in str(
        keras.distribution.list_devices()
    ):
        assert not model.jit_compile  # XLA makes depthwise convolutions ten times slower there
    before = [np.array(v) for v in model.trainable_variables]
    model.fit(images[:8], np.arange(8) % 2, verbose=0)
    moved = [
        np.mean(a != np.array(v)) for a, v in zip(before, model.trainable_variables, strict=True)
    ]
    assert min(moved) > 0.01, moved
    backbones.apply_precision("float32")


def test_a_model_overfits_eight_images():
    pixels = np.random.default_rng(2).integers(0, 255, (8, 64, 64)).astype(np.uint8)
    labels, config = np.arange(8) % 2, Config(source="phantoms", batch_size=8)
    body = builder.build_body("MobileNet", 64)
    builder.adapt_normalization(body, pixels[..., None].astype(np.float32))
    model = builder.add_head(body, "pooled")
    builder.unfreeze(model, "all")
    training.compile_model(model, keras.optimizers.Adam(1e-3), [1.0, 1.0])
    batches = ImageBatches(pixels, labels, np.arange(8), config)
    losses = model.fit(batches, epochs=25, shuffle=False, verbose=0).history["loss"]
    logits = model.predict(batches, verbose=0)[:, 0]
    assert losses[-1] < 0.1 < losses[0]
    assert ((logits > 0) == labels).all()


ROWS, COUNT = 4, 64


@pytest.fixture(scope="module")
def planted():
    """Feature maps of noise; in half of the images one cell differs in some channels."""
    generator = np.random.default_rng(3)
    early = generator.normal(size=(COUNT, ROWS, ROWS, 64)).astype(np.float16)
    labels, cell = np.arange(COUNT) % 2, np.arange(COUNT) // 4
    targets = np.zeros((COUNT, ROWS, ROWS), np.int8)
    direction = generator.normal(size=64)
    for number in np.flatnonzero(labels):
        row, column = divmod(cell[number], ROWS)
        early[number, row, column] += (2 * direction).astype(np.float16)
        targets[number, row, column] = 1
    targets[1::16] = builder.UNKNOWN
    return early, labels, targets, cell


def localization_model(early):
    inputs = keras.Input(early.shape[1:]), keras.Input(early.shape[1:3])
    cells = builder.CellLogits(0, dtype="float32", name="cell_logits")([inputs[0]])
    logit = builder.LogSumExpPool(dtype="float32", name="logit")([cells, inputs[1]])
    model = keras.Model(inputs, [logit, cells], name="Planted")
    model.get_layer("cell_logits").standardize([early], [np.arange(COUNT)])
    training.compile_model(model, keras.optimizers.AdamW(1e-2), [1.0, 1.0])
    return model


def checkpointed(planted, path, best=-np.inf, auc=lambda epoch: epoch / 10, stop=None):
    """Six epochs on the planted lesions; `stop` is the epoch after which the process dies."""
    early, labels, targets, _ = planted
    model = localization_model(early)
    mask = np.ones(targets.shape, np.float32)
    batches = FeatureBatches([early, mask], [labels, targets], np.arange(COUNT), 16)
    watch = FeatureBatches([early, mask], [labels, targets], np.arange(COUNT), 16)  # not shuffled

    def measure(logits):
        return {"val_auc": auc(batches.epoch), "sum": float(logits.sum())}

    def report(done, total):
        assert total == 6 * len(batches)
        if done == (stop or 6) * len(batches) + 1:
            raise KeyboardInterrupt

    keras.utils.set_random_seed(0)
    limits = 6, best
    return model, training.fit(model, batches, watch, measure, report, path, {"k": 1}, 0, *limits)


def test_a_planted_lesion_is_detected_and_localized(planted, tmp_path):
    early, labels, targets, cell = planted
    model, _ = checkpointed(planted, tmp_path / "c.npz")
    logits, cells = model.predict([early, np.ones(targets.shape, np.float32)], verbose=0)
    assert roc_auc_score(labels, logits[:, 0]) > 0.99
    fractured = np.flatnonzero(labels)
    peaks = cells.reshape(COUNT, -1).argmax(axis=1)
    assert (peaks[fractured] == cell[fractured]).mean() > 0.9


def test_a_resumed_training_equals_an_uninterrupted_one(planted, tmp_path):
    whole, history = checkpointed(planted, tmp_path / "whole.npz")
    for stop in (2, 4):
        with pytest.raises(KeyboardInterrupt):
            checkpointed(planted, tmp_path / "cut.npz", stop=stop)
    resumed, resumed_history = checkpointed(planted, tmp_path / "cut.npz")
    for one, other in zip(history, resumed_history, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}
    for one, other in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_best_weights_stay_also_after_an_interruption(planted, tmp_path):
    """The learning rate falls until the last epoch, so no epoch is left out."""
    aucs = [0.5, 0.9, 0.8, 0.7, 0.6, 0.9]
    given = {"auc": lambda epoch: aucs[epoch - 1]}
    best = checkpointed(planted, tmp_path / "best.npz", auc=lambda epoch: epoch == 2)[0]
    with pytest.raises(KeyboardInterrupt):
        checkpointed(planted, tmp_path / "cut.npz", stop=4, **given)
    model, history = checkpointed(planted, tmp_path / "cut.npz", **given)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4, 5, 6]
    last = checkpointed(planted, tmp_path / "last.npz", best=None, **given)[0]
    pairs = [*zip(best.get_weights(), model.get_weights(), last.get_weights(), strict=True)]
    assert all(np.array_equal(one, other) for one, other, _ in pairs)
    assert not all(np.array_equal(one, other) for one, _, other in pairs)


def test_a_training_that_does_not_help_leaves_the_weights(planted, tmp_path):
    before = localization_model(planted[0]).get_weights()
    model, history = checkpointed(planted, tmp_path / "c.npz", best=2.0)
    assert len(history) == 6
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_damaged_checkpoint_begins_anew(planted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        checkpointed(planted, tmp_path / "c.npz", stop=2)
    content = bytearray((tmp_path / "c.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "c.npz").write_bytes(content)
    calls = []
    checkpointed(planted, tmp_path / "c.npz", auc=lambda epoch: calls.append(epoch) or epoch)
    assert calls == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_is_an_error(planted, tmp_path):
    early, *others = planted
    with pytest.raises(FloatingPointError, match="The loss of Planted is not finite"):
        checkpointed((early * np.float16(np.nan), *others), tmp_path / "c.npz")


# The whole


def test_a_training_leaves_tables_weights_heat_maps_and_a_card():
    config, trained = runs.finished()
    card = artifacts.read_json(folder_of(config) / "network.json")
    assert {"pooled", "localization"} == set(card["head_auc"])
    assert card["head"] == max(card["head_auc"], key=card["head_auc"].get)
    stages = trained.history["stage"].to_list()
    assert stages[-2:] == ["fine_tune", "fine_tune"]
    assert set(stages[:-2]) == {"head"}
    assert card["epochs"] == {"head": len(stages) - 2, "fine_tune": 2}
    assert card["augmentation"]["rotation"] == 10 and card["augmentation"]["horizontal_flip"]
    probability = special.expit(trained.predictions["logit"])
    np.testing.assert_allclose(trained.predictions["probability"], probability, rtol=1e-4)
    weights = config.models_dir / "MobileNet.weights.h5"
    assert weights.stat().st_size < 4.3 * card["parameters"]  # no optimizer in it
    assert (config.models_dir / "MobileNet.ood.npz").is_file()
    tested, flagged = (trained.predictions["split"] == "test").sum(), card["ood_test"]
    images = flagged["warning_rate"] * tested
    assert (flagged["n"], round(images)) == (tested, pytest.approx(images))
    assert flagged["warning_rate_low"] <= flagged["warning_rate"] <= flagged["warning_rate_high"]
    assert not list(config.results_dir.rglob(f"{artifacts.TEMPORARY}*"))
    left = {path.name for path in folder_of(config).iterdir()}
    assert "scratch" not in left


def test_the_saved_model_gives_the_predictions_and_heat_maps():
    config, trained = runs.finished()
    card = artifacts.read_json(folder_of(config) / "network.json")
    model = model_cards.load("MobileNet", card, config.models_dir)
    pixels, row_of = dataset.pixels(config.cache_dir, 64)
    rows = np.array([row_of[path] for path in trained.predictions["path"]])
    batches = ImageBatches(pixels, np.zeros(len(pixels)), rows, config)
    logits, heat_maps, _ = heatmaps.explain(model).predict(batches, verbose=0)
    np.testing.assert_allclose(logits[:, 0], trained.predictions["logit"], rtol=1e-4, atol=1e-4)
    stored = np.load(folder_of(config) / "heatmaps.npy")
    np.testing.assert_allclose(stored, heat_maps, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("head", builder.HEADS)
def test_cached_maps_and_images_give_the_same_predictions(tmp_path, monkeypatch, head):
    """Of a frozen body no image passes twice."""
    settings = {"fine_tune_epochs": 0, "head": head}
    config = runs.small(tmp_path, **settings)
    folder = prepare(config, monkeypatch)
    passed, real = [], ImageBatches.__getitem__
    monkeypatch.setattr(
        ImageBatches, "__getitem__",
        lambda self, k: (self.epoch is None and passed.append(self.rows)) or real(self, k),
    )  # fmt: skip
    monkeypatch.setattr(heatmaps, "randomized_correlation", lambda *_: 0.0)
    training.train(folder, silent)
    unaugmented = {tuple(rows) for rows in passed}
    count = len(pd.read_csv(folder / "images.csv"))
    assert sum(map(len, unaugmented)) <= count
    model = builder.build("MobileNet", head, size=64)
    builder.load_weights(model, config.models_dir / "MobileNet.weights.h5")
    pixels, row_of = dataset.pixels(config.cache_dir, 64)
    table = tables.read(folder, "predictions").query("split == 'test'")
    rows = np.array([row_of[path] for path in table["path"]])
    logits = model.predict(pixels[rows][..., None].astype(np.float32), verbose=0)[:, 0]
    assert np.abs(logits - table["logit"]).max() < 4e-3 * np.abs(logits).max()  # half precision
    if head == "pooled":
        other = runs.small(tmp_path / "b", **settings, disk_limit=0.0)
        again = prepare(other, monkeypatch)
        training.train(again, silent)
        table = tables.read(again, "predictions").query("split == 'test'")
        np.testing.assert_allclose(table["logit"], logits, rtol=1e-3)


def test_without_disk_for_maps_the_head_is_pooled_or_the_reason_is_given(tmp_path, monkeypatch):
    config = runs.small(tmp_path, disk_limit=0.0, fine_tune_epochs=1, fine_tune_depth="all")
    folder = prepare(config, monkeypatch)
    training.train(folder, silent)
    card = artifacts.read_json(folder / "network.json")
    assert (card["head"], card["augmented_copies"]) == ("pooled", 1)
    assert "pooled head, because its feature maps need 0.0 GiB of disk" in card["reason"]
    job = artifacts.read_json(folder / "job.json")
    job["config"]["head"] = "localization"
    artifacts.write_json(folder / "job.json", job)
    with pytest.raises(
        InputError, match="MobileNet cannot have the localization head: its feature"
    ):
        training.train(folder, silent)


def test_copies_that_do_not_fit_on_the_disk_are_left_out_and_reported(tmp_path, monkeypatch):
    config = runs.small(tmp_path, disk_limit=0.0013, fine_tune_epochs=0, head="localization")
    folder = prepare(config, monkeypatch)
    training.train(folder, silent)
    card = artifacts.read_json(folder / "network.json")
    assert card["augmented_copies"] == 0
    assert "0 of 1 augmented copies, because its feature maps need 0.0 GiB" in card["reason"]


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "localization", "fine_tune_epochs": 0},
        {"head": "pooled", "fine_tune_epochs": 1, "fine_tune_depth": "top", "quick": True},
        {
            "head": "localization",
            "fine_tune_epochs": 1,
            "fine_tune_depth": "all",
            "augmented_copies": 0,
        },
    ],
)
def test_augmentation_reaches_every_stage(tmp_path, monkeypatch, settings):
    """Where the stage before is made equal, its settings change the logits all the same."""
    released = Weights("released", backbones.RELEASED_DIR / "MobileNet.npz")
    monkeypatch.setattr(backbones, "find_weights", lambda config: ({"MobileNet": released}, {}))
    monkeypatch.setattr(training, "BODY_RATE", 0.5)
    monkeypatch.setattr(training, "_mean_auc", lambda *_: -1.0)  # the fine-tuned weights stay
    monkeypatch.setattr(heatmaps, "randomized_correlation", lambda *_: 0.0)
    heads, outputs, logits = [], [], []
    monkeypatch.setattr(
        training, "fit_pooled", lambda *given: heads.append(given) or (np.zeros(1024), 0.0)
    )
    compile_model = training.compile_model
    monkeypatch.setattr(
        training, "compile_model",
        lambda model, *given: outputs.append(len(model.outputs)) or compile_model(model, *given),
    )  # fmt: skip
    for rotation in (10.0, 45.0):
        folder = prepare(runs.small(tmp_path, rotation=rotation, **settings), monkeypatch)
        training.train(folder, silent)
        logits.append(tables.read(folder, "predictions")["logit"].to_numpy())
    assert np.abs(logits[0] - logits[1]).max() > 1e-3
    if heads:
        (one, labels, copies), (other, *_) = heads
        assert (copies, len(one)) == (1, len(labels))
        assert np.array_equal(*(pooled[: len(one) // 2] for pooled in (one, other)))
        assert not np.array_equal(one, other)
    assert set(outputs) == {2 if settings["head"] == "localization" else 1}  # with boxes


def test_fine_tuning_leaves_normalization_and_the_trunk(tmp_path, monkeypatch):
    config = runs.small(tmp_path, head="pooled", fine_tune_epochs=1)
    monkeypatch.setattr(training, "BODY_RATE", 5.0)
    monkeypatch.setattr(training, "_mean_auc", lambda *_: -1.0)  # the fine-tuned weights stay
    folder = prepare(config, monkeypatch)
    bodies, build = [], builder.build_body

    def keep(*given):
        bodies.append(build(*given))
        return bodies[-1]

    monkeypatch.setattr(builder, "build_body", keep)
    features_of = features.extract
    start = []

    def remember(*given):
        start.append([(la.name, la.get_weights()) for la in bodies[0].layers if la.weights])
        return features_of(*given)

    monkeypatch.setattr(features, "extract", remember)
    training.train(folder, silent)
    moved = [
        name
        for name, before in start[0]
        if not all(map(np.array_equal, before, bodies[0].get_layer(name).get_weights()))
    ]
    assert moved
    assert all(
        name.startswith(("conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13")) for name in moved
    )
    assert not any(name.endswith("_bn") for name in moved)


def test_shuffled_labels_are_not_predictable(tmp_path):
    """Where a label reached the model on another way, the AUC would be near 1."""
    config = runs.small(tmp_path, fine_tune_epochs=0, head="pooled")
    data = runs.load(config)
    images = data.images.assign(split=np.resize(["train", "validation", "test", "test"], 52))
    for _, rows in images.groupby("split"):
        labels = rows["label"].sample(frac=1, random_state=1)
        images.loc[rows.index, "label"] = labels.to_numpy()
    table = jobs.train(images, data.boxes, config).predictions.query("split == 'test'")
    auc = roc_auc_score(table["label"] == "fractured", table["logit"])
    assert auc == pytest.approx(0.5, abs=0.3)


# Faults


def overflow(model, *given, predict=keras.Model.predict, **options):
    """Predictions that are not finite in float16, which does not overflow on every processor."""
    outputs = predict(model, *given, **options)
    if any(layer.compute_dtype == "float16" for layer in model.layers):
        outputs = [np.full_like(array, np.nan) for array in keras.tree.flatten(outputs)]
    return outputs


def test_a_model_that_overflows_in_float16_is_trained_in_float32(tmp_path, monkeypatch):
    config = runs.small(tmp_path, precision="mixed_float16", fine_tune_epochs=1, head="pooled")
    folder = prepare(config, monkeypatch)
    monkeypatch.setattr(keras.Model, "predict", overflow)
    training.train(folder, silent)
    card = artifacts.read_json(folder / "network.json")
    assert card["precision"] == "float32"
    assert card["reason"] == "trained in float32, because in mixed_float16 a number was not finite"
    assert np.isfinite(tables.read(folder, "predictions")["logit"]).all()
    data = runs.load(config)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "TRAINING", "nothing_of_this_name")
        row = jobs.train(data.images, data.boxes, config).networks.iloc[0]  # it is valid
    assert (row["status"], row["precision"], row["reason"]) == (
        "trained",
        "float32",
        card["reason"],
    )


def test_numbers_that_are_not_finite_in_float32_are_a_sentence(tmp_path, monkeypatch):
    folder = prepare(runs.small(tmp_path), monkeypatch)
    monkeypatch.setattr(
        features, "extract", lambda *_: (_ for _ in ()).throw(FloatingPointError("No."))
    )
    with pytest.raises(InputError, match=r"No\. Choose another backbone"):
        training.train(folder, silent)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), "memory"),
        (type("ResourceExhaustedError", (Exception,), {})("OOM when allocating"), "memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "memory"),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory."), "memory"),
        (RuntimeError("another fault"), "RuntimeError: another fault (see log.txt)."),
        (InputError("A sentence."), "A sentence."),
    ],
)
def test_a_failed_training_ends_with_a_sentence(monkeypatch, capsys, error, expected):
    codes = []

    def fail(folder, report):
        report("head", 0, 1)
        raise error

    monkeypatch.setattr(training, "train", fail)
    monkeypatch.setattr(training.os, "_exit", codes.append)
    training.main(Path(), os.getppid())
    if expected == "memory":
        expected = "Not enough memory; lower FRACTURE_BATCH_SIZE and run again."
    assert capsys.readouterr().out == expected
    assert codes == [1]
    assert artifacts.read_json(Path("status.json")) == {"stage": "head", "done": 0, "total": 1}


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", jobs.TRAINING, str(folder), str(os.getpid())]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, env=backbones.environment(), stdout=log, stderr=log)


def wait_for(process: subprocess.Popen, folder: Path, stage: str) -> None:
    """Until the process has begun a stage, or one after it."""
    while process.poll() is None:
        if (folder / "status.json").is_file():
            reached = artifacts.read_json(folder / "status.json")["stage"]
            if jobs.STAGES.index(reached) >= jobs.STAGES.index(stage):
                return
        time.sleep(0.05)


def kill_and_resume(folder: Path, stage: str, delay: float) -> bool:
    process = start(folder)
    wait_for(process, folder, stage)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_in_two_stages_it_ends_with_the_same_numbers(tmp_path, monkeypatch):
    config = runs.small(tmp_path)
    folder = prepare(config, monkeypatch)
    for stage in ("head", "fine_tune"):
        (folder / "status.json").unlink(missing_ok=True)
        assert kill_and_resume(folder, stage, 0.3)
    same(runs.train(config), runs.finished()[1])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills with SIGKILL")
def test_killed_at_random_it_ends_with_the_same_numbers(tmp_path, monkeypatch):
    config, dice, kills = runs.small(tmp_path), random.Random(0), 0
    folder = prepare(config, monkeypatch)
    for stage in jobs.STAGES * 2:
        (folder / "status.json").unlink(missing_ok=True)
        kills += kill_and_resume(folder, stage, dice.uniform(0, 2))
    assert kills >= 5
    same(runs.train(config), runs.finished()[1])
    assert not list(config.results_dir.rglob(f"{artifacts.TEMPORARY}*"))


@pytest.mark.skipif(os.name != "posix", reason="the parent is recognized by its number")
def test_a_training_ends_with_its_parent(tmp_path):
    """Even if that ended while the training was still importing Keras."""
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', '''"
        "import sys\n"
        "from fracture_utils.models import training\n"
        "training._end_with_parent(int(sys.argv[1]))''', str(os.getpid())],\n"
        "stdout=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, env=backbones.environment(), stdout=subprocess.PIPE, check=True, text=True
    )
    process, deadline = Path(f"/proc/{int(done.stdout)}"), time.monotonic() + 300
    while process.exists() and "zombie" not in (process / "status").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_damaged_files_are_computed_again(tmp_path):
    config = runs.copy_of_finished(tmp_path)
    damaged = [config.cache_dir / "pixels/64.npy", folder_of(config) / "heatmaps.npy"]
    damaged += [*config.models_dir.glob("MobileNet.*"), folder_of(config) / "predictions.csv"]
    assert len(damaged) == 5
    for number, path in enumerate(damaged):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content[: len(content) * 2 // 3] if number % 2 else content)
    for path in tmp_path.rglob("*"):
        os.utime(path, (2**32, 2**32))  # written in the year 2106
    same(runs.train(config), runs.finished()[1])


@pytest.mark.parametrize("number", range(3))
def test_one_damaged_output_makes_a_model_invalid(tmp_path, number):
    config = runs.copy_of_finished(tmp_path)
    key = artifacts.read_json(folder_of(config) / "job.json")["key"]
    paths = [folder_of(config) / "history.csv", *sorted(config.models_dir.glob("MobileNet.*"))]
    assert jobs._is_trained(folder_of(config), key)
    paths[number].write_bytes(paths[number].read_bytes()[:-1])
    assert not jobs._is_trained(folder_of(config), key)


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a disk of some megabytes, or mounts it anew with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        again = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        if os.name != "posix" or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a small disk needs root on Linux")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_a_sentence_and_the_next_run_succeeds(disk):
    folder = disk("size=8m")
    config = runs.small(folder, head="pooled")
    artifacts.write_text(config.results_dir / "scores.csv", "precious\n")
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        runs.train(config)  # the weights of MobileNet alone take 13 MB
    assert (config.results_dir / "scores.csv").read_text() == "precious\n"
    assert not list(folder.rglob(f"{artifacts.TEMPORARY}*"))
    disk("size=200m")
    assert runs.train(config).networks["status"].item() == "trained"


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_read_only_folder_is_a_sentence_and_stays_as_it_is(disk):
    folder = disk("size=100m")
    shutil.copytree(runs.finished()[0].results_dir.parent, folder, dirs_exist_ok=True)
    config, before = runs.small(folder), contents(folder)
    disk("ro")
    for changed in (config, config.model_copy(update={"fine_tune_epochs": 1})):
        with pytest.raises(InputError, match=r"cannot be written \(Read-only file system\)") as it:
            runs.train(changed)
        assert "choose another folder" in str(it.value)
    assert contents(folder) == before


def test_a_results_folder_that_is_a_file_is_a_sentence(tmp_path):
    config, data = runs.small(tmp_path), runs.load(runs.finished()[0])
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="choose another folder"):
        jobs.train(data.images, data.boxes, config)
