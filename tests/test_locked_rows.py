"""What one transaction of somebody else's keeps from being written, and what not."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import LockNotAvailable
from road import eventually

from taskiq_pg_json import (
    JsonbResultBackend,
    Outcome,
    Progress,
    ResultStore,
    Status,
    TaskInfo,
    WriteTimeoutError,
)
from taskiq_pg_json.store import unlocked
from taskiq_pg_json.store.batch import PutOffError
from taskiq_pg_json.store.hurry import SlowError
from taskiq_pg_json.store.wire import Wire

LOCK = "SELECT FROM {table} WHERE task_id = ANY (%s) FOR UPDATE"
INSERT = "INSERT INTO {table} (task_id, status) SELECT unnest(%s::text[]), 'STARTED'"
INSERT_PROGRESS = (
    "INSERT INTO {progress} (task_id, state, updated_at) SELECT unnest(%s::text[]), 'x', now()"
)
INFO = TaskInfo("shop:pay", [], {}, {}, worker="host:1")


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(unlocked, "_SLOW", 0.3)


@pytest.fixture
async def store(dsn, table_name):
    async with ResultStore(dsn, table_name=table_name) as store:
        yield store


@pytest.fixture
def hold(connect, table_name):
    """Begins transactions of others: ``await hold(statement, ids)``."""
    names = {
        "table": sql.Identifier(table_name),
        "progress": sql.Identifier(f"{table_name}_progress"),
    }

    async def hold_one(statement, *values):
        connection = await connect(autocommit=False)
        await connection.execute(sql.SQL(statement).format(**names), values or None)
        return connection

    return hold_one


@pytest.fixture
def insert(admin, table_name):
    """Makes rows of tasks that have been started."""
    statement = sql.SQL(INSERT).format(table=sql.Identifier(table_name))
    return lambda ids: admin.execute(statement, [ids])


@pytest.fixture
def given_up(monkeypatch):
    """The statements that were cancelled."""
    cancelled = []
    cancel = Wire.cancel

    async def counted(self):
        cancelled.append(self)
        await cancel(self)

    monkeypatch.setattr(Wire, "cancel", counted)
    return cancelled


@pytest.fixture
def until_it_waits(admin, table_name):
    """Returns once a statement waits for the table."""
    query = "SELECT FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    return lambda: eventually(lambda: admin.execute(query, [f'"{table_name}"']).rowcount > 0)


def start(write, ids):
    return [asyncio.create_task(write(id_)) for id_ in ids]


async def kept_up(ids, store, value=1):
    """Writes the results of tasks whose rows are locked, each in a batch of its own."""
    writing = []
    for id_ in ids:
        writing += start(lambda id_: store.set_result(id_, Outcome(value)), [id_])
        await asyncio.sleep(0.1)
    return writing


async def all_done(tasks, seconds=10):
    await asyncio.wait_for(asyncio.gather(*tasks), seconds)


WRITES = {
    "result": lambda store, id_: store.set_result(id_, Outcome(id_)),
    "heavy result": lambda store, id_: store.set_result(id_, Outcome(os.urandom(600_000).hex())),
    "state": lambda store, id_: store.record_state(id_, Status.QUEUED, INFO),
    "progress": lambda store, id_: store.set_progress(id_, Progress("x", id_)),
}


async def test_many_rows_that_others_have_inserted_take_few_connections(store, hold, admin):
    held = [f"held-{number}" for number in range(60)]
    other = await hold(INSERT, held)
    writing = start(lambda id_: store.set_result(id_, Outcome(id_)), held)
    most = 0
    for number in range(40):
        await asyncio.sleep(0.1)
        await asyncio.wait_for(store.is_ready(f"free-{number}"), 1)
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        most = max(most, *admin.execute(query).fetchone())
    assert 1 <= most <= 4  # two in the lanes, at first, and two of what was put off
    await other.rollback()
    await all_done(writing, 20)


@pytest.mark.parametrize("kind", WRITES)
async def test_rows_that_others_have_inserted_keep_up_no_others(store, hold, kind):
    held = [f"held-{number}" for number in range(4)]
    statement = INSERT_PROGRESS if kind == "progress" else INSERT
    holders = [await hold(statement, [id_]) for id_ in held]

    async def write(id_):
        await WRITES[kind](store, id_)

    first = start(write, [held[0], *(f"{n}" for n in range(10))])
    await asyncio.sleep(0)
    ids = [f"other-{n}" for n in range(20)]
    second = start(write, [*held[1:], *ids])
    await all_done([*first[1:], *second[3:]])
    for number in range(3):
        await asyncio.wait_for(write(f"later-{number}"), 5)
    assert not any(task.done() for task in (first[0], *second[:3]))
    for holder in holders:
        await holder.rollback()
    await all_done([*first, *second])


async def test_rows_that_are_locked_after_the_table_was_keep_up_no_others(store, hold, insert):
    insert(["a", "b"])
    table = await hold("LOCK TABLE {table}")
    first = start(lambda id_: store.set_result(id_, Outcome(1)), ["first"])
    await asyncio.sleep(0.6)
    await table.rollback()
    await all_done(first)
    rows = await hold(LOCK, ["a", "b"])
    writing = await kept_up(["a", "b"], store)
    await asyncio.wait_for(store.set_result("c", Outcome(1)), 5)
    assert not any(task.done() for task in writing)
    await rows.rollback()
    await all_done(writing)


@pytest.mark.parametrize("value", ["x", "x" * (2 << 20)], ids=["light", "heavy"])
async def test_a_row_is_written_soon_after_it_is_unlocked_whatever_else_is_locked(
    store, hold, insert, value
):
    ids = [str(number) for number in range(8)]
    insert(ids)
    holders = [await hold(LOCK, [id_]) for id_ in ids]
    writing = await kept_up(ids, store, value)
    await asyncio.sleep(1)
    free = start(lambda id_: store.set_result(id_, Outcome(value)), ["x", "y", "z"])
    await all_done(free, 5)
    for number in (5, 2):
        await holders[number].rollback()
        await asyncio.wait_for(writing[number], 5)
    assert sum(task.done() for task in writing) == 2
    for holder in holders:
        await holder.rollback()
    await all_done(writing)
    assert {(await store.get(id_)).return_value for id_ in ids} == {value}


@pytest.mark.parametrize("statement", [LOCK, INSERT_PROGRESS], ids=["result", "progress"])
async def test_a_deletion_of_a_locked_row_keeps_up_no_others(
    dsn, table_name, store, hold, statement
):
    for id_ in "abcdef":
        await store.set_result(id_, Outcome(id_))
    await store.set_progress("c", Progress("x"))
    holder = await hold(statement, ["a", "b"])
    if statement == INSERT_PROGRESS:  # a deletion does not wait for a row that it does not see
        await holder.commit()
        await holder.execute(f"SELECT FROM {table_name}_progress FOR UPDATE")
    deleting = start(store.delete, "ab")
    await asyncio.sleep(0.1)
    assert await asyncio.wait_for(store.delete("d"), 5)
    assert not await asyncio.wait_for(store.delete("not there"), 5)
    backend = JsonbResultBackend(dsn, table_name=table_name, keep_results=False)
    await backend.startup()
    deleting += start(backend.delete_result, "ab")
    await asyncio.sleep(0.1)
    assert (await asyncio.wait_for(backend.get_result("e"), 5)).return_value == "e"
    assert not any(task.done() for task in deleting)
    await holder.rollback()
    await all_done(deleting)
    assert sorted(record.task_id for record in (await store.search()).items) == ["c", "f"]
    await backend.shutdown()


async def test_attempts_that_leave_nothing_keep_up_no_others_where_their_rows_are_locked(
    store, hold
):
    info = replace(INFO, started_at=datetime.now(timezone.utc))
    held = [f"held-{number}" for number in range(12)]  # more than there are connections
    for id_ in [*held, "free"]:
        await store.record_state(id_, Status.STARTED, info)
    holder = await hold(LOCK, held)
    discarding = start(lambda id_: store.discard_state(id_, info), held)
    await asyncio.sleep(0.1)
    await asyncio.wait_for(store.set_result("other", Outcome(1)), 5)
    await asyncio.wait_for(store.discard_state("free", info), 5)
    assert not any(task.done() for task in discarding)
    await holder.rollback()
    await all_done(discarding)
    assert [record.task_id for record in (await store.search()).items] == ["other"]


class Unseen:
    """A server on which a row is locked, and not seen to be."""

    async def flush(self, ids, slow_after):
        await asyncio.sleep(0)
        if "unseen" in ids:
            raise LockNotAvailable if slow_after is None else SlowError
        return ids

    async def execute(self, _statement, _values):
        await asyncio.sleep(0)
        return []


async def test_a_row_that_is_not_seen_to_be_locked_is_looked_for_beside_the_lanes():
    server = Unseen()
    writing = unlocked.Unlocked(server, server.flush, b"", key=str, takes_long=lambda _: False)
    assert await writing.flush(["a", "b"]) == ["a", "b"]
    for _ in range(2):
        put_off = await writing.flush(["a", "unseen", "b"])
        assert [type(result) for result in put_off] == [PutOffError] * 3
    with pytest.raises(LockNotAvailable):
        await writing.flush_again(["a", "unseen", "b"])
    assert await writing.flush_again(["a"]) == ["a"]
    assert [type(result) for result in await writing.flush_again(["unseen"])] == [PutOffError]


async def test_what_takes_long_to_send_is_not_given_up_for_that():
    given = []

    async def flush(ids, slow_after):
        await asyncio.sleep(0)
        given.append(slow_after)
        return ids

    writing = unlocked.Unlocked(Unseen(), flush, b"", key=str, takes_long=lambda id_: id_ == "big")
    for batch in (["small"], ["big"], ["small", "small"]):
        assert await writing.flush(batch) == batch
    assert given == [unlocked._SLOW, None, unlocked._SLOW]


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
async def test_a_table_that_is_locked_multiplies_no_work(store, hold, given_up, admin, mode):
    await store.set_result("before", Outcome(0))
    table = await hold(f"LOCK TABLE {{table}} IN {mode} MODE")
    writing = start(lambda id_: store.set_result(id_, Outcome(1)), map(str, range(100)))
    await asyncio.sleep(2)
    assert len(given_up) <= 2  # one a lane
    waiting = admin.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
    assert waiting.rowcount <= 2
    await table.rollback()
    await all_done(writing, 5)


async def test_a_slow_server_is_given_time(store, admin, table_name, given_up):
    admin.execute(
        sql.SQL(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.5); RETURN NEW; END $$; "
            "CREATE TRIGGER slow BEFORE INSERT ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION {name}()"
        ).format(name=sql.Identifier(f"{table_name}_slow"), table=sql.Identifier(table_name))
    )
    for _ in range(3):
        await all_done(start(lambda id_: store.set_result(id_, Outcome(1)), map(str, range(50))))
    assert 1 <= len(given_up) <= 2  # one a lane
    admin.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(sql.Identifier(f"{table_name}_slow")))


async def test_locked_rows_keep_up_no_others_where_the_session_has_a_limit(
    dsn, store, hold, insert
):
    insert(["a", "b", "c"])
    limited = make_conninfo(dsn, options="-c lock_timeout=50ms")
    holder = await hold(LOCK, ["a", "b"])
    async with ResultStore(limited, table_name=store.names.table, migrate="off") as other:
        writing = await kept_up(["a", "b"], other)
        await asyncio.wait_for(other.set_result("c", Outcome(1)), 5)
        assert not any(task.done() for task in writing)
        await holder.rollback()
        await all_done(writing)


async def test_a_table_that_stays_locked_is_an_error_where_the_session_has_a_limit(
    dsn, store, hold
):
    limited = make_conninfo(dsn, options="-c lock_timeout=50ms")
    await hold("LOCK TABLE {table}")
    async with ResultStore(
        limited, table_name=store.names.table, migrate="off", write_timeout=1
    ) as other:
        with pytest.raises(WriteTimeoutError, match="lock timeout"):
            await asyncio.wait_for(other.set_result("a", Outcome(1)), 10)
