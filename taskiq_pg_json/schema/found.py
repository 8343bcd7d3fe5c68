"""What a start finds of a store in the database, by one query."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from taskiq_pg_json.errors import SchemaError
from taskiq_pg_json.schema.obstacles import aside_of, foreign_table
from taskiq_pg_json.schema.plain_cursor import fetch
from taskiq_pg_json.schema.version import version_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

    from taskiq_pg_json.schema.names import Names

logger = logging.getLogger("taskiq_pg_json")

_TASK_ID_TYPES = {"character varying": "VarChar", "text": "Text", "uuid": "Uuid"}


class Found(NamedTuple):
    """The version of the tables, 0 where there is none, and what is missing beside them.

    ``lacking`` are the rights that the ``role`` lacks, as a GRANT names them.
    """

    version: int
    functions: Sequence[str] = ()
    views: Sequence[str] = ()
    lacking: Sequence[str] | None = None
    role: str = ""

    def missing(self) -> str:
        """Name what is missing; an empty text where nothing is."""
        parts = (("functions", self.functions), ("views", self.views))
        return " and ".join(f"the {kind} {', '.join(lost)}" for kind, lost in parts if lost)


async def look_up(connection: AsyncConnection[Any], names: Names, needed_version: int) -> Found:
    """Return what is there.

    Raises:
        ForeignTableError: something bears the table's name, and it is not ours.
        SchemaError: the table's ids are of a type that does not go with the one asked for, or its
            progress is missing.
    """
    progress = names.relation("progress").as_string()
    wanted = {
        "table": names.relation().as_string(),
        "progress": progress,
        "functions": names.functions_of_reads(),
        "views": names.views(),
    }
    ((oid, comment, id_type, lacking, role, has_progress, functions, views),) = await fetch(
        connection, "schema_version", wanted
    )
    if oid is None:
        return Found(0)
    version = version_in(comment)
    if version is None:
        missing = [*functions] if has_progress else [progress, *functions]
        raise await foreign_table(connection, names, oid, version=needed_version, missing=missing)
    _check_task_id(names, id_type)
    if not has_progress:
        raise _progress_is_missing(names)
    return Found(version, functions, views, lacking, role)


def warn_of_rights(found: Found) -> None:
    """Warn a role that may not write; it may be here to read."""
    if found.lacking is not None:
        logger.warning(
            "The role %s lacks %s: what it cannot store is lost. As the table's owner, run %s",
            found.role,
            ", and ".join(found.lacking),
            " ".join(f"GRANT {rights} TO {found.role};" for rights in found.lacking),
        )


def _check_task_id(names: Names, found: str | None) -> None:
    """Refuse ids of a type that the server would not compare with the column's."""
    asked = names.task_id_type
    if (found == "uuid") != (asked == "Uuid"):
        way_out = f"give field_for_task_id={_TASK_ID_TYPES.get(found or '', 'VarChar')!r}"
        raise SchemaError(
            f"The task_id of the table {names} is of the type {found}, and "
            f"field_for_task_id={asked!r} does not go with that: {way_out}."
        )


def _progress_is_missing(names: Names) -> SchemaError:
    table, aside = names.relation().as_string(), aside_of(names)
    kept = names.qualified(names.derived("old")).as_string()
    return SchemaError(
        f"The table {names.relation('progress').as_string()}, which the results in {table} cannot "
        "be read without, is missing. Restore it from a backup; where there is none, move the "
        "results aside, start once with migrate='auto', and copy them: "
        f"ALTER TABLE {table} RENAME TO {aside}; "
        f"INSERT INTO {table} TABLE {kept};"
    )
