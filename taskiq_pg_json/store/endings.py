"""Stores how tasks have ended: whole, or as much of it as the server takes."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from taskiq_pg_json.store.refused import lost_result, refused_result
from taskiq_pg_json.store.writes import REFUSALS, check_size

if TYPE_CHECKING:
    from taskiq_pg_json.errors import ResultEncodeError
    from taskiq_pg_json.records import Outcome
    from taskiq_pg_json.store.batching import MicroBatcher
    from taskiq_pg_json.store.rows import ResultRow, RowEncoder
    from taskiq_pg_json.store.writes import Writer

logger = logging.getLogger("taskiq_pg_json")


class Endings:
    """Stores results, and logs what of them is not stored once that is known."""

    def __init__(self, rows: RowEncoder) -> None:
        self._rows = rows

    async def store(
        self,
        writer: Writer,
        row: ResultRow,
        outcome: Outcome,
        unstorable: ResultEncodeError | None,
    ) -> None:
        """Store a result, or what the server takes of it.

        Args:
            writer: what writes it.
            row: its row.
            outcome: what the row was made of.
            unstorable: what has made a failure of it, if anything has.
        """
        try:
            await _store(writer.results, row, unstorable)
        except REFUSALS as error:
            reason = error
        else:
            return
        await self._store_less(writer, row.task_id, outcome, reason)

    async def _store_less(
        self, writer: Writer, task_id: str, outcome: Outcome, reason: Exception
    ) -> None:
        """Store what the server takes of a result that it has refused."""
        batcher = writer.lesser_results
        if (less := self._rows.without_call(task_id, outcome)) is not None:
            with suppress(*REFUSALS):
                await _store(batcher, *less)
                logger.warning("Task %s is stored without its call: %s", task_id, reason)
                return
        refused = refused_result(task_id, outcome, reason)
        try:
            await _store(batcher, self._rows.refusal(task_id, outcome, refused), refused)
        except REFUSALS as error:
            logger.error("%s", lost_result(task_id, error))  # noqa: TRY400 - whoever asked has it
            raise


async def _store(
    batcher: MicroBatcher[ResultRow, None], row: ResultRow, failure: ResultEncodeError | None
) -> None:
    check_size(row)
    await batcher.submit(row)
    if failure is not None:
        logger.warning("Task %s is stored as a failure: %s", row.task_id, failure)
