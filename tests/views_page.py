"""The page that explains the views, made of their comments.

``python tests/views_page.py`` writes it anew, on the embedded PostgreSQL.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import servers

from taskiq_pg_json import ResultStore

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "views.md"
VIEWS = ["outcomes", "failures", "failure_groups", "stats", "stats_hourly", "running", "storage"]

_INTRODUCTION = """\
# The views

Beside the table stand views for people and for the tools that they use. Their names begin with the
table's, here the default one. Columns are only ever added, at the end.

| view | shows |
|---|---|
{contents}

## Who may read them

A role needs nothing but the right to read the views: not the tables, whose rows hold pickles and
types, and no functions.

```sql
CREATE ROLE analyst LOGIN;
GRANT USAGE ON SCHEMA public TO analyst;
GRANT SELECT ON
{grants}
TO analyst;
```

Where functions are not everybody's to run, `outcomes` and `running` need
`GRANT EXECUTE ON FUNCTION {table}_progress_percent, {table}_progress_text TO analyst;`.

Views read with the rights of their owner, whom policies (row security) do not limit: a reader sees
the rows of all. Where each role is to see its own, give `{table}` and `{table}_progress` a policy
each, set `ALTER VIEW {table}_outcomes SET (security_invoker = true)` on each of the views, and
grant `SELECT` on the tables as well. An upgrade that makes a view anew takes the option away: set
it again.

## What is quick

Conditions on `task_id`, `task_name`, `status = 'FAILURE'` and `finished_at`, and the order by
`finished_at`, are answered by indexes; whole views read whole tables. The newest are a page of the
outcomes:

```sql
SELECT * FROM {table}_outcomes
WHERE finished_at IS NOT NULL
ORDER BY finished_at DESC
LIMIT 50;
```

Without that condition, what has not ended comes first, and every progress is looked at for it.
"""
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), col_description(attrelid, attnum)
FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum
"""


def reference_page(connection: psycopg.Connection, schema: str, table: str) -> str:
    """Return the page about the views of a table."""
    comments = {
        view: connection.execute(
            "SELECT obj_description(%s::regclass)", [f"{schema}.{table}_{view}"]
        ).fetchone()[0]
        for view in VIEWS
    }
    contents = "\n".join(
        f"| [`{table}_{view}`](#{table}_{view}) | {comment} |" for view, comment in comments.items()
    )
    grants = ",\n".join(f"    {table}_{view}" for view in VIEWS)
    sections = [
        "\n".join(_section(connection, schema, f"{table}_{view}", comment))
        for view, comment in comments.items()
    ]
    introduction = _INTRODUCTION.format(contents=contents, grants=grants, table=table)
    return "\n".join([introduction, *sections])


def _section(connection: psycopg.Connection, schema: str, view: str, comment: str) -> Iterator[str]:
    yield f"## {view}\n"
    yield f"{comment}\n"
    yield "| column | type | holds |"
    yield "|---|---|---|"
    for name, type_name, column_comment in connection.execute(_COLUMNS, [f"{schema}.{view}"]):
        yield f"| `{name}` | {type_name} | {column_comment} |"
    yield ""


async def _write() -> None:
    with servers.running(servers.found()[0]) as dsn:
        async with ResultStore(dsn):
            pass
        with psycopg.connect(dsn) as connection:
            PAGE.parent.mkdir(exist_ok=True)
            PAGE.write_text(reference_page(connection, "public", "taskiq_results"), "utf-8")


if __name__ == "__main__":
    asyncio.run(_write())
