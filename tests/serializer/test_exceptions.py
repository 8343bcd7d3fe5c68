from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import copy
import enum
import functools
import gc
import json
import logging
import pickle
import smtplib
import subprocess
import sys
import threading
import traceback
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import ClassVar

import orjson
import psycopg
import pydantic
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError
from taskiq.exceptions import TaskiqResultTimeoutError

from taskiq_pg_json import JsonSerializer, TypeRegistry
from taskiq_pg_json.errors import RemoteError, ResultDecodeError
from taskiq_pg_json.serializer import exceptions, writing
from taskiq_pg_json.serializer.exceptions import state
from taskiq_pg_json.serializer.exceptions.fingerprint import generic_message
from taskiq_pg_json.serializer.protocol import EncodedRow

Group = getattr(builtins, "ExceptionGroup", None)
BaseGroup = getattr(builtins, "BaseExceptionGroup", None)

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with 3.11")
needs_notes = pytest.mark.skipif(sys.version_info < (3, 11), reason="add_note came with 3.11")


class PaymentError(Exception):
    """Its constructor cannot be called with its ``args``."""

    constructed = 0

    def __init__(self, order_id, *, amount, currency="EUR"):
        type(self).constructed += 1
        super().__init__(f"order {order_id} could not be paid")
        self.order_id = order_id
        self.amount = amount
        self.currency = currency


class SlottedError(ValueError):
    __slots__ = ("__private", "code")

    def __init__(self, code, private):
        super().__init__(code)
        self.code = code
        self.__private = private

    @property
    def private(self):
        return self.__private


class HostileError(Exception):
    """Everything that another author's class may do to whoever looks at it."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __getattribute__(self, name):
        raise RuntimeError(name)

    def __setattr__(self, name, value):
        raise RuntimeError(name)

    @property
    def args(self):
        raise RuntimeError("no args")


class FormError(Exception):
    """As Django's ``ValidationError``: one that is alone is a list of itself."""

    def __init__(self, message, code=None):
        super().__init__(message, code)
        if isinstance(message, list):
            self.error_list = [FormError(text) for text in message]
        else:
            self.message, self.code = message, code
            self.error_list = [self]

    def __str__(self):
        return repr([error.message for error in self.error_list])

    def __repr__(self):
        return f"FormError({self})"


@dataclass
class Context:
    error: BaseException
    held: object = None


class WatchedError(Exception):
    """Notes every call that rebuilding must not make."""

    calls: ClassVar[list[str]] = []

    def __new__(cls, *args):
        cls.calls.append("__new__")
        return super().__new__(cls, *args)

    def __init__(self, *args):
        self.calls.append("__init__")
        super().__init__(*args)

    def __setattr__(self, name, value):
        self.calls.append("__setattr__")
        super().__setattr__(name, value)

    def __setstate__(self, state):
        self.calls.append("__setstate__")

    def __reduce__(self):
        self.calls.append("__reduce__")
        return super().__reduce__()


class Mood(str, enum.Enum):
    GOOD = "good"


class Unreprable:
    def __repr__(self):
        raise ValueError("no repr")

    def __reduce__(self):
        raise ValueError("no pickle")


class Order(pydantic.BaseModel):
    number: int
    amount: int = pydantic.Field(gt=3)
    customer: str

    @pydantic.field_validator("customer")
    @classmethod
    def _known(cls, value):
        raise ValueError("nobody knows " + value)


class Discreet(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(hide_input_in_errors=True)
    card: int


class Peculiar(pydantic.BaseModel):
    size: int

    @pydantic.field_validator("size", mode="before")
    @classmethod
    def _never(cls, value):
        raise PydanticCustomError("shop_size", "{size} }{ is no size", {"size": value})


@pytest.fixture(scope="module")
def serializer():
    return JsonSerializer()


@pytest.fixture
def stored(serializer, jsonb_roundtrip):
    """Encodes an exception, stores it in real columns, and returns the row read back."""

    def store(exc):
        return jsonb_roundtrip(serializer.encode({"error": exc}, task_id="t"))

    return store


@pytest.fixture
def comes_back(serializer, stored):
    return lambda exc: serializer.decode(stored(exc), task_id="t")["error"]


@pytest.fixture
def as_json(stored):
    return lambda exc: orjson.loads(stored(exc).columns["error"])


def raised(exc, cause=None):
    if cause is not None:
        exc.__cause__ = cause
    with pytest.raises(type(exc)) as caught:
        raise exc
    return caught.value


def formatted(exc):
    return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__))


def same_error(one, other, seen=()):
    """Whether nothing that a user sees tells the two apart, their frames aside."""
    if one is None or other is None or id(one) in seen:
        return one is other or id(one) in seen
    seen = (*seen, id(one))
    return (
        type(one) is type(other)
        and str(one) == str(other)
        and repr(one) == repr(other)
        and getattr(one, "__notes__", None) == getattr(other, "__notes__", None)
        and one.__suppress_context__ == other.__suppress_context__
        and same_error(one.__cause__, other.__cause__, seen)
        and same_error(one.__context__, other.__context__, seen)
        and {k: repr(v) for k, v in vars(one).items()}
        == {k: repr(v) for k, v in vars(other).items()}
        and len(getattr(one, "exceptions", ())) == len(getattr(other, "exceptions", ()))
        and all(
            same_error(a, b, seen)
            for a, b in zip(
                getattr(one, "exceptions", ()), getattr(other, "exceptions", ()), strict=True
            )
        )
    )


BUILTINS = [
    ValueError(),
    ValueError("one", 2, ("three", 4.0)),
    KeyError("k"),
    OSError("only text"),
    OSError(None, None),
    FileNotFoundError(2, "No such file", "/etc/nothing"),
    OSError(18, "Cross-device link", "a", None, "b"),
    BlockingIOError(11, "try again", 3),
    ConnectionResetError(104, "reset"),
    UnicodeDecodeError("utf-8", b"\xff\x00", 0, 1, "invalid start byte"),
    UnicodeEncodeError("ascii", "\ud800\u1234", 1, 2, "not ASCII"),
    UnicodeTranslateError("\u1234", 0, 1, "no"),
    StopIteration(3),
    StopAsyncIteration(3),
    SystemExit(2),
    SystemExit("bye"),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("timeout"),
    asyncio.IncompleteReadError(b"ab", 5),
    TimeoutError("late"),
    ImportError("no module", name="shop", path="/srv/shop.py"),
    ModuleNotFoundError("no module", name="shop"),
    SyntaxError("bad", ("shop.py", 3, 7, "x = = 1", 3, 8)),
    AttributeError("no such attribute", name="price", obj=None),
    NameError("not defined", name="price"),
    RecursionError("deep"),
    NotImplementedError(),
    UserWarning("careful"),
    json.JSONDecodeError("Expecting value", '{"a": }', 6),
    concurrent.futures.BrokenExecutor("gone"),
]


@pytest.mark.parametrize("exc", BUILTINS, ids=lambda exc: type(exc).__name__)
def test_a_built_in_exception_comes_back_as_it_was(comes_back, exc):
    back = comes_back(exc)
    assert same_error(back, exc)
    assert back.args == exc.args


@pytest.mark.parametrize(
    ("exc", "names"),
    [
        (FileNotFoundError(2, "No such file", "f"), ["errno", "strerror", "filename", "filename2"]),
        (OSError(18, "x", "a", None, "b"), ["filename", "filename2"]),
        (BlockingIOError(11, "again", 3), ["characters_written"]),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "r"), ["encoding", "object", "start", "end"]),
        (StopIteration(3), ["value"]),
        (SystemExit(4), ["code"]),
        (ImportError("m", name="n", path="p"), ["msg", "name", "path"]),
        (SyntaxError("bad", ("f", 1, 2, "t")), ["msg", "filename", "lineno", "offset", "text"]),
        (AttributeError("m", name="n", obj="text"), ["name", "obj"]),
        (NameError("m", name="n"), ["name"]),
        (json.JSONDecodeError("m", "doc", 1), ["msg", "doc", "pos", "lineno", "colno"]),
    ],
)
def test_what_an_exception_keeps_in_c_comes_back(comes_back, exc, names):
    back = comes_back(exc)
    assert [getattr(back, name) for name in names] == [getattr(exc, name) for name in names]


def test_the_object_of_an_attribute_error_is_kept_only_when_it_is_plain(comes_back, as_json):
    exc = AttributeError("no", name="price", obj=threading.Lock())
    assert "obj" not in as_json(exc)["attrs"]
    assert comes_back(exc).name == "price"


def test_a_custom_constructor_is_not_called(comes_back):
    exc = PaymentError(7, amount=Decimal("9.90"))
    before = PaymentError.constructed
    back = comes_back(exc)
    assert PaymentError.constructed == before
    assert type(back) is PaymentError
    assert str(back) == "order 7 could not be paid"
    assert (back.order_id, back.amount, back.currency) == (7, Decimal("9.90"), "EUR")


def test_no_code_of_the_class_runs(comes_back):
    exc = WatchedError(1, 2)
    exc.extra = datetime(2026, 1, 2, tzinfo=timezone.utc)
    WatchedError.calls.clear()
    back = comes_back(exc)
    assert WatchedError.calls == []
    assert (back.args, back.extra) == ((1, 2), exc.extra)


def test_slots_come_back(comes_back):
    back = comes_back(SlottedError({1, 2}, Decimal("1.50")))
    assert (back.code, back.private) == ({1, 2}, Decimal("1.50"))


def test_an_unset_slot_stays_unset(comes_back):
    exc = SlottedError(1, 2)
    del exc.code
    assert not hasattr(comes_back(exc), "code")


def test_typed_arguments_and_attributes_come_back(comes_back):
    exc = ValueError((1, 2), {3}, uuid.UUID(int=5))
    exc.at = datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc)
    back = comes_back(exc)
    assert back.args == exc.args
    assert back.at == exc.at


class ReplyError(OSError):
    """As smtplib's ``SMTPResponseException``: sets ``args`` by itself."""

    def __init__(self, *args):
        self.args = args


class AnyArgumentsError(OSError):
    def __init__(self, *args):
        super().__init__(None, None)
        self.args = args


@pytest.mark.parametrize(
    "exc",
    [
        smtplib.SMTPAuthenticationError(535, b"5.7.8 Bad credentials"),
        smtplib.SMTPSenderRefused(550, b"no", "a@example.com"),
        smtplib.SMTPRecipientsRefused({"a@example.com": (550, b"no")}),
        smtplib.SMTPServerDisconnected("gone"),
        ReplyError(535, "no"),
        ReplyError(None, None),
        ReplyError("only text"),
        ReplyError(),
        AnyArgumentsError(1, 2, 3),
        AnyArgumentsError(),
        OSError(None, None),
        OSError(5, None),
        OSError(None, "text"),
        OSError(None, None, "name"),
    ],
    ids=lambda exc: f"{type(exc).__name__}{exc.args!r:.20}",
)
def test_an_os_error_says_what_it_said_whoever_set_its_arguments(comes_back, exc):
    back = comes_back(exc)
    assert same_error(back, exc)
    assert (back.args, back.errno, back.strerror) == (exc.args, exc.errno, exc.strerror)
    assert back.filename == exc.filename


def test_an_os_error_whose_arguments_have_no_text_keeps_its_attributes(comes_back):
    exc = ReplyError(Panicking(), Unreprable())
    exc.code = 535
    back = comes_back(exc)
    assert (type(back), back.code, back.errno) == (ReplyError, 535, None)


class Counted:
    def __init__(self):
        self.asked = 0

    def __str__(self):
        self.asked += 1
        return "text"


def asked_for_text(exc):
    exc.args[0].asked = 0
    state.read_state(exc)
    return exc.args[0].asked


def test_an_os_error_asks_its_argument_for_text_once_at_most():
    assert asked_for_text(OSError(Counted())) == 1
    assert asked_for_text(ValueError(Counted())) == asked_for_text(OSError(Counted(), "text")) == 0


def test_an_os_error_whose_text_looks_like_a_number_and_its_name_has_neither(comes_back):
    back = comes_back(OSError("[Errno 5] text"))
    assert (str(back), back.args) == ("[Errno 5] text", ("[Errno 5] text",))


def test_taskiqs_own_errors_come_back(comes_back):
    back = comes_back(TaskiqResultTimeoutError(timeout=1.5))
    assert back.timeout == 1.5
    assert str(back) == str(TaskiqResultTimeoutError(timeout=1.5))


@needs_notes
def test_notes_come_back(comes_back, as_json):
    exc = ValueError("x")
    exc.add_note("while charging order 7")
    exc.add_note("\0 and \ud800")
    assert comes_back(exc).__notes__ == exc.__notes__
    assert as_json(exc)["notes"][0] == "while charging order 7"


def test_an_exception_without_notes_gets_none(comes_back):
    assert not hasattr(comes_back(ValueError("x")), "__notes__")


def test_a_cause_comes_back_and_is_the_context_too(comes_back, as_json):
    try:
        try:
            {}["sku"]
        except KeyError as cause:
            raise PaymentError(1, amount=2) from cause
    except PaymentError as caught:
        exc = caught
    back = comes_back(exc)
    assert type(back.__cause__) is KeyError
    assert back.__context__ is back.__cause__
    assert back.__suppress_context__
    assert as_json(exc).keys().isdisjoint({"context", "suppress_context"})


def test_a_cause_without_a_context_comes_back_without_one(comes_back):
    exc = raised(ValueError("x"), cause=KeyError("k"))
    exc.__context__ = None
    back = comes_back(exc)
    assert type(back.__cause__) is KeyError
    assert back.__context__ is None


def test_a_context_comes_back(comes_back):
    try:
        try:
            {}["sku"]
        except KeyError:
            raise ValueError("x")  # noqa: B904 - the context alone is wanted
    except ValueError as caught:
        exc = caught
    back = comes_back(exc)
    assert same_error(back, exc)
    assert back.__cause__ is None
    assert not back.__suppress_context__


@pytest.mark.parametrize("suppressed", [True, False])
def test_suppress_context_comes_back(comes_back, suppressed):
    exc = raised(ValueError("x"), cause=KeyError("k"))
    exc.__suppress_context__ = suppressed
    assert comes_back(exc).__suppress_context__ is suppressed
    alone = ValueError("x")
    alone.__suppress_context__ = suppressed
    assert comes_back(alone).__suppress_context__ is suppressed


def test_a_cycle_comes_back_as_a_cycle(comes_back, as_json):
    one, other = ValueError("one"), KeyError("other")
    one.__context__, other.__context__ = other, one
    back = comes_back(one)
    assert back.__context__.__context__ is back
    assert as_json(one)["context"]["context"] == {"same_as": "$"}


def test_an_error_met_twice_is_stored_once_and_comes_back_as_one(comes_back, stored):
    exc = root = ValueError("root")
    for depth in range(40):
        outer = KeyError(depth)
        outer.__cause__, outer.__context__ = exc, ValueError("aside")
        outer.__context__.__context__ = exc
        exc = outer
    assert len(stored(exc).columns["error"]) < 20_000
    back = comes_back(exc)
    assert back.__cause__ is back.__context__.__context__
    assert str(root) == "root"


def test_a_very_long_chain_is_cut_and_says_so(comes_back, as_json):
    exc = None
    for number in range(5000):
        outer = ValueError(number)
        outer.__context__ = exc
        exc = outer
    back, plain, links = comes_back(exc), as_json(exc), 0
    while back is not None:
        last, back, links = back, back.__context__, links + 1
        plain = plain.get("context", plain)
    assert links > 25
    assert plain["truncated"] is True
    assert str(last) == plain["message"] == str(5000 - links)


@needs_groups
@pytest.mark.parametrize("members", [list, tuple])
def test_a_group_comes_back_with_its_members(comes_back, as_json, members):
    inner = Group("inner", members([raised(PaymentError(1, amount=2)), KeyError("k")]))
    exc = raised(Group("outer", members([inner, TimeoutError()])))
    back = comes_back(exc)
    assert same_error(back, exc)
    assert type(back.args[1]) is members
    assert back.args[1][0] is back.exceptions[0]
    plain = as_json(exc)
    assert plain["args"][0] == "outer"
    assert [child["type"] for child in plain["children"]] == ["ExceptionGroup", "TimeoutError"]
    matched, rest = back.split(PaymentError)
    assert matched.exceptions[0].exceptions[0].amount == 2
    assert len(rest.exceptions) == 2


@needs_groups
def test_a_base_group_comes_back(comes_back):
    exc = BaseGroup("g", [KeyboardInterrupt(), SystemExit(1)])
    back = comes_back(exc)
    assert type(back) is BaseGroup
    assert same_error(back, exc)


if sys.version_info >= (3, 11):

    class BatchError(Group):
        """A group whose constructor is its own."""

        def __new__(cls, members, batch):
            self = super().__new__(cls, f"batch {batch}", members)
            self.batch = batch
            return self

        def __init__(self, members, batch):
            super().__init__(members, batch)


@needs_groups
def test_a_group_with_its_own_constructor_comes_back(comes_back):
    exc = BatchError([ValueError(1), ValueError(2)], 7)
    back = comes_back(exc)
    assert type(back) is BatchError
    assert (back.message, back.batch, len(back.exceptions)) == ("batch 7", 7, 2)
    assert str(back) == str(exc)


@needs_groups
def test_a_member_that_is_also_the_cause_stays_one_object(comes_back):
    member = ValueError("both")
    exc = raised(Group("g", [member]), cause=member)
    back = comes_back(exc)
    assert back.exceptions[0] is back.__cause__


async def test_a_task_group_failure_comes_back(comes_back):
    if sys.version_info < (3, 11):
        pytest.skip("TaskGroup came with 3.11")

    async def fail():
        raise PaymentError(1, amount=2)

    with pytest.raises(BaseGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
    assert same_error(comes_back(caught.value), caught.value)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (Order, {"number": "x", "amount": 1, "customer": "me"}),
        (Order, {"number": None}),
        (Peculiar, {"size": {"size": "}{"}}),
    ],
)
def test_a_validation_error_comes_back(comes_back, model, data):
    with pytest.raises(pydantic.ValidationError) as caught:
        model(**data)
    back = comes_back(caught.value)
    assert type(back) is pydantic.ValidationError
    assert str(back) == str(caught.value)
    assert [e["input"] for e in back.errors()] == [e["input"] for e in caught.value.errors()]
    assert [e["loc"] for e in back.errors()] == [e["loc"] for e in caught.value.errors()]


class Listing(pydantic.BaseModel):
    numbers: list[int]
    by_name: dict[str, int] = {}
    order: Order | None = None


@pytest.mark.parametrize(
    "text",
    [
        '{"numbers": {}}',
        '{"numbers": [], "by_name": []}',
        '{"numbers": ["x"], "by_name": {"a": null}, "order": 1}',
        '{"numbers": "x", "order": {"number": 1, "amount": 9, "customer": "me"}}',
        "{bad",
        "[]",
    ],
)
def test_a_validation_error_about_json_comes_back(comes_back, text):
    with pytest.raises(pydantic.ValidationError) as caught:
        Listing.model_validate_json(text)
    back = comes_back(caught.value)
    assert str(back) == str(caught.value)
    assert [e["msg"] for e in back.errors()] == [e["msg"] for e in caught.value.errors()]


def test_an_input_that_a_model_hides_does_not_reach_the_database(comes_back, stored):
    number = f"4111-{1111}"
    with pytest.raises(pydantic.ValidationError) as caught:
        Discreet(card=number)
    assert number.encode() not in stored(caught.value).columns["error"]
    assert str(comes_back(caught.value)) == str(caught.value)


def test_an_error_of_postgresql_comes_back_with_its_diagnostics(comes_back, as_json, admin):
    admin.execute("CREATE TEMPORARY TABLE taken (id int CONSTRAINT only_once PRIMARY KEY)")
    admin.execute("INSERT INTO taken VALUES (1)")
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        admin.execute("INSERT INTO taken VALUES (1)")
    exc = caught.value
    back = comes_back(exc)
    assert type(back) is psycopg.errors.UniqueViolation
    assert (str(back), back.sqlstate) == (str(exc), "23505")
    assert back.diag.constraint_name == "only_once"
    assert back.diag.message_detail == exc.diag.message_detail
    assert back.pgresult is None
    assert as_json(exc)["attrs"]["diag"]["constraint_name"] == "only_once"


def test_an_exception_in_a_value_comes_back(serializer, jsonb_roundtrip):
    value = [{"failed": raised(PaymentError(1, amount=2))}, KeyError("k")]
    row = jsonb_roundtrip(serializer.encode({"return_value": value}, task_id="t"))
    back = serializer.decode(row, task_id="t")["return_value"]
    assert same_error(back[0]["failed"], value[0]["failed"])
    assert same_error(back[1], value[1])


@pytest.mark.parametrize(
    "value",
    [
        {("\ud800",): None},
        {("a\0",): "\ud800", 1: [{(2, "\udfff"): 3}]},
        [{("\ud800", number): number} for number in range(20)],
        {"nested": {frozenset({"\ud800"}): {("\ud800",): 1}}},
    ],
)
@pytest.mark.parametrize("column", ["return_value", "error"])
def test_text_that_needs_care_in_the_keys_of_an_argument_comes_back(value, column, jsonb_roundtrip):
    serializer = JsonSerializer()
    row = jsonb_roundtrip(serializer.encode({column: ValueError(value)}, task_id="t"))
    assert serializer.decode(row, task_id="t")[column].args == (value,)


@pytest.mark.parametrize("behind", [False, True])
def test_the_registered_name_of_an_error_stands_in_the_row_for_good(jsonb_roundtrip, behind):
    before, after = TypeRegistry(), TypeRegistry()
    before.register(SlottedError, name="slotted")
    moved = type("MovedError", (ValueError,), {"__slots__": ("_SlottedError__private", "code")})
    after.register(moved, name="slotted")
    exc = SlottedError(1, "private")
    error = raised(ValueError("x"), cause=exc) if behind else exc
    row = jsonb_roundtrip(JsonSerializer(before).encode({"error": error}, task_id="t"))

    def read(registry):
        back = JsonSerializer(registry).decode(row, task_id="t")["error"]
        return back.__cause__ if behind else back

    assert type(read(before)) is SlottedError
    assert type(read(after)) is moved
    assert read(after).code == 1
    unknown = read(TypeRegistry())
    assert isinstance(unknown, RemoteError)
    assert unknown.type_name == "test_exceptions.SlottedError"


def test_an_error_that_was_stored_before_it_was_registered_is_read(jsonb_roundtrip):
    row = jsonb_roundtrip(JsonSerializer().encode({"error": SlottedError(1, "x")}, task_id="t"))
    registry = TypeRegistry()
    registry.register(SlottedError, name="slotted")
    back = JsonSerializer(registry).decode(row, task_id="t")["error"]
    assert (type(back), back.code) == (SlottedError, 1)


def test_an_error_of_a_class_with_a_codec_is_stored_as_an_error(jsonb_roundtrip):
    registry = TypeRegistry()
    registry.register(
        SlottedError,
        name="slotted",
        encode=lambda exc: {"code": exc.code},
        decode=lambda data: SlottedError(data["code"], "decoded"),
    )
    serializer = JsonSerializer(registry)
    exc = raised(SlottedError(1, "private"), cause=SlottedError(2, "cause"))
    row = jsonb_roundtrip(serializer.encode({"error": exc, "return_value": exc}, task_id="t"))
    assert orjson.loads(row.columns["error"])["type"] == "SlottedError"
    assert orjson.loads(row.columns["return_value"]) == {"code": 1}
    back = serializer.decode(row, task_id="t")
    assert (back["error"].private, back["error"].__cause__.private) == ("private", "cause")
    assert (back["return_value"].code, back["return_value"].private) == (1, "decoded")


@pytest.mark.parametrize("make", [ValueError, OSError, SlottedError, StopIteration])
def test_an_exception_that_holds_itself_comes_back_as_one_object(comes_back, make):
    exc = make("self", "private") if make is SlottedError else make("self")
    exc.args = ("self", exc)
    exc.me = exc
    exc.errors, exc.by_name, exc.context = [exc], {("a", 1): exc}, Context(exc, held={exc})
    exc.__notes__ = [exc]
    if make is SlottedError:
        exc.code = (exc,)
    back = comes_back(raised(exc))
    assert type(back) is make
    assert back.args == ("self", back)
    assert back.me is back
    assert (back.errors, back.by_name) == ([back], {("a", 1): back})
    assert back.context == Context(back, held={back})
    assert back.__notes__ == [back]
    if make is SlottedError:
        assert (back.code, back.private) == ((back,), "private")


class HashedError(Exception):
    def __hash__(self):
        return hash(self.args[0])

    def __eq__(self, other):
        return type(other) is HashedError and self.args[0] == other.args[0]


class CodeError(Exception):
    def __init__(self, code):
        super().__init__(code)
        self.code = code

    def __hash__(self):
        return hash(self.code)

    def __eq__(self, other):
        return type(other) is CodeError and self.code == other.code


@pytest.mark.parametrize("beside", [(), ("self",)], ids=["attributes", "arguments too"])
def test_an_error_is_found_in_a_set_that_it_holds_by_the_hash_of_its_arguments(comes_back, beside):
    exc = HashedError("k")
    exc.args += tuple(exc for _ in beside)
    exc.seen, exc.marks = {exc}, {exc: 1}
    back = comes_back(exc)
    assert type(back) is HashedError
    assert back in back.seen
    assert back.marks[back] == 1


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
def test_a_set_whose_error_has_its_hash_of_an_attribute_comes_back_as_a_list(comes_back):
    exc = CodeError("k")
    exc.seen, exc.marks = {exc}, {exc: 1}
    back = comes_back(exc)
    assert (type(back), back.code, back.seen) == (CodeError, "k", [back])
    assert list(back.marks.values()) == [1]
    assert isinstance(next(iter(back.marks)), str)


@pytest.mark.parametrize("column", ["error", "return_value"])
def test_errors_that_are_lists_of_themselves_come_back(serializer, jsonb_roundtrip, column):
    def comes_back(exc):
        row = jsonb_roundtrip(serializer.encode({column: exc}, task_id="t"))
        return serializer.decode(row, task_id="t")[column]

    alone, several = FormError("bad", "c"), FormError(["too long", "too odd"])
    back = comes_back(alone)
    assert same_error(back, alone)
    assert back.error_list[0] is back
    back = comes_back(several)
    assert same_error(back, several)
    assert [error.error_list == [error] for error in back.error_list] == [True, True]


def test_where_an_error_stands_that_is_met_inside_itself_can_be_read(as_json):
    exc, other = raised(ValueError("x"), cause=KeyError("k")), LookupError("other")
    exc.me, exc.other = exc, other
    other.back, exc.__cause__.held = [exc], {"by": exc, "self": exc.__cause__}
    plain = as_json(exc)
    assert plain["attrs"]["me"] == {"same_as": "$"}
    assert plain["attrs"]["other"]["attrs"] == {"back": [{"same_as": "$", "outer": 1}]}
    assert plain["cause"]["attrs"]["held"] == {
        "by": {"same_as": "$"},
        "self": {"same_as": "$.cause"},
    }


def test_errors_that_hold_each_other_come_back_as_they_were(comes_back):
    one, two, three = ValueError(1), KeyError(2), LookupError(3)
    one.next, two.next, three.next = two, [three], Context(one, held=(two, three))
    three.__cause__, three.__context__ = one, two
    back = comes_back(one)
    second = back.next
    (third,) = second.next
    assert (type(back), type(second), type(third)) == (ValueError, KeyError, LookupError)
    assert (third.next.error, third.next.held) == (back, (second, third))
    assert (third.__cause__, third.__context__) == (back, second)


def test_a_cause_may_hold_the_error_that_it_is_the_cause_of(comes_back):
    exc = raised(ValueError("x"), cause=raised(KeyError("k"), cause=LookupError("l")))
    exc.__cause__.raised, exc.__cause__.__cause__.raised = [exc], (exc.__cause__, exc)
    back = comes_back(exc)
    cause = back.__cause__
    assert cause.raised == [back]
    assert cause.__cause__.raised == (cause, back)


def test_an_error_that_is_held_twice_and_not_by_itself_comes_back_twice(comes_back):
    shared, exc = ValueError("shared"), KeyError("k")
    shared.me = shared
    exc.one, exc.two = shared, shared
    back = comes_back(exc)
    assert (back.one.me, back.two.me) == (back.one, back.two)
    assert same_error(back.one, back.two)


@needs_groups
@pytest.mark.parametrize("message", ["g", "nul \0"])
def test_a_group_that_its_members_and_itself_hold_comes_back(comes_back, message):
    member, inner_member = ValueError("m"), KeyError("k")
    inner = Group("inner", (inner_member,))
    exc = raised(Group(message, [member, inner]))
    exc.me, inner.me = exc, [inner]
    member.group, inner_member.groups = exc, {"inner": inner, "outer": exc}
    exc.another = Group("another", [exc, member])
    back = comes_back(exc)
    first, second = back.exceptions
    assert same_error(back, exc)
    assert back.args == (message, [first, second])
    assert (back.me, second.me, first.group) == (back, [second], back)
    assert second.exceptions[0].groups == {"inner": second, "outer": back}
    assert back.another.exceptions[0] is back


@needs_groups
@pytest.mark.parametrize("message", ["g", "nul \0", Mood.GOOD])
@pytest.mark.parametrize("members", [list, tuple])
@pytest.mark.parametrize("place", ["args", "attrs"])
def test_the_message_of_a_group_that_holds_itself_comes_back_as_it_was(
    comes_back, message, members, place
):
    exc = Group(message, members([ValueError(1)]))
    if place == "attrs":
        exc.args = (message, "another")  # not its own: the message is stored apart
    exc.exceptions[0].group = exc
    back = comes_back(exc)
    assert type(back) is Group
    assert (back.message, type(back.message)) == (message, type(message))
    assert back.args[0] == message
    assert back.exceptions[0].group is back


@needs_groups
def test_a_group_with_its_own_constructor_that_holds_itself_comes_back(comes_back):
    exc = BatchError([ValueError(1)], 7)
    exc.me = exc.exceptions[0].batch_error = exc
    back = comes_back(exc)
    assert type(back) is BatchError
    assert (back.message, back.batch) == ("batch 7", 7)
    assert back.me is back.exceptions[0].batch_error is back


def test_a_validation_error_that_holds_itself_is_stored(comes_back):
    with pytest.raises(pydantic.ValidationError) as caught:
        Order(number="x")
    caught.value.me = caught.value
    back = comes_back(caught.value)
    assert (type(back), str(back)) == (pydantic.ValidationError, str(caught.value))
    assert type(back.me).__name__ == "ValidationError"


@needs_groups
@pytest.mark.filterwarnings("ignore")
def test_an_error_of_an_unknown_class_that_holds_itself_comes_back_as_one_object(comes_back):
    class LostError(Group):
        pass

    exc, group = local_class()("gone"), LostError("lost", [ValueError(1)])
    exc.errors, group.me, exc.group = [exc], group, group
    group.exceptions[0].group = group
    back = comes_back(exc)
    assert isinstance(back, RemoteError)
    assert back.errors == [back]
    assert back.plain["attrs"]["errors"] == [{"same_as": "$"}]
    assert isinstance(back.group, RemoteError)
    assert back.group.me is back.group.exceptions[0].group is back.group


def test_an_error_that_holds_itself_in_a_value_comes_back(serializer, jsonb_roundtrip):
    exc = raised(ValueError("x"))
    exc.context = Context(exc)
    value = {"rows": [{"failed": exc, "at": index} for index in range(40)], "error": exc}
    row = jsonb_roundtrip(serializer.encode({"return_value": value, "args": [exc]}, task_id="t"))
    back = serializer.decode(row, task_id="t")
    for error in [*(r["failed"] for r in back["return_value"]["rows"]), *back["args"]]:
        assert type(error) is ValueError
        assert error.context.error is error
        assert same_error(error, exc)


@pytest.mark.parametrize("nested", [70, 200])
@pytest.mark.filterwarnings("ignore")
def test_an_error_that_holds_itself_at_the_end_of_deep_nesting_is_stored(comes_back, nested):
    exc = ValueError("x")
    exc.held = functools.reduce(lambda value, _: [value], range(nested), exc)
    exc.me = exc
    back = comes_back(exc)
    assert (type(back), str(back)) == (ValueError, "x")


def test_what_an_error_held_before_it_could_be_referred_to_is_read(serializer, stored):
    exc = FormError("bad", "c")
    row = stored(exc)
    plain = orjson.loads(row.columns["error"])
    outline = {"type": "FormError", "module": __name__, "message": "['bad']", "truncated": True}
    plain["attrs"]["error_list"] = [outline]
    back = serializer.decode(EncodedRow({"error": orjson.dumps(plain)}, row.types), task_id="t")
    (inner,) = back["error"].error_list
    assert (type(inner), inner.args) == (FormError, ("['bad']",))


@pytest.mark.filterwarnings("ignore")
def test_what_does_not_encode_is_stored_as_its_repr(comes_back):
    lock = threading.Lock()
    exc = ValueError("stuck", lock, {"deep": [lock, Decimal("1.5")]})
    exc.gone, exc.kept = Unreprable(), {1, 2}
    back = comes_back(exc)
    assert back.args[0] == "stuck"
    assert "lock" in back.args[1]
    assert "lock" in back.args[2]["deep"][0]
    assert back.args[2]["deep"][1] == Decimal("1.5")
    assert "Unreprable" in back.gone
    assert back.kept == {1, 2}


class Named(str):
    __slots__ = ()

    def replace(self, *_args):
        raise RuntimeError("not to be changed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("held", "keys"),
    [
        ({Mood.GOOD: threading.Lock()}, ["good"]),
        ({Named("a"): threading.Lock()}, ["a"]),
        ({"a\ud800": threading.Lock()}, ["a\\ud800"]),
        ({"a\0": threading.Lock()}, ["a\\x00"]),
        ({1: threading.Lock(), "1": "kept"}, ["1", "1 (2)"]),
        ({b"\0": {Mood.GOOD: threading.Lock()}}, ["b'\\x00'"]),
    ],
    ids=["enum", "subclass", "surrogate", "nul", "equal text", "nested"],
)
def test_the_keys_beside_what_does_not_encode_are_text_that_jsonb_holds(comes_back, held, keys):
    exc = ValueError("x", held)
    exc.details = held
    back = comes_back(exc)
    assert sorted(back.args[1]) == sorted(back.details) == keys
    assert all(type(key) is str for key in back.details)
    assert held.get("1") == back.details.get("1 (2)")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["a\ud800", "a\0"])
def test_an_attribute_of_any_name_is_stored(comes_back, name):
    exc = ValueError("x")
    vars(exc)[name] = threading.Lock()
    assert type(comes_back(exc)) is ValueError


class Panicking:
    def __repr__(self):
        raise samples.PanicError("no repr")

    def __reduce__(self):
        raise samples.PanicError("no pickle")


class PanickingError(Exception):
    def __str__(self):
        raise samples.PanicError("no text")


class Nameless(type):
    def __getattribute__(cls, name):
        if name in {"__module__", "__qualname__", "__name__"}:
            raise RuntimeError("no name")
        return type.__getattribute__(cls, name)

    def __hash__(cls):
        raise RuntimeError("no hash")


@pytest.mark.parametrize("make", [ValueError, PanickingError])
def test_a_panic_while_an_error_is_described_does_not_keep_it_from_being_stored(comes_back, make):
    exc = raised(make(Panicking()))
    exc.held = {"deep": [Panicking(), Decimal("1.5")]}
    back = comes_back(exc)
    assert type(back) is make
    assert "Panicking" in back.args[0]
    assert back.held["deep"][1] == Decimal("1.5")


def test_a_validation_error_that_makes_its_library_panic_is_stored(comes_back):
    class Titled(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(title="t\ud800")
        size: int

    with pytest.raises(pydantic.ValidationError) as caught:
        Titled(size="a")
    assert type(comes_back(caught.value)).__name__ == "ValidationError"


def test_an_interrupt_is_not_kept_from_the_process(serializer):
    class Interrupted:
        def __repr__(self):
            raise KeyboardInterrupt

        __reduce__ = __repr__

    with pytest.raises(KeyboardInterrupt):
        serializer.encode({"error": ValueError(Interrupted())}, task_id="t")


def test_an_error_of_a_class_that_will_not_say_its_name_is_stored(as_json):
    exc = raised(Nameless("Odd", (Exception,), {})("x"))
    assert as_json(exc)["message"] == "x"


def test_whatever_its_description_holds_an_outline_is_stored(
    serializer, jsonb_roundtrip, monkeypatch
):
    def badly(exc, *_args):
        return {"type": type(exc).__name__, "message": "a\0"}, "exception:builtins:ValueError"

    monkeypatch.setattr(exceptions, "encode_exception", badly)
    monkeypatch.setattr(writing, "describe_exception", badly)
    row = jsonb_roundtrip(serializer.encode({"error": ValueError("x")}, task_id="t"))
    back = serializer.decode(row, task_id="t")["error"]
    assert (type(back), str(back)) == (ValueError, "x")


def test_a_hostile_class_is_stored(comes_back):
    back = comes_back(HostileError(1))
    assert type(back) is HostileError
    assert BaseException.__dict__["args"].__get__(back) == (1,)


def test_an_error_raised_where_the_stack_ends_is_stored(comes_back):
    def recurse(depth):
        return recurse(depth + 1)

    with pytest.raises(RecursionError) as caught:
        recurse(0)
    assert same_error(comes_back(caught.value), caught.value)


@pytest.mark.parametrize("text", ["nul \0", "lone \ud800", "x" * 1_000_000])
def test_any_message_is_stored(comes_back, text):
    back = comes_back(raised(ValueError(text)))
    assert str(back) == text


@pytest.mark.filterwarnings("ignore")
def test_many_arguments_of_which_one_does_not_encode_are_cut(comes_back):
    back = comes_back(ValueError(*range(500), threading.Lock()))
    assert back.args == tuple(range(100))


@pytest.mark.parametrize("max_bytes", [5_000, 100_000])
def test_an_error_too_large_for_its_row_is_cut_short(max_bytes):
    serializer = JsonSerializer(max_bytes=max_bytes)
    exc = raised(PaymentError("x" * 200_000, amount=[1, 2]), cause=KeyError("sku"))
    exc.payload = b"y" * 200_000
    row = serializer.encode({"error": exc, "args": [1]}, task_id="t")
    assert len(row.columns["error"]) < 100_000
    back = serializer.decode(row, task_id="t")["error"]
    assert type(back) is PaymentError
    assert str(back).startswith("order xxxx")


def test_the_json_is_what_a_person_would_write(as_json):
    plain = as_json(raised(PaymentError(7, amount=Decimal("9.90"))))
    text, fingerprint = plain.pop("traceback"), plain.pop("fingerprint")
    assert plain == {
        "type": "PaymentError",
        "module": "test_exceptions",
        "message": "order 7 could not be paid",
        "args": ["order 7 could not be paid"],
        "attrs": {"order_id": 7, "amount": "9.90", "currency": "EUR"},
    }
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.endswith("\ntest_exceptions.PaymentError: order 7 could not be paid\n")
    assert len(fingerprint) == 16


def charge():
    raise PaymentError(7, amount=1)


def test_the_remote_frames_are_seen_when_it_is_raised_again(comes_back):
    with pytest.raises(PaymentError) as caught:
        charge()
    back = comes_back(caught.value)
    text = formatted(raised(back))
    assert f'File "<remote:{__file__}>", line {charge.__code__.co_firstlineno + 1}' in text
    assert "in charge\n    raise PaymentError(7, amount=1)\n" in text
    assert text.index("in raised\n") < text.index("in charge\n")
    assert text.endswith("PaymentError: order 7 could not be paid\n")


def test_the_remote_frames_of_a_cause_are_seen_too(comes_back):
    with pytest.raises(ValueError, match="outer") as caught:
        raise ValueError("outer") from raised(PaymentError(1, amount=2))
    text = formatted(comes_back(caught.value))
    assert text.count("<remote:") == 2
    assert "The above exception was the direct cause" in text


def test_logging_shows_the_remote_frames(comes_back, caplog):
    exc = comes_back(raised(PaymentError(1, amount=2)))
    logging.getLogger("shop").error("failed", exc_info=exc)
    assert "<remote:" in caplog.text


def test_the_interpreter_shows_the_remote_frames(stored):
    row = stored(raised(KeyError("sku")))
    program = (
        "import sys; from taskiq_pg_json import JsonSerializer;"
        "from taskiq_pg_json.serializer.protocol import EncodedRow;"
        f"row = EncodedRow({dict(row.columns)!r}, {row.types!r});"
        "raise JsonSerializer().decode(row, task_id='t')['error']"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "in raised\n    raise exc\n" in ended.stderr
    assert ended.stderr.rstrip().endswith("KeyError: 'sku'")


def test_an_error_that_was_never_raised_has_no_traceback(comes_back, as_json):
    assert "traceback" not in as_json(ValueError("x"))
    assert comes_back(ValueError("x")).__traceback__ is None


def test_a_remote_error_raised_in_another_worker_keeps_the_first_frames(comes_back):
    once = raised(comes_back(raised(PaymentError(1, amount=2))))
    twice = formatted(comes_back(once))
    assert twice.count("in raised\n") == 2
    assert "<remote:<remote:" not in twice


def test_a_long_traceback_is_cut_in_the_middle(as_json):
    def sideways(depth):
        down(depth)

    def down(depth):
        if depth == 0:
            raise ValueError("bottom")
        (down if depth % 2 else sideways)(depth - 1)

    with pytest.raises(ValueError, match="bottom") as caught:
        down(400)
    text = as_json(caught.value)["traceback"]
    assert "frames left out" in text
    assert 'raise ValueError("bottom")' in text
    assert len(text) < 33_000


async def test_the_frames_above_the_task_are_left_out(as_json):
    from taskiq import InMemoryBroker

    broker = InMemoryBroker()

    @broker.task
    async def pay():
        charge()

    @broker.task
    def pay_in_a_thread():
        charge()

    for task in (pay, pay_in_a_thread):
        result = await (await task.kiq()).wait_result()
        text = as_json(result.error)["traceback"]
        assert "receiver.py" not in text
        assert "thread.py" not in text
        assert "in charge\n" in text


def test_a_decoded_traceback_keeps_nothing_alive(comes_back):
    class Heavy:
        pass

    heavy = Heavy()
    alive = [heavy]
    back = comes_back(raised(ValueError(str(len(alive)))))
    frame = back.__traceback__.tb_frame
    assert frame.f_back is None
    assert frame.f_locals == {}
    assert gc.is_tracked(back)


def local_class():
    class VanishedError(LookupError):
        pass

    return VanishedError


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_class_comes_back_as_a_remote_error_of_its_name(comes_back):
    exc = raised(local_class()("gone", Decimal("1.5")), cause=KeyError("k"))
    exc.order_id = 7
    exc.totals = {"net": Decimal("1.5")}
    back = comes_back(exc)
    assert isinstance(back, RemoteError)
    assert type(back).__name__ == "VanishedError"
    assert back.type_name == "test_exceptions.local_class.<locals>.VanishedError"
    assert (str(back), back.args, back.order_id) == (str(exc), exc.args, 7)
    assert type(back.__cause__) is KeyError
    assert back.totals == exc.totals
    assert back.plain["attrs"] == {"order_id": 7, "totals": {"net": "1.5"}}
    assert "VanishedError: ('gone'" in formatted(back)


@pytest.mark.filterwarnings("ignore")
def test_a_remote_error_is_stored_copied_and_pickled_as_the_error_that_it_stands_for(comes_back):
    exc = local_class()("gone", 1)
    exc.order_id = 7
    back = comes_back(exc)
    for twin in (comes_back(back), copy.copy(back), pickle.loads(pickle.dumps(back))):
        assert type(twin) is type(back)
        assert (str(twin), twin.args, twin.order_id) == (str(back), ("gone", 1), 7)
        assert twin.type_name == back.type_name


@needs_groups
@pytest.mark.filterwarnings("ignore")
def test_a_group_of_an_unknown_class_comes_back_with_its_members(comes_back):
    class LostError(Group):
        pass

    back = comes_back(LostError("lost", [ValueError(1), local_class()(2)]))
    assert isinstance(back, RemoteError)
    assert type(back.exceptions[0]) is ValueError
    assert isinstance(back.exceptions[1], RemoteError)


def test_an_error_whose_sidecar_is_gone_still_comes_back_as_an_error(serializer, stored):
    row = stored(PaymentError(7, amount=1))
    back = serializer.decode(EncodedRow(row.columns), task_id="t")["error"]
    assert isinstance(back, RemoteError)
    assert str(back) == "order 7 could not be paid"


@pytest.mark.parametrize(
    "damage",
    [
        {"message": 1},
        {"args": {"a": 1}},
        {"attrs": [1]},
        {"children": {}},
        {"cause": "KeyError"},
        {"cause": {"same_as": "$.nowhere"}},
        {"cause": {"same_as": 1}},
        {"children": [{"same_as": "$"}]},
    ],
)
def test_damage_is_a_decode_error(serializer, stored, damage):
    row = stored(ValueError("x"))
    plain = orjson.loads(row.columns["error"]) | damage
    damaged = EncodedRow({"error": orjson.dumps(plain)}, row.types)
    with pytest.raises(ResultDecodeError):
        serializer.decode(damaged, task_id="t")


@pytest.mark.parametrize(
    "reference",
    [
        {"same_as": "$.nowhere"},
        {"same_as": 1},
        {"same_as": None},
        {"same_as": "$", "outer": 1},
        {"same_as": "$", "outer": -1},
        {"same_as": "$", "outer": 2**62},
        {"same_as": "$", "outer": True},
        {"same_as": "$", "outer": "1"},
    ],
)
@pytest.mark.parametrize("place", ["args", "attrs", "cause"])
def test_a_reference_that_leads_nowhere_is_a_decode_error(serializer, stored, reference, place):
    exc = raised(ValueError(KeyError("k")), cause=KeyError("k"))
    exc.held = KeyError("k")
    row = stored(exc)
    plain = orjson.loads(row.columns["error"])
    plain[place] = {"args": [reference], "attrs": {"held": reference}, "cause": reference}[place]
    with pytest.raises(ResultDecodeError):
        serializer.decode(EncodedRow({"error": orjson.dumps(plain)}, row.types), task_id="t")


@pytest.mark.parametrize("column", ["error", "return_value"])
def test_a_reference_outside_of_any_error_is_a_decode_error(serializer, column):
    types = {"v": 1, column: "exception:builtins:ValueError"}
    row = EncodedRow({column: b'{"same_as": "$"}'}, orjson.dumps(types))
    with pytest.raises(ResultDecodeError):
        serializer.decode(row, task_id="t")


def test_what_a_class_refuses_is_all_that_an_error_that_is_held_lacks(serializer, stored):
    exc = UnicodeDecodeError("utf-8", b"a", 0, 1, "r")
    exc.me, exc.order = exc, 7
    row = stored(exc)
    plain = orjson.loads(row.columns["error"])
    plain["attrs"]["start"] = -(2**40)
    back = serializer.decode(EncodedRow({"error": orjson.dumps(plain)}, row.types), task_id="t")
    # its class stays, as it cannot be exchanged any more
    assert type(back["error"]) is UnicodeDecodeError
    assert (back["error"].args, back["error"].start) == (exc.args, 0)
    assert str(back["error"]) == ""
    assert vars(back["error"]) == {"me": back["error"], "order": 7}


def test_diagnostics_that_are_none_are_all_that_an_error_that_is_held_lacks(serializer, stored):
    exc = psycopg.errors.UniqueViolation("duplicate")
    exc.me, exc.order = exc, 7
    row = stored(exc)
    plain = orjson.loads(row.columns["error"])
    plain["attrs"]["diag"] = {"sqlstate": 1}
    back = serializer.decode(EncodedRow({"error": orjson.dumps(plain)}, row.types), task_id="t")
    assert (type(back["error"]), str(back["error"])) == (type(exc), "duplicate")
    assert (back["error"].me, back["error"].order) == (back["error"], 7)
    assert back["error"].diag.sqlstate is None


@needs_groups
@pytest.mark.parametrize("where", ["args", "attrs"])
def test_a_group_whose_message_is_the_group_itself_is_no_group(serializer, stored, where):
    row = stored(Group("g", [ValueError(1)]))
    plain, types = orjson.loads(row.columns["error"]), orjson.loads(row.types)
    held = {
        "args": ["g"],
        "attrs": {"message": "g"},
        where: {"args": [{"same_as": "$"}], "attrs": {"message": {"same_as": "$"}}}[where],
    }
    if where == "args":
        del held["attrs"]
    node = "exception:builtins:ExceptionGroup"
    types["error"]["fields"] |= {where: {"items": node}}
    damaged = EncodedRow({"error": orjson.dumps(plain | held)}, orjson.dumps(types))
    back = serializer.decode(damaged, task_id="t")["error"]
    assert isinstance(back, RemoteError)


def test_state_that_a_class_refuses_ends_in_a_remote_error(serializer, stored):
    row = stored(UnicodeDecodeError("utf-8", b"a", 0, 1, "r"))
    plain = orjson.loads(row.columns["error"])
    plain["attrs"]["start"] = -(2**40)
    back = serializer.decode(EncodedRow({"error": orjson.dumps(plain)}, row.types), task_id="t")
    assert isinstance(back["error"], RemoteError)


@pytest.mark.parametrize(
    ("message", "generic"),
    [
        ("order 17 of 2026-01-02 failed after 3.5s", "order # of ### failed after #s"),
        ("no user 0b1c8f3e-6f0a-4f7e-9d3c-0123456789ab", "no user #"),
        ("<Lock object at 0x7f3a2b>", "<Lock object at #>"),
        ("digest deadbeef01234567 differs", "digest # differs"),
        ("column \"price\" of relation 'orders'", "column '' of relation ''"),
        ("can't open the user's file 'a.txt'", "can't open the user's file ''"),
        ("defaced facade", "defaced facade"),
    ],
)
def test_a_message_is_made_generic(message, generic):
    assert generic_message(message) == generic


def fails_with(message):
    raise ValueError(message)


def fails_elsewhere(message):
    raise ValueError(message)


def fingerprint_of(as_json, function, *args):
    with pytest.raises(LookupError if not args else ValueError) as caught:
        function(*args)
    return as_json(caught.value)["fingerprint"]


def test_the_same_failure_has_the_same_fingerprint(as_json):
    first = fingerprint_of(as_json, fails_with, "no order 17 for 'anna'")
    assert first == fingerprint_of(as_json, fails_with, "no order 4711 for 'bob'")
    assert first != fingerprint_of(as_json, fails_with, "no customer 17")
    assert first != fingerprint_of(as_json, fails_elsewhere, "no order 17 for 'anna'")
    assert first != fingerprint_of(as_json, lambda: {}["k"])


@needs_groups
def test_the_fingerprint_of_a_group_depends_on_its_members(as_json):
    def group(*members):
        return as_json(Group("g", list(members)))["fingerprint"]

    assert group(ValueError("a 1"), ValueError("a 2")) == group(ValueError("a 3"))
    assert group(ValueError("a 1")) != group(KeyError("a 1"))


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(codec=None), max_size=20),
    st.binary(max_size=20),
    st.decimals(allow_nan=False),
    st.datetimes(timezones=st.just(timezone.utc)),
    st.tuples(st.integers(), st.text(max_size=3)),
)


@st.composite
def errors(draw, depth=3):
    make = draw(
        st.sampled_from([ValueError, KeyError, OSError, RuntimeError, StopIteration, LookupError])
    )
    exc = make(*draw(st.lists(values, max_size=4)))
    # What stands behind an attribute of the class, such as OSError's errno, nobody can see.
    names = st.text(max_size=5).filter(lambda name: not hasattr(make, name))
    exc.__dict__.update(draw(st.dictionaries(names, values, max_size=3)))
    if depth:
        relatives = st.one_of(st.none(), errors(depth=depth - 1))
        exc.__context__ = draw(relatives)
        exc.__cause__ = draw(st.one_of(st.just(exc.__context__), relatives))
        exc.__suppress_context__ = draw(st.booleans())
    return draw(st.sampled_from([exc, raised_plain(exc)]))


@st.composite
def tangles(draw):
    """A few errors, each of which holds any of them and has any of them behind it."""
    makes = st.sampled_from([ValueError, KeyError, SlottedError, FormError])
    number = draw(st.integers(1, 4))
    tangle = [
        make(i, i) for i, make in enumerate(draw(st.lists(makes, min_size=number, max_size=number)))
    ]
    one = st.sampled_from(tangle)
    for exc in tangle:
        exc.held = draw(st.lists(one, max_size=2))
        exc.args += tuple(draw(st.lists(one, max_size=1)))
        exc.__cause__ = draw(st.one_of(st.none(), one))
        exc.__context__ = draw(st.one_of(st.just(exc.__cause__), one))
    if Group is not None:
        tangle[0].group = Group(
            "g", [*draw(st.lists(one, min_size=1, max_size=2)), ValueError("m")]
        )
        tangle[0].group.exceptions[-1].held = [*draw(st.lists(one, max_size=1)), tangle[0].group]
    return tangle[0]


def around(exc):
    """The errors that ``exc`` holds and has behind it, by where."""
    found = [*getattr(exc, "held", ()), *(arg for arg in exc.args if isinstance(arg, Exception))]
    found += [*getattr(exc, "exceptions", ()), getattr(exc, "group", None)]
    return [*found, exc.__cause__, exc.__context__]


def check_alike(one, other, met, holders=()):
    """That the two hold alike errors, and the same one wherever one is inside itself."""
    assert (one is None) == (other is None)
    if one is None or (id(one), id(other)) in met:
        return
    assert dict(holders).get(id(one), other) is other
    met.add((id(one), id(other)))
    assert type(one) is type(other)
    assert [a for a in one.args if not isinstance(a, (Exception, list))] == [
        a for a in other.args if not isinstance(a, (Exception, list))
    ]
    for a, b in zip(around(one), around(other), strict=True):
        check_alike(a, b, met, (*holders, (id(one), other)))


@given(exc=tangles())
def test_any_tangle_of_errors_comes_back(serializer, jsonb_roundtrip, exc):
    row = jsonb_roundtrip(serializer.encode({"return_value": [exc]}, task_id="t"))
    (back,) = serializer.decode(row, task_id="t")["return_value"]
    check_alike(exc, back, set())


def raised_plain(exc):
    """Raised, with its context as it was."""
    context = exc.__context__
    raised(exc)
    exc.__context__ = context
    return exc


@given(exc=errors())
def test_any_tree_of_errors_comes_back(serializer, jsonb_roundtrip, exc):
    row = jsonb_roundtrip(serializer.encode({"error": exc}, task_id="t"))
    back = serializer.decode(row, task_id="t")["error"]
    assert same_error(back, exc)
    assert back.args == exc.args
