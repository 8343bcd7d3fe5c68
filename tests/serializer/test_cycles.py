from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest

from taskiq_pg_json.serializer.cycles import is_deeper


@dataclasses.dataclass
class Box:
    content: object


HOLDERS = [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"in": inner}]


def nested(levels, hold=HOLDERS[0], value=1):
    """A value in so many holders, one in the other."""
    for _ in range(levels):
        value = hold(value)
    return value


@pytest.mark.parametrize("hold", HOLDERS)
def test_as_deep_as_the_limit_is_not_deeper(hold):
    assert not is_deeper(nested(10, hold), 10)
    assert is_deeper(nested(11, hold), 10)


def test_dataclasses_are_levels_too():
    assert not is_deeper(nested(5, Box), 10)  # an attribute dict may count as a level
    assert is_deeper(nested(11, Box), 10)


def test_what_is_shared_is_as_deep_wherever_it_is():
    shared = nested(5)
    below = nested(4, value=shared)
    for value in ([shared, below], [below, shared], [shared, [1], below, shared]):
        assert not is_deeper(value, 10)
        assert is_deeper(value, 9)


def test_what_is_shared_at_every_level_is_looked_at_once():
    value = nested(60, lambda inner: [inner, inner])  # two to the power of 60 paths
    assert not is_deeper(value, 60)
    assert is_deeper(value, 59)


def test_what_holds_itself_is_deeper_than_any_limit():
    loop = []
    loop.append(loop)
    longer = [[{}]]
    longer[0][0]["back"] = (longer,)
    box = Box(None)
    box.content = box
    for value in (loop, longer, box, [1, [longer]], {"a": [loop]}):
        assert is_deeper(value, 1_000)


@dataclasses.dataclass
class Watched:
    content: object = None
    looks: ClassVar[int] = 0

    @property
    def __class__(self):
        Watched.looks += 1
        return Watched


def test_what_holds_itself_is_gone_through_once():
    loop = Watched()
    loop.content = [loop]
    assert is_deeper([loop], 1_000)
    assert Watched.looks < 100


@pytest.mark.parametrize("value", [1, "text", None, [], {}, [1, "a"], object()])
def test_what_holds_nothing_is_not_deep(value):
    assert not is_deeper(value, 1)
