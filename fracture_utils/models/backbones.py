"""The networks of the registry, and where their weights come from."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fracture_utils import download, files
from fracture_utils.config import PREFIX, Config
from fracture_utils.errors import InputError
from fracture_utils.networks import REGISTRY, Backbone

RELEASED_DIR = Path(__file__).parents[2] / "models" / "released"


@dataclass(frozen=True)
class Weights:
    """First weights of a network: `initialisation` is imagenet, released or random.

    `note` says what a reader must know about the file; it is empty for the official one.
    """

    initialisation: str
    path: Path | None = None
    sha256: str = ""
    note: str = ""


def table() -> pd.DataFrame:
    """One row a network: name, input side, parameters in millions, billions of multiply-adds."""
    rows = [(b.name, b.native_size, b.parameters / 1e6, b.multiply_adds) for b in REGISTRY.values()]
    columns = ["model", "native size", "million parameters", "billion multiply-adds"]
    return pd.DataFrame(rows, columns=columns).round(1).set_index("model")


def layers(model) -> pd.DataFrame:
    """Where a Keras model's numbers are: a row for the frozen layers and the trainable ones of body
    and head, with the numbers in them and what they compute and are kept in.
    """
    rows = [
        {
            "part": "head" if layer is model.layers[-1] else "body",
            "state": "trainable" if layer.trainable_weights else "frozen",
            "layers": 1,
            "numbers": layer.count_params(),
            "computes in": layer.compute_dtype,
            "kept in": layer.variable_dtype,
        }
        for layer in model.layers
        if layer.weights
    ]
    keys = ["part", "state", "computes in", "kept in"]
    return pd.DataFrame(rows).groupby(keys, sort=False)[["layers", "numbers"]].sum()


def find_weights(config: Config) -> tuple[dict[str, Weights], dict[str, str]]:
    """The first weights of each network of the settings, and why others are left out.

    Looked for in weights_dir, Keras's cache, the download, and models/released. Where there are
    none, phantoms go on with random weights. Pictures do not: a network that was asked for by
    name stops the run (InputError); of those that are tried by default, the ones without
    weights are left out, and the run stops only if none is left.
    """
    if config.initialisation == "random":
        return {name: Weights("random", note="as asked for") for name in config.backbones}, {}
    found, missing, reachable = {}, {}, True
    for name in config.backbones:
        backbone = REGISTRY[name]
        weights = _on_disk(backbone, config)
        if weights is None and reachable:
            try:
                weights = _downloaded(backbone)
            except InputError:
                reachable = False  # one refusal or time-out is enough, the address is the same
        weights = weights or _released(backbone)
        if weights is None:
            missing[name] = _how_to_get(backbone, config)
        else:
            found[name] = weights
    if config.source == "phantoms":
        random = {name: Weights("random", note=why) for name, why in missing.items()}
        return {name: found.get(name) or random[name] for name in config.backbones}, {}
    if missing and (not found or "backbones" in config.model_fields_set):
        raise InputError(" ".join(f"{name}: {why}" for name, why in missing.items()))
    return found, missing


def keras_cache() -> Path:
    """Where Keras keeps the weights that it downloads."""
    return Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "models"


def _on_disk(backbone: Backbone, config: Config) -> Weights | None:
    for folder in (config.weights_dir, keras_cache()):
        if folder and (path := Path(folder) / backbone.weights_file).is_file():
            return _imagenet(backbone, path)
    return None


def _downloaded(backbone: Backbone) -> Weights:
    path = keras_cache() / backbone.weights_file
    download.fetch(backbone.weights_address, path, md5=backbone.weights_md5)
    return _imagenet(backbone, path)


def _imagenet(backbone: Backbone, path: Path) -> Weights:
    official = backbone.weights_md5 in (None, files.md5(path))
    note = "" if official else f"{path.name} is not Keras's own file; see where it comes from"
    return Weights("imagenet", path, files.sha256(path), note)


def _released(backbone: Backbone) -> Weights | None:
    path = RELEASED_DIR / f"{backbone.name}.npz"
    if not path.is_file():
        return None
    return Weights("released", path, files.sha256(path), "trained by this project; see models/")


def _how_to_get(backbone: Backbone, config: Config) -> str:
    folder = config.weights_dir or f"a folder of your choice and set {PREFIX}WEIGHTS_DIR to it"
    return (
        "its ImageNet weights are neither on this machine nor to be downloaded; "
        f"fetch {backbone.weights_address} where there is internet and put "
        f"{backbone.weights_file} into {folder}, or set {PREFIX}INITIALISATION=random."
    )
