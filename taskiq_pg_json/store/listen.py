"""Hears which tasks have ended or progressed, over one connection that LISTENs."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

import orjson
import psycopg

from taskiq_pg_json.schema import PlainCursor, queries
from taskiq_pg_json.store.announce import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connection, Connections

logger = logging.getLogger("taskiq_pg_json")

SAFETY_POLL = 5.0  # seconds between looks where notifications arrive
POLL = 0.1  # seconds between looks where they do not
_PROBE_TIMEOUT = 2.0  # seconds
_RECONNECT = 1.0  # seconds


class Subscription:
    """What is heard of some tasks, within a ``with`` block, since the last look."""

    __slots__ = ("_ended", "_heard", "_listener", "_look_again", "_task_ids", "_woken")

    def __init__(self, listener: Listener, task_ids: tuple[str, ...]) -> None:
        self._listener = listener
        self._task_ids = task_ids
        self._heard = False
        self._ended: set[str] | None = None
        self._look_again = True
        self._woken: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self._listener.add(self, self._task_ids)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.remove(self, self._task_ids)

    async def changes(self, timeout: float | None = None) -> tuple[set[str], bool]:
        """Wait for news, for ``timeout`` seconds at most.

        Returns the ids that have ended, and whether to look for others: because something else
        may have happened meanwhile, or because it is time to.
        """
        if not self._heard:
            poll = self._listener.poll_interval
            loop = asyncio.get_running_loop()
            self._woken = loop.create_future()
            # wait_for() would cost a task more
            timer = loop.call_later(
                poll if timeout is None else min(timeout, poll), _wake, self._woken
            )
            try:
                await self._woken
            finally:
                timer.cancel()
                self._woken = None
        ended, look_again = self._ended or set(), self._look_again or not self._heard
        self._heard = False
        self._ended, self._look_again = None, False
        return ended, look_again

    def tell(self, ended: str | None = None) -> None:
        """Wake the subscriber: that task has ended, or it had better look."""
        if ended is None:
            self._look_again = True
        elif self._ended is None:
            self._ended = {ended}
        else:
            self._ended.add(ended)
        self._heard = True
        if self._woken is not None:
            _wake(self._woken)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Listener:
    """Opens its connection when first asked, and again whenever it is lost.

    After each connection every subscriber looks again, so that nothing told meanwhile is missed.
    Where notifications do not arrive, as behind a pooler in transaction mode, subscribers poll.
    """

    def __init__(self, connections: Connections, names: Names, *, enabled: bool) -> None:
        self._connections = connections
        self._enabled = enabled
        self._statements = [
            names.bind(queries()[name]) for name in ("listen_results", "listen_progress")
        ]
        self._notify = names.statement(queries()["notify"])
        self._ended_channel = names.channel("ended")
        self._subscriptions: dict[str, list[Subscription]] = {}
        self._task: asyncio.Task[None] | None = None
        self._probe = ""
        self._hearing = asyncio.Event()

    @property
    def poll_interval(self) -> float:
        """How long, in seconds, a subscriber may go without a look."""
        return SAFETY_POLL if self._hearing.is_set() else POLL

    def subscribed(self, task_ids: Iterable[str]) -> Subscription:
        """Hear of these tasks for the time of a ``with`` block."""
        return Subscription(self, tuple(task_ids))

    def add(self, subscription: Subscription, task_ids: Iterable[str]) -> None:
        """Tell the subscription of these tasks from now on."""
        if self._enabled and self._task is None and self._connections.is_open:
            self._task = asyncio.get_running_loop().create_task(self._listen())
        for task_id in task_ids:
            subscribers = self._subscriptions.get(task_id)
            if subscribers is None:
                self._subscriptions[task_id] = [subscription]
            else:
                subscribers.append(subscription)

    def remove(self, subscription: Subscription, task_ids: Iterable[str]) -> None:
        """Tell it no more."""
        for task_id in task_ids:
            subscribers = self._subscriptions[task_id]
            if len(subscribers) > 1:
                subscribers.remove(subscription)
            else:
                del self._subscriptions[task_id]

    async def close(self) -> None:
        """Close the connection, and have every subscriber look once more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._hearing.clear()
        self._tell_all()

    async def _listen(self) -> None:
        while True:
            try:
                connection = await self._connections.connect()
                async with connection:
                    if not await self._listen_on(connection):
                        return
            except psycopg.errors.ReadOnlySqlTransaction:
                logger.warning("A standby sends no notifications: results are polled for.")
                return
            except Exception as error:  # noqa: BLE001 - of the server, or of the dsn's callable
                logger.warning("The listening connection was lost, opening it again: %s", error)
            self._hearing.clear()
            self._tell_all()
            await asyncio.sleep(_RECONNECT)

    async def _listen_on(self, connection: Connection) -> bool:
        """Hear until the connection is lost; False if it turns out that nothing can be heard."""
        for statement in self._statements:
            await PlainCursor(connection).execute(statement)
        self._probe = f"?{secrets.token_hex(8)}"
        await self._connections.execute(
            self._notify, {"channel": self._ended_channel, "payloads": [self._probe]}
        )
        async for notification in connection.notifies(timeout=_PROBE_TIMEOUT):
            self._hear(notification)
        if not self._hearing.is_set():
            logger.warning(
                "Notifications do not arrive here, as behind PgBouncer in transaction mode: "
                "results are polled for every %g s. notify=False says so from the start.",
                POLL,
            )
            return False
        async for notification in connection.notifies():
            self._hear(notification)
        return True

    def _hear(self, notification: psycopg.Notify) -> None:
        payload = notification.payload
        if payload == self._probe:
            self._hearing.set()
        task_ids = _ids(payload)
        if task_ids is None:
            self._tell_all()
            return
        has_ended = notification.channel == self._ended_channel
        for task_id in task_ids:
            for subscription in self._subscriptions.get(task_id, ()):
                subscription.tell(task_id if has_ended else None)

    def _tell_all(self) -> None:
        for subscriptions in list(self._subscriptions.values()):
            for subscription in subscriptions:
                subscription.tell()


def _ids(payload: str) -> list[str] | None:
    """Return the ids that a payload names; None for "look again" and for what is not ours."""
    if payload == EVERYTHING:
        return None
    try:
        ids = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return ids if isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids) else None
