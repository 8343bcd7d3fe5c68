"""The orders that a search can have, and the cursors that mark a place in one.

A cursor names the row that the page begins behind, by its sort key: rows that are added or deleted
meanwhile move no other row onto another page.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import FilterError
from taskiq_pg_json.store.fragments import compose

if TYPE_CHECKING:
    from taskiq_pg_json.records import TaskRecord
    from taskiq_pg_json.store.fragments import Fragments

_CASTS = {
    "finished_at": "timestamptz",
    "started_at": "timestamptz",
    "queued_at": "timestamptz",
    "execution_time": "float8",
    "task_id": "text::{task_id_type}",
}


@dataclass(frozen=True, slots=True)
class Order:
    """Rows sorted by a column, and by task id where that is the same."""

    column: str
    descending: bool = False

    @staticmethod
    def parse(order_by: str) -> Order:
        """Return the order of a column's name, with ``-`` before it for the largest first.

        Raises:
            FilterError: rows cannot be sorted by that.
        """
        column = order_by.removeprefix("-") if isinstance(order_by, str) else None
        if column not in _CASTS:
            raise FilterError(
                f"order_by={order_by!r}: sort by {', '.join(_CASTS)}, with - before it for the "
                "largest first."
            )
        return Order(column, descending=order_by.startswith("-"))

    def __str__(self) -> str:
        return f"{'-' if self.descending else ''}{self.column}"

    @property
    def is_walked(self) -> bool:
        """Whether an index has the rows in this order."""
        return self.column in {"finished_at", "task_id"}

    def reversed(self) -> Order:
        """The same rows, the last one first."""
        return replace(self, descending=not self.descending)

    def sql(self) -> str:
        """Return what stands behind ORDER BY."""
        return compose("descending" if self.descending else "ascending", column=self.column)

    def positions(self, fragments: Fragments, cursor: Cursor | None) -> list[str]:
        """Return the conditions of the rows that follow, the next ones first.

        There are two where rows with a value to sort by are followed by rows without or the other
        way round, for no single range of an index holds both.
        """
        if cursor is None:
            return [compose("every_row")]
        operator = compose(self._operator(inclusive=cursor.inclusive))
        if cursor.value is None:
            nulls = fragments.render(
                "nulls_beyond", column=self.column, operator=operator, task_id=cursor.task_id
            )
            rest = [compose("not_nulls", column=self.column)] if self.descending else []
            return [nulls, *rest]
        beyond = fragments.render(
            "beyond",
            column=self.column,
            operator=operator,
            cast=_CASTS[self.column],
            value=cursor.value,
            task_id=cursor.task_id,
        )
        nulls_last = not self.descending and self.column != "task_id"
        rest = [compose("nulls", column=self.column)] if nulls_last else []
        return [beyond, *rest]

    def _operator(self, *, inclusive: bool) -> str:
        """Return the name of the operator between rows that follow one and that one."""
        operator = "less" if self.descending else "greater"
        return f"{operator}_or_equal" if inclusive else operator


@dataclass(frozen=True, slots=True)
class Cursor:
    """A row that a page begins behind.

    Attributes:
        order: the order that the whole search is in.
        value: the row's value to sort by; times in ISO 8601.
        task_id: the row's id.
        backwards: whether the page ends before the row instead.
        inclusive: whether the row itself is on the page.
    """

    order: Order
    value: str | float | None
    task_id: str
    backwards: bool = False
    inclusive: bool = False

    @staticmethod
    def at(record: TaskRecord, order: Order, *, backwards: bool) -> Cursor:
        """Return the cursor of a page behind a record, or before it."""
        value = getattr(record, order.column)
        plain = value.isoformat() if isinstance(value, datetime) else value
        return Cursor(order, plain, record.task_id, backwards)

    @staticmethod
    def decode(text: str, order: Order) -> Cursor:
        """Return what ``encode`` made.

        Raises:
            FilterError: no cursor of this order.
        """
        try:
            parts = json.loads(urlsafe_b64decode(text.encode("ascii")))
            column, descending, value, task_id, *flags = parts
            backwards, inclusive = (flag is True for flag in flags)
            order_then = Order(column, descending is True)
            cursor = Cursor(order_then, value, task_id, backwards, inclusive)
            cursor._check()
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise FilterError(
                f"cursor={text!r} is no cursor: give a page's next_cursor or previous_cursor."
            ) from error
        if cursor.order != order:
            raise FilterError(
                f"The cursor is of a search in another order: give order_by={str(cursor.order)!r} "
                "as before, or no cursor."
            )
        return cursor

    def turned_round(self) -> Cursor:
        """Return the cursor of all that this one leaves out."""
        return replace(self, backwards=not self.backwards, inclusive=not self.inclusive)

    def encode(self) -> str:
        """Return the cursor as text that stands in a URL as it is."""
        parts = [
            self.order.column, self.order.descending, self.value, self.task_id, self.backwards,
            self.inclusive,
        ]  # fmt: skip
        return urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode()

    def _check(self) -> None:
        """Raise ValueError or TypeError where a value cannot be of its column."""
        cast = _CASTS[self.order.column]
        if not isinstance(self.task_id, str) or "\0" in self.task_id:
            raise TypeError
        self.task_id.encode()
        if self.value is None:
            return
        if cast == "timestamptz":
            if datetime.fromisoformat(self.value).tzinfo is None:  # type: ignore[arg-type]
                raise ValueError
        elif cast == "float8":
            if not isinstance(self.value, float):
                raise TypeError
        elif self.value != self.task_id:
            raise ValueError
