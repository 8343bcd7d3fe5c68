"""What this project promises of its speed, and whether a run has kept it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import end_to_end
import latency
import progress_updates
from throughput import case_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measure import Case
    from results import Comparison, Results

_AGAINST_BEST = {"set_result": 5.0, "is_result_ready": 10.0, "get_result": 8.0}
_OPERATIONS = tuple(_AGAINST_BEST)


@dataclass(frozen=True)
class Verdict:
    """One promise and what the run found.

    Attributes:
        promise: what is promised.
        target: the least (or, for a latency, the most) that keeps it.
        found: what the run found, in the same unit.
        unit: of both.
        against: whom it compares with; empty for an absolute promise.
        kept: whether it is kept.
    """

    promise: str
    target: float
    found: float
    unit: str
    against: str
    kept: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """Judge every promise whose measurements the run has."""
    for operation in _OPERATIONS:
        case = case_of(operation, "small", 200)
        yield from _at_least(case, _AGAINST_BEST[operation], results.best_peer(case))
        if operation == "set_result":
            yield from _at_least(case, 0.5, results.floor(case))
    for operation in _OPERATIONS:
        case = case_of(operation, "small", 1)
        yield from _at_least(case, 1.0, results.best_peer(case, postgres_only=True))
    yield from _at_least(progress_updates.CASE, 5.0, results.best_peer(progress_updates.CASE))
    if (hot := results.find(progress_updates.HOT_CASE)) is not None:
        yield Verdict(str(progress_updates.HOT_CASE), 90.0, hot.value, "%", "", hot.value >= 90.0)
    if (delay := results.find(latency.CASE)) is not None:
        yield Verdict(f"{latency.CASE}, median", 5.0, delay.value, "ms", "", delay.value <= 5.0)
    case = end_to_end.CASE
    yield from _at_least(case, 2.0, results.best_peer(case, postgres_only=True))


def _at_least(case: Case, target: float, other: Comparison | None) -> Iterator[Verdict]:
    if other is not None:
        yield Verdict(str(case), target, other.ratio, "x", other.contender, other.ratio >= target)
