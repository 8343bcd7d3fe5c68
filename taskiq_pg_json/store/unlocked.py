"""Writes what nobody has locked, and puts the rest off."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic

import psycopg
from psycopg.errors import LockNotAvailable, QueryCanceled

from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.batch import ItemT, PutOffError, ResultT
from taskiq_pg_json.store.batching import MicroBatcher, later
from taskiq_pg_json.store.hurry import SlowError
from taskiq_pg_json.store.retrying import is_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections

LOCK_LIMIT: dict[str, object] = {"lock_limit": "100"}
"""For how many milliseconds a careful statement waits for a row, as its parameter."""

CANCELED = frozenset({QueryCanceled.sqlstate or ""})
"""The SQLSTATE of a statement that took longer than its session allows."""

_SLOW = 2.0
"""Seconds after which a statement is given up that does not say whether it waits for a row."""

_CAREFUL_FOR = 60.0  # seconds

_HEAVY_BYTES = 1 << 20
"""A larger item may take seconds to be sent."""

_AGAIN_AT_ONCE = 2
"""Statements of what was put off: all halves of a batch come at once; others need connections."""


def unlocked_batcher(
    connections: Connections,
    names: Names,
    flush: Callable[[Sequence[ItemT], float | None], Awaitable[Sequence[ResultT | Exception]]],
    *,
    key: Callable[[ItemT], str],
    lanes: int,
    table: str = "results",
    size: Callable[[ItemT], int] | None = None,
    choose: Callable[[ItemT, ItemT], ItemT] | None = later,
) -> MicroBatcher[ItemT, ResultT]:
    """Return a batcher of writes, none of which waits long for a row that somebody has locked.

    Args:
        connections: where to ask which rows of the table are.
        names: what the table is called.
        flush: as ``Unlocked`` takes it.
        key: an item's task id.
        lanes: as all that follow, those of ``MicroBatcher``.
        table: ``"results"`` or ``"progress"``.
        size: an item's weight in bytes.
        choose: which of two items of a task stands for both.
    """
    unlocked: Unlocked[ItemT, ResultT] = Unlocked(
        connections,
        flush,
        names.statement(queries()["locked_rows"], table=f"{{{table}}}"),
        key=key,
        takes_long=lambda item: size is not None and size(item) > _HEAVY_BYTES,
    )
    return MicroBatcher(
        unlocked.flush,
        flush_again=unlocked.flush_again,
        key=key,
        size=size,
        rejects=is_refusal,  # a limit too: the batch is too large, or one row is locked
        choose=choose,
        lanes=lanes,
    )


class Unlocked(Generic[ItemT, ResultT]):
    """Writes of one kind, none of which waits long for a row that somebody else has locked.

    A statement that takes long is given up, once, and done carefully: the server then ends it where
    it waits for a row, and never because the table is locked or the server slow. So are all others
    for a minute. Those of its rows that are seen to be locked are put off. One that another
    transaction has inserted cannot be seen: its batch is put off, and then halved until it is
    alone.

    Args:
        connections: where to ask which rows are locked.
        flush: writes a batch, whole or not at all. Given seconds, it raises ``SlowError`` after
            them; given None, ``LockNotAvailable`` where a row is locked for longer than
            ``LOCK_LIMIT``.
        locked_rows: the statement that says which of the tasks have a row that is locked.
        key: an item's task id.
        takes_long: whether an item by itself may, for its size, so that it is written carefully.
    """

    def __init__(
        self,
        connections: Connections,
        flush: Callable[[Sequence[ItemT], float | None], Awaitable[Sequence[ResultT | Exception]]],
        locked_rows: bytes,
        *,
        key: Callable[[ItemT], str],
        takes_long: Callable[[ItemT], bool],
    ) -> None:
        self._connections = connections
        self._flush = flush
        self._locked_rows = locked_rows
        self._key = key
        self._takes_long = takes_long
        self._careful_until = 0.0
        self._turns_again = asyncio.Semaphore(_AGAIN_AT_ONCE)

    async def flush(self, items: Sequence[ItemT]) -> Sequence[ResultT | Exception]:
        """Write a batch; ``PutOffError`` for what is locked, or may be."""
        loop = asyncio.get_running_loop()
        takes_long = len(items) == 1 and self._takes_long(items[0])
        if not takes_long and loop.time() >= self._careful_until:
            try:
                return await self._flush(items, _SLOW)
            except (SlowError, LockNotAvailable):  # the latter for a limit of the session's
                self._careful_until = loop.time() + _CAREFUL_FOR
        try:
            return await self._carefully(items)
        except LockNotAvailable:
            return [PutOffError()] * len(items)

    async def flush_again(self, items: Sequence[ItemT]) -> Sequence[ResultT | Exception]:
        """Write what has been put off, unless it is seen to be locked still; as ``flush``.

        Raises:
            LockNotAvailable: something in the batch is, and it is not seen what.
        """
        async with self._turns_again:
            return await self._flush_but(await self._locked(items), items)

    async def _carefully(self, items: Sequence[ItemT]) -> Sequence[ResultT | Exception]:
        try:
            return await self._flush(items, None)
        except LockNotAvailable:
            locked = await self._locked(items)  # of one too: the table may be, for the session
            if len(items) == 1:
                return [PutOffError()]
            if not locked:
                raise
        return await self._flush_but(locked, items)

    async def _flush_but(
        self, locked: set[str], items: Sequence[ItemT]
    ) -> Sequence[ResultT | Exception]:
        key = self._key
        free = [item for item in items if key(item) not in locked]
        written = iter(await self._carefully(free) if free else ())
        return [PutOffError() if key(item) in locked else next(written) for item in items]

    async def _locked(self, items: Sequence[ItemT]) -> set[str]:
        """Which of the tasks have a row that is locked; it is waited for a table that is.

        Raises:
            WriteTimeoutError: the table stayed locked for longer than a session waits.
        """
        ids = {"task_id": list(map(self._key, items))}
        try:
            found = await self._connections.execute(self._locked_rows, ids)
        except psycopg.Error:  # as where a role may not lock rows, but delete them: none is seen
            return set()
        return {id_ for (id_,) in found}
