"""How much a run measures, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from throughput import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Plan:
    """The amount of work of each part, and the seconds after which it stops by itself.

    Attributes:
        cells: of the throughput, a part for each size of result; what matters most comes first, as
            there may be no time for the last ones.
        progress_tasks: how many tasks report progress.
        progress_updates: how often each of them reports.
        bloat_updates: reports, of all of them together, before their table is weighed.
        latencies: how many results are waited for.
        tasks: how many tasks run end to end.
        rounds: how often they do.
        footprint_results: how many results are stored to be weighed.
        seconds: a part's name to its limit.
    """

    cells: Mapping[str, Sequence[Cell]]
    progress_tasks: int
    progress_updates: int
    bloat_updates: int
    latencies: int
    tasks: int
    rounds: int
    footprint_results: int
    seconds: Mapping[str, float]


WHOLE = Plan(
    cells={
        "small": (
            Cell("small", 200, rounds=12, seconds=0.2),
            Cell("small", 1, rounds=12, seconds=0.15),
            Cell("small", 20, rounds=5, seconds=0.15),
            Cell("small", 2000, rounds=4, seconds=0.3),
        ),
        "medium": (
            Cell("medium", 200, rounds=5, seconds=0.2),
            Cell("medium", 1, rounds=5, seconds=0.2),
            Cell("medium", 20, rounds=3, seconds=0.2),
            Cell("medium", 2000, rounds=2, seconds=0.2),
        ),
        "large": (
            Cell("large", 1, rounds=4, seconds=0.3),
            Cell("large", 20, rounds=2, seconds=0.3),
            Cell("large", 200, rounds=1, seconds=0.3),
        ),
    },
    progress_tasks=100,
    progress_updates=100,
    bloat_updates=100_000,
    latencies=40,
    tasks=10_000,
    rounds=3,
    footprint_results=3_000,
    seconds={
        "small": 290.0,
        "medium": 290.0,
        "large": 270.0,
        "progress": 30.0,
        "bloat": 10.0,
        "latency": 30.0,
        "end-to-end": 120.0,
        "footprint": 30.0,
    },
)
QUICK = Plan(
    cells={
        "small": (
            Cell("small", 20, rounds=1, seconds=0.01),
            Cell("small", 1, rounds=1, seconds=0.01),
        )
    },
    progress_tasks=10,
    progress_updates=5,
    bloat_updates=100,
    latencies=3,
    tasks=50,
    rounds=1,
    footprint_results=200,
    seconds=dict.fromkeys(
        ("small", "progress", "bloat", "latency", "end-to-end", "footprint"), 10.0
    ),
)
FULL = replace(
    WHOLE,
    cells={**WHOLE.cells, "large-at-2000": (Cell("large", 2000, rounds=1, seconds=0.3),)},
    bloat_updates=1_000_000,
    seconds={**WHOLE.seconds, "bloat": 900.0, "large-at-2000": 1.0},  # its one round has no limit
)
