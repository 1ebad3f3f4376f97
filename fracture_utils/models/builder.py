"""One functional graph per model: raw gray pixels in, one float32 logit of "fractured" out.

The pooled head is a linear logit on global average pooling. The localization head gives each grid
cell a logit and pools them by log-sum-exp (multiple-instance learning, Pinheiro & Collobert 2015,
arXiv:1411.6228), because a fracture fills a small part of a radiograph; its cells also learn from
boxes and form the heat map.
"""

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fracture_utils import artifacts
from fracture_utils.config import InputError
from fracture_utils.data.generators import MIN_PIXELS, membership
from fracture_utils.models import backbones
from fracture_utils.models.backbones import EARLY, Weights

MIN_TOP = 0.1  # smallest fraction of the parameters after the early layer, if it is searched
HEADS = ("pooled", "localization")
DROPOUT, CELL_DROPOUT = 0.2, 0.5  # of pooled features; of channels in the localization head
WIDTH = 64  # channels of a grid cell in the localization head
UNKNOWN = -1.0  # target of a grid cell that may be normal or fractured
CELL_WEIGHT = 8.0  # of fractured cells, a hundred times rarer than normal ones, in `cell_loss`
CELL_BIAS, PADDING_LOGIT = -3.0, -1e4
CONVOLUTIONS = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)


def build(
    name: str, head: str = "pooled", seed: int = 0, build_head: Callable | None = None, **options
) -> keras.Model:
    """A model from gray (batch, size, size, 1) to logits (batch, 1), with one of HEADS or one that
    `build_head` makes: a function from pooled features to logits. For `options` see `build_body`.
    """
    body = build_body(name, seed=seed, **options)
    if build_head is not None:
        return keras.Model(body.input, build_head(body.outputs[-1]), name=name)
    return add_head(body, head, seed)


def build_body(
    name: str,
    size: int | None = None,
    weights: Weights | None = None,
    precision: str = "float32",
    seed: int = 0,
) -> keras.Model:
    """A backbone from gray (batch, size, size, 1) in 0..255 to its early feature maps, its last
    ones (float32), and the global averages (float32) of the maps for the out-of-distribution
    warning and of the last ones. `precision` must be resolved.
    """
    backbone = backbones.find(name)
    backbones.apply_precision(precision)
    keras.utils.set_random_seed(seed)
    module = getattr(keras.applications, backbone.module)
    size = size or backbone.native_size
    gray = keras.Input((size, size, 1), name="gray")
    color = keras.layers.Concatenate(name="color", dtype="float32")([gray, gray, gray])
    scaled = module.preprocess_input(color)
    if backbone.module == "efficientnet":
        # Keras scales once more, by 1 / sqrt(std), but only where it loads the weights itself.
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        scaled = (scaled - 255 * mean) / np.sqrt(std) + 255 * mean
    build_network = getattr(keras.applications, name)
    network = build_network(weights=None, include_top=False, input_tensor=scaled)
    network.name = name
    if weights is not None and weights.path is not None:
        load_weights(network, weights.path)
    last = keras.layers.Activation("linear", dtype="float32", name="feature_maps")(network.output)
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled")(last)
    early = early_layer(network, backbone.early)
    early.name = EARLY
    content = keras.layers.GlobalAveragePooling2D(dtype="float32", name="content")
    content = content(network.get_layer(backbone.content).output)
    return keras.Model(gray, [early.output, last, content, pooled], name=name)


def early_layer(network: keras.Model, name: str = "") -> keras.Layer:
    """The layer of the early feature maps, which have about twice the resolution of the last: the
    one called `name`, or the last one whose output alone determines the last maps, by layers with
    MIN_TOP of the parameters (the top block). InputError if there is none, as in NASNet.
    """
    if name:
        return network.get_layer(name)
    for layer in reversed(network.layers):
        shape, last = layer.output.shape, network.output.shape[1]
        is_map = len(shape) == 4 and last < shape[1] <= 3 * last
        if is_map and not isinstance(layer, keras.layers.ZeroPadding2D):
            with contextlib.suppress(ValueError):  # from Keras: another path bypasses it
                behind = keras.Model(layer.output, network.output).count_params()
                if behind >= MIN_TOP * network.count_params():
                    return layer
    raise InputError(f"{network.name} has no top block that could be fine-tuned; leave it out.")


def add_head(body: keras.Model, head: str, seed: int = 0) -> keras.Model:
    """A model of a backbone, sharing its layers, with one of HEADS; the last layer is "logit"."""
    early, last, _, pooled = body.outputs
    if head == "pooled":
        x = keras.layers.Dropout(DROPOUT, seed=seed, dtype="float32", name="dropout")(pooled)
        logit = Logit(dtype="float32", name="logit")(x)
    else:
        inside = InsideMask(early.shape[1], dtype="float32", name="inside")(body.input)
        cells = CellLogits(seed, dtype="float32", name="cell_logits")([early, last])
        logit = LogSumExpPool(dtype="float32", name="logit")([cells, inside])
    return keras.Model(body.input, logit, name=body.name)


def fold_heads(body: keras.Model, count: int, seed: int = 0) -> keras.Model:
    """`count` localization heads in one model: from early maps, last maps, inside mask, and which
    heads learn from an image (batch, count; 0 or 1) to logits and cell logits.
    """
    ops = keras.ops
    maps = [keras.Input(output.shape[1:]) for output in body.outputs[:2]]
    inside, learns = keras.Input(maps[0].shape[1:3]), keras.Input((count,))
    cells = CellLogits(seed, count, dtype="float32", name="cell_logits")(maps)
    logits = LogSumExpPool(dtype="float32", name="logit")([cells, inside])
    pairs = (logits, learns), (cells, ops.reshape(learns, (-1, 1, 1, count)))
    outputs = [ops.where(own > 0, of, ops.stop_gradient(of)) for of, own in pairs]
    return keras.Model([*maps, inside, learns], outputs, name=body.name)


def head_of(model: keras.Model) -> str:
    """Which of HEADS a model has."""
    return HEADS["cell_logits" in [layer.name for layer in model.layers]]


def top(model: keras.Model) -> keras.Model:
    """The layers after the early feature maps, shared with `model`: from early maps (and, for the
    localization head, `InsideMask`) to the logit (and the cells).
    """
    inputs, outputs = [model.get_layer(EARLY).output], [model.outputs[0]]
    if head_of(model) == "localization":
        inputs.append(model.get_layer("inside").output)
        outputs.append(model.get_layer("cell_logits").output)
    return keras.Model(inputs, outputs, name=model.name)


def unfreeze(model: keras.Model, depth: str) -> None:
    """Make the head and the top block ("top") or every layer ("all") trainable, except batch
    normalization: `training=False` would not keep its statistics (keras#20285).
    """
    tuned = model.layers if depth == "all" else top(model).layers
    for layer in model.layers:
        is_normalization = isinstance(layer, keras.layers.BatchNormalization)
        layer.trainable = layer in tuned and not is_normalization


def adapt_normalization(model: keras.Model, images: np.ndarray) -> None:
    """Set batch normalization to the statistics of `images`: with random weights, the signal would
    vanish long before the last feature maps.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(images, training=True)


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """`model` for inference: each batch normalization that is the only successor of a linear
    convolution is folded into it (Jacob et al. 2018, section 3.2): equal up to rounding; faster.

    Folded kernels are copies of the current weights; all other layers are shared with `model`.
    """
    uses = Counter(id(x) for op in model.operations for x in keras.tree.flatten(op.input))
    uses.update(id(x) for x in model.outputs)
    followers = {}
    for norm in model.layers:
        if isinstance(norm, keras.layers.BatchNormalization) and uses[id(norm.input)] == 1:
            maker = norm.input._keras_history.operation
            if isinstance(maker, CONVOLUTIONS) and maker.activation is keras.activations.linear:
                followers[maker.name] = norm

    def clone(layer: keras.Layer) -> keras.Layer:
        if layer.name not in followers:
            return layer
        return type(layer).from_config(layer.get_config() | {"use_bias": True})

    def call(layer: keras.Layer, *inputs, **options):
        return inputs[0] if layer in followers.values() else layer(*inputs, **options)

    folded = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for name, norm in followers.items():
        convolution = model.get_layer(name)
        kernels = convolution.get_weights()
        bias = kernels.pop() if convolution.use_bias else 0.0
        values = {weight.name: keras.ops.convert_to_numpy(weight) for weight in norm.weights}
        gain = values.get("gamma", 1.0) / np.sqrt(values["moving_variance"] + norm.epsilon)
        bias = (bias - values["moving_mean"]) * gain + values.get("beta", 0.0)
        is_depthwise = isinstance(convolution, keras.layers.DepthwiseConv2D)
        kernels[-1] = kernels[-1] * (gain[:, None] if is_depthwise else gain)
        folded.get_layer(name).set_weights([*kernels, bias])
    return folded


def load_weights(model: keras.Model, path: Path) -> None:
    """Load a weights file of Keras, or 8-bit released weights (.npz), of which a backbone uses the
    first arrays; InputError if they do not fit.
    """
    try:
        if Path(path).suffix != ".npz":
            model.load_weights(path)
            return
        stored = artifacts.read_arrays(path) or {}
        names = [name for name in stored if not name.endswith("/scale")][: len(model.weights)]
        scales = {name: stored.get(f"{name}/scale", np.float32(1)) for name in names}
        model.set_weights([np.float32(stored[name]) * scales[name] for name in names])
    except (ValueError, OSError, KeyError) as error:
        what = f"{path} does not hold weights for {model.name}"
        raise InputError(f"{what}; replace the file with the original.") from error


def image_loss(weights: np.ndarray):
    """Binary cross-entropy (batch,) of logits (batch, heads or 1), the mean over heads; class
    `weights` (2,) or (heads, 2).
    """
    of_class = np.float32(weights)

    def loss(labels, logits):
        positive = of_class[..., 1] * labels * keras.ops.softplus(-logits)
        negative = of_class[..., 0] * (1 - labels) * keras.ops.softplus(logits)
        return keras.ops.mean(positive + negative, axis=-1)

    return loss


def cell_loss(targets, logits):
    """Binary cross-entropy (batch,) or (batch, heads), the mean over grid cells whose target
    (batch, rows, columns) is 1 (fractured, weight CELL_WEIGHT) or 0, without UNKNOWN ones.
    """
    targets = targets if len(logits.shape) == 3 else targets[..., None]
    labeled = keras.ops.cast(targets >= 0, logits.dtype)
    positive = targets * keras.ops.softplus(-logits) * CELL_WEIGHT
    negative = (1 - targets) * keras.ops.softplus(logits)
    count = keras.ops.maximum(keras.ops.sum(labeled, axis=(1, 2)), 1)
    return keras.ops.sum((positive + negative) * labeled, axis=(1, 2)) / count


class Logit(keras.layers.Layer):
    """A dense layer with one output, as product and sum: TensorFlow's graph rewrite turns matrix
    products into bfloat16, whose eight bits of precision cause ties between scores.
    """

    def build(self, input_shape: tuple) -> None:
        self.kernel = self.add_weight((input_shape[-1],), "zeros", name="kernel")
        self.bias = self.add_weight((), "zeros", name="bias")

    def call(self, inputs):
        return keras.ops.sum(inputs * self.kernel, axis=-1, keepdims=True) + self.bias


class InsideMask(keras.layers.Layer):
    """`generators.inside_grid` in the graph: gray (batch, size, size, 1) to 0 and 1."""

    def __init__(self, rows: int, **keywords) -> None:
        super().__init__(**keywords)
        self.rows = rows

    def call(self, gray):
        weight = keras.ops.convert_to_tensor(membership(gray.shape[1], self.rows))
        lit = keras.ops.cast(gray[..., 0] > 0, "float32")
        area = keras.ops.einsum("rh,bhw,cw->brc", weight, lit, weight)
        return keras.ops.cast(area > MIN_PIXELS, "float32")


class CellLogits(keras.layers.Layer):
    """Feature maps of several stages (batch, rows, columns, channels) to the logits of grid cells
    (batch, rows, columns): each stage is standardized, projected to WIDTH channels and resized to
    the grid of the first; their sum is rectified and weighted to one logit.

    With `heads`, that many independent heads share one matrix product, and the result has a last
    axis of heads. Standardization and dropout of channels (one mask per batch and head) act on the
    kernels, which are much smaller than the maps.
    """

    def __init__(self, seed: int, heads: int | None = None, **keywords) -> None:
        super().__init__(**keywords)
        self.seed, self.axis = seed, () if heads is None else (heads,)
        self.dropout = keras.layers.Dropout(CELL_DROPOUT, seed=seed, dtype="float32")

    def build(self, shapes: list[tuple]) -> None:
        def noise(number: int, fan_in: int) -> keras.initializers.Initializer:
            return keras.initializers.RandomNormal(stddev=fan_in**-0.5, seed=self.seed + number)

        def weight(name: str, shape: tuple, start: Any, trainable: bool = True):
            return self.add_weight((*self.axis, *shape), start, trainable=trainable, name=name)

        channels = list(enumerate(shape[-1] for shape in shapes))
        self.means = [weight(f"mean_{k}", (c,), "zeros", False) for k, c in channels]
        self.deviations = [weight(f"deviation_{k}", (c,), "ones", False) for k, c in channels]
        self.kernels = [weight(f"kernel_{k}", (c, WIDTH), noise(k, c)) for k, c in channels]
        self.bias = weight("bias", (WIDTH,), "zeros")
        self.cell_kernel = weight("cell_kernel", (WIDTH,), noise(len(shapes), WIDTH))
        self.cell_bias = weight("cell_bias", (), keras.initializers.Constant(CELL_BIAS))

    def standardize(self, stages: list[np.ndarray], rows: list[np.ndarray]) -> None:
        """Set mean and deviation of each channel from the feature maps (n, rows, columns, channels)
        of each stage at `rows`, one array per head.
        """
        for mean, deviation, maps in zip(self.means, self.deviations, stages, strict=True):
            moments = []
            for own in rows:
                flat = maps[own].reshape(-1, maps.shape[-1]).astype(np.float32)
                spread = flat.std(axis=0)
                least = 0.05 * np.median(spread) + 1e-4
                moments.append((flat.mean(axis=0), np.maximum(spread, least)))
            mean.assign(np.reshape([first for first, _ in moments], mean.shape))
            deviation.assign(np.reshape([second for _, second in moments], mean.shape))

    def call(self, stages, training=False):
        ops, grid = keras.ops, stages[0].shape[1:3]
        hidden = ops.reshape(self.bias, (-1,))
        parts = zip(stages, self.means, self.deviations, self.kernels, strict=True)
        for maps, mean, deviation, weights in parts:
            scale = self.dropout(ops.ones(mean.shape), training=training) / deviation
            kernel = scale[..., None] * weights
            offset = ops.reshape(ops.sum(mean[..., None] * kernel, axis=-2), (-1,))
            columns = ops.reshape(ops.moveaxis(kernel, -2, 0), (maps.shape[-1], -1))
            projected = ops.matmul(ops.cast(maps, "float32"), columns) - offset
            if projected.shape[1:3] != grid:
                projected = ops.image.resize(projected, grid, "bilinear")
            hidden = hidden + projected
        hidden = ops.reshape(ops.relu(hidden), (-1, *grid, *self.axis, WIDTH))
        return ops.sum(hidden * self.cell_kernel, axis=-1) + self.cell_bias


class LogSumExpPool(keras.layers.Layer):
    """`CellLogits` and `InsideMask` to the logits of an image (batch, heads or 1): log-sum-exp of
    the cells inside the image, with a gain and an offset.
    """

    def build(self, shapes: list[tuple]) -> None:
        self.gain = self.add_weight(shapes[0][3:], "ones", name="gain")
        self.offset = self.add_weight(shapes[0][3:], "zeros", name="offset")

    def call(self, inputs):
        cells, inside = inputs
        count = cells.shape[1] * cells.shape[2]
        flat = keras.ops.reshape(cells, (-1, count, *(tuple(cells.shape[3:]) or (1,))))
        inside = keras.ops.reshape(inside, (-1, count, 1))
        flat = keras.ops.where(inside > 0, flat, PADDING_LOGIT)
        return self.gain * keras.ops.logsumexp(flat, axis=1) + self.offset
