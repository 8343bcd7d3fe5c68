from __future__ import annotations

import asyncio
import enum
import functools
import json
import logging
import math
import random
import string
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import samples
from psycopg import sql
from road import PROMPTLY, HeldBroker, PickleFormatter, eventually, finished
from taskiq import (
    AckableMessage,
    Context,
    InMemoryBroker,
    SimpleRetryMiddleware,
    TaskiqDepends,
    TaskiqMiddleware,
)
from taskiq.exceptions import SendTaskError
from taskiq.receiver import Receiver
from taskiq.serializers import PickleSerializer

from taskiq_pg_json import (
    ConfigurationError,
    JsonbResultBackend,
    JsonSerializer,
    Outcome,
    Progress,
    RemoteError,
    ResultEncodeError,
    ResultStore,
    Status,
    TaskInfo,
    TaskInfoMiddleware,
)
from taskiq_pg_json import middleware as middleware_module
from taskiq_pg_json.serializer.protocol import EncodedRow

pytestmark = pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")

RETURN_VALUE = "return_value"


class Mood(str, enum.Enum):
    GOOD = "good"


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not to be pickled")

    def __repr__(self):
        return "<Unpicklable>"


class Unspeakable(Unpicklable):
    def __repr__(self):
        raise RuntimeError("not to be shown")


class Ungettable:
    def __getattribute__(self, name):
        raise RuntimeError(f"not to be asked for {name}")


class NeverLoads:
    def __reduce__(self):
        return int, ("no number",)


class OddConstructorError(Exception):
    def __init__(self, code, *, reason):
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class DeafError(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class HoldingError(Exception):
    def __init__(self, held):
        super().__init__("held", held)
        self.held = held


class UnequalError(Exception):
    def __eq__(self, other):
        raise RuntimeError("not to be compared")

    __hash__ = None


@dataclass
class Box:
    content: Any


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def depth_of(value):
    depth = 0
    while value:
        (value,) = value
        depth += 1
    return depth


def recursive_list():
    value = [1]
    value.append(value)
    return value


def recursive_dict():
    value = {"a": {}}
    value["a"]["b"] = value
    return value


def chained():
    error = OddConstructorError(7, reason="seven")
    error.__cause__ = HoldingError(Unspeakable())
    return error


def in_a_circle():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__context__ = second, first
    return first


def generator():
    yield 1


@pytest.fixture(params=[True, False], ids=["informed", "bare"])
async def broker(request, start_broker, backend):
    """A broker with and without the middleware."""
    return await start_broker(
        InMemoryBroker(), backend, *([TaskInfoMiddleware()] if request.param else [])
    )


async def outcome_of(broker, make, *, raising=False):
    """How a task ends that returns, or raises, what ``make()`` gives."""

    @broker.task("shop:odd")
    async def odd():
        if raising:
            raise make()
        return make()

    task = await odd.kiq()
    return task.task_id, await task.wait_result(**PROMPTLY)


UNSTORABLE = {
    "unpicklable": Unpicklable,
    "unpicklable and without a repr": Unspeakable,
    "pickle that does not load": NeverLoads,
    "lambda": lambda: lambda: None,
    "generator": generator,
    "open file": lambda: Path(__file__).open(),  # noqa: SIM115 - that is the point
    "lock": threading.Lock,
    "module": lambda: sys,
}


class TestReturnValues:
    @pytest.mark.parametrize("make", UNSTORABLE.values(), ids=UNSTORABLE)
    @pytest.mark.parametrize(
        "wrap",
        [lambda value: value, lambda value: {"items": [1, {"deep": value}]}, Box],
        ids=["bare", "inside", "in a dataclass"],
    )
    async def test_what_cannot_be_stored_fails_and_the_row_says_what_and_where(
        self, broker, backend, make, wrap
    ):
        task_id, result = await outcome_of(broker, lambda: wrap(make()))
        assert result.is_err
        assert isinstance(result.error, ResultEncodeError)
        assert RETURN_VALUE in str(result.error)
        record = await backend.store.get(task_id)
        assert (record.status, record.return_value) == (Status.FAILURE, None)
        assert str(record.error) == str(result.error)
        assert record.error.path.startswith(RETURN_VALUE)

    async def test_what_answers_no_question_at_all_fails_too(self, broker):
        _, result = await outcome_of(broker, lambda: {"items": [Ungettable()]})
        assert isinstance(result.error, ResultEncodeError)
        assert result.error.path == "return_value.items[0]"

    async def test_the_path_and_the_type_of_what_cannot_be_stored_are_named(self, broker):
        _, result = await outcome_of(broker, lambda: {"items": [1, {"price": Unpicklable()}]})
        assert result.error.path == "return_value.items[1].price"
        assert result.error.type_name.endswith("Unpicklable")
        assert "return_value.items[1].price" in str(result.error)
        assert "Unpicklable" in str(result.error)

    async def test_a_failure_to_store_can_be_read_in_sql(self, broker, admin, backend):
        task_id, _ = await outcome_of(broker, Unpicklable)
        failures = sql.Identifier(backend.store.names.derived("failures"))
        row = admin.execute(
            sql.SQL("SELECT error_type, error_message FROM {} WHERE task_id = %s").format(failures),
            [task_id],
        ).fetchone()
        assert row[0] == "ResultEncodeError"
        assert "return_value" in row[1]
        assert "Unpicklable" in row[1]

    @pytest.mark.parametrize(
        "value",
        [
            "nul\0nul",
            "\ud800 lone \udfff",
            {"nul\0": {"\ud800": "\0"}},
            [math.inf, -math.inf],
            2**4000,
            -(2**64),
            -0.0,
            1e16,
            {1: "int", "1": "str", None: "none", (1, 2): "tuple"},
            "x" * 3_000_000,
            list(range(200_000)),
        ],
        ids=lambda value: repr(value)[:20],
    )
    async def test_what_json_has_no_words_for_comes_back(self, broker, value):
        _, result = await outcome_of(broker, lambda: value)
        assert result.error is None
        assert result.return_value == value
        assert type(result.return_value) is type(value)

    async def test_nan_comes_back(self, broker):
        _, result = await outcome_of(broker, lambda: {"mean": math.nan})
        assert math.isnan(result.return_value["mean"])

    @pytest.mark.parametrize("depth", [100, 254, 255, 300, 900])
    async def test_a_deep_list_comes_back_or_says_why_not(self, broker, depth):
        _, result = await outcome_of(broker, lambda: nested(depth))
        assert result.error is None
        assert depth_of(result.return_value) == depth

    @pytest.mark.parametrize("depth", [1_100, 3_000, 20_000])
    async def test_a_list_beyond_all_depths_comes_back_or_says_why_not(self, broker, depth):
        _, result = await outcome_of(broker, lambda: nested(depth))
        if result.is_err:
            assert RETURN_VALUE in str(result.error)
        else:
            assert depth_of(result.return_value) == depth

    @pytest.mark.parametrize("make", [recursive_list, recursive_dict])
    async def test_a_value_that_holds_itself_comes_back_or_says_why_not(self, broker, make):
        _, result = await outcome_of(broker, make)
        if result.is_err:
            assert RETURN_VALUE in str(result.error)
        else:
            value = result.return_value
            assert value is (value[1] if isinstance(value, list) else value["a"]["b"])

    @pytest.mark.parametrize("digits", [4_300, 4_400, 140_000])
    async def test_a_number_of_any_length_comes_back_or_says_why_not(self, broker, digits):
        value = 10**digits
        _, result = await outcome_of(broker, lambda: {"number": value})
        if result.is_err:
            assert "return_value.number" in str(result.error)
        else:
            assert result.return_value == {"number": value}


RAISED = {
    "no arguments": ValueError,
    "odd constructor": lambda: OddConstructorError(7, reason="seven"),
    "no str": lambda: MuteError("x"),
    "neither str nor repr": lambda: DeafError("x"),
    "unpicklable argument": lambda: HoldingError(Unpicklable()),
    "unspeakable argument": lambda: HoldingError(Unspeakable()),
    "ungettable argument": lambda: HoldingError(Ungettable()),
    "recursive argument": lambda: HoldingError(recursive_list()),
    "itself as argument": lambda: (error := HoldingError(None), setattr(error, "held", error))[0],
    "lambda": lambda: HoldingError(lambda: None),
    "deep": lambda: HoldingError(nested(5_000)),
    "nul": lambda: ValueError("nul\0 and \ud800", "\0"),
    "nan": lambda: ValueError(math.nan, math.inf),
    "very long": lambda: ValueError("x" * 2_000_000),
    "chain": chained,
    "circle": in_a_circle,
    "unequal": UnequalError,
    "local class": lambda: type("Local", (Exception,), {"__module__": "nowhere"})("x"),
    "module that is no string": lambda: type("Odd", (Exception,), {"__module__": None})("x"),
    "bytes": lambda: ValueError(b"\x00\xff"),
    "system exit": lambda: SystemExit(3),
    "keyboard interrupt": KeyboardInterrupt,
    "generator exit": GeneratorExit,
    "stop iteration": lambda: StopAsyncIteration("x"),
    "cancelled": lambda: asyncio.CancelledError("x"),
    "unicode error": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "os error": lambda: FileNotFoundError(2, "gone", "/no/such"),
    "syntax error": lambda: SyntaxError("bad", ("file.py", 1, 2, "text")),
    "recursion": lambda: RecursionError("deep"),
    "key that is no plain text": lambda: HoldingError({Mood.GOOD: threading.Lock()}),
    "key with NUL": lambda: HoldingError({"a\0": threading.Lock()}),
    "key with a surrogate": lambda: HoldingError({"a\ud800": threading.Lock()}),
}


class TestErrors:
    @pytest.mark.parametrize("make", RAISED.values(), ids=RAISED)
    async def test_whatever_is_raised_is_an_error_that_can_be_read(
        self, broker, backend, admin, make
    ):
        task_id, result = await outcome_of(broker, make, raising=True)
        expected = make()
        assert result.is_err
        assert isinstance(result.error, BaseException)
        assert type(result.error).__name__ == type(expected).__name__
        record = await backend.store.get(task_id)
        assert record.status == Status.FAILURE
        failures = sql.Identifier(backend.store.names.derived("failures"))
        error_type, traceback = admin.execute(
            sql.SQL("SELECT error_type, traceback FROM {} WHERE task_id = %s").format(failures),
            [task_id],
        ).fetchone()
        assert error_type == type(expected).__qualname__
        assert "in odd" in traceback

    async def test_an_error_of_an_odd_constructor_comes_back_whole(self, broker):
        _, result = await outcome_of(
            broker, lambda: OddConstructorError(7, reason="seven"), raising=True
        )
        assert type(result.error) is OddConstructorError
        assert (result.error.code, result.error.reason) == (7, "seven")
        assert str(result.error) == "7: seven"

    async def test_the_cause_comes_back_with_the_error(self, broker):
        _, result = await outcome_of(broker, chained, raising=True)
        assert type(result.error.__cause__) is HoldingError

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    async def test_a_group_comes_back_as_a_group(self, broker):
        _, result = await outcome_of(
            broker,
            lambda: ExceptionGroup("both", [ValueError(1), HoldingError(Unspeakable())]),  # noqa: F821
            raising=True,
        )
        assert [type(error) for error in result.error.exceptions] == [ValueError, HoldingError]

    async def test_an_error_whose_string_fails_can_still_be_raised(self, broker):
        _, result = await outcome_of(broker, lambda: MuteError("x"), raising=True)
        with pytest.raises(MuteError):
            result.raise_for_error()


class TestEverythingElse:
    @pytest.mark.parametrize(
        "make", [*UNSTORABLE.values(), recursive_list], ids=[*UNSTORABLE, "recursive list"]
    )
    async def test_arguments_that_cannot_be_stored_do_not_touch_the_result(
        self, start_broker, backend, make
    ):
        middleware = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = HeldBroker().with_formatter(ObjectFormatter())
        await start_broker(broker, backend, middleware)

        @broker.task("shop:odd")
        async def odd(*_args, **_kwargs):
            return "done"

        task = await odd.kiq(make(), 2, odd=make(), plain=1)
        await broker.run_all()
        assert (await task.wait_result(**PROMPTLY)).return_value == "done"
        record = await backend.store.get(task.task_id)
        assert (record.status, record.task_name) == (Status.SUCCESS, "shop:odd")

    @pytest.mark.parametrize("depth", [300, 600, 900, 5_000])
    async def test_deep_arguments_do_not_touch_the_result(self, start_broker, backend, depth):
        middleware = TaskInfoMiddleware(record_queued=True, record_started=True)
        broker = HeldBroker().with_formatter(ObjectFormatter())
        await start_broker(broker, backend, middleware)

        @broker.task
        async def measure(value):
            return depth_of(value)

        task = await measure.kiq(nested(depth))
        await broker.run_all()
        assert (await task.wait_result(**PROMPTLY)).return_value == depth

    @pytest.mark.parametrize("make", UNSTORABLE.values(), ids=UNSTORABLE)
    async def test_a_label_that_cannot_be_stored_does_not_touch_the_result(self, broker, make):
        @broker.task
        async def odd(context: Context = TaskiqDepends()):
            context.message.labels["odd"] = make()
            return "done"

        task = await odd.kiq()
        result = await task.wait_result(**PROMPTLY)
        assert (result.return_value, result.labels) == ("done", {})

    async def test_a_label_that_holds_itself_leaves_an_end(self, broker):
        @broker.task
        async def odd(context: Context = TaskiqDepends()):
            context.message.labels["odd"] = recursive_list()
            return "done"

        task = await odd.kiq()
        result = await task.wait_result(**PROMPTLY)
        assert result.return_value == "done" or "labels" in str(result.error)

    async def test_a_log_may_hold_anything(self, backend):
        await backend.set_result("id", finished(1, log="nul\0 and \ud800 end"))
        log = (await backend.get_result("id", with_logs=True)).log
        assert log.startswith("nul")
        assert log.endswith("end")

    @pytest.mark.parametrize("name", ["nul\0", "\ud800", "x" * 1_000, "x" * 100_000, ""])
    async def test_a_task_may_have_any_name(self, start_broker, backend, name):
        broker = InMemoryBroker().with_formatter(PickleFormatter())
        await start_broker(broker, backend, TaskInfoMiddleware(record_started=True))

        async def odd():
            return "done"

        broker.register_task(odd, name)
        kicker = broker.find_task(name).kicker()
        task = await kicker.kiq()
        assert (await task.wait_result(**PROMPTLY)).return_value == "done"

    async def test_long_names_and_ids_of_random_letters_do_not_touch_the_result(
        self, start_broker, backend
    ):
        letters = random.Random(7).choices(string.ascii_letters, k=11_000)
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("".join(letters[:10_000]))
        async def odd():
            return "done"

        task = await odd.kicker().with_task_id("".join(letters[10_000:])).kiq()
        result = await task.wait_result(**PROMPTLY)
        assert (result.return_value, result.error) == ("done", None)


class ObjectFormatter(PickleFormatter):
    """Hands arguments over without serializing them at all."""

    def __init__(self):
        self._messages = {}

    def dumps(self, message):
        plain = message.model_copy(update={"args": [], "kwargs": {}})
        self._messages[message.task_id] = message.args, message.kwargs
        return super().dumps(plain)

    def loads(self, message):
        loaded = super().loads(message)
        args, kwargs = self._messages[loaded.task_id]
        return loaded.model_copy(update={"args": args, "kwargs": kwargs})


class Ruthless:
    """A serializer that hands the server whatever text a value asks for."""

    name = "ruthless"

    def encode(self, columns, *, task_id):  # noqa: ARG002 - the protocol's signature
        if columns.get("error") is not None:
            text = str(columns["error"])[:2000].encode("ascii", "replace").decode()
            return EncodedRow({"return_value": b"null", "error": _json_string(text)})
        value = columns.get("return_value", columns.get("meta"))
        return EncodedRow({name: value for name in columns if name in ("return_value", "meta")})

    def decode(self, row, *, task_id):  # noqa: ARG002 - likewise
        return {
            name: RuntimeError(text.decode()) if name == "error" else text
            for name, text in row.columns.items()
        }


def _json_string(text):
    return ('"' + text.replace("\\", " ").replace('"', "'").replace("\n", " ") + '"').encode()


REFUSED = {
    "no JSON": b"{no json",
    "nothing": b"",
    "NUL": rb'"\u0000"',
    "lone surrogate": rb'"\ud800"',
    "no UTF-8": b'"\xff"',
    "number too long": b"1" + b"0" * 140_000,
    "nested deeper than the server's stack": b"[" * 200_000 + b"]" * 200_000,
    "raw NUL": b'"\0"',
}


class TestRefusalsOfTheServer:
    @pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
    async def test_a_row_that_the_server_refuses_becomes_a_failure_that_says_so(self, start, text):
        backend = await start(serializer=Ruthless())
        await backend.set_result("id", finished(text))
        result = await backend.get_result("id")
        assert result.is_err
        assert "PostgreSQL refused the result of task id" in str(result.error)

    @pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
    async def test_a_row_that_the_server_refuses_harms_none_of_its_batch(self, start, text):
        backend = await start(serializer=Ruthless())
        given = {f"good{number}": b"%d" % number for number in range(50)} | {"bad": text}
        await asyncio.gather(*(backend.set_result(id_, finished(v)) for id_, v in given.items()))
        for id_, value in given.items():
            result = await backend.get_result(id_)
            assert result.is_err is (id_ == "bad")
            assert result.return_value == (b"null" if id_ == "bad" else value)


class Scrawling(JsonSerializer):
    """A serializer that writes no JSON, not even of the error that it is given."""

    def encode(self, columns, *, task_id):  # noqa: ARG002 - the protocol's signature
        return EncodedRow(dict.fromkeys(columns, b"{no json"))


class Echoing:
    """Likewise, and it reads what it is given in a way of its own."""

    name = "echoing"
    encode = Scrawling.encode

    def decode(self, row, *, task_id):  # noqa: ARG002 - likewise
        assert row.types is None
        return {name: RuntimeError(text.decode()) for name, text in row.columns.items()}


class TestSerializersThatWriteWhatTheServerRefuses:
    @pytest.mark.parametrize(
        "given",
        [finished(1), finished(1, log="x"), finished(is_err=True, error=ValueError("x"))],
        ids=["value", "with a log", "error"],
    )
    async def test_whatever_is_given_to_it_has_an_end(self, start, caplog, given):
        backend = await start(serializer=Scrawling())
        await backend.set_result("id", given)
        result = await backend.get_result("id")
        assert (result.is_err, result.return_value) == (True, None)
        assert "PostgreSQL refused the result of task id" in str(result.error)
        assert "Task id is stored as a failure" in caplog.text
        assert "is lost" not in caplog.text

    @pytest.mark.parametrize("reader", [None, PickleSerializer()], ids=["JSON", "taskiq's"])
    async def test_what_others_read_of_it_has_the_attributes_of_the_error(self, start, reader):
        await (await start(serializer=Scrawling())).set_result("id", finished([1]))
        error = (await (await start(serializer=reader)).get_result("id")).error
        assert isinstance(error, ResultEncodeError)
        assert (error.task_id, error.path) == ("id", "return_value")
        assert error.type_name == "builtins.list"

    async def test_one_with_a_reader_of_its_own_is_given_the_error_as_data(self, start):
        backend = await start(serializer=Echoing())
        await backend.set_result("id", finished([1]))
        said = json.loads(str((await backend.get_result("id")).error))
        assert (said["type"], said["attrs"]["path"]) == ("ResultEncodeError", "return_value")
        assert said["message"].startswith("PostgreSQL refused the result of task id")


NO_ROWS = {
    "none": None,
    "dict": {"return_value": b"1"},
    "columns that are no dict": EncodedRow(5),
    "text for bytes": EncodedRow({"return_value": "1"}),
    "a value for its JSON": EncodedRow({"return_value": (1,)}),
    "types that are no bytes": EncodedRow({"return_value": b"1"}, [1]),
    "pickles that are no bytes": EncodedRow({"return_value": b"1"}, None, "text"),
}


class Astray(JsonSerializer):
    """A serializer that gives something else than a row for the values that are 7."""

    def __init__(self, row):
        super().__init__()
        self._row = row

    def encode(self, columns, *, task_id):
        if columns.get("return_value") == 7 or columns.get("meta") == 7:
            return self._row
        return super().encode(columns, task_id=task_id)


@pytest.mark.parametrize("row", NO_ROWS.values(), ids=NO_ROWS)
class TestSerializersThatGiveNoRow:
    async def test_a_result_of_it_is_a_failure_that_harms_nobody_beside_it(self, start, row):
        backend = await start(serializer=Astray(row))
        await asyncio.gather(*(backend.set_result(str(n), finished(n)) for n in range(20)))
        results = [await backend.get_result(str(number)) for number in range(20)]
        assert [number for number, result in enumerate(results) if result.is_err] == [7]
        assert isinstance(results[7].error, ResultEncodeError)
        assert "EncodedRow" in str(results[7].error)

    async def test_a_progress_of_it_is_an_encode_error(self, start, row):
        store = (await start(serializer=Astray(row))).store
        reports = (store.set_progress(str(n), Progress("x", n)) for n in range(20))
        found = await asyncio.gather(*reports, return_exceptions=True)
        assert [number for number, said in enumerate(found) if said is not None] == [7]
        assert isinstance(found[7], ResultEncodeError)


class Raising(JsonSerializer):
    """A serializer with a mistake in it: it raises for what ``refuses`` is true of."""

    def __init__(self, refuses, error):
        super().__init__()
        self._refuses = refuses
        self._error = error

    def encode(self, columns, *, task_id):
        if self._refuses(columns):
            raise self._error
        return super().encode(columns, task_id=task_id)


class TestSerializersWithMistakes:
    @pytest.mark.parametrize("error", [KeyError("oops\0"), samples.PanicError("oops")], ids=repr)
    @pytest.mark.parametrize("given", [finished(1), finished(is_err=True, error=ValueError("x"))])
    async def test_whatever_a_serializer_raises_is_an_end_that_says_so(self, start, error, given):
        def refuses(columns):
            return columns["return_value"] == 1 or isinstance(columns.get("error"), ValueError)

        backend = await start(serializer=Raising(refuses, error))
        await backend.set_result("id", given)
        result = await backend.get_result("id")
        assert isinstance(result.error, ResultEncodeError)
        assert "oops" in str(result.error)
        assert type(error).__name__ in str(result.error)
        assert given.error is None or "ValueError, which said: x" in str(result.error)

    @pytest.mark.parametrize(
        "error",
        [KeyError("oops"), ResultEncodeError("oops", task_id="", path="args", type_name="")],
    )
    async def test_one_that_always_raises_leaves_an_end(self, start, error):
        backend = await start(serializer=Raising(lambda _: True, error))
        await backend.set_result("id", finished(1))
        result = await backend.get_result("id")
        assert result.is_err
        assert "oops" in str(result.error)

    async def test_a_call_that_makes_it_raise_does_not_touch_the_result(self, start, start_broker):
        serializer = Raising(lambda columns: bool(columns.get("args")), KeyError("oops"))
        backend = await start(serializer=serializer)
        broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())

        @broker.task("shop:double")
        async def double(number):
            return 2 * number

        task = await double.kiq(4)
        assert (await task.wait_result(**PROMPTLY)).return_value == 8
        assert (await backend.store.get(task.task_id)).task_name == "shop:double"


class Leaves(TaskiqMiddleware):
    """Leaves something else in the fields of each result than what is to be there."""

    def __init__(self, **fields):
        super().__init__()
        self._fields = fields

    def post_execute(self, _message, result):
        for name, value in self._fields.items():
            setattr(result, name, value)


LOGS = {
    "list": (["one", 2], "['one', 2]"),
    "empty": ("", ""),
    "number": (5, "5"),
    "bytes": (b"ok \xff\0", "ok \\xff\\x00"),
    "mute": (MuteError(), "<MuteError whose str() raises RuntimeError>"),
    "enum": (Mood.GOOD, "good"),
}
NO_ERRORS = {
    "text": ("card refused", "card refused", "builtins.str"),
    "NUL": ("nul\0", "nul\\x00", "builtins.str"),
    "dict": ({"code": 7}, "{'code': 7}", "builtins.dict"),
    "class": (KeyError, "<class 'KeyError'>", "builtins.type"),
    "unspeakable": (
        Unspeakable(),
        "<Unspeakable whose str() raises RuntimeError>",
        f"{__name__}.Unspeakable",
    ),
}


class TestWhatAMiddlewareLeavesInAResult:
    @pytest.fixture(params=[True, False], ids=["informed", "bare"])
    def begin(self, request, start_broker, backend):
        async def begin_one(**fields):
            more = [TaskInfoMiddleware()] if request.param else []
            return await start_broker(InMemoryBroker(), backend, Leaves(**fields), *more)

        return begin_one

    @pytest.mark.parametrize(
        "seconds", [None, "soon", "2", 10**400, [], math.nan, math.inf], ids=repr
    )
    async def test_a_time_that_is_no_number_costs_no_result(self, begin, seconds):
        broker = await begin(execution_time=seconds)
        _, result = await outcome_of(broker, lambda: 42)
        assert (result.return_value, result.error) == (42, None)
        assert isinstance(result.execution_time, float)

    @pytest.mark.parametrize(("log", "found"), LOGS.values(), ids=LOGS)
    async def test_a_log_that_is_no_text_is_stored_as_text(self, begin, backend, log, found):
        broker = await begin(log=log)
        task_id, result = await outcome_of(broker, lambda: 42)
        assert (result.return_value, result.error) == (42, None)
        assert (await backend.get_result(task_id, with_logs=True)).log == found

    @pytest.mark.parametrize("given", NO_ERRORS.values(), ids=NO_ERRORS)
    @pytest.mark.parametrize("raising", [False, True], ids=["returning", "raising"])
    async def test_an_error_that_is_no_exception_is_stored_as_one_that_says_it(
        self, begin, backend, caplog, raising, given
    ):
        error, *expected = given
        broker = await begin(error=error)
        task_id, result = await outcome_of(broker, ValueError, raising=raising)
        assert result.is_err is raising
        record = await backend.store.get(task_id)
        assert record.status is (Status.FAILURE if raising else Status.SUCCESS)
        for found in (result.error, record.error):
            assert isinstance(found, RemoteError)
            assert [str(found), found.type_name] == expected
        with pytest.raises(RemoteError):
            raise result.error
        assert f"The error of task {task_id} is no exception" in caplog.text

    async def test_a_return_value_that_cannot_be_stored_fails_beside_all_that(self, begin):
        broker = await begin(execution_time=None, log=5, error="odd")
        _, result = await outcome_of(broker, Unpicklable)
        assert isinstance(result.error, ResultEncodeError)


@pytest.mark.parametrize("serializer", [None, PickleSerializer(), JsonSerializer(strict=True)])
async def test_text_in_place_of_an_error_can_be_read_by_every_serializer(start, serializer):
    store = (await start(serializer=serializer)).store
    await store.set_result("id", Outcome(1, "boom"))
    assert str((await store.get_outcome("id")).error) == "boom"
    await store.record_state("other", "RETRY", TaskInfo("shop:pay"), "boom")
    assert str((await store.get("other")).error) == "boom"


NO_INFOS = {
    "name": (TaskInfo(5, worker="host:1"), (None, "host:1", None)),
    "worker": (TaskInfo("shop:pay", worker=5), ("shop:pay", None, None)),
    "time": (TaskInfo("shop:pay", queued_at="2026-01-01"), ("shop:pay", None, None)),
    "all": (TaskInfo([], worker=b"x", queued_at=Unspeakable()), (None, None, None)),
}


@pytest.mark.parametrize(("info", "found"), NO_INFOS.values(), ids=NO_INFOS)
async def test_what_is_known_of_a_task_and_of_no_use_costs_no_state(backend, info, found):
    await backend.store.record_state("id", "STARTED", info)
    record = await backend.store.get("id")
    assert (record.task_name, record.worker, record.queued_at) == found


@pytest.mark.parametrize(
    ("info", "found"),
    [*NO_INFOS.values(), ("shop:pay", (None, None, None))],
    ids=[*NO_INFOS, "no info at all"],
)
class TestWhatIsKnownOfATask:
    async def test_what_of_it_is_of_no_use_costs_no_result(self, backend, caplog, info, found):
        store = backend.store
        await store.set_result("id", Outcome({"paid": 1}, labels={"no": 1}, info=info))
        record = await store.get("id")
        assert (record.status, record.return_value) == (Status.SUCCESS, {"paid": 1})
        assert (record.task_name, record.worker, record.queued_at) == found
        assert record.labels == {"no": 1}
        assert "Task id is stored without what is not of its type" in caplog.text

    async def test_what_of_it_is_of_no_use_leaves_a_failure_its_end(self, start, info, found):
        store = (await start(serializer=Raising(lambda _: True, KeyError("oops")))).store
        await store.set_result("id", Outcome(1, info=info))
        record = await store.get("id")
        assert (record.task_name, record.worker, record.queued_at) == found
        assert "oops" in str(record.error)

    async def test_what_of_it_is_of_no_use_leaves_what_cannot_be_stored_its_end(
        self, backend, info, found
    ):
        store = backend.store
        await store.set_result("id", Outcome(Unpicklable(), info=info))
        record = await store.get("id")
        assert (record.task_name, record.worker, record.queued_at) == found
        assert isinstance(record.error, ResultEncodeError)


@pytest.mark.parametrize("given", [{"x": 1}, finished(1), None, "done", ValueError("x")], ids=type)
class TestWhatIsNoOutcome:
    async def test_it_is_refused_with_what_to_give(self, backend, given):
        with pytest.raises(ConfigurationError, match=r"task id is of type .*: give an Outcome"):
            await backend.store.set_result("id", given)

    async def test_what_is_no_progress_is_refused_likewise(self, backend, given):
        with pytest.raises(ConfigurationError, match=r"progress= is of type .*: give a Progress"):
            await backend.store.set_progress("id", given)


@pytest.mark.parametrize(
    ("state", "found"), [(5, "5"), (None, ""), (b"x", "x"), (Mood.GOOD, "good")]
)
async def test_a_state_of_progress_that_is_no_text_is_stored_as_text(backend, state, found):
    await backend.store.set_progress("id", Progress(state, 1))
    assert (await backend.store.get_progress("id")).state == found


async def test_a_failure_to_store_is_logged_with_the_task(broker, caplog):
    with caplog.at_level(logging.WARNING, "taskiq_pg_json"):
        task_id, _ = await outcome_of(broker, Unpicklable)
    assert f"Task {task_id} is stored as a failure" in caplog.text


async def test_results_that_cannot_be_stored_harm_nobody_beside_them(backend):
    values = [Unpicklable() if number % 3 else number for number in range(60)]
    await asyncio.gather(
        *(backend.set_result(str(n), finished(value)) for n, value in enumerate(values))
    )
    results = [await backend.get_result(str(number)) for number in range(60)]
    assert [result.is_err for result in results] == [bool(number % 3) for number in range(60)]
    assert [result.return_value for result in results[::3]] == list(range(0, 60, 3))


async def _session():
    yield "session"
    raise ConnectionError("COMMIT failed")


class _Raises(TaskiqMiddleware):
    def __init__(self, hook):
        super().__init__()
        self._hook = hook

    async def pre_execute(self, message):
        return self._fail("pre_execute", message)

    async def post_execute(self, message, _result):
        self._fail("post_execute", message)

    def _fail(self, hook, message):
        if hook == self._hook:
            raise ConnectionError(f"no {hook}")
        return message


@pytest.mark.parametrize("record_started", [False, True])
async def test_a_dependency_that_fails_on_its_way_out_ends_the_task(
    start_broker, backend, record_started
):
    middleware = TaskInfoMiddleware(record_started=record_started)
    broker = await start_broker(InMemoryBroker(), backend, middleware)

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        await asyncio.sleep(0.05)
        return session

    result = await (await load.kiq()).wait_result(**PROMPTLY)
    assert result.is_err
    assert isinstance(result.error, ConnectionError)
    (record,) = (await backend.store.search()).items
    assert record.task_name.endswith("load")
    assert record.execution_time >= 0.05
    assert record.started_at < record.finished_at


@pytest.mark.parametrize("hook", ["pre_execute", "post_execute"])
async def test_another_middleware_that_raises_ends_the_task(start_broker, backend, hook):
    broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware(), _Raises(hook))

    @broker.task
    async def work():
        return 1

    result = await (await work.kiq()).wait_result(**PROMPTLY)
    assert str(result.error) == f"no {hook}"


def _closing(error):
    """A dependency that raises this while it is closed."""

    async def session():
        yield "session"
        raise error

    return session


NO_EXCEPTIONS = [asyncio.CancelledError("gone"), samples.PanicError("gone")]


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=repr)
async def test_what_a_dependency_raises_on_its_way_out_may_be_no_exception(
    start_broker, backend, error
):
    middleware = TaskInfoMiddleware(record_started=True)
    broker = await start_broker(InMemoryBroker(), backend, middleware)

    @broker.task
    async def load(session: str = TaskiqDepends(_closing(error))):
        return session

    result = await (await load.kiq()).wait_result(**PROMPTLY)
    assert result.is_err
    assert type(result.error).__name__ == type(error).__name__
    assert "gone" in str(result.error)


async def test_another_middleware_that_raises_a_cancellation_ends_the_task(
    start_broker, backend, history
):
    class Cancels(TaskiqMiddleware):
        async def post_execute(self, _message, _result):
            raise asyncio.CancelledError

    broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware(), Cancels())

    @broker.task
    async def work():
        return 1

    task = await work.kiq()
    result = await task.wait_result(**PROMPTLY)
    assert type(result.error) is asyncio.CancelledError
    assert "was cancelled" in str(result.error)
    (only,) = history()
    assert "in post_execute" in only["error"]["traceback"]


@pytest.fixture
async def slow_closing(start_broker, backend):
    """Runs a task and cancels it while a dependency closes: ``await slow_closing(message)``."""
    broker = await start_broker(HeldBroker(), backend, TaskInfoMiddleware())
    closes = asyncio.Event()

    async def session():
        yield "session"
        closes.set()
        await asyncio.Event().wait()

    @broker.task
    async def load(session: str = TaskiqDepends(session)):
        return session

    async def run(delivered, **labels):
        task = await load.kicker().with_labels(**labels).kiq()
        message = delivered(broker.held.popleft().message)
        running = asyncio.create_task(broker.receiver.callback(message))
        await closes.wait()
        running.cancel()
        await asyncio.wait([running])
        return task

    return run


def _to_acknowledge(message):
    return AckableMessage(data=message, ack=lambda: None)


@pytest.mark.parametrize(
    ("delivered", "labels"),
    [(bytes, {}), (_to_acknowledge, {"ack_type": "when_received"})],
    ids=["not to be acknowledged", "acknowledged"],
)
async def test_a_task_that_is_cancelled_while_a_dependency_closes_has_an_end(
    slow_closing, delivered, labels
):
    task = await slow_closing(delivered, **labels)
    result = await task.wait_result(**PROMPTLY)
    assert type(result.error) is asyncio.CancelledError
    assert "was cancelled" in str(result.error)


async def test_a_task_that_is_cancelled_before_it_is_acknowledged_has_no_end_yet(
    slow_closing, statuses
):
    await slow_closing(_to_acknowledge)
    await asyncio.sleep(0.3)
    assert statuses() == []


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio does not tell before Python 3.11")
async def test_a_cancellation_that_a_dependency_raises_ends_a_task_that_is_not_acknowledged(
    start_broker, backend
):
    broker = await start_broker(HeldBroker(), backend, TaskInfoMiddleware())

    @broker.task
    async def load(session: str = TaskiqDepends(_closing(asyncio.CancelledError("gone")))):
        return session

    task = await load.kiq()
    message = _to_acknowledge(broker.held.popleft().message)
    await asyncio.wait([asyncio.create_task(broker.receiver.callback(message))])
    assert str((await task.wait_result(**PROMPTLY)).error) == "gone"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("delivered", [bytes, _to_acknowledge])
def test_a_task_that_ends_the_process_has_an_end_unless_it_is_delivered_once_more(
    dsn, table_name, delivered, error
):
    """As in taskiq's worker, whose loop runs again for the shutdown."""
    loop = asyncio.new_event_loop()
    backend = JsonbResultBackend(dsn, table_name=table_name)
    broker = HeldBroker().with_result_backend(backend).with_middlewares(TaskInfoMiddleware())

    @broker.task
    async def load(session: str = TaskiqDepends(_closing(error))):
        return session

    async def work():
        await broker.startup()
        await load.kicker().with_task_id("id").kiq()
        message = delivered(broker.held.popleft().message)
        running = asyncio.create_task(broker.receiver.callback(message))
        await asyncio.sleep(PROMPTLY["timeout"])
        assert not running

    async def look():
        async with ResultStore(dsn, table_name=table_name) as store:
            return [record.status for record in (await store.search()).items]

    working = loop.create_task(work())
    with pytest.raises(type(error)):
        loop.run_until_complete(working)
    working.cancel()
    loop.run_until_complete(broker.shutdown())
    found = loop.run_until_complete(look())
    loop.close()
    assert found == ([Status.FAILURE] if delivered is bytes else [])


class _Subclass(Receiver):
    async def callback(self, message, raise_err=False):
        await super().callback(message, raise_err)


class _Renamed(Receiver):
    async def _traced(self, message, raise_err=False):
        await Receiver.callback(self, message, raise_err)

    callback = _traced


class _Decorated(Receiver):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        callback = self.callback

        @functools.wraps(callback)
        async def span(*args, **kwargs):
            return await callback(*args, **kwargs)

        self.callback = span


@pytest.mark.parametrize("receiver", [_Subclass, _Renamed, _Decorated])
async def test_a_receiver_of_ones_own_may_wrap_the_callback(start_broker, backend, receiver):
    broker = await start_broker(InMemoryBroker(), backend, TaskInfoMiddleware())
    broker.receiver = receiver(broker, executor=broker.executor)

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        return session

    result = await (await load.kiq()).wait_result(**PROMPTLY)
    assert isinstance(result.error, ConnectionError)


async def test_whoever_runs_a_task_in_place_has_its_error_and_keeps_his_own(
    start_broker, backend, statuses
):
    broker = await start_broker(InMemoryBroker(await_inplace=True), backend, TaskInfoMiddleware())

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        return session

    @broker.task
    async def work():
        return 1

    async def callback():  # as taskiq's is called
        with pytest.raises(SendTaskError):
            await load.kiq()
        await (await work.kiq()).wait_result(**PROMPTLY)
        raise LookupError("of the caller")

    await asyncio.gather(asyncio.create_task(callback()), return_exceptions=True)
    await broker.shutdown()
    assert statuses() == ["SUCCESS"]


async def test_shutdown_waits_for_the_ends_that_are_being_stored(
    start_broker, backend, monkeypatch
):
    middleware = TaskInfoMiddleware()
    broker = await start_broker(InMemoryBroker(), backend, middleware)
    set_result = ResultStore.set_result

    async def slowly(self, task_id, outcome):
        await asyncio.sleep(0.3)
        await set_result(self, task_id, outcome)

    monkeypatch.setattr(ResultStore, "set_result", slowly)

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        return session

    await load.kicker().with_task_id("id").kiq()
    with pytest.raises(ConnectionError):
        await broker.wait_all()
    await asyncio.sleep(0)  # until others hear of it
    await middleware.shutdown()
    assert (await backend.store.get("id")).status is Status.FAILURE


async def test_shutdown_waits_for_ends_that_come_while_it_waits(start_broker, backend, monkeypatch):
    middleware = TaskInfoMiddleware()
    broker = await start_broker(InMemoryBroker(), backend, middleware)
    set_result = ResultStore.set_result
    last = asyncio.Event()

    async def slowly(self, task_id, outcome):
        await asyncio.sleep(0.2)
        last.set()
        await asyncio.sleep(0.1)
        await set_result(self, task_id, outcome)

    monkeypatch.setattr(ResultStore, "set_result", slowly)

    async def session():
        yield "session"
        await last.wait()
        raise ConnectionError("COMMIT failed")

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        return session

    @broker.task
    async def load_long(session: str = TaskiqDepends(session)):
        return session

    await load_long.kicker().with_task_id("second").kiq()
    await load.kicker().with_task_id("first").kiq()
    await eventually(lambda: middleware._ends)
    await middleware.shutdown()
    ended = await backend.store.get_many(["first", "second"])
    assert {record.status for record in ended.values()} == {Status.FAILURE}
    assert len(ended) == 2


async def test_shutdown_does_not_wait_for_ends_without_end(backend, start_broker, monkeypatch):
    monkeypatch.setattr(middleware_module, "_LONGEST_SHUTDOWN", 0.3)
    middleware = TaskInfoMiddleware()
    broker = await start_broker(InMemoryBroker(), backend, middleware)

    @broker.task
    async def load(session: str = TaskiqDepends(_session)):
        return session

    async def go_on(*_):
        await asyncio.sleep(0.05)
        await load.kiq()
        await asyncio.sleep(0.05)

    with monkeypatch.context() as patched:
        patched.setattr(ResultStore, "set_result", go_on)
        await load.kiq()
        await eventually(lambda: middleware._ends)
        await asyncio.wait_for(middleware.shutdown(), 10)
        assert middleware._ends


async def test_a_task_that_is_sent_once_more_has_no_end_yet(start_broker, backend, statuses):
    broker = await start_broker(
        HeldBroker(),
        backend,
        TaskInfoMiddleware(),
        _Raises("post_execute"),
        SimpleRetryMiddleware(),
    )

    @broker.task
    async def again(context: Context = TaskiqDepends()):
        await context.requeue()

    @broker.task(retry_on_error=True)
    async def fail():
        raise ValueError

    for task in (again, fail):
        await task.kiq()
        running = asyncio.create_task(broker.receiver.callback(broker.held.popleft().message))
        with pytest.raises(ConnectionError):
            await running
        assert len(broker.held) == 1
        broker.held.clear()
    await broker.shutdown()
    assert statuses() == []
