"""What the tests of searching and analysing find in the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from taskiq_pg_json import Outcome, Progress, Status, TaskInfo

NOW = datetime.now(timezone.utc).replace(microsecond=0)


def ago(**units) -> datetime:
    return NOW - timedelta(**units)


@dataclass
class Line:
    sku: str
    price: int


@dataclass
class Invoice:
    customer_id: str
    total: Decimal
    created_at: datetime
    paid: bool = True
    lines: list[Line] = field(default_factory=list)


class PaymentError(Exception):
    pass


async def finish(
    store,
    task_id,
    value=None,
    *,
    task="shop:charge",
    error=None,
    ended=NOW,
    seconds=1.0,
    waited=0.5,
    worker="web:1",
    args=(),
    kwargs=None,
    labels=None,
):
    """Store how a task ended, with all that the middleware would say of it."""
    started = ended - timedelta(seconds=seconds)
    info = TaskInfo(
        task,
        args=args,
        kwargs=kwargs or {},
        labels=labels or {},
        worker=worker,
        queued_at=started - timedelta(seconds=waited),
        started_at=started,
        finished_at=ended,
        execution_time=seconds,
    )
    outcome = Outcome(
        return_value=value, error=error, is_err=error is not None, labels=labels or {}, info=info
    )
    await store.set_result(task_id, outcome)


async def orders(store, count=30):
    """``order-0`` (the newest) to ``order-{count - 1}``, a minute apart; every tenth one failed."""
    await asyncio.gather(*(order(store, number) for number in range(count)))


async def order(store, number):
    """One of them."""
    failed = number % 10 == 9
    invoice = Invoice(
        customer_id=f"c{number % 3}",
        total=Decimal(number) + Decimal("0.50"),
        created_at=ago(days=number),
        paid=number % 2 == 0,
        lines=[Line("A", number), Line("B", 1)],
    )
    await finish(
        store,
        f"order-{number}",
        None if failed else invoice,
        task=["shop:charge", "shop:ship", "shop:mail"][number % 3],
        error=PaymentError(f"Card {number} was declined") if failed else None,
        ended=ago(minutes=number),
        seconds=float(number + 1),
        worker=f"web:{number % 2}",
        args=[number, {"retry": number % 4}],
        kwargs={"dry_run": number % 5 == 0, "at": ago(hours=number)},
        labels={"tenant": f"t{number % 2}", "queue": "fast"},
    )


async def unfinished(store):
    """One task queued, one started with progress, one that will be tried again."""
    queued = TaskInfo("shop:export", args=[1], kwargs={}, queued_at=ago(minutes=10))
    started = TaskInfo(
        "shop:export", args=[2], kwargs={}, worker="web:1", queued_at=ago(minutes=9),
        started_at=ago(minutes=8),
    )  # fmt: skip
    retried = TaskInfo(
        "shop:sync", args=[], kwargs={}, worker="web:2", queued_at=ago(minutes=7),
        started_at=ago(minutes=6),
    )  # fmt: skip
    await store.record_state("queued", Status.QUEUED, queued)
    await store.record_state("started", Status.STARTED, started)
    await store.record_state("retried", Status.RETRY, retried, ConnectionError("no route"))
    await store.set_progress("started", Progress("STARTED", {"percent": 40, "message": "Rows"}))


def ids(page) -> list[str]:
    """The task ids of records, without what they have in common."""
    records = getattr(page, "items", page)
    return [record.task_id.removeprefix("order-") for record in records]
