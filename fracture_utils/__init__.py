"""Which pretrained CNN detects fractures on your radiographs, and how far to trust it.

For education and research only, never for clinical use.

The modules in order; each imports only from modules above it (tested):

config, artifacts, tables    settings; atomic files and their keys; result tables
data/reader                  one radiograph file -> uint8 grayscale
data/duplicates              near-duplicate images
data/splits                  groups; validation, test and cross-validation splits
data/generators              augmentation, batches, boxes as grids
data/dataset                 folders and tables -> images table; pixel cache
data/phantoms                synthetic radiographs, the built-in data set
data/sources                 importers of published data sets
evaluation/predictions       the predictions table, read and checked
evaluation/intervals         grouped bootstrap, Wilson, Newcombe, Holm
evaluation/metrics           metrics with intervals, DeLong, calibration tests
evaluation/calibration       Platt scaling, thresholds, ensemble, selected model
evaluation/comparison        paired tests between models
evaluation/subgroups         body part, view and other columns
evaluation/clinical_utility  predictive values, decision curve
evaluation/localization      pointing game, permutation control
evaluation/shortcuts         metadata-only baseline
evaluation/sentences         all computed English
evaluation/results           evaluate(predictions) -> Results: every table, the selected model
data/audit                   leakage, conflicting labels, shortcuts
models/backbones             the registry, initial weights, precision
models/builder               backbone + head as one graph, freezing
models/features              cached feature maps of the frozen backbone
models/heatmaps              class activation maps, randomization check
models/ood                   out-of-distribution warning
models/training              one model from initial weights to predictions (its own process)
models/jobs                  all models: here, one per GPU, or on a Dask cluster
models/model_cards           cards and loading of trained and released models
plots/                       style, performance, images: Results -> figures
report                       one HTML page and a README for the results folder
predict                      predictions for single images
export                       ONNX
notebook                     headless execution of the notebook
__main__                     the command line
"""

import os

# Idle threads of NumPy's matrix products spin: fifteen times slower while other processes run.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.2.0"
