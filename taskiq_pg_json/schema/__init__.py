"""The database schema: names, SQL files and migrations."""

from taskiq_pg_json.schema.files import migrations, queries, sql_directory
from taskiq_pg_json.schema.migrate import Schema, missing_schema
from taskiq_pg_json.schema.names import Names, TaskIdType
from taskiq_pg_json.schema.plain_cursor import PlainCursor

__all__ = [
    "Names",
    "PlainCursor",
    "Schema",
    "TaskIdType",
    "migrations",
    "missing_schema",
    "queries",
    "sql_directory",
]
