"""One figure, one message: tables in, a Matplotlib figure out, kept in an album.

A figure's function bears its name, and draws, captions and describes it: `album.add(plots.roc,
predictions, scores)`. A caption and an alternative text name what the tables say, and are computed
from them. Parameters that are tables bear the tables' names.
"""

from fracture_utils.evaluation.plots.album import Album
from fracture_utils.evaluation.plots.curves import (
    decision_curve,
    free_response,
    precision_recall,
    reliability,
    roc,
)
from fracture_utils.evaluation.plots.data import audit, augmentation, class_distribution
from fracture_utils.evaluation.plots.decisions import (
    confusion_matrices,
    sample_predictions,
    verdict,
)
from fracture_utils.evaluation.plots.maps import gallery, heatmaps, localisation
from fracture_utils.evaluation.plots.ranking import pairwise, ranking, subgroups
from fracture_utils.evaluation.plots.style import Chart, appearance, best
from fracture_utils.evaluation.plots.training import accuracy_against_cost, history

FIGURES = (
    *(class_distribution, audit, augmentation, history, ranking, roc, precision_recall),
    *(confusion_matrices, sample_predictions, pairwise, reliability, decision_curve, subgroups),
    *(localisation, free_response, heatmaps, gallery, accuracy_against_cost, verdict),
)
"""Every figure, in the order of the story."""

__all__ = ["FIGURES", "Album", "Chart", "appearance", "best", *(draw.__name__ for draw in FIGURES)]
