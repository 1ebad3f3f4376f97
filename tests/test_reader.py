import concurrent.futures
import io
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from radiographs import bone, dicom, jpeg, saved

from fracture_utils.data import reader
from fracture_utils.errors import InputError


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bit_grey_is_read_to_the_last_bit(suffix):
    np.testing.assert_array_equal(reader.read(saved(bone(), f"a.{suffix}")), bone())


@pytest.mark.parametrize("top", [65535, 4095])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_ramp_is_monotone_with_mean_127(top, suffix):
    ramp = np.linspace(0, top, 512 * 512).round().astype(np.uint16).reshape(512, 512)
    pixels, facts = reader.load(saved(ramp, f"a.{suffix}"))
    assert pixels.dtype == np.uint8
    assert (np.diff(pixels.ravel().astype(int)) >= 0).all()
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert abs(pixels.mean() - 127.5) < 0.1
    assert facts["bit_depth"] == 16


def test_float_and_white_is_zero_tiff():
    ramp = np.linspace(-3, 5, 2500, dtype=np.float32).reshape(50, 50)
    assert abs(reader.read(saved(ramp, "f.tif")).mean() - 127.5) < 0.5
    ramp16 = np.arange(2500, dtype=np.uint16).reshape(50, 50)
    pixels = reader.read(saved(ramp16, "w.tif", tiffinfo={262: 0}))
    assert (pixels[0, 0], pixels[-1, -1]) == (255, 0)
    ramp[0, 0] = np.nan
    with pytest.raises(reader.ReadError, match="no numbers"):
        reader.read(saved(ramp, "n.tif"))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("L", {}),
        ("RGB", {}),
        ("CMYK", {}),
        ("L", {"progressive": True}),
        ("RGB", {"progressive": True}),
    ],
)
def test_jpeg_in_every_colour_is_the_same_grey_picture(mode, options):
    path = saved(Image.fromarray(bone()).convert("RGB").convert(mode), "a.jpg", **options)
    with Image.open(path) as image:
        assert image.mode == mode
    assert np.abs(reader.read(path).astype(int) - bone()).max() < 10


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "RGB", "PA"])
def test_png_modes(mode):
    image = Image.fromarray(np.where(bone() > 90, 255, 0).astype(np.uint8))
    expected = np.asarray(image)
    np.testing.assert_array_equal(reader.read(saved(image.convert(mode), "a.tif")), expected)


def test_transparency_is_black():
    layers = np.dstack([np.full((4, 4), 200, np.uint8)] * 3 + [np.zeros((4, 4), np.uint8)])
    layers[0, 0, 3] = 255
    pixels = reader.read(saved(layers, "a.png"))
    assert pixels[0, 0] == 200
    assert pixels.sum() == 200
    palette = Image.fromarray(bone()).convert("P")
    assert reader.read(saved(palette, "p.png", transparency=0)).max() > 100


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation(orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(bone(), f"a.{suffix}", exif=exif)
    pixels, facts = reader.load(path)
    assert pixels.shape == ((60, 40) if orientation < 5 else (40, 60))
    assert (facts["height"], facts["width"]) == pixels.shape
    bright = {1: (-1, -1), 2: (-1, 0), 3: (0, 0), 4: (0, -1)}
    bright |= {5: (-1, -1), 6: (-1, 0), 7: (0, 0), 8: (0, -1)}
    assert pixels[bright[orientation]] > 200


def test_facts():
    path = saved(bone(), "a.jpg", quality=60)
    facts = reader.load(path)[1]
    assert abs(facts["jpeg_quality"] - 60) <= 2
    assert facts["file_bytes"] == path.stat().st_size
    assert len(facts["sha256"]) == 64
    assert np.isnan(reader.load(saved(bone(), "a.png"))[1]["jpeg_quality"])


def png_declaring(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 1000)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for part in (chunk, body, b"IEND"):
        parts.append(struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)))
    return b"".join(parts)


def animation():
    buffer = io.BytesIO()
    first, second = Image.fromarray(bone()), Image.fromarray(bone() // 2)
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not a picture", "no PNG, JPEG, TIFF, BMP or DICOM"),
        (b"GIF89a" + bytes(100), "no PNG"),
        (jpeg()[:-300], "truncated"),
        (png_declaring(30_000, 30_000), "declares more than 40,000,000 pixels"),
        (png_declaring(10_000, 10_000), "declares 10000 x 10000 pixels"),
        (png_declaring(2**31 - 1, 2**31 - 1), "declares more than"),
        (png_declaring(100, 100), "truncated"),
        (animation(), "2 pages"),
        (jpeg()[:-2] + b"\xff\xda" * 600, "absurd number of scans"),
    ],
)
def test_refusals_say_why(content, reason):
    Path("a.png").write_bytes(content)
    with pytest.raises(reader.ReadError, match=reason) as caught:
        reader.read("a.png")
    assert isinstance(caught.value, InputError)
    assert str(caught.value).startswith("a.png cannot be read: ")
    assert str(caught.value) == f"a.png cannot be read: {caught.value.reason}."


def test_what_is_no_ordinary_file_is_refused(monkeypatch):
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    for name in ("pipe.png", "loop.png", "absent.png", ".", "nul\0.png"):
        with pytest.raises(reader.ReadError):
            reader.read(name)
    monkeypatch.setattr(reader, "MAX_BYTES", 10)
    with pytest.raises(reader.ReadError, match="more than 0 MiB"):
        reader.read(saved(bone(), "a.png"))


def test_extreme_shape_and_odd_names():
    for name in ("1x5000 %41 ü.png", "c%00.jpg"):
        pixels = reader.read(saved(np.full((5000, 1), 200, np.uint8), name))
        assert pixels.shape == (5000, 1)
        assert reader.fit(pixels, 32).shape == (32, 32)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 80))
@settings(max_examples=50, deadline=None)
def test_padding_keeps_the_aspect_ratio(height, width, size):
    fitted = reader.fit(np.full((height, width), 250, np.uint8), size)
    rows, columns = (fitted > 0).any(1).sum(), (fitted > 0).any(0).sum()
    assert max(rows, columns) == size
    assert abs(rows / size - height / max(height, width)) <= 1 / size
    assert abs(columns / size - width / max(height, width)) <= 1 / size
    assert fitted.dtype == np.uint8
    squashed = reader.fit(np.full((height, width), 250, np.uint8), size, "squash")
    assert (squashed == 250).all()


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert np.abs(reader.fit(stripes, 64).astype(int) - 127).max() < 16


def samples():
    """One small file of every kind, as bytes."""
    for kind, picture in {
        "PNG": bone(),
        "JPEG": Image.fromarray(bone()).convert("RGB"),
        "TIFF": bone().astype(np.uint16) * 99,
        "BMP": bone(),
        "DICOM": None,
    }.items():
        buffer = io.BytesIO()
        if kind == "DICOM":
            dicom(buffer)
        else:
            image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            extra = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
            image.save(buffer, kind, **extra)
        yield buffer.getvalue()


def test_dicom_is_read_windowed_and_inverted():
    dicom("a.dcm")
    plain, facts = reader.load("a.dcm")
    assert (plain[0, 0], plain[-1, -1]) == (0, 255)
    assert facts["bit_depth"] == 12
    assert facts["patient"].startswith("dicom-")
    assert "Doe" not in str(facts)
    dicom("b.dcm", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(reader.read("b.dcm"), 255 - plain)
    dicom("c.dcm", WindowCenter=1000, WindowWidth=200, RescaleSlope=1, RescaleIntercept=-50)
    windowed = reader.read("c.dcm")
    raw = bone() * 16.0 - 50
    assert (windowed[raw < 890] == 0).all()
    assert (windowed[raw > 1110] == 255).all()


def test_dicom_with_frames_is_refused():
    dicom("a.dcm", np.zeros((3, 8, 8), np.uint16), NumberOfFrames=3)
    with pytest.raises(reader.ReadError, match="3 frames"):
        reader.read("a.dcm")
    dicom("b.dcm", np.zeros((8, 8), np.uint16), Rows=60_000, Columns=60_000)
    with pytest.raises(reader.ReadError, match="declares 60000"):
        reader.read("b.dcm")


def test_dicom_without_pydicom_names_what_to_install(monkeypatch):
    dicom("a.dcm")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(reader.ReadError, match="needs pydicom: pip install pydicom pylibjpeg "):
        reader.read("a.dcm")


def truncate(data, random):
    del data[random.integers(len(data)) :]


def flip_bits(data, random):
    for _ in range(random.integers(1, 12)):
        data[random.integers(len(data))] ^= 1 << random.integers(8)


def overwrite_bytes(data, random):
    for _ in range(random.integers(1, 8)):
        data[random.integers(len(data))] = random.integers(256)


def give_another_header(data, random):
    length = int(random.integers(2, 40))
    other = list(samples())[random.integers(5)] if random.random() < 0.7 else random.bytes(length)
    data[:length] = other[:length]


def declare_a_huge_size(data, random):
    """Wherever the header may say 40 or 60 pixels, let it say far more; a PNG with its checksum."""
    for side in (40, 60):
        huge = int(random.choice([3_000, 7_000, 32_000, 65_535, 2**27, 2**31 - 1, 2**32 - 1]))
        for form in (">I", "<I", ">H", "<H"):
            if huge < 256 ** struct.calcsize(form):
                head = bytes(data[:900]).replace(struct.pack(form, side), struct.pack(form, huge))
                data[:900] = head
    if data[:4] == b"\x89PNG":
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))


MUTATIONS = (truncate, flip_bits, overwrite_bytes, give_another_header, declare_a_huge_size)
ROUNDS = 200


def fuzz(path):
    """Read ROUNDS mutated files of each kind and format in this process: how many were read and
    refused by each mutation, the slowest in seconds, and the peak of memory in MiB above the start.
    """
    import resource  # not on Windows

    random, outcomes, slowest = np.random.default_rng(0), {}, 0.0
    originals = list(samples())
    for original in originals:
        path.write_bytes(original)
        reader.read(path)  # whatever is imported at first use counts as the start
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for mutate in MUTATIONS:
        read = refused = 0
        for original in originals:
            for _ in range(ROUNDS):
                data = bytearray(original)
                mutate(data, random)
                path.write_bytes(data)
                signal.alarm(5)  # a hang ends the process
                begun = time.monotonic()
                try:
                    pixels = reader.read(path)
                    assert pixels.dtype == np.uint8
                    assert pixels.ndim == 2
                    read += 1
                except reader.ReadError:
                    refused += 1
                signal.alarm(0)
                slowest = max(slowest, time.monotonic() - begun)
        outcomes[mutate.__name__] = (read, refused)
    return outcomes, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024


@pytest.mark.skipif(os.name != "posix", reason="alarms and memory peaks are measured on POSIX")
def test_5000_mutated_files_give_a_picture_or_a_read_error_soon_and_in_bounded_memory(capfd):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        outcomes, slowest, peak = process.submit(fuzz, Path("f").resolve()).result()
    assert sum(map(sum, outcomes.values())) == ROUNDS * len(MUTATIONS) * 5 == 5000
    for name, (read, refused) in outcomes.items():
        assert refused > 50, name
        assert read > 50 or name == "truncate", name
    assert slowest < 5
    assert peak < 1024
    said = capfd.readouterr()
    assert said.out == ""
    assert "Warning" not in said.err  # libtiff, in C, may name a damaged strip; Python is silent


def test_threads_leave_the_warning_filters_as_they_were():
    Path("broken.tif").write_bytes(next(s for s in samples() if s[:2] == b"II")[:-20])
    saved(bone(), "a.png")
    before = list(warnings.filters)

    def work():
        for _ in range(30):
            reader.read("a.png")
            with pytest.raises(reader.ReadError):
                reader.read("broken.tif")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before
