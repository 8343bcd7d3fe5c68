"""Where the server is: what ``dsn=`` may be, and what libpq is told of it."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from taskiq_pg_json.errors import ConfigurationError

Dsn = str | Callable[[], Any] | None
"""A conninfo or URL, a callable that returns one, or None for libpq's PG* environment."""

_SQLALCHEMY_DRIVER = re.compile(r"^(postgres(?:ql)?)\+[^:]+(://)")
_UNKNOWN_OPTION = re.compile(r'invalid (URI query parameter:|connection option) "\w*"')
# Without these a connection whose other end is gone without a word is waited for for hours. They
# leave time to try again on another one: writes are given 30 seconds by default.
_TIMEOUTS = {
    "connect_timeout": 10,  # seconds
    "keepalives_idle": 10,  # seconds
    "keepalives_interval": 3,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
_CONNECT_TIMEOUT_VARIABLE = "PGCONNECT_TIMEOUT"


def check_dsn(dsn: object) -> None:
    """Refuse what can be no dsn.

    Raises:
        ConfigurationError: with what to give instead.
    """
    if isinstance(dsn, str):
        _parsed(dsn)
    elif dsn is not None and not callable(dsn):
        raise ConfigurationError(
            f"dsn={dsn!r} is neither a connection string, nor a callable that returns one, nor "
            "None for the PG* environment variables."
        )


async def conninfo_of(dsn: Dsn) -> str:
    """Return what libpq is told: the dsn, and how long to wait for a server where it is silent.

    Raises:
        ConfigurationError: it cannot be parsed.
    """
    given = _parsed((await called(dsn) if callable(dsn) else dsn) or "")
    if _CONNECT_TIMEOUT_VARIABLE in os.environ:
        given.setdefault("connect_timeout", os.environ[_CONNECT_TIMEOUT_VARIABLE])
    return make_conninfo(**_TIMEOUTS | given)


async def called(dsn: Callable[[], Any]) -> str:
    """Call a dsn callable in a thread: it may start a server or ask for a password."""
    found = await asyncio.to_thread(dsn)
    if inspect.isawaitable(found):
        found = await found
    if not isinstance(found, str):
        raise ConfigurationError(
            f"The dsn callable returned {found!r}: it must return a connection string."
        )
    return found


def dsn_text(dsn: Dsn) -> str | None:
    """Return the dsn without an SQLAlchemy driver's name; a callable is called.

    Raises:
        ConfigurationError: the callable is async, and nobody here can wait for it.
    """
    given = dsn() if callable(dsn) else dsn
    if inspect.iscoroutine(given):
        given.close()
        raise ConfigurationError("The dsn callable is async: await it to get the dsn.")
    return None if given is None else _without_driver(given)


def _without_driver(dsn: str) -> str:
    return _SQLALCHEMY_DRIVER.sub(r"\1\2", dsn, count=1)


def _parsed(dsn: str) -> dict[str, Any]:
    """Parse a dsn, which may name the driver as SQLAlchemy's do.

    Raises:
        ConfigurationError: it cannot be parsed; nothing of it is shown, for its password's sake.
    """
    try:
        return dict(conninfo_to_dict(_without_driver(dsn)))
    except psycopg.ProgrammingError as error:
        unknown = _UNKNOWN_OPTION.match(str(error))
        raise ConfigurationError(
            "dsn= is no connection string: give a URL, postgresql://user@host/database, or "
            "key=value pairs, as host=localhost dbname=shop"
            f"{f' ({unknown[0]})' if unknown else ''}."
        ) from None
