"""The card beside a network's weights: how it was trained, and how its logit decides.

This side never imports Keras before a network is loaded.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from fracture_utils import files
from fracture_utils.config import CLASS_NAMES, PREFIX, Config
from fracture_utils.errors import InputError
from fracture_utils.models.backbones import REGISTRY, RELEASED_DIR, Weights
from fracture_utils.models.jobs import ENSEMBLE, folder_of

if TYPE_CHECKING:
    import keras


def save(
    networks: pd.DataFrame,
    operating_points: pd.DataFrame,
    config: Config,
    cautions: Mapping[str, str],
) -> None:
    """Write models/<network>.json: how to use the weights beside it, decision rule included, and,
    from `cautions`, what to say beside a heat map of each model (empty: it may be believed).

    Ensemble.json names the networks of this run and, where there are several, says how their mean
    decides; so what an earlier run left beside them is not asked with them.
    """
    chosen, members = operating_points.set_index("model"), {}
    classes = [CLASS_NAMES[0], config.positive_name]
    columns = ["slope", "intercept", "threshold", "rule"]
    for name in networks.loc[networks["status"] == "trained", "model"]:
        card = files.read_json(folder_of(name, config) / "network.json")
        card |= {"class_names": classes, "source": config.source}
        card |= chosen.loc[name, columns].to_dict() | {"heat_maps": cautions[name]}
        files.write_json(config.models_dir / f"{name}.json", card)
        members[name] = card["weights_sha256"]
    together = {"members": members, "class_names": classes}
    if ENSEMBLE in chosen.index:
        together |= chosen.loc[ENSEMBLE, columns].to_dict() | {"heat_maps": cautions[ENSEMBLE]}
    files.write_json(config.models_dir / f"{ENSEMBLE}.json", together)


def home(config: Config) -> Config:
    """The settings with models_dir where trained networks are: as it is, or where it holds no card
    of a network, the folder of the released ones.
    """
    if any((config.models_dir / f"{name}.json").is_file() for name in REGISTRY):
        return config
    return config.model_copy(update={"models_dir": RELEASED_DIR})


def read(config: Config) -> tuple[dict[str, dict], dict | None]:
    """The cards of the networks of the last run in models_dir, and that of their ensemble if there
    is one and all its members are here. InputError where there is no card at all.
    """
    cards = {}
    for name in [*REGISTRY, ENSEMBLE]:
        path = config.models_dir / f"{name}.json"
        if path.is_file():
            cards[name] = files.read_json(path)
    together = cards.pop(ENSEMBLE, None)
    if together:
        cards = {name: card for name, card in cards.items() if name in together["members"]}
    if not cards:
        raise InputError(
            f"There is no trained network in {config.models_dir}. Run the notebook first, or set "
            f"{PREFIX}MODELS_DIR to the folder that it wrote."
        )
    digests = {name: card["weights_sha256"] for name, card in cards.items()}
    decides = together is not None and "threshold" in together
    return cards, together if decides and together["members"] == digests else None


def load(name: str, config: Config, arithmetic: str | None = None) -> "tuple[keras.Model, dict]":
    """A trained network of models_dir, as `build` makes it, and its card."""
    path = config.models_dir / f"{name}.json"
    card = files.read_json(path) if name in REGISTRY and path.is_file() else {}
    return build(name, card, config, arithmetic), card


def build(name: str, card: dict, config: Config, arithmetic: str | None = None) -> "keras.Model":
    """A trained network, built by code as its card says and filled with the numbers of
    <name>.weights.h5 in models_dir, or of the released <name>.npz. It calculates as its card says
    (None), or in the named precision. InputError where card or weights are not there, or do not
    belong together.
    """
    from fracture_utils.models import classifier, precision

    weights = config.models_dir / card.get("weights", f"{name}.weights.h5")
    if not card or not weights.is_file():
        raise InputError(
            f"There is no trained {name} in {config.models_dir} (files {name}.json and "
            f"{weights.name}); run the notebook first, or name another folder."
        )
    if files.sha256(weights) != card["weights_sha256"]:
        raise InputError(
            f"{weights} is not the file that {name}.json describes; train {name} again."
        )
    as_trained = {"image_size": card["input_size"]}
    as_trained |= {key: card[key] for key in ("head_width",) if key in card}
    sized = Config(**config.model_dump() | as_trained)
    resolved = precision.resolve(arithmetic or card["precision"])
    model = classifier.build(
        REGISTRY[name], Weights("random"), sized, resolved, card.get("head", "mean")
    )
    loaded = classifier.load_released if weights.suffix == ".npz" else classifier.load
    loaded(model, weights)
    return model
