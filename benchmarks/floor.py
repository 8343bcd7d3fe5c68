"""The floor: hand-written psycopg statements on the same tables, with nothing around them.

Results come as ready-made rows and whole batches, two connections take turns: what a backend could
reach if calling it, encoding results and gathering batches cost nothing.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import orjson
import psycopg
from contenders import BenchmarkError, Contender, tables_bytes, truncate
from measure import Batch, Shape
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Sequence

    from payloads import Payload
    from servers import Server

_CONNECTIONS = 2
_LARGEST_BATCH = 500
_RESULTS, _PROGRESS = "bench_floor", "bench_floor_progress"

_COLUMNS = "task_id, status, return_value, execution_time, finished_at, serializer"
_UPDATE = """
    ON CONFLICT (task_id) DO UPDATE SET
        status = excluded.status, return_value = excluded.return_value,
        execution_time = excluded.execution_time, finished_at = excluded.finished_at,
        serializer = excluded.serializer
"""
_SET_ONE = f"""
    INSERT INTO {_RESULTS} ({_COLUMNS})
    VALUES (%b::text, %b::text, (%b::text)::jsonb, %b::float8, %b::timestamptz, %b::text)
    {_UPDATE}
"""
_SET_MANY = f"""
    INSERT INTO {_RESULTS} ({_COLUMNS})
    SELECT i, s, v::jsonb, e, f, z
    FROM unnest(%b::text[], %b::text[], %b::text[], %b::float8[], %b::timestamptz[], %b::text[])
        AS _ (i, s, v, e, f, z)
    {_UPDATE}
"""
# OFFSET 0 keeps the planner at the index, however empty the table was when it planned.
_READY = f"""
    SELECT i
    FROM unnest(%b::text[]) AS _ (i)
    CROSS JOIN LATERAL (
        SELECT FROM {_RESULTS} WHERE task_id = i AND finished_at IS NOT NULL OFFSET 0
    ) AS result
"""
_GET = f"""
    SELECT i, result.*
    FROM unnest(%b::text[]) AS _ (i)
    CROSS JOIN LATERAL (
        SELECT return_value::text, status, error::text, labels::text, log, execution_time,
               types::text, pickled, serializer
        FROM {_RESULTS} WHERE task_id = i AND finished_at IS NOT NULL OFFSET 0
    ) AS result
"""
_SET_PROGRESS = f"""
    INSERT INTO {_PROGRESS} (task_id, state, meta, updated_at)
    SELECT i, s, m::jsonb, now() FROM unnest(%b::text[], %b::text[], %b::text[]) AS _ (i, s, m)
    ON CONFLICT (task_id) DO UPDATE SET
        state = excluded.state, meta = excluded.meta, updated_at = excluded.updated_at
"""
_META = '{"done": 42, "of": 100, "step": "resizing images"}'


class Floor(Contender):
    """psycopg alone, on tables with the same columns and indexes as ``tables``.

    Args:
        server: a PostgreSQL.
        tables: this project's results and progress.
    """

    def __init__(self, server: Server, tables: Sequence[str]) -> None:
        super().__init__("floor: psycopg", "floor", server)
        self._like = tables
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    @override
    def shape(self, concurrency: int) -> Shape:
        workers = min(_CONNECTIONS, concurrency)
        return Shape(workers, batch=min(_LARGEST_BATCH, concurrency // workers))

    @override
    async def start(self) -> None:
        connect = psycopg.AsyncConnection.connect
        dsn = self.server.dsn
        self._idle = [await connect(dsn, autocommit=True) for _ in range(_CONNECTIONS)]
        for table, like in zip((_RESULTS, _PROGRESS), self._like, strict=True):
            await self._idle[0].execute(f"CREATE TABLE {table} (LIKE {like} INCLUDING ALL)")

    @override
    async def stop(self) -> None:
        for connection in self._idle:
            await connection.close()

    @override
    async def reset(self) -> None:
        await truncate(self.server, (_RESULTS, _PROGRESS))

    @override
    async def stored_bytes(self) -> int:
        return await tables_bytes(self.server, (_RESULTS, _PROGRESS))

    @override
    async def set(self, batch: Batch, payload: Payload) -> None:
        n = len(batch)
        now = datetime.now(timezone.utc)
        if n == 1:
            row = [batch[0], "SUCCESS", next(payload.documents), 0.01, now, "json"]
            await self._run(_SET_ONE, row)
            return
        values = [next(payload.documents) for _ in batch]
        constant = ([0.01] * n, [now] * n, ["json"] * n)
        await self._run(_SET_MANY, [batch, ["SUCCESS"] * n, values, *constant])

    @override
    async def ready(self, batch: Batch) -> None:
        if len(await self._run(_READY, [batch])) != len(set(batch)):
            raise BenchmarkError("floor: results that were set are not ready")

    @override
    async def get(self, batch: Batch) -> None:
        rows = await self._run(_GET, [batch])
        values = {task_id: orjson.loads(value) for task_id, value, *_ in rows}
        if len(values) != len(set(batch)):
            raise BenchmarkError("floor: results that were set are missing")

    @override
    async def set_progress(self, batch: Batch) -> None:
        n = len(batch)
        await self._run(_SET_PROGRESS, [batch, ["STARTED"] * n, [_META] * n])

    async def _run(self, statement: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
        connection = self._idle.pop()
        try:
            cursor = connection.cursor(binary=True)
            await cursor.execute(statement.encode(), parameters, prepare=True)
            return await cursor.fetchall() if cursor.description else []
        finally:
            self._idle.append(connection)
