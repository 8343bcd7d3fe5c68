from __future__ import annotations

import psycopg
import pytest
from psycopg import sql
from sameness import same
from types_page import EXAMPLES, PAGE, lines, page

from taskiq_pg_json.serializer import JsonSerializer


def test_the_page_of_types_is_what_the_code_says():
    assert PAGE.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_each_example_comes_back_the_same(example, jsonb_roundtrip):
    serializer = JsonSerializer(fallback=None)
    row = jsonb_roundtrip(serializer.encode({"return_value": example.value}, task_id="t"))
    back = serializer.decode(row, task_id="t")["return_value"]
    assert type(back) is type(example.value)
    assert same(back, example.value) or vars(back) == vars(example.value)


@pytest.mark.parametrize(
    "line", [line for line in lines() if line.example.sql], ids=lambda line: line.example.name
)
def test_each_example_casts_in_sql_as_the_page_says(line, admin: psycopg.Connection):
    cast = line.example.sql
    value = sql.SQL("({}::jsonb ->> 0)").format(f"[{line.stored}]")
    if cast.startswith("::"):
        query = sql.SQL("SELECT {} IS NOT NULL").format(value + sql.SQL(cast))
    else:
        query = sql.SQL("SELECT decode({}, 'base64') IS NOT NULL").format(value)
    assert admin.execute(query).fetchone() == (True,)
