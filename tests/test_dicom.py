"""DICOM against pydicom's own pipeline, and the three reasons why a file is not read."""

import io
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.sequence import Sequence
from radiographs import bone, dicom

from fracture_utils.data import dicom as decoding
from fracture_utils.data import folders, inventory, reader

CASES = Path(__file__).parent / "cases"
SHIPPED = sorted(
    path
    for path in (Path(pydicom.__file__).parent / "data").rglob("*")
    if path.is_file() and reader.is_dicom(path)
)


def reference(dataset):
    """pydicom's pipeline, by 8 bits at the end: min and max become 0 and 255, as in every viewer
    that is not told otherwise; colour of 8 bits stays.
    """
    values = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
    if values.ndim == 3:
        grey = values[..., :3] @ np.array([0.299, 0.587, 0.114])
        return grey if values.dtype == np.uint8 else scaled(grey)
    grey = scaled(apply_voi_lut(apply_modality_lut(values, dataset), dataset))
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


def scaled(values):
    values = values.astype(float)
    return (values - values.min()) * 255 / max(np.ptp(values), 1e-9)


def difference(path, expected):
    return np.abs(reader.read(path).astype(float) - expected).max()


def test_every_file_that_pydicom_ships_is_read_as_pydicom_reads_it_or_refused_for_what_it_is():
    outcomes = dict.fromkeys(["read", "frames", "nothing", "header", "decoder", "damage"], 0)
    for path in SHIPPED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, force=True)
            try:
                reader.read(path)
                assert difference(path, reference(dataset)) <= 2, path
                outcomes["read"] += 1
                continue
            except reader.ReadError as error:
                reason = error.reason
            if "holds no picture" in reason:
                assert not any(name in dataset for name in decoding.PIXELS), path
                outcomes["nothing"] += 1
            elif "frames" in reason:
                assert dataset.NumberOfFrames > 1, path
                outcomes["frames"] += 1
            else:  # what pydicom does not read either
                with pytest.raises((ValueError, RuntimeError, AttributeError)):
                    dataset.convert_pixel_data()
                kind = "header" if "header" in reason else "damage"
                outcomes["decoder" if "no decoder reads" in reason else kind] += 1
    assert outcomes["read"] > 90
    assert outcomes["frames"] > 5
    assert outcomes["nothing"] > 20
    assert all(outcomes[name] for name in ("header", "decoder", "damage"))


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
def test_padding_is_black_and_does_not_decide_the_scale(padding, tags):
    values = bone().astype(np.int32) * 16
    common = {name: tags[name] for name in SIGNED if name in tags}
    photometric = tags.get("PhotometricInterpretation", "MONOCHROME2")
    dicom("plain.dcm", values.astype(np.uint16), PhotometricInterpretation=photometric, **common)
    values[:, :9] = padding
    dicom("padded.dcm", values.astype(np.uint16), **tags)
    padded, plain = reader.read("padded.dcm"), reader.read("plain.dcm")
    np.testing.assert_allclose(padded[:, 9:].astype(int), plain[:, 9:], atol=1)
    assert (padded[:, :9] == 0).all()


def test_padding_of_a_signed_picture_may_be_written_without_a_sign():
    values = np.where(bone() < 60, -2000, bone() * 16).astype(np.int16)
    dicom("signed.dcm", values, PixelPaddingValue=-2000, **SIGNED)
    dataset = pydicom.dcmread("signed.dcm")
    dataset.add(pydicom.DataElement("PixelPaddingValue", "US", 63536))
    dataset.save_as("unsigned.dcm")
    np.testing.assert_array_equal(reader.read("unsigned.dcm"), reader.read("signed.dcm"))


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 0, "WindowWidth": 0},
        {"WindowCenter": 100, "WindowWidth": 0.5},
        {"WindowCenter": 100, "WindowWidth": -5},
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowCenter": 100},
        {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "MAGIC"},
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": None, "RescaleIntercept": -1024},
        {"RescaleSlope": 0, "RescaleIntercept": -1024},
        {"RescaleSlope": 2},
    ],
)
def test_what_says_nothing_is_left_out(tags):
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


def palette(depth, first=0, entries=256):
    table = np.linspace(255, 0, entries).astype("uint8")  # the indices run against the greys
    words = table if depth == 8 else table.astype("<u2") * 257
    colours = ("Red", "Green", "Blue")
    tags = {f"{name}PaletteColorLookupTableDescriptor": [entries, first, depth] for name in colours}
    tags |= {f"{name}PaletteColorLookupTableData": words.tobytes() for name in colours}
    return tags | {"PhotometricInterpretation": "PALETTE COLOR", "BitsAllocated": 8}


@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_is_looked_up(depth):
    indices = np.linspace(0, 255, 2400).astype(np.uint8).reshape(60, 40)
    dicom("a.dcm", indices, **palette(depth), BitsStored=8, HighBit=7)
    np.testing.assert_allclose(reader.read("a.dcm").astype(int), 255 - indices.astype(int), atol=1)


def test_a_table_that_cannot_be_used_is_an_odd_header():
    tags = palette(8) | {"BluePaletteColorLookupTableData": b"1234"}
    dicom("a.dcm", np.zeros((60, 40), np.uint8), **tags, BitsStored=8, HighBit=7)
    with pytest.raises(reader.ReadError, match="header is incomplete or contradicts itself"):
        reader.read("a.dcm")


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
@pytest.mark.parametrize("planar", [0, 1])
def test_colour_of_a_grey_film_is_that_film(photometric, planar):
    layers = [bone(), bone(), bone()]
    if photometric != "RGB":
        layers[1:] = [np.full_like(bone(), 128)] * 2
    values = np.stack(layers, 0 if planar else -1)
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": photometric, "BitsAllocated": 8}
    tags |= {"BitsStored": 8, "HighBit": 7, "PlanarConfiguration": planar}
    dicom("a.dcm", values, **tags, Rows=60, Columns=40)
    assert difference("a.dcm", bone()) <= 1


def test_bits_above_the_high_bit_are_no_part_of_the_value():
    plain = bone().astype(np.uint16) * 16
    dicom("plain.dcm", plain)
    overlay = plain | (np.arange(40, dtype=np.uint16) % 16) << 12
    dicom("overlay.dcm", overlay)
    dicom("left.dcm", plain << 4, HighBit=15, WindowCenter=1000, WindowWidth=400)
    dicom("right.dcm", plain, HighBit=11, WindowCenter=1000, WindowWidth=400)
    dicom("lying.dcm", plain, HighBit=15, WindowCenter=1000, WindowWidth=400)
    np.testing.assert_array_equal(reader.read("overlay.dcm"), reader.read("plain.dcm"))
    for name in ("left", "lying"):
        np.testing.assert_array_equal(reader.read(f"{name}.dcm"), reader.read("right.dcm"))


def test_lookup_tables_come_before_windows():
    def table(values, name, first=0):
        item = pydicom.Dataset()
        item.LUTDescriptor, item.LUTData = [len(values), first, 16], np.uint16(values).tobytes()
        return {name: Sequence([item])}

    falling = np.linspace(65535, 0, 4096)
    for name in ("ModalityLUTSequence", "VOILUTSequence"):
        dicom("a.dcm", **table(falling, name))
        assert difference("a.dcm", reference(pydicom.dcmread("a.dcm"))) <= 2
        dicom("plain.dcm")
        assert difference("a.dcm", 255 - reader.read("plain.dcm").astype(int)) <= 2


def content(**tags):
    buffer = io.BytesIO()
    dicom(buffer, **tags)
    return buffer.getvalue()


def test_dicom_is_known_by_its_content_whatever_its_name_and_head():
    plain = reader.read(saved(content(), "a.dcm"))
    meta = int.from_bytes(content()[140:144], "little")
    for name, head in {"no preamble": 132, "magic first": 128, "data only": 144 + meta}.items():
        np.testing.assert_array_equal(reader.read(saved(content()[head:], "1.2.840.7")), plain)
        assert reader.is_dicom(Path("1.2.840.7")), name
        with pytest.raises(reader.ReadError):
            reader.read(saved(content()[head : head + 200], "short"))
    for other in (b"", b"x" * 500, bytes(500), *map(Path.read_bytes, CASES.rglob("*.png"))):
        assert not reader.is_dicom(saved(other, "other.7"))
    assert not reader.is_dicom(Path("absent"))
    folder, place = Path("train/normal"), folders.Place("train", "normal")
    file = saved(content(), "1.2.840.7")
    assert inventory._refusal(file, folder / file, place) == ""
    other = saved(b"no picture", "1.2.840.8")
    why = inventory._refusal(other, folder / other, place)
    assert ".8 is none of" in why


def saved(data, name):
    Path(name).write_bytes(data)
    return Path(name)


def test_deflated_is_read_and_a_bomb_refused(monkeypatch):
    plain = content()
    begin = 144 + int.from_bytes(plain[140:144], "little")
    head = plain[:begin].replace(b"1.2.840.10008.1.2.1\0", decoding.DEFLATED)
    squeezed = zlib.compress(plain[begin:], wbits=-15)
    head = head.replace(b"\x14\0" + decoding.DEFLATED, b"\x16\0" + decoding.DEFLATED + b"\0")
    if len(head) != begin:
        head = head[:140] + (len(head) - 144).to_bytes(4, "little") + head[144:]
    path = saved(head + squeezed, "a.dcm")
    np.testing.assert_array_equal(reader.read(path), reader.read(saved(plain, "b.dcm")))
    monkeypatch.setattr(decoding, "MAX_INFLATED", 1000)
    with pytest.raises(reader.ReadError, match="inflates to more than"):
        reader.read(path)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("MR_small_jpeg_ls_lossless.dcm", "pylibjpeg-libjpeg"),
        ("SC_rgb_jpeg_gdcm.dcm", "pylibjpeg-libjpeg"),
        ("JPGExtended.dcm", "pylibjpeg-libjpeg"),
        ("SC_rgb_gdcm_KY.dcm", "pylibjpeg-openjpeg"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(name, package, monkeypatch):
    path = shipped(name)
    decoder = pydicom.pixels.get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(reader.ReadError, match=f"needs a decoder: pip install pylibjpeg {package}"):
        reader.read(path)


def test_a_decoder_that_reads_a_part_only_names_the_other(monkeypatch):
    path = shipped("JPGExtended.dcm")
    decoder = pydicom.pixels.get_decoder(pydicom.dcmread(path).file_meta.TransferSyntaxUID)
    available = {name: way for name, way in decoder._available.items() if name == "pillow"}
    monkeypatch.setattr(decoder, "_available", available)
    with pytest.raises(reader.ReadError, match="needs a decoder: pip install pylibjpeg "):
        reader.read(path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelRepresentation": 7}, "header"),
        ({"BitsStored": 17}, "header"),
        ({"SamplesPerPixel": 3}, "header"),
        ({"BitsAllocated": 12}, "header"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "colours are YBR_PARTIAL_420"),
        ({"PixelData": b"\0" * 100}, "truncated or damaged"),
        ({"PixelData": b""}, "holds no picture"),
    ],
)
def test_damage_and_an_odd_header_are_two_reasons(tags, reason):
    dicom("a.dcm", **tags)
    with pytest.raises(reader.ReadError, match=reason):
        reader.read("a.dcm")


def test_damaged_compressed_pixels_lack_no_decoder():
    random = np.random.default_rng(0)
    for name in ("MR_small_RLE", "SC_rgb_jpeg_gdcm", "MR_small_jpeg_ls_lossless", "JPGExtended"):
        original = shipped(f"{name}.dcm").read_bytes()
        start = original.rindex(b"\xfe\xff\x00\xe0") + 8
        refused = 0
        for _ in range(30):
            data = bytearray(original)
            for place in random.integers(start, len(data) - 8, 20):
                data[place] = random.integers(256)
            try:
                assert reader.read(saved(bytes(data), "a.dcm")).dtype == np.uint8
            except reader.ReadError as error:
                assert "pip install" not in error.reason, error
                refused += 1
        assert refused or name == "MR_small_jpeg_ls_lossless", name
        with pytest.raises(reader.ReadError, match=r"damaged|cut short"):
            reader.read(saved(original[: start + 50], "a.dcm"))


def shipped(name):
    return next(path for path in SHIPPED if path.name == name)


def test_compressed_pixels_that_declare_an_absurd_size_are_not_decoded():
    path = shipped("SC_rgb_jpeg_gdcm.dcm")
    data = path.read_bytes()
    start = data.index(b"\xff\xc3")
    data = data[: start + 5] + b"\xff\xff\xff\xff" + data[start + 9 :]
    with pytest.raises(reader.ReadError, match="declares 65535 x 65535 pixels"):
        reader.read(saved(data, "a.dcm"))
