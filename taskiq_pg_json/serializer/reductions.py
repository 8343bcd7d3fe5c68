"""How the fallback pickles objects whose own way leaves out some of what they hold.

A pickle names ``new_struct`` and ``fill_struct``: they stay where they are, under these names.
"""

from __future__ import annotations

import contextlib
import copy
import copyreg
import pickle
import sys
from collections import Counter
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer.cycles import ATOMS
from taskiq_pg_json.serializer.kinds import base_among, in_slots, inherited, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable

Reduction = tuple[Any, ...]
"""What ``__reduce_ex__`` returns."""

PROTOCOL = 4
_SETS = (set.__reduce__, frozenset.__reduce__)
_MOMENTS = (datetime, date, time)
_ABOUT_STATE = ("__getstate__", "__setstate__")


def reduction(value: object, comes_back: Callable[[Reduction], bool], *, in_cycle: bool) -> Any:  # noqa: ANN401 - as pickle declares it
    """What to pickle of an object, as ``__reduce_ex__`` says it; NotImplemented for its own way.

    Its own way is that of whoever has taught pickle the class, and any that loses nothing.

    Args:
        value: the object.
        comes_back: whether pickle takes what an object is reduced to, and makes one of it again.
        in_cycle: whether objects are to be made before what they hold, as it may hold them.
    """
    cls = type(value)
    if cls in copyreg.dispatch_table:
        return NotImplemented
    reduces = cls.__reduce__
    if isinstance(value, Counter) and reduces is Counter.__reduce__:
        # which leaves out its attributes
        state = value.__dict__, in_slots(slots_of(cls), value)
        return copyreg.__newobj__, (cls,), state, None, iter(dict.items(value))  # type: ignore[attr-defined]
    if issubclass(cls, (set, frozenset)) and reduces in _SETS:
        return _set(value)
    if issubclass(cls, (date, time)):
        return _moment(value, comes_back)
    msgspec = sys.modules.get("msgspec")
    if (
        msgspec is not None
        and reduces is msgspec.Struct.__reduce__
        and cls.__reduce_ex__ is object.__reduce_ex__
    ):
        return _struct(value, in_cycle=in_cycle)
    return NotImplemented


def _set(value: Any) -> Any:  # noqa: ANN401 - likewise
    """A set with its slots, which Python 3.10 leaves out."""
    cls = type(value)
    slots = in_slots(slots_of(cls), value)
    if not slots:
        return NotImplemented
    return cls, (list(value),), (getattr(value, "__dict__", None), slots)


def _moment(value: Any, comes_back: Callable[[Reduction], bool]) -> Any:  # noqa: ANN401 - likewise
    """A datetime, date or time of a subclass by its state.

    Python's way leaves out attributes: so it does still where they cannot be pickled, or where the
    subclass has ideas of its own about its state. One of the subclass may leave out ``fold``, as
    pendulum's does: then it would be another moment.
    """
    cls = type(value)
    base: Any = base_among(cls, _MOMENTS)
    if base is None or base is cls:
        return NotImplemented
    attributes, slots = getattr(value, "__dict__", None), in_slots(slots_of(cls), value)
    state = (attributes, slots) if slots else attributes
    if state and _rules_its_state(cls):
        state = None
    is_pythons = cls.__reduce_ex__ is base.__reduce_ex__ and cls.__reduce__ is base.__reduce__
    loses = state if is_pythons else getattr(value, "fold", 0) and not _keeps_fold(value)
    if not loses:
        return NotImplemented
    moment = base.__new__, (cls, *base.__reduce_ex__(value, PROTOCOL)[1])
    if state and comes_back((*moment, state)):
        return *moment, state
    return NotImplemented if is_pythons else moment


def _rules_its_state(cls: type) -> bool:
    return any(inherited(cls, name) is not inherited(object, name) for name in _ABOUT_STATE)


def _keeps_fold(value: Any) -> bool:  # noqa: ANN401 - likewise
    try:
        found: object = pickle.loads(pickle.dumps(value, PROTOCOL)).fold  # noqa: S301 - made here
    except Exception:  # noqa: BLE001 - a reduce of the user's may raise anything
        return False
    return bool(found == value.fold)


def _struct(value: Any, *, in_cycle: bool) -> Any:  # noqa: ANN401 - likewise
    """A Struct msgspec's way, or by its state.

    msgspec's way leaves out attributes, runs a ``__post_init__`` again, refuses a Struct of which
    a field is unset, and makes none before what it holds.
    """
    cls: Any = type(value)
    attributes = getattr(value, "__dict__", None)
    has_hook = inherited(cls, "__post_init__") is not None
    if not (attributes or has_hook or in_cycle):
        with contextlib.suppress(AttributeError):  # a field that is unset
            return cls.__reduce__(value)
    fields = in_slots(slots_of(cls), value)
    first = fields
    if not has_hook:
        # what may hold the Struct itself comes later; what it is hashed by is best there at once
        first = {name: held for name, held in fields.items() if type(held) in ATOMS}
    return new_struct, (cls, first), (fields, attributes), None, None, fill_struct


def new_struct(cls: Any, fields: dict[str, object]) -> Any:  # noqa: ANN401 - a library's
    """A Struct to be filled; there is no making one without its ``__post_init__``."""
    if inherited(cls, "__post_init__") is not None:
        # which may change what the fields hold, and has done so before they were pickled
        with contextlib.suppress(Exception):  # what has no copy is given to it as it is
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
