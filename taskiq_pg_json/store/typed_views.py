"""Views of one task's results, with the fields of its return value as columns of SQL types."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from types import NoneType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncClientCursor, IsolationLevel, sql
from psycopg.rows import tuple_row

from taskiq_pg_json.errors import ConfigurationError, ForeignTableError
from taskiq_pg_json.schema import PlainCursor, missing_schema, queries
from taskiq_pg_json.schema.names import MAX_IDENTIFIER_BYTES, check_identifier
from taskiq_pg_json.serializer.text import is_clean
from taskiq_pg_json.store.columns import FieldColumn, columns_of, indexed
from taskiq_pg_json.store.fragments import compose, read_as
from taskiq_pg_json.store.sessions import closing
from taskiq_pg_json.store.tasks import is_task, return_type

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.sessions import Connection
    from taskiq_pg_json.store.tasks import Task

_LOCK_POLL = 0.05  # seconds
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


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
        _check_task(task)
        annotation = return_type(task.original_func)
        if annotation is inspect.Signature.empty or annotation is NoneType:
            raise ConfigurationError(
                f"The task {task.task_name} returns None, or has no return annotation that can be "
                "resolved, so that there is nothing to make columns of: annotate what it returns."
            )
        columns = columns_of(annotation)
        wanted = indexed(columns, index)
        view = _View(self._names, task.task_name, name, columns | wanted)
        indexes = {view.index_name(field): _expression(wanted[field]) for field in wanted}

        async def operation(connection: Connection) -> None:
            async with self._alone():
                async with connection.transaction():
                    await self._replace(connection, view)
                await self._keep_indexes(connection, view, indexes)

        await self._connections.run(operation)
        return view.name

    async def drop(self, task: Task[Any], name: str | None) -> bool:
        """Drop the view of a task and its indexes; whether there was one."""
        _check_task(task)
        view = _View(self._names, task.task_name, name, {})

        async def operation(connection: Connection) -> bool:
            async with self._alone():
                is_there = await self._check_owner(connection, view)
                if is_there:
                    await PlainCursor(connection).execute(view.statement("drop_typed_view"))
                await self._keep_indexes(connection, view, {})
                return is_there

        return await self._connections.run(operation)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep others from changing the views of this table, whichever process they are in.

        The lock has a connection of its own, for an index that is built concurrently allows no
        transaction around it; nor would it end while one waits for a lock or holds a snapshot, as
        the last statement with bound parameters does.

        Raises:
            SchemaError: the search_path has no schema.
        """
        values = {"schema": self._names.schema, "table": self._names.table}
        async with closing(await self._connections.connect()) as connection:
            await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
            while True:
                async with connection.transaction():
                    cursor = AsyncClientCursor(connection, row_factory=tuple_row)
                    await cursor.execute(queries()["schema_lock"].encode(), values)
                    ((locked,),) = await cursor.fetchall()
                    if locked is None:
                        raise missing_schema(self._names)
                    if locked:
                        yield
                        return
                await asyncio.sleep(_LOCK_POLL)

    async def _replace(self, connection: Connection, view: _View) -> None:
        await self._check_owner(connection, view)
        try:
            async with connection.transaction():
                await PlainCursor(connection).execute(view.statement("create_typed_view"))
        except psycopg.errors.InvalidTableDefinition:
            # The fields have changed: only new columns at the end can be had by replacing.
            privileges = await self._privileges(connection, view)
            await PlainCursor(connection).execute(view.statement("drop_typed_view"))
            await PlainCursor(connection).execute(view.statement("create_typed_view"))
            for grant in privileges:
                await PlainCursor(connection).execute(grant)
        await PlainCursor(connection).execute(view.statement("comment_typed_view"))

    @staticmethod
    async def _privileges(connection: Connection, view: _View) -> list[sql.Composed]:
        """Return the statements that grant what others may do with the view."""
        cursor = await PlainCursor(connection).execute(
            queries()["typed_view_privileges"].encode(), {"view": view.relation.as_string()}
        )
        return [
            view.statement(
                "grant_typed_view",
                privilege=sql.SQL(privilege),
                role=sql.SQL("PUBLIC") if role is None else sql.Identifier(role),
                option=sql.SQL("WITH GRANT OPTION" if is_grantable else ""),
            )
            for privilege, role, is_grantable in await cursor.fetchall()
        ]

    async def _check_owner(self, connection: Connection, view: _View) -> bool:
        """Whether the view is there.

        Raises:
            ForeignTableError: something of that name is, and it is not a view of this task.
        """
        cursor = await PlainCursor(connection).execute(
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
        cursor = await PlainCursor(connection).execute(
            queries()["field_indexes"].encode(),
            {
                "table": self._names.relation().as_string(),
                "comment": view.index_comment,
                "wanted": list(wanted),
            },
        )
        whole = set()
        for index, is_whole in await cursor.fetchall():
            if index in wanted and is_whole:
                whole.add(index)
            else:
                name = self._names.qualified(index)
                await PlainCursor(connection).execute(_bound("drop_field_index", index=name))
        for index, expression in wanted.items():
            if index not in whole:
                await self._make_index(connection, view, index, expression)
            await PlainCursor(connection).execute(
                view.statement("comment_field_index", index=self._names.qualified(index))
            )

    async def _make_index(
        self, connection: Connection, view: _View, index: str, expression: sql.Composable
    ) -> None:
        statement = view.statement(
            "create_field_index", index=sql.Identifier(index), expression=expression
        )
        try:
            await PlainCursor(connection).execute(statement)
        except psycopg.errors.DuplicateTable as error:
            raise ForeignTableError(
                f"{index} exists and is not an index of {view.name}: it is left as it is. Rename "
                "or drop it, and make the view again."
            ) from error


@dataclass(frozen=True)
class _View:
    """The view of one task: its name, its columns, and the SQL of both."""

    names: Names
    task_name: str
    given_name: str | None
    columns: Mapping[str, FieldColumn]

    def __post_init__(self) -> None:
        check_identifier(f"name={self.suffix!r}", self.suffix)
        check_identifier(f"name={self.suffix!r}: {self.relation_name}", self.relation_name)
        if not is_clean(self.task_name):
            raise ConfigurationError(
                f"The task's name {self.task_name!r} holds a NUL character or is not valid Unicode "
                "text, which PostgreSQL has not: give the task another name."
            )
        if self.relation_name in self.names.companions():
            raise ConfigurationError(
                f"name={self.suffix!r}: {self.relation_name} is one of the store's own names; give "
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
        return self.names.qualified(self.relation_name)

    @property
    def name(self) -> str:
        """The view's name as it is written in SQL."""
        schema, name = self.names.schema, self.relation_name
        written = name if _PLAIN.fullmatch(name) else sql.Identifier(name).as_string()
        return f"{sql.Identifier(schema).as_string()}.{written}" if schema else written

    @property
    def comment(self) -> str:
        """What tells the view from others."""
        return f"taskiq-pg-json: the results of the task {self.task_name}."

    @property
    def index_comment(self) -> str:
        """What tells the view's indexes from others, those of the task's other views included."""
        return f"{self.comment} Serves the view {self.relation_name}."

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
            index_comment=sql.Literal(self.index_comment),
            **parts,
        )

    def index_name(self, column: str) -> str:
        """Return the name of a column's index, which differs where any of its parts does."""
        kind = self.columns[column].kind
        parts = [self.names.table, self.suffix, self.task_name, column, kind]
        digest = sha256(json.dumps(parts).encode()).hexdigest()
        name = self.names.derived(f"{self.suffix}_{column}_{digest[:8]}_idx")
        if len(name.encode()) <= MAX_IDENTIFIER_BYTES:
            return name
        return self.names.derived(f"{digest[:16]}_idx")


def _check_task(task: object) -> None:
    if not is_task(task):
        raise ConfigurationError(
            f"{task!r} is no task: give what @broker.task has made of the function."
        )


def _expression(column: FieldColumn) -> sql.Composed:
    value = compose("whole_value" if column.key is None else "field_value")
    # The text comes from the project's own SQL files, never from a user.
    return sql.SQL(read_as(column.kind, value)).format(key=sql.Literal(column.key))


def _bound(query: str, **parts: sql.Composable) -> sql.Composed:
    # Likewise.
    return sql.SQL(queries()[query]).format(**parts)
