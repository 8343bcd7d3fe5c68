"""The contract between the store and a serializer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Node: TypeAlias = "str | dict[str, object]"
"""What the sidecar says of one value: a type's name, or the name and the nodes of its children."""

Encoded: TypeAlias = "tuple[object, Node | None]"
"""A JSON-ready value and its node, which is None when the JSON says it all."""

EncodeValue: TypeAlias = "Callable[[object, str], Encoded]"
"""``(value, path)`` to plain and node; raises where there are none."""

DecodeValue: TypeAlias = "Callable[[object, Node | None, str], object]"
"""``(plain, node, path)`` to the value; raises where there is none."""

ResolveClass: TypeAlias = "Callable[[str], type | None]"
"""A type's name to the class that it may stand for; None when there is none."""


class EncodedRow(NamedTuple):
    """The columns of one row as a serializer leaves them.

    Attributes:
        columns: JSON text in UTF-8 by column name (``return_value``, ``error``, ``args``, …).
        types: the type sidecar as JSON text; None when every value is plain JSON.
        pickled: the bytes that JSON cannot hold; None almost always.
    """

    columns: Mapping[str, bytes]
    types: bytes | None = None
    pickled: bytes | None = None

    @property
    def size(self) -> int:
        """What the row takes, in bytes."""
        columns, types, pickled = self
        return sum(map(len, columns.values())) + len(types or b"") + len(pickled or b"")


@runtime_checkable
class ResultSerializer(Protocol):
    """Turns the values of a row into JSON columns and back.

    ``name`` is kept in the row's ``serializer`` column.
    """

    name: str

    def encode(self, columns: Mapping[str, object], *, task_id: str) -> EncodedRow:
        """Encode one row's values.

        Raises:
            ResultEncodeError: a value that cannot be stored, with its path and type. The ``error``
                column never raises it: an exception always gets stored.
        """
        ...

    def decode(self, row: EncodedRow, *, task_id: str) -> dict[str, object]:
        """Decode the columns given, which may be some of those that were encoded together.

        Raises:
            ResultDecodeError: and nothing else, whatever stands in the row.
        """
        ...
