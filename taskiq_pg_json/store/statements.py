"""Statements that take a batch: in one form for a single row, in another for many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskiq_pg_json.schema import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskiq_pg_json.schema import Names


class BatchStatement:
    """A named query whose ``{batch}`` is read from scalars for one row, from arrays for many.

    Scalars cost half as much to send and to plan as arrays of one.

    Args:
        names: what the query's placeholders are bound to.
        query: the query's name.
        source: the two forms of its batch are named ``{source}_one`` and ``{source}_many``.
        columns: what each row gives, by parameter name.
    """

    def __init__(
        self, names: Names, query: str, source: str, columns: Sequence[str] = ("task_id",)
    ) -> None:
        text = queries()
        self._one = names.statement(text[query], batch=text[f"{source}_one"])
        self._many = names.statement(text[query], batch=text[f"{source}_many"])
        self._columns = columns

    def of_rows(self, rows: Sequence[object]) -> tuple[bytes, dict[str, object]]:
        """Return the statement and its values for rows that have the columns as attributes."""
        if len(rows) == 1:
            return self._one, {name: getattr(rows[0], name) for name in self._columns}
        return self._many, {name: [getattr(row, name) for row in rows] for name in self._columns}

    def of_ids(self, task_ids: Sequence[str]) -> tuple[bytes, dict[str, object]]:
        """Return the statement and its values for ids."""
        if len(task_ids) == 1:
            return self._one, {"task_id": task_ids[0]}
        return self._many, {"task_id": list(task_ids)}
