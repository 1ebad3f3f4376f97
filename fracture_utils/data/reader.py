"""The only code that turns an X-ray file into pixels.

Training, prediction, heat maps and the audit all read through here, so that they see the
same grey levels to the last bit. Nothing is guessed from a file's name, nothing that is
damaged is repaired, and whatever a decoder does with a hostile file, the caller gets a
picture or a `ReadError`.
"""

import contextlib
import hashlib
import io
import stat
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from fracture_utils.errors import InputError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
GRID = 64
"""Side of what `unfit` gives: finer than any network's maps, coarse enough to keep them all."""
MAX_BYTES = 256 * 2**20
MAX_PIXELS = 40_000_000
"""The largest detectors (mammography) give 30 million; Pillow would go to 179 million."""
MAX_SCANS = 500
"""A progressive JPEG has about ten; thousands of empty ones would keep a decoder busy for hours."""
TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].T,
    8: np.rot90,
}
"""What makes a picture upright, by its EXIF orientation."""
LUMINANCE_TABLE_SUM = 3688
"""Sum of the luminance quantisation table of the JPEG standard (Annex K), quality 50."""


class ReadError(InputError):
    """A file that is no picture we can trust; `reason` says why, in plain words."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]} cannot be read: {self.reason}."


def read(path: Path) -> np.ndarray:
    """The picture as uint8 grey levels (height, width), upright, bright bone on dark air.

    More than 8 bits (and DICOM after rescale and window) are stretched linearly from the
    file's own darkest to its brightest value, because 10-, 12- and 14-bit data lie in 16-bit
    containers and no header says so reliably. 8-bit pictures are left as they are.
    Raises ReadError.
    """
    return load(path)[0]


def load(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture as `read` gives it, and what the same opening of the file tells about it.

    The facts: width, height (pixels as shown), bit_depth, mode, format, file_bytes, sha256,
    jpeg_quality (estimated; NaN for other formats) and patient (a digest of the DICOM patient
    id, otherwise empty). Raises ReadError.
    """
    data = _read_bytes(Path(path))
    try:
        with _quiet:
            pixels, facts = (_decode_dicom if data[128:132] == b"DICM" else _decode)(data)
    except _RefusedError as error:
        raise ReadError(path, str(error)) from None
    except Image.DecompressionBombError:
        raise ReadError(path, f"it declares more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ReadError(path, "its content is no PNG, JPEG, TIFF, BMP or DICOM") from None
    except Exception as error:  # a decoder given a hostile file may raise anything
        raise ReadError(path, f"it is truncated or damaged ({_first_line(error)})") from None
    facts |= {"height": pixels.shape[0], "width": pixels.shape[1], "file_bytes": len(data)}
    facts["sha256"] = hashlib.sha256(data).hexdigest()
    return np.ascontiguousarray(pixels), {"jpeg_quality": np.nan, "patient": ""} | facts


def fit(picture: np.ndarray, size: int, aspect: str = "pad") -> np.ndarray:
    """The picture (height, width) as uint8 (size, size), antialiased.

    "pad" keeps the aspect ratio and centres the picture on black: that is what collimation
    and unattenuated air look like, and unlike a level taken from the border it does not turn
    the exposure into a frame. "squash" stretches both sides to `size`.
    """
    top, left, height, width = frame(picture.shape, size, aspect)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas


def frame(shape: tuple[int, int], size: int, aspect: str = "pad") -> tuple[int, int, int, int]:
    """Where `fit` puts a picture of `shape` in the square: top, left, height, width in pixels."""
    if aspect == "squash":
        return 0, 0, size, size
    scale = size / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    return (size - height) // 2, (size - width) // 2, height, width


def unfit(square: np.ndarray, shape: tuple[int, int], size: int, aspect: str = "pad") -> np.ndarray:
    """The other way round: what a coarse map over the square says about the picture alone.

    `square` (rows, columns) covers what `fit` made of a picture of `shape` at `size`. Returns
    float32 (GRID, GRID), bilinear, which covers the picture from edge to edge and no padding;
    so a box in pixels of the file is a share of its width and height here, for every network.
    """
    top, left, height, width = frame(shape, size, aspect)
    middles = (np.arange(GRID) + 0.5) / GRID
    rows = (top + middles * height) / size * square.shape[0] - 0.5
    columns = (left + middles * width) / size * square.shape[1] - 0.5
    places = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(square.astype(np.float32), places, order=1, mode="nearest")


class _RefusedError(Exception):
    """A reason to refuse a file, before its path is known."""


class _Quiet:
    """Decoders warn about files that we judge ourselves. Counts its users, because
    `warnings.catch_warnings` alone leaves wrong filters behind when threads interleave.
    """

    def __init__(self) -> None:
        self.lock, self.users, self.silence = threading.Lock(), 0, contextlib.ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.silence.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.users -= 1
            if self.users == 0:
                self.silence.close()


_quiet = _Quiet()


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise ReadError(path, "it is no ordinary file")
        if status.st_size > MAX_BYTES:
            raise ReadError(path, f"it has more than {MAX_BYTES >> 20} MiB")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ReadError(path, f"the system refuses it ({_first_line(error)})") from None
    if not data:
        raise ReadError(path, "it is empty (0 bytes)")
    return data


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:120]


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise _RefusedError(f"it declares {width} x {height} pixels; allowed are {MAX_PIXELS:,}")


def _decode(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_size(*image.size)
        pages = getattr(image, "n_frames", 1)
        if pages > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
            raise _RefusedError(f"it holds {pages} pages; save each as a file of its own")
        if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
            raise _RefusedError("it is a JPEG with an absurd number of scans")
        depth, facts = _bit_depth(image, data), {"mode": image.mode, "format": image.format}
        if tables := getattr(image, "quantization", None):
            facts["jpeg_quality"] = _jpeg_quality(tables)
        orientation = _orientation(image)
        image.load()
        pixels = _grey(image)
    if orientation in TURNS and facts["format"] != "TIFF":  # Pillow turns a TIFF itself
        pixels = TURNS[orientation](pixels)
    return pixels, facts | {"bit_depth": depth}


def _grey(image: Image.Image) -> np.ndarray:
    if image.mode[0] in "IF":  # I, F, I;16 and its byte orders
        white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0
        return _stretch(np.asarray(image), inverted=white_is_zero)
    if image.has_transparency_data:  # over black, like the padding
        grey, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA")), -1, 0)
        return (grey.astype(np.uint16) * alpha // 255).astype(np.uint8)
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _stretch(values: np.ndarray, inverted: bool = False) -> np.ndarray:
    values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise _RefusedError("it holds values that are no numbers")
    values -= low
    values *= np.float32(255 / (high - low)) if high > low else 0
    values = np.rint(values).astype(np.uint8)
    return 255 - values if inverted else values


def _bit_depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        return int(np.max(image.tag_v2.get(258, 1)))
    return 1 if image.mode == "1" else 8


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(0x0112)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _jpeg_quality(tables: dict[int, list[int]]) -> float:
    """The quality setting of the Independent JPEG Group's library, from the first table."""
    scale = 100 * sum(tables[min(tables)]) / LUMINANCE_TABLE_SUM
    return round((200 - scale) / 2 if scale <= 100 else 5000 / scale)


def _decode_dicom(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space
    except ImportError:
        raise _RefusedError(
            'it is DICOM, which needs pydicom: pip install "fracture-detection[dicom]"'
        ) from None
    dataset = pydicom.dcmread(io.BytesIO(data))
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise _RefusedError(f"it holds {frames} frames; export the one that shows the bone")
    _check_size(int(dataset.Columns), int(dataset.Rows))
    values, photometric = dataset.pixel_array, dataset.PhotometricInterpretation
    if values.ndim == 3:
        if photometric.startswith("YBR"):
            values = convert_color_space(values, photometric, "RGB")
        pixels = _grey(Image.fromarray(values.astype(np.uint8)))
    else:
        values = apply_voi_lut(apply_modality_lut(values, dataset), dataset)
        pixels = _stretch(values, inverted=photometric == "MONOCHROME1")
    patient = hashlib.sha256(str(dataset.get("PatientID") or "").encode()).hexdigest()[:12]
    return pixels, {
        "mode": photometric,
        "format": "DICOM",
        "bit_depth": int(dataset.BitsStored),
        "patient": f"dicom-{patient}" if dataset.get("PatientID") else "",
    }
