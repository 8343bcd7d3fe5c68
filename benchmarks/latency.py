"""How long a waiter waits once the result is committed."""

from __future__ import annotations

import asyncio
import random
import time
from itertools import islice
from typing import TYPE_CHECKING

from measure import Case, Limit, Measurement, new_ids
from payloads import payload
from taskiq.task import AsyncTaskiqTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import Backend, BackendContender

CASE = Case("result in hand after its commit")
_STAGGER = 0.05  # seconds between two results
_SPREAD = 0.5  # seconds over which they fall, so that no polling is favoured


async def measure_latency(
    contenders: Sequence[BackendContender], samples: int, limit: Limit
) -> list[Measurement]:
    """Wait with taskiq's own ``wait_result`` while another backend stores the results."""
    measurements = []
    for contender in contenders:
        if limit.left > 0:
            milliseconds = await _delays(contender, samples)
            measurements.append(Measurement(CASE, contender.name, milliseconds, "ms"))
    return measurements


async def _delays(contender: BackendContender, samples: int) -> tuple[float, ...]:
    writer, reader = contender.make(False), contender.make(True)
    await writer.startup()
    await reader.startup()
    try:
        await _delay(writer, reader, "warm-up", 0.0)
        results = [
            _delay(writer, reader, task_id, number * _STAGGER + random.random() * _SPREAD)
            for number, task_id in enumerate(islice(new_ids(), samples))
        ]
        return tuple(await asyncio.gather(*results))
    finally:
        await reader.shutdown()
        await writer.shutdown()


async def _delay(writer: Backend, reader: Backend, task_id: str, after: float) -> float:
    """Milliseconds from the commit of a result to its arrival at a waiter."""

    async def wait() -> float:
        await AsyncTaskiqTask(task_id, reader).wait_result(timeout=30)
        return time.perf_counter()

    waiter = asyncio.create_task(wait())
    await asyncio.sleep(after)
    await writer.set_result(task_id, next(_SMALL.results))
    committed = time.perf_counter()
    # The notification may overtake the writer's own confirmation.
    return max(0.0, await waiter - committed) * 1000


_SMALL = payload("small")
