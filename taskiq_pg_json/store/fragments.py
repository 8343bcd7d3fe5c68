"""Assembles conditions from the named fragments of the SQL files; every value is bound."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from taskiq_pg_json.errors import FilterError, SerializationError
from taskiq_pg_json.schema import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from taskiq_pg_json.serializer.protocol import ResultSerializer


_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_TIME_METHOD = re.compile(r"\.\s*(date|time)(time|stamp)?(_tz)?\s*\(")
_INDEXED_COLUMNS = frozenset({"return_value", "args", "kwargs", "labels"})
_KEY_OR_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')
_PLACE = r"[$@](?:\s*\.\s*\w+|\s*\.\s*\"[^\"\\]*\"|\s*\[\s*(?:\*|\d+)\s*\])*"
_EQUAL = rf'{_PLACE}\s*==\s*(?:"[^"\\]*"|-?\d+(?:\.\d+)?|true|false|null)'
_ALL_EQUAL = rf"{_EQUAL}(?:\s*&&\s*{_EQUAL})*"
_INDEXED_PATH = re.compile(rf"\s*(?:{_ALL_EQUAL}|{_PLACE}\s*\?\s*\(\s*{_ALL_EQUAL}\s*\))\s*")
_MOST_VALUES = 60_000  # PostgreSQL takes 65,535 parameters, of which a query has a few of its own


def _escaped(character: re.Match[str]) -> str:
    return json.dumps(character[0])[1:-1]


class NoValue:
    """What stands for values in rows, and is none that could be looked for."""


class _Unbound(dict[str, str]):
    """Leaves a placeholder that nothing is known of yet where it is."""

    def __missing__(self, placeholder: str) -> str:
        return f"{{{placeholder}}}"


def compose(fragment: str, **parts: str) -> str:
    """Return the SQL of a named fragment with other fragments in it.

    The names of tables stay placeholders until ``Names.statement`` binds them.
    """
    return queries()[fragment].format_map(_Unbound(parts))


def check_value(column: str, value: object) -> None:
    """Refuse what stands for values in rows, alone or within lists and dicts.

    Raises:
        FilterError: it is no value to compare with.
    """
    if any(isinstance(part, NoValue) for part in _parts(value)):
        raise FilterError(
            f"What stands in {column} is compared with another place or a condition: F compares "
            "with values alone. An SQL/JSON path compares places of the return value, as "
            "where='$.x == $.y'."
        )


def read_as(kind: str, value: str) -> str:
    """Return the SQL of a JSON value as a value of an SQL type; NULL where it cannot be one."""
    return compose(
        f"as_{kind}",
        value=value,
        text=compose("json_text", value=value),
        day=compose("day_of_the_calendar"),
        digits=compose("up_to_nine_digits"),
    )


class Fragments:
    """The fragments of one statement and the values that they bind.

    Attributes:
        values: the bound values by the names of their parameters.
    """

    def __init__(self, serializer: ResultSerializer) -> None:
        self._serializer = serializer
        self.values: dict[str, object] = {}
        self._indexed: dict[str, frozenset[str]] = {}  # with the columns that cannot be NULL

    def bind(self, value: object) -> str:
        """Bind a value; the name of its parameter.

        Raises:
            FilterError: there are more values than one statement can have.
        """
        if len(self.values) >= _MOST_VALUES:
            raise FilterError("The filters have too many values: ask for fewer at a time.")
        parameter = f"filter_{len(self.values)}"
        self.values[parameter] = value
        return parameter

    def render(
        self,
        fragment: str,
        *,
        column: str = "",
        cast: str = "",
        operator: str = "",
        item: str = "",
        **values: object,
    ) -> str:
        """Return the SQL of a fragment with a value bound at each of its parameters.

        The named parts come from lists of this package's own, never from a caller.
        """
        parameters = {name: self.bind(value) for name, value in values.items()}
        return compose(
            fragment, column=column, cast=cast, operator=operator, item=item, **parameters
        )

    def contains(self, column: str, encoded: str) -> str:
        """Return the SQL of whether a JSON column contains this."""
        condition = self.render("contains", column=column, value=encoded)
        return self._mark(condition, [column] if _is_indexed(column, encoded) else None)

    def contains_any(self, column: str, encoded: Sequence[str]) -> str:
        """Return the SQL of whether a JSON column contains one of these."""
        condition = self.render("contains_any", column=column, values=encoded)
        indexed = all(_is_indexed(column, one) for one in encoded)
        return self._mark(condition, [column] if indexed else None)

    def path(self, path: str, *, is_predicate: bool) -> str:
        """Return the SQL of whether an SQL/JSON path is true, or finds something."""
        kind = "path_predicate" if is_predicate else "path_selection"
        if _TIME_METHOD.search(path):
            kind = f"{kind}_on_times"
        condition = self.render(kind, column="return_value", value=path)
        return self._mark(condition, ["return_value"] if _INDEXED_PATH.fullmatch(path) else None)

    def is_indexed(self, condition: str) -> bool:
        """Whether an index of JSON columns finds the rows that fulfil a condition of these."""
        return condition in self._indexed

    def present(self, condition: str) -> str:
        """Return the SQL of whether there is anything in the columns that a condition needs."""
        columns = sorted(self._indexed[condition])
        return self.all_of([compose("not_nulls", column=column) for column in columns])

    def all_of(self, conditions: Sequence[str]) -> str:
        """Return the SQL of conditions that must all hold; all rows fulfil none."""
        joined = self._joined("conjunction", conditions) if conditions else compose("every_row")
        indexed = [self._indexed[part] for part in conditions if part in self._indexed]
        return self._mark(joined, frozenset().union(*indexed) if indexed else None)

    def any_of(self, conditions: Sequence[str]) -> str:
        """Return the SQL of conditions of which one must hold; no row fulfils none."""
        joined = self._joined("disjunction", conditions) if conditions else compose("no_row")
        if not all(map(self.is_indexed, conditions)):
            return joined
        indexed = [self._indexed[part] for part in conditions]
        return self._mark(joined, frozenset.intersection(*indexed) if indexed else ())

    def none_of(self, condition: str) -> str:
        """Return the SQL of a condition that must not hold, be it false or NULL."""
        return compose("negation", condition=condition)

    def json(self, column: str, value: object) -> str:
        """Return a value as the JSON that the store would hold for it, in ASCII.

        Raises:
            FilterError: no JSON can be searched for it.
        """
        check_value(column, value)
        try:
            encoded = self._serializer.encode({column: value}, task_id="")
        except SerializationError as error:
            raise FilterError(f"A filter on {column} cannot be stored as JSON: {error}") from error
        if encoded.pickled is not None:
            raise FilterError(
                f"A filter on {column} holds a value that is stored as a pickle, so that no search "
                "finds it: search for what stands beside it."
            )
        return _NOT_ASCII.sub(_escaped, encoded.columns[column].decode())

    def _mark(self, condition: str, columns: Iterable[str] | None) -> str:
        """Note that an index finds a condition on these columns, unless they are None."""
        if columns is not None:
            self._indexed[condition] = frozenset(columns)
        return condition

    def _joined(self, fragment: str, conditions: Sequence[str]) -> str:
        """Join in halves: the server's stack bounds how deep parentheses go."""
        if len(conditions) == 1:
            return conditions[0]
        middle = len(conditions) // 2
        return compose(
            fragment,
            left=self._joined(fragment, conditions[:middle]),
            right=self._joined(fragment, conditions[middle:]),
        )


def _is_indexed(column: str, encoded: str) -> bool:
    """Whether an index finds the rows whose column contains this."""
    # It holds what stands at the ends of paths: all rows contain [] or {"key": {}}.
    has_ends = _KEY_OR_TEXT.sub(_end_of_path, encoded).strip("{}[], ")
    return bool(has_ends) and column in _INDEXED_COLUMNS


def _end_of_path(token: re.Match[str]) -> str:
    """Leave out a key; a text becomes a digit."""
    return "" if token[1] else "0"


def _parts(value: object) -> Iterator[object]:
    """Give a value and all that its lists and dicts hold, each once."""
    waiting, known = [value], set[int]()
    while waiting:
        part = waiting.pop()
        if id(part) not in known:
            known.add(id(part))
            yield part
            if isinstance(part, Mapping):
                waiting.extend(part.values())
            elif isinstance(part, list | tuple | AbstractSet):
                waiting.extend(part)
