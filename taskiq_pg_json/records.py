"""What goes into the store and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime  # noqa: TC003 - for whoever evaluates the annotations
from enum import Enum
from functools import partial
from typing import Any, Generic, Protocol

from typing_extensions import TypeVar

ReturnT = TypeVar("ReturnT", default=Any)
ItemT = TypeVar("ItemT", default=Any)


class _Row(Protocol):
    def to_dict(self) -> dict[str, object]: ...


RowT = TypeVar("RowT", bound=_Row)

Decode = Callable[[str], object]
"""Gives the Python value of one JSON column of a row, or of ``progress``."""


class Status(str, Enum):
    """Where a task is, in the words of taskiq's ``TaskState``."""

    QUEUED = "QUEUED"
    STARTED = "STARTED"
    RETRY = "RETRY"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"

    def __str__(self) -> str:
        return self.value


@dataclass(slots=True)
class TaskInfo:
    """What the middleware knows of one execution of a task.

    Attributes:
        task_name: the task's name.
        args: the positional arguments as they were sent; None where they must not be stored.
        kwargs: the keyword arguments as they were sent; None likewise.
        labels: the labels as they were sent.
        worker: ``host:pid``; None until a worker has taken the task.
        queued_at: when it was sent, in UTC.
        started_at: when this worker began it, in UTC.
        finished_at: when it ended, in UTC.
        execution_time: how long it ran, in seconds.
    """

    task_name: str
    args: Sequence[object] | None = ()
    kwargs: Mapping[str, object] | None = field(default_factory=dict)
    labels: Mapping[str, object] = field(default_factory=dict)
    worker: str | None = None
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    execution_time: float | None = None


@dataclass(slots=True)  # frozen, making one would cost as much as reading its row
class Outcome:
    """How a task ended.

    Attributes:
        return_value: what it returned.
        error: what it raised.
        is_err: whether it failed; None, which none that is read has, says that it did if there is
            an error.
        labels: the task's labels.
        log: what it logged, where anything collected that.
        execution_time: how long it ran, in seconds.
        info: what the middleware knows of it.
    """

    return_value: object = None
    error: BaseException | None = None
    is_err: bool | None = None
    labels: Mapping[str, object] = field(default_factory=dict)
    log: str | None = None
    execution_time: float = 0.0
    info: TaskInfo | None = None

    @property
    def status(self) -> Status:
        """SUCCESS or FAILURE."""
        is_err = self.error is not None if self.is_err is None else self.is_err
        return Status.FAILURE if is_err else Status.SUCCESS


@dataclass(slots=True)  # not frozen, likewise
class Progress:
    """What a task last said of its progress.

    Attributes:
        state: a ``TaskState`` word or any other string.
        meta: whatever the task reported.
        percent: how far it is, 0 to 100, where the meta has one of the common shapes.
        text: the meta's message or status, where it has one.
        updated_at: when it was reported, in UTC.
    """

    state: str
    meta: Any = None
    percent: float | None = None
    text: str | None = None
    updated_at: datetime | None = None


@dataclass(slots=True)
class TaskRecord(Generic[ReturnT]):
    """One task as the store knows it.

    The times are aware and in UTC. ``return_value``, ``error``, ``args``, ``kwargs``, ``labels``
    and ``progress`` are decoded when first asked for, and all of them when the record is pickled or
    deep-copied.

    Raises:
        ResultDecodeError: from those six, when what stands in the row cannot be decoded.
    """

    task_id: str
    task_name: str | None
    worker: str | None
    status: Status
    log: str | None
    execution_time: float | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    serializer: str | None
    _decode: Decode = field(repr=False, compare=False)
    _values: dict[str, object] = field(default_factory=dict, repr=False, compare=False)

    @property
    def return_value(self) -> ReturnT:
        """What the task returned; None while it has not finished."""
        return self._value("return_value")  # type: ignore[return-value]

    @property
    def error(self) -> BaseException | None:
        """What the task raised."""
        return self._value("error")  # type: ignore[return-value]

    @property
    def args(self) -> list[Any] | None:
        """The positional arguments; None without the middleware."""
        return self._value("args")  # type: ignore[return-value]

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The keyword arguments; None without the middleware."""
        return self._value("kwargs")  # type: ignore[return-value]

    @property
    def labels(self) -> dict[str, Any]:
        """The task's labels; empty without any."""
        return self._value("labels")  # type: ignore[return-value]

    @property
    def progress(self) -> Progress | None:
        """What the task last said of its progress."""
        return self._value("progress")  # type: ignore[return-value]

    @property
    def is_ready(self) -> bool:
        """Whether the task has ended."""
        return self.finished_at is not None

    def to_dict(self) -> dict[str, object]:
        """The record as a dict, decoded; raises as the fields do."""
        plain = [each.name for each in fields(self) if each.repr]
        return {name: getattr(self, name) for name in (*plain, *_DECODED)}

    def decoded_by(self, wrap: Callable[[Decode], Decode]) -> TaskRecord[ReturnT]:
        """The same record with another way to decode its values, which is given the present one."""
        return replace(self, _decode=wrap(self._decode), _values={})

    def __copy__(self) -> TaskRecord[ReturnT]:
        return replace(self, _values=self._values.copy())

    def __getstate__(self) -> tuple[None, dict[str, object]]:
        # Decoded, as nobody else has the store that would do it.
        errors = {column: error for column in _DECODED if (error := self._refusal(column))}
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        return None, {**state, "_decode": partial(_decoded, self._values, errors), "_values": {}}

    def _refusal(self, column: str) -> Exception | None:
        try:
            self._value(column)
        except Exception as error:  # noqa: BLE001 - which is raised when the column is asked for
            return error
        return None

    def _value(self, column: str) -> object:
        if column not in self._values:
            self._values[column] = self._decode(column)
        return self._values[column]


_DECODED = ("return_value", "error", "args", "kwargs", "labels", "progress")


def _decoded(values: Mapping[str, object], errors: Mapping[str, Exception], column: str) -> object:
    if column in errors:
        raise errors[column]
    return values[column]


@dataclass(frozen=True, slots=True)
class Page(Generic[ItemT]):
    """One page of a search.

    Attributes:
        items: the records, in the order asked for.
        next_cursor: give it as ``cursor=`` for the page after this one; None at the end.
        previous_cursor: likewise for the page before; None at the beginning.
    """

    items: Sequence[ItemT]
    next_cursor: str | None = None
    previous_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsRow:
    """The numbers of the tasks of one group that ended, in one span of time.

    Attributes:
        group: the values that the group has in common, by the names asked for.
        bucket: when the span begins, in UTC; None when there are no spans.
        total: how many tasks ended.
        failed: how many of them failed.
        average_duration: how long they ran, in seconds; None when nobody knows, as are the others.
        max_duration: how long the longest ran.
        percentiles: how long they ran, by the percentage that ran no longer.
        average_wait: how long they waited from being sent to being started, in seconds.
        max_wait: how long the one waited that waited longest.
    """

    group: Mapping[str, str | None]
    bucket: datetime | None = None
    total: int = 0
    failed: int = 0
    average_duration: float | None = None
    max_duration: float | None = None
    percentiles: Mapping[float, float | None] = field(default_factory=dict)
    average_wait: float | None = None
    max_wait: float | None = None

    @property
    def failure_rate(self) -> float | None:
        """The share of the tasks that failed, 0 to 1; None of no tasks."""
        return self.failed / self.total if self.total else None

    def to_dict(self) -> dict[str, object]:
        """The row in one level: the group, ``bucket``, ``total``, ``p50`` and the others."""
        return {
            **self.group,
            "bucket": self.bucket,
            "total": self.total,
            "failed": self.failed,
            "failure_rate": self.failure_rate,
            "average_duration": self.average_duration,
            **{f"p{percent:g}": seconds for percent, seconds in self.percentiles.items()},
            "max_duration": self.max_duration,
            "average_wait": self.average_wait,
            "max_wait": self.max_wait,
        }


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """The failures of one task for one cause.

    Attributes:
        task_name: the task's name.
        error_type: the class that was raised.
        fingerprint: what the failures have in common; give it to ``search(fingerprint=…)``.
        message: the message of the latest.
        total: how many there are.
        last_hour: how many of them in the last hour.
        last_day: how many in the last 24 hours.
        last_week: how many in the last 7 days.
        first_seen: when the first failed, in UTC.
        last_seen: when the latest failed, in UTC.
        sample_ids: the task ids of the latest ones.
    """

    task_name: str | None
    error_type: str | None
    fingerprint: str | None
    message: str | None
    total: int
    last_hour: int
    last_day: int
    last_week: int
    first_seen: datetime
    last_seen: datetime
    sample_ids: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The group as a dict of its fields."""
        return {name: getattr(self, name) for name in self.__slots__}


class Rows(list[RowT]):
    """Rows of numbers, which a data frame takes as ``DataFrame(rows.to_dicts())``."""

    def to_dicts(self) -> list[dict[str, object]]:
        """The rows as dicts of one level."""
        return [row.to_dict() for row in self]
