"""Errors of psycopg and pydantic, which hold what only their own libraries can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import pydantic_core
from psycopg.errors import Diagnostic
from psycopg.pq import DiagnosticField

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg.pq.abc import PGresult

    _InputType = Literal["python", "json"]

_CONNECTION = frozenset({"_info", "_encoding", "_pgconn"})
_DIAGNOSTICS = {field.name.lower(): field for field in DiagnosticField}
_VALIDATION = frozenset({"title", "errors", "hide_input"})


def server_error_state(attrs: Mapping[str, object]) -> dict[str, object]:
    """``diag``, what PostgreSQL said, in place of a result that no other process can use."""
    rest = {name: value for name, value in attrs.items() if name not in _CONNECTION}
    encoding = cast("str", attrs.get("_encoding", "utf-8"))
    diagnostic = Diagnostic(cast("PGresult | None", attrs.get("_info")), encoding)
    said = {name: getattr(diagnostic, name) for name in _DIAGNOSTICS}
    diag = {name: text for name, text in said.items() if text is not None}
    return {**rest, "diag": diag} if diag else rest


def server_error_attrs(attrs: Mapping[str, object]) -> dict[str, object]:
    """The attributes that a ``psycopg.Error`` keeps ``diag`` in."""
    rest = {name: value for name, value in attrs.items() if name != "diag"}
    diag = cast("Mapping[str, str]", attrs.get("diag", {}))
    info = {_DIAGNOSTICS[name]: text.encode() for name, text in diag.items()}
    return {**rest, "_info": info or None, "_encoding": "utf-8", "_pgconn": None}


def validation_state(exc: pydantic_core.ValidationError) -> dict[str, object]:
    """The title and the details; without the inputs where the model hides them in messages."""
    hidden = ", input_value=" not in str(exc)
    errors = exc.errors(include_url=False, include_input=not hidden)
    state: dict[str, object] = {"title": exc.title, "errors": errors}
    return {**state, "hide_input": True} if hidden else state


def validation_error(
    attrs: Mapping[str, object],
) -> tuple[pydantic_core.ValidationError, dict[str, object]]:
    """The error of those details, and the attributes that are still to be set on it."""
    rest = {name: value for name, value in attrs.items() if name not in _VALIDATION}
    details = cast("list[pydantic_core.ErrorDetails]", attrs["errors"])
    input_type = _input_type(details)
    exc = pydantic_core.ValidationError.from_exception_data(
        cast("str", attrs["title"]),
        [_line_error(detail, input_type) for detail in details],
        input_type,
        hide_input=attrs.get("hide_input") is True,
    )
    return exc, rest


def _input_type(details: list[pydantic_core.ErrorDetails]) -> _InputType:
    """What was validated, which pydantic does not tell; its messages about JSON differ."""
    for detail in details:
        line = _own_line(detail)
        if detail["msg"] == _message(line, "json") != _message(line, "python"):
            return "json"
    return "python"


def _line_error(
    detail: pydantic_core.ErrorDetails, input_type: _InputType
) -> pydantic_core.InitErrorDetails:
    """One of pydantic's own errors where the message is its own, else a custom one."""
    line = _own_line(detail)
    if _message(line, input_type) == detail["msg"]:
        return line
    custom = pydantic_core.PydanticCustomError(detail["type"], detail["msg"], detail.get("ctx"))
    return {"type": custom, "loc": detail["loc"], "input": detail.get("input")}


def _own_line(detail: pydantic_core.ErrorDetails) -> pydantic_core.InitErrorDetails:
    line: pydantic_core.InitErrorDetails = {
        "type": detail["type"],
        "loc": detail["loc"],
        "input": detail.get("input"),
    }
    context = detail.get("ctx")
    if context is not None:
        line["ctx"] = context
    return line


def _message(line: pydantic_core.InitErrorDetails, input_type: _InputType) -> str | None:
    try:
        rebuilt = pydantic_core.ValidationError.from_exception_data("", [line], input_type)
    except (KeyError, TypeError, ValueError):
        return None
    return rebuilt.errors(include_url=False)[0]["msg"]
