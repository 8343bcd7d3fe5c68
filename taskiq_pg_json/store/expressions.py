"""``F``: conditions on what stands in the JSON columns, written in Python.

``F.return_value["total"] > 100``, ``F.kwargs["dry_run"].is_(True)``, ``F.args[0] == "x"``,
``F.return_value["items"].each["price"] < 5``, joined by ``&``, ``|`` and ``~``.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, NoReturn

from taskiq_pg_json.errors import FilterError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskiq_pg_json.store.fragments import Fragments

_NUMERIC = (
    '{place} ? (@.type() == "number") {operator} $value'
    ' || {place} ? (@.type() == "string").double() {operator} $value'
)
_MOMENT = "{place}.datetime() {operator} $value.datetime()"
_TEXT = "{place} {operator} $value"


class Condition:
    """A condition on the JSON columns of a row. Join them with ``&``, ``|`` and ``~``."""

    def __and__(self, other: Condition) -> Condition:
        return _Both(self, other)

    def __or__(self, other: Condition) -> Condition:
        return _Either(self, other)

    def __invert__(self) -> Condition:
        return _Not(self)

    def __bool__(self) -> NoReturn:
        raise FilterError(
            "A condition has no truth of its own: join conditions with & | ~, in parentheses, "
            "not with `and`, `or`, `not` or a chained comparison."
        )

    def render(self, fragments: Fragments) -> str:
        """Return the SQL of the condition, its values bound."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Place:
    """A place in a JSON column: the column itself, a key, an index, or each element of an array.

    Numbers compare with numbers and with the text of Decimals; dates and times by the moment;
    other values as they are stored. A place that is not there fulfils nothing.
    """

    column: str
    steps: tuple[str | int | None, ...] = ()

    def __getitem__(self, key: str | int) -> Place:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise FilterError(f"F.{self.column}[{key!r}]: give a key (str) or an index (int).")
        return Place(self.column, (*self.steps, key))

    # Iteration would never end, for every index is there.
    __iter__ = None

    @property
    def each(self) -> Place:
        """Each element of the array that stands here; one that fulfils a condition is enough."""
        return Place(self.column, (*self.steps, None))

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]
        if isinstance(value, Decimal):
            return _Comparison(self, "==", value)
        return _Equality(self, value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]
        return ~(self == value)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, value: object) -> Condition:
        return _Comparison(self, "<", value)

    def __le__(self, value: object) -> Condition:
        return _Comparison(self, "<=", value)

    def __gt__(self, value: object) -> Condition:
        return _Comparison(self, ">", value)

    def __ge__(self, value: object) -> Condition:
        return _Comparison(self, ">=", value)

    def is_(self, value: bool | None) -> Condition:
        """Whether JSON's true, false or null stands here."""
        return _Equality(self, value)

    def in_(self, values: Iterable[object]) -> Condition:
        """Whether any of these stands here."""
        conditions = [self == value for value in values]
        if not conditions:
            raise FilterError(f"F.{self.column}….in_() of nothing: give at least one value.")
        return reduce(or_, conditions)

    def contains(self, value: object) -> Condition:
        """Whether what stands here contains this, in the sense of PostgreSQL's ``@>``."""
        return _Containment(self, value)

    def exists(self) -> Condition:
        """Whether anything stands here, be it null."""
        return _Test(self, f"exists({self.path()})")

    def startswith(self, prefix: str) -> Condition:
        """Whether a text that begins so stands here."""
        return _Test(self, f"{self.path()} starts with $value", prefix)

    def matches(self, pattern: str) -> Condition:
        """Whether a text stands here in which this regular expression is found."""
        return _Test(self, f"{self.path()} like_regex {json.dumps(pattern)}")

    def path(self) -> str:
        """Return the place as an SQL/JSON path."""
        return "$" + "".join(map(_step, self.steps))

    def around(self, encoded: str) -> str:
        """Return JSON that contains a value at this place and nothing else."""
        for step in reversed(self.steps):
            if isinstance(step, str):
                encoded = f"{{{json.dumps(step)}:{encoded}}}"
            else:
                encoded = f"[{encoded}]"
        return encoded


class _Columns:
    """The JSON columns of a row."""

    return_value = Place("return_value")
    error = Place("error")
    args = Place("args")
    kwargs = Place("kwargs")
    labels = Place("labels")


F = _Columns()


@dataclass(frozen=True, eq=False)
class _Both(Condition):
    left: Condition
    right: Condition

    def render(self, fragments: Fragments) -> str:
        return fragments.all_of([self.left.render(fragments), self.right.render(fragments)])


@dataclass(frozen=True, eq=False)
class _Either(Condition):
    left: Condition
    right: Condition

    def render(self, fragments: Fragments) -> str:
        return fragments.any_of([self.left.render(fragments), self.right.render(fragments)])


@dataclass(frozen=True, eq=False)
class _Not(Condition):
    condition: Condition

    def render(self, fragments: Fragments) -> str:
        return fragments.none_of(self.condition.render(fragments))


@dataclass(frozen=True, eq=False)
class _Containment(Condition):
    place: Place
    value: object

    def render(self, fragments: Fragments) -> str:
        column = self.place.column
        value = self.place.around(fragments.json(column, self.value))
        return fragments.render("contains", column=column, value=value)


@dataclass(frozen=True, eq=False)
class _Test(Condition):
    """An SQL/JSON path that is true or not, with or without one variable."""

    place: Place
    path: str
    value: object = None

    def render(self, fragments: Fragments) -> str:
        column = self.place.column
        return _test(fragments, column, self.path, fragments.json(column, self.value))


@dataclass(frozen=True, eq=False)
class _Equality(Condition):
    """Containment, which the index knows, and then the exact place."""

    place: Place
    value: object

    def render(self, fragments: Fragments) -> str:
        column, steps = self.place.column, self.place.steps
        encoded = fragments.json(column, self.value)
        contained = fragments.render("contains", column=column, value=self.place.around(encoded))
        if None not in steps:
            same = fragments.render(
                "same_json", column=column, path=list(map(str, steps)), value=encoded
            )
        elif encoded[:1] in {"{", "["}:
            raise FilterError("Each element == an object or array: use .each.contains(…).")
        else:
            path = f"{self.place.path()} == $value"
            same = _test(fragments, column, path, encoded)
        return fragments.all_of([contained, same])


@dataclass(frozen=True, eq=False)
class _Comparison(Condition):
    place: Place
    operator: str
    value: object

    def render(self, fragments: Fragments) -> str:
        column = self.place.column
        value = self.value
        if isinstance(value, Decimal):
            encoded = format(value, "f")
        else:
            encoded = fragments.json(column, value)
        path = self._form(encoded).format(place=self.place.path(), operator=self.operator)
        return _test(fragments, column, path, encoded)

    def _form(self, encoded: str) -> str:
        value = self.value
        if isinstance(value, date | time):
            return _MOMENT
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            if math.isfinite(value):
                return _NUMERIC
        elif encoded[:1] == '"' and not isinstance(value, timedelta):
            return _TEXT
        raise FilterError(
            f"{self.operator} {value!r}: only finite numbers, texts, dates and times compare."
        )


def _step(step: str | int | None) -> str:
    if step is None:
        return "[*]"
    if isinstance(step, str):
        return f".{json.dumps(step)}"
    return f"[{step}]" if step >= 0 else f"[last - {-step - 1}]"


def _test(fragments: Fragments, column: str, path: str, value: str) -> str:
    return fragments.render("path_test", column=column, path=path, variables=f'{{"value":{value}}}')
