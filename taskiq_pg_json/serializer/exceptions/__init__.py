"""Errors as data: an exception and all that hangs on it as JSON, and back.

=====================  =============================================================================
``type`` ``module``    the class: its qualified name and where it lives
``message``            ``str(exc)``
``args`` ``attrs``     its arguments and attributes, slots and C-level state included
``notes``              what ``add_note()`` added
``traceback``          the frames as Python prints them, without those of the cause
``cause`` ``context``  the errors behind it; ``context`` is absent where it is the cause itself,
                       and null where there is a cause and no context
``suppress_context``   where it is not what ``raise … from`` sets
``children``           the members of an exception group
``fingerprint``        groups the same failure; on the outermost error only
``same_as``            stands alone: the error at that JSON path, met once more
``outer``              stands with ``same_as``: the path is one of an error further out, which
                       holds this one in its arguments, attributes or notes; so many errors out
``truncated``          stands with type, module and message alone: more errors than are kept
=====================  =============================================================================

What will not encode is stored as its repr: an error always gets stored.
"""

from __future__ import annotations

from taskiq_pg_json.serializer.exceptions.decoding import decode_exception
from taskiq_pg_json.serializer.exceptions.encoding import (
    describe_exception,
    encode_exception,
    outline_exception,
)
from taskiq_pg_json.serializer.exceptions.printable import INTERRUPTS

__all__ = [
    "INTERRUPTS",
    "decode_exception",
    "describe_exception",
    "encode_exception",
    "outline_exception",
]
