"""What is said of results and progress that the server has refused, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.errors import InsufficientPrivilege, UndefinedColumn, UndefinedTable

from taskiq_pg_json.errors import ResultEncodeError
from taskiq_pg_json.serializer.exceptions.printable import full_name
from taskiq_pg_json.store.rows import in_ascii

if TYPE_CHECKING:
    from taskiq_pg_json.records import Outcome, Progress

_MIGRATE = (
    'Run the migrations (migrate="auto", or the SQL of ResultStore.schema_sql()), '
    "or check table_name= and schema=."
)
_WAYS_OUT: dict[type[Exception], str] = {
    InsufficientPrivilege: (
        "GRANT the role SELECT, INSERT, UPDATE and DELETE on the table and USAGE on its schema, "
        "and change what row-level security forbids."
    ),
    UndefinedTable: _MIGRATE,
    UndefinedColumn: _MIGRATE,
}


def refused_result(task_id: str, outcome: Outcome, reason: Exception) -> ResultEncodeError:
    """Return the error that stands in for a result, in ASCII, which every database can hold."""
    way_out = _WAYS_OUT.get(type(reason), "Return something smaller or simpler.")
    return ResultEncodeError(
        in_ascii(f"PostgreSQL refused the result of task {task_id}: {reason}. {way_out}"),
        task_id=task_id,
        path="return_value",
        type_name=in_ascii(full_name(type(outcome.return_value))),
    )


def refused_progress(task_id: str, progress: Progress, reason: Exception) -> ResultEncodeError:
    """Return the error for a progress that the server refused."""
    return ResultEncodeError(
        f"PostgreSQL refused the progress of task {task_id}: {reason}. "
        "Report something smaller or simpler.",
        task_id=task_id,
        path="meta",
        type_name=full_name(type(progress.meta)),
    )


def lost_result(task_id: str, reason: Exception) -> str:
    """Say that nothing of a result could be stored."""
    way_out = _WAYS_OUT.get(type(reason), "")
    said = str(reason).partition("\n")[0]
    return f"The result of task {task_id} is lost: {said}. {way_out}".rstrip()
