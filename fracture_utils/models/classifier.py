"""One classifier for all backbones: raw grey pixels in, one float32 logit out, one flat graph."""

from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.models import precision
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


def build(backbone: Backbone, weights: Weights, config: Config, arithmetic: str) -> keras.Model:
    """A model from (batch, size, size, 1) grey in 0..255 to (batch, 1) logits of "fractured".

    Preprocessing is inside. Layers worth a name: "maps" is what `maps(model)` ends with,
    "pooled" the pooled features (float32), "logit" the head. `arithmetic` is a resolved
    precision. The weights are loaded into this code-built graph, never unpickled.
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
    if weights.initialisation == "imagenet":
        load(network, weights.path)
    x = keras.layers.Activation("linear", dtype="float32", name="maps")(network.output)
    x = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(x)
    x = keras.layers.Dropout(config.dropout, dtype="float32", name="dropout")(x)
    model = keras.Model(inputs, Logit(name="logit")(x), name=backbone.name)
    if weights.initialisation == "released":
        load(model, weights.path)
    return model


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


def features(model: keras.Model) -> keras.Model:
    """The part of `model` that ends with the pooled features, (batch, channels) float32."""
    return keras.Model(model.input, model.get_layer("pooled").output)


def maps(model: keras.Model) -> keras.Model:
    """The part of `model` that ends with the last maps, (batch, rows, columns, channels)."""
    return keras.Model(model.input, model.get_layer("maps").output)


def unfreeze(model: keras.Model, backbone: Backbone, depth: str) -> None:
    """Make the head and the top block ("top") or every layer ("all") trainable.

    Batch normalisation stays frozen layer by layer, because `training=False` on the call no
    longer keeps its statistics once the layer is trainable.
    """
    names = [layer.name for layer in model.layers]
    first = 0 if depth == "all" else names.index(backbone.fine_tune_after) + 1
    for position, layer in enumerate(model.layers):
        normalises = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = position >= first and not normalises


def load(model: keras.Model, path: Path) -> None:
    """Fill a code-built model with the numbers of a weights file."""
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{path} does not hold weights for {model.name} "
            f"({str(error).splitlines()[0]}); replace the file by the original."
        ) from error
