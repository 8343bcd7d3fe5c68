"""What the arguments of a store may be, and the defaults of its pool."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TypeGuard

from psycopg import AsyncConnection, ProgrammingError
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.records import Status
from taskiq_pg_json.store.dsn import wrong_parameter

_PARAMETERS = frozenset(inspect.signature(AsyncConnectionPool).parameters) - {
    "conninfo",
    "open",
}
_CONNECT = frozenset(inspect.signature(AsyncConnection.connect).parameters)
_NUMBERS = ("max_waiting", "max_lifetime", "max_idle", "reconnect_timeout", "num_workers")
# The pool's own pauses between two attempts to connect grow to minutes.
_DEFAULTS = {"min_size": 1, "max_size": 10, "reconnect_timeout": 1.0}

_STATES = (Status.QUEUED, Status.STARTED, Status.RETRY)

_LONGEST_TTL = timedelta(days=5_000 * 365)
"""Python's calendar ends with the year 9999."""


def check_pool(pool: object) -> None:
    """Refuse what is no pool to lend.

    Raises:
        ConfigurationError: with what to lend instead.
    """
    if pool is not None and not isinstance(pool, AsyncConnectionPool):
        raise ConfigurationError(
            f"pool= is of type {type(pool).__name__}: lend a psycopg_pool.AsyncConnectionPool, "
            "or give dsn= instead."
        )


def check_pool_arguments(given: Mapping[str, object], *, lent: bool) -> None:
    """Refuse arguments that are none of the pool's, or that come with one that is lent.

    Raises:
        ConfigurationError: it names them.
    """
    if lent and given:
        raise ConfigurationError(
            f"{', '.join(sorted(given))}: a pool was lent, so that it cannot be configured "
            "here; give these to the pool itself."
        )
    unknown = sorted(set(given) - _PARAMETERS)
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: no parameter of the backend, nor of "
            "psycopg_pool.AsyncConnectionPool; connection parameters go into kwargs={…}."
        )
    connection_class = given.get("connection_class", AsyncConnection)
    if not (isinstance(connection_class, type) and issubclass(connection_class, AsyncConnection)):
        raise ConfigurationError(
            f"connection_class={connection_class!r}: give psycopg.AsyncConnection or a subclass."
        )
    for name in _NUMBERS:
        if name in given and not isinstance(given[name], int | float):
            raise ConfigurationError(f"{name}={given[name]!r}: give a number.")
    _check_connect_kwargs(given.get("kwargs"))


def _check_connect_kwargs(given: object) -> None:
    """Refuse what libpq does not know."""
    if given is None or callable(given):
        return
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"kwargs= is of type {type(given).__name__}: give connection parameters, kwargs={{…}}."
        )
    try:
        make_conninfo("", **{name: given[name] for name in given if name not in _CONNECT})
    except (TypeError, ProgrammingError) as error:
        raise ConfigurationError(
            f"kwargs={{{', '.join(map(repr, given))}}}: {str(error).strip()}."
        ) from error
    if wrong := wrong_parameter(given):
        raise ConfigurationError(f"kwargs= has {wrong}.")


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pool's arguments with this project's defaults, which follow what is given."""
    least = given.get("min_size")
    if "max_size" not in given and isinstance(least, int):
        return {**_DEFAULTS, **given, "max_size": max(least, _DEFAULTS["max_size"])}
    return {**_DEFAULTS, **given}


def checked_seconds(parameter: str, value: object) -> float:
    """Return a number of seconds.

    Raises:
        ConfigurationError: it is none.
    """
    if not is_seconds(value):
        raise ConfigurationError(f"{parameter}={value!r}: give a number of seconds.")
    return float(value)


def is_seconds(value: object) -> TypeGuard[float]:
    """Whether it is a time that may be waited for."""
    return isinstance(value, int | float) and 0 <= value <= sys.float_info.max


def check_timeout(timeout: object) -> None:
    """Refuse what is no time to wait; one below zero, as is left of another, is over.

    Raises:
        ConfigurationError: it is none.
    """
    if not _is_timeout(timeout):
        raise ConfigurationError(f"timeout={timeout!r}: give a number of seconds.")


def check_limit(timeout: object) -> None:
    """Refuse what is neither a time to wait nor None.

    Raises:
        ConfigurationError: it is neither.
    """
    if timeout is not None and not _is_timeout(timeout):
        raise ConfigurationError(f"timeout={timeout!r}: give seconds, or None for no limit.")


def _is_timeout(value: object) -> bool:
    return isinstance(value, int | float) and (value <= sys.float_info.max or value == math.inf)


def checked_state(status: object) -> Status:
    """Return where a task is that has not ended.

    Raises:
        ConfigurationError: there is no such status, or it is an end.
    """
    try:
        known = Status(status)
    except ValueError:
        known = None
    if known in _STATES:
        return known
    wrong = "is no Status" if known is None else "is how a task ends: use set_result()"
    *words, last = (f'"{state}"' for state in _STATES)
    raise ConfigurationError(f"status={status!r} {wrong}. Give {', '.join(words)} or {last}.")


def check_type(parameter: str, value: object, expected: type) -> None:
    """Refuse what is of another type.

    Raises:
        ConfigurationError: with the type that it is of.
    """
    if not isinstance(value, expected):
        raise ConfigurationError(
            f"{parameter}= is of type {type(value).__name__}: give a {expected.__name__}."
        )


def checked_ttl(ttl: float | timedelta | None) -> timedelta | None:
    """Return how long results are kept.

    Raises:
        ConfigurationError: it is no time that they could be.
    """
    if ttl is None:
        return None
    try:
        duration = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"result_ttl={ttl!r}: give seconds or a timedelta.") from error
    if duration <= timedelta(0):
        raise ConfigurationError(f"result_ttl={ttl!r} is not positive: results would be lost.")
    if duration > _LONGEST_TTL:
        raise ConfigurationError(
            f"result_ttl={ttl!r} is more than {_LONGEST_TTL.days // 365:,} years: give None to "
            "keep results for ever."
        )
    return duration
