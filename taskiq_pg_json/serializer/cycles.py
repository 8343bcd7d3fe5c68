"""Where the cycles of a value close, how much of it is shared, and how deep it is."""

from __future__ import annotations

import dataclasses
import gc
import sys
import types
from typing import Any

from taskiq_pg_json.serializer.scalars import SCALARS

_NO_DATA = (
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.CodeType,
    types.FrameType,
    types.TracebackType,
)
ATOMS = frozenset({str, int, float, bool, type(None), *(scalar.cls for scalar in SCALARS)})
"""Types whose values hold nothing, and are not counted."""
_CONTAINERS = frozenset({list, tuple, dict})


def survey(root: object) -> tuple[frozenset[int], int]:
    """The ids of objects that hold themselves, and the number of different containers.

    Every cycle has at least one of these objects. Walks without recursion, depth first, and keeps
    what it is in the middle of apart from what it is done with.
    """
    cyclic: set[int] = set()
    open_ids = {id(root)}
    done: set[int] = set()
    stack = [(root, iter(_referents(root)))]
    while stack:
        holder, rest = stack[-1]
        for child in rest:
            name = id(child)
            if name in open_ids:
                cyclic.add(name)
            elif name not in done:
                found = _referents(child)
                if found:
                    open_ids.add(name)
                    stack.append((child, iter(found)))
                    break
                done.add(name)
        else:
            stack.pop()
            open_ids.discard(id(holder))
            done.add(id(holder))
    return frozenset(cyclic), len(done)


def is_deeper(root: object, levels: int) -> bool:
    """Whether dicts, lists, tuples and dataclasses are nested deeper than that, or in themselves.

    Walks without recursion.
    """
    below = {id(root): levels}  # until it is left: what is met inside of itself is too deep
    stack = [(root, iter(_nested_in(root)), 0)]
    while stack:
        holder, rest, deepest = stack.pop()
        for child in rest:
            known = below.get(id(child))
            if known is None:
                below[id(child)] = levels
                stack += (holder, rest, deepest), (child, iter(_nested_in(child)), 0)
                break
            deepest = max(deepest, known + 1)
            if len(stack) + 1 + deepest > levels:
                return True
        else:
            below[id(holder)] = deepest
            if stack:
                above, others, most = stack.pop()
                stack.append((above, others, max(most, deepest + 1)))
        if len(stack) > levels:
            return True
    return False


def _nested_in(holder: object) -> list[object]:
    nests = isinstance(holder, (dict, list, tuple)) or dataclasses.is_dataclass(holder)
    return _referents(holder) if nests else []


def _referents(holder: object) -> list[object]:
    """What an object holds and may hold more: also what the collector does not track.

    It forgets tuples and dicts of nothing but atoms, which are containers all the same.
    """
    found: list[object]
    if type(holder) in _CONTAINERS:
        found = gc.get_referents(holder)
        if ATOMS.issuperset(map(type, found)):
            return []
    elif isinstance(holder, BaseException):
        # not its traceback, whose frames hold the whole program
        found = [holder.args, getattr(holder, "__dict__", None)]
    elif gc.is_tracked(holder) or not isinstance(holder, _struct_class()):
        found = gc.get_referents(holder)
    else:
        # one of gc=False has no referents for the collector
        found = [getattr(holder, name, None) for name in type(holder).__struct_fields__]
    return [
        child for child in found if type(child) not in ATOMS and not isinstance(child, _NO_DATA)
    ]


def _struct_class() -> Any:  # noqa: ANN401 - a library's
    """The base of msgspec's structs, or nothing where it is not imported."""
    msgspec = sys.modules.get("msgspec")
    return () if msgspec is None else msgspec.Struct
