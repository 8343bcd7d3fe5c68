"""Finds and reads the SQL files.

They stand in ``sql/`` at the top of a checkout and in ``taskiq_pg_json/sql`` of an installed wheel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from taskiq_pg_json.errors import SchemaError

_PACKAGE = Path(__file__).resolve().parent.parent
_MIGRATION_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_QUERY_HEADER = re.compile(r"^-- ([a-z0-9_]+) --\n(?:-- .+\n)*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered step of the schema."""

    version: int
    name: str
    text: str


@cache
def sql_directory() -> Path:
    """Return the directory that holds ``migrations``, ``indexes``, ``views`` and ``queries``."""
    for directory in (_PACKAGE / "sql", _PACKAGE.parent / "sql"):
        if (directory / "migrations").is_dir():
            return directory
    raise SchemaError(
        f"No sql/ directory stands beside {_PACKAGE}: the installation is incomplete, "
        "install taskiq-pg-json again."
    )


@cache
def migrations() -> tuple[Migration, ...]:
    """Return every migration in order, from version 1 upwards with no gap.

    Raises:
        SchemaError: a file name that is no ``NNNN_name.sql``, a gap, or a number used twice.
    """
    found = []
    for path in sorted((sql_directory() / "migrations").glob("*.sql")):
        match = _MIGRATION_NAME.fullmatch(path.name)
        if match is None:
            raise SchemaError(f"{path.name} is not named NNNN_name.sql.")
        found.append(Migration(int(match[1]), match[2], path.read_text("utf-8")))
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise SchemaError(f"Migrations are not numbered 1, 2, 3, …: {versions}.")
    return tuple(found)


@cache
def views() -> tuple[str, ...]:
    """Return the text of every view file, in the order of their names."""
    paths = sorted((sql_directory() / "views").glob("*.sql"))
    return tuple(path.read_text("utf-8") for path in paths)


@cache
def indexes() -> dict[str, str]:
    """Return the text of every index file by its name; a table can do without any of them."""
    paths = sorted((sql_directory() / "indexes").glob("*.sql"))
    return {path.stem: path.read_text("utf-8") for path in paths}


@cache
def queries() -> dict[str, str]:
    """Return every statement of ``queries/*.sql`` by its name.

    A statement begins with ``-- name --`` and a sentence of intent.
    """
    statements: dict[str, str] = {}
    for path in sorted((sql_directory() / "queries").glob("*.sql")):
        _, *parts = _QUERY_HEADER.split(path.read_text("utf-8"))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            if name in statements:
                raise SchemaError(f"The query {name} is defined twice, again in {path.name}.")
            statements[name] = text.strip().removesuffix(";")
    return statements
