"""Folders of small pictures for tests, and what the package reads from them."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fracture_utils.config import Config
from fracture_utils.data import audit, images, inventory, sidecars

NO_BOXES = pd.DataFrame(columns=sidecars.BOX_COLUMNS)


def picture(seed: int, size: int = 40) -> Image.Image:
    """A picture like no other: smooth random structure, distinct for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def save(path: str | Path, seed: int, **options) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)


def make(root: str = "data", patients: int = 20, views: int = 2, test: int = 6) -> Config:
    """Pictures of `patients` in train and `test` in test, every third patient fractured."""
    for number in range(patients + test):
        label = "fractured" if number % 3 == 0 else "normal"
        split = "train" if number < patients else "test"
        for view in range(views):
            name = f"{root}/{split}/{label}/patient{number:05d}_view{view}.png"
            save(name, 100 * number + view)
    return Config(data_dir=root, source="pictures", results_dir="results")


def table(config: Config) -> pd.DataFrame:
    """The images table of what now lies in the data folder."""
    return images.table(config, inventory.take(config))


def audited(config: Config, images: pd.DataFrame | None = None) -> pd.DataFrame:
    """The audit's findings about what now lies there, or about some of its pictures."""
    taken = inventory.take(config)
    return audit.run(table(config) if images is None else images, taken, config)


def boxes(config: Config) -> pd.DataFrame:
    """What boxes.csv says now."""
    return sidecars.boxes(config, inventory.take(config).files)


def said(config: Config) -> pd.DataFrame:
    """What images.csv says now."""
    return sidecars.pictures(config, inventory.take(config).files)


def bone(height=60, width=40):
    """A smooth, unsymmetric grey picture."""
    y, x = np.mgrid[0:height, 0:width]
    return np.uint8(255 * (0.2 + 0.7 * y / height * (x / width)))


def saved(picture, name, **options):
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    image.save(name, **options)
    return Path(name)


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(bone(200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def dicom(target, pixels=None, **tags):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset

    pixels = (bone().astype(np.uint16) * 16) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation, dataset.PatientID = 0, "Doe^Jane"
    dataset.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(target, enforce_file_format=True)


def small_run(data: tuple, tmp_path: Path, **more) -> Config:
    """Settings of a run of seconds on the pictures of the fixture `data`."""
    small = {
        "data_dir": data[0], "results_dir": tmp_path / "results", "models_dir": tmp_path / "models",
        "image_size": 32, "batch_size": 8, "views": 1, "head_epochs": 3, "fine_tune_epochs": 2,
        "backbones": "MobileNet", "initialisation": "random", "precision": "float32",
    }  # fmt: skip
    return Config(**small | more)
