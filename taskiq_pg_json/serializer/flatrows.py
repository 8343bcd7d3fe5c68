"""Rows of flat, plain JSON, as most are: written and read by the JSON library alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from taskiq_pg_json.serializer import sidecar
from taskiq_pg_json.serializer.encoder import Encoder
from taskiq_pg_json.serializer.jsontext import EMPTY, NUL
from taskiq_pg_json.serializer.keys import in_order
from taskiq_pg_json.serializer.nodes import VERSION
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.serializer.text import EXACT_BELOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskiq_pg_json.serializer.plan import Plan

_SETTLED = Encoder.settled
_SHORT = 64
_NO_ORDERS: dict[str, object] = {}
_FRAME = 64
"""More bytes than a column has in a sidecar beside its keys, and in itself when it is empty."""


def write_flat(plan: Plan, columns: Mapping[str, Any]) -> EncodedRow | None:
    """The row, if no column holds more than a dict or a short list of what JSON has.

    None for any other row, for one with a dict whose keys are met for the first time, and for one
    that needs care.
    """
    written: dict[str, bytes] = {}
    nodes: dict[str, object] = {}
    size = 0
    try:
        for name, value in columns.items():
            cls = type(value)
            if cls in EMPTY and not value:
                written[name] = EMPTY[cls]
                continue
            if cls not in _SETTLED and not _is_flat(cls, value):
                return None
            if cls is dict:
                layout = plan.layouts[tuple(value)]
                if layout:
                    nodes[name] = layout
            data = written[name] = orjson.dumps(value)
            size += len(data)
            if b"\\" in data and NUL in data:
                return None
    except Exception:  # noqa: BLE001 - the writer of all other rows finds out, and says where
        return None
    if 2 * size + _FRAME * len(written) > plan.max_bytes:
        return None
    return EncodedRow(written, orjson.dumps({"v": VERSION, **nodes}) if nodes else None)


def _is_flat(cls: type, value: Any) -> bool:  # noqa: ANN401 - of that class
    if cls is dict:
        return _SETTLED.issuperset(map(type, value.values()))
    if cls is list:
        return len(value) <= _SHORT and _SETTLED.issuperset(map(type, value))
    return cls is float and value != 0 and -EXACT_BELOW < value < EXACT_BELOW


def read_flat(row: EncodedRow) -> dict[str, object] | None:
    """The values of a row whose sidecar speaks of nothing but the order of keys, if it has one.

    None for any other row, and for one that is damaged.
    """
    columns = row.columns
    orders = _NO_ORDERS if row.types is None else sidecar.orders(row.types)
    if orders is None or "error" in columns:
        return None
    try:
        values = {name: orjson.loads(data) for name, data in columns.items()}
        for name in orders.keys() & values.keys() if orders else ():
            if values[name] is not None:
                values[name] = in_order(values[name], orders[name])
    except Exception:  # noqa: BLE001 - the reader of all other rows finds out, and says where
        return None
    return values
