from __future__ import annotations

import asyncio
import threading
import uuid
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from road import rows_in

from taskiq_pg_json import (
    Outcome,
    Progress,
    ResultEncodeError,
    ResultStore,
    Status,
    TaskInfo,
    WriteTimeoutError,
)
from taskiq_pg_json.store import saving, writes

SECOND = timedelta(seconds=1)
KILL_WRITERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND query LIKE %s
"""
# What a trigger may raise: with codes of its own, of PL/pgSQL's, and of others.
CODES = ["P0001", "P0002", "P0004", "SH001", "45000", "42883", "0A000", "55000", "2F003", "38000"]


@pytest.fixture
async def store(dsn, made_table):
    async with ResultStore(dsn, table_name=made_table) as store:
        yield store


@pytest.fixture
def reader(admin, dsn, made_table):
    """A store of a role that may only read, not started."""
    role = f"reader_{made_table}"
    tables = f"{made_table}, {made_table}_progress"
    admin.execute(f"CREATE ROLE {role} LOGIN; GRANT SELECT ON {tables} TO {role}")
    yield ResultStore(
        make_conninfo(dsn, user=role), table_name=made_table, migrate="off", write_timeout=2
    )
    admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


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


@pytest.mark.parametrize("code", CODES)
async def test_a_row_that_a_trigger_refuses_fails_alone(store, refusing, code):
    ids = new_ids(20)
    async with refusing(code, "NEW.return_value = '7'"):
        await asyncio.gather(*(store.set_result(id_, Outcome(n)) for n, id_ in enumerate(ids)))
    records = await store.get_many(ids)
    failed = [number for number, id_ in enumerate(ids) if records[id_].status is Status.FAILURE]
    assert failed == [7]
    assert "not now" in str(records[ids[7]].error)


async def test_a_call_that_a_trigger_refuses_is_no_reason_to_lose_a_result(store, refusing):
    info = TaskInfo("shop:pay", ["no"], {})
    async with refusing("SH001", "NEW.args IS NOT NULL"):
        await store.set_result("id", Outcome({"paid": 1}, info=info))
    record = await store.get("id")
    assert (record.status, record.return_value) == (Status.SUCCESS, {"paid": 1})


async def test_a_state_that_a_trigger_refuses_fails_alone(store, refusing):
    ids = new_ids(20)
    names = ["bad" if number == 7 else "good" for number in range(20)]
    infos = dict(zip(ids, map(TaskInfo, names), strict=True))
    async with refusing("SH001", "NEW.task_name = 'bad'"):
        recorded = await asyncio.gather(
            *(store.record_state(id_, Status.QUEUED, info) for id_, info in infos.items()),
            return_exceptions=True,
        )
    assert getattr(recorded.pop(7), "sqlstate", None) == "SH001"
    assert recorded == [None] * 19
    assert set(await store.get_many(ids)) == {*ids} - {ids[7]}


async def test_a_progress_that_a_trigger_refuses_fails_alone(store, refusing):
    states = ["bad" if number == 7 else "good" for number in range(20)]
    async with refusing("SH001", "NEW.state = 'bad'", of="_progress"):
        reported = await asyncio.gather(
            *(store.set_progress(str(n), Progress(state)) for n, state in enumerate(states)),
            return_exceptions=True,
        )
    refused = reported.pop(7)
    assert isinstance(refused, ResultEncodeError)
    assert "not now" in str(refused)
    assert reported == [None] * 19


async def test_a_deletion_that_is_refused_fails_alone(store, admin, table_name):
    ids = new_ids(20)
    await asyncio.gather(*(store.set_result(id_, Outcome(1)) for id_ in ids))
    admin.execute(f"CREATE TABLE {table_name}_kept (id varchar REFERENCES {table_name})")
    admin.execute(f"INSERT INTO {table_name}_kept VALUES (%s)", [ids[7]])
    deleted = await asyncio.gather(*map(store.delete, ids), return_exceptions=True)
    admin.execute(f"DROP TABLE {table_name}_kept")
    assert isinstance(deleted.pop(7), psycopg.errors.ForeignKeyViolation)
    assert deleted == [True] * 19
    assert set(await store.get_many(ids)) == {ids[7]}


@pytest.mark.parametrize("column", ["args", "kwargs", "labels", "log"])
async def test_what_is_beside_a_result_is_no_reason_to_lose_it(store, admin, table_name, column):
    admin.execute(f"ALTER TABLE {table_name} ADD CHECK ({column}::text NOT LIKE '%no%')")
    info = TaskInfo("shop:pay", ["no"], {"no": 1}, {"no": 1}, worker="host:1")
    outcome = Outcome({"paid": 1}, labels={"no": 1}, log="no", info=info)
    await store.set_result("id", outcome)
    record = await store.get("id")
    assert (record.status, record.return_value) == (Status.SUCCESS, {"paid": 1})
    assert (record.args, record.kwargs, record.labels, record.log) == (None, None, {}, None)
    assert (record.task_name, record.worker) == ("shop:pay", "host:1")


async def test_a_row_that_is_too_large_for_a_message_fails(store, monkeypatch):
    monkeypatch.setattr(writes, "_MAX_ROW_BYTES", 1_000)
    await store.set_result("id", Outcome("x" * 2_000, log="y"))
    record = await store.get("id")
    assert record.status is Status.FAILURE
    assert "2,0" in str(record.error)


async def test_a_result_that_is_refused_during_a_shutdown_has_its_end(store, admin, table_name):
    admin.execute(f"ALTER TABLE {table_name} ADD CHECK (return_value IS DISTINCT FROM '7'::jsonb)")
    ids = new_ids(20)
    writing = [asyncio.create_task(store.set_result(id_, Outcome(n))) for n, id_ in enumerate(ids)]
    await asyncio.sleep(0)
    await store.shutdown()
    await asyncio.gather(*writing)
    await store.startup()
    records = await store.get_many(ids)
    assert [records[id_].status for id_ in ids].count(Status.FAILURE) == 1
    assert records[ids[7]].status is Status.FAILURE


async def test_a_progress_that_the_server_refuses_is_an_encode_error(store, admin, table_name):
    admin.execute(f"ALTER TABLE {table_name}_progress ADD CHECK (meta <> '7'::jsonb)")
    with pytest.raises(ResultEncodeError, match="refused the progress of task id"):
        await store.set_progress("id", Progress("x", 7))


async def test_a_progress_before_one_that_the_server_refuses_is_stored(store, admin, table_name):
    admin.execute(f"ALTER TABLE {table_name}_progress ADD CHECK (state <> 'bad')")
    reports = [("other", "first"), ("id", "good"), ("id", "bad")]
    results = await asyncio.gather(
        *(store.set_progress(task_id, Progress(state)) for task_id, state in reports),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), type(None), ResultEncodeError]
    assert (await store.get_progress("id")).state == "good"


@pytest.mark.parametrize("refused", [1, 2])
async def test_of_two_results_in_a_batch_the_later_stands_whichever_is_refused(
    store, admin, table_name, refused
):
    admin.execute(f"ALTER TABLE {table_name} ADD CHECK (length(labels::text) < 1000)")
    outcomes = [Outcome(n, labels={"l": "x" * 2000} if n == refused else {}) for n in (1, 2)]
    other = store.set_result("other", Outcome())
    await asyncio.gather(other, *(store.set_result("id", outcome) for outcome in outcomes))
    assert (await store.get_outcome("id")).return_value == 2


async def test_a_right_that_progress_lacks_is_no_fault_of_the_progress(reader):
    async with reader:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await reader.set_progress("id", Progress("x", 7))


class TestWhatIsLogged:
    async def test_a_result_that_is_refused_is_stored_as_a_failure(
        self, store, admin, table_name, caplog
    ):
        admin.execute(f"ALTER TABLE {table_name} ADD CHECK (return_value <> '7')")
        await store.set_result("id", Outcome(7, info=TaskInfo("shop:pay", [1], {})))
        (said,) = caplog.messages
        assert said.startswith("Task id is stored as a failure: PostgreSQL refused the result of")
        assert said.endswith("Return something smaller or simpler.")

    async def test_a_call_that_is_refused_is_left_out(self, store, admin, table_name, caplog):
        admin.execute(f"ALTER TABLE {table_name} ADD CHECK (args IS NULL)")
        await store.set_result("id", Outcome(7, info=TaskInfo("shop:pay", [1], {})))
        (said,) = caplog.messages
        assert said.startswith("Task id is stored without its call: new row for relation")

    async def test_a_value_that_is_a_failure_without_its_call_is_said_to_be_both(
        self, store, admin, table_name, caplog
    ):
        admin.execute(f"ALTER TABLE {table_name} ADD CHECK (args IS NULL)")
        info = TaskInfo("shop:pay", [1], {})
        await store.set_result("id", Outcome(threading.Lock(), info=info))
        assert [said.partition(":")[0] for said in caplog.messages] == [
            "Task id is stored as a failure",
            "Task id is stored without its call",
        ]

    @pytest.mark.parametrize(
        "outcome",
        [Outcome(7), Outcome(7, info=TaskInfo("shop:pay", [1], {})), Outcome(threading.Lock())],
        ids=["bare", "with its call", "unstorable"],
    )
    async def test_a_right_that_is_missing_loses_a_result_and_is_named(
        self, reader, admin, table_name, caplog, outcome
    ):
        async with reader:
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
                await reader.set_result("id", outcome)
        assert caught.value.__context__ is None
        assert "is stored" not in caplog.text
        assert caplog.messages[-1] == (
            f"The result of task id is lost: permission denied for table {table_name}. GRANT the "
            "role SELECT, INSERT, UPDATE and DELETE on the table and USAGE on its schema, and "
            "change what row-level security forbids."
        )
        assert rows_in(admin, table_name) == 0

    @pytest.mark.parametrize("gone", ["", "COLUMN types"], ids=["table", "column"])
    async def test_a_table_that_is_not_there_or_old_is_to_be_migrated(
        self, dsn, admin, table_name, caplog, gone
    ):
        async with ResultStore(dsn, table_name=table_name, write_timeout=0.2) as store:
            change = f"ALTER TABLE {table_name} DROP {gone}" if gone else f"DROP TABLE {table_name}"
            admin.execute(f"{change} CASCADE")
            with pytest.raises(psycopg.errors.ProgrammingError):
                await store.set_result("id", Outcome(7))
        assert "is stored" not in caplog.text
        assert caplog.messages[-1].startswith("The result of task id is lost: ")
        assert caplog.messages[-1].endswith(
            'does not exist. Run the migrations (migrate="auto", or the SQL of '
            "ResultStore.schema_sql()), or check table_name= and schema=."
        )

    async def test_a_result_that_is_lost_after_shutdown_has_one_error(self, reader, caplog):
        async with reader:
            pass
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            await reader.set_result("id", Outcome(7))
        assert caught.value.__context__ is None
        assert "The result of task id is lost" in caplog.text


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


BAD = "NEW.return_value = '\"bad\"'"


@pytest.mark.parametrize("code", ["42501", "42703", "42P01", "53200"])
async def test_nothing_is_lost_where_an_outage_ends_while_the_rows_at_fault_are_looked_for(
    store, admin, table_name, refusing, code
):
    admin.execute(f"CREATE SEQUENCE {table_name}_refused")
    ids = new_ids(300)
    async with refusing(code, f"nextval('{table_name}_refused') <= 30"):
        storing = [store.set_result(id_, Outcome(number)) for number, id_ in enumerate(ids)]
        await asyncio.wait_for(asyncio.gather(*storing), 20)
    assert await store.count(status="SUCCESS") == 300
    admin.execute(f"DROP SEQUENCE {table_name}_refused")


@pytest.mark.parametrize("code", ["42501", "42703", "42P01", "53200"])
async def test_a_row_that_is_refused_as_the_table_may_be_fails_alone_and_at_once(
    store, refusing, code
):
    ids = new_ids(300)
    values = ["bad" if number == 170 else number for number in range(300)]
    outcomes = dict(zip(ids, map(Outcome, values), strict=True))
    async with refusing(code, BAD):
        storing = [store.set_result(id_, outcome) for id_, outcome in outcomes.items()]
        await asyncio.wait_for(asyncio.gather(*storing), 10)
    records = await store.get_many(ids)
    assert "not now" in str(records[ids[170]].error)
    del ids[170], values[170]
    assert [records[id_].return_value for id_ in ids] == values


@pytest.mark.parametrize("code", ["42501", "53200"])
async def test_a_row_that_is_refused_as_the_table_may_be_has_an_end_when_it_is_alone(
    store, refusing, code, monkeypatch
):
    monkeypatch.setattr(writes, "_WAIT_FOR_TABLE", {code: 0.3})
    async with refusing(code, BAD):
        await asyncio.wait_for(store.set_result("id", Outcome("bad")), 10)
    assert "not now" in str((await store.get("id")).error)


async def test_a_batch_that_is_too_large_for_the_session_s_limit_is_halved(
    dsn, table_name, refusing
):
    own = make_conninfo(dsn, options="-c statement_timeout=100ms")
    async with ResultStore(own, table_name=table_name) as store:
        ids = new_ids(300)
        async with refusing("P0001", "pg_sleep(0.002) IS NULL"):  # which it never is
            storing = [store.set_result(id_, Outcome(id_)) for id_ in ids]
            await asyncio.wait_for(asyncio.gather(*storing), 20)
        assert await store.count() == 300


@pytest.fixture
async def impatient(dsn, made_table, monkeypatch):
    monkeypatch.setattr(saving, "_LEAST", 10.0)
    async with ResultStore(dsn, table_name=made_table, write_timeout=0.5) as store:
        yield store


@pytest.mark.parametrize("code", ["25006", "40001", "53100"])
async def test_a_row_that_is_refused_as_a_server_in_need_does_fails_alone(
    impatient, refusing, code
):
    ids = new_ids(20)
    values = ["bad" if number == 7 else number for number in range(20)]
    outcomes = dict(zip(ids, map(Outcome, values), strict=True))
    waiting = asyncio.create_task(impatient.wait(ids[:7] + ids[8:]))
    async with refusing(code, BAD):
        stored = await asyncio.gather(
            *(impatient.set_result(id_, outcome) for id_, outcome in outcomes.items()),
            return_exceptions=True,
        )
    assert isinstance(stored.pop(7), WriteTimeoutError)
    assert stored == [None] * 19
    records = await asyncio.wait_for(waiting, 10)
    assert [record.return_value for record in records.values()] == values[:7] + values[8:]


async def test_a_state_and_a_progress_that_are_refused_so_fail_alone(impatient, refusing):
    kinds = ["bad" if number == 7 else "good" for number in range(20)]
    async with (
        refusing("40001", "NEW.task_name = 'bad'"),
        refusing("40001", "NEW.state = 'bad'", of="_progress"),
    ):
        for write in (
            lambda id_, kind: impatient.record_state(id_, Status.QUEUED, TaskInfo(kind)),
            lambda id_, kind: impatient.set_progress(id_, Progress(kind)),
        ):
            written = await asyncio.gather(
                *(write(str(number), kind) for number, kind in enumerate(kinds)),
                return_exceptions=True,
            )
            assert isinstance(written.pop(7), WriteTimeoutError)
            assert written == [None] * 19


async def test_a_server_that_stays_in_need_is_an_error_of_all_after_the_write_timeout(
    dsn, made_table, refusing
):
    async with (
        ResultStore(dsn, table_name=made_table, write_timeout=0.5) as store,
        refusing("40001"),
    ):
        storing = [store.set_result(id_, Outcome(1)) for id_ in new_ids(500)]
        stored = await asyncio.wait_for(asyncio.gather(*storing, return_exceptions=True), 20)
    assert {type(error) for error in stored} == {WriteTimeoutError}
    assert all("or did not do it, for 0.5 s" in str(error) for error in stored)


def attempt(seconds, worker="one"):
    begun = datetime(2026, 3, 1, tzinfo=timezone.utc) + seconds * SECOND
    return TaskInfo("task", worker=worker, started_at=begun)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        (attempt(2), attempt(1), "first"),
        (attempt(1), attempt(2), "second"),
        (attempt(1), attempt(1), "second"),
        (attempt(2), attempt(1, "two"), "second"),  # whose clock may be behind
        (attempt(20), attempt(1, "two"), "first"),
        (attempt(20), None, "second"),
        (None, attempt(20), "second"),
    ],
)
async def test_the_end_of_the_later_attempt_stands(store, together, first, second, found):
    (task_id,) = new_ids(1)
    ends = [(task_id, Outcome("first", info=first)), (task_id, Outcome("second", info=second))]
    others = [(id_, Outcome()) for id_ in new_ids(9)]
    if together:  # in the last of three batches
        await asyncio.gather(*(store.set_result(*end) for end in [*others, *ends]))
    else:
        for end in ends:
            await store.set_result(*end)
    assert (await store.get(task_id)).return_value == found


async def test_an_end_that_has_expired_keeps_no_other_out(dsn, table_name):
    async with ResultStore(dsn, table_name=table_name, result_ttl=0.5) as store:
        await store.set_result("id", Outcome("first", info=attempt(20)))
        await asyncio.sleep(0.6)
        await store.set_result("id", Outcome("second", info=attempt(1)))
        assert (await store.get("id")).return_value == "second"
