"""The measurements of one run, and how this project compares in them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from contenders import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contenders import Contender
    from measure import Case, Measurement

_MORE_IS_BETTER = frozenset({"/s", "%"})


@dataclass(frozen=True)
class Comparison:
    """This project beside another contender.

    Attributes:
        contender: the other one's name.
        value: the other one's value.
        ratio: how many times better this project is, whichever way better lies.
    """

    contender: str
    value: float
    ratio: float


class Results:
    """What was measured.

    Attributes:
        contenders: the names, in the order of the tables.
        measurements: each case of each contender.
        environment: where and with what it was measured.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        measurements: Sequence[Measurement],
        environment: dict[str, str],
    ) -> None:
        self.contenders = [contender.name for contender in contenders]
        self.measurements = measurements
        self.environment = environment
        self._peers = {c.name for c in contenders if c.kind == "peer"}
        self._floor = {c.name for c in contenders if c.kind == "floor"}
        ours = next(c for c in contenders if c.name == OURS)
        self._neighbours = {c.name for c in contenders if c.server is ours.server} & self._peers
        self._found = {(m.case, m.contender): m for m in measurements}

    @property
    def cases(self) -> list[Case]:
        """Every case, in the order of measuring."""
        return list(dict.fromkeys(m.case for m in self.measurements))

    def loads(self, operation: str) -> list[Case]:
        """The cases of one operation."""
        return [case for case in self.cases if case.operation == operation]

    def find(self, case: Case, contender: str = OURS) -> Measurement | None:
        """What a contender reached, if it was measured."""
        return self._found.get((case, contender))

    def best_peer(self, case: Case, *, postgres_only: bool = False) -> Comparison | None:
        """The best of the other result backends, or of those on PostgreSQL."""
        return self._best(case, self._neighbours if postgres_only else self._peers)

    def floor(self, case: Case) -> Comparison | None:
        """The hand-written statements."""
        return self._best(case, self._floor)

    def _best(self, case: Case, names: set[str]) -> Comparison | None:
        ours = self.find(case)
        others = [found for name in names if (found := self.find(case, name))]
        if ours is None or not others:
            return None
        if ours.unit in _MORE_IS_BETTER:
            best = max(others, key=lambda m: m.value)
            return Comparison(best.contender, best.value, ours.value / best.value)
        best = min(others, key=lambda m: m.value)
        # A waiter can have its result in no measurable time at all.
        return Comparison(best.contender, best.value, best.value / max(ours.value, 1e-3))

    def write_json(self, path: Path) -> None:
        """Write everything, every round's value included."""
        measurements = [{**asdict(m), "value": m.value} for m in self.measurements]
        document = {"environment": self.environment, "measurements": measurements}
        path.write_text(json.dumps(document, indent=1) + "\n")
