"""Every error that this package raises.

TaskiqPgJsonError
├── ConfigurationError            an argument that cannot work (also a ValueError)
├── NotStartedError               used outside startup() … shutdown() (also a RuntimeError)
├── InvalidTaskIdError            an id that the task_id column cannot hold (also a ValueError)
├── TaskNotFoundError             no such task, or none that has ended (also a LookupError)
├── FilterError                   a filter, order or cursor that cannot work (also a ValueError)
├── SearchTimeoutError            a search took too long (also a TimeoutError)
├── NotLoadedError                a column that a search was told to leave out (also a LookupError)
├── SerializationError
│   ├── ResultEncodeError         a value that neither JSON nor the pickle fallback can hold
│   └── ResultDecodeError         a stored row that cannot be turned into Python again
├── SchemaError
│   ├── SchemaVersionError        the table is older than this release needs, or missing
│   └── ForeignTableError         a name that is needed is taken by what is not ours
├── RemoteError                   a task's own error, whose class cannot be had here
├── WaitTimeoutError              tasks have not ended in time (also a TimeoutError)
├── WriteTimeoutError             the server could not be reached in time (also a TimeoutError)
└── EmbeddedPostgresError         the embedded server is not installed or did not start

``ResultIsMissingError``, which taskiq expects to be one of its own, is in
:mod:`taskiq_pg_json.backend`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class TaskiqPgJsonError(Exception):
    """The root of every error of this package."""

    def __reduce__(self) -> tuple[object, ...]:
        # Without __init__, which Exception's own would call with the message alone.
        cls = type(self)
        return cls.__new__, (cls,), {**self.__dict__, "args": self.args}


class ConfigurationError(TaskiqPgJsonError, ValueError):
    """An argument cannot work; the message names it and a way out."""


class NotStartedError(TaskiqPgJsonError, RuntimeError):
    """The store was used before ``startup()`` or after ``shutdown()``."""


class InvalidTaskIdError(TaskiqPgJsonError, ValueError):
    """The task_id column cannot hold this id."""


class TaskNotFoundError(TaskiqPgJsonError, LookupError):
    """There is no such task, or, where its outcome is asked for, none that has ended."""


class FilterError(TaskiqPgJsonError, ValueError):
    """A filter, an order or a cursor of a search cannot work; the message says why.

    Attributes:
        position: the character of an SQL/JSON path, counted from 0, at which it is wrong.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        super().__init__(message)
        self.position = position


class SearchTimeoutError(TaskiqPgJsonError, TimeoutError):
    """A search took longer than its ``timeout``, and the server has given it up."""


class NotLoadedError(TaskiqPgJsonError, LookupError):
    """The search that gave the record was told to leave this column out."""


class SerializationError(TaskiqPgJsonError):
    """A value could not cross between Python and its row.

    Attributes:
        task_id: the task whose row it is.
        path: where in the row, as in ``return_value.items[3].price``.
        type_name: the type concerned, as in ``shop.models.Invoice``.
    """

    def __init__(self, message: str, *, task_id: str, path: str, type_name: str) -> None:
        super().__init__(message)
        self.task_id = task_id
        self.path = path
        self.type_name = type_name


class ResultEncodeError(SerializationError):
    """A value that neither JSON nor the pickle fallback can hold."""


class ResultDecodeError(SerializationError):
    """A stored row that cannot be turned into Python again.

    Attributes:
        plain: the plain JSON value that stands in the row; nothing is lost.
    """

    def __init__(
        self, message: str, *, task_id: str, path: str, type_name: str, plain: object = None
    ) -> None:
        super().__init__(message, task_id=task_id, path=path, type_name=type_name)
        self.plain = plain


class RemoteError(TaskiqPgJsonError):
    """A task's own error, whose class cannot be had in this process.

    It is an instance of a subclass named after the class that was raised, with that one's message,
    ``args``, notes, cause and attributes. Likewise what a middleware has left in the place of an
    error and is no exception, such as text; its message is what ``str()`` says of it.

    Attributes:
        type_name: the class that was raised, as in ``shop.errors.PaymentError``.
        message: what ``str()`` said of the error where it was raised.
        plain: the whole error as plain JSON, as it stands in the row.
    """

    __slots__ = ("message", "plain", "type_name")

    message: str
    plain: object
    type_name: str

    @staticmethod
    def of(module: str, qualname: str, message: str, plain: object) -> RemoteError:
        """The stand-in for an error of the class ``qualname`` in ``module``."""
        error = _remote_class(module, qualname)()
        error.type_name = f"{module}.{qualname}"
        error.message = message
        error.plain = plain
        return error

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        cls = type(self)
        *_, state = super().__reduce__()
        return RemoteError.of, (cls.__module__, cls.__qualname__, self.message, self.plain), state


@lru_cache(maxsize=256)
def _remote_class(module: str, qualname: str) -> type[RemoteError]:
    names = {"__module__": module, "__qualname__": qualname, "__slots__": ()}
    return type(qualname.rpartition(".")[2], (RemoteError,), names)


class SchemaError(TaskiqPgJsonError):
    """The tables in the database are not what this release needs."""


class SchemaVersionError(SchemaError):
    """The table is older than this release needs, or missing."""


class ForeignTableError(SchemaError):
    """What bears a name that is needed does not say that this package made it; it is left alone."""


class WriteTimeoutError(TaskiqPgJsonError, TimeoutError):
    """The server could not be reached before ``write_timeout`` seconds had passed."""


class WaitTimeoutError(TaskiqPgJsonError, TimeoutError):
    """Tasks have not ended in time, or the server has not told of them.

    Attributes:
        pending: the ids of those that have not, or whose records could not be read.
    """

    def __init__(self, pending: Iterable[str], timeout: float) -> None:
        self.pending = tuple(pending)
        count = len(self.pending)
        shown = ", ".join(self.pending[:3]) + ("…" if count > 3 else "")  # noqa: PLR2004 - a few
        super().__init__(f"Not ended, or not read, after {timeout:g} s: {shown} ({count} in all).")


class EmbeddedPostgresError(TaskiqPgJsonError):
    """The embedded server is not installed or did not start."""
