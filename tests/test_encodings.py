"""Databases whose encoding holds less than Python's text."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import contextmanager

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from taskiq_pg_json import Outcome, Progress, ResultEncodeError, ResultStore, Status, TaskInfo


@contextmanager
def database(admin, dsn, encoding):
    name = f"db_{uuid.uuid4().hex[:12]}"
    made = (
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} "
        "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    admin.execute(sql.SQL(made).format(sql.Identifier(name), sql.Literal(encoding)))
    try:
        yield make_conninfo(dsn, dbname=name)
    finally:
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(params=["LATIN1", "EUC_JP", "SQL_ASCII"])
async def store(request, admin, dsn):
    with database(admin, dsn, request.param) as own:
        async with ResultStore(own) as store:
            yield store


@pytest.fixture
async def latin(admin, dsn):
    with database(admin, dsn, "LATIN1") as own:
        async with ResultStore(own) as store:
            yield store


async def test_everything_works_with_what_the_database_holds(store):
    await store.set_progress("id", Progress("half", {"percent": 50}))
    await store.set_result("id", Outcome({"total": 7}, info=TaskInfo("shop:pay", [1])))
    assert await store.is_ready("id")
    assert (await store.get_progress("id")).percent == 50
    record = (await store.wait(["id"], timeout=5))["id"]
    assert (record.return_value, record.args, record.progress.percent) == ({"total": 7}, [1], 50)
    assert (await store.search(where="$.total > 5", task_name="shop:pay")).items
    assert [row.total for row in await store.stats()] == [1]
    assert await store.delete("id")


async def test_a_value_that_the_database_cannot_hold_is_a_failure_that_says_so(latin):
    values = ["plain", "Zürich", "😀", *range(17)]
    await asyncio.gather(
        *(latin.set_result(str(number), Outcome(value)) for number, value in enumerate(values))
    )
    records = await latin.get_many(map(str, range(20)))
    failed = [id_ for id_, record in records.items() if record.status is Status.FAILURE]
    assert failed == ["2"]
    assert "PostgreSQL refused the result" in str(records["2"].error)
    assert records["1"].return_value == "Zürich"


async def test_what_stands_beside_a_value_is_left_out_or_escaped(latin):
    info = TaskInfo("задача", ["😀"], {}, {"😀": 1}, worker="машина:1")
    await latin.set_result("id", Outcome(7, labels={"😀": 1}, log="😀", info=info))
    record = await latin.get("id")
    assert (record.status, record.return_value) == (Status.SUCCESS, 7)
    assert (record.args, record.labels, record.log) == (None, {}, None)
    assert record.task_name.encode() == "задача".encode("ascii", "backslashreplace")


async def test_an_error_that_the_database_cannot_hold_is_still_a_failure(latin):
    info = TaskInfo("задача")
    await latin.set_result("id", Outcome(error=ValueError("😀"), is_err=True, info=info))
    assert (await latin.get("id")).status is Status.FAILURE


async def test_a_progress_that_the_database_cannot_hold_is_an_encode_error(latin):
    with pytest.raises(ResultEncodeError, match=r"refused the progress.*: .*\. Report something"):
        await latin.set_progress("id", Progress("half", {"text": "😀"}))
