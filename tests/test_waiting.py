from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid
from datetime import timedelta
from decimal import Decimal

import orjson
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from road import eventually, finished
from taskiq import InMemoryBroker, gather

from taskiq_pg_json import (
    ConfigurationError,
    InvalidTaskIdError,
    JsonbResultBackend,
    NotStartedError,
    Outcome,
    Progress,
    ResultStore,
    WaitTimeoutError,
)
from taskiq_pg_json.store import announce, listen
from taskiq_pg_json.store.reads import Reader

NEVER = 3600.0


@pytest.fixture(params=[True, False], ids=["notify", "poll"])
async def store(request, dsn, made_table):
    async with ResultStore(dsn, table_name=made_table, notify=request.param) as store:
        yield store


@pytest.fixture
async def hearing_store(dsn, table_name, monkeypatch):
    """A store whose subscribers never look by themselves: only notifications wake them."""
    monkeypatch.setattr(listen, "SAFETY_POLL", NEVER)
    async with ResultStore(dsn, table_name=table_name) as store:
        with store._listener.subscribed(()):
            await asyncio.wait_for(store._listener._hearing.wait(), 10)
        yield store


def new_ids(count):
    return [uuid.uuid4().hex for _ in range(count)]


async def finish(store, ids, delay=0.05):
    await asyncio.sleep(delay)
    await asyncio.gather(*(store.set_result(id_, Outcome(return_value=id_)) for id_ in ids))


async def names_heard(store):
    """The names of what the server tells this store of."""
    return await store._listener._channels.names()


async def listener_pid(admin, store):
    names = await names_heard(store)
    row = admin.execute(
        "SELECT pid FROM pg_stat_activity WHERE query = %s",
        [names.bind("LISTEN {channel_progressed}").as_string()],
    ).fetchone()
    return row and row[0]


async def test_waiting_for_tasks_that_have_ended_returns_their_records(store):
    ids = new_ids(3)
    await finish(store, ids, 0)
    records = await store.wait(ids, timeout=5)
    assert {id_: record.return_value for id_, record in records.items()} == {i: i for i in ids}


async def test_what_has_ended_is_found_however_short_the_wait(store):
    await store.set_result("id", Outcome())
    assert set(await store.wait(["id"], timeout=0)) == {"id"}


async def test_waiting_returns_when_the_last_task_has_ended(store):
    ids = new_ids(20)
    finishing = asyncio.create_task(finish(store, ids))
    records = await store.wait(ids, timeout=10)
    await finishing
    assert set(records) == set(ids)


async def test_a_wait_that_runs_out_names_the_tasks_that_have_not_ended(store):
    ids = new_ids(3)
    await finish(store, ids[:2], 0)
    with pytest.raises(WaitTimeoutError, match=r"Not ended, .*\(1 in all\)") as caught:
        await store.wait(ids, timeout=0.2)
    assert caught.value.pending == (ids[2],)


async def test_a_wait_ends_in_time_though_the_records_cannot_be_read(store, connect, made_table):
    ids = new_ids(2)
    await finish(store, ids, 0)
    holder = await connect(autocommit=False)
    await holder.execute(f"LOCK TABLE {made_table}_progress")
    with pytest.raises(WaitTimeoutError, match=r"or not read, .*\(2 in all\)") as caught:
        await asyncio.wait_for(store.wait(ids, timeout=0.1), 10)
    assert caught.value.pending == tuple(ids)
    await holder.rollback()


async def test_records_that_cannot_be_read_in_time_are_named_with_what_has_not_ended(
    store, connect, made_table
):
    ids = new_ids(4)
    await finish(store, ids[:1], 0)
    records = store.as_completed(ids, timeout=1)
    assert (await anext(records)).task_id == ids[0]
    holder = await connect(autocommit=False)
    await holder.execute(f"LOCK TABLE {made_table}_progress")
    await finish(store, ids[1:3], 0)
    with pytest.raises(WaitTimeoutError, match=r"\(3 in all\)") as caught:
        await asyncio.wait_for(anext(records), 10)
    assert caught.value.pending == tuple(ids[1:])
    await holder.rollback()


@pytest.mark.parametrize("ids", ["nope", b"nope", None, 7])
async def test_what_is_no_list_of_ids_is_refused(store, ids):
    for call in (store.get_many(ids), store.wait(ids), anext(store.as_completed(ids))):
        with pytest.raises(InvalidTaskIdError, match=r"task_ids=.*list"):
            await call


NO_TIMES = ["1", math.nan, 10**400, timedelta(seconds=1)]


@pytest.mark.parametrize("timeout", NO_TIMES, ids=type)
async def test_a_timeout_that_is_no_time_is_refused(store, timeout):
    for call in (
        store.wait(["a"], timeout=timeout),
        anext(store.as_completed(["a"], timeout=timeout)),
        store.refresh_rollup(timeout=timeout),
    ):
        with pytest.raises(ConfigurationError, match=r"timeout=.*: give seconds, or None"):
            await call


@pytest.mark.parametrize("timeout", [*NO_TIMES, None], ids=type)
async def test_a_time_for_one_answer_that_is_none_is_refused(store, timeout):
    with pytest.raises(ConfigurationError, match=r"timeout=.*: give a number of seconds"):
        await store.is_ready("a", timeout)


@pytest.mark.parametrize("timeout", [-1, -0.5, 0, False, -math.inf], ids=repr)
async def test_a_timeout_that_is_over_is_one_look(store, timeout):
    await store.set_result("ended", Outcome(1))
    assert await store.is_ready("ended", timeout)
    assert not await store.is_ready("none", timeout)
    assert await store.wait(["ended"], timeout=timeout)
    with pytest.raises(WaitTimeoutError):
        await store.wait(["none"], timeout=timeout)


async def test_a_timeout_may_be_infinite(store):
    waiting = [store.wait(["a"], timeout=math.inf), store.is_ready("a", math.inf)]
    waiting = [asyncio.create_task(call) for call in waiting]
    await store.set_result("a", Outcome(1))
    assert all(await asyncio.wait_for(asyncio.gather(*waiting), 20))


async def test_waiting_before_the_start_leaves_nothing_behind(dsn, table_name, caplog):
    store = ResultStore(dsn, table_name=table_name)
    for call in (store.wait(["a"]), anext(store.watch_progress("a")), store.is_ready("a", 1)):
        with pytest.raises(NotStartedError):
            await call
    assert not [task for task in asyncio.all_tasks() if "_listen" in repr(task)]
    assert not caplog.records


async def test_records_come_as_their_tasks_end(store):
    first, second = new_ids(2)
    seen = []
    one_seen = asyncio.Event()

    async def finish_in_turn():
        await finish(store, [second], 0)
        await one_seen.wait()
        await finish(store, [first], 0)

    finishing = asyncio.create_task(finish_in_turn())
    async for record in store.as_completed([first, second], timeout=10):
        seen.append(record.task_id)
        one_seen.set()
    await finishing
    assert seen == [second, first]


async def test_ten_thousand_tasks_are_waited_for_at_once(store):
    ids = new_ids(10_000)
    finishing = asyncio.create_task(finish(store, ids))
    assert len(await store.wait(ids, timeout=60)) == 10_000
    await finishing


async def test_progress_is_watched_until_the_task_has_ended(store):
    (task_id,) = new_ids(1)

    async def work():
        for step in range(3):
            await store.set_progress(task_id, Progress("working", {"step": step}))
            await asyncio.sleep(0.3)
        await store.set_result(task_id, Outcome())

    working = asyncio.create_task(work())
    seen = [progress.meta async for progress in store.watch_progress(task_id)]
    await working
    assert seen == [{"step": 0}, {"step": 1}, {"step": 2}]


async def test_the_last_report_is_seen_of_a_task_that_ends_while_it_is_looked_at(
    store, monkeypatch
):
    submit = store._reader.progress.submit

    async def end_meanwhile(task_id):
        monkeypatch.undo()
        found = await submit(task_id)
        await store.set_progress(task_id, Progress("last"))
        await store.set_result(task_id, Outcome())
        return found

    await store.set_progress("id", Progress("first"))
    monkeypatch.setattr(store._reader.progress, "submit", end_meanwhile)
    assert [progress.state async for progress in store.watch_progress("id")] == ["first", "last"]


async def test_watching_ends_where_the_row_is_deleted_at_once(hearing_store):
    (task_id,) = new_ids(1)

    async def watch():
        return [progress.meta async for progress in hearing_store.watch_progress(task_id)]

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.2)
    channel = (await names_heard(hearing_store)).channel("ended")
    async with hearing_store._connections.connection() as connection:
        await connection.execute(
            "SELECT pg_notify(%s, %s)",
            [channel, orjson.dumps([task_id]).decode()],
        )
    assert await asyncio.wait_for(watching, 10) == []


async def test_each_report_is_seen_once_whatever_its_value_says_of_equality(store):
    (task_id,) = new_ids(1)

    async def work():
        for meta in ({"loss": math.nan}, {"signal": Decimal("sNaN")}):
            await store.set_progress(task_id, Progress("working", meta))
            await asyncio.sleep(0.3)
            other = new_ids(1)
            await store.set_progress(other[0], Progress("working", 1))  # which wakes nobody else
            channel = (await names_heard(store)).channel("progressed")
            async with store._connections.connection() as connection:
                await connection.execute("SELECT pg_notify(%s, %s)", [channel, task_id])
            await asyncio.sleep(0.3)
        await store.set_result(task_id, Outcome())

    working = asyncio.create_task(work())
    seen = [progress.meta async for progress in store.watch_progress(task_id)]
    await working
    assert [list(meta) for meta in seen] == [["loss"], ["signal"]]


async def test_a_notification_alone_ends_a_wait(hearing_store):
    ids = new_ids(5)
    waiting = asyncio.create_task(hearing_store.wait(ids))
    await asyncio.sleep(0.2)
    await finish(hearing_store, ids, 0)
    assert set(await asyncio.wait_for(waiting, 10)) == set(ids)


async def test_ids_of_any_length_and_spelling_are_notified(hearing_store):
    ids = ["x" * 900, 'quo"ted\n', "\x01" * 990, "ünïcödé"]
    waiting = asyncio.create_task(hearing_store.wait(ids))
    await asyncio.sleep(0.2)
    await finish(hearing_store, ids, 0)
    assert set(await asyncio.wait_for(waiting, 10)) == set(ids)


async def test_another_process_s_results_are_heard_of(hearing_store, dsn, table_name):
    (task_id,) = new_ids(1)
    waiting = asyncio.create_task(hearing_store.wait([task_id]))
    await asyncio.sleep(0.2)
    async with ResultStore(dsn, table_name=table_name) as other:
        await other.set_result(task_id, Outcome(return_value=1))
    assert (await asyncio.wait_for(waiting, 10))[task_id].return_value == 1


async def test_all_that_a_store_wrote_is_heard_of_though_it_ends_at_once(
    looks, hearing_store, dsn, table_name, monkeypatch
):
    monkeypatch.setattr(announce, "_GATHERING", 0.3)
    ids = new_ids(20)
    waiting = asyncio.create_task(hearing_store.wait(ids))
    await eventually(lambda: looks)
    async with ResultStore(dsn, table_name=table_name) as other:
        await finish(other, ids, 0)
    assert set(await asyncio.wait_for(waiting, 10)) == set(ids)


async def test_what_is_refused_is_heard_of_and_what_is_beside_it(
    looks, hearing_store, admin, table_name
):
    admin.execute(
        f"ALTER TABLE {table_name} ADD CHECK "
        "(return_value <> '\"nowhere\"' OR (return_value ->> 0)::regclass IS NOT NULL)"
    )
    ids = new_ids(100)
    waiting = asyncio.create_task(hearing_store.wait(ids))
    await eventually(lambda: looks)
    values = ["nowhere" if number == 70 else number for number in range(100)]
    outcomes = dict(zip(ids, map(Outcome, values), strict=True))
    await asyncio.gather(*(hearing_store.set_result(*end) for end in outcomes.items()))
    records = await asyncio.wait_for(waiting, 10)
    assert [id_ for id_ in ids if records[id_].error is not None] == [ids[70]]


async def test_what_ended_while_the_listener_was_away_is_found(
    hearing_store, admin, monkeypatch, caplog
):
    monkeypatch.setattr(listen, "POLL", NEVER)
    ids = new_ids(5)
    waiting = asyncio.create_task(hearing_store.wait(ids, timeout=30))
    await asyncio.sleep(0.2)
    pid = await listener_pid(admin, hearing_store)
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    await finish(hearing_store, ids, 0)
    assert set(await waiting) == set(ids)
    assert "listening connection was lost" in caplog.text


async def test_whoever_waits_polls_while_the_listener_cannot_come_back(
    looks, hearing_store, dsn, admin, monkeypatch
):
    async def fail():
        raise LookupError("no password any more")

    monkeypatch.setattr(hearing_store._connections, "connect", fail)
    waiting = asyncio.create_task(hearing_store.is_ready("id", NEVER))
    await eventually(lambda: looks)
    pid = await listener_pid(admin, hearing_store)
    admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    await finish_unheard(dsn, hearing_store.names.table, ["id"])
    assert await asyncio.wait_for(waiting, 10)


async def test_the_listener_outlives_a_dsn_that_fails_for_a_while(
    dsn, table_name, admin, monkeypatch, caplog
):
    monkeypatch.setattr(listen, "_RECONNECT", 0.05)
    failures = []

    def refreshed_dsn():
        if failures:
            raise failures.pop()
        return dsn

    async with ResultStore(refreshed_dsn, table_name=table_name) as store:
        with store._listener.subscribed(()):
            await asyncio.wait_for(store._listener._hearing.wait(), 10)
            failures += [LookupError("no password yet"), LookupError("no password yet")]
            pid = await listener_pid(admin, store)
            admin.execute("SELECT pg_terminate_backend(%s)", [pid])
            await eventually(lambda: not failures)
            await asyncio.wait_for(store._listener._hearing.wait(), 10)
    assert caplog.text.count("no password yet") == 2


@pytest.fixture
async def deaf_store(dsn, table_name, monkeypatch):
    """A store that hears nothing until its gate is opened, and from then on never polls."""
    monkeypatch.setattr(listen, "SAFETY_POLL", NEVER)
    async with ResultStore(dsn, table_name=table_name) as store:
        connect, store.gate = store._connections.connect, asyncio.Event()

        async def connect_later():
            await store.gate.wait()
            return await connect()

        monkeypatch.setattr(store._connections, "connect", connect_later)
        yield store


async def finish_unheard(dsn, table_name, ids):
    async with ResultStore(dsn, table_name=table_name, notify=False) as other:
        await finish(other, ids, 0)


@pytest.fixture
def looks(monkeypatch):
    """The ids of every look that a store takes at which tasks have ended."""
    found = []
    look = Reader.ready_among

    async def noted(reader, task_ids):
        ended = await look(reader, task_ids)
        found.append(sorted(task_ids))
        return ended

    monkeypatch.setattr(Reader, "ready_among", noted)
    return found


async def test_one_look_tells_all_what_ended_before_anything_could_be_heard(
    looks, deaf_store, dsn, table_name, monkeypatch
):
    monkeypatch.setattr(listen, "POLL", NEVER)
    ids = new_ids(20)
    waits = [asyncio.create_task(deaf_store.is_ready(id_, NEVER)) for id_ in ids]
    await eventually(lambda: sum(map(len, looks)) == 20)
    await finish_unheard(dsn, table_name, ids[:15])
    looks.clear()
    deaf_store.gate.set()
    assert await asyncio.wait_for(asyncio.gather(*waits[:15]), 10) == [True] * 15
    await finish(deaf_store, ids[15:], 0)
    assert await asyncio.wait_for(asyncio.gather(*waits[15:]), 10) == [True] * 5
    assert looks == [sorted(ids)]


async def test_whoever_polled_stops_once_notifications_arrive(looks, deaf_store):
    ids = new_ids(3)
    waits = [asyncio.create_task(deaf_store.is_ready(id_, NEVER)) for id_ in ids]
    await eventually(lambda: sum(map(len, looks)) >= 9)
    deaf_store.gate.set()
    await deaf_store._listener._hearing.wait()
    looks.clear()
    await asyncio.sleep(5 * listen.POLL)
    assert looks == [sorted(ids)]
    for wait in waits:
        wait.cancel()


async def test_all_look_by_themselves_where_one_look_for_all_fails(
    deaf_store, dsn, table_name, monkeypatch
):
    async def fail(_):
        raise LookupError("no password yet")

    monkeypatch.setattr(listen, "POLL", NEVER)
    monkeypatch.setattr(deaf_store._listener, "_ended_among", fail)
    ids = new_ids(3)
    waiting = asyncio.create_task(deaf_store.wait(ids))
    await asyncio.sleep(0.2)
    await finish_unheard(dsn, table_name, ids)
    deaf_store.gate.set()
    assert set(await asyncio.wait_for(waiting, 10)) == set(ids)


async def never(_):
    await asyncio.Event().wait()


async def test_the_last_look_is_taken_though_the_listener_is_looking_for_all(
    deaf_store, dsn, table_name, monkeypatch
):
    monkeypatch.setattr(listen, "POLL", NEVER / 2)  # less than when it hears
    monkeypatch.setattr(deaf_store._listener, "_ended_among", never)
    waiting = asyncio.create_task(deaf_store.is_ready("id", 1.0))
    await asyncio.sleep(0.2)
    deaf_store.gate.set()
    await deaf_store._listener._hearing.wait()
    await finish_unheard(dsn, table_name, ["id"])
    assert await asyncio.wait_for(waiting, 10)


async def test_no_look_for_all_outlives_the_store(deaf_store, admin, monkeypatch):
    monkeypatch.setattr(listen, "_RECONNECT", 0.05)
    monkeypatch.setattr(deaf_store._listener, "_ended_among", never)
    waiting = asyncio.create_task(deaf_store.is_ready("id", NEVER))
    deaf_store.gate.set()
    for count in (1, 2):
        await eventually(lambda count=count: len(looks_for_all()) == count)
        pid = await listener_pid(admin, deaf_store)
        admin.execute("SELECT pg_terminate_backend(%s)", [pid])
    await deaf_store.shutdown()
    assert looks_for_all() == []
    with pytest.raises(NotStartedError):
        await waiting


def looks_for_all():
    return [task for task in asyncio.all_tasks() if "Listener._look_for_all" in repr(task)]


async def test_progress_that_was_reported_before_it_could_be_heard_is_seen(
    deaf_store, dsn, table_name, monkeypatch
):
    monkeypatch.setattr(listen, "POLL", NEVER)
    watching = asyncio.create_task(anext(deaf_store.watch_progress("id")))
    await asyncio.sleep(0.2)
    async with ResultStore(dsn, table_name=table_name, notify=False) as other:
        await other.set_progress("id", Progress("half"))
    deaf_store.gate.set()
    assert (await asyncio.wait_for(watching, 10)).state == "half"


async def test_nobody_looks_for_what_does_not_concern_them(looks, hearing_store, dsn, table_name):
    ids = new_ids(3)
    waits = [asyncio.create_task(hearing_store.is_ready(ids[0], NEVER))]
    waits += [asyncio.create_task(hearing_store.wait(ids))]
    await eventually(lambda: len(looks) == 2)
    await hearing_store.set_progress(ids[0], Progress("half"))  # which none of them watches
    async with ResultStore(dsn, table_name=table_name) as other:  # which finds out if it hears
        with other._listener.subscribed(()):
            await asyncio.wait_for(other._listener._hearing.wait(), 10)
    await finish(hearing_store, ids, 0.2)
    await asyncio.gather(*waits)
    assert len(looks) == 2


@pytest.mark.parametrize("waits", ["whoever names the schema", "whoever does not"])
async def test_one_table_has_one_channel_whether_its_schema_is_named(dsn, hearing_store, waits):
    table, ids = hearing_store.names.table, new_ids(1)
    async with ResultStore(dsn, table_name=table, schema="public") as other:
        waiter, writer = (other, hearing_store) if "names" in waits else (hearing_store, other)
        waiting = asyncio.create_task(waiter.wait(ids, timeout=20))
        with waiter._listener.subscribed(()):
            await asyncio.wait_for(waiter._listener._hearing.wait(), 10)
        await finish(writer, ids)
        assert set(await waiting) == set(ids)


async def test_a_table_of_the_same_name_in_another_schema_ends_no_wait(
    dsn, hearing_store, schema_name
):
    there = make_conninfo(dsn, options=f"-c search_path={schema_name}")
    async with ResultStore(there, table_name=hearing_store.names.table) as other:
        waiting = asyncio.create_task(hearing_store.wait(["daily report"], timeout=0.5))
        await finish(other, ["daily report"])
        with pytest.raises(WaitTimeoutError):
            await waiting


async def test_garbage_on_the_channel_disturbs_nobody(hearing_store, admin, caplog):
    channel = (await names_heard(hearing_store)).channel("ended")
    ids = new_ids(1)
    waiting = asyncio.create_task(hearing_store.wait(ids, timeout=20))
    await asyncio.sleep(0.1)
    for payload in ("", "*", "[", "[1, {}]", "null", '{"a": 1}', "?probe", "[" * 2_000):
        admin.execute("SELECT pg_notify(%s, %s)", [channel, payload])
    await finish(hearing_store, ids)
    assert set(await waiting) == set(ids)
    assert "listening connection was lost" not in caplog.text


async def test_the_listener_uses_one_connection_that_it_closes(hearing_store, admin):
    ids = new_ids(30)
    waits = [asyncio.create_task(hearing_store.wait([id_], timeout=20)) for id_ in ids]
    await asyncio.sleep(0.1)
    names = await names_heard(hearing_store)
    statement = names.bind("LISTEN {channel_progressed}").as_string()
    count = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE query = {}").format(statement)
    assert admin.execute(count).fetchone() == (1,)
    await finish(hearing_store, ids, 0)
    await asyncio.gather(*waits)
    await hearing_store.shutdown()
    for _ in range(50):
        if admin.execute(count).fetchone() == (0,):
            break
        await asyncio.sleep(0.05)
    assert admin.execute(count).fetchone() == (0,)
    await hearing_store.startup()


async def test_a_wait_ends_when_its_store_is_shut_down(hearing_store):
    waits = [
        asyncio.create_task(wait)
        for wait in (
            hearing_store.wait(new_ids(2)),
            hearing_store.is_ready("none", timeout=NEVER),
            anext(hearing_store.watch_progress("none")),
        )
    ]
    await asyncio.sleep(0.2)
    await hearing_store.shutdown()
    _, pending = await asyncio.wait(waits, timeout=10)
    assert not pending
    assert {type(wait.exception()) for wait in waits} == {NotStartedError}


async def test_polling_takes_over_where_notifications_do_not_arrive(
    dsn, table_name, monkeypatch, caplog
):
    monkeypatch.setattr(listen, "_PROBE_TIMEOUT", 0.1)
    async with ResultStore(dsn, table_name=table_name) as store:
        # A pooler in transaction mode takes the LISTEN and never delivers.
        store._listener._listens = ["SELECT 1"]
        ids = new_ids(3)
        finishing = asyncio.create_task(finish(store, ids, 0.5))
        with caplog.at_level(logging.WARNING):
            assert len(await store.wait(ids, timeout=10)) == 3
            with pytest.raises(WaitTimeoutError):
                await store.wait(new_ids(1), timeout=0.3)
        await finishing
    assert caplog.text.count("Notifications do not arrive") == 1


@pytest.fixture
async def trying_store(dsn, made_table, monkeypatch):
    """A store that counts how often it tries to listen."""
    monkeypatch.setattr(listen, "_PROBE_TIMEOUT", 0.1)
    async with ResultStore(dsn, table_name=made_table) as store:
        connect, store.tries = store._connections.connect, 0

        async def connect_once_more():
            store.tries += 1
            return await connect()

        monkeypatch.setattr(store._connections, "connect", connect_once_more)
        yield store


NOTHING_HEARD = {
    "Notifications do not arrive": "SELECT 1",
    "A standby sends no": "DO $$BEGIN RAISE 'in recovery' USING ERRCODE = '25006'; END$$",
}


@pytest.mark.parametrize(("said", "statement"), NOTHING_HEARD.items())
async def test_notifications_take_over_where_they_arrive_after_all(
    trying_store, monkeypatch, caplog, said, statement
):
    monkeypatch.setattr(listen, "_DEAF_PAUSE", 0.1)
    monkeypatch.setattr(listen, "SAFETY_POLL", NEVER)
    store, listener = trying_store, trying_store._listener
    listens, listener._listens = listener._listens, [statement]
    waiting = asyncio.create_task(store.wait(["first", "second"], timeout=60))
    await eventually(lambda: store.tries > 3)
    await store.set_result("first", Outcome())
    assert listener.poll_interval == listen.POLL
    assert caplog.text.count(said) == len(caplog.records) == 1
    listener._listens = listens
    await asyncio.wait_for(listener._hearing.wait(), 10)
    await store.set_result("second", Outcome())
    assert len(await waiting) == 2


@pytest.mark.parametrize("statement", NOTHING_HEARD.values())
async def test_it_is_not_tried_at_once_to_listen_where_nothing_was_heard(
    trying_store, monkeypatch, statement
):
    monkeypatch.setattr(listen, "_RECONNECT", 0.05)
    trying_store._listener._listens = [statement]
    for _ in range(3):
        with pytest.raises(WaitTimeoutError):
            await trying_store.wait(["id"], timeout=0.3)
    assert trying_store.tries == 1


async def test_many_who_wait_for_one_task_leave_at_once(store):
    subscriptions = [store._listener.subscribed(("id",)) for _ in range(30_000)]
    for subscription in subscriptions:
        subscription.__enter__()
    began = time.monotonic()
    for subscription in reversed(subscriptions):
        subscription.__exit__()
    assert time.monotonic() - began < 1
    assert not store._listener._subscribers


@pytest.mark.parametrize("probe_timeout", [0.1, NEVER], ids=["in time", "shut down before"])
async def test_a_listen_is_undone_where_nothing_was_heard(trying_store, monkeypatch, probe_timeout):
    monkeypatch.setattr(listen, "_PROBE_TIMEOUT", probe_timeout)
    listener = trying_store._listener
    listener._notify = listener._notify.replace(b"%(channel)s", b"'not ' || %(channel)s")
    unlisten, left = listener._unlisten, []

    async def look_then(connection, names):
        await unlisten(connection, names)
        cursor = await connection.execute("SELECT * FROM pg_listening_channels()")
        left.append(await cursor.fetchall())

    monkeypatch.setattr(listener, "_unlisten", look_then)
    with pytest.raises(WaitTimeoutError):
        await trying_store.wait(["id"], timeout=0.7)
    await trying_store.shutdown()
    assert left == [[]]


async def test_a_store_without_notify_sends_none(dsn, table_name, connect):
    async with ResultStore(dsn, table_name=table_name, notify=False) as store:
        connection = await connect()
        await connection.execute((await names_heard(store)).bind("LISTEN {channel_ended}"))
        await finish(store, new_ids(3), 0)
        assert [note async for note in connection.notifies(timeout=0.3)] == []


async def test_taskiq_s_own_waiting_is_answered_by_a_notification(dsn, table_name, monkeypatch):
    monkeypatch.setattr(listen, "SAFETY_POLL", NEVER)
    backend = JsonbResultBackend(dsn, table_name=table_name, long_poll=20)
    broker = InMemoryBroker().with_result_backend(backend)

    @broker.task
    async def slow(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    await broker.startup()
    with backend.store._listener.subscribed(()):
        await asyncio.wait_for(backend.store._listener._hearing.wait(), 10)
    task = await slow.kiq(0.1)
    # Neither poll would end in time: taskiq's own sleep is as long as the safety poll.
    result = await asyncio.wait_for(task.wait_result(check_interval=NEVER), 10)
    assert result.return_value == 0.1
    tasks = [await slow.kiq(0.05) for _ in range(5)]
    results = await asyncio.wait_for(gather(*tasks), 10)
    assert [result.return_value for result in results] == [0.05] * 5
    await broker.shutdown()


async def test_a_result_that_was_read_and_not_kept_is_not_waited_for_again(dsn, table_name):
    backend = JsonbResultBackend(dsn, False, table_name, long_poll=20)
    await backend.startup()
    try:
        await backend.set_result("id", finished(1))
        assert await backend.is_result_ready("id")
        await backend.get_result("id")
        assert not await asyncio.wait_for(backend.is_result_ready("id"), 5)
        await backend.set_result("id", finished(2))
        assert await backend.is_result_ready("id")
    finally:
        await backend.shutdown()


async def test_long_polling_gives_up_after_its_time(dsn, table_name):
    backend = JsonbResultBackend(dsn, table_name=table_name, long_poll=0.2)
    await backend.startup()
    began = time.monotonic()
    assert not await backend.is_result_ready("none")
    assert time.monotonic() - began >= 0.2
    await backend.shutdown()


async def test_long_polling_gives_up_though_the_server_falls_silent(deaf_store, monkeypatch):
    waiting = asyncio.create_task(deaf_store.is_ready("none", timeout=1))
    await asyncio.sleep(0.2)
    monkeypatch.setattr(deaf_store._reader.ready, "submit", never)
    began = time.monotonic()
    assert not await asyncio.wait_for(waiting, 10)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("long_poll", [-1, float("inf"), float("nan")])
def test_a_long_poll_that_is_no_time_is_refused(long_poll):
    with pytest.raises(ConfigurationError, match="long_poll"):
        JsonbResultBackend(long_poll=long_poll)
