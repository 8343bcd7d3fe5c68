"""Readers of values, prepared once for each sidecar that speaks of nothing but keys and scalars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taskiq_pg_json.serializer.decoder import LEAVES
from taskiq_pg_json.serializer.keys import aligned, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Read = Callable[[Any], object]

NO_READERS: dict[str, Read] = {}
_FEW = 16


class UnpreparedError(Exception):
    """The node, or the value that it is about, is one for the decoder."""


def reader(node: object) -> Read:
    """Return what reads the plain values of a node; they are not None, and become the reader's.

    Raises:
        UnpreparedError: the node says more than this module knows of.
    """
    if type(node) is str and node in LEAVES:
        return _leaf_reader(node)
    if type(node) is dict:
        if node.keys() == {"items"}:
            return _list_reader(node["items"])
        if node.keys() <= {"order", "fields"}:
            return _dict_reader(node.get("order"), node.get("fields", {}))
    raise UnpreparedError


def _leaf_reader(name: str) -> Read:
    decode = LEAVES[name]
    return lambda plain: decode(plain, "")


def _dict_reader(order: object, fields: object) -> Read:
    if not (order is None or type(order) is list) or type(fields) is not dict:
        raise UnpreparedError
    children = [(name, reader(node)) for name, node in fields.items()]
    template = dict.fromkeys(order or ())
    size = len(template)

    def read(plain: Any) -> object:  # noqa: ANN401 - whatever stands in the row
        if type(plain) is not dict:
            raise UnpreparedError
        if order is not None:
            found = template | plain
            # as long as both: then neither has a key that the other lacks
            plain = found if size == len(found) == len(plain) else in_order(plain, order)
        for name, read_child in children:
            child = plain.get(name)
            if child is not None:
                plain[name] = read_child(child)
        return plain

    return read


def _list_reader(item: object) -> Read:
    order = item.get("order") if type(item) is dict and len(item) == 1 else None
    if type(order) is list:
        return _rows_reader(order)
    read_item = reader(item)

    def read(plain: Any) -> object:  # noqa: ANN401 - whatever stands in the row
        if type(plain) is not list or len(plain) > _FEW:  # the decoder takes many at once
            raise UnpreparedError
        return [None if value is None else read_item(value) for value in plain]

    return read


def _rows_reader(order: list[str]) -> Read:
    template = dict.fromkeys(order)
    size = len(template)

    def read(plain: Any) -> object:  # noqa: ANN401 - whatever stands in the row
        if type(plain) is not list:
            raise UnpreparedError
        if len(plain) > _FEW and None not in plain:
            together = aligned(plain, template)
            if together is not None:
                return together
        rows: list[object] = []
        for row in plain:
            if row is None:
                rows.append(None)
                continue
            found = template | row  # as that of a single dict, without a call for each
            rows.append(found if size == len(found) == len(row) else in_order(row, order))
        return rows

    return read


def readers(types: Mapping[str, object]) -> dict[str, Read] | None:
    """Return the readers by column; None where a column needs the decoder."""
    try:
        return {name: reader(node) for name, node in types.items() if name != "v"}
    except (UnpreparedError, TypeError, RecursionError):
        return None
