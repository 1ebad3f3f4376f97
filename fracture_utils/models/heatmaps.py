"""Where a network looked: class activation maps, in the same forward pass as the logit."""

from typing import NamedTuple

import keras
import numpy as np

from fracture_utils.config import Config
from fracture_utils.data.batches import Batches, MapBatches
from fracture_utils.models import classifier
from fracture_utils.models.backbones import Backbone

PICTURES_TO_CHECK = 16
AT_ONCE = 32
"""Batches whose features are in memory at once."""


class Seen(NamedTuple):
    """What one forward pass says about n pictures: logits (n,) float64, maps (n, rows, columns)
    and features (n, channels), both float32; features of some of them alone, where so asked.

    A map says what each place brings to the logit. Of the evidence head it is the places' own
    logits, which the soft maximum pools; of the mean head its mean plus the bias is the logit.
    """

    logits: np.ndarray
    maps: np.ndarray
    features: np.ndarray


class ClassMap(keras.layers.Layer):
    """The last maps weighted by the kernel of the head: (batch, rows, columns, channels) to
    (batch, rows, columns), in float32.

    Behind global average pooling and a linear logit this class activation map (Zhou et al. 2016)
    is Grad-CAM (Selvaraju et al. 2017) without its ReLU, and needs no gradient. Written as a
    product and a sum for the reason that `classifier.Logit` gives.
    """

    def __init__(self, head: keras.layers.Layer) -> None:
        super().__init__(dtype="float32", name="class_map")
        self.head = head

    def call(self, inputs):
        return keras.ops.sum(inputs * self.head.kernel, axis=-1)


def explaining(model: keras.Model) -> keras.Model:
    """A classifier that also gives its class activation map and its pooled features; it shares
    the weights of `model`, also those set later.
    """
    if classifier.head_of(model) == "evidence":
        maps = model.get_layer("places").output
    else:
        maps = ClassMap(model.get_layer("logit"))(model.get_layer("maps").output)
    pool = keras.layers.GlobalAveragePooling2D(dtype="float32", name="pooled_features")
    outputs = [model.output, maps, pool(model.get_layer("maps").output)]
    return keras.Model(model.input, outputs, name=model.name)


def look_at_maps(
    explained: keras.Model, batches: MapBatches, compared: np.ndarray | None = None
) -> Seen:
    """What a model of `explaining` says where its maps are at hand: early and last ones and
    `Inside` for the evidence head, the last ones for the mean head. Features are those of the
    rows `compared` (None: of all).
    """
    if classifier.head_of(explained) == "evidence":
        layers = [*explained.get_layer("places").input, explained.get_layer("inside").output]
    else:
        layers = [explained.get_layer("maps").output]
    return _seen(keras.Model(layers, explained.outputs, name=explained.name), batches, compared)


def look(
    explained: keras.Model,
    pixels: np.ndarray,
    rows: np.ndarray,
    config: Config,
    compared: np.ndarray | None = None,
) -> Seen:
    """What a model of `explaining` says about the given rows of `pixels`, in one pass; features
    are those of the rows `compared` (None: of all).
    """
    batches = Batches(pixels, np.zeros(len(pixels)), rows, config)
    return _seen(explained, batches, compared)


def _seen(
    explained: keras.Model, batches: Batches | MapBatches, compared: np.ndarray | None
) -> Seen:
    made = []
    for part in batches.parts(AT_ONCE):
        logits, maps, features = explained.predict(part, verbose=0)
        kept = features if compared is None else features[np.isin(part.rows, compared)]
        made.append((logits[:, 0].astype(np.float64), maps, kept))
    return Seen(*(np.concatenate(arrays) for arrays in zip(*made, strict=True)))


def randomised_correlation(
    explained: keras.Model,
    backbone: Backbone,
    pixels: np.ndarray,
    rows: np.ndarray,
    config: Config,
) -> float:
    """Mean correlation of the maps with those of the same network whose top block and head have
    lost what they learned (Adebayo et al. 2018).

    Near 0 where the map depends on what was learned; near 1 where it would look the same without,
    as an edge detector does. The weights are shuffled within each kernel, which keeps their size,
    and then put back. Looks at a few of the given rows of `pixels`, drawn by the seed.
    """
    random = np.random.default_rng(config.seed)
    rows = np.sort(random.permutation(rows)[:PICTURES_TO_CHECK])
    before = look(explained, pixels, rows, config).maps
    top = classifier.top(explained, backbone).layers
    top = [layer for layer in top if not isinstance(layer, keras.layers.BatchNormalization)]
    kept = [(layer, layer.get_weights()) for layer in top if layer.weights]
    for layer, weights in kept:
        layer.set_weights([_shuffled(weight, random) for weight in weights])
    after = look(explained, pixels, rows, config).maps
    for layer, weights in kept:
        layer.set_weights(weights)
    return float(np.mean([_correlation(*pair) for pair in zip(before, after, strict=True)]))


def _shuffled(weight: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return random.permutation(weight.ravel()).reshape(weight.shape)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; 0 where a map is flat, because nothing is left of it."""
    one, other = one.ravel() - one.mean(), other.ravel() - other.mean()
    size = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / size) if size > 0 else 0.0
