"""Keeps the hourly rollup of durations, from which statistics of long spans are answered.

How its counts stay those of the rows stands in ``sql/migrations/0002_rollup.sql``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from taskiq_pg_json.schema import queries

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connection, Connections
    from taskiq_pg_json.store.filters import FilterArguments

_HOUR = timedelta(hours=1)
_FILTERS = frozenset({"task_name", "status", "since", "until"})
_KEYS = frozenset({"task_name", "status"})
_AT_ONCE = 8  # hours with rows in one transaction
_FOR_WRITERS = 1.0  # seconds to wait for transactions that began before an hour was known
_IN_PASSING = 0.05  # likewise, where somebody waits for an answer
_POLL = 0.01  # seconds


def answers(given: FilterArguments, keys: Collection[str], width: timedelta | None) -> bool:
    """Whether the rollup has what a question of these filters, keys and buckets needs."""
    return (
        _FILTERS.issuperset(given)
        and _KEYS.issuperset(keys)
        and (width is None or not width % _HOUR)
    )


class Rollup:
    """Counts elapsed hours, and again when their rows have changed."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._statements = {
            name: names.statement(text)
            for name, text in queries().items()
            if name.startswith("rollup_")
        }
        self._limit = names.statement(queries()["statement_timeout"])

    async def is_of_use(
        self, since: datetime | None, until: datetime | None, timeout: float | None
    ) -> bool:
        """Whether a span of time has hours that the rollup can answer; counts one that is due."""
        if since is not None and until is not None and since >= until:
            return False
        access = await self._run("rollup_access")
        if not access or not access[0][0]:
            return False
        if access[0][1]:
            # Too long an hour for the time there is: its rows answer.
            with suppress(psycopg.errors.QueryCanceled):
                await self._refresh_some(1, wait=_IN_PASSING, timeout=timeout)
        ((useful,),) = await self._run("rollup_useful", since=since, until=until)
        return bool(useful)

    async def refresh(self, timeout: float | None) -> int:
        """Count the hours that are due, a few at a time; how many they were."""
        deadline = None if timeout is None else time.monotonic() + timeout
        counted = 0
        while deadline is None or time.monotonic() < deadline:
            done = await self._refresh_some(_AT_ONCE, wait=_FOR_WRITERS, timeout=None)
            if not done:
                break
            counted += done
        return counted

    async def _refresh_some(self, limit: int, *, wait: float, timeout: float | None) -> int:
        """Count the hours that are due and empty, and so many others."""
        await self._run("rollup_announce")
        due = await self._run("rollup_due")
        empty = [row for row in due if not row[2]]
        chosen = [*empty, *[row for row in due if row[2]][:limit]]
        if any(first for _, first, _ in chosen) and not await self._writers_have_ended(wait):
            chosen = [row for row in chosen if not row[1]]
        return await self._count([hour for hour, *_ in chosen], timeout) if chosen else 0

    async def _writers_have_ended(self, wait: float) -> bool:
        """Wait for the transactions that may have changed hours before these were known."""
        deadline = time.monotonic() + wait
        waited_for = await self._writers()
        while waited_for:
            await asyncio.sleep(_POLL)
            waited_for &= await self._writers()
            if waited_for and time.monotonic() > deadline:
                return False
        return True

    async def _writers(self) -> set[str]:
        return {writer for (writer,) in await self._run("rollup_writers")}

    async def _count(self, hours: Sequence[datetime], timeout: float | None) -> int:
        async def operation(connection: Connection) -> int:
            async with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                if timeout is not None:
                    limit = f"{max(1, round(timeout * 1000))}ms"
                    await cursor.execute(self._limit, {"statement_timeout": limit})
                await cursor.execute(self._statements["rollup_lock"], prepare=False)
                if await cursor.fetchone() != (True,):
                    return 0
                # A statement of its own: its snapshot must see what the last holder has counted.
                count = self._statements["rollup_count"]
                await cursor.execute(count, {"hours": list(hours)}, prepare=False)
                return len(await cursor.fetchall())

        return await self._connections.run(operation)

    async def _run(self, name: str, **values: object) -> list[Any]:
        return await self._connections.execute(self._statements[name], values, prepare=False)
