"""Free disk space: `python -m fracture_utils.clean` lists what can be computed again.

With `--remove` it is removed. Pictures, tables, figures, reports and trained networks stay.
"""

import argparse
import shutil
import sys
from pathlib import Path

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.errors import InputError
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


def main(arguments: list[str] | None = None) -> int:
    """The command line; 0, or 2 with a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m fracture_utils.clean", description=__doc__)
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    given = parser.parse_args(arguments)
    try:
        config = Config(source="phantoms")  # no pictures are looked for
        found = listing(config)
        for path, size in found.items():
            sys.stdout.write(f"{size / 1e6:10.1f} MB  {path}\n")
        if given.remove:
            sys.stdout.write(f"{remove(config) / 1e6:10.1f} MB freed\n")
        else:
            total = sum(found.values()) / 1e6
            sys.stdout.write(f"{total:10.1f} MB would be freed with --remove\n")
    except (InputError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
