"""What a search needs to know of a task: its name, and the type of what it returns."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

from pydantic import TypeAdapter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from taskiq_pg_json.records import Decode

logger = logging.getLogger("taskiq_pg_json")

_JSON_S_OWN = frozenset({"float", "int", "json", "str"})
"""Types that JSON has: their values bear them where jsonb would break them, as NaN."""

ReturnT_co = TypeVar("ReturnT_co", covariant=True)


class Task(Protocol[ReturnT_co]):
    """A task as taskiq's ``@broker.task`` makes it of a function."""

    @property
    def task_name(self) -> str:
        """The name that its rows bear."""
        ...

    @property
    def original_func(self) -> Callable[..., ReturnT_co]:
        """The function, whose return annotation is the type of the results."""
        ...


class AsyncTask(Protocol[ReturnT_co]):
    """A task as taskiq's ``@broker.task`` makes it of an ``async`` function."""

    @property
    def task_name(self) -> str:
        """The name that its rows bear."""
        ...

    @property
    def original_func(self) -> Callable[..., Coroutine[Any, Any, ReturnT_co]]:
        """The function, whose return annotation is the type of the results."""
        ...


def is_task(value: object) -> bool:
    """Whether it is a task."""
    return isinstance(getattr(value, "task_name", None), str) and hasattr(value, "original_func")


def return_type(function: Callable[..., object]) -> Any:  # noqa: ANN401 - any annotation
    """Return the annotation of what a task returns; ``inspect.Signature.empty`` without one."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - an annotation is any code
        return inspect.Signature.empty
    return hints.get("return", inspect.Signature.empty)


def coercing(task: Task[object], types: bytes | None) -> Callable[[Decode], Decode]:
    """Return how the values of a row are decoded that a task has made.

    Where the row says nothing of the return value's type, as one that another program wrote, the
    task's annotation does. A value that does not fit it stays as it is.
    """

    def wrap(decode: Decode) -> Decode:
        def decode_typed(column: str) -> object:
            value = decode(column)
            if column != "return_value" or value is None or _is_typed(types):
                return value
            return _coerced(value, task)

        return decode_typed

    return wrap


def _is_typed(types: bytes | None) -> bool:
    """Whether the row says of which type any part of the return value is."""
    sidecar = json.loads(types) if types is not None else None
    node = sidecar.get("return_value") if isinstance(sidecar, dict) else None
    return _names_a_type(node)


def _names_a_type(node: object) -> bool:
    if not isinstance(node, dict):
        return isinstance(node, str) and node not in _JSON_S_OWN
    children = node.get("fields")
    return (
        not node.keys() <= {"items", "fields", "order", "keys"}
        or node.get("keys", "json") != "json"
        or _names_a_type(node.get("items"))
        or (isinstance(children, dict) and any(map(_names_a_type, children.values())))
    )


def _coerced(value: object, task: Task[object]) -> object:
    adapter = _adapter(task.original_func)
    if adapter is None:
        return value
    try:
        coerced: object = adapter.validate_python(value)
    except Exception as error:  # noqa: BLE001 - a validator of the user's may raise anything
        logger.warning("A result of %s does not fit its annotation: %s", task.task_name, error)
        return value
    # Of an Iterable pydantic makes what can be read once.
    return value if isinstance(coerced, Iterator) else coerced


@lru_cache(maxsize=256)
def _adapter(function: Callable[..., object]) -> TypeAdapter[Any] | None:
    annotation = return_type(function)
    if annotation is inspect.Signature.empty:
        return None
    try:
        return TypeAdapter(annotation)
    except Exception as error:  # noqa: BLE001 - likewise
        logger.warning("Results cannot be checked against %r: %s", annotation, error)
        return None
