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
    before = _requests(task)
    is_over = False

    def give_up() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield
    except asyncio.CancelledError:
        # Somebody may have cancelled the task as well, which Python 3.10 does not tell.
        if not is_over or (hasattr(task, "uncancel") and task.uncancel() > before):
            raise
        raise SlowError from None
    finally:
        timer.cancel()


def _requests(task: asyncio.Task[Any]) -> int:
    """How often the task was asked to cancel: it may go on, as to store its result."""
    return task.cancelling() if hasattr(task, "cancelling") else 0
