"""One X-ray in the notebook: the answer shown, and a button to upload a picture."""

import os
from pathlib import Path

import pandas as pd

from fracture_utils import files
from fracture_utils.config import Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation.conclusion import EDUCATION
from fracture_utils.predict import Panel, odd, predict_one

BROWSER = ("JPY_SESSION_NAME", "VSCODE_PID", "COLAB_RELEASE_TAG")
"""Variables of the environment, one of which is set where a notebook stands in a browser."""


def show(table: pd.DataFrame, config: Config) -> None:
    """Display in a notebook what `predict_one` returned: warnings, numbers and heat map."""
    from IPython import display

    if warning := odd(table):
        display.display(display.Markdown(f"**{warning}**"))
    display.display(table.drop(columns=["path", "overlay"]).round(3).set_index("model"))
    display.display(display.Image(table["overlay"].iloc[-1]))
    display.display(display.Markdown(f"{Panel(config).caution()} {EDUCATION}".strip()))


def upload(config: Config) -> object:
    """A button for a picture of one's own, where a browser is there; elsewhere a sentence."""
    if not set(BROWSER) & set(os.environ):
        return "In a browser a button to upload an X-ray stands here."
    import ipywidgets
    from IPython import display

    button = ipywidgets.FileUpload(
        description="Upload an X-ray", multiple=False, layout={"width": "max-content"}
    )
    output = ipywidgets.Output()

    def answer_to(_: object) -> None:
        sent = button.value[0]
        target = config.results_dir / "answers" / Path(sent["name"]).name
        with output:
            output.clear_output()
            try:
                with files.replacing(target) as temporary:
                    temporary.write_bytes(sent["content"])
                show(predict_one(target, config), config)
            except InputError as error:  # as plain text, because a file's name may hold HTML
                display.display({"text/plain": str(error)}, raw=True)

    button.observe(answer_to, "value")
    return ipywidgets.VBox([button, output])
