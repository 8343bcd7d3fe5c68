"""Says that a store belongs to the event loop that it was started in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_pg_json.errors import NotStartedError

if TYPE_CHECKING:
    import asyncio


def started_elsewhere(loop: asyncio.AbstractEventLoop) -> NotStartedError:
    """Return the error of a call in another event loop than that of the store."""
    if loop.is_closed():
        return NotStartedError(
            "The result store was started in another event loop, which has been closed: "
            "await startup() in this one."
        )
    return NotStartedError(
        "The result store was started in another event loop: open a ResultStore of its own in this "
        "one, or hand the call over with asyncio.run_coroutine_threadsafe()."
    )
