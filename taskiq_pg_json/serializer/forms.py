"""The form of a value: its keys, and where it holds which types.

Scalars that JSON says all of are of one form, so that values which differ in these alone are alike.
What the sidecar says of a value is a matter of its form: each form has its ``node``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from math import copysign
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID, SafeUUID

from taskiq_pg_json.serializer.encoder import Encoder
from taskiq_pg_json.serializer.text import EXACT_BELOW
from taskiq_pg_json.serializer.times import is_simple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from taskiq_pg_json.serializer.protocol import Node

    Layouts = Mapping[Any, Mapping[str, Any]]

SETTLED = Encoder.settled
MOST = 64
"""Keys of a dict, items of a list."""
MOST_NESTED = 16
"""Likewise, where some of them hold containers again."""
LEVELS = 4
"""Containers inside each other."""
MOST_LEAVES = 128
"""Values of a form, those of a list's items once: a function of a variable for each is made."""


class UnfitError(Exception):
    """The value holds something that no form has, or is too large."""


@dataclass(frozen=True)
class ScalarForm:
    """What JSON says all of."""

    node: ClassVar[None] = None
    leaves: ClassVar[int] = 1


@dataclass(frozen=True)
class LeafForm:
    """A value of a class that the JSON writer takes, and JSON does not have."""

    cls: type
    leaves: ClassVar[int] = 1

    @property
    def node(self) -> Node:
        """The type's name."""
        return LEAVES[self.cls][0]


@dataclass(frozen=True)
class DictForm:
    """A dict of these keys in this order, and what a node says of them."""

    names: tuple[str, ...]
    children: tuple[Form, ...]
    layout: tuple[tuple[str, Any], ...]

    @property
    def node(self) -> Node | None:
        """The order of the keys and the nodes of the values, where there are any."""
        pairs = zip(self.names, self.children, strict=True)
        fields = {name: child.node for name, child in pairs if child.node is not None}
        node = dict(self.layout)
        return {**node, "fields": fields} if fields else node or None

    @property
    def leaves(self) -> int:
        """How many values that are no containers it has."""
        return sum(child.leaves for child in self.children)

    @property
    def is_nested(self) -> bool:
        """Whether it holds containers."""
        return any(isinstance(child, DictForm | ListForm) for child in self.children)


@dataclass(frozen=True)
class ListForm:
    """A list whose items have one form."""

    item: ScalarForm | LeafForm | DictForm

    @property
    def node(self) -> Node | None:
        """The node of the items."""
        return None if self.item.node is None else {"items": self.item.node}

    @property
    def leaves(self) -> int:
        """How many values that are no containers an item has."""
        return self.item.leaves


Form = ScalarForm | LeafForm | DictForm | ListForm
_SCALAR = ScalarForm()


def is_exact(value: object) -> bool:
    """Whether it is a float that jsonb holds as it is."""
    return (
        type(value) is float
        and -EXACT_BELOW < value < EXACT_BELOW
        and (value != 0 or copysign(1.0, value) > 0)
    )


def _is_plain_uuid(value: UUID) -> bool:
    return value.is_safe is SafeUUID.unknown


LEAVES: dict[type, tuple[str, Callable[[Any], bool] | None]] = {
    datetime: ("datetime", is_simple),
    date: ("date", None),
    Decimal: ("Decimal", None),
    UUID: ("UUID", _is_plain_uuid),
}
"""By class: the type's name, and which values the JSON writer takes."""


def form_of(value: Any, layouts: Layouts, levels: int = LEVELS) -> Form:  # noqa: ANN401 - any
    """The form of a value.

    Args:
        value: what has been encoded before.
        layouts: what a node says of keys.
        levels: containers inside each other, at most.

    Raises:
        UnfitError: it has none.
    """
    cls = type(value)
    if cls in SETTLED or is_exact(value):
        return _SCALAR
    if cls in LEAVES:
        return LeafForm(cls)
    if not levels:
        raise UnfitError
    if cls is dict and tuple(value) in layouts:
        children = tuple([form_of(child, layouts, levels - 1) for child in value.values()])
        names = tuple(value)
        layout = tuple((word, tuple(keys)) for word, keys in layouts[names].items())
        form = DictForm(names, children, layout)
        most = MOST_NESTED if form.is_nested else MOST
        if len(value) <= most and form.leaves <= MOST_LEAVES:
            return form
    if cls is list and len(value) <= MOST:
        forms = {form_of(child, layouts, levels - 1) for child in value} or {_SCALAR}
        item = forms.pop()
        if not forms and not isinstance(item, ListForm):
            return ListForm(item)
    raise UnfitError
