"""Several byte strings in one bytea, headed by the name of the serializer that wrote them.

::

    b"tpjx" | length of the name (1 byte) | name | for each: length (4 bytes) | bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAGIC = b"tpjx"
_NAME_AT = len(_MAGIC) + 1
_LENGTH_SIZE = 4


def pack(name: str, frames: Iterable[bytes]) -> bytes:
    """One bytea of what the serializer ``name`` wrote."""
    header = name.encode()[:255]
    parts = [_MAGIC, len(header).to_bytes(1, "big"), header]
    for frame in frames:
        parts += (len(frame).to_bytes(_LENGTH_SIZE, "big"), frame)
    return b"".join(parts)


def writer_of(data: bytes) -> str | None:
    """The name of the serializer that wrote these bytes; None when they were not packed here."""
    if not data.startswith(_MAGIC) or len(data) < _NAME_AT:
        return None
    return data[_NAME_AT : _NAME_AT + data[_NAME_AT - 1]].decode("utf-8", "replace")


def unpack(data: bytes) -> list[bytes]:
    """The byte strings that were packed.

    Raises:
        ValueError: these bytes were not packed here, or are damaged.
    """
    if writer_of(data) is None:
        raise ValueError("the pickled column was not written through a taskiq serializer")
    position = _NAME_AT + data[_NAME_AT - 1]
    frames = []
    while position < len(data):
        start = position + _LENGTH_SIZE
        position = start + int.from_bytes(data[position:start], "big")
        frames.append(data[start:position])
    if position != len(data):
        raise ValueError("the pickled column is cut short")
    return frames
