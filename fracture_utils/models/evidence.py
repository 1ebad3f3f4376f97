"""The evidence head: each place of a picture has a logit, and the picture's logit pools them.

A fracture fills half a per cent of a radiograph; the mean over all places drowns it, while the
soft maximum lets one place speak for the picture (multiple-instance learning with log-sum-exp
pooling, Pinheiro & Collobert 2015, arXiv:1411.6228). Where boxes are known the places learn from
them, too. The heat map of such a network is nothing but its places.
"""

import keras
import numpy as np

from fracture_utils.data.places import LIT, membership

UNKNOWN = -1.0
"""The truth of a place about which nothing is known."""
OUTSIDE = -1e4
"""The logit that a place outside the picture brings into the pooling: none."""
PLACE_WEIGHT = 8.0
"""Of a fractured place in the loss; they are some hundred times rarer than others."""
FIRST_BIAS = -3.0
"""A place holds no fracture until it is shown to."""


def log_sum_exp(places, inside):
    """The soft maximum (batch, 1) of the logits of places (batch, rows, columns) where `inside`
    (the same shape) is 1; the others change nothing.
    """
    flat = keras.ops.where(inside > 0, places, OUTSIDE)
    flat = keras.ops.reshape(flat, (-1, flat.shape[1] * flat.shape[2]))
    return keras.ops.logsumexp(flat, axis=1, keepdims=True)


def place_loss(truth, places):
    """Binary cross-entropy (batch,), the mean over places of which the truth is known: `truth`
    (batch, rows, columns) is 1 (fractured), 0, or UNKNOWN. Fractured places weigh PLACE_WEIGHT.
    """
    known = keras.ops.cast(truth >= 0, places.dtype)
    positive = truth * keras.ops.softplus(-places) * PLACE_WEIGHT
    negative = (1 - truth) * keras.ops.softplus(places)
    count = keras.ops.maximum(keras.ops.sum(known, axis=(1, 2)), 1)
    return keras.ops.sum((positive + negative) * known, axis=(1, 2)) / count


def picture_loss(weights: dict[int, float]):
    """Binary cross-entropy (batch,) of logits (batch, 1), each class with its weight."""

    def loss(truth, logits):
        per_class = weights[1] * truth * keras.ops.softplus(-logits)
        per_class += weights[0] * (1 - truth) * keras.ops.softplus(logits)
        return keras.ops.mean(per_class, axis=-1)

    return loss


class Inside(keras.layers.Layer):
    """`places.inside` in the graph: grey (batch, size, size, 1) to float32 (batch, rows, rows) of 1
    inside the picture and 0 in the padding around it.
    """

    def __init__(self, rows: int, **keywords) -> None:
        super().__init__(**{"dtype": "float32"} | keywords)
        self.rows = rows

    def call(self, grey):
        weight = keras.ops.convert_to_tensor(membership(grey.shape[1], self.rows))
        lit = keras.ops.cast(grey[..., 0] > 0, "float32")
        held = keras.ops.einsum("rh,bhw,cw->brc", weight, lit, weight)
        return keras.ops.cast(held > LIT, "float32")


class Places(keras.layers.Layer):
    """From stages of maps, each (batch, rows, columns, channels), to the logits of places, float32
    (batch, rows, columns) in the grid of the first stage.

    Each stage is standardised (`standardise`), passes one 1x1 convolution to `width` channels and
    is enlarged to the grid of the first; their sum is rectified and weighed to one logit. The last
    product is written as a product and a sum for the reason that `classifier.Logit` gives.
    """

    def __init__(self, width: int, dropout: float, seed: int, **keywords) -> None:
        super().__init__(**{"dtype": "float32"} | keywords)
        self.width, self.seed = width, seed
        self.dropout = keras.layers.SpatialDropout2D(dropout, seed=seed, dtype="float32")

    def build(self, shapes: list[tuple]) -> None:
        def noise(number: int, fan_in: int) -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=fan_in**-0.5, seed=self.seed + number)

        channels = [shape[-1] for shape in shapes]
        self.means = [self._constant(f"mean_{k}", c, "zeros") for k, c in enumerate(channels)]
        self.spreads = [self._constant(f"spread_{k}", c, "ones") for k, c in enumerate(channels)]
        self.kernels = [
            self.add_weight((c, self.width), noise(k, c), name=f"kernel_{k}")
            for k, c in enumerate(channels)
        ]
        self.bias = self.add_weight((self.width,), "zeros", name="bias")
        last = noise(len(channels), self.width)
        self.evidence = self.add_weight((self.width,), last, name="evidence")
        first = keras.initializers.Constant(FIRST_BIAS)
        self.evidence_bias = self.add_weight((), first, name="evidence_bias")

    def _constant(self, name: str, channels: int, value: str):
        return self.add_weight((channels,), value, trainable=False, name=name)

    def standardise(self, stages: list[np.ndarray]) -> None:
        """Take mean and spread of each channel from some maps (n, rows, columns, channels)."""
        for mean, spread, maps in zip(self.means, self.spreads, stages, strict=True):
            flat = maps.reshape(-1, maps.shape[-1]).astype(np.float32)
            found = flat.std(axis=0)
            mean.assign(flat.mean(axis=0))
            spread.assign(np.maximum(found, 0.05 * np.median(found) + 1e-4))

    def call(self, stages, training=False):
        hidden = self.bias
        grid = stages[0].shape[1:3]
        for maps, mean, spread, kernel in zip(
            stages, self.means, self.spreads, self.kernels, strict=True
        ):
            standard = (keras.ops.cast(maps, "float32") - mean) / spread
            projected = keras.ops.matmul(self.dropout(standard, training=training), kernel)
            if projected.shape[1:3] != grid:
                projected = keras.ops.image.resize(projected, grid, "bilinear")
            hidden = hidden + projected
        hidden = keras.ops.relu(hidden)
        return keras.ops.sum(hidden * self.evidence, axis=-1) + self.evidence_bias

    def compute_output_shape(self, shapes):
        return shapes[0][:3]


class Pool(keras.layers.Layer):
    """The picture's logit (batch, 1): the soft maximum of its places, with a gain and an offset,
    float32. Takes places and `Inside`, both (batch, rows, columns).
    """

    def __init__(self, **keywords) -> None:
        super().__init__(**{"dtype": "float32"} | keywords)

    def build(self, shapes: list[tuple]) -> None:  # noqa: ARG002  (Keras tells them)
        self.gain = self.add_weight((), "ones", name="gain")
        self.offset = self.add_weight((), "zeros", name="offset")

    def call(self, inputs):
        places, inside = inputs
        return self.gain * log_sum_exp(places, inside) + self.offset

    def compute_output_shape(self, shapes):
        return (shapes[0][0], 1)
