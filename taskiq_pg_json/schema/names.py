"""What the tables, indexes and views of one store are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from string import Formatter
from typing import Literal, get_args

from psycopg import sql

from taskiq_pg_json.errors import ConfigurationError

TaskIdType = Literal["VarChar", "Text", "Uuid"]

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL's NAMEDATALEN - 1: it silently cuts a longer name."""

_VIEWS = frozenset(
    {"outcomes", "failures", "failure_groups", "stats", "stats_hourly", "running", "storage"}
)
_FUNCTIONS_OF_READS = frozenset({"progress_percent", "progress_text"})
_RELATIONS = (
    _VIEWS
    | _FUNCTIONS_OF_READS
    | {
        "progress",
        "duration_classes",
        "rollup",
        "rollup_hours",
        "rollup_marks",
        "rollup_mark",
        "rollup_forget",
    }
)
_INDEXES = frozenset(
    {
        "expires_at_idx",
        "failures_idx",
        "failures_by_task_idx",
        "finished_at_idx",
        "json_gin",
        "call_gin",
        "task_name_idx",
        "unfinished_idx",
        "rollup_hour_idx",
    }
)

_QUALIFIED = re.compile(r"(\w+)\.(\w+)")


@dataclass(frozen=True, slots=True)
class Names:
    """Binds the placeholders of the SQL files to one table name.

    ``{results}`` is the table and ``{progress}``, ``{outcomes}``, … what stands beside it, each
    qualified by the schema if there is one. ``{results_…}`` and ``{progress_…}`` are bare index
    names, ``{channel_…}`` NOTIFY channels; ``{…_literal}`` is such a name as text. Any name too
    long for PostgreSQL with its suffix is shortened and stays unique. ``{dollars}`` quotes the
    body of a function, names included.

    Raises:
        ConfigurationError: a name that is empty, holds NUL or is over 63 bytes, or names a schema
            as well as a table; a task_id type that is not VarChar, Text or Uuid.
    """

    table: str
    schema: str | None = None
    task_id_type: TaskIdType = "VarChar"

    def __post_init__(self) -> None:
        check_identifier(f"table_name={self.table!r}", self.table)
        if self.schema is not None:
            check_identifier(f"schema={self.schema!r}", self.schema)
        elif qualified := _QUALIFIED.fullmatch(self.table):
            raise ConfigurationError(
                f"table_name={self.table!r} names a schema as well: give schema={qualified[1]!r}, "
                f"table_name={qualified[2]!r}."
            )
        if self.task_id_type not in get_args(TaskIdType):
            raise ConfigurationError(
                f"field_for_task_id={self.task_id_type!r} is not a type for task ids: "
                'use "VarChar", "Text" or "Uuid".'
            )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}" if self.schema else self.table

    def derived(self, suffix: str) -> str:
        """Return ``table_suffix``, shortened to 63 bytes where it must be."""
        return _shortened(self.table, suffix)

    def channel(self, event: str) -> str:
        """Return the NOTIFY channel on which an event of this table is told."""
        return _shortened(str(self), event)

    def relation(self, name: str = "results") -> sql.Identifier:
        """Return the qualified identifier of the table or of what stands beside it."""
        return self.qualified(self.table if name == "results" else self.derived(name))

    def qualified(self, name: str) -> sql.Identifier:
        """Return a bare name's identifier, qualified by the schema if there is one."""
        return sql.Identifier(self.schema, name) if self.schema else sql.Identifier(name)

    def companions(self) -> list[str]:
        """Return the names of all that stands beside the table, indexes included."""
        return companions_of(self.table)

    def views(self) -> list[str]:
        """Return the views, qualified and quoted."""
        return [self.relation(name).as_string() for name in sorted(_VIEWS)]

    def functions_of_reads(self) -> list[str]:
        """Return the functions that reads call, each with one jsonb, qualified and quoted."""
        return [self.relation(name).as_string() for name in sorted(_FUNCTIONS_OF_READS)]

    def indexes(self) -> list[str]:
        """Return the names of the indexes that have names of ours."""
        return sorted(map(self.derived, _INDEXES))

    def bind(self, text: str, **literals: str | int) -> sql.Composed:
        """Put this store's identifiers, and literals, in the place of a SQL file's placeholders."""
        placeholders = {name for _, name, _, _ in Formatter().parse(text) if name}
        bound = {
            name: sql.Literal(literals[name]) if name in literals else self._bound(name)
            for name in placeholders
        }
        # The text comes from the project's own SQL files, never from a user.
        return sql.SQL(text).format(**bound)

    def statement(self, text: str, **fragments: str) -> bytes:
        """Bind a query that takes parameters: a percent sign in a name is doubled for psycopg.

        A fragment is SQL of the project's own that stands in the place of its placeholder.
        """
        placeholders = {name for _, name, _, _ in Formatter().parse(text) if name}
        bound = {
            name: self._bound(name).as_string().replace("%", "%%")
            for name in placeholders
            if name not in fragments
        }
        nested = {name: self.statement(part).decode() for name, part in fragments.items()}
        return text.format(**bound, **nested).encode()

    def _bound(self, placeholder: str) -> sql.Composable:
        if placeholder == "results" or placeholder in _RELATIONS:
            return self.relation(placeholder)
        if placeholder.endswith("_literal"):
            return sql.Literal(self._bound(placeholder.removesuffix("_literal")).as_string())
        if placeholder == "schema":
            return sql.Identifier(self.schema or "public")
        words = {"task_id_type": self.task_id_type.lower(), "dollars": self._dollars()}
        if placeholder in words:
            return sql.SQL(words[placeholder])
        if placeholder.startswith("channel_"):
            return sql.Identifier(self.channel(placeholder.removeprefix("channel_")))
        if placeholder.startswith(("results_", "progress_")):
            return sql.Identifier(self.derived(placeholder.removeprefix("results_")))
        raise LookupError(f"No name is bound to the placeholder {{{placeholder}}}.")

    def _dollars(self) -> str:
        quote = "$body$"
        while quote in self.table or quote in (self.schema or ""):
            quote = f"{quote[:-1]}_$"
        return quote


def companions_of(table: str) -> list[str]:
    """Return the names of all that stands beside a table of results, indexes included."""
    return sorted(_shortened(table, suffix) for suffix in _RELATIONS | _INDEXES)


def _shortened(base: str, suffix: str) -> str:
    name = f"{base}_{suffix}"
    if len(name.encode()) <= MAX_IDENTIFIER_BYTES:
        return name
    tail = f"_{sha256(base.encode()).hexdigest()[:8]}_{suffix}"
    head = base.encode()[: MAX_IDENTIFIER_BYTES - len(tail)]
    return head.decode(errors="ignore") + tail


def check_identifier(what: str, name: object) -> None:
    """Refuse a name that PostgreSQL would refuse, or cut; ``what`` tells the error what it is.

    Raises:
        ConfigurationError: it is empty, holds NUL, is no Unicode text or is over 63 bytes.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"{what} is not a name: give a non-empty string.")
    if "\0" in name:
        raise ConfigurationError(f"{what} holds a NUL character: remove it.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"{what} is not valid Unicode text: remove its lone surrogates."
        ) from error
    if size > MAX_IDENTIFIER_BYTES:
        raise ConfigurationError(
            f"{what} has {size} bytes, and PostgreSQL cuts names at "
            f"{MAX_IDENTIFIER_BYTES} bytes: choose a shorter one."
        )
