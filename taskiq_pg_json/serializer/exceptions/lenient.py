"""Encoding that never fails: what will not encode is stored as its repr."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, cast

from taskiq_pg_json.serializer.encoder import OptimismFailedError
from taskiq_pg_json.serializer.exceptions.printable import INTERRUPTS, printable, short_repr
from taskiq_pg_json.serializer.keys import told_apart
from taskiq_pg_json.serializer.nodes import children

if TYPE_CHECKING:
    from taskiq_pg_json.serializer.protocol import Encoded, EncodeValue, Node

_MAX_DEPTH = 3
_MAX_SIZE = 100


def encode_or_describe(
    value: object, path: str, encode_value: EncodeValue, depth: int = 0
) -> Encoded:
    """``value`` encoded, those of its parts that do not encode replaced by their reprs.

    Raises:
        OptimismFailedError: the whole row is to be encoded once more.
    """
    try:
        return encode_value(value, path)
    except (OptimismFailedError, *INTERRUPTS):
        raise
    except BaseException:  # noqa: BLE001 - whatever the reason, the rest of the error is stored
        # Not isinstance(): it would ask an odd object for its __class__.
        if issubclass(type(value), (dict, list)):
            parts = cast("dict[object, object] | list[object]", value)
            if depth == 0 or _is_small(parts, depth):
                return _in_parts(parts, path, encode_value, depth + 1)
        return short_repr(value), None


def _is_small(value: dict[object, object] | list[object], depth: int) -> bool:
    return depth < _MAX_DEPTH and len(value) <= _MAX_SIZE


def _in_parts(
    value: dict[object, object] | list[object], path: str, encode_value: EncodeValue, depth: int
) -> Encoded:
    """Each child on its own, those of a large container after the first hundred left out."""
    fields: dict[str, Node] = {}
    if isinstance(value, list):
        plains: list[object] = []
        for index, item in enumerate(islice(list.__iter__(value), _MAX_SIZE)):
            plain, node = encode_or_describe(item, f"{path}[{index}]", encode_value, depth)
            plains.append(plain)
            if node is not None:
                fields[str(index)] = node
        return plains, children(None, fields) or None
    named: dict[str, object] = {}
    some = list(islice(dict.items(value), _MAX_SIZE))
    names = told_apart([_name_of(key) for key, _ in some])
    for name, (_, item) in zip(names, some, strict=True):
        named[name], node = encode_or_describe(item, f"{path}.{name}", encode_value, depth)
        if node is not None:
            fields[name] = node
    return named, children(None, fields) or None


def _name_of(key: object) -> str:
    """The text that stands for a key."""
    if issubclass(type(key), str):
        return printable(str.__str__(cast("str", key)))
    return short_repr(key)
