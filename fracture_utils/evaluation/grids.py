"""Tables as the page shows them: caption, head, rows of words, and whether they are folded."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fracture_utils.config import Config
from fracture_utils.evaluation.comparison import RULE, TESTS
from fracture_utils.evaluation.metrics import METRICS
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.wording import ranged

MOST_FINDINGS, MOST_SUSPECTS = 100, 20
"""Rows of the audit, and of labels to look at, that are shown; the rest is in the tables."""
SHORT = {"auc": "AUC", "ppv": "PPV", "npv": "NPV", "f1": "F1"}
TITLES = dict(zip(TESTS, ("DeLong", "sensitivity", "specificity", "McNemar"), strict=True))

Grid = dict[str, object]
"""of (name of the table whose columns are explained, or empty), caption, head, rows, folded."""


def of(caption: str, table: pd.DataFrame, folded: bool = True, name: str = "") -> Grid | None:
    """Any table as it is; None where it is empty."""
    if table.empty:
        return None
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    head = [str(column).replace("_", " ") for column in table]
    return {"of": name, "caption": caption, "head": head, "rows": rows, "folded": folded}


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return "" if pd.isna(value) else f"{value:.4g}"
    return str(value)


def scores(scores: pd.DataFrame, positive: str) -> Grid | None:
    """Metrics in rows, models in columns, so that the table fits a page."""
    if scores.empty:
        return None
    rows = [["initialisation", *scores["initialisation"].astype(str)]]
    for metric in [name for name in METRICS if name in scores]:
        cells = [ranged(row, metric) for row in scores.to_dict("records")]
        rows.append([SHORT.get(metric, metric.replace("_", " ")), *cells])
    n, positives = scores["n"].iloc[0], scores["positives"].iloc[0]
    caption = f"Every metric with its 95 % interval ({n:,} test pictures, {positives:,} {positive})"
    head = ["", *scores["model"]]
    return {"of": "scores", "caption": caption, "head": head, "rows": rows, "folded": True}


def comparisons(comparisons: pd.DataFrame) -> Grid | None:
    """A row a pair: difference with its interval, and each p before and after correction."""
    if comparisons.empty:
        return None
    known = {name: title for name, title in TITLES.items() if name in comparisons}
    tests = [f"{name}{end}" for name in known for end in ("", "_holm")]
    rows = [
        [
            f"{row['model_a']} minus {row['model_b']}",
            f"{row['difference']:+.3f} ({row['difference_low']:+.3f} to "
            f"{row['difference_high']:+.3f})",
            *("< 0.001" if row[name] < 0.001 else f"{row[name]:.3f}" for name in tests),
        ]
        for row in comparisons.to_dict("records")
    ]
    head = ["pair", "AUC"]
    for title in known.values():
        head += [f"{title} p", "after Holm"]
    caption = f"Paired tests: differences in AUC, and p before and after correction. {RULE}"
    return {"of": "comparisons", "caption": caption, "head": head, "rows": rows, "folded": True}


def splits(images: pd.DataFrame) -> Grid | None:
    """Pictures and groups of each split, and how common the positive class is there."""
    if images.empty:
        return None
    counts = pd.crosstab(images["split"], images["label"])
    shares = counts.get(FRACTURED, 0) / counts.sum(axis=1)
    counts[f"share {FRACTURED}"] = [f"{100 * share:.0f} %" for share in shares]
    counts["groups"] = images.groupby("split")["group"].nunique()
    return of("Pictures of each split", counts.reset_index(), folded=False)


def findings(audit: pd.DataFrame) -> Grid | None:
    """The findings of the audit, the gravest first."""
    if audit.empty:
        return None
    order = audit["severity"].map({"red": 0, "amber": 1}).fillna(2)
    shown = audit.assign(order=order).sort_values("order", kind="stable").drop(columns="order")
    more = f" (the first {MOST_FINDINGS}; all are in audit.csv)" * (len(audit) > MOST_FINDINGS)
    caption = f"Findings of the audit, the gravest first{more}"
    return of(caption, shown.head(MOST_FINDINGS), name="audit")


def suspects(suspects: pd.DataFrame) -> Grid | None:
    """Labels to look at."""
    first = suspects.head(MOST_SUSPECTS)
    return of("Labels to look at, the surest first", first, name="suspected_labels")


def checklist(path: Path) -> Grid | None:
    """The first table of claim.md, in which a bar within a cell is escaped."""
    if not path.is_file():
        return None
    first = path.read_text(encoding="utf-8").split("\n## ")[0]
    lines = [line[2:-2] for line in first.splitlines() if line.startswith("| ")]
    cells = [[cell.replace("\\|", "|") for cell in line.split(" | ")] for line in lines]
    return of("Checklist CLAIM 2024", pd.DataFrame(cells[2:], columns=cells[0]))


def record(run: dict) -> Grid | None:
    """What run.json knows of how the numbers came about: a line a part, and of the settings those
    that differ from the default.
    """
    usual = Config.model_construct().model_dump(mode="json")
    facts = {name: value for name, value in run.items() if name not in {"failed", "attribution"}}
    if isinstance(settings := facts.pop("settings", None), Mapping):
        other = {name: value for name, value in settings.items() if usual.get(name, "") != value}
        facts["settings other than the default"] = other or "none"
    rows = [(name.replace("_", " "), _words(value)) for name, value in facts.items() if value]
    table = pd.DataFrame(rows, columns=["what", "value"])
    return of("Versions, hardware and settings (all of them: run.json)", table)


def _words(value: object) -> str:
    """A value of JSON without its brackets and braces."""
    if isinstance(value, Mapping):
        parts = [f"{key}: {_words(part)}" for key, part in value.items()]
        nested = any(isinstance(part, Mapping) for part in value.values())
        return ("; " if nested else ", ").join(parts)
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return str(value)
