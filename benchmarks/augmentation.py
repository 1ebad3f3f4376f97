"""One fused affine map against five Keras layers: augmented images per second at 224 px.

python benchmarks/augmentation.py
"""

import statistics
import sys
import time

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.generators import augment

ROUNDS = 7


def main() -> None:
    """Print the medians of both, interleaved, and their ratio."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (32, 224, 224), np.uint8)
    config = Config(source="phantoms")
    layers = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(config.rotation / 360),
            keras.layers.RandomZoom(config.zoom),
            keras.layers.RandomTranslation(config.shift, config.shift),
            keras.layers.RandomContrast(config.contrast),
        ]
    )
    color = np.repeat(images[..., None], 3, axis=-1).astype(np.float32)
    variants = {
        "fused": lambda: [augment(image, config, random) for image in images],
        "layers": lambda: np.asarray(layers(color, training=True)),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, variant in variants.items():
            started = time.perf_counter()
            variant()
            rates[name].append(len(images) / (time.perf_counter() - started))
    medians = {name: statistics.median(values[1:]) for name, values in rates.items()}
    sys.stdout.write(
        f"fused {medians['fused']:.0f}, five layers {medians['layers']:.0f} images/s: "
        f"{medians['fused'] / medians['layers']:.1f} times as fast\n"
    )


if __name__ == "__main__":
    main()
