"""Every depth, color and transparency of PNG, JPEG, TIFF and BMP, on one and the same film."""

import concurrent.futures
import hashlib
import io
import json
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
from radiographs import bone, dicom, jpeg, saved, stretched, written

from fracture_utils.config import InputError
from fracture_utils.data import dataset, reader

TESTS = Path(__file__).parent
GOLDEN = json.loads((TESTS / "golden" / "pixels.json").read_text())["cases"]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_pixels_and_facts(name):
    golden = GOLDEN[name]
    pixels, facts = reader.load(TESTS / "cases" / name)
    assert list(pixels.shape) == golden["shape"]
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == golden["pixels_sha256"]
    expected = {key: np.nan if value is None else value for key, value in golden["facts"].items()}
    assert facts == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_eight_bit_gray_is_unchanged(suffix):
    np.testing.assert_array_equal(reader.read(saved(bone(), f"a.{suffix}")), bone())


@pytest.mark.parametrize("top", [65535, 4095])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_16_bit_ramp_is_monotone_with_mean_127(top, suffix):
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
    with pytest.raises(reader.ReadError, match="not finite"):
        reader.read(saved(ramp, "n.tif"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_in_every_color_is_the_same_gray_image(mode, progressive):
    picture = Image.fromarray(bone()).convert("RGB").convert(mode)
    path = saved(picture, "a.jpg", progressive=progressive)
    with Image.open(path) as opened:
        assert opened.mode == mode
    assert np.abs(reader.read(path).astype(int) - bone()).max() < 10


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "RGB", "PA"])
def test_two_levels_in_every_mode(mode):
    picture = Image.fromarray(np.where(bone() > 90, 255, 0).astype(np.uint8))
    expected = np.asarray(picture)
    np.testing.assert_array_equal(reader.read(saved(picture.convert(mode), "a.tif")), expected)


def test_transparency_is_black():
    layers = np.dstack([np.full((4, 4), 200, np.uint8)] * 3 + [np.zeros((4, 4), np.uint8)])
    layers[0, 0, 3] = 255
    pixels = reader.read(saved(layers, "a.png"))
    assert pixels[0, 0] == 200
    assert pixels.sum() == 200
    palette = Image.fromarray(bone()).convert("P")
    assert reader.read(saved(palette, "p.png", transparency=0)).max() > 100


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_an_alpha_channel_that_was_never_filled_in_has_no_effect(suffix):
    layers = np.dstack([bone(), bone(), bone(), np.zeros_like(bone())])
    path = saved(Image.fromarray(layers), f"a.{suffix}")
    np.testing.assert_array_equal(reader.read(path), bone())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "16 bit png"])
def test_exif_rotation(orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = bone().astype(np.uint16) * 99 if "16" in suffix else bone()
    pixels, facts = reader.load(saved(picture, f"a.{suffix[-3:]}", exif=exif))
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
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.isnan(reader.load(saved(bone(), "a.png"))[1]["jpeg_quality"])


def test_a_camera_jpeg_with_a_preview_is_read():
    first, second = Image.fromarray(bone()), Image.fromarray(bone()[::4, ::4])
    path = saved(first, "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(path) as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    assert np.abs(reader.read(path).astype(int) - bone()).max() < 10


def png(samples, color_type):
    """A PNG of 16 bits per sample, uint16 (height, width, samples), written by hand."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").tobytes()
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[row * stride :][:stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    return png_of(IHDR=header, IDAT=zlib.compress(filtered), IEND=b"")


def png_of(**chunks):
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, body in chunks.items():
        part = name.encode() + body
        parts.append(struct.pack(">I", len(body)) + part + struct.pack(">I", zlib.crc32(part)))
    return b"".join(parts)


def tiff(samples, order="<", kind=1, photometric=None):
    """An uncompressed TIFF (height, width, samples), of the SampleFormat `kind`."""
    height, width, count = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    photometric = photometric if photometric is not None else (2 if count > 2 else 1)
    depth = 8 * samples.itemsize
    entries = {256: width, 257: height, 258: [depth] * count, 259: 1, 262: photometric, 273: 8}
    entries |= {277: count, 278: height, 279: len(data), 339: [kind] * count}
    start = 8 + len(data)
    table, rest = struct.pack(f"{order}H", len(entries)), b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, value in sorted(entries.items()):
        values = value if isinstance(value, list) else [value]
        long = tag in (273, 279)
        packed = struct.pack(f"{order}{len(values)}{'I' if long else 'H'}", *values)
        if len(packed) > 4:
            rest, packed = rest + packed, struct.pack(f"{order}I", after + len(rest))
        head = struct.pack(f"{order}HHI", tag, 4 if long else 3, len(values))
        table += head + packed.ljust(4, b"\0")
    magic = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return magic + data + table + bytes(4) + rest


TWELVE = bone().astype(np.uint16) * 16 + np.arange(40, dtype=np.uint16) % 16
"""Twelve bits whose low four bits carry information."""
THREE = np.dstack([TWELVE] * 3)
DEEP = {"gray.png": png(TWELVE[..., None], 0), "color.png": png(THREE, 2)}
for byte_order in "<>":
    DEEP[f"gray {byte_order}.tif"] = tiff(TWELVE[..., None], byte_order)
    DEEP[f"signed {byte_order}.tif"] = tiff(
        TWELVE[..., None].astype(np.int16) - 2000, byte_order, kind=2
    )
    DEEP[f"float {byte_order}.tif"] = tiff(
        TWELVE[..., None].astype(np.float32) / 7, byte_order, kind=3
    )
DEEP["signed 32.tif"] = tiff(TWELVE[..., None].astype(np.int32) * 99 - 2**17, kind=2)


@pytest.mark.parametrize("name", DEEP)
def test_every_depth_and_color_of_one_film_is_the_same_gray_image(name):
    pixels, facts = reader.load(written(DEEP[name], "a"))
    assert np.abs(pixels - stretched(TWELVE)).max() <= 1
    assert facts["bit_depth"] in (16, 32)


def test_deep_color_is_weighted_like_color_of_eight_bits():
    colors = np.random.default_rng(0).integers(0, 65536, (60, 40, 3), dtype=np.uint16)
    expected = stretched(colors @ np.array([0.299, 0.587, 0.114]))
    assert np.abs(reader.read(written(png(colors, 2), "a.png")) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "RGB", "RGBA", "LA"])
def test_tiff_colors_are_the_same_gray_image(mode):
    path = saved(Image.fromarray(bone()).convert("RGB").convert(mode), "a.tif")
    assert np.abs(reader.read(path).astype(int) - bone()).max() <= 2


COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma")
MODES = ("L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I", "F", "I;16", "I;16B")
ROUTE = {"PA": "LA", "RGBX": "RGB", "YCbCr": "RGB"}
"""Modes that Pillow reaches from gray over another."""


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_that_pillow_writes_is_the_same_gray_image_in_every_format(mode):
    picture = Image.fromarray(bone())
    if mode.startswith("I;16"):
        values = bone().astype(">u2" if mode == "I;16B" else "<u2") * np.uint16(257)
        picture = Image.frombytes(mode, picture.size, values.astype(values.dtype).tobytes())
    else:
        picture = picture.convert(ROUTE.get(mode, mode)).convert(mode)
    expected = stretched(bone()) if mode[0] in "IF" else bone()
    count = 0
    for kind, name in {"PNG": "a.png", "BMP": "a.bmp", "TIFF": "a.tif"}.items():
        for compression in COMPRESSIONS if kind == "TIFF" else ("raw",):
            extra = {} if compression == "raw" else {"compression": compression}
            try:
                picture.save(name, kind, **extra)
            except (OSError, KeyError, ValueError):  # what Pillow does not write
                continue
            count += 1
            assert np.abs(reader.read(name).astype(int) - expected).max() <= 2, (name, compression)
    assert count


@pytest.mark.parametrize(
    "data",
    [
        png(np.dstack([TWELVE, np.full_like(TWELVE, 65535)]), 4),
        png(np.dstack([THREE, np.full_like(TWELVE, 65535)]), 6),
        tiff(THREE),
        tiff(np.dstack([TWELVE] * 4), photometric=5),
        tiff(np.arange(-128, 128, dtype=np.int8).reshape(16, 16, 1), kind=2),
        tiff(TWELVE[..., None].astype(np.uint32)),
        tiff(TWELVE[..., None].astype(np.uint64)),
    ],
)
def test_rare_kinds_are_refused_with_what_to_do(data):
    with pytest.raises(reader.ReadError, match=r"save it as grayscale PNG|unsupported format"):
        reader.read(written(data, "a"))


@pytest.mark.parametrize("markers", [1, 4, 16])
@pytest.mark.parametrize("level", [0, 65535])
def test_a_few_markers_do_not_determine_the_scale(markers, level):
    values = TWELVE + np.uint16(20000)
    values.ravel()[:: values.size // markers][:markers] = level
    rest = values != level
    pixels = reader.read(saved(values, "a.png")).astype(int)
    assert np.abs(pixels[rest] - stretched(values[rest])).max() <= 1
    assert (pixels[~rest] == (255 if level else 0)).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([4095, 65535]))
@settings(max_examples=25)
def test_an_ordinary_image_is_stretched_from_its_darkest_to_its_brightest(seed, top):
    random = np.random.default_rng(seed)
    shape = random.integers(2, 90, 2)
    values = (random.beta(*random.uniform(0.5, 4, 2), shape) * top).astype(np.uint16)
    values.flat[random.integers(values.size)] = min(top, int(values.max() * 1.5))
    assert np.abs(reader.read(saved(values, "a.png")) - stretched(values)).max() <= 0.51


def test_an_image_of_markers_only_keeps_its_levels():
    values = np.zeros((60, 80), np.uint16)
    values[3, 4] = 1000
    assert reader.stretch(values)[3, 4] == 255


def png_declaring(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return png_of(IHDR=header, IDAT=zlib.compress(b"\0" * 1000), IEND=b"")


def pages():
    buffer = io.BytesIO()
    first, second = Image.fromarray(bone()), Image.fromarray(bone() // 2)
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"not an image", "unsupported format"),
        (b"GIF89a" + bytes(100), "unsupported format"),
        (jpeg()[:-300], "damaged .*truncated"),
        (b"II*\0 and nothing else", "damaged or has an unsupported format"),
        (png_declaring(30_000, 30_000), "exceeds limit"),
        (png_declaring(7_000, 7_000), "declares 7000 x 7000 pixels"),
        (png_declaring(2**31 - 1, 2**31 - 1), "damaged"),
        (png_declaring(100, 100), "damaged .*truncated"),
        (pages(), "2 pages"),
    ],
)
def test_refusals_have_a_reason(content, reason):
    with pytest.raises(reader.ReadError, match=reason) as caught:
        reader.read(written(content, "a.png"))
    assert isinstance(caught.value, InputError)
    assert str(caught.value) == f"a.png cannot be read: {caught.value.reason}."
    assert "0x" not in str(caught.value)


def test_files_that_are_not_regular_are_refused(monkeypatch):
    os.mkfifo("pipe.png")
    Path("loop.png").symlink_to("loop.png")
    for name in ("pipe.png", "loop.png", "absent.png", ".", "nul\0.png"):
        with pytest.raises(reader.ReadError):
            reader.read(name)
    reasons = dict(dataset.walk(Path(), set()))
    assert reasons == dict.fromkeys(["pipe.png", "loop.png"], "it cannot be opened")
    monkeypatch.setattr(reader, "MAX_BYTES", 10)
    with pytest.raises(reader.ReadError, match="larger than 0 MiB"):
        reader.read(saved(bone(), "a.png"))


def test_extreme_shape_and_odd_names():
    for name in ("1x5000 %41 ü.png", "c%00.jpg"):
        pixels = reader.read(saved(np.full((5000, 1), 200, np.uint8), name))
        assert pixels.shape == (5000, 1)
        assert reader.fit(pixels, 32).shape == (32, 32)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 80))
@settings(max_examples=50)
def test_padding_keeps_the_aspect_ratio(height, width, size):
    fitted = reader.fit(np.full((height, width), 250, np.uint8), size)
    rows, columns = (fitted > 0).any(1).sum(), (fitted > 0).any(0).sum()
    assert max(rows, columns) == size
    assert abs(rows / size - height / max(height, width)) <= 1 / size
    assert abs(columns / size - width / max(height, width)) <= 1 / size
    assert fitted.dtype == np.uint8
    top, left, high, wide = reader.frame((height, width), size)
    assert (fitted[top : top + high, left : left + wide] > 0).all()


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))
    assert np.abs(reader.fit(stripes, 64).astype(int) - 127).max() < 16


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (50, 50)])
def test_unfit_covers_the_image_without_the_padding(shape):
    ramp = np.tile(np.linspace(0, 255, shape[1]).astype(np.uint8), (shape[0], 1))
    unfitted = reader.unfit(reader.fit(ramp, 96), shape, 96)
    assert unfitted.shape == (reader.GRID, reader.GRID)
    assert unfitted.dtype == np.float32
    expected = (np.arange(reader.GRID) + 0.5) / reader.GRID * 255
    np.testing.assert_allclose(unfitted[8:-8], np.tile(expected, (48, 1)), atol=6)


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
            opened = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
            extra = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
            opened.save(buffer, kind, **extra)
        yield buffer.getvalue()


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
    """Wherever the header may say 40 or 60 pixels, declare far more; a PNG with its checksum."""
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
def test_5000_mutated_files_give_an_image_or_a_read_error_soon_and_in_bounded_memory(capfd):
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
        outcomes, slowest, peak = process.submit(fuzz, Path("f").resolve()).result()
    assert sum(map(sum, outcomes.values())) == ROUNDS * len(MUTATIONS) * 5 == 5000
    for name, (read, refused) in outcomes.items():
        assert refused > 50, name
        assert read > 50 or name == "truncate", name
    assert slowest < 5
    assert peak < 1024
    output = capfd.readouterr()
    assert output.out == ""
    assert "Warning" not in output.err  # libtiff, in C, may name a damaged strip


def test_threads_leave_the_warning_filters_unchanged():
    broken = next(sample for sample in samples() if sample[:2] == b"II")[:-20]
    paths, before = [saved(bone(), "a.png"), written(broken, "broken.tif")], list(warnings.filters)

    def work():
        for _ in range(30):
            reader.read(paths[0])
            with pytest.raises(reader.ReadError):
                reader.read(paths[1])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


CONVERT = "a GIF, WebP, AVIF or HEIC image; convert it to PNG"
DOWNLOAD = "HTML, XML or JSON; download the image again"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"RIFF\x24\0\0\0WEBPVP8 ", CONVERT),
        (b"\0\0\0\x1cftypavif\0\0\0\0", CONVERT),
        (b"\0\0\0\x18ftypheic\0\0\0\0", CONVERT),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", CONVERT),
        (b"GIF89a", CONVERT),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS .* git lfs pull"),
        (b"%PDF-1.7\n%", "PDF or a ZIP archive; export or extract the image"),
        (b"PK\x03\x04\x14\0", "PDF or a ZIP archive; export or extract the image"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", DOWNLOAD),
        (b"<?xml version='1.0'?><Error/>", DOWNLOAD),
        (b'{"error": "not found"}', DOWNLOAD),
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.dcm"])
def test_a_file_of_another_kind_is_named_with_the_next_action(content, sentence, name):
    with pytest.raises(reader.ReadError, match=f"unsupported format, {sentence}"):
        reader.read(written(content, name))


@pytest.mark.parametrize(
    ("identity", "known"),
    [("ANONYMOUS", False), ("N/A", False), ("anonymized", False), ("", False), ("Anon17", True)],
)
def test_a_word_for_nobody_is_no_patient(identity, known, tmp_path):
    dicom(tmp_path / "a.dcm", PatientID=identity)
    assert bool(reader.load(tmp_path / "a.dcm")[1]["patient"]) == known


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_is_a_sentence(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/R\xf6ntgen.png"))
    Image.fromarray(bone()).save(path)
    with pytest.raises(reader.ReadError, match="its name is not valid UTF-8; rename it"):
        reader.read(path)


@pytest.mark.parametrize("kinds", [(0, 1), (1, 0), (0, 1, 1), (0, 0)])
def test_thumbnails_in_a_tiff_are_no_pages(kinds):
    """By NewSubfileType (1: reduced resolution); several full pages are refused."""
    full, small = Image.fromarray(bone()), Image.fromarray(bone()).resize((8, 12))
    first, *others = ((small if kind else full).copy() for kind in kinds)
    for image, kind in zip((first, *others), kinds, strict=True):
        image.encoderinfo = {"tiffinfo": {254: kind}}
    first.save("a.tif", save_all=True, append_images=others, tiffinfo={254: kinds[0]})
    if kinds.count(0) == 1:
        np.testing.assert_array_equal(reader.read(Path("a.tif")), bone())
    else:
        with pytest.raises(reader.ReadError, match="2 pages"):
            reader.read(Path("a.tif"))


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 6, 8])
def test_the_facts_tell_whether_exif_turns_an_image(suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    image, facts = reader.load(saved(bone(), f"a.{suffix}", exif=exif))
    assert facts.get("rotated", False) == (orientation > 1)
    assert (image.shape == bone().shape) == (orientation < 5)
