"""The queryable store of results."""

from taskiq_pg_json.store.conditions import Condition
from taskiq_pg_json.store.expressions import F
from taskiq_pg_json.store.facade import Migrate, ResultStore
from taskiq_pg_json.store.filters import FilterArguments

__all__ = ["Condition", "F", "FilterArguments", "Migrate", "ResultStore"]
