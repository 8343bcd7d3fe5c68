from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import sql
from seeds import NOW, ago, finish, orders, unfinished
from views_page import PAGE, VIEWS, reference_page

from taskiq_pg_json import Progress, ResultStore

READER = "tpj_reader"


@pytest.fixture
def rows(admin, table_name):
    """Returns the rows of a view as dicts."""

    def query(view, rest=""):
        cursor = admin.execute(f"SELECT * FROM {table_name}_{view} {rest}")
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    return query


async def test_failure_groups_say_what_fails_most(store, rows):
    await orders(store, 30)
    await finish(store, "other", error=ValueError("bad"), ended=ago(hours=30), task="a")
    groups = rows("failure_groups", "ORDER BY total DESC, task_name")
    assert [(group["task_name"], group["total"]) for group in groups] == [
        ("a", 1), ("shop:charge", 1), ("shop:mail", 1), ("shop:ship", 1),
    ]  # fmt: skip
    assert groups[0]["error_type"] == "ValueError"
    assert (groups[0]["last_hour"], groups[0]["last_day"], groups[0]["last_week"]) == (0, 0, 1)
    assert groups[1]["error_message"] == "Card 9 was declined"
    assert groups[1]["sample_task_id"] == "order-9"


async def test_stats_and_stats_hourly_agree_with_the_store(store, rows):
    await orders(store, 30)
    for row, expected in zip(rows("stats", "ORDER BY task_name"), await store.stats(), strict=True):
        numbers = expected.to_dict()
        for name in ("task_name", "total", "failed", "failure_rate", "average_duration",
                     "max_duration", "average_wait", "max_wait"):  # fmt: skip
            assert row[name] == numbers[name], name
        for percent in (50, 95, 99):
            assert row[f"p{percent}_duration"] == numbers[f"p{percent}"]
        assert row["succeeded"] == row["total"] - row["failed"]
    hourly = [row for row in await store.stats(bucket="hour") if row.total]
    found = rows("stats_hourly", "ORDER BY task_name, hour")
    assert [
        (row["hour"], row["task_name"], row["total"], row["p95_duration"]) for row in found
    ] == [(row.bucket, row.group["task_name"], row.total, row.percentiles[95]) for row in hourly]


async def test_no_view_but_storage_shows_what_has_expired(store, rows, admin, table_name):
    await finish(store, "1", error=ValueError("bad"))
    await store.set_progress("1", Progress("STARTED", {"percent": 99}))
    admin.execute(f"UPDATE {table_name} SET expires_at = now() + interval '1 day'")
    assert all(rows(view) for view in set(VIEWS) - {"running"})
    admin.execute(f"UPDATE {table_name} SET expires_at = now()")
    assert [view for view in VIEWS if rows(view)] == ["storage"]
    assert await store.stats() == await store.failures() == []


async def test_a_task_that_has_ended_does_not_run_on(store, rows, admin, table_name):
    await finish(store, "1", seconds=3.0)
    admin.execute(f"UPDATE {table_name} SET execution_time = NULL")
    (row,) = rows("outcomes")
    assert row["execution_time"] == 3.0


async def test_an_infinite_time_stops_no_view(store, rows, admin, table_name):
    await finish(store, "1")
    await finish(store, "2")
    admin.execute(f"UPDATE {table_name} SET finished_at = 'infinity' WHERE task_id = '2'")
    admin.execute("SET statement_timeout = '5s'")
    try:
        assert [row["total"] for row in rows("stats_hourly")] == [1]
    finally:
        admin.execute("RESET statement_timeout")


async def test_the_sample_of_a_group_is_the_first_that_a_search_finds(store, rows):
    for number in range(3):
        await finish(store, str(number), error=ValueError("bad"))
    (group,) = await store.failures(samples=3)
    (row,) = rows("failure_groups")
    page = await store.search(status="FAILURE")
    assert group.sample_ids == tuple(record.task_id for record in page.items)
    assert row["sample_task_id"] == group.sample_ids[0]


async def test_running_shows_what_has_not_ended(store, rows):
    await orders(store, 3)
    await unfinished(store)
    await store.set_progress("unknown", Progress("STARTED", {"current": 1, "total": 4}))
    found = {row["task_id"]: row for row in rows("running")}
    assert set(found) == {"queued", "started", "retried", "unknown"}
    assert found["queued"]["wait_time"] >= 600
    assert found["queued"]["running_time"] is None
    assert found["started"]["wait_time"] == 60
    assert found["started"]["running_time"] >= 480
    assert (found["started"]["progress_percent"], found["started"]["progress_text"]) == (40, "Rows")
    assert found["retried"]["status"] == "RETRY"
    assert found["unknown"]["progress_percent"] == 25


async def test_storage_shows_sizes_and_rows_of_each_status(store, rows, admin, table_name):
    await orders(store, 30)
    await unfinished(store)
    admin.execute(f"VACUUM ANALYZE {table_name}")
    found = {(row["kind"], row["part"]): row for row in rows("storage")}
    assert found["table", "results"]["rows"] == 33
    assert found["table", "results"]["bytes"] > 0
    assert found["index", f"{table_name}_json_gin"]["size"].endswith("kB")
    assert {part for kind, part in found if kind == "table"} == {
        "results", "progress", "rollup", "rollup_hours", "rollup_marks",
    }  # fmt: skip
    assert {part: row["rows"] for (kind, part), row in found.items() if kind == "status"} == {
        "QUEUED": 1, "STARTED": 1, "RETRY": 1, "FAILURE": 3, "SUCCESS": 27,
    }  # fmt: skip


@pytest.mark.usefixtures("store")
async def test_an_empty_table_has_empty_views(rows):
    for view in set(VIEWS) - {"storage"}:
        assert rows(view) == []
    assert rows("storage")


@pytest.fixture
def reader(admin, table_name, dsn):
    """A connection of a role that may read the views, and nothing else."""
    admin.execute(f"DROP ROLE IF EXISTS {READER}_{table_name}")
    role = sql.Identifier(f"{READER}_{table_name}")
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    for view in VIEWS:
        admin.execute(
            sql.SQL("GRANT SELECT ON {} TO {}").format(sql.Identifier(f"{table_name}_{view}"), role)
        )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(role))
        yield connection
    admin.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(role=role))


@pytest.mark.parametrize("view", VIEWS)
async def test_a_role_that_may_read_the_views_needs_nothing_else(store, reader, table_name, view):
    await orders(store, 10)
    await unfinished(store)
    assert reader.execute(f"SELECT * FROM {table_name}_{view}").fetchall()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(f"SELECT * FROM {table_name}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute(f"UPDATE {table_name}_failures SET task_id = 'x'")


async def test_policies_hold_in_views_that_were_told_so(store, reader, admin, table_name):
    await orders(store, 10)
    admin.execute(
        f"ALTER TABLE {table_name} ENABLE ROW LEVEL SECURITY;"
        f"CREATE POLICY own ON {table_name} USING (task_name = 'shop:ship')"
    )
    seen = f"SELECT sum(total) FROM {table_name}_stats"
    assert reader.execute(seen).fetchone() == (10,)
    admin.execute(
        f"ALTER VIEW {table_name}_stats SET (security_invoker = true);"
        f"GRANT SELECT ON {table_name} TO {READER}_{table_name}"
    )
    assert reader.execute(seen).fetchone() == (3,)


@pytest.mark.usefixtures("store")
async def test_every_column_of_every_view_is_explained(admin, table_name):
    undocumented = admin.execute(
        "SELECT relname, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
        "WHERE starts_with(relname, %s) AND relkind IN ('v', 'r') AND attnum > 0 "
        "AND col_description(attrelid, attnum) IS NULL",
        [table_name],
    ).fetchall()
    assert undocumented == []
    assert not [
        view
        for view in VIEWS
        if admin.execute(
            "SELECT obj_description(%s::regclass)", [f"{table_name}_{view}"]
        ).fetchone() == (None,)
    ]  # fmt: skip


async def test_the_reference_page_is_what_the_comments_say(admin):
    table_name = "taskiq_results"
    async with ResultStore(admin.info.dsn, table_name=table_name, schema="reference_page") as store:
        await store.count()
    try:
        page = reference_page(admin, "reference_page", table_name)
    finally:
        admin.execute("DROP SCHEMA reference_page CASCADE")
    assert PAGE.read_text("utf-8") == page


@pytest.mark.usefixtures("store")
async def test_views_keep_the_order_of_their_columns(admin, table_name):
    """Views are replaced in place: columns may only be added at the end."""
    first = {
        "failure_groups": ["task_name", "error_type", "error_message", "fingerprint", "total"],
        "stats": ["task_name", "total", "succeeded", "failed", "failure_rate"],
        "stats_hourly": ["hour", "task_name", "total", "succeeded", "failed"],
        "running": ["task_id", "task_name", "status", "progress_percent", "progress_text"],
        "storage": ["part", "kind", "bytes", "size", "rows"],
    }
    for view, names in first.items():
        cursor = admin.execute(f"SELECT * FROM {table_name}_{view} LIMIT 0")
        assert [column.name for column in cursor.description][: len(names)] == names


@pytest.mark.usefixtures("store")
async def test_one_hour_of_stats_hourly_reads_no_other_hours(admin, table_name):
    admin.execute(
        f"INSERT INTO {table_name} (task_id, task_name, status, finished_at, execution_time) "
        "SELECT i, 'many', 'SUCCESS', %s::timestamptz - i * interval '1 minute', 1 "
        "FROM generate_series(1, 3000) AS i",
        [NOW],
    )
    admin.execute(f"VACUUM ANALYZE {table_name}")
    plan = admin.execute(
        f"EXPLAIN (ANALYZE, COSTS OFF) SELECT * FROM {table_name}_stats_hourly WHERE hour > %s",
        [ago(hours=2)],
    ).fetchall()
    scanned = [line for (line,) in plan if f"{table_name}_finished_at_idx" in line]
    read = re.findall(r"rows=([\d.]+) loops=(\d+)", " ".join(scanned))
    assert read
    assert sum(float(count) * int(loops) for count, loops in read) < 200
