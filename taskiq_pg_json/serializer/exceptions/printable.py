"""Text of any object, whatever its ``__str__`` and ``__repr__`` do, that JSONB can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_REPR = 200
_MAX_MESSAGE = 20_000


def message_of(exc: BaseException) -> str:
    """``str(exc)``, or a remark on why there is none; at most some 20,000 characters."""
    return elide(printable(_called(str, exc)), _MAX_MESSAGE)


def short_repr(value: object) -> str:
    """``repr(value)``, or a remark on why there is none; at most 200 characters."""
    text = printable(_called(repr, value))
    return text if len(text) <= _MAX_REPR else text[: _MAX_REPR - 3] + "..."


def printable(text: str) -> str:
    r"""``text`` with what JSONB refuses, NUL and lone surrogates, as ``\x00`` and ``\ud800``."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def elide(text: str, limit: int) -> str:
    """``text``, its middle left out where it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n  [... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _called(text_of: Callable[[object], str], value: object) -> str:
    try:
        return text_of(value)
    except Exception as error:  # noqa: BLE001 - another author's method may raise anything
        return (
            f"<{type(value).__qualname__} whose {text_of.__name__}() raises {type(error).__name__}>"
        )
