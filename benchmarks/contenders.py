"""Who takes part: every result backend behind the same four operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import psycopg
import redis.asyncio
from measure import Batch, Shape
from psycopg import sql
from taskiq import AsyncResultBackend, TaskiqMiddleware
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.serializers import ORJSONSerializer, PickleSerializer
from taskiq_pg.asyncpg import AsyncpgResultBackend
from taskiq_pg.psqlpy import PSQLPyResultBackend
from taskiq_pg.psycopg import PsycopgResultBackend
from taskiq_redis import RedisAsyncResultBackend
from typing_extensions import override

from taskiq_pg_json import JsonbResultBackend, TaskInfoMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from payloads import Payload
    from servers import Server

Backend = AsyncResultBackend[Any]
Kind = Literal["ours", "peer", "floor"]

OURS = "taskiq-pg-json"
_CONNECTIONS = 10  # of each peer's pool; asyncpg's default
_LONG_POLL = 10.0  # seconds
_PATIENCE = 60  # seconds that Redis may take to accept a connection under load


class BenchmarkError(Exception):
    """A contender did not do the work that was measured."""


class Contender(ABC):
    """One way to store results.

    Attributes:
        name: as the tables show it.
        kind: this project, a peer, or the floor.
        server: where it stores them.
    """

    def __init__(self, name: str, kind: Kind, server: Server) -> None:
        self.name = name
        self.kind = kind
        self.server = server

    @abstractmethod
    def shape(self, concurrency: int) -> Shape:
        """How to keep ``concurrency`` results in flight."""

    @abstractmethod
    async def start(self) -> None:
        """Connect, and make the tables where they are missing."""

    @abstractmethod
    async def stop(self) -> None:
        """Disconnect."""

    @abstractmethod
    async def reset(self) -> None:
        """Forget every result."""

    @abstractmethod
    async def stored_bytes(self) -> int:
        """The bytes that the results take, with their indexes, once the server has tidied up."""

    @abstractmethod
    async def set(self, batch: Batch, payload: Payload) -> None:
        """Store a result for each id."""

    @abstractmethod
    async def ready(self, batch: Batch) -> None:
        """Ask whether the results of ids that were set are ready."""

    @abstractmethod
    async def get(self, batch: Batch) -> None:
        """Read the results of ids that were set."""

    @abstractmethod
    async def set_progress(self, batch: Batch) -> None:
        """Store the progress of each id."""


class BackendContender(Contender):
    """A taskiq result backend, called as taskiq calls it.

    Attributes:
        make: gives a new backend over the same results; its argument asks for push where it is to
            be had.
        middlewares: gives what belongs beside the backend in a broker.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        server: Server,
        make: Callable[[bool], Backend],
        middlewares: Callable[[], Sequence[TaskiqMiddleware]] = tuple,
    ) -> None:
        super().__init__(name, kind, server)
        self.make = make
        self.middlewares = middlewares
        self._backend = make(False)

    @override
    def shape(self, concurrency: int) -> Shape:
        return Shape(workers=concurrency, batch=1)

    @override
    async def start(self) -> None:
        await self._backend.startup()

    @override
    async def stop(self) -> None:
        await self._backend.shutdown()

    @override
    async def set(self, batch: Batch, payload: Payload) -> None:
        for task_id in batch:
            await self._backend.set_result(task_id, next(payload.results))

    @override
    async def ready(self, batch: Batch) -> None:
        for task_id in batch:
            if not await self._backend.is_result_ready(task_id):
                raise BenchmarkError(f"{self.name}: {task_id} was set and is not ready")

    @override
    async def get(self, batch: Batch) -> None:
        for task_id in batch:
            result = await self._backend.get_result(task_id)
            if "items" not in result.return_value:
                raise BenchmarkError(f"{self.name}: {task_id} came back as {result!r:.200}")

    @override
    async def set_progress(self, batch: Batch) -> None:
        for task_id in batch:
            meta = {"done": 42, "of": 100, "step": "resizing images"}
            await self._backend.set_progress(task_id, TaskProgress(state="STARTED", meta=meta))


class PostgresContender(BackendContender):
    """A backend whose results lie in tables of PostgreSQL."""

    def __init__(
        self,
        name: str,
        kind: Kind,
        server: Server,
        make: Callable[[bool], Backend],
        middlewares: Callable[[], Sequence[TaskiqMiddleware]] = tuple,
        *,
        tables: Sequence[str],
    ) -> None:
        super().__init__(name, kind, server, make, middlewares)
        self.tables = tables

    @override
    async def reset(self) -> None:
        await truncate(self.server, self.tables)

    @override
    async def stored_bytes(self) -> int:
        return await tables_bytes(self.server, self.tables)


class RedisContender(BackendContender):
    """A backend whose results lie in Redis, in memory."""

    @override
    async def reset(self) -> None:
        async with redis.asyncio.Redis.from_url(self.server.dsn) as client:
            await client.flushdb()

    @override
    async def stored_bytes(self) -> int:
        async with redis.asyncio.Redis.from_url(self.server.dsn) as client:
            return sum([await client.memory_usage(key) or 0 async for key in client.scan_iter()])


async def truncate(server: Server, tables: Sequence[str]) -> None:
    """Empty tables."""
    names = sql.SQL(", ").join(map(sql.Identifier, tables))
    async with await psycopg.AsyncConnection.connect(server.dsn) as connection:
        await connection.execute(sql.SQL("TRUNCATE {}").format(names))


async def tables_bytes(server: Server, tables: Sequence[str]) -> int:
    """The bytes of tables with their indexes, after a VACUUM."""
    connect = psycopg.AsyncConnection.connect(server.dsn, autocommit=True)
    async with await connect as connection:
        total = 0
        for table in tables:
            await connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))
            size = "SELECT pg_total_relation_size(%s::regclass)"
            row = await (await connection.execute(size, [table])).fetchone()
            total += row[0] if row else 0
    return total


def ours(postgres: Server) -> PostgresContender:
    """This project, as its documentation sets it up."""
    table = "bench_ours"

    def make(push: bool) -> Backend:
        long_poll = _LONG_POLL if push else None
        return JsonbResultBackend(postgres.dsn, table_name=table, long_poll=long_poll)

    tables = [table, f"{table}_progress"]
    return PostgresContender(
        OURS, "ours", postgres, make, lambda: [TaskInfoMiddleware()], tables=tables
    )


def taskiq_postgres(postgres: Server) -> list[PostgresContender]:
    """taskiq-postgres with each driver, with JSON and with its default pickle."""
    drivers = {
        "asyncpg": (AsyncpgResultBackend, {"max_size": _CONNECTIONS}),
        "psycopg": (PsycopgResultBackend, {"max_size": _CONNECTIONS}),
        "psqlpy": (PSQLPyResultBackend, {"max_db_pool_size": _CONNECTIONS}),
    }
    serializers = {"orjson": ORJSONSerializer, "pickle": PickleSerializer}

    def contender(driver: str, serializer: str) -> PostgresContender:
        backend, pool = drivers[driver]
        table = f"bench_{driver}_{serializer}"

        def make(push: bool) -> Backend:  # noqa: ARG001 - there is none to be had
            made: Backend = backend(
                postgres.dsn, table_name=table, serializer=serializers[serializer](), **pool
            )
            return made

        name = f"taskiq-postgres {driver} {serializer}"
        return PostgresContender(name, "peer", postgres, make, tables=[table])

    return [contender(driver, serializer) for driver in drivers for serializer in serializers]


def taskiq_redis(server: Server) -> list[RedisContender]:
    """taskiq-redis with JSON and with its default pickle."""

    def contender(
        name: str, serializer: type[ORJSONSerializer | PickleSerializer]
    ) -> RedisContender:
        def make(push: bool) -> Backend:  # noqa: ARG001 - there is none to be had
            made: Backend = RedisAsyncResultBackend(
                server.dsn, serializer=serializer(), socket_connect_timeout=_PATIENCE
            )
            return made

        return RedisContender(f"taskiq-redis {name}", "peer", server, make)

    return [contender("orjson", ORJSONSerializer), contender("pickle", PickleSerializer)]
