"""Every table is what its schema says, when it is written and when it is read."""

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracture_utils import tables
from fracture_utils.errors import InputError
from fracture_utils.evaluation import metrics

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)
CELLS = {
    "text": WORDS | st.sampled_from(["NA", "nan", "001", "1e5", "", 'a "b", c', "True"]),
    "whole": st.integers(-(2**62), 2**62),
    "number": st.floats(width=64),
    "flag": st.booleans(),
}


def of_schema(name, draw, count):
    return pd.DataFrame(
        {c.name: [draw(CELLS[c.kind]) for _ in range(count)] for c in tables.COLUMNS[name]}
    )


@pytest.mark.parametrize("name", list(tables.COLUMNS))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
    max_examples=10,
)
@given(st.data())
def test_every_table_comes_back_to_six_digits_and_then_for_good(tmp_path, name, data):
    table = of_schema(name, data.draw, data.draw(st.integers(1, 3)))
    back = tables.write(tmp_path, name, table)
    pd.testing.assert_frame_equal(back, table, rtol=1e-5, check_dtype=False)
    again = tables.write(tmp_path, name, back)
    pd.testing.assert_frame_equal(again, back, check_exact=True)


def test_an_empty_table_keeps_its_columns(tmp_path):
    for name, columns in tables.COLUMNS.items():
        empty = pd.DataFrame(columns=[column.name for column in columns])
        assert list(tables.write(tmp_path, name, empty)) == list(empty), name


def wrong(table):
    """The ways in which a table of scores may be wrong, and what is said of it."""
    yield table.drop(columns="auc_low"), "has no column auc_low"
    yield table.assign(extra=1), "has a column extra that nobody explains"
    yield table.assign(n=0.5), "something other than whole in the column n"
    yield table.assign(auc="high"), "something other than number in the column auc"


def test_what_does_not_fit_is_refused_in_words(tmp_path):
    cells = {"text": "a", "whole": 1, "number": 0.5, "flag": True}
    scores = pd.DataFrame({c.name: [cells[c.kind]] for c in tables.COLUMNS["scores"]})
    for table, words in wrong(scores):
        with pytest.raises(ValueError, match=words):
            tables.write(tmp_path, "scores", table)
        assert not (tmp_path / "scores.csv").exists()
        table.to_csv(tmp_path / "scores.csv", index=False)
        with pytest.raises(InputError, match=r"scores\.csv.*run the notebook again"):
            tables.read(tmp_path, "scores")
        (tmp_path / "scores.csv").unlink()
    with pytest.raises(ValueError, match="something other than text in the column model"):
        tables.write(tmp_path, "scores", scores.assign(model=1))
    with pytest.raises(InputError, match=r"scores\.csv cannot be read"):
        tables.read(tmp_path, "scores")


def test_columns_of_the_sidecar_are_text_where_pictures_are_told_and_nowhere_else(tmp_path):
    cells = {"text": "a", "whole": 1, "number": 0.5, "flag": True}
    for name, columns in tables.COLUMNS.items():
        table = pd.DataFrame({c.name: [cells[c.kind]] for c in columns})
        if name in tables.SIDECAR:
            back = tables.write(tmp_path, name, table.assign(body_part="007"))
            assert list(back["body_part"]) == ["007"]
            with pytest.raises(ValueError, match="other than text in the column age"):
                tables.write(tmp_path, name, table.assign(age=7))
        else:
            with pytest.raises(ValueError, match="body_part that nobody explains"):
                tables.write(tmp_path, name, table.assign(body_part="007"))


def test_the_dictionary_explains_every_column_in_a_line():
    known = tables.dictionary()
    assert not known.duplicated(["table", "column"]).any()
    assert set(known["table"]) == set(tables.ROWS)
    assert known["kind"].isin(["text", "whole", "number", "flag"]).all()
    for text in known["meaning"]:
        assert 4 < len(text) < 100, text
    shares = known[known["unit"] == "0 to 1"]
    assert set(shares["kind"]) == {"number"}


def test_the_dictionary_knows_every_metric():
    known = {column.name for column in tables.COLUMNS["scores"]}
    assert {f"{m}{end}" for m in metrics.METRICS for end in ("", "_low", "_high")} < known
