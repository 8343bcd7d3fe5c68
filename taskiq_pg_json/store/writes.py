"""Writes results, states and progress, in batches."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

import psycopg

from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.announce import Announcer
from taskiq_pg_json.store.batching import MicroBatcher
from taskiq_pg_json.store.retrying import LIMITS, OUT_OF_MEMORY, TABLE_CHANGES
from taskiq_pg_json.store.statements import BatchStatement, RowT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import datetime, timedelta

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.rows import ProgressRow, ResultRow

# What one bad row makes a whole batch fail with.
ROW_ERRORS = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,  # nested deeper than the server's stack
    psycopg.errors.OutOfMemory,
    psycopg.errors.InternalError_,  # "invalid memory alloc request size"
    psycopg.errors.RaiseException,  # of a trigger
    UnicodeEncodeError,
)
_MAX_ROW_BYTES = 1_000_000_000
"""PostgreSQL ends the connection over a message of more than 1 GiB."""

_LIGHT_BYTES = 1_000
"""Larger rows take the server longer than Python; it can use more of its processors for them."""

_INNOCENT_BYTES = 2 << 20
"""A batch of no more is not what a server has no memory for."""

_RESULT_WAITS_FOR = LIMITS | TABLE_CHANGES
"""The SQLSTATEs after which a result is written again, as taskiq would lose it for good."""

_task_id = itemgetter(0)
_size = attrgetter("size")


def check_size(row: ResultRow) -> None:
    """Refuse a row that the server could not say no to.

    Raises:
        psycopg.errors.ProgramLimitExceeded: it is too large for a message.
    """
    if row.size > _MAX_ROW_BYTES:
        raise psycopg.errors.ProgramLimitExceeded(f"its row has {row.size:,} bytes")


class Writer:
    """Every write of a store, each kind with a batcher of its own."""

    def __init__(
        self,
        connections: Connections,
        names: Names,
        *,
        serializer_name: str,
        ttl: timedelta | None,
        notify: bool,
        lanes: int,
    ) -> None:
        self._connections = connections
        statements = queries()
        self._finish = BatchStatement(names, "finish", "finish")
        self._record_state = BatchStatement(names, "record_state", "record_state")
        self._set_progress = BatchStatement(names, "set_progress", "set_progress")
        self._delete = names.statement(statements["delete"])
        self._discard = names.statement(statements["discard_state"])
        self._announcers = {
            event: Announcer(
                connections, names.statement(statements["notify"]), names.channel(event)
            )
            for event in (("ended", "progressed") if notify else ())
        }
        self._shared: dict[str, object] = {"serializer": serializer_name, "ttl": ttl}
        self.results = self._batcher(self._flush_results, lanes=lanes)
        self.lesser_results = self._batcher(self._flush_results, lanes=1)
        self.states = self._batcher(self._flush_states, lanes=lanes, last_wins=False)
        self.progress = self._batcher(self._flush_progress, lanes=lanes)
        self.deletions: MicroBatcher[str, bool] = MicroBatcher(
            self._flush_deletions, key=str, lanes=lanes
        )

    async def close(self) -> None:
        """Flush all that was accepted."""
        # What stands in for a refused result is submitted before close() returns to here.
        for batcher in (
            self.states,
            self.progress,
            self.results,
            self.lesser_results,
            self.deletions,
        ):
            await batcher.close()
        for announcer in self._announcers.values():
            await announcer.close()

    async def discard(self, task_id: str, started_at: datetime) -> None:
        """Forget an attempt that leaves no result."""
        await self._connections.execute(
            self._discard, {"task_id": task_id, "started_at": started_at}
        )

    def _batcher(
        self,
        flush: Callable[[Sequence[RowT]], Awaitable[Sequence[None]]],
        *,
        lanes: int,
        last_wins: bool = True,
    ) -> MicroBatcher[RowT, None]:
        return MicroBatcher(
            flush,
            key=_task_id,
            size=_size,
            rejects=ROW_ERRORS,
            last_wins=last_wins,
            lanes=lanes,
        )

    async def _flush_results(self, rows: Sequence[ResultRow]) -> Sequence[None]:
        await self._write(self._finish, rows, self._shared, also=_RESULT_WAITS_FOR)
        self._announce("ended", rows)
        return [None] * len(rows)

    async def _flush_states(self, rows: Sequence[ResultRow]) -> Sequence[None]:
        await self._write(self._record_state, rows, self._shared)
        return [None] * len(rows)

    async def _flush_progress(self, rows: Sequence[ProgressRow]) -> Sequence[None]:
        await self._write(self._set_progress, rows, {})
        self._announce("progressed", rows)
        return [None] * len(rows)

    async def _write(
        self,
        statement: BatchStatement,
        rows: Sequence[RowT],
        shared: dict[str, object],
        *,
        also: Collection[str] = LIMITS,
    ) -> None:
        # Sorted by id, so that two batches cannot deadlock.
        text, values = statement.of_rows(sorted(rows, key=_task_id))
        count, size = len(rows), sum(map(_size, rows))
        if size <= _INNOCENT_BYTES:
            also = {*also, OUT_OF_MEMORY}
        if count > 1 and size <= count * _LIGHT_BYTES:
            await self._connections.execute_light(text, values | shared, also=also)
        else:
            await self._connections.execute(text, values | shared, also=also)

    def _announce(self, event: str, rows: Sequence[RowT]) -> None:
        if event in self._announcers:
            self._announcers[event].announce(map(_task_id, rows))

    async def _flush_deletions(self, task_ids: Sequence[str]) -> Sequence[bool]:
        # Not prepared: a plan that was made while the table was small would scan all of it later.
        rows = await self._connections.execute(
            self._delete, {"task_id": sorted(task_ids)}, prepare=False
        )
        deleted = {id_ for (id_,) in rows}
        return [task_id in deleted for task_id in task_ids]
