from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import psycopg
import pytest
from pydantic import BaseModel, Field
from seeds import finish
from taskiq import InMemoryBroker
from typing_extensions import NotRequired, TypedDict

from taskiq_pg_json import ConfigurationError, ForeignTableError, ResultStore

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


def task_returning(annotation, name="shop.tasks:order"):
    async def function():
        raise NotImplementedError

    function.__annotations__["return"] = annotation
    return broker.task(task_name=name)(function)


@pytest.fixture
async def store(pool, table_name):
    async with ResultStore(pool=pool, table_name=table_name) as store:
        yield store


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


async def test_a_changed_model_makes_the_view_anew(store, admin):
    view = await store.create_view(task_returning(Basket))
    await store.create_view(task_returning(Basket))
    assert await store.create_view(task_returning(Row)) == view
    assert list(types_of(admin, view))[3:] == ["name", "size"]


def indexes_of(admin, table):
    return [
        name
        for (name,) in admin.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass "
            "AND indpred IS NOT NULL AND indexprs IS NOT NULL ORDER BY 1",
            [table],
        )
    ]


async def test_an_index_serves_the_view_s_column(store, admin, table_name):
    task = task_returning(Order)
    view = await store.create_view(task, index=["customer_id", "total"])
    assert indexes_of(admin, table_name) == [
        f"{table_name}_order_customer_id_text_idx", f"{table_name}_order_total_numeric_idx",
    ]  # fmt: skip
    admin.execute("SET enable_seqscan = off")
    plan = admin.execute(f"EXPLAIN SELECT * FROM {view} WHERE customer_id = 'c1'").fetchall()
    admin.execute("RESET enable_seqscan")
    assert f"{table_name}_order_customer_id_text_idx" in str(plan)
    await store.create_view(task, index=["total"])
    assert indexes_of(admin, table_name) == [f"{table_name}_order_total_numeric_idx"]
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
        ({"name": "outcomes"}, "one of the store's own"),
    ],
)
async def test_arguments_that_cannot_work_are_refused(store, arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        await store.create_view(task_returning(Order), **arguments)


@pytest.mark.parametrize("annotation", [None, "Nowhere"])
async def test_a_task_that_says_nothing_of_its_result_has_no_view(store, annotation):
    task = task_returning(int)
    task.original_func.__annotations__["return"] = annotation
    with pytest.raises(ConfigurationError, match="annotate what it returns"):
        await store.create_view(task)


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
