"""The kinds of class whose state is stored field by field, told apart without running them."""

from __future__ import annotations

import enum
import sys
from types import FunctionType, MemberDescriptorType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Collection

HEAP_TYPE = 1 << 9
"""The flag of a class that is no static one of C's."""

PAYLOADS: dict[str, type] = {
    cls.__name__: cls for cls in (str, int, float, bytes, list, tuple, dict, set, frozenset)
}
"""The builtins whose value an instance of a subclass carries."""

_PAYLOAD_CLASSES = tuple(PAYLOADS.values())
_STRUCT_HASH = "__msgspec_cached_hash__"
_namespace = type.__dict__["__dict__"].__get__


def attributes(cls: type) -> dict[str, object]:
    """A class's own namespace, without asking its metaclass."""
    found: dict[str, object] = _namespace(cls)
    return found


def inherited(cls: type, name: str) -> object:
    """An attribute as the class and its bases define it, unbound; None without it."""
    for base in cls.__mro__:
        if name in attributes(base):
            return attributes(base)[name]
    return None


def slots_of(cls: type) -> dict[str, Any]:
    """The descriptors of the slots of a class and its bases.

    Not the one in which msgspec keeps a hash: that is another in each process.
    """
    slots: dict[str, Any] = {}
    for base in cls.__mro__:
        for name, found in attributes(base).items():
            if isinstance(found, MemberDescriptorType) and name not in slots:
                slots[name] = found
    slots.pop(_STRUCT_HASH, None)
    return slots


def in_slots(slots: dict[str, Any], value: object) -> dict[str, object]:
    """What an instance holds in these slots; those that are empty are left out."""
    state: dict[str, object] = {}
    for name, slot in slots.items():
        try:
            state[name] = slot.__get__(value)
        except AttributeError:  # noqa: PERF203 - how an empty slot is told from a full one
            continue
    return state


def kind_of(cls: type) -> str | None:
    """What a class is; None for one whose state is not known to be its fields."""
    if issubclass(cls, BaseException):
        return "exception"
    if issubclass(cls, enum.Enum):
        return "enum"
    if issubclass(cls, BaseModel):
        return "model" if cls is not BaseModel else None
    if _is_struct(cls):
        # msgspec makes no empty Struct, and calls this whenever it makes a full one
        return "struct" if inherited(cls, "__post_init__") is None else None
    if _is_plain_object(cls):
        return None if is_mapped(cls) else _maker_of(cls)
    return _payload_kind(cls)


def is_of_kind(cls: type, kind: str) -> bool:
    """Whether a row may hold instances of a class as of that kind.

    Older rows hold those by their fields that SQLAlchemy maps.
    """
    if is_mapped(cls) and _is_plain_object(cls):
        return _maker_of(cls) == kind
    return kind_of(cls) == kind


def is_mapped(cls: type) -> bool:
    """Whether SQLAlchemy maps it: an object's state there refers to the very object."""
    return inherited(cls, "_sa_class_manager") is not None


def _maker_of(cls: type) -> str | None:
    if inherited(cls, "__dataclass_fields__") is not None:
        return "dataclass"
    return "attrs" if inherited(cls, "__attrs_attrs__") is not None else None


def _is_struct(cls: type) -> bool:
    msgspec = sys.modules.get("msgspec")
    return msgspec is not None and issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct


def _is_plain_object(cls: type) -> bool:
    """Whether all of its state is in ``__dict__`` and slots: no base written in C holds more."""
    return all(_is_written_in_python(base) for base in cls.__mro__[:-1])


def _is_written_in_python(cls: type) -> bool:
    new = attributes(cls).get("__new__")
    return bool(cls.__flags__ & HEAP_TYPE) and (
        new is None or isinstance(new, (staticmethod, FunctionType))
    )


def _payload_kind(cls: type) -> str | None:
    """The builtin whose value an instance carries, with nothing but Python classes below it."""
    base = base_among(cls, _PAYLOAD_CLASSES)
    if base is None or base is cls:
        return None
    if base is tuple and type(inherited(cls, "_fields")) is tuple:
        return "namedtuple"
    return base.__name__


def base_among(cls: type, bases: Collection[type]) -> type | None:
    """The one of these that a class is, or derives from by nothing but classes in Python."""
    for base in cls.__mro__:
        if base in bases:
            return base
        if not _is_written_in_python(base):
            return None
    return None
