"""Tables that tests borrow: to make a store's tables takes longer than most tests."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from taskiq_pg_json import ResultStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

_COUNT_CHANGES = """
CREATE SEQUENCE schema_changes;
CREATE FUNCTION count_schema_changes() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
    PERFORM nextval('schema_changes');
END $$;
CREATE EVENT TRIGGER count_schema_changes ON ddl_command_end
EXECUTE FUNCTION count_schema_changes();
"""

_NAMES = """
SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p') AND starts_with(relname, %s)
"""


def new_name() -> str:
    """A name that no table has."""
    return f"results_{uuid.uuid4().hex[:12]}"


def drop(admin: psycopg.Connection, name: str) -> None:
    """Drop all tables whose names begin so, with whatever depends on them."""
    for (table,) in admin.execute(_NAMES, [name]).fetchall():
        admin.execute(f"DROP TABLE IF EXISTS {table} CASCADE")


class MadeTables:
    """A store's tables, empty; a test that alters nothing but rows leaves them to the next.

    One test at a time: whatever changes a schema meanwhile counts as its doing. Where others use
    the server as well, that cannot be counted, and each test has tables of its own.
    """

    def __init__(self, admin: psycopg.Connection, *, shared_server: bool) -> None:
        self._admin = admin
        self._spare: list[str] = []
        self._counted = not shared_server
        if self._counted:
            admin.execute(_COUNT_CHANGES)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The name of tables for one test."""
        if self._spare:
            name = self._spare.pop()
        else:
            name = new_name()
            self._admin.execute(ResultStore("dbname=any", table_name=name).schema_sql())
        before = self._changes()
        yield name
        if self._counted and self._changes() == before:
            tables = [table for (table,) in self._admin.execute(_NAMES, [name])]
            self._admin.execute(f"TRUNCATE {', '.join(tables)}")
            self._spare.append(name)
        else:
            drop(self._admin, name)

    def _changes(self) -> int:
        if not self._counted:
            return 0
        return self._admin.execute("SELECT last_value FROM schema_changes").fetchone()[0]
