"""What is kept of an inventory and of its duplicates is kept as long as its key says."""

import ast
import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
import radiographs

import fracture_utils
from fracture_utils import files, ledger
from fracture_utils.data import duplicates, inventory, reader

PACKAGE = Path(fracture_utils.__file__).parent
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix() for path in PACKAGE.rglob("*.py")
)
CACHES = pytest.mark.parametrize("module", [inventory, duplicates], ids=lambda m: m.__name__)


def rewritten(monkeypatch, module):
    """As if somebody had edited this module."""
    real, edited = files.sha256, PACKAGE / f"{module}.py"
    monkeypatch.setattr(files, "sha256", lambda p: real(p) + "edited" * (Path(p) == edited))


def updated(monkeypatch, library):
    """As if somebody had installed another version of this library."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: real(name) + ".1" * (name == library)
    )


@CACHES
def test_a_key_knows_its_modules_and_libraries_and_no_other(module, monkeypatch):
    key = ledger.maker(module.CODE, module.LIBRARIES)
    for name in MODULES:
        with monkeypatch.context() as patch:
            rewritten(patch, name)
            changed = ledger.maker(module.CODE, module.LIBRARIES)
        assert (changed != key) == (name in module.CODE), name
        assert changed["a library"] == key["a library"]
    for name in {*ledger.PACKAGES, *module.LIBRARIES}:
        with monkeypatch.context() as patch:
            updated(patch, name)
            changed = ledger.maker(module.CODE, module.LIBRARIES)
        assert (changed != key) == (name in module.LIBRARIES), name


def imported(module):
    """Names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@CACHES
def test_a_key_forgets_nothing_that_is_imported(module):
    """Folders give class and split, which are looked at anew each time."""
    names = set().union(*map(imported, module.CODE))
    own = {name.removeprefix("fracture_utils.").replace(".", "/") for name in names}
    assert {name for name in own if f"data/{name.rpartition('/')[2]}" == name} & set(MODULES) <= {
        *module.CODE,
        "data/folders",
    }
    distributions = importlib.metadata.packages_distributions()
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    used = {distributions[name][0].lower() for name in foreign - {"fracture_utils", "pandas"}}
    assert used <= set(module.LIBRARIES)


@pytest.mark.parametrize(
    ("change", "name", "again"),
    [(rewritten, "data/reader", True), (rewritten, "data/images", False),
     (updated, "pillow", True), (updated, "keras", False)],
)  # fmt: skip
def test_files_are_read_again_after_a_change_of_what_reads_them(monkeypatch, change, name, again):
    config, load, read = radiographs.make(patients=3), reader.load, []
    monkeypatch.setattr(reader, "load", lambda path: read.append(path) or load(path))
    first = inventory.take(config).files
    assert len(read) == len(first)
    with monkeypatch.context() as patch:
        change(patch, name)
        inventory.take(config)
        assert len(read) == (2 if again else 1) * len(first)
        inventory.take(config)  # and kept under the new key
        assert len(read) == (2 if again else 1) * len(first)


@pytest.mark.parametrize(
    ("change", "name", "again"),
    [(rewritten, "data/duplicates", True), (rewritten, "data/audit", False),
     (updated, "scipy", True), (updated, "pillow", False)],
)  # fmt: skip
def test_pairs_are_sought_again_after_a_change(monkeypatch, tmp_path, change, name, again):
    side = duplicates.SIDE
    thumbnails = np.random.default_rng(0).integers(0, 255, (4, side, side), np.uint8)
    thumbnails[2] = thumbnails[0]
    sought, pairs = [], duplicates.pairs
    monkeypatch.setattr(duplicates, "pairs", lambda seen: sought.append(1) or pairs(seen))
    first = duplicates.find(thumbnails, tmp_path)
    assert first[["first", "second"]].to_numpy().tolist() == [[0, 2]]
    assert duplicates.find(thumbnails, tmp_path).equals(first)
    assert len(sought) == 1
    with monkeypatch.context() as patch:
        change(patch, name)
        duplicates.find(thumbnails, tmp_path)
    assert len(sought) == 1 + again
    thumbnails[3] = thumbnails[1]
    assert len(duplicates.find(thumbnails, tmp_path)) == 2
    (tmp_path / "duplicates.json").write_text("[")
    assert len(duplicates.find(thumbnails, tmp_path)) == 2
