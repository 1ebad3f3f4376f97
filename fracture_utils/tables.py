"""The tables of a results folder: what a row is, and every column with its meaning, once.

    predictions = tables.write(config.results_dir, "predictions", predictions)
    predictions = tables.read(config.results_dir, "predictions")

Both check the table against SCHEMAS. `write` returns what it wrote, as `read` gives it back, so
that whoever goes on computes with what stands in the file. To add a column or a table, add a line
or a block to SCHEMAS: name, kind, unit, meaning, two spaces or more between them. `name?` may be
lacking, `name±` has name_low and name_high (95 %) beside it. Kinds: text, whole, number (float,
empty where undefined), flag. Columns that only the user's sidecar images.csv knows are allowed in
the tables of SIDECAR, as text; any other is refused.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fracture_utils import files
from fracture_utils.errors import InputError

SCHEMAS = """
images: a picture
path              text    file       of the picture, below the data folder
label             text    class      normal or fractured, by its folder
split             text    -          train, validation or test
group             text    -          pictures of one patient, or copies of one picture, share it
width             whole   pixels     of the file
height            whole   pixels     of the file
bit_depth         whole   bits       per channel of the file
sha256            text    digest     of the file's bytes

audit: a finding about the data, the worst first
severity          text    -          red (results would be wrong), amber (look at it) or info
check             text    -          what was looked for
path              text    file       it is about; empty where it is about all
other             text    file       the second picture of a pair; else empty
what              text    -          what was found
advice            text    -          what to do

networks: a network of the settings
model             text    -          its name
status            text    -          trained, failed or left out
why               text    -          it failed, was left out, or was trained otherwise than asked
initialisation    text    -          imagenet, released or random first weights
note              text    -          about the origin of its weights
head?             text    -          mean (of all places) or evidence (of each place)
precision?        text    -          arithmetic it was trained in
hardware?         text    -          it was trained on
parameters?       number  count      numbers that describe it
seconds_per_picture?     number  s   to predict one picture
randomised_correlation?  number  -1 to 1  of its heat maps with those of shuffled weights
multiply_adds?    number  1e9        multiplications per picture at its native size
seconds?          number  s          of all stages
seconds_features? number  s          of the pass through the frozen network
seconds_head?     number  s          of training the head
seconds_fine_tune?       number  s   of fine-tuning
seconds_predict?  number  s          of predicting and drawing heat maps

history: an epoch
model             text    -          network
stage             text    -          head or fine_tune
epoch             whole   count      within the stage
loss              number  nats       on training pictures, without dropout or augmentation
auc               number  0 to 1     on training pictures, without dropout or augmentation
val_loss          number  nats       on validation pictures
val_auc           number  0 to 1     on validation pictures
learning_rate     number  -          at the end of the epoch
seconds           number  s          of the epoch

predictions: a picture seen by a model
path              text    file       of the picture, below the data folder
group             text    -          pictures of one patient, or copies of one picture, share it
label             text    class      normal or fractured, by its folder
split             text    -          validation or test
model             text    -          network, ensemble or reference
kind              text    -          network, ensemble or reference
logit             number  log odds   of a fracture, not calibrated
probability       number  0 to 1     of a fracture; calibrated in results/
decision?         text    class      at the threshold chosen on validation

seeds: a picture seen by a frozen network with the head of one seed
path              text    file       of the picture, below the data folder
split             text    -          validation or test
label             text    class      normal or fractured, by its folder
model             text    -          network
seed              whole   -          0 is the one whose head was kept
logit             number  log odds   of a fracture, where both classes are equally frequent

ensembles: a member of an ensemble
model             text    -          Ensemble (all networks) or Selected ensemble (clearly better)
member            text    -          network

seed_spread: a network, whose frozen head was trained with several seeds
model             text    -          network, the best mean first
seeds             whole   count      trainings
auc               number  0 to 1     mean on the test pictures
auc_sd            number  0 to 1     standard deviation over the seeds
difference        number  0 to 1     by which the first network's mean is higher
var_test          number  -          variance of the difference by the drawing of test pictures
var_seeds         number  -          variance of the difference by chance of training
p                 number  0 to 1     of no difference but for both, after Holm's correction

scores: a model on the test pictures
model             text    -          network, ensemble or reference
kind              text    -          network, ensemble or reference
initialisation    text    -          first weights of the network
n                 whole   pictures   of the test
positives         whole   pictures   of them that are fractured
auc±              number  0 to 1     area under the ROC curve
average_precision±       number  0 to 1  area under the precision-recall curve
sensitivity±      number  0 to 1     share of the fractured that are called so
specificity±      number  0 to 1     share of the normal that are called so
ppv±              number  0 to 1     share of the called that are fractured
npv±              number  0 to 1     share of the cleared that are normal
f1±               number  0 to 1     harmonic mean of sensitivity and ppv
accuracy±         number  0 to 1     share of right decisions
balanced_accuracy±       number  0 to 1  mean of sensitivity and specificity
kappa±            number  -1 to 1    Cohen's agreement of decision and label beyond chance
sensitivity_at_90_specificity±  number  0 to 1  highest where 90 % of the normal are cleared
specificity_at_95_sensitivity±  number  0 to 1  highest where 95 % of the fractured are found
brier±            number  0 to 1     mean squared error of the probability
log_loss±         number  nats       mean negative log-likelihood of the label
expected_calibration_error±     number  0 to 1  mean gap of probability and share of fractures
auc_delong_low    number  0 to 1     lower end of DeLong's 95 % interval
auc_delong_high   number  0 to 1     upper end of DeLong's 95 % interval
brier_skill       number  share      of the Brier score of saying the base rate that is saved
chance_calibration_error  number  0 to 1  calibration error that an honest network would show here
calibration_intercept±    number  log odds  by which the probabilities are too low on the whole
calibration_slope±        number  ratio  below 1: too sure, above: not sure enough
observed_expected±        number  ratio  fractures seen over fractures expected
calibration_p     number  0 to 1     p value of the joint test of intercept 0 and slope 1

comparisons: a pair of networks on the test pictures
model_a           text    -          the one
model_b           text    -          the other
family            text    -          of tests that are corrected together: networks or ensembles
difference±       number  -1 to 1    AUC of a less that of b
p_delong          number  0 to 1     p value of DeLong's test of the difference
p_sensitivity     number  0 to 1     p value that both find equally many of the fractured
p_specificity     number  0 to 1     p value that both clear equally many of the normal
p_mcnemar         number  0 to 1     p value that both decide equally often rightly (exact)
p_delong_holm     number  0 to 1     the same after Holm's correction within the family
p_sensitivity_holm       number  0 to 1  the same after Holm's correction
p_specificity_holm       number  0 to 1  the same after Holm's correction
p_mcnemar_holm    number  0 to 1     the same after Holm's correction
p_chosen_holm     number  0 to 1     of DeLong's test, over the pairs of the chosen network alone

use: a model, at its threshold, on the test pictures
model             text    -          network or ensemble
prevalence        number  0 to 1     share of fractures that ppv and npv hold for
missed_of_100±    number  pictures   missed of 100 fractured ones
alarms_of_100±    number  pictures   called fractured of 100 normal ones
ppv±              number  0 to 1     share of the called that are fractured, at this prevalence
npv±              number  0 to 1     share of the cleared that are normal, at this prevalence
lr_positive±      number  ratio      how much a call raises the odds of a fracture
lr_negative±      number  ratio      how much a clearing lowers them
mcc±              number  -1 to 1    Matthews's correlation of decision and label

decision_curve: a model at a probability from which on a person would act
model             text    -          network or ensemble
threshold         number  0 to 1     probability from which on a person would act
net_benefit±      number  per picture  true positives less false ones at the odds of the threshold
treat_all         number  per picture  the same of acting on every picture

subgroups: a value of a column, as a model does there
column            text    -          of images.csv; all: every test picture
value             text    -          of that column
model             text    -          network or ensemble
n                 whole   pictures   of the test with that value
positives         whole   pictures   of them that are fractured
auc±              number  0 to 1     area under the ROC curve
sensitivity±      number  0 to 1     share of the fractured that are called so
specificity±      number  0 to 1     share of the normal that are called so
p_sensitivity     number  0 to 1     p value of one test a column that its values are alike
p_sensitivity_holm       number  0 to 1  the same after Holm's correction over all columns
p_specificity     number  0 to 1     p value of one test a column that its values are alike
p_specificity_holm       number  0 to 1  the same after Holm's correction over all columns

froc: a model at a number of false marks per picture
model             text    -          network or ensemble
false_marks       number  per picture  marks in no box that are allowed
sensitivity±      number  0 to 1     share of the boxes that a mark finds
lesions           whole   boxes      of the test
pictures          whole   pictures   of the test that are normal or have a box

localisation: a model, where its heat maps point on fractured test pictures with a box
model             text    -          network or ensemble
pictures          whole   pictures   with a box
boxes             whole   boxes      on them
hit_rate±         number  0 to 1     share of the pictures whose map is highest in a box
chance            number  0 to 1     the same of a random point
swapped           number  0 to 1     the same of maps that belong to other pictures
p_swapped         number  0 to 1     share of such swaps that hit as often
centre            number  0 to 1     the same of the middle of the picture
p_centre          number  0 to 1     p value of a paired test against the middle
energy±           number  0 to 1     mean share of the map above its mean that is in a box
area              number  0 to 1     the same of an even map
energy_ratio±     number  ratio      energy over area
found_at_0.25     number  0 to 1     share of the boxes found at 0.25 false marks per picture
found_at_0.5      number  0 to 1     share of the boxes found at 0.5 false marks per picture
found_at_1        number  0 to 1     share of the boxes found at 1 false mark per picture
found_at_2        number  0 to 1     share of the boxes found at 2 false marks per picture
randomised_correlation  number  -1 to 1  of the maps with those of shuffled weights
verdict           text    -          what that comes to, in words

gallery: a picture about which a model was surest, right or wrong
model             text    -          network or ensemble
outcome           text    -          missed, false alarm, found or cleared
path              text    file       of the picture, below the data folder
label             text    class      normal or fractured, by its folder
decision          text    class      at the threshold chosen on validation
probability       number  0 to 1     of a fracture, calibrated
kind?             text    -          network, ensemble or reference
group             text    -          pictures of one patient, or copies of one picture, share it

suspected_labels: a picture whose label every network contradicts and is sure of it
path              text    file       of the picture, below the data folder
split             text    -          validation or test
label             text    class      normal or fractured, by its folder
networks          whole   count      that contradict it
probability       number  0 to 1     of a fracture, mean of the networks
least_sure        number  0 to 1     of a fracture, by the network that is least sure
threshold         number  0 to 1     that this network had to pass

answers: a picture asked about, seen by a model
path              text    file       of the picture
model             text    -          network or ensemble
logit             number  log odds   of a fracture, not calibrated
probability       number  0 to 1     of a fracture, calibrated
threshold         number  0 to 1     from which on the decision is for a fracture
decision          text    class      or withheld
warning           text    -          what about the picture is unlike those that the model knows
warning_rate      number  0 to 1     share of ordinary pictures that are warned of, too
overlay           text    file       the picture with the heat map of the last model

columns: a column of a table
table             text    -          file name without .csv
column            text    -          its name
kind              text    -          text, whole, number or flag
unit              text    -          - where there is none
required          flag    -          whether every such table has it
meaning           text    -          in a line
"""
SIDECAR = frozenset({"images", "predictions", "gallery"})
"""Tables that take over, as text, what only the user's images.csv knows of a picture."""


class Column(NamedTuple):
    """One column; `kind` is text, whole, number or flag."""

    name: str
    kind: str
    unit: str
    meaning: str
    required: bool


def _parse(text: str) -> tuple[dict[str, str], dict[str, list[Column]]]:
    rows: dict[str, str] = {}
    columns: dict[str, list[Column]] = {}
    for block in text.strip().split("\n\n"):
        (table, row), *lines = block.split("\n")[0].split(": "), *block.split("\n")[1:]
        rows[table], columns[table] = row, []
        for line in lines:
            name, kind, unit, meaning = re.split(r" {2,}|(?<=[?±]) ", line)
            plain, required = name.rstrip("?±"), "?" not in name
            ends = ("", "_low", "_high") if "±" in name else ("",)
            said = ("", "lower end of the 95 % interval: ", "upper end of the 95 % interval: ")
            columns[table] += [
                Column(plain + end, kind, unit, words + meaning, required)
                for end, words in zip(ends, said, strict=False)
            ]
    return rows, columns


ROWS, COLUMNS = _parse(SCHEMAS)
ROWS["scores_by_patient"] = "a model, over patients or studies instead of pictures"
COLUMNS["scores_by_patient"] = COLUMNS["scores"]


def write(folder: Path, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write `table` to `<name>.csv` in `folder`, and return it as `read` does.

    ValueError where it does not fit its schema: the code that made it is wrong.
    """
    if fault := _fault(name, table):
        raise ValueError(f"The table {name} {fault}; SCHEMAS in tables.py says what it holds.")
    path = Path(folder) / f"{name}.csv"
    files.write_table(path, table)
    return read(folder, name)


def read(folder: Path, name: str) -> pd.DataFrame:
    """The table `<name>.csv` of `folder`; missing text is empty.

    InputError where there is no such file, or it does not fit its schema.
    """
    path = Path(folder) / f"{name}.csv"
    known = {column.name: column.kind for column in COLUMNS[name]}
    kinds = defaultdict(lambda: str, {c: _TYPES[kind] for c, kind in known.items()})
    gaps = {column: [""] for column, kind in known.items() if kind == "number"}
    try:
        table = pd.read_csv(
            path, dtype=kinds, keep_default_na=False, na_values=gaps, encoding="utf-8-sig"
        )
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read ({problem}); run the notebook again.") from None
    if fault := _fault(name, table):
        raise InputError(f"{path} {fault}; it is of another version, so run the notebook again.")
    return table


def drop(folder: Path, name: str) -> None:
    """Take away the table of an earlier run that this one has no use for."""
    (Path(folder) / f"{name}.csv").unlink(missing_ok=True)


def dictionary() -> pd.DataFrame:
    """Every column of every table: what `columns.csv` beside them holds."""
    rows = [
        (table, c.name, c.kind, c.unit, c.required, c.meaning)
        for table, columns in COLUMNS.items()
        for c in columns
    ]
    return pd.DataFrame(rows, columns=[column.name for column in COLUMNS["columns"]])


_TYPES = {"text": str, "whole": "int64", "number": float, "flag": bool}


def _fault(name: str, table: pd.DataFrame) -> str:
    """What is wrong with a table, in words; empty where it fits."""
    known = {column.name: column for column in COLUMNS[name]}
    for column in known.values():
        if column.required and column.name not in table:
            return f"has no column {column.name}"
    for column in table:
        if column not in known and name not in SIDECAR:
            return f"has a column {column} that nobody explains"
        kind = known[column].kind if column in known else "text"
        if not _is(table[column].dropna(), kind):
            return f"has something other than {kind} in the column {column}"
    return ""


def _is(values: pd.Series, kind: str) -> bool:
    if values.empty:
        return True
    if kind == "text":
        return bool(values.map(lambda value: isinstance(value, str)).all())
    if kind == "flag":
        return pd.api.types.is_bool_dtype(values)
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return bool(numeric and (kind == "number" or (values % 1 == 0).all()))
