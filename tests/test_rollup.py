"""The rollup says what the rows say, whatever has happened to them."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from datetime import datetime, timedelta, timezone

import psycopg
import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql
from psycopg.conninfo import make_conninfo

from taskiq_pg_json import ResultStore, SearchTimeoutError
from taskiq_pg_json.schema import Names, files

HOUR = timedelta(hours=1)
MIDNIGHT = datetime(2026, 3, 4, tzinfo=timezone.utc)
ONE_CLASS = 1.01
"""How much a duration may differ from another of its class."""
SHARES = (1, 50, 90, 99)

_WRITE = """
INSERT INTO {table} (task_id, task_name, status, execution_time, queued_at, started_at, finished_at,
                     expires_at)
VALUES (%(id)s, %(task)s, %(status)s, %(seconds)s, %(ended)s::timestamptz - interval '3 s',
        %(ended)s::timestamptz - interval '2 s', %(ended)s, now() + %(ttl)s)
ON CONFLICT (task_id) DO UPDATE SET
    task_name = excluded.task_name, status = excluded.status, finished_at = excluded.finished_at,
    execution_time = excluded.execution_time, queued_at = excluded.queued_at,
    started_at = excluded.started_at, expires_at = excluded.expires_at
"""
_EXPECTED = """
SELECT {keys}, count(*), count(*) FILTER (WHERE status = 'FAILURE'), avg(execution_time),
       max(execution_time), avg(date_part('epoch', started_at - queued_at)),
       percentile_disc(%(shares)s::float8[]) WITHIN GROUP (ORDER BY execution_time)
FROM {table}
WHERE finished_at IS NOT NULL AND (expires_at IS NULL OR expires_at > now())
  AND finished_at >= coalesce(%(since)s, '-infinity'::timestamptz)
  AND finished_at < coalesce(%(until)s, 'infinity'::timestamptz)
  AND task_name = ANY (%(tasks)s)
GROUP BY {keys}
"""
_FILL = """
INSERT INTO {table} (task_id, task_name, status, execution_time, finished_at)
SELECT 'task-' || i, 'task ' || i %% 3, 'SUCCESS', 1 + i %% 100,
       %(first)s + i * interval '1 hour' / %(per_hour)s
FROM generate_series(0, %(rows)s - 1) AS i
"""

moments = st.builds(
    lambda hours, seconds: MIDNIGHT + timedelta(hours=hours, seconds=seconds),
    st.integers(0, 5),
    st.sampled_from([0, 1, 1800, 3599]),
)
writes = st.fixed_dictionaries(
    {
        "id": st.integers(0, 9).map(str),
        "task": st.sampled_from(["a", "b"]),
        "status": st.sampled_from(["SUCCESS", "FAILURE"]),
        "seconds": st.none() | st.floats(0, 1e6) | st.sampled_from([0.0, 1.0]),
        "ended": moments,
        "ttl": st.sampled_from([None, timedelta(days=1), timedelta(days=-1)]),
    }
)
deletions = st.sets(st.integers(0, 9).map(str), min_size=1)
refreshes = st.just("refresh")
questions = st.fixed_dictionaries(
    {
        "by": st.sampled_from([(), ("task_name",), ("status", "task_name")]),
        "bucket": st.sampled_from([None, "hour", "day"]),
        "since": st.none() | moments,
        "until": st.none() | moments,
        "tasks": st.sampled_from([["a"], ["a", "b"]]),
    }
)


def bound(text, table, **parts):
    name = sql.Identifier(table) if isinstance(table, str) else table
    return sql.SQL(text).format(table=name, **parts)


def marks(admin, table_name):
    return admin.execute(f"SELECT count(*) FROM {table_name}_rollup_marks").fetchone()[0]


def counted(admin, table_name):
    """The hours that have been counted and whose rows have not changed since."""
    return admin.execute(
        f"SELECT count(*) FROM {table_name}_rollup_hours AS known WHERE counted "
        f"AND NOT EXISTS (SELECT FROM {table_name}_rollup_marks WHERE hour = known.hour)"
    ).fetchone()[0]


def summed(admin, table_name):
    """The hours that are in the sum of their day."""
    return admin.execute(f"SELECT count(*) FROM {table_name}_rollup_hours WHERE summed").fetchone()[
        0
    ]


def fill(admin, table_name, *, hours, per_hour=2, first=MIDNIGHT):
    values = {"first": first, "per_hour": per_hour, "rows": hours * per_hour}
    admin.execute(bound(_FILL, table_name), values)


def write(connection, table_name, **values):
    row = {"id": "1", "task": "a", "status": "SUCCESS", "seconds": 1.0, "ended": MIDNIGHT}
    connection.execute(bound(_WRITE, table_name), {**row, "ttl": None, **values})


async def total(store, **filters):
    return sum(row.total for row in await store.stats(by=(), **filters))


async def assert_same(store, admin, table_name, *, by, bucket, since, until, tasks):
    """Compare each number of each group with what SQL makes of the rows."""
    span = {
        name: value for name, value in {"since": since, "until": until}.items() if value is not None
    }
    found = await store.stats(by=by, bucket=bucket, percentiles=SHARES, task_name=tasks, **span)
    unit = sql.Literal(bucket or "millennium")
    keys = sql.SQL(", ").join(
        [*map(sql.Identifier, by), sql.SQL("date_trunc({}, finished_at, 'UTC')").format(unit)]
    )
    values = {"since": since, "until": until, "tasks": tasks}
    values["shares"] = [share / 100 for share in SHARES]
    rows = admin.execute(bound(_EXPECTED, table_name, keys=keys), values).fetchall()
    expected = {tuple(row[: len(by) + (bucket is not None)]): row[len(by) + 1 :] for row in rows}
    ended = {
        (*row.group.values(), *([row.bucket] if bucket else [])): row for row in found if row.total
    }
    assert ended.keys() == expected.keys()
    for group, row in ended.items():
        number, failed, average, longest, wait, durations = expected[group]
        assert (row.total, row.failed, row.max_duration) == (number, failed, longest)
        assert row.average_duration == (average and pytest.approx(average))
        assert row.average_wait == pytest.approx(wait)
        for duration, exact in zip(row.percentiles.values(), durations or [None] * 4, strict=True):
            if exact is None or exact < 1e-6:
                assert duration is None or duration < 1e-6
            else:
                assert exact / ONE_CLASS <= duration <= exact * ONE_CLASS


@given(
    happenings=st.lists(st.one_of(writes, writes, deletions, refreshes), max_size=25),
    question=questions,
)
async def test_statistics_are_those_of_the_rows_whatever_happens(
    store, admin, table_name, happenings, question
):
    admin.execute(f"TRUNCATE {table_name}")
    for happening in [*happenings, "refresh", *happenings]:
        if happening == "refresh":
            await store.refresh_rollup()
        elif isinstance(happening, set):
            admin.execute(f"DELETE FROM {table_name} WHERE task_id = ANY (%s)", [list(happening)])
        else:
            write(admin, table_name, **happening)
    await assert_same(store, admin, table_name, **question)
    await store.refresh_rollup()
    assert marks(admin, table_name) == 0
    await assert_same(store, admin, table_name, **question)


async def test_counts_hold_at_every_moment_while_all_write_and_refresh(
    store, dsn, admin, table_name
):
    fill(admin, table_name, hours=6, per_hour=20)

    async def move(number):
        chance = random.Random(number)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            for turn in range(60):
                moved = sorted(f"task-{chance.randrange(120)}" for _ in range(5))
                async with connection.transaction():
                    if turn % 10 == 0:
                        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                        moved = [f"task-{120 + number}"]
                    await connection.execute(
                        f"UPDATE {table_name} SET finished_at = %s WHERE task_id IN ("
                        f"SELECT task_id FROM {table_name} WHERE task_id = ANY (%s) "
                        "ORDER BY task_id FOR UPDATE)",
                        [MIDNIGHT + chance.randrange(8) * HOUR, moved],
                    )
                    await asyncio.sleep(chance.random() / 200)

    async def refresh(other):
        while writing:
            await other.refresh_rollup()

    for number in range(3):
        write(admin, table_name, id=f"task-{120 + number}")

    async def watch():
        looked = 0
        while writing:
            assert await total(store) == 123
            looked += 1
        return looked

    writing = True
    async with ResultStore(dsn, table_name=table_name) as other:
        watching = asyncio.gather(watch(), refresh(store), refresh(other))
        await asyncio.gather(*map(move, range(3)))
        writing = False
        looked, *_ = await watching
    assert looked > 3
    await store.refresh_rollup()
    assert counted(admin, table_name) >= 8
    rows = {row.bucket: row.total for row in await store.stats(by=(), bucket="hour")}
    by_hand = dict(
        admin.execute(
            f"SELECT date_trunc('hour', finished_at, 'UTC'), count(*) FROM {table_name} GROUP BY 1"
        ).fetchall()
    )
    assert {hour: number for hour, number in rows.items() if number} == by_hand


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
async def test_an_hour_is_not_counted_before_those_have_ended_who_wrote_it_unmarked(
    store, dsn, admin, table_name, level
):
    write(admin, table_name)
    with psycopg.connect(dsn) as writer:
        writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        write(writer, table_name, id="2")
        assert await store.refresh_rollup() == 0
        assert await total(store) == 1
        writer.commit()
    assert await total(store) == 2
    await store.refresh_rollup()
    assert await total(store) == 2
    assert marks(admin, table_name) == 0


async def test_a_snapshot_that_is_older_than_an_hour_s_count_marks_it(
    store, dsn, admin, table_name
):
    write(admin, table_name)
    with psycopg.connect(dsn) as writer:
        writer.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        writer.execute("SELECT 1")
        assert await store.refresh_rollup() > 0
        write(writer, table_name, id="2")
        writer.commit()
    assert await total(store) == 2
    await store.refresh_rollup()
    assert (marks(admin, table_name), await total(store)) == (0, 2)


async def test_a_late_row_marks_its_hour_and_a_recent_one_marks_none(store, admin, table_name):
    write(admin, table_name)
    await store.refresh_rollup()
    write(admin, table_name, id="2", ended=datetime.now(timezone.utc))
    write(admin, table_name, id="3", ended=MIDNIGHT - HOUR)
    assert marks(admin, table_name) == 0
    write(admin, table_name, id="4")
    assert marks(admin, table_name) == 1
    admin.execute(f"UPDATE {table_name} SET finished_at = now() WHERE task_id = '4'")
    assert marks(admin, table_name) == 2
    admin.execute(f"DELETE FROM {table_name} WHERE task_id IN ('1', '2')")
    assert marks(admin, table_name) == 3
    assert await total(store) == 2


async def test_a_row_that_replication_brings_marks_its_hour_too(store, dsn, admin, table_name):
    write(admin, table_name)
    await store.refresh_rollup()
    replica = "-c session_replication_role=replica"
    with psycopg.connect(dsn, autocommit=True, options=replica) as connection:
        write(connection, table_name, id="2")
    assert (marks(admin, table_name), await total(store)) == (1, 2)


@pytest.mark.parametrize("change", ["ENABLE TRIGGER ALL", "DISABLE TRIGGER USER",
                                    "ENABLE REPLICA TRIGGER {}_rollup_insert"])  # fmt: skip
async def test_rows_that_fire_no_trigger_are_counted(store, dsn, admin, table_name, change):
    write(admin, table_name)
    await store.refresh_rollup()
    admin.execute(f"ALTER TABLE {table_name} {change.format(table_name)}")
    for options in ("", "-c session_replication_role=replica"):
        with psycopg.connect(dsn, autocommit=True, options=options) as connection:
            write(connection, table_name, id=f"2{options}")
    assert (await store.refresh_rollup(), await total(store)) == (0, 3)


@pytest.fixture
def published(monkeypatch):
    """The dsn of a server that publishes all its tables, and of one that may subscribe."""
    monkeypatch.setitem(servers.SETTINGS, "wal_level", "logical")
    kind = servers.ServerKind(servers.EMBEDDED)
    with servers.running(kind) as publisher, servers.running(kind) as subscriber:
        yield publisher, subscriber


async def test_a_replica_of_all_tables_keeps_up_and_can_take_over(published, connect):
    here, there = published
    publisher, subscriber = await connect(here), await connect(there)
    async with ResultStore(here) as store, ResultStore(there, migrate="off") as replica:
        await ResultStore(there).startup()
        await publisher.execute("CREATE PUBLICATION all_of_it FOR ALL TABLES")
        await subscriber.execute(
            sql.SQL("CREATE SUBSCRIPTION mirror CONNECTION {} PUBLICATION all_of_it").format(here)
        )

        async def number(connection, query):
            return (await (await connection.execute(query)).fetchone())[0]

        async def arrives(query, wanted):
            deadline = time.monotonic() + 20
            while (found := await number(subscriber, query)) != wanted:
                assert time.monotonic() < deadline, found
                await asyncio.sleep(0.01)

        rows = "SELECT count(*) FROM taskiq_results"
        left = "SELECT count(*) FROM taskiq_results_rollup_marks"
        insert = (
            "INSERT INTO taskiq_results (task_id, status, finished_at)"
            " VALUES (gen_random_uuid(), 'SUCCESS', %s)"
        )
        await publisher.execute(insert, [MIDNIGHT])
        await store.refresh_rollup()
        await arrives("SELECT count(*) FROM taskiq_results_rollup_hours WHERE counted", 721)
        # Transactions of both have numbers that are near each other.
        xid = "SELECT pg_current_xact_id()::text::bigint"
        ahead = 5 + await number(publisher, xid) - await number(subscriber, xid)
        for _ in range(abs(ahead)):
            await number(subscriber if ahead > 0 else publisher, xid)
        for _ in range(30):
            await publisher.execute(insert, [MIDNIGHT])
        await arrives(rows, 31)
        await arrives(left, 30)
        assert (await replica.refresh_rollup(), await total(replica)) == (0, 31)
        await store.refresh_rollup()
        await arrives(left, 0)
        assert await total(replica) == 31
        await subscriber.execute("DROP SUBSCRIPTION mirror")
        await subscriber.execute(insert, [MIDNIGHT])
        assert await number(subscriber, left) == 1
        assert await replica.refresh_rollup() >= 1
        assert (await number(subscriber, left), await total(replica)) == (0, 32)


async def test_a_transaction_leaves_one_mark_for_each_hour(store, dsn, admin, table_name):
    for hour in range(2):
        write(admin, table_name, id=f"{hour}", ended=MIDNIGHT + hour * HOUR)
    await store.refresh_rollup()
    with psycopg.connect(dsn) as connection:
        for number in range(6):
            write(connection, table_name, id=f"late {number}", ended=MIDNIGHT + number % 2 * HOUR)
    assert marks(admin, table_name) == 2
    write(admin, table_name, id="later")
    assert marks(admin, table_name) == 3


async def test_hours_are_told_apart_however_few_digits_a_session_shows(
    store, dsn, admin, table_name
):
    for hour in range(2):
        write(admin, table_name, id=f"{hour}", ended=MIDNIGHT + hour * HOUR)
    await store.refresh_rollup()
    with psycopg.connect(dsn, options="-c extra_float_digits=-15") as connection:
        for hour in range(2):
            write(connection, table_name, id=f"late {hour}", ended=MIDNIGHT + hour * HOUR)
    assert (marks(admin, table_name), await total(store)) == (2, 4)


@pytest.mark.parametrize("end", ["infinity", "-infinity"])
async def test_a_row_may_have_an_end_that_is_infinite(store, admin, table_name, end):
    fill(admin, table_name, hours=2)
    await store.refresh_rollup()
    admin.execute(
        f"UPDATE {table_name} SET finished_at = %s WHERE task_id IN ('task-0', 'task-1')", [end]
    )
    admin.execute(
        f"INSERT INTO {table_name} (task_id, status, finished_at) VALUES ('1', 'RETRY', %s)", [end]
    )
    admin.execute(f"UPDATE {table_name} SET finished_at = %s WHERE task_id = '1'", [MIDNIGHT])
    admin.execute(f"DELETE FROM {table_name} WHERE task_id = 'task-0'")
    await store.refresh_rollup()
    assert await total(store, since=MIDNIGHT, until=MIDNIGHT + 2 * HOUR) == 3


async def test_an_hour_that_python_cannot_hold_is_not_known(store, dsn, admin, table_name):
    fill(admin, table_name, hours=2)
    write(admin, table_name, id="bc", ended="0044-03-15 12:00:00+00 BC")
    write(admin, table_name, id="first", ended="0001-01-01 00:00:00+00")
    with psycopg.connect(dsn, options="-c default_transaction_isolation=serializable") as other:
        write(other, table_name, id="bc too", ended="0044-03-15 12:00:00+00 BC")
    west = {"options": "-c TimeZone=America/New_York"}
    async with ResultStore(dsn, table_name=table_name, kwargs=west) as asking:
        for _ in range(4):
            assert await total(asking) == 7
        await asking.refresh_rollup()
        assert await total(asking) == 7
    assert counted(admin, table_name) > 1
    assert marks(admin, table_name) == 0
    assert await total(store, since=MIDNIGHT) == 4


async def test_hours_that_python_cannot_hold_are_forgotten_by_an_upgrade(
    store, pool, admin, table_name
):
    fill(admin, table_name, hours=2)
    await store.refresh_rollup()
    known = counted(admin, table_name)
    early = "0044-03-15 12:00:00+00 BC"
    for part, columns, values in (
        ("hours", "hour", "%(hour)s"),
        ("marks", "hour, writer", "%(hour)s, gen_random_uuid()"),
        ("", "hour, status, duration_class, total, timed, waited", "%(hour)s, '', 0, 1, 0, 0"),
    ):
        rollup = f"{table_name}_rollup_{part}".rstrip("_")
        admin.execute(f"INSERT INTO {rollup} ({columns}) VALUES ({values})", {"hour": early})
    admin.execute(f"COMMENT ON TABLE {table_name} IS 'taskiq-pg-json schema 2'")
    async with ResultStore(pool=pool, table_name=table_name) as upgraded:
        assert await total(upgraded) == 4
        assert await upgraded.refresh_rollup() == 0
    assert (marks(admin, table_name), counted(admin, table_name)) == (0, known)
    assert admin.execute(
        f"SELECT sum(total) FROM {table_name}_rollup WHERE NOT daily"
    ).fetchone() == (4,)


@pytest.mark.parametrize("made", ["on", "off"])
@pytest.mark.parametrize("asked", ["on", "off"])
async def test_the_rollup_is_kept_whichever_names_a_session_quotes(
    dsn, admin, table_name, made, asked
):
    def quoting(setting):
        kwargs = {"options": f"-c quote_all_identifiers={setting}"}
        return ResultStore(dsn, table_name=table_name, kwargs=kwargs)

    async with quoting(made):
        fill(admin, table_name, hours=2)
    async with quoting(asked) as store:
        assert await store.refresh_rollup() > 0


async def test_rows_that_expire_are_not_counted_any_more(store, admin, table_name):
    write(admin, table_name, ttl=timedelta(seconds=0.5))
    write(admin, table_name, id="2")
    await store.refresh_rollup()
    assert await total(store) in {1, 2}
    admin.execute("SELECT pg_sleep(0.5)")
    assert await total(store) == 1
    assert marks(admin, table_name) == 0


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
async def test_truncating_the_table_empties_the_rollup(store, dsn, admin, table_name, level):
    fill(admin, table_name, hours=3)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
        connection.execute("SELECT 1")  # a snapshot from before any hour is known
        await store.refresh_rollup()
        connection.execute(f"TRUNCATE {table_name}")
    assert await store.stats() == []
    assert admin.execute(f"SELECT count(*) FROM {table_name}_rollup").fetchone() == (0,)


async def test_no_day_is_summed_up_while_the_table_is_truncated(store, dsn, admin, table_name):
    fill(admin, table_name, hours=24)
    await store.refresh_rollup()
    with psycopg.connect(dsn) as connection:
        connection.execute(f"TRUNCATE {table_name}")
        summing = asyncio.create_task(store._rollup._sum([MIDNIGHT]))
        while not admin.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():  # noqa: ASYNC110 - the server has no event
            await asyncio.sleep(0)
        connection.commit()
        await summing
    assert admin.execute(f"SELECT count(*) FROM {table_name}_rollup").fetchone() == (0,)


async def test_a_refresh_ends_while_others_go_on_changing_old_rows(
    store, connect, admin, table_name
):
    fill(admin, table_name, hours=20)
    await store.refresh_rollup()
    writer = await connect()

    async def write_on():
        while True:
            await writer.execute(f"UPDATE {table_name} SET log = 'again'")

    writing = asyncio.create_task(write_on())
    while not marks(admin, table_name):  # noqa: ASYNC110 - the server has no event
        await asyncio.sleep(0)
    assert 0 < await store.refresh_rollup() <= 20
    writing.cancel()


async def test_a_mark_that_was_rolled_back_is_left_again(store, dsn, admin, table_name):
    write(admin, table_name)
    await store.refresh_rollup()
    with psycopg.connect(dsn) as writer, writer.transaction():
        write(writer, table_name, id="unknown", ended=MIDNIGHT - HOUR)
        with writer.transaction(force_rollback=True):
            write(writer, table_name, id="never")
        write(writer, table_name, id="2")
        write(writer, table_name, id="unknown too", ended=MIDNIGHT - HOUR)
        write(writer, table_name, id="4")
    assert (marks(admin, table_name), await total(store)) == (1, 5)


async def test_statistics_bring_the_rollup_up_to_date_by_themselves(store, admin, table_name):
    fill(admin, table_name, hours=4)
    in_rollup = f"SELECT coalesce(sum(total), 0) FROM {table_name}_rollup"
    while admin.execute(in_rollup).fetchone()[0] < 8:
        assert await total(store) == 8
    assert counted(admin, table_name) > 4
    await store.refresh_rollup()
    assert await store.refresh_rollup() == 0


async def test_statistics_sum_up_days_by_themselves(store, admin, table_name):
    fill(admin, table_name, hours=24)
    while not summed(admin, table_name):
        assert await total(store) == 48
    assert await total(store) == 48


async def test_whole_days_are_answered_from_their_sums(store, admin, table_name):
    fill(admin, table_name, hours=3 * 24)
    await store.refresh_rollup()
    admin.execute(f"UPDATE {table_name}_rollup SET total = 0 WHERE NOT daily")
    span = {"since": MIDNIGHT, "until": MIDNIGHT + timedelta(days=3)}
    assert await total(store, **span) == 3 * 48
    assert [row.total for row in await store.stats(by=(), bucket="day", **span)] == [48] * 3
    assert await total(store, bucket="hour", **span) == 0


async def test_a_day_in_part_is_answered_from_its_hours(store, admin, table_name):
    fill(admin, table_name, hours=3 * 24)
    await store.refresh_rollup()
    admin.execute(f"UPDATE {table_name}_rollup SET total = 0 WHERE daily")
    span = {"since": MIDNIGHT + HOUR, "until": MIDNIGHT + timedelta(days=2, hours=23)}
    assert [row.total for row in await store.stats(by=(), bucket="day", **span)] == [46, 0, 46]


async def test_a_sum_holds_from_the_first_hour_that_is_known_of_its_day(store, admin, table_name):
    first = MIDNIGHT + 15 * HOUR
    fill(admin, table_name, hours=9, first=first)
    await store.refresh_rollup()
    admin.execute(f"UPDATE {table_name}_rollup SET total = 0 WHERE NOT daily")
    for since in (MIDNIGHT, first - timedelta(minutes=30), first):
        (row,) = await store.stats(by=(), bucket="day", since=since, until=MIDNIGHT + 24 * HOUR)
        assert (row.bucket, row.total) == (MIDNIGHT, 18)
    assert await total(store) == 18


async def test_a_late_row_takes_away_the_sum_of_its_day_until_all_is_counted_again(
    store, admin, table_name
):
    fill(admin, table_name, hours=2 * 24)
    await store.refresh_rollup()
    before = summed(admin, table_name)
    write(admin, table_name, ended=MIDNIGHT + 7 * HOUR)
    assert await total(store, bucket="day") == 97
    assert summed(admin, table_name) == before - 24  # counted in passing
    assert await total(store, bucket="day") == 97
    await store.refresh_rollup()
    assert summed(admin, table_name) == before
    admin.execute(f"UPDATE {table_name}_rollup SET total = 0 WHERE NOT daily")
    assert await total(store, until=MIDNIGHT + 2 * 24 * HOUR) == 97


@pytest.mark.parametrize("midnight", [(2025, 10, 25), (2026, 3, 28)])
async def test_a_day_has_24_hours_whatever_the_clocks_of_the_session_s_zone_do(
    dsn, admin, table_name, midnight
):
    first = datetime(*midnight, tzinfo=timezone.utc)
    kwargs = {"options": "-c TimeZone=Europe/Berlin"}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as store:
        fill(admin, table_name, hours=4 * 24, first=first)
        await store.refresh_rollup()
        for hour in (0, 29, 47, 60):  # the day from hour 24 on is the one on which they change
            admin.execute(
                f"UPDATE {table_name} SET execution_time = 2 WHERE finished_at = %s",
                [first + hour * HOUR],
            )
            assert await total(store) == 4 * 24 * 2
            await store.refresh_rollup()
            assert await total(store) == 4 * 24 * 2


async def test_an_hour_that_expires_within_a_day_is_in_no_sum(store, admin, table_name):
    fill(admin, table_name, hours=24)
    write(admin, table_name, ttl=HOUR)
    await store.refresh_rollup()
    admin.execute(f"UPDATE {table_name}_rollup SET total = 0 WHERE daily")
    assert await total(store, until=MIDNIGHT + 24 * HOUR) == 3


async def test_hours_in_which_nothing_ended_are_known_too(store, admin, table_name):
    write(admin, table_name)
    write(admin, table_name, id="2", ended=MIDNIGHT + 5 * HOUR)
    write(admin, table_name, id="3", ended=MIDNIGHT - timedelta(days=20_000))
    await store.refresh_rollup()
    assert [row.total for row in await store.stats(by=(), bucket="hour", since=MIDNIGHT,
                                                   until=MIDNIGHT + 6 * HOUR)] == [
        1, 0, 0, 0, 0, 1,
    ]  # fmt: skip
    assert await total(store) == 3
    assert await store.refresh_rollup() == 0


async def test_a_table_of_the_version_before_is_counted_from_its_rows(
    dsn, admin, table_name, monkeypatch
):
    with monkeypatch.context() as patch:
        first, views = files.migrations()[:1], files.views()[:-1]  # all but storage
        patch.setattr("taskiq_pg_json.schema.migrate.migrations", lambda: first)
        patch.setattr("taskiq_pg_json.schema.migrate.views", lambda: views)
        async with ResultStore(dsn, table_name=table_name) as old:
            fill(admin, table_name, hours=3)
            assert await total(old) == 6
    async with ResultStore(dsn, table_name=table_name) as store:
        assert await total(store) == 6
        await store.refresh_rollup()
        assert (counted(admin, table_name) >= 3, await total(store)) == (True, 6)


@pytest.fixture
def worker(dsn, admin):
    """The conninfo of a role that may use the results and nothing else."""
    role = f"role_{uuid.uuid4().hex[:12]}"
    admin.execute(f"CREATE ROLE {role} LOGIN")
    admin.execute(f"GRANT USAGE ON SCHEMA public TO {role}")
    yield make_conninfo(dsn, user=role)
    admin.execute(f"DROP OWNED BY {role}")
    admin.execute(f"DROP ROLE {role}")


def user_of(dsn):
    return psycopg.conninfo.conninfo_to_dict(dsn)["user"]


def rollup_of(table_name):
    """The tables of a rollup, as they stand in a GRANT."""
    return ", ".join(f"{table_name}_rollup{part}" for part in ("", "_hours", "_marks"))


async def test_a_role_that_may_not_use_the_rollup_writes_late_rows_and_has_statistics(
    store, admin, table_name, worker
):
    fill(admin, table_name, hours=3)
    await store.refresh_rollup()
    role = user_of(worker)
    admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table_name} TO {role}")
    with psycopg.connect(worker, autocommit=True) as connection:
        write(connection, table_name)
    assert marks(admin, table_name) == 1
    async with ResultStore(worker, table_name=table_name, migrate="off") as limited:
        assert await total(limited) == await total(store) == 7
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await limited.refresh_rollup()
        admin.execute(f"GRANT SELECT ON {rollup_of(table_name)} TO {role}")
        write(admin, table_name, id="again")
        assert await total(limited) == 8


@pytest.mark.parametrize("by", [False, True], ids=["owner counts", "role counts"])
async def test_a_role_that_row_security_limits_counts_its_own_rows_and_for_itself(
    store, admin, table_name, worker, by
):
    fill(admin, table_name, hours=3)
    role = user_of(worker)
    admin.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table_name}, {rollup_of(table_name)} TO {role};"
        f"ALTER TABLE {table_name} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY own ON {table_name} USING (task_name = 'task 0')"
    )
    async with ResultStore(worker, table_name=table_name, migrate="off") as limited:
        if by:
            assert (await total(limited), await limited.refresh_rollup()) == (2, 0)
            assert counted(admin, table_name) == 0
        assert await store.refresh_rollup() > 0
        assert (await total(limited), await total(store)) == (2, 6)
        admin.execute(f"DELETE FROM {table_name} WHERE task_id = 'task-0'")
        assert (await total(limited), await total(store)) == (1, 5)


async def test_a_rollup_whose_marks_row_security_hides_is_not_used(
    store, admin, table_name, worker
):
    fill(admin, table_name, hours=3)
    await store.refresh_rollup()
    role = user_of(worker)
    admin.execute(
        f"GRANT SELECT ON {table_name}, {rollup_of(table_name)} TO {role};"
        f"ALTER TABLE {table_name}_rollup_marks ENABLE ROW LEVEL SECURITY"
    )
    write(admin, table_name)
    async with ResultStore(worker, table_name=table_name, migrate="off") as limited:
        assert await total(limited) == 7


async def test_nothing_is_counted_in_a_session_that_only_reads(store, dsn, admin, table_name):
    fill(admin, table_name, hours=3)
    kwargs = {"options": "-c default_transaction_read_only=on"}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as reading:
        assert (await reading.refresh_rollup(), await total(reading)) == (0, 6)
        await store.refresh_rollup()
        assert (await reading.refresh_rollup(), await total(reading)) == (0, 6)


async def test_marks_are_left_whatever_the_writer_s_search_path(pool, dsn, schema_name):
    async with ResultStore(pool=pool, schema=schema_name, table_name='a "b"') as store:
        table = sql.Identifier(schema_name, 'a "b"')
        insert = sql.SQL("INSERT INTO {} (task_id, status, finished_at) VALUES (%s, 'SUCCESS', %s)")
        with psycopg.connect(dsn, autocommit=True, options="-c search_path=pg_catalog") as writer:
            for number in range(2):
                writer.execute(insert.format(table), [str(number), MIDNIGHT])
                await store.refresh_rollup()
                assert await total(store) == number + 1


@pytest.mark.parametrize("part", ["rollup", "rollup_hours", "rollup_marks"])
async def test_late_rows_are_stored_where_the_rollup_was_dropped(store, admin, table_name, part):
    write(admin, table_name)
    await store.refresh_rollup()
    admin.execute(f"DROP TABLE {table_name}_{part} CASCADE")
    write(admin, table_name, id="2")
    assert await total(store) == 2
    assert await store.refresh_rollup() == 0
    admin.execute(f"DELETE FROM {table_name} WHERE task_id = '1'")
    assert await total(store) == 1
    admin.execute(f"TRUNCATE {table_name}")
    assert await store.stats() == []


async def test_any_name_can_be_counted(pool, admin, schema_name):
    async with ResultStore(pool=pool, schema=schema_name, table_name='100% {"a"}') as store:
        insert = sql.SQL(
            "INSERT INTO {} (task_id, status, finished_at) VALUES ('1', 'SUCCESS', {})"
        ).format(sql.Identifier(schema_name, store.names.table), MIDNIGHT)
        admin.execute(insert)
        assert await store.refresh_rollup() > 0
        assert await total(store) == 1


async def test_a_schema_can_be_renamed(pool, admin, schema_name):
    async with ResultStore(pool=pool, schema=schema_name, table_name="results") as store:
        fill(admin, sql.Identifier(schema_name, "results"), hours=3)
        await store.refresh_rollup()
    renamed = f"{schema_name}_renamed"
    admin.execute(f"ALTER SCHEMA {schema_name} RENAME TO {renamed}")
    try:
        async with ResultStore(pool=pool, schema=renamed, table_name="results") as store:
            write(admin, sql.Identifier(renamed, "results"))
            assert await total(store) == 7
            await store.refresh_rollup()
            admin.execute(f"TRUNCATE {renamed}.results")
            assert await store.stats() == []
    finally:
        admin.execute(f"ALTER SCHEMA {renamed} RENAME TO {schema_name}")


async def test_late_rows_are_counted_where_all_was_renamed(store, pool, admin, table_name):
    fill(admin, table_name, hours=3)
    await store.refresh_rollup()
    renamed = f"{table_name}_renamed"
    for kind, name in admin.execute(
        "SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname FROM pg_class"
        " WHERE relkind IN ('r', 'v') AND starts_with(relname, %(name)s)"
        " UNION SELECT 'FUNCTION', proname FROM pg_proc WHERE starts_with(proname, %(name)s)",
        {"name": table_name},
    ).fetchall():
        admin.execute(f"ALTER {kind} {name} RENAME TO {name.replace(table_name, renamed)}")
    async with ResultStore(pool=pool, table_name=renamed, migrate="verify") as anew:
        admin.execute(f"DELETE FROM {renamed} WHERE task_id = 'task-0'")
        await anew.refresh_rollup()
        assert await total(anew) == 5


async def test_late_rows_are_stored_and_counted_whoever_owns_the_functions(
    store, admin, table_name, worker
):
    write(admin, table_name)
    await store.refresh_rollup()
    role = user_of(worker)
    for function in ("rollup_mark", "rollup_forget"):
        admin.execute(f"ALTER FUNCTION {table_name}_{function}() OWNER TO {role}")
    write(admin, table_name, id="2")
    assert await total(store) == 2
    admin.execute(f"TRUNCATE {table_name}")
    assert await store.stats() == []
    admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")


async def test_late_rows_are_counted_where_the_owner_may_not_use_the_schema_any_more(
    pool, admin, schema_name, worker
):
    role = user_of(worker)
    admin.execute(f"GRANT USAGE, CREATE ON SCHEMA {schema_name} TO {role}")
    async with ResultStore(worker, schema=schema_name, table_name="shop"):
        pass
    table = sql.Identifier(schema_name, "shop")
    async with ResultStore(pool=pool, schema=schema_name, table_name="shop") as store:
        fill(admin, table, hours=3)
        await store.refresh_rollup()
        admin.execute(f"REVOKE USAGE ON SCHEMA {schema_name} FROM {role}")
        admin.execute(f"DELETE FROM {schema_name}.shop WHERE task_id = 'task-0'")
        assert await total(store) == 5
        assert await store.refresh_rollup() == 0


async def test_a_publication_of_all_tables_hinders_nothing(store, admin, table_name):
    write(admin, table_name)
    await store.refresh_rollup()
    names = ", ".join(f"{table_name}{part}" for part in ("", "_rollup", "_rollup_hours",
                                                        "_rollup_marks"))  # fmt: skip
    admin.execute(f"CREATE PUBLICATION {table_name} FOR TABLE {names}")
    try:
        write(admin, table_name, id="2")
        assert await store.refresh_rollup() == 1
        assert await total(store) == 2
        admin.execute(f"TRUNCATE {table_name}")
        assert await store.stats() == []
    finally:
        admin.execute(f"DROP PUBLICATION {table_name}")


async def test_a_locked_table_takes_no_longer_than_the_timeout(store, dsn, admin, table_name):
    write(admin, table_name)
    with psycopg.connect(dsn) as other:
        other.execute(f"LOCK TABLE {table_name} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(SearchTimeoutError):
            await asyncio.wait_for(store.stats(timeout=0.1), 10)


@pytest.mark.parametrize("options", ["", "-c lock_timeout=100ms"], ids=["timeout", "lock_timeout"])
@pytest.mark.usefixtures("store")
async def test_a_locked_rollup_leaves_the_answer_to_the_rows(dsn, admin, table_name, options):
    write(admin, table_name)
    kwargs = {"options": options}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as asking:
        with psycopg.connect(dsn) as other:
            other.execute(f"LOCK TABLE {table_name}_rollup_hours IN ACCESS EXCLUSIVE MODE")
            assert await asyncio.wait_for(total(asking, timeout=0.5), 10) == 1


async def test_without_an_index_that_finds_an_hour_there_is_no_rollup(dsn, admin, table_name):
    async with ResultStore(dsn, table_name=table_name, indexes=["task_name"]) as store:
        fill(admin, table_name, hours=3)
        assert (await total(store), await store.refresh_rollup()) == (6, 0)
        assert counted(admin, table_name) == 0
        admin.execute(f"CREATE INDEX ON {table_name} (finished_at)")
        assert await store.refresh_rollup() >= 3
        assert await total(store) == 6


async def test_a_month_of_whole_hours_reads_no_row(store, admin, table_name, monkeypatch):
    fill(admin, table_name, hours=30 * 24, per_hour=5)
    await store.refresh_rollup()
    admin.execute(f"VACUUM ANALYZE {table_name}")
    plans = []
    runner = store._searcher._runner
    fetch = runner.fetch

    async def explained(query, values, timeout):
        plans.extend(await fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", values, timeout))
        return await fetch(query, values, timeout)

    monkeypatch.setattr(runner, "fetch", explained)
    until = MIDNIGHT + timedelta(days=30)
    for bucket in (None, "day", "hour"):
        plans.clear()
        rows = await store.stats(since=MIDNIGHT, until=until, bucket=bucket)
        assert sum(row.total for row in rows) == 30 * 24 * 5
        (((plan,),),) = plans
        names = Names(table_name)
        read = [
            node["Relation Name"]
            for node in nodes(plan["Plan"])
            if "Relation Name" in node and node["Actual Loops"]
        ]
        assert names.derived("rollup") in read
        assert table_name not in read


def nodes(plan):
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


@pytest.mark.parametrize(
    "question",
    [{"worker": "w"}, {"min_duration": 5}, {"by": "error_type"}, {"bucket": timedelta(minutes=90)}],
    ids=str,
)
async def test_what_the_rollup_does_not_hold_is_answered_from_the_rows(
    store, admin, table_name, question
):
    fill(admin, table_name, hours=3)
    admin.execute(f"UPDATE {table_name} SET worker = 'w', execution_time = 5")
    await store.refresh_rollup()
    assert sum(row.total for row in await store.stats(**question)) == 6


async def test_a_span_that_ends_before_it_begins_is_empty(store, admin, table_name):
    fill(admin, table_name, hours=3)
    await store.refresh_rollup()
    assert await store.stats(since=MIDNIGHT + HOUR, until=MIDNIGHT) == []


@pytest.mark.parametrize("style", ["German", "SQL,DMY", "Postgres,MDY"])
async def test_hours_are_counted_however_the_session_writes_dates(dsn, admin, table_name, style):
    kwargs = {"options": f"-c DateStyle={style}"}
    async with ResultStore(dsn, table_name=table_name, kwargs=kwargs) as store:
        fill(admin, table_name, hours=25)
        assert await total(store) == 50
        await store.refresh_rollup()
        assert await total(store) == 50
    assert summed(admin, table_name) >= 24
