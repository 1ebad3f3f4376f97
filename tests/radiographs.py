"""Small images and data folders for tests."""

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset

from fracture_utils.config import Config


def image(seed: int, size: int = 40) -> Image.Image:
    """Smooth random structure, distinct for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 12)).astype(np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def save(path: str | Path, seed: int, **options) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image(seed).save(path, **options)
    return path


def make(root: str = "data", patients: int = 20, views: int = 2, test: int = 6) -> Config:
    """Images of `patients` in train and `test` in test, every third patient fractured."""
    for number in range(patients + test):
        label = "fractured" if number % 3 == 0 else "normal"
        split = "train" if number < patients else "test"
        for view in range(views):
            name = f"{root}/{split}/{label}/patient{number:05d}_view{view}.png"
            save(name, 100 * number + view)
    return Config(data_dir=root, source="images", results_dir="results")


def bone(height=60, width=40):
    """A smooth, asymmetric gray image."""
    y, x = np.mgrid[0:height, 0:width]
    return np.uint8(255 * (0.2 + 0.7 * y / height * (x / width)))


def saved(picture, name, **options):
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(name, **options)
    return Path(name)


def written(data, name):
    Path(name).write_bytes(data)
    return Path(name)


def jpeg():
    buffer = io.BytesIO()
    Image.fromarray(bone(200, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def stretched(values):
    """Linear to 0-255, as every viewer shows values without a window."""
    values = values.astype(float)
    return (values - values.min()) * 255 / max(np.ptp(values), 1e-9)


def dicom(target, pixels=None, **tags):
    """Write a 12-bit DICOM image with further or other `tags`."""
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
