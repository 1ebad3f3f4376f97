"""Which pretrained CNN tells a fractured bone from a normal one, and how far to trust it.

For education and research, never for clinical use.

A map, from left to right; a module imports only from its left.

errors, files   sentences for people; whole files or none
lazy            arrays that are made when they are asked for
schemas, tables every column of every table in results/, once
events          training curves for TensorBoard
data/folders    what the words in folder names mean
networks        the registry of networks, one row each
config          every setting, once
download        files from the internet, resumed and checked
ledger          what is done and still valid, and who holds a folder
data/           greys, dicom, reader, anatomy, radiography, phantoms, duplicates, groups,
                inventory, sidecars, sources/, images, agreement, audit, store, places,
                augmentation, batches
models/         process, precision, released, backbones, evidence, classifier, folding, speed,
                features, training, heads, heatmaps, familiarity, prediction, progress, crew,
                cluster, job, jobs, cards, worker
evaluation/     predictions, bootstrap, intervals, probabilities, metrics, probe,
                calibration, comparison, wording, seeds, subgroups, use, detection,
                localisation, gallery, findings, conclusion, claim, verdict, plots/,
                cases, drawings, grids, page, report, rescoring (no Keras)
run             the record of a run
predict, widget what the networks say about X-rays, in the terminal and in the notebook
capture         an answer as DICOM
export          networks as files that answer without Keras
clean           free disk space
headless        the notebook without a person
__main__        the one command line

Between the steps stand tables: images, audit, history, predictions, scores, comparisons.
"""

__version__ = "0.1.0"
