"""Sends statements through libpq itself, without a cursor and its waiting.

A cursor takes as long for a small statement as the server does, and registers with the event loop
anew for each. psycopg still opens the connections, adapts the values and makes the errors.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import (
    DuplicatePreparedStatement,
    FeatureNotSupported,
    InvalidSqlStatementName,
    error_from_result,
)
from psycopg.pq import ConnStatus, ExecStatus, Format

from taskiq_pg_json.store.arrays import adapt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import AsyncConnection
    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult

_PLACEHOLDER = re.compile(rb"%(?:%|\((\w+)\)([sb]))")
_FORMATS = {b"s": PyFormat.AUTO, b"b": PyFormat.BINARY}
_MAX_PREPARED = 100  # of one connection
_MAX_FORGOTTEN = 3
_CANCEL_TIMEOUT = 5.0  # seconds
_LOOK = 0.5  # seconds between looks at what the event loop may not tell of


@dataclass(slots=True)
class _Prepared:
    """What a connection has prepared.

    Attributes:
        names: of the statements, by their text and the types of their parameters.
        forgotten: how often the server did not know one that was there.
    """

    names: dict[tuple[bytes, tuple[int, ...]], bytes] = field(default_factory=dict)
    forgotten: int = 0


_prepared: WeakKeyDictionary[AsyncConnection[Any], _Prepared] = WeakKeyDictionary()


class Bound(NamedTuple):
    """A statement with its parameters, as a connection sends them."""

    text: bytes
    parameters: Sequence[Buffer | None]
    types: tuple[int, ...]
    formats: list[Format]


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


def _name(text: bytes, types: tuple[int, ...]) -> bytes:
    """The name of a prepared statement.

    A name that says what it stands for: behind a pooler that changes servers between transactions
    another client may have prepared it, and then it is the same statement.
    """
    kinds = ",".join(map(str, types)).encode()
    return b"taskiq_pg_json_" + sha256(kinds + b" " + text).hexdigest()[:32].encode()


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
        self._prepared = _prepared.setdefault(connection, _Prepared())
        self._loop = asyncio.get_running_loop()
        self._listens = False
        self._writes = False
        self._waiter: asyncio.Future[None] | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._heard: Callable[[], None] = self._wake
        self._lost: Callable[[psycopg.OperationalError], None] = self._fail

    def release(self) -> None:
        """Leave the connection to others, until the next statement.

        Where libpq has closed its socket, another one may soon have the same number.
        """
        if self._listens:
            self._listens = False
            with suppress(OSError):
                self._loop.remove_reader(self._socket)
        self._stop_writing()
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    async def execute(
        self, statement: bytes, values: Mapping[str, object], *, prepare: bool = True
    ) -> list[Any]:
        """Run a statement in a transaction of its own, and return its rows as tuples.

        Raises:
            psycopg.Error: as a cursor does.
        """
        try:
            return await self._execute(statement, values, prepare=prepare)
        except (InvalidSqlStatementName, FeatureNotSupported):
            # The latter where somebody has changed the type of a column that it returns.
            self.forget()
            return await self._execute(statement, values, prepare=False)

    async def _execute(
        self, statement: bytes, values: Mapping[str, object], *, prepare: bool
    ) -> list[Any]:
        bound = self.bind(statement, values)
        text, parameters, types, formats = bound
        name = self.prepared(bound) if prepare else None
        if name is None and prepare:
            name = await self._prepare(bound)
        if name is None:
            self._pgconn.send_query_params(text, parameters, types, formats, Format.BINARY)
        else:
            self._pgconn.send_query_prepared(name, parameters, formats, Format.BINARY)
        return self.rows(await self._result())

    def bind(self, statement: bytes, values: Mapping[str, object]) -> Bound:
        """Adapt the values of a statement."""
        query, transformer = _query(statement), self._transformer
        given = [values[name] for name in query.names]
        parameters = transformer.dump_sequence(given, query.formats)
        return Bound(query.text, parameters, transformer.types or (), transformer.formats or [])

    def rows(self, result: PGresult) -> list[Any]:
        """Return the rows of an answer as tuples.

        Raises:
            psycopg.Error: the answer is an error.
        """
        if result.status in {ExecStatus.FATAL_ERROR, ExecStatus.PIPELINE_ABORTED}:
            error = error_from_result(result, self.connection.info.encoding)
            if error.sqlstate is None and self._pgconn.status == ConnStatus.BAD:
                # What libpq says of a lost connection in the server's place.
                raise psycopg.OperationalError(str(error))
            raise error
        if result.status != ExecStatus.TUPLES_OK:
            return []
        transformer = self._transformer
        transformer.set_pgresult(result)
        rows = transformer.load_rows(0, result.ntuples, tuple)
        transformer.set_pgresult(None)  # which may be large
        return rows

    def prepared(self, bound: Bound) -> bytes | None:
        """Return the name of a statement that has been prepared here."""
        return self._prepared.names.get((bound.text, bound.types))

    def forget(self) -> None:
        """Prepare anew: the server does not know what was prepared.

        Somebody had the connection forget it, or a pooler has put another server behind it.
        """
        if self._prepared.names:  # or it has been said of another statement already
            self._prepared.names.clear()
            self._prepared.forgotten += 1

    async def _prepare(self, bound: Bound) -> bytes | None:
        """Prepare a statement once, and return its name; None where it should not be."""
        prepared = self._prepared
        if (
            self.connection.prepare_threshold is None
            or len(prepared.names) >= _MAX_PREPARED
            or prepared.forgotten >= _MAX_FORGOTTEN
        ):
            return None
        name = _name(bound.text, bound.types)
        self._pgconn.send_prepare(name, bound.text, bound.types)
        with suppress(DuplicatePreparedStatement):
            self.rows(await self._result())
        prepared.names[bound.text, bound.types] = name
        return name

    async def _result(self) -> PGresult:
        """Return the server's answer to what has been sent."""
        try:
            return await self._answer()
        except asyncio.CancelledError:
            await self._interrupt()
            raise

    async def _answer(self) -> PGresult:
        pgconn = self._pgconn
        self.listen(self._wake, self._fail)
        self.flush()
        if self._next_look is None:  # one for many statements: a timer each would cost too much
            self._next_look = self._loop.call_later(_LOOK, self._look)
        answer: PGresult | None = None
        try:
            while True:
                while pgconn.is_busy():
                    self._waiter = self._loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                result = pgconn.get_result()
                if result is None:
                    break
                answer = result
        except psycopg.OperationalError:
            # A server that ends the connection says why first.
            if answer is None or answer.status != ExecStatus.FATAL_ERROR:
                raise
        self.pass_on_notifications()
        if answer is None:
            self._pgconn.finish()  # somebody else has read what it said
            raise psycopg.OperationalError("The server has not answered.")
        return answer

    def pass_on_notifications(self) -> None:
        """Give those that came with an answer to whoever the connection is of."""
        pgconn = self._pgconn
        while (notification := pgconn.notifies()) is not None:
            if pgconn.notify_handler is not None:
                pgconn.notify_handler(notification)

    async def cancel(self) -> None:
        """Ask the server to give up what it is doing for this connection.

        Raises:
            psycopg.Error: it could not be asked.
        """
        await self.connection.cancel_safe(timeout=_CANCEL_TIMEOUT)

    async def _interrupt(self) -> None:
        """Have the server give up the statement, so that the connection can be used again."""
        try:
            await self.cancel()
            await asyncio.wait_for(self._answer(), _CANCEL_TIMEOUT)
        except BaseException as error:
            self.release()
            self._pgconn.finish()
            if not isinstance(error, Exception):
                raise

    def listen(
        self, heard: Callable[[], None], lost: Callable[[psycopg.OperationalError], None]
    ) -> None:
        """Say who is to be told that the server has sent something, or that it is lost."""
        self._heard, self._lost = heard, lost
        if not self._listens:
            self._socket = self._pgconn.socket
            self._loop.add_reader(self._socket, self.hear)
            self._listens = True

    def flush(self) -> None:
        """Send what has not been sent, the rest of it as the server takes it."""
        if self._pgconn.flush() and not self._writes:
            self._writes = True
            self._loop.add_writer(self._socket, self._write)

    def _write(self) -> None:
        try:
            unsent = self._pgconn.flush()
        except psycopg.OperationalError as error:
            self._lose(error)
        else:
            if not unsent:
                self._stop_writing()
            self._heard()  # what libpq has read meanwhile

    def _stop_writing(self) -> None:
        if self._writes:
            self._writes = False
            with suppress(OSError):
                self._loop.remove_writer(self._socket)

    def _look(self) -> None:
        """Hear what the event loop has not told of, as long as an answer is awaited."""
        self._next_look = None
        if self._waiter is None:
            return
        self.hear()
        if self._listens:
            self._next_look = self._loop.call_later(_LOOK, self._look)

    def hear(self) -> None:
        """Take what the server has sent, if anything.

        The event loop calls it; but uvloop forgets a socket once that has an error.
        """
        try:
            self._pgconn.consume_input()
        except psycopg.OperationalError as error:
            self._lose(error)
        else:
            self._heard()

    def _lose(self, error: psycopg.OperationalError) -> None:
        self.release()
        self._lost(error)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done() and not self._pgconn.is_busy():
            waiter.set_result(None)

    def _fail(self, error: psycopg.OperationalError) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
