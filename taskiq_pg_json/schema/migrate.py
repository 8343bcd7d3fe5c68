"""Brings the tables of one store to the version that this release needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from psycopg import ProgrammingError, sql
from psycopg.errors import InsufficientPrivilege, LockNotAvailable, ReadOnlySqlTransaction

from taskiq_pg_json.errors import ConfigurationError, SchemaError, SchemaVersionError
from taskiq_pg_json.schema.files import indexes, migrations, queries, views
from taskiq_pg_json.schema.found import Found, look_up, warn_of_rights
from taskiq_pg_json.schema.obstacles import refuse_taken_names
from taskiq_pg_json.schema.plain_cursor import PlainCursor, fetch
from taskiq_pg_json.schema.version import script_call, set_version

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from taskiq_pg_json.schema.names import Names

logger = logging.getLogger("taskiq_pg_json")

_LOCK_POLL = 0.05  # seconds
_TURN_OF_OTHERS = 1.0  # seconds, as many as they may have waited


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

    async def find(self, connection: AsyncConnection[Any]) -> Found:
        """Return what is there, as ``look_up`` does."""
        return await look_up(connection, self._names, self.needed_version)

    async def apply(self, connection: AsyncConnection[Any]) -> None:
        """Apply the migrations that are missing, and make functions and views that are.

        Nothing at all where none is. Who may not bring back functions or views is warned. The
        connection must be in autocommit mode. A newer version than ours is left alone: migrations
        only add, so that workers of two releases can share one table.

        Raises:
            SchemaError: the role may not, or the table is not ours to use, or lost its progress.
        """
        found = await self._find_and_warn(connection)
        if self._is_in_order(found):
            return
        try:
            attempt = self._upgrade_in_turn if found.version else self._apply_locked
            while not await attempt(connection):  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(_LOCK_POLL)
        except InsufficientPrivilege as error:
            raise SchemaError(
                f"This role may not {'upgrade' if found.version else 'make'} the table "
                f"{self._names}: {error.diag.message_primary}. As one that may, run the SQL that "
                f"{script_call(found.version)} returns, and let this one read and write the tables."
            ) from error

    async def verify(self, connection: AsyncConnection[Any]) -> None:
        """Check that the tables are at the version needed, or newer; warn of missing views.

        Raises:
            SchemaVersionError: they are older, or absent.
            SchemaError: the role may not look for them, the table is not ours to use, or what
                reads need beside it is missing.
        """
        found = await self._find_and_warn(connection)
        if found.version < self.needed_version:
            state = (
                f"is at schema version {found.version}"
                if found.version
                else "does not exist, or stands in a schema that this role may not use"
            )
            raise SchemaVersionError(
                f"The table {self._names} {state}, and this release needs version "
                f"{self.needed_version}: start once with migrate='auto' as a role that may create "
                f"tables, or run the SQL that {script_call(found.version)} returns."
            )
        if self._is_in_order(found):
            return
        lost = (
            f"Beside the table {self._names}, {found.missing()} are missing: start once with "
            "migrate='auto' as the table's owner, or run the SQL that "
            f"{script_call(found.version)} returns."
        )
        if found.functions:
            raise SchemaError(lost)
        logger.warning(lost)

    def _is_in_order(self, found: Found) -> bool:
        """Whether there is nothing to do; what a newer release has left out is its own affair."""
        return found.version > self.needed_version or (
            found.version == self.needed_version and not found.missing()
        )

    def script(self, since: int = 0) -> str:
        """Return the SQL that brings the tables from version ``since`` to the needed one.

        From the needed one it makes functions and views anew.

        Raises:
            ConfigurationError: there is no such version.
        """
        if type(since) is not int or not 0 <= since <= self.needed_version:
            raise ConfigurationError(
                f"since={since!r}: give the version that the tables have, of 1 to "
                f"{self.needed_version}, or 0 where there are none."
            )
        first = ["one_transaction"]
        if self._names.schema is not None and not since:
            first.append("create_schema")
        steps = [self._names.bind(f"{queries()[name]};\n") for name in first]
        return "\n".join(step.as_string() for step in (*steps, *self._steps(since)))

    async def _find_and_warn(self, connection: AsyncConnection[Any]) -> Found:
        """Return what is there, as ``find`` does, and warn a role that may not write it.

        Raises:
            SchemaError: the role may not look into the schema, too.
        """
        try:
            found = await self.find(connection)
        except InsufficientPrivilege as error:
            if self._names.schema is None:
                raise
            ((role,),) = await fetch(connection, "role_in_use", {})
            schema = sql.Identifier(self._names.schema).as_string()
            raise SchemaError(
                f"This role may not look for the table {self._names}: "
                f"{error.diag.message_primary}. As the owner of the schema, run "
                f"GRANT USAGE ON SCHEMA {schema} TO {role};"
            ) from error
        warn_of_rights(found)
        return found

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
            ((locked,),) = await fetch(connection, "schema_lock", names)
            if locked is None:
                raise missing_schema(self._names)
            if not locked:
                return False
            found = await self.find(connection)
            if self._is_in_order(found):
                return True
            if found.version:
                await fetch(connection, "schema_lock_timeout", {})
                await self._be_the_owner(connection)
            else:
                await self._create_schema(connection)
            if found.version == self.needed_version:
                await self._bring_back(connection)
            else:
                await refuse_taken_names(connection, self._names, is_new=not found.version)
                for statement in self._steps(found.version):
                    await PlainCursor(connection).execute(statement)
        return True

    async def _be_the_owner(self, connection: AsyncConnection[Any]) -> None:
        """Let what is made in this transaction belong to the owner of the table, if it can."""
        table = self._names.relation().as_string()
        values = {"table": table, "names": self._names.companions()}
        await fetch(connection, "be_the_owner", values)

    async def _bring_back(self, connection: AsyncConnection[Any]) -> None:
        """Make functions and views anew, and warn of those that cannot be made."""
        tried = [
            await _reason_against(connection, step) for step in self._steps(self.needed_version)
        ]
        found = await self.find(connection)
        if lost := found.missing():
            logger.warning(
                "Beside the table %s, %s are missing, and could not be made anew: %s. As one that "
                "may make them, run the SQL that %s returns.",
                self._names,
                lost,
                "; ".join(dict.fromkeys(filter(None, tried))),
                script_call(found.version),
            )

    async def _create_schema(self, connection: AsyncConnection[Any]) -> None:
        if self._names.schema is None:
            return
        schema = {"schema": self._names.schema}
        ((exists,),) = await fetch(connection, "schema_exists", schema)
        if not exists:
            await fetch(connection, "schema_creation_lock", schema)
            await PlainCursor(connection).execute(self._names.bind(queries()["create_schema"]))

    def _steps(self, since: int) -> list[sql.Composed]:
        names = self._names
        pending = [names.bind(step.text) for step in migrations() if step.version > since]
        # A table that is there keeps the indexes it was made with: making one blocks all writers.
        repeatable = map(names.bind, [*([] if since else self._indexes), *views()])
        if not pending:
            return list(repeatable)
        comment = set_version(names, self.needed_version) + sql.SQL(";\n")
        return [*pending, *repeatable, comment]


def missing_schema(names: Names) -> SchemaError:
    """Return the error of a lock that is of no schema, as there is none to look in."""
    return SchemaError(
        f"There is no schema for the table {names}: the search_path has none that this role may "
        "use. Give schema=, or GRANT USAGE ON SCHEMA to the role."
    )


async def _reason_against(connection: AsyncConnection[Any], statement: sql.Composed) -> str | None:
    """Run a statement that the transaction can do without; why that cannot be done."""
    try:
        async with connection.transaction():
            await PlainCursor(connection).execute(statement)
    except (ProgrammingError, ReadOnlySqlTransaction) as error:
        return error.diag.message_primary
    return None
