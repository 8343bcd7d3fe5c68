"""A batch's columns as PostgreSQL's binary arrays, put together in a third of psycopg's time.

psycopg dumps a list item by item, in Python. A batch is a list for each of up to 16 columns.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar

from psycopg import postgres
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection
    from psycopg.abc import AdaptContext

_TEXT, _BYTEA, _INT = (postgres.types[name] for name in ("text", "bytea", "int4"))
_NULL = b"\xff\xff\xff\xff"
_NONE = type(None)
_head = Struct("!5I").pack
_length = Struct("!I").pack
_int = Struct("!i").pack


class _Array:
    element: ClassVar[int]
    __slots__ = ("data",)

    def __init__(self, values: Sequence[bytes | None]) -> None:
        # Dimensions, whether there are NULLs, the type; size and first index of the dimension.
        parts = [_head(1, None in values, self.element, len(values), 1)] * (2 * len(values) + 1)
        parts[1::2] = [_NULL if value is None else _length(len(value)) for value in values]
        parts[2::2] = [value or b"" for value in values]
        self.data = b"".join(parts)


class _TextArray(_Array):
    element = _TEXT.oid


class _ByteaArray(_Array):
    element = _BYTEA.oid


class _IntArray(_Array):
    element = _INT.oid


class _ArrayDumper(Dumper):
    format = Format.BINARY
    array_oid: ClassVar[int]

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        # The class has none: it would be taken for the type's, for all that the connection's
        # owner sends by type.
        self.oid = self.array_oid

    def dump(self, obj: _Array) -> bytes:
        return obj.data


class _TextArrayDumper(_ArrayDumper):
    array_oid = _TEXT.array_oid


class _ByteaArrayDumper(_ArrayDumper):
    array_oid = _BYTEA.array_oid


class _IntArrayDumper(_ArrayDumper):
    array_oid = _INT.array_oid


def as_array(column: Sequence[object]) -> object:
    """Return what psycopg takes for an array of these values, one type and Nones; ints of 32 bits.

    An empty one stands for Nones alone: unnest() pads it with NULLs to the length of the others.
    """
    kinds: set[Any] = set(map(type, column))
    kinds.discard(_NONE)
    if kinds == {bytes}:
        return _ByteaArray(column)  # type: ignore[arg-type] # as has been seen
    if kinds == {str} and all(map(str.isascii, filter(None, column))):  # type: ignore[arg-type]
        return _TextArray([None if text is None else text.encode() for text in column])  # type: ignore[attr-defined]
    if kinds == {int}:
        return _IntArray([None if number is None else _int(number) for number in column])
    return list(column) if kinds else []


def adapt(connection: AsyncConnection[Any]) -> None:
    """Teach a connection to send such arrays."""
    connection.adapters.register_dumper(_TextArray, _TextArrayDumper)
    connection.adapters.register_dumper(_ByteaArray, _ByteaArrayDumper)
    connection.adapters.register_dumper(_IntArray, _IntArrayDumper)
