"""One walk over a value: what JSON holds stays as it is, the rest is rewritten and noted.

The walk is optimistic. It takes text to be free of NUL and surrogates, ints to fit 64 bits, and
nesting to end, because the JSON writer finds out for nothing when they do not; then, and
wherever something has to be refused or warned of, the value is walked again by
:class:`taskiq_pg_json.serializer.careful.CarefulEncoder`, which looks at everything and knows
where it is.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar, cast
from uuid import UUID

import orjson

from taskiq_pg_json.serializer import keys as dict_keys
from taskiq_pg_json.serializer import tables, text
from taskiq_pg_json.serializer.jsontext import dumps
from taskiq_pg_json.serializer.nodes import PLAIN, by_index, children, merge
from taskiq_pg_json.serializer.text import EXACT_BELOW

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from taskiq_pg_json.serializer.exceptions.encoding import OpenErrors
    from taskiq_pg_json.serializer.plan import Plan
    from taskiq_pg_json.serializer.protocol import Encoded, Node

    Column = tuple[Collection[object], Node | None, dict[int, Node]]

MAX_DEPTH = 64
"""Levels of nesting in one piece of JSON: a node takes up to three for each, orjson allows 254."""

_NOTHING_ODD: dict[int, Node] = {}
_NONE = type(None)
_WIDE = 16
_LONG = 1_024


class OptimismFailedError(Exception):
    """The value has to be walked with care."""


class OverBudgetError(OptimismFailedError):
    """The value has, or shares, more containers than were allowed."""


class Encoder:
    """Encodes the values of one row.

    Attributes:
        leaves: the pickled leaves so far.
        depth: levels of nesting that the walk is in.
        open_errors: the exceptions that the walk is in, for their codec.
        budget: containers that may still be visited.
        room: characters of text that the row may still have, as far as they are counted.
    """

    settled: ClassVar[frozenset[type]] = frozenset({str, int, bool, _NONE})
    """The types whose values need no look."""

    def __init__(self, plan: Plan, task_id: str) -> None:
        self.plan = plan
        self.handlers = plan.handlers
        self.layouts = plan.layouts
        self.task_id = task_id
        self.leaves: list[bytes] = []
        self.depth = 0
        self.budget = 0
        self.room = plan.max_bytes
        self.open_errors: OpenErrors = []

    def encode(self, value: object) -> Encoded:
        """Any value."""
        cls = type(value)
        if cls in self.settled:
            return value, None
        return self.handlers[cls](self, value)

    def encode_at(self, value: object, path: str) -> Encoded:  # noqa: ARG002 - for the careful
        """A value inside an exception, which knows where."""
        return self.encode(value)

    def refusal(self, value: object, reason: str) -> Exception:  # noqa: ARG002 - for the careful
        """The error for a value that cannot be stored."""
        return OptimismFailedError()

    def accept_failure(self) -> None:
        """Make sure that what failed inside an exception fails with care too."""
        raise OptimismFailedError

    def prepare_to_warn(self) -> None:
        """Make sure that the path of a value to warn of is known."""
        raise OptimismFailedError

    def warn_of_pickle(self, value: object) -> None:
        """Tell the first time that a type has to be pickled."""

    def warn_of_loss(self, value: object, part: str) -> None:  # noqa: ARG002 - for the careful
        """Tell that a value is stored without a part of it; its path has to be known for that."""
        raise OptimismFailedError

    def enter(self, rows: int = 1) -> None:
        """Go one level down, into so many containers."""
        self.depth += 1
        self.budget -= rows
        if self.depth > MAX_DEPTH:
            raise OptimismFailedError
        if self.budget < 0:
            raise OverBudgetError

    def leave(self) -> None:
        """Come up again."""
        self.depth -= 1

    def layout(self, names: tuple[object, ...]) -> dict[str, object] | None:
        """What a node says of a dict's keys; None when they are not all plain text."""
        found = self.layouts.get(names)
        if found is None:
            found = dict_keys.layout(names, preserve_order=self.plan.preserve_order)
            self.plan.remember_layout(names, found)
        return found

    def encode_dict(self, value: dict[object, object]) -> Encoded:
        """A dict."""
        names = tuple(value)
        layout = self.layouts.get(names)
        if layout is None:
            layout = self.layout(names)
            if layout is None:
                return self.encode_odd_keys(value)
        if self.settled.issuperset(map(type, value.values())):
            if len(names) > _WIDE:
                self.weigh(value.values())
            return value, layout or None
        plain, node = self.fields(cast("dict[str, object]", value))
        if layout:
            return plain, {**node, **layout}
        return plain, node or None

    def fields(self, value: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        """The values of a dict with plain keys, and the part of its node that speaks of them."""
        self.enter()
        found = self.children(value)
        self.leave()
        return found

    def children(self, value: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        """The values of a dict with plain keys, many of them as a column."""
        if len(value) > _WIDE:
            return self._wide(value)
        plain, fields = value, {}
        settled, handlers = self.settled, self.handlers
        for key, child in value.items():
            cls = type(child)
            if cls in settled or (
                cls is float and -EXACT_BELOW < child < EXACT_BELOW and child  # type: ignore[operator]
            ):
                continue
            written, node = handlers[cls](self, child)
            if written is not child:
                if plain is value:
                    plain = dict(value)
                plain[key] = written
            if node is not None:
                fields[key] = node
        return plain, {"fields": fields} if fields else {}

    def _wide(self, value: dict[str, object]) -> tuple[dict[str, object], dict[str, object]]:
        given = list(value.values())
        plains, items, odd = self.column(given)
        names = tuple(value)
        plain = value if plains is given else dict(zip(names, plains, strict=True))
        return plain, children(items, {names[i]: node for i, node in odd.items()})

    def encode_odd_keys(self, value: dict[object, object]) -> Encoded:
        """A dict with keys that are not all plain text."""
        self.enter()
        names, keys = dict_keys.texts([self.encode_key(key) for key in value])
        plain, node = self.fields(dict(zip(names, value.values(), strict=True)))
        node = {**node, "keys": keys}
        if self.plan.preserve_order and isinstance(keys, str):
            layout = dict_keys.layout(tuple(names), preserve_order=True)
            node.update(layout or {})
        self.leave()
        return plain, node

    def encode_key(self, key: object) -> Encoded:
        """One key of a dict."""
        if type(key) is str:
            return text.encode_text(key)
        if type(key) is int:
            return text.encode_int(key)
        plain, node = self.encode(key)
        if isinstance(plain, (UUID, date, Decimal)):
            # which are written as they are
            return orjson.loads(dumps(plain)), node
        return plain, node

    def encode_list(self, value: Collection[object]) -> Encoded:
        """The items of a list, tuple or set, in its order."""
        if self.settled.issuperset(map(type, value)):
            if len(value) > _WIDE:
                self.weigh(value)
            return value, None
        self.enter()
        plains, items, odd = self.column(value)
        self.leave()
        if items is None and not odd:
            return plains, None
        return plains, children(items, by_index(odd))

    def column(self, values: Collection[object]) -> Column:
        """Many values at once: their plains, the node of most, and the nodes of the others.

        The plains are ``values`` itself when nothing had to be rewritten.
        """
        types = set(map(type, values))
        if types <= self.settled:
            self.weigh(values)
            return values, None, _NOTHING_ODD
        if len(types) == 1:
            return self.same_type(types.pop(), values)
        types -= self.settled
        if types == {float} and tables.are_plain([v for v in values if type(v) is float]):
            return values, None, _NOTHING_ODD
        if len(values) <= len(types) * 2:
            return self.one_by_one(values)
        return self._by_type(list(values))

    def weigh(self, values: Iterable[object]) -> None:
        """Count text that starts with a long one: it may be the same a thousand times."""
        first = next(iter(values), None)
        if type(first) is str and len(first) > _LONG:
            self.room -= sum(len(value) for value in values if type(value) is str)

    def same_type(self, cls: type, values: Collection[object]) -> Column:
        """A column of one type, in one go where the type knows how."""
        if cls is float and tables.are_plain(cast("Collection[float]", values)):
            return values, None, _NOTHING_ODD
        together = self.plan.columns.get(cls)
        if together is not None and len(values) > 1:
            found = together(self, values)
            if found is not None:
                return found
        return self.one_by_one(values)

    def one_by_one(self, values: Collection[object]) -> Column:
        """A column of anything."""
        plains: list[object] = []
        nodes: list[Node | None] = []
        changed = False
        for value in values:
            plain, node = self.encode(value)
            changed = changed or plain is not value
            plains.append(plain)
            nodes.append(node)
        items, odd = merge(plains, nodes)
        return plains if changed else values, items, odd

    def _by_type(self, values: list[object]) -> Column:
        """A column of several types, each on its own."""
        groups: dict[object, list[int]] = {}
        settled = self.settled
        for index, value in enumerate(values):
            cls = type(value)
            groups.setdefault(None if cls in settled else cls, []).append(index)
        return self.in_groups(values, groups.values())

    def in_groups(self, values: Sequence[object], groups: Iterable[list[int]]) -> Column:
        """A column whose values are alike within each group of indices."""
        plains = list(values)
        found: list[tuple[list[int], Node | None, dict[int, Node]]] = []
        for group in groups:
            members = [values[i] for i in group]
            written, node, odd = self.column(members)
            if written is not members:
                for index, plain in zip(group, written, strict=True):
                    plains[index] = plain
            found.append((group, node, {group[i]: n for i, n in odd.items()}))
        typed = [(len(group), node) for group, node, _ in found if node is not None]
        plain = sum(len(group) for group, node, _ in found if node is None)
        most, items = max(typed, key=itemgetter(0), default=(0, None))
        if plain > most:
            items = None
        others: dict[int, Node] = {}
        for group, node, single in found:
            if node != items:
                others.update((i, node or PLAIN) for i in group if plains[i] is not None)
            others.update(single)
        return plains, items, others
