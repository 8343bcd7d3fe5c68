from __future__ import annotations

import enum
import json
import math
import pickle
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import NamedTuple

import orjson
import pydantic
import pydantic_core
import pytest
from taskiq.serializers import (
    CBORSerializer,
    JSONSerializer,
    MSGPackSerializer,
    ORJSONSerializer,
    PickleSerializer,
)

from taskiq_pg_json import JsonSerializer
from taskiq_pg_json.errors import ConfigurationError, ResultDecodeError, ResultEncodeError
from taskiq_pg_json.serializer.adapters import (
    DescribedValueWarning,
    TaskiqSerializerAdapter,
    as_result_serializer,
)
from taskiq_pg_json.serializer.protocol import EncodedRow, ResultSerializer

JSON_SERIALIZERS = [JSONSerializer(), ORJSONSerializer()]
BINARY_SERIALIZERS = [MSGPackSerializer(), CBORSerializer(), PickleSerializer()]
EVERY_SERIALIZER = JSON_SERIALIZERS + BINARY_SERIALIZERS
PLAIN = {"b": [1, -2.5, "é\n", None, True], "a": {"z": 1, "y": {}}, "empty": []}


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Invoice:
    number: int
    at: datetime


class Customer(pydantic.BaseModel):
    name: str
    since: datetime


@dataclass
class Account:
    owner: str
    _balance: int = 0


class Total(pydantic.BaseModel):
    total: int = pydantic.Field(default=0, serialization_alias="totalAmount")


@pydantic.dataclasses.dataclass
class User:
    name: str
    password: str = pydantic.Field(default="", exclude=True)
    at: datetime = datetime(2024, 1, 1, tzinfo=timezone.utc)

    @pydantic.field_serializer("at")
    def _year(self, at):
        return at.year


class Wire(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(serialize_by_alias=True)
    total: int = pydantic.Field(alias="totalAmount")


class Money:
    def __init__(self, cents):
        self.cents = cents


class Hooked(JSONSerializer):
    """JSON with tags of its own, such as a user may have written."""

    def dumpb(self, value):
        return json.dumps(value, default=lambda v: {"$decimal": str(v)}).encode()

    def loadb(self, value):
        return json.loads(
            value, object_hook=lambda d: Decimal(d["$decimal"]) if "$decimal" in d else d
        )


class OwnOrjson:
    def dumpb(self, value):
        return orjson.dumps(value)

    def loadb(self, value):
        return orjson.loads(value)


class RefusesSpeechlessly:
    def dumpb(self, _value):
        raise SpeechlessError

    def loadb(self, _value):
        raise SpeechlessError


class RefusesEverything:
    def dumpb(self, value):
        raise TypeError(f"not {type(value).__name__}")

    def loadb(self, _value):
        raise TypeError("nothing")


def named(serializer):
    return type(serializer).__name__


every_serializer = pytest.mark.parametrize("serializer", EVERY_SERIALIZER, ids=named)
json_serializer = pytest.mark.parametrize("serializer", JSON_SERIALIZERS, ids=named)
binary_serializer = pytest.mark.parametrize("serializer", BINARY_SERIALIZERS, ids=named)


@pytest.fixture
def store(jsonb_roundtrip):
    """Encodes one return value, stores it in real columns, and returns adapter and row."""

    def stored(serializer, value):
        adapter = as_result_serializer(serializer)
        return adapter, jsonb_roundtrip(adapter.encode({"return_value": value}, task_id="t"))

    return stored


@pytest.fixture
def comes_back(store):
    def decoded(serializer, value):
        adapter, row = store(serializer, value)
        return adapter.decode(row, task_id="t")["return_value"]

    return decoded


def test_none_is_json():
    assert type(as_result_serializer(None)) is JsonSerializer


def test_a_result_serializer_is_taken_as_it_is():
    serializer = JsonSerializer()
    assert as_result_serializer(serializer) is serializer


@every_serializer
def test_a_taskiq_serializer_is_adapted_and_named(serializer):
    adapter = as_result_serializer(serializer)
    assert isinstance(adapter, TaskiqSerializerAdapter)
    assert isinstance(adapter, ResultSerializer)
    assert adapter.name == f"taskiq:{named(serializer)}"


@pytest.mark.parametrize("wrong", ["json", pickle, object(), 1])
def test_anything_else_is_refused_with_the_way_out(wrong):
    with pytest.raises(ConfigurationError, match="dumpb"):
        as_result_serializer(wrong)


class Waited:
    """A serializer whose methods would have to be awaited."""

    name = "waited"

    async def encode(self, columns, *, task_id):
        """Never is."""

    decode = encode


class HalfWaited(Waited):
    def encode(self, columns, *, task_id):
        """Is not waited for."""


class WaitedTaskiq(RefusesEverything):
    async def loadb(self, _value):
        """Never is."""


@pytest.mark.parametrize(
    ("serializer", "method"),
    [(Waited(), "encode"), (HalfWaited(), "decode"), (WaitedTaskiq(), "loadb")],
    ids=named,
)
def test_methods_that_would_have_to_be_awaited_are_refused(serializer, method):
    with pytest.raises(ConfigurationError, match=rf"{method}\(\) is async"):
        as_result_serializer(serializer)


@pytest.mark.parametrize("wrong", [5, None, b"json", "a\0", "\ud800"])
def test_a_name_that_no_column_holds_is_refused(wrong):
    serializer = JsonSerializer()
    serializer.name = wrong
    with pytest.raises(ConfigurationError, match="name"):
        as_result_serializer(serializer)


@pytest.mark.parametrize("cls", [ORJSONSerializer, JsonSerializer])
def test_a_class_instead_of_an_instance_is_refused(cls):
    with pytest.raises(ConfigurationError, match=rf"{cls.__name__}\(\)"):
        as_result_serializer(cls)


@every_serializer
@pytest.mark.parametrize("value", [PLAIN, None, 0, "", [], "nul \0", 2**63 - 1, 1e-7])
def test_plain_data_comes_back(comes_back, serializer, value):
    assert comes_back(serializer, value) == value


@json_serializer
def test_json_stands_in_the_json_column_alone(store, serializer):
    _, row = store(serializer, {"a": [1, 2]})
    assert orjson.loads(row.columns["return_value"]) == {"a": [1, 2]}
    assert row.types is None
    assert row.pickled is None


@json_serializer
@pytest.mark.parametrize("value", [-0.0, 1e16, 1e300, "\0", {"\0": 1}, 1.0, 12345678901234567])
def test_what_jsonb_would_change_comes_back(comes_back, serializer, value):
    back = comes_back(serializer, value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, 10**30, "\ud800"])
def test_what_only_pythons_json_can_say_comes_back(comes_back, value):
    assert comes_back(JSONSerializer(), value) == value
    assert math.isnan(comes_back(JSONSerializer(), [math.nan])[0])


def test_keys_that_are_the_same_in_json_end_as_json_ends_them(comes_back):
    assert comes_back(JSONSerializer(), {1: "a", "1": "b"}) == {"1": "b"}


@json_serializer
def test_the_order_of_keys_is_kept(comes_back, serializer):
    value = {"zebra": 1, "b": 2, "aa": 3}
    assert list(comes_back(serializer, value)) == list(value)


@binary_serializer
def test_other_output_stands_in_the_bytea_with_a_readable_preview(store, serializer):
    _, row = store(serializer, PLAIN)
    assert orjson.loads(row.columns["return_value"]) == PLAIN
    assert b"tpjx" in row.pickled
    assert orjson.loads(row.types) == {
        "v": 1,
        "serializer": f"taskiq:{named(serializer)}",
        "return_value": {"pickle": 0},
    }


@pytest.mark.parametrize(
    "value",
    [
        {1: (2, {3})},
        Invoice(7, datetime(2026, 1, 2, tzinfo=timezone.utc)),
        Colour.RED,
        Customer(name="Anna", since=datetime(2026, 1, 2, tzinfo=timezone.utc)),
        Decimal("1.50"),
        [math.inf, "\0\ud800"],
    ],
    ids=repr,
)
def test_pickle_gives_back_the_very_value(comes_back, value):
    back = comes_back(PickleSerializer(), value)
    assert back == value
    assert type(back) is type(value)


class Pair(NamedTuple):
    a: int
    b: int


class Doubled(Pair):
    def __new__(cls, a):
        return super().__new__(cls, a, a)


def local_model():
    class Local(pydantic.BaseModel):
        a: int

    return Local(a=3)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(Doubled(3), [3, 3]), (local_model(), {"a": 3}), ({"rows": [Doubled(3)]}, {"rows": [[3, 3]]})],
    ids=repr,
)
def test_what_pickle_refuses_is_plain_data_with_a_warning(comes_back, value, plain):
    with pytest.warns(DescribedValueWarning, match=r"PickleSerializer cannot hold .* plain data"):
        assert comes_back(PickleSerializer(), value) == plain


@dataclass
class Speechless:
    number: int = 3

    def __reduce__(self):
        raise SpeechlessError


class SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def test_a_refusal_without_text_stores_plain_data(comes_back):
    with pytest.warns(DescribedValueWarning, match="SpeechlessError whose str"):
        assert comes_back(PickleSerializer(), Speechless()) == {"number": 3}


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.DescribedValueWarning")
def test_refusals_without_text_are_an_encode_error():
    with pytest.raises(ResultEncodeError, match="SpeechlessError whose str"):
        as_result_serializer(RefusesSpeechlessly()).encode({"return_value": 1}, task_id="t")


@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_refuses_what_pickle_refuses():
    adapter = as_result_serializer(PickleSerializer())
    with pytest.raises(ResultEncodeError, match="plain data") as refused:
        adapter.encode({"return_value": Doubled(3)}, task_id="t")
    assert refused.value.path == "return_value"


@pytest.mark.filterwarnings("error")
def test_an_object_in_a_serializer_of_plain_data_gives_no_warning(comes_back):
    for serializer in (MSGPackSerializer(), CBORSerializer()):
        assert comes_back(serializer, [Colour.RED, Account("ada", 5)])


def test_a_secret_is_pickled_in_clear_beside_a_preview_without_it(store):
    _, row = store(PickleSerializer(), pydantic.SecretStr("t0ps3cret"))
    assert b"t0ps3cret" in row.pickled
    assert b"t0ps3cret" not in row.columns["return_value"]


def test_the_preview_of_a_pickle_can_be_searched(store):
    _, row = store(PickleSerializer(), Invoice(7, datetime(2026, 1, 2, tzinfo=timezone.utc)))
    assert orjson.loads(row.columns["return_value"]) == {"number": 7, "at": "2026-01-02T00:00:00Z"}


@pytest.mark.parametrize(
    "serializer", [s for s in EVERY_SERIALIZER if named(s) != "PickleSerializer"], ids=named
)
def test_what_a_serializer_refuses_is_stored_as_jsonable_data(comes_back, serializer):
    back = comes_back(
        serializer,
        [Customer(name="Anna", since=datetime(2026, 1, 2, tzinfo=timezone.utc)), Colour.RED],
    )
    assert back == [{"name": "Anna", "since": "2026-01-02T00:00:00Z"}, "red"]


@every_serializer
def test_what_nothing_can_hold_is_stored_as_its_repr_with_a_warning(comes_back, serializer):
    with pytest.warns(DescribedValueWarning, match="lock"):
        back = comes_back(serializer, {"kept": 1, "stuck": threading.Lock()})
    assert back["kept"] == 1
    assert "lock" in back["stuck"]


@pytest.mark.parametrize("serializer", [ORJSONSerializer(), MSGPackSerializer()], ids=named)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"a": [2**70, 1]}, {"a": [str(2**70), 1]}),
        (["\ud800", "b"], ["'\\ud800'", "b"]),
    ],
)
def test_the_parts_that_are_refused_as_json_too_are_described(comes_back, serializer, value, found):
    with pytest.warns(DescribedValueWarning, match=r"builtins\.(int|str)"):
        assert comes_back(serializer, value) == found


@pytest.mark.parametrize(
    "serializer", [*JSON_SERIALIZERS, JSONSerializer(default=str), OwnOrjson()], ids=named
)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (Account("ada", 500), {"owner": "ada", "_balance": 500}),
        ({"k": [Account("ada", 500)]}, {"k": [{"owner": "ada", "_balance": 500}]}),
        (Total(total=122), {"total": 122}),
        (User("ada", "hunter2"), {"name": "ada", "at": 2024}),
        ([User("ada", "hunter2")], [{"name": "ada", "at": 2024}]),
        (datetime(2024, 1, 1, tzinfo=timezone.utc), "2024-01-01T00:00:00Z"),
        ({None: 1}, {"None": 1}),
        ([Decimal("1.50"), frozenset([1])], ["1.50", [1]]),
        (range(0), "range(0, 0)"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.DescribedValueWarning")
def test_json_holds_what_taskiq_makes_of_objects(comes_back, serializer, value, found):
    assert comes_back(serializer, value) == found


@pytest.mark.parametrize("serializer", [MSGPackSerializer(), CBORSerializer()], ids=named)
def test_models_are_written_by_field_name(comes_back, serializer):
    assert comes_back(serializer, Total(total=122)) == {"total": 122}


@pytest.mark.skipif(
    "serialize_by_alias" not in pydantic.ConfigDict.__annotations__, reason="pydantic before 2.11"
)
@pytest.mark.parametrize("serializer", [*JSON_SERIALIZERS, MSGPackSerializer()], ids=named)
def test_a_model_that_asks_for_its_aliases_gets_them(comes_back, serializer):
    assert comes_back(serializer, [Wire(totalAmount=1)]) == [{"totalAmount": 1}]


@json_serializer
def test_a_generator_is_read_once(comes_back, serializer):
    with pytest.warns(DescribedValueWarning, match="lock"):
        back = comes_back(serializer, [(n for n in range(3)), threading.Lock(), 2**40])
    assert back[0] == [0, 1, 2]


@pytest.mark.parametrize(
    "serializer", [JSONSerializer(default=vars), ORJSONSerializer(default=vars)], ids=named
)
def test_a_default_is_asked_for_what_nobody_else_knows(comes_back, serializer):
    value = [Money(150), Account("ada", 500)]
    assert comes_back(serializer, value) == [{"cents": 150}, {"owner": "ada", "_balance": 500}]


def test_what_is_nested_deeper_than_taskiq_goes_comes_back(comes_back):
    value = []
    for _ in range(300):
        value = [value]
    assert comes_back(JSONSerializer(), value) == value


def test_what_has_no_plain_data_is_written_by_orjson_itself(comes_back):
    value = Invoice(7, datetime(2026, 1, 2, tzinfo=timezone.utc))
    del value.at
    assert comes_back(ORJSONSerializer(), [value]) == [{"number": 7}]


@pytest.mark.parametrize(
    ("name", "result"),
    [
        *((named(serializer), "[{'a': 1}, value]") for serializer in EVERY_SERIALIZER),
        ("ORJSONSerializer", "parts"),
    ],
)
def test_tuples_nested_too_deep_are_an_encode_error(name, result):
    # in a process of its own: orjson corrupts the memory of one in which it writes such tuples
    code = f"""
from taskiq.serializers import {name}
from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer.adapters import as_result_serializer

value = ()
parts = []  # each of which is in the next one
for _ in range(3_000):
    value = (value,)
    parts.append(value)
try:
    as_result_serializer({name}()).encode({{"return_value": {result}}}, task_id="t")
except ResultEncodeError as exc:
    print(exc.path)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    pickled = name == "PickleSerializer" and sys.version_info >= (3, 13)  # C may nest deeper
    assert ended.stdout == ("" if pickled else "return_value\n")


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.DescribedValueWarning")
def test_a_serializer_that_refuses_everything_is_an_encode_error():
    adapter = as_result_serializer(RefusesEverything())
    with pytest.raises(ResultEncodeError, match="not int") as caught:
        adapter.encode({"return_value": 1}, task_id="t7")
    assert (caught.value.task_id, caught.value.path) == ("t7", "return_value")


@pytest.mark.parametrize(
    "serializer", [s for s in EVERY_SERIALIZER if named(s) != "PickleSerializer"], ids=named
)
def test_a_cycle_is_an_encode_error(serializer):
    value = [1]
    value.append(value)
    with pytest.raises(ResultEncodeError) as caught:
        as_result_serializer(serializer).encode({"return_value": value}, task_id="t")
    assert caught.value.path == "return_value"


def test_pickle_gives_back_a_cycle(comes_back):
    value = [1]
    value.append(value)
    back = comes_back(PickleSerializer(), value)
    assert back[1] is back


@every_serializer
def test_an_error_is_stored_as_data(jsonb_roundtrip, serializer):
    adapter = as_result_serializer(serializer)
    exc = ValueError("no", (1, Decimal("2.5")))
    row = jsonb_roundtrip(adapter.encode({"return_value": None, "error": exc}, task_id="t"))
    assert orjson.loads(row.columns["error"])["type"] == "ValueError"
    back = adapter.decode(row, task_id="t")
    assert type(back["error"]) is ValueError
    assert back["error"].args == exc.args
    assert back["return_value"] is None


@every_serializer
def test_a_row_can_be_read_in_part(jsonb_roundtrip, serializer):
    adapter = as_result_serializer(serializer)
    columns = {"return_value": {"a": 1}, "args": [1, "x"], "kwargs": {}, "labels": {"q": 1}}
    row = jsonb_roundtrip(adapter.encode(columns, task_id="t"))
    assert adapter.decode(row, task_id="t") == columns
    for name, value in columns.items():
        part = EncodedRow({name: row.columns[name]}, row.types, row.pickled)
        assert adapter.decode(part, task_id="t") == {name: value}


def test_a_serializers_own_hooks_run(comes_back):
    assert comes_back(Hooked(), {"price": Decimal("1.50")}) == {"price": Decimal("1.50")}


@every_serializer
def test_plain_rows_of_another_serializer_are_read(store, serializer):
    _, row = store(None, {"a": [1, 2]})
    assert as_result_serializer(serializer).decode(row, task_id="t") == {
        "return_value": {"a": [1, 2]}
    }


@every_serializer
def test_typed_rows_of_the_json_serializer_are_read_as_they_were(store, serializer):
    value = {"at": datetime(2026, 1, 2, tzinfo=timezone.utc), "pair": (1, 2)}
    _, row = store(None, value)
    assert as_result_serializer(serializer).decode(row, task_id="t") == {"return_value": value}


@json_serializer
@pytest.mark.parametrize("reader", [None, *EVERY_SERIALIZER], ids=named)
def test_json_of_a_taskiq_serializer_is_read_by_all(store, serializer, reader):
    value = {"b": [1, -0.0, "\0"], "a": 1}
    _, row = store(serializer, value)
    assert as_result_serializer(reader).decode(row, task_id="t") == {"return_value": value}


@pytest.mark.parametrize("reader", [None, ORJSONSerializer(), CBORSerializer()], ids=named)
def test_bytes_of_another_serializer_name_the_one_that_is_needed(store, reader):
    _, row = store(MSGPackSerializer(), {"a": (1, 2)})
    with pytest.raises(ResultDecodeError, match="taskiq:MSGPackSerializer") as caught:
        as_result_serializer(reader).decode(row, task_id="t7")
    assert caught.value.task_id == "t7"
    assert caught.value.plain is not None


@binary_serializer
@pytest.mark.parametrize("damage", [b"", b"tpjx", b"garbage", None])
def test_damaged_bytes_are_a_decode_error(store, serializer, damage):
    adapter, row = store(serializer, PLAIN)
    with pytest.raises(ResultDecodeError):
        adapter.decode(EncodedRow(row.columns, row.types, damage), task_id="t")


@every_serializer
@pytest.mark.parametrize(
    "types", [b"{", b"[]", b'{"serializer": 1, "return_value": {"pickle": 9}}']
)
def test_a_damaged_sidecar_is_a_decode_error(store, serializer, types):
    adapter, row = store(serializer, PLAIN)
    with pytest.raises(ResultDecodeError):
        adapter.decode(EncodedRow(row.columns, types, row.pickled), task_id="t")


def test_a_pickle_is_never_read_by_a_json_serializer(store):
    _, row = store(PickleSerializer(), {"a": (1, 2)})
    with pytest.raises(ResultDecodeError):
        as_result_serializer(JSONSerializer()).decode(row, task_id="t")


@pytest.mark.parametrize("serializer", JSON_SERIALIZERS)
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"abc", "abc"),
        ({"k": ["\u00e9".encode(), (b"x",)]}, {"k": ["\u00e9", ["x"]]}),
        (b"\xff", "_w=="),
    ],
)
def test_bytes_are_text_as_taskiq_makes_them(comes_back, serializer, value, written):
    assert comes_back(serializer, value) == written


@pytest.mark.parametrize("key", [1, None, True, 2.5, ("a", "b")])
def test_a_dict_that_messagepack_writes_and_does_not_read_is_jsonable_data(comes_back, key):
    (text,) = pydantic_core.to_jsonable_python({key: 0})
    assert comes_back(MSGPackSerializer(), {key: ["value"]}) == {text: ["value"]}
