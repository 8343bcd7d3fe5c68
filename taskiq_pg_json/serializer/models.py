"""pydantic models: stored by field name, whatever their aliases and serializers say."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from pydantic import AliasChoices, BaseModel, RootModel
from pydantic_core import PydanticUndefined

from taskiq_pg_json.serializer import columns
from taskiq_pg_json.serializer.classes import Shape, State, unset_of
from taskiq_pg_json.serializer.keys import aligned, in_order, is_plain
from taskiq_pg_json.serializer.kinds import attributes, in_slots, slots_of
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.nodes import wrap
from taskiq_pg_json.serializer.tables import encode_table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Column, Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

_set = object.__setattr__
_extra_of = attrgetter("__pydantic_extra__")
_private_of = attrgetter("__pydantic_private__")
_fields_set_of = attrgetter("__pydantic_fields_set__")


class ModelShape(Shape):
    """A pydantic model.

    ``keys`` of its node are ``model_fields_set``, where that is not every field of the row.
    Extra values, private attributes and slots stand beside the fields. A model in which the
    names of these meet, or where ``model_fields_set`` holds what no name is, is pickled.
    """

    def __init__(self, cls: type[BaseModel], name: str) -> None:
        super().__init__(cls, name, tuple(cls.model_fields))
        self._slots = {}
        self._model = cls
        self._own_slots = {
            slot: found
            for slot, found in slots_of(cls).items()
            if slot not in attributes(BaseModel)
        }
        self._private = frozenset(cls.__private_attributes__)
        self._beside = self._private | self._own_slots.keys()
        self._defaulted = frozenset(
            private
            for private, attribute in cls.__private_attributes__.items()
            if attribute.default is not PydanticUndefined or attribute.default_factory is not None
        )
        self._has_more = bool(self._defaulted or self._own_slots)
        self._allows_extra = cls.model_config.get("extra") == "allow"

    def encode(self, encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a BaseModel
        """One model."""
        state = value.__dict__
        if (
            not value.__pydantic_extra__
            and not value.__pydantic_private__
            and not self._has_more
            and value.__pydantic_fields_set__ == self._known
            and tuple(state) == self.fields
        ):
            return self._encoded(encoder, state, self.base)
        return self.encode_unusual(encoder, value, state)

    def encode_unusual(self, encoder: Encoder, value: Any, state: State) -> Encoded:  # noqa: ANN401
        """A model with extra or private values, or with fields that were left to default."""
        own = {name: state[name] for name in state if name in self._known or self._is_own(name)}
        extra, slots = value.__pydantic_extra__ or {}, in_slots(self._own_slots, value)
        beside = {**(value.__pydantic_private__ or {}), **slots}
        given = value.__pydantic_fields_set__
        layout = encoder.layout(tuple(extra))
        if layout is None or not is_plain(given) or not self._are_apart(own, extra, beside):
            if slots:
                raise encoder.refusal(value, "it has to be pickled, and that would lose its slots")
            return encode_unknown(encoder, value)
        present = {name: own[name] for name in self.fields if name in own}
        plain, node = self._encoded(encoder, {**present, **extra, **beside}, self.base)
        unset = [name for name in self.fields if name not in own]
        unset += sorted(self._defaulted - beside.keys())
        said = {**self.noting_unset(node, unset), **layout}
        if given != present.keys() | extra.keys():
            said["keys"] = sorted(given)
        return plain, said

    def _are_apart(self, own: State, extra: State, beside: State) -> bool:
        """Whether a name alone tells which of the three a value belongs to."""
        reserved = self._known | self._beside
        return (
            own.keys() <= self._known
            and beside.keys() <= self._beside
            and not extra.keys() & reserved
        )

    def encode_column(self, encoder: Encoder, values: Collection[object]) -> Column | None:
        """Many models, in groups that had the same fields set."""
        if self._has_more or any(map(_extra_of, values)) or any(map(_private_of, values)):
            return None
        rows = self.states(values)
        if set(map(tuple, rows)) != {self.fields}:
            return None
        given = list(map(_fields_set_of, values))
        if all(names == self._known for names in given):
            return encode_table(encoder, self.fields, rows, self.base)
        groups: dict[frozenset[str], list[int]] = {}
        for index, names in enumerate(given):
            groups.setdefault(frozenset(names), []).append(index)
        if len(groups) == 1 and given[0] <= self._known:
            return encode_table(encoder, self.fields, rows, {**self.base, "keys": sorted(given[0])})
        if len(groups) == 1 or len(groups) * 4 > len(rows):
            return None
        return encoder.in_groups(list(values), groups.values())

    def restore(self, decoder: Decoder, plain: State, node: Node) -> object:
        """A model with the fields decoded; no validator runs while its fields are the row's."""
        state: State = decoder.fields(plain, node)
        given = node.get("keys") if isinstance(node, dict) else None
        if given is None and state.keys() == self._known and not self._private:
            return self.made(self.template | state, set(self._known))
        state = dict(self.renamed(decoder, state))
        beside = {name: state.pop(name) for name in self._beside & state.keys()}
        unset = unset_of(node)
        beside.update(self._private_defaults(self._private - beside.keys() - unset))
        extra = {name: state[name] for name in state if name not in self._known}
        if isinstance(node, dict) and "order" in node:
            extra = in_order(extra, node["order"])
        fields = {name: state[name] for name in self.fields if name in state}
        names = set(given) if isinstance(given, list) else {*fields, *extra}
        if self._known - fields.keys() - unset or (extra and not self._allows_extra):
            return self.validated(fields, extra, beside, names)
        return self.made(fields, names, extra, beside)

    def restore_column(
        self, decoder: Decoder, rows: list[State], node: Node
    ) -> list[object] | None:
        """Many models at once; None when one of them has other fields, extra or private ones."""
        if self._private or self._allows_extra:
            return None
        states = aligned(rows, self.template)
        if states is None or not columns.decode_fields(decoder, states, node):
            return None
        given = node.get("keys") if isinstance(node, dict) else None
        names = set(given) if isinstance(given, list) else set(self._known)
        return [self.made(state, set(names)) for state in states]

    def made(
        self,
        fields: State,
        given: set[str],
        extra: State | None = None,
        beside: State | None = None,
    ) -> object:
        """A model of these parts."""
        model = self.new()
        _set(model, "__dict__", fields)
        _set(model, "__pydantic_fields_set__", given)
        _set(model, "__pydantic_extra__", (extra or {}) if self._allows_extra else None)
        _set(model, "__pydantic_private__", {} if self._private else None)
        if beside:
            self._add_beside(model, beside)
        return model

    def _add_beside(self, model: Any, beside: State) -> None:  # noqa: ANN401 - a BaseModel
        """Set private attributes and slots."""
        for name, value in beside.items():
            slot = self._own_slots.get(name)
            if slot is None:
                model.__pydantic_private__[name] = value
            else:
                slot.__set__(model, value)

    def validated(self, fields: State, extra: State, beside: State, given: set[str]) -> object:
        """A model of a class that has changed since, made by its own validation."""
        data: dict[object, object] = {}
        validator = self._model.__pydantic_validator__
        try:
            for name, value in fields.items():
                self._put(data, name, value)
            # as BaseModel.__init__ does, past an __init__ that the model may have of its own
            model = validator.validate_python(data, self_instance=self.new())
        except Exception as exc:
            raise self.failed(exc) from exc
        if self._allows_extra:
            # not by validation, where one may have the name of an alias
            model.__pydantic_extra__.update(extra)
        _set(model, "__pydantic_fields_set__", given & {*self._known, *extra})
        self._add_beside(model, beside)
        return model

    def _private_defaults(self, names: Collection[str]) -> State:
        """The defaults of private attributes, as far as they have one."""
        attributes = self._model.__private_attributes__
        try:
            defaults = {name: attributes[name].get_default() for name in names}
        except Exception as exc:
            raise self.failed(exc) from exc
        return {name: value for name, value in defaults.items() if value is not PydanticUndefined}

    def _put(self, data: dict[object, object], name: str, value: object) -> None:
        """Give validation a field where it looks for it."""
        *above, last = self._input_path(name)
        for step in above:
            # an index too: it is looked up in a dict as in a list
            data = cast("dict[object, object]", data.setdefault(step, {}))
        data[last] = value

    def _input_path(self, name: str) -> Sequence[str | int]:
        """The keys under which validation takes a field."""
        config, field = self._model.model_config, self._model.model_fields[name]
        alias = field.validation_alias
        if alias is None or config.get("populate_by_name") or config.get("validate_by_name"):
            return [name]
        if isinstance(alias, AliasChoices):
            alias = alias.choices[0]
        return [alias] if isinstance(alias, str) else alias.path


class RootShape(ModelShape):
    """A RootModel: its one value stands in its place."""

    def encode(self, encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a RootModel
        """The root."""
        encoder.enter()
        plain, node = wrap(self.name, *encoder.encode(value.__dict__["root"]))
        encoder.leave()
        if value.__pydantic_fields_set__ != self._known:
            node = {**({"type": node} if isinstance(node, str) else node), "keys": []}
        return plain, node

    def encode_column(self, *_: object) -> None:
        """One by one."""

    def restore_column(self, *_: object) -> None:
        """One by one."""

    def restore(self, decoder: Decoder, plain: Any, node: Node) -> object:  # noqa: ANN401
        """A model around the root."""
        given = set() if isinstance(node, dict) and "keys" in node else set(self._known)
        return self.made({"root": decoder.inner(plain, node)}, given)


def model_shape(cls: type[BaseModel], name: str) -> ModelShape:
    """The shape of a model."""
    return (RootShape if issubclass(cls, RootModel) else ModelShape)(cls, name)
