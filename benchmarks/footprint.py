"""What results cost: CPU time of PostgreSQL and of Python, and room."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from measure import Batch, Case, Limit, Measurement, batches, drive, new_ids
from payloads import payload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import Contender

SERVER_CASE = Case("server CPU, 10,000 results")
PYTHON_CASE = Case("Python CPU, 10,000 results")
BYTES_CASE = Case("stored, a result")
_CONCURRENCY = 200
_ENOUGH = 60.0  # seconds; all the work is done, however long it takes


async def measure_footprint(
    contenders: Sequence[Contender], results: int, limit: Limit
) -> list[Measurement]:
    """Store, ask for and read ``results`` small results each, 200 at a time."""
    measurements: list[Measurement] = []
    for contender in contenders:
        if limit.left > 0:
            measurements += await _measure(contender, results)
    return measurements


async def _measure(contender: Contender, results: int) -> list[Measurement]:
    await contender.reset()
    empty = await contender.stored_bytes()
    small = payload("small")
    task_ids = list(islice(new_ids(), results))

    async def store(batch: Batch) -> None:
        await contender.set(batch, small)

    shape = contender.shape(_CONCURRENCY)
    server, python = contender.server.cpu_seconds(), time.process_time()
    for call in (store, contender.ready, contender.get):
        work = batches(task_ids, shape.batch)
        await drive(call, [work] * shape.workers, seconds=_ENOUGH)
    server, python = contender.server.cpu_seconds() - server, time.process_time() - python
    stored = await contender.stored_bytes() - empty
    await contender.reset()
    return [
        Measurement(SERVER_CASE, contender.name, (server * 10_000 / results,), "s"),
        Measurement(PYTHON_CASE, contender.name, (python * 10_000 / results,), "s"),
        Measurement(BYTES_CASE, contender.name, (stored / results,), "B"),
    ]
