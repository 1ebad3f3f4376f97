"""A DICOM file as grey levels, through pydicom and its decoders.

The order is that of the standard (PS3.3, C.11): stored values, modality table or rescale, window,
photometric interpretation. Damage, a missing decoder and an odd header are three reasons; an
optional part that says nothing (a window of no width, an empty slope) is left out.
"""

import hashlib
import io
import math
import re
import struct
import zlib
from typing import Any

import numpy as np

from fracture_utils.data.greys import RefusedError, check_size, colour, stretch
from fracture_utils.errors import first_line

INSTALL = "pip install pydicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
NO_PICTURE = "its content is no PNG, JPEG, TIFF, BMP or DICOM"
MAX_INFLATED = 256 * 2**20
GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
"""Colour that pydicom gives as red, green and blue, whatever the file holds."""
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
FIRST_GROUPS = (0x0002, 0x0004, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028)
"""Groups with which a file without preamble may begin."""
DEFLATED = b"1.2.840.10008.1.2.1.99"
JPEG_SIZE = rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]...(..)(..)"
JPEG2000_SIZE = rb"\xff\x4f\xff\x51....(....)(....)"
"""Where compressed pixels declare their two sides."""


def resembles(head: bytes) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM, by its content alone."""
    if b"DICM" in (head[128:132], head[:4]):
        return True
    if len(head) < 132:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHI", head[:8])
        explicit = re.match(rb"[A-Z]{2}", head[4:6])
        if group in FIRST_GROUPS and element < 0x2000 and (explicit or length <= 1024):
            return True
    return False


def decode(data: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """The picture as uint8 grey levels (height, width), bright bone on dark air, and its facts:
    bit_depth and patient (a digest). RefusedError says why not; whatever else
    is raised means damage.
    """
    try:
        import pydicom.pixels  # noqa: F401
    except ImportError:
        raise RefusedError(f"it is DICOM, which needs pydicom: {INSTALL}") from None
    dataset = _parse(data)
    _check_header(dataset)
    values = _values(dataset)
    patient = hashlib.sha256(str(dataset.get("PatientID") or "").encode()).hexdigest()[:12]
    facts = {
        "bit_depth": int(dataset.get("BitsStored") or 8 * values.itemsize),
        "patient": f"dicom-{patient}" if dataset.get("PatientID") else "",
    }
    return _grey(values, dataset), facts


def _parse(data: bytes) -> Any:
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if data[:4] == b"DICM":
        data = bytes(128) + data
    elif data[128:132] != b"DICM":
        data = bytes(128) + b"DICM" + data if data[:2] == b"\x02\x00" else data
    if DEFLATED in data[132:2048]:
        return _inflate(data)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    if not any(name in dataset for name in ("SOPClassUID", "Rows", *PIXELS)) and not (
        dataset.file_meta.get("MediaStorageSOPClassUID")
    ):
        raise RefusedError(NO_PICTURE if data[128:132] != b"DICM" else "it holds no picture")
    if not dataset.file_meta.get("TransferSyntaxUID"):
        if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
            raise _odd("it does not say how its pixels are compressed")
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


def _inflate(data: bytes) -> Any:
    """The data set of a deflated file; pydicom would inflate it without a bound."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import ExplicitVRLittleEndian

    if data[132:140] != b"\x02\0\0\0UL\4\0":
        raise _odd("it does not say how long it is")
    begin = 144 + struct.unpack("<I", data[140:144])[0]
    inflator = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflator.decompress(data[begin:], MAX_INFLATED)
    if inflator.unconsumed_tail:
        raise RefusedError(f"it inflates to more than {MAX_INFLATED >> 20} MiB")
    dataset = read_dataset(io.BytesIO(content), is_implicit_VR=False, is_little_endian=True)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _check_header(dataset: Any) -> None:
    """That there is one picture, and that its header says what it must."""
    if not any(name in dataset and dataset[name].value for name in PIXELS):
        kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
        name = getattr(kind, "name", "no kind")
        cut = ": cut short, or a header alone" if "Image" in name or "Rows" in dataset else ""
        raise RefusedError(f"it is DICOM that holds no picture ({name}){cut}")
    if (frames := _whole(dataset, "NumberOfFrames", 1) or 1) > 1:
        raise RefusedError(f"it holds {frames} frames; export the one that shows the bone")
    check_size(_whole(dataset, "Columns"), _whole(dataset, "Rows"))
    photometric, samples = _photometric(dataset), _whole(dataset, "SamplesPerPixel")
    if photometric not in GREY + COLOUR:
        raise RefusedError(f"its colours are {photometric or 'not named'}, which is not read")
    if samples != (1 if photometric in GREY else 3):
        raise _odd(f"{photometric} with {samples} samples a pixel")
    if "PixelData" not in dataset:
        return
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated:
        raise _odd(f"{stored} bits stored in {allocated} allocated")
    if _whole(dataset, "PixelRepresentation") not in (0, 1):
        raise _odd("PixelRepresentation is neither 0 nor 1")


def _odd(detail: str) -> RefusedError:
    return RefusedError(f"its DICOM header is incomplete or contradicts itself ({detail})")


def _photometric(dataset: Any) -> str:
    return str(dataset.get("PhotometricInterpretation") or "").strip()


def _whole(dataset: Any, name: str, default: int | None = None) -> int:
    try:
        value = dataset.get(name)
        if value is None or value == "":
            value = default
        return int(value)
    except Exception:  # pydicom parses a value when it is asked for
        raise _odd(f"{name} is missing or no whole number") from None


def _numbers(dataset: Any, name: str) -> list[float]:
    """The finite numbers of an optional element; none where it is absent, empty or no number."""
    try:
        value = dataset.get(name)
        several = [] if value is None else np.atleast_1d(np.asarray(value, float)).tolist()
        return several if all(map(math.isfinite, several)) else []
    except Exception:  # as above
        return []


def _values(dataset: Any) -> np.ndarray:
    """The stored values, the colours red, green and blue."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder
    from pydicom.pixels.decoders.pylibjpeg import DECODER_DEPENDENCIES
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    needed = [item.split(">")[0] for item in DECODER_DEPENDENCIES.get(syntax, ())]
    missing = f"its pixels are {syntax.name}, which needs a decoder: pip install {' '.join(needed)}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise RefusedError(f"its pixels are {syntax.name}, which is not read") from None
    if not decoder.is_available:
        raise RefusedError(missing)
    if syntax.is_encapsulated and syntax != RLELossless:
        frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
        _check_frame(frame, JPEG2000_SIZE if "2000" in syntax.name else JPEG_SIZE)
    try:
        options: Any = {"correct_unused_bits": False}  # pydicom types each option as all of them
        return decoder.as_array(dataset, **options)[0]
    except RuntimeError as error:
        if needed and not {"pylibjpeg", "pydicom"} & set(decoder.available_plugins):
            raise RefusedError(missing) from None
        detail = str(error).splitlines()[1:] or [first_line(error)]
        raise RefusedError(
            f"no decoder reads its {syntax.name} pixels: they are damaged, or of a rare kind "
            f"({detail[0].strip()[:120]})"
        ) from None


def _check_frame(frame: bytes, pattern: bytes) -> None:
    """That the compressed pixels themselves declare no absurd size: decoders believe them."""
    for match in re.finditer(pattern, frame, re.DOTALL):
        check_size(*(int.from_bytes(side) for side in match.groups()))


def _grey(values: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_color_lut

    photometric, stored = _photometric(dataset), _stored(values, dataset)
    if photometric in COLOUR:
        return colour(stored)
    hidden = _padding(values, dataset)
    if hidden is not None:
        hidden |= _padding(stored, dataset)
    try:
        if photometric == "PALETTE COLOR":
            shown = apply_color_lut(stored, dataset)[..., :3]
        else:
            shown = _windowed(_rescaled(stored, dataset), dataset)
    except Exception as error:  # a table may be of any length and kind
        raise _odd(f"its lookup table cannot be used: {first_line(error)}") from None
    if photometric == "PALETTE COLOR":
        return colour(shown)
    return stretch(shown, photometric == "MONOCHROME1", hidden)


def _stored(values: np.ndarray, dataset: Any) -> np.ndarray:
    """The bits below the high bit; those above it may hold overlays or nothing (PS3.5, 8.1.1)."""
    bits, depth = 8 * values.itemsize, _whole(dataset, "BitsStored", 8 * values.itemsize)
    if values.dtype.kind not in "iu" or depth >= bits:
        return values
    top = _whole(dataset, "HighBit", depth - 1) + 1
    unused = {int(values.min()) >> depth, int(values.max()) >> depth}
    if not depth < top <= bits or unused <= {0, -1}:  # the values do not lie where HighBit says
        top = depth
    return values << (bits - top) >> (bits - depth)


def _padding(values: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Where the pixels are padding; None where the file names none."""
    first = _numbers(dataset, "PixelPaddingValue")
    if not first or values.dtype.kind not in "iu":
        return None
    last = _numbers(dataset, "PixelPaddingRangeLimit") or first
    ends = np.array([first[0], last[0]]).astype(np.int64).astype(values.dtype)  # either sign
    return (values >= ends.min()) & (values <= ends.max())


def _rescaled(values: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(values, dataset)
    slopes, intercepts = (_numbers(dataset, f"Rescale{name}") for name in ("Slope", "Intercept"))
    slope = slopes[0] if slopes and slopes[0] != 0 else 1.0
    intercept = intercepts[0] if intercepts else 0.0
    if (slope, intercept) == (1, 0):
        return values
    return values.astype(np.float64) * slope + intercept


def _windowed(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Through the table of values of interest, or the first window that has a width."""
    from pydicom.pixels import apply_voi_lut

    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    dataset.VOILUTFunction = function
    for name in ("RescaleSlope", "RescaleIntercept"):  # a negative one would turn the window round
        dataset.pop(name, None)
    if dataset.get("VOILUTSequence"):
        return apply_voi_lut(values, dataset)
    pairs = zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False)
    known = function in ("LINEAR", "LINEAR_EXACT", "SIGMOID")
    for index, (_, width) in enumerate(pairs if known else ()):
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return apply_voi_lut(values, dataset, index)
    return values
