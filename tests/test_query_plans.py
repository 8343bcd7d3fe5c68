"""Every filter uses the index that it is meant to, and no page reads more than a bounded part."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import pytest
from psycopg import sql
from seeds import NOW, ids, orders

from taskiq_pg_json import ConfigurationError, F, ResultStore

ROWS = 20_000
PAGE = 20
MOST_READ = 20 * PAGE
"""Rows that a page may read: each twice or so, and what a filter on one in ten passes over."""

_SEED = """
INSERT INTO {table} (task_id, task_name, worker, status, return_value, error, args, kwargs, labels,
                     execution_time, queued_at, started_at, finished_at)
SELECT 'task-' || i, 'shop:' || least(i %% 100, 10), 'web:' || i %% 10,
       CASE WHEN i %% 200 = 0 THEN 'QUEUED' WHEN i %% 50 = 1 THEN 'FAILURE' ELSE 'SUCCESS' END,
       jsonb_build_object('order_id', i, 'customer', jsonb_build_object('id', 'c' || i %% 2000),
                          'items', jsonb_build_array(jsonb_build_object('sku', i %% 3000))),
       CASE WHEN i %% 50 = 1 THEN jsonb_build_object('type', 'ValueError', 'module', 'builtins',
           'message', 'order ' || i, 'fingerprint', (i %% 7)::text) END,
       jsonb_build_array(i), jsonb_build_object('day', i %% 3000),
       jsonb_build_object('tenant', i %% 2500),
       i %% 100, %(now)s - interval '1 day' - i * interval '1 s', %(now)s - i * interval '1 s',
       CASE WHEN i %% 200 <> 0 THEN %(now)s - i * interval '1 s' END
FROM generate_series(1, %(rows)s) AS i
"""


@pytest.fixture(scope="module")
def seeded(admin):
    """The name of an analysed table of 20,000 rows."""
    name = "query_plans"
    schema = "query_plans"
    script = ResultStore(table_name=name, schema=schema).schema_sql()
    admin.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    admin.execute(script)
    table = f"{schema}.{name}"
    admin.execute(_SEED.format(table=table), {"rows": ROWS, "now": NOW})
    admin.execute(f"VACUUM ANALYZE {table}")
    yield name
    admin.execute(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(scope="module")
def wide(admin, seeded):
    """The name of a table of the same rows, with return values that no statistics are kept of."""
    name = "query_plans_wide"
    admin.execute(ResultStore(table_name=name, schema=seeded).schema_sql())
    table = f"{seeded}.{name}"
    admin.execute(
        f"INSERT INTO {table} SELECT * FROM {seeded}.{seeded};"
        f"UPDATE {table} SET return_value = return_value || jsonb_build_object("
        "    'paid', substr(task_id, 6)::int > 500, 'text', repeat('x', 1100));"
        f"UPDATE {table} SET return_value = NULL WHERE finished_at IS NULL"
    )
    admin.execute(f"VACUUM ANALYZE {table}")
    return name


@pytest.fixture
async def backlog_plans(pool, admin, seeded, wide):
    """Likewise, with tasks that wait; two of them have values nevertheless, written by hand."""
    table = f"{seeded}.{wide}"
    admin.execute(
        f"INSERT INTO {table} (task_id, status, return_value) SELECT 'wait-' || i, 'QUEUED', "
        """CASE WHEN i IN (7, 77) THEN '{"paid": true, "order_id": 0}'::jsonb END """
        f"FROM generate_series(1, 4000) AS i; ANALYZE {table}"
    )
    async with ResultStore(pool=pool, table_name=wide, schema=seeded, migrate="verify") as store:
        yield Explained(store)
    admin.execute(f"DELETE FROM {table} WHERE task_id LIKE 'wait-%'; ANALYZE {table}")


@pytest.fixture
async def wide_plans(pool, seeded, wide):
    """Likewise of that table."""
    async with ResultStore(pool=pool, table_name=wide, schema=seeded, migrate="verify") as store:
        yield Explained(store)


@pytest.fixture
async def plans(pool, seeded):
    """A store that keeps the plans of its searches in ``plans``."""
    async with ResultStore(pool=pool, table_name=seeded, schema=seeded, migrate="verify") as store:
        yield Explained(store)


def named(value):
    return ",".join(value) or "all" if isinstance(value, dict) else str(value)


class Explained:
    """Runs each query of a store with EXPLAIN as well."""

    def __init__(self, store):
        self.store = store
        self.found = []
        runner = store._searcher._runner
        self._fetch, self._stream = runner.fetch, runner.stream
        runner.fetch, runner.stream = self._explain, self._explain_stream

    async def _explain(self, query, values, timeout):
        await self._keep(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {query}", values, timeout)
        return await self._fetch(query, values, timeout)

    @asynccontextmanager
    async def _explain_stream(self, query, values, *, batch, timeout):
        explain = f"EXPLAIN (FORMAT JSON) DECLARE explained CURSOR FOR {query}"
        await self._keep(explain, values, timeout)
        async with self._stream(query, values, batch=batch, timeout=timeout) as rows:
            yield rows

    async def _keep(self, explain, values, timeout):
        ((plan,),) = await self._fetch(explain, values, timeout)
        self.found.append(plan if isinstance(plan, list) else json.loads(plan))

    def nodes(self):
        """Every node of every plan."""
        waiting = [plan[0]["Plan"] for plan in self.found]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node.get("Plans", ()))

    @property
    def indexes(self):
        """The indexes used, without the table's name."""
        return {
            node["Index Name"].removeprefix("query_plans_")
            for node in self.nodes()
            if node.get("Index Name", "").startswith("query_plans_") and node.get("Actual Loops", 1)
        } - {"progress_pkey"}

    @property
    def rows_read(self):
        """The rows that were read of the results, those passed over included."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
             + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"]
            for node in self.nodes()
            if node.get("Relation Name") == self.store.names.table
        )  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "index"),
    [
        ({}, "finished_at_idx"),
        ({"order_by": "finished_at"}, "finished_at_idx"),
        ({"order_by": "task_id"}, "pkey"),
        ({"status": "SUCCESS"}, "finished_at_idx"),
        ({"since": timedelta(days=9)}, "finished_at_idx"),
        ({"until": NOW - timedelta(hours=2)}, "finished_at_idx"),
        ({"worker": "web:3"}, "finished_at_idx"),
        ({"min_duration": 50}, "finished_at_idx"),
        ({"max_duration": 50}, "finished_at_idx"),
        ({"exclude": {"task_name": "shop:10"}}, "finished_at_idx"),
        ({"task_name": "shop:1"}, "task_name_idx"),
        ({"task_name": "shop:1", "until": NOW - timedelta(hours=2)}, "task_name_idx"),
        ({"task_name": ["shop:1", "shop:2", "none"]}, "task_name_idx"),
        ({"task_name": "shop:1", "order_by": "finished_at"}, "task_name_idx"),
        ({"status": "FAILURE"}, "failures_idx"),
        ({"error_type": "ValueError"}, "failures_idx"),
        ({"fingerprint": "3"}, "failures_idx"),
        ({"message": "order"}, "failures_idx"),
        ({"status": "FAILURE", "task_name": "shop:1"}, "failures_by_task_idx"),
        ({"status": "STARTED"}, "unfinished_idx"),
        ({"return_value": {"order_id": 77}}, "json_gin"),
        ({"return_value": {"customer": {"id": "c7"}}}, "json_gin"),
        ({"return_value": {"items": [{"sku": 7}]}}, "json_gin"),
        ({"args": [77]}, "call_gin"),
        ({"kwargs": {"day": 7}}, "call_gin"),
        ({"labels": {"tenant": 7}}, "call_gin"),
        ({"where": "$.order_id == 77"}, "json_gin"),
        ({"where": "$.items[*] ? (@.sku == 7)"}, "json_gin"),
        ({"where": F.return_value["order_id"] == 77}, "json_gin"),
        ({"where": F.return_value["items"].each["sku"] == 7}, "json_gin"),
        ({"where": F.args[0] == 77}, "call_gin"),
        ({"where": F.return_value["order_id"] == 0}, "json_gin"),
        ({"where": F.args.contains([77])}, "call_gin"),
        ({"where": F.kwargs["day"].contains(7)}, "call_gin"),
        ({"where": F.return_value["customer"].contains({"id": "c7"})}, "json_gin"),
        ({"where": F.return_value["items"][0].contains({"sku": 7})}, "json_gin"),
        ({"where": F.return_value["items"].each.contains({"sku": 7})}, "json_gin"),
        ({"where": F.kwargs["day"].in_([7, 8]) & (F.args[0] > 3)}, "call_gin"),
        ({"labels": {"tenant": 7}, "kwargs": {"day": 7}}, "call_gin"),
    ],
    ids=named,
)
async def test_a_filter_uses_its_index_and_reads_little(plans, filters, index):
    await plans.store.search(limit=PAGE, **filters)
    # What an index of JSON finds is looked for among the newest first, and then by its ids.
    besides = {"finished_at_idx", "pkey"} & plans.indexes if index.endswith("gin") else set()
    assert plans.indexes == {index} | besides
    assert plans.rows_read <= MOST_READ


@pytest.mark.parametrize("order_by", ["finished_at", "-finished_at", "task_id"])
@pytest.mark.parametrize(
    ("filters", "hits"),
    [
        ({"return_value": {"order_id": 0}}, 0),
        ({"return_value": {"order_id": 77}}, 1),
        ({"return_value": {"order_id": 77}, "task_name": [f"shop:{i}" for i in range(11)]}, 1),
        ({"where": "$.order_id == 77"}, 1),
        ({"where": "$.items[*] ? (@.sku == 7 && @.sku == 7)"}, 7),
        ({"where": F.return_value["order_id"] == 77}, 1),
        ({"where": F.return_value["order_id"].in_([77, 78])}, 2),
        ({"where": F.return_value["customer"].contains({"id": "c7"})}, 10),
    ],
    ids=named,
)
async def test_a_filter_on_large_values_reads_little(wide_plans, filters, hits, order_by):
    page = await wide_plans.store.search(limit=2, order_by=order_by, **filters)
    assert len(page.items) == min(hits, 2)
    assert wide_plans.rows_read <= MOST_READ


@pytest.mark.parametrize(
    "where", [F.return_value["paid"].is_(True), "$.paid == true", F.return_value["paid"] != 1]
)
async def test_what_most_large_values_have_is_found_by_a_walk(wide_plans, where):
    filters = {"where": where, "load": []}
    assert len((await wide_plans.store.search(limit=PAGE, order_by="finished_at", **filters)).items)
    assert wide_plans.rows_read <= MOST_READ
    wide_plans.found.clear()
    await wide_plans.store.search(limit=PAGE, **filters)
    assert wide_plans.rows_read <= ROWS / 2


@pytest.mark.parametrize(
    "filters",
    [
        {"where": F.return_value["paid"].is_(True)},
        {"where": "$.paid == true"},
        {"return_value": {"paid": True}},
        {"return_value": {"paid": True}, "where": F.return_value["order_id"] >= 0},
    ],
    ids=str,
)
async def test_what_most_have_is_found_behind_a_backlog_that_does_not_have_it(
    backlog_plans, filters
):
    expected = ["wait-77", "wait-7", *(f"task-{number}" for number in range(501, 540))]
    search = partial(backlog_plans.store.search, limit=PAGE, load=[], **filters)
    page = await search()
    assert ids(page) == expected[:PAGE]
    assert backlog_plans.rows_read <= ROWS / 2
    following = await search(cursor=page.next_cursor)
    assert ids(following) == expected[PAGE : 2 * PAGE]
    assert ids(await search(cursor=following.previous_cursor)) == expected[:PAGE]


@pytest.mark.parametrize("order_by", ["task_id", "-task_id"])
async def test_several_tasks_by_task_id_are_looked_for_together(plans, order_by):
    page = await plans.store.search(task_name=["shop:1", "none"], order_by=order_by, limit=150)
    found = sorted((f"task-{number}" for number in range(1, ROWS, 100)), reverse=order_by[0] == "-")
    assert ids(page) == found[:150]
    assert plans.rows_read <= ROWS / 4


async def test_a_stream_of_several_tasks_sorts_no_rows(plans):
    found = [row async for row in plans.store.iterate(task_name=["shop:10", "shop:1"], load=[])]
    assert len(found) == 18_200
    assert plans.indexes == {"finished_at_idx"}
    assert not [node for node in plans.nodes() if "Sort" in node["Node Type"]]


@pytest.mark.parametrize("order_by", ["finished_at", "-finished_at", "task_id", "-task_id"])
@pytest.mark.parametrize("filters", [{}, {"task_name": "shop:1"}, {"status": "FAILURE"}], ids=named)
async def test_a_page_far_down_reads_no_more_than_the_first(plans, filters, order_by):
    if order_by.endswith("task_id") and filters:
        pytest.skip("no index sorts the rows of a filter by task id")
    search = plans.store.search
    deep = (await search(limit=150, order_by=order_by, **filters)).next_cursor
    plans.found.clear()
    page = await search(limit=PAGE, order_by=order_by, cursor=deep, **filters)
    assert plans.rows_read <= MOST_READ
    plans.found.clear()
    await search(limit=PAGE, order_by=order_by, cursor=page.previous_cursor, **filters)
    assert plans.rows_read <= MOST_READ


async def test_stats_of_a_span_of_time_read_the_index_alone(plans):
    await plans.store.stats(since=NOW - timedelta(minutes=10))
    (node,) = [node for node in plans.nodes() if "Index Name" in node]
    assert (node["Node Type"], node["Heap Fetches"]) == ("Index Only Scan", 0)
    assert plans.indexes == {"finished_at_idx"}
    assert plans.rows_read <= 600


async def test_failures_of_a_span_of_time_read_failures_alone(plans):
    groups = await plans.store.failures(since=NOW - timedelta(minutes=10))
    assert sum(group.total for group in groups) == 12
    assert plans.indexes == {"failures_idx", "pkey"}
    assert plans.rows_read <= 2 * 12


@pytest.mark.parametrize(
    ("rest", "index"),
    [
        ("ORDER BY finished_at DESC", "finished_at_idx"),
        ("ORDER BY finished_at", "finished_at_idx"),
        ("WHERE finished_at IS NOT NULL ORDER BY finished_at DESC", "finished_at_idx"),
        ("WHERE task_name = 'shop:1' ORDER BY finished_at DESC", "task_name_idx"),
        ("WHERE status = 'FAILURE' ORDER BY finished_at DESC", "failures_idx"),
        ("WHERE task_id = 'task-77'", "pkey"),
    ],
)
async def test_a_page_of_outcomes_reads_little(plans, admin, rest, index):
    (plan,) = admin.execute(
        "EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) "
        f"SELECT * FROM query_plans.query_plans_outcomes {rest} LIMIT {PAGE}"
    ).fetchone()
    plans.found.append(plan)
    assert index in plans.indexes
    assert plans.rows_read <= MOST_READ


async def test_every_search_works_without_any_index(pool, table_name, admin):
    async with ResultStore(pool=pool, table_name=table_name, indexes=()) as store:
        assert admin.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass",
            [table_name],
        ).fetchall() == [(f"{table_name}_pkey",)]
        await orders(store, 12)
        assert ids(await store.search(task_name=["shop:charge", "shop:mail"], limit=2)) == [
            "0",
            "2",
        ]
        assert ids(await store.search(args=[4])) == ["4"]
        assert ids(await store.search(status="FAILURE")) == ["9"]
        assert sum(row.total for row in await store.stats(by=(), bucket="week")) == 12
        assert len(await store.failures()) == 1


@pytest.mark.parametrize("indexes", [["jsonb"], "json", 5, [["json"]]])
async def test_an_index_that_there_is_not_is_refused(pool, indexes):
    with pytest.raises(ConfigurationError, match="expires_at, failures, finished_at, json"):
        ResultStore(pool=pool, indexes=indexes)
