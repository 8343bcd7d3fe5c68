"""Keeps secrets out of the rows."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy, deepcopy
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from operator import is_
from types import FunctionType, MemberDescriptorType, ModuleType, TracebackType
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from taskiq_pg_json.errors import ConfigurationError

logger = logging.getLogger("taskiq_pg_json")

REDACTED = "[redacted]"

Call = tuple["Sequence[Any] | None", "Mapping[str, Any] | None"]
"""A task's positional and keyword arguments."""

Redact = Collection[str] | Callable[[str, list[Any], dict[str, Any]], Call]
"""Names of parameters, or ``redact(task_name, args, kwargs)`` which returns both redacted."""

_ATOMS = frozenset({str, int, float, bool, type(None)})
_SCALARS = _ATOMS | {bytes, bytearray, date, datetime, time, timedelta, Decimal, UUID}
_CONSTANTS = (type, FunctionType, ModuleType, Enum, TracebackType)
"""What is stored by its name, if at all."""

_MOST_SEARCHED = 10_000
"""Values that are looked at in one object; what holds more is hidden."""


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
    field of whatever mapping or object stands inside the arguments, however deep.

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

    def _redacted(self, value: Any) -> Any:  # noqa: ANN401, PLR0911 - likewise; one for each kind
        """Copy what only some brokers' formatters keep; an object of which nothing is hidden stays.

        Of any other object its fields are left.
        """
        kind = type(value)
        if kind in _SCALARS or issubclass(kind, _CONSTANTS):
            return value
        if issubclass(kind, dict):
            return self._redacted_dict(value)
        if issubclass(kind, list):
            return self._items(value)
        if issubclass(kind, tuple):
            fields = getattr(kind, "_fields", None)  # a namedtuple's
            if fields is None:
                items = tuple(map(self._copied, value))
            else:
                items = kind._make(self._hidden(dict(zip(fields, value, strict=True))).values())  # type: ignore[attr-defined] # likewise
            return items if self._differs(value, value, items) else value
        if issubclass(kind, deque):
            return deque(map(self._copied, value), value.maxlen)
        if issubclass(kind, (set, frozenset)):
            given = list(value)
            listed = self._items(given)
            # a list, as it is sent: what is hidden makes a mapping of an object, which has no hash
            return listed if self._differs(value, given, listed) else value
        fields = value if issubclass(kind, Mapping) else _fields(value)
        return self._redacted_object(value) if fields is None else self._hidden(fields)

    def _redacted_dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        # Past whatever the class overrides: a Counter's update() would add, and some keep lists.
        hidden = self._hidden(dict(dict.items(value)))
        if self._hides_attributes(value):
            return hidden
        copied = copy(value)
        dict.update(copied, hidden)
        return copied

    def _differs(self, value: object, given: Sequence[object], redacted: Sequence[object]) -> bool:
        return not all(map(is_, given, redacted)) or self._hides_attributes(value)

    def _redacted_object(self, value: Any) -> Any:  # noqa: ANN401 - any value
        hides, is_tree = self._searched(value)
        if not hides:
            return value
        if not is_tree:
            return REDACTED
        kind = type(value)
        if _is_of_pandas(kind):
            return self._hidden(dict(value.items()))
        if issubclass(kind, Sequence) and not issubclass(kind, str | bytes | bytearray):
            return self._items(value)
        return self._hidden(_attributes(value)) or REDACTED

    def _hides_attributes(self, value: object) -> bool:
        attributes = _attributes(value)
        return bool(attributes) and self._searched(attributes)[0]

    def _searched(self, value: object) -> tuple[bool, bool]:
        """Whether a name stands anywhere in a value, and whether its parts can be told.

        They cannot where it holds itself, or too much.
        """
        hides, is_tree = False, True
        seen: dict[int, object] = {}  # with the values, lest another has the id
        waiting = [value]
        while waiting:
            item = waiting.pop()
            if type(item) in _SCALARS or issubclass(type(item), _CONSTANTS):
                continue
            if id(item) in seen:
                is_tree = is_tree and item is not value
                continue
            if len(seen) == _MOST_SEARCHED:
                return True, False
            seen[id(item)] = item
            attributes = _attributes(item)
            hides = hides or not (
                self._names.isdisjoint(attributes) and self._names.isdisjoint(_keys(item))
            )
            waiting += attributes.values()
            waiting += gc.get_referents(item)  # what a class in C holds, too
            waiting += _held_by_numpy(item)
        return hides, is_tree

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


def _attributes(value: object) -> dict[str, Any]:
    """What an object has in its ``__dict__``, in slots and, in C, as members; an error's args."""
    found: dict[str, Any] = {}
    kind: Any = type(value)
    for name, member in _members(kind):
        with suppress(AttributeError):  # a slot that is not set
            found[name] = member.__get__(value)
    with suppress(AttributeError):
        found.update(object.__getattribute__(value, "__dict__"))
    if isinstance(value, BaseException):  # of which these are no member
        found["args"] = value.args
    return found


@lru_cache(maxsize=256)
def _members(kind: type) -> list[tuple[str, MemberDescriptorType]]:
    return [
        (name, member)
        for cls in kind.__mro__
        for name, member in vars(cls).items()
        if type(member) is MemberDescriptorType and not name.startswith("__")
    ]


def _keys(value: Any) -> Iterable[object]:  # noqa: ANN401 - any value
    kind = type(value)
    return value.keys() if issubclass(kind, Mapping) or _is_of_pandas(kind) else ()


def _is_of_pandas(kind: type) -> bool:
    """Whether it is a mapping of labels, which its class does not say."""
    pandas: Any = sys.modules.get("pandas")
    return pandas is not None and issubclass(kind, (pandas.DataFrame, pandas.Series))


def _held_by_numpy(value: Any) -> Iterable[object]:  # noqa: ANN401 - any value
    """What an array holds, which the garbage collector is not told."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is None:
        return ()
    if isinstance(value, numpy.dtype):
        return (value.fields,)
    if isinstance(value, (numpy.ndarray, numpy.generic)):
        return (value.dtype, value.tolist() if value.dtype.hasobject else None)
    return ()
