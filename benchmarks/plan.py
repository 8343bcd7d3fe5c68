"""How much a run measures, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughput import CELLS, QUICK_CELLS, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Plan:
    """The amount of work of each part, and the seconds after which it stops by itself.

    Attributes:
        cells: sizes and concurrencies of the throughput part.
        progress_tasks: how many tasks report progress.
        progress_updates: how often each of them reports.
        bloat_updates: reports, of all of them together, before their table is weighed.
        latencies: how many results are waited for.
        tasks: how many tasks run end to end.
        rounds: how often they do.
        footprint_results: how many results are stored to be weighed.
        seconds: a part's name to its limit; 300 in all.
    """

    cells: Sequence[Cell]
    progress_tasks: int
    progress_updates: int
    bloat_updates: int
    latencies: int
    tasks: int
    rounds: int
    footprint_results: int
    seconds: dict[str, float]


WHOLE = Plan(
    cells=CELLS,
    progress_tasks=100,
    progress_updates=100,
    bloat_updates=100_000,
    latencies=40,
    tasks=10_000,
    rounds=2,
    footprint_results=3_000,
    seconds={
        "throughput": 165.0,
        "progress": 20.0,
        "bloat": 10.0,
        "latency": 15.0,
        "end to end": 55.0,
        "footprint": 20.0,
    },
)
QUICK = Plan(
    cells=QUICK_CELLS,
    progress_tasks=10,
    progress_updates=5,
    bloat_updates=100,
    latencies=3,
    tasks=50,
    rounds=1,
    footprint_results=200,
    seconds=dict.fromkeys(WHOLE.seconds, 10.0),
)
