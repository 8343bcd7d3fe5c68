"""The filters of a search: checked, and turned into conditions with bound values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

from typing_extensions import TypedDict

from taskiq_pg_json.errors import FilterError
from taskiq_pg_json.records import Status
from taskiq_pg_json.serializer.exceptions.printable import full_name
from taskiq_pg_json.store.conditions import Condition
from taskiq_pg_json.store.fragments import compose

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from taskiq_pg_json.store.fragments import Fragments


ValueT = TypeVar("ValueT")

Several: TypeAlias = Sequence[ValueT] | AbstractSet[ValueT]
"""What a filter may be given where any of several values will do."""


class FilterArguments(TypedDict, total=False):
    """The filters that searching, counting and analysing share; all of those given must hold.

    Attributes:
        task_name: a task's name, or several.
        status: a status, or several.
        worker: ``host:pid``, or several.
        since: ended at this moment (aware) or later; a timedelta counts back from now.
        until: ended before this moment, likewise.
        min_duration: ran for so many seconds, or more.
        max_duration: ran for so many seconds, or less.
        error_type: failed with a class of this name, with or without its module, or several.
        message: failed with a message that holds this text, in any case.
        fingerprint: failed for the same cause as others of this fingerprint, or several.
        return_value: JSONB containment (``@>``), in the values that were stored, as are ``args``,
            ``kwargs`` and ``labels``.
        where: an SQL/JSON path on the return value, or a condition made with ``F``.
        exclude: filters again; what they would find is left out.

    The filters on errors look among the failures, unless ``status`` says otherwise.
    """

    task_name: str | Several[str]
    status: Status | str | Several[Status | str]
    worker: str | Several[str]
    since: datetime | timedelta
    until: datetime | timedelta
    min_duration: float | timedelta
    max_duration: float | timedelta
    error_type: str | type[BaseException] | Several[str | type[BaseException]]
    message: str
    fingerprint: str | Several[str]
    return_value: object
    args: Sequence[object]
    kwargs: Mapping[str, object]
    labels: Mapping[str, object]
    where: str | Condition
    exclude: FilterArguments


_FILTERS = frozenset(FilterArguments.__annotations__)
_JSON_COLUMNS = ("return_value", "args", "kwargs", "labels")
_ERROR_FILTERS = ("error_type", "message", "fingerprint")
_BOUNDS: tuple[Literal["since", "until"], ...] = ("since", "until")
_DEEPEST = 100  # of filters to exclude by
_SHAPES: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "args": ((list, tuple), "list"),
    "kwargs": (Mapping, "dict"),
    "labels": (Mapping, "dict"),
}
TOO_DEEP = "The conditions are nested too deep: join many at once, by & or | alone, or by .in_(…)."
_ENDED = frozenset({Status.SUCCESS, Status.FAILURE})


@dataclass(frozen=True)
class Filters:
    """Checked filters.

    Args:
        given: as a caller gave them.
        paths: which of the SQL/JSON paths among them are predicates.

    Raises:
        FilterError: a filter that does not exist or that cannot work.
    """

    given: FilterArguments
    paths: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(map(str, set(self.given) - _FILTERS))
        if "task" in unknown:
            raise FilterError(
                "task: it is no filter to exclude by; its name is given as task_name."
            )
        if unknown:
            raise FilterError(
                f"{', '.join(unknown)}: no such filter; there are {', '.join(sorted(_FILTERS))}."
            )

    @property
    def task_names(self) -> list[str]:
        """The tasks asked for, each once; none also where it may be any."""
        return list(dict.fromkeys(_texts("task_name", self.given.get("task_name", ()))))

    @property
    def statuses(self) -> frozenset[Status]:
        """The statuses that rows can have; none also where it may be any."""
        if "status" in self.given:
            return frozenset(map(_as_status, _several(self.given["status"])))
        about_errors = any(name in self.given for name in _ERROR_FILTERS)
        return frozenset({Status.FAILURE}) if about_errors else frozenset()

    @property
    def must_have_ended(self) -> bool:
        """Whether only tasks that have ended can be found."""
        statuses = self.statuses
        return (bool(statuses) and statuses <= _ENDED) or not self.given.keys().isdisjoint(
            ("since", "until")
        )

    def render(self, fragments: Fragments) -> str:
        """Return the SQL of all filters."""
        return fragments.all_of([self.tasks(fragments), *self._rest(fragments)])

    def visible(self, fragments: Fragments) -> str:
        """Return the SQL of all filters, of rows that have not expired.

        Raises:
            FilterError: conditions are nested too deep.
        """
        return fragments.all_of([self.tasks(fragments), self.visible_of_any_task(fragments)])

    def visible_of_any_task(self, fragments: Fragments) -> str:
        """Return the SQL of all filters but the tasks, of rows that have not expired.

        Raises:
            FilterError: conditions are nested too deep.
        """
        try:
            return fragments.all_of([*self._rest(fragments), compose("not_expired")])
        except RecursionError as error:
            raise FilterError(TOO_DEEP) from error

    def walked(self, fragments: Fragments, column: str) -> str:
        """Return the SQL of those filters that the index of this order has beside it."""
        if column != "finished_at":
            return compose("every_row")
        statuses = self._statuses(fragments)
        return fragments.all_of([self.tasks(fragments), *statuses, *self._span(fragments)])

    def tasks(self, fragments: Fragments, *, each_task: bool = False) -> str:
        """Return the SQL of the tasks; with ``each_task`` they are another query's."""
        names = self.task_names
        if each_task:
            return compose("each_task")
        if len(names) == 1:
            return fragments.render("task_name", value=names[0])
        if "task_name" in self.given:
            return fragments.render("task_names", value=names)
        return compose("every_row")

    @cached_property
    def _bounds(self) -> Mapping[str, datetime]:
        """The moments between which tasks ended; what counts back from now does so once."""
        return {name: moment(name, self.given[name]) for name in _BOUNDS if name in self.given}

    def _span(self, fragments: Fragments) -> Iterator[str]:
        for name, bound in self._bounds.items():
            yield fragments.render(name, value=bound)

    def _rest(self, fragments: Fragments) -> Iterator[str]:
        yield from self._statuses(fragments)
        yield from self._span(fragments)
        for name, checked in _SIMPLE.items():
            if name in self.given:
                yield fragments.render(name, value=checked(name, self.given[name]))  # type: ignore[literal-required] # of the same names
        for column in _JSON_COLUMNS:
            if column == "labels" and self.given.get(column) == {}:
                continue  # which all labels contain, those too that are NULL for there are none
            if column in self.given:
                value = fragments.json(column, _shaped(column, self.given[column]))  # type: ignore[literal-required] # likewise
                yield fragments.contains(column, value)
        where = self.given.get("where")
        if isinstance(where, Condition):
            yield where.render(fragments)
        elif where is not None:
            yield fragments.path(where, is_predicate=self.paths[where])
        excluded = self.given.get("exclude")
        if excluded:
            yield fragments.none_of(Filters(excluded, self.paths).render(fragments))

    def _statuses(self, fragments: Fragments) -> Iterator[str]:
        statuses = self.statuses
        if statuses == {Status.FAILURE}:
            yield compose("failed")
        elif "status" in self.given:
            yield fragments.render("status", value=sorted(map(str, statuses)))
        if self.must_have_ended:
            yield compose("finished")
        elif statuses and statuses.isdisjoint(_ENDED):
            yield compose("unfinished")


def paths_of(given: FilterArguments, depth: int = 0) -> set[str]:
    """Return the SQL/JSON paths among filters, which only the server can judge.

    Raises:
        FilterError: a ``where`` that is neither text nor a condition, or an ``exclude`` that is
            no dict or holds too many others within each other.
    """
    if depth > _DEEPEST:
        raise FilterError(f"exclude= holds exclude= more than {_DEEPEST} deep: give fewer.")
    where = given.get("where")
    if not isinstance(where, str | Condition | None):
        raise FilterError(
            f"where={where!r}: give an SQL/JSON path (str) or a condition made with F."
        )
    excluded = given.get("exclude")
    if not isinstance(excluded, Mapping | None):
        raise FilterError(f"exclude={excluded!r}: give filters, as a dict.")
    inner = paths_of(excluded, depth + 1) if excluded else set()
    return {where, *inner} if isinstance(where, str) else inner


def _several(values: object) -> Sequence[object]:
    """A single value stands for a list of it."""
    if isinstance(values, Sequence | AbstractSet) and not isinstance(values, str):
        return tuple(values)
    return (values,)


def _texts(name: str, values: object) -> list[str]:
    return [_text(name, value) for value in _several(values)]


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise FilterError(f"{name}={value!r}: give a text (str).")
    if "\0" in value:
        raise FilterError(f"{name}={value!r}: give a text without NUL.")
    return value


def _type_names(name: str, values: object) -> list[str]:
    return _texts(
        name,
        [full_name(value) if isinstance(value, type) else value for value in _several(values)],
    )


def _shaped(column: str, value: object) -> object:
    """Return what a JSON column is to contain; only a return value may be anything."""
    types, kind = _SHAPES.get(column, (object, ""))
    if not isinstance(value, types):
        raise FilterError(f"{column}={value!r}: give a {kind} of what the {column} shall contain.")
    return value


def _as_status(value: object) -> Status:
    try:
        return Status(value)
    except ValueError as error:
        raise FilterError(f"status={value!r} is none of {', '.join(Status)}.") from error


def moment(name: str, value: object) -> datetime:
    """Return a moment, in UTC, that was given as one, or as a timedelta back from now."""
    if isinstance(value, timedelta):
        try:
            return datetime.now(timezone.utc) - value
        except OverflowError as error:
            raise FilterError(f"{name}={value!r} is too far back, or ahead.") from error
    if not isinstance(value, datetime):
        raise FilterError(
            f"{name}={value!r}: give an aware datetime, or a timedelta back from now."
        )
    if value.tzinfo is None:
        raise FilterError(
            f"{name}={value!r} has no time zone, so that it is no moment: give an aware datetime, "
            "as datetime.now(timezone.utc)."
        )
    try:
        return value.astimezone(timezone.utc)
    except OverflowError as error:
        raise FilterError(f"{name}={value!r} is too far back, or ahead, in UTC.") from error


def _seconds(name: str, value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value):
            return float(value)
    except OverflowError:
        pass
    raise FilterError(f"{name}={value!r}: give seconds, or a timedelta.")


_SIMPLE: Mapping[str, Callable[[str, object], object]] = {
    "worker": _texts,
    "min_duration": _seconds,
    "max_duration": _seconds,
    "error_type": _type_names,
    "message": _text,
    "fingerprint": _texts,
}
