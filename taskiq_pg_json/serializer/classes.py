"""Objects stored by their fields: dataclasses, attrs classes, models, structs, named tuples."""

from __future__ import annotations

import functools
from operator import attrgetter
from typing import TYPE_CHECKING

from taskiq_pg_json.serializer import columns
from taskiq_pg_json.serializer.keys import aligned
from taskiq_pg_json.serializer.kinds import in_slots, inherited, slots_of
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.nodes import MISSING, fields_of
from taskiq_pg_json.serializer.tables import encode_table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Column, Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

State = dict[str, object]
_set = object.__setattr__
_state_of = attrgetter("__dict__")


class FieldsChangedError(Exception):
    """The class needs a field that the row does not have, or cannot take those that it has."""


class Shape:
    """How instances of one class become fields, and fields an instance.

    Attributes:
        cls: the class.
        name: the type's name in the sidecar.
        fields: the names of the declared fields.
    """

    def __init__(self, cls: type, name: str, fields: tuple[str, ...]) -> None:
        self.cls = cls
        self.name = name
        self.fields = fields
        self.base: dict[str, object] = {"type": name}
        self._slots = slots_of(cls)
        self._in_dict = not self._slots and bool(cls.__dictoffset__)
        self._known = frozenset(fields)
        self.template: State = dict.fromkeys(fields)

    def encode(self, encoder: Encoder, value: object) -> Encoded:
        """One instance."""
        state = self.state(value)
        if tuple(state) == self.fields:
            return self._encoded(encoder, state, self.base)
        return self.encode_unusual(encoder, value, state)

    def _encoded(self, encoder: Encoder, state: State, base: dict[str, object]) -> Encoded:
        plain, node = encoder.fields(state)
        if not node and len(base) == 1:
            return plain, self.name
        return plain, {**base, **node}

    def encode_unusual(self, encoder: Encoder, value: object, state: State) -> Encoded:
        """An instance that lacks some of its fields, or has attributes beside them."""
        present = {name: state[name] for name in self.fields if name in state}
        extras = {
            name: state[name] for name in state if name not in self._known and self._is_own(name)
        }
        if encoder.layout(tuple(extras)) is None:
            return encode_unknown(encoder, value)
        base = {**self.base, "keys": list(extras)} if extras else dict(self.base)
        plain, node = self._encoded(encoder, {**present, **extras}, base)
        unset = [name for name in self.fields if name not in state]
        return plain, self.noting_unset(node, unset) if unset else node

    def noting_unset(self, node: Node | None, unset: Collection[str]) -> dict[str, object]:
        """The node as a dict, with a note of what an instance has not set."""
        said: dict[str, object] = dict(node) if isinstance(node, dict) else {"type": self.name}
        if unset:
            said["fields"] = {**fields_of(said), **dict.fromkeys(unset, MISSING)}
        return said

    def _is_own(self, name: str) -> bool:
        """Whether an attribute is the object's own, not a cached property or typing's mark."""
        if name == "__orig_class__":
            return False
        return not isinstance(inherited(self.cls, name), functools.cached_property)

    def encode_column(self, encoder: Encoder, values: Collection[object]) -> Column | None:
        """Many instances, if each has just its fields."""
        try:
            rows = self.states(values)
        except AttributeError:
            return None
        if set(map(tuple, rows)) != {self.fields}:
            return None
        plains, node, odd = encode_table(encoder, self.fields, rows, self.base)
        return plains, node, odd

    def states(self, values: Collection[object]) -> list[State]:
        """The attributes of many instances."""
        if self._in_dict:
            return list(map(_state_of, values))
        return list(map(self.state, values))

    def state(self, value: object) -> State:
        """The attributes of an instance, as they lie in its dict and slots."""
        if self._in_dict:
            return value.__dict__
        state = in_slots(self._slots, value)
        state.update(getattr(value, "__dict__", {}))
        if state.keys() == self._known:
            return {name: state[name] for name in self.fields}
        return state

    def defaults(self) -> dict[str, Callable[[], object]]:
        """What a field holds that the row does not have."""
        return {}

    def new(self) -> object:
        """An empty instance.

        Raises:
            FieldsChangedError: the class has become abstract.
        """
        try:
            return object.__new__(self.cls)
        except TypeError as exc:
            raise FieldsChangedError(f"{self.name} has changed since: {exc}") from exc

    def restore(self, decoder: Decoder, plain: State, node: Node) -> object:
        """An instance with the fields decoded, made without running any code of the class.

        Raises:
            FieldsChangedError: a field is missing and has no default, or no instance can hold
                what the row has.
        """
        state: State = decoder.fields(plain, node)
        if state.keys() == self._known:
            return self.filled(self.new(), self.template | state)
        return self.restore_changed(decoder, state, node)

    def restore_column(
        self, decoder: Decoder, rows: list[State], node: Node
    ) -> list[object] | None:
        """Many instances at once; None when one of them has other fields."""
        if isinstance(node, dict) and "keys" in node:
            return None
        states = aligned(rows, self.template)
        if states is None or not columns.decode_fields(decoder, states, node):
            return None
        new, filled = self.new, self.filled
        return [filled(new(), state) for state in states]

    def restore_changed(self, decoder: Decoder, state: State, node: Node) -> object:
        """An instance of a class whose fields are others than those of the row."""
        own = self.renamed(decoder, state)
        extras = _named(node, "keys")
        unset = unset_of(node)
        kept = {n: v for n, v in own.items() if n in self._known or n in extras}
        lacking = [n for n in self.fields if n not in kept and n not in unset]
        if lacking:
            kept.update(self.default_values(lacking, kept))
        return self.filled(self.new(), kept)

    def renamed(self, decoder: Decoder, state: State) -> State:
        """The row's fields under their new names, unless it has those too."""
        entry = decoder.registry.of_class(self.cls)
        if entry is None or not entry.old_fields:
            return state
        new_names = {
            old: new
            for old, new in entry.old_fields.items()
            if old not in self._known and new not in state
        }
        return {new_names.get(name, name): value for name, value in state.items()}

    def default_values(self, names: list[str], present: State) -> State:  # noqa: ARG002 - attrs'
        """The defaults of fields that a row does not have; ``present`` are those that it has."""
        defaults = self.defaults()
        without = [name for name in names if name not in defaults]
        if without:
            raise FieldsChangedError(
                f"{self.name} has fields that the row lacks, without a default:"
                f" {', '.join(without)}"
            )
        try:
            return {name: defaults[name]() for name in names}
        except Exception as exc:
            raise self.failed(exc) from exc

    def failed(self, exc: Exception) -> FieldsChangedError:
        """What an error of the changed class's own code leads to."""
        return FieldsChangedError(
            f"{self.name} has changed since, and says: {type(exc).__name__}: {exc}"
        )

    def filled(self, made: object, state: State) -> object:
        """The instance with these attributes."""
        if self._in_dict:
            _set(made, "__dict__", state)
            return made
        rest = {}
        for name, value in state.items():
            slot = self._slots.get(name)
            if slot is None:
                rest[name] = value
            else:
                slot.__set__(made, value)
        if rest:
            self.add_attributes(made, rest)
        return made

    def add_attributes(self, made: object, state: State) -> None:
        """Give an instance attributes beside its fields.

        Raises:
            FieldsChangedError: its class leaves no room for them.
        """
        try:
            own: State = object.__getattribute__(made, "__dict__")
        except AttributeError as exc:
            raise FieldsChangedError(
                f"{self.name} has slots alone by now, and none for: {', '.join(state)}"
            ) from exc
        own.update(state)


def _named(node: Node, part: str) -> list[str]:
    found = node.get(part) if isinstance(node, dict) else None
    return found if isinstance(found, list) else []


def unset_of(node: Node) -> set[str]:
    """What an instance had not set."""
    fields = fields_of(node) if isinstance(node, dict) else {}
    return {name for name, child in fields.items() if child == MISSING}
