"""Figures: a function takes Results (or a table) and returns a Figure with a caption.

`style.save_to(folder)` makes them write PNG files too.
"""

# ruff: noqa: F401
from fracture_utils.evaluation.results import Results
from fracture_utils.plots import style
from fracture_utils.plots.images import (
    augmentation_grid,
    heat_maps,
    image_grid,
    localization,
    most_confident_errors,
    sample_predictions,
)
from fracture_utils.plots.performance import (
    class_distribution,
    comparisons,
    confusion_matrices,
    decision_curve,
    history,
    precision_recall,
    ranking,
    reliability,
    roc,
    subgroups,
)


def draw_all(results: Results) -> None:
    """Draw every figure that needs no images, whose table has rows and that is not drawn yet."""
    for draw, table in style.of_tables.items():
        if len(getattr(results, table)) and draw.__name__ not in style.output.drawn:
            draw(results)
