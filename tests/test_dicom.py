"""DICOM against pydicom's own pipeline, and the reasons why a file is not read."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from radiographs import bone, dicom, stretched, written

from fracture_utils.data import dataset, reader

CASES = Path(__file__).parent / "cases"
SHIPPED = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and reader.DICOM.match(path.read_bytes())
)
DAMAGED = "damaged or has an unsupported format"


def reference(dataset):
    """pydicom's pipeline, stretched from least to greatest; color of 8 bits stays."""
    values = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    if values.ndim == 3:
        gray = values[..., :3] @ np.array([0.299, 0.587, 0.114])
        return gray if values.dtype == np.uint8 else stretched(gray)
    gray = stretched(apply_voi_lut(apply_modality_lut(values, dataset), dataset))
    return 255 - gray if dataset.PhotometricInterpretation == "MONOCHROME1" else gray


def difference(path, expected):
    return np.abs(reader.read(path).astype(float) - expected).max()


def refused(path, reason):
    with pytest.raises(reader.ReadError, match=reason):
        reader.read(path)


def test_every_file_that_pydicom_ships_is_read_as_pydicom_reads_it_or_refused_with_the_reason():
    outcomes = dict.fromkeys(["read", "frames", "without pixel data", "deflated", DAMAGED], 0)
    for path in SHIPPED:
        with warnings.catch_warnings(action="ignore"):
            file = pydicom.dcmread(path, force=True)
            try:
                reader.read(path)
            except reader.ReadError as error:
                outcome = next(name for name in outcomes if name in error.reason)
                if outcome == DAMAGED:  # pydicom does not read it either
                    with pytest.raises((ValueError, RuntimeError, AttributeError)):
                        file.convert_pixel_data()
                if outcome == "frames":
                    assert file.NumberOfFrames > 1
                if outcome == "without pixel data":
                    assert not any(name.endswith("PixelData") for name in file.dir())
            else:
                outcome = "read"
                assert difference(path, reference(file)) <= 2, path
        outcomes[outcome] += 1
    assert outcomes["read"] > 90
    assert outcomes["frames"] > 5
    assert outcomes["without pixel data"] > 20
    assert 0 < outcomes["deflated"] < 3
    assert 0 < outcomes[DAMAGED] < 10


def test_the_cases_are_right():
    plain = reader.read(CASES / "colour16/grey16_12bit.png")
    for name in ("colour16/rgb16.dcm", "colour16/rgb16_12bit.png"):
        np.testing.assert_array_equal(reader.read(CASES / name), plain)
    for name in ("no_preamble", "window_width_0"):
        pixels = reader.read(CASES / f"dicom_called_damaged/{name}.dcm")
        assert (pixels.min(), pixels.max()) == (0, 255)
    for name in ("dicom_ybr/grey_film_ybr", "dicom_called_damaged/j2k_ybr_rct"):
        path = CASES / f"{name}.dcm"
        assert difference(path, reference(pydicom.dcmread(path))) <= 2
    path = CASES / "dicom_padding/pad65535.dcm"
    values, pixels = pydicom.dcmread(path).pixel_array, reader.read(path)
    assert len(np.unique(pixels[values != 65535])) > 200
    assert (pixels[values == 65535] == 0).all()


def test_dicom_is_windowed_and_inverted():
    dicom("a.dcm")
    plain, facts = reader.load("a.dcm")
    assert (plain[0, 0], plain[-1, -1]) == (0, 255)
    assert facts["bit_depth"] == 12
    assert facts["patient"].startswith("dicom-")
    assert "Doe" not in str(facts)
    dicom("b.dcm", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(reader.read("b.dcm"), 255 - plain)
    dicom("c.dcm", WindowCenter=1000, WindowWidth=200, RescaleSlope=1, RescaleIntercept=-50)
    windowed, raw = reader.read("c.dcm"), bone() * 16.0 - 50
    assert (windowed[raw < 890] == 0).all()
    assert (windowed[raw > 1110] == 255).all()


SIGNED = {"PixelRepresentation": 1, "BitsStored": 16, "HighBit": 15}
WIDE = {"BitsStored": 16, "HighBit": 15}


@pytest.mark.parametrize(
    ("padding", "tags"),
    [
        (65535, {"PixelPaddingValue": 65535, **WIDE}),
        (65535, {"PixelPaddingValue": 65535}),  # beyond the 12 bits that are stored
        (-2000, {"PixelPaddingValue": -2000, **SIGNED}),
        (9000, {"PixelPaddingValue": 8000, "PixelPaddingRangeLimit": 9500, **WIDE}),
        (9000, {"PixelPaddingValue": 9500, "PixelPaddingRangeLimit": 8000, **WIDE}),
        (65535, {"PixelPaddingValue": 65535, "PhotometricInterpretation": "MONOCHROME1", **WIDE}),
    ],
)
def test_padding_is_black_and_does_not_determine_the_scale(padding, tags):
    values = bone().astype(np.int32) * 16
    common = {name: tags[name] for name in SIGNED if name in tags}
    photometric = tags.get("PhotometricInterpretation", "MONOCHROME2")
    dicom("plain.dcm", values.astype(np.uint16), PhotometricInterpretation=photometric, **common)
    values[:, :9] = padding
    dicom("padded.dcm", values.astype(np.uint16), **tags)
    padded, plain = reader.read("padded.dcm"), reader.read("plain.dcm")
    np.testing.assert_allclose(padded[:, 9:].astype(int), plain[:, 9:], atol=1)
    assert (padded[:, :9] == 0).all()


def test_padding_of_a_signed_image_may_be_written_without_a_sign():
    values = np.where(bone() < 60, -2000, bone() * 16).astype(np.int16)
    dicom("signed.dcm", values, PixelPaddingValue=-2000, **SIGNED)
    file = pydicom.dcmread("signed.dcm")
    file.add(pydicom.DataElement("PixelPaddingValue", "US", 63536))
    file.save_as("unsigned.dcm")
    np.testing.assert_array_equal(reader.read("unsigned.dcm"), reader.read("signed.dcm"))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 100},
        {"WindowWidth": 100},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": -1024},
        {"RescaleSlope": 0, "RescaleIntercept": -1024},
        {"RescaleSlope": 2},
        {"PixelPaddingValue": None},
    ],
)
def test_optional_elements_without_a_value_have_no_effect(tags):
    dicom("plain.dcm")
    dicom("odd.dcm", **tags)
    np.testing.assert_array_equal(reader.read("odd.dcm"), reader.read("plain.dcm"))


def test_the_first_window_that_has_a_width_is_used():
    dicom("one.dcm", WindowCenter=1000, WindowWidth=400)
    dicom("three.dcm", WindowCenter=[0, 1000, 2000], WindowWidth=[0, 400, 100])
    dicom("empty_function.dcm", WindowCenter=1000, WindowWidth=400, VOILUTFunction=None)
    one = reader.read("one.dcm")
    assert (one == 255).any()
    for name in ("three", "empty_function"):
        np.testing.assert_array_equal(reader.read(f"{name}.dcm"), one)
    dicom("exact.dcm", WindowCenter=1000, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    assert len(np.unique(reader.read("exact.dcm"))) == 2
    dicom("falling.dcm", RescaleSlope=-1, RescaleIntercept=0, WindowCenter=-1000, WindowWidth=400)
    np.testing.assert_allclose(reader.read("falling.dcm").astype(int), 255 - one, atol=2)


def palette(depth):
    table = np.linspace(255, 0, 256).astype("uint8")  # the indices run against the grays
    words = table if depth == 8 else table.astype("<u2") * 257
    colors = ("Red", "Green", "Blue")
    tags = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, depth] for name in colors}
    tags |= {f"{name}PaletteColorLookupTableData": words.tobytes() for name in colors}
    tags |= {"PhotometricInterpretation": "PALETTE COLOR", "BitsAllocated": 8}
    return tags | {"BitsStored": 8, "HighBit": 7}


@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_is_looked_up(depth):
    indices = np.linspace(0, 255, 2400).astype(np.uint8).reshape(60, 40)
    dicom("a.dcm", indices, **palette(depth))
    np.testing.assert_allclose(reader.read("a.dcm").astype(int), 255 - indices.astype(int), atol=1)
    dicom("b.dcm", indices, **palette(8) | {"BluePaletteColorLookupTableData": b"1234"})
    refused("b.dcm", DAMAGED)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
def test_color_of_a_gray_film_is_that_film(photometric, planar):
    layers = [bone(), bone(), bone()]
    if photometric != "RGB":
        layers[1:] = [np.full_like(bone(), 128)] * 2
    values = np.stack(layers, 0 if planar else -1)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "BitsAllocated": 8}
    tags |= {"BitsStored": 8, "HighBit": 7, "PlanarConfiguration": planar}
    dicom("a.dcm", values, **tags, Rows=60, Columns=40)
    assert difference("a.dcm", bone()) <= 1


def test_an_overlay_in_the_unused_bits_has_no_effect():
    plain = bone().astype(np.uint16) * 16
    dicom("plain.dcm", plain)
    dicom("overlay.dcm", plain | (np.arange(40, dtype=np.uint16) % 16) << 12)
    np.testing.assert_array_equal(reader.read("overlay.dcm"), reader.read("plain.dcm"))


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_lookup_tables_are_applied(name):
    item, table = pydicom.Dataset(), np.linspace(65535, 0, 4096)
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], np.uint16(table).tobytes()
    dicom("a.dcm", **{name: Sequence([item])})
    assert difference("a.dcm", reference(pydicom.dcmread("a.dcm"))) <= 2
    dicom("plain.dcm")
    assert difference("a.dcm", 255 - reader.read("plain.dcm").astype(int)) <= 2


def content(**tags):
    buffer = io.BytesIO()
    dicom(buffer, **tags)
    return buffer.getvalue()


def test_dicom_is_recognized_by_its_content_whatever_its_name_and_head():
    plain = reader.read(written(content(), "a.dcm"))
    meta = int.from_bytes(content()[140:144], "little")
    for name, head in {"no preamble": 132, "data only": 144 + meta}.items():
        np.testing.assert_array_equal(reader.read(written(content()[head:], "1.2.840.7")), plain)
        assert reader.is_image(Path("1.2.840.7")), name
        with pytest.raises(reader.ReadError):
            reader.read(written(content()[head : head + 200], "short"))
    for other in (b"", b"x" * 500, bytes(500)):
        assert not reader.is_image(written(other, "other.7"))
    for path in CASES.rglob("*.png"):
        assert reader.is_image(written(path.read_bytes(), "other.7"))
        assert not reader.DICOM.match(path.read_bytes())
    Path("files").mkdir()
    written(content(), "files/1.2.840.7")
    written(b"none", "files/1.2.840.8")
    reasons = dict(dataset.walk(Path("files"), set()))
    assert reasons == {"1.2.840.7": "", "1.2.840.8": "not an image"}


def test_frames_size_and_deflation_are_refused():
    dicom("a.dcm", np.zeros((3, 8, 8), np.uint16), NumberOfFrames=3)
    refused("a.dcm", "3 frames")
    dicom("b.dcm", np.zeros((8, 8), np.uint16), Rows=60_000, Columns=60_000)
    refused("b.dcm", "declares 60000")
    refused(shipped("image_dfl.dcm"), "deflated DICOM")


def test_without_pydicom_the_reason_names_what_to_install(monkeypatch):
    dicom("a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused("a.dcm", "is DICOM, which needs a decoder: pip install pydicom pylibjpeg ")


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless", "SC_rgb_jpeg_gdcm", "JPGExtended", "SC_rgb_gdcm_KY"]
)
def test_a_missing_decoder_is_named_with_its_package(name, monkeypatch):
    path = shipped(f"{name}.dcm")
    decoder = pydicom.pixels.get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID)
    monkeypatch.setattr(decoder, "_available", {})
    refused(path, "needs a decoder: pip install pydicom pylibjpeg ")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelRepresentation": 7}, DAMAGED),
        ({"BitsStored": 17}, DAMAGED),
        ({"SamplesPerPixel": 3}, DAMAGED),
        ({"BitsAllocated": 12}, DAMAGED),
        ({"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "MAGIC"}, DAMAGED),
        ({"PixelData": b"\0" * 100}, DAMAGED),
        ({"PixelData": b""}, "without pixel data"),
    ],
)
def test_an_odd_header_is_refused(tags, reason):
    dicom("a.dcm", **tags)
    refused("a.dcm", reason)


def test_damaged_compressed_pixels_lack_no_decoder():
    random = np.random.default_rng(0)
    for name in ("MR_small_RLE", "SC_rgb_jpeg_gdcm", "MR_small_jpeg_ls_lossless", "JPGExtended"):
        original = shipped(f"{name}.dcm").read_bytes()
        start = original.rindex(b"\xfe\xff\x00\xe0") + 8
        for _ in range(30):
            data = bytearray(original)
            for index in random.integers(start, len(data) - 8, 20):
                data[index] = random.integers(256)
            try:
                assert reader.read(written(bytes(data), "a.dcm")).dtype == np.uint8
            except reader.ReadError as error:
                assert "pip install" not in error.reason, error
        refused(written(original[: start + 50], "a.dcm"), r"damaged|cut short")


def shipped(name):
    return next(path for path in SHIPPED if path.name == name)
