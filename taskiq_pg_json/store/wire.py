"""Sends statements through libpq itself, without a cursor and its waiting.

A cursor takes as long for a small statement as the server does, and registers with the event loop
anew for each. psycopg still opens the connections, adapts the values and makes the errors.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import InvalidSqlStatementName, error_from_result
from psycopg.pq import ExecStatus, Format

from taskiq_pg_json.store.arrays import adapt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection
    from psycopg.pq.abc import PGresult

    Prepared = dict[tuple[bytes, tuple[int, ...]], bytes]

_PLACEHOLDER = re.compile(rb"%(?:%|\((\w+)\)([sb]))")
_FORMATS = {b"s": PyFormat.AUTO, b"b": PyFormat.BINARY}
_MAX_PREPARED = 100  # of one connection
_CANCEL_TIMEOUT = 5.0  # seconds
_numbers = count()
_prepared: WeakKeyDictionary[AsyncConnection[Any], Prepared] = WeakKeyDictionary()


class _Query(NamedTuple):
    """A statement as the server takes it, and its parameters in order."""

    text: bytes
    names: tuple[str, ...]
    formats: tuple[PyFormat, ...]


@lru_cache
def _query(statement: bytes) -> _Query:
    """Number the placeholders of a statement, ``%(name)s`` or ``%(name)b``."""
    formats: dict[bytes, PyFormat] = {}

    def number(match: re.Match[bytes]) -> bytes:
        if match[0] == b"%%":
            return b"%"
        formats.setdefault(match[1], _FORMATS[match[2]])
        return b"$%d" % (list(formats).index(match[1]) + 1)

    text = _PLACEHOLDER.sub(number, statement)
    return _Query(text, tuple(map(bytes.decode, formats)), tuple(formats.values()))


class Wire:
    """One statement at a time over a connection that nobody else uses meanwhile.

    It hears of what the server sends until it is released.
    """

    def __init__(self, connection: AsyncConnection[Any]) -> None:
        adapt(connection)
        self.connection = connection
        self._pgconn = connection.pgconn
        self._socket = -1
        self._transformer = Transformer(connection)
        self._prepared = _prepared.setdefault(connection, {})
        self._loop = asyncio.get_running_loop()
        self._listens = False
        self._waiter: asyncio.Future[None] | None = None

    def release(self) -> None:
        """Leave the connection to others, until the next statement."""
        if self._listens:
            self._listens = False
            with suppress(OSError):  # of a lost connection, whose socket libpq has closed
                self._loop.remove_reader(self._socket)

    async def execute(
        self, statement: bytes, values: Mapping[str, object], *, prepare: bool = True
    ) -> list[Any]:
        """Run a statement in a transaction of its own, and return its rows as tuples.

        Raises:
            psycopg.Error: as a cursor does.
        """
        try:
            return await self._execute(statement, values, prepare=prepare)
        except InvalidSqlStatementName:  # somebody had the connection forget what was prepared
            self._prepared.clear()
            return await self._execute(statement, values, prepare=prepare)

    async def _execute(
        self, statement: bytes, values: Mapping[str, object], *, prepare: bool
    ) -> list[Any]:
        query = _query(statement)
        transformer, pgconn = self._transformer, self._pgconn
        given = [values[name] for name in query.names]
        parameters = transformer.dump_sequence(given, query.formats)
        types, formats = transformer.types or (), transformer.formats
        name = await self._name(query.text, types) if prepare else None
        if name is None:
            pgconn.send_query_params(query.text, parameters, types, formats, Format.BINARY)
        else:
            pgconn.send_query_prepared(name, parameters, formats, Format.BINARY)
        result = await self._result()
        if result.status != ExecStatus.TUPLES_OK:
            return []
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)  # which may be large
        return rows

    async def _name(self, text: bytes, types: tuple[int, ...]) -> bytes | None:
        """Prepare a statement once; None where it cannot be."""
        name = self._prepared.get((text, types))
        if name is None and self.connection.prepare_threshold is not None:
            if len(self._prepared) >= _MAX_PREPARED:
                return None
            name = b"taskiq_pg_json_%d" % next(_numbers)
            self._pgconn.send_prepare(name, text, types)
            await self._result()
            self._prepared[text, types] = name
        return name

    async def _result(self) -> PGresult:
        """Return the server's answer to what has been sent."""
        try:
            result = await self._answer()
        except asyncio.CancelledError:
            await self._interrupt()
            raise
        if result.status == ExecStatus.FATAL_ERROR:
            raise error_from_result(result, self.connection.info.encoding)
        return result

    async def _answer(self) -> PGresult:
        pgconn = self._pgconn
        if not self._listens:
            self._socket = pgconn.socket
            self._loop.add_reader(self._socket, self._hear)
            self._listens = True
        while pgconn.flush():
            await self._writable()
        answer: PGresult | None = None
        try:
            while True:
                while pgconn.is_busy():
                    await self._news()
                result = pgconn.get_result()
                if result is None:
                    break
                answer = result
        except psycopg.OperationalError:
            # A server that ends the connection says why first.
            if answer is None or answer.status != ExecStatus.FATAL_ERROR:
                raise
        if answer is None:
            raise psycopg.InternalError("The server has not answered.")
        return answer

    async def _interrupt(self) -> None:
        """Have the server give up the statement, so that the connection can be used again."""
        try:
            await self.connection.cancel_safe(timeout=_CANCEL_TIMEOUT)
            await asyncio.wait_for(self._answer(), _CANCEL_TIMEOUT)
        except BaseException as error:
            self.release()
            self._pgconn.finish()
            if not isinstance(error, Exception):
                raise

    async def _news(self) -> None:
        """Return when there is an answer, or the connection is lost."""
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    async def _writable(self) -> None:
        """Return when the server may take more of what has not been sent."""
        waiter = self._waiter = self._loop.create_future()
        self._loop.add_writer(self._socket, _wake, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            with suppress(OSError):  # likewise
                self._loop.remove_writer(self._socket)

    def _hear(self) -> None:
        """Take what the server sends."""
        waiter = self._waiter
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            self.release()
            if waiter is not None and not waiter.done():
                waiter.set_exception(error)
        else:
            if waiter is not None and not self._pgconn.is_busy():
                _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
