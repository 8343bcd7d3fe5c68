from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone

import psycopg
import psycopg_pool
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from road import eventually, finished, stored
from taskiq import AsyncTaskiqTask
from taskiq.depends.progress_tracker import TaskProgress, TaskState
from taskiq.exceptions import ResultGetError

from taskiq_pg_json import (
    ConfigurationError,
    InvalidTaskIdError,
    JsonbResultBackend,
    NotStartedError,
    ResultDecodeError,
    ResultIsMissingError,
    TaskiqPgJsonError,
    TaskNotFoundError,
    WriteTimeoutError,
)

EVERY_METHOD = {
    "set_result": lambda backend: backend.set_result("id", finished(1)),
    "get_result": lambda backend: backend.get_result("id"),
    "is_result_ready": lambda backend: backend.is_result_ready("id"),
    "delete_result": lambda backend: backend.delete_result("id"),
    "set_progress": lambda backend: backend.set_progress("id", TaskProgress(state="s", meta=1)),
    "get_progress": lambda backend: backend.get_progress("id"),
    "get_record": lambda backend: backend.store.get("id"),
}


def rows_in(admin, table):
    return admin.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    ).fetchone()[0]


async def nothing_stored(backend):
    return (
        not await backend.is_result_ready("stored") and await backend.get_progress("stored") is None
    )


class TestResults:
    async def test_a_result_comes_back_as_it_was_stored(self, backend):
        at = datetime(2024, 2, 29, 12, 30, tzinfo=timezone.utc)
        value = {"at": at, "pair": (1, 2.5), "none": None}
        assert await stored(backend, value) == value

    async def test_a_result_is_ready_once_it_is_stored(self, backend):
        assert await backend.is_result_ready("id") is False
        await backend.set_result("id", finished(None))
        assert await backend.is_result_ready("id") is True

    async def test_everything_else_of_a_result_comes_back_too(self, backend):
        given = finished("x", labels={"a": 1, "b": "two"}, execution_time=1.23456789)
        await backend.set_result("id", given)
        got = await backend.get_result("id")
        assert got == given
        assert got.labels == {"a": 1, "b": "two"}
        assert got.execution_time == 1.23456789
        assert got.is_err is False
        assert got.error is None

    async def test_an_error_comes_back_as_an_error_of_its_class(self, backend):
        await backend.set_result("id", finished(is_err=True, error=KeyError("shelf", 3)))
        got = await backend.get_result("id")
        assert got.is_err is True
        assert got.return_value is None
        assert type(got.error) is KeyError
        assert got.error.args == ("shelf", 3)
        with pytest.raises(KeyError, match="shelf"):
            got.raise_for_error()

    async def test_the_log_comes_only_when_it_is_asked_for(self, backend):
        await backend.set_result("id", finished(1, log="line 1\nlïne 2"))
        assert (await backend.get_result("id")).log is None
        assert (await backend.get_result("id", with_logs=True)).log == "line 1\nlïne 2"

    async def test_the_last_result_of_a_task_wins(self, backend):
        await backend.set_result("id", finished(is_err=True, error=ValueError("first"), log="old"))
        await backend.set_result("id", finished("second"))
        got = await backend.get_result("id", with_logs=True)
        assert (got.return_value, got.is_err, got.error, got.log) == ("second", False, None, None)

    async def test_a_thousand_results_at_once_keep_to_their_own_tasks(self, backend):
        ids = [f"task-{number}" for number in range(1000)]
        await asyncio.gather(*(backend.set_result(id_, finished({"id": id_})) for id_ in ids))
        assert all(await asyncio.gather(*map(backend.is_result_ready, ids)))
        got = await asyncio.gather(*map(backend.get_result, ids))
        assert [result.return_value["id"] for result in got] == ids

    async def test_results_of_one_task_at_once_are_stored_in_the_order_given(self, backend):
        await asyncio.gather(*(backend.set_result("id", finished(n)) for n in range(200)))
        assert (await backend.get_result("id")).return_value == 199

    async def test_a_taskiq_task_reads_through_it(self, backend):
        task = AsyncTaskiqTask("id", backend, return_type=int)
        assert await task.is_ready() is False
        await backend.set_result("id", finished("41"))
        assert (await task.wait_result(check_interval=0.01, timeout=5)).return_value == 41

    async def test_the_row_can_be_read_by_anyone(self, backend, admin, table_name):
        await backend.set_result("id", finished({"sum": 3}, labels={"queue": "fast"}))
        row = admin.execute(
            sql.SQL(
                "SELECT status, return_value, labels, execution_time, types, pickled FROM {}"
            ).format(sql.Identifier(table_name))
        ).fetchone()
        assert row == ("SUCCESS", {"sum": 3}, {"queue": "fast"}, 0.25, None, None)


class TestMissingResults:
    async def test_a_missing_result_is_an_error_that_taskiq_knows(self, backend):
        with pytest.raises(ResultIsMissingError, match="no result of task 'nothing'") as caught:
            await backend.get_result("nothing")
        assert isinstance(caught.value, ResultGetError)
        assert isinstance(caught.value, TaskiqPgJsonError)

    async def test_a_task_with_progress_only_has_no_result(self, backend):
        await backend.set_progress("id", TaskProgress(state=TaskState.STARTED, meta={"a": 1}))
        assert await backend.is_result_ready("id") is False
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")

    async def test_a_missing_record_is_a_lookup_error(self, backend):
        with pytest.raises(TaskNotFoundError, match="'nothing'") as caught:
            await backend.store.get("nothing")
        assert isinstance(caught.value, LookupError)

    async def test_a_task_without_progress_has_none(self, backend):
        assert await backend.get_progress("nothing") is None


class TestDeleting:
    async def test_delete_takes_the_result_and_the_progress(self, backend, admin, table_name):
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished(1))
        await backend.set_result("other", finished(2))
        await backend.delete_result("id")
        assert await backend.get_progress("id") is None
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == 1
        assert rows_in(admin, f"{table_name}_progress") == 0

    async def test_delete_takes_progress_that_has_no_result(self, backend):
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.delete_result("id")
        assert await backend.get_progress("id") is None

    async def test_deleting_what_is_not_there_is_no_error(self, backend):
        await backend.delete_result("nothing")

    async def test_results_that_are_not_kept_go_once_they_are_read(self, start, admin, table_name):
        backend = await start(keep_results=False)
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished({"a": 1}, log="log"))
        assert await backend.is_result_ready("id")
        assert await backend.get_progress("id") is not None
        assert (await backend.get_result("id", with_logs=True)).log == "log"
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == rows_in(admin, f"{table_name}_progress") == 0

    async def test_a_result_that_cannot_be_decoded_is_never_deleted(self, start, admin, table_name):
        backend = await start(keep_results=False)
        await backend.set_progress("id", TaskProgress(state="s", meta=1))
        await backend.set_result("id", finished(datetime(2024, 1, 1, tzinfo=timezone.utc)))
        admin.execute(
            sql.SQL("UPDATE {} SET return_value = '\"no date\"'").format(sql.Identifier(table_name))
        )
        with pytest.raises(ResultDecodeError, match="id"):
            await backend.get_result("id")
        assert rows_in(admin, table_name) == rows_in(admin, f"{table_name}_progress") == 1

    async def test_a_damaged_sidecar_is_a_decode_error_that_shows_the_plain_value(
        self, backend, admin, table_name
    ):
        await backend.set_result("id", finished({"a": 1}))
        admin.execute(sql.SQL("UPDATE {} SET types = '[1, 2]'").format(sql.Identifier(table_name)))
        with pytest.raises(ResultDecodeError) as caught:
            await backend.get_result("id")
        assert caught.value.task_id == "id"


class TestTimeToLive:
    @pytest.mark.parametrize("ttl", [90, 90.0, timedelta(seconds=90)])
    async def test_a_result_expires_that_long_after_the_end(self, start, ttl):
        backend = await start(result_ttl=ttl)
        await backend.set_result("id", finished(1))
        record = await backend.store.get("id")
        assert record.expires_at - record.finished_at == timedelta(seconds=90)

    async def test_without_a_ttl_results_stay(self, backend):
        await backend.set_result("id", finished(1))
        assert (await backend.store.get("id")).expires_at is None

    async def test_an_expired_result_is_no_longer_there(self, start, admin, table_name):
        backend = await start(result_ttl=3600)
        await asyncio.gather(*(backend.set_result(id_, finished(id_)) for id_ in ("old", "new")))
        admin.execute(
            sql.SQL("UPDATE {} SET expires_at = now() WHERE task_id = 'old'").format(
                sql.Identifier(table_name)
            )
        )
        assert await backend.is_result_ready("old") is False
        with pytest.raises(ResultIsMissingError):
            await backend.get_result("old")
        assert (await backend.get_result("new")).return_value == "new"

    async def test_an_expired_result_may_be_written_again(self, start, admin, table_name):
        backend = await start(result_ttl=3600)
        await backend.set_result("id", finished(1))
        admin.execute(
            sql.SQL("UPDATE {} SET expires_at = now()").format(sql.Identifier(table_name))
        )
        await backend.set_result("id", finished(2))
        assert (await backend.get_result("id")).return_value == 2

    @pytest.mark.parametrize("ttl", [0, -1, timedelta(0), "1 day", float("nan"), 1e300])
    def test_a_ttl_that_cannot_be_is_refused(self, ttl):
        with pytest.raises(ConfigurationError, match="result_ttl="):
            JsonbResultBackend(result_ttl=ttl)


class TestTaskIds:
    @pytest.mark.parametrize("type_", ["VarChar", "Text"])
    @pytest.mark.parametrize("task_id", ["", "a b", "ünï☃", "'; DROP TABLE x --", "x" * 1000, "%s"])
    async def test_text_ids_may_be_any_text(self, start, type_, task_id):
        backend = await start(field_for_task_id=type_)
        await backend.set_progress(task_id, TaskProgress(state="s", meta=1))
        await backend.set_result(task_id, finished(1))
        assert await backend.is_result_ready(task_id)
        assert (await backend.get_result(task_id)).return_value == 1
        assert (await backend.get_progress(task_id)).meta == 1
        assert (await backend.store.get(task_id)).task_id == task_id
        await backend.delete_result(task_id)
        assert not await backend.is_result_ready(task_id)

    async def test_a_uuid_may_be_spelled_in_any_way(self, start):
        backend = await start(field_for_task_id="Uuid")
        id_ = uuid.uuid4()
        spellings = [id_.hex, str(id_), str(id_).upper(), f"{{{id_}}}", id_.urn, id_]
        for number, written in enumerate(spellings):
            await backend.set_result(written, finished(number))
            await backend.set_progress(written, TaskProgress(state="s", meta=number))
            for read in spellings:
                assert await backend.is_result_ready(read)
                assert (await backend.get_result(read)).return_value == number
                assert (await backend.get_progress(read)).meta == number
        records = await backend.store.get_many(map(str, spellings))
        assert {record.task_id for record in records.values()} == {str(id_)}
        await backend.delete_result(id_.urn)
        assert not await backend.is_result_ready(str(id_))

    async def test_every_spelling_of_a_uuid_gets_its_record(self, start):
        backend = await start(field_for_task_id="Uuid")
        id_ = uuid.uuid4()
        await backend.set_result(id_.hex, finished(1))
        assert {*await backend.store.get_many([id_.hex, str(id_)])} == {id_.hex, str(id_)}

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_other_ids_are_refused_where_uuids_are_stored(self, start, call):
        backend = await start(field_for_task_id="Uuid")
        with pytest.raises(InvalidTaskIdError, match=r"'id' is not a UUID.*'VarChar' or 'Text'"):
            await call(backend)

    @pytest.mark.parametrize(
        ("task_id", "reason"),
        [
            (7, "int"),
            (None, "NoneType"),
            (b"bytes", "bytes"),
            ("nul\0", "NUL"),
            ("\ud800", "Unicode"),
            ("x" * 1001, "1001 bytes"),
            ("表" * 700, "2100 bytes"),
        ],
    )
    async def test_an_id_that_cannot_be_stored_is_refused(self, backend, task_id, reason):
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.set_result(task_id, finished(1))
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.get_result(task_id)
        with pytest.raises(InvalidTaskIdError, match=reason):
            await backend.set_progress(task_id, TaskProgress(state="s", meta=1))

    async def test_a_refused_id_harms_nobody_beside_it(self, backend):
        given = [backend.set_result(id_, finished(1)) for id_ in ("a", "nul\0", "b")]
        first, refused, second = await asyncio.gather(*given, return_exceptions=True)
        assert isinstance(refused, InvalidTaskIdError)
        assert first is second is None
        assert await backend.is_result_ready("a")
        assert await backend.is_result_ready("b")


class TestDsn:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    async def test_a_url_will_do(self, start, dsn, scheme):
        url = dsn.replace("postgresql://", f"{scheme}://", 1)
        assert url.startswith(f"{scheme}://")
        assert await stored(await start(url), 1) == 1

    async def test_keys_and_values_will_do(self, start, dsn):
        assert await stored(await start(make_conninfo(**conninfo_to_dict(dsn))), 1) == 1

    async def test_a_callable_will_do(self, start, dsn):
        assert await stored(await start(lambda: dsn), 1) == 1

    async def test_an_async_callable_will_do(self, start, dsn):
        async def ask():
            await asyncio.sleep(0)
            return dsn

        assert await stored(await start(ask), 1) == 1

    async def test_a_callable_that_returns_nonsense_is_named(self, start):
        with pytest.raises(ConfigurationError, match="dsn callable returned 7"):
            await start(lambda: 7)

    async def test_none_means_the_environment(self, start, dsn, monkeypatch):
        variables = {
            "host": "PGHOST",
            "port": "PGPORT",
            "user": "PGUSER",
            "dbname": "PGDATABASE",
            "password": "PGPASSWORD",
        }
        for name, value in conninfo_to_dict(dsn).items():
            monkeypatch.setenv(variables[name], str(value))
        assert await stored(await start(None), 1) == 1

    @pytest.mark.parametrize("dsn", [7, b"postgresql://", ["postgresql://"], {"host": "x"}])
    def test_a_dsn_of_the_wrong_type_is_refused(self, dsn):
        with pytest.raises(ConfigurationError, match=r"dsn=.*connection string.*callable.*None"):
            JsonbResultBackend(dsn)

    async def test_a_dsn_that_cannot_be_parsed_is_refused_by_psycopg(self, start):
        with pytest.raises(psycopg.ProgrammingError):
            await start("nonsense without sense")

    async def test_a_database_that_is_not_there_is_refused_in_the_servers_words(self, start, dsn):
        with pytest.raises(psycopg.OperationalError, match="no_such_database"):
            await start(make_conninfo(dsn, dbname="no_such_database"))

    async def test_arguments_of_the_pool_reach_the_pool(self, start, admin, table_name):
        backend = await start(
            min_size=3, max_size=3, kwargs={"application_name": table_name}, name="ours"
        )
        await asyncio.gather(*(backend.is_result_ready(str(number)) for number in range(50)))
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        for _ in range(500):
            if admin.execute(count, [table_name]).fetchone() == (3,):
                break
            await asyncio.sleep(0.02)
        await asyncio.gather(*(backend.is_result_ready(str(number)) for number in range(50)))
        assert admin.execute(count, [table_name]).fetchone() == (3,)

    def test_an_unknown_argument_is_named(self):
        with pytest.raises(ConfigurationError, match=r"max_sise: no parameter.*kwargs="):
            JsonbResultBackend(max_sise=3)

    def test_arguments_of_a_pool_that_is_lent_belong_to_the_pool(self):
        pool = psycopg_pool.AsyncConnectionPool(open=False)
        with pytest.raises(ConfigurationError, match="max_size: a pool was lent"):
            JsonbResultBackend(pool=pool, max_size=3)

    @pytest.mark.parametrize("pool", [7, "postgresql://", psycopg_pool.ConnectionPool(open=False)])
    def test_a_pool_of_the_wrong_type_is_refused(self, pool):
        with pytest.raises(ConfigurationError, match="AsyncConnectionPool"):
            JsonbResultBackend(pool=pool)

    def test_an_object_that_is_no_serializer_is_refused(self):
        with pytest.raises(ConfigurationError, match="serializer="):
            JsonbResultBackend(serializer=object())

    def test_the_first_five_parameters_are_those_of_taskiq_postgres(self, dsn):
        backend = JsonbResultBackend(dsn, False, "shop", "Uuid", None)
        assert backend.keep_results is False
        assert (backend.store.names.table, backend.store.names.task_id_type) == ("shop", "Uuid")


@pytest.fixture
async def lend(dsn):
    """Makes pools, ``lend(**arguments)``, and closes them; name it before ``start``."""
    pools = []

    def lend_one(**arguments):
        pool = psycopg_pool.AsyncConnectionPool(
            dsn, **{"min_size": 1, "max_size": 4, "open": False, **arguments}
        )
        pools.append(pool)
        return pool

    yield lend_one
    for pool in pools:
        await pool.close()


class TestLentPools:
    async def test_a_pool_that_is_lent_stays_open(self, pool, start):
        backend = await start(pool=pool)
        assert await stored(backend, 1) == 1
        await backend.shutdown()
        assert not pool.closed
        async with pool.connection() as connection:
            assert await (await connection.execute("SELECT 1")).fetchone() == (1,)

    async def test_a_pool_that_is_not_open_is_opened_and_stays_so(self, lend, start):
        pool = lend(open=False)
        backend = await start(pool=pool)
        assert await stored(backend, 1) == 1
        await backend.shutdown()
        assert not pool.closed

    async def test_several_backends_work_side_by_side_on_one_pool(self, pool, start, table_name):
        backends = [
            await start(pool=pool, table_name=f"{table_name}_{number}") for number in range(3)
        ]
        await asyncio.gather(
            *(
                backend.set_result(f"id{task}", finished([number, task]))
                for number, backend in enumerate(backends)
                for task in range(30)
            )
        )
        await backends[0].shutdown()
        for number, backend in enumerate(backends[1:], 1):
            assert (await backend.get_result("id7")).return_value == [number, 7]

    @pytest.mark.parametrize("size", [1, 2])
    async def test_a_small_pool_is_enough(self, lend, start, size):
        backend = await start(pool=lend(min_size=size, max_size=size))
        ids = [str(number) for number in range(100)]
        await asyncio.gather(
            *(backend.set_result(id_, finished(id_)) for id_ in ids),
            *(backend.set_progress(id_, TaskProgress(state="s", meta=id_)) for id_ in ids),
            *(backend.is_result_ready(id_) for id_ in ids),
        )
        got = await asyncio.gather(*map(backend.get_result, ids))
        assert [result.return_value for result in got] == ids

    @pytest.mark.parametrize("autocommit", [True, False])
    @pytest.mark.parametrize("size", [1, 4])
    async def test_lent_connections_work_in_any_setting_and_come_back_in_it(
        self, lend, start, autocommit, size
    ):
        settings = {
            "autocommit": autocommit,
            "row_factory": dict_row,
            "prepare_threshold": None,
            "options": "-c DateStyle=German -c TimeZone=Asia/Kolkata -c bytea_output=escape",
        }
        pool = lend(min_size=size, max_size=size, kwargs=settings)
        backend = await start(pool=pool, result_ttl=60)
        value = {"at": datetime(2024, 7, 1, 12, tzinfo=timezone.utc), "raw": b"\0\xff"}
        assert await stored(backend, value) == value
        await backend.set_progress("stored", TaskProgress(state="half", meta={"percent": 50}))
        assert (await backend.get_progress("stored")).meta == {"percent": 50}
        record = await backend.store.get("stored")
        assert record.return_value == value
        assert record.progress.percent == 50
        assert record.expires_at - record.finished_at == timedelta(seconds=60)
        await backend.delete_result("stored")
        assert await nothing_stored(backend)
        for connection in [await pool.getconn(timeout=10) for _ in range(size)]:
            assert connection.autocommit is autocommit
            assert connection.row_factory is dict_row
            assert connection.prepare_threshold is None
            assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            row = await (await connection.execute("SHOW TimeZone")).fetchone()
            assert row == {"TimeZone": "Asia/Kolkata"}
            await connection.rollback()
            await pool.putconn(connection)

    async def test_what_is_written_through_a_lent_pool_is_committed(self, lend, start, admin):
        backend = await start(pool=lend())
        await backend.set_result("id", finished(1))
        assert rows_in(admin, backend.store.names.table) == 1

    async def test_a_null_pool_will_do(self, dsn, start):
        async with psycopg_pool.AsyncNullConnectionPool(dsn, open=False) as pool:
            backend = await start(pool=pool)
            assert await stored(backend, {"a": 1}) == {"a": 1}
            await backend.shutdown()

    async def test_a_pool_that_was_closed_first_holds_up_no_shutdown(self, lend, start):
        pool = lend()
        backend = await start(pool=pool)
        await backend.set_result("id", finished(1))
        await pool.close()
        await asyncio.wait_for(backend.shutdown(), 10)

    async def test_a_pool_that_was_closed_is_a_clear_error_at_once(self, lend, start):
        pool = lend()
        backend = await start(pool=pool)
        await pool.close()
        with pytest.raises((NotStartedError, psycopg_pool.PoolClosed)):
            await asyncio.wait_for(backend.is_result_ready("id"), 10)


class TestLifeCycle:
    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_use_before_startup_is_a_clear_error(self, call):
        with pytest.raises(NotStartedError, match="startup"):
            await call(JsonbResultBackend())

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_use_after_shutdown_is_a_clear_error(self, backend, call):
        await backend.set_result("id", finished(1))
        await backend.shutdown()
        with pytest.raises(NotStartedError, match="start"):
            await call(backend)

    async def test_use_before_startup_of_a_lent_pool_is_an_error_too(self, pool):
        with pytest.raises(NotStartedError):
            await JsonbResultBackend(pool=pool).is_result_ready("id")

    async def test_a_backend_may_be_started_again(self, backend):
        for number in range(3):
            await backend.set_result(str(number), finished(number))
            await backend.shutdown()
            await backend.startup()
        assert (await backend.get_result("0")).return_value == 0

    async def test_starting_twice_is_starting_once(self, backend):
        await backend.startup()
        assert await stored(backend, 1) == 1
        await backend.shutdown()
        with pytest.raises(NotStartedError):
            await backend.is_result_ready("id")

    async def test_a_start_while_calls_are_under_way_loses_none(self, backend):
        ids = [str(number) for number in range(300)]
        writes = [asyncio.create_task(backend.set_result(id_, finished(id_))) for id_ in ids]
        await asyncio.sleep(0)
        await backend.startup()
        await asyncio.gather(*writes)
        got = await asyncio.gather(*map(backend.get_result, ids))
        assert [result.return_value for result in got] == ids

    async def test_stopping_twice_or_without_a_start_is_no_error(self, backend):
        await backend.shutdown()
        await backend.shutdown()
        await JsonbResultBackend().shutdown()

    async def test_stopping_writes_all_that_was_accepted(self, backend, admin, table_name):
        ids = [str(number) for number in range(1500)]
        writes = [asyncio.create_task(backend.set_result(id_, finished(id_))) for id_ in ids]
        await asyncio.sleep(0)
        await backend.shutdown()
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        accepted = sum(outcome is None for outcome in outcomes)
        assert accepted == rows_in(admin, table_name) == len(ids)

    async def test_a_backend_works_in_one_event_loop_after_another(self, backend, dsn):
        def in_a_loop_of_its_own():
            async def road():
                other = JsonbResultBackend(dsn, table_name=backend.store.names.table)
                for _ in range(2):
                    await other.startup()
                    assert await stored(other, 1) == 1
                    await other.shutdown()
                return other

            other = asyncio.run(road())

            async def again():
                await other.startup()
                assert await stored(other, 2) == 2
                await other.shutdown()

            asyncio.run(again())

        await asyncio.to_thread(in_a_loop_of_its_own)
        assert (await backend.get_result("stored")).return_value == 2


@pytest.fixture
async def named(start, dsn, table_name):
    """A backend whose connections bear the table's name."""
    return await start(make_conninfo(dsn, application_name=table_name), min_size=2)


@pytest.fixture
def cut(admin, table_name):
    """Ends every connection of the backend ``named`` and says how many there were."""

    def end_all():
        return admin.execute(
            "SELECT count(*) FROM (SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = %s) AS ended",
            [table_name],
        ).fetchone()[0]

    return end_all


@pytest.fixture
def lock(connect, table_name):
    """Locks tables by their suffixes for the time of a block: ``async with lock("_progress")``."""

    @asynccontextmanager
    async def locked(*suffixes):
        holder = await connect(autocommit=False)
        for suffix in suffixes:
            table = sql.Identifier(table_name + suffix)
            await holder.execute(sql.SQL("LOCK TABLE {}").format(table))
        yield
        await holder.rollback()

    return locked


@pytest.fixture
def until_it_waits(admin, table_name):
    """Returns once the backend ``named`` waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = %s AND wait_event_type = 'Lock'"
    )

    return lambda: eventually(lambda: admin.execute(query, [table_name]).fetchone() != (0,))


@pytest.fixture
def nobody(unused_tcp_port):
    """The dsn of a port at which nobody listens."""
    return f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/postgres?connect_timeout=2"


@pytest.fixture
async def moving(start, dsn, table_name):
    """A backend like ``named``, and a list whose only item is where its server is."""
    where = [make_conninfo(dsn, application_name=table_name)]

    async def start_one(**arguments):
        return await start(lambda: where[0], **arguments), where

    return start_one


class TestLostServers:
    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_connections_lost_between_calls_go_unnoticed(self, named, cut, call):
        await named.set_result("id", finished(1))
        assert cut() >= 1
        await call(named)
        assert await stored(named, 2) == 2

    async def test_many_calls_at_once_survive_that_all_connections_are_lost(self, named, cut):
        ids = [str(number) for number in range(200)]
        await asyncio.gather(*(named.set_result(id_, finished(id_)) for id_ in ids))
        assert cut() >= 1
        got = await asyncio.gather(*map(named.get_result, ids))
        assert [result.return_value for result in got] == ids

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_a_connection_lost_during_a_call_goes_unnoticed(
        self, named, cut, lock, until_it_waits, call
    ):
        await named.set_result("id", finished(1))
        async with lock("", "_progress"):
            under_way = asyncio.create_task(call(named))
            await until_it_waits()
            assert cut() >= 1
        await under_way

    async def test_a_result_is_stored_although_its_connection_is_lost_again_and_again(
        self, named, cut, lock, until_it_waits
    ):
        async with lock(""):
            writing = asyncio.create_task(named.set_result("id", finished("kept")))
            for _ in range(3):
                await until_it_waits()
                assert cut() >= 1
        await writing
        assert (await named.get_result("id")).return_value == "kept"

    async def test_a_server_that_is_away_is_an_error_after_the_write_timeout(self, start, nobody):
        with pytest.raises(WriteTimeoutError, match=r"could not be reached for 0\.2 s") as caught:
            await start(nobody, write_timeout=0.2)
        assert isinstance(caught.value, TimeoutError)

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_a_server_that_goes_away_is_an_error_after_the_write_timeout(
        self, moving, nobody, cut, call
    ):
        backend, where = await moving(write_timeout=0.3)
        where[0] = nobody
        assert cut() >= 1
        with pytest.raises(WriteTimeoutError):
            await asyncio.wait_for(call(backend), 5)

    async def test_a_server_that_comes_back_in_time_goes_unnoticed(self, moving, nobody, cut):
        backend, where = await moving(write_timeout=30)
        there, where[0] = where[0], nobody
        assert cut() >= 1
        writing = asyncio.create_task(backend.set_result("id", finished("kept")))
        await asyncio.sleep(0.5)
        assert not writing.done()
        where[0] = there
        await writing
        assert (await backend.get_result("id")).return_value == "kept"

    async def test_a_server_that_is_not_there_yet_is_waited_for(self, start, dsn, nobody):
        where = [nobody]
        starting = asyncio.create_task(start(lambda: where[0], write_timeout=30))
        await asyncio.sleep(0.3)
        assert not starting.done()
        where[0] = dsn
        assert await stored(await starting, 1) == 1
