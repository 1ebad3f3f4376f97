"""Model cards: how each model was trained, its calibration and its threshold."""

from pathlib import Path
from typing import Any

from fracture_utils import artifacts
from fracture_utils.config import FRACTURED, NORMAL, PREFIX, Config, InputError
from fracture_utils.evaluation import sentences
from fracture_utils.evaluation.intervals import ENDS
from fracture_utils.evaluation.predictions import ENSEMBLE
from fracture_utils.models.backbones import EARLY, RELEASED_DIR, find, resolve_precision


def save(results: Any, config: Config) -> None:
    """Write <name>.json next to the weights of each trained model of `Results`, and Ensemble.json,
    which lists them with their SHA-256, names the selected one, and contains the operating point
    of their ensemble, if any.
    """
    points, members = results.operating_points.set_index("model"), {}
    classes, columns = [NORMAL, config.positive], ["slope", "intercept", "rule"]
    columns += [f"threshold{end}" for end in ENDS]
    source = {"source": config.source, "trained_on": config.images_dir.resolve().name}
    fractured = results.images["label"].eq(FRACTURED).groupby(results.images["split"])
    counts = fractured.agg(images="size", fractured="sum").astype(int)
    counts = counts.rename({"train": "training"}).reindex(["training", "validation"], fill_value=0)
    for name in results.networks.query("status == 'trained'")["model"]:
        card = artifacts.read_json(config.cache_dir / "models" / name / "network.json")
        members[name] = card["weights_sha256"]
        # The final head of a run with folds has learned from all of them.
        used = counts.sum().to_frame("training").T if card.get("folds") else counts
        card |= used.to_dict("index") | {"class_names": classes} | source
        caution = sentences.heat_map_caution(results.localization, name)
        card |= points.loc[name, columns].to_dict() | {"heat_map_caution": caution}
        artifacts.write_json(config.models_dir / f"{name}.json", card)
    ensemble = {"members": members, "selected": results.selected}
    ensemble |= points.loc[ENSEMBLE, columns].to_dict() if ENSEMBLE in points.index else {}
    artifacts.write_json(config.models_dir / f"{ENSEMBLE}.json", ensemble)


def home(config: Config) -> Path:
    """models_dir if it was set. Otherwise its models if they were trained on radiographs, not on
    phantoms, or else the released ones.
    """
    sources = {card.get("source") for card in cards_in(config.models_dir).values()}
    applies = "models_dir" in config.model_fields_set or (sources and "phantoms" not in sources)
    return config.models_dir if applies else RELEASED_DIR


def read(folder: Path) -> tuple[dict[str, dict], str, dict | None]:
    """The cards of the models of the last run, the name of the selected one (the first where
    Ensemble.json names none), and the operating point of their ensemble if there is one and all
    members are present. InputError if there is no card of the selected model.
    """
    cards, path = cards_in(folder), folder / f"{ENSEMBLE}.json"
    ensemble = artifacts.read_json(path) if path.is_file() else {"members": cards}
    selected = ensemble.get("selected", next(iter(cards), ""))
    if selected not in cards:
        missing = f"card {selected}.json" if selected else "trained model"
        advice = f"Name the folder of a run, or leave {PREFIX}MODELS_DIR out for released models"
        raise InputError(f"There is no {missing} in {folder}. {advice}.")
    digests = {name: card["weights_sha256"] for name, card in cards.items()}
    decides = "threshold" in ensemble and ensemble["members"] == digests
    return cards, selected, ensemble if decides else None


def cards_in(folder: Path) -> dict[str, dict]:
    """The cards of the networks in a folder that Ensemble.json names, or of all, by name."""
    cards = {path.stem: artifacts.read_json(path) for path in sorted(folder.glob("*.json"))}
    members = (cards.pop(ENSEMBLE, None) or {"members": cards})["members"]
    own = {name: cards[name] for name in members if isinstance(cards.get(name), dict)}
    return {name: card for name, card in own.items() if "weights_sha256" in card}


def load(name: str, card: dict, folder: Path, precision: str = "float32") -> Any:
    """The Keras model that `card` describes, built from code, with weights loaded from `folder`:
    in float32 by default, because 16 bits change probabilities (benchmarks/README.md). InputError
    where the weights are missing.
    """
    from fracture_utils.models import builder

    path = folder / card.get("weights", f"{name}.weights.h5")
    same_layer = card.get("ood_layer", EARLY) == find(card["model"]).content
    if not path.is_file() or artifacts.digest(path) != card["weights_sha256"] or not same_layer:
        problem = f"{path} is missing or differs from what {name}.json describes"
        raise InputError(f"{problem}; run the notebook again, or choose another folder.")
    precision = resolve_precision(precision)
    model = builder.build(card["model"], card["head"], size=card["input_size"], precision=precision)
    builder.load_weights(model, path)
    return model
