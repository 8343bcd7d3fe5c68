from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import inside, rows
from taskiq.serializers import CBORSerializer, PickleSerializer

from taskiq_pg_json import Outcome, Progress, ResultStore

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["how-to/custom-types.md", "how-to/pickle.md"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page):
    namespace = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)


class Opaque:
    """What no rule of the serializer covers."""


@pytest.fixture
async def own(dsn, schema_name):
    """The dsn of tables with a result that is all JSON, pickled in part, in whole, and CBOR."""
    own = inside(dsn, schema_name)
    for task_id, serializer, value in (
        ("json", None, {"paid": {"amount": "9.90", "currency": "EUR"}}),
        ("leaf", None, {"leaf": Opaque()}),
        ("whole", PickleSerializer(), 1),
        ("cbor", CBORSerializer(), 1),
    ):
        async with ResultStore(own, serializer=serializer) as store:
            await store.set_progress(task_id, Progress("half"))
            await store.set_result(task_id, Outcome(value))
    return own


def ids(found):
    return {row["task_id"] for row in found}


pickles = pytest.mark.filterwarnings("ignore::taskiq_pg_json.serializer.PickledValueWarning")


@pickles
def test_the_query_for_a_type_of_ones_own_finds_it(own):
    [query] = blocks("how-to/custom-types.md", "sql")
    assert ids(rows(own, query)) == {"json"}


@pickles
def test_pickles_are_found_and_deleted_and_nothing_else(own):
    by_task, places, delete = blocks("how-to/pickle.md", "sql")
    assert [row["rows"] for row in rows(own, by_task)] == [2]
    assert ids(rows(own, places)) == {"leaf"}
    assert ids(rows(own, delete)) == {"leaf", "whole"}
    for table in ("taskiq_results", "taskiq_results_progress"):
        assert ids(rows(own, f"SELECT task_id FROM {table}")) == {"json", "cbor"}
