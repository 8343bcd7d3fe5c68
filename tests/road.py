"""What the tests of the main road share."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from taskiq import BrokerMessage, InMemoryBroker, TaskiqMessage, TaskiqResult
from taskiq.abc.formatter import TaskiqFormatter

if TYPE_CHECKING:
    from collections.abc import Callable

    from taskiq_pg_json import JsonbResultBackend

PROMPTLY = {"check_interval": 0.01, "timeout": 10}
"""For ``wait_result``: look often, and give up before pytest does."""

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


async def eventually(claim: Callable[[], bool], timeout: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + timeout
    while not claim():
        assert time.monotonic() < deadline, f"{claim} never came true"
        await asyncio.sleep(0.02)


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
