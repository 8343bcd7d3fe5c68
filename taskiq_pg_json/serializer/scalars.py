"""The leaf types that JSON does not have: how each is written and read, and casts in SQL."""

from __future__ import annotations

import base64
import ipaddress
import pathlib
import struct
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pydantic.networks
import pydantic_core

from taskiq_pg_json.serializer import text, times

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json.serializer.protocol import Encoded


@dataclass(frozen=True)
class Scalar:
    """One leaf type.

    Attributes:
        name: the type's name in the sidecar, up to a colon.
        cls: the exact class.
        encode: value to plain and node, or None when this value does not fit; None for a type
            that the JSON writer takes as it is.
        decode: plain, and what follows the colon, to the value; any exception means damage.
    """

    name: str
    cls: type
    encode: Callable[[Any], Encoded | None] | None
    decode: Callable[[Any, str], object]


def _written(name: str, write: Callable[[Any], str]) -> Callable[[Any], Encoded]:
    """Encode to text that may need escaping."""

    def encode(value: object) -> Encoded:
        plain, inner = text.encode_text(write(value))
        return plain, name if inner is None else {"type": name, "items": inner}

    return encode


def _simple(name: str, write: Callable[[Any], object]) -> Callable[[Any], Encoded]:
    def encode(value: object) -> Encoded:
        return write(value), name

    return encode


def _read(cls: Callable[[str], object]) -> Callable[[object, str], object]:
    def decode(plain: object, _argument: str) -> object:
        if type(plain) is not str:
            raise TypeError(f"expected text, found {type(plain).__name__}")
        return cls(plain)

    return decode


_UUID_LENGTH = 36
_UNKNOWN = uuid.SafeUUID.unknown


def _encode_uuid(value: uuid.UUID) -> Encoded:
    # orjson writes the UUID itself, much faster than str() would
    if value.is_safe is _UNKNOWN:
        return value, "UUID"
    return value, f"UUID:{value.is_safe.name}"


def _decode_uuid(plain: str, argument: str) -> uuid.UUID:
    value: uuid.UUID = object.__new__(uuid.UUID)
    number = int(plain.replace("-", ""), 16)
    if len(plain) != _UUID_LENGTH or not 0 <= number < 1 << 128:
        raise ValueError(f"{plain!r} is no UUID")
    object.__setattr__(value, "int", number)
    object.__setattr__(value, "is_safe", uuid.SafeUUID[argument] if argument else _UNKNOWN)
    return value


def encode_bytes(value: bytes | bytearray | memoryview) -> str:
    """Base64, which ``decode(…, 'base64')`` reads in SQL."""
    return base64.b64encode(value).decode("ascii")


def decode_bytes(plain: str, _argument: str = "") -> bytes:
    """The bytes of base64 text."""
    return base64.b64decode(plain, validate=True)


def _encode_memoryview(value: memoryview) -> Encoded | None:
    if value.ndim != 1 or value.format != "B" or not value.c_contiguous:
        return None
    return encode_bytes(value), "memoryview" if value.readonly else "memoryview:writable"


def _decode_memoryview(plain: str, argument: str) -> memoryview:
    data = decode_bytes(plain)
    return memoryview(bytearray(data) if argument else data)


def _decode_fraction(plain: str, _argument: str) -> Fraction:
    above, _, below = plain.partition("/")
    return Fraction(text.decode_int(above), text.decode_int(below or "1"))


def _encode_fraction(value: Fraction) -> Encoded:
    above, _ = text.encode_int(value.numerator)
    below, _ = text.encode_int(value.denominator)
    return f"{above}/{below}" if below != 1 else str(above), "Fraction"


def _encode_complex(value: complex) -> Encoded:
    (real, sign), (imag, other) = text.encode_float(value.real), text.encode_float(value.imag)
    if ":" in f"{sign}{other}":
        # a NaN with a payload
        return [real, imag], f"complex:{struct.pack('>2d', value.real, value.imag).hex()}"
    return [real, imag], "complex"


def _decode_complex(plain: list[object], argument: str) -> complex:
    if argument:
        return complex(*struct.unpack(">2d", bytes.fromhex(argument)))
    real, imag = plain
    return complex(text.decode_float(real), text.decode_float(imag))


def _encode_url(value: object) -> Encoded | None:
    cls, written = type(value), str(value)
    try:
        again: object = cls(written)  # type: ignore[call-arg] # a URL's text
    except ValueError:
        return None
    return (written, cls.__name__) if again == value and str(again) == written else None


def _constant(value: object) -> Callable[[object, str], object]:
    return lambda _plain, _argument: value


_TEXTUAL = (
    *(
        getattr(ipaddress, f"IPv{v}{what}")
        for v in "46"
        for what in ("Address", "Network", "Interface")
    ),
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    type(pathlib.Path()),
)

# pydantic's own, which are other classes from one of its releases to the next.
_URLS = tuple(
    cls
    for name, cls in {**vars(pydantic.networks), **vars(pydantic_core)}.items()
    if isinstance(cls, type) and hasattr(cls, "unicode_string") and name == cls.__name__
    if not name.startswith("_")
)

SCALARS: tuple[Scalar, ...] = (
    Scalar("datetime", datetime, times.encode_datetime, times.decode_datetime),
    Scalar("date", date, None, times.decode_date),
    Scalar("time", time, times.encode_time, times.decode_time),
    Scalar(
        "timedelta",
        timedelta,
        _simple("timedelta", times.encode_timedelta),
        times.decode_timedelta,
    ),
    Scalar("Decimal", Decimal, None, _read(Decimal)),
    Scalar("UUID", uuid.UUID, _encode_uuid, _decode_uuid),
    Scalar("bytes", bytes, _simple("bytes", encode_bytes), decode_bytes),
    Scalar(
        "bytearray",
        bytearray,
        _simple("bytearray", encode_bytes),
        lambda plain, _: bytearray(decode_bytes(plain)),
    ),
    Scalar("memoryview", memoryview, _encode_memoryview, _decode_memoryview),
    Scalar("float", float, text.encode_float, text.decode_float),
    Scalar("complex", complex, _encode_complex, _decode_complex),
    Scalar("Fraction", Fraction, _encode_fraction, _decode_fraction),
    *(Scalar(cls.__name__, cls, _written(cls.__name__, str), _read(cls)) for cls in _TEXTUAL),
    *(Scalar(cls.__name__, cls, _encode_url, _read(cls)) for cls in _URLS),
    Scalar("Ellipsis", type(...), _simple("Ellipsis", lambda _: "..."), _constant(...)),
    Scalar(
        "NotImplemented",
        type(NotImplemented),
        _simple("NotImplemented", lambda _: "NotImplemented"),
        _constant(NotImplemented),
    ),
)
