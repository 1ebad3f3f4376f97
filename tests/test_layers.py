"""The arrow of the design: a module imports only from its left."""

import ast
import tomllib
from pathlib import Path

import pytest

import fracture_utils

ROOT = Path(fracture_utils.__file__).parent
ORDER = [
    *(
        "errors",
        "files",
        "lazy",
        "schemas",
        "tables",
        "events",
        "data.folders",
        "networks",
        "config",
        "download",
        "ledger",
    ),
    *("data.greys", "data.dicom", "data.reader"),
    *("data.anatomy", "data.radiography", "data.phantoms", "data.duplicates"),
    *("data.groups", "data.inventory", "data.sidecars"),
    *("data.sources.published", "data.sources.archives", "data.sources.mura"),
    *("data.sources.fracatlas", "data.sources.grazpedwri", "data.sources.folders"),
    "data.sources.placing",
    *("data.images", "data.agreement"),
    *("data.audit", "data.store", "data.places", "data.augmentation", "data.batches"),
    *(
        "models.process",
        "models.precision",
        "models.released",
        "models.backbones",
        "models.evidence",
        "models.classifier",
        "models.folding",
        "models.speed",
        "models.features",
    ),
    *(
        "models.training",
        "models.heads",
        "models.heatmaps",
        "models.familiarity",
        "models.prediction",
    ),
    *("models.progress", "models.crew", "models.cluster", "models.job"),
    *("models.jobs", "models.cards", "models.worker"),
    *("evaluation.predictions", "evaluation.bootstrap", "evaluation.intervals"),
    *("evaluation.probabilities", "evaluation.metrics", "evaluation.probe"),
    *("evaluation.calibration", "evaluation.comparison"),
    *(
        "evaluation.wording",
        "evaluation.seeds",
        "evaluation.subgroups",
        "evaluation.use",
        "evaluation.detection",
        "evaluation.localisation",
        "evaluation.gallery",
    ),
    *("evaluation.findings", "evaluation.conclusion", "evaluation.claim"),
    *("evaluation.verdict",),
    *("evaluation.plots.style", "evaluation.plots.album", "evaluation.plots.data"),
    *("evaluation.plots.training", "evaluation.plots.ranking", "evaluation.plots.curves"),
    *("evaluation.plots.decisions", "evaluation.plots.maps"),
    *("evaluation.cases", "evaluation.drawings", "evaluation.grids", "evaluation.page"),
    *("evaluation.report", "evaluation.rescoring"),
    *("run", "predict", "capture", "widget"),
    *("export", "clean", "headless", "__main__"),
]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever in the file it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(path: Path) -> set[str]:
    """Those of them that are modules of the package."""
    stripped = {name.removeprefix("fracture_utils.") for name in imports(path)}
    return stripped & set(MODULES)


def test_every_module_has_its_place():
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_imports_only_from_its_left(name):
    wrong = {other for other in own(MODULES[name]) if ORDER.index(other) >= ORDER.index(name)}
    assert not wrong


@pytest.mark.parametrize("name", [n for n in sorted(MODULES) if n.startswith("evaluation")])
def test_evaluation_needs_no_network_and_no_pixels(name):
    assert not {n for n in own(MODULES[name]) if n.split(".")[0] in {"data", "models"}}
    assert not {n for n in imports(MODULES[name]) if n.split(".")[0] in {"keras", "tensorflow"}}


def test_tensorflow_is_imported_in_one_module_at_most():
    using = {
        name
        for name, path in MODULES.items()
        if any(n.split(".")[0] == "tensorflow" for n in imports(path))
    }
    assert using == {"models.precision"}


def test_what_the_notebook_uses_stays_free_of_keras():
    allowed = {"data.batches"} | {n for n in MODULES if n.startswith("models.")}
    allowed |= {
        "predict",
        "capture",
        "widget",
        "export",
        "__main__",
    }  # in a process of its own
    allowed |= {"run"}  # hands Keras to the one cell that shows it, and only then
    light = {"models.backbones", "models.jobs", "models.progress", "models.familiarity"}
    light |= {"models.process", "models.crew", "models.cluster", "models.job"}
    for name, path in MODULES.items():
        if name not in allowed or name in light:
            assert not {n for n in imports(path) if n.split(".")[0] == "keras"}, name
            assert not own(path) & (allowed - light), name


def test_every_folder_of_the_package_is_installed():
    described = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    folders = {path.parent.relative_to(ROOT.parent) for path in ROOT.rglob("*.py")}
    named = {".".join(folder.parts) for folder in folders}
    assert named == set(described["tool"]["setuptools"]["packages"])
