"""One classifier for all backbones: raw grey pixels in, one float32 logit out, one flat graph."""

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.errors import InputError, first_line
from fracture_utils.models import evidence, precision, released
from fracture_utils.models.backbones import Backbone, Weights


class Logit(keras.layers.Layer):
    """A dense layer with one output, always in float32: (batch, channels) to (batch, 1).

    Written as a product and a sum, because TensorFlow's graph rewrite turns the matrix product
    of a Dense layer into bfloat16, whose eight bits of precision tie the scores.
    """

    def __init__(self, kernel_regularizer=None, **keywords) -> None:
        super().__init__(**{"dtype": "float32"} | keywords)
        self.kernel_regularizer = kernel_regularizer

    def build(self, input_shape: tuple[int | None, int]) -> None:
        self.kernel = self.add_weight(
            shape=(input_shape[-1],),
            initializer="zeros",
            regularizer=self.kernel_regularizer,
            name="kernel",
        )
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(self, inputs):
        return keras.ops.sum(inputs * self.kernel, axis=-1, keepdims=True) + self.bias


HEADS = ("mean", "evidence")
"""The mean over places with a linear logit, or the soft maximum of the places' own logits."""


def build(
    backbone: Backbone, weights: Weights, config: Config, arithmetic: str, head: str = "mean"
) -> keras.Model:
    """A model from (batch, size, size, 1) grey in 0..255 to (batch, 1) logits of "fractured".

    The body of `body` with one of HEADS. The weights are loaded into this code-built graph, never
    unpickled.
    """
    return with_head(body(backbone, weights, config, arithmetic), head, config)


def body(backbone: Backbone, weights: Weights, config: Config, arithmetic: str) -> keras.Model:
    """The network without a head: grey to its early maps, its last maps (float32, layer "maps") and
    their mean over places (float32, layer "pooled").

    Preprocessing is inside. `arithmetic` is a resolved precision.
    """
    precision.apply(arithmetic)
    keras.utils.set_random_seed(config.seed)
    size = backbone.size(config)
    module = getattr(keras.applications, backbone.module)
    inputs = keras.Input((size, size, 1), name="grey")
    colour = keras.layers.Concatenate(name="colour", dtype="float32")([inputs, inputs, inputs])
    network = getattr(module, backbone.name)(
        weights=None, include_top=False, input_tensor=module.preprocess_input(colour)
    )
    if weights.path is not None:  # else they stay random
        known = {"imagenet": load, "released": load_released}
        known[weights.initialisation](network, weights.path)
    maps = keras.layers.Activation("linear", dtype="float32", name="maps")(network.output)
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(maps)
    return keras.Model(inputs, [_early(network, backbone), maps, pooled], name=backbone.name)


def with_head(network: keras.Model, head: str, config: Config) -> keras.Model:
    """The flat model of a `body` and one of HEADS; "logit" is its last layer, and the evidence
    head's "places" (batch, rows, columns) in the grid of the early maps are its heat map.
    """
    early, maps, pooled = network.outputs
    if head == "mean":
        drop = keras.layers.Dropout(
            config.dropout, seed=config.seed, dtype="float32", name="dropout"
        )
        x = drop(pooled)
        logits = Logit(name="logit")(x)
    else:
        inside = evidence.Inside(early.shape[1], name="inside")(network.input)
        places = evidence.Places(
            config.head_width, config.place_dropout, config.seed, name="places"
        )([early, maps])
        logits = evidence.Pool(name="logit")([places, inside])
    return keras.Model(network.input, logits, name=network.name)


def head_of(model: keras.Model) -> str:
    """Which of HEADS a model has."""
    return HEADS["places" in [layer.name for layer in model.layers]]


def top(model: keras.Model, backbone: Backbone) -> keras.Model:
    """What lies behind the early maps, sharing its layers with `model`: from early maps (and, for
    the evidence head, `Inside`) to the logit (and the places).
    """
    early, logits = _early(model, backbone), model.get_layer("logit").output
    if head_of(model) == "mean":
        return keras.Model([early], [logits], name=model.name)
    inside, places = (model.get_layer(name).output for name in ("inside", "places"))
    return keras.Model([early, inside], [logits, places], name=model.name)


def _early(network: keras.Model, backbone: Backbone):
    layer = network.get_layer(backbone.early.removeprefix("<"))
    return layer.input if backbone.early.startswith("<") else layer.output


def adapt_normalisation(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Give batch normalisation the statistics of real pictures, for random weights only.

    As built, it passes everything on unchanged, and in a deep random network the signal dies out
    long before the last maps. `batches` are inputs of the model; the statistics become their
    plain average.
    """
    layers = [la for la in model.layers if isinstance(la, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for count, batch in enumerate(batches if layers else ()):
        for layer in layers:
            layer.momentum = count / (count + 1)
        model(batch, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def unfreeze(model: keras.Model, backbone: Backbone, depth: str) -> None:
    """Make the head and the top block ("top") or every layer ("all") trainable.

    Batch normalisation stays frozen layer by layer, because `training=False` on the call no
    longer keeps its statistics once the layer is trainable.
    """
    tuned = model.layers if depth == "all" else top(model, backbone).layers
    for layer in model.layers:
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer in tuned and not normalises


def load_released(network: keras.Model, path: Path) -> None:
    """Fill a code-built network with the body of released weights (see `released`)."""
    arrays = list(released.read(path).values())[: len(network.weights)]
    if [array.shape for array in arrays] != [tuple(w.shape) for w in network.weights]:
        raise InputError(
            f"{path} does not hold weights for {network.name}; replace it by the original."
        )
    network.set_weights(arrays)


def load(model: keras.Model, path: Path) -> None:
    """Fill a code-built model with the numbers of a weights file."""
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{path} does not hold weights for {model.name} "
            f"({first_line(error)}); replace the file by the original."
        ) from error
