from __future__ import annotations

import asyncio
import gc
import math
import time
from datetime import datetime, timedelta, timezone

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, namedtuple_row
from pydantic import PostgresDsn, TypeAdapter
from road import EVERY_METHOD, cancelled_at, finished, rows_in, stored
from taskiq import InMemoryBroker
from taskiq.depends.progress_tracker import TaskProgress

from taskiq_pg_json import (
    ConfigurationError,
    JsonbResultBackend,
    NotStartedError,
    Outcome,
    ResultStore,
)
from taskiq_pg_json.store.retrying import is_transient


async def nothing_stored(backend):
    return (
        not await backend.is_result_ready("stored") and await backend.get_progress("stored") is None
    )


class TestDsn:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    async def test_a_url_will_do(self, start, dsn, scheme):
        url = dsn.replace("postgresql://", f"{scheme}://", 1)
        assert url.startswith(f"{scheme}://")
        assert await stored(await start(url), 1) == 1

    async def test_keys_and_values_will_do(self, start, dsn):
        assert await stored(await start(make_conninfo(**conninfo_to_dict(dsn))), 1) == 1

    async def test_a_url_of_pydantic_will_do(self, start, dsn):
        url = TypeAdapter(PostgresDsn).validate_python(dsn.replace("@/", "@localhost/"))
        assert await stored(await start(url), 1) == 1
        assert await stored(await start(lambda: url), 2) == 2

    async def test_a_callable_will_do(self, start, dsn):
        assert await stored(await start(lambda: dsn), 1) == 1

    async def test_an_async_callable_will_do(self, start, dsn):
        async def ask():
            await asyncio.sleep(0)
            return dsn

        assert await stored(await start(ask), 1) == 1

    @pytest.mark.parametrize("is_object", [False, True])
    async def test_one_that_is_cancelled_while_it_is_asked_leaves_nothing_unawaited(
        self, dsn, table_name, recwarn, is_object
    ):
        class Ask:
            async def __call__(self):
                await asyncio.sleep(0)
                return dsn

        store = ResultStore(Ask() if is_object else Ask().__call__, table_name=table_name)
        for steps in range(1, 8):
            starting = asyncio.create_task(store.startup())
            for _ in range(steps):
                await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251 - it hears too late that the thread has ended
            starting.cancel()
            await asyncio.wait({starting})
        await store.shutdown()
        gc.collect()
        assert [str(warning.message) for warning in recwarn] == []

    async def test_a_callable_that_returns_nonsense_is_named(self, start):
        with pytest.raises(ConfigurationError, match=r"dsn callable returned .*int"):
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

    @pytest.mark.parametrize(
        "dsn",
        [
            "nonsense without sense",
            "mysql://ann:secret@localhost/shop",
            "host=localhost password=secret dbname",
            "postgresql://ann:secret@localhost/shop?sslmod=require",
            "postgresql://ann:secret\ud800@localhost/shop",
        ],
    )
    def test_a_dsn_that_cannot_be_parsed_is_refused_and_its_password_not_shown(self, dsn):
        with pytest.raises(ConfigurationError, match=r"dsn=.*postgresql://.*key=value") as caught:
            JsonbResultBackend(dsn)
        assert "secret" not in str(caught.value)
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize(
        ("given", "wrong"),
        [
            ("postgresql://ann:top@secret@localhost/shop", "an @ in its host"),
            ("postgresql://ann:top@secret@localhost,other/shop", "an @ in its host"),
            ("postgresql://ann:top@secret/top@localhost/shop", "an @ in its database's name"),
            ("postgresql://ann:t?p@secret/top@localhost/shop", "an @ in its database's name"),
            (
                "postgresql://ann:12/secret@localhost/shop?sslmode=disable",
                "an @ in its database's name",
            ),
            ("postgresql+asyncpg://ann:1@secret/@localhost", "an @ in its database's name"),
            ("postgresql://ann:secret/top@localhost:5432/shop", "a port that is not a number"),
            ("postgresql://ann@localhost:secret/shop", "a port that is not a number"),
            ("host=a,b port=5432,secret", "a port that is not a number"),
            ("postgresql://localhost/shop?connect_timeout=secret", "a connect_timeout that is not"),
        ],
    )
    async def test_what_is_cut_out_of_a_password_is_no_host_no_port_and_no_name(
        self, start, given, wrong
    ):
        with pytest.raises(ConfigurationError, match=f"dsn= has {wrong}") as caught:
            JsonbResultBackend(given)
        assert "secret" not in str(caught.value)
        assert ("%40 and %2F" in str(caught.value)) == ("://" in given)
        with pytest.raises(ConfigurationError, match=wrong):
            await start(lambda: given)

    @pytest.mark.parametrize(
        "dsn",
        [
            "postgresql://ann:top%40sec%2Fret@localhost/shop",
            "postgresql://@/shop?host=/run/a@b",
            "postgresql://ann@localhost/shop%40home?host=/run/a@b",
            "postgresql://ann@localhost/shop?application_name=a@b",
            "host=localhost dbname=shop@home",
            "host=@abstract",
            "postgresql://a:5432,b/shop",
            "host=a,b port=5432, connect_timeout=2.5",
        ],
    )
    def test_a_host_may_be_a_socket_a_port_left_out_and_a_name_have_an_at_sign(self, dsn):
        JsonbResultBackend(dsn)

    def test_parameters_may_be_given_as_none(self, dsn):
        JsonbResultBackend(dsn, kwargs={"connect_timeout": None, "port": None, "host": None})

    @pytest.mark.parametrize(
        ("dsn", "meant"),
        [
            ("postgresql://ann@localhost/shop?sslmod=require", "sslmode"),
            ("host=localhost pasword=secret user=ann", "password"),
            ("host=localhost password=its secret=1", None),
        ],
    )
    def test_an_unknown_option_brings_the_one_that_may_be_meant(self, dsn, meant):
        with pytest.raises(ConfigurationError) as caught:
            JsonbResultBackend(dsn)
        assert "secret" not in str(caught.value)
        assert (f"is {meant} meant?" if meant else "dbname=shop.") in str(caught.value)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"dsn": b"postgresql://ann:secret@localhost/shop"},
            {"dsn": ["postgresql://ann:secret@localhost/shop"]},
            {"dsn": {"password": "secret"}},
            {"pool": "postgresql://ann:secret@localhost/shop"},
            {"kwargs": "password=secret"},
            {"kwargs": {"password=secret"}},
        ],
    )
    def test_an_argument_of_the_wrong_type_is_refused_and_its_password_not_shown(self, arguments):
        with pytest.raises(ConfigurationError, match="= is of type ") as caught:
            JsonbResultBackend(**arguments)
        assert "secret" not in str(caught.value)

    @pytest.mark.parametrize("answer", [b"postgresql://ann:secret@localhost/shop", ["secret"]])
    async def test_what_a_callable_returns_of_the_wrong_type_is_not_shown(self, start, answer):
        with pytest.raises(ConfigurationError, match="returned an object of type") as caught:
            await start(lambda: answer)
        assert "secret" not in str(caught.value)

    async def test_what_a_callable_returns_is_parsed_too(self, start):
        with pytest.raises(ConfigurationError, match=r"dsn.*postgresql://"):
            await start(lambda: "mysql://localhost/shop")

    async def test_a_database_that_is_not_there_is_refused_in_the_servers_words(self, start, dsn):
        with pytest.raises(psycopg.OperationalError, match="no_such_database"):
            await start(make_conninfo(dsn, dbname="no_such_database"))

    @pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "SJIS"])
    async def test_the_encoding_of_connections_of_its_own_is_that_of_json(
        self, start, dsn, encoding, monkeypatch
    ):
        monkeypatch.setenv("PGCLIENTENCODING", encoding)
        backend = await start(
            make_conninfo(dsn, client_encoding=encoding), kwargs={"client_encoding": encoding}
        )
        assert await stored(backend, "\u20ac \U0001f600") == "\u20ac \U0001f600"
        assert (await backend.store.get("stored")).task_id == "stored"
        assert (await backend.store.search(return_value="\u20ac \U0001f600")).items

    async def test_a_connection_class_and_arguments_that_are_called_serve_all_connections(
        self, start, dsn
    ):
        class Connection(psycopg.AsyncConnection):
            @classmethod
            async def connect(cls, conninfo, **kwargs):
                made.append(kwargs["application_name"])
                return await super().connect(conninfo, **kwargs)

        made = []
        backend = await start(
            make_conninfo(dsn, application_name="wrong"),
            connection_class=Connection,
            kwargs=lambda: {"application_name": "shop"},
        )
        assert await stored(backend, 1) == 1
        await backend.store.wait(["stored"], timeout=5)
        assert len(made) >= 3
        assert set(made) == {"shop"}

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

    @pytest.mark.parametrize(
        "arguments",
        [
            {"keep_results": "shop_results"},
            {"keep_results": None},
            {"min_size": 5, "max_size": 2},
            {"min_size": -1},
            {"max_size": "10"},
            {"num_workers": 0},
            {"kwargs": "application_name=shop"},
            {"kwargs": {"nonsense": 1}},
            {"kwargs": [("port", 1)]},
            {"kwargs": {"port": "x"}},
            {"kwargs": {"connect_timeout": "soon"}},
            {"max_idle": "600"},
            {"timeout": "1"},
            {"timeout": -1},
            {"timeout": math.nan},
            {"write_timeout": "30"},
            {"write_timeout": None},
            {"write_timeout": -1},
            {"write_timeout": math.inf},
            {"connection_class": int},
            {"connection_class": psycopg.Connection},
        ],
    )
    def test_an_argument_that_cannot_work_is_named_at_once(self, arguments):
        with pytest.raises(ConfigurationError, match=next(reversed(arguments))) as refused:
            JsonbResultBackend(**arguments)
        assert "is no " not in str(refused.value)  # it says what to give instead

    def test_parameters_of_a_connection_are_libpqs_and_psycopgs(self):
        kwargs = {"application_name": "shop", "row_factory": dict_row, "prepare_threshold": None}
        JsonbResultBackend(kwargs=kwargs)

    async def test_a_pool_is_as_large_as_its_least_size(self, start):
        assert await stored(await start(min_size=12), 1) == 1

    @pytest.mark.parametrize(
        "parameters",
        [{"port": 99_999}, {"sslmode": "always"}, {"target_session_attrs": "best"}],
    )
    async def test_a_parameter_that_no_server_makes_right_is_not_tried_again(self, dsn, parameters):
        backend = JsonbResultBackend(make_conninfo(dsn, **parameters))
        with pytest.raises(psycopg.OperationalError, match="invalid"):
            await asyncio.wait_for(backend.startup(), 5)

    async def test_a_service_that_is_not_defined_is_not_waited_for(self):
        backend = JsonbResultBackend("service=no_such_service")
        with pytest.raises(psycopg.OperationalError, match="service"):
            await asyncio.wait_for(backend.startup(), 5)

    async def test_a_server_without_ssl_is_not_tried_again_where_ssl_is_required(
        self, dsn, proxied
    ):
        there = proxied[0].info
        conninfo = make_conninfo(dsn, host=there.host, port=there.port, sslmode="require")
        with pytest.raises(psycopg.OperationalError, match="SSL was required") as refused:
            await psycopg.AsyncConnection.connect(conninfo)
        assert not is_transient(refused.value)

    @pytest.mark.parametrize(
        ("failures", "is_tried_again"),
        [
            (["fe_sendauth: no password supplied"], False),
            (["session is not read-only"], True),
            (["FATAL:  terminating connection due to administrator command"], True),
            (["fe_sendauth: no password supplied"] * 2, False),
            (["Connection refused", "fe_sendauth: no password supplied"], True),
        ],
    )
    def test_it_is_tried_again_while_one_of_the_hosts_may_still_answer(
        self, failures, is_tried_again
    ):
        lines = ["Multiple connection attempts failed. All failures were:"]
        lines += [f"- host: 'a', port: None, hostaddr: '::1': {failure}" for failure in failures]
        message = "\n".join([failures[-1], *(lines if len(failures) > 1 else [])])
        assert is_transient(psycopg.OperationalError(message)) is is_tried_again

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


def numbered(number: int) -> int:
    return number


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

    @pytest.mark.parametrize(
        "settings",
        [
            {"row_factory": namedtuple_row},
            {"row_factory": dict_row},
            {"cursor_factory": psycopg.AsyncClientCursor},
            {"cursor_factory": psycopg.AsyncRawCursor},
            {"prepare_threshold": 0},
        ],
        ids=["named tuples", "dicts", "client cursors", "raw cursors", "all prepared"],
    )
    @pytest.mark.parametrize("lent", [True, False])
    async def test_factories_and_thresholds_of_the_connections_change_nothing(
        self, lend, start, settings, lent
    ):
        pool = {"pool": lend(kwargs=settings)} if lent else {"kwargs": settings}
        backend = await start(**pool)
        store = backend.store
        for number in range(7):  # psycopg prepares what it has seen five times
            await store.set_result(f"{number}", Outcome({"n": number}))
            assert await store.count(where="$.n >= 0") == number + 1
        await store.set_result("failed", Outcome(error=ValueError("no"), is_err=True))
        assert len((await store.search(return_value={"n": 3})).items) == 1
        assert len([record async for record in store.iterate()]) == 8
        assert [row.total for row in await store.stats(by=())] == [8]
        assert [group.total for group in await store.failures()] == [1]
        assert set(await store.wait(["1", "2"], timeout=5)) == {"1", "2"}
        task = InMemoryBroker().task(task_name="shop")(numbered)
        await store.create_view(task)
        assert await store.drop_view(task)

    async def test_a_lent_pool_whose_encoding_cannot_hold_every_text_is_refused(self, lend, start):
        with pytest.raises(ConfigurationError, match=r"client_encoding LATIN1.*UTF8"):
            await start(pool=lend(kwargs={"client_encoding": "LATIN1"}))

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

    @pytest.mark.parametrize(
        "call",
        [call for name, call in EVERY_METHOD.items() if name != "set_result"],
        ids=[name for name in EVERY_METHOD if name != "set_result"],
    )
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


@pytest.mark.parametrize("suspension", range(6))
async def test_a_cancelled_call_leaves_a_lent_connection_in_the_mode_that_it_had(
    lend, made_table, monkeypatch, suspension
):
    monkeypatch.setattr(psycopg.waiting, "MAX_BUSY_TIME", -1, raising=False)  # it always suspends
    pool = lend(max_size=1)
    async with ResultStore(pool=pool, table_name=made_table) as store:
        getting = asyncio.create_task(cancelled_at(store.get_many(["id"]), suspension))
        await asyncio.wait({getting})
        async with pool.connection() as connection:
            assert not connection.autocommit


async def test_a_connection_is_not_lost_when_whoever_gives_it_back_is_cancelled(dsn, table_name):
    store = ResultStore(dsn, table_name=table_name, notify=False, min_size=1, max_size=1)
    async with store:
        kept, pool = store._connections._kept, store._connections._pool
        wire = await kept.take(5)
        kept._asking += 1  # somebody waits, so that it goes back to the pool, which is busy
        async with pool._lock:
            returning = asyncio.create_task(kept.give_back(wire))
            await asyncio.sleep(0.05)
            returning.cancel()
            await asyncio.wait([returning])
        kept._asking -= 1
        await store.set_result("id", Outcome("kept"))
        assert (await store.get("id")).return_value == "kept"
