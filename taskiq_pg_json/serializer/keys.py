"""Dict keys: jsonb has only text, sorts it by length and bytes, and keeps one of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import orjson

from taskiq_pg_json.serializer import text
from taskiq_pg_json.serializer.jsontext import dumps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskiq_pg_json.serializer.protocol import Encoded, Node

NATURAL: dict[str, object] = {}
"""The layout of keys that jsonb keeps as they are and in their order."""

_TEXT = frozenset({str})


def is_plain(keys: Iterable[object]) -> bool:
    """Whether every key is text that jsonb holds as it is."""
    keys = tuple(keys)
    return _TEXT.issuperset(map(type, keys)) and text.is_clean("".join(cast("tuple[str]", keys)))


def in_stored_order(keys: Sequence[str]) -> bool:
    """Whether jsonb keeps the keys in this order."""
    keys = list(keys)
    if "".join(keys).isascii():
        return keys == sorted(sorted(keys), key=len)
    return keys == sorted(keys, key=_rank)


def _rank(key: str) -> tuple[int, bytes]:
    encoded = key.encode()
    return len(encoded), encoded


def layout(keys: tuple[object, ...], *, preserve_order: bool) -> dict[str, object] | None:
    """What a node says of plain keys: their order, if jsonb has another. None for other keys."""
    if not is_plain(keys):
        return None
    if not preserve_order or in_stored_order(keys):  # type: ignore[arg-type]
        return NATURAL
    return {"order": list(keys)}


def texts(encoded: Sequence[Encoded]) -> tuple[list[str], object]:
    """The text that stands for each key, all different, and the node's ``keys``.

    ``keys`` is one node where all keys are read alike, ``"json"`` where the text is their JSON.
    Otherwise it lists ``[text, plain, node]`` in the dict's order, or the text alone where it is
    the key.
    """
    plains = [plain for plain, _ in encoded]
    names = [_name(plain) for plain in plains]
    nodes = [node for _, node in encoded]
    if len(set(names)) == len(names):
        first = nodes[0]
        if isinstance(first, str) and all(node == first for node in nodes):
            if all(type(plain) is str for plain in plains):
                return names, first
        elif all(node is None and type(plain) is not str for plain, node in encoded):
            return names, "json"
    unique = told_apart(names)
    return unique, [
        name if node is None and plain == name else [name, plain, node]
        for name, (plain, node) in zip(unique, encoded, strict=True)
    ]


def _name(plain: object) -> str:
    return plain if isinstance(plain, str) else dumps(plain).decode()


def told_apart(names: list[str]) -> list[str]:
    """The same names, numbered where they repeat."""
    taken = set(names)
    seen: set[str] = set()
    numbers: dict[str, int] = {}
    unique = []
    for name in names:
        candidate = name
        while candidate in seen or (candidate != name and candidate in taken):
            number = numbers.get(name, 2)
            candidate, numbers[name] = f"{name} ({number})", number + 1
        seen.add(candidate)
        unique.append(candidate)
    return unique


def split(names: Iterable[str], keys: object) -> list[tuple[str, object, Node | None]]:
    """``(text, plain, node)`` of each key.

    Raises:
        ValueError: ``keys`` is none of what :func:`texts` makes.
    """
    if isinstance(keys, list):
        return [
            (key, key, None) if isinstance(key, str) else (key[0], key[1], key[2]) for key in keys
        ]
    if keys == "json":
        return [(name, orjson.loads(name), None) for name in names]
    if isinstance(keys, str):
        return [(name, name, keys) for name in names]
    raise ValueError(f"{keys!r} says nothing of keys")


def in_order(plain: dict[str, object], order: object) -> dict[str, object]:
    """The same dict with its keys in that order; keys it does not name come last."""
    if type(order) is not list or type(plain) is not dict:
        raise TypeError("'order' is no list, or not of an object")
    try:
        ordered = {name: plain[name] for name in order}
    except KeyError:
        ordered = {name: plain[name] for name in order if name in plain}
    if len(ordered) < len(plain):
        ordered.update((name, plain[name]) for name in plain if name not in ordered)
    return ordered


def aligned(
    rows: Iterable[dict[str, object]], template: dict[str, object]
) -> list[dict[str, object]] | None:
    """The rows with their keys in the template's order; None unless all have just its keys."""
    rows = list(rows)
    size = {len(template)}
    if set(map(len, rows)) != size:
        return None
    merged = list(map(template.__or__, rows))
    # as long as the template and as the row: then neither has a key that the other lacks
    return merged if set(map(len, merged)) == size else None


def unhashable(values: Iterable[object]) -> tuple[type, Exception] | None:
    """The class of a value that cannot be hashed, also within tuples, and its error."""
    for value in values:
        try:
            hash(value)
        except Exception as exc:  # noqa: BLE001, PERF203 - of whatever class a row names
            return unhashable(value) if type(value) is tuple else (type(value), exc)
    return None
