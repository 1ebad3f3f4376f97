"""The command line: `python -m fracture_utils {run,audit,predict,evaluate,import,export}`.

Exit code 2 with one sentence on standard error where a file, folder or setting is wrong; 1 where
the program fails; 130 or 143 after Ctrl-C or SIGTERM. Each command imports only what it needs.
"""

import argparse
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn, get_args, get_origin

if __name__ == "__main__":
    gc.disable()  # collections would take a seventh of the time of one answer of `predict`

import fracture_utils
from fracture_utils.config import SCORING, Config, InputError, RunError


def run(**settings: object) -> int:
    from fracture_utils import notebook

    page = notebook.execute(settings)
    print(f"The report is {page.with_name('report.html')}; the executed notebook is {page}.")
    return 0


def predict(
    images: list[Path], output: Path | None, heat_maps: bool | None, **settings: object
) -> int:
    from fracture_utils import predict as prediction
    from fracture_utils.evaluation import sentences

    config = Config(source="phantoms", **settings)  # needs no data folder
    paths, predictor = prediction.find(images, config), prediction.Predictor(config)
    if len(paths) > prediction.FEW:
        gc.enable()
    else:  # oneDNN first compiles each convolution, which takes longer than it saves
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    answers, problems = prediction.predict(paths, predictor, heat_maps, output)
    print(*sentences.answers(answers, predictor.card), sep="\n")
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    if predictor.folder != config.models_dir and prediction.model_cards.cards_in(config.models_dir):
        unused = f"The models in {config.models_dir} were trained on phantoms and not used"
        sys.stderr.write(f"{unused}. To use them, name their folder with --models-dir.\n")
    return 2 if problems else 0


def audit(**settings: object) -> int:
    from fracture_utils import artifacts, tables
    from fracture_utils.data import audit as checks
    from fracture_utils.data import dataset
    from fracture_utils.evaluation import results

    config = Config(**settings)
    if config.source == "phantoms":
        raise InputError(f"{config.data_dir} has no images; name their folder with --data-dir.")
    results.check_target(config.results_dir, None)
    run_lock = artifacts.lock(config.results_dir)
    data = dataset.load(config)
    findings = checks.run(data, config.seed)
    tables.write(config.results_dir, "audit", findings)  # first: it marks a folder of results
    tables.write(config.results_dir, "images", data.images)
    run_lock.release()
    print(dataset.summary(data.images).to_string(), end="\n\n")
    for (severity, check), rows in findings.groupby(["severity", "check"], sort=False):
        example = ", ".join(filter(None, rows.iloc[0][["path", "other_path", "finding", "advice"]]))
        print(f"{severity:<5} {len(rows):>5}  {check}: {example}")
    print(f"\nimages.csv and audit.csv were written to {config.results_dir}.")
    return 0


def evaluate(source: Path, **settings: object) -> int:
    from fracture_utils import predict as prediction
    from fracture_utils import report
    from fracture_utils.evaluation import results

    folder = source if source.is_dir() else None
    config = Config(source="images", data_dir=folder, **settings)
    scored = prediction.external_test(config) if folder else results.evaluate_file(source, config)
    scored.save(config.results_dir)
    report.write(scored, config.results_dir)
    print(*scored.conclusions, f"Written to {config.results_dir}.", sep="\n")
    return 0


def import_(name: str, source: Path, destination: Path, **words: str | None) -> int:
    from fracture_utils.data import sources

    classes = {word: label for label, word in words.items() if word}
    images, excluded = sources.bring(name, source, destination, classes)
    images = images.replace({"split": {"": "(drawn by run)"}})
    print(images.groupby(["split", "label"]).size().to_string())
    print(f"{len(excluded)} files excluded.")
    for reason, paths in excluded.groupby("reason")["path"]:
        print(f"{len(paths):>5}  {reason}, e.g. {paths.iloc[0]}")
    return 0


def export(models: list[str], to: Path, **settings: object) -> int:
    from fracture_utils import export as exporter

    for line in exporter.export(models, to, Config(source="phantoms", **settings)):
        print(line, flush=True)
    return 0


FILE = {"type": Path}
OUTPUT = {"dest": "results_dir", "metavar": "FOLDER", "help": "the same as --results-dir"}
COMMANDS: dict[str, tuple] = {
    "run": (run, "Execute the notebook.", "--quick", Config.model_fields, {}),
    "audit": (audit, "Audit a data set before training.", "--data-dir my_xrays",
              ("data_dir", "results_dir", "seed", "neighbors"), {"--output": OUTPUT}),
    "predict": (predict, "Apply a trained model to radiographs.", "my_xrays --output answers.csv",
                ("results_dir", "models_dir", "precision"),
                {"images": FILE | {"nargs": "+", "help": "PNG, JPEG, TIFF, BMP or DICOM files, "
                                   "folders or wildcards"},
                 "--output": FILE | {"metavar": "FILE", "help": "CSV file of the answers (default: "
                                     "answers.csv in the results folder)"},
                 "--heat-maps": {"action": argparse.BooleanOptionalAction, "help": "draw the heat "
                                 "map of each image (default: of up to 20 images)"}}),
    "evaluate": (evaluate, "Test trained models on labeled images, or score a table of "
                 "predictions.", "my_xrays --output tested",
                 (*SCORING, "results_dir", "models_dir"),
                 {"source": FILE | {"help": "folder of labeled images, or CSV file with the "
                                    "columns path, label, model, probability"},
                 "--output": OUTPUT}),
    "import": (import_, "Import a published data set.", "mura MURA-v1.1.zip datasets/mura", (),
               {"name": {"help": "fracatlas, mura or folders"},
                "source": FILE | {"help": "folder or zip archive as published"},
                "destination": FILE | {"help": "new folder"},
                "--fractured": {"metavar": "NAME", "help": "folder or label of fractured images"},
                "--normal": {"metavar": "NAME", "help": "folder or label of normal images"}}),
    "export": (export, "Write models as ONNX files.", "DenseNet121", ("models_dir",),
               {"models": {"nargs": "*", "metavar": "MODEL", "help": "default: as for predict"},
                "--to": FILE | {"default": Path("exported"), "help": "default: exported"}}),
}  # fmt: skip
"""Of each command: function, summary, example, its settings and its own arguments."""
GROUPS = {"data_dir": "data", "horizontal_flip": "augmentation", "backbones": "training",
          "target_sensitivity": "evaluation"}  # fmt: skip
"""Titles of the groups of settings in the help, by the first setting of each group in `Config`."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message[0].upper()}{message[1:]}; see {self.prog} --help.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute the command in the arguments (None: those of the process); return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a code page may lack letters of a file's name
    parser = Parser("python -m fracture_utils", epilog="Research and education.")
    version = f"fracture_utils {fracture_utils.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True)
    for name, (function, summary, example, settings, own) in COMMANDS.items():
        epilog = f"Example: python -m fracture_utils {name} {example}"
        command = commands.add_parser(name, help=summary, description=summary, epilog=epilog)
        command.set_defaults(function=function)
        for argument, options in own.items():
            command.add_argument(argument, **options)
        groups, group = {k: command.add_argument_group(v) for k, v in GROUPS.items()}, None
        for setting, field in Config.model_fields.items():
            group = groups.get(setting, group)
            if setting in settings:
                kind, default = field.annotation, field.default
                default = ",".join(default) if isinstance(default, tuple) else default
                text = "" if default in (None, "") else f" (default: {default})"
                options = {"help": f"{field.description}{text}".replace("%", "%%")}
                if kind is bool:
                    options["action"] = argparse.BooleanOptionalAction
                elif get_origin(kind) is Literal:
                    options["choices"] = get_args(kind)
                group.add_argument(f"--{setting.replace('_', '-')}", **options)
    options = vars(parser.parse_args(arguments))
    function = options.pop("function")
    if function is not predict:
        gc.enable()
    try:
        return function(**options)
    except (InputError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt as interrupt:
        resumes = "; the next run continues where this one stopped" if function is run else ""
        sys.stderr.write(f"Interrupted{resumes}.\n")
        return 128 + next(iter(interrupt.args), signal.SIGINT)


def _terminate(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminate)
    code = main()
    sys.stdout.flush()
    os._exit(code)  # TensorFlow's own exit takes seconds
