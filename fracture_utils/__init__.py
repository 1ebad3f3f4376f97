"""Which pretrained CNN tells a fractured bone from a normal one, and how far to trust it.

For education and research, never for clinical use.

A map, from left to right; a module imports only from its left.

config      every setting, once
files       whole files or none; errors: sentences for people; ledger: what is done and valid
download    files from the internet, resumed and checked
data/       reader, phantoms, sources, images, audit, store, augmentation, batches
models/     precision, backbones, classifier, features, training, prediction, jobs, worker
evaluation/ metrics, calibration, comparison, conclusion, plots, report (no Keras here)

Between the steps stand tables: images, audit, history, predictions, scores, comparisons.
"""

__version__ = "0.1.0"
