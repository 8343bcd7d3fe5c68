"""Where the server is: what ``dsn=`` may be, and what libpq is told of it."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeGuard

import psycopg
import pydantic
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic_core import MultiHostUrl

from taskiq_pg_json.errors import ConfigurationError

Dsn = str | pydantic.PostgresDsn | Callable[[], Any] | None
"""A conninfo or URL, a callable that returns one, or None for libpq's PG* environment."""

# Until pydantic 2.10 the names of its URLs are annotations of one class.
_URLS = (MultiHostUrl, *(c for c in (pydantic.PostgresDsn, pydantic.AnyUrl) if isinstance(c, type)))

_SQLALCHEMY_DRIVER = re.compile(r"^(postgres(?:ql)?)\+[^:]+(://)")
_AT_IN_PATH = re.compile(r"://[^/]*/[^?]*@")
_UNKNOWN_OPTION = re.compile(r'invalid (?:URI query parameter:|connection option) "(\w*)"')
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
        ConfigurationError: with what to give instead; nothing of it is shown, for its password's
            sake.
    """
    if _is_text(dsn):
        _parsed(str(dsn))
    elif dsn is not None and not callable(dsn):
        raise ConfigurationError(
            f"dsn= is of type {type(dsn).__name__}: neither a connection string, nor a callable "
            "that returns one, nor None for the PG* environment variables."
        )


def _is_text(dsn: object) -> TypeGuard[str | pydantic.PostgresDsn]:
    """Whether it is a connection string, or a URL of pydantic's, which is one when printed."""
    return isinstance(dsn, (str, *_URLS))


async def conninfo_of(dsn: Dsn) -> str:
    """Return what libpq is told: the dsn, and how long to wait for a server where it is silent.

    Raises:
        ConfigurationError: it cannot be parsed.
    """
    given = _parsed(await called(dsn) if callable(dsn) else str(dsn or ""))
    if _CONNECT_TIMEOUT_VARIABLE in os.environ:
        given.setdefault("connect_timeout", os.environ[_CONNECT_TIMEOUT_VARIABLE])
    return make_conninfo(**_TIMEOUTS | given)


async def called(dsn: Callable[[], Any]) -> str:
    """Call a dsn callable in a thread: it may start a server or ask for a password."""
    # A coroutine that a thread hands over to whoever has been cancelled would never be awaited.
    is_async = any(map(inspect.iscoroutinefunction, (dsn, type(dsn).__call__)))
    found = dsn() if is_async else await asyncio.to_thread(dsn)
    if inspect.isawaitable(found):
        found = await found
    if not _is_text(found):
        raise ConfigurationError(
            f"The dsn callable returned an object of type {type(found).__name__}: it must return a "
            "connection string."
        )
    return str(found)


def dsn_text(dsn: Dsn) -> str | None:
    """Return the dsn without an SQLAlchemy driver's name; a callable is called.

    Raises:
        ConfigurationError: the callable is async, and nobody here can wait for it.
    """
    given = dsn() if callable(dsn) else dsn
    if inspect.iscoroutine(given):
        given.close()
        raise ConfigurationError("The dsn callable is async: await it to get the dsn.")
    return None if given is None else _without_driver(str(given))


def _without_driver(dsn: str) -> str:
    return _SQLALCHEMY_DRIVER.sub(r"\1\2", dsn, count=1)


def _parsed(dsn: str) -> dict[str, Any]:
    """Parse a dsn, which may name the driver as SQLAlchemy's do.

    Raises:
        ConfigurationError: it cannot be parsed; nothing of it is shown, for its password's sake.
    """
    try:
        parsed = dict(conninfo_to_dict(_without_driver(dsn)))
    except (psycopg.ProgrammingError, UnicodeEncodeError) as error:
        unknown = _UNKNOWN_OPTION.match(str(error))  # or a part of a password that has a space
        known = [option.keyword.decode() for option in pq.Conninfo.get_defaults()]
        meant = get_close_matches(unknown[1], known, 1, cutoff=0.75) if unknown else None
        raise ConfigurationError(
            "dsn= is no connection string: give a URL, postgresql://user@host/database, or "
            "key=value pairs, as host=localhost dbname=shop"
            f"{f' (is {meant[0]} meant?)' if meant else ''}."
        ) from None
    wrong = wrong_parameter(parsed)
    if not wrong and "@" in str(parsed.get("dbname")) and _AT_IN_PATH.search(dsn):
        wrong = "an @ in its database's name"  # and in its host what follows one in the password
    if wrong:
        hint = " If its password or a name has an @ or a /, write these as %40 and %2F."
        raise ConfigurationError(f"dsn= has {wrong}.{hint if '://' in dsn else ''}")
    return parsed


def wrong_parameter(parameters: Mapping[str, object]) -> str | None:
    """Say what is wrong with connection parameters that libpq lets pass; None where nothing is.

    Of a URL whose password is not encoded they hold parts of that: none is shown.
    """
    hosts = str(parameters.get("host") or "").split(",")
    if any("@" in host[1:] and not host.startswith("/") for host in hosts):
        return "an @ in its host"
    ports = str(parameters.get("port") or "").split(",")
    if not all(re.fullmatch(r"\s*[+-]?\d*\s*", port) for port in ports):
        return "a port that is not a number"
    timeout = parameters.get("connect_timeout")
    try:
        int(float(str(0 if timeout is None else timeout)))
    except (ValueError, OverflowError):
        return "a connect_timeout that is not a number"
    return None
