"""pydantic root models, and which shape a model has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import RootModel

from taskiq_pg_json.serializer.classes import FieldsChangedError, State
from taskiq_pg_json.serializer.jsontext import dumps
from taskiq_pg_json.serializer.kinds import in_slots
from taskiq_pg_json.serializer.models import ModelShape
from taskiq_pg_json.serializer.nodes import wrap

if TYPE_CHECKING:
    from pydantic import BaseModel

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node


class RootShape(ModelShape):
    """A RootModel: its one value stands in its place.

    One with slots, or whose private attributes are not what they are by default, is stored as
    any model; then ``keys`` hold the list of what was set, in a list.
    """

    def encode(self, encoder: Encoder, value: Any) -> Encoded:  # noqa: ANN401 - a RootModel
        """The root."""
        given = value.__pydantic_fields_set__
        if not (given <= self._known and self._is_bare(encoder, value)):
            plain, found = self.encode_unusual(encoder, value, value.__dict__)
            described = cast("dict[str, Node]", found)
            return plain, found if "pickle" in described else {**described, "keys": [sorted(given)]}
        encoder.enter()
        plain, node = wrap(self.name, *encoder.encode(value.__dict__["root"]))
        encoder.leave()
        if not given:
            node = {**({"type": node} if isinstance(node, str) else node), "keys": []}
        return plain, node

    def _is_bare(self, encoder: Encoder, value: Any) -> bool:  # noqa: ANN401 - a RootModel
        """Whether there is nothing to store but the root."""
        own = {name for name in value.__dict__ if self._is_own(name)}
        if own != self._known or in_slots(self._own_slots, value):
            return False
        return not self._private or self._has_defaults(encoder, value)

    def _has_defaults(self, encoder: Encoder, value: Any) -> bool:  # noqa: ANN401 - a RootModel
        """Whether the private attributes are those of a new model, in type and value."""
        private: State = value.__pydantic_private__ or {}
        leaves = len(encoder.leaves)
        try:
            fresh = self._private_defaults(self._defaulted, {"root": value.__dict__["root"]})
        except FieldsChangedError:
            return False
        if private.keys() != fresh.keys():
            return False
        written = [dumps(encoder.encode([state[n] for n in fresh])) for state in (private, fresh)]
        del encoder.leaves[leaves:]
        return written[0] == written[1]

    def encode_column(self, *_: object) -> None:
        """One by one."""

    def restore_column(self, *_: object) -> None:
        """One by one."""

    def restore(self, decoder: Decoder, plain: Any, node: Node) -> object:  # noqa: ANN401
        """A model around the root."""
        given = node.get("keys") if isinstance(node, dict) else None
        if given:
            described: dict[str, object] = {**cast("Any", node), "keys": cast("Any", given)[0]}
            return super().restore(decoder, plain, described)
        root = decoder.inner(plain, node)
        names = set(self._known) if given is None else set()
        fields = {"root": root}
        return self.made(fields, names, None, self._private_defaults(self._defaulted, fields))

    def _add_parts(self, model: object, extra: State | None) -> None:  # noqa: ARG002 - has none
        if self._private:  # in its __dict__
            object.__setattr__(model, "__pydantic_private__", {})


def model_shape(cls: type[BaseModel], name: str) -> ModelShape:
    """The shape of a model."""
    return (RootShape if issubclass(cls, RootModel) else ModelShape)(cls, name)
