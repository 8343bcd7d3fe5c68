"""Progress: many updates of few rows, and what they leave behind in the tables."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice, repeat
from typing import TYPE_CHECKING

import psycopg
from measure import Case, Limit, Measurement, batches, drive, new_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import Contender, PostgresContender

CASE = Case("set_progress")
HOT_CASE = Case("progress updates that were HOT")
_ROUNDS = 2

_COUNTERS = """
    SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = %s::regclass
"""


async def measure_progress(
    contenders: Sequence[Contender], tasks: int, updates: int, limit: Limit
) -> list[Measurement]:
    """Let each of ``tasks`` tasks report ``updates`` times, one after the other."""
    rates: dict[str, list[float]] = defaultdict(list)
    turn = limit.left / (len(contenders) * _ROUNDS)
    for _ in range(_ROUNDS):
        for contender in contenders:
            await contender.reset()
            lanes = batches(islice(new_ids(), tasks), contender.shape(tasks).batch)
            sources = [repeat(lane, updates) for lane in lanes]
            sample = await drive(contender.set_progress, sources, seconds=turn)
            rates[contender.name].append(sample.rate)
    return [Measurement(CASE, name, tuple(found), "/s") for name, found in rates.items()]


async def measure_bloat(
    contender: PostgresContender, tasks: int, updates: int, limit: Limit
) -> list[Measurement]:
    """Update the progress of ``tasks`` tasks ``updates`` times in all, and weigh the table."""
    table = contender.tables[-1]
    await contender.reset()
    lanes = batches(islice(new_ids(), tasks), 1)
    sources = [repeat(lane, max(1, updates // tasks)) for lane in lanes]
    async with await psycopg.AsyncConnection.connect(
        contender.server.dsn, autocommit=True
    ) as connection:
        before = await _updates(connection, table)
        sample = await drive(contender.set_progress, sources, seconds=limit.left)
        cursor = await connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table])
        row = await cursor.fetchone()
        await contender.stop()  # a backend reports its counters when it ends
        await contender.start()
        after = await _updates(connection, table)
    updated, hot = (new - old for new, old in zip(after, before, strict=True))
    size = float(row[0] if row else 0)
    case = Case(f"progress table after {sample.operations:,} updates")
    return [
        Measurement(case, contender.name, (size,), "B"),
        Measurement(HOT_CASE, contender.name, (100 * hot / max(1, updated),), "%"),
    ]


async def _updates(connection: psycopg.AsyncConnection, table: str) -> tuple[int, int]:
    """How many updates the table has seen, and how many of them were HOT."""
    await connection.execute("SELECT pg_stat_clear_snapshot()")
    row = await (await connection.execute(_COUNTERS, [table])).fetchone()
    return row or (0, 0)
