"""Measure searching and analysing beside hand-written SQL: ``python benchmarks/search.py``.

Fills a table of a million realistic rows (``--rows``, several for growth) on an embedded PostgreSQL
with its default settings, and prints how long each question takes, by the store and by the SQL that
one would write by hand for it, and what each index costs.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
from rich.console import Console
from rich.table import Table
from search_data import fill, insert
from servers import running_postgres

from taskiq_pg_json import F, ResultStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from search_data import BuiltIndex

_TABLE = "search"
_DAY = timedelta(days=1)
_RUNS = 7
_SECONDS_A_QUESTION = 20.0
_COST_ROWS = 50_000
_COST_RUNS = 5
_ROLLUP = ["_rollup", "_rollup_hours", "_rollup_marks"]
_ROLLUP_FUNCTIONS = ["rollup_mark()", "rollup_forget()"]
_INDEXES = ["json", "task_name", "finished_at", "failures", "unfinished", "expires_at"]


@dataclass(frozen=True)
class Question:
    """One question, asked twice.

    Attributes:
        name: what is asked.
        target: how many milliseconds it may take of a million rows; None where any will do.
        ask: by the store.
        by_hand: in SQL.
    """

    name: str
    target: float | None
    ask: Callable[[ResultStore], Awaitable[object]]
    by_hand: str


QUESTIONS = [
    Question(
        "one hit of a containment",
        10,
        lambda store: store.search(return_value={"order_id": 123456}),
        """SELECT * FROM search WHERE return_value @> '{"order_id": 123456}'
           ORDER BY finished_at DESC LIMIT 50""",
    ),
    Question(
        "twenty hits, nested",
        10,
        lambda store: store.search(return_value={"customer": {"id": "c7"}}),
        """SELECT * FROM search WHERE return_value @> '{"customer": {"id": "c7"}}'
           ORDER BY finished_at DESC LIMIT 50""",
    ),
    Question(
        "one hit of F",
        10,
        lambda store: store.search(where=F.return_value["order_id"] == 123456),
        """SELECT * FROM search WHERE return_value @@ '$.order_id == 123456'
           ORDER BY finished_at DESC LIMIT 50""",
    ),
    Question(
        "newest 50 of a task",
        5,
        lambda store: store.search(task_name="shop.tasks:charge"),
        """SELECT * FROM search WHERE task_name = 'shop.tasks:charge'
           ORDER BY finished_at DESC LIMIT 50""",
    ),
    Question(
        "newest 50 of three tasks",
        5,
        lambda store: store.search(
            task_name=["shop.tasks:nightly", "shop.tasks:score", "shop.tasks:webhook"]
        ),
        """SELECT * FROM search
           WHERE task_name IN ('shop.tasks:nightly', 'shop.tasks:score', 'shop.tasks:webhook')
           ORDER BY finished_at DESC LIMIT 50""",
    ),
    Question(
        "newest 50 failures",
        5,
        lambda store: store.search(status="FAILURE"),
        "SELECT * FROM search WHERE status = 'FAILURE' ORDER BY finished_at DESC LIMIT 50",
    ),
    Question(
        "failures of a day, grouped",
        100,
        lambda store: store.failures(since=_DAY),
        """SELECT task_name, error ->> 'type', error ->> 'fingerprint', count(*),
                  min(finished_at), max(finished_at)
           FROM search WHERE status = 'FAILURE' AND finished_at > now() - interval '1 day'
           GROUP BY 1, 2, 3 ORDER BY 4 DESC""",
    ),
    Question(
        "stats by task, 24 h",
        300,
        lambda store: store.stats(since=_DAY, timeout=60),
        """SELECT task_name, count(*), count(*) FILTER (WHERE status = 'FAILURE'),
                  avg(execution_time), max(execution_time),
                  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY execution_time),
                  avg(started_at - queued_at), max(started_at - queued_at)
           FROM search WHERE finished_at > now() - interval '1 day' GROUP BY 1""",
    ),
    Question(
        "stats by task and hour, 24 h",
        None,
        lambda store: store.stats(since=_DAY, bucket="hour", timeout=60),
        """SELECT task_name, date_trunc('hour', finished_at), count(*), avg(execution_time),
                  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY execution_time)
           FROM search WHERE finished_at > now() - interval '1 day' GROUP BY 1, 2""",
    ),
    Question(
        "stats by task, all rows, with a filter that the rollup lacks",
        None,
        lambda store: store.stats(min_duration=0, timeout=60),
        """SELECT task_name, count(*), avg(execution_time),
                  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY execution_time)
           FROM search GROUP BY 1""",
    ),
    Question(
        "stats by task and day, all rows",
        None,
        lambda store: store.stats(bucket="day", timeout=60),
        """SELECT task_name, date_trunc('day', finished_at), count(*), avg(execution_time),
                  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY execution_time)
           FROM search GROUP BY 1, 2""",
    ),
    Question(
        "stats by task, all rows",
        None,
        lambda store: store.stats(timeout=60),
        """SELECT task_name, count(*), avg(execution_time),
                  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY execution_time)
           FROM search GROUP BY 1""",
    ),
]


async def milliseconds(ask: Callable[[], Awaitable[object]]) -> float:
    """Return the median of some runs, fewer where they take long; the first one warms up."""
    taken: list[float] = []
    deadline = time.perf_counter() + _SECONDS_A_QUESTION
    while len(taken) <= _RUNS and (len(taken) < 2 or time.perf_counter() < deadline):
        started = time.perf_counter()
        await ask()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken[1:])


async def measure(dsn: str) -> dict[str, tuple[float, float]]:
    """Return the milliseconds of each question, by the store and by hand."""
    found = {}
    async with (
        ResultStore(dsn, table_name=_TABLE, migrate="verify") as store,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection,
    ):
        for question in QUESTIONS:

            async def by_hand(query: str = question.by_hand) -> object:
                cursor = await connection.execute(query.encode())
                return await cursor.fetchall()

            async def by_store(ask: Callable[[ResultStore], Any] = question.ask) -> object:
                return await ask(store)

            found[question.name] = (await milliseconds(by_store), await milliseconds(by_hand))
    return found


async def filled(dsn: str, rows: int) -> list[BuiltIndex]:
    """Make the table anew, with so many rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        _drop(connection, _TABLE)
        async with ResultStore(dsn, table_name=_TABLE):
            pass
        return fill(connection, _TABLE, rows)


async def rolled_up(dsn: str) -> str:
    """Count every hour of the rollup; how long that took and what it takes up."""
    async with ResultStore(dsn, table_name=_TABLE, migrate="verify") as store:
        started = time.perf_counter()
        hours = await store.refresh_rollup()
        seconds = time.perf_counter() - started
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"VACUUM (ANALYZE) {_TABLE}_rollup, {_TABLE}_rollup_hours".encode())
        query = f"SELECT pg_total_relation_size('{_TABLE}_rollup'), count(*) FROM {_TABLE}_rollup"
        size, rows = connection.execute(query.encode()).fetchone() or (0, 0)
    return f"rollup: {hours} hours in {seconds:.1f} s, {rows:,} rows, {size / 1e6:.1f} MB"


async def write_costs(dsn: str) -> dict[str, float]:
    """Return the microseconds a row that each index adds to a table that has no other."""
    taken: dict[str, list[float]] = {name: [] for name in ["", *_INDEXES]}
    with psycopg.connect(dsn, autocommit=True) as connection:
        async with ResultStore(dsn, table_name="source", indexes=[]):
            insert(connection, "source", _COST_ROWS, step=_COST_ROWS)
        for name in _COST_RUNS * list(taken):
            async with ResultStore(dsn, table_name="costs", indexes=[name] if name else []):
                pass
            started = time.perf_counter()
            connection.execute("INSERT INTO costs SELECT * FROM source")
            taken[name].append(time.perf_counter() - started)
            _drop(connection, "costs")
        _drop(connection, "source")
    bare = min(taken.pop(""))
    return {name: (min(runs) - bare) / _COST_ROWS * 1e6 for name, runs in taken.items()}


def _drop(connection: psycopg.Connection, table: str) -> None:
    tables = [f"{table}{suffix}" for suffix in ("", "_progress", *_ROLLUP)]
    connection.execute(f"DROP TABLE IF EXISTS {', '.join(tables)} CASCADE".encode())
    for function in ("progress_percent(jsonb)", "progress_text(jsonb)", *_ROLLUP_FUNCTIONS):
        connection.execute(f"DROP FUNCTION IF EXISTS {table}_{function}".encode())


def _print_times(console: Console, times: dict[int, dict[str, tuple[float, float]]]) -> None:
    table = Table(title="Milliseconds, by the store (by hand)")
    table.add_column("question")
    table.add_column("target", justify="right")
    for rows in times:
        table.add_column(f"{rows:,} rows", justify="right")
    for question in QUESTIONS:
        cells = ["{:.1f} ({:.1f})".format(*found[question.name]) for found in times.values()]
        target = "" if question.target is None else f"{question.target:g}"
        table.add_row(question.name, target, *cells)
    console.print(table)


def _print_indexes(
    console: Console, built: dict[int, list[BuiltIndex]], costs: dict[str, float]
) -> None:
    table = Table(title="The indexes: MB, seconds to build")
    table.add_column("index")
    for rows in built:
        table.add_column(f"{rows:,} rows", justify="right")
    for indexes in zip(*built.values(), strict=True):
        cells = [f"{index.size / 1e6:.0f} MB, {index.seconds:.1f} s" for index in indexes]
        table.add_row(indexes[0].name.removeprefix(f"{_TABLE}_"), *cells)
    console.print(table)
    table = Table(title="What an index adds to a row's insertion")
    table.add_column("indexes=")
    table.add_column("µs", justify="right")
    for name, cost in costs.items():
        table.add_row(name, f"{cost:.1f}")
    console.print(table)


async def run(all_rows: list[int]) -> None:
    """Measure at each size, and print."""
    built = {}
    times = {}
    console = Console(width=120)
    with (
        tempfile.TemporaryDirectory(prefix="tpj-") as directory,
        running_postgres(Path(directory)) as server,
    ):
        costs = await write_costs(server.dsn)
        for rows in all_rows:
            console.print(f"{server.version}, {rows:,} rows …")
            built[rows] = await filled(server.dsn, rows)
            console.print(await rolled_up(server.dsn))
            times[rows] = await measure(server.dsn)
    _print_times(console, times)
    _print_indexes(console, built, costs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    asyncio.run(run(parser.parse_args().rows))
