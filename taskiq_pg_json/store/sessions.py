"""What a connection has to be while a store uses it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from taskiq_pg_json.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg.errors import ReadOnlySqlTransaction

Connection = AsyncConnection[Any]


def check_encoding(connection: Connection) -> None:
    """Refuse a lent connection whose encoding cannot hold what rows do."""
    encoding = connection.info.parameter_status("client_encoding")
    if encoding != "UTF8":
        raise ConfigurationError(
            f"The pool's connections have the client_encoding {encoding}, and results are of any "
            "text: give the pool kwargs={'client_encoding': 'UTF8'}."
        )


@asynccontextmanager
async def autocommit(connection: Connection) -> AsyncIterator[None]:
    """Put the connection in autocommit mode for the time of the block."""
    if connection.autocommit:
        yield
        return
    try:
        await connection.set_autocommit(True)  # cancelled here, it may have been done
        yield
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


@asynccontextmanager
async def pipelined(connection: Connection) -> AsyncIterator[None]:
    """Have the block's statements answered together, in one transaction.

    Cancelled while it enters or leaves its pipeline, psycopg gives back a connection of which the
    server awaits the end of that transaction, though neither says so: the next statement would not
    be answered, or be part of it.
    """
    try:
        async with connection.pipeline():
            yield
    except Exception:
        raise
    except BaseException:
        connection.pgconn.finish()
        raise


@asynccontextmanager
async def closing(connection: Connection) -> AsyncIterator[Connection]:
    """Close the connection at the end of the block, without a word to the server.

    psycopg would end a transaction first and, cancelled then, leave it open.
    """
    try:
        yield connection
    finally:
        await connection.close()


def leave_standby(connection: Connection, error: ReadOnlySqlTransaction) -> None:
    """Close a connection to a standby, in whose place there may be another server next time.

    Raises:
        psycopg.OperationalError: it was one, as if the connection had been lost.
    """
    if connection.info.parameter_status("in_hot_standby") == "on":
        connection.pgconn.finish()
        raise psycopg.OperationalError(f"the server is a standby: {error}") from error
