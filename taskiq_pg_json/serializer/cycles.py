"""Where the cycles of a value close, and how much of it is shared."""

from __future__ import annotations

import gc
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def survey(root: object) -> tuple[frozenset[int], int]:
    """The ids of objects that hold themselves, and the number of different containers.

    Every cycle has at least one of these objects. Walks without recursion, depth first, and keeps
    what it is in the middle of apart from what it is done with.
    """
    cyclic: set[int] = set()
    open_ids = {id(root)}
    done: set[int] = set()
    stack = [(root, _referents(root))]
    while stack:
        holder, rest = stack[-1]
        child = next(rest, None)
        if child is None:
            stack.pop()
            open_ids.discard(id(holder))
            done.add(id(holder))
        elif id(child) in open_ids:
            cyclic.add(id(child))
        elif id(child) not in done:
            open_ids.add(id(child))
            stack.append((child, _referents(child)))
    return frozenset(cyclic), len(done)


def _referents(holder: object) -> Iterator[object]:
    struct = _struct_class()
    found: list[object]
    if isinstance(holder, BaseException):
        # not its traceback, whose frames hold the whole program
        found = [holder.args, getattr(holder, "__dict__", None)]
    elif isinstance(holder, struct) and not gc.is_tracked(holder):
        # one of gc=False has no referents for the collector
        found = [getattr(holder, name, None) for name in type(holder).__struct_fields__]
    else:
        found = gc.get_referents(holder)
    return iter(
        [
            child
            for child in found
            if isinstance(child, struct)
            or (gc.is_tracked(child) and not isinstance(child, _NO_DATA))
        ]
    )


def _struct_class() -> Any:  # noqa: ANN401 - a library's
    """The base of msgspec's structs, or nothing where it is not imported."""
    msgspec = sys.modules.get("msgspec")
    return () if msgspec is None else msgspec.Struct
