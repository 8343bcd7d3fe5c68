"""Writing JSON text: what orjson writes by itself, and Decimals."""

from __future__ import annotations

from decimal import Decimal

import orjson

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS


def dumps(plain: object) -> bytes:
    """The text of a plain value, in which datetimes, dates, UUIDs and Decimals may be left.

    Raises:
        TypeError: it holds anything else that JSON does not have.
    """
    return orjson.dumps(plain, _write, _OPTIONS)


def _write(value: object) -> str:
    if type(value) is Decimal:
        return str(value)
    raise TypeError(type(value).__qualname__)
