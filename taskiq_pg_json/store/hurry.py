"""Gives up a statement that takes too long."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class SlowError(Exception):
    """A statement has taken longer than it was given."""


@contextmanager
def given_up_after(seconds: float | None) -> Iterator[None]:
    """Cancel what is awaited in the block after so many seconds; None for never.

    Raises:
        SlowError: it was.
    """
    task = asyncio.current_task()
    if seconds is None or task is None:
        yield
        return
    before = cancellations(task)
    is_over = False

    def give_up() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield
    except asyncio.CancelledError:
        if not is_over or not taken_back(task, before):
            raise
        raise SlowError from None
    finally:
        timer.cancel()


def cancellations(task: asyncio.Task[Any]) -> int:
    """How often the task was cancelled: it may go on all the same, as to store its result."""
    return task.cancelling() if hasattr(task, "cancelling") else 0


def taken_back(task: asyncio.Task[Any], before: int) -> bool:
    """Take back the cancellation of the task that has just ended what it awaited.

    False if somebody else has cancelled it since, which Python 3.10 does not tell.
    """
    return not hasattr(task, "uncancel") or task.uncancel() <= before
