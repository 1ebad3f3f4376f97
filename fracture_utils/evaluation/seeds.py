"""How much of a difference between networks is chance of training, and how much of the test set.

The head of each frozen network is trained several times, from other first weights, in another
order and with other channels left out; the logits of all of them are in the seeds table.
"""

import numpy as np
import pandas as pd
from scipy import stats

from fracture_utils import tables
from fracture_utils.evaluation.intervals import SIGNIFICANT, holm
from fracture_utils.evaluation.metrics import delong
from fracture_utils.evaluation.predictions import FRACTURED
from fracture_utils.evaluation.wording import listed

COLUMNS = tables.NAMES["seed_spread"]


def spread(seeds: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """A row a network, best first: model, seeds (how many), auc (mean on the test pictures), auc_sd
    (standard deviation over the seeds), and, each against the first: difference, var_seeds,
    var_test (of the difference of means: by training, and by the drawing of test pictures) and p.

    `seeds` is the table of that name, with at least two seeds or empty; `predictions` gives the
    group of a path. Without seeds the table is empty.
    var_test is DeLong's variance of the difference, clustered by group, averaged over the seeds;
    var_seeds the sum of both variances over seeds, divided by their number. p is that of a t
    test with twice (seeds - 1) degrees of freedom, after Holm's correction for all networks.
    """
    if seeds.empty:
        return pd.DataFrame(columns=COLUMNS)
    groups = predictions.drop_duplicates("path").set_index("path")["group"]
    test = seeds[seeds["split"] == "test"]
    wide = test.pivot_table(index="path", columns=["model", "seed"], values="logit")
    labels = test.drop_duplicates("path").set_index("path")["label"].loc[wide.index]
    codes = pd.factorize(groups.loc[wide.index])[0]
    auc, covariance = delong((labels == FRACTURED).to_numpy(int), wide.to_numpy(), codes)
    of = wide.columns.get_level_values("model")
    count = len(set(wide.columns.get_level_values("seed")))
    means = pd.Series(auc).groupby(of, sort=False).mean().sort_values(ascending=False)
    varying = pd.Series(auc).groupby(of, sort=False).var()
    first, rows = np.flatnonzero(of == means.index[0]), []
    for model, mean in means.items():
        own = np.flatnonzero(of == model)
        apart = covariance[first, first] + covariance[own, own] - 2 * covariance[first, own]
        rows.append({
            "model": model, "seeds": count, "auc": mean, "auc_sd": np.sqrt(varying[model]),
            "difference": means.iloc[0] - mean, "var_test": apart.mean(),
            "var_seeds": (varying[means.index[0]] + varying[model]) / count,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    error = np.sqrt(table["var_test"] + table["var_seeds"])[1:]
    p = 2 * stats.t.sf(table["difference"][1:] / error, 2 * (count - 1))
    return table.assign(p=holm([np.nan, *p]))


def sentences(table: pd.DataFrame) -> list[str]:
    """What a reader must know of `spread`'s table."""
    if table.empty:
        return []
    said = (
        f"Trained with {table['seeds'].iloc[0]} seeds, the head on a frozen network has an AUC on "
        f"the same test pictures that varies by {table['auc_sd'].median():.3f} (median standard "
        f"deviation; at most {table['auc_sd'].max():.3f})."
    )
    first = table["model"].iloc[0]
    behind = list(table.loc[table["p"] < SIGNIFICANT, "model"])
    if behind:
        lasting = (
            f"Frozen, {first}'s lead over {listed(behind)} outlasts training and test set alike."
        )
    else:
        lasting = (
            f"Frozen, {first} comes first, but its lead does not outlast both training and test "
            "set, so this is no ranking of architectures."
        )
    return [said, lasting] if len(table) > 1 else [said]
