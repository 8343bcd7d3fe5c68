"""An exception made again from its JSON."""

from __future__ import annotations

import re
from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar, cast

from taskiq_pg_json.errors import RemoteError
from taskiq_pg_json.serializer.exceptions.printable import INTERRUPTS, printable
from taskiq_pg_json.serializer.exceptions.state import (
    empty,
    fill,
    fill_in_part,
    rebuild,
    restore,
    set_links,
    set_notes,
)
from taskiq_pg_json.serializer.exceptions.tracebacks import parse_traceback

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.protocol import DecodeValue, Node, ResolveClass

_T = TypeVar("_T")

OpenErrors: TypeAlias = "list[_Decoder]"
"""The errors whose arguments, attributes or notes are being decoded, outermost first."""

_ROOT = "$"
_MAX_PRINTED = 1_000_000
"""Errors that an error may print, each as often as it is a member of a group in there."""
_TYPE_NAME = re.compile("exception:.+", re.DOTALL)


def decode_exception(
    plain: object,
    node: Node | None,
    decode_value: DecodeValue,
    resolve: ResolveClass,
    open_errors: OpenErrors,
) -> BaseException:
    """The exception that ``encode_exception`` wrote, its traceback made of the remote frames.

    Where its class cannot be had, or cannot be in the stored state, a ``RemoteError`` named after
    that class takes its place; one that holds itself keeps its class, and is without its slots and
    what it keeps in C then. Where it refers to one of ``open_errors``, it is that error, which
    may be empty so far.

    Raises:
        ValueError: plain or node are not what ``encode_exception`` writes.
    """
    if isinstance(plain, dict) and "same_as" in plain:
        other, place = _referred(plain, open_errors)
        return other.error_at(place)
    decoder = _Decoder(decode_value, resolve, open_errors)
    open_errors.append(decoder)
    try:
        return decoder.decode(plain, node)
    finally:
        open_errors.pop()


class _Stored(NamedTuple):
    """One error as it stands in the row, and the places of its relatives."""

    plain: dict[str, object]
    name: str
    fields: dict[str, Node]
    where: str
    cause: str | None
    context: str | None
    children: list[str]


class _Decoder:
    def __init__(
        self, decode_value: DecodeValue, resolve: ResolveClass, open_errors: OpenErrors
    ) -> None:
        self._decode_value = decode_value
        self._resolve = resolve
        self._open_errors = open_errors
        self._stored: dict[str, _Stored] = {}
        self._same_as: dict[str, str] = {}
        self._sizes: dict[str, int] = {}
        self._empty: dict[str, BaseException] = {}
        self._args: dict[str, list[object]] = {}
        self._made: dict[str, BaseException] = {}

    def decode(self, plain: object, node: Node | None) -> BaseException:
        self._collect(plain, node)
        for where in self._in_order():
            self._made[where] = self._make(where)
        for where, stored in self._stored.items():
            self._link(self._made[where], stored)
        return self._made[_ROOT]

    def _collect(self, plain: object, node: Node | None) -> None:
        queue: deque[tuple[object, Node | None, str]] = deque([(plain, node, _ROOT)])
        while queue:
            plain, node, where = queue.popleft()
            if not isinstance(plain, dict):
                raise _damaged("an error is a JSON object")
            if where != _ROOT and "same_as" in plain:
                self._refer(plain, where)
                continue
            name, fields = _read_node(plain, node)
            relatives = [
                (plain[key], fields.get(key), f"{where}.{key}")
                for key in ("cause", "context")
                if plain.get(key) is not None
            ]
            members = plain.get("children", [])
            if not isinstance(members, list):
                raise _damaged("'children' is a list")
            of_members = _fields(fields.get("children"))
            places = [f"{where}.children[{index}]" for index in range(len(members))]
            relatives += [
                (member, of_members.get(str(index)), places[index])
                for index, member in enumerate(members)
            ]
            cause = f"{where}.cause" if plain.get("cause") is not None else None
            context = f"{where}.context" if plain.get("context") is not None else None
            if "context" not in plain:
                context = cause
            self._stored[where] = _Stored(plain, name, fields, where, cause, context, places)
            queue.extend(relatives)

    def _refer(self, plain: dict[str, object], where: str) -> None:
        other, place = _referred(plain, self._open_errors)
        if other is self:
            self._same_as[where] = place
        else:
            self._made[where] = other.error_at(place)
            self._sizes[where] = other.size_at(place)

    def _in_order(self) -> list[str]:
        """The places of the errors, those of a group's members before the group's."""
        members: dict[str, list[str]] = {}
        groups: dict[str, list[str]] = {}
        for where, stored in self._stored.items():
            members[where] = [self._other(place) for place in stored.children]
            for member in set(members[where]):
                groups.setdefault(member, []).append(where)
        lacking = {
            where: len(set(others).difference(self._made)) for where, others in members.items()
        }
        ready = [where for where, number in lacking.items() if not number]
        order: list[str] = []
        while ready:
            where = ready.pop()
            order.append(where)
            self._sizes[where] = 1 + sum(self._sizes[member] for member in members[where])
            if self._sizes[where] > _MAX_PRINTED:
                raise _damaged("groups that share fewer errors")
            for group in groups.get(where, ()):
                lacking[group] -= 1
                if not lacking[group]:
                    ready.append(group)
        if len(order) < len(self._stored):
            raise _damaged("a group's members are errors beside it")
        return order

    def error_at(self, place: str) -> BaseException:
        """The error at a place; one that is not made yet has no more than its arguments so far."""
        where = self._other(place)
        if where in self._made:
            return self._made[where]
        if where not in self._empty:
            self._empty[where] = self._begin(self._stored[where])
            self._set_args(where)
        return self._empty[where]

    def size_at(self, place: str) -> int:
        """How many errors print with the one at a place."""
        return self._sizes[self._other(place)]

    def _begin(self, stored: _Stored) -> BaseException:
        members = [self.error_at(place) for place in stored.children]
        cls = self._class_of(stored)
        if cls is not None:
            try:
                return empty(cls, self._group_message(stored) if members else None, members)
            except INTERRUPTS:
                raise
            except BaseException:  # noqa: BLE001, S110 - the stand-in has all that is stored
                pass
        return _stand_in(stored)

    def _set_args(self, where: str) -> None:
        """Set what is known of an error that is held so far: a set asks for its hash at once."""
        if where in self._empty and where in self._args:
            restore(self._empty[where], self._args[where], {})

    def _make(self, where: str) -> BaseException:
        stored = self._stored[where]
        args = self._part(stored, "args", list) or []
        message = _text(stored.plain, "message")
        if stored.plain.get("truncated") is True:
            args = [message]
        self._args[where] = args
        self._set_args(where)
        attrs = self._part(stored, "attrs", dict) or {}
        members = [self._made[self._other(place)] for place in stored.children]
        cls = self._class_of(stored)
        begun = self._empty.get(where)
        if cls is not None and not isinstance(begun, RemoteError):
            try:
                exc = rebuild(cls, args, attrs, members)
                # One that others hold already is tried on another: it cannot be exchanged any more.
                return exc if begun is None else fill(begun, args, attrs, members)
            except INTERRUPTS:
                raise
            except BaseException:  # noqa: BLE001 - it is filled in part, or stood in for
                if begun is not None:
                    return fill_in_part(begun, args, attrs, members)
        if members:
            attrs = {**attrs, "exceptions": tuple(members)}
        return restore(_stand_in(stored) if begun is None else begun, args, attrs)

    def _class_of(self, stored: _Stored) -> type[BaseException] | None:
        cls = self._resolve(stored.name)
        return cls if cls is not None and issubclass(cls, BaseException) else None

    def _group_message(self, stored: _Stored) -> object:
        """The message alone, which is text: what else a group holds may hold the group."""
        holder: object = stored.plain.get("attrs")
        if isinstance(holder, dict) and "message" in holder:
            plain, node = holder["message"], _child(stored.fields.get("attrs"), "message")
            path = "attrs.message"
        else:
            holder = stored.plain.get("args")
            plain = holder[0] if isinstance(holder, list) and holder else None
            node, path = _child(stored.fields.get("args"), "0"), "args[0]"
        if not isinstance(plain, str):
            raise _damaged("a group's message is text")
        return self._decode_value(plain, node, f"{stored.where[1:]}.{path}")

    def _part(self, stored: _Stored, key: str, expected: type[_T]) -> _T | None:
        if key not in stored.plain:
            return None
        path = f"{stored.where[1:]}.{key}"
        node = stored.fields.get(key)
        # Decoding works in place, and a RemoteError shows its plain JSON.
        plain = stored.plain[key] if node is None else deepcopy(stored.plain[key])
        value = self._decode_value(plain, node, path)
        if not isinstance(value, expected):
            raise _damaged(f"it is a {expected.__name__}")
        return value

    def _link(self, exc: BaseException, stored: _Stored) -> None:
        cause, context = (
            None if place is None else self._made[self._other(place)]
            for place in (stored.cause, stored.context)
        )
        suppressed = stored.plain.get("suppress_context", cause is not None) is True
        text = stored.plain.get("traceback")
        traceback = parse_traceback(text) if isinstance(text, str) else None
        set_links(exc, cause, context, traceback, suppressed=suppressed)
        notes = self._part(stored, "notes", object)
        if notes is not None:
            set_notes(exc, notes)

    def _other(self, place: str) -> str:
        """The place where the error at ``place`` stands in full."""
        place = self._same_as.get(place, place)
        if place not in self._stored and place not in self._made:
            raise _damaged(f"there is no error at {place!r}")
        return place


def _referred(plain: dict[str, object], open_errors: OpenErrors) -> tuple[_Decoder, str]:
    """The error that a reference counts its path from, and the path."""
    outer = plain.get("outer", 0)
    if type(outer) is not int or not 0 <= outer < len(open_errors):
        raise _damaged(f"there are not {outer!r} errors around this one")
    return open_errors[-1 - outer], _text(plain, "same_as")


def _stand_in(stored: _Stored) -> RemoteError:
    module, colon, qualname = stored.name.partition(":")[2].partition(":")
    if not colon:
        module, qualname = (_text(stored.plain, key) for key in ("module", "type"))
    message = _text(stored.plain, "message")
    return RemoteError.of(printable(module), printable(qualname), message, stored.plain)


def _read_node(plain: dict[str, object], node: Node | None) -> tuple[str, dict[str, Node]]:
    """The class's name, and the nodes of what the error holds."""
    if node is None:
        # Not ours, or its sidecar is gone: the class is not looked up, only named.
        return f"exception:?:{_text(plain, 'module')}.{_text(plain, 'type')}", {}
    name = node.get("type") if isinstance(node, dict) else node
    if not isinstance(name, str) or not _TYPE_NAME.fullmatch(name):
        raise _damaged("its type is no exception's")
    return name, _fields(node)


def _fields(node: Node | None) -> dict[str, Node]:
    fields = node.get("fields", {}) if isinstance(node, dict) else {}
    if not isinstance(fields, dict):
        raise _damaged("'fields' is an object")
    return fields


def _child(node: Node | None, name: str) -> Node | None:
    """The node of one child of a dict or a list."""
    common = node.get("items") if isinstance(node, dict) else None
    return _fields(node).get(name, cast("Node | None", common))


def _text(plain: dict[str, object], key: str) -> str:
    text = plain.get(key)
    if not isinstance(text, str):
        raise _damaged(f"{key!r} is text")
    return text


def _damaged(expected: str) -> ValueError:
    return ValueError(f"not an error as it is stored: {expected}")
