"""What a connection has to be while a store uses it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import PipelineStatus

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
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


@asynccontextmanager
async def pipelined(connection: Connection) -> AsyncIterator[None]:
    """Have the block's statements answered together, in one transaction.

    psycopg leaves a connection in pipeline mode where it is cancelled while it enters that: what
    is sent next would never be answered.
    """
    try:
        async with connection.pipeline():
            yield
    finally:
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            connection.pgconn.finish()


def leave_standby(connection: Connection, error: ReadOnlySqlTransaction) -> None:
    """Close a connection to a standby, in whose place there may be another server next time.

    Raises:
        psycopg.OperationalError: it was one, as if the connection had been lost.
    """
    if connection.info.parameter_status("in_hot_standby") == "on":
        connection.pgconn.finish()
        raise psycopg.OperationalError(f"the server is a standby: {error}") from error
