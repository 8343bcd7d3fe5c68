"""Waits for tasks to end, and watches them on the way."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import WaitTimeoutError
from taskiq_pg_json.store.arguments import check_limit, check_timeout
from taskiq_pg_json.store.hurry import SlowError, given_up_after

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from taskiq_pg_json.records import Progress, TaskRecord
    from taskiq_pg_json.store.listen import Listener
    from taskiq_pg_json.store.reads import Reader, StoredProgress

_LOOK = 1.0
"""Seconds that one look at the server may take, however short the wait."""


class Waiter:
    """Waits by notification where the server can send one, and by polling where it cannot.

    Args:
        reader: reads how far tasks are.
        listener: hears of them.
        checked_id: gives a task's id as it is stored.
    """

    def __init__(
        self, reader: Reader, listener: Listener, checked_id: Callable[[str], str]
    ) -> None:
        self._reader = reader
        self._listener = listener
        self._checked_id = checked_id

    async def ended(
        self, task_ids: Sequence[str], timeout: float | None
    ) -> AsyncIterator[list[str]]:
        """Yield the ids in groups as their tasks end; each group is one look at the server.

        Raises:
            WaitTimeoutError: some have not ended after ``timeout`` seconds.
            ConfigurationError: the timeout is no time.
        """
        pending = dict.fromkeys(map(self._checked_id, task_ids))
        deadline = _deadline(timeout)
        with self._listener.subscribed(pending) as subscription:
            ended: set[str] = set()
            look_again = True
            while pending:
                if look_again:
                    ended |= await self._look(list(pending), deadline)
                if group := [task_id for task_id in pending if task_id in ended]:
                    for task_id in group:
                        del pending[task_id]
                    yield group
                    if not pending:
                        return
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise WaitTimeoutError(pending, timeout or 0.0)
                ended, look_again = await subscription.changes(left)

    async def _look(self, task_ids: list[str], deadline: float | None) -> set[str]:
        """Return those that have ended; none where the server does not answer in time."""
        try:
            with given_up_after(_time_to_look(deadline)):
                return await self._ended_among(task_ids)
        except SlowError:
            return set()

    async def _ended_among(self, task_ids: list[str]) -> set[str]:
        """Many ids are a statement of their own; those who wait for one share theirs."""
        if len(task_ids) > 1:
            return await self._reader.ready_among(task_ids)
        return set(task_ids) if await self._reader.ready.submit(task_ids[0]) else set()

    async def is_ready(self, task_id: str, timeout: float) -> bool:
        """Whether the task has ended, after ``timeout`` seconds at most."""
        task_id = self._checked_id(task_id)
        if timeout != 0:
            check_timeout(timeout)
        if timeout <= 0:
            return await self._reader.ready.submit(task_id)
        deadline = time.monotonic() + timeout
        subscription = self._listener.subscribed((task_id,))
        # Ten thousand that wait would have a timer each, and a with statement keeps a method.
        subscription.begin()
        try:
            if await self._reader.ready.submit(task_id):
                return True
            while (left := deadline - time.monotonic()) > 0:
                ended, look_again = await subscription.changes(left)
                if ended or (look_again and await self._look([task_id], deadline)):
                    return True
        finally:
            subscription.end()
        return False

    async def records(
        self, task_ids: Sequence[str], timeout: float | None
    ) -> AsyncIterator[TaskRecord]:
        """Yield the tasks' records as they end.

        Raises:
            WaitTimeoutError: some have not ended after ``timeout`` seconds, or were not read.
        """
        unread = dict.fromkeys(map(self._checked_id, task_ids))
        deadline = _deadline(timeout)
        async for group in self.ended(task_ids, timeout):
            try:
                records = await self._read(group, deadline)
            except SlowError:
                raise WaitTimeoutError(unread, timeout or 0.0) from None
            for task_id in group:
                del unread[task_id]
                if task_id in records:  # not deleted meanwhile
                    yield records[task_id]

    async def all_records(
        self, task_ids: Sequence[str], timeout: float | None
    ) -> dict[str, TaskRecord]:
        """Return the tasks' records, by id, when all have ended.

        Raises:
            WaitTimeoutError: some have not after ``timeout`` seconds, or they were not read.
        """
        deadline = _deadline(timeout)
        async for _ in self.ended(task_ids, timeout):
            pass
        try:
            return await self._read(task_ids, deadline)
        except SlowError:
            raise WaitTimeoutError(task_ids, timeout or 0.0) from None

    async def _read(self, task_ids: Sequence[str], deadline: float | None) -> dict[str, TaskRecord]:
        """Return the records of those that have one.

        Raises:
            SlowError: the server does not answer in time.
        """
        with given_up_after(_time_to_look(deadline)):
            return await self._reader.records(task_ids)

    async def progress(self, task_id: str) -> AsyncIterator[Progress]:
        """Yield a task's progress whenever it has changed, until the task has ended."""
        task_id = self._checked_id(task_id)
        last: StoredProgress | None = None  # values may not compare, or not equal themselves
        ended: Collection[str] = ()
        with self._listener.subscribed([task_id], progress=True) as subscription:
            while True:
                # Or was said to have, and its row has been deleted since.
                has_ended = await self._reader.ready.submit(task_id) or task_id in ended
                stored = await self._reader.progress.submit(task_id)
                if stored is not None and (last is None or stored.reported != last.reported):
                    last = stored
                    yield self._reader.decode_progress(stored)
                if has_ended:
                    return
                ended, _ = await subscription.changes()


def _deadline(timeout: float | None) -> float | None:
    """When a wait of so many seconds from now is over.

    Raises:
        ConfigurationError: the timeout is no time.
    """
    check_limit(timeout)
    return None if timeout is None else time.monotonic() + timeout


def _time_to_look(deadline: float | None) -> float | None:
    """How many seconds one look at the server may take, now."""
    return None if deadline is None else max(_LOOK, deadline - time.monotonic())
