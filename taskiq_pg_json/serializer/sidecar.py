"""Reading a row's sidecar; a small one once for all rows that have it, as a task's results do."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, TypeGuard

import orjson

from taskiq_pg_json.serializer import prepared
from taskiq_pg_json.serializer.nodes import VERSION

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.prepared import Read

_SMALL = 1_024
_TEXTS = frozenset({bytes, str})
_REMEMBERED = 1_024


def is_sidecar(types: object) -> TypeGuard[dict[str, object]]:
    """Whether it is one, of this version."""
    return type(types) is dict and types.get("v") == VERSION


def shared(data: bytes) -> dict[str, object] | None:
    """The sidecar of that text, which others have in hand too.

    None for one that is large or damaged, and for one with parts, which decoding changes.
    """
    return _nodes(data) if type(data) is bytes and len(data) <= _SMALL else None


@lru_cache(_REMEMBERED)
def _nodes(data: bytes | str) -> dict[str, object] | None:
    try:
        types = orjson.loads(data)
    except ValueError:
        return None
    return types if is_sidecar(types) and "parts" not in types else None


def readers(data: bytes | str) -> dict[str, Read] | None:
    """The readers of columns; None for a sidecar that is not shared or needs the decoder."""
    return _readers(data) if type(data) in _TEXTS and len(data) <= _SMALL else None


@lru_cache(_REMEMBERED)
def _readers(data: bytes | str) -> dict[str, Read] | None:
    nodes = _nodes(data)
    return None if nodes is None else prepared.readers(nodes)
