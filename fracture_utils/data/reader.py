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
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from scipy import ndimage

from fracture_utils.data import dicom, greys
from fracture_utils.errors import InputError, first_line

CODE = ("data/greys", "data/dicom", "data/reader")
LIBRARIES = (
    *("numpy", "scipy", "pillow", "pydicom", "pylibjpeg"),
    *("pylibjpeg-libjpeg", "pylibjpeg-openjpeg"),
)
"""What decides, beside a file's bytes, what its pixels are."""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II": "TIFF",
    b"MM": "TIFF",
    b"BM": "BMP",
}
"""How a file of each format begins."""
HEAD = 132
GRID = 64
"""Side of what `unfit` gives: finer than any network's maps, coarse enough to keep them all."""
MAX_BYTES = 256 * 2**20
MAX_SCANS = 500
"""A progressive JPEG has about ten; thousands of empty ones would keep a decoder busy for hours."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned."""
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
    containers and no header says so reliably; padding, transparent pixels and a handful of
    markers do not decide that scale (`greys.stretch`). 8-bit pictures are left as they are.
    Raises ReadError.
    """
    return load(path)[0]


def load(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture as `read` gives it, and what the same opening of the file tells about it.

    The facts: width, height (pixels as shown), bit_depth, file_bytes, sha256, jpeg_quality
    (estimated; NaN for other formats) and patient (a digest of the DICOM patient id, otherwise
    empty). Raises ReadError.
    """
    data = _read_bytes(Path(path))
    try:
        with _quiet:
            pixels, facts = (dicom.decode if dicom.resembles(data) else _decode)(data)
    except greys.RefusedError as error:
        raise ReadError(path, str(error)) from None
    except Image.DecompressionBombError:
        raise ReadError(path, f"it declares more than {greys.MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ReadError(path, dicom.NO_PICTURE) from None
    except Exception as error:  # a decoder given a hostile file may raise anything
        raise ReadError(path, f"it is truncated or damaged ({first_line(error)})") from None
    facts |= {"height": pixels.shape[0], "width": pixels.shape[1], "file_bytes": len(data)}
    facts["sha256"] = hashlib.sha256(data).hexdigest()
    return np.ascontiguousarray(pixels), {"jpeg_quality": np.nan, "patient": ""} | facts


def head(path: Path) -> bytes:
    """The first HEAD bytes of a file, which tell what it is; none where it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        if stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                return file.read(HEAD)
    return b""


def is_dicom(path: Path) -> bool:
    """Whether the content of a file is DICOM, whatever its name; False where it cannot be read."""
    return dicom.resembles(head(path))


def fit(picture: np.ndarray, size: int, aspect: str = "pad") -> np.ndarray:
    """The picture (height, width) as uint8 (size, size), antialiased.

    "pad" keeps the aspect ratio and centres the picture on black: that is what collimation
    and unattenuated air look like, and unlike a level taken from the border it does not turn
    the exposure into a frame. "squash" stretches both sides to `size`.
    """
    top, left, height, width = frame(picture.shape, size, aspect)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = np.asarray(image)
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
        raise ReadError(path, f"the system refuses it ({first_line(error)})") from None
    if not data:
        raise ReadError(path, "it is empty (0 bytes)")
    return data


def _decode(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    if data[:3] == b"\xff\xd8\xff":
        _check_jpeg(data)
    with _open(data) as image:
        greys.check_size(*image.size)
        pages, depth = getattr(image, "n_frames", 1), _bit_depth(image, data)
        if pages > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
            raise greys.RefusedError(f"it holds {pages} pages; save each as a file of its own")
        facts: dict[str, Any] = {"bit_depth": depth}
        if tables := getattr(image, "quantization", None):
            facts["jpeg_quality"] = _jpeg_quality(tables)
        deep = depth == 16 and image.mode in ("RGB", "RGBA", "CMYK")
        raw = _raw_mode(image) if deep else ""
        orientation = _orientation(image)
        pixels = _deep_colour(image, data, raw) if deep else _grey(image, depth)
    if orientation and image.format != "TIFF":  # which Pillow turns itself
        picture = Image.fromarray(pixels)
        picture.getexif()[ORIENTATION] = orientation
        pixels = np.asarray(ImageOps.exif_transpose(picture))
    return pixels, facts


def _open(data: bytes) -> ImageFile.ImageFile:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        kind = next((name for start, name in MAGIC.items() if data.startswith(start)), None)
        if kind is None:
            raise
    try:
        TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    except SyntaxError as error:  # how Pillow says that it knows no such pixels
        if kind == "TIFF":
            raise greys.RefusedError(
                f"it is a TIFF of a kind that is not read ({error}); save it as a plain grey one"
            ) from None
    raise greys.RefusedError(f"it begins like a {kind}, but is truncated or damaged") from None


def _check_jpeg(data: bytes) -> None:
    """That it is of a process that Pillow decodes, in a number of scans that ends soon."""
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise greys.RefusedError("it is a JPEG with an absurd number of scans")
    place = 2
    while data[place : place + 1] == b"\xff" and len(data) > place + 4:
        marker, bits = data[place + 1], data[place + 4]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker in (0xC3, 0xC7, 0xCB, 0xCF):
                raise greys.RefusedError("it is a lossless JPEG, which is not read; save it as PNG")
            if bits != 8:
                raise greys.RefusedError(
                    f"it is a JPEG of {bits} bits, which is not read; save it as PNG"
                )
            return
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])


def _grey(image: Image.Image, depth: int) -> np.ndarray:
    image.load()
    tags, clear = getattr(image, "tag_v2", {}), image.info.get("transparency")
    signed = 2 in np.atleast_1d(tags.get(339, 1))
    if image.mode[0] in "IF":  # I, F, I;16 and its byte orders
        values = np.asarray(image)
        if image.mode == "I" and depth == 32 and tags and not signed:
            values = values.view(np.uint32)  # which Pillow keeps as if it had a sign
        hidden = values == clear if isinstance(clear, int) else None
        return greys.stretch(values, inverted=tags.get(262) == 0, hidden=hidden)
    if image.mode == "L" and signed:
        return greys.stretch(np.asarray(image).view(np.int8))
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB") or image
    if image.has_transparency_data:
        if isinstance(clear, int) and image.mode == "L" and depth < 8:
            image.info["transparency"] = clear * 255 // (2**depth - 1)
        grey, alpha = np.moveaxis(np.asarray(image.convert("RGBA").convert("LA")), -1, 0)
        if not alpha.any():  # it was never filled in
            return grey
        return (grey.astype(np.uint16) * alpha // 255).astype(np.uint8)  # over black, as padding is
    if image.mode == "CMYK":
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How Pillow would unpack the samples; known only until the picture is loaded."""
    arguments = image.tile[0].args
    return arguments if isinstance(arguments, str) else str((arguments or ("",))[0])


def _deep_colour(image: Image.Image, data: bytes, raw: str) -> np.ndarray:
    """Colour of 16 bits a sample as uint8 grey levels, stretched like grey of that depth.

    Pillow keeps one byte of each sample, by the byte order in its raw mode; so the picture is
    decoded once for the high and once for the low bytes.
    """
    if image.mode == "CMYK" or getattr(image, "tag_v2", {}).get(284) == 2:
        raise greys.RefusedError(
            f"it is {image.mode} of 16 bits in a layout that is not read; save it grey"
        )
    if raw == "LA;16B":
        four = _decoded(data, "RGBA")
        samples = four[..., ::2].astype(np.uint16) << 8 | four[..., 1::2]
        grey = samples[..., 0]
    else:
        order = raw[-1].replace("N", "L" if sys.byteorder == "little" else "B")
        plain = raw[:-1].replace("a;", "A;")  # a: colours that are already over black
        high, low = _decoded(data, plain + order), _decoded(data, plain + "LB"[order == "L"])
        samples = high.astype(np.uint16) << 8 | low
        grey = greys.luminance(samples)
    alpha = np.full(grey.shape, 65535, np.uint16)
    if image.mode == "RGBA" and "a;" not in raw:
        alpha = samples[..., -1]
    elif clear := image.info.get("transparency"):
        alpha = np.where((samples == clear).all(-1), 0, alpha)
    if not alpha.any() or alpha.min() == 65535:
        return greys.stretch(grey)
    return np.rint(greys.stretch(grey, hidden=alpha == 0) * (alpha / 65535)).astype(np.uint8)


def _decoded(data: bytes, raw: str) -> np.ndarray:
    """What Pillow makes of the file when told that its raw mode is `raw`."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.tile = [
            tile._replace(args=raw if isinstance(tile.args, str) else (raw, *(tile.args or ())[1:]))
            for tile in image.tile
        ]
        return np.asarray(image)


def _bit_depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(np.max(image.tag_v2.get(258, 1)))
    return 1 if image.mode == "1" else 8


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


def _jpeg_quality(tables: dict[int, list[int]]) -> float:
    """The quality setting of the Independent JPEG Group's library, from the first table."""
    scale = 100 * sum(tables[min(tables)]) / LUMINANCE_TABLE_SUM
    return round((200 - scale) / 2 if scale <= 100 else 5000 / scale)
