"""Tries again what a server that was lost, or busy, has kept from being done."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout

from taskiq_pg_json.errors import NotStartedError, WriteTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

logger = logging.getLogger("taskiq_pg_json")

ResultT = TypeVar("ResultT")

LIMITS = frozenset(
    {
        "55P03",  # lock_not_available, after lock_timeout
        "57014",  # query_canceled, after statement_timeout
    }
)
"""The SQLSTATEs of a statement that took longer than its session allows."""

NO_WRITES = frozenset(
    {
        "25006",  # read_only_sql_transaction: of a standby behind a pooler, say
        "53100",  # disk_full
        "53400",  # configuration_limit_exceeded
        "58030",  # io_error
    }
)
"""The SQLSTATEs of a server that writes nothing for a while."""

NEVER: Mapping[str, float] = MappingProxyType({})
"""No SQLSTATE is tried again for a while."""

_FIRST_PAUSE = 0.05  # seconds; doubles up to the longest
_LONGEST_PAUSE = 2.0
_LOSSES = frozenset(
    {
        "57P01",  # admin_shutdown
        "57P02",  # crash_shutdown
        "57P03",  # cannot_connect_now
        "57P05",  # idle_session_timeout
        "25P04",  # transaction_timeout
    }
)
_TRANSIENT_STATES = _LOSSES | {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "53300",  # too_many_connections
}
# What a server says that will soon be there, or have room; libpq gives no code with it.
_NOT_NOW = (
    "starting up",
    "shutting down",
    "terminating connection",  # before it was there
    "recovery mode",
    "not yet accepting connections",
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "out of shared memory",
    # PgBouncer's own words
    "no more connections allowed",
    "client connections exceeded",
    "too many servers in the pool",
    "query_wait_timeout",
    "client_login_timeout",
    "server_login_retry",
    "cannot connect to server",
)

# What libpq says of what no time will make right, and PgBouncer in statement mode. Not so of
# target_session_attrs: a standby may be promoted.
_NEVER = re.compile(
    r"invalid (port number|\S+ value|integer value)"
    r"|no password supplied"
    r"|server (does not|doesn't) support (SSL|GSSAPI encryption), but"
    r"|root certificate file .* does not exist"
    r"|definition of service .* not found|service file .* not found"
    r"|transaction blocks not allowed"
)
# Before what psycopg says of each, where several hosts or addresses have failed.
_EACH_ATTEMPT = "\n- host: "


async def retry(
    attempt: Callable[[], Awaitable[ResultT]],
    *,
    seconds: float,
    recover: Callable[[psycopg.Error], Awaitable[None]],
    also: Collection[str] = (),
    briefly: Mapping[str, float] = NEVER,
) -> ResultT:
    """Do something until it succeeds, with growing pauses.

    Where all the time has been spent on finding out that a connection is dead, there is one more
    attempt.

    Args:
        attempt: what to do; it may be done twice.
        seconds: after which to give up.
        recover: what to do before the next attempt, after what error.
        also: further SQLSTATEs after which to try again.
        briefly: those after which to try again for so many seconds.

    Raises:
        NotStartedError: the pool has been closed.
        WriteTimeoutError: it has not succeeded in time.
        psycopg.Error: one that would only come again.
    """
    began = time.monotonic()
    deadline = began + seconds
    pause = _FIRST_PAUSE
    attempts = 0
    while True:
        attempts += 1
        try:
            return await attempt()
        except PoolClosed as error:
            raise NotStartedError("The pool that was lent has been closed.") from error
        except psycopg.Error as error:
            state = error.sqlstate or ""
            is_brief = time.monotonic() < began + briefly.get(state, 0.0)
            is_away = is_transient(error) or state in also
            has_had_a_chance = attempts > 1 or not is_loss(error)
            is_late = time.monotonic() + pause > deadline and has_had_a_chance
            if not (is_away or (is_brief and not is_late)):
                raise
            if is_late:
                raise WriteTimeoutError(
                    f"PostgreSQL could not be reached, or did not do it, for {seconds:g} s "
                    f"(write_timeout=): {error}"
                ) from error
            logger.warning(
                "PostgreSQL is away, or cannot do it now: trying again in %.2g s: %s", pause, error
            )
            reason = error
        await asyncio.sleep(pause)
        # Not before it: a new connection may not last for as long as the pause.
        await recover(reason)
        pause = min(2 * pause, _LONGEST_PAUSE)


def is_transient(error: psycopg.Error) -> bool:
    """Whether the same may succeed on another connection, or a little later."""
    if isinstance(error, PoolTimeout | psycopg.InterfaceError):
        return True
    state = error.sqlstate
    if state is not None:
        is_lost = state.startswith("08") and not _is_hopeless(str(error))
        return is_lost or state in _TRANSIENT_STATES
    if not isinstance(error, psycopg.OperationalError):
        return False
    # A lost or refused connection, or the server's own refusal.
    message = str(error)
    if "FATAL" in message:
        return any(phrase in message for phrase in _NOT_NOW)
    return not _is_hopeless(message)


def _is_hopeless(message: str) -> bool:
    """Whether no host of those that were tried can ever answer otherwise."""
    _, *attempts = message.split(_EACH_ATTEMPT)
    return all(map(_NEVER.search, attempts or [message]))


def is_refusal(error: BaseException | None) -> bool:
    """Whether what was sent was refused, and not the connection lost: perhaps for one row's sake.

    Of an error that is not tried again, or no more. Any code may be that of a user's trigger.
    """
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        return not is_loss(error)
    return isinstance(error, psycopg.DataError | UnicodeEncodeError)  # it was not even sent


def is_loss(error: psycopg.Error) -> bool:
    """Whether a connection was lost, so that the others are suspect."""
    if isinstance(error, PoolTimeout):
        return False
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state.startswith("08") or state in _LOSSES
