"""A queryable PostgreSQL result store for taskiq.

Results and progress are rows of readable JSONB, searchable in SQL, that come back to Python as
exactly the value that was stored.
"""

from taskiq_pg_json.backend import JsonbResultBackend, ResultIsMissingError
from taskiq_pg_json.errors import (
    ConfigurationError,
    FilterError,
    ForeignTableError,
    InvalidTaskIdError,
    NotLoadedError,
    NotStartedError,
    RemoteError,
    ResultDecodeError,
    ResultEncodeError,
    SchemaError,
    SchemaVersionError,
    SearchTimeoutError,
    SerializationError,
    TaskiqPgJsonError,
    TaskNotFoundError,
    WaitTimeoutError,
    WriteTimeoutError,
)
from taskiq_pg_json.middleware import TaskInfoMiddleware
from taskiq_pg_json.records import (
    FailureGroup,
    Outcome,
    Page,
    Progress,
    Rows,
    StatsRow,
    Status,
    TaskInfo,
    TaskRecord,
)
from taskiq_pg_json.serializer import (
    JsonSerializer,
    PickleFallback,
    ResultSerializer,
    TypeRegistry,
)
from taskiq_pg_json.store import F, ResultStore

__all__ = [
    "ConfigurationError",
    "F",
    "FailureGroup",
    "FilterError",
    "ForeignTableError",
    "InvalidTaskIdError",
    "JsonSerializer",
    "JsonbResultBackend",
    "NotLoadedError",
    "NotStartedError",
    "Outcome",
    "Page",
    "PickleFallback",
    "Progress",
    "RemoteError",
    "ResultDecodeError",
    "ResultEncodeError",
    "ResultIsMissingError",
    "ResultSerializer",
    "ResultStore",
    "Rows",
    "SchemaError",
    "SchemaVersionError",
    "SearchTimeoutError",
    "SerializationError",
    "StatsRow",
    "Status",
    "TaskInfo",
    "TaskInfoMiddleware",
    "TaskNotFoundError",
    "TaskRecord",
    "TaskiqPgJsonError",
    "TypeRegistry",
    "WaitTimeoutError",
    "WriteTimeoutError",
]
