r"""Numbers and text that jsonb would change, and how they are written instead.

* A float that is not finite, is -0.0, or from 1e15 on (jsonb would hand back an int): type
  ``float``; ``"NaN"``, ``"Infinity"``, ``"-Infinity"`` and ``"-0.0"`` stand as text. A NaN with
  a payload has its bits in the type's name, ``float:fff8000000000001``.
* An int past 64 bits: type ``int``, its digits as text.
* Text with NUL or a lone surrogate: type ``str``, with ``\\u0000`` and ``\\ud800`` for these
  and ``\\\\`` for a backslash.
"""

from __future__ import annotations

import math
import re
import struct
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.protocol import Encoded

EXACT_BELOW = 1e15
"""Floats of at least this magnitude come back from jsonb as ints."""

MAX_DIGITS = 131_072
"""Digits an int may have: as many as PostgreSQL's numeric."""

_FEW_DIGITS = 250
"""Half of what int() takes at least, whatever limit the interpreter was given."""

_SMALL_INT = 2**63
INT64 = range(-_SMALL_INT, _SMALL_INT)
"""The ints that are numbers in JSON."""

_SPECIAL = {"NaN", "Infinity", "-Infinity", "-0.0"}
_NAN_BITS = struct.pack(">d", math.nan)
_UNCLEAN = re.compile("[\x00\ud800-\udfff]")
_TO_ESCAPE = re.compile("[\x00\ud800-\udfff\\\\]")
_ESCAPE = re.compile(r"\\(?:\\|u([0-9a-f]{4}))")
_DIGITS = re.compile(r"-?\d+", re.ASCII)


def is_clean(text: str) -> bool:
    """Whether jsonb holds this text as it is."""
    return (text.isascii() and "\x00" not in text) or _UNCLEAN.search(text) is None


def encode_text(text: str) -> Encoded:
    """Any text."""
    if is_clean(text):
        return text, None
    return _TO_ESCAPE.sub(_escape, text), "str"


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return "\\\\" if character == "\\" else f"\\u{ord(character):04x}"


def decode_text(plain: object, _argument: str = "") -> str:
    """The text behind the escapes."""
    if type(plain) is not str:
        raise TypeError(f"expected text, found {type(plain).__name__}")
    return _ESCAPE.sub(_unescape, plain)


def _unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return chr(int(code, 16)) if code else "\\"


def encode_float(value: float) -> Encoded:
    """Any float."""
    if -EXACT_BELOW < value < EXACT_BELOW:
        if value or math.copysign(1.0, value) > 0:
            return value, None
        return "-0.0", "float"
    if value != value:  # noqa: PLR0124 - what NaN is
        bits = struct.pack(">d", value)
        return "NaN", "float" if bits == _NAN_BITS else f"float:{bits.hex()}"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity", "float"
    return value, "float"


def decode_float(plain: object, argument: str = "") -> float:
    """The float of a number or of one of the words."""
    if argument:
        value = float(struct.unpack(">d", bytes.fromhex(argument))[0])
        if value == value:  # noqa: PLR0124 - what NaN is not
            raise ValueError(f"{argument!r} is no NaN")
        return value
    if type(plain) is float or type(plain) is int or plain in _SPECIAL:
        return float(plain)
    return float(decode_int(plain)) if type(plain) is str else _no_number(plain)


def _no_number(plain: object) -> float:
    raise TypeError(f"expected a number, found {type(plain).__name__}")


def encode_int(value: int) -> Encoded:
    """Any int.

    Raises:
        OverflowError: it has more than ``MAX_DIGITS`` digits.
    """
    if -_SMALL_INT <= value < _SMALL_INT:
        return value, None
    if value.bit_length() > MAX_DIGITS * 3.3219:
        raise OverflowError(f"an int of more than {MAX_DIGITS:,} digits")
    return str(Decimal(value)), "int"


def decode_int(plain: object, _argument: str = "") -> int:
    """The int of its digits."""
    if type(plain) is int:
        return plain
    if type(plain) is not str or len(plain) > MAX_DIGITS + 1 or not _DIGITS.fullmatch(plain):
        raise ValueError("not the digits of an int")
    return -_int_of(plain[1:]) if plain.startswith("-") else _int_of(plain)


def _int_of(digits: str) -> int:
    """The int of any number of digits, in less time than the square of them."""
    size = len(digits) // 2
    if size < _FEW_DIGITS:
        return int(digits)
    power: int = 10**size
    return _int_of(digits[:-size]) * power + _int_of(digits[-size:])
