"""The SQL of the cookbook, run on a small shop's results.

``python tests/cookbook.py`` writes the outputs into the page anew, from the embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import servers
from psycopg import postgres

from taskiq_pg_json import ResultStore

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "sql-cookbook.md"
RECIPE = re.compile(
    r"^## (?P<title>.+?)\n.*?```sql\n(?P<sql>.+?)```\n\n```text\n(?P<output>.*?)```",
    re.DOTALL | re.MULTILINE,
)

_NUMBERS = {
    postgres.types[name].oid for name in ("int2", "int4", "int8", "float4", "float8", "numeric")
}

_SHOP = """
INSERT INTO taskiq_results (
    task_id, task_name, worker, status, return_value, error, args, kwargs, labels,
    execution_time, queued_at, started_at, finished_at)
SELECT 'task-' || i, task, 'web:' || i % 4, CASE WHEN failed THEN 'FAILURE' ELSE 'SUCCESS' END,
       CASE WHEN NOT failed THEN CASE task
           WHEN 'shop:charge' THEN jsonb_build_object(
               'order_id', i, 'customer', jsonb_build_object(
                   'id', 'c' || i % 7, 'country', (ARRAY['DE', 'FR', 'US'])[1 + i % 7 % 3]),
               'total', to_char(i % 40 + 0.5, 'FM990.00'), 'paid', i % 4 <> 0,
               'created_at', to_char(ended AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
               'items', jsonb_build_array(
                   jsonb_build_object('sku', 'A' || i % 5, 'price', i % 40, 'count', 1 + i % 3),
                   jsonb_build_object('sku', 'B1', 'price', 0.5, 'count', 1)))
           WHEN 'shop:mail' THEN jsonb_build_object('to', 'user' || i % 9 || '@example.com')
           ELSE to_jsonb(i * 10) END END,
       CASE WHEN failed THEN jsonb_build_object(
           'type', CASE WHEN i = 10 THEN 'StockError' WHEN i % 20 = 0 THEN 'TimeoutError'
                   ELSE 'PaymentError' END,
           'module', CASE WHEN i % 20 = 0 THEN 'builtins' ELSE 'shop.errors' END,
           'message', CASE WHEN i = 10 THEN 'sold out' WHEN i % 20 = 0 THEN 'no answer in 5 s'
                      ELSE 'card ' || i || ' declined' END,
           'fingerprint', md5(CASE WHEN i = 10 THEN 'stock' ELSE (i % 20)::text END),
           'traceback', 'Traceback (most recent call last): …')
       END,
       jsonb_build_array(i), jsonb_build_object('dry_run', i % 5 = 0, 'attempt', i % 3),
       jsonb_build_object('tenant', 't' || i % 2), (1 + i % 13) / 4.0,
       ended - make_interval(secs => (1 + i % 13) / 4.0 + i % 5),
       ended - make_interval(secs => (1 + i % 13) / 4.0), ended
FROM generate_series(1, 200) AS i
CROSS JOIN LATERAL (
    SELECT (ARRAY['shop:charge', 'shop:mail', 'shop:report'])[1 + i % 3] AS task,
           i % 10 = 0 AS failed, now() - i * interval '10 minutes' AS ended
) AS drawn;

INSERT INTO taskiq_results (task_id, task_name, worker, status, args, kwargs, queued_at, started_at)
VALUES ('running-1', 'shop:report', 'web:1', 'STARTED', '[1]', '{}', now() - interval '3 hours',
        now() - interval '2 hours'),
       ('running-2', 'shop:report', 'web:2', 'STARTED', '[2]', '{}', now(), now()),
       ('queued-1', 'shop:mail', NULL, 'QUEUED', '[3]', '{}', now() - interval '30 minutes', NULL);

INSERT INTO taskiq_results_progress (task_id, state, meta, updated_at)
VALUES ('running-1', 'STARTED', '{"percent": 35, "message": "Reading rows"}',
        now() - interval '1 hour'),
       ('running-2', 'STARTED', '{"current": 9, "total": 10}', now());

ANALYZE taskiq_results;
"""


async def make_shop(dsn: str, schema: str) -> None:
    """Make and fill the shop's table in a schema."""
    async with ResultStore(dsn, schema=schema):
        pass
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SELECT set_config('search_path', %s, false)", [schema])
        await connection.execute(_SHOP)


def output_of(connection: psycopg.Connection, query: str) -> str:
    """Return the rows of a query, as psql shows them."""
    cursor = connection.execute(query)
    result = cursor.pgresult
    header = [column.name for column in cursor.description]
    aligned = [
        str.rjust if column.type_code in _NUMBERS else str.ljust for column in cursor.description
    ]
    rows = [
        [(result.get_value(row, column) or b"").decode() for column in range(result.nfields)]
        for row in range(result.ntuples)
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    centred = [str.center] * len(header)
    lines = [_line(header, widths, centred), "-+-".join("-" * width for width in widths)]
    lines += [_line(row, widths, aligned) for row in rows]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _line(cells: list[str], widths: list[int], aligned: list[Callable[[str, int], str]]) -> str:
    return " | ".join(
        align(cell, width) for cell, width, align in zip(cells, widths, aligned, strict=True)
    )


def _write() -> None:
    page = PAGE.read_text("utf-8")
    with servers.running(servers.found()[0]) as dsn:
        asyncio.run(make_shop(dsn, "shop"))
        with psycopg.connect(dsn, options="-c search_path=shop -c timezone=UTC") as connection:
            for recipe in reversed(list(RECIPE.finditer(page))):
                output = output_of(connection, recipe["sql"])
                page = page[: recipe.start("output")] + output + page[recipe.end("output") :]
    PAGE.write_text(page, "utf-8")


if __name__ == "__main__":
    _write()
