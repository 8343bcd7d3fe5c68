"""An application for the tests of real brokers, run by ``taskiq worker worker_app:broker``."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState, ZeroMQBroker
from taskiq.depends.progress_tracker import ProgressTracker  # noqa: TC002 - taskiq reads it

from taskiq_pg_json import JsonbResultBackend, TaskInfoMiddleware

if TYPE_CHECKING:
    from taskiq import AsyncBroker

VARIABLE = "TASKIQ_PG_JSON_TEST_APP"
"""Tells the worker the arguments of ``make_broker``, as JSON."""

ORDERED_AT = datetime(2024, 2, 29, 12, 30, tzinfo=timezone(timedelta(hours=1)))


@dataclass
class Invoice:
    number: int
    at: datetime
    total: Decimal


class OutOfStockError(Exception):
    def __init__(self, item: str, *, left: int) -> None:
        super().__init__(f"{item}: {left} left")
        self.item = item
        self.left = left


def make_broker(kind: str, dsn: str, table_name: str, port: int) -> AsyncBroker:
    """A broker of that kind with our backend, our middleware and the tasks."""
    broker = _BROKERS[kind](dsn, table_name, port)
    broker.with_result_backend(JsonbResultBackend(dsn, table_name=table_name))
    broker.with_middlewares(TaskInfoMiddleware(record_queued=True, record_started=True))
    broker.add_event_handler(TaskiqEvents.WORKER_STARTUP, stay_awake)
    broker.register_task(double, "double")
    broker.register_task(double_in_a_thread, "double_in_a_thread")
    broker.register_task(bill, "bill", department="sales")
    broker.register_task(sell, "sell")
    broker.register_task(climb, "climb")
    broker.register_task(tick, "tick", schedule=[{"interval": 1, "args": [21]}])
    return broker


def broker() -> AsyncBroker:
    """The broker that the environment asks for."""
    return make_broker(**json.loads(os.environ[VARIABLE]))


def stay_awake(state: TaskiqState) -> None:
    """Let the worker stop when it is told to: taskiq's signals do not wake a loop that sleeps."""

    async def tick_over() -> None:
        while True:  # noqa: ASYNC110 - the point is to wake up
            await asyncio.sleep(0.1)

    state.ticking = asyncio.get_running_loop().create_task(tick_over())


class ClosingZeroMQBroker(ZeroMQBroker):
    """Closes its socket too: the interpreter would wait for it at its end."""

    async def shutdown(self) -> None:
        await super().shutdown()
        self.context.destroy(linger=0)


def _zeromq(_dsn: str, _table_name: str, port: int) -> AsyncBroker:
    address = f"tcp://127.0.0.1:{port}"
    return ClosingZeroMQBroker(zmq_pub_host=address, zmq_sub_host=address)


def _psycopg(dsn: str, table_name: str, _port: int) -> AsyncBroker:
    from taskiq_pg.psycopg import PsycopgBroker

    return PsycopgBroker(
        dsn, channel_name=f"{table_name}_queue", table_name=f"{table_name}_messages"
    )


_BROKERS = {"zeromq": _zeromq, "psycopg": _psycopg}


async def double(number: int) -> int:
    return 2 * number


def double_in_a_thread(number: int) -> int:
    return 2 * number


async def bill(number: int, *, total: str, context: Context = TaskiqDepends()) -> dict[str, object]:
    invoice = Invoice(number, ORDERED_AT, Decimal(total))
    return {"invoice": invoice, "urgent": context.message.labels.get("urgent")}


async def sell(item: str) -> None:
    raise OutOfStockError(item, left=0)


async def climb(steps: int, tracker: ProgressTracker[object] = TaskiqDepends()) -> str:
    for step in range(1, steps + 1):
        await tracker.set_progress("climbing", {"current": step, "total": steps})
        await asyncio.sleep(0.02)
    return "top"


async def tick(number: int) -> int:
    return 2 * number
