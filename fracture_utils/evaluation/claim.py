"""CLAIM 2024, the checklist for AI in medical imaging, filled in from what a run knows.

The items are those of Tejani et al. (Radiology: Artificial Intelligence 2024;6(4):e240300), in
short words of our own. What only a person knows stands in `study.toml` in the data folder.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fracture_utils import files
from fracture_utils.config import SPLITS, Config
from fracture_utils.errors import InputError
from fracture_utils.evaluation import comparison, subgroups
from fracture_utils.evaluation.metrics import METRICS
from fracture_utils.evaluation.predictions import ENSEMBLE, FRACTURED
from fracture_utils.evaluation.wording import counted, listed, ranged
from fracture_utils.ledger import code_fingerprint

UNKNOWN = "not stated"
STUDY = "study.toml"
TABLES = ("images", "audit", "networks", "scores", "comparisons", "localisation", "subgroups")
ITEMS = (
    (1, "Title and abstract", "Kind of AI", ""),
    (2, "Title and abstract", "Structured summary", "abstract"),
    (3, "Introduction", "Background, intended use and role", "purpose"),
    (4, "Introduction", "Aims and hypotheses", "objectives"),
    (5, "Study design", "Prospective or retrospective", "design"),
    (6, "Study design", "Goal of the study", "goal"),
    (7, "Data", "Sources", "data_source"),
    (8, "Data", "Inclusion and exclusion criteria", "population"),
    (9, "Data", "Preprocessing", ""),
    (10, "Data", "Selection of subsets", "selection"),
    (11, "Data", "De-identification", "deidentification"),
    (12, "Data", "Missing data", "missing_data"),
    (13, "Data", "Acquisition", "acquisition"),
    (14, "Reference standard", "Definition", "reference_standard"),
    (15, "Reference standard", "Rationale", "reference_rationale"),
    (16, "Reference standard", "Annotators and their qualification", "readers"),
    (17, "Reference standard", "Annotation of the test set", "annotation"),
    (18, "Reference standard", "Variability between and within readers", "reader_agreement"),
    (19, "Partitions", "Assignment", "partitions"),
    (20, "Partitions", "Level at which they are disjoint", ""),
    (21, "Testing data", "Intended sample size", "sample_size"),
    (22, "Model", "Description", ""),
    (23, "Model", "Software and versions", ""),
    (24, "Model", "Initialisation", ""),
    (25, "Training", "Procedure", ""),
    (26, "Training", "Selection of the final model", ""),
    (27, "Training", "Ensembles", ""),
    (28, "Evaluation", "Metrics", ""),
    (29, "Evaluation", "Uncertainty and significance", ""),
    (30, "Evaluation", "Robustness", "robustness"),
    (31, "Evaluation", "Explainability, and its validation", ""),
    (32, "Evaluation", "Internal testing", ""),
    (33, "Evaluation", "External testing", "external_testing"),
    (34, "Evaluation", "Registration of a trial", "registration"),
    (35, "Results: data", "Included and excluded", "flow"),
    (36, "Results: data", "Characteristics of each partition", "demographics"),
    (37, "Results: performance", "Performance in partitions and subgroups", ""),
    (38, "Results: performance", "Accuracy with intervals", ""),
    (39, "Results: performance", "Failure analysis", "failures"),
    (40, "Discussion", "Limitations", "limitations"),
    (41, "Discussion", "Implications for practice", "implications"),
    (42, "Other", "Full protocol", "protocol"),
    (43, "Other", "Availability of software, model and data", "availability"),
    (44, "Other", "Funding and its role", "funding"),
)
"""Number, section, item, and the key of study.toml by which a person adds to it."""
KEYS = tuple(key for *_, key in ITEMS if key)


def study(data_dir: Path) -> dict[str, str]:
    """What a person stated in `study.toml`, by KEYS; empty without such a file.

    Raises InputError where it is no TOML, or holds a key that is none or a value that is no text.
    """
    path = Path(data_dir) / STUDY
    if not path.is_file():
        return {}
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error}); correct it.") from None
    for key, value in stated.items():
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}."
            raise InputError(f"{path} states {key!r}, which answers no item; {hint}")
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{path}: {key} is no text; write {key} = "'"…"'".")  # fmt: skip
    return {key: " ".join(value.split()) for key, value in stated.items()}


def write(config: Config, chosen: str) -> pd.DataFrame:
    """Write claim.md into the results folder: the checklist, Table 1 and the settings.

    Reads run.json, operating_points.json, the tables of the run and the cards in the models folder;
    what is not there is not stated. `chosen` is the network that validation chose. Returns the
    checklist: number, section, item, answer.
    """
    known = {name: _table(config.results_dir / f"{name}.csv") for name in TABLES}
    path = config.results_dir / "run.json"
    run = files.read_json(path) if path.is_file() else {}
    answers = facts(known, run, _cards(config.models_dir), chosen)
    stated = study(config.data_dir)
    rows = []
    for number, section, item, key in ITEMS:
        parts = [stated.get(key, ""), answers.get(number, "")]
        rows.append((number, section, item, " ".join(filter(None, parts)) or UNKNOWN))
    table = pd.DataFrame(rows, columns=["number", "section", "item", "answer"])
    text = _page(table, table_one(known["images"]), run.get("settings", {}))
    files.write_text(config.results_dir / "claim.md", text)
    return table


def facts(
    known: Mapping[str, pd.DataFrame], run: Mapping, cards: Mapping[str, dict], chosen: str
) -> dict[int, str]:
    """What a run can answer, by number of the item; an item without an answer is left out."""
    said = _of_data(known, run) | _of_models(known["networks"], run, cards, chosen)
    said |= _of_results(known, chosen)
    images = known["images"]
    if 26 in said and images.loc[images["split"] == "validation", "label"].nunique() < 2:
        said[26] = f"{chosen}: the first on the test, because validation has not both classes."
    return {number: text for number, text in said.items() if text}


def _of_data(known: Mapping[str, pd.DataFrame], run: Mapping) -> dict[int, str]:
    images, settings = known["images"], run.get("settings", {})
    said = {}
    if run:
        made_up = "Synthetic phantoms, drawn by this software, not radiographs of people."
        said[7] = made_up if run["source"] == "phantoms" else run.get("attribution", "")
        said[9] = (
            "Every picture becomes 8-bit grey with its own window, and a square of "
            f"{settings['image_size'] or 'the native size of the network'} pixels (aspect: "
            f"{settings['aspect']})."
        )
        said[42] = (
            "Settings, seed and hardware stand in run.json; code fingerprint "
            f"{code_fingerprint()}, data fingerprint {run['data']['fingerprint']}."
        )
    if not images.empty:
        said[13] = _sizes(images)
        said[14] = "The folder of a picture is its label; how it came there only a person knows."
        said[19] = _partitions(images, settings)
        said[20] = _disjoint(images)
        said[36] = "Table 1 below."
    audit = known["audit"]
    if not audit.empty:
        counts = audit["severity"].value_counts()
        found = listed([f"{count} {severity}" for severity, count in counts.items()])
        said[12] = f"Unreadable files, copies and conflicting labels: {found} in audit.csv."
    if run:
        failed = [f"{name} ({reason})" for name, reason in run.get("failed", {}).items()]
        said[35] = f"{len(images):,} pictures in {images['group'].nunique():,} groups were used. "
        said[35] += "Networks failed or left out: " + ("; ".join(failed) or "none") + "."
    return said


def _sizes(images: pd.DataFrame) -> str:
    if not {"width", "height", "bit_depth"} <= set(images):
        return ""
    parts = [f"{name} {images[name].min():.0f} to {images[name].max():.0f}"
             for name in ("width", "height")]  # fmt: skip
    depths = listed([f"{depth:.0f}" for depth in sorted(images["bit_depth"].dropna().unique())])
    return f"As stored: {' and '.join(parts)} pixels, {depths} bits; the device only if stated."


def _partitions(images: pd.DataFrame, settings: Mapping) -> str:
    counts = images["split"].value_counts()
    parts = [f"{counts[split]:,} {split}" for split in SPLITS if split in counts]
    share = settings.get("validation_share")
    split_off = f"; {share:.0%} of train, by group, became validation" if share else ""
    return f"Train and test are folders{split_off}: {listed(parts)} pictures."


def _disjoint(images: pd.DataFrame) -> str:
    shared = images.groupby("group")["split"].nunique().max() > 1
    told = "Groups do cross partitions (see audit.csv)." if shared else "Groups never cross them."
    if "patient" in images and images["patient"].replace("", pd.NA).notna().all():
        pairs = images.drop_duplicates(["patient", "split"])
        crossing = int(pairs["patient"].value_counts().gt(1).sum())
        crossed = f" {counted(crossing, 'patients')} in several."
        told += crossed if crossing else " Disjoint by patient."
        return told
    return told + " Disjoint by patient: unknown, because no patients are named for all pictures."


def _of_models(
    networks: pd.DataFrame, run: Mapping, cards: Mapping[str, dict], chosen: str
) -> dict[int, str]:
    if networks.empty or not run:
        return {}
    trained = networks[networks["status"] == "trained"]
    names, settings = listed(list(trained["model"])), run["settings"]
    parts = [f"{row.model} {row.parameters / 1e6:.1f} million" for row in trained.itertuples()]
    starts = [f"{row.model} from {row.initialisation} weights" for row in trained.itertuples()]
    digests = [f"{n} {c['weights_sha256']}" for n, c in cards.items() if "weights_sha256" in c]
    seen = ("views", "head_epochs", "fine_tune_epochs", "fine_tune_depth", "batch_size", "dropout")
    shown = listed([f"{name} {settings[name]}" for name in seen if name in settings])
    members = sorted(cards.get(ENSEMBLE, {}).get("members", {}))
    return {
        1: f"Deep learning: pretrained convolutional networks ({names}), retrained to classify.",
        6: f"Comparison of {len(trained)} networks; {run['purpose']}.",
        22: f"Parameters: {listed(parts)}; one logit for {FRACTURED}; layers as Keras has them.",
        23: listed([f"{name} {version}" for name, version in run["versions"].items()]) + ".",
        24: f"{listed(starts)}. "
        + (f"Trained weights (SHA-256): {'; '.join(digests)}." if digests else ""),
        25: f"Augmented pictures, the seed {run['seed']}, {shown}; all settings below.",
        26: f"{chosen}: the highest AUC on the validation pictures. The test chose nothing.",
        27: f"Mean of the calibrated logits of {listed(members)}." if members else "",
    }


def _of_results(known: Mapping[str, pd.DataFrame], chosen: str) -> dict[int, str]:
    scores, pairs = known["scores"], known["comparisons"]
    said = {}
    if not scores.empty:
        row = scores.set_index("model").loc[chosen]
        cells = [
            f"{name.replace('_', ' ')} {ranged(row, name)}"
            for name in ("auc", "average_precision", "sensitivity", "specificity", "ppv", "npv")
        ]
        rivals = (scores["kind"] != "reference").sum()
        told = [name.replace("_", " ") for name in METRICS if name in scores]
        said[28] = listed(told) + "; the majority class and metadata set the bar."
        said[29] = "95 % intervals that keep groups together; paired DeLong's tests after Holm."
        said[32] = (
            f"{rivals} models on {row['n']:.0f} test pictures, {row['positives']:.0f} {FRACTURED}."
        )
        said[38] = f"{chosen}, with 95 % intervals: {'; '.join(cells)}."
        said[39] = "Surest errors in gallery.csv, doubted labels in suspected_labels.csv."
    if not pairs.empty:
        easiest, hardest = comparison.detectable(pairs, chosen)
        said[21] = (
            "Smallest difference in AUC that this test set can show (2.8 standard errors, 80 % "
            f"power): {easiest:.3f} to {hardest:.3f}, by the network that {chosen} is held against."
        )
    located, by_group = known["localisation"], known["subgroups"]
    if not located.empty and chosen in set(located["model"]):
        row = located.set_index("model").loc[chosen]
        said[31] = f"Heat maps against boxes in {row['pictures']} pictures: {row['verdict']}."
    elif not scores.empty:
        said[31] = "Heat maps; not validated, because no boxes are known."
    columns = [c for c in by_group.get("column", pd.Series(dtype=str)).unique() if c != "all"]
    if columns:
        said[30] = f"Scores and tests by {listed(columns)} in subgroups.csv."
    if not scores.empty:
        said[37] = "scores.csv; subgroups.csv" + (f" by {listed(columns)}." if columns else ".")
    return said


def table_one(images: pd.DataFrame) -> pd.DataFrame:
    """Table 1: what the pictures of each partition are, a row a characteristic, as text; counts
    with their share of the partition.
    """
    if images.empty:
        return pd.DataFrame()
    splits = [split for split in SPLITS if (images["split"] == split).any()]
    parts = {split: images[images["split"] == split] for split in splits}
    rows = {
        "pictures": [f"{len(part):,}" for part in parts.values()],
        "groups": [f"{part['group'].nunique():,}" for part in parts.values()],
    }
    if "patient" in images:
        rows["patients"] = [f"{part['patient'].nunique():,}" for part in parts.values()]
    rows[FRACTURED] = [_share(part["label"] == FRACTURED) for part in parts.values()]
    for column in subgroups.columns(images):
        for value in sorted(images[column].dropna().astype(str).unique()):
            name = f"{column.replace('_', ' ')}: {value}"
            rows[name] = [_share(part[column].astype(str) == value) for part in parts.values()]
    return pd.DataFrame.from_dict(rows, orient="index", columns=splits)


def _share(which: pd.Series) -> str:
    return f"{which.sum():,} ({100 * which.mean():.0f} %)"


def _page(checklist: pd.DataFrame, first: pd.DataFrame, settings: Mapping) -> str:
    lines = [
        "# CLAIM 2024",
        "Filled in by the run from what it knows, and by study.toml in the data folder from what "
        f"only a person knows (keys: {', '.join(KEYS)}). Cite the checklist itself: Tejani et al., "
        "Radiology: Artificial Intelligence 2024;6(4):e240300.",
        _markdown(["", "section", "item", "answer"], checklist.to_numpy().tolist()),
    ]
    if len(first):
        body = first.reset_index().to_numpy().tolist()
        lines += ["## Table 1: the pictures", _markdown(["", *first.columns], body)]
    if settings:
        body = [[name, json.dumps(value)] for name, value in settings.items()]
        lines += ["## Settings", _markdown(["setting", "value"], body)]
    return "\n\n".join(lines) + "\n"


def _markdown(head: list[str], rows: list[list]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, low_memory=False) if path.is_file() else pd.DataFrame()


def _cards(folder: Path) -> dict[str, dict]:
    return {path.stem: files.read_json(path) for path in sorted(Path(folder).glob("*.json"))}
