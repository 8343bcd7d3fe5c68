"""Writing JSON text: what orjson writes by itself, and Decimals."""

from __future__ import annotations

from decimal import Decimal

import orjson

NUL = b"\\u0000"
"""How JSON text has the character that jsonb has not."""

EMPTY = {dict: b"{}", list: b"[]", type(None): b"null", str: b'""', bool: b"false", int: b"0"}
"""The text of what is false, by type."""

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
# which raises TypeError for anything but a Decimal, without a frame of Python
_write_decimal = Decimal.__str__


def has_nul(data: bytes) -> bool:
    """Whether JSON text holds the character that jsonb has not."""
    return NUL in data and NUL in data.replace(b"\\\\", b"")


def dumps(plain: object) -> bytes:
    """The text of a plain value, in which datetimes, dates, UUIDs and Decimals may be left.

    Raises:
        TypeError: it holds anything else that JSON does not have.
    """
    return orjson.dumps(plain, _write_decimal, _OPTIONS)
