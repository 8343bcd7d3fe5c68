from __future__ import annotations

import builtins
import copy
import os
import random
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from ipaddress import ip_address, ip_network
from pathlib import PurePosixPath
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
import samples

from taskiq_pg_json import JsonSerializer, PickleFallback
from taskiq_pg_json.errors import ResultDecodeError
from taskiq_pg_json.serializer.protocol import EncodedRow

MUTATIONS = int(os.environ.get("MUTATIONS", "10000"))
KEY = b"a key of this test, 32 bytes long"
DANGEROUS_EVENTS = ("import", "exec", "compile", "subprocess", "os.", "open", "socket", "ctypes")

seen: list[str] = []
listening = False


def _listen(event, args):
    if listening and (event.startswith(DANGEROUS_EVENTS) or event == "pickle.find_class"):
        seen.append(f"{event} {args!r:.300}")


sys.addaudithook(_listen)


def _failure():
    try:
        try:
            {}["sku"]
        except KeyError as exc:
            raise OSError(2, "No such file", "orders.csv") from exc
    except OSError as exc:
        exc.order = samples.Point(1.5, 2.5)
        return exc


def _tangle():
    """Errors that hold themselves, and each other."""
    exc, inner = UnicodeDecodeError("utf-8", b"a", 0, 1, "r"), KeyError("k")
    exc.errors, exc.inner = [exc], inner
    inner.back, inner.__context__ = {"outer": exc}, exc
    exc.__cause__ = LookupError("cause", [exc])
    group = getattr(builtins, "ExceptionGroup", None)
    if group is not None:
        exc.group = group("g", [exc, group("h", [inner, ValueError(1)])])
        exc.group.exceptions[1].exceptions[1].groups = [exc.group, exc]
    return exc


VALUES = [
    {"plain": [1, "two", None, 3.5, {"deep": [True]}]},
    [
        datetime(2026, 1, 2, 3, 4, tzinfo=timezone.utc),
        date(2026, 1, 2),
        time(1, 2),
        timedelta(1, 2),
    ],
    [datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))],
    [Decimal("1.50"), Fraction(1, 3), 10**30, -0.0, float("nan"), 1e300, 3 + 4j, range(1, 9, 2)],
    {1: "a", "1": "b", (1, 2): {3}, None: frozenset({4}), 2.5: b"\x00\xff", samples.Colour.RED: 1},
    [UUID(int=7), PurePosixPath("/srv"), ip_address("10.0.0.1"), ip_network("10.0.0.0/8"), ...],
    [
        "nul \0",
        "lone \ud800",
        {"\0": "\ud800"},
        slice(1, 2, 3),
        bytearray(b"ab"),
        memoryview(b"cd"),
    ],
    [OrderedDict(b=1, a=2), Counter("aab"), defaultdict(list, {"z": [1]}), deque([1, 2], 5)],
    [samples.Colour.RED, samples.Level(1), samples.Bits.A | samples.Bits.B, samples.Point(1, 2)],
    [
        samples.SlottedPoint(1, (2,)),
        samples.Invoice(datetime(2026, 1, 2, tzinfo=timezone.utc), Decimal(3)),
    ]
    * 3,
    [samples.FrozenReading(Decimal(1)), samples.Ids([1]), samples.Name("n"), samples.Settings(a=1)],
    [samples.Address.model_construct(street="s"), samples.Tags([1, (2,)])],
    {"zebra": 1, "apple": [{"b": 1, "a": date(2026, 1, 2)}] * 4},
    samples.Opaque(1),
    [1, samples.Opaque((1, 2))],
    _failure(),
    _tangle(),
]

ATOMS = [
    None,
    True,
    0,
    1,
    -1,
    2**31,
    2**63,
    -(2**70),
    0.5,
    1e308,
    "",
    "NaN",
    "0",
    "-1",
    "0-99999999",
    "9" * 5000,
    "1e999999999",
    "2026-01-02T03:04:05+99:99",
    "Europe/Berlin",
    "../../../etc/passwd",
    "/dev/zero",
    "(a+)+$",
    "\u0000",
    "$.cause",
    "$",
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"pickle": 0},
    {"pickle": -1},
    {"pickle": 10**9},
    {"type": "tuple", "items": {"type": "tuple"}},
    {"same_as": "$"},
    {"same_as": "$", "outer": 1},
    {"fields": {"0-3": "datetime", "x": "Decimal"}},
]
NAMES = [
    *(
        [
            "str",
            "int",
            "float",
            "json",
            "null",
            "missing",
            "tuple",
            "set",
            "frozenset",
            "dict",
            "list",
            "bytes",
            "bytearray",
            "memoryview",
        ]
    ),
    *(
        [
            "datetime",
            "date",
            "time",
            "timedelta",
            "Decimal",
            "Fraction",
            "UUID",
            "complex",
            "range",
            "slice",
            "Ellipsis",
        ]
    ),
    *(
        [
            "OrderedDict",
            "Counter",
            "defaultdict",
            "deque",
            "zone",
            "timezone",
            "Pattern",
            "Path",
            "IPv4Address",
        ]
    ),
    "part:0",
    "part:-1",
    "part:999999999999999999999",
    "float:zz",
    "exception:builtins:SystemExit",
    "exception:builtins:UnicodeDecodeError",
    "exception:builtins:ExceptionGroup",
    "exception:subprocess:Popen",
    "dataclass:os:system",
    "dataclass:samples:Point",
    "namedtuple:samples:Pair",
    "model:samples:Customer",
    "model:samples:Page[samples:Page[samples:Page]]",
    "model:samples:Page[",
    "enum:samples:Colour",
    "enum:this:Zen",
    "struct:samples:Reading",
    "list:samples:Ids",
    "custom:samples:Money",
    "attrs:samples:Parcel",
    ":",
    "::::",
]


class Mutator:
    def __init__(self, seed):
        self.random = random.Random(seed)

    def mutate(self, row):
        """One to three mutations of value, sidecar or bytes."""
        document = {"columns": {k: orjson.loads(v) for k, v in row.columns.items()}}
        document["types"] = None if row.types is None else orjson.loads(row.types)
        pickled = row.pickled
        for _ in range(self.random.randint(1, 3)):
            if pickled is not None and self.random.random() < 0.2:
                pickled = self.bytes(pickled)
            elif document["types"] is not None and self.random.random() < 0.6:
                document["types"] = self.tree(document["types"])
            else:
                name = self.random.choice(list(document["columns"]))
                document["columns"][name] = self.tree(document["columns"][name])
        columns = {k: self.text(_dumps(v)) for k, v in document["columns"].items()}
        types = None if document["types"] is None else self.text(_dumps(document["types"]))
        return EncodedRow(columns, types, pickled)

    def tree(self, tree):
        """A copy with one change somewhere."""
        tree = {"root": copy.deepcopy(tree)}
        places = list(_places(tree))
        holder, key = self.random.choice(places)
        action = self.random.randrange(6)
        if action == 0:
            holder[key] = copy.deepcopy(self.random.choice(ATOMS))
        elif action == 1:
            holder[key] = self.random.choice(NAMES)
        elif action == 2 and holder is not tree:
            del holder[key]
        elif action == 3:
            other, place = self.random.choice(places)
            holder[key] = copy.deepcopy(other[place])
        elif action == 4 and isinstance(holder, dict) and holder is not tree:
            holder[str(self.random.choice([*ATOMS[:24], "type", "items", "fields", "keys"]))] = (
                holder.pop(key)
            )
        elif isinstance(holder[key], dict):
            holder[key][
                self.random.choice(["type", "items", "fields", "keys", "order", "pickle"])
            ] = copy.deepcopy(self.random.choice([*ATOMS, *NAMES]))
        else:
            holder[key] = [holder[key]]
        return tree["root"]

    def text(self, data):
        """Once in a while what is no JSON any more."""
        return self.bytes(data) if self.random.random() < 0.03 else data

    def bytes(self, data):
        changed = bytearray(data)
        position = self.random.randrange(len(changed) + 1)
        if self.random.random() < 0.5:
            del changed[position : position + self.random.randint(1, 8)]
        else:
            changed[position : position + 1] = self.random.randbytes(1)
        return bytes(changed)


def _places(tree):
    stack = [tree]
    while stack:
        holder = stack.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                stack.append(holder[key])


def _dumps(value):
    try:
        return orjson.dumps(value)
    except (TypeError, orjson.JSONEncodeError):
        return repr(value).encode("utf-8", "replace")


@pytest.fixture(scope="module")
def serializers():
    registry_free = {"fallback": PickleFallback(key=KEY)}
    return [
        JsonSerializer(**registry_free),
        JsonSerializer(**registry_free, on_unknown_type="error"),
        JsonSerializer(**registry_free, strict=True, allow=["samples.*"]),
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_mutated_row_is_read_or_refused_and_nothing_else(serializers):
    global listening  # noqa: PLW0603 - an audit hook cannot be removed
    rows = [
        serializers[0].encode(
            {"return_value": value, "error": value if isinstance(value, Exception) else None},
            task_id="t",
        )
        for value in VALUES
    ]
    for row in rows:
        serializers[0].decode(row, task_id="t")
    outcomes = Counter()
    modules = set(sys.modules)
    for seed in range(MUTATIONS):
        mutator = Mutator(seed)
        original = mutator.random.choice(rows)
        row = mutator.mutate(original)
        serializer = mutator.random.choice(serializers)
        seen.clear()
        listening = True
        try:
            serializer.decode(row, task_id="t")
            outcomes["read"] += 1
        except ResultDecodeError:
            outcomes["refused"] += 1
        except BaseException as exc:  # noqa: BLE001 - any other is what this test looks for
            pytest.fail(f"seed {seed}: {exc!r} from {row}")
        finally:
            listening = False
        signed = row.pickled is not None and row.pickled == original.pickled
        events = [event for event in seen if not (signed and event.startswith("pickle.find_class"))]
        assert events == [], f"seed {seed}: {row}"
    assert set(sys.modules) == modules
    assert min(outcomes["read"], outcomes["refused"]) > MUTATIONS / 20
