from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import uuid

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from road import HOSTILE_NAMES, eventually, finished
from taskiq.depends.progress_tracker import TaskProgress

from taskiq_pg_json import (
    ConfigurationError,
    ForeignTableError,
    JsonbResultBackend,
    ResultIsMissingError,
    ResultStore,
    SchemaError,
    SchemaVersionError,
)
from taskiq_pg_json.embedded.host import extra_binaries
from taskiq_pg_json.schema import Names, Schema, files

CURRENT = f"taskiq-pg-json schema {files.migrations()[-1].version}"


def quoted(*names):
    return sql.Identifier(*names)


def comment_of(admin, table):
    return admin.execute("SELECT obj_description(to_regclass(%s), 'pg_class')", [table]).fetchone()[
        0
    ]


def relations_of(admin, schema):
    """The names of what stands in a schema, but for indexes and sequences."""
    return {
        name
        for (name,) in admin.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) "
            "AND relkind IN ('r', 'v')",
            [quoted(schema).as_string()],
        )
    }


async def failures_of(calls):
    """What was raised by calls that ran at once and all have ended."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [outcome for outcome in outcomes if outcome is not None]


async def drive(backend):
    """Do everything that a backend can do."""
    await backend.set_progress("id", TaskProgress(state="half", meta={"percent": 50}))
    assert (await backend.get_progress("id")).state == "half"
    await backend.set_result("id", finished({"answer": 42}))
    assert await backend.is_result_ready("id")
    assert (await backend.get_result("id")).return_value == {"answer": 42}
    assert (await backend.store.get("id")).return_value == {"answer": 42}
    await backend.delete_result("id")
    with pytest.raises(ResultIsMissingError):
        await backend.get_result("id")


@pytest.fixture
def role(admin, schema_name):
    """A role that may use the schema and nothing else, dropped afterwards."""
    name = f"role_{uuid.uuid4().hex[:12]}"
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(quoted(name)))
    admin.execute(
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(quoted(schema_name), quoted(name))
    )
    yield name
    admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(quoted(name)))
    admin.execute(sql.SQL("DROP ROLE {}").format(quoted(name)))


@pytest.mark.parametrize("name", HOSTILE_NAMES)
async def test_a_table_may_have_any_name(start, admin, schema_name, name):
    backend = await start(table_name=name, schema=schema_name)
    await drive(backend)
    await backend.set_result("kept", finished({"answer": 42}))
    outcomes = backend.store.names.derived("outcomes")
    row = admin.execute(
        sql.SQL("SELECT task_id, status, return_value FROM {}").format(
            quoted(schema_name, outcomes)
        )
    ).fetchone()
    assert row == ("kept", "SUCCESS", {"answer": 42})
    assert name in relations_of(admin, schema_name)


@pytest.mark.parametrize("name", ['we"ird', "100% of {it}", "naïve ☃ 表", "CamelCase"])
async def test_a_schema_may_have_any_name_and_is_made_when_it_is_missing(start, admin, name):
    schema = f"{name} {uuid.uuid4().hex[:8]}"
    try:
        await drive(await start(schema=schema, table_name=name))
        assert name in relations_of(admin, schema)
    finally:
        admin.execute(
            sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(quoted(schema)), prepare=False
        )


async def test_without_a_schema_the_first_of_the_search_path_is_taken(
    start, dsn, admin, schema_name, table_name
):
    await drive(await start(make_conninfo(dsn, options=f"-c search_path={schema_name},public")))
    assert table_name in relations_of(admin, schema_name)


async def test_the_version_stands_in_the_comment_of_the_table(backend, admin, table_name):
    assert backend.store.names.table == table_name
    assert comment_of(admin, table_name) == CURRENT


async def test_everything_is_named_after_the_table(start, admin, schema_name):
    await start(table_name="shop", schema=schema_name)
    assert {"shop", "shop_progress", "shop_outcomes", "shop_failures"} <= relations_of(
        admin, schema_name
    )
    assert all(name.startswith("shop") for name in relations_of(admin, schema_name))


async def test_every_column_and_every_relation_says_what_it_holds(start, admin, schema_name):
    await start(table_name="shop", schema=schema_name)
    silent = admin.execute(
        """
        SELECT attrelid::regclass::text, attname
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v')
          AND attnum >= 0 AND NOT attisdropped
          AND coalesce(col_description(attrelid, attnum), '') = ''
        UNION ALL
        SELECT pg_class.oid::regclass::text, NULL
        FROM pg_class
        WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v')
          AND coalesce(obj_description(pg_class.oid, 'pg_class'), '') = ''
        UNION ALL
        SELECT pg_proc.oid::regprocedure::text, NULL
        FROM pg_proc
        WHERE pronamespace = %s::regnamespace
          AND coalesce(obj_description(pg_proc.oid, 'pg_proc'), '') = ''
        """,
        [schema_name] * 3,
    ).fetchall()
    assert silent == []


async def test_stores_that_start_at_once_make_the_tables_once(dsn, table_name, admin):
    stores = [ResultStore(dsn, table_name=table_name, max_size=2) for _ in range(20)]
    try:
        assert await failures_of(store.startup() for store in stores) == []
        assert comment_of(admin, table_name) == CURRENT
        assert not any(await asyncio.gather(*(store.is_ready("none") for store in stores)))
    finally:
        await asyncio.gather(*(store.shutdown() for store in stores))


async def test_stores_of_one_schema_that_start_at_once_make_the_schema_once(dsn, admin):
    schema = f"schema {uuid.uuid4().hex[:8]}"
    stores = [
        ResultStore(dsn, table_name=f"t{number % 4}", schema=schema, max_size=2)
        for number in range(12)
    ]
    try:
        assert await failures_of(store.startup() for store in stores) == []
        assert {"t0", "t1", "t2", "t3"} <= relations_of(admin, schema)
    finally:
        await asyncio.gather(*(store.shutdown() for store in stores))
        admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(quoted(schema)))


async def test_tables_that_are_made_while_a_start_waits_for_its_turn_are_seen(
    start, connect, table_name
):
    waiting, schema = await connect(), Schema(Names(table_name))
    assert (await schema.find(waiting)).version == 0
    async with waiting.transaction():
        await waiting.execute("SELECT 1")
        await start()
        assert (await schema.find(waiting)).version == schema.needed_version


def test_processes_that_start_at_once_make_the_tables_once(dsn, table_name, admin):
    code = (
        "import asyncio, sys\n"
        "from taskiq_pg_json import ResultStore\n"
        "async def main():\n"
        "    sys.stdin.readline()\n"
        "    async with ResultStore(sys.argv[1], table_name=sys.argv[2]) as store:\n"
        "        await store.is_ready('none')\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, dsn, table_name],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    complaints = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], complaints
    assert comment_of(admin, table_name) == CURRENT


async def test_a_start_on_current_tables_waits_for_nobody(start, connect, table_name):
    await start()
    holder = await connect(autocommit=False)
    await holder.execute(
        sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(quoted(table_name))
    )
    await asyncio.wait_for(start(), 10)
    await asyncio.wait_for(start(migrate="verify"), 10)
    await holder.rollback()


async def test_a_second_start_changes_nothing(start, admin, table_name):
    def fingerprint():
        return admin.execute(
            "SELECT oid, xmin::text, relname FROM pg_class WHERE starts_with(relname, %s) "
            "ORDER BY oid",
            [table_name],
        ).fetchall()

    backend = await start()
    await backend.set_result("kept", finished(1))
    before = fingerprint()
    again = await start()
    assert fingerprint() == before
    assert (await again.get_result("kept")).return_value == 1


@pytest.mark.parametrize("migrate", ["auto", "verify"])
@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE {} AS SELECT 42 AS answer",
        "CREATE VIEW {} AS SELECT 42 AS answer",
        "CREATE TABLE {} AS SELECT 42 AS answer; COMMENT ON TABLE {} IS 'schema 1'",
    ],
)
async def test_a_foreign_table_is_never_touched(dsn, admin, schema_name, migrate, made):
    foreign = quoted(schema_name, "orders")
    admin.execute(sql.SQL(made).format(*[foreign] * made.count("{}")))
    store = ResultStore(dsn, table_name="orders", schema=schema_name, migrate=migrate)
    with pytest.raises(ForeignTableError, match=f"{schema_name}.orders exists.*table_name="):
        await store.startup()
    assert relations_of(admin, schema_name) == {"orders"}
    assert admin.execute(sql.SQL("SELECT * FROM {}").format(foreign)).fetchall() == [(42,)]


@pytest.mark.parametrize("beside", ["progress", "outcomes"])
async def test_a_foreign_table_beside_ours_is_never_touched_and_nothing_is_left_behind(
    dsn, admin, table_name, beside
):
    foreign = f"{table_name}_{beside}"
    admin.execute(sql.SQL("CREATE TABLE {} AS SELECT 42 AS answer").format(quoted(foreign)))
    with pytest.raises(SchemaError, match=foreign):
        await ResultStore(dsn, table_name=table_name).startup()
    names = admin.execute(
        "SELECT relname FROM pg_class WHERE starts_with(relname, %s)", [table_name]
    ).fetchall()
    assert names == [(foreign,)]


def indexes_of(admin, schema, table):
    """The names of a table's indexes."""
    return {
        name
        for (name,) in admin.execute(
            "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
            "WHERE indrelid = to_regclass(%s)",
            [quoted(schema, table).as_string()],
        )
    }


async def test_no_index_is_left_out_because_its_name_is_taken(start, admin, schema_name):
    await start(table_name="shop", schema=schema_name)
    made = indexes_of(admin, schema_name, "shop")
    admin.execute(f"ALTER TABLE {schema_name}.shop RENAME TO shop_2025")
    with pytest.raises(ForeignTableError, match=r"shop_duration_classes.*shop_json_gin") as caught:
        await start(table_name="shop", schema=schema_name)
    assert "shop_pkey" not in str(caught.value)
    for way_out in re.findall(r"(?:DROP|ALTER) [^;]*;", str(caught.value)):
        admin.execute(way_out)
    await drive(await start(table_name="shop", schema=schema_name))
    renamed = {index for index in indexes_of(admin, schema_name, "shop") if "pkey" not in index}
    assert renamed == made - {"shop_pkey"}
    assert len(indexes_of(admin, schema_name, "shop_2025")) == len(made)


async def test_no_index_is_left_out_of_an_upgrade_because_its_name_is_taken(
    start, admin, schema_name
):
    await start(table_name="shop", schema=schema_name, indexes=())
    admin.execute(
        f"COMMENT ON TABLE {schema_name}.shop IS 'taskiq-pg-json schema 2';"
        f"CREATE TABLE {schema_name}.other (id int);"
        f"CREATE INDEX shop_json_gin ON {schema_name}.other (id)"
    )
    with pytest.raises(ForeignTableError, match=r"ALTER INDEX .*shop_json_gin RENAME"):
        await start(table_name="shop", schema=schema_name)


async def test_an_upgrade_makes_no_index_that_the_table_does_without(start, admin, schema_name):
    await start(table_name="shop", schema=schema_name, indexes=["task_name"])
    made = indexes_of(admin, schema_name, "shop")
    admin.execute(f"COMMENT ON TABLE {schema_name}.shop IS 'taskiq-pg-json schema 2'")
    await start(table_name="shop", schema=schema_name)
    assert indexes_of(admin, schema_name, "shop") == made


async def test_two_stores_share_no_index_however_they_are_called(start, admin, schema_name):
    made = []
    for table in ("jobs", "jobs_task", "mail_task", "mail"):
        await start(table_name=table, schema=schema_name)
        made.append({name[len(table) :] for name in indexes_of(admin, schema_name, table)})
    assert made == [made[0]] * 4


async def test_an_upgrade_renames_the_index_whose_name_another_store_needs(
    start, admin, schema_name
):
    for table in ("jobs", "jobs_task"):
        await start(table_name=table, schema=schema_name)
    index = f"{schema_name}.jobs_failures_by_task_idx"
    (oid,) = admin.execute("SELECT %s::regclass::oid", [index]).fetchone()
    admin.execute(f"DROP INDEX {schema_name}.jobs_task_failures_idx")
    admin.execute(f"ALTER INDEX {index} RENAME TO jobs_task_failures_idx")
    for table in ("jobs", "jobs_task"):
        admin.execute(f"COMMENT ON TABLE {schema_name}.{table} IS 'taskiq-pg-json schema 2'")
        await start(table_name=table, schema=schema_name)
        assert f"{table}_failures_by_task_idx" in indexes_of(admin, schema_name, table)
        assert f"{table}_failures_idx" in indexes_of(admin, schema_name, table)
    assert admin.execute("SELECT %s::regclass::oid", [index]).fetchone() == (oid,)


async def test_the_progress_of_one_store_is_no_table_for_the_results_of_another(
    backend, dsn, table_name
):
    await backend.set_result("kept", finished(1))
    with pytest.raises(ForeignTableError, match=f"{table_name}_progress"):
        await ResultStore(dsn, table_name=f"{table_name}_progress").startup()


LONG = "t" * 54
"""A name that is shortened in those of its companions."""


@pytest.mark.parametrize("migrate", ["auto", "verify"])
@pytest.mark.parametrize(
    ("there", "asked"),
    [
        ("jobs", "jobs_progress"),
        ("jobs", "jobs_rollup_marks"),
        ("jobs", "jobs_stats"),
        ("jobs", "jobs_json_gin"),
        ('a.b "c"', 'a.b "c"_progress'),
        (LONG, Names(LONG).derived("progress")),
    ],
)
async def test_what_belongs_to_another_store_is_not_to_be_moved_aside(
    start, schema_name, migrate, there, asked
):
    first = await start(table_name=there, schema=schema_name)
    with pytest.raises(ForeignTableError, match=r"give another table_name=") as caught:
        await start(table_name=asked, schema=schema_name, migrate=migrate)
    assert f"the store of the table {there}:" in str(caught.value)
    assert not re.search("DROP|ALTER|RENAME|COMMENT ON", str(caught.value))
    await drive(first)


@pytest.mark.parametrize(
    ("there", "asked"),
    [("jobs_progress", "jobs"), ("jobs_stats", "jobs"), (Names(LONG).derived("rollup"), LONG)],
)
async def test_the_results_of_another_store_are_not_to_be_dropped(start, schema_name, there, asked):
    first = await start(table_name=there, schema=schema_name)
    with pytest.raises(ForeignTableError, match=r"Give another table_name=") as caught:
        await start(table_name=asked, schema=schema_name)
    assert f"the store of the table {there} " in str(caught.value)
    assert not re.search("DROP|ALTER|RENAME|COMMENT ON", str(caught.value))
    await drive(first)


@pytest.mark.parametrize("search_path", ["no_such_schema", ""])
async def test_a_search_path_without_a_schema_is_told_of(dsn, table_name, search_path):
    own = make_conninfo(dsn, options=f"-csearch_path={search_path}")
    with pytest.raises(SchemaError, match=r"search_path.*schema="):
        await asyncio.wait_for(ResultStore(own, table_name=table_name).startup(), 10)


def test_all_sql_is_ascii_so_that_any_database_takes_it():
    for path in files.sql_directory().rglob("*.sql"):
        assert path.read_text("utf-8").isascii(), path


async def test_verify_names_what_is_missing_and_the_way_to_it(dsn, admin, table_name):
    with pytest.raises(SchemaVersionError, match=r"does not exist.*needs version \d.*schema_sql"):
        await ResultStore(dsn, table_name=table_name, migrate="verify").startup()
    assert comment_of(admin, table_name) is None


async def test_verify_names_the_sql_that_brings_old_tables_up_to_date(
    start, connect, admin, schema_name
):
    store = ResultStore(table_name="shop", schema=schema_name)
    first = files.migrations()[0]
    await (await connect()).execute(store.names.bind(first.text))
    table = quoted(schema_name, "shop")
    admin.execute(sql.SQL("COMMENT ON TABLE {} IS 'taskiq-pg-json schema 1'").format(table))
    with pytest.raises(SchemaVersionError, match=r"schema version 1.*schema_sql\(since=1\)"):
        await start(table_name="shop", schema=schema_name, migrate="verify")
    await (await connect()).execute(store.schema_sql(since=1))
    await drive(await start(table_name="shop", schema=schema_name, migrate="verify"))


@pytest.mark.parametrize("since", [-1, 999, "1", None, True])
def test_a_version_that_no_table_can_have_is_refused(since):
    with pytest.raises(ConfigurationError, match="since="):
        ResultStore().schema_sql(since=since)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        ("CREATE TABLE {} (task_id varchar UNIQUE, result bytea, progress bytea)", "table"),
        ("CREATE VIEW {} AS SELECT 'a' AS task_id", "view"),
        ("CREATE MATERIALIZED VIEW {} AS SELECT 'a' AS task_id", "materialized view"),
        ("CREATE SEQUENCE {}", "sequence"),
        ("CREATE TYPE {} AS (task_id text)", "composite type"),
        ("CREATE TABLE {} (task_id text) PARTITION BY LIST (task_id)", "table"),
    ],
)
async def test_what_a_foreign_relation_s_error_says_is_all_that_has_to_be_done(
    start, admin, schema_name, made, kind
):
    name = 'the "é" ' + "e" * 54  # and no room for more
    admin.execute(sql.SQL(made).format(quoted(schema_name, name)))
    with pytest.raises(ForeignTableError) as caught:
        await start(schema=schema_name, table_name=name)
    message = str(caught.value)
    assert message.startswith(f"The {kind} {schema_name}.{name} exists")
    assert "COMMENT" not in message
    assert ("docs/how-to/move-from-taskiq-postgres.md" in message) == (kind == "table")
    (statement,) = re.findall(r"ALTER .*?;", message)
    admin.execute(statement)
    await drive(await start(schema=schema_name, table_name=name))


@pytest.mark.parametrize("migrate", ["auto", "verify"])
@pytest.mark.parametrize(("made", "asked"), [("Uuid", "VarChar"), ("Text", "Uuid")])
async def test_task_ids_of_another_type_than_the_table_has_are_refused(
    start, table_name, migrate, made, asked
):
    await start(field_for_task_id=made)
    with pytest.raises(SchemaError, match=f"{table_name}.*field_for_task_id='{made}'"):
        await start(field_for_task_id=asked, migrate=migrate)


async def test_text_and_varchar_are_as_good_as_each_other(start):
    await start(field_for_task_id="Text")
    await drive(await start(field_for_task_id="VarChar"))


async def test_a_comment_that_was_changed_is_not_the_end_of_a_table(start, admin, table_name):
    await start()
    admin.execute(sql.SQL("COMMENT ON TABLE {} IS 'ours'").format(quoted(table_name)))
    with pytest.raises(ForeignTableError, match="comment") as caught:
        await start()
    assert "taskiq-postgres" not in str(caught.value)
    (restore,) = re.findall(r"COMMENT .*?;", str(caught.value))
    admin.execute(restore)
    await drive(await start())


@pytest.mark.parametrize(
    "lost", ["TABLE {}_progress CASCADE", "FUNCTION {}_progress_text CASCADE"], ids=str.split
)
async def test_a_table_in_part_is_not_said_to_lack_its_comment_alone(
    start, admin, table_name, lost
):
    await start()
    admin.execute(f"COMMENT ON TABLE {table_name} IS NULL; DROP {lost.format(table_name)}")
    with pytest.raises(ForeignTableError, match=rf'"{table_name}_progress.*in part') as caught:
        await start()
    assert not re.search("COMMENT ON|taskiq-postgres's", str(caught.value))


@pytest.mark.parametrize("migrate", ["auto", "verify"])
async def test_results_whose_progress_is_missing_are_refused_and_the_error_leads_to_new_tables(
    start, admin, schema_name, migrate
):
    where = {"table_name": "shop", "schema": schema_name}
    backend = await start(**where)
    await backend.set_result("kept", finished(42))
    admin.execute(f"DROP TABLE {schema_name}.shop_progress CASCADE")
    with pytest.raises(SchemaError, match=r"shop_progress.*missing.*backup") as caught:
        await start(**where, migrate=migrate)
    aside, copy = re.findall(r"(?:ALTER|INSERT) [^;]*;", str(caught.value))
    admin.execute(aside)
    with pytest.raises(ForeignTableError) as caught:
        await start(**where)
    for way_out in re.findall(r"(?:DROP|ALTER) [^;]*;", str(caught.value)):
        admin.execute(way_out)
    anew = await start(**where)
    admin.execute(copy)
    assert (await anew.get_result("kept")).return_value == 42
    await drive(anew)


def definitions_in(admin, schema):
    """What stands in a schema: views and functions by their definitions and comments."""
    return admin.execute(
        """
        SELECT relname, pg_get_viewdef(oid), obj_description(oid) FROM pg_class
        WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'v'
        UNION ALL
        SELECT proname, pg_get_functiondef(oid), obj_description(oid) FROM pg_proc
        WHERE pronamespace = %(schema)s::regnamespace
        ORDER BY 1
        """,
        {"schema": schema},
    ).fetchall()


LOSSES = [
    *(f"VIEW {{}}.shop_{view} CASCADE" for view in ("outcomes", "stats", "storage")),
    "FUNCTION {}.shop_progress_percent CASCADE",
    "FUNCTION {}.shop_progress_text CASCADE",
]


@pytest.mark.parametrize("lost", LOSSES)
async def test_functions_and_views_that_are_missing_are_made_anew(
    start, admin, schema_name, lost, caplog
):
    await start(table_name="shop", schema=schema_name)
    before = definitions_in(admin, schema_name)
    admin.execute(f"DROP {lost.format(schema_name)}")
    await drive(await start(table_name="shop", schema=schema_name))
    assert definitions_in(admin, schema_name) == before
    assert not caplog.records


@pytest.mark.parametrize("lost", LOSSES)
async def test_the_sql_since_the_version_that_is_needed_makes_functions_and_views_anew(
    start, connect, admin, schema_name, lost
):
    store = ResultStore(table_name="shop", schema=schema_name)
    await start(table_name="shop", schema=schema_name)
    before = definitions_in(admin, schema_name)
    admin.execute(f"DROP {lost.format(schema_name)}")
    await (await connect()).execute(store.schema_sql(since=files.migrations()[-1].version))
    assert definitions_in(admin, schema_name) == before
    await drive(await start(table_name="shop", schema=schema_name, migrate="verify"))


async def test_verify_refuses_tables_without_the_functions_of_reads(start, admin, schema_name):
    await start(table_name="shop", schema=schema_name)
    admin.execute(f"DROP FUNCTION {schema_name}.shop_progress_text CASCADE")
    version = files.migrations()[-1].version
    complaint = rf'"shop_progress_text" .*"shop_outcomes".*schema_sql\(since={version}\)'
    with pytest.raises(SchemaError, match=complaint):
        await start(table_name="shop", schema=schema_name, migrate="verify")


async def test_verify_names_the_views_that_are_missing(start, admin, schema_name, caplog):
    await start(table_name="shop", schema=schema_name)
    admin.execute(f"DROP VIEW {schema_name}.shop_storage")
    await drive(await start(table_name="shop", schema=schema_name, migrate="verify"))
    (warning,) = caplog.messages
    assert f'the views "{schema_name}"."shop_storage" are missing' in warning


async def test_a_role_that_may_not_bring_back_a_view_is_told_its_name_and_starts(
    start, limited, admin, schema_name, caplog
):
    role = conninfo_to_dict(limited)["user"]
    await start(table_name="shop", schema=schema_name)
    admin.execute(
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema_name} TO {role};"
        f"DROP VIEW {schema_name}.shop_storage"
    )
    await drive(await start(limited, table_name="shop", schema=schema_name))
    (warning,) = caplog.messages
    assert f'the views "{schema_name}"."shop_storage" are missing' in warning
    assert "permission denied for schema" in warning


async def test_what_can_be_brought_back_is_where_the_rest_cannot(start, admin, schema_name, caplog):
    await start(table_name="shop", schema=schema_name)
    admin.execute(
        f"DROP TABLE {schema_name}.shop_rollup CASCADE;"
        f"DROP FUNCTION {schema_name}.shop_progress_text CASCADE"
    )
    await drive(await start(table_name="shop", schema=schema_name))
    (warning,) = caplog.messages
    assert f'the views "{schema_name}"."shop_storage" are missing' in warning
    assert "shop_rollup" in warning


async def test_views_that_newer_tables_do_without_are_not_missed(start, admin, schema_name, caplog):
    await start(table_name="shop", schema=schema_name)
    admin.execute(
        f"COMMENT ON TABLE {schema_name}.shop IS 'taskiq-pg-json schema 999';"
        f"DROP VIEW {schema_name}.shop_storage"
    )
    for migrate in ("auto", "verify"):
        await drive(await start(table_name="shop", schema=schema_name, migrate=migrate))
    assert "shop_storage" not in relations_of(admin, schema_name)
    assert not caplog.records


async def test_verify_accepts_tables_that_are_current(start):
    await start()
    await drive(await start(migrate="verify"))


@pytest.mark.parametrize("migrate", ["auto", "verify"])
async def test_tables_of_a_newer_release_are_used_as_they_are(start, admin, table_name, migrate):
    await start()
    newer = "taskiq-pg-json schema 999"
    admin.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(quoted(table_name), newer))
    await drive(await start(migrate=migrate))
    assert comment_of(admin, table_name) == newer


async def test_off_looks_at_nothing_and_makes_nothing(start, admin, table_name):
    backend = await start(migrate="off", write_timeout=0.3)
    assert comment_of(admin, table_name) is None
    with pytest.raises(psycopg.errors.UndefinedTable, match="does not exist"):
        await backend.set_result("id", finished(1))


@pytest.fixture
def limited(dsn, role):
    """The database for that role."""
    return make_conninfo(dsn, user=role)


async def test_a_role_without_ddl_rights_starts_on_current_tables(
    start, dsn, admin, schema_name, role
):
    await start(schema=schema_name)
    admin.execute(
        sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {} TO {}").format(
            quoted(schema_name), quoted(role)
        )
    )
    limited = make_conninfo(dsn, user=role)
    await drive(await start(limited, schema=schema_name))
    await drive(await start(limited, schema=schema_name, migrate="verify"))


async def test_a_role_is_told_of_the_table_alone_that_it_may_not_write(
    start, limited, admin, schema_name, caplog
):
    role = conninfo_to_dict(limited)["user"]
    await start(schema=schema_name, table_name="shop")
    rights = {
        table: f'SELECT, INSERT, UPDATE, DELETE ON "{schema_name}"."{table}"'
        for table in ("shop", "shop_progress")
    }
    for granted, lacking in (rights.values(), reversed(rights.values())):
        admin.execute(f"GRANT {granted} TO {role}")
        await start(limited, schema=schema_name, table_name="shop")
        (warning,) = caplog.messages
        assert f"{role} lacks {lacking}: what it cannot store is lost." in warning
        assert warning.partition("run ")[2] == f"GRANT {lacking} TO {role};"
        caplog.clear()
        admin.execute(f"REVOKE {granted} FROM {role}")


async def test_a_role_that_cannot_write_results_is_told_so_when_it_starts(
    start, limited, admin, schema_name, caplog
):
    role = conninfo_to_dict(limited)["user"]
    backend = await start(schema=schema_name, table_name="shop")
    await backend.set_result("id", finished(1))
    admin.execute(
        sql.SQL("GRANT SELECT ON {} TO {}").format(
            sql.Identifier(schema_name, "shop"), quoted(role)
        )
    )
    assert not caplog.records
    reader = await start(limited, schema=schema_name, table_name="shop", write_timeout=0.3)
    (warning,) = caplog.messages
    rights = (
        f'INSERT, UPDATE, DELETE ON "{schema_name}"."shop"',
        f'SELECT, INSERT, UPDATE, DELETE ON "{schema_name}"."shop_progress"',
    )
    assert f"{role} lacks {rights[0]}, and {rights[1]}: what" in warning
    assert (await reader.get_result("id")).return_value == 1
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        await reader.set_result("id", finished(2))
    admin.execute(warning.partition("run ")[2].encode())
    caplog.clear()
    writer = await start(limited, schema=schema_name, table_name="shop", migrate="verify")
    await drive(writer)
    assert not caplog.records


@pytest.mark.parametrize("migrate", ["auto", "verify"])
async def test_a_role_that_may_not_use_the_schema_is_told_what_to_run(
    start, limited, admin, schema_name, migrate
):
    role = conninfo_to_dict(limited)["user"]
    await start(schema=schema_name)
    rights = sql.SQL(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {0} TO {1};"
        "REVOKE USAGE ON SCHEMA {0} FROM {1}"
    )
    admin.execute(rights.format(quoted(schema_name), quoted(role)))
    with pytest.raises(SchemaError, match="permission denied for schema") as caught:
        await start(limited, schema=schema_name, migrate=migrate)
    admin.execute(str(caught.value).partition("run ")[2])
    await drive(await start(limited, schema=schema_name, migrate=migrate))


async def test_a_role_without_ddl_rights_is_told_what_to_run_when_tables_are_missing(
    dsn, schema_name, table_name, role
):
    store = ResultStore(make_conninfo(dsn, user=role), schema=schema_name, table_name=table_name)
    complaint = rf"may not make the table {schema_name}.*permission denied.*schema_sql\(\)"
    with pytest.raises(SchemaError, match=complaint) as caught:
        await store.startup()
    assert isinstance(caught.value.__cause__, psycopg.errors.InsufficientPrivilege)


async def test_a_role_without_ddl_rights_is_told_what_to_run_when_tables_are_old(
    start, dsn, admin, schema_name, role
):
    await start(table_name="shop", schema=schema_name)
    table = quoted(schema_name, "shop")
    admin.execute(sql.SQL("COMMENT ON TABLE {} IS 'taskiq-pg-json schema 1'").format(table))
    limited = ResultStore(make_conninfo(dsn, user=role), table_name="shop", schema=schema_name)
    with pytest.raises(SchemaError, match=r"may not upgrade .*schema_sql\(since=1\)"):
        await limited.startup()


async def test_a_role_that_may_not_make_schemas_makes_tables_in_one_that_is_there(
    start, dsn, admin, schema_name, role
):
    admin.execute(
        sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(quoted(schema_name), quoted(role))
    )
    await drive(await start(make_conninfo(dsn, user=role), schema=schema_name))


async def test_a_start_that_fails_leaves_no_connection_open(dsn, admin, table_name):
    admin.execute(sql.SQL("CREATE TABLE {} ()").format(quoted(table_name)))
    conninfo = make_conninfo(dsn, application_name=table_name)
    with pytest.raises(ForeignTableError):
        await ResultStore(conninfo, table_name=table_name, min_size=3).startup()
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
    await eventually(lambda: admin.execute(left, [table_name]).fetchone() == (0,))


@pytest.mark.parametrize("name", ["plain", 'we"ird', "100% {it}"])
async def test_the_sql_that_is_printed_makes_tables_that_verify_accepts(
    start, connect, schema_name, name
):
    store = ResultStore(table_name=name, schema=schema_name)
    await (await connect()).execute(store.schema_sql())
    await drive(await start(table_name=name, schema=schema_name, migrate="verify"))


@pytest.fixture
def psql(dsn):
    """Runs SQL by psql, ``psql(text, *options)``; what it has complained of."""
    program = extra_binaries() / "psql"
    command = [program, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname"]
    dsn = make_conninfo(dsn, options="-c client_min_messages=warning")

    def run(text, *options):
        done = subprocess.run(
            [*command, dsn, *options], input=text, text=True, capture_output=True, check=False
        )
        return done.stderr

    return run


@pytest.mark.parametrize("since", range(len(files.migrations()) + 1))
async def test_the_sql_that_is_printed_does_nothing_outside_a_transaction(
    psql, connect, admin, schema_name, since
):
    def everything():
        return admin.execute(
            "SELECT relname, xmin::text FROM pg_class WHERE relnamespace = %s::regnamespace"
            " ORDER BY relname",
            [schema_name],
        ).fetchall()

    store = ResultStore(table_name="shop", schema=schema_name)
    connection = await connect()
    for migration in files.migrations()[:since]:
        await connection.execute(store.names.bind(migration.text))
    before = everything()
    script = store.schema_sql(since=since)
    complaint = psql(script)
    assert "transaction block" in complaint
    assert everything() == before
    assert "--single-transaction" in script[: script.index("LOCK TABLE pg_catalog")]
    assert psql(script, "--single-transaction") == ""
    assert {"shop_progress", "shop_storage"} <= relations_of(admin, schema_name)


async def test_the_sql_that_is_printed_runs_between_begin_and_commit(start, psql, schema_name):
    script = ResultStore(table_name="shop", schema=schema_name).schema_sql()
    assert psql(f"BEGIN;\n{script}\nCOMMIT;") == ""
    await drive(await start(table_name="shop", schema=schema_name, migrate="verify"))


@pytest.mark.parametrize("autocommit", [True, False])
async def test_a_role_that_may_make_tables_may_run_the_sql_that_is_printed(
    connect, limited, admin, schema_name, autocommit
):
    admin.execute(f"GRANT CREATE ON SCHEMA {schema_name} TO {conninfo_to_dict(limited)['user']}")
    connection = await connect(
        make_conninfo(limited, options=f"-c search_path={schema_name}"), autocommit=autocommit
    )
    store = ResultStore(table_name="shop")
    await connection.execute(store.schema_sql())
    await connection.commit()
    assert comment_of(admin, f"{schema_name}.shop") == CURRENT


async def test_the_sql_that_is_printed_makes_the_schema_too(start, connect, admin):
    schema = f"schema {uuid.uuid4().hex[:8]}"
    try:
        await (await connect()).execute(ResultStore(schema=schema).schema_sql())
        await drive(await start(table_name="taskiq_results", schema=schema, migrate="verify"))
    finally:
        admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(quoted(schema)))


async def test_the_sql_that_is_printed_makes_what_a_start_makes(start, connect, admin, schema_name):
    def everything():
        return admin.execute(
            """
            SELECT relname, relkind, pg_get_viewdef(pg_class.oid), attname, atttypid::regtype,
                   attnotnull, obj_description(pg_class.oid), col_description(attrelid, attnum)
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
            WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'v', 'i')
            ORDER BY relname, attnum
            """,
            [schema_name],
        ).fetchall()

    store = ResultStore(table_name="shop", schema=schema_name)
    await (await connect()).execute(store.schema_sql())
    by_hand = everything()
    admin.execute(sql.SQL("DROP SCHEMA {0} CASCADE; CREATE SCHEMA {0}").format(quoted(schema_name)))
    await start(table_name="shop", schema=schema_name)
    assert everything() == by_hand


@pytest.mark.parametrize("version", range(1, len(files.migrations())))
async def test_tables_of_an_older_version_become_what_a_start_makes(
    start, connect, admin, schema_name, version
):
    def everything():
        return admin.execute(
            """
            SELECT relname, relkind, pg_get_viewdef(pg_class.oid), pg_get_indexdef(pg_class.oid),
                   attname, atttypid::regtype, attnotnull, obj_description(pg_class.oid),
                   col_description(attrelid, attnum), relreplident, relacl::text
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
            WHERE relnamespace = %(schema)s::regnamespace AND relkind IN ('r', 'v', 'i')
            UNION ALL
            SELECT proname, prokind, prosrc, prosqlbody::text, NULL, prorettype, prosecdef,
                   obj_description(pg_proc.oid), proconfig::text, NULL, proacl::text
            FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace AND prosqlbody IS NULL
            UNION ALL
            SELECT tgname, tgenabled, pg_get_triggerdef(pg_trigger.oid), NULL, NULL, NULL, NULL,
                   NULL, NULL, NULL, NULL
            FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
            WHERE relnamespace = %(schema)s::regnamespace
            ORDER BY 1, 5
            """,
            {"schema": schema_name},
        ).fetchall()

    names = Names("shop", schema_name)
    await start(table_name="shop", schema=schema_name)
    new = everything()
    admin.execute(sql.SQL("DROP SCHEMA {0} CASCADE; CREATE SCHEMA {0}").format(quoted(schema_name)))
    connection = await connect()
    made = [migration.text for migration in files.migrations()[:version]]
    for text in [*made, *files.indexes().values()]:
        await connection.execute(names.bind(text))
    await connection.execute(
        f"COMMENT ON TABLE {schema_name}.shop IS 'taskiq-pg-json schema {version}'"
    )
    backend = await start(table_name="shop", schema=schema_name)
    assert everything() == new
    await drive(backend)


def owners_in(admin, schema):
    """Who owns what stands in a schema, indexes included."""
    found = admin.execute(
        "SELECT pg_get_userbyid(relowner) FROM pg_class"
        " WHERE relnamespace = %(schema)s::regnamespace"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc"
        " WHERE pronamespace = %(schema)s::regnamespace",
        {"schema": schema},
    )
    return {owner for (owner,) in found}


@pytest.fixture
def old_tables_of_a_role(limited, admin, schema_name):
    """Tables of version 1 that a role owns; the conninfo of the role."""
    names = Names("shop", schema_name)
    with psycopg.connect(limited) as connection:
        role = connection.info.user
        admin.execute(f"GRANT CREATE ON SCHEMA {schema_name} TO {role}")
        connection.execute(names.bind(files.migrations()[0].text))
        connection.execute(f"COMMENT ON TABLE {schema_name}.shop IS 'taskiq-pg-json schema 1'")
    return limited


async def test_what_an_upgrade_makes_belongs_to_the_owner_of_the_table(
    start, lend, old_tables_of_a_role, admin, schema_name
):
    role = conninfo_to_dict(old_tables_of_a_role)["user"]
    pool = lend(max_size=1)
    await pool.open()
    await start(pool=pool, table_name="shop", schema=schema_name)
    assert owners_in(admin, schema_name) == {role}
    async with pool.connection() as connection:
        found = await connection.execute(
            "SELECT current_user = session_user, current_setting('search_path')"
        )
        (default,) = admin.execute("SHOW search_path").fetchone()
        assert await found.fetchone() == (True, default)
    await drive(await start(old_tables_of_a_role, table_name="shop", schema=schema_name))


async def test_views_that_are_made_anew_belong_to_the_owner_of_the_table(
    start, old_tables_of_a_role, admin, schema_name
):
    await start(old_tables_of_a_role, table_name="shop", schema=schema_name)
    admin.execute(f"DROP FUNCTION {schema_name}.shop_progress_text CASCADE")
    await start(table_name="shop", schema=schema_name)
    assert owners_in(admin, schema_name) == {conninfo_to_dict(old_tables_of_a_role)["user"]}


async def test_an_upgrade_makes_nothing_in_a_schema_that_is_the_owner_s(
    start, dsn, old_tables_of_a_role, admin, schema_name
):
    role = conninfo_to_dict(old_tables_of_a_role)["user"]
    admin.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}")
    path = f'"$user",{schema_name}'
    await start(make_conninfo(dsn, options=f"-c search_path={path}"), table_name="shop")
    assert relations_of(admin, role) == set()
    assert "shop_rollup" in relations_of(admin, schema_name)


@pytest.mark.parametrize(
    "hindered",
    [
        "REVOKE CREATE ON SCHEMA {schema} FROM {role}",
        "CREATE VIEW {schema}.shop_stats AS SELECT NULL::text AS task_name",
    ],
    ids=["no right to create", "a view of another's"],
)
async def test_an_upgrade_that_the_owner_could_not_make_is_made_all_the_same(
    start, old_tables_of_a_role, admin, schema_name, hindered
):
    role = conninfo_to_dict(old_tables_of_a_role)["user"]
    admin.execute(hindered.format(schema=schema_name, role=role))
    await drive(await start(table_name="shop", schema=schema_name))
    assert comment_of(admin, f"{schema_name}.shop") == CURRENT


@pytest.mark.parametrize("options", ["", "-c lock_timeout=100ms"], ids=["plain", "lock_timeout"])
async def test_an_upgrade_that_waits_for_a_transaction_lets_others_write(
    start, connect, admin, table_name, options
):
    names = Names(table_name)
    connection = await connect()
    await connection.execute(names.bind(files.migrations()[0].text))
    await connection.execute(f"COMMENT ON TABLE {table_name} IS 'taskiq-pg-json schema 1'")
    insert = f"INSERT INTO {table_name} (task_id, status) VALUES (gen_random_uuid(), 'QUEUED')"
    holder = await connect(autocommit=False)
    await holder.execute(insert)
    upgrade = asyncio.create_task(start(kwargs={"options": options}))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
    await eventually(lambda: admin.execute(waiting, [table_name]).fetchone() == (1,))
    for _ in range(3):
        await asyncio.wait_for(connection.execute(insert), 3)
    assert not upgrade.done()
    await holder.commit()
    await drive(await asyncio.wait_for(upgrade, 10))
    assert comment_of(admin, table_name) == CURRENT


@pytest.mark.parametrize("type_", ["VarChar", "Text", "Uuid"])
async def test_task_ids_have_the_type_asked_for(start, admin, table_name, type_):
    await start(field_for_task_id=type_)
    types = admin.execute(
        "SELECT DISTINCT atttypid::regtype::text FROM pg_attribute "
        "WHERE attrelid IN (%s::regclass, %s::regclass, %s::regclass) AND attname = 'task_id'",
        [table_name, f"{table_name}_progress", f"{table_name}_outcomes"],
    ).fetchall()
    assert types == [({"VarChar": "character varying"}.get(type_, type_.lower()),)]


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """Makes a bundle of migrations of these file names and reads it."""

    def read(*file_names):
        (tmp_path / "migrations").mkdir()
        for name in file_names:
            (tmp_path / "migrations" / name).write_text("SELECT 1;\n")
        monkeypatch.setattr(files, "sql_directory", lambda: tmp_path)
        return files.migrations.__wrapped__()

    return read


def test_migrations_are_read_in_the_order_of_their_numbers(bundle):
    found = bundle("0002_second.sql", "0001_first.sql")
    assert [(step.version, step.name) for step in found] == [(1, "first"), (2, "second")]


@pytest.mark.parametrize(
    ("file_names", "complaint"),
    [
        (("0001_a.sql", "0003_c.sql"), r"\[1, 3\]"),
        (("0001_a.sql", "0001_b.sql"), r"\[1, 1\]"),
        (("0002_b.sql",), r"\[2\]"),
        (("0000_zero.sql", "0001_a.sql"), r"\[0, 1\]"),
        (("1_a.sql",), "1_a.sql"),
        (("0001-a.sql",), "0001-a.sql"),
        (("0001_a.sql", "0002_b copy.sql"), "0002_b copy.sql"),
    ],
)
def test_a_bundle_of_migrations_with_a_gap_or_a_double_is_refused(bundle, file_names, complaint):
    with pytest.raises(SchemaError, match=complaint):
        bundle(*file_names)


def test_an_installation_without_its_sql_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_PACKAGE", tmp_path / "package")
    with pytest.raises(SchemaError, match="install taskiq-pg-json again"):
        files.sql_directory.__wrapped__()


def test_a_query_that_is_defined_twice_is_refused(tmp_path, monkeypatch):
    (tmp_path / "queries").mkdir()
    for name in ("a.sql", "b.sql"):
        (tmp_path / "queries" / name).write_text("-- get --\n-- Get it.\nSELECT 1;\n")
    monkeypatch.setattr(files, "sql_directory", lambda: tmp_path)
    with pytest.raises(SchemaError, match=r"get is defined twice.*b\.sql"):
        files.queries.__wrapped__()


def test_a_mode_of_migration_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match='"auto", "verify" and "off"'):
        JsonbResultBackend(migrate="always")


async def test_large_values_are_compressed_by_lz4_where_the_server_has_it(start, admin, table_name):
    await start()
    (choices,) = admin.execute(
        "SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'"
    ).fetchone()
    found = admin.execute(
        "SELECT DISTINCT attcompression FROM pg_attribute WHERE attrelid = %s::regclass"
        " AND attname = ANY (%s)",
        [table_name, ["return_value", "error", "args", "kwargs", "log", "types", "pickled"]],
    ).fetchall()
    assert found == [("l" if "lz4" in choices else "",)]
