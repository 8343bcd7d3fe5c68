"""Views of one task's results, with the fields of its return value as columns of SQL types."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from taskiq_pg_json.errors import ConfigurationError, ForeignTableError
from taskiq_pg_json.schema import queries
from taskiq_pg_json.schema.names import MAX_IDENTIFIER_BYTES
from taskiq_pg_json.store.columns import FieldColumn, columns_of
from taskiq_pg_json.store.tasks import return_type

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connection, Connections
    from taskiq_pg_json.store.tasks import Task

_OWN_COLUMNS = frozenset({"task_id", "finished_at", "execution_time"})
_UNINDEXABLE = frozenset({"timestamptz", "date", "interval", "jsonb"})


class TypedViews:
    """Makes and drops the views of tasks."""

    def __init__(self, connections: Connections, names: Names) -> None:
        self._connections = connections
        self._names = names

    async def create(self, task: Task[Any], name: str | None, index: Sequence[str]) -> str:
        """Make the view of a task, or make it anew; its name.

        Raises:
            ConfigurationError: the task has no return annotation, or a name or index cannot work.
            ForeignTableError: something else bears the view's name.
        """
        annotation = return_type(task.original_func)
        if annotation in {inspect.Signature.empty, type(None)}:
            raise ConfigurationError(
                f"The task {task.task_name} has no return annotation that can be resolved, so that "
                "there is nothing to make columns of: annotate what it returns."
            )
        view = _View(self._names, task.task_name, name, _named(columns_of(annotation)))
        indexes = {view.index_name(field): view.indexed(field) for field in index}

        async def operation(connection: Connection) -> None:
            await self._check_owner(connection, view)
            try:
                await connection.execute(view.statement("create_typed_view"))
            except psycopg.errors.InvalidTableDefinition:
                # The fields have changed: only new columns at the end can be had by replacing.
                async with connection.transaction():
                    await connection.execute(view.statement("drop_typed_view"))
                    await connection.execute(view.statement("create_typed_view"))
            await connection.execute(view.statement("comment_typed_view"))
            await self._keep_indexes(connection, view, indexes)

        await self._connections.run(operation)
        return view.name

    async def drop(self, task: Task[Any], name: str | None) -> bool:
        """Drop the view of a task and its indexes; whether there was one."""
        view = _View(self._names, task.task_name, name, {})

        async def operation(connection: Connection) -> bool:
            await self._keep_indexes(connection, view, {})
            if not await self._check_owner(connection, view):
                return False
            await connection.execute(view.statement("drop_typed_view"))
            return True

        return await self._connections.run(operation)

    async def _check_owner(self, connection: Connection, view: _View) -> bool:
        """Whether the view is there.

        Raises:
            ForeignTableError: something of that name is, and it is not a view of this task.
        """
        cursor = await connection.execute(
            queries()["view_comment"].encode(), {"view": view.relation.as_string()}
        )
        kind, comment = await cursor.fetchone() or (None, None)
        if kind is not None and comment != view.comment:
            raise ForeignTableError(
                f"{view.name} exists and is not the view of the task {view.task_name}: it is left "
                "as it is. Give another name=."
            )
        return kind is not None

    async def _keep_indexes(
        self, connection: Connection, view: _View, wanted: Mapping[str, sql.Composable]
    ) -> None:
        """Drop the view's indexes that are not wanted or not whole, and make those that lack."""
        cursor = await connection.execute(
            queries()["field_indexes"].encode(),
            {
                "table": self._names.relation().as_string(),
                "comment": view.comment,
                "wanted": list(wanted),
            },
        )
        for index, is_whole in await cursor.fetchall():
            if index not in wanted or not is_whole:
                name = self._qualified(index)
                await connection.execute(_bound("drop_field_index", index=name))
        for index, expression in wanted.items():
            await connection.execute(
                view.statement(
                    "create_field_index", index=sql.Identifier(index), expression=expression
                )
            )
            await connection.execute(
                view.statement("comment_field_index", index=self._qualified(index))
            )

    def _qualified(self, name: str) -> sql.Identifier:
        schema = self._names.schema
        return sql.Identifier(schema, name) if schema else sql.Identifier(name)


@dataclass(frozen=True)
class _View:
    """The view of one task: its name, its columns, and the SQL of both."""

    names: Names
    task_name: str
    given_name: str | None
    columns: Mapping[str, FieldColumn]

    def __post_init__(self) -> None:
        if self.relation_name in self.names.companions():
            raise ConfigurationError(
                f"name={self.suffix!r}: {self.relation_name} is one of the store's own views; give "
                "another name=."
            )

    @property
    def suffix(self) -> str:
        """The view's name without the table's."""
        if self.given_name is not None:
            return self.given_name
        return self.task_name.rpartition(":")[2].rpartition(".")[2]

    @property
    def relation_name(self) -> str:
        """The view's name without the schema."""
        return self.names.derived(self.suffix)

    @property
    def relation(self) -> sql.Identifier:
        """The view's qualified name."""
        schema = self.names.schema
        name = self.relation_name
        return sql.Identifier(schema, name) if schema else sql.Identifier(name)

    @property
    def name(self) -> str:
        """The view's name as people write it."""
        schema = self.names.schema
        return f"{schema}.{self.relation_name}" if schema else self.relation_name

    @property
    def comment(self) -> str:
        """What tells the view from others."""
        return f"taskiq-pg-json: the results of the task {self.task_name}."

    def statement(self, query: str, **parts: sql.Composable) -> sql.Composed:
        """Return a statement about the view."""
        columns = [
            _bound("field_column", expression=_expression(column), field=sql.Identifier(name))
            for name, column in self.columns.items()
        ]
        return _bound(
            query,
            view=self.relation,
            results=self.names.relation(),
            columns=sql.SQL(", ").join(columns),
            task_name=sql.Literal(self.task_name),
            comment=sql.Literal(self.comment),
            **parts,
        )

    def index_name(self, field: str) -> str:
        """Return the name of a field's index, which differs where the field's type does."""
        column = self._column(field)
        return self.names.derived(f"{self.suffix}_{field}_{column.kind}_idx")

    def indexed(self, field: str) -> sql.Composed:
        """Return the expression of a field's index.

        Raises:
            ConfigurationError: no such field, or one whose type no index can hold.
        """
        column = self._column(field)
        if column.kind in _UNINDEXABLE:
            raise ConfigurationError(
                f"index: the field {field} is of the SQL type {column.kind}, whose value may "
                "depend on a session's settings, so that PostgreSQL cannot index it: search for it "
                "with return_value= or where=, which have an index."
            )
        return _expression(column)

    def _column(self, field: str) -> FieldColumn:
        if field not in self.columns:
            raise ConfigurationError(
                f"index: {self.task_name} returns no field {field!r}; there are "
                f"{', '.join(self.columns)}."
            )
        return self.columns[field]


def _named(columns: Sequence[FieldColumn]) -> dict[str, FieldColumn]:
    """Return the columns by name; one that the view has already gets ``value_`` before it."""
    named = {}
    for column in columns:
        name = column.key or "value"
        if name in _OWN_COLUMNS:
            name = f"value_{name}"
        if len(name.encode()) > MAX_IDENTIFIER_BYTES:
            raise ConfigurationError(
                f"The field {name} cannot be a column: PostgreSQL cuts names at "
                f"{MAX_IDENTIFIER_BYTES} bytes."
            )
        named[name] = column
    return named


def _expression(column: FieldColumn) -> sql.Composed:
    if column.key is None:
        value = _bound("whole_value")
    else:
        value = _bound("field_value", key=sql.Literal(column.key))
    return _bound(f"as_{column.kind}", value=value)


def _bound(query: str, **parts: sql.Composable) -> sql.Composed:
    # The text comes from the project's own SQL files, never from a user.
    return sql.SQL(queries()[query]).format(**parts)
