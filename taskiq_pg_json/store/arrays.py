"""A batch's columns as PostgreSQL's binary arrays, put together in a fraction of psycopg's time.

psycopg dumps a list item by item, in Python. A batch is a list for each of up to 16 columns.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar

from psycopg import postgres
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg import AsyncConnection

_NULL = b"\xff\xff\xff\xff"
_NONE = type(None)
_EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_head = Struct("!5I").pack
_length = Struct("!I").pack
_int = Struct("!Ii").pack
_float = Struct("!Id").pack
_moment = Struct("!Iq").pack
_ASCII = 127


class _Array:
    """The array of a column that is not of Nones alone."""

    element: ClassVar[str]
    __slots__ = ("data",)

    def __init__(self, values: Sequence[Any]) -> None:
        # Dimensions, whether there are NULLs, the type; size and first index of the dimension.
        oid = postgres.types[self.element].oid
        self.data = _head(1, None in values, oid, len(values), 1) + self._items(values)

    @staticmethod
    def write(value: Any) -> bytes:  # noqa: ANN401 - of the type in question
        """An item with its length before it."""
        raise NotImplementedError

    @classmethod
    def takes(cls, values: Sequence[Any]) -> bool:  # noqa: ARG003 - some have to look
        """Whether it can hold values of its type, and Nones."""
        return True

    def _items(self, values: Sequence[Any]) -> bytes:
        write, first = type(self).write, values[0]
        if first == values[-1] and values.count(first) == len(values):
            return write(first) * len(values)
        return self._one_by_one(values)

    def _one_by_one(self, values: Sequence[Any]) -> bytes:
        write = type(self).write
        return b"".join([_NULL if value is None else write(value) for value in values])


class _TextArray(_Array):
    element = "text"

    @staticmethod
    def write(value: str) -> bytes:
        data = value.encode()
        return _length(len(data)) + data

    @classmethod
    def takes(cls, values: Sequence[Any]) -> bool:
        # What is not ASCII depends on the connection's encoding.
        return all(map(str.isascii, filter(None, values)))

    def _items(self, values: Sequence[Any]) -> bytes:
        size = len(values[0] or "")
        if size > _ASCII or None in values or set(map(len, values)) != {size}:
            return super()._items(values)
        # Task ids of one length, as taskiq's are, are joined by it.
        length = _length(size).decode()
        return (length + length.join(values)).encode()


class _ByteaArray(_Array):
    element = "bytea"

    @staticmethod
    def write(value: bytes) -> bytes:
        return _length(len(value)) + value


class _IntArray(_Array):
    element = "int4"

    @staticmethod
    def write(value: int) -> bytes:
        return _int(4, value)


class _FloatArray(_Array):
    element = "float8"

    @staticmethod
    def write(value: float) -> bytes:
        return _float(8, value)

    def _items(self, values: Sequence[Any]) -> bytes:
        return self._one_by_one(values)  # 0.0 and -0.0 are equal


class _MomentArray(_Array):
    element = "timestamptz"

    @staticmethod
    def write(value: datetime) -> bytes:
        return _moment(8, (value - _EPOCH) // _MICROSECOND)

    def _items(self, values: Sequence[Any]) -> bytes:
        return self._one_by_one(values)  # both folds of a time are equal

    @classmethod
    def takes(cls, values: Sequence[Any]) -> bool:
        return all(moment.tzinfo is not None for moment in values if moment is not None)


_ARRAYS: dict[type, type[_Array]] = {
    str: _TextArray,
    bytes: _ByteaArray,
    int: _IntArray,
    float: _FloatArray,
    datetime: _MomentArray,
}


class _ArrayDumper(Dumper):
    """Leaves it to the statement's cast to say the type.

    A type of its own would make a statement to be prepared of each set of columns that are not
    None, and would be taken for the type's by all that the connection's owner sends by type.
    """

    format = Format.BINARY

    def dump(self, obj: _Array) -> bytes:
        return obj.data


def as_array(column: Sequence[Any]) -> object:
    """Return what psycopg takes for an array of these values, one type and Nones.

    Ints have 32 bits, and times are aware. None stands for Nones alone, which unnest() pads with
    NULLs to the length of the others.
    """
    if column.count(None) == len(column):
        return None
    kinds = set(map(type, column)) - {_NONE}
    array = _ARRAYS.get(kinds.pop())
    if array is None or kinds or not array.takes(column):
        return list(column)
    return array(column)


def adapt(connection: AsyncConnection[Any]) -> None:
    """Teach a connection to send such arrays."""
    for array in _ARRAYS.values():
        connection.adapters.register_dumper(array, _ArrayDumper)
