"""What one exception holds, and an exception made from it without running anyone's code.

The state is ``args`` and ``attrs``: the instance ``__dict__``, the slots, and what the built-in
exceptions keep in C (``errno``, ``start``, ``code``, …), found through their descriptors. A class's
own properties are never called, neither is its ``__new__``, ``__init__`` or ``__setattr__``.
"""

from __future__ import annotations

import builtins
import sys
from operator import is_
from types import GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import TYPE_CHECKING, TypeAlias, cast
from weakref import WeakKeyDictionary

import psycopg
import pydantic_core

from taskiq_pg_json.errors import RemoteError
from taskiq_pg_json.serializer.exceptions.foreign import (
    server_error_attrs,
    server_error_state,
    validation_error,
    validation_state,
)
from taskiq_pg_json.serializer.exceptions.printable import called
from taskiq_pg_json.serializer.kinds import HEAP_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

_Member: TypeAlias = "MemberDescriptorType | GetSetDescriptorType"

_ARGS = BaseException.__dict__["args"]
_DICT = BaseException.__dict__["__dict__"]
_CAUSE = BaseException.__dict__["__cause__"]
_CONTEXT = BaseException.__dict__["__context__"]
_SUPPRESS_CONTEXT = BaseException.__dict__["__suppress_context__"]
_TRACEBACK = BaseException.__dict__["__traceback__"]
_UNSET = object()
_known_members: WeakKeyDictionary[type, dict[str, tuple[_Member, object]]] = WeakKeyDictionary()

# What every exception has: stored under names of its own.
_COMMON = (object, BaseException, RemoteError)
# AttributeError.obj may be anything at all: only what is small and plain is kept, where CPython's
# own pickling keeps nothing.
_PLAIN_SCALARS = (type(None), bool, int, float, str, bytes)

# What an OSError prints in place of its arguments, if it has both.
_PRINTED = frozenset({"errno", "strerror"})
_NUMBERED = ("[Errno ", "[WinError ")

# Python 3.10 knows no groups: nothing is one there.
_GROUP: type[BaseException] | None = getattr(builtins, "BaseExceptionGroup", None)


def children_of(exc: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group; none of any other exception."""
    if not _is_group(type(exc)):
        return ()
    return cast("tuple[BaseException, ...]", _GROUP.__dict__["exceptions"].__get__(exc))


def _is_group(cls: type) -> bool:
    return _GROUP is not None and issubclass(cls, _GROUP)


def links_of(
    exc: BaseException,
) -> tuple[BaseException | None, BaseException | None, TracebackType | None, bool]:
    """Cause, context, frames, and whether the context is suppressed."""
    return (
        _CAUSE.__get__(exc),
        _CONTEXT.__get__(exc),
        _TRACEBACK.__get__(exc),
        _SUPPRESS_CONTEXT.__get__(exc),
    )


def set_links(
    exc: BaseException,
    cause: BaseException | None,
    context: BaseException | None,
    traceback: TracebackType | None,
    *,
    suppressed: bool,
) -> None:
    """Hang the errors behind it, and the frames, on ``exc``."""
    _CONTEXT.__set__(exc, context)
    _CAUSE.__set__(exc, cause)
    _SUPPRESS_CONTEXT.__set__(exc, suppressed)
    _TRACEBACK.__set__(exc, traceback)


def set_notes(exc: BaseException, notes: object) -> None:
    """As ``add_note()`` would have left them."""
    _DICT.__get__(exc)["__notes__"] = notes


def notes_of(exc: BaseException) -> object:
    """What ``add_note()`` has added; None where it was never called."""
    return _DICT.__get__(exc).get("__notes__")


def read_state(exc: BaseException) -> tuple[list[object], dict[str, object]]:
    """The ``args`` and the attributes of ``exc``, its notes aside."""
    cls = type(exc)
    attrs = {name: value for name, value in _DICT.__get__(exc).items() if name != "__notes__"}
    if cls is pydantic_core.ValidationError:
        return [], {**attrs, **validation_state(cast("pydantic_core.ValidationError", exc))}
    args = list(_ARGS.__get__(exc))
    unset = []
    for name, (member, default) in _members(cls).items():
        value = _value(member, exc)
        if value is not default:
            attrs[name] = value
        elif value is None and name in _PRINTED:
            unset.append(name)
    if unset and _prints_them(exc):
        attrs.update(dict.fromkeys(unset))
    if issubclass(cls, AttributeError) and not isinstance(attrs.get("obj"), _PLAIN_SCALARS):
        del attrs["obj"]
    if issubclass(cls, psycopg.Error):
        attrs = server_error_state(attrs)
    children = children_of(exc)
    if children:
        args, attrs = _group_state(exc, children, args, attrs)
    return args, attrs


def can_be_empty(cls: type) -> bool:
    """Whether there can be an exception of ``cls`` before there is what it holds."""
    return cls is not pydantic_core.ValidationError


def empty(
    cls: type[BaseException], message: object, children: Sequence[BaseException]
) -> BaseException:
    """An exception of ``cls`` to ``fill``, made without its ``__init__``.

    ``message`` and ``children`` are those of a group, which cannot be changed any more.

    Raises:
        Exception: of any kind, where there can be no such exception.
    """
    if not can_be_empty(cls):
        raise TypeError(f"{cls.__name__} is made of what it holds")
    if _is_group(cls):
        return cast("Callable[..., BaseException]", _GROUP.__new__)(cls, message, children)
    return _new(cls)


def fill(
    exc: BaseException,
    args: Sequence[object],
    attrs: Mapping[str, object],
    children: Sequence[BaseException],
) -> BaseException:
    """``exc``, an empty one, in that state.

    Raises:
        Exception: of any kind, where its class cannot be in that state; ``exc`` is between two.
    """
    cls = type(exc)
    if _is_group(cls):
        if "message" in attrs:
            attrs = {name: value for name, value in attrs.items() if name != "message"}
        else:
            args = args[0], list(children) if len(args) == 1 else tuple(children)
    if issubclass(cls, psycopg.Error):
        attrs = server_error_attrs(attrs)
    return restore(exc, args, attrs)


def fill_in_part(
    exc: BaseException,
    args: Sequence[object],
    attrs: Mapping[str, object],
    children: Sequence[BaseException],
) -> BaseException:
    """``exc`` with what no class refuses: all but its slots, and what it or its library keeps in C.

    For one whose class refuses some of these, and which others hold already.
    """
    cls = type(exc)
    refused = {*_members(cls), "diag"} if issubclass(cls, psycopg.Error) else _members(cls)
    rest = {name: value for name, value in attrs.items() if name not in refused}
    return fill(exc, args, rest, children)


def _prints_them(exc: BaseException) -> bool:
    """Whether an OSError prints its errno and strerror, and not its arguments.

    Those that were given as None are printed; from those that were never given, which are None
    too, nothing else tells them apart. Arguments may be large: most are asked for their text once.
    """
    text = called(OSError.__str__, exc)
    return str.startswith(text, _NUMBERED) and text != called(BaseException.__str__, exc)


def rebuild(
    cls: type[BaseException],
    args: Sequence[object],
    attrs: Mapping[str, object],
    children: Sequence[BaseException] = (),
) -> BaseException:
    """An exception of ``cls`` in that state, made without its ``__init__``.

    Raises:
        Exception: of any kind, where ``cls`` cannot be in that state.
    """
    if cls is pydantic_core.ValidationError:
        exc, attrs = validation_error(attrs)
        return restore(exc, args, attrs)
    if not _is_group(cls):
        return fill(_new(cls), args, attrs, children)
    message = attrs["message"] if "message" in attrs else args[0]
    return fill(empty(cls, message, children), args, attrs, children)


def restore(
    exc: BaseException, args: Sequence[object], attrs: Mapping[str, object]
) -> BaseException:
    """``exc`` with those arguments and attributes; raises where its slots refuse them."""
    _ARGS.__set__(exc, tuple(args))
    cls = type(exc)
    if issubclass(cls, (ImportError, SyntaxError)):
        attrs = _safe_to_print(cls, attrs)
    members = _members(cls)
    own = _DICT.__get__(exc)
    for name, value in attrs.items():
        if name in members:
            members[name][0].__set__(exc, value)
        else:
            own[name] = value
    _check_unicode_error(exc)
    return exc


def _safe_to_print(cls: type, attrs: Mapping[str, object]) -> Mapping[str, object]:
    """The attributes but for those that make Python import a module or read a file.

    Whatever prints an ImportError imports its module, from Python 3.12 on, to suggest another name
    for ``name_from``; from 3.14 on a SyntaxError's file is read for what stands in ``_metadata``.
    """
    kept = dict(attrs)
    if issubclass(cls, SyntaxError):
        kept.pop("_metadata", None)
    elif not _is_imported(kept.get("name")):
        kept.pop("name_from", None)
    return kept


def _is_imported(name: object) -> bool:
    """Whether a module is there, with the package that is imported with it, and is no lazy one."""
    return type(name) is str and all(
        type(sys.modules.get(part)) is ModuleType for part in (name, name.partition(".")[0])
    )


def _members(cls: type) -> dict[str, tuple[_Member, object]]:
    """The slots of a class and what its built-in base keeps in C, each with its value if unset."""
    members = _known_members.get(cls)
    if members is None:
        members = _known_members[cls] = _find_members(cls)
    return members


def _find_members(cls: type) -> dict[str, tuple[_Member, object]]:
    members: dict[str, tuple[_Member, object]] = {}
    for base in cls.__mro__:
        if base in _COMMON or base is _GROUP:
            continue
        built_in = not base.__flags__ & HEAP_TYPE
        blank = _new(base) if built_in else None
        for name, member in vars(base).items():
            if name.startswith("__") or name in members:
                continue
            if built_in and isinstance(member, (MemberDescriptorType, GetSetDescriptorType)):
                members[name] = member, _value(member, blank)
            elif isinstance(member, MemberDescriptorType):
                members[name] = member, _UNSET
    return members


def _value(member: _Member, exc: object) -> object:
    try:
        return member.__get__(exc, type(exc))
    except AttributeError:
        return _UNSET


def _new(cls: type) -> BaseException:
    """An empty instance, made by the built-in class it inherits from and by nobody else."""
    base = next(base for base in cls.__mro__ if not base.__flags__ & HEAP_TYPE)
    return cast("Callable[[type], BaseException]", base.__new__)(cls)


def _check_unicode_error(exc: BaseException) -> None:
    """CPython up to 3.13 reads ``object[start]`` without a look at either."""
    cls = type(exc)
    if issubclass(cls, (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError)):
        needed = bytes if issubclass(cls, UnicodeDecodeError) else str
        members = _members(cls)
        start, end, held = (members[name][0].__get__(exc) for name in ("start", "end", "object"))
        if not (isinstance(held, needed) or held is None) or start < 0 or end < 0:
            raise ValueError("a UnicodeError about something else than text")


def _group_state(
    exc: BaseException,
    children: tuple[BaseException, ...],
    args: list[object],
    attrs: dict[str, object],
) -> tuple[list[object], dict[str, object]]:
    """The members stand in ``children``: they are left out of ``args``, where they stand too."""
    message = vars(_GROUP)["message"].__get__(exc)
    given = tuple(args[1]) if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    if args[:1] == [message] and len(args) == 1 + bool(given) and _are_the_same(given, children):
        return [message] if isinstance(args[1], list) else [message, ()], attrs
    return args, {"message": message, **attrs}


def _are_the_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))
