"""Settings of a run, each defined once, and the exceptions shown to users without a traceback."""

import difflib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode

PREFIX = "FRACTURE_"
NORMAL, FRACTURED = CLASS_NAMES = ("normal", "fractured")
"""In the order of their labels: normal is always 0, fractured is always 1."""
SPLITS = ("train", "validation", "test")
OUT_OF_FOLD = "cross-validation"
"""The split of predictions for images that the head of their fold has not seen."""
BACKBONES = ("DenseNet121", "ResNet50", "VGG16", "MobileNet", "InceptionV3", "Xception")
AUGMENTATION = ("rotation", "zoom", "shift", "brightness", "contrast", "horizontal_flip",
                "vertical_flip")  # fmt: skip
SCORING = ("seed", "quick", "target_sensitivity", "prevalence")  # settings of an evaluation
LAYOUT = "train/fractured, train/normal, test/fractured and test/normal"
DOCUMENTS = ".csv .tsv .xls .xlsx .ods .json .xml .yaml .yml .txt .md .pdf .html .py .zip .db .ini"
SYSTEM = ("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
          "system volume information", "phantoms")  # fmt: skip
PAPERS = ("license", "licence", "readme", "copying", "makefile", "notice", "authors")
QUICK_DEFAULTS = {"phantom_images": 96, "image_size": 96, "batch_size": 16}


class InputError(Exception):
    """A file, folder or setting that the user can correct; the message names it and what to do."""

    def _render_traceback_(self) -> list[str]:  # IPython shows no traceback
        return [f"{type(self).__name__}: {self}"]


class RunError(Exception):
    """A failure for a reason other than the input; exit code 1."""


def first_line(error: BaseException) -> str:
    """The message of an exception in one line of at most 120 characters."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0][:120]


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


class Config(BaseSettings, env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True):
    """The settings of a run: keywords (`quick=True`) or environment variables (`FRACTURE_QUICK=1`).

    A keyword of None has no effect. Raises InputError if a setting is wrong.
    """

    data_dir: Path = Field(Path("data"), description="folder with train/ and test/ images")
    results_dir: Path = Field(Path("results"), description="folder for tables, figures and report")
    models_dir: Path = Field(Path("models"), description="folder for trained models")
    weights_dir: Path | None = Field(None, description="folder with ImageNet weights files")
    source: Literal["auto", "images", "phantoms"] = Field(
        "auto", description="images of data_dir or synthetic phantoms; auto: phantoms if no images"
    )
    quick: bool = Field(False, description="few and small images: checks that everything works")
    seed: int = Field(0, ge=0, lt=2**31, description="random seed of the run")
    phantom_images: int = Field(480, ge=48, le=100_000, description="number of phantoms")

    audit_policy: Literal["report", "drop", "stop"] = Field(
        "report", description="what to do with copies and conflicting labels"
    )
    test_share: float = Field(
        0.2, gt=0, le=0.5, description="fraction of images for testing if none has a split"
    )
    folds: int = Field(
        5, ge=0, le=20, description="cross-validation folds of a frozen backbone's head; 0: none"
    )
    neighbors: int | None = Field(
        None, ge=0, description="consecutive file numbers that form one group; None: as imported"
    )
    horizontal_flip: bool = Field(True, description="augmentation: mirror left and right")
    vertical_flip: bool = Field(False, description="augmentation: mirror up and down")
    rotation: float = Field(10.0, ge=0, le=180, description="augmentation: largest angle, degrees")
    zoom: float = Field(0.1, ge=0, lt=0.5, description="augmentation: maximum fraction of the side")
    shift: float = Field(0.05, ge=0, lt=0.5, description="augmentation: maximum fraction of side")
    brightness: float = Field(
        0.1, ge=0, lt=1, description="augmentation: maximum change as a fraction of the gray levels"
    )
    contrast: float = Field(0.1, ge=0, lt=1, description="augmentation: largest relative change")
    augmented_copies: int = Field(
        1, ge=0, le=99, description="augmented copies of an image in the cached feature maps"
    )

    backbones: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = Field(
        BACKBONES, min_length=1, description="networks from keras.applications, separated by commas"
    )
    initialization: Literal["imagenet", "random"] = Field("imagenet", description="initial weights")
    image_size: int | None = Field(None, ge=32, le=2048, description="pixels; None: by backbone")
    precision: Literal["auto", "float32", "mixed_float16", "mixed_bfloat16", "graph_bfloat16"] = (
        Field("auto", description="precision; auto: the fastest that this hardware supports")
    )
    batch_size: int = Field(32, ge=1, le=4096, description="images per step")
    head: Literal["auto", "localization", "pooled"] = Field(
        "auto", description="classification head; auto: the better one on held-out images"
    )
    fine_tune_epochs: int | None = Field(
        None, ge=0, description="number of epochs; 0: none, None: by hardware"
    )
    fine_tune_depth: Literal["auto", "top", "all"] = Field(
        "auto", description="layers to fine-tune; auto: all with a GPU, else the top block"
    )
    disk_limit: float = Field(16.0, ge=0, description="GiB for the feature maps of one model")
    cluster: str = Field("", description="address of a Dask scheduler; empty: train here")

    target_sensitivity: float | None = Field(
        None, gt=0, le=1, description="sensitivity at the chosen threshold; None: Youden's J"
    )
    prevalence: float | None = Field(None, gt=0, lt=1, description="assumed rate; None: observed")

    def __init__(self, **keywords: Any) -> None:
        variables = [PREFIX + name.upper() for name in type(self).model_fields]
        for name in os.environ:
            if name.startswith(PREFIX) and name not in variables:
                hint = _nearest(name, variables)
                raise InputError(f"The environment variable {name} is not a setting{hint}")
        try:
            super().__init__(**{name: v for name, v in keywords.items() if v is not None})
        except ValidationError as errors:
            error = errors.errors()[0]
            name, known = str(error["loc"][0]), type(self).model_fields
            if error["type"] == "extra_forbidden":
                raise InputError(f"There is no setting {name!r}{_nearest(name, known)}") from None
            what = f"The setting {name} ({PREFIX}{name.upper()}) is {error['input']!r}"
            why = f"{error['msg']}. Meaning: {known[name].description}."
            raise InputError(f"{what}: {why}") from None
        if self.results_dir.resolve() == self.data_dir.resolve():
            raise InputError(f"{self.results_dir} is the data folder; name another for results.")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, given: dict[str, Any]) -> dict[str, Any]:
        source = given.get("source", "auto")
        if source == "auto":
            source = _find_source(Path(given.get("data_dir", "data")), "data_dir" in given)
        quick = str(given.get("quick")).lower() in {"1", "true", "t", "yes", "y", "on"}
        return (QUICK_DEFAULTS if quick else {}) | given | {"source": source}

    @property
    def images_dir(self) -> Path:
        """The folder that holds train/ and test/: the user's images, or the phantoms."""
        return self.data_dir / "phantoms" if self.source == "phantoms" else self.data_dir

    @property
    def cache_dir(self) -> Path:
        """The folder for what can be recomputed: pixels, feature maps, checkpoints, logs."""
        return self.results_dir / "cache"

    @property
    def positive(self) -> str:
        """The word for the positive class: "abnormal" for MURA, otherwise "fractured"."""
        return str(self._described().get("positive") or FRACTURED)

    @property
    def run_length(self) -> int:
        """Number of consecutive file numbers that form one group; 0: none."""
        own = self.neighbors
        return int(self._described().get("neighbors") or 0) if own is None else own

    def _described(self) -> dict[str, Any]:
        """The content of source.json, which an import writes into the folder of the images."""
        try:
            return dict(json.loads((self.images_dir / "source.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    @property
    def augmentation(self) -> dict[str, Any]:
        """The settings of augmentation by name."""
        return self.model_dump(include={*AUGMENTATION})

    @property
    def phantom_size(self) -> int:
        """Side of a phantom in pixels."""
        return 128 if self.quick else 256

    @property
    def resamples(self) -> int:
        """Bootstrap resamples of the evaluation."""
        return 200 if self.quick else 2000

    def table(self) -> pd.DataFrame:
        """One row per setting, with the columns setting, value and meaning."""
        fields = type(self).model_fields.items()
        rows = [(name, str(getattr(self, name)), field.description) for name, field in fields]
        return pd.DataFrame(rows, columns=["setting", "value", "meaning"]).set_index("setting")


def is_hidden(path: Path) -> bool:
    """Whether a path below the data folder belongs to the system or to a tool, as do phantoms."""
    return any(part[:1] == "." or part.lower() in SYSTEM for part in path.parts)


def may_be_image(path: Path) -> bool:
    """Whether a path below the data folder is neither hidden nor a document."""
    is_document = path.suffix.lower() in DOCUMENTS.split() or path.name.lower() in PAPERS
    return not is_document and not is_hidden(path)


def _find_source(data_dir: Path, named: bool) -> str:
    """The source that "auto" means: phantoms where no folder is named and the default is empty."""
    if named and not data_dir.is_dir():
        raise InputError(f"The data folder {data_dir} does not exist. Correct FRACTURE_DATA_DIR.")
    for folder, _, names in os.walk(data_dir, followlinks=True):
        if any(may_be_image(Path(folder, name).relative_to(data_dir)) for name in names):
            return "images"
    if named or any((data_dir / name).is_file() for name in ("images.csv", "boxes.csv")):
        advice = f"Put them into {LAYOUT} below it, or set {PREFIX}SOURCE=phantoms"
        raise InputError(f"The data folder {data_dir} has no images. {advice} for synthetic ones.")
    return "phantoms"


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else "; see Config().table()."
