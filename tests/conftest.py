from __future__ import annotations

import asyncio
import os
import uuid
from contextlib import asynccontextmanager, suppress

import psycopg
import psycopg_pool
import pytest
import servers
import tables
from hypothesis import HealthCheck, settings
from jsonb_roundtrip import JsonbRoundtrip
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskiq_pg_json import JsonbResultBackend, ResultStore

settings.register_profile(
    "fast",
    max_examples=50,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile(
    "deep", parent=settings.get_profile("fast"), max_examples=50_000, derandomize=False
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

_WATCH = """
CREATE TABLE {history} (number serial, task_id text, status text, row_ jsonb);
CREATE FUNCTION {history}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {history} (task_id, status, row_) VALUES (NEW.task_id, NEW.status, to_jsonb(NEW));
    RETURN NULL;
END $$;
CREATE TRIGGER watch AFTER INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION {history}();
"""

_REFUSE = """
CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $refuse$
BEGIN
    IF {condition} THEN
        RAISE EXCEPTION 'not now' USING ERRCODE = {code};
    END IF;
    RETURN NEW;
END $refuse$;
CREATE TRIGGER refuse BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {name}();
"""


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(servers.summary())


@pytest.fixture(scope="session", params=servers.found(), ids=lambda kind: kind.name)
def server(request):
    """The dsn of each server in turn."""
    with servers.running(request.param) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def dsn(server) -> str:
    """A database that the worker's tests share: use ``table_name`` and ``schema_name``."""
    return server


@pytest.fixture(scope="session")
def admin(dsn):
    """A synchronous connection in autocommit, for looking behind the store's back."""
    with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=5s") as connection:
        yield connection


@pytest.fixture
async def lend(dsn):
    """Makes pools, ``lend(**arguments)``, and closes them; name it before ``start``."""
    pools = []

    def lend_one(**arguments):
        pool = psycopg_pool.AsyncConnectionPool(
            dsn, **{"min_size": 1, "max_size": 4, "open": False, **arguments}
        )
        pools.append(pool)
        return pool

    yield lend_one
    for pool in pools:
        await pool.close()


@pytest.fixture(scope="session")
def made_tables(admin):
    """Tables that tests borrow."""
    return tables.MadeTables(admin, shared_server=servers.DSN_VARIABLE in os.environ)


@pytest.fixture
def made_table(made_tables):
    """The name of a store's tables that are there and empty: for tests of anything but them."""
    with made_tables.lent() as name:
        yield name


@pytest.fixture
def table_name(request, admin):
    """A name that no other test uses; tables and views of that name are dropped afterwards.

    Where the test also asks for ``made_table``, it is that one's.
    """
    if "made_table" in request.fixturenames:
        yield request.getfixturevalue("made_table")
    else:
        name = tables.new_name()
        yield name
        tables.drop(admin, name)


@pytest.fixture
def schema_name(admin):
    """A schema of the test's own, dropped with all it holds afterwards."""
    name = f"schema_{uuid.uuid4().hex[:12]}"
    admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    yield name
    admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(name)))


@pytest.fixture
def refusing(admin, table_name):
    """Has the server refuse rows for the time of a block: ``async with refusing(code)``.

    Those of the results, or ``of="_progress"``.
    """

    @asynccontextmanager
    async def refuse(code, condition="true", of=""):
        names = {
            "name": sql.Identifier(f"{table_name}{of}_refuse"),
            "table": sql.Identifier(f"{table_name}{of}"),
        }
        admin.execute(
            sql.SQL(_REFUSE).format(code=sql.Literal(code), condition=sql.SQL(condition), **names)
        )
        yield
        admin.execute(sql.SQL("DROP FUNCTION {name} CASCADE").format(**names))

    return refuse


@pytest.fixture
async def connect(dsn):
    """Opens connections in autocommit, ``await connect()``, and closes them afterwards."""
    opened = []

    async def open_one(conninfo=dsn, **kwargs):
        connection = await psycopg.AsyncConnection.connect(
            conninfo, **{"autocommit": True, **kwargs}
        )
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        await connection.close()


@pytest.fixture
async def proxied(dsn):
    """A connection through a proxy, and what ends it: ``cut()``, and ``jam()`` before."""
    server = conninfo_to_dict(dsn)
    host, port = server["host"], server.get("port", 5432)
    writers = []
    flows = asyncio.Event()
    flows.set()

    async def pump(reader, writer):
        writers.append(writer)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 14):
                await flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        if host.startswith("/"):
            upstream = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            upstream = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer))

    def cut():
        for writer in writers:
            writer.transport.abort()
        flows.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as proxy:
        here = proxy.sockets[0].getsockname()[1]
        conninfo = make_conninfo(dsn, host="127.0.0.1", port=here, sslmode="disable")
        connection = await psycopg.AsyncConnection.connect(conninfo, autocommit=True)
        yield connection, flows.clear, cut
        cut()
        await connection.close()


@pytest.fixture
async def pool(dsn):
    """An open pool of at most four connections."""
    async with psycopg_pool.AsyncConnectionPool(dsn, min_size=1, max_size=4, open=False) as pool:
        yield pool


@pytest.fixture
async def start(dsn, table_name):
    """Starts backends on the test's own table, ``await start(**arguments)``, and stops them."""
    started = []

    async def start_one(*positional, **arguments):
        if not positional and "pool" not in arguments:
            positional = (dsn,)
        backend = JsonbResultBackend(*positional, **{"table_name": table_name, **arguments})
        await backend.startup()
        started.append(backend)
        return backend

    yield start_one
    for backend in started:
        await backend.shutdown()


@pytest.fixture
async def backend(start, made_table):
    """A backend on the test's own table."""
    return await start(table_name=made_table)


@pytest.fixture
async def store(pool, made_table):
    """A store on the test's own table."""
    async with ResultStore(pool=pool, table_name=made_table) as store:
        yield store


@pytest.fixture
def history(backend, admin):
    """What each version of a task's row said, in order: ``history(task_id)`` or of all tasks."""
    table = backend.store.names.table
    name = sql.Identifier(f"{table}_history")
    admin.execute(sql.SQL(_WATCH).format(history=name, table=sql.Identifier(table)))

    def read(task_id=None):
        query = sql.SQL("SELECT row_ FROM {} WHERE coalesce(task_id = %s, true) ORDER BY number")
        return [row for (row,) in admin.execute(query.format(name), [task_id])]

    yield read
    admin.execute(sql.SQL("DROP FUNCTION {} CASCADE").format(name))


@pytest.fixture
def statuses(history):
    """The statuses that a task's row has had, in order."""
    return lambda task_id=None: [row["status"] for row in history(task_id)]


@pytest.fixture
async def start_broker():
    """Starts brokers, ``await start_broker(broker, backend, *middlewares)``, and stops them."""
    started = []

    async def start_one(broker, backend, *middlewares):
        broker.with_result_backend(backend).with_middlewares(*middlewares)
        await broker.startup()
        started.append(broker)
        return broker

    yield start_one
    for broker in started:
        await broker.shutdown()


@pytest.fixture(scope="session")
def jsonb_roundtrip(dsn):
    """Stores an EncodedRow in real columns and reads it back; ``.many`` does so for a list."""
    with psycopg.connect(dsn) as connection:
        yield JsonbRoundtrip(connection)
