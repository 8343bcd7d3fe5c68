"""The part of a store that searches and analyses: what its users call, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from taskiq_pg_json.store.arguments import check_limit
from taskiq_pg_json.store.queries import DEFAULT_TIMEOUT, QueryRunner
from taskiq_pg_json.store.rollup import Rollup
from taskiq_pg_json.store.search import Searcher, View
from taskiq_pg_json.store.statistics import Statistician
from taskiq_pg_json.store.typed_views import TypedViews

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence
    from datetime import timedelta

    from typing_extensions import Unpack

    from taskiq_pg_json.records import FailureGroup, Page, ReturnT, Rows, StatsRow, TaskRecord
    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.serializer.protocol import ResultSerializer
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.filters import FilterArguments
    from taskiq_pg_json.store.reads import Reader
    from taskiq_pg_json.store.search import LoadedColumn, SearchArguments, StreamArguments
    from taskiq_pg_json.store.statistics import Bucket, GroupKey
    from taskiq_pg_json.store.tasks import AsyncTask, Task


class Searchable:
    """Questions to a store.

    All take the filters of ``FilterArguments`` as keywords, and ``task=``, a task of taskiq's in
    the place of its name. Rows that have expired are not seen.
    """

    _rollup: Rollup
    _searcher: Searcher
    _statistician: Statistician
    _typed_views: TypedViews

    @overload
    async def search(
        self, *, task: AsyncTask[ReturnT], **arguments: Unpack[SearchArguments]
    ) -> Page[TaskRecord[ReturnT]]: ...

    @overload
    async def search(
        self, *, task: Task[ReturnT] | None = None, **arguments: Unpack[SearchArguments]
    ) -> Page[TaskRecord[ReturnT]]: ...

    async def search(
        self,
        *,
        task: Task[Any] | None = None,
        load: Collection[LoadedColumn] | None = None,
        order_by: str = "-finished_at",
        limit: int = 50,
        cursor: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        **filters: Unpack[FilterArguments],
    ) -> Page[TaskRecord[Any]]:
        """Return one page of the records that the filters find.

        Args:
            task: the task whose results are wanted; its return annotation types the records, and
                the return values of rows that bear no types of their own.
            load: the columns to load, of ``return_value``, ``error``, ``args``, ``kwargs``,
                ``labels`` and ``progress``; None for all.
            order_by: ``finished_at``, ``started_at``, ``queued_at``, ``execution_time`` or
                ``task_id``; with ``-`` before it the largest first. Rows without such a value are
                the largest.
            limit: records on the page, at most 1,000.
            cursor: a page's ``next_cursor`` or ``previous_cursor``.
            timeout: seconds that the server may spend; None for no limit.
            filters: what to look for.

        Raises:
            FilterError: an argument that cannot work.
            SearchTimeoutError: it took longer than ``timeout``.
        """
        return await self._searcher.page(
            filters,
            view=View(task, load),
            order_by=order_by,
            limit=limit,
            cursor=cursor,
            timeout=timeout,
        )

    @overload
    def iterate(
        self, *, task: AsyncTask[ReturnT], **arguments: Unpack[StreamArguments]
    ) -> AsyncIterator[TaskRecord[ReturnT]]: ...

    @overload
    def iterate(
        self, *, task: Task[ReturnT] | None = None, **arguments: Unpack[StreamArguments]
    ) -> AsyncIterator[TaskRecord[ReturnT]]: ...

    def iterate(
        self,
        *,
        task: Task[Any] | None = None,
        load: Collection[LoadedColumn] | None = None,
        order_by: str = "-finished_at",
        timeout: float | None = DEFAULT_TIMEOUT,
        **filters: Unpack[FilterArguments],
    ) -> AsyncIterator[TaskRecord[Any]]:
        """Give every record that the filters find, in constant memory.

        The rows come from a cursor on the server, which keeps a connection busy until the loop has
        ended. ``timeout`` is for each batch of rows; the arguments are those of ``search()``.
        """
        return self._searcher.stream(
            filters, view=View(task, load), order_by=order_by, timeout=timeout
        )

    async def count(
        self,
        *,
        task: Task[object] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        **filters: Unpack[FilterArguments],
    ) -> int:
        """Return how many records the filters find; the arguments are those of ``search()``."""
        return await self._searcher.count(filters, task=task, timeout=timeout)

    async def stats(
        self,
        *,
        task: Task[object] | None = None,
        by: GroupKey | Sequence[GroupKey] = ("task_name",),
        bucket: Bucket | timedelta | None = None,
        percentiles: Sequence[float] = (50, 95, 99),
        timeout: float | None = DEFAULT_TIMEOUT,
        **filters: Unpack[FilterArguments],
    ) -> Rows[StatsRow]:
        """Return how many tasks ended, how many failed, how long they ran and had waited.

        Args:
            task: as in ``search()``.
            by: what to group by: ``task_name``, ``status``, ``worker``, ``error_type``; or nothing.
            bucket: the spans of time to divide the groups into, which begin at round times in UTC:
                ``"minute"``, ``"hour"``, ``"day"``, ``"week"`` or a timedelta. From ``since`` to
                ``until`` none is left out.
            percentiles: the percentages to give durations of; within 1 % from the rollup or
                without a bucket, and exact otherwise.
            timeout: as in ``search()``.
            filters: which tasks to look at.

        Raises:
            FilterError: an argument that cannot work.
            SearchTimeoutError: it took longer than ``timeout``.
        """
        return await self._statistician.stats(
            filters,
            task=task,
            by=by,
            bucket=bucket,
            percentiles=percentiles,
            timeout=timeout,
        )

    async def refresh_rollup(self, *, timeout: float | None = None) -> int:
        """Count the hours that the hourly rollup lacks, or whose rows have changed since.

        ``stats()`` does a little of this by itself; a store that is asked rarely, or was filled at
        once, answers faster after it. Any number of processes may call it at once: one counts.

        Args:
            timeout: seconds after which no further hour is begun; None for no limit.

        Returns:
            How many hours were counted: none in a session that only reads, nor for a role from
            which row security may hide results.

        Raises:
            ConfigurationError: the timeout is no time.
            psycopg.errors.InsufficientPrivilege: the role may not write the rollup.
        """
        check_limit(timeout)
        return await self._rollup.refresh(timeout)

    async def failures(
        self,
        *,
        task: Task[object] | None = None,
        samples: int = 3,
        limit: int = 100,
        timeout: float | None = DEFAULT_TIMEOUT,
        **filters: Unpack[FilterArguments],
    ) -> Rows[FailureGroup]:
        """Return the failures by their cause, the most frequent first.

        Args:
            task: as in ``search()``.
            samples: task ids to give of each cause.
            limit: causes to give.
            timeout: as in ``search()``.
            filters: which failures to look at.

        Raises:
            FilterError: an argument that cannot work.
            SearchTimeoutError: it took longer than ``timeout``.
        """
        return await self._statistician.failures(
            filters, task=task, samples=samples, limit=limit, timeout=timeout
        )

    async def create_view(
        self, task: Task[object], *, name: str | None = None, index: Sequence[str] = ()
    ) -> str:
        """Make a view of a task's results, from what the task's return annotation says.

        Each field of a dataclass, pydantic model or TypedDict is a column of an SQL type; another
        value is one column, ``value``. What does not fit its type is NULL. Call it again when the
        fields have changed; grants on the view are lost where a column went or changed its type.

        Args:
            task: the task.
            name: the view's name behind the table's; None for the task's own.
            index: the fields to make an index of; other indexes of the view are dropped.

        Returns:
            The view's name.

        Raises:
            ConfigurationError: the task has no return annotation, or a name or index cannot work.
            ForeignTableError: something else bears that name.
        """
        return await self._typed_views.create(task, name, index)

    async def drop_view(self, task: Task[object], *, name: str | None = None) -> bool:
        """Drop the view that ``create_view()`` made, and its indexes; whether there was one.

        Raises:
            ForeignTableError: what bears that name is not the view of this task.
        """
        return await self._typed_views.drop(task, name)

    def _connect_queries(
        self,
        connections: Connections,
        names: Names,
        serializer: ResultSerializer,
        reader: Reader,
    ) -> None:
        runner = QueryRunner(connections, names)
        self._searcher = Searcher(runner, reader, serializer)
        self._typed_views = TypedViews(connections, names)
        self._rollup = Rollup(connections, names)
        self._statistician = Statistician(runner, self._searcher, serializer, self._rollup)
