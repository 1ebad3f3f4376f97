"""How numbers and names are put into words."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from fracture_utils.evaluation.intervals import ENDS

YES_NO = {"0": "no", "1": "yes", "0.0": "no", "1.0": "yes", "False": "no", "True": "yes"}


def spread(row: Mapping, metric: str) -> str:
    """The interval of a number in a row of a table, in brackets behind it; why there is none where
    it is not known.
    """
    return _between(row[f"{metric}_low"], row[f"{metric}_high"], "{:.3f}", "")


def spread_in_percent(row: Mapping, share: str) -> str:
    """`spread` behind a whole percentage."""
    return _between(100 * row[f"{share}_low"], 100 * row[f"{share}_high"], "{:.0f}", " %")


def _between(low: float, high: float, form: str, unit: str) -> str:
    if np.isnan(low) or np.isnan(high):
        return " (too few groups for an interval)"
    if low == high:
        return " (the same in every resample, so without an interval)"
    return f" (95 % interval {form.format(low)} to {form.format(high)}{unit})"


def ranged(row: Mapping, metric: str, digits: int = 3) -> str:
    """A number in a row of a table with its 95 % interval: "0.812 (0.744 to 0.880)"."""
    value, low, high = (row[f"{metric}{end}"] for end in ENDS)
    if np.isnan(value):
        return "not defined"
    if np.isnan(low):
        return f"{value:.{digits}f} (no interval)"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def of_each(table: pd.DataFrame, metric: str) -> str:
    """`ranged` for every model of a table."""
    return "; ".join(f"{row['model']} {ranged(row, metric)}" for row in table.to_dict("records"))


def percent(share: float) -> str:
    """A share as a whole percentage."""
    if 0.99 < share < 1:
        return "more than 99 %"
    if 0 < share < 0.005:
        return "less than 1 %"
    return f"{100 * share:.0f} %"


def p_value(value: float) -> str:
    """A p value with as many digits as it deserves."""
    if np.isnan(value):
        return "no test"
    return "p < 0.001" if value < 0.001 else f"p {value:.{2 if value >= 0.1 else 3}f}"


def counted(count: int, what: str) -> str:
    """A number of things: "1 picture", "2 pictures", "no pictures"."""
    return f"{count:,} {what}" if count != 1 else f"1 {what.removesuffix('s')}"


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in a row: "A", "A and B", "A, B and C"."""
    names = [str(name) for name in names]
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def in_words(values: Iterable[object]) -> list[str]:
    """The values of one column as a reader says them: "no" instead of 0 where all are flags."""
    texts = [str(value) for value in values]
    return [YES_NO[text] for text in texts] if set(texts) <= set(YES_NO) else texts
