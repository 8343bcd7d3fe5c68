"""Connections for what comes when those of the store are closed, or are not this process's."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from psycopg_pool import PoolTimeout

from taskiq_pg_json.store.connections import Connections
from taskiq_pg_json.store.sessions import check_encoding, closing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from taskiq_pg_json.store.sessions import Connection


class ConnectionsApart(Connections):
    """Opens a connection for each statement, and closes it; never open, and never to be closed."""

    @asynccontextmanager
    async def connection(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Open a connection of its own, in autocommit mode."""
        try:
            connection = await asyncio.wait_for(self.connect(), timeout)
        except asyncio.TimeoutError as error:
            raise PoolTimeout(f"there was no connection after {timeout:g} s") from error
        async with closing(connection):
            check_encoding(connection)
            yield connection
