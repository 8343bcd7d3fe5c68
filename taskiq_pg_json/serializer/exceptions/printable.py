"""Text of any object, whatever its ``__str__`` and ``__repr__`` do, that JSONB can hold."""

from __future__ import annotations

from asyncio import CancelledError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTS = (KeyboardInterrupt, SystemExit)
"""What is meant for the process, wherever it turns up; the panics of an extension are not."""

NO_REFUSALS = (*INTERRUPTS, CancelledError)
"""What a value's own code may raise that says nothing of whether the value can be stored."""

_MAX_REPR = 200
_MAX_MESSAGE = 20_000
_module_of = type.__dict__["__module__"].__get__
_qualname_of = type.__dict__["__qualname__"].__get__


def message_of(exc: BaseException) -> str:
    """``str(exc)``, or a remark on why there is none; at most some 20,000 characters."""
    return elide(printable(called(str, exc)), _MAX_MESSAGE)


def short_repr(value: object) -> str:
    """``repr(value)``, or a remark on why there is none; at most 200 characters."""
    text = printable(called(repr, value))
    return text if len(text) <= _MAX_REPR else text[: _MAX_REPR - 3] + "..."


def printable(text: str) -> str:
    r"""``text`` as a ``str``, what JSONB refuses in it as ``\x00`` and ``\ud800``."""
    return str.replace(text, "\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def names_of(cls: type) -> tuple[str, str]:
    """Module and qualified name of a class, whatever its metaclass does; neither is empty."""
    module, qualname = (called(str, get(cls)) for get in (_module_of, _qualname_of))
    return printable(module) or "?", printable(qualname) or "?"


def full_name(cls: type) -> str:
    """The same as one text, ``shop.models.Invoice``."""
    return ".".join(names_of(cls))


def elide(text: str, limit: int) -> str:
    """``text``, its middle left out where it is longer than ``limit`` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n  [... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def called(text_of: Callable[..., str], value: object) -> str:
    """``text_of(value)``, or a remark on why there is none."""
    try:
        return text_of(value)
    except INTERRUPTS:
        raise
    except BaseException as error:  # noqa: BLE001 - another author's method may raise anything
        cls, raised = (_qualname_of(type(one)) for one in (value, error))
        return f"<{cls} whose {text_of.__name__}() raises {raised}>"
