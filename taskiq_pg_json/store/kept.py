"""Keeps a pool's connections at hand from one statement to the next.

Asking the pool costs about half as much as a small statement does.
"""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg.pq import TransactionStatus

from taskiq_pg_json.store.pipeline import Pipeline
from taskiq_pg_json.store.wire import Wire

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg_pool import AsyncConnectionPool

KEEP_FOR = 30.0
"""Seconds after which a connection goes back, so that the pool's own limits on age apply."""

_RENEWAL = 1.0  # seconds in which connections made anew are above suspicion


class KeptConnections:
    """A stack of idle connections, taken from the pool when it is empty.

    Whoever waits for the pool comes first: a connection then goes back to it at once.

    Attributes:
        pipeline: what has one of them while statements are under way in it.
    """

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool
        self._idle: list[Wire] = []
        self._keep_until: dict[Wire, float] = {}
        self._asking = 0
        self._open = True
        self._returning: set[asyncio.Task[None]] = set()
        self._renewed = -math.inf
        self.pipeline: Pipeline | None = None

    def at_hand(self) -> Wire | None:
        """Return the connection used last, if any is idle."""
        return self._idle.pop() if self._idle else None

    async def take(self, timeout: float | None) -> Wire:
        """Return one at hand, or one of the pool's in ``timeout`` seconds."""
        wire = self.at_hand()
        if wire is not None:
            return wire
        self._asking += 1
        try:
            wire = Wire(await self._pool.getconn(timeout))
        finally:
            self._asking -= 1
        # Nobody listens here; but a pooler may have put a server behind it on which somebody did.
        wire.connection.pgconn.notify_handler = None
        self._keep_until[wire] = time.monotonic() + KEEP_FOR
        return wire

    def is_wanted_back(self, wire: Wire) -> bool:
        """Whether the pool, or somebody who waits for it, should have the connection soon."""
        return bool(not self._open or self._asking or time.monotonic() >= self._keep_until[wire])

    def keep(self, wire: Wire) -> bool:
        """Keep the connection at hand, if it is fit for the next statement."""
        fit = wire.connection.pgconn.transaction_status == TransactionStatus.IDLE
        if not fit or self.is_wanted_back(wire):
            return False
        self._idle.append(wire)
        return True

    async def give_back(self, wire: Wire) -> None:
        """Keep the connection, or let the pool have it."""
        if not self.keep(wire):
            await self.let_go(wire)

    async def start_pipeline(self, timeout: float | None) -> Pipeline | None:
        """Start the pipeline, unless another task has done so meanwhile.

        Raises:
            psycopg.OperationalError: the connection is lost, or none was free.
        """
        wire = await self.take(timeout)
        try:
            if self.pipeline is None:
                self.pipeline = Pipeline(wire)
                return self.pipeline
        except BaseException:  # whatever it is, nobody else would give the connection back
            await self.give_back(wire)
            raise
        await self.give_back(wire)
        return None

    async def end_idle_pipeline(self) -> None:
        """Take the connection back if nothing is under way in the pipeline any more."""
        pipeline = self.pipeline
        if pipeline is not None and pipeline.is_idle:
            self.pipeline = None
            pipeline.end()
            await self.give_back(pipeline.wire)

    async def check(self) -> None:
        """Give all that are idle to the pool, and have it replace those that were lost."""
        while self._idle:
            await self.let_go(self._idle.pop())
        await self._pool.check()

    async def renew(self) -> None:
        """Have the pool replace all connections, unless it has just done so.

        To look at one whose host is dead would take as long as finding out has taken.
        """
        now = time.monotonic()
        if now < self._renewed + _RENEWAL:
            return
        self._renewed = now
        while self._idle:
            await self.let_go(self._idle.pop())
        await self._pool.drain()

    async def close(self) -> None:
        """Give back all that are idle, and keep none from now on."""
        self._open = False
        while self._idle:
            await self.let_go(self._idle.pop())

    def give_up(self) -> None:
        """Close all, where the event loop can no more."""
        self._open = False
        for wire in self._keep_until:
            wire.connection.pgconn.finish()

    async def let_go(self, wire: Wire) -> None:
        """Let the pool have the connection, and replace it if it is lost."""
        wire.release()
        del self._keep_until[wire]
        # In a task of its own: the pool loses a connection if its caller is cancelled.
        connection = wire.connection
        task = asyncio.get_running_loop().create_task(self._pool.putconn(connection))
        self._returning.add(task)
        task.add_done_callback(partial(self._returned, connection))
        await asyncio.shield(task)

    def _returned(self, connection: AsyncConnection[Any], task: asyncio.Task[None]) -> None:
        self._returning.discard(task)
        if task.cancelled():  # as every task is, at the end: the pool may never have had it
            connection.pgconn.finish()
