"""One radiograph file -> uint8 grayscale pixels, identical in training, prediction and audit.

A file that cannot be decoded completely raises ReadError; nothing is repaired.
"""

import contextlib
import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy import ndimage

from fracture_utils.config import InputError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
LIBRARIES = ("numpy", "pillow", "scipy", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg")
GRID = 64  # side of the result of `unfit`; finer than the feature maps of every backbone
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 40_000_000  # the largest detectors (mammography) have 30 million
UNSUPPORTED = rb"GIF8|RIFF.{4}WEBP|.{4}ftyp(?:avi|hei|hev|mif)"
RASTER = re.compile(rb"(?s)\x89PNG\r\n\x1a\n|\xff\xd8\xff|II|MM|BM|" + UNSUPPORTED)
DICOM = re.compile(
    rb"(?s).{128}DICM|[\x02\x04\x08\x10\x18\x20\x28]\0.[\0-\x1f](?:[A-Z]{2}|..\0\0)"
)  # with a preamble, or beginning with a data element
FOREIGN = {  # kinds of files that may be mistaken for images, and the next action
    UNSUPPORTED: "a GIF, WebP, AVIF or HEIC image; convert it to PNG",
    rb"version https://git-lfs": "a Git LFS pointer; fetch the image with git lfs pull",
    rb"%PDF|PK\x03\x04": "PDF or a ZIP archive; export or extract the image",
    rb"(?:\xef\xbb\xbf)?\s*(?:<[!?a-z]|[{\[])": "HTML, XML or JSON; download the image again",
}
NO_PATIENT = r"(?i)[\W_]*+(n\W?a|nan|none|null|unk(nown)?|missing|anonym(ous|i[sz]ed)?)?[\W_]*"
DECODERS = "pip install pydicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"

# About damaged or unusual files. `catch_warnings` around a call would not be thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\.|pydicom\.|fracture_utils\.data\.reader")


class ReadError(InputError):
    """A file that is not a readable radiograph; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}.")
        self.reason = reason


def read(path: Path) -> np.ndarray:
    """The image as uint8 (height, width), upright, bright bone on dark air. Raises ReadError."""
    return load(path)[0]


def load(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The pixels of `read`, and facts about the file: jpeg_quality is estimated (NaN for other
    formats), patient is a digest of the DICOM PatientID; rotated is there if EXIF turns the image.

    8-bit images are unchanged. Other images (and DICOM after windowing) are stretched from darkest
    to brightest, because no header reliably marks 12-bit data in a 16-bit container.
    """
    path = Path(path)
    try:
        if str(path) != str(path).encode(errors="replace").decode():
            raise InputError("its name is not valid UTF-8; rename it")
        if not path.is_file() or not 0 < path.stat().st_size <= MAX_BYTES:  # a pipe would block
            raise InputError(f"it is not a file, is empty, or is larger than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
        pixels, facts = (_decode_dicom if DICOM.match(data) else _decode)(data)
    except InputError as error:
        raise ReadError(path, str(error)) from None
    except Exception as error:  # a decoder may raise anything on a hostile file
        if isinstance(error, ImportError) or "missing dependencies" in str(error):
            raise ReadError(path, f"it is DICOM, which needs a decoder: {DECODERS}") from None
        detail = first_line(error).partition(" <")[0]  # without the address of a Python object
        raise ReadError(path, f"it is damaged or has an unsupported format ({detail})") from None
    facts |= {"height": pixels.shape[0], "width": pixels.shape[1], "file_bytes": len(data)}
    facts["sha256"] = hashlib.sha256(data).hexdigest()
    return np.ascontiguousarray(pixels), {"jpeg_quality": np.nan, "patient": ""} | facts


def is_image(path: Path) -> bool:
    """Whether a regular file is an image, by its suffix or else by its content."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(132)
        return path.suffix.lower() in SUFFIXES or bool(RASTER.match(head) or DICOM.match(head))
    return True  # `load` will state the reason


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """The image (height, width) as uint8 (size, size), antialiased, centered on padding."""
    top, left, height, width = frame(image.shape, size)
    square = np.zeros((size, size), np.uint8)  # black: a gray level would reveal the exposure
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    square[top : top + height, left : left + width] = resized
    return square


def frame(shape: tuple[int, int], size: int) -> tuple[int, int, int, int]:
    """Where `fit` places an image of `shape` in the square: top, left, height, width in pixels."""
    height, width = (max(1, round(side * (size / max(shape)))) for side in shape)
    return (size - height) // 2, (size - width) // 2, height, width


def unfit(square: np.ndarray, shape: tuple[int, int], size: int) -> np.ndarray:
    """A map of the square of `fit` -> float32 (GRID, GRID), cropped to the image of `shape`."""
    top, left, height, width = frame(shape, size)
    centers = (np.arange(GRID) + 0.5) / GRID
    rows = (top + centers * height) / size * square.shape[0] - 0.5
    columns = (left + centers * width) / size * square.shape[1] - 0.5
    positions = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(square.astype(np.float32), positions, order=1, mode="nearest")


def stretch(values: np.ndarray, inverted: bool = False, hidden: Any = None) -> np.ndarray:
    """Values (height, width) or colors (height, width, 3) as uint8 (height, width), linearly from
    darkest to brightest; `inverted`: low values are bright. `hidden` pixels (bool) become black.

    Markers are clipped to leave the bone enough gray levels: at most 1 pixel in 1000 (in a small
    image 1 in 100, up to 16) whose distance from all others exceeds the range of the others.
    """
    if values.ndim == 3:  # weights of ITU-R BT.601, as in Pillow
        values = sum(values[..., k] * weight for k, weight in enumerate((0.299, 0.587, 0.114)))
    hidden = np.zeros(values.shape, bool) if hidden is None or hidden.all() else hidden
    shown = values[~hidden]
    few = max(shown.size // 1000, min(shown.size // 100, 16))
    ordered = np.partition(shown, (few, shown.size - 1 - few))
    lowest, highest = np.sort([ordered[: few + 1], ordered[-few - 1 :]]).astype(np.float64)
    if not np.isfinite([lowest, highest]).all():
        raise InputError("it has values that are not finite numbers")
    below, above = highest[0] - lowest[1:], highest[:-1] - lowest[-1]  # ranges without markers
    low = float([lowest[0], *lowest[1:][(below > 0) & (np.diff(lowest) >= below)]][-1])
    high = float([*highest[:-1][(above > 0) & (np.diff(highest) >= above)], highest[-1]][0])
    exact = values.dtype.kind in "iu" and values.itemsize <= 2
    levels: Any = np.clip(values.astype(np.float32 if exact else np.float64), low, high) - low
    levels = np.rint(levels * np.float32(255 / (high - low) if high > low else 0)).astype(np.uint8)
    return np.where(hidden, np.uint8(0), 255 - levels if inverted else levels)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise InputError(f"it declares {width} x {height} pixels; the limit is {MAX_PIXELS:,}")


def _decode(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    for pattern, kind in FOREIGN.items():
        if re.match(pattern, data, re.DOTALL | re.IGNORECASE):
            raise InputError(f"it has an unsupported format, {kind}")
    image: Any = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "TIFF", "BMP"))
    pages = [*range(getattr(image, "n_frames", 1))]
    for page in [*pages] if image.format == "TIFF" else []:
        image.seek(page)
        if image.tag_v2.get(254, 0) & 1:  # a thumbnail
            pages.remove(page)
    image.seek(pages[0] if pages else 0)
    _check_size(*image.size)
    if len(pages) > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        raise InputError(f"it holds {len(pages)} pages; save each as a separate file")
    tags, mode = getattr(image, "tag_v2", {}), image.mode
    depth = data[24] if image.format == "PNG" else 1 if mode == "1" else 8
    depth = int(np.max(tags.get(258, depth)))
    facts: dict[str, Any] = {"bit_depth": depth}
    if tables := getattr(image, "quantization", None):  # as libjpeg sets it for a quality
        scale = 100 * sum(tables[min(tables)]) / 3688  # of the standard's table (Annex K)
        facts["jpeg_quality"] = round((200 - scale) / 2 if scale <= 100 else 5000 / scale)
    signed = 2 in np.atleast_1d(tags.get(339, 1))
    scalar = mode[0] in "IF" and not (mode == "I" and depth == 32 and not signed)  # Pillow's sign
    deep_color = depth == 16 and image.format == "PNG" and mode == "RGB"
    if not scalar and not deep_color and (depth > 8 or signed or mode == "LAB"):
        raise InputError(f"it has {depth}-bit {mode} pixels; save it as grayscale PNG")
    with contextlib.suppress(Exception):  # a broken EXIF block does not affect the pixels
        facts |= {"rotated": True} if image.getexif().get(274) in range(2, 9) else {}
    image.load()
    with contextlib.suppress(Exception):
        image = ImageOps.exif_transpose(image)
    if deep_color:  # Pillow keeps the high bytes; read in the other byte order, the low ones
        low = Image.open(io.BytesIO(data))
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        return stretch(np.asarray(image).astype(np.uint16) << 8 | np.asarray(low)), facts
    if scalar:
        return stretch(np.asarray(image), inverted=tags.get(262) == 0), facts
    if image.has_transparency_data:
        gray, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA")), -1, 0)
        alpha = alpha if alpha.any() else 255  # the channel was never filled
        return (gray.astype(np.uint16) * alpha // 255).astype(np.uint8), facts
    return np.asarray(image.convert("RGB" if mode == "CMYK" else "L").convert("L")), facts


def _decode_dicom(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Stored values, modality LUT, VOI LUT, photometric interpretation: as in PS3.3, C.11."""
    from pydicom import dcmread, pixels, uid

    if b"1.2.840.10008.1.2.1.99" in data[:2048]:  # pydicom would inflate it without a bound
        raise InputError("it is deflated DICOM, which is not supported; export it uncompressed")
    dataset = dcmread(io.BytesIO(data), force=True)
    if not any(dataset.get(f"{kind}PixelData") for kind in ("", "Float", "DoubleFloat")):
        raise InputError("it is DICOM without pixel data, or cut short")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise InputError(f"it holds {frames} frames; export the one that shows the bone")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    if not dataset.file_meta.get("TransferSyntaxUID"):
        order = "Implicit" if dataset.original_encoding[0] else "Explicit"
        dataset.file_meta.TransferSyntaxUID = getattr(uid, f"{order}VRLittleEndian")
    values = pixels.pixel_array(dataset, correct_unused_bits=False)
    bits, stored = 8 * values.itemsize, int(dataset.get("BitsStored") or 8 * values.itemsize)
    facts, patient = {"bit_depth": stored}, str(dataset.get("PatientID") or "")
    if not re.fullmatch(NO_PATIENT, patient):
        facts["patient"] = f"dicom-{hashlib.sha256(patient.encode()).hexdigest()[:12]}"
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = pixels.apply_color_lut(values, dataset)[..., :3]
    if values.ndim == 3 and values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).convert("L")), facts
    if values.ndim == 3:
        return stretch(values), facts
    hidden, ends = None, [dataset.get(f"PixelPadding{end}") for end in ("Value", "RangeLimit")]
    if values.dtype.kind in "iu" and isinstance(ends[0], int):
        ends = np.sort(np.int64([end for end in ends if isinstance(end, int)]).astype(values.dtype))
        hidden = (values >= ends[0]) & (values <= ends[-1])
    if stored < bits and dataset.HighBit == stored - 1:  # the bits above may hold an overlay
        values = values << (bits - stored) >> (bits - stored)
    rescale = dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0
    dataset.RescaleSlope, dataset.RescaleIntercept = rescale
    if dataset.get("ModalityLUTSequence") or rescale != (1, 0):
        values = pixels.apply_modality_lut(values, dataset)
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0  # else a negative one inverts the window
    dataset.VOILUTFunction = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    widths = np.atleast_1d(dataset.get("WindowWidth") or 0)
    usable = np.flatnonzero(widths >= (1 if dataset.VOILUTFunction == "LINEAR" else 1e-9))
    if usable.size or dataset.get("VOILUTSequence"):
        values = pixels.apply_voi_lut(values, dataset, int(usable[0]) if usable.size else 0)
    return stretch(values, dataset.PhotometricInterpretation == "MONOCHROME1", hidden), facts
