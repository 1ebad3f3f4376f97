"""Coverage of the 95 % confidence intervals of the AUC and of the threshold, by simulation.

    python benchmarks/coverage.py [SIMULATIONS] [threshold]

Scores are normal in both classes. "single": each image is a patient; "one class": patients with
three images of one class; "mixed": patients with three images, one of them fractured where the
patient has a fracture. Half of the variance is shared within a patient. Prints a Markdown table:
coverage in percent of the package's interval and of a percentile bootstrap over patients. With
"threshold", the share of validation sets whose interval of the threshold holds the true optimum.
"""

import itertools
import sys

import numpy as np
from scipy import stats

from fracture_utils.evaluation import calibration, intervals, metrics

AUCS, CLUSTERS, SIZES = (0.7, 0.9, 0.98), ("single", "one class", "mixed"), ((60, 370), (8, 370))
PER_PATIENT = 3
RESAMPLES = 200


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


def bootstrap(labels: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Percentiles over resampled patients."""
    draws = [
        metrics.roc_area(*metrics.roc_counts(labels, scores, weights))
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


if __name__ == "__main__":
    sizes = [int(word) for word in sys.argv[1:] if word.isdigit()] or [1000]
    (threshold_coverage if "threshold" in sys.argv else main)(*sizes)
