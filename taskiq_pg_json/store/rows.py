"""Makes the rows that are written: encoded, and never without an end for whoever waits."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.records import Outcome, Status, TaskInfo
from taskiq_pg_json.serializer.adapters import TaskiqSerializerAdapter
from taskiq_pg_json.serializer.exceptions import INTERRUPTS, describe_exception
from taskiq_pg_json.serializer.exceptions.printable import full_name, message_of
from taskiq_pg_json.serializer.json_serializer import JsonSerializer
from taskiq_pg_json.serializer.jsontext import dumps
from taskiq_pg_json.serializer.nodes import VERSION
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.store.misfits import (
    checked_row,
    exception_of,
    seconds_of,
    text_of,
    usable_info,
    usable_outcome,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taskiq_pg_json.records import Progress
    from taskiq_pg_json.serializer.protocol import ResultSerializer

logger = logging.getLogger("taskiq_pg_json")

MAX_TASK_NAME_BYTES = 1000
"""With an id as long, what a B-tree of PostgreSQL holds: a third of a page."""

_SUCCESS, _FAILURE = Status.SUCCESS.value, Status.FAILURE.value
_SIDE_COLUMNS = ("args", "kwargs", "labels")


class ResultRow(NamedTuple):
    """One row of the results as it goes to the server; JSON as UTF-8 bytes, times aware.

    Labels that are an empty dict are None: most are, and the server need not parse them.
    """

    task_id: str
    status: str
    task_name: str | None
    worker: str | None
    return_value: bytes | None
    error: bytes | None
    args: bytes | None
    kwargs: bytes | None
    labels: bytes | None
    log: str | None
    execution_time: float | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    types: bytes | None
    pickled: bytes | None
    size: int


class ProgressRow(NamedTuple):
    """One row of the progress as it goes to the server."""

    task_id: str
    state: str
    meta: bytes
    types: bytes | None
    pickled: bytes | None
    size: int


class RowEncoder:
    """Encodes what is written through the store's serializer."""

    def __init__(self, serializer: ResultSerializer) -> None:
        encode = getattr(serializer.encode, "__func__", None)
        is_ours = encode in {JsonSerializer.encode, TaskiqSerializerAdapter.encode}
        self._write = serializer.encode if is_ours else partial(checked_row, serializer.encode)
        self._reads_sidecars = isinstance(serializer, JsonSerializer | TaskiqSerializerAdapter)

    def result(self, task_id: str, outcome: Outcome) -> tuple[ResultRow, ResultEncodeError | None]:
        """Return the row of a task that has ended, and the error that has made it a failure.

        A return value that cannot be stored makes it a FAILURE whose error says which path and type
        it was; arguments and labels that cannot are left out. No serializer keeps it from an end.
        """
        try:
            return self._result(task_id, outcome), None
        except ResultEncodeError as exc:
            usable, error = usable_outcome(task_id, outcome), exc
        except INTERRUPTS:
            raise
        except BaseException as exc:  # noqa: BLE001 - a serializer may be of the user's own
            usable = usable_outcome(task_id, outcome)
            if usable is not outcome:
                return self.result(task_id, usable)
            if _has_call(outcome):
                logger.warning("The call of task %s is not stored: %r", task_id, exc)
                return self.result(task_id, _without_call(outcome))
            error = _unwritable(task_id, outcome, exc)
        return self.failure(task_id, usable, error), error

    def failure(self, task_id: str, outcome: Outcome, error: ResultEncodeError) -> ResultRow:
        """Return the row that stands in for one that cannot be encoded, or that was refused."""
        try:
            return self._result(task_id, _refused(outcome, error))
        except INTERRUPTS:
            raise
        except BaseException as exc:  # noqa: BLE001 - a serializer may be of the user's own
            logger.warning("Task %s: not even its failure can be encoded: %r", task_id, exc)
        return self.plain_failure(task_id, outcome, error)

    def plain_failure(self, task_id: str, outcome: Outcome, error: ResultEncodeError) -> ResultRow:
        """Return that row as it is made when nothing is asked of the serializer."""
        plain, node = describe_exception(error, lambda _cls: None)
        # A serializer of another make may take the sidecar for its own.
        types = dumps({"v": VERSION, "error": node}) if self._reads_sidecars else None
        encoded = EncodedRow({"return_value": b"null", "error": dumps(plain)}, types)
        seconds = _seconds(outcome)
        return _row(task_id, _FAILURE, encoded, outcome.info, execution_time=seconds)

    def _result(self, task_id: str, outcome: Outcome) -> ResultRow:
        columns: dict[str, object] = {"return_value": outcome.return_value}
        _add_labels(columns, outcome.labels)
        if outcome.error is not None:
            columns["error"] = exception_of(task_id, outcome.error)
        info = outcome.info
        if info is not None:
            _add_call(columns, info)
        encoded = self._encode(task_id, columns)
        is_err = outcome.is_err
        if is_err is None:  # as Outcome.status has it, which takes seven times as long
            is_err = outcome.error is not None
        status = _FAILURE if is_err else _SUCCESS
        log = outcome.log
        if log is not None:
            log = _storable(log if type(log) is str else text_of(log))
        return _row(task_id, status, encoded, info, log=log, execution_time=_seconds(outcome))

    def state(
        self, task_id: str, status: Status, info: TaskInfo, error: BaseException | None
    ) -> ResultRow:
        """Return the row of a task that is queued, has started or will be retried."""
        columns: dict[str, object] = {}
        _add_labels(columns, info.labels)
        _add_call(columns, info)
        if error is not None:
            columns["error"] = exception_of(task_id, error)
        encoded = self._encode(task_id, columns)
        try:
            return _row(task_id, status.value, encoded, info)
        except (AttributeError, TypeError):
            return _row(task_id, status.value, encoded, usable_info(task_id, info))

    def progress(self, task_id: str, progress: Progress) -> ProgressRow:
        """Return the row of a task's progress.

        Raises:
            ResultEncodeError: the meta cannot be stored.
        """
        encoded = self._write({"meta": progress.meta}, task_id=task_id)
        columns, types, pickled = encoded
        state = progress.state
        if type(state) is not str:
            state = "" if state is None else text_of(state)
        state = _storable(state) or ""
        return ProgressRow(task_id, state, columns["meta"], types, pickled, encoded.size)

    def _encode(self, task_id: str, columns: dict[str, object]) -> EncodedRow:
        """Encode; what is only beside the result is left out rather than fail the row."""
        try:
            return self._write(columns, task_id=task_id)
        except ResultEncodeError as error:
            column = error.path.partition(".")[0].partition("[")[0]
            if column not in _SIDE_COLUMNS or column not in columns:
                raise
            logger.warning("The %s of task %s are not stored: %s", column, task_id, error)
        rest = {name: value for name, value in columns.items() if name != column}
        return self._encode(task_id, rest)


def _row(
    task_id: str,
    status: str,
    encoded: EncodedRow,
    info: TaskInfo | None,
    *,
    log: str | None = None,
    execution_time: float | None = None,
) -> ResultRow:
    column = encoded.columns.get
    task_name = worker = queued_at = started_at = finished_at = None
    if info is not None:
        task_name, worker = _cut(_storable(info.task_name)), _storable(info.worker)
        queued_at, started_at, finished_at = map(
            aware, (info.queued_at, info.started_at, info.finished_at)
        )
    values = (
        task_id,
        status,
        task_name,
        worker,
        column("return_value"),
        column("error"),
        column("args"),
        column("kwargs"),
        column("labels"),
        log,
        execution_time,
        queued_at,
        started_at,
        finished_at,
        encoded.types,
        encoded.pickled,
        encoded.size,
    )
    return tuple.__new__(ResultRow, values)  # its own takes half as long again


def _add_labels(columns: dict[str, object], labels: Mapping[str, object]) -> None:
    if labels or type(labels) is not dict:  # most are empty
        columns["labels"] = labels


def _add_call(columns: dict[str, object], info: TaskInfo) -> None:
    if info.args is not None:
        columns["args"] = info.args
    if info.kwargs is not None:
        columns["kwargs"] = info.kwargs


def _seconds(outcome: Outcome) -> float:
    info, seconds = outcome.info, outcome.execution_time
    if info is not None and info.execution_time is not None:
        seconds = info.execution_time
    return seconds if type(seconds) is float else seconds_of(seconds)


def _has_call(outcome: Outcome) -> bool:
    info = outcome.info
    return bool(outcome.labels) or (
        info is not None and not (info.args is None and info.kwargs is None)
    )


def _without_call(outcome: Outcome) -> Outcome:
    info = outcome.info and replace(outcome.info, args=None, kwargs=None)
    return replace(outcome, labels={}, info=info)


def is_more_than_result(row: ResultRow) -> bool:
    """Whether anything stands beside the result, which is no reason to lose it."""
    beside = (row.task_name, row.args, row.kwargs, row.labels, row.log)
    return any(value is not None for value in beside)


def bare_outcome(
    row: ResultRow, return_value: object, error: BaseException | None, is_err: bool | None
) -> Outcome:
    """What a row was made of, without the call and the log.

    What is left beside the result is ASCII, which every database can hold.
    """
    info = None
    if row.task_name is not None:
        info = TaskInfo(
            in_ascii(row.task_name),
            args=None,
            kwargs=None,
            worker=row.worker and in_ascii(row.worker),
            queued_at=row.queued_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
        )
    seconds = row.execution_time or 0.0
    return Outcome(return_value, error, is_err, execution_time=seconds, info=info)


def _unwritable(task_id: str, outcome: Outcome, reason: BaseException) -> ResultEncodeError:
    """The error for a result that the serializer could not encode, nor say why."""
    column = "return_value" if outcome.error is None else "error"
    value = outcome.return_value if outcome.error is None else outcome.error
    name = full_name(type(value))
    said = "" if outcome.error is None else f", which said: {message_of(outcome.error)}"
    return ResultEncodeError(
        f"task {task_id}: {column} ({name}{said}) cannot be stored: the serializer raised"
        f" {full_name(type(reason))}: {message_of(reason)}",
        task_id=task_id,
        path=column,
        type_name=name,
    )


def _refused(outcome: Outcome, error: ResultEncodeError) -> Outcome:
    return replace(outcome, return_value=None, error=error, is_err=True)


def _storable(text: str | None) -> str | None:
    """Escape what a text column cannot hold: NUL and lone surrogates."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def aware(moment: datetime | None) -> datetime | None:
    """Give a time without a zone that of ``TaskInfo``."""
    if moment is None or moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=timezone.utc)


def in_ascii(text: str) -> str:
    """Escape what is not ASCII, which is all that a database of another encoding may hold."""
    return text.encode("ascii", "backslashreplace").decode()


def _cut(name: str | None) -> str | None:
    """Cut a name that the index on names cannot hold."""
    if name is None or len(name) <= MAX_TASK_NAME_BYTES // 4:
        return name
    return name.encode()[:MAX_TASK_NAME_BYTES].decode(errors="ignore")
