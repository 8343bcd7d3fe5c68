"""Columns of one type, encoded together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from taskiq_pg_json.serializer.text import EXACT_BELOW
from taskiq_pg_json.serializer.times import are_simple

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime
    from decimal import Decimal

    from taskiq_pg_json.serializer.encoder import Column, Encoder


def encode_rows(encoder: Encoder, rows: Collection[dict[str, object]]) -> Column | None:
    """A column of dicts, by the keys that they have."""
    shapes = list(map(tuple, rows))
    names = shapes[0]
    if shapes.count(names) == len(shapes):
        layout = encoder.layout(names)
        return None if layout is None else encoder.table(names, rows, layout)
    groups: dict[object, list[int]] = {}
    for index, shape in enumerate(shapes):
        groups.setdefault(shape, []).append(index)
    return None if len(groups) * 4 > len(shapes) else encoder.in_groups(list(rows), groups.values())


def encode_datetimes(_encoder: Encoder, values: Collection[datetime]) -> Column | None:
    """A column of datetimes that have no zone but UTC."""
    return (values, "datetime", {}) if are_simple(values) else None


def encode_decimals(_encoder: Encoder, values: Collection[Decimal]) -> Column | None:
    """A column of Decimals."""
    return values, "Decimal", {}


def are_plain(floats: Collection[float]) -> bool:
    """Whether jsonb holds every one of these floats as it is."""
    if 0.0 in floats and any(math.copysign(1.0, f) < 0 for f in floats if not f):
        return False
    total = sum(map(abs, floats))
    if total < EXACT_BELOW:
        return True
    return math.isfinite(total) and max(map(abs, floats)) < EXACT_BELOW
