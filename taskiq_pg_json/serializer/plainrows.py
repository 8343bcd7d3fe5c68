"""Rows of plain JSON a few levels deep, as most are: written and read without a walk's state."""

from __future__ import annotations

from enum import Enum
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from orjson import loads

from taskiq_pg_json.serializer import sidecar
from taskiq_pg_json.serializer.encoder import Encoder
from taskiq_pg_json.serializer.forms import LEVELS, MOST, MOST_NESTED
from taskiq_pg_json.serializer.jsontext import EMPTY, NUL, dumps
from taskiq_pg_json.serializer.matching import FEW, is_long
from taskiq_pg_json.serializer.nodes import VERSION
from taskiq_pg_json.serializer.prepared import NO_READERS
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.serializer.tables import are_plain
from taskiq_pg_json.serializer.text import EXACT_BELOW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskiq_pg_json.serializer.knownforms import KnownForm
    from taskiq_pg_json.serializer.plan import Plan

    Layouts = dict[Any, dict[str, object]]

_SETTLED = Encoder.settled
_FLAT = _SETTLED | {float}
_NUMBERS = frozenset({int, float, type(None)})
_DICTS = {dict}
_tuple = tuple.__new__  # a named one's own takes twice as long
_FRAME = 64
"""More bytes than a container has in a sidecar beside its keys, and in itself when it is empty."""


class Unread(Enum):
    """Stands for a value that the reader of all rows has to read."""

    VALUE = 0


class _NotPlainError(Exception):
    """The value holds, or may hold, something else than plain JSON of a few levels."""


def write_plain(plan: Plan, columns: Mapping[str, Any]) -> EncodedRow | None:
    """The row, if every column is plain JSON of a few levels in which little is wide.

    None for any other row, for one with a dict whose keys are met for the first time, and for one
    that needs care.
    """
    written: dict[str, bytes] = {}
    nodes: dict[str, object] = {}
    form: KnownForm | None = None
    size = 0
    try:
        for name, value in columns.items():
            cls = type(value)
            if cls in EMPTY and not value:
                written[name] = EMPTY[cls]
                continue
            if cls is dict and (known := plan.forms.find(value)) is not None:
                if known.node:
                    nodes[name], form = known.node, known
            elif cls not in _SETTLED:
                node = _node(plan.layouts, cls, value, LEVELS)
                if node:
                    nodes[name] = node
            data = written[name] = dumps(value)
            size += len(data)
            if b"\\" in data and NUL in data:
                return None
        types = _sidecar(nodes, form) if nodes else None
    except Exception:  # noqa: BLE001 - the writer of all other rows finds out, and says where
        return None
    if size + len(types or b"") + _FRAME * len(written) > plan.max_bytes:
        return None
    return _tuple(EncodedRow, (written, types, None))


def _sidecar(nodes: dict[str, object], form: KnownForm | None) -> bytes:
    if form is not None and len(nodes) == 1:
        return form.sidecar(*nodes)
    return dumps({"v": VERSION, **nodes})


def _node(layouts: Layouts, cls: type, value: Any, levels: int) -> dict[str, object] | None:  # noqa: ANN401 - of that class
    """What the sidecar says of a value that is not settled; nothing or None where JSON says it."""
    if cls is dict:
        return _node_of_dict(layouts, value, levels)
    if cls is list:
        return _node_of_list(layouts, value, levels)
    if cls is float and value and -EXACT_BELOW < value < EXACT_BELOW:
        return None
    raise _NotPlainError


def _node_of_dict(layouts: Layouts, value: dict[str, Any], levels: int) -> dict[str, object]:
    layout = layouts[tuple(value)]
    if _SETTLED.issuperset(map(type, value.values())):
        if len(value) > MOST_NESTED:
            _look_out_for_text(next(iter(value.values())))
        return layout
    if not levels or len(value) > MOST_NESTED:
        raise _NotPlainError
    fields = {}
    for key, child in value.items():
        cls = type(child)
        if cls in _SETTLED or (cls is float and child and -EXACT_BELOW < child < EXACT_BELOW):
            continue
        node = _node(layouts, cls, child, levels - 1)
        if node:
            fields[key] = node
    return {"fields": fields, **layout} if fields else layout


def _node_of_list(layouts: Layouts, value: list[Any], levels: int) -> dict[str, object] | None:
    kinds = set(map(type, value))
    if not levels or len(value) > MOST:
        raise _NotPlainError
    if kinds <= _SETTLED:
        if len(value) > FEW:
            _look_out_for_text(value[0])
        return None
    if kinds == _DICTS:
        first = _node_of_rows(layouts, value, levels - 1)
    elif kinds <= _NUMBERS and are_plain([child for child in value if type(child) is float]):
        return None
    else:
        raise _NotPlainError
    return {"items": first} if first else None


def _node_of_rows(
    layouts: Layouts, rows: list[dict[str, Any]], levels: int
) -> dict[str, object] | None:
    """What the sidecar says of each of these dicts, if it says the same of all."""
    if len(rows) > FEW:
        for cell in rows[0].values():
            _look_out_for_text(cell)
        names = set(map(tuple, rows))
        kinds = set(map(type, chain.from_iterable(map(dict.values, rows))))
        if len(names) == 1 and kinds <= _FLAT:
            if float in kinds and not are_plain(
                [cell for row in rows for cell in row.values() if type(cell) is float]
            ):
                raise _NotPlainError
            return layouts[names.pop()]
        if len(rows) > MOST_NESTED:
            raise _NotPlainError
    nodes = [_node_of_dict(layouts, row, levels) for row in rows]
    if nodes.count(nodes[0]) < len(nodes):
        raise _NotPlainError
    return nodes[0]


def _look_out_for_text(first: object) -> None:
    """Refuse a long text at the head of many: it may be the same, written again for each."""
    if is_long(first):
        raise _NotPlainError


def read_plain(row: EncodedRow) -> dict[str, object] | None:
    """The values of a row whose sidecar speaks of nothing but keys and scalars, if it has one.

    None for any other row, and for one that is damaged.
    """
    columns, types, _ = row
    readers = NO_READERS if types is None else sidecar.readers(types)
    if readers is None or "error" in columns:
        return None
    values: dict[str, object] = {}
    try:
        for name, data in columns.items():
            value = loads(data)
            read = readers.get(name)
            values[name] = value if read is None or value is None else read(value)
    except Exception:  # noqa: BLE001 - the reader of all other rows finds out, and says where
        return None
    return values


def read_return_value(
    data: bytes | str, types: bytes | str | None
) -> object | Literal[Unread.VALUE]:
    """The return value of a row when nothing else of it is read, without a row around it.

    ``Unread.VALUE`` where ``read_plain`` has None.
    """
    try:
        value: object = loads(data)
        if types is None:
            return value
        readers = sidecar.readers(types)
        if readers is None:
            return Unread.VALUE
        read = readers.get("return_value")
        return value if read is None or value is None else read(value)
    except Exception:  # noqa: BLE001 - the reader of all other rows finds out, and says where
        return Unread.VALUE
