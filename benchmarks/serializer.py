"""How fast the serializer is beside orjson and pickle: medians of CPU time, in one process.

Run ``python benchmarks/serializer.py``. The JSON is read back as jsonb hands it out, with its keys
sorted by length. Each line has the median time of one call, its ratio to the yardstick, the
target for that ratio, and the size of the type sidecar.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import random
import statistics
import time
import uuid
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import pydantic

from taskiq_pg_json.serializer import EncodedRow, JsonSerializer

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 0.4
_START = datetime(2024, 1, 1, tzinfo=timezone.utc)


@dataclasses.dataclass
class Invoice:
    """A row of the class tables."""

    number: int
    at: datetime
    amount: Decimal
    customer: str
    note: str | None = None


@dataclasses.dataclass
class PaidInvoice(Invoice):
    """One row in a hundred."""

    paid: bool = True


class InvoiceModel(pydantic.BaseModel):
    """The same as a model."""

    number: int
    at: datetime
    amount: Decimal
    customer: str
    note: str | None = None


class PaidInvoiceModel(InvoiceModel):
    """One row in a hundred."""

    paid: bool = True


def _plain_rows() -> list[dict[str, Any]]:
    return [
        {"id": i, "name": f"customer {i}", "score": i / 7, "active": i % 3 == 0, "city": "Utrecht"}
        for i in range(12_000)
    ]


def _tree(depth: int, rng: random.Random) -> Any:
    if depth == 0:
        return rng.choice([1, 2.5, "leaf of the tree", None, True, "another text"])
    if rng.random() < 0.5:
        return [_tree(depth - 1, rng) for _ in range(rng.randint(2, 7))]
    return {f"key{rng.randint(0, 40)}": _tree(depth - 1, rng) for _ in range(rng.randint(2, 7))}


def _responses() -> dict[str, Any]:
    """What an API returns: nested, of few shapes, some of them optional."""
    return {
        "page": 1,
        "next": None,
        "items": [
            {
                "order_id": i,
                "status": "paid",
                "customer": {
                    "id": i * 7,
                    "name": f"customer {i}",
                    "email": f"customer{i}@example.org",
                    "address": {"street": "Oudegracht 1", "city": "Utrecht", "zip": "3511"},
                },
                "lines": [
                    {"sku": f"sku-{n}", "quantity": n, "price": n * 1.25, "options": {"size": "L"}}
                    for n in range(1, 2 + i % 5)
                ],
                **({"discount": {"code": "SPRING", "percent": 5.5}} if i % 5 == 0 else {}),
                "tags": ["new", "vip"][: i % 3],
                "note": None if i % 2 else "call first",
            }
            for i in range(2_500)
        ],
    }


def _typed_rows() -> list[dict[str, Any]]:
    return [
        {"id": i, "at": _START + timedelta(seconds=i), "price": Decimal(i) / 100}
        for i in range(10_000)
    ]


def _instances(base: Any, derived: Any) -> list[Any]:
    return [
        (derived if i % 100 == 0 else base)(
            number=i,
            at=_START + timedelta(seconds=i),
            amount=Decimal(i) / 100,
            customer=f"customer {i}",
            note=None if i % 2 else "paid late",
        )
        for i in range(10_000)
    ]


def _small() -> dict[str, Any]:
    return {
        "id": 17,
        "ok": True,
        "name": "Ada Lovelace",
        "score": 0.75,
        "tags": ["new", "vip"],
        "at": datetime(2024, 5, 1, 12, 30, 15, 123456),  # noqa: DTZ001 - as results often are
        "amount": Decimal("12.50"),
        "order": uuid.UUID(int=1 << 100),
        "note": None,
        "address": {"city": "Utrecht", "zip": "3511"},
    }


def _median(call: Callable[[], object]) -> float:
    """Seconds of CPU that a call takes, median over as many as fit."""
    call()
    times: list[float] = []
    loops = 1
    deadline = time.perf_counter() + _SECONDS
    while time.perf_counter() < deadline or len(times) < 5:
        start = time.process_time()
        for _ in range(loops):
            call()
        spent = time.process_time() - start
        if spent < 0.002:
            loops *= 4
            continue
        times.append(spent / loops)
    return statistics.median(times)


def _stored(row: EncodedRow) -> EncodedRow:
    """The row as jsonb hands it out: keys by length, then by bytes."""

    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: sort(value[k]) for k in sorted(value, key=lambda k: (len(k.encode()), k))}
        return [sort(v) for v in value] if isinstance(value, list) else value

    def again(data: bytes) -> bytes:
        return orjson.dumps(sort(orjson.loads(data)))

    columns = {name: again(data) for name, data in row.columns.items()}
    return EncodedRow(columns, None if row.types is None else again(row.types), row.pickled)


def _line(what: str, ours: float, yardstick: float, target: str, note: str = "") -> None:
    print(f"{what:<46}{ours * 1e6:>12,.1f} µs {ours / yardstick:>7.2f}x  {target:<22}{note}")


def _case(name: str, value: Any, *, encode_target: str, decode_target: str, rival: str) -> None:
    serializer = JsonSerializer()
    row = serializer.encode({"return_value": value}, task_id="t")
    stored = _stored(row)
    found = serializer.decode(stored, task_id="t")["return_value"]
    if found != value:
        raise SystemExit(f"{name}: what came back differs")
    plain = orjson.loads(row.columns["return_value"])
    text, pickled = stored.columns["return_value"], pickle.dumps(value, protocol=5)
    sidecar = len(row.types or b"")
    note = f"sidecar {sidecar:,} B of {len(text):,} B" if sidecar else f"{len(text):,} B"
    encode = _median(lambda: serializer.encode({"return_value": value}, task_id="t"))
    decode = _median(lambda: serializer.decode(stored, task_id="t"))
    unordered = JsonSerializer(preserve_order=False)
    bare = _stored(unordered.encode({"return_value": value}, task_id="t"))
    decode_bare = _median(lambda: unordered.decode(bare, task_id="t"))
    if rival == "pickle":
        dumps, loads = (
            _median(lambda: pickle.dumps(value, protocol=5)),
            _median(lambda: pickle.loads(pickled)),
        )
    else:
        dumps, loads = _median(lambda: orjson.dumps(plain)), _median(lambda: orjson.loads(text))
    _line(f"{name}: encode / {rival}", encode, dumps, encode_target, note)
    if name.startswith("10,000 dicts"):
        both = _median(lambda: (pickle.dumps(value), json.dumps(plain)))
        _line(f"{name}: encode / pickle+json", encode, both, "≤ 1.0")
    _line(f"{name}: decode / {rival}", decode, loads, decode_target)
    if rival == "orjson":
        _line(f"{name}: decode, order not kept", decode_bare, loads, decode_target)


def _row(name: str, columns: dict[str, Any]) -> None:
    """What a task costs: a whole row, beside pickling its columns."""
    serializer = JsonSerializer()
    stored = _stored(serializer.encode(columns, task_id="t"))
    pickled = pickle.dumps(columns, protocol=5)
    encode = _median(lambda: serializer.encode(columns, task_id="t"))
    decode = _median(lambda: serializer.decode(stored, task_id="t"))
    _line(f"row of {name}: encode", encode, _median(lambda: pickle.dumps(columns, protocol=5)), "")
    _line(f"row of {name}: decode", decode, _median(lambda: pickle.loads(pickled)), "")


def main() -> None:
    """Print the table."""
    tree = {"trees": [_tree(6, random.Random(seed)) for seed in range(30)]}
    text = "All happy families are alike. " * 35_000
    fast, typed = {"encode_target": "≤ 6", "decode_target": "≤ 1.3"}, "≤ 1.5"
    _case("1 MB of plain rows", _plain_rows(), rival="orjson", **fast)
    tree_targets = {"encode_target": "≤ 8", "decode_target": "≤ 1.3"}
    _case("1 MB of API responses", _responses(), rival="orjson", **tree_targets)
    _case("3 MB of random tree", tree, rival="orjson", **tree_targets)
    _case("1 MB of text", text, rival="orjson", encode_target="≤ 2", decode_target="≤ 1.3")
    _case(
        "10,000 dicts, datetime and Decimal",
        _typed_rows(),
        rival="orjson",
        encode_target="≤ 12",
        decode_target="",
    )
    for name, base, derived in (
        ("10,000 dataclasses", Invoice, PaidInvoice),
        ("10,000 models", InvoiceModel, PaidInvoiceModel),
    ):
        targets = {"encode_target": typed, "decode_target": typed}
        _case(name, _instances(base, base), rival="pickle", **targets)
        _case(f"{name}, 1 % subclass", _instances(base, derived), rival="pickle", **targets)
    _case("small result", _small(), rival="pickle", encode_target="≤ 1.2", decode_target="≤ 1.5")
    flags = {"ok": True, "id": "17"}
    call = {"args": [1, "a"], "kwargs": {"user": "ada", "n": 2}}
    for what, value in (("None", None), ("an int", 17), ("a str", "done"), ("a dict", flags)):
        _row(what, {"return_value": value, "labels": {}})
    _row("an int and its call", {"return_value": 17, "labels": {}, **call})
    _row("a dict and its call", {"return_value": flags, "labels": {"retry": 1}, **call})


if __name__ == "__main__":
    main()
