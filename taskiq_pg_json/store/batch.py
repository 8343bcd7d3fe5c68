"""The items that are flushed together, and who waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

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
        superseded: who waits for the earlier ones that an item stands for.
        has_begun: whether its flush has.
        pause: seconds before what is put off of it is flushed again.
    """

    __slots__ = ("entries", "has_begun", "pause", "superseded")

    def __init__(self) -> None:
        self.entries: dict[Hashable, Waiting[ItemT, ResultT]] = {}
        self.superseded: list[tuple[Hashable, asyncio.Future[ResultT]]] = []
        self.has_begun = False
        self.pause = _FIRST_PAUSE

    def settle(self, results: Sequence[ResultT | Exception]) -> Batch[ItemT, ResultT] | None:
        """Answer everybody; those whose items are put off leave it for another batch."""
        are_put_off = False
        for (_, future), result in zip(self.entries.values(), results, strict=True):
            if isinstance(result, PutOffError):
                are_put_off = True
            elif isinstance(result, Exception):
                resolve(future, result)
            elif not future.done():
                future.set_result(result)
        if not (self.superseded or are_put_off):
            return None
        by_key = dict(zip(self.entries, results, strict=True))
        put_off: Batch[ItemT, ResultT] = Batch()
        put_off.pause = min(2 * self.pause, _LONGEST_PAUSE)
        for key, result in by_key.items():
            if isinstance(result, PutOffError):
                put_off.entries[key] = self.entries.pop(key)
        for key, future in self.superseded:
            if key in put_off.entries:
                put_off.superseded.append((key, future))
            else:
                resolve(future, by_key[key])
        return put_off if are_put_off else None

    def fail(self, error: BaseException) -> None:
        """Answer everybody with an error."""
        for _, future in (*self.entries.values(), *self.superseded):
            resolve(future, error)


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
