"""One HTML page from the files of a results folder: it opens offline, on a phone, and prints."""

import base64
from collections.abc import Iterable
from html import escape
from pathlib import Path

import pandas as pd
from PIL import Image

from fracture_utils import files
from fracture_utils.evaluation.conclusion import EDUCATION, note, reword
from fracture_utils.evaluation.metrics import FRACTURED, METRICS

MOST_FINDINGS = 100
"""Rows of the audit shown; the rest is in audit.csv."""
MOST_SUSPECTS = 20
SHORT = {"auc": "AUC", "ppv": "PPV", "npv": "NPV", "f1": "F1"}
TITLE = "Fractures on X-rays: report"
LIMITS = (
    "The intervals speak of pictures like those of the test set; another hospital, device or "
    "body part can be harder than any of them says.",
    "The best of several networks is a little lucky: expect slightly less of it on new pictures.",
    "Pictures of one group (a patient, or copies of one picture) are not independent. The "
    "bootstrap and DeLong's test allow for that; McNemar's test and the exact intervals of shares "
    "of 0 and 100 % do not.",
    "Thresholds and temperatures come from validation pictures of the same source, and hold only "
    "where fractures are about as common as there.",
)
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { border-bottom: 1px solid var(--line); margin-top: 2.2rem; }
.stamp { color: #777; font-size: .9rem; }
.conclusion { background: var(--soft); padding: .8rem 1.2rem; border-radius: .5rem; }
.conclusion p:first-child { font-size: 1.15rem; font-weight: 600; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; }
th { background: var(--soft); } td { min-width: 3.5rem; }
td small { opacity: .75; white-space: nowrap; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figure img { width: 100%; max-width: 800px; height: auto; background: #fff; border-radius: .3rem; }
figcaption { font-size: .9rem; }
.red { color: #c62828; font-weight: 600; } .amber { color: #b26a00; font-weight: 600; }
@media print { body { max-width: none; font-size: 11px; } table { font-size: 7px; }
  th, td { padding: .15rem .25rem; } td { min-width: 0; } .wide { overflow: visible; } }
"""


def provenance(folder: Path) -> tuple[str, dict[str, str]]:
    """Source of the pictures, from run.json, and initialisation of each network, from scores.csv;
    empty where the folder holds no such run.
    """
    run = _json(folder / "run.json") or {}
    settings = run.get("settings")
    source = settings.get("source", "") if isinstance(settings, dict) else ""
    scores = _table(folder / "scores.csv")
    if scores is None or "initialisation" not in scores:
        return source, {}
    stated = scores[scores["initialisation"].isin(["imagenet", "released", "random"])]
    single = stated[~stated["model"].str.contains("nsemble| \\+ ")]
    return source, dict(zip(single["model"], single["initialisation"], strict=True))


def write(folder: Path, shown: Iterable[str] | None = None) -> Path:
    """Write `report.html` from whatever results lie in `folder`, and return its path.

    `shown` names the figures that belong to it, where others may lie there; None: all.

    Reads conclusion.txt (a sentence a line), scores.csv, comparisons.csv, operating_points.json,
    figures/*.png with the captions that the album put into them, images.csv, audit.csv,
    suspected_labels.csv, claim.md and run.json (whose entry "failed" maps a network to the
    reason). What is not there is named. Every value is escaped; the page loads
    nothing.
    """
    folder = Path(folder)
    tables = {n: _table(folder / f"{n}.csv") for n in ("scores", "comparisons", "images", "audit")}
    points, run = _json(folder / "operating_points.json"), _json(folder / "run.json") or {}
    drawn = (folder / "figures").glob("[!.]*.png")
    wanted = None if shown is None else set(shown)
    figures = sorted(_figure(path) for path in drawn if wanted is None or path.stem in wanted)
    positive = run.get("positive", FRACTURED)
    text = folder / "conclusion.txt"
    sentences = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
    lacking = [f"{name}.csv" for name, table in tables.items() if table is None]
    lacking += [] if sentences else ["conclusion.txt"]
    lacking += [] if figures else ["figures"]
    sections = [
        ("Conclusion", _conclusion(sentences, run.get("failed"), lacking)),
        ("Scores", _scores(tables["scores"], positive)),
        ("Comparisons", _comparisons(tables["comparisons"])),
        ("Figures", "".join(html for _, _, html in figures)),
        ("Data and audit", _data(tables["images"], tables["audit"])),
        ("Labels to look at", _suspected(_table(folder / "suspected_labels.csv"))),
        ("How it was made", _made(points, run)),
        ("Checklist CLAIM 2024", _checklist(folder / "claim.md")),
        ("Limits", _list(reword(limit, positive) for limit in LIMITS) + _paragraphs([EDUCATION])),
    ]
    body = "".join(f"<h2>{title}</h2>{html}" for title, html in sections if html)
    stamp = escape(note(*provenance(folder), positive))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(reword(TITLE, positive))}</title><style>{STYLE}</style></head><body>"
        f'<h1>Which network to trust on these X-rays</h1><p class="stamp">{stamp}</p>'
        f"{body}</body></html>\n"
    )
    files.write_text(folder / "report.html", page)
    return folder / "report.html"


def _table(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, keep_default_na=True) if path.is_file() else None


def _json(path: Path) -> dict | list | None:
    return files.read_json(path) if path.is_file() else None


def _figure(path: Path) -> tuple[int, str, str]:
    """Place in the story, name, and the HTML of a figure."""
    with Image.open(path) as image:
        known = image.text
    caption = escape(known.get("Description", path.stem.replace("_", " ")))
    alternative = escape(known.get("Alternative", ""), quote=True) or caption
    data = base64.b64encode(path.read_bytes()).decode()
    place = known.get("Place", "")
    return int(place) if place.isdigit() else 1000, path.name, (
        f'<figure><img alt="{alternative}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )  # fmt: skip


def _conclusion(sentences: list[str], failed: object, lacking: list[str]) -> str:
    html = f'<div class="conclusion">{_paragraphs(sentences)}</div>' if sentences else ""
    if isinstance(failed, dict) and failed:
        reasons = _list(f"{model}: {reason}" for model, reason in failed.items())
        html += f"<p>These networks are missing from every table:</p>{reasons}"
    if lacking:
        html += (
            f"<p>Not in this report, because the run left no such file: {', '.join(lacking)}.</p>"
        )
    return html


def _scores(scores: pd.DataFrame | None, positive: str) -> str:
    """Metrics in rows, models in columns, so that the table fits a page."""
    if scores is None:
        return ""
    rows = [["initialisation", *map(escape, scores["initialisation"].astype(str))]]
    for metric in [name for name in METRICS if name in scores]:
        low, high = scores[f"{metric}_low"], scores[f"{metric}_high"]
        cells = [
            f"{value:.3f}<br><small>{a:.3f} to {b:.3f}</small>"
            if pd.notna(value)
            else "not defined"
            for value, a, b in zip(scores[metric], low, high, strict=True)
        ]
        rows.append([SHORT.get(metric, metric.replace("_", " ")), *cells])
    n, positives = scores["n"].iloc[0], scores["positives"].iloc[0]
    text = f"{n:,} test pictures, {positives:,} {positive}; below each number its 95 % interval."
    return _paragraphs([text]) + _grid(["", *map(escape, scores["model"].astype(str))], rows)


def _comparisons(comparisons: pd.DataFrame | None) -> str:
    if comparisons is None or comparisons.empty:
        return ""
    text = (
        "Differences in AUC with paired 95 % intervals, DeLong's test, McNemar's exact test at the "
        "chosen thresholds, and both after Holm's correction for the number of pairs."
    )
    tests = ["p_delong", "p_delong_holm", "p_mcnemar", "p_mcnemar_holm"]
    rows = [
        [
            *(escape(str(row[name])) for name in ("model_a", "model_b")),
            f"{row['difference']:+.3f}<br><small>{row['difference_low']:+.3f} to "
            f"{row['difference_high']:+.3f}</small>",
            *("&lt; 0.001" if row[name] < 0.001 else f"{row[name]:.3f}" for name in tests),
        ]
        for row in comparisons.to_dict("records")
    ]
    head = ["model a", "model b", "a - b", "DeLong p", "after Holm", "McNemar p", "after Holm"]
    return _paragraphs([text]) + _grid(head, rows)


def _data(images: pd.DataFrame | None, audit: pd.DataFrame | None) -> str:
    html = ""
    if images is not None:
        counts = pd.crosstab(images["split"], images["label"])
        counts["groups"] = images.groupby("split")["group"].nunique()
        html += _rows(counts.reset_index())
    if audit is not None and audit.empty:
        html += _paragraphs(["The audit of the data found nothing."])
    elif audit is not None:
        order = audit["severity"].map({"red": 0, "amber": 1}).fillna(2)
        shown = audit.assign(order=order).sort_values("order", kind="stable").drop(columns="order")
        total = "; ".join(
            f"{count:,} {name}" for name, count in audit["severity"].value_counts().items()
        )
        text = f"Findings of the audit: {total}."
        if len(audit) > MOST_FINDINGS:
            text += f" The first {MOST_FINDINGS} are shown, all are in audit.csv."
        html += _paragraphs([text]) + _rows(shown.head(MOST_FINDINGS))
    return html


def _suspected(suspects: pd.DataFrame | None) -> str:
    if suspects is None or suspects.empty:
        return ""
    text = (
        "Every network contradicts these labels: the probability even of the least sure passes the "
        "threshold, the mean of what it gives to pictures that are labelled as it says (confident "
        f"learning). {len(suspects):,} in all, in suspected_labels.csv; the surest first."
    )
    return _paragraphs([text]) + _rows(suspects.head(MOST_SUSPECTS))


def _checklist(path: Path) -> str:
    """The first table of claim.md, in which a bar within a cell is escaped."""
    if not path.is_file():
        return ""
    first = path.read_text(encoding="utf-8").split("\n## ")[0]
    lines = [line[2:-2] for line in first.splitlines() if line.startswith("| ")]
    cells = [[cell.replace("\\|", "|") for cell in line.split(" | ")] for line in lines]
    return _rows(pd.DataFrame(cells[2:], columns=cells[0]))


def _made(points: object, run: dict) -> str:
    html = ""
    if points:
        html += _paragraphs(["Fitted on validation pictures only:"]) + _rows(pd.DataFrame(points))
    facts = [
        (f"{name}: {key}", value)
        for name, part in run.items()
        if name != "failed"
        for key, value in (part.items() if isinstance(part, dict) else [("value", part)])
    ]
    return html + (_rows(pd.DataFrame(facts, columns=["what", "value"])) if facts else "")


def _rows(table: pd.DataFrame) -> str:
    return _grid(
        [escape(str(name).replace("_", " ")) for name in table],
        [[_cell(value) for value in row] for row in table.itertuples(index=False)],
    )


def _grid(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{first}</th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _cell(value: object) -> str:
    if isinstance(value, str) and value in ("red", "amber"):
        return f'<span class="{value}">{value}</span>'
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.4g}"
    return escape(str(value))


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
