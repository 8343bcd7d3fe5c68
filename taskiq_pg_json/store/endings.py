"""Stores how tasks have ended: whole, or as much of it as the server takes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import NotStartedError
from taskiq_pg_json.store.refused import lost_result, refused_result
from taskiq_pg_json.store.retrying import is_refusal
from taskiq_pg_json.store.rows import bare_outcome, is_more_than_result
from taskiq_pg_json.store.writes import check_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.errors import ResultEncodeError
    from taskiq_pg_json.records import Outcome
    from taskiq_pg_json.store.batching import MicroBatcher
    from taskiq_pg_json.store.rows import ResultRow, RowEncoder
    from taskiq_pg_json.store.writes import Writer

logger = logging.getLogger("taskiq_pg_json")


@dataclass(slots=True, eq=False)
class _Late:
    """What writes the late results of one event loop, and how many it is writing."""

    writer: Writer
    results: int = 0


class Endings:
    """Stores results, and logs what of them is not stored once that is known.

    Args:
        rows: makes their rows.
        checked_id: gives a task's id as it is stored.
        new_late_writer: gives what writes after ``shutdown()``, in another event loop, or in a
            forked process.

    Attributes:
        writer: what writes them while the store is open.
        may_be_late: whether they are stored, too, when that one does so no more.
    """

    writer: Writer

    def __init__(
        self,
        rows: RowEncoder,
        checked_id: Callable[[str], str],
        new_late_writer: Callable[[], Writer],
    ) -> None:
        self._rows = rows
        self._checked_id = checked_id
        self._new_late_writer = new_late_writer
        self._late: dict[asyncio.AbstractEventLoop, _Late] = {}
        self.may_be_late = False

    # Ten thousand may wait, and the garbage collector looks again and again through all that each
    # of them holds: hence one coroutine, which keeps of an outcome what it may need once more.
    async def store(self, task_id: str, outcome: Outcome) -> None:
        """Store a result, or what the server takes of it; raises as ``set_result()`` does."""
        row, unstorable = self._rows.result(self._checked_id(task_id), outcome)
        return_value, error, is_err = outcome.return_value, outcome.error, outcome.is_err
        del outcome
        try:
            check_size(row)
            await self.writer.results.submit(row)
        except Exception as exc:
            if not (is_refusal(exc) or isinstance(exc, NotStartedError)):
                raise
            reason = exc
        else:
            if unstorable is not None:
                _log_failure(row, unstorable)
            return
        bare = bare_outcome(row, return_value, error, is_err)
        if not isinstance(reason, NotStartedError):
            try:
                await self._store_less(self.writer, row, bare, reason)
            except NotStartedError as exc:
                reason = exc
            else:
                return
        if not self.may_be_late:
            raise reason
        await self._store_late(row, bare, unstorable)

    async def write_late(self, patience: float) -> None:
        """Write the results that have come while the store was closed.

        The event loop may end with ``shutdown()``, and more may come while these are written: but
        not for ever, as from a loop that goes on.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + patience
        while loop.time() < until and (late := self._late.pop(loop, None)) is not None:
            await late.writer.close(patience)

    def forget_parents(self) -> None:
        """Forget what a fork has copied of the process that it comes from."""
        self._late = {}

    async def _store_late(
        self, row: ResultRow, bare: Outcome, unstorable: ResultEncodeError | None
    ) -> None:
        loop = asyncio.get_running_loop()
        late = self._late.get(loop) or self._late.setdefault(loop, _Late(self._new_late_writer()))
        late.results += 1
        try:
            await self._store_with(late.writer, row, bare, unstorable)
            await late.writer.announced()  # the event loop may end with this
        finally:
            late.results -= 1
            if not late.results and self._late.get(loop) is late:
                del self._late[loop]

    async def _store_with(
        self, writer: Writer, row: ResultRow, bare: Outcome, unstorable: ResultEncodeError | None
    ) -> None:
        reason = await _refusal(writer.results, row, unstorable)
        if reason is not None:
            await self._store_less(writer, row, bare, reason)

    async def _store_less(
        self, writer: Writer, row: ResultRow, bare: Outcome, reason: Exception
    ) -> None:
        """Store what the server takes of a result that it has refused."""
        batcher, task_id = writer.lesser_results, row.task_id
        if is_more_than_result(row):
            without_call = self._rows.result(task_id, bare)
            if await _refusal(batcher, *without_call) is None:
                logger.warning("Task %s is stored without its call: %s", task_id, reason)
                return
        refused = refused_result(task_id, bare, reason)
        failure = self._rows.failure(task_id, bare, refused)
        if await _refusal(batcher, failure, refused) is None:
            return
        # The fault may be the serializer's.
        failure = self._rows.plain_failure(task_id, bare, refused)
        error = await _refusal(batcher, failure, refused)
        if error is not None:
            logger.error("%s", lost_result(task_id, error))
            raise error


async def _refusal(
    batcher: MicroBatcher[ResultRow, None], row: ResultRow, failure: ResultEncodeError | None
) -> Exception | None:
    """Store a row, which may tell of a failure; return the error with which it is refused."""
    try:
        check_size(row)
        await batcher.submit(row)
    except Exception as error:
        if not is_refusal(error):
            raise
        return error
    if failure is not None:
        _log_failure(row, failure)
    return None


def _log_failure(row: ResultRow, failure: ResultEncodeError) -> None:
    logger.warning("Task %s is stored as a failure: %s", row.task_id, failure)
