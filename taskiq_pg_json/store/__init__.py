"""The queryable store of results."""

from taskiq_pg_json.store.expressions import F
from taskiq_pg_json.store.facade import Migrate, ResultStore

__all__ = ["F", "Migrate", "ResultStore"]
