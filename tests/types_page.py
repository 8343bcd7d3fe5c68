"""The page of types in the documentation, made of examples.

``python tests/types_page.py`` writes it anew.
"""

# ruff: noqa: E501 - a row of a Markdown table is one line

from __future__ import annotations

import collections
import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import re
import types
import uuid
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pydantic_core

from taskiq_pg_json.serializer.json_serializer import JsonSerializer

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "reference" / "types.md"

_INTRODUCTION = """\
# Types

What each type becomes in a jsonb column, how SQL reads it (`v ->> 0` stands for the path to it),
and what the sidecar in `types` says. A value comes back as the same type with the same content,
wherever it is nested; the exceptions are listed below the table.

This page is written by `python tests/types_page.py`.

| Python | stored JSON | in SQL | sidecar |
|---|---|---|---|
"""
_REST = """
## Classes

| Class | stored JSON | sidecar |
|---|---|---|
| dataclass, attrs class, msgspec Struct, named tuple | an object by field name | `dataclass:module:QualName`, `attrs:…`, `struct:…`, `namedtuple:…` |
| pydantic model | an object by field name, never by alias; extra values, private attributes and slots beside the fields | `model:module:QualName`, with `keys` where not every field was set |
| RootModel | its root value; like any model where private attributes are not the default | `model:module:QualName` |
| Enum | the value if it is a str or an int, the name otherwise | `enum:module:QualName` |
| subclass of str, int, float, bytes, list, tuple, dict, set, frozenset | the builtin's JSON | `str:module:QualName`, … |
| exception | an object: type, module, message, args, traceback, … | `exception:module:QualName` |
| registered with a codec | what its `encode` returns | `custom:name` |
| numpy array, scalar | nested lists, a number or text | `ndarray:dtype:shape`, `numpy:dtype` |
| pandas Timestamp, Timedelta, NaT | ISO 8601 text | `pandas:…` |
| subclass of datetime, date, time, timedelta, Decimal; a datetime or time in a zone that has no name here | the builtin's text, which casts as any other; the object is pickled | `{"pickle": n}` |
| anything else | its repr; the object is pickled | `{"pickle": n}` |

## What does not come back exactly

- A `functools.cached_property` that was computed is computed again.
- The parameters of a generic dataclass: `Box[int](1)` comes back as `Box(1)`. A generic pydantic
  model keeps them where they are made of classes, `Any`, `None`, `list`, `dict`, `tuple`, `set` and
  `frozenset`, unions, and `Literal` of str, int, bool and None: `Page[list[Invoice] | None]`. With
  any other, such as `Page[Annotated[int, Gt(0)]]`, it comes back as `Page`.
- `re.DEBUG`, which prints a pattern that is compiled, is not among its flags any more.
- Two references to one object come back as two equal objects, but for what was pickled.
- An object that refers to itself, one that SQLAlchemy maps (whatever the kind of its class), a Struct
  with `__post_init__`, a class with `__del__`, a tzinfo of a library other than pydantic, and what an
  Enum's own `_missing_` has made of a value are pickled. So are an instance of a builtin's subclass,
  an OrderedDict or a Counter with attributes of its own, a model with an extra value of the name of a
  field or private attribute, and a numpy array of text much wider than its items.
- A Struct with `__post_init__` comes back as it was, though msgspec runs the hook, on a copy, when a
  row is read. It cannot be stored where the hook raises for what it has made of the fields itself,
  or where a field holds the Struct directly.
- An instance of a class inside a function cannot be stored unless the class is registered, for
  pickle cannot find it either: the task becomes a FAILURE that says so. An exception of such a
  class comes back as a `RemoteError` of its name.
- A class that is not to be had leaves its plain JSON. Where that cannot be in a set, or be a key, or
  is that of another key too, the set comes back as a list, and the dict with its keys as text.
- A defaultdict whose factory cannot be pickled, such as a lambda, comes back without one; an
  `IncompleteValueWarning` says so when it is stored. Any other factory that is no builtin has it pickled.
- A datetime or time whose zone would come back with another UTC offset, as its own pickle leaves
  out what that depends on, is refused: the task becomes a FAILURE that says so. `fold` comes back,
  of a subclass too, such as pendulum's. Attributes of a subclass do as well where pickle
  takes them; they are left out, as Python does, where it does not, or where the subclass has a
  `__getstate__` or `__setstate__` of its own. What a `__reduce__` of its own says holds, but for `fold`.
- What else a class leaves out when it is pickled does not come back: the months of a pendulum
  Duration are days then.
- A numpy array comes back in C order, and can be written to.
- Of a chain of causes or contexts the 50 errors next to the one that was raised are kept.
- An error in a set that it holds itself, or in a dict's key, is put there when it has its arguments and
  not yet its attributes. Where its hash needs these, the set comes back as a list, and the dict with
  its keys as text, with a warning.
- An ImportError comes back without its `name_from` where its module is not imported, and a
  SyntaxError without its `_metadata`: printing it would import the module, or read the file.
- Values nested deeper than 64 levels are whole, but their deeper levels stand in `types`, not in
  the value's own column.
- What is nested more than 8,000 levels deep in an item of a set, or in a dict's key, is refused.
"""


class Example(NamedTuple):
    """One line of the table."""

    name: str
    value: object
    sql: str = ""


EXAMPLES = (
    Example("str, bool, None", ["text", True, None]),
    Example("int", 42, "::bigint"),
    Example("int past 64 bits", 2**70, "::numeric"),
    Example("float", 1.5, "::float8"),
    Example("float from 1e15 on", 1e16, "::float8"),
    Example("float that is not finite, -0.0", float("nan"), "::float8"),
    Example("complex", 1 + 2j),
    Example("Decimal", decimal.Decimal("12.50"), "::numeric"),
    Example("Fraction", fractions.Fraction(3, 4)),
    Example("str with NUL or a surrogate", "a\x00b"),
    Example("datetime", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc), "::timestamptz"),
    Example(
        "datetime in a ZoneInfo",
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=ZoneInfo("Europe/Berlin")),
        "::timestamptz",
    ),
    Example(
        "datetime that pydantic has read",
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=pydantic_core.TzInfo(0)),
        "::timestamptz",
    ),
    Example("date", dt.date(2026, 1, 2), "::date"),
    Example("time", dt.time(3, 4, 5), "::time"),
    Example("timedelta", dt.timedelta(days=1, seconds=30), "::interval"),
    Example("UUID", uuid.UUID(int=1), "::uuid"),
    Example("bytes", b"\x00\xff", "decode(…, 'base64')"),
    Example("bytearray", bytearray(b"\x00\xff"), "decode(…, 'base64')"),
    Example("memoryview of bytes", memoryview(b"\x00\xff"), "decode(…, 'base64')"),
    Example("PurePosixPath, PosixPath, …", pathlib.PurePosixPath("/srv/data")),
    Example("IPv4Address, IPv6Address", ipaddress.ip_address("10.0.0.1"), "::inet"),
    Example("IPv4Network, IPv6Network", ipaddress.ip_network("10.0.0.0/8"), "::cidr"),
    Example("IPv4Interface, IPv6Interface", ipaddress.ip_interface("10.0.0.1/8"), "::inet"),
    Example("URLs of pydantic_core, and of pydantic", pydantic_core.Url("http://example.org/")),
    Example("re.Pattern", re.compile("a+", re.IGNORECASE)),
    Example("range", range(1, 10, 2)),
    Example("slice", slice(None, 5)),
    Example("Ellipsis", ...),
    Example("list", [1, 2]),
    Example("tuple", (1, 2)),
    Example("set", {1}),
    Example("frozenset", frozenset({1})),
    Example("deque", collections.deque([1], maxlen=5)),
    Example("dict", {"a": 1}),
    Example("dict in another order than jsonb's", {"b": 1, "a": 2}),
    Example("dict with other keys", {1: "a"}),
    Example("dict with keys that collide", {1: "a", "1": "b"}),
    Example("OrderedDict", collections.OrderedDict(a=1)),
    Example("defaultdict of a builtin", collections.defaultdict(list, a=[])),
    Example("Counter", collections.Counter(a=1)),
    Example("MappingProxyType", types.MappingProxyType({"a": 1})),
    Example("SimpleNamespace", types.SimpleNamespace(a=1)),
)


@dataclass(frozen=True)
class Line:
    """An example as it is stored."""

    example: Example
    stored: str
    node: str


def lines() -> list[Line]:
    """Every example, encoded."""
    serializer = JsonSerializer(fallback=None)
    found = []
    for example in EXAMPLES:
        row = serializer.encode({"value": example.value}, task_id="reference")
        node = "" if row.types is None else row.types.decode()
        node = node.removeprefix('{"v":1,"value":').removesuffix("}")
        found.append(Line(example, row.columns["value"].decode(), node))
    return found


def page() -> str:
    """The page as Markdown."""
    table = "".join(
        f"| {line.example.name} | {_code(line.stored)} | {_code(line.example.sql)} |"
        f" {_code(line.node)} |\n"
        for line in lines()
    )
    return _INTRODUCTION + table + _REST


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
