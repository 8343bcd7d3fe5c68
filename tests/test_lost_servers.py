from __future__ import annotations

import asyncio
import gc
import os
import signal
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from road import EVERY_METHOD, eventually, finished, stored

from taskiq_pg_json import Outcome, ResultStore, WaitTimeoutError, WriteTimeoutError
from taskiq_pg_json.embedded import EmbeddedPostgres
from taskiq_pg_json.store.retrying import retry


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
def start_as_writer(start, dsn, admin, table_name):
    """Starts a backend as a role with rights on the table, and gives it with their names."""
    names = {
        "table": sql.Identifier(table_name),
        "other": sql.Identifier(f"{table_name}_other"),
        "role": sql.Identifier(f"{table_name}_writer"),
    }
    admin.execute(sql.SQL("CREATE ROLE {role} LOGIN").format(**names))

    async def start_one():
        await start()
        admin.execute(sql.SQL("GRANT ALL ON {table} TO {role}").format(**names))
        role = make_conninfo(dsn, user=f"{table_name}_writer")
        return await start(role, migrate="off"), names

    yield start_one
    admin.execute(sql.SQL("DROP OWNED BY {role}").format(**names))
    admin.execute(sql.SQL("DROP ROLE {role}").format(**names))


@pytest.fixture
def until_it_waits(admin, table_name):
    """Returns once the backend ``named`` waits for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = %s AND wait_event_type = 'Lock'"
    )

    return lambda: eventually(lambda: admin.execute(query, [table_name]).fetchone() != (0,))


@pytest.fixture(params=["statement_timeout", "lock_timeout", "transaction_timeout"])
async def limited(request, start, dsn, admin):
    """A backend in whose sessions something may take a tenth of a second."""
    if request.param == "transaction_timeout" and admin.info.server_version < 17_00_00:
        pytest.skip("transaction_timeout is new in PostgreSQL 17")
    await start()  # the migration may take longer
    return await start(make_conninfo(dsn, options=f"-c {request.param}=100ms"), migrate="off")


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

    async def test_leaving_the_records_of_a_lost_connection_says_nothing(self, named, cut):
        for task_id in "abc":
            await named.set_result(task_id, finished(1))
        said = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        tasks = asyncio.all_tasks()

        async def leave():
            async for _ in named.store.iterate():
                assert cut() > 0
                break

        await leave()
        await asyncio.sleep(0)  # the loop begins to close the generators
        await eventually(lambda: asyncio.all_tasks() <= tasks)
        gc.collect()
        assert said == []
        assert await named.store.count() == 3

    async def test_all_idle_connections_that_were_lost_cost_one_attempt(self, moving, cut, caplog):
        backend, _ = await moving(min_size=10, max_size=10)
        kept = backend.store._connections._kept
        for wire in [await kept.take(5) for _ in range(10)]:
            await kept.give_back(wire)
        assert cut() >= 10
        assert await stored(backend, 1) == 1
        assert caplog.text.count("PostgreSQL is away") == 1

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

    @pytest.mark.parametrize("call", EVERY_METHOD.values(), ids=EVERY_METHOD)
    async def test_a_limit_of_the_session_is_no_reason_to_lose_what_a_lock_delays(
        self, limited, lock, call
    ):
        await limited.set_result("id", finished(1))
        async with lock("", "_progress"):
            under_way = asyncio.create_task(call(limited))
            await asyncio.sleep(0.4)
            assert not under_way.done()
        await under_way

    async def test_a_limit_that_is_never_kept_is_an_error_after_the_write_timeout(
        self, start, dsn, lock
    ):
        limited = make_conninfo(dsn, options="-c statement_timeout=50ms")
        backend = await start(limited, write_timeout=0.3)
        async with lock(""):
            with pytest.raises(WriteTimeoutError, match="statement timeout"):
                await backend.set_result("id", finished(1))

    async def test_connections_that_were_idle_for_too_long_go_unnoticed(self, lend, start):
        pool = lend(kwargs={"options": "-c idle_session_timeout=100ms"}, min_size=2)
        backend = await start(pool=pool)
        for number in range(3):
            await asyncio.sleep(0.3)
            assert await stored(backend, number) == number

    async def test_a_standby_is_waited_for_until_it_is_promoted(self, tmp_path, caplog):
        with EmbeddedPostgres(tmp_path / "server") as server:
            async with ResultStore(server.dsn):
                pass
        (tmp_path / "server" / "data" / "standby.signal").touch()
        with EmbeddedPostgres(tmp_path / "server") as server:
            async with ResultStore(server.dsn) as store:
                writing = asyncio.create_task(store.set_result("id", Outcome("kept")))
                with pytest.raises(WaitTimeoutError):
                    await store.wait(["id"], timeout=0.5)
                assert not writing.done()
                assert "polled for" in caplog.text
                with psycopg.connect(server.dsn, autocommit=True) as admin:
                    admin.execute("SELECT pg_promote()")
                await writing
                assert (await store.get("id")).return_value == "kept"

    async def test_what_may_not_be_written_is_an_error_after_the_write_timeout(self, start, dsn):
        await start()
        read_only = make_conninfo(dsn, options="-c default_transaction_read_only=on")
        reader = await start(read_only, write_timeout=0.3)
        with pytest.raises(WriteTimeoutError, match="read-only transaction"):
            await asyncio.wait_for(reader.set_result("id", finished(1)), 5)

    @pytest.mark.parametrize("burst", [1, 300])
    @pytest.mark.parametrize("code", ["25006", "53100", "53200", "53400", "58030"])
    async def test_a_server_that_cannot_write_for_a_while_goes_unnoticed(
        self, start, refusing, code, burst
    ):
        backend = await start()
        async with refusing(code):
            writing = [
                asyncio.create_task(backend.set_result(str(n), finished(n))) for n in range(burst)
            ]
            await asyncio.sleep(0.5)
            assert not any(write.done() for write in writing)
        await asyncio.wait_for(asyncio.gather(*writing), 20)
        for number in range(burst):
            assert (await backend.get_result(str(number))).return_value == number

    async def test_a_large_value_that_the_server_has_no_memory_for_is_a_failure_at_once(
        self, start, refusing
    ):
        backend = await start()
        async with refusing("53200", "length(NEW.return_value::text) > 100"):
            await asyncio.wait_for(backend.set_result("id", finished("x" * (3 << 20))), 3)
        assert "PostgreSQL refused the result" in str((await backend.get_result("id")).error)

    @pytest.mark.parametrize(
        ("away", "back"),
        [
            ("ALTER TABLE {table} RENAME TO {other}", "ALTER TABLE {other} RENAME TO {table}"),
            (
                "ALTER TABLE {table} RENAME return_value TO {other}",
                "ALTER TABLE {table} RENAME {other} TO return_value",
            ),
            ("REVOKE INSERT ON {table} FROM {role}", "GRANT INSERT ON {table} TO {role}"),
        ],
    )
    async def test_a_table_that_is_being_changed_goes_unnoticed(
        self, start_as_writer, admin, away, back
    ):
        backend, names = await start_as_writer()
        await backend.set_result("before", finished(0))
        admin.execute(sql.SQL(away).format(**names))
        writing = asyncio.create_task(backend.set_result("id", finished(1)))
        await asyncio.sleep(0.5)
        assert not writing.done()
        admin.execute(sql.SQL(back).format(**names))
        await asyncio.wait_for(writing, 20)
        assert (await backend.get_result("id")).return_value == 1

    async def test_a_table_that_stays_away_is_named_after_the_write_timeout(
        self, start, admin, table_name
    ):
        backend = await start(write_timeout=0.5)
        admin.execute(sql.SQL("DROP TABLE {} CASCADE").format(sql.Identifier(table_name)))
        with pytest.raises(psycopg.errors.UndefinedTable, match=table_name):
            await asyncio.wait_for(backend.set_result("id", finished(1)), 4)

    async def test_connections_that_last_for_less_than_a_pause_are_no_hindrance(
        self, start, dsn, lock
    ):
        options = "-c idle_session_timeout=100ms -c lock_timeout=50ms"
        backend = await start(make_conninfo(dsn, options=options), write_timeout=20)
        async with lock(""):
            writing = asyncio.create_task(backend.set_result("id", finished(1)))
            await asyncio.sleep(1)
        await asyncio.wait_for(writing, 10)
        assert (await backend.get_result("id")).return_value == 1

    async def test_a_column_whose_type_is_changed_is_read_on(
        self, start, dsn, admin, table_name, caplog
    ):
        await start()
        for (view,) in admin.execute(
            "SELECT viewname FROM pg_views WHERE starts_with(viewname, %s)", [table_name]
        ).fetchall():
            admin.execute(sql.SQL("DROP VIEW IF EXISTS {} CASCADE").format(sql.Identifier(view)))
        backend = await start(dsn, migrate="off", min_size=1, max_size=1)
        await backend.set_result("id", finished(1))
        for kind in ("real", "double precision"):
            assert (await backend.get_result("id")).return_value == 1
            admin.execute(
                sql.SQL("ALTER TABLE {} ALTER execution_time TYPE {}").format(
                    sql.Identifier(table_name), sql.SQL(kind)
                )
            )
            assert (await backend.get_result("id")).return_value == 1
        assert not caplog.records

    async def test_a_connection_that_is_found_dead_too_late_is_not_all_that_was_tried(self):
        attempts, recovered = [], []

        async def attempt():
            attempts.append(None)
            if len(attempts) == 1:
                await asyncio.sleep(0.2)  # as long as the kernel takes to find out
                raise psycopg.OperationalError("Connection timed out")
            return "stored"

        async def recover(error):
            recovered.append(str(error))

        assert await retry(attempt, seconds=0.1, recover=recover) == "stored"
        assert recovered == ["Connection timed out"]

    async def test_a_lost_connection_has_the_others_replaced(self, start, dsn, admin, table_name):
        conninfo = make_conninfo(dsn, application_name=table_name)
        backend = await start(conninfo, min_size=3, max_size=3)
        pids = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = %s"
        [before] = admin.execute(pids, [table_name]).fetchone()
        ((at_hand,),) = await backend.store._connections.execute(b"SELECT pg_backend_pid()", {})
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [at_hand])
        await backend.set_result("id", finished(1))
        [after] = admin.execute(pids, [table_name]).fetchone()
        assert not set(before) & set(after)

    async def test_a_server_that_is_away_is_an_error_after_the_write_timeout(self, start, nobody):
        with pytest.raises(WriteTimeoutError, match=r"0\.2 s \(write_timeout=\)") as caught:
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

    async def test_a_shutdown_takes_no_longer_than_a_write_while_the_server_is_away(
        self, moving, nobody, cut
    ):
        backend, where = await moving(write_timeout=1)
        where[0] = nobody
        assert cut() >= 1
        writing = [
            asyncio.create_task(backend.set_result(str(n), finished(n))) for n in range(9_000)
        ]
        await asyncio.sleep(0)
        await asyncio.wait_for(backend.shutdown(), 8)
        ended = await asyncio.gather(*writing, return_exceptions=True)
        assert {type(end) for end in ended} == {WriteTimeoutError}

    async def test_a_wait_ends_in_time_while_the_server_is_away(self, moving, nobody, cut):
        backend, where = await moving(write_timeout=30)
        where[0] = nobody
        assert cut() >= 1
        with pytest.raises(WaitTimeoutError):
            await asyncio.wait_for(backend.store.wait(["id", "other"], timeout=0.3), 5)

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

    async def test_a_server_that_was_away_for_long_is_found_soon_after_it_is_back(
        self, moving, nobody, cut
    ):
        """The pool's own pauses between attempts would have grown to four seconds by then."""
        backend, where = await moving(write_timeout=6)
        there, where[0] = where[0], nobody
        assert cut() >= 1
        writing = asyncio.create_task(backend.set_result("id", finished("kept")))
        await asyncio.sleep(3.5)
        where[0] = there
        await writing
        assert (await backend.get_result("id")).return_value == "kept"

    async def test_a_caller_may_give_up_while_lost_connections_are_replaced(
        self, start, monkeypatch
    ):
        async def slowly():
            await asyncio.sleep(1)

        backend = await start(min_size=2, notify=False)
        connections = backend.store._connections
        await backend.set_result("id", finished(1))
        await connections._pool.wait()
        monkeypatch.setattr(connections._pool, "drain", slowly)
        connections._kept._idle[-1].connection.pgconn.finish()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(backend.set_result("id", finished(2)), 0.3)

    async def test_a_server_that_is_stopping_is_waited_for(self, tmp_path):
        with EmbeddedPostgres(tmp_path / "server") as server:
            holder = psycopg.connect(server.dsn)
            (pid, *_) = (tmp_path / "server" / "data" / "postmaster.pid").read_text().split()
            os.kill(int(pid), signal.SIGTERM)  # it ends when its last client has gone
            starting = asyncio.create_task(ResultStore(server.dsn, write_timeout=1).startup())
            await asyncio.sleep(0.4)
            assert not starting.done()
            # Where its words are in another language, only a ping tells.
            assert await ResultStore(server.dsn)._connections._is_coming()
            with pytest.raises(WriteTimeoutError, match="shutting down"):
                await starting
        holder.close()

    async def test_what_is_said_to_be_stored_survives_an_immediate_stop(self, tmp_path):
        # A server that stops at once warns its clients, and so sends that the rows have been
        # inserted, while their commit waits to be flushed.
        settings = {"commit_delay": "100000", "commit_siblings": "0"}
        ids = [f"id-{n}" for n in range(60)]
        with EmbeddedPostgres(tmp_path / "server", settings=settings) as server:
            (pid, *_) = (tmp_path / "server" / "data" / "postmaster.pid").read_text().split()
            async with ResultStore(server.dsn, write_timeout=30, notify=False) as store:
                for _ in range(3):
                    await asyncio.gather(*(store.set_result(id_, Outcome()) for id_ in ids))
                writing = [
                    asyncio.create_task(store.set_result(id_, Outcome("again"))) for id_ in ids
                ]
                await asyncio.sleep(0.05)
                assert not store._connections._kept.pipeline.is_idle
                os.kill(int(pid), signal.SIGQUIT)
                await asyncio.sleep(0.5)
                said = [id_ for id_, task in zip(ids, writing, strict=True) if task.done()]
                server.stop()
                server.start()
                with psycopg.connect(server.dsn) as connection:
                    there = {
                        id_
                        for (id_,) in connection.execute(
                            "SELECT task_id FROM taskiq_results WHERE return_value = '\"again\"'"
                        )
                    }
                assert set(said) <= there
                await asyncio.gather(*writing)
                assert (await store.get(ids[-1])).return_value == "again"

    async def test_a_server_that_is_not_there_yet_is_waited_for(self, start, dsn, nobody):
        where = [nobody]
        starting = asyncio.create_task(start(lambda: where[0], write_timeout=30))
        await asyncio.sleep(0.3)
        assert not starting.done()
        where[0] = dsn
        assert await stored(await starting, 1) == 1
