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
from taskiq_pg_json.store.channels import Channels
from taskiq_pg_json.store.sessions import closing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from typing_extensions import Self

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.store.connections import Connections
    from taskiq_pg_json.store.sessions import Connection

logger = logging.getLogger("taskiq_pg_json")

SAFETY_POLL = 5.0  # seconds between looks where notifications arrive
POLL = 0.1  # seconds between looks where they do not
_PROBE_TIMEOUT = 2.0  # seconds
_RECONNECT = 1.0  # seconds
_DEAF_PAUSE = 60.0  # seconds until it is tried again where nothing could be heard
_UNLISTEN_TIMEOUT = 1.0  # seconds
_POOLER_LOOKS = 10

_PROBE = "?"
"""How a notification begins with which a listener finds out whether it hears anything."""

Subscribers = dict[str, "dict[Subscription, None]"]
"""By the id of the task that they want to hear of; a dict, as many may leave one task at once."""


class Subscription:
    """What is heard of some tasks, from its beginning to its end, since the last look."""

    __slots__ = ("_ended", "_heard", "_listener", "_look_again", "_of", "_task_ids", "_woken")

    def __init__(
        self, listener: Listener, task_ids: tuple[str, ...], of: tuple[Subscribers, ...]
    ) -> None:
        self._listener = listener
        self._task_ids = task_ids
        self._of = of
        self._heard = False
        self._ended: set[str] | None = None
        self._look_again = False
        self._woken: asyncio.Future[None] | None = None

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self) -> None:
        """Hear of the tasks from now on; raises as ``Listener.listen()`` does."""
        self._listener.listen()
        for subscribers in self._of:
            for task_id in self._task_ids:
                subscribers.setdefault(task_id, {})[self] = None

    def end(self) -> None:
        """Hear of them no more."""
        for subscribers in self._of:
            for task_id in self._task_ids:
                del subscribers[task_id][self]
                if not subscribers[task_id]:
                    del subscribers[task_id]

    async def changes(self, timeout: float | None = None) -> tuple[set[str], bool]:
        """Wait for news, for ``timeout`` seconds at most.

        Returns the ids that have ended, and whether to look for others: because something else
        may have happened meanwhile, or because it is time to.
        """
        is_time = False
        if not self._heard:
            poll = self._listener.poll_interval
            seconds = poll if timeout is None else min(timeout, poll)
            loop = asyncio.get_running_loop()
            self._woken = loop.create_future()  # wait_for() would cost a task more
            timer = loop.call_later(seconds, _wake, self._woken)
            try:
                await self._woken
            finally:
                timer.cancel()
                self._woken = None
            # Where notifications have begun to arrive meanwhile, the listener looks for all.
            goes_on = self._listener.poll_interval > poll and seconds != timeout
            is_time = not self._heard and not goes_on
        ended, look_again = self._ended or set(), self._look_again or is_time
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

    When it hears, it looks once for all who have subscribed by then, so that nothing told meanwhile
    is missed. Where notifications do not arrive, as behind a pooler in transaction mode or from a
    standby, subscribers poll, and it tries again now and then.

    Args:
        connections: where it connects to.
        names: the channels'.
        ended_among: says which of many tasks have ended.
        enabled: whether to listen at all.
    """

    def __init__(
        self,
        connections: Connections,
        names: Names,
        ended_among: Callable[[Sequence[str]], Awaitable[set[str]]],
        *,
        enabled: bool,
    ) -> None:
        self._connections = connections
        self._ended_among = ended_among
        self._enabled = enabled
        self._channels = Channels(connections, names)
        self._listens = [queries()[name] for name in ("listen_results", "listen_progress")]
        self._farewells = [queries()[name] for name in ("unlisten_results", "unlisten_progress")]
        self._pid = names.bind(queries()["server_pid"])
        self._pid_apart = names.statement(queries()["server_pid"])
        self._notify = names.statement(queries()["notify"])
        self._ended_channel = ""
        self._subscribers: Subscribers = {}
        self._watchers: Subscribers = {}  # of progress, who are subscribers too
        self._of_ends = (self._subscribers,)
        self._of_progress = (self._subscribers, self._watchers)
        self._task: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._probe = ""
        self._hearing = asyncio.Event()
        self._has_said = False

    @property
    def poll_interval(self) -> float:
        """How long, in seconds, a subscriber may go without a look."""
        return SAFETY_POLL if self._hearing.is_set() else POLL

    def subscribed(self, task_ids: Iterable[str], *, progress: bool = False) -> Subscription:
        """Give what hears of the end of these tasks, or of progress too."""
        return Subscription(self, tuple(task_ids), self._of_progress if progress else self._of_ends)

    def listen(self) -> None:
        """Open the connection, unless that has been done.

        Raises:
            NotStartedError: before ``startup()``, after ``shutdown()``, or in another event loop.
        """
        self._connections.pool_here()  # none who may not ask there, either
        if self._enabled and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._listen())

    async def close(self) -> None:
        """Close the connection, and have every subscriber look once more."""
        # A look may have to wait for longer than until the connection is opened again.
        tasks = self._looks if self._task is None else {self._task, *self._looks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._task = None
        self._hearing.clear()
        _tell(self._subscribers, self._subscribers)

    async def _listen(self) -> None:
        while True:
            pause = _RECONNECT
            try:
                connection = await self._connections.connect()
                async with closing(connection):
                    if not await self._listen_on(connection):
                        pause = _DEAF_PAUSE
            except psycopg.errors.ReadOnlySqlTransaction:
                self._say_once("A standby sends no notifications: until it is none any more,")
                pause = _DEAF_PAUSE
            except Exception as error:  # noqa: BLE001 - of the server, or of the dsn's callable
                logger.warning("The listening connection was lost, opening it again: %s", error)
            self._hearing.clear()
            _tell(self._subscribers, self._subscribers)
            await asyncio.sleep(pause)

    async def _listen_on(self, connection: Connection) -> bool:
        """Hear until the connection is lost; False if it turns out that nothing can be heard."""
        if await self._shares_server(connection) or not await self._begins_to_hear(connection):
            self._say_once(
                "Notifications do not arrive here, as behind PgBouncer in transaction mode or from "
                "a slow server (notify=False says so from the start): until they do,"
            )
            return False
        async for notification in connection.notifies():
            self._hear(notification)
        return True

    async def _shares_server(self, connection: Connection) -> bool:
        """Whether a pooler is seen to give the connection's server to others meanwhile.

        A LISTEN would only be heard by them.
        """
        for _ in range(_POOLER_LOOKS):
            cursor = await PlainCursor(connection).execute(self._pid)
            rows = await cursor.fetchall()
            if rows == [(connection.info.backend_pid,)]:  # no pooler is there
                return False
            if rows == await self._connections.execute(self._pid_apart, {}):
                return True
        return False

    async def _begins_to_hear(self, connection: Connection) -> bool:
        """Listen, and find out whether anything is heard."""
        names = await self._channels.names()
        for listen in self._listens:
            await PlainCursor(connection).execute(names.bind(listen))
        self._ended_channel = names.channel("ended")
        self._probe = _PROBE + secrets.token_hex(8)
        try:
            await self._connections.execute(
                self._notify, {"channel": self._ended_channel, "payloads": [self._probe]}
            )
            async for notification in connection.notifies(timeout=_PROBE_TIMEOUT):
                self._hear(notification)
        finally:
            if not self._hearing.is_set():
                await self._unlisten(connection, names)
        return self._hearing.is_set()

    async def _unlisten(self, connection: Connection, names: Names) -> None:
        """Undo the LISTEN: the server may be a pooler's, which gives it to others."""
        with suppress(psycopg.Error, asyncio.TimeoutError):
            for farewell in self._farewells:
                unlistening = PlainCursor(connection).execute(names.bind(farewell))
                await asyncio.wait_for(unlistening, _UNLISTEN_TIMEOUT)

    def _say_once(self, why: str) -> None:
        """Say why nothing is heard, unless that has been said since something was."""
        if not self._has_said:
            logger.warning("%s results are polled for every %g s.", why, POLL)
        self._has_said = True

    def _hear(self, notification: psycopg.Notify) -> None:
        payload = notification.payload
        if payload.startswith(_PROBE):
            if payload == self._probe:  # and not another process's
                self._hearing.set()
                self._has_said = False
                look = asyncio.get_running_loop().create_task(self._look_for_all())
                self._looks.add(look)
                look.add_done_callback(self._looks.discard)
            return
        has_ended = notification.channel == self._ended_channel
        subscribers = self._subscribers if has_ended else self._watchers
        task_ids = _ids(payload)
        if task_ids is None:
            _tell(subscribers, subscribers)
        else:
            _tell(subscribers, task_ids, ended=has_ended)

    async def _look_for_all(self) -> None:
        """Tell all what they may have missed until now."""
        if not self._subscribers:
            return
        try:
            ended = await self._ended_among(list(self._subscribers))
        except Exception as error:  # noqa: BLE001 - whoever waits finds out by themselves
            logger.debug("All that wait look by themselves: %s", error)
            _tell(self._subscribers, self._subscribers)
            return
        _tell(self._subscribers, ended, ended=True)
        _tell(self._watchers, self._watchers)


def _tell(subscribers: Subscribers, task_ids: Iterable[str], *, ended: bool = False) -> None:
    """Tell those who want to hear of these tasks that they have ended, or to look."""
    for task_id in task_ids:
        for subscription in subscribers.get(task_id, ()):
            subscription.tell(task_id if ended else None)


def _ids(payload: str) -> list[str] | None:
    """Return the ids that a payload names; None for "look again" and for what is not ours."""
    if payload == EVERYTHING:
        return None
    try:
        ids = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return ids if isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids) else None
