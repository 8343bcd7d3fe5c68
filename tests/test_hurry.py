"""Giving up what takes too long."""

from __future__ import annotations

import asyncio
import sys

import pytest

from taskiq_pg_json.store.hurry import SlowError, given_up_after

tells_cancellations = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 does not tell who has cancelled a task"
)


@pytest.fixture
async def after_cancel():
    """Runs something in a task that has been cancelled, and goes on."""
    tasks = []

    async def went_on(work):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await work()

    async def start(work):
        task = asyncio.create_task(went_on(work))
        tasks.append(task)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        return task

    yield start
    assert all(task.done() for task in tasks)


async def slow(seconds=0.01):
    with given_up_after(seconds):
        await asyncio.Event().wait()


async def test_what_takes_too_long_is_given_up():
    with pytest.raises(SlowError):
        await slow()


async def test_a_task_that_was_cancelled_before_is_told_what_is_slow(after_cancel):
    with pytest.raises(SlowError):
        await (await after_cancel(slow))


@tells_cancellations
async def test_a_task_that_is_cancelled_meanwhile_is_cancelled(after_cancel):
    async def slow_and_cancelled():
        task = asyncio.current_task()
        asyncio.get_running_loop().call_later(0.01, task.cancel)
        await slow()

    with pytest.raises(asyncio.CancelledError):
        await slow_and_cancelled()
    asyncio.current_task().uncancel()
    task = await after_cancel(slow_and_cancelled)
    with pytest.raises(asyncio.CancelledError):
        await task
