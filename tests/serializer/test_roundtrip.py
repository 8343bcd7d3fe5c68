from __future__ import annotations

import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from sameness import same

from taskiq_pg_json.serializer import JsonSerializer

serializer = JsonSerializer()
pytestmark = pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")


def back(value, jsonb_roundtrip):
    """What comes back of a value, twice the same: rows share the sidecars that were read."""
    row = jsonb_roundtrip(serializer.encode({"return_value": value}, task_id="t"))
    first, second = (serializer.decode(row, task_id="t")["return_value"] for _ in range(2))
    assert same(first, second)
    return second


@given(value=strategies.values)
def test_any_value_comes_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(value=strategies.leaves)
def test_any_leaf_comes_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(value=st.dictionaries(strategies.colliding_keys, st.integers(), max_size=12))
def test_keys_that_collide_as_text_come_back_apart(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(value=st.dictionaries(strategies.keys, st.integers(), max_size=5))
def test_any_hashable_key_comes_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(value=strategies.tables(strategies.leaves))
def test_tables_come_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(value=strategies.values_and_exceptions)
def test_exceptions_inside_a_value_come_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)


@given(
    columns=st.fixed_dictionaries(
        dict.fromkeys(
            ["return_value", "args", "labels"],
            strategies.values | st.integers(50, 200).flatmap(strategies.nested),
        )
    )
)
def test_columns_of_one_row_come_back_the_same(columns, jsonb_roundtrip):
    row = jsonb_roundtrip(serializer.encode(columns, task_id="t"))
    for _ in range(2):
        assert same(serializer.decode(row, task_id="t"), columns)


@given(value=st.integers(50, 600).flatmap(strategies.nested))
def test_deep_nesting_comes_back_the_same(value, jsonb_roundtrip):
    assert same(back(value, jsonb_roundtrip), value)
