from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, model_validator
from seeds import finish, ids
from taskiq import InMemoryBroker

from taskiq_pg_json import FilterError

broker = InMemoryBroker()


class Basket(BaseModel):
    customer: str
    total: Decimal


class Discounted(Basket):
    off: Decimal


@dataclass
class Point:
    x: int


@dataclass
class Loose:
    x: Any


@broker.task(task_name="shop:basket")
async def basket() -> Basket:
    raise NotImplementedError


@broker.task(task_name="shop:point")
def point() -> Point | None:
    raise NotImplementedError


class Picky(BaseModel):
    price: int

    @model_validator(mode="before")
    @classmethod
    def unpacked(cls, value):
        return value["inner"]


@broker.task(task_name="shop:picky")
async def picky() -> Picky:
    raise NotImplementedError


@broker.task(task_name="shop:untyped")
async def untyped():
    raise NotImplementedError


@dataclass
class Misspelt:
    x: subprocess.Nope  # that is the point


async def test_a_task_stands_for_its_name(store):
    await finish(store, "one", Basket(customer="c", total=1), task="shop:basket")
    await finish(store, "other", 1)
    assert ids(await store.search(task=basket)) == ["one"]
    assert ids([record async for record in store.iterate(task=basket)]) == ["one"]
    assert await store.count(task=basket) == 1
    assert [row.group for row in await store.stats(task=basket)] == [{"task_name": "shop:basket"}]
    with pytest.raises(FilterError, match="one of them"):
        await store.search(task=basket, task_name="x")


async def test_plain_json_becomes_what_the_task_returns(store):
    await finish(store, "plain", {"customer": "c", "total": "2.50"}, task="shop:basket")
    await finish(store, "typed", Basket(customer="d", total=1), task="shop:basket")
    records = {record.task_id: record for record in (await store.search(task=basket)).items}
    assert records["plain"].return_value == Basket(customer="c", total=Decimal("2.50"))
    assert records["typed"].return_value == Basket(customer="d", total=1)
    (bare,) = (await store.search(return_value={"customer": "c"})).items
    assert bare.return_value == {"customer": "c", "total": "2.50"}


async def test_a_value_that_does_not_fit_stays_as_it_is(store, caplog):
    await finish(store, "odd", {"customer": 5}, task="shop:basket")
    (record,) = (await store.search(task=basket)).items
    assert record.return_value == {"customer": 5}
    assert "shop:basket does not fit" in caplog.text


async def test_a_validator_that_stumbles_leaves_the_value_as_it_is(store, caplog):
    await finish(store, "odd", {"price": 5}, task="shop:picky")
    (record,) = (await store.search(task=picky)).items
    assert record.return_value == {"price": 5}
    assert "shop:picky does not fit" in caplog.text


async def test_an_annotation_that_cannot_be_resolved_leaves_the_value_as_it_is(store, caplog):
    @broker.task(task_name="shop:misspelt")
    def misspelt() -> Misspelt:
        raise NotImplementedError

    await finish(store, "it", {"x": 5}, task="shop:misspelt")
    (record,) = (await store.search(task=misspelt)).items
    assert record.return_value == {"x": 5}
    assert "cannot be checked against" in caplog.text


async def test_a_sync_task_with_an_optional_result_types_it_too(store):
    await finish(store, "none", None, task="shop:point")
    await finish(store, "some", {"x": 1}, task="shop:point")
    records = {record.task_id: record for record in (await store.search(task=point)).items}
    assert records["none"].return_value is None
    assert records["some"].return_value == Point(1)


@pytest.mark.parametrize("x", [1.5, math.nan, 2**70, "nul \0"])
async def test_what_jsonb_would_break_says_nothing_of_the_rest(store, x):
    async def function() -> dict[int, list[Point]]:
        raise NotImplementedError

    task = broker.task(task_name="shop:points")(function)
    function.__annotations__["return"] = dict[int, list[Loose]]
    await finish(store, "it", {1: [{"x": x}, {"x": 1}]}, task="shop:points")
    (record,) = (await store.search(task=task)).items
    assert repr(record.return_value) == repr({1: [Loose(x), Loose(1)]})


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (list[date], [datetime(2020, 1, 1, tzinfo=timezone.utc)]),
        (list[float], [Decimal("1.10"), 2]),
        (list[set[int]], [frozenset({1})]),
        (dict[str, list[int]], {"a": (1, 2)}),
        (list[Basket], [Discounted(customer="c", total=1, off=2)]),
        (Iterable[int], [1, 2]),
    ],
    ids=str,
)
async def test_a_value_whose_parts_bear_their_types_stays_as_it_is(store, annotation, value):
    async def function():
        raise NotImplementedError

    function.__annotations__["return"] = annotation
    task = broker.task(task_name="shop:parts")(function)
    await finish(store, "it", value, task="shop:parts")
    (record,) = (await store.search(task=task)).items
    assert repr(record.return_value) == repr(value)


async def test_a_task_without_annotation_leaves_values_alone(store):
    await finish(store, "it", {"x": [1]}, task="shop:untyped")
    (record,) = (await store.search(task=untyped)).items
    assert record.return_value == {"x": [1]}


def test_type_checkers_know_the_records_of_a_task(pytestconfig, tmp_path):
    root = pytestconfig.rootpath
    code = tmp_path / "typed.py"
    code.write_text(
        "from taskiq import InMemoryBroker\n"
        "from taskiq_pg_json import F, ResultStore\n"
        "broker = InMemoryBroker()\n"
        "@broker.task\n"
        "async def total() -> list[int]: return [1]\n"
        "@broker.task\n"
        "def name() -> str: return ''\n"
        "async def main(store: ResultStore) -> None:\n"
        "    reveal_type((await store.search(task=total)).items[0].return_value)\n"
        "    reveal_type((await store.search(task=name)).items[0].return_value)\n"
        "    reveal_type((await store.search(where=F.args[0] == 1)).items[0].return_value)\n"
        "    async for record in store.iterate(task=total, status='SUCCESS'):\n"
        "        reveal_type(record.return_value)\n"
        "    await store.search(statsu='SUCCESS')\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "--config-file",
         root / "pyproject.toml", "--cache-dir", root / ".mypy_cache", code],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    revealed = [line.partition("note: Revealed type is ")[2] for line in run.stdout.splitlines()]
    assert [text.strip('"').replace("builtins.", "") for text in revealed if text] == [
        "list[int]", "str", "Any", "list[int]",
    ]  # fmt: skip
    assert 'Unexpected keyword argument "statsu"' in run.stdout
