from __future__ import annotations

import asyncio
import uuid

import pytest

from taskiq_pg_json import Outcome, Progress, ResultStore, Status, TaskInfo

KILL_WRITERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND query LIKE %s
"""


@pytest.fixture
async def store(dsn, table_name):
    async with ResultStore(dsn, table_name=table_name) as store:
        yield store


def new_ids(count):
    return [uuid.uuid4().hex for _ in range(count)]


async def test_results_survive_connections_killed_in_mid_batch(store, admin, table_name, caplog):
    ids = new_ids(3_000)

    async def kill():
        for _ in range(10):
            await asyncio.sleep(0.02)
            admin.execute(KILL_WRITERS, [f'%INSERT INTO "{table_name}"%'])

    killing = asyncio.create_task(kill())
    for start in range(0, len(ids), 300):
        chunk = ids[start : start + 300]
        await asyncio.gather(*(store.set_result(id_, Outcome(return_value=id_)) for id_ in chunk))
    await killing
    records = await store.get_many(ids)
    assert {id_: record.return_value for id_, record in records.items()} == {i: i for i in ids}
    assert "PostgreSQL is away" in caplog.text


async def test_two_writers_of_the_same_ids_in_opposite_order_do_not_deadlock(
    store, dsn, table_name, caplog
):
    ids = new_ids(200)
    async with ResultStore(dsn, table_name=table_name) as other:

        async def write(writer, order, name):
            for _ in range(5):
                await asyncio.gather(
                    *(writer.set_result(id_, Outcome(return_value=name)) for id_ in order),
                    *(writer.set_progress(id_, Progress("x", name)) for id_ in order),
                )

        await asyncio.gather(write(store, ids, "one"), write(other, ids[::-1], "two"))
    assert {r.return_value for r in (await store.get_many(ids)).values()} <= {"one", "two"}
    assert "deadlock" not in caplog.text


async def test_a_row_that_the_server_refuses_fails_alone(store, admin, table_name):
    admin.execute(
        f"ALTER TABLE {table_name} ADD CHECK (return_value IS DISTINCT FROM '\"bad\"'::jsonb)"
    )
    ids = new_ids(50)
    await asyncio.gather(
        *(
            store.set_result(id_, Outcome(return_value="bad" if number == 7 else number))
            for number, id_ in enumerate(ids)
        )
    )
    records = [(await store.get_many(ids))[id_] for id_ in ids]
    assert [r.status for r in records].count(Status.FAILURE) == 1
    assert records[7].status is Status.FAILURE
    assert "PostgreSQL refused the result" in str(records[7].error)
    assert "violates check constraint" in str(records[7].error)
    assert [r.return_value for r in records if r.status is Status.SUCCESS] == [
        number for number in range(50) if number != 7
    ]


async def test_the_last_of_several_results_of_one_task_wins(store):
    await asyncio.gather(
        *(store.set_result("same", Outcome(return_value=number)) for number in range(100))
    )
    assert (await store.get("same")).return_value == 99


async def test_a_cancelled_writer_leaves_its_row_whole_or_absent_and_its_neighbours_alone(store):
    ids = new_ids(300)
    tasks = [
        asyncio.create_task(store.set_result(id_, Outcome(return_value=[id_] * 20))) for id_ in ids
    ]
    await asyncio.sleep(0.005)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    records = await store.get_many(ids)
    assert all(record.return_value == [id_] * 20 for id_, record in records.items())
    assert set(records) >= {id_ for number, id_ in enumerate(ids) if number % 3}


async def test_shutdown_writes_all_that_was_accepted(dsn, table_name):
    ids = new_ids(500)
    async with ResultStore(dsn, table_name=table_name) as store:
        info = TaskInfo("shop:pay", labels={})
        tasks = [
            asyncio.create_task(write)
            for id_ in ids
            for write in (
                store.set_result(id_, Outcome(return_value=1)),
                store.set_progress(id_, Progress("done")),
                store.record_state(id_, Status.QUEUED, info),
            )
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    async with ResultStore(dsn, table_name=table_name) as store:
        records = await store.get_many(ids)
    assert {record.status for record in records.values()} == {Status.SUCCESS}
    assert {record.progress.state for record in records.values()} == {"done"}
    assert len(records) == 500
