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
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from taskiq_pg_json.serializer.protocol import Node

VERSION = 1
"""The version of the sidecar."""

PLAIN = "json"
"""The node of a child that is plain JSON while its siblings are not."""

MISSING = "missing"
"""The node of a field that its object has not set."""

NULL = "null"
"""The node inside a wrapping type whose one value is None: a node never applies to JSON null."""


_FEW = 16


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
    typed = {i: node for i, node in enumerate(nodes) if node is not None}
    if not typed:
        return None, {}
    common, most = max(_grouped(typed), key=lambda group: len(group[1]))
    plain = [i for i, node in enumerate(nodes) if node is None and plains[i] is not None]
    if len(plain) > len(most):
        return None, typed
    for index in most:
        del typed[index]
    return common, {**dict.fromkeys(plain, PLAIN), **typed}


def _grouped(nodes: Mapping[int, Node]) -> Collection[tuple[Node, list[int]]]:
    """Each different node, and the indices that have it."""
    if len(nodes) > _FEW:
        groups: dict[object, tuple[Node, list[int]]] = {}
        for index, node in nodes.items():
            text = node if isinstance(node, str) else dumps(node)
            groups.setdefault(text, (node, []))[1].append(index)
        return groups.values()
    # a node and then all those around it would be written out time and again
    found: list[tuple[Node, list[int]]] = []
    for index, node in nodes.items():
        for known, members in found:
            if known == node:
                members.append(index)
                break
        else:
            found.append((node, [index]))
    return found


def by_index(odd: Mapping[int, Node]) -> dict[str, Node]:
    """``fields`` of a list: one entry a node, under the indices that have it."""
    return {_ranges(members): node for node, members in _grouped(odd)}


def of_list(plains: Sequence[object], items: Node | None, odd: Mapping[int, Node]) -> Node | None:
    """The node of one of many lists, given the node of most items of all, and those of its own."""
    nodes = [None if plain is None else odd.get(i, items) for i, plain in enumerate(plains)]
    common, others = merge(plains, [None if node == PLAIN else node for node in nodes])
    return children(common, by_index(others)) or None


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
