"""Coverage of the 95 % confidence intervals of the AUC and of the threshold, by simulation.

    python benchmarks/coverage.py [SIMULATIONS] [threshold | cross-validation]

Scores are normal in both classes. "single": each image is a patient; "one class": patients with
three images of one class; "mixed": patients with three images, one of them fractured where the
patient has a fracture. Half of the variance is shared within a patient. Prints a Markdown table:
coverage in percent of the package's interval and of a percentile bootstrap over patients. With
"threshold", the share of validation sets whose interval of the threshold holds the true optimum.

With "cross-validation", the intervals and tests of five folds and of the selected model: blocks of
25 images with the class mix of FracAtlas, whose scores share a fifth of their variance in a block
and three fifths between models, from heads of the folds with different offsets and scales.
"""

import itertools
import sys

import numpy as np
import pandas as pd
from scipy import stats

from fracture_utils.config import CLASS_NAMES, OUT_OF_FOLD
from fracture_utils.evaluation import calibration, comparison, intervals, metrics
from fracture_utils.evaluation.predictions import out_of_fold

AUCS, CLUSTERS, SIZES = (0.7, 0.9, 0.98), ("single", "one class", "mixed"), ((60, 370), (8, 370))
PER_PATIENT = 3
RESAMPLES = 200
FOLDS, BLOCK, IN_BLOCK, SHARED = 5, 25, 0.2, 0.6  # of the cross-validation
LEARNED = [25] * 13 + [*range(10, 5, -1)] + [5] * 6 + [4] * 10 + [3] * 12 + [2] * 24 + [1] * 32
"""Fractures in the blocks that have any; 30 blocks have none."""
TESTED = [9, 7, 6, 6, 4, 4, 4, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1]


def patients(cluster: str, positives: int, negatives: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and patients (n,) of a test set."""
    labels = np.repeat([1, 0], [positives, negatives])
    if cluster == "single":
        return labels, np.arange(len(labels))
    if cluster == "one class":
        normal = np.arange(negatives) // PER_PATIENT + -(-positives // PER_PATIENT)
        return labels, np.concatenate([np.arange(positives) // PER_PATIENT, normal])
    companions = np.repeat(np.arange(positives), PER_PATIENT - 1)[:negatives]
    rest = np.arange(negatives - len(companions)) // PER_PATIENT + positives
    return labels, np.concatenate([np.arange(positives), companions, rest])


def simulate(
    auc: float, cluster: str, size: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and patients of one test set whose true AUC is `auc`."""
    labels, groups = patients(cluster, *size)
    shared = 0.0 if cluster == "single" else 0.5
    scores = np.sqrt(2) * stats.norm.ppf(auc) * labels
    scores += np.sqrt(shared) * generator.normal(size=groups.max() + 1)[groups]
    return labels, scores + np.sqrt(1 - shared) * generator.normal(size=len(labels)), groups


def package(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The interval of `metrics.scores`."""
    return metrics.auc_with_interval(labels, scores, groups)[1:]


def roc_area(true_positives: np.ndarray, false_positives: np.ndarray) -> np.ndarray:
    """Area under each of the ROC curves of `metrics.roc_counts`."""
    true, false = (np.pad(part, ((1, 0), (0, 0))) for part in (true_positives, false_positives))
    return np.trapezoid(true, false, axis=0) / (true[-1] * false[-1])


def bootstrap(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Percentiles over resampled patients."""
    draws = [
        roc_area(*metrics.roc_counts(labels, scores, weights))
        for weights in intervals.resample(labels, groups, RESAMPLES, 0)
    ]
    return tuple(np.percentile(np.concatenate(draws), intervals.PERCENTILES))


def coverage(interval, auc: float, cluster: str, size: tuple[int, int], simulations: int) -> float:
    """Share of simulated test sets whose interval contains `auc`."""
    generator, count = np.random.default_rng(7), 0
    for _ in range(simulations):
        low, high = interval(*simulate(auc, cluster, size, generator))
        count += low <= auc <= high
    return count / simulations


def main(simulations: int) -> None:
    """Print the table."""
    header = "| AUC | patients | fractured / normal | package | bootstrap |"
    sys.stdout.write(f"{header}\n|---|---|---|---|---|\n")
    for auc, cluster, size in itertools.product(AUCS, CLUSTERS, SIZES):
        shares = [coverage(one, auc, cluster, size, simulations) for one in (package, bootstrap)]
        cells = " | ".join(f"{100 * share:.1f}" for share in shares)
        sys.stdout.write(f"| {auc} | {cluster} | {size[0]} / {size[1]} | {cells} |\n")
        sys.stdout.flush()


def threshold_coverage(simulations: int) -> None:
    """Print the coverage of the interval of the threshold by size, clusters and bootstrap."""
    sys.stdout.write("| AUC | patients | fractured / normal | package | n out of n |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    for auc, cluster, size in itertools.product((0.8, 0.9), CLUSTERS[:2], ((100, 550), (30, 100))):
        optimum, generator = stats.norm.ppf(auc) / np.sqrt(2), np.random.default_rng(7)
        shares = []
        for power in (calibration.POWER, 1.0):
            count = 0
            for _ in range(simulations):
                labels, scores, groups = simulate(auc, cluster, size, generator)
                draws = [
                    calibration.thresholds(labels, scores, None, weights)
                    for weights in intervals.resample(labels, groups, RESAMPLES, 0, power=power)
                ]
                low, high = np.nanpercentile(np.concatenate(draws), intervals.PERCENTILES)
                count += low <= optimum <= high
            shares.append(f"{100 * count / simulations:.1f}")
        sys.stdout.write(f"| {auc} | {cluster} | {size[0]} / {size[1]} | {' | '.join(shares)} |\n")


def blocks(fractures: list[int], others: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and blocks (n,) of images."""
    counts = np.array([*fractures, *[0] * others])
    labels = np.arange(BLOCK) < counts[:, None]
    return labels.ravel().astype(int), np.repeat(np.arange(len(counts)), BLOCK)


def block_scores(
    aucs: list[float], labels: np.ndarray, groups: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Scores (n, k) of models whose AUC is `aucs` (k,) for images of different blocks."""
    shape = groups.max() + 1, len(labels)
    parts = [[generator.normal(size=(size, k)) for size in shape] for k in (1, len(aucs))]
    shared, own = (
        np.sqrt(IN_BLOCK) * of_block[groups] + np.sqrt(1 - IN_BLOCK) * of_image
        for of_block, of_image in parts
    )
    noise = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * own
    return np.sqrt(2) * stats.norm.ppf(aucs) * labels[:, None] + noise


def true_auc(auc: float, labels: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> float:
    """The expected mean AUC of the folds: images of one block are easier to tell apart."""
    easier, truths = stats.norm.cdf(stats.norm.ppf(auc) / np.sqrt(1 - IN_BLOCK)), []
    for own in (folds == fold for fold in np.unique(folds)):
        a, b = (np.bincount(groups[own], labels[own] == label) for label in (0, 1))
        inside = a @ b / (a.sum() * b.sum())
        truths.append(inside * easier + (1 - inside) * auc)
    return float(np.mean(truths))


def cross_validated(aucs: list[float], simulations: int) -> pd.Series:
    """Means over simulated data sets of what covers, and of how far the selected AUC is off."""
    generator, rows, (labels, groups) = np.random.default_rng(7), [], blocks(LEARNED, 30)
    folds = groups % FOLDS + 1
    truths = np.array([true_auc(auc, labels, groups, folds) for auc in aucs])
    images = {"path": [f"{i:04d}" for i in range(len(labels))], "group": groups, "fold": folds}
    images = pd.DataFrame(images).assign(split=OUT_OF_FOLD, kind="network", probability=0.5)
    images = images.assign(label=np.array(CLASS_NAMES)[labels], decision=CLASS_NAMES[0])
    table = pd.concat([images.assign(model=str(k)) for k in range(len(aucs))], ignore_index=True)
    for _ in range(simulations):
        raw = block_scores(aucs, labels, groups, generator)
        heads = generator.normal(0, [[[0.5]], [[0.2]]], (2, FOLDS, len(aucs)))[:, folds - 1]
        table["logit"] = (raw * np.exp(heads[1]) + heads[0]).T.ravel()
        found = comparison.cross_validation(table, set())
        auc, low, high = found.query("fold == 0").iloc[0][["auc", "auc_low", "auc_high"]]
        first = int(found["model"].iloc[0])
        data, _ = out_of_fold(table)
        naive = metrics.auc_with_interval(labels, data.logits[:, first], groups, folds)
        fixed = metrics.auc_with_interval(labels, data.logits[:, 0], groups, folds)
        pairs = comparison._pairs(data, folds, None, OUT_OF_FOLD)
        pair = pairs[pairs[["model_a", "model_b"]].isin(["0", "1"]).all(axis=1)].iloc[0]
        gap = truths[int(pair["model_a"])] - truths[int(pair["model_b"])]
        _, p_same = calibration.align_folds(labels, raw[:, 0], groups, folds)
        _, p_other = calibration.align_folds(labels, data.logits[:, 0], groups, folds)
        row = {"AUC of a fixed model": fixed[1] <= truths[0] <= fixed[2]}
        row["difference of two"] = pair["difference_low"] <= gap <= pair["difference_high"]
        row["AUC of the selected model"] = low <= truths[first] <= high
        row["the same, naive"] = naive[1] <= truths[first] <= naive[2]
        row["points by which its AUC is too high"] = auc - truths[first]
        row["DeLong p below 0.05"] = pair["p_delong"] < intervals.SIGNIFICANCE
        row["equal intercepts said to differ"] = p_same < intervals.SIGNIFICANCE
        row["different ones (SD 0.5)"] = p_other < intervals.SIGNIFICANCE
        rows.append(row)
    return 100 * pd.DataFrame(rows).mean()


def errors(auc: float, simulations: int) -> tuple[float, float]:
    """Percent of test sets with an error about six equal models: Holm over five tests against the
    one that was selected out of fold, or on the test set itself.
    """
    generator, wrong = np.random.default_rng(7), []
    learned, tested, degrees = blocks(LEARNED, 30), blocks(TESTED, 2), len(TESTED) - 1
    for _ in range(simulations):
        logits = block_scores([auc] * 6, *learned, generator)
        out_of_fold_auc, _ = metrics.delong(learned[0], logits, None, learned[1] % FOLDS)
        on_test, covariance = metrics.delong(
            tested[0], block_scores([auc] * 6, *tested, generator), tested[1]
        )
        row = []
        for k in (out_of_fold_auc.argmax(), on_test.argmax()):
            variances = covariance[k, k] + np.diag(covariance) - 2 * covariance[k]
            pairs = [*zip(on_test - on_test[k], variances, strict=True)]
            p = [comparison.p_delong(*pair, degrees) for pair in pairs[:k] + pairs[k + 1 :]]
            row.append(min(intervals.holm(p)) < intervals.SIGNIFICANCE)
        wrong.append(row)
    return tuple(100 * np.mean(wrong, axis=0))


def cross_validation(simulations: int) -> None:
    """Print what covers and how often a test errs, in percent."""
    columns = {"six equal models": [0.9] * 6, "one better by 0.02": [0.92, *[0.9] * 5]}
    parts = {name: cross_validated(aucs, simulations) for name, aucs in columns.items()}
    sys.stdout.write(f"| percent | {' | '.join(parts)} |\n|---|---|---|\n")
    for name, row in pd.DataFrame(parts).iterrows():
        sys.stdout.write(f"| {name} | {' | '.join(f'{value:.1f}' for value in row)} |\n")
    sys.stdout.write("\n| six equal models, the best one selected | errors |\n|---|---|\n")
    for name, share in zip(("out of fold", "on test"), errors(0.9, 5 * simulations), strict=True):
        sys.stdout.write(f"| {name} | {share:.1f} |\n")


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [1000]
    modes = {"threshold": threshold_coverage, "cross-validation": cross_validation}
    next((mode for name, mode in modes.items() if name in sys.argv), main)(*sizes)
