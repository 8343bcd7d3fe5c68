"""pydantic models: stored by field name, whatever their aliases and serializers say."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from pydantic import AliasChoices, BaseModel
from pydantic_core import PydanticUndefined

from taskiq_pg_json.serializer import columns
from taskiq_pg_json.serializer.classes import FieldsChangedError, Shape, State, unset_of
from taskiq_pg_json.serializer.keys import aligned, in_order, is_plain
from taskiq_pg_json.serializer.kinds import attributes, in_slots, slots_of
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.tables import encode_table

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from collections.abc import Set as AbstractSet

    from pydantic.fields import ModelPrivateAttr

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Column, Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

_set = object.__setattr__
_extra_of = attrgetter("__pydantic_extra__")
_private_of = attrgetter("__pydantic_private__")
_fields_set_of = attrgetter("__pydantic_fields_set__")
_PARTS = frozenset({"__pydantic_private__", "__pydantic_extra__"})


class ModelShape(Shape):
    """A pydantic model.

    ``keys`` of its node are ``model_fields_set``, where that is not every field of the row.
    Extra values, private attributes and slots stand beside the fields. A model in which the
    names of these meet, or where ``model_fields_set`` holds what no name is, is pickled.
    """

    def __init__(self, cls: type[BaseModel], name: str) -> None:
        super().__init__(cls, name, tuple(cls.model_fields))
        self._slots = {}
        self._in_dict = True
        self._model = cls
        self._own_slots = {
            slot: found
            for slot, found in slots_of(cls).items()
            if slot not in attributes(BaseModel)
        }
        self._private = frozenset(cls.__private_attributes__)
        self._beside = (*cls.__private_attributes__, *self._own_slots)
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
                raise encoder.refusal(value, f"its pickle would lose {', '.join(slots)}")
            return encode_unknown(encoder, value)
        present = {name: own[name] for name in self.fields if name in own}
        plain, node = self._encoded(encoder, {**present, **extra, **beside}, self.base)
        unset = [name for name in self.fields if name not in own]
        unset += sorted(self._defaulted - beside.keys())
        said = {**self.noting_unset(node, unset), **layout}
        if given != present.keys() | extra.keys():
            said["keys"] = sorted(given)
        return plain, said

    def _is_own(self, name: str) -> bool:
        # a RootModel has its private attributes in its __dict__
        return name not in _PARTS and super()._is_own(name)

    def _are_apart(self, own: State, extra: State, beside: State) -> bool:
        """Whether a name alone tells which of the three a value belongs to."""
        reserved = set(self._beside)
        return (
            own.keys() <= self._known
            and beside.keys() <= reserved
            and not extra.keys() & (self._known | reserved)
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
        if type(plain) is not dict:
            raise FieldsChangedError(f"{self.name} has changed since: it was a RootModel")
        state: State = decoder.fields(plain, node)
        given = node.get("keys") if isinstance(node, dict) else None
        if given is None and state.keys() == self._known and not self._private:
            return self.made(self.template | state, set(self._known))
        state = dict(self.renamed(decoder, state))
        beside = {name: state.pop(name) for name in self._beside if name in state}
        unset = unset_of(node)
        lacking = self._defaulted - beside.keys() - unset
        if lacking:
            beside.update(self._private_defaults(lacking, state))
        extra = {name: state[name] for name in state if name not in self._known}
        if isinstance(node, dict) and "order" in node:
            extra = in_order(extra, node["order"])
        fields = {name: state[name] for name in self.fields if name in state}
        names = set(given) if isinstance(given, list) else {*fields, *extra}
        if self._known - fields.keys() - unset or (extra and not self._allows_extra):
            decoder.check_hashable()  # validation may make sets of lists
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
        self._add_parts(model, extra)
        if beside:
            self._add_beside(model, beside)
        return model

    def _add_parts(self, model: object, extra: State | None) -> None:
        """Make room for what stands beside the fields."""
        _set(model, "__pydantic_extra__", (extra or {}) if self._allows_extra else None)
        _set(model, "__pydantic_private__", {} if self._private else None)

    def _add_beside(self, model: object, beside: State) -> None:
        """Set private attributes and slots."""
        private = object.__getattribute__(model, "__pydantic_private__")
        for name in self._beside:
            if name not in beside:
                continue
            slot = self._own_slots.get(name)
            if slot is None:
                private[name] = beside[name]
            else:
                slot.__set__(model, beside[name])

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
        kept = {*self._known, *extra} if self._allows_extra else self._known
        _set(model, "__pydantic_fields_set__", given & kept)
        self._add_beside(model, beside)
        return model

    def _private_defaults(self, names: AbstractSet[str], state: State) -> State:
        """The defaults of private attributes that have one, beside this state."""
        found: State = {}
        try:
            for name, attribute in self._model.__private_attributes__.items():
                if name in names:
                    found[name] = _private_default(attribute, {**state, **found})
        except Exception as exc:
            raise self.failed(exc) from exc
        return found

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


def _private_default(attribute: ModelPrivateAttr, data: State) -> object:
    factory: Any = attribute.default_factory
    if factory is None:
        return attribute.get_default()
    # not by get_default(), which calls a factory in some releases of pydantic and not in others
    takes_data = getattr(attribute, "default_factory_takes_validated_data", False)
    return factory(data) if takes_data else factory()
