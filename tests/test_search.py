from __future__ import annotations

import asyncio
import copy
import math
import pickle
from contextlib import AsyncExitStack, suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.pq import TransactionStatus
from pydantic import TypeAdapter
from road import cancelled_at, eventually
from seeds import NOW, Invoice, PaymentError, ago, finish, ids, orders, unfinished

from taskiq_pg_json import (
    F,
    FailureGroup,
    FilterError,
    NotLoadedError,
    Outcome,
    Page,
    Progress,
    ResultDecodeError,
    ResultStore,
    SearchTimeoutError,
    StatsRow,
    Status,
    TaskInfo,
)

DAY = timedelta(days=1)
ODD_ZONE = time(10, tzinfo=timezone(timedelta(seconds=3661)))


@pytest.fixture
async def shop(store):
    """Thirty orders, see ``seeds.orders``."""
    await orders(store)
    return store


class Unsearchable:
    """Nothing is known of it: it is pickled."""


def named(value) -> str | None:
    return ",".join(value) or "none" if isinstance(value, dict) else None


def nested(depth):
    filters = {"task_name": "none"}
    for _ in range(depth):
        filters = {"exclude": filters}
    return filters


CYCLE = {}
CYCLE["exclude"] = CYCLE


def alternating(depth):
    condition = F.args[0] == 0
    for number in range(depth):
        condition = (F.args[0] == number) | ~(condition & (F.args[1] == number))
    return condition


def numbers(condition) -> list[str]:
    return [str(number) for number in range(30) if condition(number)]


def everything(number) -> bool:
    return number >= 0


def nothing(number) -> bool:
    return number < 0


SUCCEEDED = [number for number in range(30) if number % 10 != 9]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, everything),
        ({"task_name": "shop:ship"}, lambda n: n % 3 == 1),
        ({"task_name": ["shop:ship", "shop:mail", "shop:ship"]}, lambda n: n % 3 != 0),
        ({"task_name": ["shop:ship", "nothing"]}, lambda n: n % 3 == 1),
        ({"status": "FAILURE"}, lambda n: n % 10 == 9),
        ({"status": [Status.FAILURE, "SUCCESS"]}, everything),
        ({"status": "QUEUED"}, nothing),
        ({"worker": "web:1"}, lambda n: n % 2 == 1),
        ({"worker": {"web:0", "web:1"}}, everything),
        ({"since": ago(minutes=5)}, lambda n: n <= 5),
        ({"until": ago(minutes=5)}, lambda n: n > 5),
        ({"since": ago(minutes=9), "until": ago(minutes=5)}, lambda n: 5 < n <= 9),
        ({"since": DAY}, everything),
        ({"min_duration": 29}, lambda n: n >= 28),
        ({"max_duration": timedelta(seconds=2)}, lambda n: n < 2),
        ({"error_type": "PaymentError"}, lambda n: n % 10 == 9),
        ({"error_type": PaymentError}, lambda n: n % 10 == 9),
        ({"error_type": ["seeds.PaymentError", ValueError]}, lambda n: n % 10 == 9),
        ({"error_type": ValueError}, nothing),
        ({"message": "CARD 1"}, lambda n: n == 19),
        ({"message": "100%_"}, nothing),
        ({"return_value": {"customer_id": "c1"}}, lambda n: n % 10 != 9 and n % 3 == 1),
        ({"return_value": {"total": Decimal("3.50")}}, lambda n: n == 3),
        ({"return_value": {"created_at": ago(days=4)}}, lambda n: n == 4),
        ({"return_value": {"lines": [{"sku": "A", "price": 7}]}}, lambda n: n == 7),
        ({"args": [12]}, lambda n: n == 12),
        ({"args": [{"retry": 3}]}, lambda n: n % 4 == 3),
        ({"kwargs": {"dry_run": True}}, lambda n: n % 5 == 0),
        ({"kwargs": {"at": ago(hours=6)}}, lambda n: n == 6),
        ({"labels": {"tenant": "t1"}}, lambda n: n % 2 == 1),
        ({"where": "$.lines[*].price > 26"}, lambda n: n in {27, 28}),
        ({"where": "$.lines[*] ? (@.price > 26)"}, lambda n: n in {27, 28}),
        ({"where": '$.customer_id == "c2"'}, lambda n: n % 10 != 9 and n % 3 == 2),
        ({"exclude": {"task_name": ["shop:ship", "shop:mail"]}}, lambda n: n % 3 == 0),
        ({"exclude": {"status": "SUCCESS"}}, lambda n: n % 10 == 9),
        (
            {"exclude": {"task_name": "shop:ship", "worker": "web:1"}},
            lambda n: not (n % 3 == 1 and n % 2 == 1),
        ),
        ({"exclude": {"return_value": {"customer_id": "c1"}}}, lambda n: n % 10 == 9 or n % 3 != 1),
        ({"exclude": {"where": "$.paid == true"}}, lambda n: n % 10 == 9 or n % 2 == 1),
        ({"exclude": {}}, everything),
        ({"task_name": []}, nothing),
        ({"status": []}, nothing),
        ({"status": [], "message": "Card"}, nothing),
        ({"worker": []}, nothing),
        ({"where": F.args[0].in_([])}, nothing),
        ({"exclude": {"task_name": []}}, everything),
        ({"exclude": {"status": []}}, everything),
        ({"exclude": {"where": F.args[0].in_([])}}, everything),
        ({"where": '$.created_at.datetime() < "2000-01-01".datetime()'}, nothing),
        (
            {"where": '$.created_at ? (@.datetime() > "2000-01-01".datetime())'},
            lambda n: n % 10 != 9,
        ),
        (
            {"task_name": "shop:charge", "status": "SUCCESS", "labels": {"tenant": "t0"}},
            lambda n: n % 10 != 9 and n % 6 == 0,
        ),
    ],
    ids=named,
)
async def test_every_filter_finds_what_it_says_newest_first(shop, filters, expected):
    assert ids(await shop.search(**filters)) == numbers(expected)
    assert await shop.count(**filters) == len(numbers(expected))
    assert ids([record async for record in shop.iterate(**filters)]) == numbers(expected)


TOTAL = F.return_value["total"]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F.return_value["customer_id"] == "c1", lambda n: n % 3 == 1),
        (F.return_value["customer_id"] != "c1", lambda n: n % 3 != 1),
        (F.return_value["paid"].is_(True), lambda n: n % 2 == 0),
        (TOTAL > 25, lambda n: n >= 25),
        (Decimal("25.5") < TOTAL, lambda n: n > 25),
        (TOTAL >= 25.5, lambda n: n >= 25),
        (Decimal("3.500") == TOTAL, lambda n: n == 3),
        (TOTAL < 2, lambda n: n < 2),
        (Decimal("1.5") >= TOTAL, lambda n: n < 2),
        (F.return_value["created_at"] < ago(days=25), lambda n: n > 25),
        (F.return_value["created_at"] == ago(days=25), lambda n: n == 25),
        (F.return_value["customer_id"] > "c1", lambda n: n % 3 == 2),
        (F.return_value["customer_id"].in_(["c0", "c2"]), lambda n: n % 3 != 1),
        (F.return_value["customer_id"].startswith("c2"), lambda n: n % 3 == 2),
        (F.return_value["customer_id"].matches("^c[01]$"), lambda n: n % 3 != 2),
        (F.return_value["lines"].each["price"] == 7, lambda n: n == 7),
        (F.return_value["lines"].each["price"] > 26, lambda n: n > 26),
        (F.return_value["lines"][0]["price"] == 1, lambda n: n == 1),
        (F.return_value["lines"][-1] == {"sku": "B", "price": 1}, everything),
        (F.return_value["lines"].contains([{"price": 7}]), lambda n: n == 7),
        (F.return_value["customer_id"].exists(), everything),
        (F.return_value["nothing"].exists(), nothing),
        (F.args[0] == 3, lambda n: n == 3),
        (F.args[1]["retry"] >= 3, lambda n: n % 4 == 3),
        (F.kwargs["dry_run"].is_(False), lambda n: n % 5 != 0),
        (F.labels["tenant"] == "t1", lambda n: n % 2 == 1),
        ((TOTAL > 3) & (TOTAL < 6), lambda n: 3 <= n < 6),
        ((TOTAL < 1) | (TOTAL > 28), lambda n: n in {0, 28}),
        (~(TOTAL > 3), lambda n: n < 3),
        (~((TOTAL > 3) | F.return_value["paid"].is_(True)), lambda n: n == 1),
    ],
    ids=range(30),
)
async def test_a_condition_made_with_f_finds_what_python_would(shop, condition, expected):
    page = await shop.search(where=condition, status="SUCCESS")
    assert ids(page) == [str(number) for number in SUCCEEDED if expected(number)]


async def test_an_error_can_be_searched_by_any_field(shop):
    page = await shop.search(where=F.error["message"].startswith("Card 1"))
    assert ids(page) == ["19"]


async def test_equality_is_exact_where_containment_is_not(store):
    values = {"list": [1], "longer": [1, 2], "number": 1, "true": True, "text": "1", "null": None}
    for task_id, value in values.items():
        await finish(store, task_id, {"v": value})
    assert ids(await store.search(where=F.return_value["v"] == 1)) == ["number"]
    assert ids(await store.search(where=F.return_value["v"] == [1])) == ["list"]
    assert ids(await store.search(where=F.return_value["v"].is_(None))) == ["null"]
    assert ids(await store.search(where=F.return_value["v"].is_(True))) == ["true"]
    assert ids(await store.search(where=F.return_value["v"] == "1")) == ["text"]


PLACES = {
    "5": 5,
    "[5]": [5],
    "key 0": {"0": 5},
    "v": {"v": 5},
    "v list": {"v": [5]},
    "v dicts": {"v": [{"p": 5}, {}, 7]},
    "v dict": {"v": {"p": 5}},
    "v mixed": {"v": ["abc", "7.5", None, [9]]},
    "v texts": {"v": [["a5"], ["a6"], 7]},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F.return_value > 3, {"5"}),
        (F.return_value[0] > 3, {"[5]"}),
        (F.return_value[-1] > 3, {"[5]"}),
        (F.return_value["0"] > 3, {"key 0"}),
        (F.return_value[0].exists(), {"[5]"}),
        (F.return_value[1].exists(), set()),
        (F.return_value.each > 3, {"[5]"}),
        (F.return_value["v"] > 3, {"v"}),
        (F.return_value["v"].each > 3, {"v list", "v dicts", "v mixed", "v texts"}),
        (F.return_value["v"].each == 7, {"v dicts", "v texts"}),
        (F.return_value["v"].each.exists(), {"v list", "v dicts", "v mixed", "v texts"}),
        (F.return_value["v"]["p"] > 3, {"v dict"}),
        (F.return_value["v"]["p"].exists(), {"v dict"}),
        (F.return_value["v"].each["p"] > 3, {"v dicts"}),
        (F.return_value["v"].each["p"] == 5, {"v dicts"}),
        (F.return_value["v"].each > "abb", {"v mixed"}),
        (F.return_value["v"].each.startswith("a"), {"v mixed"}),
        (F.return_value["v"].each.each.startswith("a"), {"v texts"}),
        (F.return_value["v"].each[0].matches("6$"), {"v texts"}),
    ],
    ids=range(19),
)
async def test_a_place_is_what_stands_there_and_not_what_lies_within(store, condition, expected):
    for task_id, value in PLACES.items():
        await finish(store, task_id, value)
    assert set(ids(await store.search(where=condition))) == expected
    rest = set(PLACES) - expected
    assert set(ids(await store.search(where=~condition))) == rest


HOLDERS = {
    "tags": {"v": ["vip", "new"]},
    "tag": {"v": "vip"},
    "rows": {"v": [{"id": 7, "ok": True}, ["vip"]]},
    "row": {"v": {"id": 7, "0": "vip"}},
    "list": ["vip", {"id": 7}],
    "lists": [["vip"], [{"id": 7}]],
    "bare": "vip",
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F.return_value.contains("vip"), {"list", "bare"}),
        (F.return_value.contains(["vip"]), {"list"}),
        (F.return_value.contains({"v": ["new"]}), {"tags"}),
        (F.return_value["v"].contains("vip"), {"tags", "tag"}),
        (F.return_value["v"].contains(["vip"]), {"tags"}),
        (F.return_value["v"].contains([["vip"]]), {"rows"}),
        (F.return_value["v"].contains({"id": 7}), {"row"}),
        (F.return_value["v"].contains([{"id": 7}]), {"rows"}),
        (F.return_value["v"].contains({}), {"row"}),
        (F.return_value["v"]["0"].contains("vip"), {"row"}),
        (F.return_value["v"][0].contains("vip"), {"tags"}),
        (F.return_value["v"][1].contains("vip"), {"rows"}),
        (F.return_value["v"][-2].contains({"id": 7}), {"rows"}),
        (F.return_value[0].contains("vip"), {"list", "lists"}),
        (F.return_value[1].contains({"id": 7}), {"list"}),
        (F.return_value[0].contains({"id": 7}), set()),
        (F.return_value[2].contains("vip"), set()),
        (F.return_value.each.contains("vip"), {"list", "lists"}),
        (F.return_value.each.contains({"id": 7}), {"list"}),
        (F.return_value.each.contains([{"id": 7}]), {"lists"}),
        (F.return_value["v"].each.contains("vip"), {"tags", "rows"}),
        (F.return_value["v"].each.contains({"id": 7}), {"rows"}),
        (F.return_value["v"].each["ok"].contains(True), {"rows"}),
    ],
    ids=range(23),
)
async def test_what_stands_at_a_place_contains_what_postgresql_says_it_does(
    store, condition, expected
):
    for task_id, value in HOLDERS.items():
        await finish(store, task_id, value)
    assert set(ids(await store.search(where=condition))) == expected
    rest = set(HOLDERS) - expected
    assert set(ids(await store.search(where=~condition))) == rest


NUMBERS = {
    "precise": Decimal("1.123456789012345678"),
    "long": Decimal("12345678901234567.89"),
    "big": 2**70,
    "float": 1e300,
    "zero": -0.0,
    "nan": math.nan,
    "infinite": math.inf,
    "least": Decimal("-Infinity"),
    "text": "1e400",
    "word": "five",
    "true": True,
    "digits": "9" * 200_000,
    "other digits": "٣",
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F.return_value == Decimal("1.123456789012345678"), {"precise"}),
        (F.return_value == Decimal("1.12345678901234567800"), {"precise"}),
        (F.return_value == Decimal("12345678901234567.89"), {"long"}),
        (F.return_value < Decimal("1.123456789012345678"), {"zero", "least"}),
        (F.return_value <= -0.0, {"zero", "least"}),
        (F.return_value == Decimal(0), {"zero"}),
        (F.return_value == 0, {"zero"}),
        (F.return_value == -0.0, {"zero"}),
        (F.return_value.in_([0.0, 5]), {"zero"}),
        (F.return_value >= 2**70, {"big", "float", "text", "infinite"}),
        (F.return_value > 2**70, {"float", "text", "infinite"}),
        (F.return_value > 2**69, {"big", "float", "text", "infinite"}),
        (F.return_value > 1e300, {"text", "infinite"}),
        (F.return_value >= 10**400, {"text", "infinite"}),
        (F.return_value > Decimal("1e400"), {"infinite"}),
        (F.return_value == math.inf, {"infinite"}),
        (F.return_value == Decimal("Infinity"), {"infinite"}),
        (F.return_value == Decimal("-Infinity"), {"least"}),
        (F.return_value == Decimal("NaN"), {"nan"}),
        (F.return_value.in_([Decimal("NaN"), Decimal("1e300"), 2**70]), {"nan", "float", "big"}),
        (F.return_value.each == Decimal("NaN"), set()),
    ],
    ids=range(21),
)
async def test_numbers_compare_exactly_whatever_their_size(store, condition, expected):
    for task_id, value in NUMBERS.items():
        await finish(store, task_id, value)
    assert set(ids(await store.search(where=condition))) == expected


MOMENTS = {
    "micro": datetime(2026, 1, 1, 1, 2, 3, 456789, tzinfo=timezone.utc),
    "Z": "2026-01-01T01:02:04Z",
    "elsewhere": datetime(2026, 1, 1, 3, tzinfo=timezone(timedelta(hours=2))),
    "date": date(2026, 1, 2),
    "never": "2026-13-45T25:61:00Z",
    "february": "2026-02-30",
    "time": time(1, 2, 3, 5),
    "mixed": ["soon", "2026-02-30", datetime(2026, 1, 3, tzinfo=timezone.utc)],
    "number": 5,
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (F.return_value >= MOMENTS["micro"], {"micro", "Z", "date"}),
        (F.return_value > MOMENTS["micro"], {"Z", "date"}),
        (F.return_value <= MOMENTS["elsewhere"], {"elsewhere"}),
        (F.return_value > date(2025, 12, 31), {"micro", "Z", "elsewhere", "date"}),
        (F.return_value.each >= date(2026, 1, 2), {"mixed"}),
        (F.return_value >= time(1, 2, 3, 5), {"time"}),
        (F.return_value > time(1, 2, 3, 5), set()),
    ],
    ids=range(7),
)
async def test_dates_and_times_compare_by_the_moment(store, condition, expected):
    for task_id, value in MOMENTS.items():
        await finish(store, task_id, value)
    assert set(ids(await store.search(where=condition))) == expected


async def test_a_path_compares_times_with_and_without_a_zone(store):
    await finish(store, "aware", {"at": datetime(2026, 1, 1, tzinfo=timezone.utc)})
    await finish(store, "naive", {"at": datetime(2026, 1, 1)})  # noqa: DTZ001 - that is the point
    path = '$.at.datetime() > "2025-01-01T00:00:00+00:00".datetime()'
    assert set(ids(await store.search(where=path))) == {"aware", "naive"}


async def test_zero_equals_zero_whatever_its_sign_and_nothing_else(store):
    for task_id, value in {"0": 0, "0.0": 0.0, "-0.0": -0.0, "false": False, "": ""}.items():
        await finish(store, task_id, {"v": [value]})
    zeros = {"0", "0.0", "-0.0"}
    for condition in (F.return_value["v"][0] == -0.0, F.return_value["v"].each == 0):
        assert set(ids(await store.search(where=condition))) == zeros
        assert set(ids(await store.search(where=~condition))) == {"false", ""}
    assert ids(await store.search(where=F.return_value["v"][0].is_(False))) == ["false"]


async def test_any_number_of_values_can_be_asked_for(store):
    await finish(store, "it", 2_999)
    await finish(store, "other", -1)
    assert ids(await store.search(where=F.return_value.in_(range(3_000)))) == ["it"]
    condition = F.return_value == 0
    for number in range(1, 3_000):
        condition = condition | (F.return_value == number)
    assert ids(await store.search(where=condition)) == ["it"]


async def test_many_thousand_values_take_no_longer_than_a_query_may(store):
    await finish(store, "it", {"v": 19_999})
    await finish(store, "index", {"v": [[19_999]]})
    await finish(store, "key", {"v": [{"0": 19_999}, [5]]})
    values = range(20_000)
    assert ids(await store.search(where=F.return_value["v"].in_(values))) == ["it"]
    assert ids(await store.search(where=F.return_value["v"][0][0].in_(values))) == ["index"]
    assert ids(await store.search(where=F.return_value["v"][0]["0"].in_(values))) == ["key"]
    assert ids(await store.search(where=F.return_value["v"][0][0].in_([5, 19_999]))) == ["index"]
    assert await store.count(where=~F.return_value["v"].in_(values)) == 2


ASKED = [
    0, -0.0, 1, 1.0, True, False, None, "1", "", "null", 'quo"te', "{a,b}", "💥", [], [1], {},
    {"a": [1]}, 2**70, 1e300, 0.1, math.inf, NOW, Decimal(0), Decimal("1.00"), Decimal("0.10"),
]  # fmt: skip


@pytest.fixture
async def asked(store):
    """A store of all these values, each at several places, by their numbers."""
    for number, value in enumerate(ASKED):
        await finish(store, str(number), {"v": [value], "k": value, "0": {"1": value}})
    return store


def equals(stored, value):
    """Whether a value is found by another: Decimals find numbers, and what is the text of one."""
    if isinstance(stored, bool) or isinstance(value, bool):
        return stored is value
    if isinstance(value, Decimal):
        with suppress(ArithmeticError, TypeError, ValueError):
            return Decimal(str(stored)) == value
        return False
    return stored == value and not isinstance(stored, Decimal)


@given(st.sets(st.integers(0, len(ASKED) - 1)), st.sampled_from([0, 200, 6_000]))
async def test_one_of_these_is_what_equals_any_of_them(asked, numbers, others):
    values = [ASKED[number] for number in sorted(numbers)]
    more = [f"no. {number}" for number in range(others)]
    for place in (
        F.return_value["k"], F.return_value["v"][0], F.return_value["v"][-1],
        F.return_value["0"]["1"], F.return_value["v"].each,
    ):  # fmt: skip
        if None in place.steps:
            values = [value for value in values if not isinstance(value, list | dict)]
            more = more[:200]
        page = await asked.search(where=place.in_([*values, *more]))
        assert set(ids(page)) == {
            str(number)
            for number, stored in enumerate(ASKED)
            if any(equals(stored, value) for value in values)
        }


async def test_conditions_and_filters_may_be_negated_any_number_of_times(shop):
    condition = F.args[0] > 25
    for _ in range(5_001):
        condition = ~condition
    assert ids(await shop.search(where=condition)) == numbers(lambda n: n <= 25)
    twenty = nested(20)
    assert await shop.count(exclude=twenty) == await shop.count(exclude=nested(22))
    assert ids(await shop.search(where=alternating(20), limit=1)) == ["0"]


async def test_conditions_that_the_server_s_stack_does_not_hold_are_a_clear_error(dsn, table_name):
    kwargs = {"options": "-c max_stack_depth=100kB"}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as store:
        with pytest.raises(FilterError, match="nested too deep"):
            await store.count(where=alternating(120))


@pytest.mark.parametrize("timeout", [3e6, 1e300])
async def test_a_time_limit_beyond_the_server_s_is_its_longest(shop, timeout):
    assert len((await shop.search(timeout=timeout)).items) == 30
    assert len([record async for record in shop.iterate(timeout=timeout)]) == 30
    assert sum(row.total for row in await shop.stats(timeout=timeout)) == 30


async def test_what_excludes_one_worker_keeps_rows_of_none(store):
    await finish(store, "one", worker="web:1")
    await finish(store, "none", worker=None)
    assert ids(await store.search(exclude={"worker": "web:1"})) == ["none"]


async def test_a_negated_condition_finds_rows_that_lack_the_place(store):
    await finish(store, "with", {"v": 5})
    await finish(store, "without", {})
    await finish(store, "nothing", None, error=ValueError())
    assert set(ids(await store.search(where=~(F.return_value["v"] > 1)))) == {"without", "nothing"}


@pytest.mark.parametrize(
    "text",
    [
        "naïve ☃ 表",
        "💥",
        'quo"te',
        "back\\slash",
        "'; DROP TABLE x; --",
        "%s %(a)s",
        "{x}",
        "$value",
    ],
)
async def test_any_text_is_found_and_never_run(store, text):
    await finish(store, "it", {text: text}, task=text, kwargs={text: 1}, worker=text)
    await finish(store, "other", {"x": "y"})
    for filters in (
        {"task_name": text},
        {"task_name": [text, "x"]},
        {"worker": text},
        {"return_value": {text: text}},
        {"kwargs": {text: 1}},
        {"where": F.return_value[text] == text},
        {"where": F.return_value[text].startswith(text)},
        {"where": F.kwargs[text] >= 1},
    ):
        assert ids(await store.search(**filters)) == ["it"]


async def test_an_expired_row_is_not_found(store, admin, table_name):
    await finish(store, "gone", 1)
    await finish(store, "kept", 1)
    admin.execute(f"UPDATE {table_name} SET expires_at = now() WHERE task_id = 'gone'")
    admin.execute(f"UPDATE {table_name} SET expires_at = now() + '1h' WHERE task_id = 'kept'")
    assert ids(await store.search()) == ["kept"]
    assert await store.count() == 1
    assert [row.total for row in await store.stats()] == [1]


async def test_unfinished_tasks_come_first_and_can_be_asked_for(shop):
    await unfinished(shop)
    assert set(ids(await shop.search(limit=3))) == {"queued", "started", "retried"}
    assert ids(await shop.search(status="STARTED")) == ["started"]
    assert ids(await shop.search(status=["QUEUED", "RETRY"], order_by="queued_at")) == [
        "queued", "retried",
    ]  # fmt: skip
    (started,) = (await shop.search(status="STARTED")).items
    assert (started.progress.percent, started.progress.text) == (40, "Rows")
    assert not started.is_ready
    assert ids(await shop.search(status="RETRY", error_type=ConnectionError)) == ["retried"]


async def test_a_record_has_the_exact_value(shop):
    (record,) = (await shop.search(args=[4])).items
    assert record.return_value == Invoice(
        "c1", Decimal("4.50"), ago(days=4), paid=True, lines=record.return_value.lines
    )
    assert record.kwargs == {"dry_run": False, "at": ago(hours=4)}
    assert record.finished_at == NOW - timedelta(minutes=4)


async def test_one_bad_row_does_not_break_its_page(shop, admin, table_name):
    admin.execute(
        f'UPDATE {table_name} SET types = \'{{"v": 1, "return_value": 7}}\''
        " WHERE task_id = 'order-1'"
    )
    page = await shop.search(limit=3)
    good, bad, other = page.items
    assert good.return_value.customer_id == "c0"
    assert other.return_value.customer_id == "c2"
    with pytest.raises(Exception, match="order-1"):
        _ = bad.return_value
    assert bad.task_name == "shop:ship"


@pytest.mark.parametrize("way", [copy.deepcopy, lambda page: pickle.loads(pickle.dumps(page))])
async def test_a_page_is_the_same_where_it_was_pickled_or_deep_copied(store, way):
    await orders(store, count=3)
    await finish(store, "failed", error=PaymentError("no", 7))
    await store.set_progress("order-1", Progress("half", {"at": NOW}))
    page = await store.search()
    twin = way(page)
    assert twin == page
    for record, again in zip(page.items, twin.items, strict=True):
        for column in ("return_value", "args", "kwargs", "labels", "progress"):
            assert getattr(again, column) == getattr(record, column)
        assert (type(again.error), str(again.error)) == (type(record.error), str(record.error))


async def test_a_pickled_record_still_says_which_column_it_has_not(shop, admin, table_name):
    admin.execute(
        f'UPDATE {table_name} SET types = \'{{"v": 1, "return_value": 7}}\''
        " WHERE task_id = 'order-1'"
    )
    page = await shop.search(load=["return_value", "args"], limit=2)
    good, bad = pickle.loads(pickle.dumps(page)).items
    assert good.return_value.customer_id == "c0"
    assert bad.args == [1, {"retry": 1}]
    with pytest.raises(ResultDecodeError, match="order-1") as caught:
        _ = bad.return_value
    assert (caught.value.task_id, caught.value.path) == ("order-1", "return_value")
    with pytest.raises(NotLoadedError, match="no kwargs here"):
        _ = bad.kwargs


async def test_a_copied_record_decodes_by_itself(shop):
    record = await shop.get("order-1")
    twin = copy.copy(record)
    assert twin == record
    assert twin.return_value == record.return_value
    assert twin.return_value is not record.return_value


async def test_a_pickled_record_can_be_decoded_in_another_way(shop):
    record = pickle.loads(pickle.dumps(await shop.get("order-1")))
    args = record.args
    again = record.decoded_by(lambda decode: lambda column: (column, decode(column)))
    assert again.args == ("args", args)
    assert record.args == args


async def test_a_task_may_return_records_as_dicts(shop):
    record = await shop.get("order-1")
    await shop.set_result("report", Outcome([record.to_dict()]))
    (row,) = (await shop.get("report")).return_value
    assert list(row)[:4] == ["task_id", "task_name", "worker", "status"]
    assert row == {column: getattr(record, column) for column in row}
    assert (row["return_value"], row["kwargs"]) == (record.return_value, record.kwargs)


@pytest.mark.parametrize(
    "annotation", [StatsRow, list[StatsRow], Page[StatsRow], FailureGroup, Progress, TaskInfo]
)
def test_what_the_store_takes_and_gives_may_be_annotations(annotation):
    assert TypeAdapter(annotation).json_schema()


async def test_a_column_that_was_left_out_says_so(shop):
    page = await shop.search(load=["kwargs"], limit=2)
    record = page.items[0]
    assert record.kwargs["dry_run"] is True
    assert record.execution_time == 1.0
    for column in ("return_value", "error", "args", "labels", "progress"):
        with pytest.raises(NotLoadedError, match=f"no {column} here"):
            getattr(record, column)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colour": "red"}, "colour: no such filter; there are args, "),
        ({"status": "DONE"}, "status='DONE' is none of QUEUED, STARTED, RETRY, SUCCESS, FAILURE"),
        ({"since": datetime(2026, 1, 1)}, "no time zone"),  # noqa: DTZ001 - that is the point
        ({"since": 5}, "aware datetime"),
        ({"until": "yesterday"}, "aware datetime"),
        ({"since": timedelta.max}, "since=.* too far"),
        ({"min_duration": "1s"}, "give seconds"),
        ({"min_duration": 10**400}, "give seconds"),
        ({"max_duration": math.nan}, "give seconds"),
        ({"task_name": 7}, r"task_name=7: give a text \(str\)"),
        ({"task_name": "a\0b"}, "NUL"),
        ({"where": 7}, "SQL/JSON path"),
        ({"exclude": "x"}, "exclude='x'"),
        ({"exclude": {"exclude": 5}}, "exclude=5"),
        ({"exclude": {5: 1}}, "5: no such filter"),
        ({"exclude": nested(3_000)}, "exclude=.* deep"),
        ({"exclude": CYCLE}, "exclude=.* deep"),
        ({"where": alternating(3_000)}, "nested too deep"),
        ({"where": alternating(400)}, "nested too deep"),
        ({"args": 5}, "args=5: give a list"),
        ({"args": "x"}, "args='x': give a list"),
        ({"args": {"a": 1}}, "args=.*: give a list"),
        ({"args": None}, "args=None: give a list"),
        ({"kwargs": [1]}, r"kwargs=\[1\]: give a dict"),
        ({"kwargs": None}, "kwargs=None: give a dict"),
        ({"labels": "x"}, "labels='x': give a dict"),
        ({"labels": None}, "labels=None: give a dict"),
        ({"exclude": {"task": "shop"}}, "task: .*its name is given as task_name"),
        ({"task": "shop:charge"}, "task='shop:charge'"),
        ({"timeout": "1"}, "timeout='1'.*None"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": math.inf}, "timeout=inf.*None"),
        ({"timeout": 10**400}, "timeout=1000.*None"),
        ({"limit": 0}, "1 to 1000"),
        ({"limit": 1001}, "iterate"),
        ({"order_by": "return_value"}, "finished_at"),
        ({"order_by": "finished_at; DROP TABLE x"}, "finished_at"),
        ({"cursor": "nonsense"}, "no cursor"),
        ({"cursor": "☃"}, "no cursor"),
        ({"cursor": "e30="}, "no cursor"),
        ({"load": ["pickled"]}, "load="),
        ({"load": "args"}, "load="),
        ({"load": 5}, "load=5"),
        ({"load": [1, "x"]}, "load="),
        ({"load": [[]]}, "load="),
        ({"return_value": object()}, "return_value"),
        ({"where": F.return_value["a"] > math.inf}, "finite"),
        ({"where": F.return_value["a"] > Decimal("sNaN")}, "finite"),
        ({"where": F.return_value["a"] != Decimal("sNaN")}, "finite"),
        ({"where": F.return_value["a"].in_([Decimal("sNaN")])}, "finite"),
        ({"where": F.return_value["a"] >= Decimal("Infinity")}, "finite"),
        ({"where": F.return_value["a"] < ODD_ZONE}, "offset.*seconds"),
        ({"where": F.return_value["a"].each >= ODD_ZONE}, "offset.*seconds"),
        ({"where": F.return_value["a"] > 10**5000}, "1000 digits"),
        ({"where": F.return_value["a"] > True}, "compare"),
        ({"where": F.return_value["a"] < timedelta(1)}, "compare"),
        ({"where": F.return_value["a"] > Fraction(1, 2)}, "compare"),
        ({"where": F.return_value["a"] > UUID(int=1)}, "compare"),
        ({"where": F.return_value["a"] > b"a"}, "compare"),
        ({"where": F.return_value["a"].each == [1]}, "contains"),
        ({"where": F.return_value["a"].each.in_(range(99_999))}, "too many values"),
    ],
    ids=named,
)
@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
async def test_an_argument_that_cannot_work_is_a_clear_error(arguments, message):
    with pytest.raises(FilterError, match=message):
        await ResultStore("dbname=asked-for-nothing").search(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"where": F.return_value["a"].matches("([")}, "regular expression"),
        ({"message": "\ud800"}, "Unicode"),
    ],
    ids=["regular expression", "surrogate"],
)
async def test_an_argument_that_postgresql_refuses_is_a_clear_error(shop, arguments, message):
    with pytest.raises(FilterError, match=message):
        await shop.search(**arguments)


@pytest.mark.parametrize(
    ("path", "position"),
    [
        ("$.a >", 5),
        ("$.a >> 3", 5),
        ("$.a ? (@ == 1", 13),
        ('$.a == 1 && "abc', 16),
        ("$.x == 1 && == 1", 12),
        ('$.a like_regex "(["', None),
        ("$.a > $limit", None),
        ("$" + ".a" * 50_000, None),
        ("$.x == 1" + " && $.x == 1" * 50_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_a_bad_path_is_an_error_with_the_position(shop, path, position):
    with pytest.raises(FilterError, match="no SQL/JSON path") as caught:
        await shop.search(where=path)
    assert caught.value.position == position
    assert await shop.count() == 30


@pytest.mark.parametrize(
    "make",
    [
        lambda place: place.in_("abc"),
        lambda place: place.in_(5),
        lambda place: place.startswith(5),
        lambda place: place.matches(b"x"),
        lambda place: place[1.5],
        lambda place: place[True],
        lambda place: place.exists() & True,
        lambda place: None | place.exists(),
    ],
    ids=range(8),
)
def test_a_condition_that_cannot_be_meant_is_refused(make):
    with pytest.raises((FilterError, TypeError)):
        make(F.return_value["a"])


PLACE = F.kwargs["y"]


@pytest.mark.parametrize(
    "condition",
    [
        F.return_value["x"] == PLACE,
        F.return_value["x"] != PLACE,
        F.return_value["x"] > PLACE,
        F.return_value["x"].is_(PLACE),
        F.return_value["x"].in_([1, PLACE]),
        F.return_value["x"].contains(PLACE),
        F.return_value["x"].contains([{"y": (PLACE,)}]),
        F.return_value["x"] == {"y": PLACE},
        F.return_value["x"] == (PLACE > 1),
        F.return_value["x"] == F,
    ],
    ids=range(10),
)
async def test_a_place_compares_with_values_alone(shop, condition):
    with pytest.raises(FilterError, match=r"where='\$\.x == \$\.y'"):
        await shop.search(where=condition)


async def test_a_place_is_no_value_of_a_filter(shop):
    with pytest.raises(FilterError, match=r"where='\$\.x == \$\.y'"):
        await shop.search(return_value={"x": PLACE})


def test_a_condition_has_no_truth():
    with pytest.raises(FilterError, match="no truth"):
        bool(F.return_value["a"] > 1)


async def test_a_slow_search_is_given_up_and_the_connection_stays_good(shop, admin, table_name):
    with admin.transaction():
        admin.execute(f"LOCK TABLE {table_name}")
        with pytest.raises(SearchTimeoutError, match=r"longer than 0\.2 s"):
            await shop.search(timeout=0.2)
        with pytest.raises(SearchTimeoutError):
            [record async for record in shop.iterate(timeout=0.2)]
    assert await shop.count(timeout=None) == 30


async def test_the_time_limit_ends_with_the_search(shop, pool):
    await shop.search(timeout=0.5)
    async with pool.connection() as connection:
        cursor = await connection.execute("SHOW statement_timeout")
        assert await cursor.fetchone() == ("0",)


@pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")
async def test_a_search_that_loads_no_value_loads_no_pickle_either(store):
    await finish(store, "it", {"odd": Unsearchable()})
    fetched = []
    fetch = store._searcher._runner.fetch

    async def watched(*arguments):
        fetched.extend(await fetch(*arguments))
        return fetched[-1:]

    store._searcher._runner.fetch = watched
    await store.search(load=[])
    await store.search(load=["return_value"])
    assert [columns[17] is None for columns in fetched] == [True, False]


@pytest.fixture(params=["a pool that is lent", "a pool of its own"])
def one_connection(request, dsn, lend):
    """Arguments of a store that has no other."""
    if "lent" in request.param:
        return {"pool": lend(max_size=1)}
    return {"dsn": dsn, "min_size": 1, "max_size": 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of psycopg's
@pytest.mark.parametrize("suspension", range(12))
async def test_a_search_that_is_cancelled_leaves_no_connection_in_its_transaction(
    one_connection, admin, made_table, monkeypatch, suspension
):
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", -1, raising=False)  # it always suspends
    locked = sql.SQL("SELECT FROM pg_locks WHERE relation = {}::regclass").format(made_table)
    async with ResultStore(table_name=made_table, **one_connection) as store:
        await store.count()
        counting = asyncio.create_task(cancelled_at(store.count(), suspension))
        await asyncio.wait({counting})
        await eventually(lambda: not admin.execute(locked).fetchall())
        assert await asyncio.wait_for(anext(store.iterate(), "none"), 5) == "none"
        assert await asyncio.wait_for(store.get_many(["id"]), 5) == {}


async def test_a_stream_that_is_cancelled_gives_its_connection_back(shop, pool):
    arrived = asyncio.Event()

    async def consume():
        async for _ in shop.iterate():
            arrived.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(pool.max_size + 1):
        async for _ in shop.iterate():
            break
    async with AsyncExitStack() as stack:
        for _ in range(pool.max_size):
            connection = await stack.enter_async_context(pool.connection(timeout=10))
            assert connection.info.transaction_status == TransactionStatus.IDLE


async def test_a_stream_may_be_left_early(shop):
    stream = shop.iterate()
    first = await anext(stream)
    await stream.aclose()
    assert first.task_id == "order-0"
    assert await shop.count() == 30


async def test_a_task_without_labels_has_none_that_a_filter_could_find_or_miss(shop):
    await shop.set_result("plain", Outcome(return_value=1))
    assert (await shop.get("plain")).labels == {}

    async def finds_it(**filters):
        return "plain" in {record.task_id async for record in shop.iterate(**filters)}

    assert await finds_it(labels={})
    assert not await finds_it(labels={"tenant": "t1"})
    assert await finds_it(exclude={"labels": {"tenant": "t1"}})
    assert not await finds_it(exclude={"labels": {}})
    assert await finds_it(where=F.labels["tenant"] != "t1")
