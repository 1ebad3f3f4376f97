"""The package stays small: ceilings on lines, modules, settings and requirements.

The goals are 6,500 lines and 4,700 lines of code: what lies above them goes before more is added.
"""

import ast
import io
import json
import tokenize
from pathlib import Path

import pytest

import fracture_utils
from fracture_utils.config import Config

PACKAGE = Path(fracture_utils.__file__).parent
ROOT = PACKAGE.parent
SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def lines(folder: Path, pattern: str) -> int:
    paths = [p for p in folder.rglob(pattern) if p.is_file() and "__pycache__" not in p.parts]
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def code_lines(source: str) -> int:
    """Lines without blanks, comments and docstrings."""
    used: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            used |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            used -= set(range(node.lineno, node.end_lineno + 1))
    return len(used)


def notebook_lines() -> int:
    story = json.loads((ROOT / "fracture-detection.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in story["cells"] if cell["cell_type"] == "code"]
    return sum(1 for cell in cells for line in "".join(cell["source"]).splitlines() if line.strip())


def requirements() -> int:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return sum(1 for line in text.splitlines() if line.strip() and not line.startswith("#"))


SOURCES = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
COUNTS = {
    "lines of the package": (lambda: lines(PACKAGE, "*.py"), 6934),
    "lines of code of the package": (lambda: sum(map(code_lines, SOURCES)), 5132),
    "modules": (lambda: sum(1 for source in SOURCES if source.strip()), 45),
    "lines of templates": (lambda: lines(PACKAGE / "templates", "*"), 500),
    "lines of code of the notebook": (notebook_lines, 300),
    "lines of benchmarks": (lambda: lines(ROOT / "benchmarks", "*.py"), 1600),
    "settings": (lambda: len(Config.model_fields), 35),
    "direct requirements": (requirements, 18),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_ceiling_holds(name):
    count, ceiling = COUNTS[name]
    assert 0 < count() <= ceiling, f"{count()} {name}; at most {ceiling} are allowed"


def test_templates_lie_in_one_folder():
    """Only data besides: what Python holds as a string counts as code."""
    others = {p.suffix for p in PACKAGE.rglob("*") if p.is_file() and p.parent.name != "templates"}
    assert others <= {".py", ".pyc", ".csv"}


def test_code_lines_are_counted_without_blanks_comments_and_docstrings():
    source = '"""Module."""\n\nA = 1\n"""Of A."""\n# why\n'
    source += 'def f():\n    """Do."""\n    return (\n        A\n    )\n'
    assert code_lines(source) == 5
