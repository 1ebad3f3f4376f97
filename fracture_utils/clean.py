"""Free disk space: what can be computed again is listed, or removed.

Pictures, tables, figures, reports and trained networks stay.
"""

import shutil
from pathlib import Path

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.ledger import LOCK, claim


def listing(config: Config) -> dict[Path, int]:
    """What could be removed, and how many bytes each would free: the parts of the cache folder,
    and what interrupted writes left in the folders of results and models.
    """
    cache = config.cache_dir
    parts = [path for path in sorted(cache.glob("*")) if path.name != LOCK]
    parts += files.leftovers(config.results_dir, config.figures_dir, config.models_dir)
    return {path: _bytes(path) for path in parts if not path.is_symlink()}


def remove(config: Config) -> int:
    """Remove what `listing` lists and return the bytes freed. InputError while a run is at work."""
    freed = 0
    with claim(config.cache_dir), claim(config.models_dir):
        for path, size in listing(config).items():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            freed += size
    return freed


def _bytes(path: Path) -> int:
    parts = path.rglob("*") if path.is_dir() else [path]
    return sum(part.lstat().st_size for part in parts if part.is_file())
