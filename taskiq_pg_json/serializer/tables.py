"""Columns of one type, encoded together."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate, chain, filterfalse, islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING

from taskiq_pg_json.serializer.nodes import PLAIN, children, of_list
from taskiq_pg_json.serializer.text import EXACT_BELOW
from taskiq_pg_json.serializer.times import are_simple

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from decimal import Decimal

    from taskiq_pg_json.serializer.encoder import Column, Encoder
    from taskiq_pg_json.serializer.protocol import Node

_SHORT = 16
_ROWS = 16
"""As many rows of a table are counted as one container: they are not walked one by one."""


def encode_rows(encoder: Encoder, rows: Collection[dict[str, object]]) -> Column | None:
    """A column of dicts, by the keys that they have."""
    shapes = set(map(tuple, rows))
    if len(shapes) == 1:
        names = shapes.pop()
        layout = encoder.layout(names)
        return None if layout is None else encode_table(encoder, names, rows, layout)
    if len(shapes) * 4 > len(rows):
        return None
    groups: dict[object, list[int]] = {}
    for index, shape in enumerate(map(tuple, rows)):
        groups.setdefault(shape, []).append(index)
    return encoder.in_groups(list(rows), groups.values())


def encode_table(
    encoder: Encoder,
    names: tuple[str, ...],
    rows: Collection[dict[str, object]],
    base: dict[str, object],
) -> Column:
    """Dicts of the same keys in the same order, column by column.

    Args:
        encoder: the walk.
        names: the keys.
        rows: the dicts.
        base: what every row's node says beside its fields.
    """
    encoder.enter(1 + len(rows) // _ROWS)
    fields: dict[str, Node] = {}
    cells: dict[int, dict[str, Node]] = {}
    given = [list(map(itemgetter(name), rows)) for name in names]
    written: list[Collection[object]] = []
    for name, values in zip(names, given, strict=True):
        plains, node, odd = encoder.column(values)
        written.append(plains)
        if node is not None:
            fields[name] = node
        for index, other in odd.items():
            cells.setdefault(index, {})[name] = other
    encoder.leave()
    changed = [
        (name, after)
        for name, after, before in zip(names, written, given, strict=True)
        if after is not before
    ]
    plain: Collection[object] = rows
    if changed:
        plain = copies = [dict(row) for row in rows]
        for name, after in changed:
            for row, value in zip(copies, after, strict=True):
                row[name] = value
    common: Node = {**base, "fields": fields} if fields else base
    odd_rows: dict[int, Node] = {
        index: {**base, "fields": {**fields, **others}} for index, others in cells.items()
    }
    return plain, common or None, odd_rows


def encode_lists(encoder: Encoder, lists: Collection[list[object]]) -> Column | None:
    """A column of short lists, all their items together."""
    sizes = list(map(len, lists))
    if sum(sizes) > len(sizes) * _SHORT:
        return None
    encoder.enter(len(sizes))
    given = list(chain.from_iterable(lists))
    plains, items, odd = encoder.column(given)
    encoder.leave()
    written = list(lists)
    if plains is not given:
        left = iter(plains)
        written = [list(islice(left, size)) for size in sizes]
    common: Node | None = children(items, {}) or None
    found: dict[int, dict[int, Node]] = {}
    ends = list(accumulate(sizes)) if odd else []
    for index, node in odd.items():
        position = bisect_right(ends, index)
        found.setdefault(position, {})[index - ends[position] + sizes[position]] = node
    nodes = {position: of_list(written[position], items, own) for position, own in found.items()}
    return (
        lists if plains is given else written,
        common,
        {
            position: node or PLAIN
            for position, node in nodes.items()
            if node is not None or common is not None
        },
    )


def encode_datetimes(_encoder: Encoder, values: Collection[datetime]) -> Column | None:
    """A column of datetimes that have no zone but UTC."""
    return (values, "datetime", {}) if are_simple(values) else None


def encode_decimals(_encoder: Encoder, values: Collection[Decimal]) -> Column | None:
    """A column of Decimals."""
    return values, "Decimal", {}


def are_plain(floats: Collection[float]) -> bool:
    """Whether jsonb holds every one of these floats as it is."""
    if 0.0 in floats and -1.0 in map(math.copysign, repeat(1.0), filterfalse(None, floats)):
        return False
    # their root sum of squares: at least as large as each, and NaN or infinite if one is
    return math.hypot(*floats) < EXACT_BELOW or all(-EXACT_BELOW < f < EXACT_BELOW for f in floats)
