from __future__ import annotations

import dataclasses
import io
import struct
import sys
import types
import zoneinfo
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import orjson
import pydantic
import pytest
import samples
from sameness import same

from taskiq_pg_json import JsonSerializer, TypeRegistry
from taskiq_pg_json.errors import RemoteError, ResultDecodeError, ResultEncodeError
from taskiq_pg_json.serializer import UnresolvedTypeWarning
from taskiq_pg_json.serializer.protocol import EncodedRow

GOLDEN = Path(__file__).parent / "golden"
PRELUDE = """
from __future__ import annotations
import collections, dataclasses, datetime, enum, typing
from typing import Optional
import attrs, msgspec, pydantic
"""


@pytest.fixture
def release(monkeypatch):
    """Puts a version of the application's module in place, and returns it."""

    def put(source, name="shop_models"):
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(PRELUDE + source, f"{name}.py", "exec"), vars(module))
        return module

    return put


@pytest.fixture
def written(jsonb_roundtrip):
    """A row of one value, stored in real columns and read back."""

    def write(value, serializer=None):
        row = (serializer or JsonSerializer(fallback=None)).encode(
            {"return_value": value}, task_id="t"
        )
        return jsonb_roundtrip(row)

    return write


def read(row, serializer=None):
    return (serializer or JsonSerializer(fallback=None)).decode(row, task_id="t")["return_value"]


KINDS = {
    "dataclass": ("@dataclasses.dataclass\nclass Order:\n", ""),
    "slotted": ("@dataclasses.dataclass(slots=True)\nclass Order:\n", ""),
    "frozen": ("@dataclasses.dataclass(frozen=True)\nclass Order:\n", ""),
    "attrs": ("@attrs.define\nclass Order:\n", ""),
    "struct": ("class Order(msgspec.Struct):\n", ""),
    "model": ("class Order(pydantic.BaseModel):\n", ""),
    "namedtuple": ("class Order(typing.NamedTuple):\n", ""),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def order(kind, *fields):
    return KINDS[kind][0] + "".join(f"    {field}\n" for field in fields)


@every_kind
def test_an_added_field_gets_its_default(kind, release, written):
    row = written(
        [
            release(order(kind, "number: int", "at: datetime.datetime")).Order(
                number=7, at=datetime(2026, 1, 2, tzinfo=timezone.utc)
            )
        ]
    )
    v2 = release(order(kind, "number: int", "at: datetime.datetime", "note: str = 'none'"))
    back = read(row)[0]
    assert type(back) is v2.Order
    assert (back.number, back.at) == (7, datetime(2026, 1, 2, tzinfo=timezone.utc))
    assert back.note == "none"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("dataclass", "tags: list = dataclasses.field(default_factory=list)"),
        ("attrs", "tags: list = attrs.field(factory=list)"),
        ("struct", "tags: list = msgspec.field(default_factory=list)"),
        ("model", "tags: list = pydantic.Field(default_factory=list)"),
    ],
)
def test_an_added_field_gets_a_default_of_its_own(kind, field, release, written):
    v1 = release(order(kind, "number: int"))
    row = written([v1.Order(number=1), v1.Order(number=2)])
    release(order(kind, "number: int", field))
    one, other = read(row)
    assert one.tags == other.tags == []
    assert one.tags is not other.tags


@pytest.mark.parametrize("decorator", ["attrs.define", "attrs.frozen", "attrs.define(slots=False)"])
def test_an_added_field_of_attrs_gets_what_its_factory_makes_of_the_instance(
    decorator, release, written
):
    source = f"@{decorator}\nclass Order:\n    number: int\n"
    v1 = release(source)
    row = written([v1.Order(number=1), v1.Order(number=2)])
    release(
        source + "    note: str = 'none'\n"
        "    twice: int = attrs.Factory(lambda self: 2 * self.number, takes_self=True)\n"
        "    label: str = attrs.Factory(lambda s: f'{s.twice} {s.note}', takes_self=True)\n"
    )
    assert [(o.number, o.note, o.twice, o.label) for o in read(row)] == [
        (1, "none", 2, "2 none"),
        (2, "none", 4, "4 none"),
    ]


@every_kind
def test_an_added_field_without_a_default_leaves_plain_json_and_warns(kind, release, written):
    row = written(release(order(kind, "number: int")).Order(number=7))
    release(order(kind, "number: int", "customer: str"))
    with pytest.warns(UnresolvedTypeWarning, match="customer"):
        assert read(row) == {"number": 7}


def test_a_root_model_that_became_a_model_with_fields_leaves_plain_json_and_warns(release, written):
    v1 = release("class Tags(pydantic.RootModel[list[str]]):\n    pass\n")
    row = written({"kept": 1, "tags": [v1.Tags(["a"]), v1.Tags(["b"])], "one": v1.Tags([])})
    release("class Tags(pydantic.BaseModel):\n    names: list[str] = []\n")
    with pytest.warns(UnresolvedTypeWarning, match="RootModel"):
        assert read(row) == {"kept": 1, "tags": [["a"], ["b"]], "one": []}


def test_a_field_that_a_model_has_no_more_is_none_that_was_set(release, written):
    row = written(release(order("model", "number: int", "note: str")).Order(number=7, note="x"))
    release(order("model", "number: int", "more: int = 1"))
    assert read(row).model_fields_set == {"number"}


@every_kind
def test_a_removed_field_is_dropped(kind, release, written):
    row = written(release(order(kind, "number: int", "note: str")).Order(number=7, note="x"))
    v2 = release(order(kind, "number: int"))
    back = read(row)
    assert type(back) is v2.Order
    assert back.number == 7
    assert not hasattr(back, "note")


def test_a_key_that_somebody_has_added_is_there(written):
    row = written({"long": 1, "a": 2})
    added = EncodedRow({"return_value": b'{"a": 2, "new": 3, "long": 1}'}, row.types)
    assert list(read(added).items()) == [("long", 1), ("a", 2), ("new", 3)]


@every_kind
def test_a_class_that_is_defined_anew_is_found_by_the_same_serializer(kind, release, written):
    serializer = JsonSerializer(fallback=None)
    v1 = release(order(kind, "number: int"))
    assert type(read(written([v1.Order(number=7)], serializer), serializer)[0]) is v1.Order
    exec(compile(order(kind, "number: int", "note: str"), "shop_models.py", "exec"), vars(v1))
    rows = [written([v1.Order(number=7, note="x")], serializer)]
    v3 = release(order(kind, "number: int", "note: str"))
    rows.append(written([v3.Order(number=7, note="x")], serializer))
    for row in rows:
        back = read(row, serializer)[0]
        assert type(back) is v3.Order
        assert back.note == "x"


def test_a_parametrised_model_is_that_of_its_argument_s_newest_class(release, written):
    generic = (
        "T = typing.TypeVar('T')\nclass Page(pydantic.BaseModel, typing.Generic[T]):\n    item: T\n"
    )
    serializer = JsonSerializer(fallback=None)
    pages = release(generic, "shop_pages")
    for fields in (["number: int"], ["number: int", "note: str = 'x'"]):
        shop = release(order("model", *fields))
        page = pages.Page[shop.Order]
        row = written(page(item=shop.Order(number=7)), serializer)
        assert type(read(row, serializer)) is page


@every_kind
def test_a_renamed_field_is_found_under_its_old_name(kind, release, written):
    row = written(release(order(kind, "number: int", "sum: int")).Order(number=7, sum=3))
    v2 = release(order(kind, "number: int", "total: int"))
    registry = TypeRegistry()
    registry.register(v2.Order, old_fields={"sum": "total"})
    back = read(row, JsonSerializer(registry))
    assert type(back) is v2.Order
    assert (back.number, back.total) == (7, 3)


EXTRA = "model_config = pydantic.ConfigDict(extra='allow')"


def test_an_old_name_that_an_extra_value_has_does_not_replace_the_field(release, written):
    v2 = release(order("model", EXTRA, "total: int"))
    registry = TypeRegistry()
    registry.register(v2.Order, old_fields={"sum": "total"})
    serializer = JsonSerializer(registry, fallback=None)
    value = v2.Order(total=3, sum="x")
    back = read(written(value, serializer), serializer)
    assert (back.total, back.model_extra) == (3, {"sum": "x"})


def test_an_extra_value_with_the_alias_of_a_field_outlives_a_change(release, written):
    by_name = EXTRA.replace("extra", "populate_by_name=True, extra")
    v1 = release(order("model", by_name, "zip_code: str"))
    row = written(v1.Order(zip_code="1", zip="9"))
    release(order("model", by_name, "zip_code: str = pydantic.Field(alias='zip')", "at: int = 0"))
    back = read(row)
    assert (back.zip_code, back.at, back.model_extra) == ("1", 0, {"zip": "9"})


@every_kind
def test_a_renamed_and_moved_class_is_found_under_its_old_name(kind, release, written):
    row = written([release(order(kind, "number: int")).Order(number=7)])
    release("")
    moved = release(order(kind, "number: int").replace("Order", "Purchase"), "shop_sales")
    registry = TypeRegistry()
    registry.register(moved.Purchase, old_names=["shop_models:Order"])
    back = read(row, JsonSerializer(registry))[0]
    assert type(back) is moved.Purchase
    assert back.number == 7


@every_kind
def test_a_removed_class_leaves_plain_json_and_warns(kind, release, written):
    row = written({"order": release(order(kind, "number: int")).Order(number=7)})
    release("")
    with pytest.warns(UnresolvedTypeWarning, match="shop_models:Order"):
        assert read(row) == {"order": {"number": 7}}
    with pytest.raises(ResultDecodeError, match="shop_models:Order") as caught:
        read(row, JsonSerializer(on_unknown_type="error"))
    assert caught.value.path == "return_value.order"


def test_a_registered_name_outlives_every_move(release, written):
    registry = TypeRegistry()
    registry.register(release(order("dataclass", "number: int")).Order, name="order")
    row = written(sys.modules["shop_models"].Order(7), JsonSerializer(registry))
    assert b"shop_models" not in row.types
    release("")
    moved = release(order("dataclass", "number: int"), "elsewhere")
    renewed = TypeRegistry()
    renewed.register(moved.Order, name="order")
    assert read(row, JsonSerializer(renewed)) == moved.Order(7)


def test_a_removed_enum_member_leaves_its_value_and_warns(release, written):
    v1 = release("class Colour(enum.Enum):\n    RED = 'red'\n    BLUE = 'blue'\n")
    row = written([v1.Colour.RED, v1.Colour.BLUE])
    v2 = release("class Colour(enum.Enum):\n    RED = 'red'\n")
    with pytest.warns(UnresolvedTypeWarning, match="shop_models:Colour.*no member 'blue'"):
        assert read(row) == [v2.Colour.RED, "blue"]


def test_a_class_that_became_another_kind_leaves_plain_json_and_warns(release, written):
    row = written(release(order("dataclass", "number: int")).Order(7))
    release("class Order(enum.Enum):\n    SEVEN = 7\n")
    with pytest.warns(UnresolvedTypeWarning):
        assert read(row) == {"number": 7}


def test_a_changed_model_is_validated(release, written):
    row = written(release(order("model", "number: int")).Order(number=7))
    release(order("model", "number: int = pydantic.Field(gt=10)", "note: str = 'none'"))
    with pytest.warns(UnresolvedTypeWarning, match="greater than 10"):
        assert read(row) == {"number": 7}


OWN_INIT = "number: int", "def __init__(self, given): super().__init__(number=given)"


def test_a_field_added_to_a_model_with_a_constructor_of_its_own_gets_its_default(release, written):
    v1 = release(order("model", *OWN_INIT))
    row = written([v1.Order(number) for number in range(3)])
    v2 = release(order("model", *OWN_INIT, "note: str = 'none'"))
    back = read(row)
    assert [type(model) for model in back] == [v2.Order] * 3
    assert [(model.number, model.note) for model in back] == [(n, "none") for n in range(3)]


@pytest.mark.parametrize(
    "alias",
    [
        "alias='no'",
        "validation_alias=pydantic.AliasChoices('no', 'nr')",
        "validation_alias=pydantic.AliasChoices(pydantic.AliasPath('head', 'no'), 'nr')",
        "validation_alias=pydantic.AliasPath('head', 0)",
    ],
)
def test_a_field_is_added_to_a_model_whose_fields_have_aliases(alias, release, written):
    fields = f"number: int = pydantic.Field({alias})", "at: int = 0"
    v1 = release(order("model", *fields))
    row = written(v1.Order.model_construct(number=7, at=2))
    v2 = release(order("model", *fields, "note: str = 'none'"))
    back = read(row)
    assert type(back) is v2.Order
    assert (back.number, back.at, back.note) == (7, 2, "none")


FAIL = "def fail(*_):\n    raise RuntimeError('no database')\n"


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("model", "model_post_init = fail"),
        ("model", "check = pydantic.field_validator('number')(lambda number: fail())"),
        ("model", "tags: list = pydantic.Field(default_factory=fail)"),
        ("model", "_tags: list = pydantic.PrivateAttr(default_factory=fail)"),
        ("dataclass", "tags: list = dataclasses.field(default_factory=fail)"),
        ("attrs", "tags: list = attrs.field(factory=fail)"),
        ("attrs", "tags: list = attrs.Factory(fail, takes_self=True)"),
        ("struct", "tags: list = msgspec.field(default_factory=fail)"),
    ],
)
def test_code_of_a_changed_class_that_fails_leaves_plain_json_and_warns(
    kind, field, release, written
):
    v1 = release(order(kind, "number: int"))
    row = written({"kept": 1, "orders": [v1.Order(number=7), v1.Order(number=8)]})
    release(FAIL + order(kind, "number: int", "note: str = 'none'", field))
    with pytest.warns(UnresolvedTypeWarning, match="RuntimeError: no database"):
        assert read(row) == {"kept": 1, "orders": [{"number": 7}, {"number": 8}]}


@pytest.mark.parametrize(
    ("kind", "bases", "abstract_bases"),
    [
        ("dataclass", "class Order", "class Order(abc.ABC)"),
        ("model", "(pydantic.BaseModel)", "(pydantic.BaseModel, abc.ABC)"),
    ],
)
def test_a_class_that_became_abstract_leaves_plain_json_and_warns(
    kind, bases, abstract_bases, release, written
):
    v1 = release(order(kind, "number: int"))
    row = written([v1.Order(number=7), v1.Order(number=8)])
    abstract = order(kind, "number: int", "pay = abc.abstractmethod(lambda self: None)")
    release("import abc\n" + abstract.replace(bases, abstract_bases))
    with pytest.warns(UnresolvedTypeWarning, match="abstract"):
        assert read(row) == [{"number": 7}, {"number": 8}]


def test_an_attribute_that_a_slotted_class_has_no_room_for_leaves_plain_json_and_warns(
    release, written
):
    value = release(order("dataclass", "number: int")).Order(7)
    value.note = "x"
    row = written(value)
    release(order("slotted", "number: int"))
    with pytest.warns(UnresolvedTypeWarning, match="slots alone by now, and none for: note"):
        assert read(row) == {"number": 7, "note": "x"}


def test_an_exceptions_class_is_found_under_its_old_name(release, jsonb_roundtrip):
    v1 = release("class PaymentError(Exception):\n    pass\n")
    row = jsonb_roundtrip(JsonSerializer().encode({"error": v1.PaymentError("no", 7)}, task_id="t"))
    release("")
    lost = JsonSerializer().decode(row, task_id="t")["error"]
    assert isinstance(lost, RemoteError)
    moved = release("class DeclinedError(Exception):\n    pass\n", "shop_sales")
    registry = TypeRegistry()
    registry.register(moved.DeclinedError, old_names=["shop_models:PaymentError"])
    back = JsonSerializer(registry).decode(row, task_id="t")["error"]
    assert type(back) is moved.DeclinedError
    assert back.args == ("no", 7)


def test_a_zone_that_no_other_process_knows_is_refused(written):
    counts, one_type = struct.pack(">6l", 0, 0, 0, 0, 1, 4), struct.pack(">lBB", 7200, 0, 0)
    file = io.BytesIO(b"TZif" + bytes(16) + counts + one_type + b"SHP\0")
    zone = zoneinfo.ZoneInfo.from_file(file, key="Shop/Floor")
    with pytest.raises(ResultEncodeError, match=r"datetime\) cannot be stored"):
        written(datetime(2026, 1, 1, tzinfo=zone))


@pytest.mark.parametrize(
    ("library", "make", "plain"),
    [
        ("numpy", lambda numpy: numpy.array([[1, 2]], dtype="int16"), [[1, 2]]),
        ("numpy", lambda numpy: numpy.float64(1.5), 1.5),
        ("pandas", lambda pandas: pandas.Timestamp("2026-01-02", tz="UTC"), None),
    ],
)
def test_a_library_that_the_reader_lacks_leaves_plain_json_and_warns(
    library, make, plain, written, monkeypatch
):
    module = pytest.importorskip(library)
    row = written({"kept": 1, "value": make(module)})
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.warns(UnresolvedTypeWarning):
        back = read(row)
    assert back["kept"] == 1
    if plain is not None:
        assert back["value"] == plain


FLAGS = """
class Bits(enum.IntFlag):
    A = 1
    B = 2
    C = 4
class Plain(enum.Flag):
    A = 1
    B = 2
class Odd(enum.Flag):
    A = 1
    B = 2
    @classmethod
    def _missing_(cls, value):
        return cls[value] if isinstance(value, str) else super()._missing_(value)
class Open(enum.Enum):
    A = "a"
    @classmethod
    def _missing_(cls, value):
        made = object.__new__(cls)
        made._name_, made._value_ = "UNKNOWN", value
        return cls._value2member_map_.setdefault(value, made)
"""


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
@pytest.mark.parametrize(
    ("make", "pickled"),
    [
        ("Bits.A | Bits.C", False),
        ("~Bits.A", False),
        ("Bits(8)", False),
        ("Bits(0)", False),
        ("Plain.A | Plain.B", False),
        ("Odd.A", False),
        ("Odd.A | Odd.B", True),
        ("Open.A", False),
        ("Open('zz')", True),
    ],
)
def test_what_an_enum_makes_of_a_value_is_made_again_in_another_process(
    make, pickled, release, written
):
    row = written(eval(make, vars(release(FLAGS))), JsonSerializer())
    assert (row.pickled is not None) is pickled
    module = release(FLAGS)
    back = read(row, JsonSerializer())
    assert type(back).__module__ == "shop_models"
    assert back is eval(make, vars(module))


KEYS = """
class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    price: int
class Letter(str, enum.Enum):
    A = "a"
    B = "b"
class Unique(set):
    __slots__ = ()
class Names(dict):
    __slots__ = ()
"""


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
@pytest.mark.parametrize(
    ("make", "plain"),
    [
        ("{Item(price=1)}", [{"price": 1}]),
        ("frozenset({Item(price=1)})", [{"price": 1}]),
        ("{(Item(price=1), 2)}", [({"price": 1}, 2)]),
        ("{Letter.A}", {"a"}),
        ("[{'a', (1,)}, {Letter.A}]", [{"a", (1,)}, {"a"}]),
        ("{Item(price=1): 2}", {'{"price":1}': 2}),
        ("{frozenset({Item(price=1)}): 2, 3: 4}", {'[{"price":1}]': 2, "3": 4}),
        ("{Letter.A: 1, Letter.B: 2}", {"a": 1, "b": 2}),
        ("{Letter.A: 1, 'a ': 2, 3: 4}", {"a": 1, "a ": 2, 3: 4}),
        ("{Letter.A: 1, (1,): 2, 3: 4}", {"a": 1, (1,): 2, 3: 4}),
        ("Unique({Item(price=1)})", [{"price": 1}]),
        ("Names({Item(price=1): 2})", {'{"price":1}': 2}),
    ],
)
def test_a_container_stays_plain_where_the_plain_json_of_an_unknown_class_does_not_fit(
    make, plain, release, written
):
    row = written(eval(make, vars(release(KEYS))))
    release("class Unique(set):\n    __slots__ = ()\n")
    assert read(row) == plain


HASHED = """
@dataclasses.dataclass(frozen=True)
class Item:
    price: int
@dataclasses.dataclass(frozen=True)
class Line:
    item: Item
class Sum:
    def __init__(self, of): self.of = of
    def __hash__(self): return 1
    def __eq__(self, other): return self.of == other.of
class Unique(set):
    __slots__ = ()
"""


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        ("{Item(1)}", "[Item(1)]"),
        ("frozenset({(Item(1), 2)})", "[(Item(1), 2)]"),
        ("{frozenset({Item(1)})}", "[[Item(1)]]"),
        ("{Line(Item(1))}", "[Line(Item(1))]"),
        ("Unique({Item(1)})", "[Item(1)]"),
        ("{Sum(1)}", "[Sum(1)]"),
        ("{Item(1): Item(2)}", "{'{\"price\":1}': Item(2)}"),
        ("{('a', Item(1)): 2, 3: 4}", "{'[\"a\",{\"price\":1}]': 2, '3': 4}"),
        ("{Sum(1): 2}", "{'1': 2}"),
    ],
)
def test_a_class_that_has_no_hash_any_more_leaves_a_list_or_text_keys_and_warns(
    make, expected, release, written
):
    def serializer(module, **settings):
        registry = TypeRegistry()
        registry.register(module.Sum, name="sum", encode=lambda found: found.of, decode=module.Sum)
        return JsonSerializer(registry, fallback=None, **settings)

    module = release(HASHED)
    row = written({"total": 5, "of": eval(make, vars(module))}, serializer(module))
    later = HASHED.replace("(frozen=True)", "").replace("return 1", "return hash(self.gone)")
    module = release(later)
    with pytest.warns(UnresolvedTypeWarning, match="(set|dict) of .* has no hash any more"):
        found = read(row, serializer(module))
    assert found == {"total": 5, "of": eval(expected, vars(module))}
    with pytest.raises(ResultDecodeError, match="no hash any more"):
        read(row, serializer(module, on_unknown_type="error"))


@pytest.mark.parametrize(
    ("plain", "node"),
    [([[1]], "set"), ({"a": 1}, {"keys": [["a", [1], None]]})],
)
def test_what_never_had_a_hash_is_damage(plain, node):
    row = EncodedRow(
        {"return_value": orjson.dumps([plain])},
        orjson.dumps({"v": 1, "return_value": {"fields": {"0": node}}}),
    )
    with pytest.raises(ResultDecodeError, match=r"return_value\[0\] \((set|JSON)\)"):
        read(row)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.UnresolvedTypeWarning")
def test_no_key_is_lost_where_an_unknown_class_leaves_two_alike(release, written):
    letter = release("class Letter(enum.Enum):\n    A = 'a'\n").Letter.A
    row, items = written({letter: 1, "a": 2}), written({letter, "a"})
    release("")
    assert read(row) == {"a": 1, "a (2)": 2}
    assert read(items) == ["a", "a"]


GENERIC = """
T = typing.TypeVar("T")
U = typing.TypeVar("U")
class Colour(enum.Enum):
    RED = "red"
class Item(pydantic.BaseModel):
    price: int
class Hooked:
    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        return handler(typing.Any)
class Page(pydantic.BaseModel, typing.Generic[T]):
    items: T
class Pair(pydantic.BaseModel, typing.Generic[T, U]):
    left: T
    right: U
"""
NAMED_ARGUMENTS = [
    "int",
    "typing.Any",
    "None",
    "datetime.datetime",
    "Item",
    "list",
    "list[int]",
    "typing.List[int]",
    "dict[str, list[Item]]",
    "typing.Dict[str, typing.List[Item]]",
    "tuple[int, ...]",
    "typing.Tuple[int, str]",
    "set[Item]",
    "frozenset[int]",
    "int | None",
    "Optional[int]",
    "typing.Union[str, list[Item], None]",
    "list[Item | None]",
    "Page[list[int]]",
    "Page[Page[Optional[Item]]]",
    "typing.Literal['a,]|\"\\\\é', 1, True, None]",
    "typing.Union[collections.deque, None]",
    "pydantic.SecretStr",
]
UNNAMED_ARGUMENTS = [
    "typing.Sequence[int]",
    "typing.Annotated[int, 5]",
    "typing.Callable[[int], int]",
    "typing.Literal[Colour.RED]",
    "typing.List",
    "type('Local', (Item,), {}) | None",
    "typing.Literal['" + "x" * 2_000 + "']",
    "Hooked",
]


def parametrised(module, argument):
    """Page[argument] in that version of the module, and a value of it."""
    cls = module.Page[eval(argument, vars(module))]
    return cls, cls.model_construct(items=[1])


@pytest.mark.parametrize("argument", NAMED_ARGUMENTS)
def test_a_parametrised_model_comes_back_as_itself_in_another_process(argument, release, written):
    row = written(parametrised(release(GENERIC), argument)[1])
    cls, value = parametrised(release(GENERIC), argument)
    back = read(row)
    assert type(back) is cls
    assert back == value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("argument", UNNAMED_ARGUMENTS, ids=lambda name: name[:40])
def test_a_model_of_an_argument_without_a_name_comes_back_as_the_generic_one(
    argument, release, written
):
    module = release(GENERIC)
    back = read(written(parametrised(module, argument)[1]))
    assert type(back) is module.Page
    assert back.items == [1]


def test_a_model_of_an_argument_with_a_codec_comes_back_as_itself(release, written):
    module = release(GENERIC)
    registry = TypeRegistry()
    registry.register(module.Hooked, name="hooked", encode=id, decode=lambda _: module.Hooked())
    serializer = JsonSerializer(registry, fallback=None)
    value = module.Page[list[module.Hooked]](items=[])
    assert same(read(written(value, serializer), serializer), value)


def test_a_model_of_two_arguments_comes_back_as_itself(release, written):
    module = release(GENERIC)
    value = module.Pair[list[int] | None, dict[str, module.Item]](left=None, right={})
    row = written(value)
    assert b"Pair[list[int]|NoneType,dict[str,shop_models:Item]]" in row.types
    assert same(read(row), value)


@pytest.mark.parametrize("argument", ["datetime.datetime", "Decimal", "list[UUID]", "list[bytes]"])
def test_what_needs_no_registration_needs_none_as_an_argument(argument, release, written):
    module = release(GENERIC + "\nfrom decimal import Decimal\nfrom uuid import UUID\n")
    registry = TypeRegistry()
    registry.register(module.Page)
    _, value = parametrised(module, argument)
    assert same(read(written(value), JsonSerializer(registry, strict=True)), value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["Item", "Colour", "list[shop_models:Item]"])
def test_strict_takes_no_argument_that_is_not_registered(name, release):
    module = release(GENERIC)
    registry = TypeRegistry()
    registry.register(module.Page)
    name = name if "[" in name else f"shop_models:{name}"
    row = EncodedRow(
        {"return_value": b'{"items":[]}'},
        orjson.dumps({"v": 1, "return_value": f"model:shop_models:Page[{name}]"}),
    )
    assert read(row, JsonSerializer(registry, strict=True)) == {"items": []}


@pytest.mark.parametrize(
    "name", ["Page[int]", "Page[int,str]", "Page[", "a[b]c", "Page[list[int]]"]
)
def test_a_class_with_brackets_in_its_name_comes_back_as_itself(name, release, written):
    module = release(GENERIC)
    for cls in (
        pydantic.create_model(name, x=(int, ...)),
        dataclasses.make_dataclass(name, ["x"]),
    ):
        cls.__module__ = module.__name__
        setattr(module, name, cls)
        assert type(read(written(cls(x=1)))) is cls


def test_a_class_with_the_name_of_a_parametrised_model_does_not_take_its_place(release, written):
    module = release(GENERIC)
    named = pydantic.create_model("Page[int]", items=(int, ...), __module__="shop_models")
    setattr(module, "Page[int]", named)
    assert type(read(written(module.Page[int](items=1)))) is module.Page
    assert type(read(written(named(items=1)))) is named


GOLDEN_VALUES = {
    "plain": {"a": [1, -2.5, "é", None, True], "b": {}},
    "times": [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone.utc),
        datetime(2026, 1, 2),  # noqa: DTZ001 - naive on purpose
        samples.Invoice(datetime(2026, 1, 2, tzinfo=timezone.utc), Decimal("9.90"), "paid"),
    ],
    "numbers": [Decimal("1.50"), 10**30, -0.0, float("inf"), 1e16, 3 + 4j],
    "keys": {1: "a", "1": "b", (1, 2): {3}, None: b"\x00\xff", samples.Colour.RED: frozenset()},
    "text": ["nul \0", "lone \ud800", {"\0": "\\u0000"}],
    "order": {"zebra": 1, "b": {"y": 1, "x": 2}, "aa": [(1, 2), {"c", "d"}]},
    "classes": [
        samples.Point(1.5, 2),
        samples.Colour.RED,
        samples.Bits.A | samples.Bits.B,
        samples.Customer(name="Anna", address=samples.Address(street="Elm", zip="12345"), vip=True),
        samples.Tags([1, (2,)]),
        samples.Reading("s1", Decimal(3)),
        samples.Parcel(2),
        samples.Pair(1, 2),
    ],
}


def golden_error():
    exc = OSError(2, "No such file", "orders.csv")
    exc.order = samples.Point(1, 2)
    exc.__cause__ = exc.__context__ = KeyError("sku")
    return exc


def stored_golden(name):
    stored = orjson.loads((GOLDEN / f"{name}.json").read_bytes())
    return EncodedRow(
        {column: orjson.dumps(value) for column, value in stored["columns"].items()},
        None if stored["types"] is None else orjson.dumps(stored["types"]),
    )


@pytest.mark.parametrize("name", GOLDEN_VALUES)
def test_a_row_of_version_1_is_read_for_ever(name):
    assert same(read(stored_golden(name)), GOLDEN_VALUES[name])


def test_an_error_of_version_1_is_read_for_ever():
    back = JsonSerializer().decode(stored_golden("error"), task_id="t")["error"]
    assert type(back) is FileNotFoundError
    assert str(back) == "[Errno 2] No such file: 'orders.csv'"
    assert back.order == samples.Point(1, 2)
    assert repr(back.__cause__) == "KeyError('sku')"
    assert back.__context__ is back.__cause__
    frame = back.__traceback__.tb_frame
    assert frame.f_code.co_name == "charge\n    gateway.pay(order)"
