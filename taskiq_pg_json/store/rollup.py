"""Keeps the rollup of durations by hour and day, from which statistics of long spans are answered.

How its counts stay those of the rows stands in ``sql/migrations/0002_rollup.sql``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import psycopg

from taskiq_pg_json.errors import SearchTimeoutError
from taskiq_pg_json.schema import PlainCursor, queries
from taskiq_pg_json.store.fragments import compose
from taskiq_pg_json.store.queries import QueryRunner, server_limit

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.filters import FilterArguments
    from taskiq_pg_json.store.sessions import Connection

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_FILTERS = frozenset({"task_name", "status", "since", "until"})
_KEYS = frozenset({"task_name", "status"})
_AT_ONCE = 8  # hours with rows in one transaction, or days to be summed up
_FOR_WRITERS = 1.0  # seconds to wait for transactions that began before an hour was known
_FOR_WRITERS_IN_PASSING = 0.05  # likewise, where somebody waits for an answer
_SHARE_IN_PASSING = 0.5  # of the time that the answer may take
_POLL = 0.01  # seconds
_TROUBLE = (
    psycopg.OperationalError,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,
    SearchTimeoutError,
)


def answers(given: FilterArguments, keys: Collection[str], width: timedelta | None) -> bool:
    """Whether the rollup has what a question of these filters, keys and buckets needs."""
    return (
        _FILTERS.issuperset(given)
        and _KEYS.issuperset(keys)
        and (width is None or not width % _HOUR)
    )


def days_will_do(width: timedelta | None) -> bool:
    """Whether buckets of this width hold each day of UTC as a whole."""
    return width is None or not width % _DAY


class Rollup:
    """Counts elapsed hours and sums them up by day, and again when their rows have changed."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._runner = QueryRunner(connections, names)
        self._lock, self._count_hours, self._limit = (
            names.statement(queries()[name])
            for name in ("rollup_lock", "rollup_count", "statement_timeout")
        )
        stays = compose("stays")
        self._days_due = compose("rollup_days_due", stays=stays)
        self._sum_days = names.statement(compose("rollup_sum", stays=stays))

    async def is_of_use(
        self, since: datetime | None, until: datetime | None, timeout: float | None
    ) -> bool:
        """Whether a span of time has hours that the rollup can answer; counts one that is due.

        Where none is, it sums up a day that is.

        Where the rollup is locked, or may not be written after all, the rows can answer.
        """
        if since is not None and until is not None and since >= until:
            return False
        limit = None if timeout is None else timeout * _SHARE_IN_PASSING
        with suppress(*_TROUBLE):
            ((kept, readable, writable, takes_writes),) = await self._fetch("rollup_access", limit)
            if not kept or not readable:
                return False
            if writable and takes_writes:
                with suppress(*_TROUBLE):
                    counted = await self._refresh_some(
                        1, wait=_FOR_WRITERS_IN_PASSING, timeout=limit
                    )
                    if not counted:
                        await self._sum((await self._days(limit))[:1], limit)
            span = {"since": since, "until": until}
            ((useful,),) = await self._fetch("rollup_useful", limit, **span)
            return bool(useful)
        return False

    async def refresh(self, timeout: float | None) -> int:
        """Count the hours that are due, each once and a few at a time; how many they were.

        Who may not write the rollup is told so by the server.
        """
        ((kept, _, _, takes_writes),) = await self._fetch("rollup_access")
        if not kept or not takes_writes:
            return 0
        deadline = None if timeout is None else time.monotonic() + timeout
        counted: set[datetime] = set()
        while deadline is None or time.monotonic() < deadline:
            done = await self._refresh_some(_AT_ONCE, wait=_FOR_WRITERS, besides=counted)
            if not done:
                break
            counted |= done
        days = await self._days()
        while days and (deadline is None or time.monotonic() < deadline):
            await self._sum(days[:_AT_ONCE])
            days = days[_AT_ONCE:]
        return len(counted)

    async def _refresh_some(
        self,
        limit: int,
        *,
        wait: float,
        timeout: float | None = None,
        besides: Collection[datetime] = (),
    ) -> set[datetime]:
        """Count the hours that are due and empty, and so many others; which they were."""
        await self._fetch("rollup_announce", timeout)
        found = [
            (hour.astimezone(timezone.utc), first, full)
            for hour, first, full in await self._fetch("rollup_due", timeout)
        ]
        due = [row for row in found if row[0] not in besides]
        empty = [row for row in due if not row[2]]
        chosen = [*empty, *[row for row in due if row[2]][:limit]]
        if any(first for _, first, _ in chosen) and not await self._writers_have_ended(wait):
            chosen = [row for row in chosen if not row[1]]
        return await self._count([hour for hour, *_ in chosen], timeout) if chosen else set()

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
        return {writer for (writer,) in await self._fetch("rollup_writers")}

    async def _count(self, hours: Sequence[datetime], timeout: float | None) -> set[datetime]:
        found = await self._alone(self._count_hours, {"hours": list(hours)}, timeout)
        return {hour.astimezone(timezone.utc) for (hour,) in found}

    async def _days(self, timeout: float | None = None) -> list[datetime]:
        """Return the days that are to be summed up."""
        found = await self._runner.fetch(self._days_due, {}, timeout)
        return [day.astimezone(timezone.utc) for (day,) in found]

    async def _sum(self, days: Sequence[datetime], timeout: float | None = None) -> None:
        if days:
            await self._alone(self._sum_days, {"days": list(days)}, timeout)

    async def _alone(
        self, statement: bytes, values: dict[str, Any], timeout: float | None
    ) -> list[Any]:
        """Run a statement while nobody else counts; nothing at all where somebody does."""

        async def operation(connection: Connection) -> list[Any]:
            async with connection.transaction(), PlainCursor(connection) as cursor:
                if timeout is not None:
                    limit = server_limit(timeout)
                    await cursor.execute(self._limit, {"statement_timeout": limit})
                await cursor.execute(self._lock, {})
                if await cursor.fetchone() != (True,):
                    return []
                # A statement of its own: its snapshot must see what the last holder has counted.
                await cursor.execute(statement, values, binary=True)
                return await cursor.fetchall()

        return await self._connections.run(operation)

    async def _fetch(self, name: str, timeout: float | None = None, **values: object) -> list[Any]:
        return await self._runner.fetch(queries()[name], values, timeout)
