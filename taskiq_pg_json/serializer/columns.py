"""Decoding many values of one node at once."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from itertools import chain, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from taskiq_pg_json.serializer.keys import aligned
from taskiq_pg_json.serializer.nodes import fields_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.protocol import Node

    Rows = list[dict[str, object]]

_LEAVES: dict[str, Callable[[Any], object]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "Decimal": Decimal,
}


def decode(decoder: Decoder, plains: list[object], node: Node) -> list[object] | None:
    """The values; None when they have to be decoded one by one."""
    present = plains
    if None in plains:
        present = [plain for plain in plains if plain is not None]
    found = _decode_present(decoder, present, node) if present else []
    if found is None or present is plains:
        return found
    values = iter(found)
    return [None if plain is None else next(values) for plain in plains]


def _decode_present(decoder: Decoder, plains: list[object], node: Node) -> list[object] | None:
    name = node if isinstance(node, str) else node.get("type")
    kinds = set(map(type, plains))
    if kinds == {str}:
        leaf = _LEAVES.get(node) if isinstance(node, str) else None
        return None if leaf is None else list(map(leaf, plains))
    if kinds == {list} and isinstance(node, dict) and node.keys() == {"items"}:
        return _decode_lists(decoder, cast("list[list[object]]", plains), node)
    if kinds != {dict}:
        return None
    rows = cast("Rows", plains)
    if name is None:
        return _decode_dicts(decoder, rows, cast("dict[str, object]", node))
    shape = decoder.shape(name) if isinstance(name, str) else None
    return None if shape is None else shape.restore_column(decoder, rows, node)


def _decode_lists(
    decoder: Decoder, lists: list[list[object]], node: dict[str, object]
) -> list[object]:
    """Lists whose items are alike, all items together."""
    items = list(chain.from_iterable(lists))
    decoded = iter(decoder.column(items, cast("Node | None", node["items"])))
    for found in lists:
        found[:] = islice(decoded, len(found))
    return cast("list[object]", lists)


def _decode_dicts(decoder: Decoder, rows: Rows, node: dict[str, object]) -> list[object] | None:
    """Plain dicts, if they have the same keys."""
    if "keys" in node or "pickle" in node:
        return None
    order = node.get("order")
    if order is not None:
        if type(order) is not list:
            return None
        ordered = aligned(rows, dict.fromkeys(order))
        if ordered is None:
            return None
        rows = ordered
    return cast("list[object]", rows) if decode_fields(decoder, rows, node) else None


def decode_fields(decoder: Decoder, rows: Rows, node: Node) -> bool:
    """Decode the fields of rows, column by column, in place; False if a row lacks one of them."""
    if not isinstance(node, dict):
        return True
    fields = fields_of(node)
    if "items" in node:
        common = cast("Node | None", node["items"])
        if len(set(map(len, rows))) != 1:
            return False
        fields = {**cast("dict[str, Node]", dict.fromkeys(rows[0], common)), **fields}
    try:
        given = [list(map(itemgetter(name), rows)) for name in fields]
    except KeyError:
        return False
    for (name, single), values in zip(fields.items(), given, strict=True):
        decoded = decoder.column(values, single)
        for row, value in zip(rows, decoded, strict=True):
            row[name] = value
    return True
