"""What the benchmarked tasks return: plain JSON, so that every backend stores the same."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import orjson
from taskiq import TaskiqResult

if TYPE_CHECKING:
    from collections.abc import Iterator

_ITEM_BYTES = 47  # of an item's JSON, about
_SIZES = {"small": 300, "medium": 10_000, "large": 1_000_000}  # bytes of JSON
_VARIANTS = {"small": 200, "medium": 50, "large": 5}


@dataclass(frozen=True)
class Payload:
    """One size of return value, in a number of variants that are handed out in turn.

    Attributes:
        name: ``small`` (about 300 B of JSON), ``medium`` (10 kB) or ``large`` (1 MB).
        size: bytes of JSON, on average.
        results: endless results, for the backends.
        documents: endless return values as JSON text, for the floor.
    """

    name: str
    size: int
    results: Iterator[TaskiqResult[Any]]
    documents: Iterator[str]


def payload(name: str) -> Payload:
    """Build a payload by its name; the same values in every run."""
    random_source = random.Random(name)
    values = [_order(_SIZES[name], random_source) for _ in range(_VARIANTS[name])]
    texts = [orjson.dumps(value).decode() for value in values]
    size = sum(map(len, texts)) // len(texts)
    return Payload(name, size, cycle(map(result_of, values)), cycle(texts))


def result_of(value: object) -> TaskiqResult[Any]:
    """What taskiq hands to ``set_result`` for a task that returned ``value``."""
    return TaskiqResult(is_err=False, return_value=value, execution_time=0.01, labels={})


def _order(size: int, random_source: random.Random) -> dict[str, object]:
    """An order with as many items as ``size`` bytes of JSON hold."""
    number = random_source.randrange(10**6)
    head = {
        "order": number,
        "customer": {"name": f"Customer {number % 977}", "email": f"{number}@example.org"},
        "created_at": "2026-11-20T13:06:04.123456+00:00",
        "paid": number % 3 > 0,
        "note": None,
    }
    room = size - len(orjson.dumps(head)) - len('"items":[],')
    items = [
        {
            "sku": f"SKU-{random_source.randrange(10**5):05}",
            "quantity": random_source.randrange(1, 10),
            "price": random_source.randrange(100, 10**5) / 100,
        }
        for _ in range(room // _ITEM_BYTES)
    ]
    return {**head, "items": items}
