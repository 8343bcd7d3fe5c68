"""From JSON and its nodes back to values.

Whatever goes wrong here means a damaged row; the serializer turns any exception into a
``ResultDecodeError``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar, cast

import orjson

from taskiq_pg_json.serializer import columns, custom, enums, optional, raised, secret
from taskiq_pg_json.serializer import keys as dict_keys
from taskiq_pg_json.serializer.classes import FieldsChangedError
from taskiq_pg_json.serializer.containers import READERS, restore_payload
from taskiq_pg_json.serializer.kinds import PAYLOADS
from taskiq_pg_json.serializer.nodes import MISSING, NULL, PLAIN, fields_of, indices
from taskiq_pg_json.serializer.scalars import SCALARS
from taskiq_pg_json.serializer.shapes import SHAPES, shape_of
from taskiq_pg_json.serializer.text import decode_int, decode_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from taskiq_pg_json.serializer.classes import Shape
    from taskiq_pg_json.serializer.exceptions.decoding import OpenErrors
    from taskiq_pg_json.serializer.lookup import Lookup
    from taskiq_pg_json.serializer.protocol import Node

    Reader = Callable[["Decoder", Any, str, Node], object]

_T = TypeVar("_T")

LEAVES: dict[str, Callable[[Any, str], object]] = {
    **{scalar.name: scalar.decode for scalar in SCALARS},
    "str": decode_text,
    "int": decode_int,
}
"""What decodes a scalar's plain value and the argument of its type, by the type's name."""

_READERS: dict[str, Reader] = {
    **READERS,
    **secret.READERS,
    **optional.READERS,
    "custom": custom.read,
}
_NAN_BITS = re.compile("[0-9a-f]{16}")
"""What follows ``float:`` for a NaN with a payload; anything else there is the name of a class."""

_MAX_HASHED = 28_000
"""Levels of JSON in what is hashed: Python hashes nested tuples without a look at its stack. The
encoder's ``MAX_HASHED`` levels of values take up to three each."""


class Decoder:
    """Decodes the columns of one row.

    Args:
        lookup: finds the classes of stored names.
        leaves: loads the pickled leaf of a number.

    Attributes:
        unknown: values so far whose types were not to be had.
        open_errors: the exceptions whose values are being decoded, for their codec.
    """

    def __init__(self, lookup: Lookup, leaves: Callable[[int], object]) -> None:
        self.lookup = lookup
        self.registry = lookup.registry
        self.leaves = leaves
        self._parts: dict[int, object] | None = None
        self._levels: dict[int, int] = {}
        self._below = 0  # levels in the deepest of the parts that were taken
        self.unknown = 0
        self.open_errors: OpenErrors = []
        self._classes: dict[str, type] = {}

    def column_of(self, name: str, plain: object, node: Node | None, parts: object) -> object:
        """The value of one column, and first that of the parts which nesting was cut into."""
        if parts is not None and self._parts is None:
            self._decode_parts(parts)
        if name == "error" and type(node) is not dict:
            return raised.read_exception(self, plain, node)
        return self.decode(plain, node)

    def _decode_parts(self, parts: object) -> None:
        """Decode the parts of the row, once: what they hold is changed, and others have it then.

        A part refers to later parts only, so that the last one comes first.
        """
        if type(parts) is not list:
            raise TypeError("'parts' is no list")
        self._parts = {}
        for number in reversed(range(len(parts))):
            part, node = parts[number]
            self._below, levels = 0, _levels_of([part, node])
            self._parts[number] = self.decode(part, node)
            self._levels[number] = levels + self._below
        self._below = 0

    def _take_part(self, number: int) -> object:
        """A part, which has one place: two in each would make a value without end of a few."""
        if self._parts is None or number not in self._parts:
            raise ValueError(f"there is no part {number}, or it has another place already")
        self._below = max(self._below, self._levels[number])
        return self._parts.pop(number)

    def _to_hash(self, read: Callable[[], _T]) -> _T:
        """What is read, if it is not nested too deeply to be hashed."""
        if not self._levels:
            return read()
        above, self._below = self._below, 0
        try:
            found = read()
            self.check_hashable()
        finally:
            self._below = max(above, self._below)
        return found

    def check_hashable(self) -> None:
        """Make sure that what was read may be hashed, by whomever.

        Raises:
            ValueError: it is nested too deeply.
        """
        if self._below > _MAX_HASHED:
            raise ValueError(f"nested {self._below:,} levels deep, which is too deep to be hashed")

    def decode(self, plain: object, node: Node | None) -> object:
        """Any value; None stays None."""
        if node is None or plain is None:
            return plain
        if type(node) is str:
            name = node
        elif type(node) is dict:
            if "pickle" in node:
                return self.leaves(_number(node["pickle"]))
            found = node.get("type")
            if found is None:
                return self._untyped(plain, node)
            if type(found) is not str:
                raise TypeError(f"the type is {found!r}, not text")
            name = found
        else:
            raise TypeError(f"{node!r} is no node")
        return self._typed(plain, name, node)

    def _untyped(self, plain: object, node: Node) -> object:
        if type(plain) is list:
            return self.items(plain, node)
        return self.mapping(plain, node)

    def _typed(  # noqa: PLR0911 - one for each family of types
        self, plain: object, name: str, node: Node
    ) -> object:
        head, _, argument = name.partition(":")
        if (
            argument
            and head in PAYLOADS
            and not (head == "float" and _NAN_BITS.fullmatch(argument))
        ):
            return self._classed(plain, head, name, node)
        leaf = LEAVES.get(head)
        if leaf is not None:
            if type(node) is dict and "items" in node:
                plain = self._escaped(plain, node)
            return leaf(plain, argument)
        reader = _READERS.get(head)
        if reader is not None:
            return reader(self, plain, argument, node)
        if head == PLAIN:
            return plain
        if head == NULL:
            return None
        if head == "part":
            return self._take_part(_number(int(argument)))
        return self._classed(plain, head, name, node)

    def _escaped(self, plain: object, node: Node) -> str:
        """The text of a leaf, which had to be escaped: no object that has methods of its own."""
        inner = self.inner(plain, node)
        if type(inner) is not str:
            raise TypeError(f"expected text, found {type(inner).__name__}")
        return inner

    def _classed(self, plain: object, kind: str, name: str, node: Node) -> object:
        if kind == "exception":
            return raised.read_exception(self, plain, node)
        cls = self.find(name)
        if cls is None:
            return self.unresolved(name, plain)
        if kind == "enum":
            return self._member(cls, name, plain, node)
        if kind in PAYLOADS:
            return self._payload(cls, kind, plain, node)
        try:
            return shape_of(cls, kind, name).restore(self, cast("Any", plain), node)
        except FieldsChangedError as exc:
            return self.unresolved(name, plain, str(exc))

    def _member(self, cls: type, name: str, plain: object, node: Node) -> object:
        by_name = type(node) is dict and node.get("keys") == "name"
        member = (enums.of_name if by_name else enums.of_value)(cast("Any", cls), plain)
        if member is None:
            return self.unresolved(name, plain, f"the class has no member {plain!r:.100}")
        return member

    def _payload(self, cls: type, kind: str, plain: object, node: Node) -> object:
        unknown = self.unknown
        value = self.inner(plain, node)
        if self.unknown > unknown and type(value) is list and kind in {"set", "frozenset"}:
            return value  # which could not become a set
        return restore_payload(cls, kind, value)

    def find(self, name: str) -> type | None:
        """The class of a stored type name."""
        found = self._classes.get(name)
        if found is None:
            found = self.lookup.find(name)
            if found is not None:
                self._classes[name] = found
        return found

    def decode_at(self, plain: object, node: Node | None, _path: str) -> object:
        """A value inside an exception, which knows where."""
        return self.decode(plain, node)

    def shape(self, name: str) -> Shape | None:
        """The shape of the class of a stored type name; None for any other name."""
        kind = name.partition(":")[0]
        cls = self.find(name) if kind in SHAPES else None
        return None if cls is None else shape_of(cls, kind, name)

    def unresolved(self, name: str, plain: object, reason: str = "") -> object:
        """What stands for a value whose type is not to be had."""
        self.unknown += 1
        return self.lookup.unresolved(name, plain, reason)

    def inner(self, plain: object, node: Node) -> Any:  # noqa: ANN401 - its reader knows
        """The one value inside a type that wraps it."""
        return (
            self.decode(plain, cast("Node | None", node.get("items")))
            if type(node) is dict
            else plain
        )

    def items(self, plain: object, node: Node) -> list[object]:
        """The items of a list."""
        if type(plain) is not list:
            raise TypeError(f"expected a list, found {type(plain).__name__}")
        if type(node) is not dict:
            return plain
        common = cast("Node | None", node.get("items"))
        fields = fields_of(node)
        if not fields:
            return self.column(plain, common)
        left = dict(enumerate(plain))
        for text, single in fields.items():
            members = list(indices(text, len(plain)))
            decoded = self.column([left.pop(i) for i in members], single)
            for index, value in zip(members, decoded, strict=True):
                plain[index] = value
        for index, value in zip(left, self.column(list(left.values()), common), strict=True):
            plain[index] = value
        return plain

    def column(self, plains: list[object], node: Node | None) -> list[object]:
        """Many values of one node: all at once, where they have a type that can."""
        if node is None or node == PLAIN:
            return plains
        if len(plains) > 1:
            found = columns.decode(self, plains, node)
            if found is not None:
                return found
        return [self.decode(plain, node) for plain in plains]

    def mapping(self, plain: object, node: Node) -> dict[Any, object]:
        """A dict."""
        found = self.fields(plain, node)
        if type(node) is not dict:
            return found
        order, keys = node.get("order"), node.get("keys")
        if order is not None:
            found = dict_keys.in_order(found, order)
        return found if keys is None else self.with_keys(found, keys)

    def fields(self, plain: object, node: Node) -> dict[str, object]:
        """The values of a dict or of an object's fields, under their text keys."""
        if type(plain) is not dict:
            raise TypeError(f"expected an object, found {type(plain).__name__}")
        if type(node) is not dict:
            return plain
        common = cast("Node | None", node.get("items"))
        fields = fields_of(node)
        if common is not None:
            for name, child in plain.items():
                plain[name] = self.decode(child, fields.get(name, common))
            return plain
        for name, single in fields.items():
            child = plain.get(name)
            if child is None or single == MISSING:
                continue
            leaf = LEAVES.get(single) if type(single) is str else None
            plain[name] = self.decode(child, single) if leaf is None else leaf(child, "")
        return plain

    def with_keys(self, plain: dict[str, object], keys: object) -> dict[Any, object]:
        """The dict under the keys that its texts stand for.

        It stays under the texts where a type in a key is not to be had, and its plain JSON is no
        key, or that of another key as well; or where a key's class has no hash any more.
        """
        unknown = self.unknown
        given = self._to_hash(
            lambda: [
                (key if node is None else self.decode(_own_copy(key), node), text)
                for text, key, node in dict_keys.split(plain, keys)
                if text in plain
            ]
        )
        try:
            found = {key: plain[text] for key, text in given}
        except Exception:
            if self.unknown == unknown and not self._lost_hash([key for key, _ in given], "dict"):
                raise
            found = {}
        if self.unknown > unknown and len(found) < len(given):
            return {text: plain[text] for _, text in given}
        return found

    def unordered(
        self, make: Callable[[list[object]], Collection[object]], plain: object, node: Node
    ) -> Collection[object]:
        """A set; the list of its items where that cannot be one for the type of an item."""
        unknown = self.unknown
        items = self._to_hash(lambda: self.items(plain, node))
        try:
            found = make(items)
        except Exception:
            if self.unknown == unknown and not self._lost_hash(items, "set"):
                raise
            return items
        return items if self.unknown > unknown and len(found) < len(items) else found

    def _lost_hash(self, values: Iterable[object], kind: str) -> bool:
        """Whether one is of a class of the application's that cannot be hashed, and tell of it."""
        found = dict_keys.unhashable(values)
        if found is None:
            return False
        cls, reason = found
        entry = self.registry.of_class(cls)
        names = [name for name, known in self._classes.items() if known is cls]
        if entry is None and not names:
            return False
        name = names[0] if names else f"custom:{cast('Any', entry).name}"
        self.unresolved(f"a {kind} of {name}", None, f"the class has no hash any more: {reason}")
        return True


def _own_copy(key: object) -> object:
    """A key's JSON, apart from the sidecar's, which other rows may share."""
    return orjson.loads(orjson.dumps(key)) if isinstance(key, (list, dict)) else key


def _levels_of(tree: object) -> int:
    """How deep lists and dicts are nested."""
    levels, found = 0, [tree]
    while found:
        levels += 1
        found = [
            child
            for parent in found
            if isinstance(parent, (list, dict))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return levels


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of a leaf or part")
    return value
