"""Natural batching: what waits while a statement is in flight forms the next one."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from taskiq_pg_json.errors import NotStartedError, WriteTimeoutError
from taskiq_pg_json.store.batch import Batch, ItemT, PutOffError, ResultT, Waiting, resolve
from taskiq_pg_json.store.hurry import cancellations, taken_back
from taskiq_pg_json.store.loops import started_elsewhere

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence

_FLUSHES_ASIDE = 2


def later(_earlier: ItemT, item: ItemT) -> ItemT:
    """The last write wins."""
    return item


def _never(_error: Exception) -> bool:
    return False


class MicroBatcher(Generic[ItemT, ResultT]):
    """Gathers concurrent calls into batches, with no timer and no delay for a single caller.

    The first call flushes at once, in the caller's own task. Calls that arrive meanwhile form the
    next batch. ``submit`` returns when the flush of its own item has returned.

    Items of one key are flushed in the order of their arrival and never by two flushes at once. In
    one batch one of them stands for all (``choose``), or each waits for a batch of its own.

    Args:
        flush: writes or reads one batch, whole or not at all; returns one result an item, in order,
            or the error of an item that it has set apart; a ``PutOffError`` has it flushed again
            later, beside the lanes.
        flush_again: the same for what has been put off, which may be many batches at once; None
            where nothing ever is.
        key: what an item is about, such as its task id.
        size: an item's weight in bytes.
        rejects: whether an error may be that of one bad item; the batch is then halved until it is
            alone.
        choose: which of two items of a key, an earlier and a later one, makes the other superfluous
            in a batch; None where neither does.
        max_rows: items in one batch.
        max_bytes: bytes in one batch; an item that is heavier by itself is flushed by itself,
            beside the lanes, so that it stalls nobody.
        max_waiting: items that may wait or be put off; ``submit`` then waits for room first.
        lanes: flushes under way at once.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        *,
        key: Callable[[ItemT], Hashable],
        flush_again: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]]
        | None = None,
        size: Callable[[ItemT], int] | None = None,
        rejects: Callable[[Exception], bool] = _never,
        choose: Callable[[ItemT, ItemT], ItemT] | None = later,
        max_rows: int = 500,
        max_bytes: int = 1 << 20,
        max_waiting: int = 10_000,
        lanes: int = 1,
    ) -> None:
        self._flush = flush
        self._flush_again = flush_again or flush
        self._key = key
        self._size = size
        self._rejects = rejects
        self._choose = choose
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._lanes = lanes
        self._max_waiting = max_waiting
        self._waiting: deque[ItemT] = deque()
        self._waiters: deque[asyncio.Future[ResultT]] = deque()  # each at the place of its item
        self._in_flight: set[Hashable] = set()
        self._active = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._alone: asyncio.Task[Any] | None = None
        self._aside = asyncio.Semaphore(_FLUSHES_ASIDE)
        self._put_off = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._admitted = 0
        self._idle = asyncio.Event()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        with suppress(RuntimeError):  # made before there is one, it takes that of its first item
            self._loop = asyncio.get_running_loop()
        self._flushed = 0
        self._error: WriteTimeoutError | None = None

    def submit(self, item: ItemT) -> Awaitable[ResultT]:
        """Flush the item with whatever else is waiting; to be awaited at once, for its own result.

        A caller that is cancelled while its item waits takes it back. Later, its item alone is
        interrupted with it, and one that shares a batch is flushed all the same.

        Raises:
            NotStartedError: after ``close()``, or in another event loop.
            Exception: what the flush raised, for this item alone where it may be its own.
        """
        loop = asyncio.get_running_loop()
        if self._closed or loop is not self._loop:
            self._check(loop)
        if self._active or self._is_busy():
            if (
                self._turns
                or self._admitted
                or len(self._waiting) + self._put_off >= self._max_waiting
            ):
                return self._submit_in_turn(item)
            return self._enqueue(item)
        if self._size is not None and self._size(item) > self._max_bytes:
            return self._enqueue(item)
        return self._flush_alone(item)

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._closed:
            raise NotStartedError("The result store has been shut down: start it again first.")
        if self._loop is not None:
            raise started_elsewhere(self._loop)
        self._loop = loop

    async def close(self, patience: float = math.inf) -> None:
        """Refuse new items and return when all others have been flushed, though they had no room.

        Args:
            patience: seconds without a batch that was flushed, after which those left are given up
                with a ``WriteTimeoutError``.
        """
        self._closed = True
        self._wake()
        flushed = -1
        while not self._idle.is_set() and flushed != self._flushed:
            flushed = self._flushed
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience)
        if not self._idle.is_set():
            self._give_up(patience)

    def _give_up(self, patience: float) -> None:
        """Answer all that is left with an error, and flush no more."""
        self._error = WriteTimeoutError(
            f"Given up at shutdown: nothing went through to PostgreSQL for {patience:g} s. Give a "
            "longer write_timeout=."
        )
        self._waiting.clear()
        while self._waiters:
            resolve(self._waiters.popleft(), self._error)
        while self._turns:
            resolve(self._turns.popleft(), self._error)
        for task in self._tasks:
            task.cancel()
        alone, self._alone = self._alone, None
        if alone is not None:
            alone.cancel()

    def _is_busy(self) -> bool:
        return bool(
            self._active or self._waiting or self._in_flight or self._turns or self._admitted
        )

    async def _flush_alone(self, item: ItemT) -> ResultT:
        """Flush the item in the caller's own task."""
        if self._closed or self._is_busy():  # since submit() was called
            return await self.submit(item)
        self._active += 1
        key = self._key(item)
        self._in_flight.add(key)
        batch: Batch[ItemT, ResultT] = Batch()
        task = self._alone = asyncio.current_task()
        before = 0 if task is None else cancellations(task)
        try:
            (result,) = await self._flush((item,))
            if isinstance(result, PutOffError):
                batch.entries[key] = item, asyncio.get_running_loop().create_future()
                self._send_put_off(batch)
        except asyncio.CancelledError:
            if self._error is None or task is None or not taken_back(task, before):
                raise
            raise self._error from None
        finally:
            self._alone = None
            self._active -= 1
            if not batch.entries:
                self._in_flight.remove(key)
            self._wake()
        if batch.entries:
            return await batch.entries[key][1]
        if isinstance(result, Exception):
            raise result
        return result

    async def _submit_in_turn(self, item: ItemT) -> ResultT:
        """Wait for room first."""
        await self._turn()
        self._admitted -= 1
        future = self._enqueue(item)
        self._admit()
        return await future

    def _enqueue(self, item: ItemT) -> asyncio.Future[ResultT]:
        future: asyncio.Future[ResultT] = asyncio.Future()  # of the running loop, in one call
        self._waiting.append(item)
        self._waiters.append(future)
        if self._active < self._lanes:
            self._start_lane()
        return future

    async def _turn(self) -> None:
        """Wait for room, first come first served."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            await turn
        except BaseException:  # cancelled, perhaps when its turn had come: it is another's then
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._admitted -= 1
                self._admit()
                self._wake()
            raise

    def _admit(self) -> None:
        while (
            self._turns and len(self._waiting) + self._put_off + self._admitted < self._max_waiting
        ):
            turn = self._turns.popleft()
            if not turn.done():  # not cancelled
                turn.set_result(None)
                self._admitted += 1

    def _start(
        self,
        work: Coroutine[object, object, None],
        ended: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """Do work in a task; one that is cancelled before its first step ends all the same."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(ended)

    def _start_lane(self) -> None:
        self._active += 1
        self._start(self._lane(), self._lane_ended)

    def _wake(self) -> None:
        """Go on with what waits, or tell ``close()`` that nothing does."""
        if self._waiting and self._active < self._lanes:
            self._start_lane()
        elif self._closed and not self._is_busy():
            self._idle.set()

    async def _lane(self) -> None:
        while (batch := self._take()).entries:
            await self._flush_batch(batch, self._flush)
            # Those just answered may come back with their next item.
            await asyncio.sleep(0)

    def _lane_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._active -= 1
        if not self._blocked():
            self._wake()

    def _blocked(self) -> bool:
        """Whether all that waits is for keys in flight, whose end will wake it."""
        return bool(self._waiting) and all(
            self._key(item) in self._in_flight for item in self._waiting
        )

    def _take(self) -> Batch[ItemT, ResultT]:
        """Form the next batch; items too heavy for any are sent off by themselves."""
        batch: Batch[ItemT, ResultT] = Batch()
        entries, waiting, waiters = batch.entries, self._waiting, self._waiters
        in_flight = self._in_flight
        key_of, size_of, max_bytes = self._key, self._size, self._max_bytes
        choose = self._choose
        left: list[Waiting[ItemT, ResultT]] = []
        total = size = 0
        # An even share, lest one lane go on with almost all items and the other with almost none.
        share = -(-(len(waiting) + len(in_flight)) // self._lanes)
        rows = min(share, self._max_rows)
        while waiting and len(entries) < rows and total < max_bytes:
            entry = item, future = waiting.popleft(), waiters.popleft()
            if future.done():
                continue
            key = key_of(item)
            if size_of is not None:
                size = size_of(item)
            if key in in_flight or (key in entries and choose is None):
                left.append(entry)
                continue
            if choose is not None and key in entries:
                earlier = entries[key]
                if choose(earlier[0], item) is not item:
                    entry, earlier = earlier, entry
                batch.superseded.append((key, earlier))
            elif size > max_bytes:
                self._send_aside(key, entry)
                continue
            entries[key] = entry
            total += size
        for item, future in reversed(left):
            waiting.appendleft(item)
            waiters.appendleft(future)
        in_flight.update(entries)
        self._admit()
        return batch

    def _send_aside(self, key: Hashable, entry: Waiting[ItemT, ResultT]) -> None:
        batch: Batch[ItemT, ResultT] = Batch()
        batch.entries[key] = entry
        self._in_flight.add(key)
        self._start(self._flush_aside(batch), partial(self._aside_ended, batch))

    async def _flush_aside(self, batch: Batch[ItemT, ResultT]) -> None:
        async with self._aside:
            await self._flush_batch(batch, self._flush)

    def _send_put_off(self, batch: Batch[ItemT, ResultT]) -> None:
        """Flush again, after a pause, what would keep up others.

        Its keys stay in flight.
        """
        count = len(batch.entries) + len(batch.superseded)
        self._put_off += count
        self._start(self._flush_put_off(batch), partial(self._put_off_ended, batch, count))

    async def _flush_put_off(self, batch: Batch[ItemT, ResultT]) -> None:
        await asyncio.sleep(batch.pause)
        await self._flush_batch(batch, self._flush_again)

    def _put_off_ended(
        self, batch: Batch[ItemT, ResultT], count: int, task: asyncio.Task[None]
    ) -> None:
        self._put_off -= count
        self._admit()
        self._aside_ended(batch, task)

    def _aside_ended(self, batch: Batch[ItemT, ResultT], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not batch.has_begun:
            batch.fail(self._error or asyncio.CancelledError())
            self._in_flight.difference_update(batch.entries)
        self._wake()

    async def _flush_batch(
        self,
        batch: Batch[ItemT, ResultT],
        flush: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
    ) -> None:
        batch.has_begun = True
        try:
            results = await self._settle([item for item, _ in batch.entries.values()], flush)
        except BaseException as error:
            batch.fail(self._error or error)
            if not isinstance(error, Exception):
                raise
        else:
            again = batch.settle(results, self._rejects)
            self._flushed += bool(batch.entries)
            if again is not None:
                self._send_put_off(again)
        finally:
            self._in_flight.difference_update(batch.entries)

    async def _settle(
        self,
        items: Sequence[ItemT],
        flush: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
    ) -> Sequence[ResultT | Exception]:
        """Flush; halve the batch until an item that makes it fail stands alone.

        Both halves at once: what is alone may take long to fail.
        """
        try:
            return await flush(items)
        except Exception as error:
            if not self._rejects(error):
                raise
            if len(items) == 1:
                return [error]
        middle = len(items) // 2
        halves = items[:middle], items[middle:]
        settled = await asyncio.gather(
            *(self._settle(half, flush) for half in halves), return_exceptions=True
        )
        results: list[ResultT | Exception] = []
        for half, found in zip(halves, settled, strict=True):
            if not isinstance(found, BaseException):
                results += found
            elif isinstance(found, Exception):
                results += [found] * len(half)
            else:
                raise found
        return results
