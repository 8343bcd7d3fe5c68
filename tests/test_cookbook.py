from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from cookbook import PAGE, RECIPE, make_shop, output_of
from psycopg import sql
from views_page import VIEWS

RECIPES = list(RECIPE.finditer(PAGE.read_text("utf-8")))
DASHBOARD = Path(PAGE.parent.parent, "grafana", "taskiq-results.json")
PANELS = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
MACROS = {
    "$__timeFrom()": "(now() - interval '1 day')",
    "$__timeTo()": "now()",
}


@pytest.fixture(scope="module")
def shop_schema(admin):
    schema = f"shop_{uuid.uuid4().hex[:12]}"
    yield schema
    admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))


@pytest.fixture
async def reader(dsn, admin, shop_schema):
    """A connection to the shop of a role that may read the views, and nothing else."""
    exists = admin.execute("SELECT to_regnamespace(%s) IS NOT NULL", [shop_schema]).fetchone()[0]
    if not exists:
        await make_shop(dsn, shop_schema)
    role = sql.Identifier(f"reader_{shop_schema}")
    views = sql.SQL(", ").join(
        sql.Identifier(shop_schema, f"taskiq_results_{view}") for view in VIEWS
    )
    names = {"role": role, "schema": sql.Identifier(shop_schema), "views": views}
    admin.execute(
        sql.SQL(
            "CREATE ROLE {role}; GRANT USAGE ON SCHEMA {schema} TO {role}; "
            "GRANT SELECT ON {views} TO {role}"
        ).format(**names)
    )
    admin.execute(
        sql.SQL("SET ROLE {role}; SET search_path = {schema}; SET TIME ZONE 'UTC'").format(**names)
    )
    yield admin
    admin.execute("RESET ROLE; RESET search_path; RESET TIME ZONE")
    admin.execute(sql.SQL("DROP OWNED BY {role}; DROP ROLE {role}").format(**names))


def test_there_are_many_recipes_and_each_is_another_question():
    titles = [recipe["title"] for recipe in RECIPES]
    assert len(set(titles)) == len(titles) >= 25
    assert PAGE.read_text("utf-8").count("```sql") == len(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe["title"])
async def test_a_recipe_gives_the_output_that_is_shown(reader, recipe):
    assert output_of(reader, recipe["sql"]) == recipe["output"]
    assert len(recipe["output"].splitlines()) > 2


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
async def test_a_panel_of_the_dashboard_has_rows(reader, panel):
    (target,) = panel["targets"]
    query = target["rawSql"]
    for macro, meaning in MACROS.items():
        query = query.replace(macro, meaning)
    assert "$" not in query
    cursor = reader.execute(query)
    names = [column.name for column in cursor.description]
    assert cursor.fetchall()
    if target["format"] == "time_series":
        assert names == ["time", "metric", "value"]


HOURLY = [
    query
    for query in [recipe["sql"] for recipe in RECIPES]
    + [target["rawSql"] for panel in PANELS for target in panel["targets"]]
    if "date_trunc('hour'" in query
]
assert HOURLY


@pytest.mark.parametrize("query", HOURLY, ids=range(len(HOURLY)))
async def test_hours_are_those_of_utc_in_a_zone_of_any_offset(reader, query):
    for macro, meaning in MACROS.items():
        query = query.replace(macro, meaning)
    found = []
    with reader.transaction():
        for zone in ("UTC", "<+0059>-00:59"):
            reader.execute(sql.SQL("SET LOCAL TIME ZONE {}").format(zone))
            found.append(reader.execute(query).fetchall())
    assert found[0] == found[1]


def test_the_dashboard_reads_views_alone():
    text = DASHBOARD.read_text("utf-8")
    relations = set(re.findall(r"FROM (\w+)", text))
    assert relations <= {f"taskiq_results_{view}" for view in VIEWS}
