"""Values of every type that the serializer keeps, and ``same()``, which tells them apart."""

from __future__ import annotations

import datetime as dt
import ipaddress
import pathlib
import re
import types
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from zoneinfo import ZoneInfo

import pydantic
import pydantic_core
import samples
from hypothesis import strategies as st
from pydantic_core import TzInfo
from sameness import same

__all__ = ["same", "values", "values_and_exceptions"]

URLS = [
    pydantic.TypeAdapter(kind).validate_python(url)
    for kind, url in [
        (pydantic.HttpUrl, "http://exämple.com/ü?q=1#f"),
        (pydantic.AnyUrl, "file:///x y"),
        (pydantic.PostgresDsn, "postgresql://u:p@h1:1,h2:2/db"),
        (pydantic_core.Url, "http://x"),
        (pydantic_core.MultiHostUrl, "http://a,b/x"),
    ]
]
ZONES = [ZoneInfo(key) for key in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu")]

text = st.text(st.characters(), max_size=20) | st.text("a\\u0\x00\ud800\udfff\"'é😀", max_size=8)
clean_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)
integers = st.integers() | st.sampled_from(
    [2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**400, -(10**400)]
)
floats = st.floats() | st.sampled_from(
    [
        0.0,
        -0.0,
        1e15,
        1e16,
        -1e16,
        1e21,
        1e22,
        1e23,
        5e-324,
        1.7976931348623157e308,
        999999999999999.9,
    ]
)
offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).map(
    dt.timezone
) | st.builds(
    dt.timezone,
    st.sampled_from([dt.timedelta(hours=1), dt.timedelta(0)]),
    st.sampled_from(["CET", "odd name;:", "=x"]),
)
pydantic_offsets = st.integers(-86_399, 86_399).map(TzInfo)
zones = st.none() | st.just(dt.timezone.utc) | offsets | pydantic_offsets | st.sampled_from(ZONES)
folds = st.integers(0, 1)
datetimes = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold),
    st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)),  # noqa: DTZ001 - zones come later
    zones,
    folds,
)
times = st.builds(
    lambda value, zone, fold: value.replace(tzinfo=zone, fold=fold), st.times(), zones, folds
)
decimals = st.decimals() | st.sampled_from(["sNaN", "-sNaN12", "1E+100", "-0E-7", "0E+3"]).map(
    samples.Decimal
)
enums = st.sampled_from(
    [
        *samples.Colour,
        *samples.Level,
        *samples.Mood,
        *samples.Access,
        *samples.Bits,
        samples.Access(0),
        samples.Bits.A | samples.Bits.B,
        samples.Bits(0),
        samples.Bits(8),
    ]
)
uuids = st.uuids() | st.just(uuid.UUID(int=1, is_safe=uuid.SafeUUID.safe))

hashable_leaves = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    floats.filter(lambda value: value == value),  # noqa: PLR0124 - no NaN
    text,
    st.complex_numbers(allow_nan=False),
    datetimes,
    st.dates(),
    times,
    st.timedeltas(),
    decimals.filter(lambda value: not value.is_snan() and value == value),  # noqa: PLR0124
    uuids,
    st.binary(max_size=20),
    st.fractions(),
    enums,
    st.ip_addresses(),
    st.just(...),
    st.sampled_from(["a/b", ".", "/", "\udcff"]).flatmap(
        lambda path: st.sampled_from(
            [pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.Path]
        ).map(lambda cls: cls(path))
    ),
    st.builds(ipaddress.ip_network, st.sampled_from(["10.0.0.0/8", "2001:db8::/32"])),
    st.builds(ipaddress.ip_interface, st.sampled_from(["10.0.0.1/8", "fe80::1%eth0/64"])),
    st.builds(range, st.integers(-99, 99), integers, st.integers(1, 9)),
    st.builds(
        re.compile,
        st.sampled_from(["a.b", "\x00", "(?i)x"]),
        st.sampled_from([0, re.IGNORECASE, re.MULTILINE | re.DOTALL]),
    ),
    st.just(re.compile(b"\xff", re.IGNORECASE)),
    st.sampled_from(URLS),
    st.builds(samples.Point, st.integers(), st.floats(allow_nan=False)),
    st.builds(samples.SlottedPoint, st.integers(), text),
    st.builds(samples.Name, text),
    st.builds(samples.Count, integers),
    st.builds(samples.Metres, st.floats(allow_nan=False)),
    st.builds(samples.Opaque, st.integers()),
)
leaves = st.one_of(
    hashable_leaves,
    floats,
    decimals,
    st.complex_numbers(),
    st.binary(max_size=20).map(bytearray),
    st.binary(max_size=20).map(memoryview),
    st.builds(slice, st.none() | integers, st.none() | st.integers(), text),
)


def _hashable_containers(inner):
    return st.deferred(
        lambda: st.one_of(
            st.lists(inner, max_size=3).map(tuple),
            st.frozensets(inner, max_size=3),
            st.builds(samples.Pair, inner, inner),
        )
    )


_shallow_keys = _hashable_containers(hashable_leaves)
keys = hashable_leaves | _shallow_keys | _hashable_containers(hashable_leaves | _shallow_keys)
colliding_keys = st.sampled_from(
    [
        1,
        "1",
        "1 (2)",
        1.5,
        "1.5",
        "true",
        True,
        None,
        "null",
        "",
        (1,),
        "[1]",
        b"1",
        2,
        "2",
        *samples.Mood,
        "good",
        *samples.Level,
        *samples.Colour,
        "red",
        dt.date(2024, 1, 1),
        "2024-01-01",
        uuid.UUID(int=1),
        str(uuid.UUID(int=1)),
        samples.Name("1"),
    ]
)


def _mappings(inner):
    dicts = (
        st.dictionaries(clean_text, inner, max_size=5)
        | st.dictionaries(text, inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(colliding_keys, inner, max_size=6)
        | st.dictionaries(st.integers(), inner, max_size=20)
    )
    return st.one_of(
        dicts,
        dicts.map(OrderedDict),
        dicts.map(types.MappingProxyType),
        dicts.map(samples.Settings),
        st.dictionaries(st.from_regex(r"[a-z]{1,3}", fullmatch=True), inner, max_size=3).map(
            lambda fields: types.SimpleNamespace(**fields)
        ),
        st.builds(lambda d, f: defaultdict(f, d), dicts, st.sampled_from([None, int, list])),
        st.dictionaries(keys, st.integers(), max_size=4).map(Counter),
    )


def _objects(inner):
    return st.one_of(
        st.builds(samples.Invoice, datetimes, decimals, inner),
        st.builds(samples.PaidInvoice, datetimes, decimals, st.none(), st.dates()),
        st.builds(_awkward, st.integers(), st.dictionaries(st.sampled_from("abc"), inner)),
        st.builds(samples.Box, inner),
        st.builds(samples.Box[int], inner),
        st.builds(_hostile, inner),
        st.builds(samples.Pair, inner, inner),
        inner.map(samples.Pair),
        st.builds(samples.PlainPair, inner, inner),
        st.builds(samples.Tags, inner),
        st.builds(samples.Parcel, decimals, st.lists(inner, max_size=2)),
        st.builds(samples.LooseParcel, inner, clean_text),
        st.builds(samples.Reading, clean_text, inner, st.none()),
        st.builds(samples.FrozenReading, inner),
        st.builds(
            _customer, clean_text, st.dictionaries(st.sampled_from("abc"), inner), st.booleans()
        ),
        st.builds(lambda i: samples.Page[int](items=[i], total=2), st.integers()),
        st.builds(
            lambda a: samples.Page[samples.Address](items=[a]), st.builds(_address, clean_text)
        ),
        st.sampled_from([samples.Owner(pet=samples.Cat()), samples.Owner(pet=samples.Dog())]),
    )


def _awkward(seed, extras):
    made = samples.Awkward(seed)
    vars(made).update(extras)
    return made


def _hostile(value):
    made = object.__new__(samples.Hostile)
    vars(made)["value"] = value
    return made


def _address(street):
    return samples.Address(street=street, zip="1")


def _customer(name, extras, business):
    address = (
        samples.BusinessAddress(street="s", company=uuid.UUID(int=2)) if business else _address("s")
    )
    made = samples.Customer(name=name, address=address, **extras)
    made._seen = len(name)
    return made


def _containers(inner):
    hashables = st.lists(keys, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(samples.Ids),
        hashables.map(set),
        hashables.map(frozenset),
        hashables.map(samples.Unique),
        st.builds(deque, st.lists(inner, max_size=3), st.none() | st.integers(0, 5)),
        _mappings(inner),
        _objects(inner),
        tables(inner),
    )


def _short_lists(items):
    return st.lists(items, max_size=3)


@st.composite
def tables(draw, inner):
    """Rows alike, as results are: homogeneous columns, optional ones, and mixed ones."""
    columns = draw(
        st.dictionaries(
            clean_text,
            st.sampled_from([st.integers(), st.floats(), text, datetimes, decimals, uuids]).map(
                lambda column: column
            )
            | st.sampled_from([st.none() | datetimes, st.integers() | decimals, enums])
            | st.sampled_from([decimals, decimals | datetimes, text | uuids]).map(_short_lists)
            | st.just(inner),
            min_size=1,
            max_size=4,
        )
    )
    row = st.fixed_dictionaries(columns)
    if draw(st.booleans()):
        row = st.fixed_dictionaries(columns, optional={"sometimes": inner})
    if draw(st.booleans()):
        row = row | st.none()
    return draw(st.lists(row, max_size=8))


def _exceptions(inner):
    return st.one_of(
        st.builds(ValueError, inner, text),
        st.builds(KeyError, inner),
        st.builds(OSError, st.integers(1, 30), clean_text),
    )


def _level(inner, *more):
    # deferred: hypothesis spells out the whole of any other strategy when it describes one
    return st.deferred(lambda: st.one_of(_containers(inner), *(extra(inner) for extra in more)))


_shallow = _level(leaves)
_deep = _level(leaves | _shallow)
values = leaves | _shallow | _deep
"""Any value that comes back as it was."""

values_and_exceptions = _level(leaves | _level(leaves, _exceptions), _exceptions)
"""The same with exceptions inside."""


@st.composite
def nested(draw, depth):
    """One value, so many containers down."""
    value = draw(st.sampled_from([1, None, dt.date(2024, 1, 1), "\x00"]))
    shapes = draw(st.lists(st.sampled_from(_SHAPES), min_size=1, max_size=4))
    for level in range(depth):
        value = shapes[level % len(shapes)](value)
    return value


_SHAPES = [
    lambda value: [value],
    lambda value: {"next": value},
    lambda value: (value, 1),
    lambda value: [{"a": value, "b": dt.date(2024, 1, 2)}, {"a": None, "b": None}],
    lambda value: {1: value},
    samples.Box,
    lambda value: samples.Pair(value, 1),
    lambda value: types.MappingProxyType({"z": 1, "a": value}),
    lambda value: samples.Ids([value]),
    samples.Tags,
]
