"""The typed serializer: clean JSON, with the types that JSON does not have beside it."""

from __future__ import annotations

from taskiq_pg_json.serializer.adapters import (
    DescribedValueWarning,
    TaskiqSerializer,
    as_result_serializer,
)
from taskiq_pg_json.serializer.json_serializer import JsonSerializer
from taskiq_pg_json.serializer.leaves import IncompleteValueWarning, PickledValueWarning
from taskiq_pg_json.serializer.lookup import UnresolvedTypeWarning
from taskiq_pg_json.serializer.pickling import PickleFallback
from taskiq_pg_json.serializer.protocol import EncodedRow, ResultSerializer
from taskiq_pg_json.serializer.registry import TypeRegistry

__all__ = [
    "DescribedValueWarning",
    "EncodedRow",
    "IncompleteValueWarning",
    "JsonSerializer",
    "PickleFallback",
    "PickledValueWarning",
    "ResultSerializer",
    "TaskiqSerializer",
    "TypeRegistry",
    "UnresolvedTypeWarning",
    "as_result_serializer",
]
