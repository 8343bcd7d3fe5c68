from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from math import copysign

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskiq_pg_json.store.arrays import adapt, as_array

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=5)
columns = st.sampled_from(
    [
        ("text[]", texts),
        ("text[]", st.text("ab\\'\"{},")),
        ("bytea[]", st.binary(max_size=5)),
        ("int[]", st.integers(-(2**31), 2**31 - 1)),
        ("float8[]", st.floats(allow_nan=False)),
        ("timestamptz[]", st.datetimes(timezones=st.timezones())),
    ]
).flatmap(
    lambda kind: st.tuples(
        st.just(kind[0]),
        st.lists(st.none() | kind[1], min_size=1, max_size=9)
        | st.lists(kind[1], min_size=1, max_size=9)
        | st.builds(lambda value, size: [value] * size, kind[1], st.integers(1, 9)),
    )
)


@pytest.fixture
async def connection(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        adapt(connection)
        yield connection


def in_utc(value):
    """A time that is ambiguous in its own zone is equal to none of another."""
    return value.astimezone(timezone.utc) if isinstance(value, datetime) else value


@given(column=columns)
async def test_the_server_sees_the_column(connection, column):
    kind, values = column
    sent = f"SELECT * FROM unnest(%b::{kind}, %b::int[]) WITH ORDINALITY ORDER BY ordinality"
    numbers = list(range(len(values)))
    rows = await connection.execute(sent, [as_array(values), numbers], binary=True)
    assert [(in_utc(value), *rest) for value, *rest in await rows.fetchall()] == [
        (in_utc(value), number, number + 1) for value, number in zip(values, numbers, strict=True)
    ]


@pytest.mark.parametrize("text", ["plain", "Zürich"])
async def test_text_comes_through_in_any_encoding_of_the_client(connection, text):
    await connection.execute("SET client_encoding TO 'LATIN1'")
    rows = await connection.execute("SELECT unnest(%b::text[]) = %s", [as_array([text]), text])
    assert await rows.fetchall() == [(True,)]


@pytest.mark.parametrize("size", [0, 1, 32, 127, 128, 300])
async def test_texts_of_one_length_come_through(connection, size):
    texts = [letter * size for letter in "abc"]
    rows = await connection.execute("SELECT unnest(%b::text[])", [as_array(texts)])
    assert await rows.fetchall() == [(text,) for text in texts]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("bool[]", [True, None]),
        ("timestamp[]", [datetime(2026, 11, 26), datetime(2026, 11, 27)]),  # noqa: DTZ001 - naive
        ("numeric[]", [Decimal("1.5"), None]),
    ],
)
async def test_what_it_does_not_know_is_left_to_psycopg(connection, kind, values):
    rows = await connection.execute(f"SELECT unnest(%b::{kind})", [as_array(values)])
    assert await rows.fetchall() == [(value,) for value in values]


async def test_zeros_keep_their_signs(connection):
    rows = await connection.execute(
        "SELECT unnest(%b::float8[])", [as_array([0.0, -0.0, 0.0])], binary=True
    )
    assert [copysign(1, value) for (value,) in await rows.fetchall()] == [1, -1, 1]


def test_nones_alone_are_none():
    assert as_array([None, None]) is None


async def test_an_owner_of_the_connection_sends_arrays_as_ever(connection):
    await connection.execute("CREATE TEMP TABLE copied (texts text[], data bytea[])")
    rows = [([["a", None], ["é", ""]], [b"1", b""]), (["b"], [])]
    async with connection.cursor() as cursor:
        async with cursor.copy("COPY copied FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(["text[]", "bytea[]"])
            for row in rows:
                await copy.write_row(row)
        await cursor.execute("SELECT * FROM copied")
        assert await cursor.fetchall() == rows
