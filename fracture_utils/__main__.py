"""The command line: `python -m fracture_utils {run,predict,evaluate,import,export}`.

Exit code 0; 2 with one sentence on standard error where a file, folder or setting is wrong; 1 where
the program fails. A command imports what it needs, so that a wrong name is reported at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fracture_utils.config import Config, InputError, RunError


def run(notebook: Path | None, **settings: object) -> int:
    from fracture_utils import notebook as runner

    page = runner.execute(notebook, settings)
    print(f"The report is {page.with_name('report.html')}, the executed notebook {page}.")
    return 0


def predict(images: list[Path], numbers_only: bool, **settings: object) -> int:
    if not any(path.is_file() for path in images):
        raise InputError(f"There is no file {', '.join(map(str, images))}; correct the name.")
    from fracture_utils import predict as prediction
    from fracture_utils.evaluation import sentences

    predictor = prediction.Predictor(Config(source="phantoms", **settings))  # needs no data folder
    answers, problems = prediction.predict(images, predictor, draw=not numbers_only)
    print(*sentences.answers(answers, predictor.cards), sep="\n")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 2 if problems else 0


def evaluate(predictions: Path, **settings: object) -> int:
    from fracture_utils import report
    from fracture_utils.evaluation import results

    config = Config(source="images", **settings)
    scored = results.evaluate_file(predictions, config)
    scored.save(config.results_dir)
    report.write(scored, config.results_dir)
    print(*scored.conclusions, f"Written to {config.results_dir}.", sep="\n")
    return 0


def import_(name: str, source: str, destination: Path, copy: bool) -> int:
    from fracture_utils.data import sources

    imported = sources.bring(name, source, destination, copy)
    counts = imported.images.groupby(["split", "label"]).size()
    print(counts.to_string(), imported.summary(), sep="\n")
    return 0


def export(models: list[str], to: Path, **settings: object) -> int:
    from fracture_utils import export as exporter

    for line in exporter.export(models, to, Config(source="phantoms", **settings)):
        print(line, flush=True)
    return 0


SCORING = ("results_dir", "seed", "quick", "target_sensitivity", "prevalence", "subgroups")
FILE, FLAG = {"type": Path}, {"action": "store_true"}
COMMANDS: dict[str, tuple] = {
    "run": (run, "Execute the notebook.", "--quick", Config.model_fields,
            {"--notebook": FILE | {"help": "default: the one of the project"}}),
    "predict": (predict, "Apply trained models to radiographs.", "X.png",
                ("results_dir", "models_dir"),
                {"images": FILE | {"nargs": "+", "help": "PNG, JPEG, TIFF, BMP or DICOM"},
                 "--numbers-only": FLAG | {"help": "draw no heat maps (faster)"}}),
    "evaluate": (evaluate, "Score a table of predictions.", "predictions.csv", SCORING,
                 {"predictions": FILE | {"help": "CSV: path, label, model, probability …"}}),
    "import": (import_, "Import a published data set.", "mura MURA-v1.1.zip datasets/mura", (),
               {"name": {"help": "fracatlas, mura or folders"},
                "source": {"help": "folder or zip archive as published, or download (fracatlas)"},
                "destination": FILE | {"help": "new folder"},
                "--copy": FLAG | {"help": "copy the images instead of linking them"}}),
    "export": (export, "Write models as ONNX files.", "DenseNet121", ("models_dir",),
               {"models": {"nargs": "*", "metavar": "MODEL", "help": "default: as predict"},
                "--to": FILE | {"default": Path("exported"), "help": "default: exported"}}),
}  # fmt: skip
"""Of each command: function, summary, example, its settings and its own arguments."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the command in the arguments (None: those of the process); return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a code page may lack letters of a file's name
    parser = argparse.ArgumentParser("python -m fracture_utils", epilog="Research and education.")
    commands = parser.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, (function, summary, example, settings, own) in COMMANDS.items():
        example = f"Example: python -m fracture_utils {name} {example}"
        command = commands.add_parser(name, help=summary, description=summary, epilog=example)
        command.set_defaults(function=function)
        for argument, options in own.items():
            command.add_argument(argument, **options)
        for setting in settings:
            field = Config.model_fields[setting]
            text = f"{field.description} (default: {field.default})".replace("%", "%%")
            kind = {"action": argparse.BooleanOptionalAction} if field.annotation is bool else {}
            command.add_argument(f"--{setting.replace('_', '-')}", default=None, help=text, **kind)
    options = vars(parser.parse_args(arguments))
    try:
        return options.pop("function")(**options)
    except (InputError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, InputError) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # TensorFlow's own exit takes seconds
