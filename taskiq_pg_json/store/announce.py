"""Tells listeners which tasks have ended or progressed, after the rows have been committed.

A transaction that notifies holds a lock of the whole server until it has been flushed to disk, so
that the rows' own transactions must not notify: the ids follow in one that writes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import orjson
import psycopg

from taskiq_pg_json.errors import TaskiqPgJsonError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from taskiq_pg_json.store.channels import Channels
    from taskiq_pg_json.store.connections import Connections

logger = logging.getLogger("taskiq_pg_json")

EVERYTHING = "*"
"""The payload that says: look again, whatever you wait for."""

_GATHERING = 0.005
"""Seconds from one notification to the next; the first of a burst goes out at once."""

_MAX_PAYLOAD = 7_900  # bytes; PostgreSQL's limit is below 8,000


class Announcer:
    """Sends the ids that have gathered while the notification before was under way."""

    def __init__(
        self, connections: Connections, statement: bytes, channels: Channels, event: str
    ) -> None:
        self._connections = connections
        self._statement = statement
        self._channels = channels
        self._event = event
        self._pending: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def announce(self, task_ids: Iterable[str]) -> None:
        """Send these ids as soon as may be; returns at once."""
        self._pending.update(dict.fromkeys(task_ids))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._send())

    async def close(self) -> None:
        """Return when all has been sent."""
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _send(self) -> None:
        try:
            channel = await self._channels.name(self._event)
            while self._pending:
                payloads = list(_payloads(list(self._pending)))
                self._pending = {}
                await self._connections.execute(
                    self._statement, {"channel": channel, "payloads": payloads}
                )
                await asyncio.sleep(_GATHERING)
        except (psycopg.Error, TaskiqPgJsonError) as error:
            # The rows are there, and whoever waits for them looks by itself now and then.
            logger.warning("A notification was not sent: %s", error)


def _payloads(task_ids: Sequence[str]) -> Iterator[str]:
    """Yield JSON arrays of the ids, each below PostgreSQL's limit."""
    payload = orjson.dumps(task_ids)
    if len(payload) <= _MAX_PAYLOAD:
        yield payload.decode()
    elif len(task_ids) == 1:
        yield EVERYTHING
    else:
        half = len(task_ids) // 2
        yield from _payloads(task_ids[:half])
        yield from _payloads(task_ids[half:])
