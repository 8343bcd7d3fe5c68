from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from road import EVERY_METHOD, eventually, finished, stored

from taskiq_pg_json import (
    WriteTimeoutError,
)


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
