"""Statements behind one another: each has its own end, and none keeps up the rest."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest
from psycopg import sql
from psycopg.pq import ExecStatus, PipelineStatus
from road import eventually

from taskiq_pg_json import ResultStore, WriteTimeoutError
from taskiq_pg_json.records import Outcome
from taskiq_pg_json.store import pipeline as pipelines
from taskiq_pg_json.store import unlocked
from taskiq_pg_json.store.pipeline import Pipeline
from taskiq_pg_json.store.wire import Wire

SLEEP = b"SELECT %(number)b::int FROM pg_sleep(%(seconds)b::float8)"
DIVIDE = b"SELECT 8 / %(by)b::int"
MEASURE = b"SELECT length(%(text)s::text) FROM pg_sleep(%(seconds)b::float8)"
VALUES = {
    SLEEP: {"seconds": 0.0, "number": 0},
    DIVIDE: {"by": 1},
    MEASURE: {"text": "x", "seconds": 0.0},
}


@pytest.fixture
async def connection(connect):
    return await connect()


@pytest.fixture
async def pipeline(connection):
    pipeline = await piped(connection)
    yield pipeline
    if pipeline.is_idle:
        pipeline.end()
    pipeline.wire.release()


async def piped(connection):
    wire = Wire(connection)
    for statement, values in VALUES.items():
        await wire.execute(statement, values)
    return Pipeline(wire)


def send(pipeline, statement, **values):
    """Send a statement, in a task, as the store does."""
    bound = pipeline.wire.bind(statement, VALUES[statement] | values)
    return asyncio.create_task(pipeline.execute(bound, pipeline.wire.prepared(bound)))


async def test_statements_are_answered_in_their_order(pipeline):
    first = send(pipeline, SLEEP, seconds=0.2, number=1)
    second = send(pipeline, DIVIDE, by=2)
    await asyncio.sleep(0.1)
    assert not first.done()
    assert not second.done()
    assert await second == [(4,)]
    assert first.done()
    assert await first == [(1,)]


async def test_a_statement_that_fails_fails_alone(pipeline):
    answers = [send(pipeline, DIVIDE, by=by) for by in (4, 0, 2)]
    assert await answers[0] == [(2,)]
    with pytest.raises(psycopg.errors.DivisionByZero):
        await answers[1]
    assert await answers[2] == [(4,)]


async def test_it_has_room_for_two(pipeline):
    room = [pipeline.has_room]
    answers = []
    for _ in range(2):
        answers.append(send(pipeline, SLEEP, seconds=0.02))
        await asyncio.sleep(0)
        room.append(pipeline.has_room)
    await asyncio.gather(*answers)
    assert [*room, pipeline.has_room] == [True, True, False, True]


async def test_nothing_more_is_sent_behind_a_long_statement(pipeline, monkeypatch):
    monkeypatch.setattr(pipelines, "_LONG", 0.05)
    sleeping = send(pipeline, SLEEP, seconds=0.2)
    await asyncio.sleep(0.1)
    assert not pipeline.has_room
    await sleeping
    assert pipeline.has_room


async def test_a_connection_that_was_piped_is_as_before(pipeline, connection):
    assert await send(pipeline, DIVIDE) == [(8,)]
    assert pipeline.is_idle
    pipeline.end()
    assert connection.pgconn.pipeline_status == PipelineStatus.OFF
    assert await pipeline.wire.execute(DIVIDE, {"by": 2}) == [(4,)]
    pipeline.wire.release()
    assert await (await connection.execute("SELECT 1")).fetchone() == (1,)


@pytest.fixture
async def impatient(connection, monkeypatch):
    """A pipeline that waits for a tenth of a second, not one or two."""
    monkeypatch.setattr(pipelines, "_TOO_LONG", 0.1)
    pipeline = await piped(connection)
    yield pipeline
    pipeline.end()
    pipeline.wire.release()


async def test_a_statement_that_keeps_up_others_is_given_up(impatient):
    sleeping = send(impatient, SLEEP, seconds=60.0)
    behind = send(impatient, DIVIDE, by=2)
    assert await asyncio.wait_for(behind, 10) == [(4,)]
    with pytest.raises(psycopg.errors.QueryCanceled):
        await sleeping
    assert await send(impatient, DIVIDE) == [(8,)]


async def test_a_statement_that_keeps_up_nobody_may_take_its_time(impatient):
    assert await send(impatient, SLEEP, seconds=0.5, number=7) == [(7,)]


async def test_a_server_that_ends_the_connection_is_quoted_and_all_are_told(
    pipeline, connection, admin
):
    sleeping = send(pipeline, SLEEP, seconds=60.0)
    behind = send(pipeline, DIVIDE)
    await asyncio.sleep(0.1)
    admin.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        await asyncio.wait_for(sleeping, 10)
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(behind, 10)
    assert pipeline.is_idle
    assert not pipeline.has_room


async def test_all_are_told_of_a_lost_connection_whose_socket_the_event_loop_forgets(
    impatient, connection, admin
):
    """As uvloop does once a socket has an error."""
    sleeping = send(impatient, SLEEP, seconds=60.0)
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().remove_reader(impatient.wire._socket)
    admin.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError, match="terminating connection"):
        await asyncio.wait_for(sleeping, 5)


async def test_what_was_told_before_the_commit_is_no_success(connection):
    sent = pipelines._Sent(asyncio.get_running_loop())
    sent.result = connection.pgconn.make_empty_result(ExecStatus.TUPLES_OK)
    sent.lose(psycopg.OperationalError("lost"))
    with pytest.raises(psycopg.OperationalError, match="lost"):
        await sent.answer()


async def test_all_are_told_of_a_connection_that_is_cut_while_much_is_sent(proxied):
    connection, jam, cut = proxied
    pipeline = await piped(connection)
    jam()
    answers = [send(pipeline, MEASURE, text="x" * 50_000_000), send(pipeline, DIVIDE)]
    await asyncio.sleep(0.2)
    assert pipeline.wire._writes
    cut()
    for answer in answers:
        with pytest.raises(psycopg.OperationalError):
            await asyncio.wait_for(answer, 10)
    with pytest.raises(psycopg.OperationalError):
        await send(pipeline, DIVIDE)
    assert pipeline.is_idle
    pipeline.end()


async def test_much_is_sent_while_the_loop_goes_on(pipeline, monkeypatch):
    monkeypatch.setattr(pipelines, "_TOO_LONG", 60)
    text = "x" * 30_000_000
    answers = [send(pipeline, MEASURE, text=text), send(pipeline, MEASURE, text=text[1:])]
    assert await asyncio.gather(*answers) == [[(30_000_000,)], [(29_999_999,)]]


async def test_cancelling_one_closes_the_connection_and_the_other_is_told(
    pipeline, connection, admin
):
    sleeping = send(pipeline, SLEEP, seconds=60.0)
    behind = send(pipeline, DIVIDE)
    await asyncio.sleep(0.1)
    pid = connection.info.backend_pid
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeping, 10)
    # It may have had its turn, when the one ahead of it was given up.
    (told,) = await asyncio.gather(behind, return_exceptions=True)
    assert isinstance(told, psycopg.OperationalError) or told == [(8,)]
    assert connection.closed
    # The server looks whether its client is there when it has given the statement up.
    there = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    await eventually(lambda: admin.execute(there, [pid]).fetchone() == (0,))


async def test_a_statement_is_cancelled_though_the_server_cannot_be_asked_to(pipeline, monkeypatch):
    async def fail():
        raise psycopg.OperationalError("no more connections")

    monkeypatch.setattr(pipeline.wire, "cancel", fail)
    sleeping = send(pipeline, SLEEP, seconds=5.0)
    await asyncio.sleep(0.1)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(sleeping, 10)


async def test_what_somebody_deallocated_is_to_be_prepared_again(pipeline):
    bound = pipeline.wire.bind(b"DEALLOCATE ALL", {})
    pipeline.end()
    await pipeline.wire.execute(b"DEALLOCATE ALL", {}, prepare=False)
    assert pipeline.wire.prepared(bound) is None
    again = Pipeline(pipeline.wire)
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        await send(again, DIVIDE)
    assert pipeline.wire.prepared(pipeline.wire.bind(DIVIDE, {"by": 1})) is None
    again.end()


async def test_notifications_reach_whoever_the_connection_is_of(pipeline, connection):
    heard = []
    connection.add_notify_handler(heard.append)
    pipeline.end()
    await pipeline.wire.execute(b"LISTEN piped", {})
    again = Pipeline(pipeline.wire)
    await pipeline_notifies(connection.info.dsn)
    assert await send(again, SLEEP, seconds=0.1) == [(0,)]
    again.end()
    assert [notification.payload for notification in heard] == ["open"]


async def pipeline_notifies(dsn):
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        await other.execute("NOTIFY piped, 'open'")


WARM = [f"warm-{n}" for n in range(200)]


async def store_all(store, ids, *, at_once=50):
    waiting = iter(ids)

    async def worker():
        for id_ in waiting:
            await store.set_result(id_, Outcome({"n": id_}))

    await asyncio.gather(*(worker() for _ in range(at_once)))


@pytest.fixture
async def store(dsn, made_table):
    # Notifications would take a connection now and then, and another would be opened meanwhile.
    async with ResultStore(dsn, table_name=made_table, notify=False) as store:
        for _ in range(3):  # after which the statement has been prepared on each connection
            await store_all(store, WARM)
        yield store


@pytest.fixture
def used(monkeypatch):
    """How many statements went through pipelines, and how many of them failed there."""
    counts = {"sent": 0, "failed": 0}
    execute = Pipeline.execute

    async def counted(self, bound, name):
        counts["sent"] += 1
        try:
            return await execute(self, bound, name)
        except psycopg.Error:
            counts["failed"] += 1
            raise

    monkeypatch.setattr(Pipeline, "execute", counted)
    return counts


async def test_batches_of_small_results_go_through_it(store, used):
    await store_all(store, [f"id-{n}" for n in range(1000)])
    assert used["sent"] > 0
    assert used["failed"] == 0
    assert await store.count() == 1200
    assert store._connections._kept.pipeline is None  # the connection has been given back


async def test_batches_of_larger_results_and_single_ones_do_not(store, used):
    await store.set_result("alone", Outcome(1))
    large = ["x" * 2_000] * 2
    await asyncio.gather(*(store.set_result(f"large-{n}", Outcome(large)) for n in range(100)))
    assert used["sent"] == 0
    assert await store.count() == 301


@pytest.fixture
def lock(store, connect):
    """Begins transactions that lock a row, ``await lock(id_)``: who writes it has to wait."""

    async def lock_one(id_):
        connection = await connect(autocommit=False)
        await connection.execute(
            sql.SQL("SELECT FROM {} WHERE task_id = %s FOR UPDATE").format(
                sql.Identifier(store.names.table)
            ),
            [id_],
        )
        return connection

    return lock_one


@pytest.fixture
async def locked(lock):
    """Somebody's transaction, which has locked a row."""
    return await lock(WARM[10])


async def test_a_locked_row_keeps_up_no_others(store, locked, monkeypatch):
    monkeypatch.setattr(pipelines, "_TOO_LONG", 0.2)
    waiting = asyncio.create_task(store_all(store, WARM[:20]))
    await asyncio.sleep(0.05)
    for rest in range(5):
        await asyncio.wait_for(store_all(store, [f"{rest}-{n}" for n in range(50)]), 10)
    assert not waiting.done()
    await locked.rollback()
    await waiting
    assert await store.count() == 450


async def test_many_locked_rows_keep_up_no_others(store, lock, monkeypatch):
    monkeypatch.setattr(unlocked, "_SLOW", 0.3)
    holders = [await lock(WARM[number]) for number in (0, 10, 20)]
    waiting = [asyncio.create_task(store.set_result(id_, Outcome("new"))) for id_ in WARM[:30]]
    await asyncio.wait_for(store_all(store, [f"other-{n}" for n in range(50)]), 10)
    await asyncio.wait_for(asyncio.gather(*waiting[1:10], *waiting[11:20], *waiting[21:]), 10)
    assert not any(waiting[number].done() for number in (0, 10, 20))
    for holder in holders:
        await holder.rollback()
    await asyncio.wait_for(asyncio.gather(*waiting), 10)
    assert {(await store.get(id_)).return_value for id_ in WARM[:30]} == {"new"}


async def test_a_row_that_stays_locked_does_not_keep_up_the_shutdown(dsn, store, lock, monkeypatch):
    monkeypatch.setattr(unlocked, "_SLOW", 0.3)
    await lock(WARM[0])
    async with ResultStore(dsn, table_name=store.names.table, write_timeout=1) as other:
        writing = [asyncio.create_task(other.set_result(id_, Outcome(1))) for id_ in WARM[:3]]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(other.shutdown(), 10)
    ended = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(end) for end in ended] == [WriteTimeoutError, type(None), type(None)]


async def test_what_was_under_way_on_a_lost_connection_is_stored(store, locked, admin, used):
    waiting = asyncio.create_task(store_all(store, WARM[:20]))
    await asyncio.sleep(0.1)
    pipeline = store._connections._kept.pipeline
    assert not pipeline.is_idle
    admin.execute("SELECT pg_terminate_backend(%s)", [pipeline.wire.connection.info.backend_pid])
    await locked.rollback()
    await waiting
    assert used["failed"] > 0
    assert await store.count() == 200


async def test_where_statements_are_forgotten_all_is_stored(store, used):
    for number in range(5):
        for wire in store._connections._kept._idle:
            await wire.execute(b"DEALLOCATE ALL", {}, prepare=False)
        await store_all(store, [f"{number}-{n}" for n in range(100)])
    assert used["failed"] > 0
    assert await store.count() == 700


@pytest.fixture
def slow_cancel(monkeypatch):
    """Makes cancel requests take a while, before and after they reach the server."""
    cancel_safe = psycopg.AsyncConnection.cancel_safe

    async def slowly(self, **arguments):
        await asyncio.sleep(0.2)
        await cancel_safe(self, **arguments)
        await asyncio.sleep(0.2)

    monkeypatch.setattr(psycopg.AsyncConnection, "cancel_safe", slowly)


async def run_light(store, seconds):
    await store._connections.execute_light(SLEEP, {"seconds": seconds, "number": 0})


@pytest.mark.usefixtures("slow_cancel")
async def test_a_cancelled_statement_takes_the_connection_from_nobody(store):
    execute = store._connections.execute
    await execute(SLEEP, VALUES[SLEEP])
    first = asyncio.create_task(run_light(store, 0.1))
    second = asyncio.create_task(run_light(store, 0.01))
    await asyncio.sleep(0.05)
    first.cancel()
    await second
    third = execute(SLEEP, {"seconds": 0.6, "number": 3})
    assert await asyncio.wait_for(third, 10) == [(3,)]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert store._connections._kept.pipeline is None


@pytest.mark.usefixtures("slow_cancel")
async def test_a_cancel_request_hits_nobody_who_has_the_connection_next(store, monkeypatch):
    monkeypatch.setattr(pipelines, "_TOO_LONG", 0.1)
    await store._connections.execute(SLEEP, VALUES[SLEEP])
    under_way = [asyncio.create_task(run_light(store, seconds)) for seconds in (0.3, 0.01)]
    await asyncio.sleep(0.25)
    assert store._connections._kept.pipeline._cancels
    await asyncio.gather(*under_way)

    async def search(connection):
        cursor = await connection.execute("SELECT 4 FROM pg_sleep(0.6)")
        return await cursor.fetchall()

    assert await store._connections.run(search) == [(4,)]


async def test_a_pipeline_that_cannot_start_leaves_nothing(store):
    for wire in store._connections._kept._idle:
        wire.connection.pgconn.finish()
    await store_all(store, WARM)
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    watching = [
        handle
        for handle in loop._scheduled
        if not handle.cancelled() and getattr(handle._callback, "__name__", "") == "_watch"
    ]
    assert watching == []
    assert await store.count() == 200


async def test_a_store_that_is_started_anew_has_a_new_pipeline(store, locked):
    waiting = asyncio.create_task(store_all(store, WARM[:20]))
    await asyncio.sleep(0.05)
    assert not store._connections._kept.pipeline.is_idle
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(store.shutdown(), 0.02)
    await store.startup()
    await asyncio.wait_for(store_all(store, [f"new-{n}" for n in range(100)]), 10)
    await locked.rollback()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await store.count() == 300


async def test_an_answer_that_comes_while_another_statement_is_sent_is_heard(pipeline):
    async def send_much():
        bound = pipeline.wire.bind(MEASURE, {"text": "x" * 3_000_000, "seconds": 2.0})
        time.sleep(0.05)  # noqa: ASYNC251 - the first is answered, and the loop does not hear it
        return await pipeline.execute(bound, pipeline.wire.prepared(bound))

    first = send(pipeline, DIVIDE)
    await asyncio.sleep(0)
    second = asyncio.create_task(send_much())
    assert await asyncio.wait_for(first, 1) == [(8,)]
    assert await second == [(3_000_000,)]


async def test_whoever_waits_for_the_only_connection_gets_it(dsn, table_name):
    async with ResultStore(dsn, table_name=table_name, min_size=1, max_size=1) as store:
        await store_all(store, WARM)
        stop = False

        async def keep_storing(worker):
            number = 0
            while not stop:
                await store.set_result(f"{worker}-{number}", Outcome(number))
                number += 1

        workers = [asyncio.create_task(keep_storing(worker)) for worker in range(20)]
        await asyncio.sleep(0.1)
        for _ in range(10):
            assert len((await asyncio.wait_for(store.search(limit=5), 10)).items) == 5
        stop = True
        await asyncio.gather(*workers)
