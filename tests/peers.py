"""The other projects that some tests run beside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType


def peer_module() -> ModuleType:
    """taskiq-postgres on psycopg; skips where it cannot be imported."""
    return pytest.importorskip(
        "taskiq_pg.psycopg",
        reason="taskiq-postgres 0.8, the last for Python 3.10, does not work with taskiq 0.13",
        exc_type=ImportError,
    )
