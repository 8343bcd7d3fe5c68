"""Keeps secrets out of the rows."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy, deepcopy
from operator import is_
from typing import Any, NamedTuple

from pydantic import BaseModel

from taskiq_pg_json.errors import ConfigurationError

logger = logging.getLogger("taskiq_pg_json")

REDACTED = "[redacted]"

Call = tuple["Sequence[Any] | None", "Mapping[str, Any] | None"]
"""A task's positional and keyword arguments."""

Redact = Collection[str] | Callable[[str, list[Any], dict[str, Any]], Call]
"""Names of parameters, or ``redact(task_name, args, kwargs)`` which returns both redacted."""

_ATOMS = frozenset({str, int, float, bool, type(None)})


class HiddenPositions(NamedTuple):
    """Which positional arguments are hidden.

    Attributes:
        single: positions.
        onwards: the first position from which all are.
    """

    single: frozenset[int] = frozenset()
    onwards: float = math.inf


_NONE_HIDDEN, _ALL_HIDDEN = HiddenPositions(), HiddenPositions(onwards=0)


def _are_names(redact: object) -> bool:
    return (
        isinstance(redact, Collection)
        and not isinstance(redact, str | bytes)
        and all(isinstance(name, str) for name in redact)
    )


class Redactor:
    """Copies a task's arguments and takes the secrets out of the copy.

    A name hides the keyword argument, the positional argument of that parameter, and that key or
    field of whatever mapping or object stands inside the arguments, in lists, tuples, sets and
    deques.

    Attributes:
        hides: whether there is anything to hide.

    Raises:
        ConfigurationError: ``redact`` is neither names nor a callable.
    """

    def __init__(self, redact: Redact | None) -> None:
        if not (redact is None or callable(redact) or _are_names(redact)):
            raise ConfigurationError(
                f"redact={redact!r} is neither a collection of parameter names, as in "
                "redact={'password'}, nor a callable."
            )
        self._names = frozenset(() if redact is None or callable(redact) else redact)
        self._callable = redact if callable(redact) else None
        self.hides = redact is not None

    def redacted(
        self,
        task_name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        hidden: HiddenPositions = _NONE_HIDDEN,
    ) -> Call:
        """Return copies without the secrets; Nones where these cannot be told."""
        try:
            copied_args, copied_kwargs = self._items(args), self._hidden(kwargs)
        except Exception:  # noqa: BLE001 - a cycle, too deep, or a container that cannot be read
            return (None, None) if self.hides else (args, kwargs)
        for position in range(len(copied_args)):
            if position in hidden.single or position >= hidden.onwards:
                copied_args[position] = REDACTED
        if self._callable is None:
            return copied_args, copied_kwargs
        try:
            chosen_args, chosen_kwargs = self._callable(task_name, copied_args, copied_kwargs)
            return (
                None if chosen_args is None else list(chosen_args),
                None if chosen_kwargs is None else dict(chosen_kwargs),
            )
        except Exception:  # whatever a user's function raises: the task itself must go on
            logger.exception("redact= failed: the arguments of %s are not stored.", task_name)
            return None, None

    def hidden_positions(self, function: Callable[..., Any] | None) -> HiddenPositions:
        """Return which positional arguments of a task's function bear one of the names.

        All, where that cannot be told: of a task that is not known here, and of a decorated one
        that has a parameter of such a name only behind the decorator. ``*args`` may be passed on
        to anything.
        """
        if not self._names:
            return _NONE_HIDDEN
        if function is None:
            return _ALL_HIDDEN
        try:
            called = inspect.signature(function, follow_wrapped=False).parameters
            wrapped = inspect.signature(function).parameters
        except (TypeError, ValueError):  # a builtin without a signature
            return _ALL_HIDDEN
        passed_on = self._names - called.keys()
        if all(parameter.kind is not parameter.VAR_POSITIONAL for parameter in wrapped.values()):
            passed_on &= wrapped.keys()
        if passed_on and called.keys() != wrapped.keys():
            return _ALL_HIDDEN
        single: set[int] = set()
        for position, (name, parameter) in enumerate(called.items()):
            if parameter.kind is parameter.VAR_POSITIONAL:
                onwards = position if passed_on or name in self._names else math.inf
                return HiddenPositions(frozenset(single), onwards)
            if name in self._names:
                single.add(position)
        return HiddenPositions(frozenset(single))

    def labels(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of the labels, of which names hide theirs."""
        try:
            return self._hidden(labels)
        except Exception:  # noqa: BLE001 - likewise
            return {} if self.hides else dict(labels)

    def _copied(self, value: Any) -> Any:  # noqa: ANN401 - any value
        """Copy containers, so that a task that changes its arguments does not change the row."""
        kind = type(value)
        if kind in _ATOMS:
            return value
        if kind is list:
            return self._items(value)
        if kind is dict:
            return self._hidden(value)
        if self._names:
            return self._redacted(value)
        return value if self._callable is None else deepcopy(value)  # which the callable may change

    def _redacted(self, value: Any) -> Any:  # noqa: ANN401 - likewise
        """Copy the containers that only some brokers' formatters keep."""
        kind = type(value)
        if issubclass(kind, dict):
            copied = copy(value)
            copied.update(self._hidden(value))
            return copied
        if issubclass(kind, tuple):
            fields = getattr(kind, "_fields", None)  # a namedtuple's
            if fields is None:
                items = tuple(map(self._copied, value))
            else:
                items = kind._make(self._hidden(dict(zip(fields, value, strict=True))).values())  # type: ignore[attr-defined] # likewise
            return value if all(map(is_, value, items)) else items
        if issubclass(kind, deque):
            return deque(map(self._copied, value), value.maxlen)
        if issubclass(kind, (set, frozenset)):
            given = list(value)
            listed = self._items(given)
            # a list, as it is sent: what is hidden makes a mapping of an object, which has no hash
            return value if all(map(is_, given, listed)) else listed
        fields = value if issubclass(kind, Mapping) else _fields(value)
        return value if fields is None else self._hidden(fields)

    def _items(self, values: Sequence[Any]) -> list[Any]:
        if _ATOMS.issuperset(map(type, values)):  # as most are
            return list(values)
        return [self._copied(value) for value in values]

    def _hidden(self, mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        names = self._names
        if not names and type(mapping) is dict and _ATOMS.issuperset(map(type, mapping.values())):
            return dict(mapping)
        return {
            key: REDACTED if key in names else self._copied(child) for key, child in mapping.items()
        }


def _fields(value: Any) -> dict[str, Any] | None:  # noqa: ANN401 - any value
    """The fields of an object that is sent as a mapping; None of any other."""
    if isinstance(value, BaseModel):
        return dict(value)
    kind = type(value)
    if dataclasses.is_dataclass(kind):
        names: Iterable[str] = [field.name for field in dataclasses.fields(kind)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    else:
        names = getattr(kind, "__struct_fields__", ())  # msgspec's
    return {name: getattr(value, name) for name in names if hasattr(value, name)} or None
