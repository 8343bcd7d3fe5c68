"""Tells the result backend what taskiq does not: the task's name, arguments, worker and times."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import traceback
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any

from taskiq import TaskiqMiddleware
from taskiq.acks import AckController
from taskiq.exceptions import NoResultError
from taskiq.result_backends.dummy import DummyResultBackend

from taskiq_pg_json.errors import ConfigurationError
from taskiq_pg_json.executions import Execution, current_execution
from taskiq_pg_json.records import Outcome, Status, TaskInfo
from taskiq_pg_json.redaction import HiddenPositions, Redact, Redactor
from taskiq_pg_json.store import ResultStore

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from taskiq import TaskiqMessage, TaskiqResult

logger = logging.getLogger("taskiq_pg_json")

QUEUED_AT_LABEL = "taskiq_pg_json_queued_at"
"""Carries the time of sending to the worker, which takes it off before the task runs."""

_REQUEUE_LABEL = "X-Taskiq-requeue"
_SENT_AGAIN = frozenset({"_retries", _REQUEUE_LABEL})
"""The labels of a task that taskiq's middlewares, or it itself, have sent again."""
_WRAPPED = "A backend that wraps one needs its store as an attribute, 'store'."
_LONGEST_SHUTDOWN = 30.0
"""Seconds after which ends that have come meanwhile are left alone."""


class TaskInfoMiddleware(TaskiqMiddleware):
    """Gives results their task name, arguments, worker and exact times.

    They are written by the statement that writes the result, and cost no statement of their own.
    Times are those of the client's and the worker's clocks. A retry is shown as RETRY, and a task
    that was requeued as QUEUED, until the next attempt begins.

    Args:
        record_queued: whether sending a task writes a QUEUED row.
        record_started: whether starting a task writes a STARTED row.
        redact: names of parameters that are hidden in args, kwargs and labels, or a callable
            ``redact(task_name, args, kwargs)`` that returns ``(args, kwargs)``.

    Raises:
        ConfigurationError: ``redact`` is of the wrong type.
    """

    def __init__(
        self,
        *,
        record_queued: bool = False,
        record_started: bool = False,
        redact: Redact | None = None,
    ) -> None:
        super().__init__()
        self._record_queued = record_queued
        self._record_started = record_started
        self._redactor = Redactor(redact)
        self._positions: dict[str, HiddenPositions] = {}
        self._worker = _worker_name()
        self._ends: set[asyncio.Task[None]] = set()

    def startup(self) -> None:
        """Check that the states have somewhere to go, and warn where all else may have none.

        Raises:
            ConfigurationError: the broker's result backend is not a ``JsonbResultBackend``.
        """
        self._worker = _worker_name()
        if self._store is not None:
            return
        backend = self.broker.result_backend
        if self._record_queued or self._record_started:
            raise ConfigurationError(
                f"record_queued and record_started need a JsonbResultBackend, and the broker has a "
                f"{type(backend).__name__}: use broker.with_result_backend(…). {_WRAPPED}"
            )
        if self.broker.is_worker_process or not isinstance(backend, DummyResultBackend):
            logger.warning(
                "TaskInfoMiddleware is for a JsonbResultBackend, and the broker has a %s: tasks "
                "that taskiq drops have no end, and retries are not shown. %s",
                type(backend).__name__,
                _WRAPPED,
            )

    async def shutdown(self) -> None:
        """Wait for the ends that are being written, and those that come meanwhile."""
        loop = asyncio.get_running_loop()  # a fork copies those of its parent
        deadline = loop.time() + _LONGEST_SHUTDOWN
        while loop.time() < deadline:
            await asyncio.sleep(0)  # a task that has just ended is heard of in the next turn
            ends = [end for end in self._ends if end.get_loop() is loop]
            if not ends:
                return
            await asyncio.wait(ends)

    def pre_send(self, message: TaskiqMessage) -> TaskiqMessage:
        """Note when the task is sent."""
        message.labels[QUEUED_AT_LABEL] = _now().isoformat()
        return message

    async def post_send(self, message: TaskiqMessage) -> None:
        """Write the QUEUED row."""
        if self._record_queued:
            queued_at = _parsed(message.labels.get(QUEUED_AT_LABEL))
            await self._record(message, Status.QUEUED, self._info(message, queued_at))

    async def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Begin to time the task, and write the STARTED row."""
        queued_at = _parsed(message.labels.pop(QUEUED_AT_LABEL, None))
        begun_at = _now()
        info = self._info(message, queued_at, started_at=begun_at, worker=self._worker)
        if self._record_started:
            await self._record(message, Status.STARTED, info)
            begun_at = _now()
        on_dropped = partial(self._store_dropped, message)
        Execution(message.task_id, info, begun_at, on_dropped=on_dropped).enter()
        return message

    def on_error(
        self,
        message: TaskiqMessage,
        result: TaskiqResult[Any],
        exception: BaseException,
    ) -> None:
        """Keep what was raised: a retry middleware puts a NoResultError in its place."""
        execution = current_execution(message.task_id)
        if execution is None:
            return
        execution.result = result
        if not isinstance(exception, NoResultError):
            execution.error = exception

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Stop the clock, and write what becomes of a task that leaves no result."""
        if self._redactor.hides:
            result.labels = self._redactor.labels(result.labels)
        execution = current_execution(message.task_id)
        if execution is None:
            return
        execution.result = result
        execution.end()
        if self._store is None:
            execution.leave_to_others()
        if not isinstance(result.error, NoResultError):
            return
        execution.leave()
        await self._record_no_result(message, execution)

    async def _record_no_result(self, message: TaskiqMessage, execution: Execution) -> None:
        info = execution.info
        if execution.error is not None:
            await self._record(message, Status.RETRY, info, execution.error)
        elif self._is_requeued(message, execution):
            # The message is sent again without the label: the row keeps the time.
            await self._record(message, Status.QUEUED, info)
        elif self._may_have_row(info):
            await self._discard(message, info)

    def _may_have_row(self, info: TaskInfo) -> bool:
        """Whether a state may have been written of the task, by this attempt or an earlier one."""
        is_recorded = self._record_queued or self._record_started
        return is_recorded or not _SENT_AGAIN.isdisjoint(info.labels)

    def _store_dropped(
        self, message: TaskiqMessage, execution: Execution, error: BaseException | None
    ) -> None:
        """Store a FAILURE for a task that taskiq has dropped, unless it runs once more.

        taskiq drops it where a dependency fails while it is closed, another middleware raises, or
        somebody cancels it then.
        """
        result = execution.result
        has_no_result = result is not None and isinstance(result.error, NoResultError)
        if error is None:
            if has_no_result:  # by another middleware, after this one was asked
                self._begin(self._record_no_result(message, execution))
            return
        runs_again = (
            has_no_result
            or self._is_requeued(message, execution)
            or _was_not_acknowledged(execution, error)
        )
        if runs_again:
            return
        execution.error = error
        execution.end()
        self._begin(self._record_end(execution))

    def _begin(self, end: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(end)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def _record_end(self, execution: Execution) -> None:
        if self._store is None:
            return
        info = execution.info
        outcome = Outcome(error=execution.error, is_err=True, labels=info.labels or {}, info=info)
        try:
            await self._store.set_result(execution.task_id, outcome)
        except Exception:  # nobody waits for this one
            logger.exception("The end of task %s is not stored.", execution.task_id)

    @staticmethod
    def _is_requeued(message: TaskiqMessage, execution: Execution) -> bool:
        sent = execution.info.labels.get(_REQUEUE_LABEL)
        return bool(message.labels.get(_REQUEUE_LABEL) != sent)

    @property
    def _store(self) -> ResultStore | None:
        store = getattr(self.broker.result_backend, "store", None)
        return store if isinstance(store, ResultStore) else None

    def _info(
        self,
        message: TaskiqMessage,
        queued_at: datetime | None,
        *,
        started_at: datetime | None = None,
        worker: str | None = None,
    ) -> TaskInfo:
        labels = self._redactor.labels(message.labels)
        labels.pop(QUEUED_AT_LABEL, None)
        args, kwargs = self._redactor.redacted(
            message.task_name,
            message.args,
            message.kwargs,
            self._hidden_positions(message.task_name),
        )
        return TaskInfo(
            message.task_name,
            args,
            kwargs,
            labels,
            worker=worker,
            queued_at=queued_at,
            started_at=started_at,
        )

    def _hidden_positions(self, task_name: str) -> HiddenPositions:
        """Return which of the task's positional arguments are hidden."""
        hidden = self._positions.get(task_name)
        if hidden is None:
            task = self.broker.find_task(task_name)
            hidden = self._redactor.hidden_positions(task and task.original_func)
            if task is not None:  # or it may become known later
                self._positions[task_name] = hidden
        return hidden

    async def _record(
        self,
        message: TaskiqMessage,
        status: Status,
        info: TaskInfo,
        error: BaseException | None = None,
    ) -> None:
        if self._store is None:
            return
        try:
            await self._store.record_state(message.task_id, status, info, error)
        except Exception:  # a state is a courtesy: the task itself must go on
            logger.exception("The state %s of task %s is not stored.", status, message.task_id)

    async def _discard(self, message: TaskiqMessage, info: TaskInfo) -> None:
        if self._store is None:
            return
        try:
            await self._store.discard_state(message.task_id, info)
        except Exception:  # likewise
            logger.exception("The state of task %s is not taken back.", message.task_id)


def _was_not_acknowledged(execution: Execution, error: BaseException) -> bool:
    """Whether the broker will deliver the message once more.

    A task that was stopped before its message was acknowledged never will acknowledge it.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(frame.f_code is AckController.ack.__code__ for frame in frames):
        return True
    held = [frame.f_locals.get("ack_controller") for frame in frames]
    acks = next((acks for acks in held if isinstance(acks, AckController)), None)
    return acks is not None and acks.is_ackable and not acks.is_acked and execution.was_stopped


def _worker_name() -> str:
    """Return what names this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _parsed(moment: object) -> datetime | None:
    """Return the time that a label holds; None when it is absent or another's."""
    try:
        return datetime.fromisoformat(moment) if isinstance(moment, str) else None
    except ValueError:
        return None
