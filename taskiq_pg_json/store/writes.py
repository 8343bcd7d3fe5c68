"""Writes results, states and progress, in batches."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, TypeAlias

import psycopg

from taskiq_pg_json.errors import WriteTimeoutError
from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.announce import Announcer
from taskiq_pg_json.store.batching import later
from taskiq_pg_json.store.channels import Channels
from taskiq_pg_json.store.retrying import NEVER, NO_WRITES, is_refusal
from taskiq_pg_json.store.saving import may_be_one_row_s, save
from taskiq_pg_json.store.statements import BatchStatement, RowT
from taskiq_pg_json.store.unlocked import CANCELED, LOCK_LIMIT, unlocked_batcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.batching import MicroBatcher
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.rows import ProgressRow, ResultRow

    _Flush: TypeAlias = Callable[
        [Sequence[RowT], float | None], Awaitable[Sequence[Exception | None]]
    ]
    """Writes a batch of rows: in how many seconds, or carefully, as ``Unlocked`` says it."""

_SUSPECTED = (
    psycopg.errors.InsufficientPrivilege,  # of row-level security too
    psycopg.errors.OutOfMemory,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
)
"""What one row makes a statement fail with, or the table that is being replaced."""

_OUT_OF_MEMORY = psycopg.errors.OutOfMemory.sqlstate or ""
_WAIT_FOR_TABLE = {error.sqlstate or "": 5.0 for error in _SUSPECTED}  # seconds
_WAIT_TOGETHER = dict.fromkeys(CANCELED, 0.5)  # seconds

_MAX_ROW_BYTES = 1_000_000_000
"""PostgreSQL ends the connection over a message of more than 1 GiB."""

_LIGHT_BYTES = 1_000
"""Larger rows take the server longer than Python; it can use more of its processors for them."""

_INNOCENT_BYTES = 2 << 20
"""Rows of no more are not what a server has no memory for."""

CLOCKS_DIFFER_BY = timedelta(seconds=5)
"""What two workers' clocks may, so that no later attempt is taken for an earlier one."""

_NONE = timedelta()
_task_id = itemgetter(0)
_size = attrgetter("size")


def later_attempt(earlier: ResultRow, row: ResultRow) -> ResultRow:
    """Which of two ends of a task stands, as the statement ``finish`` says it."""
    begun, began = row.started_at, earlier.started_at
    if begun is None or began is None:
        return row
    tolerance = _NONE if row.worker == earlier.worker else CLOCKS_DIFFER_BY
    return earlier if begun < began - tolerance else row


def is_row_error(error: Exception) -> bool:
    """Whether an error of a row that was written alone is its own, and not the table's."""
    return is_refusal(error) and not isinstance(error, _SUSPECTED)


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
        self._names = names
        shared = {"serializer": serializer_name, "ttl": ttl, **LOCK_LIMIT}
        finishing = {**shared, "clocks_differ_by": CLOCKS_DIFFER_BY}
        self._finish = _WriteStatement(names, "finish", finishing, "ended")
        self._record_state = _WriteStatement(names, "record_state", shared)
        self._set_progress = _WriteStatement(names, "set_progress", LOCK_LIMIT, "progressed")
        channels = Channels(connections, names)
        self._announcers = {
            event: Announcer(connections, names.statement(queries()["notify"]), channels, event)
            for event in (("ended", "progressed") if notify else ())
        }
        self.results = self._batcher(
            self._finish, self._flush_results, lanes=lanes, choose=later_attempt
        )
        self.lesser_results = self._batcher(
            self._finish, self._flush_lesser_results, lanes=1, choose=later_attempt
        )
        self.states = self._batcher(
            self._record_state, self._flush_states, lanes=lanes, choose=None
        )
        self.progress = self._batcher(
            self._set_progress, self._flush_progress, lanes=lanes, table="progress"
        )

    async def close(self, patience: float) -> None:
        """Flush all that was accepted; give up what gets no further for so many seconds."""
        await asyncio.gather(
            self._close_results(patience),
            self.states.close(patience),
            self.progress.close(patience),
        )
        await self.announced()

    async def announced(self) -> None:
        """Return when all that has been written has been announced."""
        for announcer in self._announcers.values():
            await announcer.close()

    async def _close_results(self, patience: float) -> None:
        await self.results.close(patience)
        # What stands in for a refused result has been submitted by now.
        await self.lesser_results.close(patience)

    def _batcher(
        self,
        statement: _WriteStatement,
        flush: _Flush[RowT],
        *,
        lanes: int,
        table: str = "results",
        choose: Callable[[RowT, RowT], RowT] | None = later,
    ) -> MicroBatcher[RowT, None]:
        return unlocked_batcher(
            self._connections,
            self._names,
            partial(self._flush_or_save, statement, flush),
            key=_task_id,
            lanes=lanes,
            table=table,
            size=_size,
            choose=choose,
        )

    async def _flush_or_save(
        self,
        statement: _WriteStatement,
        flush: _Flush[RowT],
        rows: Sequence[RowT],
        slow_after: float | None,
    ) -> Sequence[Exception | None]:
        """Write rows; where that has failed for all of its time, those that can be without others.

        Raises:
            WriteTimeoutError: there are none.
        """
        try:
            return await flush(rows, slow_after)
        except WriteTimeoutError as error:
            if len(rows) == 1 or not may_be_one_row_s(error):
                raise
            late = error
        once = partial(self._write, statement, slow_after=None, retry_for=0.0)
        saved = await save(once, rows, self._connections.retry_for)
        if not saved:
            raise late
        self._announce(statement, saved)
        ids = set(map(_task_id, saved))
        return [None if _task_id(row) in ids else late for row in rows]

    async def _flush_results(
        self, rows: Sequence[ResultRow], slow_after: float | None
    ) -> Sequence[Exception | None]:
        """Write results; the errors of those that are refused while others are not.

        Where all are, the server or the table is at fault, and they are tried again for a while.
        """
        guilty = {} if len(rows) == 1 else await self._probe(rows, slow_after)
        if 0 < len(guilty) < len(rows):
            # Once more: what has refused them may have ended while they were looked for.
            guilty = await self._probe([row for row in rows if row.task_id in guilty], slow_after)
        if len(rows) == 1 or len(guilty) == len(rows):
            try:
                await self._finish_rows(rows, slow_after, patient=True)
            except _SUSPECTED as error:
                return [error] * len(rows)
        elif guilty:
            self._announce(self._finish, [row for row in rows if row.task_id not in guilty])
            return [guilty.get(row.task_id) for row in rows]
        self._announce(self._finish, rows)
        return [None] * len(rows)

    async def _probe(
        self, rows: Sequence[ResultRow], slow_after: float | None
    ) -> dict[str, Exception]:
        """Write what can be written of the rows, and return the errors of the others."""
        try:
            await self._finish_rows(rows, slow_after, patient=False)
        except _SUSPECTED as error:
            if len(rows) == 1:
                return {rows[0].task_id: error}
        else:
            return {}
        middle = len(rows) // 2
        found = await self._probe(rows[:middle], slow_after)
        return found | await self._probe(rows[middle:], slow_after)

    async def _flush_lesser_results(
        self, rows: Sequence[ResultRow], slow_after: float | None
    ) -> Sequence[None]:
        await self._finish_rows(rows, slow_after, patient=False)
        self._announce(self._finish, rows)
        return [None] * len(rows)

    async def _finish_rows(
        self, rows: Sequence[ResultRow], slow_after: float | None, *, patient: bool
    ) -> None:
        """Write results; where that is refused, again for a while or not at all."""
        briefly = dict(_WAIT_FOR_TABLE) if patient else {}
        if sum(map(_size, rows)) > _INNOCENT_BYTES:
            briefly.pop(_OUT_OF_MEMORY, None)
        await self._write(self._finish, rows, slow_after, briefly)

    async def _flush_states(
        self, rows: Sequence[ResultRow], slow_after: float | None
    ) -> Sequence[None]:
        await self._write(self._record_state, rows, slow_after)
        return [None] * len(rows)

    async def _flush_progress(
        self, rows: Sequence[ProgressRow], slow_after: float | None
    ) -> Sequence[None]:
        await self._write(self._set_progress, rows, slow_after)
        self._announce(self._set_progress, rows)
        return [None] * len(rows)

    async def _write(
        self,
        statement: _WriteStatement,
        rows: Sequence[RowT],
        slow_after: float | None,
        briefly: Mapping[str, float] = NEVER,
        retry_for: float | None = None,
    ) -> None:
        # Sorted by id, so that two batches cannot deadlock.
        form = statement.careful if slow_after is None else statement.plain
        text, values = form.of_rows(sorted(rows, key=_task_id))
        count, size = len(rows), sum(map(_size, rows))
        # Where one may wait for a row, none is sent behind it.
        is_light = slow_after is not None and count > 1 and size <= count * _LIGHT_BYTES
        execute = (
            self._connections.execute_light
            if is_light
            else partial(self._connections.execute, retry_for=retry_for)
        )
        # A batch is halved that reaches a limit; a row alone can only try again.
        also = NO_WRITES if count > 1 else NO_WRITES | CANCELED
        await execute(
            text,
            values | statement.shared,
            also=also,
            briefly={**_WAIT_TOGETHER, **briefly},
            slow_after=slow_after,
        )

    def _announce(self, statement: _WriteStatement, rows: Sequence[RowT]) -> None:
        if statement.event in self._announcers:
            self._announcers[statement.event].announce(map(_task_id, rows))


class _WriteStatement:
    """A statement that writes a batch.

    Attributes:
        plain: it as it is.
        careful: one that the server ends where it waits long for a row.
        shared: its parameters that are the same for all rows.
        event: what has befallen the tasks whose rows it has written, for those who listen.
    """

    def __init__(
        self, names: Names, query: str, shared: dict[str, object], event: str = ""
    ) -> None:
        self.shared = shared
        self.event = event
        self.plain = BatchStatement(names, query, query)
        self.careful = BatchStatement(names, query, query, lock_limit="lock_limit")
