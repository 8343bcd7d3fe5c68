from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import uuid
from datetime import datetime, timezone

import pytest
from documents import ROOT, inside, python_of, rows, run_page, sql_of
from peers import peer_module
from psycopg.conninfo import make_conninfo

import taskiq_pg_json
from taskiq_pg_json import (
    F,
    FailureGroup,
    ForeignTableError,
    JsonbResultBackend,
    JsonSerializer,
    Outcome,
    Page,
    PickleFallback,
    Progress,
    ResultStore,
    SchemaVersionError,
    StatsRow,
    TaskInfo,
    TaskInfoMiddleware,
    TaskRecord,
    TypeRegistry,
    errors,
)
from taskiq_pg_json.embedded import EmbeddedPostgres
from taskiq_pg_json.store.filters import FilterArguments

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
RUN_HERE = [
    "how-to/get-started.md",
    "how-to/progress.md",
    "how-to/redact-secrets.md",
    "reference/store.md",
]
FRAGMENTS = {"docs/how-to/data-frames.md", "docs/how-to/search.md"}
TABLES = [
    "taskiq_results",
    "taskiq_results_progress",
    "taskiq_results_rollup",
    "taskiq_results_rollup_hours",
    "taskiq_results_rollup_marks",
]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]+)?(#[\w-]+)?\)")
CODE = re.compile(r"`[^`\n]*`")


def text_of(page):
    return (DOCS / page).read_text("utf-8")


def coded(page):
    """All words that a page sets as code in its prose and tables."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", prose))))


def cells_of(page, first=r"`(\w+)`"):
    """The further cells of a page's table rows by the first, where that is of this form."""
    lines = [line for line in text_of(page).splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {found[1]: cells for head, *cells in rows if (found := re.fullmatch(first, head))}


class TestPagesRun:
    @pytest.mark.parametrize("page", RUN_HERE)
    def test_a_page_does_what_it_says(self, page, dsn, schema_name, tmp_path):
        own = inside(dsn, schema_name)
        printed = run_page(DOCS / page, own, tmp_path)
        assert printed == python_of(DOCS / page)[1]
        assert all(rows(own, query) for query in sql_of(DOCS / page))

    def test_the_arguments_of_other_drivers_work_as_the_page_says(self, dsn, tmp_path):
        assert run_page(DOCS / "how-to" / "move-from-taskiq-postgres.md", dsn, tmp_path) == ""

    async def test_moving_keeps_the_old_table_and_starts_beside_it(self, dsn, schema_name):
        peer = peer_module()

        own = inside(dsn, schema_name)
        old, new = peer.PsycopgResultBackend(own, min_size=1), JsonbResultBackend(own)
        await old.startup()
        await old.shutdown()
        with pytest.raises(ForeignTableError):
            await new.startup()
        [rename] = sql_of(DOCS / "how-to" / "move-from-taskiq-postgres.md")
        rows(own, rename)
        await new.startup()
        await new.shutdown()
        assert rows(own, "SELECT count(*) FROM taskiq_results_old") == [{"count": 0}]

    def test_the_embedded_page_does_what_it_says(self, tmp_path):
        page = DOCS / "how-to" / "embedded-postgres.md"
        printed = run_page(page, "", tmp_path)
        assert printed.startswith(python_of(page)[1])
        assert " answer " in printed


class TestPagesAreTyped:
    def test_mypy_finds_no_fault_in_what_a_page_has_whole(self, tmp_path):
        pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
        scripts = []
        for page in pages:
            code, _ = python_of(page)
            if code and page.relative_to(ROOT).as_posix() not in FRAGMENTS:
                scripts.append(tmp_path / f"page_{len(scripts)}.py")
                scripts[-1].write_text(code, "utf-8")
        checked = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", "--config-file=", *scripts],
            capture_output=True,
            text=True,
            check=False,
        )
        assert len(scripts) >= 10
        assert checked.returncode == 0, checked.stdout


class TestDeletingOldResults:
    async def test_each_statement_deletes_what_the_page_says(self, dsn, schema_name):
        own = inside(dsn, schema_name)
        async with ResultStore(own) as store:
            for task_id in ("expired", "old", "new", "lost", "running", "heard of"):
                await store.set_progress(task_id, Progress("half"))
            await store.set_progress("orphan", Progress("half"))
            for task_id in ("expired", "old", "new"):
                await store.set_result(task_id, Outcome(1))
            for task_id in ("lost", "running", "heard of"):
                started_at = datetime.now(timezone.utc)
                await store.record_state(task_id, "STARTED", TaskInfo("t", started_at=started_at))
            rows(
                own,
                """
                UPDATE taskiq_results SET expires_at = now() WHERE task_id = 'expired';
                UPDATE taskiq_results SET finished_at = now() - interval '91 days'
                WHERE task_id = 'old';
                UPDATE taskiq_results SET started_at = now() - interval '31 days'
                WHERE task_id IN ('lost', 'heard of');
                UPDATE taskiq_results_progress SET updated_at = now() - interval '31 days'
                WHERE task_id IN ('orphan', 'new', 'lost')
                """,
            )
            results = {"expired", "old", "new", "lost", "running", "heard of"}
            progress = {*results, "orphan"}
            gone = [
                ({"expired"}, {"expired"}),
                ({"old"}, {"old"}),
                ({"lost"}, set()),
                (set(), {"orphan", "lost"}),
                (set(), {"new"}),
            ]
            statements = sql_of(DOCS / "how-to" / "delete-old-results.md")
            for statement, (of_results, of_progress) in zip(statements[:-1], gone, strict=True):
                rows(own, statement)
                results -= of_results
                progress -= of_progress
                assert ids_in(own, "taskiq_results") == results
                assert ids_in(own, "taskiq_results_progress") == progress

    async def test_a_store_that_was_dropped_as_the_page_says_can_begin_anew(self, dsn, schema_name):
        own = inside(dsn, schema_name)
        async with ResultStore(own) as store:
            await store.set_result("id", Outcome(1))
        rows(own, sql_of(DOCS / "how-to" / "delete-old-results.md")[-1])
        async with ResultStore(own) as store:
            assert await store.count() == 0

    async def test_what_is_left_of_a_dropped_table_is_named_with_what_drops_it(
        self, dsn, schema_name
    ):
        own = inside(dsn, schema_name)
        async with ResultStore(own):
            pass
        rows(own, "DROP TABLE taskiq_results CASCADE")
        with pytest.raises(ForeignTableError, match="was dropped, run DROP") as caught:
            await ResultStore(own).startup()
        rows(own, str(caught.value).partition(", run ")[2])
        async with ResultStore(own) as store:
            assert await store.count() == 0


def ids_in(dsn, table):
    return {row["task_id"] for row in rows(dsn, f"SELECT task_id FROM {table}")}


class TestRunningWithoutDdlRights:
    @pytest.fixture
    def worker(self, schema_name, admin):
        """A role that may use the schema, and not create in it."""
        role = f"worker_{uuid.uuid4().hex[:12]}"
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"GRANT USAGE ON SCHEMA {schema_name} TO {role}")
        yield role
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")

    @pytest.mark.parametrize("migrate", ["auto", "verify", "off"])
    async def test_the_page_does_what_it_says(self, migrate, worker, dsn, schema_name, tmp_path):
        page = DOCS / "how-to" / "run-without-ddl-rights.md"
        owner = inside(dsn, schema_name)
        rows(owner, run_page(page, owner, tmp_path))
        [grant] = sql_of(page)
        rows(owner, grant.replace("shop_worker", worker))
        backend = JsonbResultBackend(make_conninfo(owner, user=worker), migrate=migrate)
        await backend.startup()
        assert not await backend.is_result_ready("id")
        assert await backend.get_progress("id") is None
        await backend.delete_result("id")
        await backend.shutdown()

    async def test_without_tables_verify_says_what_to_do(self, worker, dsn, schema_name):
        dsn = make_conninfo(inside(dsn, schema_name), user=worker)
        with pytest.raises(SchemaVersionError, match="schema_sql"):
            await JsonbResultBackend(dsn, migrate="verify").startup()


class TestReferencesAreComplete:
    @pytest.mark.parametrize(
        ("page", "documented"),
        [
            ("reference/backend.md", JsonbResultBackend),
            ("reference/middleware.md", TaskInfoMiddleware),
            ("reference/store.md", ResultStore),
            ("reference/serializer.md", JsonSerializer),
            ("reference/serializer.md", PickleFallback),
            ("reference/serializer.md", TypeRegistry().register),
            ("how-to/embedded-postgres.md", EmbeddedPostgres),
        ],
    )
    def test_every_parameter_has_its_place(self, page, documented):
        parameters = set(inspect.signature(documented).parameters) - {"path"}
        assert parameters <= coded(page)

    @pytest.mark.parametrize(
        ("page", "documented"),
        [("reference/backend.md", JsonbResultBackend), ("reference/store.md", ResultStore)],
    )
    def test_every_method_has_its_place(self, page, documented):
        methods = {
            name
            for name, _ in inspect.getmembers(documented, inspect.isfunction)
            if not name.startswith("_")
        }
        assert methods <= coded(page)

    @pytest.mark.parametrize("method", ["search", "iterate", "count", "stats", "failures"])
    def test_every_filter_and_parameter_of_a_search_has_its_place(self, method):
        parameters = set(inspect.signature(getattr(ResultStore, method)).parameters)
        filters = set(FilterArguments.__annotations__)
        assert (parameters - {"self", "filters"}) | filters <= coded("reference/store.md")

    def test_every_condition_has_its_place(self):
        methods = {name for name in vars(type(F.args)) if not name.startswith("_")}
        assert methods - {"path", "around", "column", "steps"} <= coded("how-to/search.md")

    def test_every_default_of_the_backend_is_the_one_documented(self):
        documented = {
            name: cells[0].strip("`") for name, cells in cells_of("reference/backend.md").items()
        }
        defaults = {
            name: repr(parameter.default).replace("'", '"')
            for name, parameter in inspect.signature(JsonbResultBackend).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        }
        assert documented == defaults

    def test_every_error_has_its_place_with_its_base(self):
        classes = {
            name: member
            for module in (errors, taskiq_pg_json)
            for name, member in vars(module).items()
            if inspect.isclass(member) and issubclass(member, errors.TaskiqPgJsonError)
        }
        documented = cells_of("reference/errors.md")
        assert documented.keys() == classes.keys()
        for name, cells in documented.items():
            for base in re.findall(r"(\w+)`", cells[0]):
                assert base in {parent.__name__ for parent in classes[name].__mro__}

    def test_every_warning_has_its_place(self):
        documented = cells_of("reference/errors.md", first=r"`([\w.]+Warning)`")
        assert documented
        for path in documented:
            module, _, name = path.rpartition(".")
            assert issubclass(getattr(importlib.import_module(module), name), UserWarning)

    @pytest.mark.parametrize("cls", [TaskRecord, Page, Progress, Outcome, StatsRow, FailureGroup])
    def test_every_field_of_a_record_has_its_place(self, cls):
        fields = {field.name for field in dataclasses.fields(cls)}
        properties = {name for name, _ in inspect.getmembers(cls, inspect.isdatadescriptor)}
        public = {name for name in fields | properties if not name.startswith("_")}
        assert public <= coded("reference/store.md")

    @pytest.mark.parametrize("table", TABLES)
    async def test_every_column_and_index_has_its_place(self, table, dsn, schema_name):
        async with ResultStore(dsn, schema=schema_name):
            found = rows(
                dsn,
                f"""
                SELECT attname AS name FROM pg_attribute
                WHERE attrelid = '{schema_name}.{table}'::regclass AND attnum > 0
                UNION ALL
                SELECT indexrelid::regclass::text FROM pg_index
                WHERE indrelid = '{schema_name}.{table}'::regclass
                """,
            )
        names = {row["name"].removeprefix(f"{schema_name}.") for row in found}
        assert names <= coded("reference/schema.md")
        section = text_of("reference/schema.md").partition(f"## {table}\n")[2].partition("\n#")[0]
        documented = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        columns = set(re.findall(r"`(\w+)`", " ".join(documented)))
        assert columns == {name for name in names if not name.startswith(table)}


class TestLinks:
    @pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
    def test_every_link_leads_somewhere(self, page):
        for path, anchor in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
            target = page.parent / path if path else page
            assert target.exists(), path
            if anchor:
                assert anchor[1:] in anchors(target), anchor

    def test_every_page_is_in_the_navigation(self):
        navigation = (ROOT / "mkdocs.yml").read_text("utf-8")
        pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
        assert pages == set(re.findall(r"- ([\w/-]+\.md)$", navigation, re.MULTILINE))


def anchors(page):
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
