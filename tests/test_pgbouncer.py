from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool

from taskiq_pg_json import Outcome, Progress, ResultStore, WaitTimeoutError
from taskiq_pg_json.store import listen
from taskiq_pg_json.store.retrying import is_transient

PGBOUNCER = shutil.which("pgbouncer")
CONFIG = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
"""

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="no pgbouncer on PATH (on Debian: apt install pgbouncer)"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_whom():
    """PgBouncer does not run as root."""
    if os.geteuid() != 0:
        return []
    names = {entry.pw_name for entry in pwd.getpwall()}
    return ["-u", "postgres" if "postgres" in names else "nobody"]


@contextmanager
def pooler(dsn, **settings):
    """A pooler in transaction mode, unless the settings say otherwise: yields its dsn."""
    server = conninfo_to_dict(dsn)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tpj-bouncer-") as directory:
        config = Path(directory, "pgbouncer.ini")
        text = CONFIG.format(
            host=server["host"],
            port=server.get("port", 5432),
            user=server["user"],
            listen_port=port,
        )
        config.write_text(text + "".join(f"{key} = {settings[key]}\n" for key in settings))
        Path(directory).chmod(0o755)
        process = subprocess.Popen([PGBOUNCER, "-q", *as_whom(), str(config)])
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionError:
                    time.sleep(0.05)
            yield make_conninfo(dsn, host="127.0.0.1", port=port)
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def pooled_dsn(dsn):
    """The server behind a pooler in transaction mode."""
    with pooler(dsn) as pooled:
        yield pooled


@pytest.fixture(params=[{}, {"prepare_threshold": None}], ids=["prepared", "unprepared"])
async def store(request, pooled_dsn, made_table, monkeypatch):
    monkeypatch.setattr(listen, "_PROBE_TIMEOUT", 0.3)
    async with ResultStore(pooled_dsn, table_name=made_table, kwargs=request.param) as store:
        yield store


async def test_results_and_progress_are_kept_through_a_transaction_pooler(store):
    ids = [uuid.uuid4().hex for _ in range(2_000)]
    waiting = iter(ids)

    async def worker():
        for id_ in waiting:
            await store.set_result(id_, Outcome(return_value=id_))
            await store.set_progress(id_, Progress("x", {"percent": 5}))

    await asyncio.gather(*(worker() for _ in range(50)))
    records = await store.get_many(ids)
    assert {id_: record.return_value for id_, record in records.items()} == {i: i for i in ids}
    assert {record.progress.percent for record in records.values()} == {5}


@pytest.mark.parametrize("lent", [False, True])
async def test_stores_that_share_servers_keep_to_their_own_tables(pooled_dsn, table_name, lent):
    """PgBouncer before 1.21 knows no prepared statements: a server has those of all clients."""
    async with AsyncExitStack() as stack:
        stores = []
        for number in range(3):
            arguments = {"dsn": pooled_dsn}
            if lent:
                pool = AsyncConnectionPool(pooled_dsn, open=False, max_size=5)
                arguments = {"pool": await stack.enter_async_context(pool)}
            store = ResultStore(**arguments, table_name=f"{table_name}_{number}")
            stores.append(await stack.enter_async_context(store))
        for turn in range(20):
            await asyncio.gather(
                *(
                    call
                    for number, store in enumerate(stores)
                    for item in range(7)
                    for call in (
                        store.set_result(f"{number} {turn} {item}", Outcome(number)),
                        store.set_progress(f"{number} {turn} {item}", Progress("x", number)),
                    )
                )
            )
        for number, store in enumerate(stores):
            ids = [f"{number} {turn} {item}" for turn in range(20) for item in range(7)]
            records = await store.get_many(ids)
            assert [records[id_].return_value for id_ in ids] == [number] * 140
            assert {records[id_].progress.meta for id_ in ids} == {number}
            assert await store.count(timeout=None) == 140
            assert all(await asyncio.gather(*map(store.is_ready, ids)))


async def test_waiting_works_where_notifications_may_not_arrive(store):
    ids = [uuid.uuid4().hex for _ in range(5)]

    async def finish():
        await asyncio.sleep(0.6)
        await asyncio.gather(*(store.set_result(id_, Outcome(return_value=1)) for id_ in ids))

    finishing = asyncio.create_task(finish())
    assert len(await store.wait(ids, timeout=20)) == 5
    await finishing


@pytest.mark.parametrize("seconds", [0.1, 1.5])
async def test_no_listen_is_left_behind_on_the_servers_of_a_pooler(
    dsn, table_name, connect, monkeypatch, seconds
):
    monkeypatch.setattr(listen, "_PROBE_TIMEOUT", 0.5)
    with pooler(dsn) as pooled:
        async with ResultStore(pooled, table_name=table_name) as store:
            with pytest.raises(WaitTimeoutError):
                await store.wait(["id"], timeout=seconds)
            listener = store._listener
        assert not listener._hearing.is_set()
        others = [await connect(pooled, autocommit=False) for _ in range(3)]
        for other in others:  # each holds a server of its own
            cursor = await other.execute("SELECT * FROM pg_listening_channels()")
            assert await cursor.fetchall() == []


async def test_searching_works_through_a_transaction_pooler(store):
    await store.set_result("one", Outcome(return_value={"total": 7}))
    page = await store.search(return_value={"total": 7})
    assert [record.task_id for record in page.items] == ["one"]
    assert [record.task_id async for record in store.iterate()] == ["one"]


async def test_a_start_waits_for_a_pooler_that_has_no_room(dsn, table_name, connect):
    with pooler(dsn, max_client_conn=2) as pooled:
        others = [await connect(pooled, prepare_threshold=None) for _ in range(2)]
        store = ResultStore(pooled, table_name=table_name, min_size=1, max_size=1)
        starting = asyncio.create_task(store.startup())
        await asyncio.sleep(0.5)
        assert not starting.done()
        for other in others:
            await other.close()
        await asyncio.wait_for(starting, 20)
        await store.set_result("id", Outcome(1))
        await store.shutdown()


async def test_a_pooler_in_statement_mode_is_refused_at_once(dsn, table_name):
    with pooler(dsn, pool_mode="statement") as pooled:
        store = ResultStore(pooled, table_name=table_name)
        with pytest.raises(psycopg.Error, match="transaction blocks not allowed"):
            await asyncio.wait_for(store.startup(), 5)
        await store.shutdown()


@pytest.mark.parametrize(
    ("words", "is_waited_for"),
    [
        ("no more connections allowed (max_client_conn)", True),
        ("client connections exceeded (max_db_client_connections)", True),
        ("query_wait_timeout", True),
        ("client_login_timeout (server down)", True),
        ("server login has been failing, try again later (server_login_retry)", True),
        ("pgbouncer cannot connect to server", True),
        ("too many servers in the pool", True),
        ("no such database: shop", False),
        ("no such user: shop", False),
        ("not allowed", False),
        ('database "shop" is disabled', False),
        ("transaction blocks not allowed in statement pooling mode", False),
    ],
)
def test_only_what_a_pooler_cannot_do_yet_is_waited_for(words, is_waited_for):
    error = psycopg.OperationalError(f"connection to server at [...] failed: FATAL:  {words}")
    assert is_transient(error) is is_waited_for
