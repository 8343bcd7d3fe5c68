"""``F``: conditions on what stands in the JSON columns, written in Python.

``F.return_value["total"] > 100``, ``F.kwargs["dry_run"].is_(True)``, ``F.args[0] == "x"``,
``F.return_value["items"].each["price"] < 5``, joined by ``&``, ``|`` and ``~``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeGuard

from taskiq_pg_json.errors import FilterError
from taskiq_pg_json.store.conditions import AnyOf, Condition
from taskiq_pg_json.store.fragments import NoValue, check_value, compose, read_as

if TYPE_CHECKING:
    from taskiq_pg_json.store.fragments import Fragments

_STRICT = "strict {place}"
_EXISTS = "strict exists({place})"
_FULFILS = "strict exists({place} ? ({predicate}))"
_EQUALS = "@ == $value"
_TIME = "@.datetime() {operator} $value.datetime()"
_TEXT = "@ {operator} $value"
_OPERATORS = {
    "==": "equal",
    "<": "less",
    "<=": "less_or_equal",
    ">": "greater",
    ">=": "greater_or_equal",
}
_MOST_DIGITS = 1_000  # as the fragment as_numeric reads them
_MOST_BY_INDEX = 5_000  # values; each row that the index finds is compared with all
_MINUTE = timedelta(minutes=1)
_NO_OFFSET = timedelta()
_NUMBER = re.compile(r"\s*[+-]?\d")


@dataclass(frozen=True, eq=False)
class Place(NoValue):
    """A place in a JSON column: the column itself, a key, an index, or each element of an array.

    Numbers compare with numbers and with the text of Decimals; dates and times by the moment;
    other values as they are stored. A place that is not there fulfils nothing, and an array is
    looked into by ``each`` and by index alone.
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
        if _compares_by_size(value):
            return _Comparison(self, "==", value)
        return AnyOf(tuple(_Equality(self, form) for form in _forms(value)))

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
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise FilterError(f"F.{self.column}….in_({values!r}): give a list of values.")
        conditions: list[Condition] = []
        together: list[object] = []
        for value in values:
            if None in self.steps or _compares_by_size(value):
                conditions.append(self == value)
            else:
                together.extend(_forms(value))
        if together:
            conditions.append(_Membership(self, tuple(together)))
        return AnyOf(tuple(conditions))

    def contains(self, value: object) -> Condition:
        """Whether what stands here contains this, in the sense of PostgreSQL's ``@>``."""
        return _Containment(self, value)

    def exists(self) -> Condition:
        """Whether anything stands here, be it null."""
        return _Test(self, _EXISTS.format(place=self.path()))

    def startswith(self, prefix: str) -> Condition:
        """Whether a text that begins so stands here."""
        self._check_text(prefix)
        return _fulfils(self, "@ starts with $value", prefix)

    def matches(self, pattern: str) -> Condition:
        """Whether a text stands here in which this regular expression is found."""
        self._check_text(pattern)
        return _fulfils(self, f"@ like_regex {json.dumps(pattern)}")

    def path(self) -> str:
        """Return the place as an SQL/JSON path for strict mode.

        Lax mode would look into arrays by itself and take any value for an array of it. In strict
        mode a step that cannot be taken makes the whole path unknown, so that each asks first.
        """
        return "$" + "".join(f" ? (exists(@{step})){step}" for step in map(_step, self.steps))

    def around(self, encoded: str) -> str:
        """Return JSON that contains a value at this place and nothing else."""
        for step in reversed(self.steps):
            if isinstance(step, str):
                encoded = f"{{{json.dumps(step)}:{encoded}}}"
            else:
                encoded = f"[{encoded}]"
        return encoded

    def _check_text(self, value: object) -> None:
        if not isinstance(value, str):
            raise FilterError(f"F.{self.column}…: {value!r} is no text (str).")


class _Columns(NoValue):
    """The JSON columns of a row."""

    return_value = Place("return_value")
    error = Place("error")
    args = Place("args")
    kwargs = Place("kwargs")
    labels = Place("labels")


F = _Columns()


@dataclass(frozen=True, eq=False)
class _Containment(Condition):
    """Containment of all around the place, which the index knows, and then at the place."""

    place: Place
    value: object

    def render(self, fragments: Fragments) -> str:
        column = self.place.column
        encoded = fragments.json(column, self.value)
        if not self.place.steps:
            return fragments.contains(column, encoded)
        # A list contains the scalars in it, which the index knows of the whole column alone.
        forms = [encoded] if _is_container(encoded) else [encoded, f"[{encoded}]"]
        known = [fragments.contains(column, self.place.around(form)) for form in forms]
        there = _any_found(
            fragments,
            self.place,
            item=compose("found_item"),
            operator="containing",
            cast="jsonb",
            value=encoded,
        )
        return fragments.all_of([fragments.any_of(known), there])


@dataclass(frozen=True, eq=False)
class _Test(Condition):
    """An SQL/JSON path that is true or not, with or without one variable."""

    place: Place
    path: str
    value: object = None

    def render(self, fragments: Fragments) -> str:
        column = self.place.column
        variables = f'{{"value":{fragments.json(column, self.value)}}}'
        return fragments.render("path_test", column=column, path=self.path, variables=variables)


@dataclass(frozen=True, eq=False)
class _Equality(Condition):
    """Containment, which the index knows, and then the exact place."""

    place: Place
    value: object

    def render(self, fragments: Fragments) -> str:
        column, steps = self.place.column, self.place.steps
        encoded = fragments.json(column, self.value)
        contained = fragments.contains(column, self.place.around(encoded))
        if None not in steps:
            same = fragments.render(
                "same_json", column=column, path=list(map(str, steps)), value=encoded
            )
        elif _is_container(encoded):
            raise FilterError("Each element == an object or array: use .each.contains(…).")
        else:
            same = _fulfils(self.place, _EQUALS, self.value).render(fragments)
        return fragments.all_of([contained, same])


@dataclass(frozen=True, eq=False)
class _Membership(Condition):
    """Equality with any of many values, which the server plans as one."""

    place: Place
    values: tuple[object, ...]

    def render(self, fragments: Fragments) -> str:
        column, steps = self.place.column, self.place.steps
        encoded = [fragments.json(column, value) for value in self.values]
        if any(map(_may_be_an_index, steps)):
            path = _STRICT.format(place=self.place.path())
            same = fragments.render("found_as_any", column=column, path=path, values=encoded)
        else:
            same = fragments.render("same_as_any", column=column, path=list(steps), values=encoded)
        if len(encoded) > _MOST_BY_INDEX:
            return same
        around = [self.place.around(value) for value in encoded]
        # What the index finds is compared with one after the other, and so comes second.
        return fragments.all_of([same, fragments.contains_any(column, around)])


@dataclass(frozen=True, eq=False)
class _Comparison(Condition):
    place: Place
    operator: str
    value: object

    def render(self, fragments: Fragments) -> str:
        value = self.value
        if _is_number(value):
            return self._cast(fragments, "numeric", self._number(value))
        if isinstance(value, date):
            return self._cast(fragments, "timestamptz", value.isoformat())
        if not isinstance(value, str | time):
            check_value(self.place.column, value)
            raise self._refusal()
        if isinstance(value, time) and (value.utcoffset() or _NO_OFFSET) % _MINUTE:
            raise FilterError(
                f"{self.operator} {value!r}: PostgreSQL reads no time whose offset has seconds; "
                "give it in a zone of whole minutes."
            )
        form = _TIME if isinstance(value, time) else _TEXT
        predicate = form.format(operator=self.operator)
        return _fulfils(self.place, predicate, value).render(fragments)

    def _cast(self, fragments: Fragments, cast: str, value: str) -> str:
        """Compare what stands there as a value of an SQL type: no type of JSON is exact."""
        return _any_found(
            fragments,
            self.place,
            item=read_as(cast, compose("found_item")),
            operator=_OPERATORS[self.operator],
            cast=cast,
            value=value,
        )

    def _number(self, value: float | Decimal) -> str:
        if isinstance(value, Decimal):
            number = value
        else:
            number = Decimal(int(value) if isinstance(value, int) else repr(float(value)))
        if not number.is_finite():
            raise self._refusal()
        if abs(number.adjusted()) >= _MOST_DIGITS:
            raise FilterError(f"{self.operator} a number of more than {_MOST_DIGITS} digits.")
        return str(number)

    def _refusal(self) -> FilterError:
        return FilterError(
            f"{self.operator} {self.value!r}: only finite numbers, texts, dates and times compare."
        )


def _fulfils(place: Place, predicate: str, value: object = None) -> Condition:
    """Whether what stands at a place fulfils a predicate of SQL/JSON path."""
    return _Test(place, _FULFILS.format(place=place.path(), predicate=predicate), value)


def _any_found(
    fragments: Fragments, place: Place, *, item: str, operator: str, cast: str, value: str
) -> str:
    """Return the SQL of whether anything at a place compares so with a value of an SQL type."""
    return fragments.render(
        "comparison",
        column=place.column,
        path=_STRICT.format(place=place.path()),
        item=item,
        operator=compose(operator),
        cast=cast,
        value=value,
    )


def _is_container(encoded: str) -> bool:
    return encoded[:1] in {"{", "["}


def _is_number(value: object) -> TypeGuard[int | float | Decimal]:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _forms(value: object) -> tuple[object, ...]:
    """Return the values that JSON tells apart and Python does not."""
    return (0, -0.0) if _is_number(value) and value == 0 else (value,)


def _compares_by_size(value: object) -> bool:
    """Whether other texts are equal to that of a Decimal: NaN and infinities have one.

    A signalling NaN is refused where sizes are compared.
    """
    return isinstance(value, Decimal) and not value.is_qnan() and not value.is_infinite()


def _may_be_an_index(step: str | int | None) -> bool:
    """Whether the operator ``#>`` would take a step for a key and for an index."""
    return not isinstance(step, str) or _NUMBER.match(step) is not None


def _step(step: str | int | None) -> str:
    if step is None:
        return "[*]"
    if isinstance(step, str):
        return f".{json.dumps(step)}"
    return f"[{step}]" if step >= 0 else f"[last - {-step - 1}]"
