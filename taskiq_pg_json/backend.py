"""The result backend that taskiq talks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress, TaskState
from taskiq.exceptions import ResultGetError
from typing_extensions import TypeVar

from taskiq_pg_json.errors import ConfigurationError, TaskiqPgJsonError, TaskNotFoundError
from taskiq_pg_json.executions import taken_task_info
from taskiq_pg_json.records import Outcome, Progress
from taskiq_pg_json.store import Migrate, ResultStore
from taskiq_pg_json.store.arguments import checked_seconds
from taskiq_pg_json.store.coroutines import coroutine_function
from taskiq_pg_json.store.dsn import Dsn, dsn_text

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from datetime import timedelta

    from psycopg_pool import AsyncConnectionPool

    from taskiq_pg_json.schema import TaskIdType
    from taskiq_pg_json.serializer import ResultSerializer, TaskiqSerializer

_ReturnType = TypeVar("_ReturnType", default=Any)

_RESULT_FIELDS = {"is_err", "log", "return_value", "execution_time", "labels", "error"}
_SLOTS = ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_set_dict, _set_fields_set, _set_extra, _set_private = (
    vars(BaseModel)[slot].__set__ for slot in _SLOTS
)
_MOST_TAKEN = 10_000
"""Results that were read and not kept, whose ids are remembered."""
_TASK_STATES = {state.value: state for state in TaskState}


class ResultIsMissingError(TaskiqPgJsonError, ResultGetError):
    """There is no result of this task: it has not finished, or has expired or been deleted."""

    __template__ = "{message}"
    message: str


class JsonbResultBackend(AsyncResultBackend[_ReturnType]):
    """Keeps the results and the progress of taskiq's tasks as JSONB.

    The first five parameters are those of taskiq-postgres, in its order. The others are those of
    :class:`~taskiq_pg_json.store.ResultStore`, which ``store`` gives access to. Subclasses may read
    the attributes that taskiq-postgres's backends have.

    Args:
        dsn: a conninfo string or URL, a callable that returns one, or None for libpq's ``PG*``
            environment variables.
        keep_results: whether a result stays after it has been read; False deletes it and its
            progress once it has been decoded.
        table_name: the table of the results.
        field_for_task_id: the type of task ids: ``"VarChar"``, ``"Text"`` or ``"Uuid"``.
        serializer: None for ``JsonSerializer()``, any ``ResultSerializer``, or one of taskiq's.
        schema: the schema of the tables; None for the first of the ``search_path``.
        pool: a ``psycopg_pool.AsyncConnectionPool`` to borrow from; never closed.
        result_ttl: how long results are kept, in seconds or as a timedelta; None means for ever.
        migrate: ``"auto"``, ``"verify"`` or ``"off"``.
        long_poll: how long, in seconds, ``is_result_ready`` may wait for a notification before it
            says no; None for not at all. taskiq's own ``wait_result`` and ``gather`` then answer
            in milliseconds; a timeout given to them may be overrun by as much.
        pool_kwargs: further arguments of ``ResultStore`` and ``AsyncConnectionPool``.

    Raises:
        ConfigurationError: an argument that cannot work.
    """

    def __init__(
        self,
        dsn: Dsn = None,
        keep_results: bool = True,
        table_name: str = "taskiq_results",
        field_for_task_id: TaskIdType = "VarChar",
        serializer: ResultSerializer | TaskiqSerializer | None = None,
        *,
        schema: str | None = None,
        pool: AsyncConnectionPool[Any] | None = None,
        result_ttl: float | timedelta | None = None,
        migrate: Migrate = "auto",
        long_poll: float | None = None,
        **pool_kwargs: Any,  # noqa: ANN401 - they are the pool's own
    ) -> None:
        if not isinstance(keep_results, int):  # as 0 and 1 are too
            raise ConfigurationError(f"keep_results={keep_results!r}: give True or False.")
        self._dsn = dsn
        self.keep_results = keep_results
        self.table_name = table_name
        self.field_for_task_id = field_for_task_id
        self.connect_kwargs = pool_kwargs
        self._taken: dict[str, None] = {}
        self.long_poll = 0.0 if long_poll is None else checked_seconds("long_poll", long_poll)
        self.store = ResultStore(
            dsn,
            table_name=table_name,
            field_for_task_id=field_for_task_id,
            serializer=serializer,
            schema=schema,
            pool=pool,
            result_ttl=result_ttl,
            migrate=migrate,
            **pool_kwargs,
        )
        self.serializer: Any = self.store.serializer if serializer is None else serializer

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.store.names}, {self.store.serializer.name}>"

    @property
    def dsn(self) -> str | None:
        """The dsn; a callable is called for it.

        Raises:
            ConfigurationError: the callable is async.
        """
        return dsn_text(self._dsn)

    async def startup(self) -> None:
        """Open the pool and bring the tables to the version needed; raises as the store does."""
        await self.store.startup()

    async def shutdown(self) -> None:
        """Write all that was accepted and close the pool, unless it was lent."""
        await self.store.shutdown()

    # Not a coroutine around the store's: ten thousand that wait are as many objects for the
    # garbage collector to look through, again and again.
    @coroutine_function
    def set_result(
        self, task_id: str, result: TaskiqResult[_ReturnType]
    ) -> Coroutine[Any, Any, None]:
        """Store a result, with what :class:`TaskInfoMiddleware` knows of the task.

        A value that cannot be stored becomes a FAILURE whose error says why: whoever waits for the
        task gets an end.
        """
        outcome = Outcome(
            result.return_value,
            result.error,
            result.is_err,
            result.labels,
            result.log,
            result.execution_time,
            taken_task_info(task_id),
        )
        return self.store.set_result(task_id, outcome)

    @coroutine_function
    def is_result_ready(self, task_id: str) -> Coroutine[Any, Any, bool]:
        """Whether the task has ended; waits for it for up to ``long_poll`` seconds.

        Not for a result that was read here and not kept: taskiq's ``gather`` asks for it again.
        """
        timeout = 0.0 if self._taken and task_id in self._taken else self.long_poll
        return self.store.is_ready(task_id, timeout=timeout)

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[_ReturnType]:
        """Return a task's result.

        Raises:
            ResultIsMissingError: the task has not ended, or its result has expired or been deleted.
            ResultDecodeError: what stands in the row cannot be decoded; the row is kept.
        """
        try:
            result = await self.store.read_outcome(task_id, _result)
        except TaskNotFoundError as error:
            raise ResultIsMissingError(message=str(error)) from None
        if not self.keep_results:
            await self.store.delete(task_id)
            self._take(task_id)
        if not with_logs:
            result.__dict__["log"] = None
        return result

    def _take(self, task_id: str) -> None:
        """Remember, for a while, that a result was read and not kept."""
        if len(self._taken) >= _MOST_TAKEN:
            del self._taken[next(iter(self._taken))]
        self._taken[task_id] = None

    async def delete_result(self, task_id: str) -> None:
        """Delete a task's result and progress, if there are any."""
        await self.store.delete(task_id)

    @coroutine_function
    def set_progress(self, task_id: str, progress: TaskProgress[Any]) -> Coroutine[Any, Any, None]:
        """Store a task's progress; the last write wins."""
        return self.store.set_progress(task_id, Progress(_word(progress.state), progress.meta))

    async def get_progress(self, task_id: str) -> TaskProgress[Any] | None:
        """Return what a task last said of its progress; None when it has said nothing."""
        progress = await self.store.get_progress(task_id)
        if progress is None:
            return None
        state = _TASK_STATES.get(progress.state, progress.state)
        return TaskProgress.model_construct(state=state, meta=progress.meta)


def _result(  # noqa: PLR0917 - the fields of an outcome, in their order
    return_value: object,
    error: BaseException | None,
    is_err: bool,
    labels: dict[str, object],
    log: str | None,
    execution_time: float,
) -> TaskiqResult[Any]:
    """A result that is not validated, which would copy and might coerce what was stored.

    ``model_construct``, which this does the work of, looks at every field of the class.
    """
    result: TaskiqResult[Any] = object.__new__(TaskiqResult)
    fields = {
        "is_err": is_err,
        "log": log,
        "return_value": return_value,
        "execution_time": execution_time,
        "labels": labels,
        "error": error,
    }
    _set_dict(result, fields)
    _set_fields_set(result, _RESULT_FIELDS.copy())
    _set_extra(result, None)
    _set_private(result, None)
    return result


def _word(state: TaskState | str) -> str:
    return state.value if isinstance(state, TaskState) else state
