from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Optional
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from pydantic import BaseModel, Field, RootModel
from seeds import finish
from taskiq import InMemoryBroker
from typing_extensions import NotRequired, ReadOnly, Required, TypeAliasType, TypedDict

from taskiq_pg_json import ConfigurationError, ForeignTableError, ResultStore, SchemaError

broker = InMemoryBroker()
AT = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=timezone.utc)


class Colour(Enum):
    RED = "red"


@dataclass
class Order:
    customer_id: str
    count: int
    total: Decimal
    weight: float
    paid: bool
    created_at: datetime
    due: date
    took: timedelta
    key: UUID
    colour: Colour
    way: Literal["air", "sea"]
    note: Optional[str]  # noqa: UP045 - as people write it
    task_id: int = 7
    lines: list[dict[str, Any]] = field(default_factory=list)


class Basket(BaseModel):
    customer: Annotated[str, Field(min_length=1)]
    total: Decimal | None


class Row(TypedDict):
    name: str
    size: NotRequired[int]


class Tags(RootModel[list[str]]):
    pass


class Total(RootModel[Decimal]):
    pass


UserId = NewType("UserId", int)
Alias = TypeAliasType("Alias", Decimal)
Nameless = TypedDict("Nameless", {"": int, "value": str})


class Clash(TypedDict):
    task_id: int
    value_task_id: str


class Reserved(TypedDict):
    select: int
    ctid: int
    Abc: int
    abc: int


class Qualified(TypedDict, total=False):
    first: ReadOnly[NotRequired[int]]
    second: Required[Annotated[int, "whole"]]
    third: Annotated[NotRequired[int], "whole"]
    last: int


@dataclass
class Inner:
    way: Literal["air", None]  # noqa: PYI061 - as people write it
    colour: Literal[Colour.RED]
    total: Optional[Annotated[Optional[Alias], "EUR"]]  # noqa: UP045 - as people write it
    rows: list[Row]


@dataclass
class Unresolved:
    value: Nowhere  # noqa: F821 - that is the point


@dataclass
class Misspelt:
    value: asyncio.Nope  # that is the point


@dataclass
class Broken:
    value: 1 / 0


def task_returning(annotation, name="shop.tasks:order"):
    async def function():
        raise NotImplementedError

    function.__annotations__["return"] = annotation
    return broker.task(task_name=name)(function)


def an_order(**changes):
    values = {
        "customer_id": "c1", "count": 3, "total": Decimal("12.50"), "weight": 1.5, "paid": True,
        "created_at": AT, "due": date(2026, 3, 5), "took": timedelta(days=1, seconds=2),
        "key": UUID(int=5), "colour": Colour.RED, "way": "air", "note": None,
        "lines": [{"sku": "A"}],
    }  # fmt: skip
    return Order(**{**values, **changes})


def types_of(admin, view):
    return dict(
        admin.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum",
            [view],
        ).fetchall()
    )


async def test_each_field_is_a_column_of_its_type(store, admin, table_name):
    view = await store.create_view(task_returning(Order))
    assert view == f"{table_name}_order"
    assert types_of(admin, view) == {
        "task_id": "character varying",
        "finished_at": "timestamp with time zone",
        "execution_time": "double precision",
        "customer_id": "text",
        "count": "bigint",
        "total": "numeric",
        "weight": "double precision",
        "paid": "boolean",
        "created_at": "timestamp with time zone",
        "due": "date",
        "took": "interval",
        "key": "uuid",
        "colour": "text",
        "way": "text",
        "note": "text",
        "value_task_id": "bigint",
        "lines": "jsonb",
    }


async def test_the_columns_hold_the_values(store, admin):
    view = await store.create_view(task_returning(Order))
    await finish(store, "it", an_order(), task="shop.tasks:order")
    await finish(store, "failed", error=ValueError(), task="shop.tasks:order")
    await finish(store, "other", an_order(), task="other")
    rows = admin.execute(f"SELECT * FROM {view}").fetchall()
    assert len(rows) == 1
    assert rows[0][0] == "it"
    assert rows[0][3:] == (
        "c1", 3, Decimal("12.50"), 1.5, True, AT, date(2026, 3, 5), timedelta(days=1, seconds=2),
        UUID(int=5), "red", "air", None, 7, [{"sku": "A"}],
    )  # fmt: skip


async def test_a_view_shows_nothing_that_has_expired(store, admin, table_name):
    count = f"SELECT count(*) FROM {await store.create_view(task_returning(Order))}"
    await finish(store, "it", an_order(), task="shop.tasks:order")
    admin.execute(f"UPDATE {table_name} SET expires_at = now() + interval '1 day'")
    assert admin.execute(count).fetchone() == (1,)
    admin.execute(f"UPDATE {table_name} SET expires_at = now()")
    assert admin.execute(count).fetchone() == (0,)


@pytest.mark.parametrize(
    "odd", [None, [], {"a": 1}, "text", "", 1e300, 2**70, -1.5, True, "2026-1"]
)
async def test_a_value_that_does_not_fit_is_null_and_breaks_nothing(store, admin, odd):
    view = await store.create_view(task_returning(Order))
    fields = dict.fromkeys(Order.__dataclass_fields__, odd)
    await finish(store, "odd", fields, task="shop.tasks:order")
    await finish(store, "bare", odd, task="shop.tasks:order")
    assert len(admin.execute(f"SELECT * FROM {view}").fetchall()) == 2


@pytest.mark.parametrize(
    ("field", "odd", "shown"),
    [
        ("created_at", "2026-13-45T25:61:00Z", None),
        ("created_at", "2026-02-30 10:00", None),
        ("created_at", "0000-01-01T00:00:00Z", None),
        ("created_at", "2026-01-01T00:00:00+16:00", None),
        ("created_at", f"2026-01-01T00:00:00.{'0' * 200}Z", None),
        ("created_at", "2026-01-01T00:00:00+0530:15", None),
        ("created_at", "2026-01-01T00:00:00+0530", datetime(
            2025, 12, 31, 18, 30, tzinfo=timezone.utc)),
        ("created_at", "2026-01-01T00:00:00+05:30:15", datetime(
            2025, 12, 31, 18, 29, 45, tzinfo=timezone.utc)),
        ("created_at", "2026-01-01T00:00:00-05", datetime(2026, 1, 1, 5, tzinfo=timezone.utc)),
        ("created_at", "٢٠٢٦-01-01T00:00:00Z", None),
        ("created_at", "2024-02-29T23:59:59.123456789+05:30", datetime(
            2024, 2, 29, 18, 29, 59, 123457, tzinfo=timezone.utc)),
        ("due", "2026-02-30", None),
        ("due", "2025-02-29", None),
        ("due", "1900-02-29", None),
        ("due", "0000-01-01", None),
        ("due", "2000-02-29", date(2000, 2, 29)),
        ("due", "2026-12-31", date(2026, 12, 31)),
        ("due", "2026-04-31", None),
        ("took", "P--", None),
        ("took", "P1D2", None),
        ("took", "PT", None),
        ("took", "P99999999999999D", None),
        ("took", "PT1.5.5S", None),
        ("took", "P-1DT-2H-0.500000S", -timedelta(days=1, hours=2, milliseconds=500)),
        ("count", 1.5, None),
        ("count", -2.5, None),
        ("count", 2**63 - 1, 2**63 - 1),
        ("count", 2**63, None),
        ("weight", "NaN", pytest.approx(float("nan"), nan_ok=True)),
        ("weight", "-Infinity", float("-inf")),
        ("weight", "5", None),
        ("total", "1e9999999", None),
        ("total", "-Infinity", Decimal("-Infinity")),
        ("total", "NaN", None),
        ("total", "9" * 200_000, None),
        ("total", "٣", None),
        ("total", "-1.5E+3", Decimal(-1500)),
        ("key", "00000000-0000-0000-0000-00000000000", None),
    ],
)  # fmt: skip
async def test_what_looks_like_a_value_and_is_none_is_null(store, admin, field, odd, shown):
    view = await store.create_view(task_returning(Order))
    await finish(store, "it", {field: odd}, task="shop.tasks:order")
    assert admin.execute(f"SELECT {field} FROM {view}").fetchone() == (shown,)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-400", "9" * 5000])
async def test_a_number_beyond_every_float_is_null(store, admin, table_name, number):
    view = await store.create_view(task_returning(Order), index=["weight", "total", "count"])
    fields = f'{{"weight": {number}, "total": {number}, "count": {number}}}'
    admin.execute(
        f"INSERT INTO {table_name} (task_id, task_name, status, return_value, finished_at) "
        "VALUES ('it', 'shop.tasks:order', 'SUCCESS', %s::jsonb, now())",
        [fields],
    )
    assert admin.execute(f"SELECT weight, count FROM {view}").fetchone() == (None, None)


async def test_an_index_never_costs_a_result(store, admin):
    view = await store.create_view(task_returning(Order), index=["customer_id", "total"])
    long = "".join(map(chr, range(0x4E00, 0x4E00 + 3000)))
    await finish(store, "long", an_order(customer_id=long), task="shop.tasks:order")
    await finish(store, "short", an_order(customer_id=long[:600]), task="shop.tasks:order")
    assert (await store.get("long")).return_value.customer_id == long
    rows = admin.execute(f"SELECT task_id, customer_id FROM {view} ORDER BY 1").fetchall()
    assert rows == [("long", None), ("short", long[:600])]
    await store.create_view(task_returning(Order))
    assert admin.execute(
        f"SELECT customer_id = %s FROM {view} WHERE task_id = 'long'", [long]
    ).fetchone() == (True,)


@pytest.mark.parametrize(
    ("annotation", "columns"),
    [
        (Tags, {"value": "jsonb"}),
        (Total, {"value": "numeric"}),
        (Alias, {"value": "numeric"}),
        (UserId, {"value": "bigint"}),
        (Annotated[Row, {"not": "hashable"}], {"name": "text", "size": "bigint"}),
        (Clash, {"value_value_task_id": "bigint", "value_task_id": "text"}),
        (Nameless, {"value_value": "bigint", "value": "text"}),
        (Reserved, {"select": "bigint", "ctid": "bigint", "Abc": "bigint", "abc": "bigint"}),
        (
            Qualified,
            {"first": "bigint", "second": "bigint", "third": "bigint", "last": "bigint"},
        ),
        (Inner, {"way": "text", "colour": "text", "total": "numeric", "rows": "jsonb"}),
        (list[Row], {"value": "jsonb"}),
    ],
    ids=str,
)
async def test_any_annotation_that_can_be_returned_has_a_view(store, admin, annotation, columns):
    view = await store.create_view(task_returning(annotation))
    assert dict(list(types_of(admin, view).items())[3:]) == columns


async def test_a_root_model_s_view_holds_its_value(store, admin):
    view = await store.create_view(task_returning(Total))
    await finish(store, "it", Total(Decimal("1.50")), task="shop.tasks:order")
    assert admin.execute(f"SELECT value FROM {view}").fetchone() == (Decimal("1.50"),)


async def test_a_field_whose_column_has_another_name_can_be_indexed(store, admin, table_name):
    await store.create_view(task_returning(Order), index=["task_id"])
    assert indexes_of(admin, table_name) == [f"{table_name}_order_value_task_id"]


@pytest.mark.parametrize(
    ("annotation", "columns"),
    [
        (Basket, {"customer": "text", "total": "numeric"}),
        (Row, {"name": "text", "size": "bigint"}),
        (int, {"value": "bigint"}),
        (Decimal | None, {"value": "numeric"}),
        (list[int], {"value": "jsonb"}),
        (dict[str, Any], {"value": "jsonb"}),
        (Any, {"value": "jsonb"}),
        (int | str, {"value": "jsonb"}),
    ],
    ids=str,
)
async def test_models_typed_dicts_and_scalars_have_views(store, admin, annotation, columns):
    view = await store.create_view(task_returning(annotation))
    assert dict(list(types_of(admin, view).items())[3:]) == columns


async def test_a_scalar_s_view_holds_the_value(store, admin):
    view = await store.create_view(task_returning(Decimal), name="prices")
    await finish(store, "1", Decimal("1.25"), task="shop.tasks:order")
    assert view.endswith("_prices")
    assert admin.execute(f"SELECT sum(value) FROM {view}").fetchone() == (Decimal("1.25"),)


class Rate(Enum):
    LOW = 0.5
    HIGH = 1.5


class Answer(Enum):
    YES = True
    NO = False


class Level(Enum):
    LOW = 1
    HIGH = 2


class Large(Enum):
    ONE = 2**70


@dataclass
class Quote:
    rate: Rate
    answer: Answer
    level: Level
    literal: Literal[Rate.LOW, Rate.HIGH]
    large: Large


async def test_members_of_an_enum_are_shown_as_they_are_stored(store, admin):
    view = await store.create_view(task_returning(Quote))
    quote = Quote(Rate.HIGH, Answer.YES, Level.HIGH, Rate.LOW, Large.ONE)
    await finish(store, "1", quote, task="shop.tasks:order")
    found = admin.execute(f"SELECT rate, answer, level, literal, large FROM {view}").fetchone()
    assert found == ("HIGH", "YES", 2, "LOW", "ONE")


@pytest.mark.parametrize("task_name", ["shop:makeQuote", "shop:Charge-Card", "shop:größe"])
async def test_the_name_that_is_returned_can_be_used_in_sql(store, admin, task_name):
    view = await store.create_view(task_returning(Decimal, task_name))
    await finish(store, "1", Decimal("1.25"), task=task_name)
    assert admin.execute(f"SELECT value FROM {view}").fetchone() == (Decimal("1.25"),)


async def test_a_changed_model_makes_the_view_anew(store, admin):
    view = await store.create_view(task_returning(Basket))
    await store.create_view(task_returning(Basket))
    assert await store.create_view(task_returning(Row)) == view
    assert list(types_of(admin, view))[3:] == ["name", "size"]


async def test_a_view_that_is_made_anew_can_be_used_by_whom_it_could(store, admin):
    view = await store.create_view(task_returning(Basket))
    roles = [f'role "{number}" {view}' for number in range(2)]
    quoted = [sql.Identifier(role) for role in roles]
    for role in quoted:
        admin.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        admin.execute(f"GRANT SELECT ON {view} TO PUBLIC")
        admin.execute(sql.SQL(f"GRANT SELECT, DELETE ON {view} TO {{}}").format(quoted[0]))
        admin.execute(
            sql.SQL(f"GRANT SELECT ON {view} TO {{}} WITH GRANT OPTION").format(quoted[1])
        )
        query = (
            "SELECT grantee, privilege_type, is_grantable"
            " FROM pg_class, aclexplode(relacl) WHERE oid = %s::regclass ORDER BY 1, 2"
        )
        before = admin.execute(query, [view]).fetchall()
        await store.create_view(task_returning(Row))
        assert list(types_of(admin, view))[3:] == ["name", "size"]
        assert admin.execute(query, [view]).fetchall() == before
    finally:
        for role in quoted:
            admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


def full_indexes_of(admin, table):
    return [
        name
        for (name,) in admin.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass "
            "AND indpred IS NOT NULL AND indexprs IS NOT NULL ORDER BY 1",
            [table],
        )
    ]


def indexes_of(admin, table):
    """The names of the views' indexes, without what keeps them apart."""
    return [re.sub("_[0-9a-f]{8}_idx$", "", name) for name in full_indexes_of(admin, table)]


async def test_an_index_serves_the_view_s_column(store, admin, table_name):
    task = task_returning(Order)
    view = await store.create_view(task, index=["customer_id", "total"])
    assert indexes_of(admin, table_name) == [
        f"{table_name}_order_customer_id", f"{table_name}_order_total",
    ]  # fmt: skip
    admin.execute("SET enable_seqscan = off")
    plan = admin.execute(f"EXPLAIN SELECT * FROM {view} WHERE customer_id = 'c1'").fetchall()
    admin.execute("RESET enable_seqscan")
    assert full_indexes_of(admin, table_name)[0] in str(plan)
    await store.create_view(task, index=["total"])
    assert indexes_of(admin, table_name) == [f"{table_name}_order_total"]
    assert await store.drop_view(task)
    assert indexes_of(admin, table_name) == []
    with pytest.raises(psycopg.errors.UndefinedTable):
        admin.execute(f"SELECT * FROM {view}")
    assert not await store.drop_view(task)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": ["colours"]}, "no field 'colours'"),
        ({"index": ["created_at"]}, "timestamptz"),
        ({"index": "total"}, "as a list"),
        ({"index": None}, "index=None.*as a list"),
        ({"index": 5}, "index=5.*as a list"),
        ({"index": [["count"]]}, r"no field \['count'\]"),
        ({"index": [5]}, "no field 5; there are customer_id"),
        ({"name": "outcomes"}, "one of the store's own"),
        ({"name": "json_gin"}, "one of the store's own"),
        ({"name": ""}, "name=''"),
        ({"name": 5}, "name=5"),
        ({"name": "a\0b"}, "NUL"),
        ({"name": "\ud800"}, "Unicode"),
        ({"name": "x" * 60}, "63 bytes"),
    ],
)
async def test_arguments_that_cannot_work_are_refused(store, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        await store.create_view(task_returning(Order), **arguments)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Unresolved, "name 'Nowhere' is not defined"),
        (Misspelt, "module 'asyncio' has no attribute 'Nope'"),
        (Broken, "Broken cannot be resolved.*zero"),
        (TypedDict("Nul", {"a\0b": int}), "NUL"),
        (TypedDict("Surrogate", {"\ud800": int}), "Unicode"),
        (TypedDict("Long", {"x" * 64: int}), "63 bytes"),
        (TypedDict("Wide", {f"field_{number}": int for number in range(1_598)}), "1,601 columns"),
    ],
)
async def test_fields_that_cannot_be_columns_are_refused(store, annotation, message):
    with pytest.raises(ConfigurationError, match=message):
        await store.create_view(task_returning(annotation))


async def test_a_view_has_as_many_columns_as_postgresql_takes(store, admin):
    widest = TypedDict("Widest", {f"field_{number}": int for number in range(1_597)})
    view = await store.create_view(task_returning(widest))
    assert len(types_of(admin, view)) == 1_600


async def test_a_long_field_s_index_is_kept(store, admin, table_name):
    field = "x" * 60
    task = task_returning(TypedDict("Long", {field: int}))
    await store.create_view(task, index=[field])
    (oid,) = admin.execute("SELECT %s::regclass::oid", indexes_of(admin, table_name)).fetchone()
    await store.create_view(task, index=[field])
    assert admin.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE oid = %s", [oid]
    ).fetchall()
    assert await store.drop_view(task)
    assert indexes_of(admin, table_name) == []


async def test_views_whose_names_and_fields_read_alike_have_indexes_of_their_own(
    store, admin, table_name
):
    short = task_returning(TypedDict("Short", {"y_z": int}))
    long = task_returning(TypedDict("Long", {"z": int}))
    await store.create_view(short, name="x", index=["y_z"])
    await store.create_view(long, name="x_y", index=["z"])
    assert indexes_of(admin, table_name) == [f"{table_name}_x_y_z"] * 2
    await store.drop_view(long, name="x_y")
    assert indexes_of(admin, table_name) == [f"{table_name}_x_y_z"]
    await store.create_view(short, name="x", index=["y_z"])
    assert indexes_of(admin, table_name) == [f"{table_name}_x_y_z"]


async def test_an_index_of_another_task_s_view_of_that_name_is_not_taken_over(
    store, admin, table_name
):
    view = await store.create_view(task_returning(Order), name="x", index=["count"])
    admin.execute(f"DROP VIEW {view}")
    await store.create_view(task_returning(Order, "another"), name="x", index=["count"])
    assert indexes_of(admin, table_name) == [f"{table_name}_x_count"] * 2


async def test_an_index_that_others_have_made_is_left_alone(store, admin, table_name):
    task = task_returning(Order)
    await store.create_view(task, index=["count"])
    (index,) = full_indexes_of(admin, table_name)
    await store.create_view(task)
    admin.execute(f"CREATE INDEX {index} ON {table_name} (worker)")
    admin.execute(f"COMMENT ON INDEX {index} IS 'Mine.'")
    with pytest.raises(ForeignTableError, match=f"{index} exists"):
        await store.create_view(task, index=["count"])
    await store.create_view(task)
    (comment,) = admin.execute("SELECT obj_description(%s::regclass)", [index]).fetchone()
    assert comment == "Mine."


async def test_an_index_that_was_not_finished_is_made_anew(store, admin, table_name):
    task = task_returning(Order)
    await store.create_view(task, index=["count"])
    (index,) = full_indexes_of(admin, table_name)
    admin.execute(f"COMMENT ON INDEX {index} IS NULL")
    admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [index])
    await store.create_view(task, index=["count"])
    assert admin.execute(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", [index]
    ).fetchone() == (True,)


async def test_two_views_of_a_task_have_indexes_of_their_own(store, admin, table_name):
    task = task_returning(Order)
    await store.create_view(task, name="one", index=["count"])
    await store.create_view(task, name="two", index=["total"])
    assert indexes_of(admin, table_name) == [
        f"{table_name}_one_count", f"{table_name}_two_total",
    ]  # fmt: skip
    await store.drop_view(task, name="one")
    assert indexes_of(admin, table_name) == [f"{table_name}_two_total"]


async def test_what_others_have_built_on_a_view_keeps_it_whole(store, admin, table_name):
    view = await store.create_view(task_returning(Order), index=["count"])
    admin.execute(f"CREATE VIEW {view}_sum AS SELECT sum(count) FROM {view}")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        await store.drop_view(task_returning(Order))
    with pytest.raises(psycopg.errors.DependentObjectsStillExist):
        await store.create_view(task_returning(Basket))
    assert "customer_id" in types_of(admin, view)
    assert indexes_of(admin, table_name) == [f"{table_name}_order_count"]


async def test_a_view_that_is_refused_leaves_no_trace(store, admin, table_name):
    admin.execute(f"CREATE TABLE {table_name}_order ()")
    with pytest.raises(ForeignTableError):
        await store.create_view(task_returning(Order), index=["count"])
    assert indexes_of(admin, table_name) == []


@pytest.mark.timeout(60)
async def test_any_number_of_processes_may_make_the_same_view_at_once(dsn, admin, table_name):
    async def make():
        async with ResultStore(dsn, table_name=table_name) as store:
            return await store.create_view(task_returning(Order), index=["count", "total"])

    assert set(await asyncio.gather(*[make() for _ in range(10)])) == {f"{table_name}_order"}
    assert len(indexes_of(admin, table_name)) == 2


async def test_a_view_s_schema_may_be_set_by_the_pool_s_configure(lend, schema_name, admin):
    async def configure(connection):
        await connection.execute(f"SET search_path = {schema_name}")
        await connection.commit()

    pool = lend(kwargs={"options": "-c search_path="}, configure=configure)
    async with ResultStore(pool=pool) as store:
        view = await asyncio.wait_for(store.create_view(task_returning(Order)), 20)
        assert "customer_id" in types_of(admin, f"{schema_name}.{view}")
        assert await asyncio.wait_for(store.drop_view(task_returning(Order)), 20)


async def test_a_view_without_a_schema_to_look_in_is_told_of(lend, table_name):
    pool = lend(kwargs={"options": "-c search_path="})
    async with ResultStore(pool=pool, table_name=table_name, migrate="off") as store:
        for call in (store.create_view, store.drop_view):
            with pytest.raises(SchemaError, match=r"search_path.*schema="):
                await asyncio.wait_for(call(task_returning(Order)), 20)


@pytest.mark.parametrize("annotation", [None, "Nowhere", "asyncio.Nope"])
async def test_a_task_that_says_nothing_of_its_result_has_no_view(store, annotation):
    task = task_returning(int)
    task.original_func.__annotations__["return"] = annotation
    with pytest.raises(ConfigurationError, match="annotate what it returns"):
        await store.create_view(task)


@pytest.mark.parametrize("task_name", ["sho\0p.order", "\ud800:order"])
async def test_a_task_whose_name_is_no_text_of_postgresql_has_no_view(store, task_name):
    task = task_returning(Order, task_name)
    for call in (store.create_view(task), store.drop_view(task)):
        with pytest.raises(ConfigurationError, match="NUL character or is not valid Unicode"):
            await call


@pytest.mark.parametrize("task", ["order", 3, None])
async def test_a_view_is_of_a_task(store, task):
    for call in (store.create_view(task), store.drop_view(task)):
        with pytest.raises(ConfigurationError, match="no task"):
            await call


async def test_what_others_have_made_is_left_alone(store, admin, table_name):
    admin.execute(f"CREATE VIEW {table_name}_order AS SELECT 1 AS one FROM {table_name}")
    task = task_returning(Order)
    with pytest.raises(ForeignTableError, match="left as it is"):
        await store.create_view(task)
    with pytest.raises(ForeignTableError):
        await store.drop_view(task)
    with pytest.raises(ForeignTableError):
        await store.create_view(task, name="x") and await store.create_view(
            task_returning(Order, "another"), name="x"
        )
    assert admin.execute(f"SELECT * FROM {table_name}_order").fetchall() == []


async def test_names_that_need_quotes_are_quoted(pool, schema_name):
    odd = TypedDict("odd", {'we"ird %s {x}': int})
    async with ResultStore(pool=pool, table_name="Odd %s", schema=schema_name) as store:
        task = task_returning(odd, "shop:it's %s {odd}")
        await store.create_view(task, index=['we"ird %s {x}'])
        assert await store.drop_view(task)
