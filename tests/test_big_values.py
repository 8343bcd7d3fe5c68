from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from taskiq_pg_json import Outcome, ResultStore

MEGABYTE = 1 << 20
STATUS = Path("/proc/self/status")


@pytest.fixture
async def store(dsn, made_table):
    async with ResultStore(dsn, table_name=made_table) as store:
        yield store


def resident(line):
    """A figure of the process's memory, in bytes: VmRSS is now, VmHWM the most since reset."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines[line].removesuffix("kB")) * 1024


def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def incompressible(size):
    """Text that the server cannot make smaller than its limits."""
    return "".join(uuid.uuid4().hex for _ in range(size // 32))


async def test_a_big_result_does_not_stall_small_ones(store):
    ended = []

    async def finish(task_id, value):
        await store.set_result(task_id, Outcome(return_value=value))
        ended.append(task_id)

    async def fetch(task_id):
        outcome = await store.get_outcome(task_id)
        ended.append(task_id)
        return outcome

    big = incompressible(16 * MEGABYTE)
    small = [f"small{number}" for number in range(50)]
    await asyncio.gather(finish("big", big), *(finish(id_, 1) for id_ in small))
    assert ended[-1] == "big"
    ended.clear()
    outcome, *_ = await asyncio.gather(fetch("big"), *map(fetch, small))
    assert outcome.return_value == big
    assert ended[-1] == "big"


async def test_many_big_results_at_once_leave_connections_to_others(store, monkeypatch):
    ids = [f"big{number}" for number in range(6)]
    value = incompressible(3 * MEGABYTE)
    await asyncio.gather(*(store.set_result(id_, Outcome(return_value=value)) for id_ in ids))
    reader = store._reader
    fetch = reader._fetch_results
    under_way, most = set(), 0

    async def counted(statement, *arguments):
        nonlocal most
        if statement is not reader._get_heavy_result:
            return await fetch(statement, *arguments)
        under_way.add(asyncio.current_task())
        most = max(most, len(under_way))
        try:
            return await fetch(statement, *arguments)
        finally:
            under_way.discard(asyncio.current_task())

    monkeypatch.setattr(reader, "_fetch_results", counted)
    outcomes = await asyncio.gather(*map(store.get_outcome, ids))
    assert all(outcome.return_value == value for outcome in outcomes)
    assert most == 2


WIDE = "\N{PARTY POPPER}"
"""Makes four bytes in memory of each character of a text."""


@pytest.mark.skipif(not STATUS.exists(), reason="needs Linux's /proc to measure memory")
@pytest.mark.parametrize("end", ["", WIDE])
async def test_memory_stays_within_a_small_multiple_of_the_value(store, end):
    value = incompressible(16 * MEGABYTE) + end
    await store.set_result("warm", Outcome(return_value=1))
    before = reset_peak()
    await store.set_result("big", Outcome(return_value=value))
    written = resident("VmHWM") - before
    before = reset_peak()
    outcome = await store.get_outcome("big")
    read = resident("VmHWM") - before
    assert outcome.return_value == value
    assert written < 6 * len(value)
    assert read < 7.5 * len(value)


async def test_ten_thousand_records_are_one_statement(store, monkeypatch):
    ids = [uuid.uuid4().hex for _ in range(10_000)]
    await asyncio.gather(*(store.set_result(id_, Outcome(return_value=id_)) for id_ in ids))
    execute = store._connections.execute
    statements = []

    async def counted(statement, values, **options):
        if b"pg_notify" not in statement:
            statements.append(statement)
        return await execute(statement, values, **options)

    monkeypatch.setattr(store._connections, "execute", counted)
    assert len(await store.get_many(ids)) == 10_000
    assert len(statements) == 1
