"""Every depth, colour and transparency that PNG and TIFF know, on one and the same film."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from radiographs import bone, jpeg, saved

from fracture_utils.data import greys, reader


def png(samples, colour_type, **chunks):
    """A PNG of 16 bits a sample, uint16 (height, width, samples), written by hand."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").tobytes()
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[row * stride :][:stride] for row in range(height))
    parts = [b"\x89PNG\r\n\x1a\n"]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = {"IHDR": header} | chunks | {"IDAT": zlib.compress(filtered), "IEND": b""}
    for name, body in content.items():
        part = name.encode() + body
        parts.append(struct.pack(">I", len(body)) + part + struct.pack(">I", zlib.crc32(part)))
    return b"".join(parts)


def tiff(samples, order="<", kind=1, photometric=None, **tags):
    """An uncompressed TIFF (height, width, samples), of the SampleFormat `kind`."""
    height, width, count = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    photometric = photometric if photometric is not None else (2 if count > 2 else 1)
    depth = 8 * samples.itemsize
    entries = {256: width, 257: height, 258: [depth] * count, 259: 1, 262: photometric, 273: 8}
    entries |= {277: count, 278: height, 279: len(data), 339: [kind] * count}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    place = 8 + len(data)
    table, rest = struct.pack(f"{order}H", len(entries)), b""
    after = place + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        long = tag in (273, 279)
        packed = struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values)
        if len(packed) > 4:
            rest, packed = rest + packed, struct.pack(f"{order}I", after + len(rest))
        head = struct.pack(f"{order}HHI", tag, 4 if long else 3, len(values))
        table += head + packed.ljust(4, b"\0")
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", place)
    return start + data + table + bytes(4) + rest


def stretched(values):
    values = values.astype(float)
    return (values - values.min()) * 255 / np.ptp(values)


def jpeg_of(frame):
    """A JPEG whose frame header begins with other bytes."""
    place = jpeg().index(b"\xff\xc0") + 1
    return jpeg()[:place] + frame + jpeg()[place + len(frame) :]


TWELVE = bone().astype(np.uint16) * 16 + np.arange(40, dtype=np.uint16) % 16
"""Twelve bits whose low four bits carry something."""


def opaque(*layers):
    return np.dstack([*layers, np.full_like(layers[0], 65535)])


DEEP = {
    "grey.png": png(TWELVE[..., None], 0),
    "grey and alpha.png": png(opaque(TWELVE), 4),
    "colour.png": png(np.dstack([TWELVE] * 3), 2),
    "colour and alpha.png": png(opaque(*[TWELVE] * 3), 6),
    **{
        f"{name} {order == '<'}.tif": tiff(samples, order, **tags)
        for order in "<>"
        for name, samples, tags in [
            ("grey", TWELVE[..., None], {}),
            ("colour", np.dstack([TWELVE] * 3), {}),
            ("alpha", opaque(*[TWELVE] * 3), {"t338": 2}),
            ("over black", opaque(*[TWELVE] * 3), {"t338": 1}),
            ("unused", opaque(*[TWELVE] * 3), {"t338": 0}),
            ("signed", TWELVE[..., None].astype(np.int16) - 2000, {"kind": 2}),
            ("float", TWELVE[..., None].astype(np.float32) / 7, {"kind": 3}),
        ]
    },
    "signed 32.tif": tiff(TWELVE[..., None].astype(np.int32) * 99 - 2**17, kind=2),
    "above 2^31.tif": tiff(TWELVE[..., None].astype(np.uint32) * 2**20),
    "a narrow band.tif": tiff(TWELVE[..., None] + np.uint32(2**32 - 5000)),
}


@pytest.mark.parametrize("name", DEEP)
def test_every_depth_and_colour_of_one_film_is_the_same_grey_picture(name):
    Path(name).write_bytes(DEEP[name])
    pixels, facts = reader.load(name)
    assert np.abs(pixels - stretched(TWELVE)).max() <= 1
    assert facts["bit_depth"] in (16, 32)


def test_deep_colour_is_weighed_like_colour_of_eight_bits():
    random = np.random.default_rng(0)
    colours = random.integers(0, 65536, (60, 40, 3), dtype=np.uint16)
    expected = stretched(colours @ np.array([0.299, 0.587, 0.114]))
    for name, data in {"a.png": png(colours, 2), "a.tif": tiff(colours, ">")}.items():
        Path(name).write_bytes(data)
        assert np.abs(reader.read(name) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "RGB", "RGBA", "LA"])
def test_tiff_colours_are_the_same_grey_picture(mode):
    image = Image.fromarray(bone()).convert("RGB")
    if mode == "LAB":
        image = ImageCms.profileToProfile(
            image, *map(ImageCms.createProfile, ("sRGB", "LAB")), outputMode="LAB"
        )
    path = saved(image if mode == "LAB" else image.convert(mode), "a.tif")
    assert np.abs(reader.read(path).astype(int) - bone()).max() <= 2


COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")
MODES = ("L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "F")
ROUTE = {"PA": "LA", "RGBX": "RGB", "YCbCr": "RGB"}
"""Modes that Pillow reaches from grey over another."""


@pytest.mark.parametrize("mode", [*MODES, "I;16", "I;16B"])
def test_every_mode_that_pillow_writes_is_the_same_grey_picture_in_every_format(mode):
    image = Image.fromarray(bone())
    if mode.startswith("I;16"):
        values = bone().astype(">u2" if mode == "I;16B" else "<u2") * np.uint16(257)
        image = Image.frombytes(mode, image.size, values.astype(values.dtype).tobytes())
    else:
        image = image.convert(ROUTE.get(mode, mode)).convert(mode)
    expected = stretched(bone()) if mode[0] in "IF" else bone()
    written = 0
    for kind, name in {"PNG": "a.png", "BMP": "a.bmp", "TIFF": "a.tif"}.items():
        for compression in COMPRESSIONS if kind == "TIFF" else ("raw",):
            extra = {} if compression == "raw" else {"compression": compression}
            try:
                image.save(name, kind, **extra)
            except (OSError, KeyError, ValueError):  # what Pillow does not write
                continue
            written += 1
            assert np.abs(reader.read(name).astype(int) - expected).max() <= 2, (name, compression)
    assert written


def test_signed_bytes_are_no_bright_bytes():
    values = np.arange(-128, 128, dtype=np.int8).reshape(16, 16, 1)
    Path("a.tif").write_bytes(tiff(values, kind=2))
    np.testing.assert_array_equal(reader.read("a.tif").ravel(), np.arange(256))


def test_deep_transparency_is_black_and_left_out_of_the_scale():
    clear = TWELVE.copy()
    clear[:, :9] = 65535
    expected = stretched(TWELVE[:, 9:])
    alpha = np.where(clear == 65535, 0, 65535)
    files = {
        "grey.png": png(clear[..., None], 0, tRNS=b"\xff\xff"),
        "colour.png": png(np.dstack([clear] * 3), 2, tRNS=b"\xff" * 6),
        "grey alpha.png": png(np.dstack([clear, alpha]), 4),
        "colour alpha.png": png(np.dstack([clear, clear, clear, alpha]), 6),
    }
    for name, data in files.items():
        Path(name).write_bytes(data)
        pixels = reader.read(name)
        assert (pixels[:, :9] == 0).all(), name
        assert np.abs(pixels[:, 9:] - expected).max() <= 1, name


def test_alpha_that_was_never_filled_in_is_no_alpha():
    layers = np.dstack([bone(), bone(), bone(), np.zeros_like(bone())])
    image = Image.fromarray(layers)
    for suffix in ("png", "tif", "bmp"):
        np.testing.assert_array_equal(reader.read(saved(image, f"a.{suffix}")), bone())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(np.dstack([TWELVE] * 3), t284=2), "16 bits in a layout that is not read"),
        (tiff(np.dstack([TWELVE] * 4), photometric=5), "CMYK of 16 bits"),
        (tiff(TWELVE[..., None].astype(np.uint64)), "TIFF of a kind that is not read"),
        (jpeg_of(b"\xc3"), "lossless JPEG"),
        (jpeg_of(b"\xc1\0\x0b\x0c"), "JPEG of 12 bits"),
    ],
)
def test_what_pillow_cannot_decode_is_not_called_damaged(data, reason):
    Path("a").write_bytes(data)
    with pytest.raises(reader.ReadError, match=reason):
        reader.read("a")


@pytest.mark.parametrize("markers", [1, 4, 16])
@pytest.mark.parametrize("level", [0, 65535])
def test_a_handful_of_markers_does_not_decide_the_scale(markers, level):
    values = TWELVE + np.uint16(20000)
    values.ravel()[:: values.size // markers][:markers] = level
    rest = values != level
    pixels = reader.read(saved(values, "a.png")).astype(int)
    assert np.abs(pixels[rest] - stretched(values[rest])).max() <= 1
    assert (pixels[~rest] == (255 if level else 0)).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([4095, 65535]))
@settings(max_examples=25, deadline=None)
def test_an_ordinary_picture_is_stretched_from_its_darkest_to_its_brightest(seed, top):
    random = np.random.default_rng(seed)
    shape = random.integers(2, 90, 2)
    values = (random.beta(*random.uniform(0.5, 4, 2), shape) * top).astype(np.uint16)
    values.flat[random.integers(values.size)] = min(top, int(values.max() * 1.5))
    assert np.abs(reader.read(saved(values, "a.png")) - stretched(values)).max() <= 0.51


def test_a_picture_of_markers_only_keeps_its_levels():
    values = np.zeros((60, 80), np.uint16)
    values[3, 4] = 1000
    assert greys.stretch(values)[3, 4] == 255
