"""What the tests of the main road share."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import time
import types
from collections import deque
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import sql
from taskiq import BrokerMessage, InMemoryBroker, TaskiqMessage, TaskiqResult
from taskiq.abc.formatter import TaskiqFormatter
from taskiq.depends.progress_tracker import TaskProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from taskiq_pg_json import JsonbResultBackend

PROMPTLY = {"check_interval": 0.01, "timeout": 10}
"""For ``wait_result``: look often, and give up before pytest does."""

HERE = f"{socket.gethostname()}:{os.getpid()}"
"""Who ran a task, as the middleware says it of this process."""

HOSTILE_NAMES = [
    'we"ird',
    "with space",
    "CamelCase",
    "select",
    "x" * 60,
    "x" * 63,
    "naïve ☃ 表",
    "表" * 21,
    "100%",
    "%s %(task_id)s %%",
    "{braces} {0} {results}",
    "semi;colon -- comment",
    "quo'te",
    "back\\slash",
    "$dollar$",
    "$do$ $function$ $body$",
    "new\nline\ttab",
]


def finished(return_value: object = None, **fields: Any) -> TaskiqResult[Any]:
    """The result of a task that has ended, as taskiq's receiver makes it."""
    return TaskiqResult(
        **{"is_err": False, "return_value": return_value, "execution_time": 0.25, **fields}
    )


async def stored(backend: JsonbResultBackend[Any], value: object) -> object:
    """What comes back of a value that is stored as a result."""
    await backend.set_result("stored", finished(value))
    return (await backend.get_result("stored")).return_value


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(timezone.utc)


def rows_in(admin: psycopg.Connection, table: str) -> int:
    """How many rows a table has."""
    query = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))
    return admin.execute(query).fetchone()[0]


async def cancelled_at(coroutine, suspension):
    """Await it, and have the running task cancelled where it suspends for the nth time."""
    return await _cancelled_at(coroutine, suspension)


@types.coroutine
def _cancelled_at(coroutine, suspension):
    awaiting, count = coroutine.__await__(), 0
    step = partial(awaiting.send, None)
    while True:
        try:
            awaited = step()
        except StopIteration as stop:
            return stop.value
        if count == suspension:
            asyncio.current_task().cancel()
        count += 1
        try:
            step = partial(awaiting.send, (yield awaited))
        except BaseException as error:  # noqa: BLE001 - what the event loop throws in
            step = partial(awaiting.throw, error)


async def eventually(claim: Callable[[], bool], timeout: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + timeout
    while not claim():
        assert time.monotonic() < deadline, f"{claim} never came true"
        await asyncio.sleep(0.02)


EVERY_METHOD = {
    "set_result": lambda backend: backend.set_result("id", finished(1)),
    "get_result": lambda backend: backend.get_result("id"),
    "is_result_ready": lambda backend: backend.is_result_ready("id"),
    "delete_result": lambda backend: backend.delete_result("id"),
    "set_progress": lambda backend: backend.set_progress("id", TaskProgress(state="s", meta=1)),
    "get_progress": lambda backend: backend.get_progress("id"),
    "get_record": lambda backend: backend.store.get("id"),
}
"""Calls of every method that takes a task id, of the task ``id``."""


class HeldBroker(InMemoryBroker):
    """Keeps what is sent until the test lets it run."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.held: deque[BrokerMessage] = deque()

    async def kick(self, message: BrokerMessage) -> None:
        self.held.append(message)

    async def run_next(self) -> None:
        """Run the oldest message, as a worker would."""
        await self.receiver.callback(self.held.popleft().message)

    async def run_all(self) -> None:
        """Run what is held, and what that sends, until nothing is left."""
        while self.held:
            await self.run_next()


class PickleFormatter(TaskiqFormatter):
    """Sends arguments as the very objects that they are; taskiq's own makes them JSON first."""

    def dumps(self, message: TaskiqMessage) -> BrokerMessage:
        return BrokerMessage(
            task_id=message.task_id,
            task_name=message.task_name,
            message=pickle.dumps(dict(message)),
            labels=message.labels,
        )

    def loads(self, message: bytes) -> TaskiqMessage:
        return TaskiqMessage.model_construct(**pickle.loads(message))
