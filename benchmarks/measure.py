"""How the work is driven and what is measured of it: the same for every contender."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median

Batch = Sequence[str]
"""The task ids of one call: one for a backend, many for a statement of the floor."""

Call = Callable[[Batch], Awaitable[None]]


@dataclass(frozen=True)
class Shape:
    """How a contender is kept busy: ``workers`` calls at a time, of ``batch`` task ids each."""

    workers: int
    batch: int


@dataclass(frozen=True)
class Sample:
    """One stretch of measured work.

    Attributes:
        operations: how many were done.
        seconds: by the clock.
    """

    operations: int
    seconds: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


@dataclass(frozen=True)
class Case:
    """What was measured: an operation under a load.

    Attributes:
        operation: such as ``set_result``.
        load: such as ``small, 200 concurrent``; empty where there is only one.
    """

    operation: str
    load: str = ""

    def __str__(self) -> str:
        return f"{self.operation}, {self.load}" if self.load else self.operation


@dataclass(frozen=True)
class Measurement:
    """What the rounds of one case gave for one contender.

    Attributes:
        case: what was measured.
        contender: its name.
        values: one a round.
        unit: of the values.
    """

    case: Case
    contender: str
    values: tuple[float, ...]
    unit: str

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.values)


class Limit:
    """The seconds that a part of the benchmark may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left; negative when it is over."""
        return self._end - time.perf_counter()


def new_ids() -> Iterator[str]:
    """Endless task ids that look like taskiq's."""
    while True:
        yield f"{random.getrandbits(128):032x}"


def batches(task_ids: Iterable[str], size: int) -> Iterator[Batch]:
    """Cut task ids into batches of ``size``, the last one perhaps smaller."""
    remaining = iter(task_ids)
    while batch := list(islice(remaining, size)):
        yield batch


async def drive(call: Call, sources: Sequence[Iterable[Batch]], *, seconds: float) -> Sample:
    """Let a worker for each source make its calls, until the work or the time is used up.

    Workers may share one iterator: then each takes the next batch when it is free.
    """
    operations = 0

    async def worker(source: Iterable[Batch]) -> None:
        nonlocal operations
        for batch in source:
            await call(batch)
            operations += len(batch)
            if time.perf_counter() > deadline:
                return

    gc.collect()
    start = time.perf_counter()
    deadline = start + seconds
    workers = [asyncio.ensure_future(worker(source)) for source in sources]
    try:
        await asyncio.gather(*workers)
    except BaseException:
        for unfinished in workers:
            unfinished.cancel()
        await asyncio.wait(workers)
        raise
    return Sample(operations, time.perf_counter() - start)
