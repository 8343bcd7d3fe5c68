"""Removes results and states, in batches."""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.arrays import as_array
from taskiq_pg_json.store.unlocked import CANCELED, LOCK_LIMIT, unlocked_batcher
from taskiq_pg_json.store.writes import CLOCKS_DIFFER_BY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.batching import MicroBatcher
    from taskiq_pg_json.store.connections import Connections

    _Attempt: TypeAlias = tuple[str, datetime]
    """A task's id, and when the attempt began."""


class Remover:
    """Every removal of a store by task ids.

    Attributes:
        deletions: of results with their progress, by task id; whether there was a result.
        discards: of the states of attempts that leave no result.
    """

    def __init__(self, connections: Connections, names: Names, *, lanes: int) -> None:
        self._connections = connections
        self._delete = _RemovalStatement(names, "delete", LOCK_LIMIT)
        self._discard_state = _RemovalStatement(
            names, "discard_state", {**LOCK_LIMIT, "clocks_differ_by": CLOCKS_DIFFER_BY}
        )
        self.deletions: MicroBatcher[str, bool] = unlocked_batcher(
            connections, names, self._flush_deletions, key=str, lanes=lanes
        )
        self.discards: MicroBatcher[_Attempt, None] = unlocked_batcher(
            connections, names, self._flush_discards, key=itemgetter(0), lanes=lanes, choose=None
        )

    async def close(self, patience: float) -> None:
        """Remove all that was accepted; give up what gets no further for so many seconds."""
        await asyncio.gather(self.deletions.close(patience), self.discards.close(patience))

    async def _flush_deletions(
        self, task_ids: Sequence[str], slow_after: float | None
    ) -> Sequence[bool]:
        values = {"task_id": sorted(task_ids)}
        rows = await self._remove(self._delete, values, slow_after)
        deleted = {id_ for (id_,) in rows}
        return [task_id in deleted for task_id in task_ids]

    async def _flush_discards(
        self, attempts: Sequence[_Attempt], slow_after: float | None
    ) -> Sequence[None]:
        task_ids, started_at = zip(*sorted(attempts), strict=True)
        values = {"task_id": task_ids, "started_at": started_at}
        await self._remove(self._discard_state, values, slow_after)
        return [None] * len(attempts)

    async def _remove(
        self,
        statement: _RemovalStatement,
        values: Mapping[str, Sequence[object]],
        slow_after: float | None,
    ) -> Sequence[Sequence[Any]]:
        # Not prepared: a plan that was made while the table was small would scan all of it later.
        return await self._connections.execute(
            statement.plain if slow_after is not None else statement.careful,
            {name: as_array(column) for name, column in values.items()} | statement.shared,
            prepare=False,
            also=CANCELED,
            slow_after=slow_after,
        )


class _RemovalStatement:
    """A statement that removes rows.

    Attributes:
        plain: it as it is.
        careful: one that the server ends where it waits long for a row.
        shared: its parameters that are the same for all rows.
    """

    def __init__(self, names: Names, query: str, shared: dict[str, object]) -> None:
        text = queries()
        self.shared = shared
        self.plain = names.statement(text[query], lock_limit="")
        self.careful = names.statement(text[query], lock_limit=text["lock_limit"])
