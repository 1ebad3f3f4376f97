"""Class activation maps in the same forward pass as the logit, and their randomization check."""

import keras
import numpy as np

from fracture_utils.data.generators import inside_grid
from fracture_utils.models import builder
from fracture_utils.models.backbones import find


def explain(model: keras.Model) -> keras.Model:
    """A classifier that shares the weights of `model`: from images to logits (n, 1), heat maps (n,
    rows, columns) in the unit of the logit, and the features of `ood` (n, channels).

    For the pooled head, heat maps are class activation maps (Zhou et al. 2016), here equal to
    Grad-CAM (Selvaraju et al. 2017) without its ReLU, plus the bias; their mean is the logit. For
    the localization head, they are cell logits, and padding has the lowest value.
    """
    head, ops = model.get_layer("logit"), keras.ops
    if builder.head_of(model) == "localization":
        cells, inside = (model.get_layer(name).output for name in ("cell_logits", "inside"))
        lowest = ops.min(cells, axis=(1, 2), keepdims=True)
        heat_maps = ops.where(inside > 0, cells, lowest) * head.gain + head.offset
    else:  # a matrix product would be rounded by the bfloat16 graph rewrite
        heat_maps = ops.sum(model.get_layer("feature_maps").output * head.kernel, axis=-1)
        heat_maps += head.bias
    content = model.get_layer(find(model.name).content).output
    content = keras.layers.GlobalAveragePooling2D(dtype="float32")(content)
    return keras.Model(model.input, [model.output, heat_maps, content], name=model.name)


def randomized_correlation(
    explained: keras.Model, pixels: np.ndarray, rows: np.ndarray, seed: int
) -> float:
    """Mean correlation of the heat maps of a few of the `rows` of `pixels` with those of the same
    model after permuting the weights within each kernel of its top block and head (Adebayo et al.
    2018), without the padding: near 0 where a map depends on what was learned. Constant maps count
    as 0.
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(rows)[:16])
    squares = pixels[rows][..., None].astype(np.float32)
    before = keras.ops.convert_to_numpy(explained(squares)[1])
    inside = [inside_grid(square, before.shape[1]) for square in pixels[rows]]
    model = builder.top(explained)
    trained = model.get_weights()
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            old = layer.get_weights()
            layer.set_weights([random.permutation(w.ravel()).reshape(w.shape) for w in old])
    after = keras.ops.convert_to_numpy(explained(squares)[1])
    model.set_weights(trained)
    triples = zip(before, after, inside, strict=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = [np.corrcoef(one[own], other[own])[0, 1] for one, other, own in triples]
    return float(np.nan_to_num(pairs).mean())
