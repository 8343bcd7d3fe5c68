"""What bears a name that a store needs, and is not the store's: the errors, with their ways out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from taskiq_pg_json.errors import ForeignTableError
from taskiq_pg_json.schema.names import companions_of
from taskiq_pg_json.schema.plain_cursor import fetch
from taskiq_pg_json.schema.version import COMMENT_PATTERN, set_version

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from psycopg import AsyncConnection

    from taskiq_pg_json.schema.names import Names


async def foreign_table(
    connection: AsyncConnection[Any],
    names: Names,
    oid: int,
    *,
    version: int,
    missing: Sequence[str],
) -> ForeignTableError:
    """Return the error of what bears the table's name.

    Args:
        connection: where it is.
        names: the store's.
        oid: what bears it.
        version: the one to be restored where only the comment was changed.
        missing: the companions that are not there and that tables of ours cannot be without.
    """
    ((kind, altered, may_be_ours, home),) = await fetch(connection, "in_the_way", {"oid": oid})
    if store := await _other_store(connection, names, home, [names.table]):
        return ForeignTableError(
            f"The {kind} {names} belongs to the store of the table {store}: "
            "give another table_name=."
        )
    aside = aside_of(names)
    if may_be_ours and missing:
        guess = (
            f" It has the columns of results, but {', '.join(missing)} beside it is missing: "
            "it was made, or restored, in part."
        )
    elif may_be_ours:
        restored = set_version(names, version).as_string()
        guess = f" Where it is ours and only the comment was changed, run {restored};"
    else:
        guess = ""
    page = "docs/how-to/move-from-taskiq-postgres.md"
    others = f" Where it is taskiq-postgres's, {page} tells more."
    return ForeignTableError(
        f"The {kind} {names} exists, and its comment does not say that taskiq-pg-json "
        f"made it: it is left as it is.{guess} Give another table_name=, or move it aside: "
        f"ALTER {altered} RENAME TO {aside};"
        + (others if kind == "table" and not may_be_ours else "")
    )


async def refuse_taken_names(
    connection: AsyncConnection[Any], names: Names, *, is_new: bool
) -> None:
    """Refuse names that are taken: an index would silently not be made.

    Raises:
        ForeignTableError: some are.
    """
    wanted = {
        "schema": names.schema,
        "results": names.relation().as_string(),
        "rollup": names.relation("rollup").as_string(),
        "names": names.companions() if is_new else names.indexes(),
    }
    taken = await fetch(connection, "taken_names", wanted)
    if not taken:
        return
    bearers = list(dict.fromkeys(name for name, *_ in taken))
    needs = f"The table {names} needs the names {', '.join(bearers)} for its companions, and "
    if store := await _other_store(connection, names, names.schema, bearers):
        raise ForeignTableError(
            f"{needs}the store of the table {store} has taken some: it is left as it is. "
            "Give another table_name=."
        )
    drops = " ".join(remedy for _, remedy, is_drop in taken if is_drop)
    renames = " ".join(remedy for _, remedy, is_drop in taken if not is_drop)
    raise ForeignTableError(
        f"{needs}they are taken: it is left as it is. Give another table_name=, or rename those."
        + (renames and f" What belongs to another table is renamed by {renames}")
        + (
            drops
            and " Where they are what is left of a table of this name that was "
            f"dropped, run {drops}"
        )
    )


def aside_of(names: Names) -> str:
    """Return a quoted name for the table that is moved out of the way."""
    return sql.Identifier(names.derived("old")).as_string()


async def _other_store(
    connection: AsyncConnection[Any], names: Names, schema: str | None, bearers: Collection[str]
) -> str | None:
    """Return the store of that schema, but for this one, to whose tables any name belongs."""
    values = {"schema": schema, "comment": COMMENT_PATTERN}
    for (table,) in await fetch(connection, "stores", values):
        if table != names.table and not {table, *companions_of(table)}.isdisjoint(bearers):
            return str(table)
    return None
