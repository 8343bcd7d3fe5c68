from __future__ import annotations

import functools
import gc
import importlib
import importlib.util
import pickle
import re
import subprocess
import sys
import threading
import traceback
import tracemalloc
import types
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import pydantic
import pytest
import samples

from taskiq_pg_json import JsonSerializer, PickleFallback
from taskiq_pg_json.errors import (
    ConfigurationError,
    RemoteError,
    ResultDecodeError,
    ResultEncodeError,
)
from taskiq_pg_json.serializer import PickledValueWarning, UnresolvedTypeWarning, lookup, text
from taskiq_pg_json.serializer.protocol import EncodedRow

KEY = b"a key of this test, 32 bytes long"
NOT_IMPORTED = "this"

watching: list[list[str]] = []


def _watch(event, args):
    if watching and event.startswith(
        ("import", "exec", "compile", "subprocess", "os.", "pickle.", "open", "socket", "ctypes")
    ):
        watching[-1].append(f"{event} {args!r:.200}")


sys.addaudithook(_watch)


@contextmanager
def nothing_happens():
    """Nothing is imported, compiled, executed, opened or unpickled inside."""
    seen: list[str] = []
    watching.append(seen)
    try:
        yield
    finally:
        watching.pop()
    assert seen == []


@dataclass
class Tripwire:
    """Calls that reading must not make."""

    value: int
    touched = False

    def __init__(self, value):
        type(self).touched = True
        self.value = value

    def __post_init__(self):
        type(self).touched = True

    def __setattr__(self, name, value):
        type(self).touched = True
        object.__setattr__(self, name, value)

    def __setstate__(self, _state):
        type(self).touched = True

    @property
    def derived(self):
        raise AssertionError

    @derived.setter
    def derived(self, _value):
        type(self).touched = True


class Holder:
    """Leads from a module-level instance to a class."""

    def __init__(self):
        self.inner = Tripwire

    def __getattr__(self, name):
        raise AssertionError("an instance was asked for an attribute")


holder = Holder()


class Executing:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return eval, ("__import__('os').environ.setdefault('TRIPPED', 'yes')",)


def row_of(plain, node):
    return EncodedRow(
        {"return_value": orjson.dumps(plain)}, orjson.dumps({"v": 1, "return_value": node})
    )


def read(serializer, plain, node):
    return serializer.decode(row_of(plain, node), task_id="t")["return_value"]


DANGEROUS = [
    "os:system",
    "subprocess:Popen",
    "builtins:exec",
    "builtins:eval",
    "builtins:object",
    "builtins:type",
    "pickle:loads",
    "importlib:import_module",
    "threading:Thread",
    "tempfile:NamedTemporaryFile",
    f"{NOT_IMPORTED}:anything",
    "test_safety:holder.inner",
    "test_safety:holder",
    "test_safety:Tripwire.__init__",
    "test_safety:Tripwire.__init__.__globals__",
    "test_safety:Tripwire[int]",
    "samples:Page[os:system]",
    "samples:Page[list[os:system]]",
    "samples:Page[Literal[__import__('os').abort()]]",
    'samples:Page[Literal["a"]|Union[]]',
    "samples:Page[" + "list[" * 150 + "int" + "]" * 151,
    "samples:Page[int|" + "|".join(["..."] * 9) + "]",
    "test_safety:Tripwire.derived",
    "test_safety:subprocess.Popen",
    "test_safety:missing",
    "test_safety:",
    ":Tripwire",
    "",
    ":",
    "::",
    "..:x",
    "x" * 5_000,
]
KINDS = [
    "dataclass",
    "model",
    "enum",
    "namedtuple",
    "attrs",
    "struct",
    "exception",
    "custom",
    "list",
    "dict",
    "str",
    "unheard-of",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DANGEROUS, ids=lambda name: name[:40])
def test_a_dangerous_name_does_nothing(kind, name):
    modules = set(sys.modules)
    serializer = JsonSerializer(fallback=None)
    for plain in ({"args": ["id"], "message": "m", "type": "t", "module": "m"}, ["id"], "id", 1):
        with warnings.catch_warnings(), nothing_happens():
            warnings.simplefilter("ignore")
            try:
                back = read(serializer, plain, f"{kind}:{name}")
            except ResultDecodeError:
                continue
        assert back == plain or isinstance(back, (RemoteError, type(plain)))
    assert set(sys.modules) == modules
    assert not Tripwire.touched


class Hooked:
    """No class that the serializer has a name for, with code that builds a schema."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        raise AssertionError


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
@pytest.mark.parametrize("argument", ["{}", "list[{}]", "dict[str,{}|NoneType]"])
def test_no_model_is_built_of_a_class_without_a_name_of_its_own(argument):
    name = f"model:samples:Page[{argument.format(f'{__name__}:Hooked')}]"
    assert read(JsonSerializer(fallback=None), {"items": []}, name) == {"items": []}


def test_the_names_that_are_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr(lookup, "_MAX_FOUND", 10)
    serializer = JsonSerializer(fallback=None)
    for number in range(25):
        name = f"model:samples:Page[Literal[{number}]]"
        assert isinstance(read(serializer, {"items": []}, name), samples.Page)
        assert len(serializer._lookup._found) <= 10


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
def test_rows_that_were_read_leave_no_long_text_behind():
    serializer = JsonSerializer(fallback=None)
    text = "x" * 1_000_000

    def read_two(number):
        read(serializer, 1, f"dataclass:m:{number}{text}")
        plain = {"type": "ValueError", "module": "builtins", "message": "m", "args": ["m"]}
        frame = f'  File "a{number}.py", line 1, in f\n    {text}\n'
        plain["traceback"] = f"Traceback (most recent call last):\n{frame}"
        row = EncodedRow({"error": orjson.dumps(plain)})
        assert serializer.decode(row, task_id="t")["error"].__traceback__ is not None

    tracemalloc.start()
    try:
        for number in range(10):
            read_two(number)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [f"dataclass:m:{'x' * 1_000_000}", f"{'x' * 1_000_000}:m:X"])
def test_a_long_name_is_told_in_brief(name):
    with pytest.warns(UnresolvedTypeWarning) as caught:
        assert read(JsonSerializer(), {"a": 1}, name) == {"a": 1}
    assert all(len(str(warning.message)) < 3_000 for warning in caught)


@pytest.mark.parametrize(
    "name", ["dataclass:os:system", "enum:subprocess:Popen", "model:gone:Gone"]
)
def test_an_unknown_type_leaves_the_plain_json_and_warns_once(name):
    serializer = JsonSerializer()
    with pytest.warns(UnresolvedTypeWarning, match=name):
        assert read(serializer, {"a": 1}, name) == {"a": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(serializer, {"a": 1}, name) == {"a": 1}


def test_an_unknown_type_is_an_error_where_that_is_asked_for():
    serializer = JsonSerializer(on_unknown_type="error")
    with pytest.raises(ResultDecodeError) as caught:
        read(serializer, {"deep": [{"a": 1}]}, {"fields": {"deep": {"items": "model:gone:Gone"}}})
    assert caught.value.path == "return_value.deep[0]"
    assert caught.value.type_name == "model:gone:Gone"
    assert caught.value.plain == {"a": 1}


@pytest.mark.parametrize("kind", ["model", "enum", "namedtuple", "exception", "attrs", "struct"])
@pytest.mark.filterwarnings("ignore")
def test_a_class_of_another_kind_is_not_taken(kind):
    back = read(
        JsonSerializer(),
        {"value": 1, "message": "", "type": "", "module": ""},
        f"{kind}:test_safety:Tripwire",
    )
    assert not isinstance(back, Tripwire)


@dataclass
class SlottedTripwire:
    """Slots, attributes beside them, and code that runs when one is asked for."""

    __slots__ = ("__dict__", "value")
    value: int

    def __getattribute__(self, _name):
        raise AssertionError("an instance was asked for an attribute")


class PrivateTripwire(pydantic.BaseModel):
    """The same, with private attributes."""

    value: int
    _note: int = pydantic.PrivateAttr()

    def __getattribute__(self, _name):
        raise AssertionError("an instance was asked for an attribute")


def test_setting_attributes_beside_the_fields_asks_the_instance_for_none():
    node = {"type": "dataclass:test_safety:SlottedTripwire", "keys": ["note"]}
    back = read(JsonSerializer(), {"value": 1, "note": 2}, node)
    assert object.__getattribute__(back, "note") == 2
    back = read(JsonSerializer(), {"value": 1, "_note": 2}, "model:test_safety:PrivateTripwire")
    assert object.__getattribute__(back, "__pydantic_private__") == {"_note": 2}


def test_a_pattern_that_was_compiled_with_debug_is_loaded_in_silence(capsys):
    row = JsonSerializer().encode({"return_value": re.compile("a+", re.DEBUG)}, task_id="t")
    capsys.readouterr()
    assert JsonSerializer().decode(row, task_id="t")["return_value"] == re.compile("a+")
    assert capsys.readouterr().out == ""


def test_restoring_runs_no_code_of_the_class():
    Tripwire.touched = False
    with nothing_happens():
        back = read(JsonSerializer(), {"value": 1}, "dataclass:test_safety:Tripwire")
    assert type(back) is Tripwire
    assert back.value == 1
    assert not Tripwire.touched


@dataclass(eq=False)
class Meddler:
    """Methods that text and numbers have, and what asks for them."""

    value: int


called: list[str] = []
_HOOKS = (
    "replace partition encode strip startswith __len__ __iter__ __getitem__ __contains__ __index__ "
    "__int__ __float__ __complex__ __and__ __rand__ __bytes__ __str__ __hash__ __eq__ __array__ "
    "__array_interface__ __buffer__ __fspath__"
)
for _hook in _HOOKS.split():
    setattr(Meddler, _hook, lambda *_args, name=_hook: called.append(name))


class Note(str):
    """Text with a method that reading must not call."""

    __slots__ = ()

    def __getitem__(self, index):
        called.append("__getitem__")
        return str.__getitem__(self, index)


MEDDLER = "dataclass:test_safety:Meddler"
SCALAR_NAMES = ["UUID", "Fraction", "bytes", "bytearray", "memoryview", "float", "complex", "int"]


@pytest.mark.parametrize(
    ("plain", "node"),
    [
        *(({"value": 1}, {"type": name, "items": MEDDLER}) for name in SCALAR_NAMES),
        ([{"value": 1}, 1], {"type": "complex", "items": {"items": MEDDLER}}),
        (
            {"pattern": "a", "flags": {"value": 1}},
            {"type": "Pattern", "fields": {"flags": MEDDLER}},
        ),
        (
            {"pattern": {"value": 1}, "flags": 0},
            {"type": "Pattern", "fields": {"pattern": MEDDLER}},
        ),
        ({"pattern": "a", "flags": "1"}, "Pattern"),
        *(
            (
                {"start": 1, "stop": 1, "step": 1, name: {"value": 1}},
                {"type": "range", "fields": {name: MEDDLER}},
            )
            for name in ("start", "stop", "step")
        ),
    ],
    ids=str,
)
def test_no_object_is_taken_for_text_or_a_number(plain, node):
    called.clear()
    with pytest.raises(ResultDecodeError):
        read(JsonSerializer(fallback=None), plain, node)
    assert called == []


@pytest.mark.parametrize(
    ("plain", "node"),
    [
        ([{"value": 1}], {"type": "ndarray:<f8:1", "items": {"items": MEDDLER}}),
        ([[1], {"value": 1}], {"type": "ndarray:<f8:2", "items": {"fields": {"1": MEDDLER}}}),
        ({"value": 1}, {"type": "ndarray:<i8:", "items": MEDDLER}),
        ({"value": 1}, {"type": "ndarray:<U1:", "items": MEDDLER}),
        ({"value": 1}, {"type": "numpy:<f8", "items": MEDDLER}),
    ],
    ids=str,
)
def test_no_object_is_taken_for_an_item_of_an_array(plain, node):
    pytest.importorskip("numpy")
    called.clear()
    with pytest.raises(ResultDecodeError):
        read(JsonSerializer(fallback=None), plain, node)
    assert called == []


def test_a_pattern_of_text_of_a_class_is_read_without_its_code():
    serializer = JsonSerializer(fallback=None)
    row = serializer.encode({"return_value": re.compile(Note("a|b"))}, task_id="t")
    called.clear()
    back = serializer.decode(row, task_id="t")["return_value"]
    assert called == []
    assert back == re.compile("a|b")


@pytest.mark.filterwarnings("ignore")
def test_only_exceptions_are_made_of_errors():
    plain = {"type": "Popen", "module": "subprocess", "message": "m", "args": [["id"]]}
    for name in ("subprocess:Popen", "test_safety:Tripwire", "builtins:int"):
        with nothing_happens():
            row = EncodedRow(
                {"error": orjson.dumps(plain)},
                orjson.dumps({"v": 1, "error": f"exception:{name}"}),
            )
            back = JsonSerializer().decode(row, task_id="t")["error"]
        assert isinstance(back, RemoteError)


@pytest.mark.timeout(20)
def test_a_part_has_one_place():
    parts = [
        [["", ""], {"type": "tuple", "fields": {"0": f"part:{n}", "1": f"part:{n}"}}]
        for n in range(1, 50)
    ]
    types = {"v": 1, "return_value": {"type": "set", "items": "part:0"}}
    types["parts"] = [*parts, [[1], "tuple"]]
    row = EncodedRow({"return_value": b'[""]'}, orjson.dumps(types))
    with pytest.raises(ResultDecodeError, match="part"):
        JsonSerializer().decode(row, task_id="t")


def held_in_a_set(value):
    return {value}


def held_as_a_key(value):
    return {1: 0, value: 1}


class Wrapped(NamedTuple):
    inner: object


@pytest.mark.parametrize(
    "wrap", [lambda value: (value,), Wrapped, lambda value: frozenset([value])]
)
@pytest.mark.parametrize("hold", [held_in_a_set, held_as_a_key])
def test_what_is_nested_as_deep_as_may_be_is_hashed(hold, wrap):
    value = hold(functools.reduce(lambda inner, _: wrap(inner), range(7_900), "x"))
    serializer = JsonSerializer(fallback=None)
    row = serializer.encode({"return_value": value}, task_id="t")
    back = serializer.decode(row, task_id="t")["return_value"]
    assert (type(back), hash(tuple(back))) == (type(value), hash(tuple(value)))


@pytest.mark.parametrize("around", [1, *range(62, 67), 128])
@pytest.mark.parametrize("hold", [held_in_a_set, held_as_a_key])
def test_what_is_nested_deeper_is_refused_where_it_would_be_hashed(hold, around):
    serializer = JsonSerializer(fallback=None)
    deep = functools.reduce(lambda inner, _: (inner,), range(9_000), "x")
    assert serializer.encode({"return_value": [deep]}, task_id="t").types is not None
    held = functools.reduce(lambda inner, _: [inner], range(around), hold(deep))
    with pytest.raises(ResultEncodeError, match=r"levels deep in a set or a dict's key"):
        serializer.encode({"return_value": held}, task_id="t")


@pytest.mark.parametrize(
    ("plain", "node"),
    [
        (["p"], {"type": "set", "items": "part:0"}),
        ({"k": 1}, {"keys": [["k", "p", "part:0"]]}),
        (
            {"held": ["p"]},
            {"type": "model:__main__:Holding", "fields": {"held": {"items": "part:0"}}},
        ),
    ],
)
def test_a_row_that_is_nested_too_deep_to_be_hashed_is_damaged(plain, node):
    def nested(inner, wrap):
        return functools.reduce(lambda value, _: wrap(value), range(60), inner)

    parts = [
        [nested("p", lambda inner: [inner]), nested(n, lambda n: {"type": "tuple", "items": n})]
        for n in [*(f"part:{n}" for n in range(1, 2_700)), "str"]
    ]
    script = (
        "import pydantic, sys; from taskiq_pg_json import JsonSerializer, ResultDecodeError\n"
        "from taskiq_pg_json.serializer import EncodedRow\n"
        "class Holding(pydantic.BaseModel): number: int = 0; held: set\n"
        "plain, types = sys.stdin.buffer.read().splitlines()\n"
        "try: JsonSerializer().decode(EncodedRow({'return_value': plain}, types), task_id='t')\n"
        "except ResultDecodeError as refused: print(refused)"
    )
    types = {"v": 1, "return_value": node, "parts": parts}
    given = b"\n".join(map(orjson.dumps, (plain, types)))
    # in a process of its own, which would be killed
    command = [sys.executable, "-c", script]
    reader = subprocess.run(command, input=given, capture_output=True, check=False)
    assert reader.returncode == 0, reader.stderr
    assert b"too deep to be hashed" in reader.stdout


def chained_groups(number, step, references=1):
    """The row of a group of so many groups, each of which refers to the one beside it."""

    def group(place):
        members = [{"same_as": f"$.children[{place + step}]"}] * references
        return {"type": "G", "module": "m", "message": "g", "args": ["g"], "children": members}

    children = [group(place) for place in range(number)]
    children[0 if step < 0 else -1] = {"type": "E", "module": "m", "message": "e", "args": ["e"]}
    error = {"type": "G", "module": "m", "message": "g", "args": ["g"], "children": children}
    return EncodedRow({"error": orjson.dumps(error)})


def groups_in_groups(number, place):
    """The row of a group that holds itself, and in its place of the message one like it."""
    group_type = "exception:builtins:ExceptionGroup"
    leaf = {"type": "ValueError", "module": "builtins", "message": "x", "args": ["x"]}
    plain, node = leaf, "exception:builtins:ValueError"
    for _ in range(number):
        attrs, fields = {"me": {"same_as": "$"}}, {"me": group_type}
        args, of_args = ["g", plain], {"fields": {"1": node}}
        if place == "attrs":
            attrs, fields = {**attrs, "message": plain}, {**fields, "message": node}
            args, of_args = ["g"], None
        plain = {"type": "ExceptionGroup", "module": "builtins", "message": "g"}
        plain |= {"args": args, "attrs": attrs, "children": [leaf]}
        node = {"type": group_type, "fields": {"attrs": {"fields": fields}}}
        if of_args is not None:
            node["fields"]["args"] = of_args
    return row_of(plain, node)


@pytest.mark.timeout(20, method="thread")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ["args", "attrs"])
def test_what_a_group_holds_beside_its_message_is_decoded_once(place):
    with suppress(ResultDecodeError):
        JsonSerializer().decode(groups_in_groups(40, place), task_id="t")


def doubling_groups(number):
    """The row of a group that holds a group of twice as many errors, and so on."""
    group_type = "exception:builtins:ExceptionGroup"
    leaf = {"type": "ValueError", "module": "builtins", "message": "x", "args": ["x"]}
    group = {"type": "ExceptionGroup", "module": "builtins", "message": "g", "args": ["g"]}
    plain, node = {**group, "children": [{"same_as": "$", "outer": 1}] * 2}, group_type
    for level in range(number):
        members = [leaf] if level == number - 1 else [{"same_as": "$", "outer": 1}] * 2
        plain = {**group, "children": members, "attrs": {"next": plain}}
        node = {"type": group_type, "fields": {"attrs": {"fields": {"next": node}}}}
    return row_of(plain, node)


def test_groups_of_the_errors_around_them_come_back():
    back = JsonSerializer().decode(doubling_groups(5), task_id="t")["return_value"]
    assert back.next.exceptions == (back, back)


def test_groups_of_the_errors_around_them_that_would_be_printed_without_end_are_refused():
    with pytest.raises(ResultDecodeError, match="share"):
        JsonSerializer().decode(doubling_groups(19), task_id="t")


@pytest.mark.parametrize("step", [1, -1])
def test_groups_that_refer_to_each_other_come_back(step):
    back = JsonSerializer().decode(chained_groups(1_000, step), task_id="t")["error"]
    assert len(back.exceptions) == 1_000
    assert back.exceptions[1].exceptions[0] is back.exceptions[1 + step]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize(("number", "references"), [(20_000, 1), (30, 2)])
def test_groups_that_would_be_printed_without_end_are_refused(step, number, references):
    with pytest.raises(ResultDecodeError, match="share"):
        JsonSerializer().decode(chained_groups(number, step, references), task_id="t")


def test_a_module_that_is_not_imported_stays_so_unless_it_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "shop_of_this_test.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Item:\n    price: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "dataclass:shop_of_this_test:Item"
    with pytest.warns(UnresolvedTypeWarning):
        assert read(JsonSerializer(), {"price": 1}, name) == {"price": 1}
    with pytest.warns(UnresolvedTypeWarning):
        assert read(JsonSerializer(allow=["other.*"]), {"price": 1}, name) == {"price": 1}
    assert "shop_of_this_test" not in sys.modules
    back = read(JsonSerializer(allow=["shop_of_this_test"]), {"price": 1}, name)
    assert back == importlib.import_module("shop_of_this_test").Item(1)


class Proxy:
    """What lazy settings and the current user of web frameworks are: ``__class__`` is computed."""

    @property
    def __class__(self):
        raise AssertionError("a proxy was asked what it stands for")


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "place", ["shop_of_proxies:thing", "shop_of_proxies:thing.more", "proxy:x"]
)
def test_a_name_asks_no_proxy_what_it_stands_for(monkeypatch, strict, place):
    shop = types.ModuleType("shop_of_proxies")
    shop.thing = Proxy()
    monkeypatch.setitem(sys.modules, "shop_of_proxies", shop)
    monkeypatch.setitem(sys.modules, "proxy", Proxy())
    serializer = JsonSerializer(strict=strict)
    for name in (f"dataclass:{place}", f"model:samples:Page[{place}]"):
        assert read(serializer, {"a": 1}, name) == {"a": 1}


@pytest.fixture
def lazy_shop(tmp_path, monkeypatch):
    """The name of a module that is loaded when it is asked for anything."""
    (tmp_path / "lazy_shop.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Item:\n    price: int\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    spec = importlib.util.find_spec("lazy_shop")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "lazy_shop", module)
    spec.loader.exec_module(module)
    return "lazy_shop"


def test_a_name_loads_no_lazy_module_unless_it_is_allowed(lazy_shop):
    name = f"dataclass:{lazy_shop}:Item"
    with nothing_happens(), pytest.warns(UnresolvedTypeWarning):
        assert read(JsonSerializer(), {"price": 1}, name) == {"price": 1}
    assert read(JsonSerializer(allow=["lazy_shop"]), {"price": 1}, name).price == 1


@pytest.fixture
def raising_shop(tmp_path, monkeypatch):
    """Makes a package with a program in it and a module that raises, and returns its name."""
    name = "shop_that_exits"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text("raise AssertionError('the program was run')")
    (package / "broken.py").write_text("raise SystemExit(3)")
    (package / "stopped.py").write_text("raise KeyboardInterrupt")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.startswith(name)]:
        monkeypatch.delitem(sys.modules, module)


def test_what_is_allowed_runs_no_program(raising_shop, caplog):
    serializer = JsonSerializer(allow=[f"{raising_shop}.*"])
    with pytest.warns(UnresolvedTypeWarning):
        assert read(serializer, {"a": 1}, f"dataclass:{raising_shop}.__main__:X") == {"a": 1}
    assert "cannot be imported" not in caplog.text


def test_a_module_that_cannot_be_imported_leaves_the_plain_json(raising_shop, caplog):
    serializer = JsonSerializer(allow=[f"{raising_shop}.*"])
    with pytest.warns(UnresolvedTypeWarning):
        assert read(serializer, {"a": 1}, f"dataclass:{raising_shop}.broken:X") == {"a": 1}
    assert read(serializer, {"a": 2}, f"dataclass:{raising_shop}.broken:X") == {"a": 2}
    said = f"{raising_shop}.broken, which a row names, cannot be imported"
    assert caplog.text.count(said) == 1  # and not run for each value of each row
    assert "SystemExit: 3" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        read(serializer, {"a": 1}, f"dataclass:{raising_shop}.stopped:X")


def test_strict_takes_exceptions_of_python_and_no_other_class_of_it():
    serializer = JsonSerializer(strict=True)
    row = serializer.encode({"error": KeyError("a")}, task_id="t")
    assert type(serializer.decode(row, task_id="t")["error"]) is KeyError
    with pytest.warns(UnresolvedTypeWarning):
        assert read(serializer, {"value": 1}, "dataclass:builtins:int") == {"value": 1}


def test_strict_takes_nothing_but_what_is_registered_or_allowed():
    name = "dataclass:samples:Invoice"
    plain = {"number": 1}
    with pytest.warns(UnresolvedTypeWarning):
        assert read(JsonSerializer(strict=True), plain, name) == {"number": 1}
    serializer = JsonSerializer(strict=True, allow=["samples.*"])
    row = serializer.encode({"return_value": samples.Point(1, 2)}, task_id="t")
    assert serializer.decode(row, task_id="t") == {"return_value": samples.Point(1, 2)}


def test_a_remote_traceback_opens_no_file(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("do not print me\n")
    plain = {
        "type": "ValueError",
        "module": "builtins",
        "message": "m",
        "traceback": f'Traceback (most recent call last):\n  File "{secret}", line 1, in f\n',
    }
    row = EncodedRow(
        {"error": orjson.dumps(plain)}, b'{"v": 1, "error": "exception:builtins:ValueError"}'
    )
    program = (
        "from taskiq_pg_json import JsonSerializer;"
        "from taskiq_pg_json.serializer.protocol import EncodedRow;"
        f"row = EncodedRow({dict(row.columns)!r}, {row.types!r});"
        "raise JsonSerializer().decode(row, task_id='')['error']"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert "secret.txt" in ended.stderr
    assert "do not print me" not in ended.stderr


def pickled_row(serializer, task_id="t"):
    with pytest.warns(PickledValueWarning):
        return serializer.encode({"return_value": [1, samples.Opaque(3)]}, task_id=task_id)


def forged_error(cls, **attrs):
    plain = {"type": cls.__name__, "module": "builtins", "message": "m", "args": ["m"]}
    row = EncodedRow(
        {"error": orjson.dumps({**plain, "attrs": attrs})},
        orjson.dumps({"v": 1, "error": f"exception:builtins:{cls.__name__}"}),
    )
    return JsonSerializer(fallback=None).decode(row, task_id="t")["error"]


@pytest.mark.parametrize("name", [NOT_IMPORTED, f"{NOT_IMPORTED}.x", "a_lazy_module", None, ["m"]])
def test_printing_an_error_imports_nothing(name, monkeypatch):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name):
            raise AssertionError(name)

    monkeypatch.setitem(sys.modules, "a_lazy_module", Lazy("a_lazy_module"))
    # Python would import the package of a module that is imported without it
    monkeypatch.setitem(sys.modules, f"{NOT_IMPORTED}.x", types.ModuleType("x"))
    back = forged_error(ImportError, msg="m", name=name, name_from="zens")
    assert type(back) is ImportError
    assert getattr(back, "name_from", None) is None
    with nothing_happens():
        assert "ImportError: m" in "".join(traceback.format_exception(back))


def test_an_error_of_an_import_from_a_module_that_is_here_keeps_the_name():
    back = forged_error(ImportError, msg="m", name="importlib.util", name_from="find_specs")
    assert back.name_from == "find_specs"
    with suppress(ImportError):  # Python's own, from 3.13 on, to find names that are alike
        importlib.import_module("_suggestions")
    with nothing_happens():
        traceback.format_exception(back)


def test_printing_an_error_reads_no_file(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOKEN t0ps3cret\nimprot t0ps3cret\n")
    attrs = {"msg": "invalid syntax", "filename": str(secret), "lineno": 2, "offset": 1}
    attrs |= {"text": "x", "end_lineno": 2, "end_offset": 2, "_metadata": [2, 0, None]}
    back = forged_error(SyntaxError, **attrs)
    assert (back.filename, getattr(back, "_metadata", None)) == (str(secret), None)
    with nothing_happens():
        assert "t0ps3cret" not in "".join(traceback.format_exception(back))


def test_a_type_name_never_leads_to_a_pickle():
    with nothing_happens(), pytest.raises(ResultDecodeError):
        read(JsonSerializer(), "gASVBQAAAAAAAABLAS4=", {"pickle": 0})


def test_without_the_fallback_nothing_is_pickled_or_unpickled():
    row = pickled_row(JsonSerializer())
    with nothing_happens(), pytest.raises(ResultDecodeError, match="PickleFallback"):
        JsonSerializer(fallback=None).decode(row, task_id="t")
    with pytest.raises(ResultEncodeError, match="fallback=None") as caught:
        JsonSerializer(fallback=None).encode(
            {"return_value": {"a": samples.Opaque(3)}}, task_id="t"
        )
    assert caught.value.path == "return_value.a"


def test_a_signed_row_is_read_with_its_key():
    serializer = JsonSerializer(fallback=PickleFallback(key=KEY))
    row = pickled_row(serializer)
    back = serializer.decode(row, task_id="t")["return_value"]
    assert type(back[1]) is samples.Opaque


@pytest.mark.parametrize("position", [0, 4, 5, 20, 36, 37, 45, -1])
def test_a_tampered_pickle_is_refused_before_it_is_read(position):
    serializer = JsonSerializer(fallback=PickleFallback(key=KEY))
    row = pickled_row(serializer)
    tampered = bytearray(row.pickled)
    tampered[position] ^= 1
    with nothing_happens(), pytest.raises(ResultDecodeError):
        serializer.decode(EncodedRow(row.columns, row.types, bytes(tampered)), task_id="t")


def test_an_unsigned_pickle_is_refused_in_signed_mode():
    row = pickled_row(JsonSerializer())
    with nothing_happens(), pytest.raises(ResultDecodeError, match="not signed"):
        JsonSerializer(fallback=PickleFallback(key=KEY)).decode(row, task_id="t")


def test_a_signed_pickle_is_refused_without_the_key_and_with_another():
    row = pickled_row(JsonSerializer(fallback=PickleFallback(key=KEY)))
    for fallback in (PickleFallback(), PickleFallback(key=KEY[::-1])):
        with nothing_happens(), pytest.raises(ResultDecodeError, match="sign"):
            JsonSerializer(fallback=fallback).decode(row, task_id="t")


def test_a_pickle_copied_to_another_task_is_refused():
    serializer = JsonSerializer(fallback=PickleFallback(key=KEY))
    row = pickled_row(serializer, task_id="t1")
    with nothing_happens(), pytest.raises(ResultDecodeError, match="signature"):
        serializer.decode(row, task_id="t2")


def test_keys_are_rotated():
    old = JsonSerializer(fallback=PickleFallback(key=KEY))
    new = JsonSerializer(fallback=PickleFallback(key=[KEY[::-1], KEY]))
    assert type(new.decode(pickled_row(old), task_id="t")["return_value"][1]) is samples.Opaque
    with pytest.raises(ResultDecodeError):
        old.decode(pickled_row(new), task_id="t")


@pytest.mark.parametrize(
    "key", ["", b"short", [], 12345, [20], [KEY, None], {KEY: 1}, "sixteen letters \ud800"]
)
def test_a_key_that_protects_nothing_is_refused(key):
    with pytest.raises(ConfigurationError, match="key"):
        PickleFallback(key=key)


@pytest.mark.parametrize("fallback", [PickleFallback, True, False, "pickle", KEY])
def test_a_fallback_that_cannot_pickle_is_refused(fallback):
    with pytest.raises(ConfigurationError, match=r"fallback=.*PickleFallback\(\).*None") as caught:
        JsonSerializer(fallback=fallback)
    assert "a key of this test" not in str(caught.value)


def test_a_forged_pickle_does_not_run_in_signed_mode(monkeypatch):
    monkeypatch.delenv("TRIPPED", raising=False)
    leaf = pickle.dumps(Executing())
    forged = b"tpj1\x00" + len(leaf).to_bytes(4, "big") + leaf
    row = EncodedRow({"return_value": b'"x"'}, b'{"v": 1, "return_value": {"pickle": 0}}', forged)
    serializer = JsonSerializer(fallback=PickleFallback(key=KEY))
    with nothing_happens(), pytest.raises(ResultDecodeError):
        serializer.decode(row, task_id="t")


def test_a_warning_names_the_path_of_what_was_pickled_and_how_to_register_it():
    with pytest.warns(PickledValueWarning, match=r"return_value\[1\].*Opaque.*register") as caught:
        JsonSerializer().encode({"return_value": [1, samples.Opaque(3)]}, task_id="t")
    assert len(caught) == 1


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
def test_what_cannot_be_pickled_either_is_refused_with_its_path():
    with pytest.raises(ResultEncodeError, match="lock") as caught:
        JsonSerializer().encode({"return_value": {"a": [threading.Lock()]}}, task_id="t")
    assert caught.value.path == "return_value.a[0]"


def test_an_int_of_the_most_digits_is_read():
    digits = "9" * text.MAX_DIGITS
    assert text.decode_int(f"-{digits}") == 1 - 10**text.MAX_DIGITS
