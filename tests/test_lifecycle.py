"""Starting and shutting down, at once, again and in each other's way."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool
from road import PROMPTLY, cancelled_at, eventually, now
from taskiq import InMemoryBroker

from taskiq_pg_json import (
    ForeignTableError,
    JsonbResultBackend,
    NotStartedError,
    Outcome,
    Progress,
    ResultStore,
    Status,
    TaskInfo,
)
from taskiq_pg_json.store import listen

_INFO = TaskInfo("shop:count", started_at=now())


@InMemoryBroker().task("shop:count")
async def counted() -> int:
    return 1


EVERY_QUESTION = {
    "as_completed": lambda store: anext(store.as_completed(["id"])),
    "count": lambda store: store.count(),
    "create_view": lambda store: store.create_view(counted),
    "delete": lambda store: store.delete("id"),
    "discard_state": lambda store: store.discard_state("id", _INFO),
    "drop_view": lambda store: store.drop_view(counted),
    "failures": lambda store: store.failures(),
    "get": lambda store: store.get("id"),
    "get_many": lambda store: store.get_many(["id"]),
    "get_outcome": lambda store: store.get_outcome("id"),
    "get_progress": lambda store: store.get_progress("id"),
    "is_ready": lambda store: store.is_ready("id", timeout=5),
    "iterate": lambda store: anext(store.iterate()),
    "migrate": lambda store: store.migrate(),
    "read_outcome": lambda store: store.read_outcome("id", Outcome),
    "record_state": lambda store: store.record_state("id", Status.STARTED, _INFO),
    "refresh_rollup": lambda store: store.refresh_rollup(),
    "search": lambda store: store.search(where="$ > 1"),
    "set_progress": lambda store: store.set_progress("id", Progress("x", 1)),
    "stats": lambda store: store.stats(),
    "verify": lambda store: store.verify(),
    "wait": lambda store: store.wait(["id", "other"]),
    "watch_progress": lambda store: anext(store.watch_progress("id")),
}


@pytest.fixture
def named(dsn, table_name):
    """A store whose connections bear the table's name, not started."""
    return ResultStore(make_conninfo(dsn, application_name=table_name), table_name=table_name)


@pytest.fixture
def connected(admin, table_name):
    """How many connections the store has."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    return lambda: admin.execute(query, [table_name]).fetchone()[0]


@pytest.fixture
async def locked(connect, table_name):
    """A connection that has locked the table, once it is asked to."""
    holder = await connect(autocommit=False)

    async def lock():
        await holder.execute(sql.SQL("LOCK TABLE {}").format(sql.Identifier(table_name)))
        return holder

    return lock


async def test_starts_at_once_are_one(named, connected):
    await asyncio.gather(*(named.startup() for _ in range(5)))
    await named.set_result("id", Outcome(1))
    await named.shutdown()
    await eventually(lambda: connected() == 0)


async def test_what_is_under_way_across_a_restart_gives_its_connection_back(
    named, connected, locked
):
    await named.startup()
    holder = await locked()
    reading = [asyncio.create_task(named.get("id")), asyncio.create_task(named.search())]
    await asyncio.sleep(0.2)
    await named.shutdown()
    starting = asyncio.create_task(named.startup())
    await asyncio.sleep(0.2)
    await holder.rollback()
    await starting
    ended = await asyncio.gather(*reading, return_exceptions=True)
    assert not [end for end in ended if isinstance(end, KeyError)]
    await named.set_result("id", Outcome(1))
    await named.shutdown()
    await eventually(lambda: connected() == 0)


async def test_a_shutdown_that_is_given_up_leaves_a_store_that_can_be_started(named, locked):
    await named.startup()
    holder = await locked()
    writing = asyncio.create_task(named.set_result("id", Outcome(1)))
    await asyncio.sleep(0.1)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(named.shutdown(), 0.2)
    await holder.rollback()
    with pytest.raises(NotStartedError):
        await named.is_ready("id")
    await asyncio.gather(writing, return_exceptions=True)
    await named.startup()
    await named.set_result("again", Outcome(1))
    assert await named.is_ready("again")
    await named.shutdown()


@pytest.fixture
def stop_halfway(named):
    """Starts the store, has it listen, and cancels its shutdown after some turns of the loop."""

    async def stop(pause, times):
        await named.startup()
        waiting = asyncio.create_task(named.wait(["never"]))
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(named.shutdown())
        for _ in range(pause):
            await asyncio.sleep(0)
        is_cancelled = False
        for _ in range(times):
            is_cancelled = stopping.cancel() or is_cancelled
            await asyncio.sleep(0)
        await asyncio.wait({stopping}, timeout=10)
        assert stopping.cancelled() == is_cancelled
        waiting.cancel()
        waiting.add_done_callback(lambda task: task.cancelled() or task.exception())

    return stop


@pytest.mark.parametrize("times", [1, 3])
async def test_a_shutdown_that_is_cancelled_ends_so_and_closes_all(stop_halfway, connected, times):
    for pause in range(1, 9):
        await stop_halfway(pause, times)
        await eventually(lambda: connected() == 0)


async def test_a_store_can_be_started_while_a_cancelled_shutdown_still_closes(
    named, stop_halfway, connected
):
    for pause in range(1, 9):
        await stop_halfway(pause, 3)
        async with named:
            await named.set_result("id", Outcome(pause))
            assert (await named.get("id")).return_value == pause
        await eventually(lambda: connected() == 0)


async def test_a_start_that_is_cancelled_again_and_again_closes_all(named, connected, monkeypatch):
    migrate = named.migrate

    async def migrate_slowly():
        await migrate()
        await asyncio.Event().wait()

    monkeypatch.setattr(named, "migrate", migrate_slowly)
    starting = asyncio.create_task(named.startup())
    await asyncio.sleep(0.5)
    while not starting.done():
        starting.cancel()
        await asyncio.sleep(0)
    await eventually(lambda: connected() == 0)


async def test_results_that_come_after_shutdown_are_stored(named, connected):
    await named.startup()
    writing = [asyncio.create_task(named.set_result(f"{n} during", Outcome(n))) for n in range(50)]
    stopping = asyncio.create_task(named.shutdown())
    for number in range(20):
        writing.append(asyncio.create_task(named.set_result(f"{number} later", Outcome(number))))
        await asyncio.sleep(0)
    await asyncio.gather(stopping, *writing)
    await named.set_result("last", Outcome(threading.Lock()))
    await eventually(lambda: connected() == 0)
    async with named:
        records = await named.get_many([f"{n} during" for n in range(50)])
        assert [record.return_value for record in records.values()] == list(range(50))
        records = await named.get_many([f"{n} later" for n in range(20)])
        assert [record.return_value for record in records.values()] == list(range(20))
        assert (await named.get("last")).status is Status.FAILURE


async def test_shutdown_ends_when_the_results_that_have_come_meanwhile_are_stored(named):
    await named.startup()
    stopping = asyncio.create_task(named.shutdown())
    writing = []
    while not stopping.done():
        if len(writing) < 200:
            result = named.set_result(str(len(writing)), Outcome(len(writing)))
            writing.append(asyncio.create_task(result))
        await asyncio.sleep(0)
    assert len(writing) == 200
    assert all(write.done() for write in writing)
    async with named:
        assert await named.count() == 200


async def test_whoever_waits_elsewhere_hears_of_a_result_after_shutdown(named, dsn, table_name):
    async with ResultStore(dsn, table_name=table_name) as other:
        async with named:
            pass
        waiting = asyncio.create_task(other.wait(["id"], timeout=10))
        await asyncio.sleep(0.3)
        await named.set_result("id", Outcome(1))
        assert (await waiting)["id"].return_value == 1


async def test_a_result_that_the_server_refuses_after_shutdown_has_an_end_too(
    named, admin, table_name
):
    async with named:
        admin.execute(f"ALTER TABLE {table_name} ADD CHECK (return_value <> '7')")
    await named.set_result("id", Outcome(7))
    async with named:
        assert "refused" in str((await named.get("id")).error)


async def test_many_results_after_shutdown_need_few_connections(named, connected):
    async with named:
        pass
    writing = [asyncio.create_task(named.set_result(str(n), Outcome(n))) for n in range(2_000)]
    most = 0
    while not all(write.done() for write in writing):
        most = max(most, connected())
        await asyncio.sleep(0.01)
    await asyncio.gather(*writing)
    assert 0 < most <= 5
    async with named:
        assert await named.count() == 2_000


async def test_the_last_result_of_a_task_stands_after_shutdown_too(named):
    async with named:
        pass
    await asyncio.gather(*(named.set_result("id", Outcome(n)) for n in range(10)))
    async with named:
        assert (await named.get("id")).return_value == 9


async def test_a_result_after_shutdown_finds_its_table_as_the_others_do(
    dsn, table_name, schema_name
):
    async def configure(connection):
        await connection.execute(f'SET search_path = "{schema_name}"')
        await connection.commit()

    store = ResultStore(dsn, table_name=table_name, configure=configure)
    async with store:
        await store.set_result("before", Outcome(1))
    await store.set_result("late", Outcome(2))
    async with store:
        assert (await store.get("late")).return_value == 2


async def test_another_event_loop_is_refused_but_for_results(named):
    async with named:
        await named.set_result("here", Outcome(1))
        with pytest.raises(NotStartedError, match="another event loop"):
            await asyncio.to_thread(asyncio.run, named.is_ready("here"))
        stored = (named.set_result(f"{n}", Outcome(n)) for n in range(10))
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, storing) for storing in stored))
        assert await named.is_ready("here")
        assert await named.count() == 11


async def test_what_another_event_loop_stores_is_announced(dsn, table_name, named, monkeypatch):
    monkeypatch.setattr(listen, "SAFETY_POLL", 3600.0)
    async with named, ResultStore(dsn, table_name=table_name) as other:
        with other._listener.subscribed(()):
            await asyncio.wait_for(other._listener._hearing.wait(), 10)
        waiting = asyncio.create_task(other.wait(["id"], timeout=20))
        await asyncio.to_thread(asyncio.run, named.set_result("id", Outcome(1)))
        assert (await waiting)["id"].return_value == 1
        assert not named._endings._late


async def test_a_result_during_a_shutdown_is_stored_though_another_thread_stores_one(
    named, admin, table_name
):
    stored = ["before", "meanwhile", "in a thread"]
    async with named:
        with admin.transaction():
            admin.execute(f"LOCK TABLE {table_name}")
            storing = [asyncio.create_task(named.set_result(stored[0], Outcome()))]
            closing = asyncio.create_task(named.shutdown())
            await eventually(lambda: named._writer.results._closed)
            storing.append(asyncio.create_task(named.set_result(stored[1], Outcome())))
            await eventually(lambda: len(named._endings._late) == 1)
            late = named.set_result(stored[2], Outcome())
            thread = asyncio.create_task(asyncio.to_thread(asyncio.run, late))
            await eventually(lambda: len(named._endings._late) == 2)
        await closing
        assert all(task.done() for task in storing), "the event loop may end here"
        await thread
    async with named:
        assert await named.count() == 3


@pytest.mark.parametrize("suspension", range(1, 8))  # the first is where it connects
async def test_a_late_result_that_is_cancelled_leaves_no_connection_open(
    dsn, table_name, admin, monkeypatch, suspension
):
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", -1, raising=False)  # it always suspends
    store = ResultStore(make_conninfo(dsn, application_name=table_name), table_name=table_name)
    async with store:
        pass
    storing = asyncio.create_task(cancelled_at(store.set_result("id", Outcome()), suspension))
    await asyncio.wait({storing})
    open_ones = "SELECT FROM pg_stat_activity WHERE application_name = %s"
    await eventually(lambda: not admin.execute(open_ones, [table_name]).fetchall(), 5)


def test_every_question_to_a_store_is_asked_from_another_loop():
    methods = {name for name in dir(ResultStore) if not name.startswith("_")}
    assert methods - EVERY_QUESTION.keys() == {"set_result", "startup", "shutdown", "schema_sql"}


@pytest.mark.parametrize("ask", EVERY_QUESTION.values(), ids=EVERY_QUESTION)
async def test_a_question_from_another_loop_is_refused_and_harms_nothing(named, connected, ask):
    async def asked():
        with pytest.raises(NotStartedError, match=r"another event loop.*run_coroutine_threadsafe"):
            await ask(named)

    async with named:
        await named.set_result("before", Outcome(1))
        before = connected()
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, asked()) for _ in range(4)))
        assert connected() == before
        await named.set_result("id", Outcome(2))
        assert (await asyncio.wait_for(named.wait(["id", "before"]), 10)).keys() == {"id", "before"}
        assert await named.count() == 2
    await eventually(lambda: connected() == 0)


@pytest.mark.parametrize("ask", EVERY_QUESTION.values(), ids=EVERY_QUESTION)
async def test_a_lent_pool_is_not_used_from_another_loop(lend, table_name, ask):
    async def asked():
        with pytest.raises(NotStartedError, match="another event loop"):
            await ask(store)

    pool = lend(min_size=1, max_size=1)
    async with ResultStore(pool=pool, table_name=table_name) as store:
        async with pool.connection():  # for which it would wait
            await asyncio.gather(*(asyncio.to_thread(asyncio.run, asked()) for _ in range(4)))
        await store.set_result("id", Outcome(2))
        assert await store.count() == 1


async def test_sync_tasks_that_ask_their_own_store_end_with_an_error(dsn, table_name, start_broker):
    backend = JsonbResultBackend(dsn, table_name=table_name)
    broker = await start_broker(InMemoryBroker(), backend)

    @broker.task("shop:report")
    def report() -> int:
        return asyncio.run(backend.store.count())

    @broker.task("shop:add")
    async def add(number: int) -> int:
        return number + 1

    for _ in range(3):
        reports = [await report.kiq() for _ in range(4)]
        sums = [await add.kiq(number) for number in range(4)]
        for task in reports:
            result = await task.wait_result(**PROMPTLY)
            assert isinstance(result.error, NotStartedError)
        assert [(await task.wait_result(**PROMPTLY)).return_value for task in sums] == [1, 2, 3, 4]


async def test_another_loop_may_hand_its_question_over(named):
    async with named:
        await named.set_result("id", Outcome(1))
        loop = asyncio.get_running_loop()

        def ask():
            return asyncio.run_coroutine_threadsafe(named.count(), loop).result(10)

        assert await asyncio.to_thread(ask) == 1


async def test_a_store_whose_start_has_failed_takes_no_results(named, admin, table_name):
    admin.execute(f'CREATE TABLE "{table_name}" (mine int)')
    with pytest.raises(ForeignTableError):
        await named.startup()
    with pytest.raises(NotStartedError):
        await asyncio.wait_for(named.set_result("id", Outcome(1)), 5)


async def test_a_result_that_comes_after_a_lent_pool_was_closed_is_stored(dsn, table_name):
    async with AsyncConnectionPool(dsn, open=False) as pool:
        store = ResultStore(pool=pool, table_name=table_name)
        await store.startup()
    await store.set_result("id", Outcome(1))
    async with ResultStore(dsn, table_name=table_name) as other:
        assert (await other.get("id")).return_value == 1


def _use_in_child(store, pipe):
    async def use():
        for call in (store.is_ready("parent"), store.set_progress("child", Progress("x", 1))):
            with pytest.raises(NotStartedError):
                await call
        await store.set_result("child", Outcome("of the child"))
        async with store:
            await store.set_result("started", Outcome("of the child"))

    try:
        asyncio.run(use())
    except BaseException as error:
        pipe.send(repr(error))
        raise
    pipe.send("done")


def _start_in_child(store, pipe):
    try:
        asyncio.run(store.startup())
    except NotStartedError as error:
        pipe.send(repr(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_pool_that_was_lent_is_not_for_a_forked_process(pool, table_name):
    fork = multiprocessing.get_context("fork")
    async with ResultStore(pool=pool, table_name=table_name) as store:
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_start_in_child, args=(store, theirs))
        child.start()
        assert await asyncio.to_thread(ours.poll, 20)
        assert "forked from: make a pool here" in ours.recv()
        await asyncio.to_thread(child.join, 20)
        await store.set_result("id", Outcome(1))
        assert await store.is_ready("id")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_process_that_is_forked_leaves_its_parent_s_connections_alone(named):
    fork = multiprocessing.get_context("fork")
    async with named:
        writing = [asyncio.create_task(named.set_result(str(n), Outcome(n))) for n in range(300)]
        await asyncio.sleep(0)
        ours, theirs = fork.Pipe()
        child = fork.Process(target=_use_in_child, args=(named, theirs))
        child.start()
        for number in range(300, 600):
            await named.set_result(str(number), Outcome(number))
        await asyncio.gather(*writing)
        assert await asyncio.to_thread(ours.poll, 20)
        assert ours.recv() == "done"
        await asyncio.to_thread(child.join, 20)
        records = await named.get_many([str(n) for n in range(600)])
        assert [record.return_value for record in records.values()] == list(range(600))
        for task_id in ("child", "started"):
            assert (await named.get(task_id)).return_value == "of the child"


async def test_a_shutdown_ends_where_every_task_was_cancelled(named, connected, caplog):
    # psycopg may leave a connection that was cancelled while it was opened to the garbage
    # collector, and a record of the pool's would keep it.
    caplog.set_level("ERROR", "psycopg.pool")
    await named.startup()
    others = asyncio.all_tasks()
    writing = [asyncio.create_task(named.set_result(str(n), Outcome("x" * n))) for n in range(20)]
    waiting = asyncio.create_task(named.wait(["never"]))
    await asyncio.sleep(0.01)
    for task in asyncio.all_tasks() - others:
        task.cancel()
    await asyncio.gather(*writing, waiting, return_exceptions=True)
    del task, waiting, writing  # the errors in them would keep it as well
    await asyncio.wait_for(named.shutdown(), 10)
    await eventually(lambda: gc.collect() >= 0 and connected() == 0)


@pytest.mark.parametrize("shut_down_later", [False, True])
def test_a_store_can_be_started_in_a_loop_after_another(
    dsn, table_name, connected, shut_down_later
):
    # One connection and no other on its way: a worker of psycopg_pool that is opening one swallows
    # the cancellation that asyncio.run() ends with, and waits for ever.
    conninfo = make_conninfo(dsn, application_name=table_name)
    named = ResultStore(conninfo, table_name=table_name, notify=False, max_size=1)

    async def store_and_read(number):
        await named.startup()
        await named.set_result(str(number), Outcome(number))
        assert (await named.get_outcome(str(number))).return_value == number

    for number in range(3):
        asyncio.run(store_and_read(number))
        if shut_down_later:
            asyncio.run(named.shutdown())
    asyncio.run(named.shutdown())
    gc.collect()
    asyncio.run(eventually(lambda: connected() == 0))


def test_a_loop_that_ends_in_the_middle_of_a_start_up_leaves_a_store_that_can_be_started(named):
    async def begin():
        starting = asyncio.create_task(named.startup())
        await asyncio.sleep(0.002)
        assert not starting.done()

    async def start():
        await named.startup()
        await named.shutdown()

    asyncio.run(begin())
    asyncio.run(start())


@pytest.fixture
def elsewhere():
    """Runs coroutines in an event loop that another thread keeps running."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_store_that_is_being_started_in_one_loop_is_not_to_be_started_in_another(
    dsn, table_name, elsewhere
):
    asked, answers = threading.Event(), threading.Event()

    def slow_dsn():
        asked.set()
        answers.wait(20)
        return dsn

    store = ResultStore(slow_dsn, table_name=table_name)
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(elsewhere, store.startup())
        assert asked.wait(20)
        for call in (store.startup, store.shutdown):
            with pytest.raises(NotStartedError, match="another event loop"):
                asyncio.run(call())
        answers.set()
        starting.result(20)
    elsewhere(store.set_result("t", Outcome(7)))
    assert elsewhere(store.get("t")).return_value == 7
    elsewhere(store.shutdown())


def test_a_lent_pool_that_was_opened_in_another_loop_is_refused(dsn, table_name, elsewhere):
    pool = AsyncConnectionPool(dsn, open=False)
    store = ResultStore(pool=pool, table_name=table_name)
    elsewhere(store.startup())
    elsewhere(store.shutdown())
    with pytest.raises(NotStartedError, match="opened in another event loop: make a pool here"):
        asyncio.run(store.startup())
    elsewhere(store.startup())
    elsewhere(store.set_result("t", Outcome(7)))
    assert elsewhere(store.get("t")).return_value == 7
    elsewhere(store.shutdown())
    elsewhere(pool.close())


def test_a_store_that_runs_in_one_loop_is_not_to_be_had_in_another(named, elsewhere):
    elsewhere(named.startup())
    for call in (named.startup, named.shutdown):
        with pytest.raises(NotStartedError, match="another event loop"):
            asyncio.run(call())
    elsewhere(named.set_result("t", Outcome(7)))
    elsewhere(named.shutdown())

    async def here():
        async with named:
            return await named.get_outcome("t")

    assert asyncio.run(here()).return_value == 7
