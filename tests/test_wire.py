"""Statements through libpq itself: what a cursor gives, and a connection left fit for the next."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from datetime import datetime, timezone

import psycopg
import pytest
from psycopg.pq import ExecStatus, TransactionStatus

from taskiq_pg_json.store import wire as wires
from taskiq_pg_json.store.arrays import as_array
from taskiq_pg_json.store.retrying import is_loss
from taskiq_pg_json.store.wire import Wire


@pytest.fixture
async def connection(connect):
    return await connect()


@pytest.fixture
async def wire(connection):
    wire = Wire(connection)
    yield wire
    wire.release()


async def test_rows_come_as_a_cursor_gives_them(wire, connection):
    statement = b"""
        SELECT %(text)s::text, %(data)b::bytea, %(number)b::float8, %(at)b::timestamptz,
               %(list)b::text[], %(nothing)b::text, 7 %% 4, %(text)s::text
    """
    values = {
        "text": "Zürich",
        "data": b"\0\xff",
        "number": 1.5,
        "at": datetime(2026, 11, 26, tzinfo=timezone.utc),
        "list": ["a", None],
        "nothing": None,
        "more": "than it asks for",
    }
    cursor = await connection.cursor(binary=True).execute(statement, values)
    expected = await cursor.fetchall()
    assert await wire.execute(statement, values) == expected
    assert await wire.execute(statement, values, prepare=False) == expected


async def test_a_statement_without_rows_gives_none(wire):
    assert await wire.execute(b"CREATE TEMPORARY TABLE t (a int)", {}) == []
    assert await wire.execute(b"INSERT INTO t VALUES (%(a)b::int)", {"a": 7}) == []
    assert await wire.execute(b"SELECT a FROM t", {}) == [(7,)]


async def test_a_refused_statement_raises_what_a_cursor_does_and_the_next_one_works(wire):
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero") as caught:
        await wire.execute(b"SELECT 1 / %(a)b::int", {"a": 0})
    assert caught.value.diag.sqlstate == "22012"
    with pytest.raises(psycopg.errors.SyntaxError):
        await wire.execute(b"SELEKT", {})
    assert await wire.execute(b"SELECT 1 / %(a)b::int", {"a": 1}) == [(1,)]


async def test_a_statement_is_prepared_once_for_each_kind_of_values(wire, connection):
    for value in (None, 1, 2, None):
        await wire.execute(b"SELECT %(a)b::int", {"a": value})
    names = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT $1::int'"
    wire.release()
    assert await (await connection.execute(names)).fetchone() == (2,)


async def test_columns_with_and_without_values_are_one_statement(wire):
    statement = b"SELECT unnest(%(a)b::text[])"
    for column in (["a"], [None], ["a", None, "b"]):
        await wire.execute(statement, {"a": as_array(column)})
    count = b"SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT unnest%%'"
    assert await wire.execute(count, {}, prepare=False) == [(1,)]


async def test_no_more_is_prepared_than_a_connection_should_hold(wire, monkeypatch):
    monkeypatch.setattr(wires, "_MAX_PREPARED", 3)
    for number in range(6):
        assert await wire.execute(b"SELECT %d" % number, {}) == [(number,)]
    assert await wire.execute(b"SELECT count(*) FROM pg_prepared_statements", {}) == [(3,)]


async def test_nothing_is_prepared_where_the_connection_must_not(dsn):
    connect = psycopg.AsyncConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    async with await connect as connection:
        wire = Wire(connection)
        assert await wire.execute(b"SELECT count(*) FROM pg_prepared_statements", {}) == [(0,)]
        assert await wire.execute(b"SELECT count(*) FROM pg_prepared_statements", {}) == [(0,)]
        wire.release()


async def test_what_somebody_deallocated_is_prepared_again(wire, connection):
    assert await wire.execute(b"SELECT 1", {}) == [(1,)]
    wire.release()
    await connection.execute("DEALLOCATE ALL")
    assert await wire.execute(b"SELECT 1", {}) == [(1,)]


async def test_where_it_is_forgotten_again_and_again_nothing_is_prepared_any_more(wire, connection):
    for _ in range(6):
        assert await wire.execute(b"SELECT 1", {}) == [(1,)]
        wire.release()
        await connection.execute("DEALLOCATE ALL")
    await wire.execute(b"SELECT 1", {})
    count = b"SELECT count(*) FROM pg_prepared_statements"
    assert await wire.execute(count, {}, prepare=False) == [(0,)]


async def test_a_name_that_is_taken_stands_for_the_same_statement(wire, connection, dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        their_wire = Wire(other)
        await their_wire.execute(b"SELECT 'a' || %(x)s", {"x": "b"})
        their_wire.release()
        (name,) = wires._prepared[other].names.values()
    wire.release()
    await connection.execute(f"PREPARE {name.decode()} (text) AS SELECT 'a' || $1")
    assert await wire.execute(b"SELECT 'a' || %(x)s", {"x": "b"}) == [("ab",)]
    assert await wire.execute(b"SELECT 'b' || %(x)s", {"x": "b"}) == [("bb",)]


async def test_notifications_reach_whoever_the_connection_is_of(wire, connection):
    heard = []
    connection.add_notify_handler(heard.append)
    await wire.execute(b"LISTEN shop", {})
    await wire.execute(b"NOTIFY shop, 'open'", {})
    assert [notification.payload for notification in heard] == ["open"]


async def test_what_was_prepared_is_known_to_the_next_wire(wire, connection):
    await wire.execute(b"SELECT 1", {})
    wire.release()
    again = Wire(connection)
    await again.execute(b"SELECT 1", {})
    count = b"SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1'"
    assert await again.execute(count, {}, prepare=False) == [(1,)]
    again.release()


async def test_nothing_is_remembered_of_a_connection_that_is_gone(dsn):
    before = len(wires._prepared)
    connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    wire = Wire(connection)
    await wire.execute(b"SELECT 1", {})
    wire.release()
    await connection.close()
    del wire, connection
    gc.collect()
    assert len(wires._prepared) <= before


async def test_a_cancelled_statement_is_given_up_and_the_connection_serves_on(wire, admin):
    sleeping = asyncio.create_task(wire.execute(b"SELECT pg_sleep(60)", {}))
    await asyncio.sleep(0.1)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert wire.connection.pgconn.transaction_status == TransactionStatus.IDLE
    assert await wire.execute(b"SELECT 1", {}) == [(1,)]
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE %s AND state = 'active'"
    assert admin.execute(running, ["SELECT pg_sleep(60)%"]).fetchone() == (0,)


async def test_much_is_sent_and_received_while_the_loop_goes_on(wire):
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.001)

    turning = asyncio.create_task(turn())
    text = "x" * 50_000_000
    assert await wire.execute(b"SELECT %(a)s::text", {"a": text}) == [(text,)]
    turning.cancel()
    assert turns > 5


async def test_notices_do_not_disturb_the_answer(wire, connection):
    heard = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    await wire.execute(b"DO $$ BEGIN RAISE WARNING 'look'; END $$", {})
    assert await wire.execute(b"SELECT 1", {}) == [(1,)]
    assert heard == ["look"]


async def test_a_connection_lost_in_mid_statement_is_an_error_in_the_servers_words(wire, admin):
    (pid,) = (await wire.execute(b"SELECT pg_backend_pid()", {}))[0]
    sleeping = asyncio.create_task(wire.execute(b"SELECT pg_sleep(60)", {}))
    await asyncio.sleep(0.1)
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        await sleeping


async def test_an_answer_is_heard_though_the_event_loop_forgets_the_socket(wire, admin):
    """As uvloop does once a socket has an error."""
    (pid,) = (await wire.execute(b"SELECT pg_backend_pid()", {}))[0]
    sleeping = asyncio.create_task(wire.execute(b"SELECT pg_sleep(0.7)", {}))
    await asyncio.sleep(0.1)
    asyncio.get_running_loop().remove_reader(wire._socket)
    await asyncio.wait_for(sleeping, 5)
    sleeping = asyncio.create_task(wire.execute(b"SELECT pg_sleep(60)", {}, prepare=False))
    await asyncio.sleep(0.1)
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        await asyncio.wait_for(sleeping, 5)


async def test_nobody_looks_where_nothing_is_awaited(wire, monkeypatch):
    monkeypatch.setattr(wires, "_LOOK", 0.05)
    for _ in range(5):
        await wire.execute(b"SELECT 1", {})
    assert wire._next_look is not None
    await asyncio.sleep(0.2)
    assert wire._next_look is None


async def test_a_connection_lost_while_much_is_sent_is_an_error(proxied):
    connection, jam, cut = proxied
    wire = Wire(connection)
    measure = b"SELECT length(%(a)s::text)"
    assert await wire.execute(measure, {"a": "x"}) == [(1,)]  # or it would be jammed unprepared
    jam()
    sending = asyncio.create_task(wire.execute(measure, {"a": "x" * 50_000_000}))
    await asyncio.sleep(0.2)
    assert wire._writes
    cut()
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(sending, 10)
    with pytest.raises(psycopg.OperationalError):
        await wire.execute(b"SELECT 1", {})
    wire.release()


async def test_a_connection_lost_before_the_answer_is_an_error(proxied):
    connection, _, cut = proxied
    wire = Wire(connection)
    sleeping = asyncio.create_task(wire.execute(b"SELECT pg_sleep(60)", {}))
    await asyncio.sleep(0.2)
    cut()
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(sleeping, 10)
    wire.release()


async def test_a_statement_cancelled_while_it_is_sent_leaves_no_connection_stuck(
    proxied, monkeypatch
):
    monkeypatch.setattr(wires, "_CANCEL_TIMEOUT", 0.5)
    connection, jam, _ = proxied
    wire = Wire(connection)
    measure = b"SELECT length(%(a)s::text)"
    assert await wire.execute(measure, {"a": "x"}) == [(1,)]  # likewise
    jam()
    sending = asyncio.create_task(wire.execute(measure, {"a": "x" * 50_000_000}))
    await asyncio.sleep(0.2)
    assert wire._writes
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sending, 10)
    assert connection.closed


async def test_a_closed_connection_is_an_error_when_it_is_used(connection):
    await connection.close()
    wire = Wire(connection)
    with pytest.raises(psycopg.OperationalError):
        await wire.execute(b"SELECT 1", {})


async def test_what_libpq_says_of_a_lost_connection_is_a_loss(wire, connection, admin):
    admin.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with suppress(psycopg.OperationalError):
        while True:  # first what the server has said, then that it is gone
            await asyncio.sleep(0.01)
            connection.pgconn.consume_input()
    said = connection.pgconn.make_empty_result(ExecStatus.FATAL_ERROR)
    with pytest.raises(psycopg.OperationalError, match="closed the connection") as raised:
        wire.rows(said)
    assert raised.value.sqlstate is None
    assert is_loss(raised.value)


async def test_a_connection_lost_while_idle_is_an_error_and_costs_nothing(wire, admin):
    (pid,) = (await wire.execute(b"SELECT pg_backend_pid()", {}))[0]
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    await asyncio.sleep(0.2)
    started = asyncio.get_running_loop().time()
    for _ in range(3):
        with pytest.raises(psycopg.OperationalError):
            await wire.execute(b"SELECT 1", {})
    assert asyncio.get_running_loop().time() - started < 5


async def test_a_connection_is_anybodys_once_it_is_released(wire, connection):
    for number in range(3):
        assert await wire.execute(b"SELECT %(a)b::int", {"a": number}) == [(number,)]
        wire.release()
        assert await (await connection.execute("SELECT %s", [number])).fetchone() == (number,)
