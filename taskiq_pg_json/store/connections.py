"""The connections of one store: its own pool, or one that it was lent."""

from __future__ import annotations

import asyncio
import inspect
import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.errors import CannotConnectNow, ReadOnlySqlTransaction
from psycopg.pq import PGconn, Ping
from psycopg_pool import AsyncConnectionPool

from taskiq_pg_json.errors import ConfigurationError, NotStartedError
from taskiq_pg_json.store import forking
from taskiq_pg_json.store.arguments import (
    check_pool,
    check_pool_arguments,
    checked_seconds,
    with_defaults,
)
from taskiq_pg_json.store.dsn import called, check_dsn, conninfo_of
from taskiq_pg_json.store.hurry import given_up_after
from taskiq_pg_json.store.kept import KeptConnections
from taskiq_pg_json.store.loops import started_elsewhere
from taskiq_pg_json.store.retrying import LIMITS, NEVER, is_loss, is_transient, retry
from taskiq_pg_json.store.sessions import (
    Connection,
    autocommit,
    check_encoding,
    leave_standby,
)
from taskiq_pg_json.store.wire import Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    from taskiq_pg_json.store.dsn import Dsn

logger = logging.getLogger("taskiq_pg_json")

ResultT = TypeVar("ResultT")

_ENCODING = {"client_encoding": "UTF8"}  # JSON's, in which all that a row holds is sent
_LONGEST_WAIT = 2.0  # seconds that one attempt waits for a connection of the store's own pool


class Connections:
    """Gives connections in autocommit mode, and tries again when one was lost.

    They are for the event loop that they were opened in: a pool used in another breaks in both.

    Args:
        dsn: where the server is; not used when a pool is lent.
        pool: a pool to borrow from; it is opened if it is not open, and never closed.
        retry_for: how long, in seconds, a lost connection is tried again.
        pool_kwargs: to the store's own ``AsyncConnectionPool``.

    Attributes:
        retry_for: as it was given.

    Raises:
        ConfigurationError: a dsn that is no connection string, a time that is none, or pool
            arguments that do not exist, cannot work, or come with a pool.
    """

    def __init__(
        self,
        dsn: Dsn = None,
        *,
        pool: AsyncConnectionPool[Any] | None = None,
        retry_for: float = 30.0,
        pool_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._dsn = dsn
        self._given = pool_kwargs or {}
        self._lent = pool is not None
        self._pool = pool
        self._kept: KeptConnections | None = None
        self._open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_parents = False
        self._forget: Callable[[], None] = _nothing
        self._recoveries: set[asyncio.Task[None]] = set()
        check_dsn(dsn)
        check_pool(pool)
        check_pool_arguments(self._given, lent=self._lent)
        self._pool_kwargs = with_defaults(self._given)
        self.retry_for = checked_seconds("write_timeout", retry_for)
        timeout = checked_seconds("timeout", self._pool_kwargs.get("timeout", retry_for))
        self._timeout = min(retry_for, timeout)
        if not self._lent:
            self._timeout = min(self._timeout, _LONGEST_WAIT)
            self._made_pool()  # which looks at its own arguments

    @property
    def is_open(self) -> bool:
        """Whether connections can be had."""
        return self._open

    async def open(self) -> None:
        """Open the pool; a server that cannot be reached yet is waited for.

        Raises:
            psycopg.OperationalError: the server refuses us, as with a wrong password.
            WriteTimeoutError: it could not be reached for ``retry_for`` seconds.
            NotStartedError: the pool that was lent is another process's, or another event loop's.
        """
        here = asyncio.get_running_loop()
        self._check_lent_pool(here)
        self._loop = here
        if not self._lent:
            self._pool = self._made_pool()
            await self._retry(self._probe)
            self._kept = KeptConnections(self._pool)
        if self._pool is not None and self._pool.closed:
            await self._pool.open()
        self._open = True

    async def close(self) -> None:
        """Close the pool, unless it was lent."""
        self._open = False
        kept, pool = self._kept, self._pool  # which another event loop may give up meanwhile
        if kept is not None:
            await kept.close()
        if pool is not None and not self._lent:
            await pool.close()

    def give_up(self) -> None:
        """Leave the pool of an event loop that has been closed, unless it was lent."""
        self._open = False
        if self._kept is not None:
            self._kept.give_up()
            self._kept = None
        if not self._lent:
            self._pool = None

    def watch_forks(self, forget: Callable[[], None]) -> None:
        """Leave the pool to this process in those that are forked from it, and call ``forget``."""
        self._forget = forget
        forking.watch(self)

    def leave_to_parent(self) -> None:
        """Leave the pool to the process that this one was forked from, and its sockets alone."""
        self._open = False
        self._kept = None
        self._is_parents = self._lent
        if not self._lent:
            self._pool = None
        self._forget()

    def pool_here(self) -> AsyncConnectionPool[Any]:
        """Return the pool, to a caller in the event loop that it was opened in.

        Raises:
            NotStartedError: before ``open()``, after ``close()``, or in another event loop.
        """
        pool, loop = self._pool, self._loop
        if not self._open or pool is None or loop is None:
            raise NotStartedError(
                "The result store is not started, or has been shut down: await broker.startup() "
                "(or backend.startup()), or use `async with ResultStore(...)`."
            )
        if asyncio.get_running_loop() is not loop:
            raise started_elsewhere(loop)
        return pool

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode: one statement is one round trip.

        Raises:
            NotStartedError: before ``open()``, after ``close()``, or in another event loop.
            psycopg_pool.PoolTimeout: none was free for ``timeout`` seconds, or the pool's own time.
        """
        pool = self.pool_here()
        kept = self._kept  # there may be another one when the connection is given back
        if kept is None:
            async with pool.connection(timeout) as connection, autocommit(connection):
                check_encoding(connection)
                yield connection
            return
        wire = await kept.take(timeout)
        wire.release()
        try:
            async with autocommit(wire.connection):
                yield wire.connection
        finally:
            await kept.give_back(wire)

    async def run(self, operation: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        """Run an operation that may run twice; again on a new connection if one is lost.

        Raises:
            WriteTimeoutError: the server stayed away for longer than ``retry_for`` seconds.
        """

        async def attempt() -> ResultT:
            async with self.connection(self._timeout) as connection:
                return await operation(connection)

        return await self._retry(attempt)

    async def execute(
        self,
        statement: bytes,
        values: Mapping[str, object],
        *,
        prepare: bool = True,
        also: Collection[str] = LIMITS,
        briefly: Mapping[str, float] = NEVER,
        slow_after: float | None = None,
        retry_for: float | None = None,
    ) -> list[Any]:
        """Run one statement that may run twice, and return its rows as tuples.

        A time limit of the session's is none of its caller's: it is tried again like a lost one.
        ``also`` are the SQLSTATEs of all that is, ``briefly`` of what is for so many seconds;
        ``retry_for`` is in place of the store's own.

        Raises:
            SlowError: it was given up after ``slow_after`` seconds.
        """
        attempt = partial(self._execute, statement, values, prepare, slow_after)
        return await self._retry(attempt, also, briefly, retry_for)

    async def _execute(
        self,
        statement: bytes,
        values: Mapping[str, object],
        prepare: bool,
        slow_after: float | None,
    ) -> list[Any]:
        kept = self._kept
        if kept is None or not self._open or asyncio.get_running_loop() is not self._loop:
            async with self.connection(self._timeout) as connection:
                wire = Wire(connection)
                try:
                    with given_up_after(slow_after):
                        return await wire.execute(statement, values, prepare=prepare)
                except ReadOnlySqlTransaction as error:
                    leave_standby(connection, error)
                    raise
                finally:
                    wire.release()
        # The hot path: no context managers, and no coroutines where there is nothing to wait for,
        # whose cost would show beside a small statement's.
        wire = kept.at_hand() or await kept.take(self._timeout)
        try:
            if slow_after is None:
                return await wire.execute(statement, values, prepare=prepare)
            with given_up_after(slow_after):
                return await wire.execute(statement, values, prepare=prepare)
        except ReadOnlySqlTransaction as error:
            leave_standby(wire.connection, error)
            raise
        finally:
            if not kept.keep(wire):
                await kept.let_go(wire)

    async def execute_light(
        self,
        statement: bytes,
        values: Mapping[str, object],
        *,
        also: Collection[str] = LIMITS,
        briefly: Mapping[str, float] = NEVER,
        slow_after: float | None = None,
    ) -> None:
        """Run a statement that takes the server about as long as its values take Python.

        It is sent before the one ahead of it has been answered. If it fails then, perhaps for that
        one's sake, it runs by itself once more.

        Raises:
            SlowError: it was given up after ``slow_after`` seconds.
        """
        try:
            with given_up_after(slow_after):
                if await self._execute_behind(statement, values):
                    return
        except psycopg.Error as error:
            logger.debug("A batch goes on by itself: %s", error)
            if is_loss(error):
                await self._recover(error)
        await self.execute(statement, values, also=also, briefly=briefly, slow_after=slow_after)

    async def _execute_behind(self, statement: bytes, values: Mapping[str, object]) -> bool:
        """Run a statement in the pipeline; False where it should not be."""
        kept = self._kept
        if kept is None:
            return False
        pipeline = kept.pipeline or await kept.start_pipeline(self._timeout)
        if pipeline is None:
            return False
        try:
            if not pipeline.has_room or kept.is_wanted_back(pipeline.wire):
                return False
            bound = pipeline.wire.bind(statement, values)
            name = pipeline.wire.prepared(bound)
            if name is None:
                return False
            await pipeline.execute(bound, name)
        finally:
            await kept.end_idle_pipeline()
        return True

    async def connect(self) -> Connection:
        """Open a connection like the pool's, outside of it, in autocommit mode."""
        pool = self._pool or self._made_pool()
        conninfo, kwargs = pool.conninfo, pool.kwargs or {}
        resolved = await called(conninfo) if callable(conninfo) else conninfo
        given = await _awaited(kwargs()) if callable(kwargs) else kwargs
        connection: Connection = await pool.connection_class.connect(
            resolved, **{**given, "autocommit": True}
        )
        if pool._configure is not None:  # noqa: SLF001 - it may set what finds the table
            try:
                await pool._configure(connection)  # noqa: SLF001 - likewise
                await connection.set_autocommit(True)
            except BaseException:  # cancelled or failed, nobody else would close it
                await connection.close()
                raise
        return connection

    async def _retry(
        self,
        attempt: Callable[[], Awaitable[ResultT]],
        also: Collection[str] = (),
        briefly: Mapping[str, float] = NEVER,
        retry_for: float | None = None,
    ) -> ResultT:
        seconds = self.retry_for if retry_for is None else retry_for
        return await retry(
            attempt, seconds=seconds, recover=self._recover, also=also, briefly=briefly
        )

    async def _recover(self, error: psycopg.Error) -> None:
        """After one connection was lost the others are suspect: replace them, or look at them.

        In a task of its own: the pool's look swallows the cancellation of its caller, and may take
        long where a dead connection is among those lent.
        """
        if not self._open or self._pool is None:
            return
        if self._kept is None:
            look = self._pool.check()
        elif is_loss(error):
            look = self._kept.renew()
        else:
            look = self._kept.check()
        task = asyncio.get_running_loop().create_task(look)
        self._recoveries.add(task)
        task.add_done_callback(self._recoveries.discard)
        done, _ = await asyncio.wait({task}, timeout=_LONGEST_WAIT)
        for look_done in done:
            look_done.result()

    async def _probe(self) -> None:
        """Connect once, so that start-up fails with the server's own words.

        Raises:
            psycopg.errors.CannotConnectNow: it cannot yet, in whatever language it says so.
        """
        try:
            connection = await self.connect()
        except psycopg.OperationalError as error:
            if is_transient(error) or not await self._is_coming():
                raise
            raise CannotConnectNow(str(error)) from error
        await connection.close()

    async def _is_coming(self) -> bool:
        """Whether a server is there that takes no connections yet, or no more."""
        conninfo = (await self._conninfo()).encode()
        return Ping(await asyncio.to_thread(PGconn.ping, conninfo)) is Ping.REJECT

    async def _conninfo(self) -> str:
        return await conninfo_of(self._dsn)

    def _check_lent_pool(self, here: asyncio.AbstractEventLoop) -> None:
        if self._is_parents:
            raise NotStartedError(
                "The pool that was lent is that of the process which this one was forked from: "
                "make a pool here, and a store with it."
            )
        pool, former = self._pool, self._loop
        is_elsewhere = former is not None and former is not here
        if is_elsewhere and self._lent and pool is not None and not pool.closed:
            raise NotStartedError(
                "The pool that was lent was opened in another event loop: make a pool here, and a "
                "store with it."
            )

    def _made_pool(self) -> AsyncConnectionPool[Any]:
        try:
            kwargs = self._pool_kwargs | {"kwargs": self._connect_kwargs()}
            return AsyncConnectionPool(self._conninfo, open=False, **kwargs)
        except (TypeError, ValueError) as error:
            names = ", ".join(self._given)
            raise ConfigurationError(
                f"psycopg_pool.AsyncConnectionPool does not take this {names}: {error}."
            ) from error

    def _connect_kwargs(self) -> Any:  # noqa: ANN401 - what the pool takes: a dict, or a callable
        """The parameters of each connection of the store's own pool."""
        given = self._pool_kwargs.get("kwargs") or {}
        if not callable(given):
            return {"autocommit": True} | dict(given) | _ENCODING

        async def resolved() -> dict[str, Any]:
            return {"autocommit": True} | dict(await _awaited(given())) | _ENCODING

        return resolved


def _nothing() -> None:
    pass


async def _awaited(found: Any) -> Any:  # noqa: ANN401 - a pool's callables may be of either kind
    return await found if inspect.isawaitable(found) else found
