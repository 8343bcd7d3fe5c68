"""A fingerprint that the same failure has every time it happens.

It digests the error's type, the function that raised it and the message without what changes from
one occurrence to the next: numbers, ids and quoted parts. Line numbers and paths play no part, so
that a release which moves the code keeps the groups together.
"""

from __future__ import annotations

import re
from hashlib import blake2b

from taskiq_pg_json.serializer.exceptions.printable import full_name, message_of
from taskiq_pg_json.serializer.exceptions.state import children_of, links_of

_MAX_MESSAGE = 2_000
_MAX_CHILDREN = 20
_MAX_DEPTH = 5

_QUOTED = re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`|“[^”\n]*”|«[^»\n]*»)(?!\w)""")
_HEX_ID = re.compile(
    r"""\b(?:0x[0-9a-f]+
      | [0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}
      | (?=[a-f]*[0-9])[0-9a-f]{8,})\b""",
    re.IGNORECASE | re.VERBOSE,
)
_GROUP_SIZE = re.compile(r" \(\d+ sub-exceptions?\)$")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,:]\d+)*")


def fingerprint(exc: BaseException, message: str) -> str:
    """16 hexadecimal digits for ``exc``, whose text is ``message``."""
    return _digest(exc, message, 0)


def generic_message(message: str) -> str:
    """``message`` without its quoted parts, ids, numbers and a group's size."""
    message = _QUOTED.sub("''", _GROUP_SIZE.sub("", message)[:_MAX_MESSAGE])
    message = _HEX_ID.sub("#", message)
    return " ".join(_NUMBER.sub("#", message).split())


def _digest(exc: BaseException, message: str, depth: int) -> str:
    parts = [full_name(type(exc)), _raised_in(exc), generic_message(message)]
    if depth < _MAX_DEPTH:
        # The message of a group says next to nothing: its members make it one failure or another.
        parts += sorted(
            {
                _digest(child, message_of(child), depth + 1)
                for child in children_of(exc)[:_MAX_CHILDREN]
            }
        )
    return blake2b("\n".join(parts).encode("utf-8", "replace"), digest_size=8).hexdigest()


def _raised_in(exc: BaseException) -> str:
    """Module and function of the innermost frame."""
    _, _, tb, _ = links_of(exc)
    if tb is None:
        return ""
    while tb.tb_next is not None:
        tb = tb.tb_next
    frame = tb.tb_frame
    function, _, _source_of_a_remote_frame = frame.f_code.co_name.partition("\n")
    module = frame.f_globals.get("__name__")
    return f"{module if isinstance(module, str) else None}:{function}"
