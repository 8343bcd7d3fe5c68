"""Hands what the middleware knows of an execution to the backend that stores its result."""

from __future__ import annotations

import asyncio
import inspect
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from taskiq.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from types import FrameType

    from taskiq import TaskiqResult

    from taskiq_pg_json.records import TaskInfo

_current: ContextVar[Execution | None] = ContextVar("taskiq_pg_json_execution", default=None)
_ended: ContextVar[tuple[str, TaskInfo] | None] = ContextVar("taskiq_pg_json_ended", default=None)
"""What was left for whoever may store it, by task id."""


@dataclass(slots=True)
class Execution:
    """One execution of a task in this process.

    Executions nest where a broker runs a task inside another one's (``await_inplace=True``).

    Attributes:
        task_id: of the task.
        info: what becomes known of it.
        begun_at: when it began, in UTC.
        error: what it raised.
        runner: the asyncio task that it runs in.
        outer: the execution that it runs inside.
        on_dropped: is called with it and the error, if any, of a runner that ended before it was
            left.
        result: what taskiq makes of it, once that is known.
    """

    task_id: str
    info: TaskInfo
    begun_at: datetime
    error: BaseException | None = None
    _begun: float = field(default_factory=time.perf_counter)
    runner: asyncio.Task[object] | None = field(default_factory=asyncio.current_task)
    outer: Execution | None = None
    on_dropped: Callable[[Execution, BaseException | None], None] | None = None
    result: TaskiqResult[Any] | None = None

    def enter(self) -> None:
        """Make this the innermost execution of the running asyncio task."""
        outer = _current.get()
        # A task that this one merely spawned inherits the variable, and must not keep it alive.
        self.outer = outer if outer is not None and outer.runner is self.runner else None
        _current.set(self)
        if self.runner is not None and self.on_dropped is not None and _is_receivers(self.runner):
            self.runner.add_done_callback(self._runner_ended)

    def leave(self) -> None:
        """Make the execution around this one the innermost again."""
        if self.runner is not None:
            self.runner.remove_done_callback(self._runner_ended)
        _current.set(self.outer)

    def leave_to_others(self) -> None:
        """Leave it before its result is stored, if it ever is, by a backend inside another one."""
        self.leave()
        _ended.set((self.task_id, self.info))  # not this: it would keep itself alive by its runner

    @property
    def was_stopped(self) -> bool:
        """Whether somebody has cancelled the runner, or it ends the process."""
        runner = self.runner
        if runner is None or not runner.done():
            return False
        if runner.cancelled():
            # Before Python 3.11 nobody knows whether the task has raised it by itself.
            cancelling: Callable[[], int] = getattr(runner, "cancelling", lambda: 1)
            return cancelling() > 0
        return isinstance(runner.exception(), KeyboardInterrupt | SystemExit)

    def _runner_ended(self, runner: asyncio.Task[object]) -> None:
        if self.on_dropped is not None:
            self.on_dropped(self, _error_of(runner))

    def end(self) -> None:
        """Note how long it took."""
        seconds = time.perf_counter() - self._begun
        self.info.execution_time = seconds
        self.info.finished_at = self.begun_at + timedelta(seconds=seconds)


def _is_receivers(runner: asyncio.Task[object]) -> bool:
    """Whether the asyncio task was made for taskiq's callback, or for what wraps it, alone.

    A sender's task goes on. Whatever wraps a callback has been given the message.
    """
    coroutine = runner.get_coro()
    if getattr(coroutine, "cr_code", None) is Receiver.callback.__code__:
        return True  # without a look at its frame, which would have to be made
    root: FrameType | None = getattr(coroutine, "cr_frame", None)
    frame = None if root is None else inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), Receiver):
        frame = frame.f_back if frame is not root else None
    message = None if frame is None else frame.f_locals.get("message")
    if root is None or message is None:
        return False
    return any(value is message for value in _given_to(root))


def _given_to(frame: FrameType) -> Iterator[object]:
    """Yield the arguments of a function, and what it has of the one around it."""
    names, rest, keywords, values = inspect.getargvalues(frame)
    for name in (*names, rest, keywords, *frame.f_code.co_freevars):
        value = None if name is None else values.get(name)
        yield value
        if isinstance(value, tuple):
            yield from value
        elif isinstance(value, dict):
            yield from value.values()


def _error_of(runner: asyncio.Task[object]) -> BaseException | None:
    """Return what an asyncio task has raised, a cancellation too."""
    try:
        return runner.exception()
    except asyncio.CancelledError as error:
        own_frame = error.__traceback__
        raised = error.with_traceback(own_frame and own_frame.tb_next)
        if raised.__traceback__ is None and isinstance(error.__context__, asyncio.CancelledError):
            raised = error.__context__  # before Python 3.11
        if not raised.args:
            raised.args = ("The asyncio task that ran it was cancelled.",)
        return raised


def current_execution(task_id: str) -> Execution | None:
    """Return the task's execution, if the running asyncio task is about to end it."""
    execution = _current.get()
    # Whatever began inside it has ended, even where nobody took its result.
    while execution is not None and execution.task_id != task_id:
        execution = execution.outer
    return execution


def taken_task_info(task_id: str) -> TaskInfo | None:
    """Return what is known of the task whose result is about to be stored, and leave it."""
    execution = current_execution(task_id)
    if execution is not None:
        execution.leave()
        return execution.info
    ended = _ended.get()
    if ended is None or ended[0] != task_id:
        return None
    _ended.set(None)
    return ended[1]
