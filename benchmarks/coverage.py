"""How often the intervals of the AUC hold the truth: simulated test sets whose AUC is known.

    python benchmarks/coverage.py [SIMULATIONS]

Scores are normal in both classes. "single": each picture is a patient; "one class": patients of
three pictures of one class; "mixed": patients of three pictures, of which the fractured ones hold
one fracture. Half of the variance is shared within a patient. Prints a Markdown table: coverage in
per cent of the project's interval and of a percentile bootstrap over patients.
"""

import itertools
import sys

import numpy as np
from scipy import stats

from fracture_utils.evaluation import intervals, metrics
from fracture_utils.evaluation.bootstrap import resample

AUCS, CLUSTERS, SIZES = (0.7, 0.9, 0.98), ("single", "one class", "mixed"), ((60, 370), (8, 370))
PER_PATIENT = 3
RESAMPLES = 200


def patients(cluster: str, positives: int, negatives: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and patients (n,) of a test set."""
    labels = np.repeat([1, 0], [positives, negatives])
    if cluster == "single":
        return labels, np.arange(len(labels))
    if cluster == "one class":
        own = np.arange(negatives) // PER_PATIENT + -(-positives // PER_PATIENT)
        return labels, np.concatenate([np.arange(positives) // PER_PATIENT, own])
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


def ours(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The interval of `metrics.scores`."""
    auc, clustered = metrics.delong(labels, scores[:, None], groups)
    _, independent = metrics.delong(labels, scores[:, None])
    effect = intervals.design_effect(clustered[0, 0], independent[0, 0])
    return intervals.newcombe(auc[0], (labels == 1).sum() / effect, (labels == 0).sum() / effect)


def bootstrap(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Percentiles over resampled patients."""
    draws = [
        metrics.area(*metrics.curve(labels, scores, weights))
        for weights in resample(labels, groups, RESAMPLES, 0)
    ]
    return tuple(np.percentile(np.concatenate(draws), [2.5, 97.5]))


def coverage(interval, auc: float, cluster: str, size: tuple[int, int], simulations: int) -> float:
    """Share of simulated test sets whose interval holds `auc`."""
    generator, held = np.random.default_rng(7), 0
    for _ in range(simulations):
        low, high = interval(*simulate(auc, cluster, size, generator))
        held += low <= auc <= high
    return held / simulations


def main(simulations: int) -> None:
    """Print the table."""
    header = "| AUC | patients | fractured / normal | ours | bootstrap |"
    sys.stdout.write(f"{header}\n|---|---|---|---|---|\n")
    for auc, cluster, size in itertools.product(AUCS, CLUSTERS, SIZES):
        found = [coverage(one, auc, cluster, size, simulations) for one in (ours, bootstrap)]
        cells = " | ".join(f"{100 * share:.1f}" for share in found)
        sys.stdout.write(f"| {auc} | {cluster} | {size[0]} / {size[1]} | {cells} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
