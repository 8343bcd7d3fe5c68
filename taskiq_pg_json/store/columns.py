"""From a task's return annotation to the columns of a view."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NewType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

from pydantic import BaseModel, RootModel
from typing_extensions import is_typeddict

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.schema.names import check_identifier
from taskiq_pg_json.serializer.text import INT64

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_KINDS: dict[type, str] = {
    str: "text",
    bytes: "text",
    bool: "boolean",
    int: "bigint",
    float: "double",
    Decimal: "numeric",
    datetime: "timestamptz",
    date: "date",
    timedelta: "interval",
    UUID: "uuid",
}
_OWN_COLUMNS = frozenset({"task_id", "finished_at", "execution_time"})
_MOST_COLUMNS = 1_600
_UNINDEXABLE = frozenset({"timestamptz", "date", "interval", "jsonb"})
_UNIONS = (Union, types.UnionType)
_QUALIFIERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final"})


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """One column of a typed view.

    Attributes:
        key: the field's name in the JSON; None where the value has no fields.
        kind: its SQL type, as the ``as_…`` fragments name it.
    """

    key: str | None
    kind: str


def columns_of(annotation: object) -> dict[str, FieldColumn]:
    """Return a column for each field of a dataclass, model or TypedDict; else one for the value.

    Returns:
        The columns by name; one that the view has already gets ``value_`` before it.

    Raises:
        ConfigurationError: the annotations of the fields cannot be resolved, or PostgreSQL takes
            no columns of such names, or of that number.
    """
    fields = _fields(_bare(annotation))
    if not fields:
        return _named([FieldColumn(None, kind_of(annotation))])
    return _named([FieldColumn(name, kind_of(hint)) for name, hint in fields.items()])


def indexed(columns: Mapping[str, FieldColumn], fields: Sequence[str]) -> dict[str, FieldColumn]:
    """Return the columns of the fields to index, by name, of types that an index can hold.

    Raises:
        ConfigurationError: no such field, or one whose type no index can hold.
    """
    if isinstance(fields, str) or not isinstance(fields, Collection):
        raise ConfigurationError(f"index={fields!r}: give the names of fields, as a list.")
    names = {name if column.key is None else column.key: name for name, column in columns.items()}
    found = {}
    for field in fields:
        if not isinstance(field, str) or field not in names:
            raise ConfigurationError(
                f"index: the task returns no field {field!r}; there are {', '.join(names)}."
            )
        name = names[field]
        column = columns[name]
        if column.kind in _UNINDEXABLE:
            raise ConfigurationError(
                f"index: the field {field} is of the SQL type {column.kind}, of which no index of "
                "a view is made: what it equals is found with return_value= or where=, which have "
                "an index."
            )
        # A text that is too long for its index would keep the task's result from being written.
        found[name] = replace(column, kind="short_text") if column.kind == "text" else column
    return found


def kind_of(annotation: object) -> str:
    """Return the SQL type that holds every value of an annotation; ``jsonb`` holds all."""
    bare = _bare(annotation)
    if get_origin(bare) is Literal:
        return _common_kind(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _common_kind(bare)
    return _KINDS.get(bare, "jsonb") if isinstance(bare, type) else "jsonb"


def _common_kind(values: Any) -> str:  # noqa: ANN401 - of an enum or Literal, any
    kinds = {_kind_of_value(value) for value in values if value is not None}
    return kinds.pop() if len(kinds) == 1 else "jsonb"


def _kind_of_value(value: object) -> str:
    if isinstance(value, Enum):  # stored by its name, where its value is neither str nor int
        return "bigint" if type(value.value) is int and value.value in INT64 else "text"
    return _KINDS.get(type(value), "jsonb")


def _bare(annotation: object) -> Any:  # noqa: ANN401 - any annotation
    """Without ``Annotated``, ``Optional`` and other wraps, which change nothing of the JSON."""
    while (inner := _inner(annotation)) is not None:
        annotation = inner
    return annotation


def _inner(annotation: Any) -> object | None:  # noqa: ANN401 - any annotation
    """Return what an annotation wraps; None where it wraps nothing."""
    origin = get_origin(annotation)
    if origin is Annotated or getattr(origin, "_name", None) in _QUALIFIERS:
        return get_args(annotation)[0]  # type: ignore[no-any-return] # an annotation again
    if origin in _UNIONS:
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        return members[0] if len(members) == 1 else None
    if isinstance(annotation, NewType):
        return annotation.__supertype__
    if origin is not None or not isinstance(annotation, type):  # list[int] is both on Python 3.10
        return getattr(annotation, "__value__", None)  # of an alias, as ``type`` makes it
    return annotation.model_fields["root"].annotation if issubclass(annotation, RootModel) else None


def _fields(annotation: Any) -> Mapping[str, object]:  # noqa: ANN401 - any annotation
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return {}
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = _hints(cls)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _hints(cls) if is_typeddict(cls) else {}


def _hints(cls: type) -> Mapping[str, object]:
    try:
        return get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise ConfigurationError(
            f"The annotations of {cls.__qualname__} cannot be resolved, so that its fields cannot "
            f"be columns: {error}."
        ) from error


def _named(columns: Sequence[FieldColumn]) -> dict[str, FieldColumn]:
    kept = {column.key for column in columns if column.key} - _OWN_COLUMNS
    named: dict[str, FieldColumn] = {}
    for column in columns:
        name = column.key or "value"
        if name not in kept or name != column.key:
            while name in _OWN_COLUMNS or name in kept or name in named:
                name = f"value_{name}"
        check_identifier(f"The field {column.key!r}, as a column,", name)
        named[name] = column
    count = len(named) + len(_OWN_COLUMNS)
    if count > _MOST_COLUMNS:
        raise ConfigurationError(
            f"The view would have {count:,} columns, and PostgreSQL takes {_MOST_COLUMNS:,} at "
            "most: annotate the task with a type of fewer fields."
        )
    return named
