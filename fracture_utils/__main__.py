"""The one command line: `python -m fracture_utils {run,predict,export,evaluate,import,clean}`.

Exit code 0; 2 with one sentence on standard error where a file, folder or setting is wrong; 1 where
the program is. Imports nothing heavy before it has looked whether the files are there.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fracture_utils.errors import InputError, RunError

EVALUATION = ("resamples", "seed", "threshold_rule", "target_sensitivity", "prevalence",
              "subgroups")  # fmt: skip
"""The settings that scoring depends on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments (None: those of the process) ask; the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a code page knows few letters
    given = _parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        return given.act(given)
    except (InputError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, InputError) else 1


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser; only the options of `command` are filled in, because they cost imports."""
    parser = argparse.ArgumentParser(
        "python -m fracture_utils", description="Education and research only, never clinical use."
    )
    choices = parser.add_subparsers(required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, (words, example, fill, act) in COMMANDS.items():
        own = choices.add_parser(
            name,
            help=words,
            description=f"{words[0].upper()}{words[1:]}.",
            epilog=f"Example: python -m fracture_utils {name} {example}",
        )
        own.set_defaults(act=act)
        if name == command:
            fill(own)
    return parser


def _fill_run(parser: argparse.ArgumentParser) -> None:
    from fracture_utils.config import Config

    parser.add_argument("--notebook", type=Path, help="default: the one beside the package")
    _add_settings(parser, Config.model_fields)


def _run(given: argparse.Namespace) -> int:
    from fracture_utils import headless
    from fracture_utils.config import Config

    page = headless.execute(given.notebook, _settings(given, Config.model_fields))
    sys.stdout.write(
        f"Open {page.with_name('report.html')} for the answer, {page} for all of it.\n"
    )
    return 0


def _fill_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pictures", nargs="+", type=Path, help="PNG, JPEG, TIFF, BMP or DICOM")
    parser.add_argument(
        "--numbers-only", action="store_true", help="draw no heat maps: faster for many pictures"
    )
    parser.add_argument(
        "--dicom-out",
        type=Path,
        metavar="FOLDER",
        help="for each DICOM file, write the answer as a Secondary Capture of its study here",
    )
    _add_folders(parser)


def _predict(given: argparse.Namespace) -> int:
    if not any(path.is_file() for path in given.pictures):
        absent = ", ".join(map(str, given.pictures))
        raise InputError(f"There is no file {absent}; correct the name.")
    if given.dicom_out and given.numbers_only:
        raise InputError("--dicom-out shows heat maps; leave --numbers-only away.")
    from fracture_utils import capture, predict

    panel = predict.Panel(_config(given))
    table, problems = predict.answer(given.pictures, panel, draw=not given.numbers_only)
    sys.stdout.writelines(f"{line}\n" for line in predict.sentences(table, panel))
    if given.dicom_out:
        notes = [panel.caution(), panel.makers()]
        written, without = capture.write(table, given.dicom_out, notes)
        sys.stdout.writelines(f"{path}\n" for path in written)
        problems += without
    sys.stderr.writelines(f"{problem}\n" for problem in problems)
    return 2 if problems else 0


def _fill_export(parser: argparse.ArgumentParser) -> None:
    from fracture_utils.export import FORMATS

    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help="default: those that predict asks"
    )
    parser.add_argument("--models-dir", type=Path, help="folder of the trained networks")
    parser.add_argument(
        "--to", type=Path, default=Path("exported"), help="folder to write into (default: exported)"
    )
    parser.add_argument(
        "--format", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: all"
    )


def _export(given: argparse.Namespace) -> int:
    from fracture_utils import export
    from fracture_utils.config import Config

    config = Config(source="phantoms", models_dir=given.models_dir)
    for line in export.export(given.networks, given.format, given.to, config):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


def _fill_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "predictions",
        type=Path,
        help="CSV with the columns path, label (fractured/normal or 1/0), model and probability; "
        "split, group, logit and subgroup columns are used where they are there",
    )
    parser.add_argument("--output", dest="results_dir", type=Path, help="folder to write into")
    _add_settings(parser, EVALUATION)


def _evaluate(given: argparse.Namespace) -> int:
    if not given.predictions.is_file():
        raise InputError(f"There is no file {given.predictions}; correct its name.")
    from fracture_utils.config import Config
    from fracture_utils.evaluation.rescoring import evaluate

    # Naming the source keeps the settings from looking for pictures, which nobody needs here.
    config = Config(
        source="pictures", results_dir=given.results_dir, **_settings(given, EVALUATION)
    )
    sentences = evaluate(given.predictions, config)
    sys.stdout.write("\n".join([*sentences, f"Written to {config.results_dir}."]) + "\n")
    return 0


def _fill_import(parser: argparse.ArgumentParser) -> None:
    from fracture_utils.data import sources

    parser.add_argument("name", choices=sources.SOURCES, metavar="NAME")
    parser.add_argument("source", metavar="SOURCE", help="the folder or archive as published")
    parser.add_argument("destination", type=Path, metavar="DESTINATION")
    parser.add_argument("--copy", action="store_true", help="copy the pictures; do not link them")
    parser.epilog = f"NAME is one of {', '.join(sources.SOURCES)}. {parser.epilog}"


def _import(given: argparse.Namespace) -> int:
    from fracture_utils.data import sources

    def say(done: int, total: int) -> None:
        if done == total or done % max(1, total // 10) == 0:
            sys.stdout.write(f"{done} of {total} pictures\n")

    brought = sources.bring(given.name, given.source, given.destination, given.copy, say)
    counts = brought.pictures.groupby(["split", "label"]).size().to_string()
    licence = sources.SOURCES[given.name].licence
    sys.stdout.write(f"{counts}\nLicence: {licence}\n{brought.sentence()}\n")
    return 0


def _fill_clean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--remove", action="store_true", help="remove what is listed")
    _add_folders(parser)


def _clean(given: argparse.Namespace) -> int:
    from fracture_utils import clean

    config = _config(given)
    found = clean.listing(config)
    for path, size in found.items():
        sys.stdout.write(f"{size / 1e6:10.1f} MB  {path}\n")
    if given.remove:
        sys.stdout.write(f"{clean.remove(config) / 1e6:10.1f} MB freed\n")
    else:
        sys.stdout.write(f"{sum(found.values()) / 1e6:10.1f} MB would be freed with --remove\n")
    return 0


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results-dir", type=Path, help="folder of the results")
    parser.add_argument("--models-dir", type=Path, help="folder of the trained networks")


def _config(given: argparse.Namespace):
    """The settings of what needs two folders and no pictures of its own."""
    from fracture_utils.config import Config

    return Config(source="phantoms", results_dir=given.results_dir, models_dir=given.models_dir)


def _add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    from fracture_utils.config import Config

    for name in names:
        field = Config.model_fields[name]
        default = field.get_default(call_default_factory=True)
        words = f"{field.description} (default: {default})".replace("%", "%%")
        option = "--" + name.replace("_", "-")
        if field.annotation is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=words)
        else:
            parser.add_argument(option, metavar="VALUE", help=words)


def _settings(given: argparse.Namespace, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}


COMMANDS: dict[str, tuple[str, str, Callable, Callable]] = {
    "run": ("run the whole notebook", "--quick --data-dir data", _fill_run, _run),
    "predict": ("ask trained networks about X-rays", "X.png", _fill_predict, _predict),
    "export": (
        "write trained networks as ONNX, TFLite and SavedModel",
        "DenseNet121 --to exported",
        _fill_export,
        _export,
    ),
    "evaluate": (
        "score anybody's predictions",
        "predictions.csv --output scored",
        _fill_evaluate,
        _evaluate,
    ),
    "import": (
        "bring a published data set into the layout of data/",
        "fracatlas download data",
        _fill_import,
        _import,
    ),
    "clean": ("list what can be computed again, or remove it", "--remove", _fill_clean, _clean),
}

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # at once, because TensorFlow's farewell takes seconds and may talk
