"""A whole application: tasks sent, run and waited for through taskiq's InMemoryBroker."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from measure import Case, Limit, Measurement
from payloads import payload
from taskiq import InMemoryBroker
from taskiq.exceptions import TaskiqResultTimeoutError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contenders import BackendContender

CASE = Case("tasks end to end")
_PATIENCE = 30.0  # seconds that one result may take


async def measure_end_to_end(
    contenders: Sequence[BackendContender], tasks: int, rounds: int, limit: Limit
) -> list[Measurement]:
    """Send ``tasks`` tasks at once and wait for all results; tasks a second.

    A contender whose results do not all come is said so, and has no measurement.
    """
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for contender in contenders:
            if limit.left <= 0:
                continue
            await contender.reset()
            try:
                rates[contender.name].append(tasks / await _seconds(contender, tasks))
            except TaskiqResultTimeoutError:
                print(
                    f"end to end: {contender.name} left tasks without a result for {_PATIENCE:g} s",
                    file=sys.stderr,
                )
    return [Measurement(CASE, name, tuple(found), "/s") for name, found in rates.items()]


async def _seconds(contender: BackendContender, tasks: int) -> float:
    broker = InMemoryBroker().with_result_backend(contender.make(True))
    broker.add_middlewares(*contender.middlewares())

    @broker.task(task_name="orders:load")
    async def load_order(number: int) -> Any:  # noqa: ARG001 - part of the message
        return next(values).return_value

    values = payload("small").results
    await broker.startup()
    gc.collect()  # what others have left
    try:
        start = time.perf_counter()
        sent = await asyncio.gather(*(load_order.kiq(number) for number in range(tasks)))
        await asyncio.gather(*(task.wait_result(timeout=_PATIENCE) for task in sent))
        return time.perf_counter() - start
    finally:
        await broker.wait_all()
        await broker.shutdown()
