from __future__ import annotations

import functools
import operator
import pickle
import sys
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel
from road import HeldBroker, PickleFormatter
from taskiq import (
    InMemoryBroker,
    TaskiqMessage,
)
from taskiq.kicker import AsyncKicker

from taskiq_pg_json import (
    ConfigurationError,
    Status,
    TaskInfoMiddleware,
)
from taskiq_pg_json.redaction import Redactor


@dataclass
class Login:
    name: str
    password: str


class LoginModel(BaseModel):
    name: str
    password: str


@dataclass(frozen=True)
class FrozenLogin:
    name: str
    password: str


class FrozenLoginModel(BaseModel, frozen=True):
    name: str
    password: str


class Size(NamedTuple):
    width: int
    height: int


class LoginTuple(NamedTuple):
    name: str
    password: str


@attrs.define
class LoginAttrs:
    name: str
    password: str


class LoginStruct(msgspec.Struct):
    name: str
    password: str


class Rows(list):
    """As an ORM's collections are."""


class Headers(dict):
    """Has attributes beside its items."""


class ManyHeaders(dict):
    """Keeps a list of each, as web frameworks do."""

    def items(self):
        return [(key, values[0]) for key, values in super().items()]

    def update(self, values):
        for key, value in values.items():
            self[key].append(value)


class Session:
    def __init__(self, **fields):
        vars(self).update(fields)

    def end(self):
        return self


class SlottedSession:
    __slots__ = ("__weakref__", "name", "password", "unset")

    def __init__(self, name, password):
        self.name, self.password = name, password


class Colour(Enum):
    RED = MappingProxyType({"password": "none"})


class Text(str):
    __slots__ = ("__dict__",)


class Pair(tuple):  # noqa: SLOT001 - it shall have attributes
    """With attributes."""


class Bag(set):
    """With attributes."""


def with_attributes(value, **attributes):
    vars(value).update(attributes)
    return value


def around(session):
    session.itself = session
    return session


LOGIN = {"name": "ann", "password": "t0ps3cret"}
HIDDEN = {"name": "ann", "password": "[redacted]"}
OBJECTS = {
    "namespace": (SimpleNamespace(**LOGIN), HIDDEN),
    "object": (Session(**LOGIN), HIDDEN),
    "object in an object": (Session(to=Session(**LOGIN), no=1), {"to": HIDDEN, "no": 1}),
    "slots": (SlottedSession(**LOGIN), HIDDEN),
    "user list": (UserList([LOGIN]), [HIDDEN]),
    "user dict": (UserDict(LOGIN), HIDDEN),
    "list subclass": (Rows([1, LOGIN]), [1, HIDDEN]),
    "list subclass with attributes": (with_attributes(Rows([1]), **LOGIN), [1]),
    "dict subclass": (Headers(LOGIN), HIDDEN),
    "dict subclass with attributes": (with_attributes(Headers(a=1), of=[LOGIN]), {"a": 1}),
    "dict subclass that keeps lists": (
        ManyHeaders(password=["t0ps3cret"], a=[LOGIN]),
        {"password": "[redacted]", "a": [HIDDEN]},
    ),
    "tuple subclass with attributes": (with_attributes(Pair((1, 2)), **LOGIN), (1, 2)),
    "set subclass with attributes": (with_attributes(Bag({1}), **LOGIN), [1]),
    "text with attributes": (with_attributes(Text("a"), **LOGIN), HIDDEN),
    "exception": (ValueError("no", LOGIN), {"args": ("no", HIDDEN)}),
    "exception with attributes": (
        with_attributes(KeyError("no"), **LOGIN),
        {"args": ("no",), **HIDDEN},
    ),
    "partial": (
        functools.partial(max, **LOGIN),
        {"func": max, "args": (), "keywords": HIDDEN},
    ),
    "bound method": (Session(**LOGIN).end, "[redacted]"),
    "iterator": (iter([LOGIN]), "[redacted]"),
    "object that holds itself": (around(Session(**LOGIN)), "[redacted]"),
    "object that holds too much": (Session(rows=[{"n": n} for n in range(20_000)]), "[redacted]"),
    "array of objects": (np.array([LOGIN, 1], dtype=object), "[redacted]"),
    "structured array": (np.zeros(2, dtype=[("password", "U8")]), "[redacted]"),
}
KEPT = [
    datetime(2026, 1, 2, tzinfo=ZoneInfo("Europe/Berlin")),
    timezone.utc,
    timedelta(1),
    Decimal("1.5"),
    UUID(int=1),
    Colour.RED,
    b"bytes",
    bytearray(b"bytes"),
    Text("text"),
    PurePosixPath("/a"),
    range(3),
    Session,
    len,
    operator,
    around,
    OrderedDict.fromkeys,
    object(),
    sys.implementation,
    ValueError("no", {"name": "ann"}),
    Session(name="ann"),
    around(Session(name="ann")),
    SlottedSession.__new__(SlottedSession),
    SimpleNamespace(a=[1]),
    UserList([{"a": 1}]),
    Pair((1, 2)),
    functools.partial(max, 1),
    np.arange(3),
    np.float64(1.5),
    pd.DataFrame({"name": ["ann"]}),
    pd.Timestamp("2026-01-02"),
]


class TestRedaction:
    @pytest.fixture
    def sent(self, start_broker, backend):
        """Runs a task with a redacting middleware and returns its record."""

        async def send(redact, *args, **kwargs):
            middleware = TaskInfoMiddleware(redact=redact, record_queued=True, record_started=True)
            labels = {"token": "t0ps3cret", "queue": "fast"}
            broker = await start_broker(InMemoryBroker(await_inplace=True), backend, middleware)

            @broker.task("login", **labels)
            async def login(user, password=None, *rest, **options):
                return [user, password, *rest, options]

            task = await login.kiq(*args, **kwargs)
            result = await task.get_result()
            assert result.return_value == [*args, *([None] * (2 - len(args))), kwargs]
            return await backend.store.get(task.task_id)

        return send

    async def test_a_named_keyword_argument_is_hidden(self, sent):
        record = await sent({"token"}, "ann", "x", token="t0ps3cret", a=1)
        assert record.kwargs == {"token": "[redacted]", "a": 1}

    async def test_a_named_positional_argument_is_hidden(self, sent):
        record = await sent(["password"], "ann", "t0ps3cret")
        assert record.args == ["ann", "[redacted]"]

    async def test_a_name_is_hidden_inside_of_arguments(self, sent):
        nested = {"a": [{"password": "t0ps3cret"}], "b": {"password": {"deep": "t0ps3cret"}}}
        record = await sent(("password", "token"), nested, None, more=[nested])
        hidden = {"a": [{"password": "[redacted]"}], "b": {"password": "[redacted]"}}
        assert record.args == [hidden, "[redacted]"]
        assert record.kwargs == {"more": [hidden]}

    @pytest.mark.parametrize(
        "hold",
        [
            lambda secret: (secret,),
            lambda secret: [(1, [secret])],
            lambda secret: OrderedDict(deep=secret),
            OrderedDict,
            lambda secret: deque([secret]),
        ],
        ids=["tuple", "deep tuple", "in an ordered dict", "ordered dict", "deque"],
    )
    async def test_a_name_is_hidden_in_containers_of_every_kind(
        self, start_broker, backend, history, hold
    ):
        broker = HeldBroker().with_formatter(PickleFormatter())
        middleware = TaskInfoMiddleware(redact={"password"}, record_started=True)
        await start_broker(broker, backend, middleware)

        @broker.task("login")
        async def login(_held):
            return "done"

        message = TaskiqMessage(
            task_id="id",
            task_name="login",
            labels={},
            args=[hold({"password": "t0ps3cret"})],
            kwargs={},
        )
        await broker.receiver.callback(broker.formatter.dumps(message).message)
        assert (await backend.get_result("id")).return_value == "done"
        assert "t0ps3cret" not in str(history())

    @pytest.mark.parametrize("cls", [Login, LoginModel, LoginTuple, LoginAttrs, LoginStruct])
    async def test_a_name_is_hidden_in_the_fields_of_objects(
        self, start_broker, backend, history, cls
    ):
        broker = HeldBroker().with_formatter(PickleFormatter())
        middleware = TaskInfoMiddleware(redact={"password"}, record_queued=True)
        await start_broker(broker, backend, middleware)

        @broker.task("login")
        async def login(_logins):
            return "done"

        await login.kiq([cls(name="ann", password="t0ps3cret")])
        await broker.run_all()
        rows = history()
        assert [row["status"] for row in rows] == ["QUEUED", "SUCCESS"]
        assert "ann" in str(rows[0]["args"])
        assert "t0ps3cret" not in str(rows)

    @pytest.mark.parametrize("make", [set, frozenset])
    @pytest.mark.parametrize("cls", [FrozenLogin, FrozenLoginModel, LoginTuple])
    async def test_a_name_is_hidden_in_sets(self, start_broker, backend, history, make, cls):
        middleware = TaskInfoMiddleware(redact={"password"}, record_queued=True)
        broker = await start_broker(HeldBroker(), backend, middleware)
        logins = make([cls(name="ann", password="t0ps3cret")])
        await AsyncKicker("login", broker, {}).kiq(logins=[logins, {1}])
        assert "ann" in str(history())
        assert "t0ps3cret" not in str(history())

    @pytest.mark.parametrize(
        "items",
        [{UUID(int=1), UUID(int=2)}, {(1, 2), ((3,), "x")}, {Size(width=1, height=2)}],
    )
    def test_a_set_without_anything_to_hide_is_stored_as_it_is(self, items):
        held = {"ids": frozenset(items)}
        assert Redactor({"password"}).redacted("login", [held], {}) == ([held], {})

    async def test_a_name_is_hidden_in_what_the_sender_holds_in_a_list_of_its_own_kind(
        self, start_broker, backend, history
    ):
        middleware = TaskInfoMiddleware(redact={"password"}, record_queued=True)
        broker = await start_broker(HeldBroker(), backend, middleware)
        await AsyncKicker("login", broker, {}).kiq(
            logins=Rows([LOGIN]), headers=with_attributes(Headers(a=1), **LOGIN)
        )
        (row,) = history()
        assert row["kwargs"] == {"logins": [HIDDEN], "headers": {"a": 1}}
        assert "t0ps3cret" not in str(row)
        assert b"t0ps3cret".hex() not in str(row)

    @pytest.mark.parametrize(("value", "hidden"), OBJECTS.values(), ids=OBJECTS)
    def test_a_name_is_hidden_in_whatever_a_formatter_keeps(self, value, hidden):
        args, kwargs = Redactor({"password"}).redacted("login", [value], {"deep": [value]})
        assert (args, kwargs) == ([hidden], {"deep": [hidden]})
        assert b"t0ps3cret" not in pickle.dumps([args, kwargs])

    def test_a_name_is_hidden_among_the_columns_of_a_data_frame(self):
        frame = pd.DataFrame({"name": ["ann"], "password": ["t0ps3cret"]})
        ((hidden,), _) = Redactor({"password"}).redacted("login", [frame], {})
        assert hidden.keys() == {"name", "password"}
        assert hidden["password"] == "[redacted]"

    def test_names_match_whole_names_in_their_case(self):
        fields = {"Password": 1, "password": 2, "new_password": 3}
        ((given,), _) = Redactor({"password"}).redacted("login", [fields], {})
        assert given == {**fields, "password": "[redacted]"}

    @pytest.mark.parametrize("value", KEPT, ids=lambda value: type(value).__name__)
    def test_a_value_in_which_nothing_is_hidden_stays_as_it_is(self, value):
        ((kept,), _) = Redactor({"password"}).redacted("login", [value], {})
        assert kept is value

    @pytest.mark.parametrize(
        "value", [Headers(a=1), OrderedDict(a=[1]), defaultdict(list, a=[1]), Counter("abb")]
    )
    def test_a_dict_of_another_kind_stays_one_where_nothing_is_hidden(self, value):
        ((kept,), _) = Redactor({"password"}).redacted("login", [value], {})
        assert (kept, type(kept)) == (value, type(value))

    @pytest.fixture
    def positional(self, start_broker, backend):
        """Runs a function as a task and returns the positional arguments in its record."""

        async def send(redact, function, *args):
            middleware = TaskInfoMiddleware(redact=redact)
            broker = await start_broker(InMemoryBroker(await_inplace=True), backend, middleware)
            task = await broker.register_task(function, "pay").kiq(*args)
            return (await backend.store.get(task.task_id)).args

        return send

    async def test_every_argument_of_a_named_rest_is_hidden(self, positional):
        async def pay(_order, *cards):
            return len(cards)

        hidden = "[redacted]"
        assert await positional({"cards"}, pay, "o", "4000", "5000") == ["o", hidden, hidden]
        assert await positional({"_order"}, pay, "o", "4000", "5000") == [hidden, "4000", "5000"]

    async def test_what_a_decorator_passes_on_is_hidden_where_it_may_be_meant(self, positional):
        async def pay(_session, _order, card):
            return card is not None

        @functools.wraps(pay)
        async def with_session(*args):
            return await pay("session", *args)

        assert await positional({"card"}, with_session, "o", "4000") == ["[redacted]"] * 2
        assert await positional({"password"}, with_session, "o", "4000") == ["o", "4000"]

    @pytest.mark.parametrize("is_told", [True, False])
    async def test_what_a_decorator_passes_on_by_other_names_is_hidden(self, positional, is_told):
        async def pay(card, order=None):
            return card is not None and order is not None

        async def all_on(*args, **kwargs):
            return await pay(*args, **kwargs)

        async def the_rest_on(order, *args):
            return await pay(*args, order=order)

        async def renamed(first, second):
            return await pay(first, second)

        told = functools.wraps(pay) if is_told else lambda function: function
        hidden = "[redacted]"
        assert await positional({"card"}, told(all_on), "4000", "o") == [hidden] * 2
        first = hidden if is_told else "o"
        assert await positional({"card"}, told(the_rest_on), "o", "4000") == [first, hidden]
        if is_told:  # or it is a function like any other
            assert await positional({"card"}, told(renamed), "4000", "o") == [hidden] * 2

    async def test_a_task_that_is_not_known_here_has_all_its_arguments_hidden(
        self, start_broker, backend
    ):
        middleware = TaskInfoMiddleware(redact={"card"}, record_queued=True)
        broker = await start_broker(HeldBroker(), backend, middleware)
        task = await AsyncKicker("elsewhere", broker, {}).kiq("4000", card="4000", order=1)
        record = await backend.store.get(task.task_id)
        assert record.args == ["[redacted]"]
        assert record.kwargs == {"card": "[redacted]", "order": 1}

    def test_a_builtin_without_a_signature_has_all_its_arguments_hidden(self):
        redactor = Redactor({"password"})
        hidden = redactor.hidden_positions(min)
        assert redactor.redacted("login", ["t0ps3cret"], {}, hidden) == (["[redacted]"], {})

    def test_what_cannot_be_looked_through_is_not_stored(self):
        around = {"password": "t0ps3cret"}
        around["around"] = around
        redactor = Redactor({"password"})
        assert redactor.redacted("login", [around], {}) == (None, None)
        assert redactor.labels({"around": around}) == {}

    async def test_a_label_of_that_name_is_hidden(self, sent):
        record = await sent({"token"}, "ann")
        assert record.labels == {"token": "[redacted]", "queue": "fast"}

    async def test_a_secret_stands_in_no_version_of_the_row(self, sent, history):
        await sent({"password", "token"}, {"password": "t0ps3cret"}, token="t0ps3cret")
        rows = history()
        assert [row["status"] for row in rows] == ["STARTED", "SUCCESS"]
        assert all("t0ps3cret" not in str({**row, "return_value": None}) for row in rows)

    async def test_a_callable_decides_for_itself(self, sent):
        def redact(task_name, args, kwargs):
            return [task_name, *("*" * len(arg) for arg in args)], {**kwargs, "seen": True}

        record = await sent(redact, "ann", "pass")
        assert (record.args, record.kwargs) == (["login", "***", "****"], {"seen": True})

    async def test_a_callable_cannot_change_what_the_task_is_given(self, sent):
        def redact(_task_name, args, kwargs):
            args[0]["deep"].clear()
            kwargs.clear()
            return args, kwargs

        record = await sent(redact, {"deep": [1]}, "x", a=1)
        assert (record.args, record.kwargs) == ([{"deep": []}, "x"], {})

    @pytest.mark.parametrize(
        "hold",
        [
            OrderedDict,
            lambda login: defaultdict(str, login),
            lambda login: ({"deep": login},),
            lambda login: deque([login]),
            lambda login: [Login(**login)],
            lambda login: {"deep": LoginModel(**login)},
        ],
        ids=["ordered dict", "defaultdict", "tuple", "deque", "dataclass", "model"],
    )
    async def test_a_callable_cannot_change_what_the_sender_holds(
        self, start_broker, backend, hold
    ):
        def hide(value):
            if isinstance(value, dict):
                value.update(password="***") if "password" in value else hide(value["deep"])
            elif hasattr(value, "password"):
                value.password = "***"
            else:
                hide(value[0])

        def redact(_task_name, args, kwargs):
            hide(args[0])
            return args, kwargs

        middleware = TaskInfoMiddleware(redact=redact, record_queued=True)
        broker = await start_broker(HeldBroker(), backend, middleware)
        held = hold({"name": "ann", "password": "t0ps3cret"})
        task = await AsyncKicker("login", broker, {}).kiq(held)
        assert held == hold({"name": "ann", "password": "t0ps3cret"})
        args = str((await backend.store.get(task.task_id)).args)
        assert "***" in args
        assert "t0ps3cret" not in args

    async def test_where_a_callable_fails_no_arguments_are_stored(self, sent, caplog):
        def redact(*_call):
            raise RuntimeError("no idea")

        record = await sent(redact, "ann", "t0ps3cret", a=1)
        assert (record.args, record.kwargs) == (None, None)
        assert record.task_name == "login"
        assert "the arguments of login are not stored" in caplog.text
        assert "t0ps3cret" not in caplog.text

    async def test_none_in_the_place_of_either_stores_nothing_of_it(self, sent):
        record = await sent(lambda *_: (None, {"b": 1}), "ann", "t0ps3cret", a=1)
        assert (record.args, record.kwargs) == (None, {"b": 1})
        record = await sent(lambda *_: (["ann"], None), "ann", "t0ps3cret", a=1)
        assert (record.args, record.kwargs) == (["ann"], None)

    @pytest.mark.parametrize("answer", [None, "secret", 7, ([],), ([], {}, 1)])
    async def test_where_a_callable_answers_nonsense_no_arguments_are_stored(self, sent, answer):
        record = await sent(lambda *_: answer, "ann", "t0ps3cret")
        assert (record.args, record.kwargs) == (None, None)
        assert record.status == Status.SUCCESS

    @pytest.mark.parametrize("redact", ["password", 7, b"password", [1]])
    def test_what_is_no_collection_of_names_is_refused(self, redact):
        with pytest.raises(ConfigurationError, match=r"redact=.*redact=\{'password'\}"):
            TaskInfoMiddleware(redact=redact)
