from __future__ import annotations

import re
from string import Formatter

import pytest
from road import HOSTILE_NAMES

from taskiq_pg_json import ConfigurationError, JsonbResultBackend, ResultStore
from taskiq_pg_json.schema import Names, sql_directory

SUFFIXES = sorted(
    {
        placeholder.removeprefix("results_")
        for path in sql_directory().glob("[imv]*/*.sql")
        for _, placeholder, _, _ in Formatter().parse(path.read_text("utf-8"))
        if placeholder and placeholder not in {"results", "task_id_type", "schema", "dollars"}
    }
)

_MADE = re.compile(
    r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW|FUNCTION|STATISTICS|INDEX(?: IF NOT EXISTS)?) "
    r"\{(?:results_)?(\w+)\}",
    re.MULTILINE,
)


def derived_names(table):
    return [Names(table).derived(suffix) for suffix in SUFFIXES]


@pytest.mark.parametrize("table", HOSTILE_NAMES)
def test_derived_names_are_unique_and_fit_into_postgresql(table):
    names = [table, *derived_names(table)]
    assert len({*names}) == len(names)
    assert all(len(name.encode()) <= 63 for name in names)


def test_the_sql_files_derive_more_than_tables():
    assert {"progress", "outcomes", "failures", "json_gin", "task_name_idx"} <= {*SUFFIXES}


def test_no_name_beside_a_table_is_one_beside_another_of_which_it_is_a_part():
    beside = Names("t").companions()
    assert not [(one, two) for one in beside for two in beside if one[1:].endswith(f"_{two[1:]}")]


def test_all_that_the_sql_files_make_is_known_beside_the_table():
    made = set()
    for path in sql_directory().glob("[imv]*/*.sql"):
        made |= {*_MADE.findall(path.read_text("utf-8"))}
    assert {f"t_{name}" for name in made} - {"t_results"} == {*Names("t").companions()}


def test_a_short_name_is_kept_whole_in_what_is_derived_from_it():
    assert Names("shop").derived("progress") == "shop_progress"


@pytest.mark.parametrize("prefix", ["x" * 62, "表" * 20])
def test_long_tables_that_differ_at_the_end_share_no_derived_name(prefix):
    assert not {*derived_names(prefix + "a")} & {*derived_names(prefix + "b")}


def test_a_name_is_cut_between_characters():
    assert Names("表" * 21).derived("progress").startswith("表表表")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "non-empty"),
        ("x" * 64, "64 bytes"),
        ("表" * 22, "66 bytes"),
        ("nul\0", "NUL"),
        ("\ud800", "Unicode.*: remove"),
        (None, "non-empty"),
        (b"bytes", "not a name"),
        (7, "not a name"),
    ],
)
def test_a_table_name_that_cannot_be_is_refused_at_construction(name, reason):
    with pytest.raises(ConfigurationError, match=rf"table_name=(?s:.*){reason}"):
        JsonbResultBackend(table_name=name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "non-empty"), ("x" * 64, "64 bytes"), ("nul\0", "NUL"), (7, "not a name")],
)
def test_a_schema_that_cannot_be_is_refused_at_construction(name, reason):
    with pytest.raises(ConfigurationError, match=rf"schema=(?s:.*){reason}"):
        ResultStore(schema=name)


def test_a_table_is_not_named_with_its_schema():
    with pytest.raises(ConfigurationError, match="schema='shop', table_name='results'"):
        Names("shop.results")
    assert Names("shop.results", "public").relation().as_string() == '"public"."shop.results"'


@pytest.mark.parametrize("type_", ["varchar", "Integer", "", None])
def test_a_type_of_task_ids_that_is_not_offered_is_refused_with_those_that_are(type_):
    with pytest.raises(ConfigurationError, match='use "VarChar", "Text" or "Uuid"'):
        JsonbResultBackend(field_for_task_id=type_)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_bound_name_is_one_quoted_identifier(name):
    quoted = '"' + name.replace('"', '""') + '"'
    assert Names(name).bind("{results}").as_string() == quoted
    assert Names("plain", name).bind("{results}").as_string() == f'{quoted}."plain"'


@pytest.mark.parametrize("name", ["100%", "%s %(task_id)s %%"])
def test_a_percent_sign_in_a_name_is_no_parameter_of_a_query(name):
    bound = Names(name).statement("SELECT %(task_id)s FROM {results}").decode()
    assert bound % {"task_id": "'1'"} == f"SELECT '1' FROM \"{name}\""


@pytest.mark.parametrize("name", ["$body$", "$body$ $body_$", "a$body_$b$body$"])
def test_no_name_ends_the_body_of_a_function(name):
    for names in (Names(name), Names("plain", name)):
        before, body, after = names.bind("{dollars}{results}{dollars}").as_string().partition(name)
        assert before.startswith("$body_")
        assert body
        assert before.partition('"')[0] == after.rpartition('"')[2]
        assert after.rpartition('"')[2] not in name


def test_a_placeholder_that_has_no_name_is_an_error_of_ours():
    with pytest.raises(LookupError, match="nonsense"):
        Names("plain").bind("SELECT {nonsense}")


def test_every_placeholder_of_the_migrations_and_views_is_bound():
    for path in sql_directory().glob("[imv]*/*.sql"):
        assert '"plain' in Names("plain").bind(path.read_text("utf-8")).as_string()
