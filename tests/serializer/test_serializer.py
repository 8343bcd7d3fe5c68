from __future__ import annotations

import asyncio
import copy
import copyreg
import dataclasses
import datetime as dt
import functools
import gc
import platform
import re
import subprocess
import sys
import threading
import warnings
from collections import Counter, OrderedDict, defaultdict
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import orjson
import pydantic
import pytest
import samples
from psycopg import sql
from sameness import same

from taskiq_pg_json.errors import (
    ConfigurationError,
    RemoteError,
    ResultDecodeError,
    ResultEncodeError,
)
from taskiq_pg_json.serializer import (
    IncompleteValueWarning,
    JsonSerializer,
    PickledValueWarning,
    TypeRegistry,
    UnresolvedTypeWarning,
    writing,
)
from taskiq_pg_json.serializer.protocol import EncodedRow

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.timezone.utc)


def encoded(value, serializer=None):
    return (serializer or JsonSerializer()).encode({"return_value": value}, task_id="t")


def back(value, jsonb_roundtrip, serializer=None):
    serializer = serializer or JsonSerializer()
    row = jsonb_roundtrip(encoded(value, serializer))
    serializer.decode(row, task_id="t")  # which must leave alone what other rows share
    return serializer.decode(row, task_id="t")["return_value"]


def types_of(row):
    return None if row.types is None else orjson.loads(row.types)["return_value"]


def money(registry=None):
    registry = registry or TypeRegistry()
    registry.register(
        samples.Money,
        name="money",
        encode=lambda value: {"amount": value.amount, "currency": value.currency},
        decode=lambda stored: samples.Money(stored["amount"], stored["currency"]),
    )
    return JsonSerializer(registry, fallback=None)


def test_plain_json_has_no_sidecar():
    assert encoded({"id": 1, "ok": True, "name": "Ada", "items": [1, 2.5, None]}).types is None


def test_keys_in_another_order_than_jsonb_s_are_noted_once_for_all_rows():
    rows = [{"name": "Ada", "id": i} for i in range(100)]
    assert types_of(encoded(rows)) == {"items": {"order": ["name", "id"]}}


def test_only_the_columns_asked_for_are_decoded():
    serializer = JsonSerializer()
    row = serializer.encode({"return_value": NOON, "args": [NOON]}, task_id="t")
    part = type(row)({"args": row.columns["args"]}, row.types, row.pickled)
    assert serializer.decode(part, task_id="t") == {"args": [NOON]}


def test_ten_thousand_rows_with_dates_and_decimals_have_a_sidecar_under_200_bytes():
    rows = [{"id": i, "at": NOON, "price": Decimal(i)} for i in range(10_000)]
    assert len(encoded(rows).types) < 200


@pytest.mark.parametrize("optional", [None, "note"])
def test_ten_thousand_objects_have_a_sidecar_under_300_bytes(optional):
    rows = [samples.Invoice(NOON, Decimal(i), optional if i % 2 else None) for i in range(10_000)]
    assert len(encoded(rows).types) < 300


def test_a_subclass_in_one_row_of_a_hundred_costs_little(jsonb_roundtrip):
    rows = [
        (samples.PaidInvoice if i % 100 == 0 else samples.Invoice)(NOON, Decimal(i))
        for i in range(2_000)
    ]
    row = encoded(rows)
    assert len(row.types) < len(row.columns["return_value"]) * 0.05
    assert same(back(rows, jsonb_roundtrip), rows)


def test_without_preserve_order_a_dict_needs_no_sidecar_and_an_ordered_dict_keeps_its_order(
    jsonb_roundtrip,
):
    serializer = JsonSerializer(preserve_order=False)
    assert encoded({"b": 1, "a": 2}, serializer).types is None
    ordered = OrderedDict(b=1, a=2)
    assert same(back(ordered, jsonb_roundtrip, serializer), ordered)


def test_a_registered_codec_stores_json_that_a_person_can_query(jsonb_roundtrip):
    serializer = money()
    value = {"price": samples.Money("9.90", "EUR")}
    row = encoded(value, serializer)
    assert row.columns["return_value"] == b'{"price":{"amount":"9.90","currency":"EUR"}}'
    assert row.pickled is None
    assert back(value, jsonb_roundtrip, serializer) == value


@pytest.mark.parametrize(
    "value",
    [
        samples.Name("q"),
        samples.Count(3),
        samples.Metres(1.5),
        samples.Metres("-inf"),
        samples.Ids([1, (2,)]),
        samples.Settings(b=1, a=2),
        samples.Unique([1]),
    ],
    ids=repr,
)
def test_a_subclass_of_a_builtin_comes_back_under_a_short_name(value, jsonb_roundtrip):
    registry = TypeRegistry()
    registry.register(type(value), name="short")
    given = [value, {"a": value}]
    assert same(back(given, jsonb_roundtrip, JsonSerializer(registry)), given)


def test_a_short_name_that_is_not_known_leaves_plain_json(jsonb_roundtrip):
    registry = TypeRegistry()
    registry.register(samples.Metres, name="metres")
    row = jsonb_roundtrip(encoded(samples.Metres(1.5), JsonSerializer(registry)))
    with pytest.warns(UnresolvedTypeWarning, match="float:metres"):
        assert JsonSerializer().decode(row, task_id="t") == {"return_value": 1.5}


def test_a_class_registered_late_is_encoded_by_its_codec():
    registry = TypeRegistry()
    serializer = JsonSerializer(registry, fallback=None)
    with pytest.raises(ResultEncodeError):
        encoded(samples.Money(1, "EUR"), serializer)
    money(registry)
    assert types_of(encoded(samples.Money(1, "EUR"), serializer))["type"] == "custom:money"


def test_a_class_inside_a_function_is_refused_unless_it_is_registered(jsonb_roundtrip):
    @dataclasses.dataclass
    class Local:
        number: int

    class LocalError(Exception):
        pass

    with pytest.raises(ResultEncodeError, match="Local"):
        encoded(Local(1))
    registry = TypeRegistry()
    registry.register(Local)
    assert back(Local(1), jsonb_roundtrip, JsonSerializer(registry)) == Local(1)
    error = back(LocalError("x"), jsonb_roundtrip)
    assert (type(error).__name__, str(error)) == ("LocalError", "x")
    assert isinstance(error, RemoteError)


def test_a_name_stands_for_one_class():
    registry = TypeRegistry()
    registry.register(samples.Invoice, name="invoice")
    with pytest.raises(ConfigurationError, match="invoice"):
        registry.register(samples.Point, name="invoice")


@pytest.mark.parametrize("registry", [{}, [samples.Invoice], TypeRegistry])
def test_a_registry_that_is_none_is_refused(registry):
    with pytest.raises(ConfigurationError, match=r"registry=.*TypeRegistry\(\)\.$"):
        JsonSerializer(registry)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_bytes": "1"},
        {"max_bytes": 0},
        {"max_bytes": True},
        {"allow": [samples]},
        {"allow": None},
    ],
)
def test_an_argument_that_cannot_work_is_named(arguments):
    with pytest.raises(ConfigurationError, match=rf"{next(iter(arguments))}=.*: give .*\.$"):
        JsonSerializer(**arguments)


def test_what_is_no_class_is_not_registered():
    with pytest.raises(ConfigurationError, match=r"5 is no class: .*\.$"):
        TypeRegistry().register(5)


def test_one_old_name_that_is_no_list_is_refused():
    with pytest.raises(ConfigurationError, match=r"old_names='shop:Bill'.*\['shop:Bill'\]"):
        TypeRegistry().register(samples.Invoice, old_names="shop:Bill")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("name", 5),
        ("name", b"shop:Bill"),
        ("old_names", 5),
        ("old_names", [5]),
        ("old_fields", 5),
        ("old_fields", ["a"]),
        ("old_fields", ["ab"]),
        ("old_fields", {"a": 5}),
        ("encode", 5),
        ("decode", 6),
    ],
)
def test_an_argument_that_no_class_can_be_registered_with_is_refused(argument, value):
    registry = TypeRegistry()
    codec = {"encode": str, "decode": int} if argument in ("encode", "decode") else {}
    with pytest.raises(ConfigurationError, match=rf"samples:Invoice.*{argument}=.*: give"):
        registry.register(samples.Invoice, **{**codec, argument: value})
    assert registry.of_class(samples.Invoice) is None


def test_names_may_be_given_by_anything_that_yields_them():
    registry = TypeRegistry()
    registry.register(samples.Invoice, old_names=(name for name in ["shop:Bill", "shop:Note"]))
    assert registry.of_name("shop:Note").cls is samples.Invoice


def test_the_first_value_of_a_type_that_is_pickled_warns_with_its_path():
    serializer = JsonSerializer()
    with pytest.warns(PickledValueWarning, match=r"return_value\.rows\[1\]\.x: a samples\.Opaque"):
        encoded({"rows": [1, {"x": samples.Opaque(1)}]}, serializer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded([samples.Opaque(2)], serializer)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_only_the_leaf_is_pickled_and_its_repr_stands_in_its_place():
    row = encoded({"kept": [1, NOON], "odd": samples.Opaque("x" * 500)})
    stored = orjson.loads(row.columns["return_value"])
    assert stored["kept"] == [1, "2026-01-02T12:00:00+00:00"]
    assert "Opaque" in stored["odd"]
    assert len(stored["odd"]) <= 200


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, lambda: None]}, "return_value.a[1]"),
        ([{"x": 1}, {"x": (n for n in ())}], "return_value[1].x"),
        ({1: {"deep": memoryview(b"abcd").cast("H")}}, "return_value.1.deep"),
        (samples.Box([10**200_000]), "return_value.content[0]"),
    ],
)
@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_what_cannot_be_stored_is_refused_with_its_path(value, path):
    with pytest.raises(ResultEncodeError) as caught:
        encoded(value)
    assert caught.value.path == path


def test_an_int_of_a_hundred_thousand_digits_comes_back(jsonb_roundtrip):
    value = 10**99_999 + 7
    assert back([value, -value], jsonb_roundtrip) == [value, -value]


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_cycle_is_pickled_and_its_surroundings_are_not(jsonb_roundtrip):
    loop = [1]
    loop.append({"again": loop})
    found = back({"plain": 1, "loop": loop}, jsonb_roundtrip)
    assert found["plain"] == 1
    assert found["loop"][1]["again"] is found["loop"]


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_value_that_shares_itself_a_billion_times_does_not_explode():
    value = 1
    for _ in range(30):
        value = [value, value]
    row = encoded(value)
    assert len(row.pickled) < 1_000


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_cycle_through_a_struct_that_is_not_collected_comes_back():
    loop = []
    loop += [samples.FrozenReading(loop), samples.FrozenReading(loop)]
    row = encoded({"plain": 1, "loop": loop})
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert found["plain"] == 1
    assert found["loop"][1].value is found["loop"]


def test_a_cycle_is_refused_without_a_fallback():
    loop = []
    loop.append(loop)
    with pytest.raises(ResultEncodeError):
        encoded(loop, JsonSerializer(fallback=None))


class Raising:
    def __init__(self, error, method="__reduce__"):
        self.error, self.method = error, method

    def __reduce__(self):
        if self.method == "__reduce__":
            raise self.error
        return Raising, (self.error, self.method)

    def __repr__(self):
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), samples.PanicError("no")], ids=repr)
def test_whatever_a_reduce_raises_is_a_refusal_with_its_path(error):
    with pytest.raises(ResultEncodeError, match="no") as caught:
        encoded({"a": [1, Raising(error)]})
    assert (caught.value.path, caught.value.__cause__) == ("return_value.a[1]", error)
    assert caught.value.type_name.endswith("Raising")


@pytest.mark.parametrize("error", [ValueError("no"), samples.PanicError("no")], ids=repr)
def test_whatever_a_codec_raises_is_a_refusal_with_its_path(error):
    def encode(_value):
        raise error

    registry = TypeRegistry()
    registry.register(samples.Money, name="money", encode=encode, decode=samples.Money)
    with pytest.raises(ResultEncodeError, match="no") as caught:
        encoded([samples.Money(1, "EUR")], JsonSerializer(registry))
    assert caught.value.path == "return_value[0]"


class MutePanic(samples.PanicError):
    def __str__(self):
        raise self


class MuteError(Exception):
    def __str__(self):
        raise samples.PanicError("no text")

    __repr__ = __str__


@pytest.mark.parametrize("error", [MuteError(), MutePanic()], ids=["error", "panic"])
def test_an_error_without_a_text_is_a_refusal_like_any_other(error):
    def encode(_value):
        raise error

    with pytest.raises(ResultEncodeError, match=r"<Mute\w+ whose (str|repr)\(\) raises") as caught:
        encoded({"a": [1, Raising(error)]})
    assert (caught.value.path, caught.value.__cause__) == ("return_value.a[1]", error)
    registry = TypeRegistry()
    registry.register(samples.Money, name="money", encode=encode, decode=samples.Money)
    with pytest.raises(ResultEncodeError, match=r"<Mute\w+ whose (str|repr)\(\) raises") as caught:
        encoded([samples.Money(1, "EUR")], JsonSerializer(registry))
    assert (caught.value.path, caught.value.__cause__) == ("return_value[0]", error)


def test_an_error_without_a_text_that_a_codec_raises_for_a_row_is_a_decode_error():
    def decode(_plain):
        raise MuteError

    registry = TypeRegistry()
    registry.register(
        samples.Money, name="money", encode=lambda money: money.currency, decode=decode
    )
    serializer = JsonSerializer(registry)
    row = encoded([samples.Money(1, "EUR")], serializer)
    with pytest.raises(ResultDecodeError, match="<MuteError whose str") as caught:
        serializer.decode(row, task_id="t")
    assert caught.value.path == "return_value[0]"


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("error", [ValueError("no"), samples.PanicError("no")], ids=repr)
def test_whatever_a_repr_raises_the_value_is_stored(error):
    row = encoded([Raising(error, "__repr__")])
    assert b"<Raising" in row.columns["return_value"]
    assert row.pickled is not None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_is_meant_for_the_process_or_the_task_is_no_refusal(error):
    with pytest.raises(error):
        encoded([Raising(error())])


class Unhashable(type):
    __hash__ = None


@pytest.mark.parametrize("hold", [lambda v: v, lambda v: [1, v], lambda v: {"a": v}])
@pytest.mark.parametrize("column", ["return_value", "meta"])
def test_a_value_whose_class_has_no_hash_is_refused(hold, column):
    value = hold(Unhashable("Odd", (), {})())
    with pytest.raises(ResultEncodeError, match="unhashable"):
        JsonSerializer().encode({column: value}, task_id="t")


def test_a_row_larger_than_max_bytes_is_refused_by_name():
    with pytest.raises(ResultEncodeError, match="max_bytes=1,000"):
        encoded("x" * 2_000, JsonSerializer(max_bytes=1_000))


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    ("value", "largest"), [(samples.Opaque("x" * 900), "pickled"), (samples.Colour.RED, "types")]
)
def test_most_of_a_row_may_be_what_stands_beside_the_json(value, largest):
    registry = TypeRegistry()
    registry.register(samples.Colour, name="colour" * 150)
    serializer = JsonSerializer(registry, max_bytes=1_000)
    with pytest.raises(ResultEncodeError, match=f"most of them in {largest};") as refused:
        encoded({"note": "x" * 200, "value": value}, serializer)
    assert refused.value.path == largest


def test_what_stands_deep_in_one_column_is_decoded_once_however_many_there_are():
    deep = {1: "a", "b": {(1,): "\\u0041\0"}}
    for _ in range(70):
        deep = {"n": deep}
    serializer = JsonSerializer()
    columns = {"return_value": deep, "labels": {"z": 1, "a": 2}, "args": (1,)}
    assert same(serializer.decode(serializer.encode(columns, task_id="t"), task_id="t"), columns)


@pytest.mark.parametrize("at", range(9))
def test_an_odd_item_in_a_column_of_short_lists_stays_in_its_place(at, jsonb_roundtrip):
    items = list(map(Decimal, range(9)))
    items[at] = NOON
    value = [items[:4], [], items[4:6], items[6:]]
    assert same(back(value, jsonb_roundtrip), value)


def test_few_dates_among_many_plain_values_have_a_small_sidecar(jsonb_roundtrip):
    value = {f"key{number:04}": number for number in range(999)} | {"updated": date(2026, 11, 26)}
    row = encoded(value)
    assert len(row.types) < 100
    assert same(JsonSerializer().decode(jsonb_roundtrip(row), task_id="t")["return_value"], value)


@pytest.mark.parametrize("cls", [datetime, Decimal, UUID, str, int, float, dict, tuple, type(None)])
def test_a_codec_for_what_needs_none_is_refused(cls):
    with pytest.raises(ConfigurationError, match=f"{cls.__name__}.*subclass"):
        TypeRegistry().register(cls, name="mine", encode=str, decode=cls)


def test_the_keys_that_are_remembered_are_short():
    serializer = JsonSerializer()
    for number in range(3):
        encoded({f"{number}" + "x" * 100_000: 1}, serializer)
    assert not serializer._plan.layouts


@pytest.mark.timeout(20)
def test_keys_of_one_text_take_time_in_proportion_to_their_number():
    row = JsonSerializer().encode({"value": {float("nan"): n for n in range(50_000)}}, task_id="t")
    assert len(orjson.loads(row.columns["value"])) == 50_000


def test_keys_that_are_numbered_keep_out_of_the_way_of_others(jsonb_roundtrip):
    value = {"1 (2)": "a", 1: "b", "1": "c", "1 (3)": "d"}
    row = jsonb_roundtrip(JsonSerializer().encode({"value": value}, task_id="t"))
    assert JsonSerializer().decode(row, task_id="t")["value"] == value


def test_fifty_thousand_levels_come_back():
    value = NOON
    for _ in range(50_000):
        value = [value]
    serializer = JsonSerializer(fallback=None)
    found = serializer.decode(encoded(value, serializer), task_id="t")["return_value"]
    assert same(found, value)


class Tagged(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    zip_code: str | None = pydantic.Field(None, alias="zip")
    _seen: int = pydantic.PrivateAttr(0)

    @functools.cached_property
    def noise(self) -> str:
        return "woof"


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("name", ["zip_code", "_seen", "noise", "other"])
def test_an_extra_value_of_a_model_comes_back_whatever_its_name(name, jsonb_roundtrip):
    values = [Tagged(zip="1", **{name: "9"}), Tagged(**{name: "9", "b": 1, "a": 2})]
    assert values[0].noise == "woof" or name == "noise"
    for found, value in zip(back(values, jsonb_roundtrip), values, strict=True):
        assert found.zip_code == value.zip_code
        assert list(found.__pydantic_extra__.items()) == list(value.__pydantic_extra__.items())
        assert found.__pydantic_private__ == value.__pydantic_private__
        assert found.model_fields_set == value.model_fields_set


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("name", ["a\0", "\ud800", 7, "other"])
def test_any_model_fields_set_comes_back(name, jsonb_roundtrip):
    values = [samples.Address.model_construct({name, "street"}, street="Elm") for _ in range(3)]
    for found in back(values, jsonb_roundtrip):
        assert found.model_fields_set == {name, "street"}


class SlottedDict(dict):
    __slots__ = ("source",)


class SlottedText(str):
    __slots__ = ("source",)


class SlottedSet(frozenset):
    __slots__ = ("source",)


class SlottedCounter(Counter):
    __slots__ = ("source",)


class SlottedModel(pydantic.BaseModel):
    __slots__ = ("source",)
    number: int = 1


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    ("make", "content"),
    [
        (SlottedDict, {"a": 1}),
        (SlottedText, "a"),
        (SlottedSet, {1}),
        (SlottedCounter, "aab"),
        (OrderedDict, {"a": 1}),
        (Counter, "aab"),
        (SlottedModel.model_validate, {"number": 2}),
        (SlottedModel.model_validate, {}),
    ],
)
def test_attributes_of_a_builtin_s_subclass_and_slots_of_a_model_come_back(
    make, content, jsonb_roundtrip
):
    value = make(content)
    serializer = JsonSerializer(fallback=None)
    assert same(back([value], jsonb_roundtrip, serializer), [value])
    object.__setattr__(value, "source", [NOON])
    for found in back([value, value], jsonb_roundtrip):
        assert same(found, value)
        assert found.source == [NOON]


def deleting(value, *names):
    for name in names:
        delattr(value, name)
    return value


class Root(pydantic.RootModel[list[int]]):
    _cache: dict = pydantic.PrivateAttr(default_factory=dict)
    _rate: Any = pydantic.PrivateAttr(1)
    _unset: int = pydantic.PrivateAttr()


def test_the_root_of_a_model_stands_alone_while_its_private_attributes_are_the_default(
    jsonb_roundtrip,
):
    serializer = JsonSerializer(fallback=None)
    row = encoded(Root([1]), serializer)
    assert row.columns["return_value"] == b"[1]"
    first, second = back([Root([1]), Root([2])], jsonb_roundtrip, serializer)
    assert same([first, second], [Root([1]), Root([2])])
    assert first._cache is not second._cache


@pytest.mark.parametrize(
    ("name", "value"), [("_cache", {NOON: 1}), ("_rate", True), ("_rate", 1.0), ("_unset", None)]
)
def test_private_attributes_of_a_root_model_come_back(name, value, jsonb_roundtrip):
    root = Root([1])
    setattr(root, name, value)
    serializer = JsonSerializer(fallback=None)
    assert same(back([root, root], jsonb_roundtrip, serializer), [root, root])
    assert same(back(deleting(root, name), jsonb_roundtrip, serializer), root)


def test_an_object_without_fields_or_a_dict_comes_back(jsonb_roundtrip):
    value = [samples.Nothing(), samples.Nothing(), {"one": samples.Nothing()}]
    assert back(value, jsonb_roundtrip, JsonSerializer(fallback=None)) == value


class Key(msgspec.Struct, frozen=True, cache_hash=True):
    code: str


class LooseKey(Key, frozen=True, cache_hash=True, dict=True):
    pass


@pytest.mark.parametrize(
    ("cls", "cached_in"),
    [
        (samples.Sku, "_attrs_cached_hash"),
        (samples.LooseSku, "_attrs_cached_hash"),
        (Key, "__msgspec_cached_hash__"),
        (LooseKey, "__msgspec_cached_hash__"),
    ],
)
def test_a_hash_that_a_library_has_cached_is_not_stored(cls, cached_in, jsonb_roundtrip):
    values = [cls("a"), cls("b")]
    stored = set(map(hash, values))
    serializer = JsonSerializer(fallback=None)
    row = encoded(values, serializer)
    assert row.columns["return_value"] == b'[{"code":"a"},{"code":"b"}]'
    for found in back(values, jsonb_roundtrip, serializer):
        assert type(found) is cls
        assert getattr(found, cached_in, None) is None
        assert hash(found) in stored
    assert same(back([set(values)], jsonb_roundtrip, serializer), [set(values)])


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_root_model_that_has_to_be_pickled_comes_back_with_its_private_attributes(
    jsonb_roundtrip,
):
    root = Root.model_construct([1], {"a\0", 7})
    root._rate = 2
    found = back([root, root], jsonb_roundtrip)[1]
    assert (found.root, found.model_fields_set, found._rate) == ([1], {"a\0", 7}, 2)


def test_an_attribute_of_a_model_that_is_no_field_comes_back(jsonb_roundtrip):
    value = samples.Address(street="Elm")
    value.__dict__["found"] = 7
    with pytest.warns(PickledValueWarning):
        assert vars(back(value, jsonb_roundtrip)) == vars(value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "value",
    [
        samples.Address.model_construct(zip_code="1"),
        deleting(samples.Address(street="Elm", zip="1"), "zip_code"),
        deleting(samples.Customer(name="Ada", extra=1), "since", "_seen"),
        deleting(samples.Customer(name="Ada", address=None, since=NOON.date()), "_seen"),
        samples.Customer.model_construct(),
    ],
    ids=repr,
)
def test_what_a_model_lacks_it_lacks_when_it_comes_back(value, jsonb_roundtrip):
    for values in ([value], [value, value]):
        for found in back(values, jsonb_roundtrip):
            assert same(found, value)
            assert list(vars(found)) == list(vars(value))


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 3


class Named(msgspec.Struct, kw_only=True, dict=True):
    name: str = "a"
    x: int


@pytest.mark.parametrize("value", [Point(1, 2), Named(x=1)], ids=repr)
@pytest.mark.parametrize("lacking", [["x"], ["y", "name"], ["x", "y", "name"]])
def test_what_a_struct_lacks_it_lacks_when_it_comes_back(value, lacking, jsonb_roundtrip):
    value = copy.copy(value)
    lacking = [name for name in lacking if name in value.__struct_fields__]
    for name in lacking:
        vars(type(value))[name].__delete__(value)
    for found in back([value, value], jsonb_roundtrip, JsonSerializer(fallback=None)):
        assert type(found) is type(value)
        for name in value.__struct_fields__:
            assert hasattr(found, name) is (name not in lacking)
            assert getattr(found, name, None) == getattr(value, name, None)


class Hooked(msgspec.Struct):
    number: int
    log: list[str] = []

    def __post_init__(self):
        self.number += 1
        self.log.append("made")


class FrozenHooked(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    name: str = "a"
    number: int

    def __post_init__(self):
        msgspec.structs.force_setattr(self, "number", -self.number)


class LooseHooked(Hooked, dict=True):
    pass


def with_attributes(value, **attributes):
    vars(value).update(attributes)
    return value


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    "value",
    [
        Hooked(1),
        FrozenHooked(number=1),
        with_attributes(LooseHooked(1), extra=[NOON]),
    ],
    ids=repr,
)
def test_a_struct_with_a_hook_comes_back_as_it_was(value, jsonb_roundtrip):
    first, second = back([value, samples.Opaque(value)], jsonb_roundtrip)
    for found in (first, second.value):
        assert type(found) is type(value)
        assert same(getattr(found, "__dict__", None), getattr(value, "__dict__", None))
        for name in value.__struct_fields__:
            assert same(getattr(found, name), getattr(value, name))


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_struct_in_a_cycle_comes_back_with_its_attributes_and_without_what_it_lacks(
    jsonb_roundtrip,
):
    loop = []
    loop.append(with_attributes(deleting(Named(x=1), "name"), loop=loop))
    found = back(loop, jsonb_roundtrip)
    assert found[0].loop is found
    assert found[0].x == 1
    assert not hasattr(found[0], "name")


class Marking(msgspec.Struct, dict=True):
    number: int

    def __post_init__(self):
        self.mark = "made"


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_an_attribute_that_a_hook_makes_stays_deleted(jsonb_roundtrip):
    found = back(deleting(Marking(1), "mark"), jsonb_roundtrip)
    assert vars(found) == {}


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_pickled_struct_that_msgspec_keeps_needs_nothing_of_this_package():
    for value in (Point(1, 2), Named(x=1), samples.FrozenReading([1])):
        row = encoded(samples.Opaque(value))
        assert b"taskiq_pg_json" not in row.pickled


class Uncopied:
    def __deepcopy__(self, _memo):
        raise RuntimeError("there is one of me")

    def __eq__(self, other):
        return isinstance(other, Uncopied)

    __hash__ = None


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_struct_with_a_hook_comes_back_with_what_cannot_be_copied(jsonb_roundtrip):
    found = back(Hooked(1, [Uncopied()]), jsonb_roundtrip)
    assert found.number == 2
    assert found.log[0] == Uncopied()


class Link(msgspec.Struct):
    name: str
    after: Any = None
    others: Any = None

    def __hash__(self):
        return hash(self.name)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_structs_whose_fields_are_each_other_come_back(jsonb_roundtrip):
    link = Link("a")
    link.after = link
    assert back(link, jsonb_roundtrip).after.after.name == "a"
    first, second = Link("a"), Link("b")
    first.after, second.after, second.others = second, first, {first: "first"}
    found = back(first, jsonb_roundtrip)
    assert found.after.name == "b"
    assert found.after.after is found
    assert found.after.others[found] == "first"  # put there by its hash


class Taught(msgspec.Struct):
    number: int

    def __reduce_ex__(self, _protocol):
        return Taught, (-self.number,)


class Registered(msgspec.Struct):
    number: int


class RegisteredSet(set):
    __slots__ = ("label",)


copyreg.pickle(Registered, lambda value: (Registered, (-value.number,)))
copyreg.pickle(RegisteredSet, lambda value: (RegisteredSet, ([*value, "taught"],)))


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_what_pickle_was_taught_of_a_class_holds(jsonb_roundtrip):
    value = [Taught(1), Registered(1), RegisteredSet("a")]
    value[-1].label = "first"
    found = back(samples.Opaque(value), jsonb_roundtrip).value
    assert [one.number for one in found[:2]] == [-1, -1]
    assert found[2] == {"a", "taught"}


class Moment(dt.datetime):
    """As pendulum's: its own way of being pickled forgets the fold."""

    def __reduce_ex__(self, _protocol):
        parts = (self.year, self.month, self.day, self.hour, self.minute, self.second)
        return type(self), (*parts, self.microsecond, self.tzinfo)


class Clock(dt.time):
    def __reduce_ex__(self, _protocol):
        return type(self), (self.hour, self.minute, self.second, self.microsecond, self.tzinfo)


class Labelled(dt.datetime):
    def __new__(cls, label, *args, **kwargs):
        made = super().__new__(cls, *args, **kwargs)
        made.label = label
        return made


class Noted(dt.datetime):
    pass


class Day(dt.date):
    __slots__ = ("label",)


class Stateful(dt.datetime):
    def __getstate__(self):
        raise AssertionError("Python does not call it either")


class Restored(dt.date):
    def __setstate__(self, state):
        raise AssertionError("likewise")


class Sealed(dt.date):
    __slots__ = ("label",)

    def __setattr__(self, name, value):
        raise AttributeError("it is sealed")


class Thorough(dt.datetime):
    """Its own way keeps the fold."""

    def __reduce_ex__(self, _protocol):
        return make_thorough, (self.isoformat(), self.fold)


def make_thorough(text, fold):
    made = Thorough.fromisoformat(text).replace(fold=fold)
    made.maker = "make_thorough"
    return made


class Span(dt.timedelta):
    @property
    def days(self):
        raise AssertionError("a subclass may mean something else by it")


class Price(Decimal):
    pass


PARIS = ZoneInfo("Europe/Paris")
TWICE = (2020, 10, 25, 2, 30)  # an hour that Paris had twice


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    "value",
    [
        Moment(*TWICE, tzinfo=PARIS, fold=1),
        Moment(*TWICE, tzinfo=PARIS),
        Moment(*TWICE, fold=1),
        Clock(2, 30, fold=1),
        Labelled("a", *TWICE, tzinfo=PARIS, fold=1),
        Labelled("a", *TWICE),
    ],
    ids=repr,
)
def test_a_moment_of_a_subclass_comes_back_with_its_fold_and_attributes(value, jsonb_roundtrip):
    found = back([value, samples.Opaque(value)], jsonb_roundtrip)
    for moment in (found[0], found[1].value):
        assert type(moment) is type(value)
        assert moment == value
        assert (moment.fold, moment.utcoffset()) == (value.fold, value.utcoffset())
        assert vars(moment) == vars(value)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_slots_of_a_date_s_subclass_come_back(jsonb_roundtrip):
    value = Day(2026, 1, 2)
    assert same(back(value, jsonb_roundtrip), value)
    value.label = "first"
    assert back(value, jsonb_roundtrip).label == "first"


def sealed(day, label):
    Sealed.label.__set__(day, label)
    return day


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    "value",
    [
        with_attributes(Noted(*TWICE, fold=1), lock=threading.Lock()),
        with_attributes(Moment(*TWICE, fold=1), lock=threading.Lock()),
        with_attributes(Noted(*TWICE), secret=pydantic.SecretStr("s")),
        with_attributes(Stateful(*TWICE), note="a"),
        with_attributes(Restored(2026, 1, 2), label="a"),
        sealed(Sealed(2026, 1, 2), "a"),
    ],
    ids=repr,
)
def test_a_moment_comes_back_without_attributes_that_pickle_does_not_take(value, jsonb_roundtrip):
    found = back([value, samples.Opaque(value)], jsonb_roundtrip)
    for moment in (found[0], found[1].value):
        assert type(moment) is type(value)
        assert moment == value
        assert getattr(moment, "fold", 0) == getattr(value, "fold", 0)
        assert not getattr(moment, "__dict__", None)
        assert not hasattr(moment, "label")


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_moment_is_pickled_in_the_way_of_its_own_that_keeps_its_fold(jsonb_roundtrip):
    found = back(Thorough(*TWICE, fold=1), jsonb_roundtrip)
    assert (found, found.fold) == (Thorough(*TWICE), 1)
    assert found.maker == "make_thorough"


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_moment_that_holds_itself_comes_back(jsonb_roundtrip):
    value = Noted(*TWICE)
    value.me = value
    found = back(value, jsonb_roundtrip)
    assert found.me is found


class Drifting(dt.tzinfo):
    """Its pickle does not hold its offset."""

    def __init__(self, hours=0):
        self.hours = hours

    def utcoffset(self, _when):
        return dt.timedelta(hours=self.hours)

    def __reduce__(self):
        return Drifting, ()


@pytest.mark.parametrize("value", [NOON, dt.time(3, 4)], ids=repr)
def test_a_moment_that_would_come_back_as_another_is_refused(value):
    with pytest.raises(ResultEncodeError, match="another UTC offset"):
        encoded({"at": value.replace(tzinfo=Drifting(2))})


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    ("value", "text", "cast"),
    [
        (Moment(*TWICE, tzinfo=PARIS, fold=1), "2020-10-25T02:30:00+01:00", "timestamptz"),
        (dt.datetime(2026, 1, 2, tzinfo=Drifting()), "2026-01-02T00:00:00+00:00", "timestamptz"),
        (Clock(2, 30), "02:30:00", "time"),
        (Day(2026, 1, 2), "2026-01-02", "date"),
        (Span(1, 30), "P1DT30S", "interval"),
        (Price("12.50"), "12.50", "numeric"),
    ],
    ids=str,
)
def test_a_date_or_number_that_is_pickled_can_be_read_in_sql(value, text, cast, admin):
    row = encoded([value, value])
    assert row.pickled is not None
    assert orjson.loads(row.columns["return_value"]) == [text, text]
    query = sql.SQL("SELECT ({}::jsonb ->> 0)::{} IS NOT NULL").format(
        row.columns["return_value"].decode(), sql.SQL(cast)
    )
    assert admin.execute(query).fetchone() == (True,)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_a_date_that_has_no_text_is_pickled_all_the_same(jsonb_roundtrip):
    value = NOON.replace(tzinfo=dt.tzinfo())
    assert back(value, jsonb_roundtrip).replace(tzinfo=dt.timezone.utc) == NOON


def test_secrets_are_refused_without_being_shown():
    account = samples.Account(user="ada", password="hunter2")
    with pytest.raises(ResultEncodeError, match="secret") as caught:
        encoded(account)
    assert "hunter2" not in str(caught.value)


def test_secrets_do_not_hide_in_pickles():
    with pytest.raises(ResultEncodeError, match="secret") as caught:
        encoded(samples.Opaque(pydantic.SecretStr("hunter2")))
    assert "hunter2" not in str(caught.value)


def test_secrets_are_stored_on_request(jsonb_roundtrip):
    account = samples.Account(user="ada", password="hunter2")
    serializer = JsonSerializer(secrets="store")
    assert back(account, jsonb_roundtrip, serializer) == account


@pytest.mark.parametrize(
    "settings",
    [{"secrets": "mask"}, {"on_unknown_type": "ignore"}, {"allow": "shop.*"}],
)
def test_a_setting_that_is_none_of_its_choices_is_refused(settings):
    with pytest.raises(ConfigurationError):
        JsonSerializer(**settings)


def test_importing_the_serializer_imports_no_optional_package():
    code = (
        "import sys, taskiq_pg_json.serializer as s; s.JsonSerializer().encode({'a': {1, 2}},"
        " task_id='t'); print([m for m in ('numpy', 'pandas', 'msgspec') if m in"
        " sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "[]"


def test_ordinary_rows_never_need_the_careful_walk(monkeypatch):
    def careful(*_, **__):
        raise AssertionError("the fast walk has failed")

    monkeypatch.setattr(writing, "CarefulEncoder", careful)
    invoice = {"at": dt.date(2030, 1, 31), "total": Decimal("1.50"), "tags": {"a", "b"}}
    rows = [{"number": number, **invoice} for number in range(100)]
    for value in (None, 7, "text", [1, [2, 3]], invoice, rows, {"deep": {"rows": rows}}, (1, (2,))):
        columns = {"return_value": value, "labels": {"queue": "fast"}, "args": [value]}
        encoded = JsonSerializer().encode(columns, task_id="id")
        assert same(JsonSerializer().decode(encoded, task_id="id"), columns)


MANY = 100_001
LARGE = {
    "tuples": lambda: [(number, number / 7) for number in range(MANY)],
    "tuples in tuples": lambda: [(number, (number, (number / 7,))) for number in range(MANY // 2)],
    "lists": lambda: [[number, number / 7] for number in range(MANY)],
    "dicts": lambda: {str(number): {"a": number} for number in range(MANY)},
    "ranges": lambda: [range(number) for number in range(MANY)],
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_value_is_walked_fast_and_stored_as_json(kind, monkeypatch):
    def careful(*_, **__):
        raise AssertionError("the fast walk has failed")

    monkeypatch.setattr(writing, "CarefulEncoder", careful)
    value = LARGE[kind]()
    gc.collect()  # which ceases to track tuples of atoms
    row = encoded(value, JsonSerializer(fallback=None))
    assert JsonSerializer().decode(row, task_id="t")["return_value"] == value


@pytest.mark.parametrize("odd", ["a\0", 2**63], ids=["text", "int"])
def test_a_large_value_with_something_odd_in_it_is_stored_as_json(odd):
    value = [{"id": number, "of": ()} for number in range(MANY // 2)]
    value += [{"id": number} for number in range(MANY // 2)] + [{"id": odd}]
    row = encoded(value, JsonSerializer(fallback=None))
    assert JsonSerializer().decode(row, task_id="t")["return_value"] == value


def test_text_that_reads_like_an_escaped_nul_needs_no_care(monkeypatch, jsonb_roundtrip):
    def careful(*_, **__):
        raise AssertionError("the fast walk has failed")

    monkeypatch.setattr(writing, "CarefulEncoder", careful)
    value = [r"C:\u0000", {"at": date(2026, 1, 2), "regex": r"\\u0000"}]
    assert same(back(value, jsonb_roundtrip), value)


def test_a_nul_inside_a_key_is_found_though_its_text_only_reads_like_one(jsonb_roundtrip):
    value = {re.compile("\0"): r"\u0000", ("\0", 1): 2}
    assert same(back(value, jsonb_roundtrip), value)
    assert same(back([{re.compile("\0"): 1}], jsonb_roundtrip), [{re.compile("\0"): 1}])


def test_a_defaultdict_is_stored_without_a_factory_that_cannot_be_pickled(jsonb_roundtrip):
    value = defaultdict(
        lambda: defaultdict(list), {"a": defaultdict(list, {"x": [date(2026, 1, 2)]})}
    )
    with pytest.warns(
        IncompleteValueWarning, match=r"return_value\.found: a defaultdict .* its default_factory"
    ):
        row = JsonSerializer().encode({"return_value": {"found": value}}, task_id="t")
    found = JsonSerializer().decode(jsonb_roundtrip(row), task_id="t")["return_value"]["found"]
    assert found == value
    assert type(found) is defaultdict
    assert found.default_factory is None
    assert found["a"].default_factory is list


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.IncompleteValueWarning")
def test_what_a_defaultdict_cannot_hold_is_named_all_the_same():
    value = defaultdict(lambda: 0, {"lock": threading.Lock()})
    with pytest.raises(ResultEncodeError, match=r"return_value\.lock \(_thread\.lock\)"):
        JsonSerializer().encode({"return_value": value}, task_id="t")


def test_a_named_tuple_whose_items_are_not_its_fields_is_pickled(jsonb_roundtrip):
    value = [platform.uname(), platform.uname()]
    serializer = JsonSerializer()
    with pytest.warns(PickledValueWarning, match="uname_result"):
        serializer.encode({"return_value": value}, task_id="t")
    row = serializer.encode({"return_value": value}, task_id="t")  # without a warning, at once
    found = JsonSerializer().decode(jsonb_roundtrip(row), task_id="t")["return_value"]
    assert found == value
    assert type(found[0]) is type(value[0])


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize("cls", [samples.MappedUser, samples.MappedParcel])
def test_an_object_that_sqlalchemy_maps_keeps_its_state(cls, jsonb_roundtrip):
    value = cls("Ada")
    for found in back([value, cls("Bo"), value], jsonb_roundtrip):
        assert type(found) is cls
        assert found._sa_instance_state.instance() is found
        assert vars(found).keys() == vars(value).keys()


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("dataclass", samples.MappedUser("Ada")),
        ("attrs", samples.MappedParcel("Ada")),
    ],
)
def test_a_row_with_the_fields_of_what_sqlalchemy_maps_is_read_as_it(kind, value):
    fields = {name: "Ada" for name in vars(value) if not name.startswith("_sa")}
    name = type(value).__qualname__
    types = {"v": 1, "return_value": f"{kind}:samples:{name}"}
    row = EncodedRow({"return_value": orjson.dumps(fields)}, orjson.dumps(types), None)
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert type(found) is type(value)
    assert {name: getattr(found, name) for name in fields} == fields


def test_a_class_that_sqlalchemy_maps_needs_a_codec_to_be_registered(jsonb_roundtrip):
    registry, cls = TypeRegistry(), samples.MappedUser
    with pytest.raises(ConfigurationError, match=r"mapped by SQLAlchemy.* give encode="):
        registry.register(cls, name="user")
    registry.register(cls, name="user", encode=lambda user: user.name, decode=cls)
    assert back(cls("Ada"), jsonb_roundtrip, JsonSerializer(registry)) == cls("Ada")


def test_a_root_model_has_no_attributes_but_pydantic_s():
    value = samples.Tags(["a"])
    row = JsonSerializer().encode({"return_value": value}, task_id="t")
    found = JsonSerializer().decode(row, task_id="t")["return_value"]
    assert vars(found) == vars(value)


def test_an_error_of_a_function_that_is_registered_names_the_value():
    registry = TypeRegistry()
    registry.register(samples.Opaque, name="opaque", encode=lambda _: 1 / 0, decode=samples.Opaque)
    value = {"rows": [samples.Opaque(1)]}
    complaint = r"return_value\.rows\[0\] \(samples\.Opaque\).* raised ZeroDivisionError"
    with pytest.raises(ResultEncodeError, match=complaint):
        JsonSerializer(registry).encode({"return_value": value}, task_id="t")
