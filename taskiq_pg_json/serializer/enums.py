"""Members of every kind of Enum: by value where that is a str or an int, by name otherwise."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, cast

from taskiq_pg_json.serializer.kinds import inherited
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.text import INT64, is_clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

# Python 3.10 has another for IntFlag
_COMBINING = tuple(inherited(cls, "_missing_") for cls in (enum.Flag, enum.IntFlag))


def handler(cls: type, name: str) -> Callable[[Encoder, Any], Encoded]:
    """Encode members of one Enum."""
    members = cast("type[enum.Enum]", cls)
    by_name: Node = {"type": name, "keys": "name"}

    def encode(encoder: Encoder, value: enum.Enum) -> Encoded:
        plain = value._value_
        # two members may share a value that compares equal, such as 1 and True; and what a class
        # has made of a value in this process need not be there in another
        if _is_json(plain) and of_value(members, plain) is value and _is_lasting(members, value):
            return plain, name
        label = value._name_
        if label is not None and of_name(members, label) is value and is_clean(label):
            return label, by_name
        return encode_unknown(encoder, value)

    return encode


def _is_lasting(cls: type[enum.Enum], value: enum.Enum) -> bool:
    """Whether every process has the member, or can combine it."""
    return cls.__members__.get(value._name_) is value or _combines(cls)


def _is_json(value: object) -> bool:
    if type(value) is str:
        return is_clean(value)
    return type(value) is int and value in INT64


def of_name(cls: type[enum.Enum], name: object) -> enum.Enum | None:
    """The member of that name."""
    return cls.__members__.get(name) if isinstance(name, str) else None


def of_value(cls: type[enum.Enum], value: object) -> enum.Enum | None:
    """The member of that value; flags are combined, unless the class has a say in it itself."""
    try:
        member = cls._value2member_map_.get(value)
    except TypeError:
        return None
    if member is None and type(value) is int and _combines(cls):
        try:
            combined = cls(value)
        except ValueError:
            return None
        # an int, where the class ejects what it does not know
        return combined if isinstance(combined, cls) else None
    return member


def _combines(cls: type[enum.Enum]) -> bool:
    """Whether members are flags that the standard library combines."""
    return issubclass(cls, enum.Flag) and inherited(cls, "_missing_") in _COMBINING
