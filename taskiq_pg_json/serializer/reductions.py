"""How the fallback pickles objects whose own way leaves out some of what they hold.

A pickle names ``new_struct`` and ``fill_struct``: they stay where they are, under these names.
"""

from __future__ import annotations

import copy
import copyreg
import sys
from collections import Counter
from datetime import date, datetime, time
from typing import Any

from taskiq_pg_json.serializer.kinds import base_among, in_slots, inherited, slots_of

PROTOCOL = 4
_SETS = (set.__reduce__, frozenset.__reduce__)
_MOMENTS = (datetime, date, time)


def reduction(value: object) -> Any:  # noqa: ANN401 - as pickle declares it
    """What to pickle of an object, as ``__reduce_ex__`` says it; NotImplemented for its own way."""
    cls = type(value)
    reduces = cls.__reduce__
    if isinstance(value, Counter) and reduces is Counter.__reduce__:
        # which leaves out its attributes
        state = value.__dict__, in_slots(slots_of(cls), value)
        return copyreg.__newobj__, (cls,), state, None, iter(dict.items(value))  # type: ignore[attr-defined]
    if issubclass(cls, (set, frozenset)) and reduces in _SETS:
        return _set(value)
    if issubclass(cls, (date, time)):
        return _moment(value)
    msgspec = sys.modules.get("msgspec")
    if msgspec is not None and reduces is msgspec.Struct.__reduce__:
        return _struct(value)
    return NotImplemented


def _set(value: Any) -> Any:  # noqa: ANN401 - likewise
    """A set with its slots, which Python 3.10 leaves out."""
    cls = type(value)
    slots = in_slots(slots_of(cls), value)
    if not slots:
        return NotImplemented
    return cls, (list(value),), (getattr(value, "__dict__", None), slots)


def _moment(value: Any) -> Any:  # noqa: ANN401 - likewise
    """A datetime, date or time of a subclass by its state.

    Python's way leaves out attributes, and one of the subclass may leave out ``fold``, as
    pendulum's does: then it would be another moment.
    """
    cls = type(value)
    base: Any = base_among(cls, _MOMENTS)
    if base is None or base is cls:
        return NotImplemented
    attributes, slots = getattr(value, "__dict__", None), in_slots(slots_of(cls), value)
    is_pythons = cls.__reduce_ex__ is base.__reduce_ex__ and cls.__reduce__ is base.__reduce__
    if not (attributes or slots if is_pythons else getattr(value, "fold", 0)):
        return NotImplemented
    state = (attributes, slots) if slots else attributes
    arguments = base.__reduce_ex__(value, PROTOCOL)[1]
    return base.__new__, (cls, *arguments), state or None


def _struct(value: Any) -> Any:  # noqa: ANN401 - likewise
    """A Struct by its state: msgspec's way leaves out attributes, and what is unset it refuses."""
    cls = type(value)
    fields = in_slots(slots_of(cls), value)
    state = fields, getattr(value, "__dict__", None)
    return new_struct, (cls, fields), state, None, None, fill_struct


def new_struct(cls: Any, fields: dict[str, object]) -> Any:  # noqa: ANN401 - a library's
    """A Struct to be filled; there is no making one without its ``__post_init__``."""
    if inherited(cls, "__post_init__") is not None:
        # which may change what the fields hold, and has done so before they were pickled
        fields = copy.deepcopy(fields)
    return cls(**{name: fields.get(name) for name in cls.__struct_fields__})


def fill_struct(made: object, state: tuple[dict[str, object], dict[str, object] | None]) -> None:
    """Give a Struct all that the pickled one held, and nothing else."""
    fields, attributes = state
    for name, slot in slots_of(type(made)).items():
        if name in fields:
            slot.__set__(made, fields[name])
        elif hasattr(made, name):
            slot.__delete__(made)
    if attributes is not None:
        own: dict[str, object] = object.__getattribute__(made, "__dict__")
        own.clear()
        own.update(attributes)
