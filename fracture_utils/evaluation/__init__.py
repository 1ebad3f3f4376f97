"""From a table of predictions to numbers with intervals, to figures, to a page.

Reads tables, never pictures or networks: it runs without Keras, TensorFlow or a GPU on anybody's
predictions (`python -m fracture_utils evaluate predictions.csv`). The order of the steps:

    predictions = calibration.ensembles(predictions)     rows of the ensembles, chosen on validation
    points = calibration.fit(predictions)                calibration and threshold, on validation
    predictions = calibration.apply(predictions, points) probability and decision of every row
    scores = metrics.scores(predictions)                 from here on: the test rows
    comparisons = comparison.pairs(predictions)
    conclusion.sentences(scores, comparisons)
"""
