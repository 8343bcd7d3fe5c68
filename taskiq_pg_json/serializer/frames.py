"""Several byte strings in one bytea, headed by the name of the serializer that wrote them.

::

    b"tpjx" | length of the name (1 byte) | name | frames

Each frame is four bytes of its length, and a byte string.
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
    return b"".join((_MAGIC, len(header).to_bytes(1, "big"), header, joined(frames)))


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
    return split(data, _NAME_AT + data[_NAME_AT - 1])


def joined(frames: Iterable[bytes]) -> bytes:
    """The byte strings in one, each with its length before it."""
    return b"".join(
        part for frame in frames for part in (len(frame).to_bytes(_LENGTH_SIZE, "big"), frame)
    )


def split(data: bytes, position: int = 0) -> list[bytes]:
    """The byte strings that were joined, and begin at ``position``.

    Raises:
        ValueError: the last one is not whole.
    """
    frames = []
    while position < len(data):
        start = position + _LENGTH_SIZE
        position = start + int.from_bytes(data[position:start], "big")
        frames.append(data[start:position])
    if position != len(data):
        raise ValueError("the pickled column is cut short")
    return frames
