"""Classes of every shape that the serializer's tests store."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import functools
import uuid  # noqa: TC003 - pydantic reads the annotation
import weakref
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

import attrs
import msgspec
import pydantic

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"
    ODD = (1, 2)
    PRICE = Decimal("1.50")
    GREEN_TOO = "GREEN"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mood(str, enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()
    ALL = READ | WRITE


class Bits(enum.IntFlag):
    A = 1
    B = 2


@dataclasses.dataclass
class Invoice:
    at: dt.datetime
    amount: Decimal
    note: str | None = None


@dataclasses.dataclass
class PaidInvoice(Invoice):
    paid: dt.date = dt.date(2024, 1, 1)


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class SlottedPoint:
    __slots__ = ("x", "y")
    x: object
    y: object


@dataclasses.dataclass
class Awkward:
    """Its constructor cannot be called with what it holds."""

    seed: dataclasses.InitVar[int]
    _private: int = 0
    total: int = dataclasses.field(init=False)
    unset: int = dataclasses.field(init=False, repr=False)

    def __post_init__(self, seed):
        self.total = seed + 1

    @functools.cached_property
    def costly(self):
        return self.total * 2


@dataclasses.dataclass
class Box(Generic[T]):
    content: T


@dataclasses.dataclass
class Hostile:
    """A field that a property would guard, and a constructor that refuses."""

    value: object

    def __init__(self, *_args):
        raise AssertionError("no constructor runs on loading")

    def __setattr__(self, name, value):
        raise AssertionError("no __setattr__ runs on loading")


@dataclasses.dataclass(slots=True)
class Nothing:
    """Neither fields nor a __dict__."""


class Pair(NamedTuple):
    left: object
    right: object = None


PlainPair = collections.namedtuple("PlainPair", "left right")  # noqa: PYI024 - of this kind too


class Ids(list):
    pass


class Name(str):
    __slots__ = ()


class Metres(float):
    pass


class Count(int):
    pass


class Settings(dict):
    pass


class Unique(frozenset):
    pass


class Address(pydantic.BaseModel):
    street: str
    zip_code: str | None = pydantic.Field(None, alias="zip")


class Customer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    name: str
    address: Address | None = None
    since: dt.date = dt.date(2020, 1, 1)
    _seen: int = pydantic.PrivateAttr(0)
    _unset: int = pydantic.PrivateAttr()


class BusinessAddress(Address):
    company: uuid.UUID


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]
    total: int = 0


class Tags(pydantic.RootModel[Any]):
    pass


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"

    @pydantic.computed_field
    @functools.cached_property
    def noise(self) -> str:
        return "woof"


class Owner(pydantic.BaseModel):
    pet: Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]


class Account(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr


@attrs.define
class Parcel:
    weight: Decimal
    parts: list[Any] = attrs.field(factory=list)


@attrs.define(slots=False, frozen=True)
class LooseParcel:
    weight: object
    label: str = "none"


@attrs.frozen(cache_hash=True)
class Sku:
    code: str


@attrs.frozen(cache_hash=True, slots=False)
class LooseSku:
    code: str


class Reading(msgspec.Struct):
    sensor: str
    value: object
    at: dt.datetime | None = None


class FrozenReading(msgspec.Struct, frozen=True, gc=False):
    value: Any


class PanicError(BaseException):
    """As an extension raises it: no ``Exception``."""


class InstanceState:
    """What SQLAlchemy keeps of an object, which it knows but does not hold."""

    def __init__(self, instance):
        self.instance = weakref.ref(instance)

    def __getstate__(self):
        return {"instance": self.instance()}

    def __setstate__(self, state):
        self.instance = weakref.ref(state["instance"])


@dataclasses.dataclass
class MappedUser:
    """A dataclass as SQLAlchemy maps it."""

    _sa_class_manager: ClassVar[Any] = object()
    name: str

    def __post_init__(self):
        self._sa_instance_state = InstanceState(self)


@attrs.define(slots=False)
class MappedParcel:
    """A class made by attrs, likewise."""

    _sa_class_manager: ClassVar[Any] = object()
    label: str

    def __attrs_post_init__(self):
        self._sa_instance_state = InstanceState(self)


class Opaque:
    """Nothing is known of it: it is pickled."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return type(other) is Opaque and self.value == other.value

    def __hash__(self):
        return hash(("opaque", self.value))


class Money:
    """An application's own class, with a codec."""

    def __init__(self, amount, currency):
        self.amount = Decimal(amount)
        self.currency = currency

    def __eq__(self, other):
        return type(other) is Money and vars(self) == vars(other)

    def __hash__(self):
        return hash((self.amount, self.currency))
