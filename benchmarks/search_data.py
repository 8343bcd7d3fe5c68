"""A table of realistic results, filled by the server itself."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

ROWS_A_DAY = 1_000_000

_INDEXES = """
SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid = %s::regclass AND NOT indisprimary ORDER BY 1
"""
# Twelve tasks of very different traffic and duration, 2 % failures of forty causes, and values as
# an order system returns them: nested, with texts, numbers, times and a list.
_FILL = """
INSERT INTO {table} (
    task_id, task_name, worker, status, return_value, error, args, kwargs, labels,
    execution_time, queued_at, started_at, finished_at, types, serializer)
SELECT md5(i::text),
       'shop.tasks:' || (ARRAY['charge', 'send_mail', 'resize', 'sync_stock', 'invoice', 'export',
           'import', 'report', 'cleanup', 'webhook', 'score', 'nightly'])[task],
       'worker-' || i %% 16 || ':' || 100 + i %% 4,
       CASE WHEN failed THEN 'FAILURE' ELSE 'SUCCESS' END,
       CASE WHEN NOT failed THEN jsonb_build_object(
           'order_id', i,
           'customer', jsonb_build_object('id', 'c' || i %% 50000, 'country',
               (ARRAY['DE', 'FR', 'US', 'JP', 'BR', 'IN'])[1 + i %% 6]),
           'total', to_char(i %% 100000 / 100.0, 'FM9990.00'),
           'paid', i %% 10 <> 0,
           'created_at', to_char(ended AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"+00:00"'),
           'items', jsonb_build_array(
               jsonb_build_object('sku', 'A' || i %% 1000, 'price', i %% 90, 'count', 1 + i %% 3),
               jsonb_build_object('sku', 'B' || i %% 777, 'price', i %% 40, 'count', 2)))
       END,
       CASE WHEN failed THEN jsonb_build_object(
           'type', (ARRAY['ValueError', 'TimeoutError', 'KeyError'])[1 + cause %% 3],
           'module', 'builtins', 'message', 'order ' || i || ' failed by cause ' || cause,
           'fingerprint', md5(cause::text),
           'traceback', repeat('  File "/srv/shop/tasks.py", line ' || cause || chr(10), 25)
                        || 'ValueError: order ' || i)
       END,
       jsonb_build_array(i),
       jsonb_build_object('dry_run', i %% 20 = 0, 'attempt', i %% 3),
       jsonb_build_object('tenant', 't' || i %% 200, 'queue', 'q' || i %% 4),
       seconds,
       ended - make_interval(secs => seconds + waited), ended - make_interval(secs => seconds),
       ended,
       CASE WHEN NOT failed THEN jsonb_build_object('v', 1, 'return_value',
           '{{"fields": {{"total": "Decimal", "created_at": "datetime"}}}}'::jsonb) END,
       'json'
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS i
CROSS JOIN LATERAL (
    SELECT least(12, 1 + floor(-ln(1 - (hashint8(i) & 65535) / 65536.0) * 2.5))::int AS task,
           (hashint8(i + 1) & 65535) %% 50 = 0 AS failed,
           (hashint8(i + 2) & 65535) %% 40 AS cause,
           -ln(1 - (hashint8(i + 3) & 65535) / 65536.0) / 10 AS waited,
           now() - (%(rows)s - i) * interval '1 day' / %(a_day)s AS ended
) AS drawn
CROSS JOIN LATERAL (
    SELECT exp(sqrt(-2 * ln((1 + (hashint8(i + 4) & 65535)) / 65537.0))
               * cos(2 * pi() * (hashint8(i + 5) & 65535) / 65536.0)) * task / 20 AS seconds
) AS ran
"""
_STEP = 100_000


@dataclass(frozen=True)
class BuiltIndex:
    """One index after the rows were there.

    Attributes:
        name: its name.
        seconds: how long it took to build.
        size: its size in bytes.
    """

    name: str
    seconds: float
    size: int


def fill(connection: psycopg.Connection, table: str, rows: int) -> list[BuiltIndex]:
    """Fill a table that ``ResultStore`` has made; a day's load is a million rows.

    The indexes are dropped first and built afterwards.
    """
    indexes = connection.execute(_INDEXES, [table]).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    insert(connection, table, rows, step=_STEP)
    built = list(_build(connection, indexes))
    connection.execute(f"VACUUM (ANALYZE) {table}")
    return built


def insert(connection: psycopg.Connection, table: str, rows: int, *, step: int) -> None:
    """Insert rows that end now, ``step`` of them in one statement."""
    statement = sql.SQL(_FILL).format(table=sql.SQL(table))
    for first in range(1, rows + 1, step):
        last = min(rows, first + step - 1)
        values = {"first": first, "last": last, "rows": rows, "a_day": ROWS_A_DAY}
        connection.execute(statement, values)


def _build(connection: psycopg.Connection, indexes: list[tuple[str, str]]) -> Iterator[BuiltIndex]:
    for name, definition in indexes:
        started = time.perf_counter()
        connection.execute(definition)
        seconds = time.perf_counter() - started
        row = connection.execute("SELECT pg_relation_size(%s::regclass)", [name]).fetchone()
        yield BuiltIndex(name, seconds, row[0] if row else 0)
