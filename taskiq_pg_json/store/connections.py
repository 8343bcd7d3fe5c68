"""The connections of one store: its own pool, or one that it was lent."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import ReadOnlySqlTransaction
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from taskiq_pg_json.errors import ConfigurationError, NotStartedError, WriteTimeoutError
from taskiq_pg_json.store.kept import KeptConnections
from taskiq_pg_json.store.wire import Wire

logger = logging.getLogger("taskiq_pg_json")

Dsn = str | Callable[[], Any] | None
"""A conninfo or URL, a callable that returns one, or None for libpq's PG* environment."""

Connection = AsyncConnection[Any]
ResultT = TypeVar("ResultT")

_SQLALCHEMY_DRIVER = re.compile(r"^(postgres(?:ql)?)\+[^:]+(://)")
_UNKNOWN_OPTION = re.compile(r'invalid (URI query parameter:|connection option) "\w*"')
_POOL_PARAMETERS = frozenset(inspect.signature(AsyncConnectionPool).parameters) - {
    "conninfo",
    "open",
}
_DEFAULT_POOL = {"min_size": 1, "max_size": 10}
_FIRST_RETRY = 0.05  # seconds; doubles up to the longest
_LONGEST_RETRY = 2.0
_TRANSIENT_STATES = frozenset(
    {
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P04",  # transaction_timeout
        "55P03",  # lock_not_available, after lock_timeout
        "40001",  # serialization_failure
        "40P01",  # deadlock_detected
        "53300",  # too_many_connections
    }
)
_LIMITS = ("57014",)  # query_canceled, after statement_timeout


class Connections:
    """Gives connections in autocommit mode, and tries again when one was lost.

    Args:
        dsn: where the server is; not used when a pool is lent.
        pool: a pool to borrow from; it is opened if it is not open, and never closed.
        retry_for: how long, in seconds, a lost connection is tried again.
        pool_kwargs: to the store's own ``AsyncConnectionPool``.

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
        self._pool_kwargs = _DEFAULT_POOL | (pool_kwargs or {})
        self._lent = pool is not None
        self._pool = pool
        self._kept: KeptConnections | None = None
        self._open = False
        _check_dsn(dsn)
        _check_pool(pool)
        _check_pool_kwargs(pool_kwargs or {}, lent=self._lent)
        self._retry_for = checked_seconds("write_timeout", retry_for)
        timeout = checked_seconds("timeout", self._pool_kwargs.get("timeout", retry_for))
        self._timeout = min(retry_for, timeout)
        if not self._lent:
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
        """
        if not self._lent:
            await self._retry(self._probe)
            self._pool = self._made_pool()
            self._kept = KeptConnections(self._pool)
        if self._pool is not None and self._pool.closed:
            await self._pool.open()
        self._open = True

    async def close(self) -> None:
        """Close the pool, unless it was lent."""
        self._open = False
        if self._kept is not None:
            await self._kept.close()
        if self._pool is not None and not self._lent:
            await self._pool.close()

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection in autocommit mode: one statement is one round trip.

        Raises:
            NotStartedError: before ``open()`` or after ``close()``.
            psycopg_pool.PoolTimeout: none was free for ``timeout`` seconds, or the pool's own time.
        """
        if not self._open or self._pool is None:
            raise NotStartedError(
                "The result store is not started: await broker.startup() (or backend.startup()), "
                "or use `async with ResultStore(...)`."
            )
        if self._kept is None:
            async with self._pool.connection(timeout) as connection, _autocommit(connection):
                yield connection
            return
        wire = await self._kept.take(timeout)
        wire.release()
        try:
            async with _autocommit(wire.connection):
                yield wire.connection
        finally:
            await self._kept.give_back(wire)

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
        self, statement: bytes, values: Mapping[str, object], *, prepare: bool = True
    ) -> list[Any]:
        """Run one statement that may run twice, and return its rows as tuples.

        A time limit of the session's is none of its caller's: it is tried again like a lost one.
        """
        return await self._retry(partial(self._execute, statement, values, prepare), _LIMITS)

    async def _execute(
        self, statement: bytes, values: Mapping[str, object], prepare: bool
    ) -> list[Any]:
        if self._kept is None or not self._open:
            async with self.connection(self._timeout) as connection:
                wire = Wire(connection)
                try:
                    return await wire.execute(statement, values, prepare=prepare)
                except ReadOnlySqlTransaction as error:
                    raise _unless_standby(connection, error) from error
                finally:
                    wire.release()
        # The hot path: no context managers, whose cost would show beside a small statement's.
        wire = await self._kept.take(self._timeout)
        try:
            return await wire.execute(statement, values, prepare=prepare)
        except ReadOnlySqlTransaction as error:
            raise _unless_standby(wire.connection, error) from error
        finally:
            await self._kept.give_back(wire)

    async def connect(self) -> Connection:
        """Open a connection of its own, outside the pool, in autocommit mode."""
        kwargs = self._connect_kwargs() | {"autocommit": True}
        if self._lent and self._pool is not None:
            conninfo = self._pool.conninfo
            resolved = await _resolved(conninfo) if callable(conninfo) else conninfo
        else:
            resolved = await self._conninfo()
        return await AsyncConnection.connect(resolved, **kwargs)

    async def _retry(
        self, attempt: Callable[[], Awaitable[ResultT]], also: Collection[str] = ()
    ) -> ResultT:
        deadline = time.monotonic() + self._retry_for
        pause = _FIRST_RETRY
        while True:
            try:
                return await attempt()
            except PoolClosed as error:
                raise NotStartedError("The pool that was lent has been closed.") from error
            except psycopg.Error as error:
                if not _is_transient(error) and error.sqlstate not in also:
                    raise
                if time.monotonic() + pause > deadline:
                    raise WriteTimeoutError(
                        f"PostgreSQL could not be reached for {self._retry_for:g} s, or did not "
                        f"do it: {error}"
                    ) from error
                logger.warning("PostgreSQL is away, trying again in %.2g s: %s", pause, error)
            await self._replace_lost()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY)

    async def _replace_lost(self) -> None:
        """After one connection was lost the others are suspect."""
        if self._open and self._kept is not None:
            await self._kept.check()
        elif self._open and self._pool is not None:
            await self._pool.check()

    async def _probe(self) -> None:
        """Connect once, so that start-up fails with the server's own words."""
        await (await self.connect()).close()

    async def _conninfo(self) -> str:
        dsn = self._dsn
        if callable(dsn):
            dsn = await _resolved(dsn)
        return _parsable(dsn or "")

    def _made_pool(self) -> AsyncConnectionPool[Any]:
        try:
            kwargs = self._pool_kwargs | {"kwargs": self._connect_kwargs()}
            return AsyncConnectionPool(self._conninfo, open=False, **kwargs)
        except (TypeError, ValueError) as error:
            names = ", ".join(self._pool_kwargs)
            raise ConfigurationError(
                f"psycopg_pool.AsyncConnectionPool does not take these {names}: {error}."
            ) from error

    def _connect_kwargs(self) -> dict[str, Any]:
        if self._lent and self._pool is not None:
            kwargs = self._pool.kwargs
            return dict(kwargs) if isinstance(kwargs, Mapping) else {}
        return {"autocommit": True} | dict(self._pool_kwargs.get("kwargs") or {})


@asynccontextmanager
async def _autocommit(connection: Connection) -> AsyncIterator[None]:
    """Put the connection in autocommit mode for the time of the block."""
    if connection.autocommit:
        yield
        return
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


async def _resolved(dsn: Callable[[], Any]) -> str:
    """Call a dsn callable in a thread: it may start a server or ask for a password."""
    found = await asyncio.to_thread(dsn)
    if inspect.isawaitable(found):
        found = await found
    if not isinstance(found, str):
        raise ConfigurationError(
            f"The dsn callable returned {found!r}: it must return a connection string."
        )
    return found


def _is_transient(error: psycopg.Error) -> bool:
    """Whether the same statement may succeed on another connection, or a little later."""
    if isinstance(error, PoolTimeout | psycopg.InterfaceError):
        return True
    state = error.sqlstate
    if state is None and isinstance(error, psycopg.OperationalError):
        # libpq gives no code: a lost or refused connection, or the server's own refusal.
        return "FATAL" not in str(error) or "starting up" in str(error)
    return state is not None and (state.startswith("08") or state in _TRANSIENT_STATES)


def _unless_standby(connection: Connection, error: ReadOnlySqlTransaction) -> psycopg.Error:
    """Return what a refusal to write means: a standby's may be another server's next time."""
    if connection.info.parameter_status("in_hot_standby") != "on":
        return error
    connection.pgconn.finish()
    return psycopg.OperationalError(f"the server is a standby: {error}")


def _check_dsn(dsn: object) -> None:
    if dsn is not None and not isinstance(dsn, str) and not callable(dsn):
        raise ConfigurationError(
            f"dsn={dsn!r} is neither a connection string, nor a callable that returns one, nor "
            "None for the PG* environment variables."
        )
    if isinstance(dsn, str):
        _parsable(dsn)


def _parsable(dsn: str) -> str:
    """Return a dsn as libpq takes it, without the driver that SQLAlchemy's have.

    Raises:
        ConfigurationError: it cannot be parsed; nothing of it is shown, for its password's sake.
    """
    conninfo = _SQLALCHEMY_DRIVER.sub(r"\1\2", dsn, count=1)
    try:
        conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError as error:
        unknown = _UNKNOWN_OPTION.match(str(error))
        raise ConfigurationError(
            "dsn= is no connection string: give a URL, postgresql://user@host/database, or "
            "key=value pairs, as host=localhost dbname=shop"
            f"{f' ({unknown[0]})' if unknown else ''}."
        ) from None
    return conninfo


def checked_seconds(parameter: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        ConfigurationError: it is none.
    """
    if not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{parameter}={value!r} is no number of seconds.")
    return float(value)


def _check_pool(pool: object) -> None:
    if pool is not None and not isinstance(pool, AsyncConnectionPool):
        raise ConfigurationError(
            f"pool={pool!r} is a {type(pool).__name__}: lend a psycopg_pool.AsyncConnectionPool, "
            "or give dsn= instead."
        )


def _check_pool_kwargs(pool_kwargs: dict[str, Any], *, lent: bool) -> None:
    if lent and pool_kwargs:
        raise ConfigurationError(
            f"{', '.join(sorted(pool_kwargs))}: a pool was lent, so that it cannot be configured "
            "here; give these to the pool itself."
        )
    unknown = sorted(set(pool_kwargs) - _POOL_PARAMETERS)
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: no parameter of the backend, nor of "
            "psycopg_pool.AsyncConnectionPool; connection parameters go into kwargs={…}."
        )
