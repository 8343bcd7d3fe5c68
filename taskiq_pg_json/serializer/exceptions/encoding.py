"""An exception, and all that hangs on it, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from taskiq_pg_json.serializer.encoder import OptimismFailedError
from taskiq_pg_json.serializer.exceptions.fingerprint import fingerprint
from taskiq_pg_json.serializer.exceptions.lenient import encode_or_describe
from taskiq_pg_json.serializer.exceptions.printable import (
    INTERRUPTS,
    elide,
    message_of,
    names_of,
    printable,
    short_repr,
)
from taskiq_pg_json.serializer.exceptions.state import (
    can_be_empty,
    children_of,
    links_of,
    notes_of,
    read_state,
)
from taskiq_pg_json.serializer.exceptions.tracebacks import format_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.protocol import Encoded, EncodeValue, Node

    NameOf = Callable[[type], str | None]

OpenErrors: TypeAlias = "list[dict[int, str | None]]"
"""Of each error that the walk is in, outermost first: the places of it and of those behind it that
are not written to the end, by their ids; None for one that cannot be referred to."""

_ROOT = "$"
_MAX_DEPTH = 50
_MAX_ERRORS = 1000
_MAX_DESCRIBED = 2_000


def encode_exception(
    exc: BaseException, encode_value: EncodeValue, name_of: NameOf, open_errors: OpenErrors
) -> tuple[dict[str, object], Node]:
    """``exc``, and every error behind it, as JSON and its node; a reference to one that is open.

    ``name_of`` gives the stored name of a class that has one of its own.

    Raises:
        OptimismFailedError: the whole row is to be encoded once more; nothing else.
    """
    reference = _reference(exc, open_errors, name_of)
    if reference is not None:
        return reference
    encoder = _Encoder(encode_value, name_of, open_errors)
    open_errors.append(encoder.open)
    try:
        plain, node = encoder.encode_or_outline(exc, _ROOT, 0)
    finally:
        open_errors.pop()
    plain["fingerprint"] = fingerprint(exc, cast("str", plain["message"]))
    return plain, node


class _Encoder:
    def __init__(self, encode_value: EncodeValue, name_of: NameOf, open_errors: OpenErrors) -> None:
        self._encode_value = encode_value
        self._name_of = name_of
        self._open_errors = open_errors
        self.open: dict[int, str | None] = {}
        self._seen: dict[int, str] = {}

    def encode_or_outline(
        self, exc: BaseException, where: str, depth: int
    ) -> tuple[dict[str, object], Node]:
        """All of ``exc``, or its class and message where there is no room for more."""
        seen = len(self._seen)
        if depth <= _MAX_DEPTH and seen < _MAX_ERRORS:
            self.open[id(exc)] = where if can_be_empty(type(exc)) else None
            try:
                plain, fields = self._encode(exc, where, depth)
            except (OptimismFailedError, *INTERRUPTS):
                raise
            except BaseException:  # noqa: BLE001 - if only its outline, an error gets stored
                while len(self._seen) > seen:
                    self._seen.popitem()
            else:
                name = _type_name(exc, self._name_of)
                return plain, {"type": name, "fields": fields} if fields else name
            finally:
                del self.open[id(exc)]
        return outline_exception(exc, self._name_of)

    def _encode(
        self, exc: BaseException, where: str, depth: int
    ) -> tuple[dict[str, object], dict[str, Node]]:
        self._seen[id(exc)] = where
        plain = _outline(exc)
        fields: dict[str, Node] = {}
        args, attrs = read_state(exc)
        for key, value in (
            ("args", args or None),
            ("attrs", attrs or None),
            ("notes", notes_of(exc)),
        ):
            if value is not None:
                path = f"{where[1:]}.{key}"
                encoded = encode_or_describe(value, path, self._encode_value)
                _put(plain, fields, key, encoded)
        cause, context, traceback, suppressed = links_of(exc)
        text = format_traceback(exc, traceback, cast("str", plain["message"]))
        if text is not None:
            plain["traceback"] = text
        if cause is not None:
            _put(plain, fields, "cause", self._relative(cause, f"{where}.cause", depth))
        if context is not None and context is not cause:
            _put(plain, fields, "context", self._relative(context, f"{where}.context", depth))
        elif context is None and cause is not None:
            plain["context"] = None
        if suppressed is not (cause is not None):
            plain["suppress_context"] = suppressed
        members = [
            self._relative(child, f"{where}.children[{index}]", depth)
            for index, child in enumerate(children_of(exc))
        ]
        if members:
            plain["children"] = [member for member, _ in members]
            nodes = {str(i): node for i, (_, node) in enumerate(members) if node is not None}
            fields["children"] = {"fields": nodes}
        return plain, fields

    def _relative(self, exc: BaseException, where: str, depth: int) -> Encoded:
        if id(exc) in self._seen:
            return {"same_as": self._seen[id(exc)]}, None
        reference = _reference(exc, self._open_errors, self._name_of)
        return reference or self.encode_or_outline(exc, where, depth + 1)


def _reference(
    exc: BaseException, open_errors: OpenErrors, name_of: NameOf
) -> tuple[dict[str, object], Node] | None:
    """What stands for ``exc`` inside itself; None where it is not open."""
    for outer, places in enumerate(reversed(open_errors)):
        if id(exc) in places:
            place = places[id(exc)]
            if place is None:
                return outline_exception(exc, name_of)
            plain: dict[str, object] = {"same_as": place}
            if outer:
                plain["outer"] = outer
            return plain, _type_name(exc, name_of)
    return None


def _put(plain: dict[str, object], fields: dict[str, Node], key: str, encoded: Encoded) -> None:
    plain[key], node = encoded
    if node is not None:
        fields[key] = node


def describe_exception(exc: BaseException, name_of: NameOf) -> tuple[dict[str, object], Node]:
    """``exc`` with its traceback and causes, what it holds cut short; never raises."""
    return encode_exception(exc, _describe, name_of, [])


def _describe(value: object, _path: str) -> Encoded:
    if isinstance(value, str):
        return elide(printable(value), _MAX_DESCRIBED), None
    if isinstance(value, (dict, list)):
        raise TypeError("in parts")
    return short_repr(value), None


def outline_exception(exc: BaseException, name_of: NameOf) -> tuple[dict[str, object], Node]:
    """The class and the message of ``exc`` alone, marked as ``truncated``; never raises."""
    plain = _outline(exc)
    plain["message"] = elide(cast("str", plain["message"]), _MAX_DESCRIBED)
    return {**plain, "truncated": True}, _type_name(exc, name_of)


def _outline(exc: BaseException) -> dict[str, object]:
    module, qualname = names_of(type(exc))
    return {"type": qualname, "module": module, "message": message_of(exc)}


def _type_name(exc: BaseException, name_of: NameOf) -> str:
    cls = type(exc)
    try:
        name = name_of(cls)
    except Exception:  # noqa: BLE001 - of a class that cannot be looked up, as it has no hash
        name = None
    return f"exception:{printable(name or ':'.join(names_of(cls)))}"
