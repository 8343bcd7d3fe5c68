"""What is stored where something is not of its type.

Nothing checks what a middleware leaves in a result, nor what a serializer of the user's gives, and
no slip there may cost a task its end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, cast

from taskiq_pg_json.errors import ConfigurationError, RemoteError, ResultEncodeError
from taskiq_pg_json.records import Outcome, TaskInfo
from taskiq_pg_json.serializer.exceptions.printable import (
    INTERRUPTS,
    called,
    full_name,
    names_of,
    printable,
    short_repr,
)
from taskiq_pg_json.serializer.protocol import EncodedRow

logger = logging.getLogger("taskiq_pg_json")

_TYPES: Mapping[str, type] = {
    "task_name": str,
    "worker": str,
    "queued_at": datetime,
    "started_at": datetime,
    "finished_at": datetime,
}


def seconds_of(value: object) -> float:
    """A number of seconds; 0.0 for what is none."""
    try:
        return float(cast("float", value))
    except INTERRUPTS:
        raise
    except BaseException:  # noqa: BLE001 - another author's method may raise anything
        return 0.0


def text_of(value: object) -> str:
    """What ``str()`` says of a value, or a remark on why it does not; bytes as text."""
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="backslashreplace")
    return str.__str__(value) if isinstance(value, str) else called(str, value)


def exception_of(task_id: str, value: object) -> BaseException:
    """An exception for what stands in the place of one, as text does after a redaction."""
    if isinstance(value, BaseException):
        return value
    logger.warning(
        "The error of task %s is no exception but of type %s: it is stored as a RemoteError that "
        "says it.",
        task_id,
        full_name(type(value)),
    )
    message = printable(text_of(value))
    error = RemoteError.of(*names_of(type(value)), message, message)
    error.args = (message,)
    return error


def usable_outcome(task_id: str, outcome: Outcome) -> Outcome:
    """The outcome without those parts of its ``TaskInfo`` that are of no use; itself if all are.

    Raises:
        ConfigurationError: it is no outcome.
    """
    if not isinstance(outcome, Outcome):
        raise ConfigurationError(
            f"The result of task {task_id} is of type {full_name(type(outcome))}: give an Outcome, "
            "as in set_result(task_id, Outcome(return_value))."
        )
    info = outcome.info
    if info is None or isinstance(info, TaskInfo):
        usable = info and usable_info(task_id, info)
    else:
        _warn(task_id, {"info": info})
        usable = None
    return outcome if usable is info else replace(outcome, info=usable)


def usable_info(task_id: str, info: TaskInfo) -> TaskInfo:
    """What is known of a task without what is of no use; itself if all is."""
    given = {name: getattr(info, name) for name in _TYPES}
    wrong = {
        name: value
        for name, value in given.items()
        if value is not None and not isinstance(value, _TYPES[name])
    }
    if not wrong:
        return info
    _warn(task_id, wrong)
    nothing: dict[str, Any] = dict.fromkeys(wrong)
    return replace(info, **nothing)


def checked_row(
    encode: Callable[..., EncodedRow], columns: Mapping[str, object], *, task_id: str
) -> EncodedRow:
    """What a serializer gives for the columns, where the server can be given it.

    Raises:
        ResultEncodeError: it is no row, or holds something else than bytes.
    """
    row = encode(columns, task_id=task_id)
    if not isinstance(row, EncodedRow) or not isinstance(row.columns, Mapping):
        path, wrong = "meta" if "meta" in columns else "return_value", row
    else:
        beside = {"types": row.types, "pickled": row.pickled}
        given = {**row.columns, **{name: data for name, data in beside.items() if data is not None}}
        odd = {name: data for name, data in given.items() if not isinstance(data, bytes)}
        if not odd:
            return row
        path, wrong = next(iter(odd.items()))
    name = full_name(type(wrong))
    raise ResultEncodeError(
        f"task {task_id}: {path} cannot be stored: the serializer gave something of type {name}, "
        "and it must give an EncodedRow of bytes",
        task_id=task_id,
        path=path,
        type_name=name,
    )


def _warn(task_id: str, wrong: Mapping[str, object]) -> None:
    said = ", ".join(f"{name}={short_repr(value)}" for name, value in wrong.items())
    logger.warning("Task %s is stored without what is not of its type: %s", task_id, said)
