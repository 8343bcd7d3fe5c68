from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
import uuid
from datetime import datetime, timezone
from decimal import Decimal
from itertools import pairwise

import psycopg
import pytest
from documents import ROOT, blocks, inside, python_of, rows, run_page, sql_of
from packaging.specifiers import SpecifierSet
from peers import peer_module
from psycopg.conninfo import make_conninfo
from taskiq import TaskiqResult

from taskiq_pg_json import JsonbResultBackend, JsonSerializer, PickleFallback

README = ROOT / "README.md"
TEXT = README.read_text("utf-8")


class TestTheExample:
    @pytest.fixture
    def ran(self, dsn, schema_name, tmp_path):
        """The dsn that the example has run on, and what it printed."""
        own = inside(dsn, schema_name)
        return own, run_page(README, own, tmp_path)

    def test_it_prints_what_the_readme_says(self, ran):
        _, printed = ran
        assert printed == python_of(README)[1]

    def test_it_leaves_the_row_that_the_readme_shows(self, ran):
        own, _ = ran
        [row] = rows(own, sql_of(README)[0].replace("return_value,", "return_value::text,", 1))
        found = blocks(README)
        [shown] = [block.text for before, block in pairwise(found) if before.language == "sql"]
        lines = [line.split("|", 1) for line in shown.splitlines()]
        expected = {name.strip(): value.strip() for name, value in lines}
        assert row["task_name"] == expected["task_name"]
        assert row["status"] == expected["status"]
        assert row["return_value"] == expected["return_value"]
        assert row["types"] == json.loads(expected["types"])

    def test_it_has_about_twenty_lines(self):
        code, _ = python_of(README)
        assert len([line for line in code.splitlines() if line.strip()]) <= 22


class TestWhatItSaysOfTheProject:
    def test_the_two_commands_are_targets_of_make(self):
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        commands = re.findall(r"^make (\S+)$", TEXT, re.MULTILINE)
        assert commands == ["demo", "test"]
        assert set(commands) <= set(targets)

    def test_every_extra_that_it_names_exists(self):
        named = set(re.findall(r"taskiq-pg-json\[(\w+)\]", TEXT))
        extras = importlib.metadata.metadata("taskiq-pg-json").get_all("Provides-Extra")
        assert named
        assert named <= set(extras)

    def test_every_parameter_that_it_names_exists(self):
        prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
        named = set(re.findall(r"\b(\w+)=", prose)) - {"result_ex_time", "result_px_time"}
        exist = {
            parameter
            for documented in (JsonbResultBackend, JsonSerializer, PickleFallback)
            for parameter in inspect.signature(documented).parameters
        }
        assert {"serializer", "fallback", "key", "result_ttl"} <= named <= exist

    def test_the_first_five_parameters_are_those_of_taskiq_postgres(self):
        postgres = peer_module()

        ours, theirs = (
            list(inspect.signature(backend).parameters.values())[:5]
            for backend in (JsonbResultBackend, postgres.PsycopgResultBackend)
        )
        assert [parameter.name for parameter in ours] == [parameter.name for parameter in theirs]
        assert [parameter.default for parameter in ours[1:]] == [
            parameter.default for parameter in theirs[1:]
        ]

    def test_the_default_serializer_is_json(self):
        assert isinstance(JsonbResultBackend().store.serializer, JsonSerializer)


def peer(distribution):
    """Skip where another release of the peer is installed than the README compares with."""
    [compared] = set(re.findall(rf"{distribution} (\d+\.\d+)\b", TEXT))
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{distribution} is not installed (the extra bench has it)")
    if not installed.startswith(f"{compared}."):
        pytest.skip(f"the README compares with {distribution} {compared}, and {installed} is here")
    return importlib.metadata.metadata(distribution)


class Opaque:
    """An object that is of no type that JSON or pydantic knows."""


class TestWhatItSaysOfTaskiqPostgres:
    @pytest.fixture
    async def theirs(self, dsn, table_name):
        peer("taskiq-postgres")
        postgres = peer_module()

        backend = postgres.PsycopgResultBackend(dsn, table_name=table_name, min_size=1)
        await backend.startup()
        yield backend
        await backend.shutdown()

    @pytest.mark.usefixtures("theirs")
    async def test_a_result_is_one_bytea(self, admin, table_name):
        columns = admin.execute(
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s",
            [table_name],
        ).fetchall()
        assert dict(columns) == {
            "task_id": "character varying",
            "result": "bytea",
            "progress": "bytea",
        }

    async def test_values_come_back_as_plain_json(self, theirs):
        value = {
            "at": datetime.now(timezone.utc),
            "price": Decimal("1.10"),
            "id": uuid.uuid4(),
            "pair": (1, 2),
            "set": {1},
        }
        result = TaskiqResult(is_err=False, return_value=value, execution_time=0.1)
        await theirs.set_result("id", result)
        back = (await theirs.get_result("id")).return_value
        types = {name: type(child) for name, child in back.items()}
        assert types == {"at": str, "price": str, "id": str, "pair": list, "set": list}

    async def test_an_object_that_pydantic_cannot_write_is_not_stored(self, theirs):
        result = TaskiqResult(is_err=False, return_value=Opaque(), execution_time=0.1)
        with pytest.raises(ValueError, match="Unable to serialize unknown type"):
            await theirs.set_result("id", result)
        assert not await theirs.is_result_ready("id")

    async def test_tracebacks_are_lost(self, theirs):
        with pytest.raises(ZeroDivisionError) as raised:
            1 / 0  # noqa: B018 - it raises
        error = raised.value
        assert error.__traceback__ is not None
        result = TaskiqResult(is_err=True, return_value=None, execution_time=0.1, error=error)
        await theirs.set_result("id", result)
        assert (await theirs.get_result("id")).error.__traceback__ is None

    async def test_a_result_is_deleted_by_reading_alone(self, theirs):
        assert not hasattr(theirs, "delete_result")

    @pytest.mark.usefixtures("theirs")
    async def test_it_does_not_start_as_a_role_that_may_not_create_tables(
        self, admin, dsn, table_name
    ):
        postgres = peer_module()

        role = f"role_{uuid.uuid4().hex[:12]}"
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"GRANT ALL ON {table_name} TO {role}")
        try:
            backend = postgres.PsycopgResultBackend(
                make_conninfo(dsn, user=role), table_name=table_name, min_size=1
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await backend.startup()
            await backend.shutdown()
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")

    def test_its_drivers_and_pythons_are_these(self):
        metadata = peer("taskiq-postgres")
        assert set(metadata.get_all("Provides-Extra")) == {"aiopg", "asyncpg", "psqlpy", "psycopg"}
        pythons = SpecifierSet(metadata["Requires-Python"])
        assert [minor for minor in range(8, 16) if f"3.{minor}" in pythons] == [11, 12, 13, 14]


class TestWhatItSaysOfTaskiqRedis:
    def test_its_pythons_are_these(self):
        classifiers = peer("taskiq-redis").get_all("Classifier")
        minors = {line.rpartition("3.")[2] for line in classifiers if ":: Python :: 3." in line}
        assert minors == {"10", "11", "12", "13", "14"}

    def test_results_expire_by_these_parameters_and_are_deleted_by_reading_alone(self):
        peer("taskiq-redis")
        from taskiq_redis import RedisAsyncResultBackend

        parameters = set(inspect.signature(RedisAsyncResultBackend).parameters)
        assert {"result_ex_time", "result_px_time", "keep_results"} <= parameters
        assert not hasattr(RedisAsyncResultBackend, "delete_result")
