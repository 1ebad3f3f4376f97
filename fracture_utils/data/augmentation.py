"""Anatomically honest augmentation: one fused affine map, then brightness and contrast."""

import numpy as np
from PIL import Image

from fracture_utils.config import Config

MIDDLE_GREY = 127.5


def augment(picture: np.ndarray, config: Config, random: np.random.Generator) -> np.ndarray:
    """One random variant of a picture: uint8 (size, size) in, float32 (size, size) in 0..255 out.

    Mirror, rotation, zoom and shift are one affine map with one bilinear interpolation, which
    is several times faster than a layer each and blurs once. What comes in from outside is black.
    """
    moved = warp(picture, config, random)
    gain = 1 + random.uniform(-config.contrast, config.contrast)
    offset = 255 * random.uniform(-config.brightness, config.brightness)
    grey = (moved.astype(np.float32) - MIDDLE_GREY) * gain + MIDDLE_GREY + offset
    return np.clip(grey, 0, 255)


def warp(picture: np.ndarray, config: Config, random: np.random.Generator) -> np.ndarray:
    """The geometry of `augment` alone, uint8 (size, size) in and out: what the same `random` does
    to the X-ray it does to a picture of its boxes.
    """
    size = picture.shape[0]
    image = Image.fromarray(picture).transform(
        (size, size),
        Image.Transform.AFFINE,
        _affine(size, config, random),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(image)


def _affine(size: int, config: Config, random: np.random.Generator) -> tuple[float, ...]:
    """The six coefficients that take an output pixel to its place in the input."""
    angle = np.deg2rad(random.uniform(-config.rotation, config.rotation))
    scale = 1 / (1 + random.uniform(-config.zoom, config.zoom))
    flip_x = -1 if config.horizontal_flip and random.random() < 0.5 else 1
    flip_y = -1 if config.vertical_flip and random.random() < 0.5 else 1
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = scale * rotation @ np.diag([flip_x, flip_y])
    centre = np.full(2, size / 2)
    shift = size * random.uniform(-config.shift, config.shift, 2)
    offset = centre - matrix @ (centre + shift)
    return (*matrix[0], offset[0], *matrix[1], offset[1])
