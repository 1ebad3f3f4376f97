"""Class activation maps in the same forward pass as the logit, and their randomization check."""

from typing import NamedTuple

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.generators import ImageBatches
from fracture_utils.models import builder


class Outputs(NamedTuple):
    """Of n images: logits (n,) float64, heat maps (n, rows, columns) and pooled early feature maps
    (n, channels), both float32. A heat map holds the contribution of each grid cell to the logit.
    """

    logits: np.ndarray
    heat_maps: np.ndarray
    features: np.ndarray


class ClassActivationMap(keras.layers.Layer):
    """Feature maps (batch, rows, columns, channels) weighted by the kernel of the pooled head (Zhou
    et al. 2016): here equal to Grad-CAM (Selvaraju et al. 2017) without its ReLU.
    """

    def __init__(self, head: keras.layers.Layer) -> None:
        super().__init__(dtype="float32", name="class_activation_map")
        self.head = head

    def call(self, inputs):  # a matrix product would be rounded by the bfloat16 graph rewrite
        return keras.ops.sum(inputs * self.head.kernel, axis=-1)


def explain(model: keras.Model, from_features: bool = False) -> keras.Model:
    """A classifier with the outputs of `Outputs` that shares the weights of `model`. Takes images,
    or `from_features` early and last feature maps (and, for the localization head, inside mask).
    """
    cached = [builder._early(model), model.get_layer("feature_maps").output]
    if builder.head_of(model) == "localization":
        heat_maps = model.get_layer("cell_logits").output
        cached.append(model.get_layer("inside").output)
    else:
        heat_maps = ClassActivationMap(model.get_layer("logit"))(cached[1])
    pooled = keras.layers.GlobalAveragePooling2D(dtype="float32")(cached[0])
    inputs = cached if from_features else model.input
    return keras.Model(inputs, [model.output, heat_maps, pooled], name=model.name)


def predict(explained: keras.Model, batches: keras.utils.PyDataset) -> Outputs:
    """Outputs of an `explain`ed model for all rows of `batches`."""
    logits, *others = explained.predict(batches, verbose=0)
    return Outputs(logits[:, 0].astype(np.float64), *others)


def randomized_correlation(
    explained: keras.Model, pixels: np.ndarray, rows: np.ndarray, config: Config
) -> float:
    """Mean correlation of the heat maps of a few of the `rows` of `pixels` with those of the same
    model after permuting the weights within each kernel of its top block and head (Adebayo et al.
    2018): near 0 where a map depends on what was learned. Constant maps count as 0.
    """
    random = np.random.default_rng(config.seed)
    rows = np.sort(random.permutation(rows)[:16])
    batches = ImageBatches(pixels, np.zeros(len(pixels)), rows, config)
    before = predict(explained, batches).heat_maps
    model = builder.top(explained)
    trained = model.get_weights()
    for layer in model.layers:
        if not isinstance(layer, keras.layers.BatchNormalization):
            old = layer.get_weights()
            layer.set_weights([random.permutation(w.ravel()).reshape(w.shape) for w in old])
    after = predict(explained, batches).heat_maps
    model.set_weights(trained)
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = [np.corrcoef(a.flat, b.flat)[0, 1] for a, b in zip(before, after, strict=True)]
    return float(np.nan_to_num(pairs).mean())
