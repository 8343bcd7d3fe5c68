"""Saves what can be written of a batch that has been tried for all of its time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from taskiq_pg_json.errors import TaskiqPgJsonError, WriteTimeoutError
from taskiq_pg_json.store.hurry import SlowError, given_up_after
from taskiq_pg_json.store.retrying import is_refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from taskiq_pg_json.store.batch import ItemT

_SHARE = 0.25
"""Of the time that a batch was tried for: for how much longer its parts are, as in an outage."""

_LEAST = 1.0
"""Seconds that its parts are tried for, however short that time was."""


def may_be_one_row_s(error: Exception) -> bool:
    """Whether the server has answered, and perhaps for one row's sake.

    Triggers may raise what is tried again, as a server does that cannot write for a while.
    """
    return is_refusal(error.__cause__ if isinstance(error, WriteTimeoutError) else error)


async def save(
    write: Callable[[Sequence[ItemT]], Awaitable[object]], rows: Sequence[ItemT], tried_for: float
) -> list[ItemT]:
    """Return those of the rows that can be written without the others.

    Args:
        write: writes rows, whole or not at all, or fails at the first attempt.
        rows: what could not be written together.
        tried_for: for how many seconds that was tried.
    """
    until = time.monotonic() + max(_LEAST, tried_for * _SHARE)

    async def saved(part: Sequence[ItemT]) -> list[ItemT]:
        left = until - time.monotonic()
        if left <= 0:
            return []
        try:
            with given_up_after(left):
                await write(part)
        except (SlowError, TaskiqPgJsonError, psycopg.Error, UnicodeEncodeError) as error:
            if len(part) == 1 or not may_be_one_row_s(error):
                return []
        else:
            return list(part)
        middle = len(part) // 2
        return await saved(part[:middle]) + await saved(part[middle:])

    middle = len(rows) // 2
    return await saved(rows[:middle]) + await saved(rows[middle:])
