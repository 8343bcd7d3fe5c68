"""The queryable store of results, usable with no broker at all."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from taskiq_pg_json.errors import ConfigurationError, NotStartedError, TaskNotFoundError
from taskiq_pg_json.records import Outcome, Progress, TaskInfo
from taskiq_pg_json.schema import Names, Schema, TaskIdType
from taskiq_pg_json.serializer import as_result_serializer
from taskiq_pg_json.store.apart import ConnectionsApart
from taskiq_pg_json.store.arguments import check_type, checked_state, checked_ttl
from taskiq_pg_json.store.connections import Connections
from taskiq_pg_json.store.coroutines import coroutine_function
from taskiq_pg_json.store.endings import Endings
from taskiq_pg_json.store.listen import Listener
from taskiq_pg_json.store.reads import Heavy, Reader
from taskiq_pg_json.store.refused import refused_progress
from taskiq_pg_json.store.removals import Remover
from taskiq_pg_json.store.rows import RowEncoder, aware
from taskiq_pg_json.store.searchable import Searchable
from taskiq_pg_json.store.task_ids import checked_task_id, checked_uuid, listed
from taskiq_pg_json.store.waiting import Waiter
from taskiq_pg_json.store.writes import Writer, is_row_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable
    from datetime import timedelta
    from types import TracebackType

    from psycopg_pool import AsyncConnectionPool
    from typing_extensions import Self

    from taskiq_pg_json.records import Status, TaskRecord
    from taskiq_pg_json.serializer import ResultSerializer, TaskiqSerializer
    from taskiq_pg_json.store.dsn import Dsn

MadeT = TypeVar("MadeT")

Migrate = Literal["auto", "verify", "off"]

_WRITE_LANES = 2
_READ_LANES = 2
"""Statements of one kind under way at once; one more gained nothing on two cores."""

_LEAST_PATIENCE = 3.0
"""Seconds that a shutdown gives what it writes, however short the writes' own time is."""


class ResultStore(Searchable):
    """Reads, searches and writes the results of one table.

    An async context manager: entering it opens the pool and migrates the tables, verifies them or
    trusts them, as ``migrate`` says.

    It belongs to the event loop that it is started in: calls from another raise
    ``NotStartedError``, but for ``set_result()``.

    Args:
        dsn: a conninfo string or URL, a callable (sync or async) that returns one and is asked for
            each new connection, or None for libpq's ``PG*`` environment variables.
        table_name: the table of the results; everything else is named after it.
        field_for_task_id: the type of task ids: ``"VarChar"``, ``"Text"`` or ``"Uuid"``.
        serializer: None for ``JsonSerializer()``, any ``ResultSerializer``, or one of taskiq's.
        schema: the schema of the tables; None for the first of the ``search_path``.
        pool: a ``psycopg_pool.AsyncConnectionPool`` to borrow from instead of ``dsn``: opened if it
            is not open, never closed.
        result_ttl: how long results are kept, in seconds or as a timedelta; None means for ever.
        migrate: ``"auto"`` applies what is missing at start-up, ``"verify"`` only checks, ``"off"``
            trusts.
        indexes: the indexes to make with the table, of ``"json"``, ``"task_name"``,
            ``"finished_at"``, ``"failures"``, ``"unfinished"`` and ``"expires_at"``; None for all.
            Every search works without them, only slower.
        write_timeout: how long a lost server is tried again, in seconds.
        notify: whether to tell listeners of results and progress, and to listen, by NOTIFY; False
            makes ``wait``, ``as_completed`` and ``watch_progress`` poll.
        pool_kwargs: to the store's own ``psycopg_pool.AsyncConnectionPool``.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    def __init__(
        self,
        dsn: Dsn = None,
        *,
        table_name: str = "taskiq_results",
        field_for_task_id: TaskIdType = "VarChar",
        serializer: ResultSerializer | TaskiqSerializer | None = None,
        schema: str | None = None,
        pool: AsyncConnectionPool[Any] | None = None,
        result_ttl: float | timedelta | None = None,
        migrate: Migrate = "auto",
        indexes: Collection[str] | None = None,
        write_timeout: float = 30.0,
        notify: bool = True,
        **pool_kwargs: Any,  # noqa: ANN401 - they are the pool's own
    ) -> None:
        if migrate not in get_args(Migrate):
            raise ConfigurationError(f'migrate={migrate!r} is none of "auto", "verify" and "off".')
        self.names = Names(table_name, schema, field_for_task_id)
        self.serializer = as_result_serializer(serializer)
        self._migrate: Migrate = migrate
        self._notify = notify
        self._ttl = checked_ttl(result_ttl)
        self._schema = Schema(self.names, indexes)
        self._coming_or_going = asyncio.Lock()
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checked_id = checked_uuid if field_for_task_id == "Uuid" else checked_task_id
        self._rows = RowEncoder(self.serializer)
        self._endings = Endings(
            self._rows, self._checked_id, lambda: self._new_writer(self._connections_apart)
        )
        server: dict[str, Any] = {
            "dsn": dsn,
            "pool": pool,
            "retry_for": write_timeout,
            "pool_kwargs": pool_kwargs,
        }
        self._connections = Connections(**server)
        self._connections_apart = ConnectionsApart(**server)
        self._patience = max(_LEAST_PATIENCE, self._connections.retry_for)
        self._make_parts()
        self._connections.watch_forks(self._forget_parents)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.names}, {self.serializer.name}>"

    async def __aenter__(self) -> Self:
        await self.startup()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()

    async def startup(self) -> None:
        """Open the pool and bring the tables to the version needed, as ``migrate`` says.

        Does nothing when that is done already. What was started in an event loop that has been
        closed since is given up, and started anew.

        Raises:
            psycopg.OperationalError: the server refuses the connection, as with a wrong password.
            WriteTimeoutError: it could not be reached for ``write_timeout`` seconds.
            SchemaError: the tables are not what this release needs, or not ours.
            NotStartedError: it is started in another event loop, which has not been closed.
        """
        self._move_here()
        async with self._coming_or_going:
            if self._closing is not None and not self._closing.done():
                await asyncio.wait({self._closing})
            if self._connections.is_open:
                return
            await self._connections.open()
            self._make_parts()
            try:
                if self._migrate == "auto":
                    await self.migrate()
                elif self._migrate == "verify":
                    await self.verify()
            except BaseException:  # cancelled or failed, the pool must not stay open
                await self._close()
                raise
            self._endings.may_be_late = True

    async def shutdown(self) -> None:
        """Write all that was accepted and close the pool, unless it was lent.

        Results that come meanwhile are stored too. What gets no further for ``write_timeout``
        seconds, three at least, is given up, and whoever waits for it is told by a
        ``WriteTimeoutError``.

        Raises:
            NotStartedError: it is started in another event loop, which has not been closed.
        """
        self._move_here()
        async with self._coming_or_going:
            try:
                await self._writer.close(self._patience)
                # Attempts that come to nothing are taken back until then.
                await self._remover.close(self._patience)
                await self._reader.close(self._patience)
            finally:  # cancelled, it must not stay half open
                await self._close()
            await self._endings.write_late(self._patience)

    async def migrate(self) -> None:
        """Apply the migrations that are missing, and make functions and views that are.

        What is added to tables that are there belongs to their owner, where this role may be it.

        Raises:
            SchemaError: the tables are not what this release needs, or not ours, or this role may
                not make or upgrade them.
        """
        await self._connections.run(self._schema.apply)

    async def verify(self) -> None:
        """Check the tables' version, and what is needed beside them; warn of missing views.

        Raises:
            SchemaVersionError: with the versions found and needed, and what to run.
            ForeignTableError: a table of that name is not ours.
            SchemaError: the progress table or a function that reads need is missing.
        """
        await self._connections.run(self._schema.verify)

    def schema_sql(self, since: int = 0) -> str:
        """Return the SQL that makes everything, for those who run it themselves.

        It is for one transaction: outside of one its first statement fails.

        Args:
            since: the version that the tables have, as their comment says it; then only what
                brings them up to date. Of the newest version, that makes functions and views anew.
                0 where there are none.

        Raises:
            ConfigurationError: there is no such version.
        """
        return self._schema.script(since)

    async def get(self, task_id: str) -> TaskRecord:
        """Return the record of one task, finished or not.

        Raises:
            TaskNotFoundError: there is none.
        """
        records = await self.get_many([task_id])
        if task_id not in records:
            raise TaskNotFoundError(f"The table {self.names} has no task {task_id!r}.")
        return records[task_id]

    async def get_many(self, task_ids: Iterable[str]) -> dict[str, TaskRecord]:
        """Return the records of those tasks that have one, by the ids as they were given."""
        return await self._as_given(task_ids, self._reader.records)

    @coroutine_function
    def set_result(self, task_id: str, outcome: Outcome) -> Coroutine[Any, Any, None]:
        """Store how a task ended; it has a readable end when this returns.

        A value that cannot be stored, or that the server refuses, becomes a FAILURE that says why.
        That of a task which has outlived ``shutdown()``, or that runs in another event loop, is
        stored over a connection of its own.

        Raises:
            InvalidTaskIdError: the id cannot be stored.
            ConfigurationError: it is no ``Outcome``.
            NotStartedError: before ``startup()``.
            WriteTimeoutError: the server stayed away.
            psycopg.Error: a table or a right is missing, and stayed so for a while.
        """
        return self._endings.store(task_id, outcome)

    async def record_state(
        self,
        task_id: str,
        status: Status | str,
        info: TaskInfo,
        error: BaseException | None = None,
    ) -> None:
        """Store that a task is QUEUED, STARTED or will be retried.

        Never changes the row of a task that has ended, or of a later attempt.

        Raises:
            ConfigurationError: there is no such status, or it is an end, as ``set_result()`` stores
                it.
        """
        state = checked_state(status)
        check_type("info", info, TaskInfo)
        row = self._rows.state(self._checked_id(task_id), state, info, error)
        await self._writer.states.submit(row)

    async def discard_state(self, task_id: str, info: TaskInfo) -> None:
        """Forget an attempt that leaves no result."""
        check_type("info", info, TaskInfo)
        started_at = aware(info.started_at)
        if started_at is not None:
            await self._remover.discards.submit((self._checked_id(task_id), started_at))

    @coroutine_function
    def is_ready(self, task_id: str, timeout: float = 0) -> Coroutine[Any, Any, bool]:
        """Whether the task has ended, after ``timeout`` seconds at most.

        Raises:
            ConfigurationError: the timeout is no time.
        """
        return self._waiter.is_ready(task_id, timeout)

    async def delete(self, task_id: str) -> bool:
        """Delete a task's result and progress; whether there was a result."""
        return await self._remover.deletions.submit(self._checked_id(task_id))

    async def set_progress(self, task_id: str, progress: Progress) -> None:
        """Store what a task says of its progress; the last write wins.

        Raises:
            ResultEncodeError: the meta cannot be stored.
            ConfigurationError: it is no ``Progress``.
            WriteTimeoutError: the server stayed away.
            psycopg.Error: a table or a right is missing.
        """
        check_type("progress", progress, Progress)
        row = self._rows.progress(self._checked_id(task_id), progress)
        try:
            await self._writer.progress.submit(row)
        except Exception as error:
            if not is_row_error(error):
                raise
            raise refused_progress(task_id, progress, error) from error

    async def get_progress(self, task_id: str) -> Progress | None:
        """Return what a task last said of its progress."""
        stored = await self._reader.progress.submit(self._checked_id(task_id))
        return None if stored is None else self._reader.decode_progress(stored)

    async def get_outcome(self, task_id: str) -> Outcome:
        """Return how a task ended.

        Raises:
            TaskNotFoundError: it has not, or there is no such task.
            ResultDecodeError: what stands in the row cannot be decoded.
        """
        return await self.read_outcome(task_id, Outcome)

    async def read_outcome(self, task_id: str, make: Callable[..., MadeT]) -> MadeT:
        """Return an outcome in a form of your own; raises what ``get_outcome`` does.

        Args:
            task_id: the task's id.
            make: is called with the fields of an ``Outcome`` but the last, in their order.
        """
        checked = self._checked_id(task_id)
        stored = await self._reader.results.submit(checked)
        if stored is Heavy.RESULT:
            stored = await self._reader.heavy_result(checked)
        if stored is None:
            raise TaskNotFoundError(
                f"The table {self.names} has no result of task {task_id!r}: it has not finished, "
                "or its result has expired or been deleted."
            )
        return self._reader.outcome(stored, make)

    async def wait(
        self, task_ids: Iterable[str], timeout: float | None = None
    ) -> dict[str, TaskRecord]:
        """Return the records of tasks when all have ended, by the ids as they were given.

        Raises:
            WaitTimeoutError: some have not ended after ``timeout`` seconds, or their records could
                not be read; it names them.
            ConfigurationError: the timeout is no time.
        """
        return await self._as_given(task_ids, partial(self._waiter.all_records, timeout=timeout))

    async def as_completed(
        self, task_ids: Iterable[str], timeout: float | None = None
    ) -> AsyncIterator[TaskRecord]:
        """Yield the records of tasks as they end.

        Raises:
            WaitTimeoutError: some have not ended after ``timeout`` seconds, or their records could
                not be read; it names them.
            ConfigurationError: the timeout is no time.
        """
        async for record in self._waiter.records(listed(task_ids), timeout):
            yield record

    async def watch_progress(self, task_id: str) -> AsyncIterator[Progress]:
        """Yield what a task says of its progress as it says it, until it has ended.

        A task that never ends, or that nobody has sent, is watched for ever.
        """
        async for progress in self._waiter.progress(task_id):
            yield progress

    async def _as_given(
        self,
        task_ids: Iterable[str],
        read: Callable[[list[str]], Awaitable[dict[str, TaskRecord]]],
    ) -> dict[str, TaskRecord]:
        """Return the records that are read of tasks, by the ids as they were given."""
        given = {task_id: self._checked_id(task_id) for task_id in listed(task_ids)}
        records = await read(list(dict.fromkeys(given.values())))
        return {
            task_id: records[checked] for task_id, checked in given.items() if checked in records
        }

    async def _close(self) -> None:
        """Close the connections; to the end, though whoever waits for that is cancelled."""
        if self._closing is None or self._closing.done():
            self._closing = asyncio.get_running_loop().create_task(self._close_connections())
        await asyncio.shield(self._closing)

    async def _close_connections(self) -> None:
        await self._listener.close()
        await self._connections.close()

    def _move_here(self) -> None:
        """Belong to the running event loop, and forget what belongs to another.

        Raises:
            NotStartedError: that one has neither been closed nor left by ``shutdown()``.
        """
        former, here = self._loop, asyncio.get_running_loop()
        if former is not None and former is not here:
            is_in_use = self._connections.is_open or self._coming_or_going.locked()
            if is_in_use and not former.is_closed():
                raise NotStartedError(
                    f"The store of {self.names} was started in another event loop: shut it down "
                    "there first, or make a store for each loop."
                )
            self._closing = None
            self._coming_or_going = asyncio.Lock()
            self._connections.give_up()
            self._make_parts()
        self._loop = here

    def _forget_parents(self) -> None:
        """Forget what a fork has copied of the process that it comes from."""
        self._loop = self._closing = None
        self._endings.forget_parents()
        self._coming_or_going = asyncio.Lock()
        self._make_parts()

    def _make_parts(self) -> None:
        self._writer = self._endings.writer = self._new_writer(self._connections)
        self._remover = Remover(self._connections, self.names, lanes=_WRITE_LANES)
        self._reader = Reader(self._connections, self.names, self.serializer, lanes=_READ_LANES)
        self._listener = Listener(
            self._connections, self.names, self._reader.ready_among, enabled=self._notify
        )
        self._waiter = Waiter(self._reader, self._listener, self._checked_id)
        self._connect_queries(self._connections, self.names, self.serializer, self._reader)

    def _new_writer(self, connections: Connections) -> Writer:
        return Writer(
            connections,
            self.names,
            serializer_name=self.serializer.name,
            ttl=self._ttl,
            notify=self._notify,
            lanes=_WRITE_LANES,
        )
