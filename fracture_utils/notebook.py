"""The notebook without a browser: executed cell by cell and written as a web page."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from tqdm.auto import tqdm

from fracture_utils import artifacts
from fracture_utils.config import PREFIX, Config, InputError, RunError, first_line
from fracture_utils.models import backbones

NOTEBOOK = Path(__file__).parents[1] / "fracture-detection.ipynb"
PAGE = Path(__file__).parent / "templates" / "notebook.html.j2"
QUIET = ["--IPKernelApp.log_level=ERROR"]
DIED = f"The notebook's process died; lower {PREFIX}BATCH_SIZE if memory is short, and run again."


def execute(settings: Mapping[str, object]) -> Path:
    """Run the notebook under these settings; returns the path of its page.

    Prints section titles and the progress of the training. Raises InputError with the message of
    the notebook where a file or setting is wrong, or else RunError; run.log has the traceback. A
    KeyboardInterrupt stops the notebook and its training jobs.
    """
    config, story = Config(**settings), nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(story, timeout=None, extra_arguments=QUIET)
    native = KernelSpecManager(kernel_dirs=[])  # this Python, whatever is installed as python3
    client.km, client.on_cell_start = AsyncKernelManager(kernel_spec_manager=native), _show_title
    given = {PREFIX + name.upper(): str(v) for name, v in settings.items() if v is not None}
    # In a separate thread: in the main thread, nbclient would handle the signals.
    pool = ThreadPoolExecutor(1)
    future = pool.submit(asyncio.run, client.async_execute(env=backbones.environment() | given))
    try:
        _show_progress(config, future)
        future.result()
    except KeyboardInterrupt:
        if client.km and client.km.has_kernel:
            asyncio.run(client.km.interrupt_kernel())
        wait([future], 10)  # seconds, for its training jobs to end
        raise
    except CellExecutionError as error:
        if error.ename in ("InputError", "ReadError"):
            raise InputError(str(error.evalue)) from None
        log, reason = config.results_dir / "run.log", first_line(Exception(error.evalue))
        artifacts.write_text(log, str(error))
        raise RunError(f"The notebook failed ({error.ename}: {reason}); see {log}.") from None
    except DeadKernelError:
        raise RunError(DIED) from None
    page = config.results_dir / f"{NOTEBOOK.stem}.html"
    artifacts.write_text(page, html(story))
    return page


def html(story: nbformat.NotebookNode) -> str:
    """The notebook as a self-contained HTML page, with the alternative texts of its figures."""
    return HTMLExporter(raw_template=PAGE.read_text("utf-8")).from_notebook_node(story)[0]


def _show_title(cell: nbformat.NotebookNode, **_: object) -> None:
    if cell["source"].startswith("## "):
        tqdm.write(cell["source"].partition("\n")[0].removeprefix("## "))


def _show_progress(config: Config, future: Future) -> None:
    """Show status.json of each training in one line or, if output goes to a file, once a minute."""
    started, terminal = time.time(), sys.stdout.isatty()
    with tqdm(bar_format="{desc} {elapsed}", file=sys.stdout, disable=not terminal) as line:
        while not wait([future], 0.5 if terminal else 60).done:
            parts = []
            for file in sorted((config.cache_dir / "models").glob("*/status.json")):
                with contextlib.suppress(OSError, InputError):
                    status, new = artifacts.read_json(file), file.stat().st_mtime > started
                    share = f"{status['stage']} {status['done'] / status['total']:.0%}"
                    if new and not file.with_name("network.json").exists():
                        parts.append(f"{file.parent.name}: {share}")
            line.set_description_str(text := ", ".join(parts))
            if text and not terminal:
                tqdm.write(text)
