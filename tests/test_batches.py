import importlib.metadata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fracture_utils import predict
from fracture_utils.config import Config
from fracture_utils.data import reader, store
from fracture_utils.data.augmentation import augment
from fracture_utils.data.batches import Batches, MapBatches, shuffled

CONFIG = Config(source="phantoms", batch_size=4)
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 48, 48), np.uint8)
LABELS = np.arange(10) % 2
STILL = dict.fromkeys(("rotation", "zoom", "shift", "brightness", "contrast"), 0)


def test_evaluated_pictures_keep_order_and_values():
    rows = np.array([7, 2, 9, 0, 4])
    batches = Batches(PIXELS, LABELS, rows, CONFIG)
    pictures = np.concatenate([batches[k][0] for k in range(len(batches))])
    labels = np.concatenate([batches[k][1] for k in range(len(batches))])
    assert pictures.dtype == np.float32
    assert np.array_equal(pictures[..., 0], PIXELS[rows])
    assert np.array_equal(labels[:, 0], LABELS[rows])


def test_each_epoch_differs_and_each_can_be_repeated():
    rows = [shuffled(np.arange(10), CONFIG, epoch) for epoch in (1, 2, 1)]
    epochs = [
        Batches(PIXELS, LABELS, order, CONFIG, epoch)
        for order, epoch in zip(rows, (1, 2, 1), strict=True)
    ]
    first, second, again = (np.concatenate([b[k][0] for k in range(len(b))]) for b in epochs)
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first, axis=None), np.sort(second, axis=None))
    assert sorted(epochs[1].rows) == list(range(10))


def test_labels_follow_their_pictures_through_the_shuffle():
    still = Config(source="phantoms", horizontal_flip=False, **STILL)
    batches = Batches(PIXELS, LABELS, shuffled(np.arange(10), still, 3), still, epoch=3)
    assert list(batches.rows) != sorted(batches.rows)
    pictures, labels = batches[0]
    assert np.array_equal(pictures[..., 0], PIXELS[batches.rows])
    assert np.array_equal(labels[:, 0], LABELS[batches.rows])


def test_augmentation_keeps_range_type_and_source():
    before = PIXELS[0].copy()
    views = [augment(PIXELS[0], CONFIG, np.random.default_rng(k)) for k in range(50)]
    assert np.array_equal(PIXELS[0], before)
    assert all(view.dtype == np.float32 and view.shape == (48, 48) for view in views)
    assert min(v.min() for v in views) >= 0
    assert max(v.max() for v in views) <= 255


def test_mirroring_is_exact_and_never_upside_down_by_default():
    config = Config(source="phantoms", **STILL)
    views = {augment(PIXELS[0], config, np.random.default_rng(k)).tobytes() for k in range(30)}
    expected = {PIXELS[0].astype(np.float32).tobytes()}
    expected |= {PIXELS[0][:, ::-1].astype(np.float32).tobytes()}
    assert views == expected
    upside_down = Config(source="phantoms", vertical_flip=True, **STILL)
    views = {augment(PIXELS[0], upside_down, np.random.default_rng(k)).tobytes() for k in range(60)}
    assert len(views) == 4


@pytest.mark.parametrize("setting", ["rotation", "zoom", "shift"])
def test_geometry_keeps_the_middle(setting):
    picture = np.zeros((101, 101), np.uint8)
    picture[40:61, 40:61] = 200
    config = Config(source="phantoms", **STILL | {setting: {"rotation": 10}.get(setting, 0.05)})
    for seed in range(20):
        view = augment(picture, config, np.random.default_rng(seed))
        ys, xs = np.nonzero(view > 100)
        assert abs(ys.mean() - 50) < 6
        assert abs(xs.mean() - 50) < 6
        assert 0.8 < (view > 100).sum() / 441 < 1.25


@pytest.fixture
def pictures(tmp_path):
    random = np.random.default_rng(1)
    paths = [f"train/normal/{k}.png" for k in range(5)]
    (tmp_path / "pics/train/normal").mkdir(parents=True)
    for path in paths:
        grey = random.integers(0, 256, (70, 50), np.uint8)
        Image.fromarray(grey).save(tmp_path / "pics" / path)
    images = pd.DataFrame({"path": paths, "sha256": [str(k) for k in range(5)]})
    return images, Config(data_dir=tmp_path / "pics", results_dir=tmp_path / "results")


def test_the_store_holds_what_the_reader_reads(pictures):
    images, config = pictures
    stored = store.pixels(images, config, 40)
    assert stored.shape == (5, 40, 40)
    for row, path in enumerate(images["path"]):
        picture = reader.fit(reader.read(config.pictures_dir / path), 40, config.aspect)
        assert np.array_equal(stored[row], picture)


def test_the_store_decodes_once_and_mends_itself(pictures, monkeypatch):
    images, config = pictures
    store.build(images, config, [32, 40])
    first = np.array(store.pixels(images, config, 32))
    reads = []
    read = reader.read
    monkeypatch.setattr(reader, "read", lambda path: reads.append(path) or read(path))
    assert np.array_equal(store.pixels(images, config, 40).shape, (5, 40, 40))
    assert not reads
    path = config.cache_dir / "pixels" / "32.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    assert np.array_equal(store.pixels(images, config, 32), first)
    assert len(reads) == 5
    other = images.assign(sha256="changed")
    store.pixels(other, config, 32)
    assert len(reads) == 10


@pytest.mark.parametrize("library", reader.LIBRARIES)
def test_another_version_of_a_decoder_makes_the_store_anew(pictures, monkeypatch, library):
    images, config = pictures
    store.build(images, config, [32])
    reads, read, version = [], reader.read, importlib.metadata.version
    monkeypatch.setattr(reader, "read", lambda path: reads.append(path) or read(path))
    store.build(images, config, [32])
    assert not reads
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.0" if name == library else version(name)
    )
    store.build(images, config, [32])
    assert len(reads) == 5


@pytest.mark.parametrize("aspect", ["pad", "squash"])
def test_training_prediction_and_heat_maps_see_the_same_pixels(pictures, aspect):
    images, config = pictures
    config = config.model_copy(update={"aspect": aspect})
    ramp = np.linspace(0, 65535, 60 * 90).reshape(60, 90).astype(np.uint16)
    Image.fromarray(ramp).save(config.pictures_dir / images["path"][0])
    images = images.assign(sha256=lambda table: table["sha256"] + aspect)
    stored = store.pixels(images, config, 64)
    batch = Batches(stored, np.zeros(len(images)), np.arange(len(images)), config)[0][0]
    for row, path in enumerate(images["path"]):
        asked = predict.read(config.pictures_dir / path, [(64, aspect)]).squares[64, aspect]
        assert asked.dtype == np.uint8
        assert np.array_equal(asked, stored[row])
        assert np.array_equal(asked, batch[row, :, :, 0])
    assert 115 < stored[0][stored[0] > 0].mean() < 140


def test_maps_come_with_the_label_and_the_truth_of_their_row():
    random = np.random.default_rng(5)
    maps = [random.normal(size=(9, side, side, 3)).astype(np.float16) for side in (4, 2)]
    labels, inside = np.arange(9) % 2, random.random((9, 4, 4)) > 0.5
    truth = random.integers(-1, 2, (9, 4, 4)).astype(np.int8)
    batches = MapBatches(maps, labels, np.array([8, 0, 5, 3]), 3, inside, truth)
    assert len(batches) == 2
    (early, last, where), (label, known) = batches[1]
    assert np.array_equal(early, maps[0][[3]])
    assert np.array_equal(last, maps[1][[3]])
    assert np.array_equal(where, inside[[3]])
    assert label.tolist() == [[1.0]]
    assert known.dtype == np.float32
    assert np.array_equal(known, truth[[3]])
    plain = MapBatches(maps[:1], labels, np.arange(2), 3)[0]
    assert [len(part) for part in plain] == [1, 1]
