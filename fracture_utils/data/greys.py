"""From the values that a decoder gives to grey levels, alike for every format."""

from typing import Any

import numpy as np
from PIL import Image

MAX_PIXELS = 40_000_000
"""The largest detectors (mammography) give 30 million; Pillow would go to 179 million."""
MARKERS = (1000, 100, 16)
"""At most one pixel in 1000 is a marker; in a small picture one in 100, but no more than 16."""
WEIGHTS = (0.299, 0.587, 0.114)
"""Of red, green and blue in grey: ITU-R BT.601, as Pillow weighs them."""


class RefusedError(Exception):
    """A reason to refuse a file, before its path is known."""


def check_size(width: int, height: int) -> None:
    """RefusedError where the pixels are none, or more than any X-ray has."""
    if not 0 < width * height <= MAX_PIXELS:
        raise RefusedError(f"it declares {width} x {height} pixels; allowed are {MAX_PIXELS:,}")


def stretch(
    values: np.ndarray, inverted: bool = False, hidden: np.ndarray | None = None
) -> np.ndarray:
    """Grey values (height, width) of any depth as uint8, linearly from darkest to brightest.

    Two things are left out of that scale, because either would leave the bone a few of the 256
    levels: what is `hidden` (bool, like values: padding, transparent pixels), which becomes
    black; and markers, a handful of pixels (MARKERS) further from all others than those are
    apart, which are clipped. `inverted`: low values are bright. RefusedError where a value is
    not finite.
    """
    if hidden is None or hidden.all() or not hidden.any():
        hidden = None
    low, high = _scale(values if hidden is None else values[~hidden])
    exact = values.dtype.kind in "iu" and values.itemsize <= 2
    levels: Any = values.astype(np.float32 if exact else np.float64)
    np.clip(levels, low, high, out=levels)
    levels -= low
    levels *= np.float32(255 / (high - low)) if high > low else 0
    levels = np.rint(levels).astype(np.uint8)
    if inverted:
        levels = 255 - levels
    if hidden is not None:
        levels[hidden] = 0
    return levels


def colour(values: np.ndarray) -> np.ndarray:
    """Red, green and blue (height, width, 3) as uint8 grey levels (height, width): those of 8 bits
    as they are, deeper ones stretched like grey of that depth.
    """
    if values.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(values)).convert("L"))
    return stretch(luminance(values))


def luminance(values: np.ndarray) -> np.ndarray:
    """Red, green and blue of any depth (height, width, 3) as grey of that depth, float64."""
    red, green, blue = (values[..., channel] * weight for channel, weight in enumerate(WEIGHTS))
    return red + green + blue


def _scale(values: np.ndarray) -> tuple[float, float]:
    """The darkest and the brightest value that is no marker."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise RefusedError("it holds values that are no numbers")
    often, rarely, most = MARKERS
    few = max(values.size // often, min(values.size // rarely, most))
    if few == 0 or high == low:
        return low, high
    ordered = np.partition(values.ravel(), (few, values.size - 1 - few))
    darkest = np.sort(ordered[: few + 1]).astype(np.float64)
    brightest = np.sort(ordered[-few - 1 :]).astype(np.float64)
    return -_top(-darkest[::-1], -brightest[0]), _top(brightest, darkest[-1])


def _top(ends: np.ndarray, other_end: float) -> float:
    """The last of the rising values `ends` before a gap wider than all from `other_end` to it."""
    gaps, widths = np.diff(ends), ends[:-1] - other_end
    markers = np.flatnonzero((widths > 0) & (gaps >= widths))
    return float(ends[markers[0]] if markers.size else ends[-1])
