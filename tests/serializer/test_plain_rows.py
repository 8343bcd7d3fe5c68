"""Short rows take a lane of their own; it must leave and give what the others do."""

from __future__ import annotations

from collections import OrderedDict
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from uuid import UUID, SafeUUID

import orjson
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from sameness import same

from taskiq_pg_json import JsonSerializer
from taskiq_pg_json.serializer import knownforms
from taskiq_pg_json.serializer.plainrows import Unread, read_plain, read_return_value, write_plain
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.serializer.reading import RowReader
from taskiq_pg_json.serializer.writing import RowWriter


class Color(IntEnum):
    RED = 1


cells = st.none() | st.booleans() | strategies.integers | strategies.floats | strategies.text
names = st.lists(st.sampled_from(["a", "bb", "z", "key", "", "é"]), unique=True, max_size=4)


def _rows(inner):
    return names.flatmap(lambda keys: st.lists(st.fixed_dictionaries(dict.fromkeys(keys, inner))))


json_values = st.recursive(
    cells,
    lambda inner: (
        st.lists(inner, max_size=20)
        | names.flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, inner)))
        | _rows(inner)
    ),
    max_leaves=30,
)


def written(serializer, columns):
    """What the lane of short rows and that of all rows leave, once the keys are known."""
    serializer.encode(columns, task_id="t")
    plan = serializer._plan
    return write_plain(plan, columns), RowWriter(plan, "t").write(columns)


@given(json_values)
def test_both_writers_leave_the_same_row(value):
    short, any_row = written(JsonSerializer(), {"return_value": value, "labels": {}})
    if short is not None:
        assert short.columns == any_row.columns
        assert orjson.loads(short.types or b"null") == orjson.loads(any_row.types or b"null")


leaves = st.datetimes() | st.dates() | st.decimals() | st.uuids()
like_rows = st.dictionaries(
    st.sampled_from(["a", "bb", "z", "key", "", "é"]),
    st.recursive(
        cells | leaves,
        lambda inner: (
            st.lists(inner, max_size=6)
            | names.flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, inner)))
            | _rows(inner)
        ),
        max_leaves=20,
    ),
)


@given(like_rows, st.data())
def test_a_row_of_a_known_form_is_the_one_that_a_walk_leaves(value, data):
    serializer = JsonSerializer()
    for _ in range(knownforms.OFTEN):
        serializer.encode({"return_value": value}, task_id="t")
    other = data.draw(st.just(value) | like_rows | st.permutations(list(value.items())).map(dict))
    known = serializer._plan.forms.find(other)
    if known is not None:
        row = write_plain(serializer._plan, {"return_value": other})
        walked = RowWriter(serializer._plan, "t").write({"return_value": other})
        assert row is None or row.columns == walked.columns
        assert row is None or orjson.loads(row.types or b"null") == orjson.loads(
            walked.types or b"null"
        )


def of_known_form(value, *others):
    """Whether values are known once the first has been met often."""
    serializer = JsonSerializer()
    for _ in range(2 * knownforms.OFTEN):
        serializer.encode({"return_value": value}, task_id="t")
    return [serializer._plan.forms.find(other) is not None for other in (value, *others)]


DAY = datetime(2026, 11, 26, tzinfo=timezone.utc)
ITEM = {"price": 1.5, "sku": "a"}


@pytest.mark.parametrize(
    "value",
    [
        {"id": 1, "name": "x", "paid": True, "note": None, "share": 0.0},
        {"id": 1, "customer": {"name": "x", "since": DAY}},
        {"items": [ITEM, ITEM], "tags": ["a", "b"], "totals": [1, 2.5]},
        {
            "at": DAY,
            "total": Decimal("1.50"),
            "id": UUID(int=1),
        },
        {"days": [date(2026, 11, 26)], "none": []},
        {str(number): number for number in range(60)},
    ],
)
def test_a_value_that_is_met_often_has_a_known_form(value):
    assert of_known_form(value) == [True]


def test_other_scalars_are_of_the_same_form():
    assert of_known_form(
        {"a": 1, "b": [ITEM]}, {"a": None, "b": [{"price": None, "sku": 2.5}]}
    ) == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ({"a": 1}, {"a": -0.0}),
        ({"a": 1}, {"a": 1e15}),
        ({"a": 1}, {"a": float("nan")}),
        ({"a": 1}, {"a": (1,)}),
        ({"a": 1}, {"a": Decimal(1)}),
        ({"a": 1}, {"a": Color.RED}),
        ({"a": 1}, {"a": [1]}),
        ({"a": [1]}, {"a": (1,)}),
        ({"a": [1]}, {"a": [1, (2,)]}),
        ({"a": [1]}, {"a": [1] * 65}),
        ({"a": [1]}, {"a": ["long " * 300] * 5}),
        ({"a": [ITEM]}, {"a": []}),
        ({"a": [ITEM]}, {"a": [ITEM, None]}),
        ({"a": [ITEM]}, {"a": [ITEM, {"sku": "a", "price": 1.5}]}),
        ({"a": [ITEM]}, {"a": [{"sku": "long " * 300, "price": 1}] * 5}),
        ({"a": [{"b": ITEM}]}, {"a": [{"b": ITEM}] * 17}),
        ({"a": {"b": 1}}, {"a": {"c": 1}}),
        ({"a": {"b": 1}}, {"a": OrderedDict(b=1)}),
        ({"a": DAY}, {"a": DAY.replace(fold=1)}),
        ({"a": DAY}, {"a": DAY.astimezone(timezone(timedelta(hours=1)))}),
        ({"a": UUID(int=1)}, {"a": UUID(int=1, is_safe=SafeUUID.safe)}),
        ({str(n): n for n in range(60)}, {str(n): "long " * 300 for n in range(60)}),
    ],
)
def test_a_value_of_another_form_is_not_taken_for_it(value, other):
    assert of_known_form(value, other) == [True, False]


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"a": {"a": {"a": {"a": 1}}}}},
        {"a": [[1]]},
        {"a": [{"b": 1}, {"c": 1}]},
        {"a": {1}},
        {str(number): [] for number in range(20)},
        {str(number): 1 for number in range(70)},
        {str(a): {str(b): {str(c): 1 for c in range(9)} for b in range(4)} for a in range(4)},
    ],
)
def test_what_is_large_or_mixed_has_no_form(value):
    assert of_known_form(value) == [False]


def test_no_more_forms_are_kept_than_are_looked_through():
    serializer = JsonSerializer()
    values = [{"a": {str(number): 1}} for number in range(10)]
    for value in values * 2 * knownforms.OFTEN:
        serializer.encode({"return_value": value}, task_id="t")
    found = [serializer._plan.forms.find(value) is not None for value in values]
    assert sum(found) == knownforms.MOST_FORMS


@pytest.mark.filterwarnings("ignore")
@given(json_values | strategies.values)
def test_both_readers_give_the_same_values(value):
    serializer = JsonSerializer()
    row = serializer.encode({"return_value": value, "labels": {}}, task_id="t")
    found = read_plain(row)
    if found is not None:
        reader = RowReader(serializer._lookup, serializer.fallback, row, "t")
        assert same(found, reader.read())
    data, types = row.columns["return_value"], row.types
    for alone in (
        read_return_value(data, types),
        read_return_value(data.decode(), types and types.decode()),
    ):
        if found is None:
            assert alone is Unread.VALUE
        else:
            assert same(alone, found["return_value"])


ORDERED = {"order": ["b", "a"]}


@pytest.mark.parametrize(
    ("plain", "node"),
    [
        ({"a": 1}, ORDERED),
        ({"a": 1, "c": 2}, ORDERED),
        ({"a": 1, "b": 2, "c": 3}, ORDERED),
        ([{"a": 1, "b": 2}, None, {"c": 3}], {"items": ORDERED}),
        ([{"a": 1, "b": 2}] * 20, {"items": ORDERED}),
        ([{"a": 1, "b": 2}] * 20 + [{"a": 1}], {"items": ORDERED}),
        ({"a": "2026-11-20", "b": None}, {"fields": {"a": "date", "b": "date"}}),
        ({"a": ["2026-11-20", None]}, {"fields": {"a": {"items": "date"}}}),
        ({"a": 1}, {"fields": {"b": "date"}}),
    ],
)
def test_rows_that_others_have_changed_are_read_alike(plain, node):
    serializer = JsonSerializer()
    row = EncodedRow(
        {"return_value": orjson.dumps(plain)}, orjson.dumps({"v": 1, "return_value": node})
    )
    found = read_plain(row)
    assert found is not None
    assert same(found, RowReader(serializer._lookup, None, row, "t").read())
    alone = read_return_value(row.columns["return_value"], row.types)
    assert same(alone, found["return_value"])


@pytest.mark.parametrize(
    ("plain", "node"),
    [
        ([1], ORDERED),
        ([{"a": 1}, 2], {"items": ORDERED}),
        ({"a": 1}, {"items": "date"}),
        ({"a": "no date"}, {"fields": {"a": "date"}}),
        ({"a": 1}, {"order": [["a"]]}),
        ({"a": 1}, {"order": "a"}),
        ({"a": 1}, {"fields": ["a"]}),
        ({"a": 1}, {"type": "tuple"}),
        ({"a": 1}, {"fields": {"a": 7}}),
        (["2026-11-20"] * 20, {"items": "date"}),
    ],
)
def test_what_is_damaged_or_unusual_is_left_to_the_decoder(plain, node):
    row = EncodedRow(
        {"return_value": orjson.dumps(plain)}, orjson.dumps({"v": 1, "return_value": node})
    )
    assert read_plain(row) is None
    alone = read_return_value(row.columns["return_value"], row.types)
    assert alone is Unread.VALUE


def test_what_the_sidecar_says_of_other_columns_is_no_matter():
    types = {"v": 1, "args": {"items": "date"}, "kwargs": ORDERED}
    assert read_return_value(b'{"a":1}', orjson.dumps(types)) == {"a": 1}


@pytest.mark.parametrize("data", [b"", b"{", "nul", b"\xff"])
def test_what_is_no_json_is_left_to_the_decoder(data):
    assert read_return_value(data, None) is Unread.VALUE


@pytest.mark.parametrize("types", [b"[]", b'{"v": 2}', b"{", b'{"v": 1, "parts": []}'])
@pytest.mark.parametrize("data", [b"null", b"1"])
def test_no_value_is_read_beside_a_sidecar_that_is_none(data, types):
    assert read_return_value(data, types) is Unread.VALUE
    assert read_plain(EncodedRow({"return_value": data}, types)) is None


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1e15},
        {"a": -0.0},
        [1, -0.0],
        [{"a": 1.0}, {"a": float("nan")}],
        {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}},
        [{"b": 1, "a": 1}, {"a": 1, "b": 2}],
        ["nul \x00"],
        {"a": (1, 2)},
        [{"a": 1}, None],
        list(range(100)),
        ["long " * 300] * 5,
        {"a": ["long " * 300] * 5},
        {f"{number:02}": "long " * 300 for number in range(20)},
        [{"a": 1, "b": "long " * 300}] * 5,
        [{"a": "long " * 300, "b": {"a": 1}}] * 5,
    ],
)
def test_what_needs_care_is_left_to_the_other_writer(value):
    short, _ = written(JsonSerializer(), {"return_value": value})
    assert short is None


def test_a_row_over_the_limit_is_left_to_the_other_writer():
    serializer = JsonSerializer(max_bytes=200)
    short, _ = written(serializer, {"return_value": "x" * 100})
    assert short is not None
    assert write_plain(serializer._plan, {"return_value": "x" * 198}) is None
