"""An answer as DICOM: a Secondary Capture in the study of the picture that was asked about.

Picture, heat map, answer and "not for diagnosis" are burnt in, so that no viewer shows the one
without the others (PS3.3, A.8.1).
"""

import contextlib
import textwrap
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from fracture_utils import __version__, files
from fracture_utils.data import reader
from fracture_utils.errors import InputError
from fracture_utils.predict import odd, said

STAMP = "NOT FOR DIAGNOSIS - research and education only"
WIDTH, LETTERS, LINE = 1024, 100, 26
"""Of the capture in pixels, of a line of text in letters, and its height in pixels."""
DUE = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
       "StudyID", "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
"""What a capture says as its source does, or else empty (type 2)."""
KEPT = (
    *("IssuerOfPatientID", "StudyInstanceUID", "StudyDescription", "BodyPartExamined"),
    *("Laterality", "LossyImageCompression", "LossyImageCompressionRatio"),
    "LossyImageCompressionMethod",
)
"""What it says only where its source does."""


def write(table: pd.DataFrame, folder: Path, notes: Sequence[str]) -> tuple[list[Path], list[str]]:
    """A capture in `folder` for each DICOM file of an answers table with overlays, and a sentence
    for each file of which there is none. `notes` are burnt in below the answers.

    Each is a new instance, <SOP instance UID>.dcm, in a new series of the study of its source.
    """
    written, problems = [], []
    for path, rows in table.groupby("path", sort=False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydicom about what the file says of itself
            try:
                source = _source(Path(str(path)))
            except InputError as error:
                problems.append(str(error))
                continue
            capture = _dataset(source, _picture(rows, notes))
            target = folder / f"{capture.SOPInstanceUID}.dcm"
            with files.replacing(target) as temporary:
                capture.save_as(temporary, enforce_file_format=True)
        written.append(target)
    return written, problems


def _source(path: Path) -> Any:
    """The header of a DICOM file. InputError where it is none, or belongs to no study."""
    if not reader.is_dicom(path):
        raise InputError(f"{path} is no DICOM file, so there is no study to add its answer to.")
    import pydicom

    source = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    for kind in ("Class", "Instance"):
        own = source.file_meta.get(f"MediaStorageSOP{kind}UID")
        setattr(source, f"SOP{kind}UID", source.get(f"SOP{kind}UID") or own)
    if not all(source.get(f"{name}UID") for name in ("StudyInstance", "SOPInstance", "SOPClass")):
        raise InputError(
            f"{path} does not name its study, its kind and itself (StudyInstanceUID, SOPClassUID, "
            "SOPInstanceUID), so there is nothing to add its answer to."
        )
    return source


def _picture(rows: pd.DataFrame, notes: Sequence[str]) -> np.ndarray:
    """Overlay, answers and notes, uint8 RGB (height, WIDTH, 3)."""
    told = [odd(rows), *map(said, rows.to_dict("records")), *notes]
    lines = [line for text in told for line in textwrap.wrap(text, LETTERS)]
    with Image.open(rows["overlay"].iloc[-1]) as overlay:
        height = max(1, round(overlay.height * WIDTH / overlay.width))
        shown = overlay.convert("RGB").resize((WIDTH, height), Image.Resampling.BICUBIC)
    canvas = Image.new("RGB", (WIDTH, height + LINE * (len(lines) + 3)), "black")
    canvas.paste(shown, (0, 2 * LINE))
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, 0, WIDTH, 2 * LINE - 1), fill="#8b0000")
    draw.text((12, 10), STAMP, "white", ImageFont.load_default(30))
    place, words = (12, height + 2 * LINE + 8), "\n".join(lines)
    draw.text(place, words, "white", ImageFont.load_default(18), spacing=6)
    return np.asarray(canvas)


def _dataset(source: Any, pixels: np.ndarray) -> Any:
    """The capture of a source's header, with new identifiers of instance and series."""
    from pydicom.dataset import Dataset
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    capture, now = Dataset(), datetime.now()  # local, as the study's own times
    capture.SpecificCharacterSet = "ISO_IR 192"
    for name in (*DUE, *KEPT):
        with contextlib.suppress(ValueError):  # a number that is none is left out
            if name in DUE or name in source:
                setattr(capture, name, source.get(name, ""))
    capture.PatientOrientation = ""
    capture.SOPClassUID = SecondaryCaptureImageStorage
    capture.SeriesInstanceUID, capture.SeriesNumber = generate_uid(), None
    capture.Modality, capture.ConversionType, capture.InstanceNumber = "OT", "WSD", 1
    capture.SeriesDescription = "fracture-detection: not for diagnosis"
    capture.DerivationDescription = STAMP
    capture.ImageType, capture.BurnedInAnnotation = ["DERIVED", "SECONDARY"], "YES"
    capture.Manufacturer, capture.SoftwareVersions = "fracture-detection", __version__
    capture.ContentDate, capture.ContentTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    capture.SourceImageSequence = [reference]
    capture.set_pixel_data(pixels, "RGB", 8)  # names the instance, too
    return capture
