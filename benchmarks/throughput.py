"""Storing, asking and reading: operations a second, by size of result and concurrency."""

from __future__ import annotations

import random
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

from measure import Batch, Case, Limit, Measurement, Sample, batches, drive, new_ids
from payloads import Payload, payload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from contenders import Contender


_FASTEST = 100_000
"""Results a second that nobody stores: as many ids are made before the clock runs."""


@dataclass(frozen=True)
class Cell:
    """One size of result at one concurrency.

    Attributes:
        payload: its name.
        concurrency: results in flight.
        rounds: how often each contender has its turn, where there is time for it.
        seconds: of a turn, for each operation.
    """

    payload: str
    concurrency: int
    rounds: int
    seconds: float


def case_of(operation: str, size: str, concurrency: int) -> Case:
    """The case that ``operation`` makes of a cell."""
    return Case(operation, f"{size} at {concurrency:,}")


async def measure_throughput(
    contenders: Sequence[Contender], cells: Sequence[Cell], limit: Limit
) -> list[Measurement]:
    """Measure each cell in turn, with fewer rounds where the machine is too slow for all.

    A peer that gives up in a cell is said so, and has no measurement there.
    """
    measurements: list[Measurement] = []
    turns = [cell.rounds * cell.seconds for cell in cells]
    for number, cell in enumerate(cells):
        if limit.left <= 0:
            print(f"no time left for {cell.payload} at {cell.concurrency:,}", file=sys.stderr)
            continue
        share = Limit(limit.left * turns[number] / sum(turns[number:]))
        measurements += await _measure_cell(contenders, cell, share)
    for contender in contenders:
        await contender.reset()
    return measurements


async def _measure_cell(
    contenders: Sequence[Contender], cell: Cell, limit: Limit
) -> list[Measurement]:
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    values = payload(cell.payload)
    warm_up = replace(cell, concurrency=min(20, cell.concurrency), seconds=0.02)
    for contender in contenders:
        await contender.reset()
        await _turn(contender, warm_up, values, warm_up.seconds)
    given_up: set[str] = set()
    for number in range(cell.rounds):
        if number and limit.left <= 0:
            break
        for contender in contenders:
            if contender.name in given_up:
                continue
            try:
                samples = await _turn(contender, cell, values, cell.seconds)
            except Exception as error:
                if contender.kind != "peer":
                    raise
                where = f"{cell.payload} at {cell.concurrency:,}"
                print(f"{where}: {contender.name} gave up: {error!r}", file=sys.stderr)
                given_up.add(contender.name)
                continue
            for operation, sample in samples.items():
                rates[operation, contender.name].append(sample.rate)
    return [
        Measurement(case_of(operation, cell.payload, cell.concurrency), name, tuple(found), "/s")
        for (operation, name), found in rates.items()
        if name not in given_up
    ]


async def _turn(
    contender: Contender, cell: Cell, values: Payload, seconds: float
) -> dict[str, Sample]:
    """Store new results, then ask for and read the same ones in another order."""
    shape = contender.shape(cell.concurrency)
    stored: list[str] = []

    async def store(batch: Batch) -> None:
        await contender.set(batch, values)
        stored.extend(batch)

    new = _new_batches(shape.batch, int(seconds * _FASTEST))
    written = await drive(store, [new] * shape.workers, seconds=seconds)
    random.shuffle(stored)
    again = [cycle(list(batches(stored, shape.batch)))] * shape.workers
    return {
        "set_result": written,
        "is_result_ready": await drive(contender.ready, again, seconds=seconds),
        "get_result": await drive(contender.get, again, seconds=seconds),
    }


def _new_batches(size: int, ready_made: int) -> Iterator[Batch]:
    """Endless batches of new ids, the first of them made at once."""
    ids = new_ids()
    return chain(list(batches(islice(ids, ready_made), size)), batches(ids, size))
