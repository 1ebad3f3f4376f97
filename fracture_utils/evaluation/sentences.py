"""All sentences about results; the word for the positive class is a parameter."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fracture_utils.config import AUGMENTATION, FRACTURED, NORMAL, OUT_OF_FOLD
from fracture_utils.evaluation import comparison
from fracture_utils.evaluation.intervals import ENDS, SIGNIFICANCE
from fracture_utils.evaluation.localization import ASSESSMENTS
from fracture_utils.evaluation.predictions import METADATA_ONLY

FEW = 50
"""Number of images of a class below which intervals are too wide to rank models."""
PURPOSE = "For research and education only, never for clinical use."
DIAGNOSIS = "For research and education only, not for diagnosis."
USUALLY = 0.8  # lower limit of the hit rate above which heat maps count as usually reliable
MOST_LISTED = 20
"""Number of images up to which each answer is printed; above it, only counts are."""
FLAGS = {
    (name, k): word for name in ("hardware", "cast") for k, word in (("0", "no"), ("1", "yes"))
}
SELECTED = {"validation": "selected on the validation set", "test": "selected on the test set",
            OUT_OF_FOLD: "selected by its mean out-of-fold AUC",
            "model card": "selected before this external test"}  # fmt: skip


def counted(count: float, noun: str) -> str:
    """A number with its noun: "1 image", "2 images"."""
    return f"{int(count):,} {noun}{'' if count == 1 else 's'}"


def listed(names: Iterable[object]) -> str:
    """Names as an enumeration: "A", "A and B", "A, B and C"."""
    *first, last = map(str, names)
    return f"{', '.join(first)} and {last}" if first else last


def p_value(p: float) -> str:
    """A p value in the usual form: "p = 0.034", "p < 0.001"."""
    if np.isnan(p):
        return "no test"
    return "p < 0.001" if p < 0.001 else f"p = {p:.{2 if p >= 0.1 else 3}f}"


def estimate(row: Mapping, name: str, digits: int = 3, scale: int = 1, ci: str = "95 % CI ") -> str:
    """An estimate with its interval: "0.922 (95 % CI 0.858–0.957)", "46 % (95 % CI 40–53)"."""
    value, low, high = (scale * float(row[f"{name}{end}"]) for end in ENDS)
    limits = "no CI" if np.isnan(low + high) else f"{ci}{low:.{digits}f}–{high:.{digits}f}"
    unit = " %" if scale == 100 or name.endswith("_per_100") else ""
    return "undefined" if np.isnan(value) else f"{value:.{digits}f}{unit} ({limits})"


def note(run: Mapping) -> str:
    """The line below each figure: data and initial weights, from run.json or the settings."""
    parts = ["Synthetic phantoms, not radiographs"] if run.get("source") == "phantoms" else []
    if run.get("positive", FRACTURED) != FRACTURED:
        parts.append(f"positive class: {run['positive']}")
    words = {"imagenet": "ImageNet weights", "random": "random initialization"}
    initial = pd.Series(run.get("initialization", {}), dtype=str)
    for value, models in initial.groupby(initial, sort=False):
        names = "all models" if len(models) == len(initial) else ", ".join(models.index)
        parts.append(f"{words.get(str(value), f'{value} weights')}: {names}")
    if run.get("provenance"):
        parts.append(f"weights files other than Keras's own: {', '.join(run['provenance'])}")
    return " · ".join([*parts, "research and education only"])


def topics(results: Any) -> dict[str, list[str]]:
    """All conclusions by topic; topics without sentences are left out."""
    run, word, model = results.run, results.run["positive"], results.selected
    scores = results.scores[results.scores["kind"] != "reference"].set_index("model")
    networks = scores[scores["kind"] == "network"] if "network" in set(scores["kind"]) else scores
    row, others = scores.loc[model], len(networks) - 1
    n, positives = int(row["n"]), int(row["positives"])
    result, ranking, cross_validation, probabilities, errors, data = [], [], [], [], [], []

    if len(results.images):
        findings = results.audit[results.audit["severity"] != "info"]
        counts = findings.groupby(["severity", "check"], sort=False).size().items()
        findings = ", ".join(f"{check} ({k} {severity})" for (severity, check), k in counts)
        data.append(f"Findings of the data audit: {findings or 'none'}.")
    for baseline in results.scores[results.scores["model"] == METADATA_ONLY].to_dict("records"):
        shortcut = "; above chance: a possible shortcut" if baseline["auc_low"] > 0.5 else ""
        data.append(f"Metadata-only baseline: AUC {estimate(baseline, 'auc')}{shortcut}.")
    if 0 < (fewer := min(positives, n - positives)) < FEW:
        images = counted(fewer, f"{word if 2 * positives <= n else NORMAL} test image")
        data.append(f"With only {images}, the intervals are wide.")
    if len(random := networks.index[networks["initialization"] == "random"]):
        data.append(f"Trained from random initialization, not ImageNet weights: {listed(random)}.")
    if run["source"] == "phantoms":
        data.append("All images are synthetic phantoms; nothing here applies to radiographs.")
    if len(reverse := networks.index[networks["auc_high"] < 0.5]):
        below = f"the 95 % CI of the test AUC of {listed(reverse)} lies below 0.5"
        result.append(f"The classes seem to be reversed: {below}. Check labels and probabilities.")
        return {"Result": result} | ({"Data": data} if data else {})

    if fewer:
        how = SELECTED[run["selected_on"]] if others else "the only model"
        images = f"{counted(n, 'image')}, {positives:,} of them {word}"
        result.append(f"{model}, {how}, has a test AUC of {estimate(row, 'auc')} on {images}.")
        if others and run["selected_on"] == "test":
            result.append("Because it was selected on the test set, its AUC is optimistic.")
    else:
        only = f"Every test image ({n:,}) is {word if positives else NORMAL}"
        result.append(f"{only}, so the AUC is undefined.")
    if len(results.comparisons) and fewer:
        tests = comparison.against(results.comparisons, model)
        own = tests.index.isin(networks.index)
        if own.any():
            result.append(f"Paired tests of the AUC (DeLong, Holm): {_differences(tests[own])}.")
        sizes = tests.loc[own, "detectable"].dropna().agg(["min", "max"]).map("{:.3f}".format)
        if (size := "–".join(sizes.unique())) != "nan":
            detectable = "Smallest detectable difference in AUC (80 % power, unadjusted)"
            ranking.append(f"{detectable}: {size}.")
        for name, p in tests.loc[~own, "p"].items():
            other = f"{name}: AUC {estimate(scores.loc[name], 'auc')}"
            lead = f"{_lead(tests.loc[name])} (unadjusted 95 % CI)"
            ranking.append(f"{other}; {model} minus {name}: {lead}, {p_value(p)} (Holm).")

    for best in results.cross_validation.head(1).to_dict("records"):
        tests = comparison.against(results.comparisons, best["model"], OUT_OF_FOLD)
        folds = f"{counted(best['n'], 'image')} in {results.cross_validation['fold'].max()} folds"
        claim = "the highest" if others else "a"
        corrected = others and np.isfinite(best["auc_low"])
        note = "; the lower limit is corrected for the selection" if corrected else ""
        auc = f"mean out-of-fold AUC of {estimate(best, 'auc')}"
        cross_validation.append(f"{best['model']} has {claim} {auc} on {folds}{note}.")
        if len(tests):
            cross_validation.append(f"Paired tests out of fold: {_differences(tests)}.")
        if not np.isnan(best.get("auc_without_run", np.nan)):
            without = estimate(best, "auc_without_run")
            run_of = "the longest run of images of one class (see the audit)"
            cross_validation.append(f"Without {run_of}, its mean out-of-fold AUC is {without}.")
    if np.isnan(row["calibration_p"]):
        probabilities.append("The calibration could not be tested.")
    else:
        wrong = row["calibration_p"] < SIGNIFICANCE
        fit = f"{model} is miscalibrated" if wrong else "No miscalibration detected"
        fit = f"{fit}: O/E {estimate(row, 'observed_expected', 2)}"
        slope = f"slope {estimate(row, 'calibration_slope', 2)}"
        probabilities.append(f"{fit}, {slope}, {p_value(row['calibration_p'])}.")
    utility = results.clinical_utility.set_index("model").loc[model]
    if fewer:
        values = f"PPV {estimate(utility, 'ppv', 0, 100)}, NPV {estimate(utility, 'npv', 0, 100)}"
        percent = float(f"{100 * utility['prevalence']:.2g}")
        probabilities.append(f"At a prevalence of {percent:g} %: {values}.")

    numbers = []
    sides = [("negative", "sensitivity", word, positives)]
    sides += [("positive", "specificity", NORMAL, n - positives)]
    for kind, metric, name, count in sides:
        if count:
            false = counted(round((1 - row[metric]) * count), f"false {kind}")
            rate = estimate(utility, f"false_{kind}s_per_100", 0)
            numbers.append(f"{false} among {counted(count, f'{name} image')}, {rate}")
    point = results.operating_points.set_index("model").loc[model]
    origin = {OUT_OF_FOLD: "out-of-fold ", "validation": "validation "}.get(run["selected_on"], "")
    images = counted(point["n"], f"{origin}image")
    origin = f"chosen on {images}, {'only ' if point['positives'] < FEW else ''}"
    origin += f"{point['positives']:,} of them {word}"
    origin = "default" if point["rule"].startswith("default") else origin
    threshold = f"{estimate(point, 'threshold', 2)}, {origin}"
    errors.append(f"{model} at the threshold {threshold}: {'; '.join(numbers)}.")
    groups = results.subgroups[results.subgroups["model"] == model].query("column != 'all'")
    parts = groups.dropna(subset="sensitivity").groupby("column", sort=False)
    for (column, rows), metric in itertools.product(parts, ("sensitivity", "specificity")):
        if (p := rows[f"p_{metric}_holm"].iloc[0]) < SIGNIFICANCE:
            values = ", ".join(
                f"{FLAGS.get((column, part['value']), part['value'])} "
                f"{estimate(part, metric, 0, 100)}"
                for part in rows.sort_values(metric).to_dict("records")
            )
            name = f"{metric.capitalize()} of {model} differs by {str(column).replace('_', ' ')}"
            errors.append(f"{name}: {values}; {p_value(p)} (Holm).")
    few = [
        f"{str(name).replace('_', ' ')} {FLAGS.get((name, value), value)} ({count}/{of})"
        for name, value, _, of, count, *_ in groups[groups["sensitivity"].isna()].to_numpy()
    ]
    if few:
        errors.append(f"Too few images for a test ({word}/all): {listed(few)}.")
    located = results.localization[results.localization["model"] == model].to_dict("records")
    heat_maps = [f"Use for localization: {_grade(of)}. {_pointing(of)}" for of in located]
    about = {"Result": result, "External test": external_test(run, n)}
    about |= {"Cross-validation": cross_validation, "Ranking": ranking}
    about |= {"Probabilities": probabilities}
    external = "external" in run  # trained with other settings, which are in the cards
    variant = results.networks["model"].isin(scores.index[scores["kind"] == "variant"])
    of_run = results.networks[~variant]
    trained = [] if external else training(of_run, results.history, run["settings"])
    if variant.any():
        names = listed(results.networks["model"][variant])
        trained.append(f"Trained with other settings (see networks.csv): {names}.")
    about |= {"Heat maps": heat_maps, "Where it fails": errors, "Training": trained, "Data": data}
    return {topic: sentences for topic, sentences in about.items() if sentences}


def training(networks: pd.DataFrame, history: pd.DataFrame, settings: Mapping) -> list[str]:
    """How the models were trained: fine-tuned layers, head, boxes, augmentation and input size."""
    rows = networks[networks["status"] == "trained"].set_index("model")
    epochs = history.groupby(["stage", "model"]).size()
    layers = {"top": "top block", "all": "whole network"}
    backbones = [
        f"{layers[depth]} fine-tuned for {counted(epochs['fine_tune', model], 'epoch')}"
        if depth
        else "frozen"
        for model, depth in rows["fine_tune_depth"].items()
    ]
    heads = [  # a pooled head is a logistic regression
        head if head == "pooled" else f"{head}, {counted(epochs['head', model], 'epoch')}"
        for model, head in rows["head"].items()
    ]
    boxes = rows["boxes"].map(", learned from the boxes of {:,.0f} images".format)
    boxes = boxes.mask(rows["boxes"] == 0, ", learned without boxes")
    copies = rows["augmented_copies"].map("{:g} per training image".format)
    facts = {
        "Backbone": pd.Series(backbones, rows.index),
        "Head": pd.Series(heads, rows.index) + boxes,
        "Augmented copies": copies.mask(rows["fine_tune_depth"] == "all", "new ones each epoch"),
        "Input size": rows["input_size"].map("{:g} px".format),
    }
    lines = []
    for name, texts in facts.items() if len(rows) else ():
        models = texts.index.to_series().groupby(texts, sort=False).agg(listed)
        parts = [f"{text} ({names})" for text, names in models.items()]
        lines.append(f"{name}: {'; '.join(parts) if len(parts) > 1 else texts.iloc[0]}.")
    if (rows["augmented_copies"] > 0).any() or (rows["fine_tune_depth"] == "all").any():
        given = {name: settings[name] for name in AUGMENTATION if settings.get(name)}
        changes = [f"{name} {value:g}" for name, value in given.items() if value is not True]
        changes += [name.replace("_", " ") for name, value in given.items() if value is True]
        lines.append(f"Augmentation: {', '.join(changes) or 'none'}.")
    return lines


def _differences(tests: pd.DataFrame) -> str:
    """The models that differ significantly from that of `comparison.against`, then the others."""
    significant = tests["p"] < SIGNIFICANCE
    sides = ("better", tests["lead"] > 0), ("worse", tests["lead"] < 0)
    parts = {f"significantly {word} than": tests.index[significant & own] for word, own in sides}
    parts["no significant difference (unadjusted 95 % CI) from"] = others = []
    others += [f"{name} ({_lead(row)})" for name, row in tests[~significant].iterrows()]
    return "; ".join(f"{what} {listed(names)}" for what, names in parts.items() if len(names))


def _lead(row: Mapping) -> str:
    """A difference in AUC with its interval: "+0.008, -0.018 to +0.035"."""
    limits = f"{row['lead_low']:+z.3f} to {row['lead_high']:+z.3f}"
    return f"{row['lead']:+z.3f}, {limits if row['lead_low'] <= row['lead_high'] else 'no CI'}"


def _grade(row: Mapping) -> str:
    """How reliably heat maps locate fractures, by the hit rate of the pointing game."""
    if row["assessment"] != ASSESSMENTS[0]:
        return "not recommended"
    return "usually reliable" if row["hit_rate_low"] >= USUALLY else "with caution"


def external_test(run: Mapping, n: int) -> list[str]:
    """The models, the effect of the change in prevalence on O/E, and how many of the n test images
    are out of distribution; empty for a run with training.
    """
    if not (facts := run.get("external")):
        return []
    shares = [f"{100 * share:.1f} % in {name}" for name, share in facts["prevalence"].items()]
    prevalence = f"Prevalence: {listed(shares)}"
    if "by_shift" in facts:
        origin = "validation" if "validation" in facts["prevalence"] else "training"
        prevalence += f"; the shift from {origin} by itself gives an O/E of {facts['by_shift']:.2f}"
    return [
        f"The models were trained on {facts['trained_on']}; weights, calibration and thresholds "
        "are those of the model cards, and nothing was fitted on these images.",
        f"{prevalence}.",
        f"Out of distribution: {facts['warnings']} of {n:,} test images; they are scored like the "
        f"others. {warning_rate(facts)}",
    ]


def _pointing(row: Mapping) -> str:
    return (
        f"Pointing game on {counted(row['images'], 'image')}: hit rate of {row['model']} "
        f"{estimate(row, 'hit_rate', 0, 100)}, permutation control {100 * row['permuted']:.0f} % "
        f"({p_value(row['p_permuted'])}), image center {100 * row['center']:.0f} % "
        f"({p_value(row['p_center'])})."
    )


def heat_map_caution(localization: pd.DataFrame, model: str) -> str:
    """The caution shown with the heat maps of a model; empty if they are above the controls."""
    rows = localization[localization["model"] == model].to_dict("records")
    if not rows:
        return "Heat maps not validated: there are no boxes to compare them with."
    good = rows[0]["assessment"] == ASSESSMENTS[0]
    return "" if good else f"Do not use these heat maps for localization. {_pointing(rows[0])}"


def warning_rate(card: Mapping) -> str:
    """How often images of the test set of a model got a warning."""
    if not (tested := card.get("ood_test")):
        return "How often images of the model's test set get this warning was not measured."
    share = estimate(tested, "warning_rate", 1, 100)
    return f"Of the {tested['n']:,} images of the model's test set, {share} got this warning."


def answer(row: Mapping, card: Mapping) -> list[str]:
    """The answer for one image by the model with this card; with a warning, no decision."""
    numbers = f"probability {row['probability']:.3f}, threshold {row['threshold']:.3f}"
    if not row["warning"]:
        return [f"{row['model']}: {row['decision']}, {numbers}"]
    warning = f"No decision: out of distribution ({row['warning']}). {warning_rate(card)}"
    return [warning, f"{row['model']}: {numbers}"]


def answers(table: pd.DataFrame, card: Mapping) -> list[str]:
    """The answers table as lines of text, then the caution and origin in the card of the model."""
    lines = []
    if len(table) > MOST_LISTED:
        decisions = table["decision"].replace("", "out of distribution").value_counts()
        counts = ", ".join(f"{count:,} {decision}" for decision, count in decisions.items())
        lines.append(f"{counted(len(table), 'image')}: {counts}.")
    for row in table.to_dict("records") if not lines else ():
        texts = [*answer(row, card), *filter(None, [row["overlay"]])]
        lines += [str(row["path"]), *(f"  {text}" for text in texts)]
    caution = card.get("heat_map_caution") if any(table["overlay"]) else ""
    statement = card.get("released", {}).get("statement")
    origin = {"source": card.get("source"), "initialization": {"": card["initialization"]}}
    return [*lines, *filter(None, [caution, statement]), note(origin)]
