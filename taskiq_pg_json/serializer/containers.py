"""Containers beside dict and list, and subclasses of builtins: both directions."""

from __future__ import annotations

import builtins
import re
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any, cast

from taskiq_pg_json.serializer.kinds import PAYLOADS, in_slots, slots_of
from taskiq_pg_json.serializer.leaves import can_be_pickled, encode_unknown
from taskiq_pg_json.serializer.nodes import with_type, wrap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from taskiq_pg_json.serializer.decoder import Decoder
    from taskiq_pg_json.serializer.encoder import Encoder
    from taskiq_pg_json.serializer.protocol import Encoded, Node

    Handler = Callable[[Encoder, Any], Encoded]
    Reader = Callable[[Decoder, Any, str, "Node"], object]

_FILLS: dict[type, Callable[[Any, Any], None]] = {
    list: list.extend,
    dict: dict.update,
    set: set.update,
}
_FACTORIES = {
    name: factory for name, factory in vars(builtins).items() if isinstance(factory, type)
}
_RECORDS: dict[str, tuple[type, tuple[str, ...]]] = {
    "range": (range, ("start", "stop", "step")),
    "slice": (slice, ("start", "stop", "step")),
    "Pattern": (re.Pattern, ("pattern", "flags")),
}


def _as_list(name: str) -> Handler:
    def handler(encoder: Encoder, value: Collection[object]) -> Encoded:
        plain, node = encoder.encode_list(value)
        # a new list, should nothing have been rewritten: JSON has no sets
        return (list(value) if plain is value else plain), with_type(node, name)

    return handler


def _encode_deque(encoder: Encoder, value: deque[object]) -> Encoded:
    plain, node = encoder.encode_list(list(value))
    return plain, with_type(node, "deque" if value.maxlen is None else f"deque:{value.maxlen}")


def _encode_counter(encoder: Encoder, value: Counter[object]) -> Encoded:
    if value.__dict__:
        return encode_unknown(encoder, value)
    plain, node = encoder.encode_dict(dict(value))
    return plain, with_type(node, "Counter")


def _encode_ordered(encoder: Encoder, value: OrderedDict[object, object]) -> Encoded:
    if value.__dict__:
        return encode_unknown(encoder, value)
    plain, node = encoder.encode_dict(dict(value))
    node = with_type(node, "OrderedDict")
    if not encoder.plan.preserve_order and isinstance(plain, dict) and len(plain) > 1:
        node = {**({"type": node} if isinstance(node, str) else node), "order": list(plain)}
    return plain, node


def _encode_defaultdict(encoder: Encoder, value: defaultdict[object, object]) -> Encoded:
    factory: object = value.default_factory
    name = "defaultdict"
    if factory is not None:
        if isinstance(factory, type) and _FACTORIES.get(factory.__name__) is factory:
            name += f":{factory.__name__}"
        elif can_be_pickled(encoder, factory):
            return encode_unknown(encoder, value)
        else:
            encoder.warn_of_loss(value, "its default_factory, which cannot be pickled")
    plain, node = encoder.encode_dict(dict(value))
    return plain, with_type(node, name)


def _encode_proxy(encoder: Encoder, value: types.MappingProxyType[object, object]) -> Encoded:
    plain, node = encoder.encode(value.copy())
    return plain, wrap("mappingproxy", plain, node)[1]


def _encode_namespace(encoder: Encoder, value: types.SimpleNamespace) -> Encoded:
    plain, node = encoder.encode_dict(cast("dict[object, object]", vars(value)))
    return plain, with_type(node, "SimpleNamespace")


def _as_record(name: str) -> Handler:
    names = _RECORDS[name][1]

    def handler(encoder: Encoder, value: object) -> Encoded:
        plain, node = encoder.fields({n: getattr(value, n) for n in names})
        return plain, with_type(node or None, name)

    return handler


HANDLERS: dict[type, Handler] = {
    tuple: _as_list("tuple"),
    set: _as_list("set"),
    frozenset: _as_list("frozenset"),
    deque: _encode_deque,
    Counter: _encode_counter,
    OrderedDict: _encode_ordered,
    defaultdict: _encode_defaultdict,
    types.MappingProxyType: _encode_proxy,
    types.SimpleNamespace: _encode_namespace,
    **{cls: _as_record(name) for name, (cls, _) in _RECORDS.items()},
}


def payload_handler(cls: type, kind: str, name: str) -> Handler:
    """Encode instances of a builtin's subclass: the builtin's value under the class's name.

    One with attributes, in its dict or in slots, is pickled.
    """
    base, slots = PAYLOADS[kind], slots_of(cls)

    def handler(encoder: Encoder, value: object) -> Encoded:
        if getattr(value, "__dict__", None) or (slots and in_slots(slots, value)):
            return encode_unknown(encoder, value)
        plain, node = encoder.encode(_payload(base, value))
        return wrap(name, plain, node)

    return handler


def _payload(base: type, value: Any) -> object:  # noqa: ANN401 - of any builtin's subclass
    """The builtin's value, read past whatever the subclass overrides."""
    if base is int:
        return int.__index__(value)
    if base is float:
        return float.__float__(value)
    if base is str:
        return str.__str__(value)
    if base is bytes:
        return bytes.__getitem__(value, slice(None))
    if base is dict:
        return dict(dict.items(value))
    iterate: Any = base
    return base(iterate.__iter__(value))


def restore_payload(cls: type, kind: str, value: Any) -> object:  # noqa: ANN401 - as above
    """An instance of a builtin's subclass, made past its constructor."""
    base: Any = PAYLOADS[kind]
    if type(value) is not base:
        raise TypeError(f"expected {kind}, found {type(value).__name__}")
    fill = _FILLS.get(base)
    if fill is None:
        return base.__new__(cls, value)
    make: Any = base.__new__
    made: object = make(cls)
    fill(made, value)
    return made


def _sequence(make: Callable[[list[object]], object]) -> Reader:
    def reader(decoder: Decoder, plain: list[object], _argument: str, node: Node) -> object:
        return make(decoder.items(plain, node))

    return reader


def _read_deque(decoder: Decoder, plain: list[object], argument: str, node: Node) -> object:
    return deque(decoder.items(plain, node), int(argument) if argument else None)


def _mapping(make: Callable[[dict[object, object]], object]) -> Reader:
    def reader(decoder: Decoder, plain: dict[str, object], _argument: str, node: Node) -> object:
        return make(decoder.mapping(plain, node))

    return reader


def _make_counter(counts: dict[object, object]) -> object:
    counter: Counter[object] = Counter()
    for key, count in counts.items():
        dict.__setitem__(counter, key, cast("int", count))
    return counter


def _read_defaultdict(
    decoder: Decoder, plain: dict[str, object], argument: str, node: Node
) -> object:
    factory = _FACTORIES[argument] if argument else None
    return defaultdict(factory, decoder.mapping(plain, node))


def _read_proxy(decoder: Decoder, plain: object, _argument: str, node: Node) -> object:
    inner = decoder.inner(plain, node)
    return types.MappingProxyType(inner)


def _read_namespace(
    decoder: Decoder, plain: dict[str, object], _argument: str, node: Node
) -> object:
    namespace = types.SimpleNamespace()
    vars(namespace).update(decoder.mapping(plain, node))
    return namespace


def _read_record(name: str) -> Reader:
    names = _RECORDS[name][1]
    make = _MAKERS[name]

    def reader(decoder: Decoder, plain: dict[str, object], _argument: str, node: Node) -> object:
        fields = decoder.mapping(plain, node)
        return make(*[fields[n] for n in names])

    return reader


def _made_range(start: object, stop: object, step: object) -> range:
    if type(start) is int and type(stop) is int and type(step) is int:
        return range(start, stop, step)
    raise TypeError("a range is of three ints")


def _compiled(pattern: object, flags: object) -> object:
    cls = type(pattern)
    base = str if issubclass(cls, str) else bytes if issubclass(cls, bytes) else None
    if base is None:
        raise TypeError(f"expected a pattern, found {cls.__name__}")
    # of text of another class the text alone: re would call what that class overrides
    text: Any = pattern if cls is base else _payload(base, pattern)
    if type(flags) is not int:
        raise TypeError(f"expected flags, found {type(flags).__name__}")
    # DEBUG prints the pattern, each time that it is compiled
    return re.compile(text, flags & ~re.DEBUG)


_MAKERS: dict[str, Callable[..., object]] = {
    "range": _made_range,
    "slice": slice,
    "Pattern": _compiled,
}


READERS: dict[str, Reader] = {
    "dict": lambda decoder, plain, _argument, node: decoder.mapping(plain, node),
    "list": lambda decoder, plain, _argument, node: decoder.items(plain, node),
    "tuple": _sequence(tuple),
    "set": lambda decoder, plain, _argument, node: decoder.unordered(set, plain, node),
    "frozenset": lambda decoder, plain, _argument, node: decoder.unordered(frozenset, plain, node),
    "deque": _read_deque,
    "Counter": _mapping(_make_counter),
    "OrderedDict": _mapping(OrderedDict),
    "defaultdict": _read_defaultdict,
    "mappingproxy": _read_proxy,
    "SimpleNamespace": _read_namespace,
    **{name: _read_record(name) for name in _RECORDS},
}
