"""Gives up a statement that takes too long."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
        if not is_over or (hasattr(task, "uncancel") and task.uncancel()):
            raise
        raise SlowError from None
    finally:
        timer.cancel()
