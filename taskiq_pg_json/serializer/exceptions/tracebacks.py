"""Tracebacks as text, and back as frames that Python prints by itself.

The text is what Python prints for one exception, without its causes, which carry their own. Read
back, each of its frames becomes a frame of ``exc.__traceback__``, so that whatever prints the
exception (the interpreter, ``logging``, pytest) shows the remote frames below those of the reader::

    File "app.py", line 8, in main
      result.raise_for_error()
    File "<remote:/srv/tasks.py>", line 31, in charge
      gateway.pay(order)
    PaymentError: card refused

A remote frame keeps its source line in the *name* of its function: the reader may have another
version of the file or none, and a file name out of a database must not be opened.
"""

from __future__ import annotations

import re
import traceback
from functools import lru_cache
from types import FunctionType, TracebackType
from typing import TYPE_CHECKING, cast

from taskiq_pg_json.serializer.exceptions.printable import elide, names_of, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, GeneratorType

_HEADER = "Traceback (most recent call last):\n"
_FIRST_FRAMES = 20
_LAST_FRAMES = 40
_MAX_LINE = 400
_MAX_TEXT = 32_000
_MAX_KEPT = 1_000

# The packages that call a task; their frames above it say nothing about the failure.
_CALLERS = frozenset({"anyio", "asyncio", "concurrent", "taskiq", "taskiq_dependencies"})
_FRAME = re.compile(r'^  File "([^"\n]*)", line (\d{1,9})(?:, in ([^\n]*))?\n', re.MULTILINE)
_REMOTE = "<remote:{}>"


def format_traceback(exc: BaseException, raised: TracebackType | None, message: str) -> str | None:
    """The frames of ``raised`` and a last line for ``exc``; None if it was never raised.

    Frames of the worker above the task are left out, and so is the middle of a long traceback.
    """
    frames = list(_own_frames(raised))
    if not frames:
        return None
    try:
        text = _format(frames)
    except Exception:  # noqa: BLE001 - a traceback is never worth the error that it belongs to
        return None
    module, qualname = names_of(type(exc))
    name = qualname if module == "builtins" else f"{module}.{qualname}"
    return f"{elide(printable(text), _MAX_TEXT)}{name}: {message}\n"


def _format(frames: list[TracebackType]) -> str:
    lines = [_HEADER]
    if len(frames) <= _FIRST_FRAMES + _LAST_FRAMES:
        lines += traceback.extract_tb(frames[0]).format()
    else:
        left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
        lines += traceback.extract_tb(frames[0], limit=_FIRST_FRAMES).format()
        lines.append(f"  [... {left_out} frames left out ...]\n")
        lines += traceback.extract_tb(frames[-_LAST_FRAMES]).format()
    return "".join(_bounded(line) for entry in lines for line in entry.splitlines(keepends=True))


def parse_traceback(text: str) -> TracebackType | None:
    """The frames written in ``text`` as a traceback to hang on an exception; None without any."""
    found: TracebackType | None = None
    for filename, lineno, name in reversed(list(_frames_in(text))):
        found = TracebackType(found, _frame(filename, name), -1, lineno)
    return found


def _own_frames(tb: TracebackType | None) -> Iterator[TracebackType]:
    first = tb
    while first is not None and _is_caller(first.tb_frame):
        first = first.tb_next
    tb = first or tb
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _is_caller(frame: FrameType) -> bool:
    module = frame.f_globals.get("__name__")
    return isinstance(module, str) and module.partition(".")[0] in _CALLERS


def _bounded(line: str) -> str:
    return line if len(line) <= _MAX_LINE else line[:_MAX_LINE] + " ...\n"


def _frames_in(text: str) -> Iterator[tuple[str, int, str]]:
    """File name, line number and function (its source below it) of each frame of ``text``."""
    matches = list(_FRAME.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    for match, end in zip(matches, ends, strict=True):
        filename, lineno, name = match.groups()
        body: list[str] = []
        for line in text[match.end() : end].splitlines():
            if not line.startswith("  "):
                yield filename, int(lineno), "\n".join([name or "?", *body])
                return
            body.append(line)
        yield filename, int(lineno), "\n".join([name or "?", *body])


def _hollow() -> Iterator[None]:
    yield


def _frame(filename: str, name: str) -> FrameType:
    """A frame, which is kept for the next error unless its text is long."""
    is_long = len(filename) + len(name) > _MAX_KEPT
    return (_new_frame if is_long else _kept_frame)(filename, name)


def _new_frame(filename: str, name: str) -> FrameType:
    """A frame that looks like one of the function ``name``: a generator's that is never run.

    Such a frame has no caller, so that keeping it keeps nobody else's variables.
    """
    if not (filename.startswith("<") and filename.endswith(">")):
        filename = _REMOTE.format(filename)
    code = _hollow.__code__.replace(co_filename=filename, co_name=name)
    generator: GeneratorType[None, None, None] = FunctionType(code, {"__name__": "remote"})()
    return cast("FrameType", generator.gi_frame)


_kept_frame = lru_cache(maxsize=1024)(_new_frame)
