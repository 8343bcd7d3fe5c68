"""From a task's return annotation to the columns of a view."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)
from uuid import UUID

from pydantic import BaseModel
from typing_extensions import is_typeddict

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_UNIONS = (Union, types.UnionType)


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """One column of a typed view.

    Attributes:
        key: the field's name in the JSON; None where the value has no fields.
        kind: its SQL type, as the ``as_…`` fragments name it.
    """

    key: str | None
    kind: str


def columns_of(annotation: object) -> list[FieldColumn]:
    """Return a column for each field of a dataclass, model or TypedDict; else one for the value."""
    fields = _fields(_bare(annotation))
    if not fields:
        return [FieldColumn(None, kind_of(annotation))]
    return [FieldColumn(name, kind_of(hint)) for name, hint in fields.items()]


def kind_of(annotation: object) -> str:
    """Return the SQL type that holds every value of an annotation; ``jsonb`` holds all."""
    bare = _bare(annotation)
    if get_origin(bare) is Literal:
        return _common_kind(get_args(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return _common_kind([member.value for member in bare])
    return _KINDS.get(bare, "jsonb") if isinstance(bare, type) else "jsonb"


def _common_kind(values: Any) -> str:  # noqa: ANN401 - of an enum or Literal, any
    kinds = {_KINDS.get(type(value), "jsonb") for value in values}
    return kinds.pop() if len(kinds) == 1 else "jsonb"


def _bare(annotation: object) -> Any:  # noqa: ANN401 - any annotation
    """Without ``Annotated`` and ``Optional``."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
            continue
        if get_origin(annotation) in _UNIONS:
            members = [member for member in get_args(annotation) if member is not types.NoneType]
            if len(members) == 1:
                annotation = members[0]
                continue
        return annotation


def _fields(annotation: Any) -> Mapping[str, object]:  # noqa: ANN401 - any annotation
    cls = get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return {}
    if issubclass(cls, BaseModel):
        return {name: field.annotation for name, field in cls.model_fields.items()}
    if dataclasses.is_dataclass(cls):
        hints = get_type_hints(cls, include_extras=True)
        return {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    if is_typeddict(cls):
        return {
            name: get_args(hint)[0] if _is_qualified(hint) else hint
            for name, hint in get_type_hints(cls, include_extras=True).items()
        }
    return {}


def _is_qualified(hint: object) -> bool:
    """Whether it is ``Required[…]``, ``NotRequired[…]`` or ``ReadOnly[…]``."""
    return getattr(get_origin(hint), "_name", None) in {"Required", "NotRequired", "ReadOnly"}
