"""Reads results, readiness, progress and records, in batches."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from taskiq_pg_json.records import Progress, Status, TaskRecord
from taskiq_pg_json.schema import queries
from taskiq_pg_json.serializer.json_serializer import JsonSerializer
from taskiq_pg_json.serializer.plainrows import Unread, read_return_value
from taskiq_pg_json.serializer.protocol import EncodedRow
from taskiq_pg_json.store.batching import MicroBatcher
from taskiq_pg_json.store.statements import BatchStatement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskiq_pg_json.schema import Names
    from taskiq_pg_json.serializer.protocol import ResultSerializer
    from taskiq_pg_json.store.connections import Connections


MadeT = TypeVar("MadeT")

_FAILURE = Status.FAILURE.value
_HEAVY_BYTES = 1 << 20  # as stored, which may be compressed
_HEAVY_AT_ONCE = 2  # lest they take every connection

Json = str | bytes
"""JSON text: bytes where it is large as it is stored."""

StoredResult = tuple[
    str,
    str,
    str | None,
    float | None,
    bytes | None,
    Json | None,
    Json | None,
    Json | None,
    Json | None,
]
"""The columns of ``get_results``: a name for each would cost as much as fetching the row."""


class StoredProgress(NamedTuple):
    """The columns of ``get_progress``, as they come from the server."""

    task_id: str
    state: str
    meta: bytes | None
    types: bytes | None
    pickled: bytes | None
    updated_at: datetime
    percent: float | None
    text: str | None

    @property
    def reported(self) -> tuple[object, ...]:
        """What tells one report from another; the rest is worked out of it."""
        return self[:6]


class StoredRecord(NamedTuple):
    """The columns of ``record_columns``, as they come from the server."""

    task_id: str
    task_name: str | None
    worker: str | None
    status: str
    log: str | None
    execution_time: float | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    serializer: str | None
    return_value: bytes | None
    error: bytes | None
    args: bytes | None
    kwargs: bytes | None
    labels: bytes | None
    types: bytes | None
    pickled: bytes | None
    progress_state: str | None
    meta: bytes | None
    meta_types: bytes | None
    meta_pickled: bytes | None
    progress_at: datetime | None
    progress_percent: float | None
    progress_text: str | None


class Heavy(Enum):
    """Stands for a result that is too large to share a statement, and is to be asked for alone."""

    RESULT = 0


class Reader:
    """Every read by task id, each kind with a batcher of its own."""

    def __init__(
        self, connections: Connections, names: Names, serializer: ResultSerializer, *, lanes: int
    ) -> None:
        self._connections = connections
        self._decode = serializer.decode
        decode = getattr(serializer.decode, "__func__", None)
        self._decodes_plainly = decode is JsonSerializer.decode  # and in no way of its own
        statements = queries()
        self._get_results, self._get_heavy_result = (
            BatchStatement(names, "get_results", "results", result_columns=columns)
            for columns in ("result_columns", "heavy_result_columns")
        )
        self._are_ready = BatchStatement(names, "are_ready", "results")
        self._get_progress = BatchStatement(names, "get_progress", "progress")
        self._heavy = asyncio.Semaphore(_HEAVY_AT_ONCE)
        self._get_records = names.statement(
            statements["get_records"],
            batch=statements["results_many"],
            record_columns=statements["record_columns"],
        )
        self.results: MicroBatcher[str, StoredResult | Heavy | None] = MicroBatcher(
            self._flush_results, key=str, lanes=lanes
        )
        self.ready: MicroBatcher[str, bool] = MicroBatcher(self._flush_ready, key=str, lanes=lanes)
        self.progress: MicroBatcher[str, StoredProgress | None] = MicroBatcher(
            self._flush_progress, key=str, lanes=lanes
        )

    async def close(self, patience: float) -> None:
        """Answer all that was asked; give up what gets no further for so many seconds."""
        batchers = (self.ready, self.progress, self.results)
        await asyncio.gather(*(batcher.close(patience) for batcher in batchers))

    async def heavy_result(self, task_id: str) -> StoredResult | None:
        """Return what a task left that is too large to share a statement."""
        async with self._heavy:
            found = await self._fetch_results(self._get_heavy_result, [task_id], None)
        return found.get(task_id)

    async def ready_among(self, task_ids: Sequence[str]) -> set[str]:
        """Return those of the tasks that have ended, in one statement."""
        rows = await self._connections.execute(*self._are_ready.of_ids(task_ids))
        return {id_ for (id_,) in rows}

    async def records(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        """Return the records of those ids that have one."""
        rows = await self._connections.execute(self._get_records, {"task_id": list(task_ids)})
        return {id_: self.record(columns) for id_, *columns in rows}

    def record(self, columns: Sequence[Any]) -> TaskRecord:
        """Make a record of a row of ``record_columns``; the JSON is decoded when asked for."""
        stored = StoredRecord._make(columns)
        return TaskRecord(
            task_id=stored.task_id,
            task_name=stored.task_name,
            worker=stored.worker,
            status=Status(stored.status),
            log=stored.log,
            execution_time=stored.execution_time,
            queued_at=_in_utc(stored.queued_at),
            started_at=_in_utc(stored.started_at),
            finished_at=_in_utc(stored.finished_at),
            expires_at=_in_utc(stored.expires_at),
            serializer=stored.serializer,
            _decode=partial(self._decoded, stored),
        )

    def outcome(self, stored: StoredResult, make: Callable[..., MadeT]) -> MadeT:
        """Decode how a task ended, and make something of it: the first fields of an Outcome.

        Raises:
            ResultDecodeError: what stands in the row cannot be decoded.
        """
        task_id, status, log, seconds, pickled, return_value, error, labels, types = stored
        has_no_more = error is labels is pickled is None  # as most have
        if has_no_more and self._decodes_plainly and return_value is not None:
            value = read_return_value(return_value, types)
            if value is not Unread.VALUE:
                return make(value, None, status == _FAILURE, {}, log, seconds or 0.0)
        found = {"return_value": return_value, "error": error, "labels": labels}
        columns = {name: _utf8(text) for name, text in found.items() if text is not None}
        row = EncodedRow(columns, None if types is None else _utf8(types), pickled)
        values = self._decode(row, task_id=task_id)
        return make(
            values.get("return_value"),
            None if error is None else values.get("error"),
            status == _FAILURE,
            {} if labels is None else values.get("labels", {}),
            log,
            seconds or 0.0,
        )

    def decode_progress(self, stored: StoredProgress) -> Progress:
        """Decode what a task reported.

        Raises:
            ResultDecodeError: what stands in the row cannot be decoded.
        """
        meta = None
        if stored.meta is not None:
            row = EncodedRow({"meta": stored.meta}, stored.types, stored.pickled)
            meta = self._decode(row, task_id=stored.task_id)["meta"]
        return Progress(stored.state, meta, stored.percent, stored.text, _in_utc(stored.updated_at))

    def _decoded(self, stored: StoredRecord, column: str) -> object:
        if column == "progress":
            return self._decoded_progress(stored)
        text = getattr(stored, column)
        if text is None and column == "labels":
            return {}
        return self._decoded_text(stored, column, text, stored.types, stored.pickled)

    def _decoded_progress(self, stored: StoredRecord) -> Progress | None:
        if stored.progress_state is None:
            return None
        return Progress(
            state=stored.progress_state,
            meta=self._decoded_text(
                stored, "meta", stored.meta, stored.meta_types, stored.meta_pickled
            ),
            percent=stored.progress_percent,
            text=stored.progress_text,
            updated_at=_in_utc(stored.progress_at),
        )

    def _decoded_text(
        self,
        stored: StoredRecord,
        column: str,
        text: bytes | None,
        types: bytes | None,
        pickled: bytes | None,
    ) -> object:
        if text is None:
            return None
        row = EncodedRow({column: text}, types, pickled)
        return self._decode(row, task_id=stored.task_id)[column]

    async def _flush_results(
        self, task_ids: Sequence[str]
    ) -> Sequence[StoredResult | Heavy | None]:
        found = await self._fetch_results(self._get_results, task_ids, _HEAVY_BYTES)
        if len(found) == len(task_ids):
            return list(map(found.get, task_ids))
        missing = [task_id for task_id in task_ids if task_id not in found]
        heavy = dict.fromkeys(await self.ready_among(missing), Heavy.RESULT)
        return [found.get(task_id) or heavy.get(task_id) for task_id in task_ids]

    async def _fetch_results(
        self, statement: BatchStatement, task_ids: Sequence[str], max_bytes: int | None
    ) -> dict[str, StoredResult]:
        text, values = statement.of_ids(task_ids)
        rows = await self._connections.execute(text, values | {"max_bytes": max_bytes})
        return {row[0]: row for row in rows}

    async def _flush_ready(self, task_ids: Sequence[str]) -> Sequence[bool]:
        ready = await self.ready_among(task_ids)
        return [task_id in ready for task_id in task_ids]

    async def _flush_progress(self, task_ids: Sequence[str]) -> Sequence[StoredProgress | None]:
        rows = await self._connections.execute(*self._get_progress.of_ids(task_ids))
        found = {row[0]: StoredProgress._make(row) for row in rows}
        return [found.get(task_id) for task_id in task_ids]


def _utf8(text: Json) -> bytes:
    return text.encode() if isinstance(text, str) else text


def _in_utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(timezone.utc) if moment is not None else None
