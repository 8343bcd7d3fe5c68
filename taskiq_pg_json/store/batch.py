"""The items that are flushed together, and who waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Waiting = tuple[ItemT, "asyncio.Future[ResultT]"]
"""An item, and who waits for it."""


class PutOffError(Exception):
    """What a flush returns for an item that would keep up others: it is flushed again later."""


_FIRST_PAUSE = 0.05  # seconds; doubles up to the longest
_LONGEST_PAUSE = 1.0


class Batch(Generic[ItemT, ResultT]):
    """The items of one flush by their keys.

    Attributes:
        entries: the item of each key, and who waits for it.
        superseded: the others that an item stands for, the next best of a key last, and who waits.
        rejected: who waits for an item that stood for one of these and was rejected, and why: they
            are told when that one has been flushed, as they would be had it been flushed before.
        has_begun: whether its flush has.
        pause: seconds before what is put off of it is flushed again.
    """

    __slots__ = ("entries", "has_begun", "pause", "rejected", "superseded")

    def __init__(self) -> None:
        self.entries: dict[Hashable, Waiting[ItemT, ResultT]] = {}
        self.superseded: list[tuple[Hashable, Waiting[ItemT, ResultT]]] = []
        self.rejected: list[tuple[Hashable, asyncio.Future[ResultT], Exception]] = []
        self.has_begun = False
        self.pause = _FIRST_PAUSE

    def settle(
        self, results: Sequence[ResultT | Exception], rejects: Callable[[Exception], bool]
    ) -> Batch[ItemT, ResultT] | None:
        """Answer everybody but those who leave for another batch, which is returned.

        These are the ones whose items are put off, and those for whom an item stood that has itself
        been rejected.
        """
        is_all = not (self.superseded or self.rejected)
        for (_, future), result in zip(self.entries.values(), results, strict=True):
            if not isinstance(result, Exception):
                if not future.done():
                    future.set_result(result)
            elif isinstance(result, PutOffError):
                is_all = False
            elif is_all or not rejects(result):
                resolve(future, result)
        if is_all:
            return None
        again = self._taken_again(dict(zip(self.entries, results, strict=True)), rejects)
        return again if again.entries else None

    def _taken_again(
        self, results: dict[Hashable, ResultT | Exception], rejects: Callable[[Exception], bool]
    ) -> Batch[ItemT, ResultT]:
        """Take out what is flushed again, and answer those others for whom an item stood."""
        again: Batch[ItemT, ResultT] = Batch()
        again.pause = min(2 * self.pause, _LONGEST_PAUSE)
        for key, result in results.items():
            if isinstance(result, PutOffError):
                again.entries[key] = self.entries.pop(key)
        for key, entry in reversed(self.superseded):
            result = results[key]
            if key in again.entries:
                again.superseded.append((key, entry))
            elif isinstance(result, Exception) and rejects(result) and not entry[1].done():
                _, future = self.entries.pop(key)
                again.entries[key] = entry
                again.rejected.append((key, future, result))
            else:
                resolve(entry[1], result)
        again.superseded.reverse()
        for key, (_, future) in self.entries.items():
            resolve(future, results[key])
        for key, future, error in self.rejected:
            if key in again.entries:
                again.rejected.append((key, future, error))
            else:
                resolve(future, error)
        return again

    def fail(self, error: BaseException) -> None:
        """Answer everybody with an error."""
        for _, future in (*self.entries.values(), *(entry for _, entry in self.superseded)):
            resolve(future, error)
        for _, future, reason in self.rejected:
            resolve(future, reason)


def resolve(future: asyncio.Future[ResultT], result: ResultT | BaseException) -> None:
    """Answer who waits, unless that has been done."""
    if future.done():
        return
    if not isinstance(result, BaseException):
        future.set_result(result)
    elif isinstance(result, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(result)
