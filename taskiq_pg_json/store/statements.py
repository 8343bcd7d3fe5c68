"""Statements that take a batch: in one form for a single row, in another for many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from taskiq_pg_json.schema import queries
from taskiq_pg_json.store.arrays import as_array
from taskiq_pg_json.store.rows import ProgressRow, ResultRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskiq_pg_json.schema import Names

RowT = TypeVar("RowT", ResultRow, ProgressRow)


class BatchStatement:
    """A named query whose ``{batch}`` is read from scalars for one row, from arrays for many.

    Scalars cost half as much to send and to plan as arrays of one.

    Args:
        names: what the query's placeholders are bound to.
        query: the query's name.
        source: the two forms of its batch are named ``{source}_one`` and ``{source}_many``.
        fragments: what else stands in the query, by its placeholder: the names of queries. There is
            no lock's limit where none is given.
    """

    def __init__(self, names: Names, query: str, source: str, **fragments: str) -> None:
        text = queries()
        given = {placeholder: text[name] for placeholder, name in fragments.items()}
        parts = {"lock_limit": "", **given}
        self._one = names.statement(text[query], batch=text[f"{source}_one"], **parts)
        self._many = names.statement(text[query], batch=text[f"{source}_many"], **parts)

    def of_rows(self, rows: Sequence[RowT]) -> tuple[bytes, dict[str, object]]:
        """Return the statement and its values for rows, whose fields name the parameters."""
        names = rows[0]._fields
        if len(rows) == 1:
            return self._one, dict(zip(names, rows[0], strict=True))
        columns: dict[str, Sequence[object]] = dict(
            zip(names, zip(*rows, strict=True), strict=True)
        )
        del columns["size"]
        columns["kinds"], columns["kind"] = _sidecars(columns.pop("types"))
        return self._many, {name: as_array(column) for name, column in columns.items()}

    def of_ids(self, task_ids: Sequence[str]) -> tuple[bytes, dict[str, object]]:
        """Return the statement and its values for ids."""
        if len(task_ids) == 1:
            return self._one, {"task_id": task_ids[0]}
        return self._many, {"task_id": as_array(task_ids)}


def _sidecars(types: Sequence[Any]) -> tuple[list[bytes], list[int | None]]:
    """The different sidecars, and the number of each row's among them."""
    numbers: dict[bytes, int] = {}
    kind = [None if text is None else numbers.setdefault(text, len(numbers) + 1) for text in types]
    return list(numbers), kind
