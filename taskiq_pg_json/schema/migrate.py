"""Brings the tables of one store to the version that this release needs."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.errors import InsufficientPrivilege, LockNotAvailable

from taskiq_pg_json.errors import (
    ConfigurationError,
    ForeignTableError,
    SchemaError,
    SchemaVersionError,
)
from taskiq_pg_json.schema.files import indexes, migrations, queries, views
from taskiq_pg_json.schema.plain_cursor import PlainCursor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection

    from taskiq_pg_json.schema.names import Names

logger = logging.getLogger("taskiq_pg_json")

_COMMENT = "taskiq-pg-json schema {version}"
_COMMENT_PATTERN = re.compile(_COMMENT.format(version=r"(\d+)"))
_LOCK_POLL = 0.05  # seconds
_TURN_OF_OTHERS = 1.0  # seconds, as many as they may have waited
_TASK_ID_TYPES = {"character varying": "VarChar", "text": "Text", "uuid": "Uuid"}


class Schema:
    """The tables, indexes and views of one store.

    The version stands in the table's comment, as ``taskiq-pg-json schema 1``, and is written in the
    transaction of the migrations themselves.

    Args:
        names: what they are called.
        wanted_indexes: the indexes to make with a table, by the names of their files; None for all.

    Raises:
        ConfigurationError: there is no such index.
    """

    def __init__(self, names: Names, wanted_indexes: Collection[str] | None = None) -> None:
        known = list(indexes())
        wanted = known if wanted_indexes is None else wanted_indexes
        is_list = isinstance(wanted, Collection) and not isinstance(wanted, str)
        if not is_list or not all(name in known for name in wanted):
            raise ConfigurationError(
                f"indexes={wanted_indexes!r}: give some of {', '.join(known)}, as a list."
            )
        self._names = names
        self._indexes = [text for name, text in indexes().items() if name in wanted]

    @property
    def needed_version(self) -> int:
        """The version that this release reads and writes."""
        return migrations()[-1].version

    async def found_version(self, connection: AsyncConnection[Any]) -> int:
        """Return the version in the database; 0 when there is no table.

        Raises:
            ForeignTableError: something bears that name, and it is not ours.
            SchemaError: its task ids are of a type that does not go with the one asked for.
        """
        tables = {
            "table": self._names.relation().as_string(),
            "progress": self._names.relation("progress").as_string(),
        }
        found = await _fetch(connection, "schema_version", tables)
        oid, comment, id_type, lacking, role = found[0]
        if oid is None:
            return 0
        match = _COMMENT_PATTERN.match(comment or "")
        if match is None:
            raise await self._foreign(connection, oid)
        self._check_task_id(id_type)
        if lacking is not None:  # no error: it may be here to read
            logger.warning(
                "The role %s lacks %s: what it cannot store is lost. As the table's owner, run %s",
                role,
                ", and ".join(lacking),
                " ".join(f"GRANT {rights} TO {role};" for rights in lacking),
            )
        return int(match[1])

    async def apply(self, connection: AsyncConnection[Any]) -> None:
        """Apply the migrations that are missing; nothing at all when there are none.

        The connection must be in autocommit mode. A newer version than ours is left alone:
        migrations only add, so that workers of two releases can share one table.

        Raises:
            SchemaError: the role may not, or the table is not ours to use.
        """
        found = await self._looked_up_version(connection)
        if found >= self.needed_version:
            return
        try:
            attempt = self._upgrade_in_turn if found else self._apply_locked
            while not await attempt(connection):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_LOCK_POLL)
        except InsufficientPrivilege as error:
            raise SchemaError(
                f"This role may not {'upgrade' if found else 'make'} the table {self._names}: "
                f"{error.diag.message_primary}. As one that may, run the SQL that "
                f"{_script_call(found)} returns, and let this one read and write the tables."
            ) from error

    async def verify(self, connection: AsyncConnection[Any]) -> None:
        """Check that the tables are at the version needed, or newer.

        Raises:
            SchemaVersionError: they are older, or absent.
            SchemaError: the role may not look for them, or the table is not ours to use.
        """
        found = await self._looked_up_version(connection)
        if found < self.needed_version:
            state = (
                f"is at schema version {found}"
                if found
                else "does not exist, or stands in a schema that this role may not use"
            )
            raise SchemaVersionError(
                f"The table {self._names} {state}, and this release needs version "
                f"{self.needed_version}: start once with migrate='auto' as a role that may create "
                f"tables, or run the SQL that {_script_call(found)} returns."
            )

    def script(self, since: int = 0) -> str:
        """Return the SQL that brings the tables from version ``since`` to the needed one.

        Raises:
            ConfigurationError: there is no such version.
        """
        if type(since) is not int or not 0 <= since <= self.needed_version:
            raise ConfigurationError(
                f"since={since!r}: give the version that the tables have, of 1 to "
                f"{self.needed_version}, or 0 where there are none."
            )
        steps = self._steps(since)
        if self._names.schema is not None and not since:
            steps.insert(0, self._names.bind(queries()["create_schema"] + ";\n"))
        return "\n".join(step.as_string() for step in steps)

    async def _looked_up_version(self, connection: AsyncConnection[Any]) -> int:
        """Return the version in the database, as ``found_version`` does.

        Raises:
            SchemaError: the role may not look into the schema, too.
        """
        try:
            return await self.found_version(connection)
        except InsufficientPrivilege as error:
            if self._names.schema is None:
                raise
            ((role,),) = await _fetch(connection, "role_in_use", {})
            schema = sql.Identifier(self._names.schema).as_string()
            raise SchemaError(
                f"This role may not look for the table {self._names}: "
                f"{error.diag.message_primary}. As the owner of the schema, run "
                f"GRANT USAGE ON SCHEMA {schema} TO {role};"
            ) from error

    async def _foreign(self, connection: AsyncConnection[Any], oid: int) -> ForeignTableError:
        """Return the error of what bears the table's name, with the ways out that there are."""
        ((kind, altered, may_be_ours),) = await _fetch(connection, "in_the_way", {"oid": oid})
        aside = sql.Identifier(self._names.derived("old")).as_string()
        restored = self._set_version(self.needed_version).as_string()
        ours = f" Where it is ours and only the comment was changed, run {restored};"
        page = "docs/how-to/move-from-taskiq-postgres.md"
        others = f" Where it is taskiq-postgres's, {page} tells more."
        return ForeignTableError(
            f"The {kind} {self._names} exists, and its comment does not say that taskiq-pg-json "
            "made it: it is left as it is."
            + (ours if may_be_ours else "")
            + " Give another table_name=, or move it aside: "
            + f"ALTER {altered} RENAME TO {aside};"
            + (others if kind == "table" and not may_be_ours else "")
        )

    async def _upgrade_in_turn(self, connection: AsyncConnection[Any]) -> bool:
        """Upgrade between the transactions that use the tables: while it waits, none can begin."""
        try:
            return await self._apply_locked(connection)
        except LockNotAvailable as error:
            logger.warning(
                "The upgrade of the table %s waits for transactions that use it, and tries again "
                "in %s s: %s",
                self._names,
                _TURN_OF_OTHERS,
                error.diag.message_primary,
            )
            await asyncio.sleep(_TURN_OF_OTHERS)
            return False

    async def _apply_locked(self, connection: AsyncConnection[Any]) -> bool:
        async with connection.transaction():
            names = {"schema": self._names.schema, "table": self._names.table}
            ((locked,),) = await _fetch(connection, "schema_lock", names)
            if locked is None:
                raise missing_schema(self._names)
            if not locked:
                return False
            found = await self.found_version(connection)
            if found < self.needed_version:
                if found:
                    await _fetch(connection, "schema_lock_timeout", {})
                else:
                    await self._create_schema(connection)
                await self._check_companions(connection, is_new=not found)
                for statement in self._steps(found):
                    await PlainCursor(connection).execute(statement)
        return True

    async def _create_schema(self, connection: AsyncConnection[Any]) -> None:
        if self._names.schema is None:
            return
        schema = {"schema": self._names.schema}
        ((exists,),) = await _fetch(connection, "schema_exists", schema)
        if not exists:
            await _fetch(connection, "schema_creation_lock", schema)
            await PlainCursor(connection).execute(self._names.bind(queries()["create_schema"]))

    async def _check_companions(self, connection: AsyncConnection[Any], *, is_new: bool) -> None:
        """Refuse names that are taken: an index would silently not be made.

        Raises:
            ForeignTableError: some are.
        """
        names = self._names
        wanted = {
            "schema": names.schema,
            "results": names.relation().as_string(),
            "rollup": names.relation("rollup").as_string(),
            "names": names.companions() if is_new else names.indexes(),
        }
        if taken := await _fetch(connection, "taken_names", wanted):
            named = ", ".join(dict.fromkeys(name for name, *_ in taken))
            drops = " ".join(remedy for _, remedy, is_drop in taken if is_drop)
            renames = " ".join(remedy for _, remedy, is_drop in taken if not is_drop)
            raise ForeignTableError(
                f"The table {names} needs the names {named} for its companions, and they are "
                "taken: it is left as it is. Give another table_name=, or rename those."
                + (renames and f" What belongs to another table is renamed by {renames}")
                + (
                    drops
                    and " Where they are what is left of a table of this name that was "
                    f"dropped, run {drops}"
                )
            )

    def _steps(self, since: int) -> list[sql.Composed]:
        names = self._names
        pending = [names.bind(step.text) for step in migrations() if step.version > since]
        # A table that is there keeps the indexes it was made with: making one blocks all writers.
        repeatable = map(names.bind, [*([] if since else self._indexes), *views()])
        comment = self._set_version(self.needed_version) + sql.SQL(";\n")
        return [*pending, *repeatable, comment] if pending else []

    def _set_version(self, version: int) -> sql.Composed:
        comment = _COMMENT.format(version=version)
        return self._names.bind(queries()["set_schema_version"], comment=comment)

    def _check_task_id(self, found: str | None) -> None:
        """Refuse ids of a type that the server would not compare with the column's."""
        asked = self._names.task_id_type
        if (found == "uuid") != (asked == "Uuid"):
            way_out = f"give field_for_task_id={_TASK_ID_TYPES.get(found or '', 'VarChar')!r}"
            raise SchemaError(
                f"The task_id of the table {self._names} is of the type {found}, and "
                f"field_for_task_id={asked!r} does not go with that: {way_out}."
            )


def missing_schema(names: Names) -> SchemaError:
    """Return the error of a lock that is of no schema, as there is none to look in."""
    return SchemaError(
        f"There is no schema for the table {names}: the search_path has none that this role may "
        "use. Give schema=, or GRANT USAGE ON SCHEMA to the role."
    )


def _script_call(found: int) -> str:
    return f"ResultStore.schema_sql({f'since={found}' if found else ''})"


async def _fetch(
    connection: AsyncConnection[Any], query: str, values: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    """Run a named query."""
    cursor = await PlainCursor(connection).execute(queries()[query].encode(), values)
    return await cursor.fetchall()
