"""Every column of every table in results/, once: what `tables` checks and explains."""

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
waiting?          number  0 to 1     share of the epochs' time spent waiting for pictures or maps

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
seconds_waiting?  number  s          of them, in which the training waited for its pictures or maps

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
