"""Searches records: page by page, all of them in a stream, or only how many there are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from taskiq_pg_json.errors import FilterError, NotLoadedError
from taskiq_pg_json.records import Page
from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.cursors import Cursor, Order
from taskiq_pg_json.store.filters import FilterArguments, Filters, paths_of
from taskiq_pg_json.store.fragments import Fragments, compose
from taskiq_pg_json.store.reads import Reader, StoredRecord
from taskiq_pg_json.store.tasks import coercing, is_task

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from taskiq_pg_json.records import Decode, TaskRecord
    from taskiq_pg_json.serializer.protocol import ResultSerializer
    from taskiq_pg_json.store.queries import QueryRunner
    from taskiq_pg_json.store.tasks import Task

LoadedColumn = Literal["return_value", "error", "args", "kwargs", "labels", "progress"]
"""A column of a record that need not be loaded."""


class StreamArguments(FilterArguments, total=False):
    """The arguments of ``iterate()``, but for ``task``."""

    load: Collection[LoadedColumn] | None
    order_by: str
    timeout: float | None


class SearchArguments(StreamArguments, total=False):
    """The arguments of ``search()``, but for ``task``."""

    limit: int
    cursor: str | None


MAX_LIMIT = 1_000
"""Records on one page; ``iterate()`` has no limit."""

_LOADED_COLUMNS = get_args(LoadedColumn)
_JSON_COLUMNS = tuple(column for column in _LOADED_COLUMNS if column != "progress")
_TYPES = StoredRecord._fields.index("types")
_BATCH = 500  # rows in memory of a stream


@dataclass(frozen=True, slots=True)
class View:
    """How rows become records.

    Attributes:
        task: the task whose return annotation types plain values.
        load: the columns to load; None for all.

    Raises:
        FilterError: there is no such column.
    """

    task: Task[Any] | None = None
    load: Collection[LoadedColumn] | None = None

    def __post_init__(self) -> None:
        if self.load is not None and not (
            isinstance(self.load, Collection)
            and not isinstance(self.load, str)
            and all(column in _LOADED_COLUMNS for column in self.load)
        ):
            raise FilterError(
                f"load={self.load!r}: give some of {', '.join(_LOADED_COLUMNS)}, as a list; the "
                "other columns are always loaded."
            )

    def loads(self, column: str) -> bool:
        """Whether a column is loaded."""
        return self.load is None or column in self.load

    def record(self, reader: Reader, columns: Sequence[Any]) -> TaskRecord[Any]:
        """Make a record of a row."""
        record = reader.record(columns)
        if self.task is not None:
            record = record.decoded_by(coercing(self.task, columns[_TYPES]))
        if self.load is not None:
            record = record.decoded_by(self._loaded_only)
        return record

    def _loaded_only(self, decode: Decode) -> Decode:
        def decode_loaded(column: str) -> object:
            if not self.loads(column):
                raise NotLoadedError(
                    f"The search was told load={list(self.load or ())!r}, so that there is no "
                    f"{column} here: add it to load=, or get the whole record with get()."
                )
            return decode(column)

        return decode_loaded


class Searcher:
    """Finds records by what is in them."""

    def __init__(self, runner: QueryRunner, reader: Reader, serializer: ResultSerializer) -> None:
        self._runner = runner
        self._reader = reader
        self._serializer = serializer

    async def page(
        self,
        given: FilterArguments,
        *,
        view: View,
        order_by: str,
        limit: int,
        cursor: str | None,
        timeout: float | None,
    ) -> Page[TaskRecord[Any]]:
        """Return one page of the records that the filters find."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MAX_LIMIT:
            raise FilterError(f"limit={limit!r}: give 1 to {MAX_LIMIT}, or use iterate() for all.")
        order = Order.parse(order_by)
        start = Cursor.decode(cursor, order) if cursor is not None else None
        backwards = start is not None and start.backwards
        walked = order.reversed() if backwards else order
        filters = await self.filters(given, view.task)
        fragments = Fragments(self._serializer)
        rows: dict[str, Any] = {}  # by task id: a task that ends meanwhile is at both positions
        more = False
        for position in walked.positions(fragments, start):
            missing = limit + 1 - len(rows)
            if not more:
                query = _query(fragments, filters, view, walked, position)
                values = {**fragments.values, "task_names": filters.task_names, "limit": missing}
                found = await self._runner.fetch(query, values, timeout)
                more = len(found) == missing
                for columns in found:
                    rows.setdefault(columns[0], columns)
        records = [view.record(self._reader, columns) for columns in list(rows.values())[:limit]]
        return _as_page(records[:: -1 if backwards else 1], order, start, more=more)

    async def stream(
        self, given: FilterArguments, *, view: View, order_by: str, timeout: float | None
    ) -> AsyncIterator[TaskRecord[Any]]:
        """Give all records that the filters find, from a cursor on the server."""
        order = Order.parse(order_by)
        filters = await self.filters(given, view.task)
        fragments = Fragments(self._serializer)
        (position,) = order.positions(fragments, None)
        query = _query(fragments, filters, view, order, position, limited=False)
        values = {**fragments.values, "limit": None}
        async with self._runner.stream(query, values, batch=_BATCH, timeout=timeout) as rows:
            async for columns in rows:
                yield view.record(self._reader, columns)

    async def count(
        self, given: FilterArguments, *, task: Task[Any] | None, timeout: float | None
    ) -> int:
        """Return how many records the filters find."""
        filters = await self.filters(given, task)
        fragments = Fragments(self._serializer)
        query = compose("count", conditions=filters.visible(fragments))
        ((found,),) = await self._runner.fetch(query, fragments.values, timeout)
        return int(found)

    async def filters(self, given: FilterArguments, task: Task[Any] | None) -> Filters:
        """Check filters, the SQL/JSON paths among them by the server.

        Raises:
            FilterError: one that cannot work.
        """
        if task is not None:
            if not is_task(task):
                raise FilterError(f"task={task!r} is no task; its name is given as task_name=.")
            if "task_name" in given:
                raise FilterError("task= and task_name= say the same: give one of them.")
            given = {**given, "task_name": task.task_name}
        return Filters(given, await self._runner.are_predicates(paths_of(given)))


def _query(
    fragments: Fragments,
    filters: Filters,
    view: View,
    order: Order,
    position: str,
    *,
    limited: bool = True,
) -> str:
    """Return the SQL of one page; of all rows at once, unless they are limited."""
    columns = {
        column: compose("loaded" if view.loads(column) else "left_out", column=column)
        for column in _JSON_COLUMNS
    }
    # Any value may be in the pickles of its row.
    loads_values = any(map(view.loads, _JSON_COLUMNS))
    pickled = compose("loaded" if loads_values else "pickles_left_out", column="pickled")
    rest = filters.visible_of_any_task(fragments)
    by_index = limited and order.is_walked and fragments.is_indexed(rest)
    # The index of tasks sorts them by their end alone; and with no limit, the rows of each task
    # would all be sorted before the first is there.
    by_task = limited and order.column == "finished_at" and not by_index
    several = by_task and len(filters.task_names) > 1
    page = compose(
        "page_by_index" if by_index else "page",
        page_columns=compose("page_columns", **columns, pickled=pickled),
        conditions=fragments.all_of([filters.tasks(fragments, each_task=several), rest]),
        has_json_index=compose("has_json_index"),
        walked=filters.walked(fragments, order.column) if by_index else "",
        present=fragments.present(rest) if by_index else "",
        position=position,
        order=order.sql(),
    )
    if several:
        page = compose("page_of_tasks", page=page, order=order.sql())
    return compose(
        "search",
        record_columns=queries()["record_columns"],
        page=page,
        progress_join=compose("progress_loaded" if view.loads("progress") else "progress_left_out"),
        order=order.sql(),
    )


def _as_page(
    records: Sequence[TaskRecord[Any]], order: Order, start: Cursor | None, *, more: bool
) -> Page[TaskRecord[Any]]:
    """Make a page of records that were found from a cursor on, in the order asked for."""
    backwards = start is not None and start.backwards
    if not records:
        back = None if start is None else start.turned_round().encode()
        return Page((), back if backwards else None, None if backwards else back)
    has_next = backwards or more
    has_previous = more if backwards else start is not None
    return Page(
        records,
        Cursor.at(records[-1], order, backwards=False).encode() if has_next else None,
        Cursor.at(records[0], order, backwards=True).encode() if has_previous else None,
    )
