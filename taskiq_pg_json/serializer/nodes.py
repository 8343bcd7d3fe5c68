"""Building and reading the nodes of the sidecar.

A node is a type's name, or a dict with some of:

=========  ===========================================================================
``type``   the type's name; absent for a plain dict or list
``items``  the node of every child; of the one value inside, for a type that wraps one
``fields`` nodes of single children, which override ``items``: by key in a dict, by
           index in a list, where indices that share a node share an entry: ``"3,7-12"``
``keys``   how a dict's keys are read; which attributes are beyond a class's fields
``order``  a dict's keys in the order of insertion, where jsonb has another
``pickle`` the number of the leaf in the row's pickled column
=========  ===========================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from taskiq_pg_json.serializer.jsontext import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from taskiq_pg_json.serializer.protocol import Node

PLAIN = "json"
"""The node of a child that is plain JSON while its siblings are not."""

MISSING = "missing"
"""The node of a field that its object has not set."""

NULL = "null"
"""The node inside a wrapping type whose one value is None: a node never applies to JSON null."""


def with_type(node: Node | None, name: str) -> Node:
    """The same node under another type's name."""
    if node is None:
        return name
    return {**node, "type": name} if isinstance(node, dict) else {"type": name, "items": node}


def wrap(name: str, plain: object, node: Node | None) -> tuple[object, Node]:
    """Plain and node of a type that wraps one value."""
    if plain is None:
        return "null", {"type": name, "items": NULL}
    return plain, name if node is None else {"type": name, "items": node}


def children(items: Node | None, fields: Mapping[str, Node]) -> dict[str, object]:
    """The part of a node that speaks of the children."""
    node: dict[str, object] = {}
    if items is not None:
        node["items"] = items
    if fields:
        node["fields"] = fields
    return node


def merge(
    plains: Sequence[object], nodes: Sequence[Node | None]
) -> tuple[Node | None, dict[int, Node]]:
    """The node that most children share, and those of the others by index."""
    groups: dict[object, list[int]] = {}
    for index, node in enumerate(nodes):
        if node is not None:
            groups.setdefault(fingerprint(node), []).append(index)
    if not groups:
        return None, {}
    plain = [i for i, node in enumerate(nodes) if node is None and plains[i] is not None]
    most = max(groups.values(), key=len)
    if len(plain) > len(most):
        return None, {i: node for i, node in enumerate(nodes) if node is not None}
    common = nodes[most[0]]
    shared = set(most)
    odd: dict[int, Node] = dict.fromkeys(plain, PLAIN)
    odd.update((i, node) for i, node in enumerate(nodes) if node is not None and i not in shared)
    return common, odd


def fingerprint(node: Node) -> object:
    """Something hashable that equal nodes share."""
    return node if isinstance(node, str) else dumps(node)


def by_index(odd: Mapping[int, Node]) -> dict[str, Node]:
    """``fields`` of a list: one entry a node, under the indices that have it."""
    groups: dict[object, tuple[Node, list[int]]] = {}
    for index, node in odd.items():
        groups.setdefault(fingerprint(node), (node, []))[1].append(index)
    return {_ranges(indices): node for node, indices in groups.values()}


def _ranges(indices: list[int]) -> str:
    indices.sort()
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def indices(text: str, size: int) -> Iterator[int]:
    """The indices that an entry of a list's ``fields`` names.

    Raises:
        ValueError: it names none, or one that a list of ``size`` does not have.
    """
    for run in text.split(","):
        first, _, last = run.partition("-")
        start, stop = int(first), int(last or first)
        if not 0 <= start <= stop < size:
            raise ValueError(f"no index {run!r} in a list of {size}")
        yield from range(start, stop + 1)


def fields_of(node: dict[str, object]) -> dict[str, Node]:
    """The ``fields`` of a node.

    Raises:
        TypeError: they are something else than an object.
    """
    fields = node.get("fields")
    if fields is None:
        return {}
    if type(fields) is not dict:
        raise TypeError(f"'fields' is {type(fields).__name__}, not an object")
    return cast("dict[str, Node]", fields)
