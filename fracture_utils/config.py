"""Every setting, once: frozen, validated, from keywords, FRACTURE_* variables or a file."""

import contextlib
import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, TomlConfigSettingsSource

from fracture_utils.data import folders
from fracture_utils.errors import InputError
from fracture_utils.networks import REGISTRY

PREFIX = "FRACTURE_"
CLASS_NAMES = ("normal", "fractured")
"""In the order of their labels: normal is 0, fractured is 1, everywhere."""
SPLITS = ("train", "validation", "test")

PHANTOMS = {"fine_tune_epochs": 1, "seeds": 3}
"""Defaults where the run uses phantoms: a demonstration of minutes on two cores."""
QUICK = {
    "phantom_pictures": 96,
    "seeds": 2,
    "phantom_size": 128,
    "image_size": 96,
    "batch_size": 16,
    "views": 1,
    "head_epochs": 10,
    "fine_tune_epochs": 1,
    "resamples": 200,
}
"""Defaults of a quick run (FRACTURE_QUICK=1): every step, nothing to learn from its numbers."""


class Config(BaseSettings):
    """The settings of a run. `Config(quick=True)`, `FRACTURE_QUICK=1` and a TOML file named by
    FRACTURE_CONFIG say the same, in this order of precedence; a keyword of None counts as
    not given. Raises InputError with one sentence where a setting is wrong.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True
    )

    data_dir: Path = Field(Path("data"), description="folder with train/ and test/ pictures")
    results_dir: Path = Field(Path("results"), description="folder for tables, figures and report")
    models_dir: Path = Field(Path("models"), description="folder for the trained networks")
    weights_dir: Path | None = Field(None, description="folder with ImageNet weights")
    source: Literal["auto", "pictures", "phantoms"] = Field(
        "auto", description="pictures of data_dir, or synthetic phantoms; auto: phantoms if none"
    )
    positive_name: str = Field(
        "fractured",
        min_length=1,
        max_length=40,
        description="word for the positive class; by default what source.json beside the pictures "
        "says, else fractured",
    )
    quick: bool = Field(False, description="shrink everything to see that it runs")
    seed: int = Field(0, ge=0, lt=2**31, description="the one seed of the run")

    phantom_pictures: int = Field(480, ge=48, le=100_000, description="number of phantoms")
    phantom_size: int = Field(256, ge=64, le=2048, description="side of a phantom in pixels")

    audit_policy: Literal["report", "drop", "stop"] = Field(
        "report", description="what to do with copies and conflicting labels"
    )
    aspect: Literal["pad", "squash"] = Field("pad", description="how a picture becomes square")
    validation_share: float = Field(0.2, gt=0, lt=0.5, description="share of train, by group")
    horizontal_flip: bool = Field(True, description="augmentation: mirror left and right")
    vertical_flip: bool = Field(False, description="augmentation: upside down")
    rotation: float = Field(10.0, ge=0, le=180, description="augmentation: largest angle, degrees")
    zoom: float = Field(0.1, ge=0, lt=0.5, description="augmentation: largest share of the side")
    shift: float = Field(0.05, ge=0, lt=0.5, description="augmentation: largest share of the side")
    brightness: float = Field(0.1, ge=0, lt=1, description="augmentation: largest share of white")
    contrast: float = Field(0.1, ge=0, lt=1, description="augmentation: largest change of contrast")

    backbones: Annotated[tuple[str, ...], NoDecode] = Field(
        default_factory=lambda: tuple(REGISTRY),
        description="networks to train, separated by commas",
    )
    initialisation: Literal["imagenet", "random"] = Field("imagenet", description="first weights")
    image_size: int | None = Field(
        None, ge=32, le=2048, description="side of the network's input; None: each its own"
    )
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16", "graph_bfloat16"] = (
        Field("auto", description="arithmetic; auto: what this hardware does fastest")
    )
    batch_size: int = Field(32, ge=1, le=4096, description="pictures per step")
    views: int = Field(
        1, ge=1, le=20, description="cached views of a training picture; 1: as it is"
    )
    head: Literal["auto", "evidence", "mean"] = Field(
        "auto", description="how places become a logit; auto: the better on validation"
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="mean head: dropout before the logit")
    head_epochs: int = Field(30, ge=1, description="most epochs of the head on frozen features")
    head_learning_rate: float = Field(1e-3, gt=0, lt=1, description="learning rate of the head")
    head_l2: float = Field(
        0.1, ge=0, description="mean head: L2 penalty, for features of unit variance"
    )
    head_width: int = Field(64, ge=1, le=1024, description="evidence head: channels of a place")
    place_dropout: float = Field(
        0.5, ge=0, lt=1, description="evidence head: share of map channels left out in training"
    )
    place_epochs: int = Field(12, ge=1, description="evidence head: epochs")
    place_learning_rate: float = Field(
        2e-3, gt=0, lt=1, description="evidence head: its peak learning rate"
    )
    box_weight: float = Field(
        10.0, ge=0, description="evidence head: what boxes weigh against labels; 0: none"
    )
    maps_limit: float = Field(
        16.0, ge=0, description="GiB of disk for the maps of one network while it trains"
    )
    fine_tune_epochs: int = Field(0, ge=0, description="most epochs of fine-tuning; 0: frozen only")
    fine_tune_learning_rate: float = Field(3e-5, gt=0, lt=1, description="its peak learning rate")
    fine_tune_depth: Literal["top", "all"] = Field(
        "top", description="what is fine-tuned: the last block, or every layer"
    )
    seeds: int = Field(
        1, ge=1, le=20, description="times each frozen network's head is trained, to tell chance"
    )
    neighbours: int = Field(
        0,
        ge=0,
        description="pictures of train with numbered names that stay in one part in runs of so "
        "many, as one patient's may lie side by side; 0: none",
    )
    patience: int = Field(5, ge=1, description="epochs without a better validation AUC")
    cluster: str = Field(
        "", description="address of a Dask scheduler that trains the networks; empty: this machine"
    )

    resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples")
    threshold_rule: Literal["youden", "sensitivity"] = Field(
        "youden", description="how the threshold is chosen on validation"
    )
    target_sensitivity: float = Field(0.95, gt=0, le=1, description="for the rule sensitivity")

    tensorboard: Path | None = Field(
        None, description="folder for training curves as event files of TensorBoard; None: none"
    )

    subgroups: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="further columns of images.csv to report by, separated by commas"
    )
    prevalence: float | None = Field(
        None, gt=0, lt=1, description="share of fractures where it would be used; None: as in test"
    )

    def __init__(self, **keywords: Any) -> None:
        _refuse_unknown_variables()
        try:
            super().__init__(**{name: v for name, v in keywords.items() if v is not None})
        except ValidationError as error:
            raise InputError(_sentence(error.errors()[0])) from None

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):
        """Keywords before environment before file; nothing else is read."""
        path = os.environ.get(f"{PREFIX}CONFIG")
        if path and not Path(path).is_file():
            raise InputError(f"{PREFIX}CONFIG names {path}, which is no file; correct or unset it.")
        file = [TomlConfigSettingsSource(settings_cls, Path(path))] if path else []
        return init_settings, env_settings, *file

    @model_validator(mode="before")
    @classmethod
    def _layer_defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        folder, source = Path(given.get("data_dir", "data")), given.get("source", "auto")
        if source == "auto":
            source = folders.find_source(folder, "data_dir" in given)
        defaults = QUICK if _is_true(given.get("quick")) else {}
        if source == "phantoms":
            folder, defaults = folder / "phantoms", PHANTOMS | defaults
        return _said_of(folder) | defaults | given | {"source": source}

    @field_validator("backbones", mode="before")
    @classmethod
    def _split_and_check_backbones(cls, value: Any) -> tuple[str, ...]:
        names = [n.strip() for n in value.split(",")] if isinstance(value, str) else list(value)
        for name in names:
            if name not in REGISTRY:
                raise ValueError(
                    f"{name!r} is no known backbone; choose from {', '.join(REGISTRY)}"
                )
        if not names or len(set(names)) < len(names):
            raise ValueError("name each backbone once, and at least one")
        return tuple(names)

    @field_validator("subgroups", mode="before")
    @classmethod
    def _split_subgroups(cls, value: Any) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        return tuple(name.strip() for name in names if name.strip())

    @property
    def pictures_dir(self) -> Path:
        """The folder that holds train/ and test/: the user's pictures, or the phantoms."""
        return self.data_dir / "phantoms" if self.source == "phantoms" else self.data_dir

    @property
    def cache_dir(self) -> Path:
        """What can be computed again: pixel store, features, checkpoints, logs."""
        return self.results_dir / "cache"

    @property
    def figures_dir(self) -> Path:
        """The folder of the PNG figures."""
        return self.results_dir / "figures"

    def table(self) -> pd.DataFrame:
        """One row a setting, with the columns setting, value and meaning."""
        fields = type(self).model_fields.items()
        rows = [(name, str(getattr(self, name)), field.description) for name, field in fields]
        return pd.DataFrame(rows, columns=["setting", "value", "meaning"]).set_index("setting")


def _said_of(pictures_dir: Path) -> dict[str, Any]:
    """What the import of a published data set noted of its positive class, and of neighbours."""
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        described = json.loads((pictures_dir / "source.json").read_text(encoding="utf-8"))
        said = {"positive_name": "positive", "neighbours": "neighbours"}
        found = {name: described.get(key) for name, key in said.items()}
        return {name: value for name, value in found.items() if value is not None}
    return {}


def _is_true(value: Any) -> bool:
    return str(value).lower() in {"1", "true", "t", "yes", "y", "on"}


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Config.model_fields} | {f"{PREFIX}CONFIG"}
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}."
            raise InputError(f"The environment variable {name} is no setting; {hint}")


def _sentence(error: Mapping[str, Any]) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Config.model_fields, n=1)
        return f"There is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
    problem = error["msg"].removeprefix("Value error, ")
    meaning = Config.model_fields[name].description if name in Config.model_fields else ""
    return (
        f"The setting {name} ({PREFIX}{name.upper()}) is {error['input']!r}: {problem}. "
        f"It means: {meaning}."
    )
