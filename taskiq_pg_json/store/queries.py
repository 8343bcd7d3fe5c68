"""Runs the queries of searching and analysing: in bounded time, and with clear errors."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncServerCursor
from psycopg.rows import tuple_row

from taskiq_pg_json.errors import FilterError, SearchTimeoutError
from taskiq_pg_json.schema import PlainCursor, queries
from taskiq_pg_json.store.arguments import is_seconds
from taskiq_pg_json.store.filters import TOO_DEEP
from taskiq_pg_json.store.sessions import pipelined

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator, Mapping

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.sessions import Connection

DEFAULT_TIMEOUT = 5.0
"""Seconds that the server may spend on one query."""

_REFUSALS = (
    psycopg.DataError,
    psycopg.errors.SyntaxError,
    psycopg.errors.UndefinedObject,
    psycopg.errors.StatementTooComplex,
)
_BAD_TOKEN = re.compile(r'at or near "(.*)" of jsonpath input', re.DOTALL)
_MAX_PATHS = 1_000
_LONGEST_LIMIT = 2**31 - 1  # milliseconds


def check_timeout(timeout: object) -> None:
    """Refuse what is no number of seconds, nor None.

    Raises:
        FilterError: it is neither.
    """
    if timeout is not None and not is_seconds(timeout):
        raise FilterError(f"timeout={timeout!r}: give seconds, or None for no limit.")


def server_limit(timeout: float) -> str:
    """Return a number of seconds as a limit that the server takes: 24 days at most."""
    return f"{max(1, round(min(timeout * 1000, _LONGEST_LIMIT)))}ms"


class QueryRunner:
    """Runs queries whose text differs from call to call; each is planned for its own values."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._names = names
        self._set_timeout = names.statement(queries()["statement_timeout"])
        self._check_path = names.statement(queries()["check_path"])
        self._paths: dict[str, bool] = {}

    async def fetch(
        self, query: str, values: Mapping[str, object], timeout: float | None
    ) -> list[Any]:
        """Return the rows of a composed query.

        Raises:
            FilterError: the server refuses a value of the filters.
            SearchTimeoutError: it took longer than ``timeout`` seconds.
        """
        check_timeout(timeout)

        async def operation(connection: Connection) -> list[Any]:
            # A pipeline is one transaction and one round trip: the limit ends with it.
            async with pipelined(connection):
                if timeout is not None:
                    await self._limit(connection, timeout)
                async with PlainCursor(connection) as cursor:
                    await cursor.execute(self._names.statement(query), values, binary=True)
                    return await cursor.fetchall()

        with _clear_errors(timeout):
            return await self._connections.run(operation)

    @asynccontextmanager
    async def stream(
        self, query: str, values: Mapping[str, object], *, batch: int, timeout: float | None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Give the rows of a query from a cursor on the server, ``batch`` at a time.

        The connection is the caller's until the end of the block.
        """
        check_timeout(timeout)
        with _clear_errors(timeout):
            async with (
                self._connections.connection() as connection,
                # Closed after its transaction, with which it ends, it has nothing to say to a
                # server that may be gone.
                AsyncServerCursor(connection, "search", row_factory=tuple_row) as cursor,
                connection.transaction(),
            ):
                if timeout is not None:
                    await self._limit(connection, timeout)
                cursor.itersize = batch
                await cursor.execute(self._names.statement(query), values, binary=True)
                yield cursor

    async def are_predicates(self, paths: Collection[str]) -> dict[str, bool]:
        """Return which SQL/JSON paths are true or false, rather than a selection.

        Raises:
            FilterError: one is not an SQL/JSON path; ``position`` says where it is wrong.
        """
        if len(self._paths) > _MAX_PATHS:
            self._paths.clear()
        for path in set(paths) - self._paths.keys():
            self._paths[path] = await self._is_predicate(path)
        return {path: self._paths[path] for path in paths}

    async def _limit(self, connection: Connection, timeout: float) -> None:
        await PlainCursor(connection).execute(
            self._set_timeout, {"statement_timeout": server_limit(timeout)}
        )

    async def _is_predicate(self, path: str) -> bool:
        try:
            ((is_predicate,),) = await self._connections.execute(self._check_path, {"path": path})
        except (*_REFUSALS, UnicodeEncodeError) as error:
            position = await self._position(path, str(error))
            raise FilterError(
                f"where={path!r} is no SQL/JSON path that PostgreSQL understands: "
                f"{_first_line(error)}{_pointer(path, position)}",
                position=position,
            ) from error
        return bool(is_predicate)

    async def _position(self, path: str, message: str) -> int | None:
        """Return where the path is wrong: the first of the tokens named with which it is."""
        if "at end of jsonpath input" in message:
            return len(path)
        found = _BAD_TOKEN.search(message)
        if found is None:
            return None
        token = found[1]
        for match in re.finditer(re.escape(token), path):
            if await self._is_bad_token(path[: match.end()]):
                return match.start()
        return path.rfind(token)

    async def _is_bad_token(self, path: str) -> bool:
        """Whether the path's last token is where it goes wrong."""
        try:
            await self._connections.execute(self._check_path, {"path": path})
        except _REFUSALS as error:
            return _BAD_TOKEN.search(str(error)) is not None
        return False


def _pointer(path: str, position: int | None) -> str:
    return "" if position is None else f", at character {position + 1}: {path[:position]}⟨here⟩"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


@contextmanager
def _clear_errors(timeout: float | None) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        limit = "the session's statement_timeout" if timeout is None else f"{timeout} s"
        raise SearchTimeoutError(
            f"The search took longer than {limit} and was given up: narrow it down by "
            "task_name=, since= or a filter that an index serves, or give a longer timeout=."
        ) from error
    except psycopg.errors.StatementTooComplex as error:
        raise FilterError(TOO_DEEP) from error
    except _REFUSALS as error:
        raise FilterError(f"PostgreSQL refuses the filters: {_first_line(error)}.") from error
    except UnicodeEncodeError as error:
        raise FilterError(f"A filter is not valid Unicode text: {error}.") from error
