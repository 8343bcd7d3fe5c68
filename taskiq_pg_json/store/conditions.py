"""Conditions on a row, and how they are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from typing_extensions import override

from taskiq_pg_json.errors import FilterError
from taskiq_pg_json.store.fragments import NoValue

if TYPE_CHECKING:
    from taskiq_pg_json.store.fragments import Fragments


class Condition(NoValue):
    """A condition on the JSON columns of a row. Join them with ``&``, ``|`` and ``~``."""

    def __and__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        return AllOf((*_parts(AllOf, self), *_parts(AllOf, other)))

    def __or__(self, other: Condition) -> Condition:
        if not isinstance(other, Condition):
            return NotImplemented
        return AnyOf((*_parts(AnyOf, self), *_parts(AnyOf, other)))

    def __invert__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> NoReturn:
        raise FilterError(
            "A condition has no truth of its own: join conditions with & | ~, in parentheses, "
            "not with `and`, `or`, `not` or a chained comparison."
        )

    def render(self, fragments: Fragments) -> str:
        """Return the SQL of the condition, its values bound."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class AllOf(Condition):
    """All of these."""

    conditions: tuple[Condition, ...]

    @override
    def render(self, fragments: Fragments) -> str:
        return fragments.all_of([condition.render(fragments) for condition in self.conditions])


@dataclass(frozen=True, eq=False)
class AnyOf(Condition):
    """Any of these."""

    conditions: tuple[Condition, ...]

    @override
    def render(self, fragments: Fragments) -> str:
        return fragments.any_of([condition.render(fragments) for condition in self.conditions])


@dataclass(frozen=True, eq=False)
class Not(Condition):
    """What this is not true of, be it false or unknown."""

    condition: Condition

    @override
    def __invert__(self) -> Condition:
        return self.condition

    @override
    def render(self, fragments: Fragments) -> str:
        return fragments.none_of(self.condition.render(fragments))


def _parts(kind: type[AllOf | AnyOf], condition: Condition) -> tuple[Condition, ...]:
    """Return what a condition joins in this way, so that many are joined in one."""
    return condition.conditions if isinstance(condition, kind) else (condition,)
