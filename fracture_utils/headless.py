"""The notebook without a person: executed cell by cell, and kept as a page."""

import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import ValidationError

import fracture_utils
from fracture_utils import files, ledger
from fracture_utils.config import PREFIX, Config
from fracture_utils.errors import InputError, RunError, first_line
from fracture_utils.models import process

NAME = "fracture-detection.ipynb"
LOADED = ("html_head_js_requirejs", "html_head_js_mathjax", "html_head_js_mermaidjs",
          "jupyter_widgets")  # fmt: skip
"""Blocks of nbconvert's page that load scripts from the internet."""
FIGURE = """{% block data_png scoped %}<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data['image/png'] | escape_html }}"
width="{{ output | get_metadata('width', 'image/png') or 800 }}" style="max-width: 100%"
alt="{{ (output | get_metadata('alt', 'image/png') or '') | escape_html }}"></div>{% endblock %}"""
"""A figure with its alternative text, which the page of JupyterLab leaves out."""
OFFLINE = "{% extends 'index.html.j2' %}" + FIGURE
OFFLINE += "".join(f"{{% block {name} %}}{{% endblock %}}" for name in LOADED)


def execute(notebook: Path | None, settings: Mapping[str, object]) -> Path:
    """Run `notebook` (None: the project's) under these settings; the page that shows it all.

    Prints the title of each section as it begins. InputError, in the notebook's own words, where a
    file or setting is wrong; RunError where a cell fails otherwise, with the traceback in run.log.
    """
    config = Config(**settings)
    path = notebook or _find()
    try:
        story = nbformat.read(path, as_version=4)
    except (OSError, ValueError, ValidationError) as error:
        problem = first_line(error)
        raise InputError(f"{path} is no notebook ({problem}); correct --notebook.") from None
    variables = {PREFIX + name.upper(): str(value) for name, value in settings.items()}
    client = NotebookClient(
        story,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path.cwd())}},
        on_cell_start=_say,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of its own way to talk to us
    )
    try:
        client.execute(env=process.environment() | variables)
    except CellExecutionError as error:
        if error.ename == "InputError":
            raise InputError(str(error.evalue)) from None
        config.results_dir.mkdir(parents=True, exist_ok=True)
        ledger.note(config.results_dir / "run.log", str(error))
        raise RunError(
            f"The notebook failed ({error.ename}: {error.evalue}); the traceback is in "
            f"{config.results_dir / 'run.log'}."
        ) from None
    except DeadKernelError:
        raise RunError(
            f"The notebook's process died, most often for lack of memory; lower "
            f"{PREFIX}BATCH_SIZE and run again: it goes on where it stopped."
        ) from None
    page = config.results_dir / f"{path.stem}.html"
    files.write_text(page, shown(story))
    return page


def shown(story: nbformat.NotebookNode) -> str:
    """The notebook as HTML that opens offline: no request to a CDN. It needs none, because it holds
    no formulas and no diagrams, and its widgets are of the kernel.
    """
    return HTMLExporter(raw_template=OFFLINE).from_notebook_node(story)[0]


def _find() -> Path:
    for folder in (Path.cwd(), Path(fracture_utils.__file__).parents[1]):
        if (folder / NAME).is_file():
            return folder / NAME
    raise InputError(f"There is no {NAME} here; name it with --notebook.")


def _say(cell: nbformat.NotebookNode, **_: object) -> None:
    title = cell["source"].split("\n")[0]
    if cell["cell_type"] == "markdown" and title.startswith("## "):
        sys.stdout.write(f"{title.removeprefix('## ')} …\n")
        sys.stdout.flush()
