"""The kinds of class that are stored by their fields, and the shape of each class."""

from __future__ import annotations

import dataclasses
import functools
import sys
from functools import lru_cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

from taskiq_pg_json.serializer.classes import Shape, State
from taskiq_pg_json.serializer.kinds import inherited
from taskiq_pg_json.serializer.leaves import encode_unknown
from taskiq_pg_json.serializer.roots import model_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from taskiq_pg_json.serializer.encoder import Column, Encoder
    from taskiq_pg_json.serializer.protocol import Encoded

_CACHED_HASH = "_attrs_cached_hash"


def _same(value: object) -> object:
    return value


class DataclassShape(Shape):
    """A dataclass."""

    def __init__(self, cls: type, name: str) -> None:
        super().__init__(cls, name, tuple(field.name for field in dataclasses.fields(cls)))

    def defaults(self) -> dict[str, Callable[[], object]]:
        """Defaults and default factories."""
        found: dict[str, Callable[[], object]] = {}
        for field in dataclasses.fields(self.cls):
            if field.default is not dataclasses.MISSING:
                found[field.name] = functools.partial(_same, field.default)
            elif field.default_factory is not dataclasses.MISSING:
                found[field.name] = field.default_factory
        return found


class AttrsShape(Shape):
    """A class made by attrs."""

    def __init__(self, cls: Any, name: str) -> None:  # noqa: ANN401 - made by a library
        super().__init__(cls, name, tuple(field.name for field in cls.__attrs_attrs__))

    def default_values(self, names: list[str], present: State) -> State:
        """What the fields hold, in their order: a factory may ask the instance for those before."""
        attr = sys.modules["attr"]
        asking = {
            field.name: field.default.factory
            for field in cast("Any", self.cls).__attrs_attrs__
            if isinstance(field.default, attr.Factory) and field.default.takes_self
        }
        if not asking.keys() & set(names):
            return super().default_values(names, present)
        found = super().default_values([name for name in names if name not in asking], present)
        made = self.filled(self.new(), dict(present))
        try:
            for name in names:
                if name in asking:
                    found[name] = asking[name](made)
                object.__setattr__(made, name, found[name])
        except Exception as exc:
            raise self.failed(exc) from exc
        return found

    def defaults(self) -> dict[str, Callable[[], object]]:
        """Defaults, and factories that need no instance."""
        attr = sys.modules["attr"]
        found: dict[str, Callable[[], object]] = {}
        for field in cast("Any", self.cls).__attrs_attrs__:
            if isinstance(field.default, attr.Factory):
                if not field.default.takes_self:
                    found[field.name] = field.default.factory
            elif field.default is not attr.NOTHING:
                found[field.name] = functools.partial(_same, field.default)
        return found


class HashingAttrsShape(AttrsShape):
    """A class made by attrs that keeps its hash, which is another in each process."""

    def __init__(self, cls: Any, name: str) -> None:  # noqa: ANN401 - made by a library
        super().__init__(cls, name)
        self._slots.pop(_CACHED_HASH, None)

    def state(self, value: object) -> State:
        """The attributes without the hash."""
        return {name: held for name, held in super().state(value).items() if name != _CACHED_HASH}

    def states(self, values: Collection[object]) -> list[State]:
        """The attributes of many without the hash."""
        return list(map(self.state, values))

    def filled(self, made: object, state: State) -> object:
        """The instance, with its hash to be found anew."""
        state.pop(_CACHED_HASH, None)
        made = super().filled(made, state)
        object.__setattr__(made, _CACHED_HASH, None)
        return made


def attrs_shape(cls: type, name: str) -> AttrsShape:
    """The shape of a class made by attrs."""
    hashing = inherited(cls, "__hash__")
    caches = isinstance(hashing, FunctionType) and _CACHED_HASH in hashing.__code__.co_names
    return (HashingAttrsShape if caches else AttrsShape)(cls, name)


class StructShape(Shape):
    """A msgspec Struct, whose fields are slots."""

    def __init__(self, cls: Any, name: str) -> None:  # noqa: ANN401 - made by a library
        super().__init__(cls, name, cls.__struct_fields__)

    def new(self) -> object:
        """Nothing: ``filled`` makes the struct."""
        return None

    def filled(self, made: object, state: State) -> object:
        """A new struct; its constructor is msgspec's own, and checks nothing."""
        given = {name: state.pop(name) for name in self.fields if name in state}
        if len(given) == len(self.fields):
            made = self.cls(**given)
        else:
            made = self.cls(**{**self.template, **given})
            for name in self._known - given.keys():
                # which the constructor demands, or sets to the default
                self._slots[name].__delete__(made)
        if state:
            self.add_attributes(made, state)
        return made

    def defaults(self) -> dict[str, Callable[[], object]]:
        """Defaults and default factories."""
        # not msgspec.structs.fields, which compiles the annotations each time
        none, factory = sys.modules["msgspec"].NODEFAULT, sys.modules["msgspec._core"].Factory
        given = cast("Any", self.cls).__struct_defaults__
        names = self.fields[len(self.fields) - len(given) :]
        return {
            name: default.factory
            if isinstance(default, factory)
            else functools.partial(_same, default)
            for name, default in zip(names, given, strict=True)
            if default is not none
        }


class NamedTupleShape(Shape):
    """A named tuple, typed or not."""

    def __init__(self, cls: Any, name: str) -> None:  # noqa: ANN401 - made by a library
        super().__init__(cls, name, cls._fields)

    def encode(self, encoder: Encoder, value: object) -> Encoded:
        """One tuple; pickled where its items are not its fields, as ``platform.uname()``'s."""
        if not self._has_its_fields(value):
            return encode_unknown(encoder, value)
        return super().encode(encoder, value)

    def encode_column(self, encoder: Encoder, values: Collection[object]) -> Column | None:
        """Many tuples, if each has just its fields."""
        if not all(map(self._has_its_fields, values)):
            return None
        return super().encode_column(encoder, values)

    def _has_its_fields(self, value: object) -> bool:
        return tuple.__len__(cast("tuple[object, ...]", value)) == len(self.fields)

    def state(self, value: object) -> State:
        """The fields, and what a subclass without slots carries beside them."""
        state: State = dict(
            zip(self.fields, tuple.__iter__(cast("tuple[object, ...]", value)), strict=True)
        )
        state.update(getattr(value, "__dict__", {}))
        return state

    def states(self, values: Collection[object]) -> list[State]:
        """The fields of many."""
        return list(map(self.state, values))

    def defaults(self) -> dict[str, Callable[[], object]]:
        """Defaults of the class."""
        return {
            name: functools.partial(_same, default)
            for name, default in cast("Any", self.cls)._field_defaults.items()
        }

    def filled(self, made: object, state: State) -> object:
        """A new tuple: it cannot be filled afterwards."""
        made = tuple.__new__(self.cls, [state[name] for name in self.fields])
        extras = {name: value for name, value in state.items() if name not in self._known}
        if extras:
            self.add_attributes(made, extras)
        return made

    def new(self) -> object:
        """Nothing: ``filled`` makes the tuple."""
        return None


SHAPES: dict[str, Callable[[Any, str], Shape]] = {
    "dataclass": DataclassShape,
    "attrs": attrs_shape,
    "struct": StructShape,
    "namedtuple": NamedTupleShape,
    "model": model_shape,
}
"""What makes the shape of a class, by its kind."""


@lru_cache(maxsize=1_024)
def shape_of(cls: type, kind: str, name: str) -> Shape:
    """How instances of a class of that kind become fields and back."""
    return SHAPES[kind](cls, name)
