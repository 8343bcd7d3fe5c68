"""The version of a store's tables, as the comment of the results' table says it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from taskiq_pg_json.schema.files import queries

if TYPE_CHECKING:
    from psycopg import sql

    from taskiq_pg_json.schema.names import Names

_COMMENT = "taskiq-pg-json schema {version}"
COMMENT_PATTERN = "^" + _COMMENT.format(version=r"(\d+)")
"""What the comment looks like, to Python and to PostgreSQL."""


def version_in(comment: str | None) -> int | None:
    """Return the version that a table's comment says; None where it says none."""
    match = re.match(COMMENT_PATTERN, comment or "")
    return int(match[1]) if match else None


def set_version(names: Names, version: int) -> sql.Composed:
    """Return the statement that writes the version into the comment."""
    return names.bind(queries()["set_schema_version"], comment=_COMMENT.format(version=version))


def script_call(since: int) -> str:
    """Return the call whose SQL brings tables of that version up to date."""
    return f"ResultStore.schema_sql({f'since={since}' if since else ''})"
