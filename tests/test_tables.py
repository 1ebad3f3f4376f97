"""Every table fits the data dictionary, when it is written and when it is read."""

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fracture_utils import tables
from fracture_utils.config import InputError

KINDS = tables.dictionary().groupby("table", sort=False)
NAMES = [name for name, _ in KINDS]
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)
CELLS = {
    "text": WORDS | st.sampled_from(["NA", "nan", "001", "1e5", "", 'a "b", c', "True"]),
    "integer": st.integers(-(2**62), 2**62),
    "number": st.floats(width=64),
    "boolean": st.booleans(),
}
EXAMPLE = {"text": "a", "integer": 1, "number": 0.5, "boolean": True}


def kinds(name: str) -> dict[str, str]:
    return KINDS.get_group(name).set_index("column")["kind"].to_dict()


def example(name: str) -> pd.DataFrame:
    return pd.DataFrame({column: [EXAMPLE[kind]] for column, kind in kinds(name).items()})


@pytest.mark.parametrize("name", NAMES)
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=10,
)
@given(st.data())
def test_every_table_is_read_back_to_six_digits_and_then_exactly(tmp_path, name, data):
    count = data.draw(st.integers(1, 3))
    table = pd.DataFrame(
        {c: [data.draw(CELLS[k]) for _ in range(count)] for c, k in kinds(name).items()}
    )
    tables.write(tmp_path, name, table)
    back = tables.read(tmp_path, name)
    pd.testing.assert_frame_equal(back, table, rtol=1e-5, check_dtype=False)
    pd.testing.assert_frame_equal(back, tables.rounded(table), check_dtype=False, check_exact=True)
    tables.write(tmp_path, name, back)
    pd.testing.assert_frame_equal(tables.read(tmp_path, name), back, check_exact=True)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_table_keeps_its_columns(tmp_path, name):
    tables.write(tmp_path, name, tables.empty(name))
    assert list(tables.read(tmp_path, name)) == tables.columns(name)


def test_optional_columns_may_be_absent(tmp_path):
    networks = example("networks").drop(columns=["seconds_fine_tune", "randomized_correlation"])
    tables.write(tmp_path, "networks", networks)
    assert list(tables.read(tmp_path, "networks")) == list(networks)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("scores", lambda t: t.drop(columns="auc_low"), "has no column auc_low"),
        ("scores", lambda t: t.assign(extra=1), "has an unknown column extra"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, name, change, words):
    table = change(example(name))
    with pytest.raises(ValueError, match=words):
        tables.write(tmp_path, name, table)
    assert not (tmp_path / f"{name}.csv").exists()
    table.to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(InputError, match=rf"{name}\.csv.*{words}.*run the notebook again"):
        tables.read(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "change"),
    [("scores", {"n": 0.5}), ("scores", {"auc": "high"}), ("operating_points", {"at_bound": 3})],
)
def test_a_file_with_a_cell_of_another_kind_is_refused(tmp_path, name, change):
    example(name).assign(**change).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(InputError, match=rf"{name}\.csv.*run the notebook again"):
        tables.read(tmp_path, name)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    for content in (None, b"", b"\xff\xfe\x00"):
        if content is not None:
            (tmp_path / "scores.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"scores\.csv cannot be read"):
            tables.read(tmp_path, "scores")


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_the_users_images_csv_are_text_and_allowed_where_images_are(tmp_path, name):
    table = example(name)
    if name not in tables.OPEN:
        with pytest.raises(ValueError, match="unknown column body_part"):
            tables.write(tmp_path, name, table.assign(body_part="007"))
        return
    tables.write(tmp_path, name, table.assign(body_part="007"))
    assert list(tables.read(tmp_path, name)["body_part"]) == ["007"]


def test_the_dictionary_explains_every_column_in_a_line():
    known = tables.dictionary()
    assert not known.duplicated(["table", "column"]).any()
    assert set(known["kind"]) == {"text", "integer", "number", "boolean"}
    assert known["meaning"].str.len().between(5, 110).all(), known["meaning"]
    assert set(known.loc[known["unit"] == "0 to 1", "kind"]) == {"number"}
    assert tables.columns("scores_by_patient") == tables.columns("scores")
