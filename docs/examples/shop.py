"""A small shop: what it deals in, and the tasks that it sends to its workers."""

import asyncio
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from taskiq import InMemoryBroker, TaskiqDepends
from taskiq.depends.progress_tracker import ProgressTracker, TaskState

broker = InMemoryBroker()

PAYMENT_TERM = timedelta(days=14)
CREDIT_LIMIT = Decimal(250)
PLAN = range(1, 80)


class Customer(BaseModel):
    """Who buys."""

    id: UUID
    name: str
    city: str


@dataclass(frozen=True)
class Item:
    """A line of an invoice."""

    sku: str
    quantity: int
    price: Decimal


@dataclass
class Invoice:
    """What a customer owes."""

    number: int
    customer: Customer
    items: list[Item]
    total: Decimal
    issued_at: datetime
    due_in: timedelta


class Carrier(Enum):
    """Who brings the parcels."""

    BIKE = "bike"
    TRAIN = "train"


@dataclass
class Delivery:
    """A parcel on its way."""

    parcel: UUID
    carrier: Carrier
    stops: tuple[str, ...]


class CardDeclinedError(Exception):
    """The bank refuses to pay."""

    def __init__(self, reason: str, amount: Decimal) -> None:
        super().__init__(f"{reason}: {amount} EUR")
        self.reason = reason
        self.amount = amount


@broker.task(task_name="write_invoice")
async def write_invoice(number: int, customer: Customer, items: list[Item]) -> Invoice:
    await asyncio.sleep(0.01)
    total = sum((item.quantity * item.price for item in items), Decimal())
    return Invoice(number, customer, items, total, datetime.now(timezone.utc), PAYMENT_TERM)


@broker.task(task_name="charge_card")
async def charge_card(number: int, amount: Decimal, card: str) -> dict[str, Any]:
    await asyncio.sleep(0.02 + 0.001 * number)
    if amount > CREDIT_LIMIT:
        raise CardDeclinedError("over the limit", amount)
    return {"number": number, "paid": amount, "card": card[-4:], "at": datetime.now(timezone.utc)}


@broker.task(task_name="plan_delivery")
async def plan_delivery(city: str) -> Delivery:
    await asyncio.sleep(0.01)
    far = city != "Lisbon"
    stops = ("Lisbon", "Coimbra", city) if far else (city,)
    return Delivery(uuid4(), Carrier.TRAIN if far else Carrier.BIKE, stops)


# The three long tasks report their progress in the three shapes that the store understands.


@broker.task(task_name="import_catalogue")
async def import_catalogue(
    pages: int, progress: ProgressTracker[Any] = TaskiqDepends()
) -> dict[str, Any]:
    for page in range(1, pages + 1):
        await asyncio.sleep(0.08)
        meta = {"current": page, "total": pages, "message": f"page {page}"}
        await progress.set_progress(TaskState.STARTED, meta)
    return {"products": 24 * pages, "suppliers": {"Aveiro", "Braga"}, "took": timedelta(minutes=3)}


@broker.task(task_name="learn_what_sells")
async def learn_what_sells(
    epochs: int, progress: ProgressTracker[Any] = TaskiqDepends()
) -> dict[str, float]:
    loss = 1.0
    for epoch in range(1, epochs + 1):
        await asyncio.sleep(0.3)
        loss *= 0.7
        meta = {"progress": epoch / epochs, "status": f"epoch {epoch}, loss {loss:.3f}"}
        await progress.set_progress("learning", meta)
    return {"loss": loss, "worst": float("inf")}


@broker.task(task_name="count_stock")
async def count_stock(shelves: int, progress: ProgressTracker[Any] = TaskiqDepends()) -> int:
    for shelf in range(1, shelves + 1):
        await asyncio.sleep(0.03)
        percent = 100 * shelf / shelves
        await progress.set_progress("counting", {"percent": percent, "message": f"shelf {shelf}"})
        if shelf not in PLAN:
            raise LookupError(f"shelf {shelf} is in no plan of the shop")
    return shelves
