from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["how-to/custom-types.md", "how-to/pickle.md"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run(page):
    namespace = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_the_queries_run(page, admin, table_name):
    admin.execute(
        f"CREATE TABLE {table_name} (task_id text, task_name text, return_value jsonb,"
        " types jsonb, pickled bytea)"
    )
    admin.execute(
        f"INSERT INTO {table_name} VALUES ('1', 'pay', %s, %s, 'x')",
        [
            '{"paid": {"amount": "9.90", "currency": "EUR"}}',
            '{"v": 1, "return_value": {"pickle": 0}}',
        ],
    )
    for query in blocks(page, "sql"):
        assert len(admin.execute(query.replace("taskiq_results", table_name)).fetchall()) == 1
