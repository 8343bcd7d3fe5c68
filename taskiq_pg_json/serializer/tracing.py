"""The decoder that knows where it is: for the error about a row that would not decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from taskiq_pg_json.serializer.decoder import Decoder
from taskiq_pg_json.serializer.nodes import MISSING, fields_of, indices

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.lookup import Lookup
    from taskiq_pg_json.serializer.protocol import Node


class TracingDecoder(Decoder):
    """Decodes one child at a time, leaves the JSON as it is, and remembers the place.

    Attributes:
        path: the steps to the value in hand, or to the one that failed.
        failed: the plain value and the node that failed.
    """

    def __init__(self, lookup: Lookup, leaves: Callable[[int], object], column: str) -> None:
        super().__init__(lookup, leaves)
        self.path = [column]
        self.failed: tuple[object, object] | None = None

    def decode(self, plain: object, node: Node | None) -> object:
        """Any value."""
        try:
            return super().decode(plain, node)
        except Exception:
            if self.failed is None:
                self.failed = plain, node
            raise

    def decode_at(self, plain: object, node: Node | None, path: str) -> object:
        """A value inside an exception."""
        return self._child(plain, node, path)

    def _child(self, plain: object, node: Node | None, step: str) -> object:
        above = len(self.path)
        self.path.append(step)
        value = self.decode(plain, node)
        del self.path[above:]
        return value

    def items(self, plain: object, node: Node) -> list[object]:
        """The items of a list."""
        if type(plain) is not list:
            raise TypeError(f"expected a list, found {type(plain).__name__}")
        if type(node) is not dict:
            return plain
        nodes = [cast("Node | None", node.get("items"))] * len(plain)
        for text, single in fields_of(node).items():
            for index in indices(text, len(plain)):
                nodes[index] = single
        return [
            self._child(child, single, f"[{index}]")
            for index, (child, single) in enumerate(zip(plain, nodes, strict=True))
        ]

    def fields(self, plain: object, node: Node) -> dict[str, object]:
        """The values of a dict or of an object's fields."""
        if type(plain) is not dict:
            raise TypeError(f"expected an object, found {type(plain).__name__}")
        if type(node) is not dict:
            return plain
        common = cast("Node | None", node.get("items"))
        fields = fields_of(node)
        decoded: dict[str, object] = {}
        for name, child in plain.items():
            single = fields.get(name, common)
            decoded[name] = child if single == MISSING else self._child(child, single, f".{name}")
        return decoded
