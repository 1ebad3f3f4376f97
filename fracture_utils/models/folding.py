"""A network that says the same with fewer layers, for what is not trained any more."""

from collections import Counter

import keras
import numpy as np

CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def folded(model: keras.Model) -> keras.Model:
    """`model` in inference mode, with each batch normalisation that alone follows a convolution
    multiplied into its kernel and bias (Jacob et al. 2018, section 3.2).

    Says the same up to rounding, and sooner, most of all where the graph's rewriting to 16 bits
    would turn back to float32 at each normalisation. The folded kernels are copies, so `model`
    must have its last weights; all other layers are those of `model`.
    """
    convolutions = _followed(model)
    followers = {layer.name for layer in convolutions.values()}

    def clone(layer: keras.Layer) -> keras.Layer:
        if layer.name not in convolutions:
            return layer
        return type(layer).from_config(layer.get_config() | {"use_bias": True})

    def call(layer: keras.Layer, *inputs, **options):
        return inputs[0] if layer.name in followers else layer(*inputs, **options)

    made = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for name, normalisation in convolutions.items():
        made.get_layer(name).set_weights(_product(model.get_layer(name), normalisation))
    return made


def _followed(model: keras.Model) -> dict[str, keras.layers.BatchNormalization]:
    """The convolutions, by name, whose output a batch normalisation takes and nothing else."""
    uses = Counter(id(x) for op in model.operations for x in keras.tree.flatten(op.input))
    uses.update(id(x) for x in model.outputs)
    makers = {
        id(layer.output): layer.name
        for layer in model.layers
        if isinstance(layer, CONVOLUTIONS) and layer.activation is keras.activations.linear
    }
    return {
        makers[id(layer.input)]: layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
        and id(layer.input) in makers
        and uses[id(layer.input)] == 1
    }


def _product(
    convolution: keras.Layer, normalisation: keras.layers.BatchNormalization
) -> list[np.ndarray]:
    """Kernels and bias of a convolution that does what its normalisation did, too."""
    kernels = convolution.get_weights()
    bias = kernels.pop() if convolution.use_bias else 0.0
    values = {weight.name: keras.ops.convert_to_numpy(weight) for weight in normalisation.weights}
    gain = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + normalisation.epsilon)
    bias = (bias - values["moving_mean"]) * gain + values.get("beta", 0.0)
    if isinstance(convolution, keras.layers.DepthwiseConv2D):  # (rows, columns, channels, 1)
        return [kernels[0] * gain[:, None], bias]
    return [*kernels[:-1], kernels[-1] * gain, bias]
