"""Keeps secrets out of the rows."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import Any

from taskiq_pg_json.errors import ConfigurationError

logger = logging.getLogger("taskiq_pg_json")

REDACTED = "[redacted]"

Call = tuple["Sequence[Any] | None", "Mapping[str, Any] | None"]
"""A task's positional and keyword arguments."""

Redact = Collection[str] | Callable[[str, list[Any], dict[str, Any]], Call]
"""Names of parameters, or ``redact(task_name, args, kwargs)`` which returns both redacted."""

_ATOMS = frozenset({str, int, float, bool, type(None)})


class Redactor:
    """Copies a task's arguments and takes the secrets out of the copy.

    A name hides the keyword argument, the positional argument of that parameter, and that key of
    every mapping inside the arguments, in whatever lists, tuples, deques and mappings it stands.

    Attributes:
        hides: whether there is anything to hide.

    Raises:
        ConfigurationError: ``redact`` is neither names nor a callable.
    """

    def __init__(self, redact: Redact | None) -> None:
        if isinstance(redact, str | bytes) or not (
            redact is None or callable(redact) or isinstance(redact, Collection)
        ):
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
        parameters: Sequence[str] = (),
    ) -> Call:
        """Return copies without the secrets; Nones when the callable fails: nothing is safe then.

        ``parameters`` are the names of the positional arguments.
        """
        try:
            copied_args, copied_kwargs = self._items(args), self._hidden(kwargs)
        except Exception:  # noqa: BLE001 - a cycle, too deep, or a container that cannot be read
            return (None, None) if self.hides else (args, kwargs)
        if self._names:
            for position, name in enumerate(parameters[: len(copied_args)]):
                if name in self._names:
                    copied_args[position] = REDACTED
        if self._callable is None:
            return copied_args, copied_kwargs
        try:
            chosen_args, chosen_kwargs = self._callable(task_name, copied_args, copied_kwargs)
            return list(chosen_args or ()), dict(chosen_kwargs or {})
        except Exception:  # whatever a user's function raises: the task itself must go on
            logger.exception("redact= failed: the arguments of %s are not stored.", task_name)
            return None, None

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
        return self._redacted(value) if self._names else value

    def _redacted(self, value: Any) -> Any:  # noqa: ANN401 - likewise
        """Copy the containers that only some brokers' formatters keep."""
        kind = type(value)
        if issubclass(kind, dict):
            copied = copy(value)
            copied.update(self._hidden(value))
            return copied
        if issubclass(kind, tuple):
            make = getattr(kind, "_make", tuple)  # a namedtuple's
            return make(map(self._copied, value))
        if issubclass(kind, deque):
            return deque(map(self._copied, value), value.maxlen)
        return self._hidden(value) if issubclass(kind, Mapping) else value

    def _items(self, values: Iterable[Any]) -> list[Any]:
        return [self._copied(value) for value in values]

    def _hidden(self, mapping: Mapping[Any, Any]) -> dict[Any, Any]:
        names = self._names
        return {
            key: REDACTED if key in names else self._copied(child) for key, child in mapping.items()
        }
